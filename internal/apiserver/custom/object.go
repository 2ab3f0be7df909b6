package custom

import (
	"fmt"
	"maps"
	"reflect"
	"slices"

	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/objectmeta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	kjson "sigs.k8s.io/json"

	"k8s.io/apimachinery/pkg/api/equality"
)

// Object is a custom object. Fields are the values of all fields but apiVersion, kind and metadata, as JSON has them: string, bool,
// int64, float64, nil, []any and map[string]any.
type Object struct {
	metav1.TypeMeta
	metav1.ObjectMeta
	Fields map[string]any
}

// DeepCopyObject implements runtime.Object.
func (o *Object) DeepCopyObject() runtime.Object { return o.DeepCopy() }

// DeepCopy returns a copy that shares nothing with o.
func (o *Object) DeepCopy() *Object {
	c := &Object{TypeMeta: o.TypeMeta}
	o.ObjectMeta.DeepCopyInto(&c.ObjectMeta)
	if o.Fields != nil {
		c.Fields = make(map[string]any, len(o.Fields))
		for k, v := range o.Fields {
			c.Fields[k] = copyValue(v)
		}
	}
	return c
}

// shallow returns an object of its own that shares the values of its fields, for those who replace them.
func (o *Object) shallow() *Object {
	return &Object{TypeMeta: o.TypeMeta, ObjectMeta: o.ObjectMeta, Fields: maps.Clone(o.Fields)}
}

func copyValue(v any) any {
	switch v := v.(type) {
	case map[string]any:
		if v == nil {
			return v
		}
		out := make(map[string]any, len(v))
		for k, e := range v {
			out[k] = copyValue(e)
		}
		return out
	case []any:
		if v == nil {
			return v
		}
		out := make([]any, len(v))
		for i, e := range v {
			out[i] = copyValue(e)
		}
		return out
	}
	return v
}

// content returns the whole object as one map for the libraries that want it so. The map is new, its values are o's own; metadata
// is given as it is asked for: all of it, or only what rules and schemas can see.
func (o *Object) content(meta map[string]any) map[string]any {
	m := make(map[string]any, len(o.Fields)+3)
	maps.Copy(m, o.Fields)
	m["apiVersion"], m["kind"] = o.APIVersion, o.Kind
	if meta != nil {
		m["metadata"] = meta
	}
	return m
}

// visible is the part of the metadata that schemas and rules can speak of. Its type is all that is checked of the rest.
func (o *Object) visible() map[string]any {
	m := make(map[string]any, 2)
	if o.Name != "" {
		m["name"] = o.Name
	}
	if o.GenerateName != "" {
		m["generateName"] = o.GenerateName
	}
	return m
}

// metadata is the whole metadata as JSON values.
func (o *Object) metadata() (map[string]any, error) {
	return runtime.DefaultUnstructuredConverter.ToUnstructured(&o.ObjectMeta)
}

// Content returns the whole object as a map that shares the values of its fields.
func (o *Object) Content() (map[string]any, error) {
	meta, err := o.metadata()
	if err != nil {
		return nil, err
	}
	return o.content(meta), nil
}

// fromContent makes an object of a map, which is given away. Metadata that can't be read is an error, or is left out if drop is set.
func fromContent(m map[string]any, drop bool) (*Object, error) {
	o := &Object{}
	var err error
	if o.APIVersion, err = text(m, "apiVersion"); err != nil {
		return nil, err
	}
	if o.Kind, err = text(m, "kind"); err != nil {
		return nil, err
	}
	var quick bool
	if meta, ok := m["metadata"].(map[string]any); ok {
		o.ObjectMeta, quick = readMeta(meta)
	}
	if !quick {
		meta, found, err := objectmeta.GetObjectMeta(m, drop)
		if err != nil {
			return nil, err
		}
		o.ObjectMeta = metav1.ObjectMeta{}
		if found {
			o.ObjectMeta = *meta
		}
	}
	if len(o.ManagedFields) == 0 {
		o.ManagedFields = nil // an empty list says nothing, unlike in objects of built-in kinds
	}
	delete(m, "apiVersion")
	delete(m, "kind")
	delete(m, "metadata")
	o.Fields = m
	return o, nil
}

func text(m map[string]any, key string) (string, error) {
	switch v := m[key].(type) {
	case nil:
		if _, there := m[key]; !there {
			return "", nil
		}
	case string:
		return v, nil
	}
	return "", fmt.Errorf(".%s accessor error: %v is of the type %T, expected string", key, m[key], m[key])
}

// UnmarshalJSON implements json.Unmarshaler. Numbers without a fraction stay integers.
func (o *Object) UnmarshalJSON(data []byte) error {
	var m map[string]any
	if err := kjson.UnmarshalCaseSensitivePreserveInts(data, &m); err != nil {
		return err
	}
	if m == nil {
		m = map[string]any{}
	}
	next, err := fromContent(m, false)
	if err != nil {
		return err
	}
	*o = *next
	return nil
}

// MarshalJSON implements json.Marshaler.
func (o *Object) MarshalJSON() ([]byte, error) { return o.AppendJSON(nil) }

// AppendJSON appends the object's JSON, with its fields in alphabetical order, as maps are written.
func (o *Object) AppendJSON(b []byte) ([]byte, error) {
	names := make([]string, 0, len(o.Fields)+3)
	for k := range o.Fields {
		names = append(names, k)
	}
	if o.APIVersion != "" {
		names = append(names, "apiVersion")
	}
	if o.Kind != "" {
		names = append(names, "kind")
	}
	names = append(names, "metadata")
	slices.Sort(names)
	if b == nil {
		b = make([]byte, 0, 512)
	}
	b = append(b, '{')
	for i, name := range names {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(appendString(b, name), ':')
		var err error
		switch name {
		case "apiVersion":
			b = appendString(b, o.APIVersion)
		case "kind":
			b = appendString(b, o.Kind)
		case "metadata":
			b = appendMeta(b, &o.ObjectMeta)
		default:
			b, err = appendValue(b, o.Fields[name])
		}
		if err != nil {
			return nil, err
		}
	}
	return append(b, '}'), nil
}

// sameFields says whether two objects have the same fields, but those named.
func sameFields(a, b *Object, but ...string) bool {
	count := func(o *Object) int {
		n := len(o.Fields)
		for _, k := range but {
			if _, ok := o.Fields[k]; ok {
				n--
			}
		}
		return n
	}
	if count(a) != count(b) {
		return false
	}
	for k, v := range a.Fields {
		if slices.Contains(but, k) {
			continue
		}
		w, ok := b.Fields[k]
		if !ok || !sameValue(v, w) {
			return false
		}
	}
	return true
}

// Unchanged says whether o is as live was, but for who owns what.
func (o *Object) Unchanged(live *Object) bool {
	a, b := o.ObjectMeta, live.ObjectMeta
	a.ManagedFields, b.ManagedFields = nil, nil
	return sameFields(o, live) && equality.Semantic.DeepEqual(a, b)
}

// sameValue compares JSON values as the API does: nil and empty are the same.
func sameValue(a, b any) bool {
	switch x := a.(type) {
	case map[string]any:
		y, ok := b.(map[string]any)
		if !ok || len(x) != len(y) {
			return false
		}
		if len(x) == 0 || reflect.ValueOf(x).Pointer() == reflect.ValueOf(y).Pointer() {
			return true
		}
		for k, v := range x {
			w, ok := y[k]
			if !ok || !sameValue(v, w) {
				return false
			}
		}
		return true
	case []any:
		y, ok := b.([]any)
		if !ok || len(x) != len(y) {
			return false
		}
		for i := range x {
			if !sameValue(x[i], y[i]) {
				return false
			}
		}
		return true
	case string, bool, int64, float64, nil:
		return a == b
	}
	return equality.Semantic.DeepEqual(a, b)
}
