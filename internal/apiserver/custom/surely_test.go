package custom

import (
	"testing"

	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"pgregory.net/rapid"
)

const checkedSchema = `
versions:
- name: v1
  served: true
  storage: true
  schema: {openAPIV3Schema: {type: object, required: [spec], properties: {
    spec: {type: object, required: [s], minProperties: 1, maxProperties: 6, properties: {
      s: {type: string, minLength: 1, maxLength: 3, pattern: '^[a-zé]*$'},
      e: {type: string, enum: [a, b]},
      t: {type: string, format: date-time},
      u: {type: string, format: unheard-of},
      i: {type: integer, format: int32, minimum: -5, maximum: 5, exclusiveMaximum: true},
      i32: {type: integer, format: int32},
      i64: {type: integer, format: int64},
      u32: {type: integer, format: uint32},
      f: {type: number, minimum: 0, exclusiveMinimum: true},
      m: {type: integer, multipleOf: 2},
      ie: {type: integer, enum: [1, 2]},
      nil: {type: string, nullable: true},
      io: {x-kubernetes-int-or-string: true, anyOf: [{type: integer}, {type: string}]},
      l: {type: array, minItems: 1, maxItems: 2, items: {type: object, required: [p], properties: {p: {type: boolean}}}},
      more: {type: object, additionalProperties: {type: string, maxLength: 1}},
      any: {type: object, additionalProperties: true, x-kubernetes-preserve-unknown-fields: true},
      not: {type: string, not: {enum: [a]}},
      all: {type: object, properties: {x: {type: string}, y: {type: string}}, oneOf: [{required: [x]}, {required: [y]}]}}}}}}
`

// TestSurely: what is surely valid the library has no complaint about.
func TestSurely(t *testing.T) {
	v := define(t, checkedSchema).Storage()
	s, errs := v.ready()
	if errs != nil {
		t.Fatal(errs)
	}
	checks, err := v.validators()
	if err != nil {
		t.Fatal(err)
	}
	text := oneOf("", "a", "b", "ab", "éé", "abcd", "A", "2026-01-02T03:04:05Z", int64(1), nil)
	numbers := oneOf(int64(-6), int64(-5), int64(0), int64(1), int64(2), int64(5), int64(3000000000), int64(-3000000000), int64(1<<53), 0.0, 0.5, 1.0, "1", nil)
	members := map[string]*rapid.Generator[any]{
		"s": text, "e": text, "t": text, "u": text, "nil": text, "not": text, "i": numbers, "i32": numbers, "i64": numbers, "u32": numbers, "f": numbers, "m": numbers, "ie": numbers, "io": numbers,
		"l":    rapid.Map(rapid.SliceOfN(oneOf(map[string]any{"p": true}, map[string]any{}, map[string]any{"p": "x"}, nil), 0, 3), func(l []any) any { return append([]any{}, l...) }),
		"more": oneOf(map[string]any{}, map[string]any{"k": "v"}, map[string]any{"k": "long"}, map[string]any{"k": int64(1)}),
		"any":  oneOf(map[string]any{}, map[string]any{"k": "v"}, map[string]any{"k": nil}),
		"all":  oneOf(map[string]any{}, map[string]any{"x": "1"}, map[string]any{"x": "1", "y": "2"}),
	}
	sure := 0
	rapid.Check(t, func(t *rapid.T) {
		o := &Object{Fields: map[string]any{}}
		o.APIVersion, o.Kind, o.Name = "example.com/v1", "Thing", "x"
		if rapid.IntRange(0, 9).Draw(t, "spec") > 0 {
			spec := some(t, "spec", members)
			if rapid.Bool().Draw(t, "with s") {
				spec["s"] = "a"
			}
			o.Fields["spec"] = spec
		}
		if !v.surely.object(o, s) {
			return
		}
		sure++
		if errs := validation.ValidateCustomResource(nil, o.content(o.visible()), checks.whole); len(errs) > 0 {
			t.Fatalf("surely valid, but: %v", errs)
		}
	})
	t.Log(sure, "were surely valid")

	for _, c := range []struct {
		spec string
		want bool
	}{
		{"{s: a}", true}, {"{s: ab, e: b, t: '2026-01-02T03:04:05Z', i: 4, nil: null}", true}, {"{s: a, io: 1, l: [{p: true}]}", true}, {"{s: a, io: x, more: {k: v}}", true},
		{"{}", false}, {"{s: abcd}", false}, {"{s: A}", false}, {"{s: a, e: c}", false}, {"{s: a, t: now}", false}, {"{s: a, i: 5}", false}, {"{s: a, i: -6}", false},
		{"{s: a, l: []}", false}, {"{s: a, l: [{}]}", false}, {"{s: a, more: {k: long}}", false}, {"{s: a, not: b}", false}, {"{s: 1}", false},
	} {
		if got := v.surely.object(object(t, v, "metadata: {name: x}\nspec: "+c.spec), s); got != c.want {
			t.Errorf("%s: %t, want %t", c.spec, got, c.want)
		}
	}
}
