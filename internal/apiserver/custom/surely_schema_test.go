package custom

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"testing"

	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"pgregory.net/rapid"
)

// drawSchema makes the schema of a field with any of the keywords that speak of its values. Bounds have fractions, do not fit each other,
// or are beyond what a float can count: definitions with such are accepted.
func drawSchema(t *rapid.T, label string, depth int) map[string]any {
	kinds := []string{"string", "integer", "number", "boolean", "int or string"}
	if depth > 0 {
		kinds = append(kinds, "array", "object", "map")
	}
	kind := rapid.SampledFrom(kinds).Draw(t, label+" kind")
	s := map[string]any{"type": kind}
	has := func(keyword string) bool { return rapid.IntRange(0, 3).Draw(t, label+" has "+keyword) == 0 }
	put := func(keyword string, values ...any) {
		if has(keyword) {
			s[keyword] = rapid.SampledFrom(values).Draw(t, label+" "+keyword)
		}
	}
	bounds := func() {
		put("minimum", -2, 0, 0.5, 1, 1.5, -9223372036854775808.0, 9007199254740992.0, -1e300)
		put("maximum", 0, 0.7, 1, 5.5, 7, 9223372036854775807.0, 9007199254740992.0, 1e300)
		put("exclusiveMinimum", true, false)
		put("exclusiveMaximum", true, false)
		put("multipleOf", 0.5, 1, 2, 0.1, 3)
	}
	lengths := func() {
		put("minLength", 0, 1, 2)
		put("maxLength", 0, 1, 3)
		put("pattern", "^a", "^[a-zé]*$", "b$", `^\d+$`)
	}
	put("nullable", true, false)
	switch kind {
	case "string":
		lengths()
		put("enum", []any{"a", "b"}, []any{"", "1"}, []any{"a"})
		put("format", "date-time", "date", "ipv4", "ipv6", "cidr", "uuid", "byte", "password", "duration", "hostname", "email", "uri", "int32", "unheard-of", "k8s-short-name")
	case "integer":
		bounds()
		put("enum", []any{1, 2}, []any{0})
		put("format", "int32", "int64", "uint32", "float", "unheard-of", "date")
	case "number":
		bounds()
		put("enum", []any{1, 0.5}, []any{1.5})
		put("format", "float", "double", "int32", "unheard-of")
	case "boolean":
		put("enum", []any{true}, []any{false})
	case "int or string":
		delete(s, "type")
		s["x-kubernetes-int-or-string"] = true
		bounds()
		lengths()
		put("anyOf", []any{map[string]any{"type": "integer"}, map[string]any{"type": "string"}}, []any{map[string]any{"minimum": 3}, map[string]any{"pattern": "^b"}},
			[]any{map[string]any{"maximum": 0}})
		put("format", "int32", "date")
	case "array":
		s["items"] = drawSchema(t, label+" item", depth-1)
		put("minItems", 0, 1, 2)
		put("maxItems", 0, 1, 2)
		put("enum", []any{[]any{}}, []any{[]any{"a"}})
	case "object":
		s["properties"] = map[string]any{"x": drawSchema(t, label+" x", depth-1), "y": drawSchema(t, label+" y", depth-1)}
		put("required", []any{"x"}, []any{"x", "y"}, []any{"z"})
		put("minProperties", 1, 2)
		put("maxProperties", 0, 1)
		put("oneOf", []any{map[string]any{"required": []any{"x"}}, map[string]any{"required": []any{"y"}}})
		put("x-kubernetes-preserve-unknown-fields", true)
	case "map":
		s["type"] = "object"
		s["additionalProperties"] = drawSchema(t, label+" value", depth-1)
		put("minProperties", 1, 2)
		put("maxProperties", 0, 1)
		put("required", []any{"x"}, []any{"k"})
	}
	if kind != "int or string" {
		put("not", map[string]any{"enum": []any{"a"}}, map[string]any{"enum": []any{1}})
	}
	return s
}

// drawValue makes a value that often, not always, is of the type that s wants.
func drawValue(t *rapid.T, label string, s map[string]any, depth int) any {
	texts := []any{"", "a", "b", "ab", "éé", "abcd", "1", "12", "A", "2026-01-02T03:04:05Z", "2026-01-02", "10.0.0.1", "::1", "10.0.0.0/8",
		"6ba7b810-9dad-11d1-80b4-00c04fd430c8", "1h", "a@b.c", "http://a/b", "aGVsbG8="}
	numbers := []any{int64(-3), int64(-2), int64(0), int64(1), int64(2), int64(3), int64(5), int64(6), int64(7), int64(8), int64(3000000000),
		int64(1 << 53), int64(1<<53 + 1), int64(math.MaxInt64), int64(math.MinInt64), 0.0, 0.5, 0.7, 1.0, 1.4, 1.5, 5.5, -2.5, 1e300}
	others := []any{nil, true, false, []any{}, map[string]any{}}
	if depth > 0 && rapid.IntRange(0, 9).Draw(t, label+" is of the type") > 0 {
		switch {
		case s["items"] != nil:
			list := make([]any, rapid.IntRange(0, 3).Draw(t, label+" items"))
			for i := range list {
				list[i] = drawValue(t, fmt.Sprint(label, i), s["items"].(map[string]any), depth-1)
			}
			return list
		case s["properties"] != nil || s["additionalProperties"] != nil:
			m := map[string]any{}
			for _, k := range []string{"x", "y", "k"} {
				if rapid.Bool().Draw(t, label+" has "+k) {
					member, _ := s["additionalProperties"].(map[string]any)
					if p, ok := s["properties"].(map[string]any); ok {
						member, _ = p[k].(map[string]any)
					}
					m[k] = drawValue(t, label+" "+k, member, depth-1)
				}
			}
			return m
		}
	}
	all := append(append(append([]any{}, texts...), numbers...), others...)
	switch s["type"] {
	case "string":
		all = append(texts, nil)
	case "integer", "number":
		all = append(numbers, nil)
	case "boolean":
		all = others
	}
	return rapid.SampledFrom(all).Draw(t, label)
}

// checkSurely draws a schema and values and has both ways judge them. It returns how many values were surely valid.
func checkSurely(t *rapid.T, tb testing.TB) int {
	schema := drawSchema(t, "schema", 2)
	doc, err := json.Marshal(map[string]any{"versions": []any{map[string]any{"name": "v1", "served": true, "storage": true, "schema": map[string]any{
		"openAPIV3Schema": map[string]any{"type": "object", "properties": map[string]any{"spec": schema, "status": schema}}}}}})
	if err != nil {
		t.Fatal(err)
	}
	v := define(tb, string(doc)).Storage()
	s, errs := v.ready()
	if errs != nil {
		t.Skip("no such schema: ", errs)
	}
	checks, err := v.validators()
	if err != nil {
		t.Skip("no such schema: ", err)
	}
	sure := 0
	for i := range 8 {
		value := drawValue(t, fmt.Sprint("value ", i), schema, 2)
		o := &Object{Fields: map[string]any{"spec": value}}
		o.APIVersion, o.Kind, o.Name = "example.com/v1", "Thing", "x"
		if v.surely.object(o, s) {
			sure++
			if errs := validation.ValidateCustomResource(nil, o.content(o.visible()), checks.whole); len(errs) > 0 {
				t.Fatalf("%v is surely valid by %s, but: %v", value, doc, errs)
			}
		}
		if checks.status != nil && v.surely.status(value, s) {
			if errs := validation.ValidateCustomResource(nil, value, checks.status); len(errs) > 0 {
				t.Fatalf("status %v is surely valid by %s, but: %v", value, doc, errs)
			}
		}
	}
	return sure
}

// TestSurelyAnySchema: whatever the schema says, what is surely valid by it the library has no complaint about.
func TestSurelyAnySchema(t *testing.T) {
	sure := 0
	rapid.Check(t, func(rt *rapid.T) { sure += checkSurely(rt, t) })
	t.Log(sure, "were surely valid")
}

// FuzzSurely is TestSurelyAnySchema with what the fuzzer thinks of.
func FuzzSurely(f *testing.F) {
	f.Add([]byte{})
	f.Add(bytes.Repeat([]byte("a schema and some values "), 100))
	f.Fuzz(func(t *testing.T, data []byte) {
		rapid.MakeFuzz(func(rt *rapid.T) { checkSurely(rt, t) })(t, data)
	})
}

// TestMultiples: what a part of one divides is a multiple of it, if it is written as a fraction. Integers are compared with integers, as
// upstream does, and no integer is a multiple of a part of one.
func TestMultiples(t *testing.T) {
	v := define(t, `{versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {m: {type: number, multipleOf: 0.5}}}}}}}]}`).Storage()
	for _, tt := range []struct {
		value string
		want  bool
	}{{"0.5", true}, {"1.5", true}, {"-0.5", true}, {"2", false}, {"0", false}, {"0.7", false}, {"0.25", false}, {"1.4", false}} {
		o := object(t, v, "metadata: {name: x}\nspec: {m: "+tt.value+"}")
		if errs := v.Validate(t.Context(), o, nil); (len(errs) == 0) != tt.want {
			t.Errorf("%s is a multiple of 0.5: %v, want %t", tt.value, errs, tt.want)
		}
	}
}
