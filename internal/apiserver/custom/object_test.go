package custom

import (
	"encoding/json"
	"reflect"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"pgregory.net/rapid"

	"github.com/celox/celox/internal/apiserver/negotiate"
)

// anyValue makes JSON values as decoding gives them.
func anyValue(depth int) *rapid.Generator[any] {
	scalars := []*rapid.Generator[any]{
		rapid.Just[any](nil), rapid.Bool().AsAny(), rapid.Int64().AsAny(), rapid.String().AsAny(),
		rapid.Map(rapid.Int32(), func(n int32) any { return float64(n) + 0.5 }),
	}
	if depth == 0 {
		return rapid.OneOf(scalars...)
	}
	list := rapid.Map(rapid.SliceOfN(anyValue(depth-1), 0, 3), func(l []any) any { return append([]any{}, l...) })
	object := rapid.Map(rapid.MapOfN(rapid.StringN(1, 5, -1), anyValue(depth-1), 0, 3), func(m map[string]any) any { return m })
	return rapid.OneOf(append(scalars, list, object)...)
}

// TestRoundTrip: an object is what its JSON says, and its JSON is what upstream's form of it would be.
func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := &Object{TypeMeta: metav1.TypeMeta{APIVersion: "example.com/v1", Kind: "Thing"}}
		o.Name = rapid.StringMatching("[a-z]{1,8}").Draw(t, "name")
		o.Labels = rapid.MapOfN(rapid.StringMatching("[a-z]{1,3}"), rapid.String(), 0, 2).Draw(t, "labels")
		if len(o.Labels) == 0 {
			o.Labels = nil
		}
		o.Generation = rapid.Int64Range(0, 5).Draw(t, "generation")
		o.Finalizers = rapid.SliceOfN(rapid.StringMatching("[a-z]/[a-z]"), 0, 2).Draw(t, "finalizers")
		if len(o.Finalizers) == 0 {
			o.Finalizers = nil
		}
		o.Fields = map[string]any{"spec": anyValue(3).Draw(t, "spec")}
		data, err := o.AppendJSON(nil)
		if err != nil {
			t.Fatal(err)
		}
		var back Object
		if err := json.Unmarshal(data, &back); err != nil {
			t.Fatalf("%v in %s", err, data)
		}
		again, err := back.AppendJSON(nil)
		if err != nil || string(again) != string(data) {
			t.Fatalf("%s became %s, %v", data, again, err)
		}
		content, err := o.Content()
		if err != nil {
			t.Fatal(err)
		}
		u := &unstructured.Unstructured{Object: runtime.DeepCopyJSON(content)}
		want, err := u.MarshalJSON()
		if err != nil || string(want) != string(data)+"\n" {
			t.Fatalf("%s, upstream's form is %s, %v", data, want, err)
		}
		c := o.DeepCopy()
		if !reflect.DeepEqual(o, c) || !sameFields(o, c) {
			t.Fatal("a copy differs")
		}
	})
}

// FuzzDecode: no body makes decoding crash, and what is decoded fits its schema.
func FuzzDecode(f *testing.F) {
	d := define(f, oneVersion)
	v, _ := d.Served("v1")
	for _, s := range []string{
		`{"apiVersion":"example.com/v1","kind":"Thing","metadata":{"name":"a","labels":{"a":1}},"spec":{"a":"b","n":1,"x":{}}}`,
		`{"apiVersion":"example.com/v1","kind":"Thing","metadata":{"managedFields":[{"fieldsV1":{"f:spec":{}},"time":"2020-01-01T00:00:00Z"}]},"spec":null}`,
		`{"kind":"Thing","kind":"Thing","apiVersion":"example.com/v1"}`, `[]`, `{"apiVersion":1}`,
	} {
		f.Add([]byte(s), true)
		f.Add([]byte(s), false)
	}
	f.Fuzz(func(t *testing.T, data []byte, yaml bool) {
		media := negotiate.JSON
		if yaml {
			media = negotiate.YAML
		}
		o, _, err := v.Decode(data, media, metav1.FieldValidationWarn)
		if err != nil {
			return
		}
		if err := v.Default(o); err != nil {
			t.Fatal(err)
		}
		v.Validate(t.Context(), o, nil)
		j, err := o.AppendJSON(nil)
		if err != nil {
			t.Fatal(err)
		}
		stored, err := codec{d}.Decode(j)
		if err != nil {
			t.Fatalf("%v reading back %s", err, j)
		}
		if unknown, err := v.coerce(stored.(*Object), coercion{track: true}); err != nil || len(unknown) > 0 {
			t.Fatalf("%v unknown in %s, %v", unknown, j, err)
		}
	})
}
