package apply

import (
	"bytes"
	"encoding/json"
	"reflect"

	"k8s.io/apimachinery/pkg/runtime"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/structured-merge-diff/v6/value"
)

// mergeInto carries out a merge patch (RFC 7386) on a Go object, which spares writing the object as JSON, merging there and reading the
// outcome: nearly always the patch is much smaller than the object. It reports false when there is anything to complain of or that
// only JSON can express; obj is then of no use, and the patch has to be carried out on JSON, where complaints get their words.
func mergeInto(obj runtime.Object, patch []byte) bool {
	v := reflect.ValueOf(obj)
	if v.Kind() != reflect.Pointer || v.IsNil() || v.Elem().Kind() != reflect.Struct {
		return false
	}
	members, ok := membersOf(patch)
	if !ok {
		return false
	}
	// Neither can be patched, only repeated.
	gvk := obj.GetObjectKind().GroupVersionKind()
	for name, have := range map[string]string{"apiVersion": gvk.GroupVersion().String(), "kind": gvk.Kind} {
		if raw, ok := members[name]; ok {
			var said string
			if json.Unmarshal(raw, &said) != nil || said != have {
				return false
			}
			delete(members, name)
		}
	}
	return mergeStruct(v.Elem(), members)
}

// membersOf takes a JSON object apart. Of members that come twice the last counts.
func membersOf(raw []byte) (map[string]json.RawMessage, bool) {
	if first(raw) != '{' {
		return nil, false
	}
	var members map[string]json.RawMessage
	return members, json.Unmarshal(raw, &members) == nil
}

// first is the first letter of a JSON value, 0 if there is none.
func first(raw []byte) byte {
	for _, c := range raw {
		switch c {
		case ' ', '\t', '\r', '\n':
			continue
		}
		return c
	}
	return 0
}

func mergeStruct(v reflect.Value, members map[string]json.RawMessage) bool {
	fields := value.TypeReflectEntryOf(v.Type()).Fields()
	for name, raw := range members {
		f := fields[name]
		if f == nil {
			return false
		}
		x := f.GetFrom(v)
		switch {
		case !x.CanSet():
			return false
		case first(raw) == 'n':
			x.SetZero()
		case !mergeValue(x, raw):
			return false
		}
	}
	return true
}

// mergeValue merges what is not null into x.
func mergeValue(x reflect.Value, raw []byte) bool {
	t := x.Type()
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	entry := value.TypeReflectEntryOf(t)
	special := entry.CanConvertFromUnstructured() || entry.CanConvertToUnstructured()
	switch first(raw) {
	case '{':
		if special || t.Kind() != reflect.Struct && t.Kind() != reflect.Map {
			return false
		}
		members, ok := membersOf(raw)
		if !ok {
			return false
		}
		for x.Kind() == reflect.Pointer {
			if x.IsNil() {
				x.Set(reflect.New(x.Type().Elem()))
			}
			x = x.Elem()
		}
		if t.Kind() == reflect.Struct {
			return mergeStruct(x, members)
		}
		return mergeMap(x, members)
	case '[':
		// A list is replaced. What becomes of nulls in it is hard to say.
		if t.Kind() != reflect.Slice || bytes.Contains(raw, []byte("null")) {
			return false
		}
	}
	fresh := reflect.New(x.Type())
	strict, err := kjson.UnmarshalStrict(raw, fresh.Interface())
	if err != nil || len(strict) > 0 {
		return false
	}
	x.Set(fresh.Elem())
	return true
}

func mergeMap(x reflect.Value, members map[string]json.RawMessage) bool {
	t := x.Type()
	if t.Key().Kind() != reflect.String || t.Elem().Kind() == reflect.Interface {
		return false
	}
	if x.IsNil() {
		x.Set(reflect.MakeMapWithSize(t, len(members)))
	}
	for name, raw := range members {
		key := reflect.ValueOf(name).Convert(t.Key())
		if first(raw) == 'n' {
			x.SetMapIndex(key, reflect.Value{})
			continue
		}
		item := reflect.New(t.Elem()).Elem()
		if have := x.MapIndex(key); have.IsValid() {
			item.Set(have)
		}
		if !mergeValue(item, raw) {
			return false
		}
		x.SetMapIndex(key, item)
	}
	return true
}
