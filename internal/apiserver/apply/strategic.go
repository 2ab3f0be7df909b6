package apply

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/strategicpatch"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/structured-merge-diff/v6/value"
)

// elementOrder stands before the name of a list in the member that says in which order its items shall be.
const elementOrder = "$setElementOrder/"

// strategicInto carries out a strategic merge patch on a Go object, as mergeInto does a merge patch. Of directives it knows the order of keyed
// lists, which all clients send that compute patches; whatever else is special it leaves to the library, by reporting false.
func strategicInto(obj any, patch []byte) bool {
	v := reflect.ValueOf(obj)
	if v.Kind() != reflect.Pointer || v.IsNil() || v.Elem().Kind() != reflect.Struct {
		return false
	}
	members, ok := membersOf(patch)
	return ok && strategicStruct(v.Elem(), members)
}

func strategicStruct(v reflect.Value, members map[string]json.RawMessage) bool {
	meta := strategicpatch.PatchMetaFromStruct{T: v.Type()}
	fields := value.TypeReflectEntryOf(v.Type()).Fields()
	for name, raw := range members {
		list, isOrder := strings.CutPrefix(name, elementOrder)
		if isOrder && members[list] == nil {
			raw = nil // the order of what there is already
			name = list
		} else if isOrder {
			continue // goes with the list
		}
		f := fields[name]
		if f == nil {
			return false
		}
		x := f.GetFrom(v)
		if !x.CanSet() {
			return false
		}
		ok := true
		switch order := members[elementOrder+name]; {
		case first(raw) == '[' || order != nil:
			ok = strategicList(x, raw, order, meta, name)
		case first(raw) == 'n':
			x.SetZero()
		case first(raw) == '{':
			_, how, err := meta.LookupPatchMetadataForStruct(name)
			ok = err == nil && !slices.Contains(how.GetPatchStrategies(), "replace") && strategicMap(x, raw)
		default:
			ok = mergeValue(x, raw)
		}
		if !ok {
			return false
		}
	}
	return true
}

// strategicMap merges a JSON object into a struct or a map.
func strategicMap(x reflect.Value, raw []byte) bool {
	t := x.Type()
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	entry := value.TypeReflectEntryOf(t)
	if entry.CanConvertFromUnstructured() || entry.CanConvertToUnstructured() {
		return false
	}
	if t.Kind() == reflect.Map {
		// What is merged into the values of maps, if they are more than leaves, is hard to say.
		elem := t.Elem()
		return (elem.Kind() == reflect.String || elem == reflect.TypeFor[[]byte]()) && !strings.Contains(string(raw), `"$`) && mergeValue(x, raw)
	}
	members, ok := membersOf(raw)
	if !ok || t.Kind() != reflect.Struct {
		return false
	}
	for x.Kind() == reflect.Pointer {
		if x.IsNil() {
			x.Set(reflect.New(x.Type().Elem()))
		}
		x = x.Elem()
	}
	return strategicStruct(x, members)
}

// strategicList replaces a list, or merges a keyed one. Either patch or order may be nil.
func strategicList(x reflect.Value, patch, order []byte, meta strategicpatch.PatchMetaFromStruct, name string) bool {
	_, how, err := meta.LookupPatchMetadataForSlice(name)
	if err != nil || x.Kind() != reflect.Slice || order != nil && first(order) != '[' || patch != nil && first(patch) != '[' {
		return false
	}
	if strings.Contains(string(patch), `"$`) {
		return false
	}
	nulls := strings.Contains(string(patch), "null")
	if !slices.Contains(how.GetPatchStrategies(), "merge") {
		return order == nil && !nulls && mergeValue(x, patch)
	}
	key := how.GetPatchMergeKey()
	item := x.Type().Elem()
	if key == "" || item.Kind() != reflect.Struct {
		return order == nil && !nulls && x.Len() == 0 && mergeValue(x, patch)
	}
	field := value.TypeReflectEntryOf(item).Fields()[key]
	if field == nil {
		return false
	}
	if patch == nil && x.Len() == 0 {
		return true // no items to put in order
	}
	have, ok := keysOf(x, field)
	if !ok {
		return false
	}
	merged := &keyedList{items: x, at: make(map[any]int, x.Len())}
	for i, k := range have {
		merged.at[k] = i
	}
	wanted, ok := merged.merge(patch, key, field)
	if !ok {
		return false
	}
	if order != nil {
		all := reflect.New(x.Type())
		if strict, err := kjson.UnmarshalStrict(order, all.Interface()); err != nil || len(strict) > 0 {
			return false
		}
		if all, ok := keysOf(all.Elem(), field); !ok || !inOrder(wanted, all) {
			return false
		} else {
			wanted = all
		}
	}
	x.Set(merged.ordered(have, wanted))
	return true
}

// keysOf are the keys of a list's items. Not ok: an item has none, or two have the same.
func keysOf(list reflect.Value, key *value.FieldCacheEntry) ([]any, bool) {
	keys := make([]any, list.Len())
	for i := range keys {
		k := key.GetFrom(list.Index(i))
		if k.IsZero() || k.Kind() != reflect.String && !k.CanInt() {
			return nil, false
		}
		if keys[i] = k.Interface(); slices.Contains(keys[:i], keys[i]) {
			return nil, false
		}
	}
	return keys, true
}

// inOrder says whether part is in whole, in its order.
func inOrder(part, whole []any) bool {
	for _, k := range part {
		i := slices.Index(whole, k)
		if i < 0 {
			return false
		}
		whole = whole[i+1:]
	}
	return true
}

// keyedList is a list whose items are found by their keys.
type keyedList struct {
	items reflect.Value
	at    map[any]int
}

// merge merges the items of a patch into those with the same keys, or adds them, and returns the patch's keys.
func (l *keyedList) merge(patch []byte, key string, field *value.FieldCacheEntry) ([]any, bool) {
	if patch == nil {
		return nil, true
	}
	var raws []json.RawMessage
	if json.Unmarshal(patch, &raws) != nil {
		return nil, false
	}
	var keys []any
	for _, raw := range raws {
		members, ok := membersOf(raw)
		if !ok || members[key] == nil {
			return nil, false
		}
		for _, m := range members {
			// A field of the item may be null, as times of conditions often are; what is null further inside is hard to say.
			if c := first(m); (c == '{' || c == '[') && strings.Contains(string(m), "null") {
				return nil, false
			}
		}
		fresh := reflect.New(l.items.Type().Elem()).Elem()
		k := field.GetFrom(fresh)
		if !mergeValue(k, members[key]) || k.IsZero() || k.Kind() != reflect.String && !k.CanInt() || slices.Contains(keys, k.Interface()) {
			return nil, false
		}
		id := k.Interface()
		keys = append(keys, id)
		if i, known := l.at[id]; known {
			if !strategicStruct(l.items.Index(i), members) {
				return nil, false
			}
			continue
		}
		if strict, err := kjson.UnmarshalStrict(raw, fresh.Addr().Interface()); err != nil || len(strict) > 0 {
			return nil, false
		}
		l.at[id] = l.items.Len()
		l.items = reflect.Append(l.items, fresh)
	}
	return keys, true
}

// ordered puts the items in order: those that are wanted in the order that is wanted; each other one before the first of those that it stood before.
func (l *keyedList) ordered(have, wanted []any) reflect.Value {
	out := reflect.MakeSlice(l.items.Type(), 0, l.items.Len())
	was := make(map[any]int, len(have))
	for i, k := range have {
		was[k] = i
	}
	rest := slices.DeleteFunc(slices.Clone(have), func(k any) bool { return slices.Contains(wanted, k) })
	for _, k := range wanted {
		at, there := l.at[k]
		if !there {
			continue
		}
		place, known := was[k]
		for known && len(rest) > 0 && was[rest[0]] < place {
			out = reflect.Append(out, l.items.Index(l.at[rest[0]]))
			rest = rest[1:]
		}
		out = reflect.Append(out, l.items.Index(at))
	}
	for _, k := range rest {
		out = reflect.Append(out, l.items.Index(l.at[k]))
	}
	return out
}
