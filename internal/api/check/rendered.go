package check

import (
	"bytes"
	"encoding/json"
	"reflect"
	"sort"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Rendered makes v print in messages as upstream's server prints its unversioned types: Go field names, nothing omitted, nil
// as null. Complaints show values that way, and the differences in the complaints about immutable specs are lines of it.
// v is a pointer or value of an API type; it is read when the message is made, so it must not change until then.
func Rendered(v any) json.Marshaler { return rendered{reflect.ValueOf(v)} }

type rendered struct{ v reflect.Value }

// MarshalJSON writes the value.
func (r rendered) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	if err := render(&b, r.v); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

var marshalerType = reflect.TypeFor[json.Marshaler]()

func render(b *bytes.Buffer, v reflect.Value) error {
	if !v.IsValid() {
		b.WriteString("null")
		return nil
	}
	t := v.Type()
	switch {
	case t.Kind() == reflect.Pointer || t.Kind() == reflect.Interface:
		if v.IsNil() {
			b.WriteString("null")
			return nil
		}
		return render(b, v.Elem())
	case t.Implements(marshalerType), t.Kind() == reflect.Struct && t.PkgPath() == "k8s.io/apimachinery/pkg/apis/meta/v1":
		return renderPlain(b, v)
	}
	switch t.Kind() {
	case reflect.Struct:
		b.WriteByte('{')
		w := members{b: b}
		if err := w.structure(v); err != nil {
			return err
		}
		b.WriteByte('}')
		return nil
	case reflect.Map:
		return renderMap(b, v)
	case reflect.Slice:
		if v.IsNil() {
			b.WriteString("null")
			return nil
		}
		if t.Elem().Kind() == reflect.Uint8 {
			return renderPlain(b, v)
		}
		b.WriteByte('[')
		for i := range v.Len() {
			if i > 0 {
				b.WriteByte(',')
			}
			if err := render(b, v.Index(i)); err != nil {
				return err
			}
		}
		b.WriteByte(']')
		return nil
	}
	return renderPlain(b, v)
}

func renderPlain(b *bytes.Buffer, v reflect.Value) error {
	data, err := json.Marshal(v.Interface())
	b.Write(data)
	return err
}

func renderMap(b *bytes.Buffer, v reflect.Value) error {
	if v.IsNil() {
		b.WriteString("null")
		return nil
	}
	keys := v.MapKeys()
	sort.Slice(keys, func(i, j int) bool { return keys[i].String() < keys[j].String() })
	b.WriteByte('{')
	w := members{b: b}
	for _, k := range keys {
		if err := w.member(k.String(), v.MapIndex(k)); err != nil {
			return err
		}
	}
	b.WriteByte('}')
	return nil
}

// members writes "name": value pairs with commas between them.
type members struct {
	b    *bytes.Buffer
	some bool
}

func (w *members) name(name string) error {
	if w.some {
		w.b.WriteByte(',')
	}
	w.some = true
	data, err := json.Marshal(name)
	w.b.Write(data)
	w.b.WriteByte(':')
	return err
}

func (w *members) member(name string, v reflect.Value) error {
	if err := w.name(name); err != nil {
		return err
	}
	return render(w.b, v)
}

func (w *members) structure(v reflect.Value) error {
	t := v.Type()
	for i := range t.NumField() {
		f := t.Field(i)
		if !f.IsExported() {
			continue
		}
		switch {
		case f.Type == reflect.TypeFor[metav1.TypeMeta](): // lost on the way to the unversioned form
			continue
		case f.Anonymous && f.Type == reflect.TypeFor[metav1.ObjectMeta]():
			if err := w.inline(v.Field(i)); err != nil {
				return err
			}
			continue
		case f.Anonymous && f.Type.Kind() == reflect.Struct:
			if err := w.structure(v.Field(i)); err != nil {
				return err
			}
			continue
		}
		if err := w.member(f.Name, v.Field(i)); err != nil {
			return err
		}
	}
	return nil
}

// inline writes what v has as members, without braces.
func (w *members) inline(v reflect.Value) error {
	data, err := json.Marshal(v.Interface())
	if data = bytes.TrimSuffix(bytes.TrimPrefix(data, []byte("{")), []byte("}")); err != nil || len(data) == 0 {
		return err
	}
	if w.some {
		w.b.WriteByte(',')
	}
	w.some = true
	w.b.Write(data)
	return nil
}
