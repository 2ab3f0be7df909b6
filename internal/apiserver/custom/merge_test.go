package custom

import (
	"encoding/json"
	"testing"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	"pgregory.net/rapid"
	kjson "sigs.k8s.io/json"
)

const looseSchema = `
versions:
- name: v1
  served: true
  storage: true
  schema: {openAPIV3Schema: {type: object, properties: {
    spec: {type: object, x-kubernetes-preserve-unknown-fields: true},
    known: {type: object, properties: {a: {type: string}, b: {type: object, properties: {c: {type: integer}}}}}}}}
`

// TestMerge: a merge patch carried out on an object does what it does on the object's JSON.
func TestMerge(t *testing.T) {
	v := define(t, looseSchema).Storage()
	names := rapid.SampledFrom([]string{"a", "b", "c", "d"})
	merged := 0
	rapid.Check(t, func(t *rapid.T) {
		doc := func(label string) map[string]any {
			return map[string]any{
				"spec":  rapid.MapOfN(names, anyValue(2), 0, 4).Draw(t, label+" spec"),
				"known": rapid.MapOfN(names, anyValue(1), 0, 3).Draw(t, label+" known"),
			}
		}
		live := &Object{Fields: doc("live")}
		live.APIVersion, live.Kind, live.Name, live.ResourceVersion = "example.com/v1", "Thing", "x", "7"
		live.Labels = rapid.MapOfN(names, rapid.StringN(0, 2, -1), 1, 3).Draw(t, "labels")
		if _, err := v.coerce(live, coercion{}); err != nil {
			t.Fatal(err)
		}
		patch := doc("patch")
		if rapid.Bool().Draw(t, "meta") {
			patch["metadata"] = map[string]any{
				"labels":     rapid.SampledFrom([]any{nil, map[string]any{"a": nil, "b": "2"}, map[string]any{"z": "1"}, map[string]any{"z": int64(1)}}).Draw(t, "patched labels"),
				"finalizers": []any{"example.com/f"},
			}
		}
		raw, err := json.Marshal(patch)
		if err != nil {
			t.Fatal(err)
		}
		before, err := live.AppendJSON(nil)
		if err != nil {
			t.Fatal(err)
		}
		var members map[string]any
		if strict, err := kjson.UnmarshalStrict(raw, &members); err != nil || len(strict) > 0 {
			t.Fatal(err, strict)
		}
		got, ok := v.Merge(live, members, true)
		if after, err := live.AppendJSON(nil); err != nil || string(after) != string(before) {
			t.Fatalf("the live object became %s, %v", after, err)
		}
		if !ok {
			return
		}
		merged++
		text, err := jsonpatch.MergePatch(before, raw)
		if err != nil {
			t.Fatal(err)
		}
		want, strict, err := v.DecodePatched(text, true)
		if err != nil || len(strict) > 0 {
			t.Fatalf("merged, but its JSON is complained of: %v %v", err, strict)
		}
		a, err := got.AppendJSON(nil)
		if err != nil {
			t.Fatal(err)
		}
		b, err := want.(*Object).AppendJSON(nil)
		if err != nil {
			t.Fatal(err)
		}
		if string(a) != string(b) {
			t.Fatalf("merge of %s into %s:\n%s, want\n%s", raw, before, a, b)
		}
	})
	if merged == 0 {
		t.Error("nothing was ever merged")
	}
}

func TestMergeDeclines(t *testing.T) {
	v := define(t, looseSchema).Storage()
	live := object(t, v, "metadata: {name: x, labels: {a: '1'}}\nspec: {a: 1}")
	for _, patch := range []string{
		`{"kind":"Other"}`, `{"apiVersion":"example.com/v2"}`, `{"metadata":null}`, `{"metadata":{"uid":"1"}}`, `{"metadata":{"name":"y"}}`,
		`{"metadata":{"labels":{"a":1}}}`, `{"spec":{"a":[null]}}`, `{"spec":{"a":[{"b":null}]}}`, `{"unknown":1}`, `{"known":{"unknown":1}}`,
	} {
		var m map[string]any
		if err := kjson.UnmarshalCaseSensitivePreserveInts([]byte(patch), &m); err != nil {
			t.Fatal(err)
		}
		if o, ok := v.Merge(live, m, true); ok {
			t.Errorf("%s made %v", patch, o)
		}
	}
}
