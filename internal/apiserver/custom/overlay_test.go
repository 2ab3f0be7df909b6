package custom

import (
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"pgregory.net/rapid"
)

const mergedSchema = `
versions:
- name: v1
  served: true
  storage: true
  subresources: {status: {}}
  schema: {openAPIV3Schema: {type: object, properties: {
    spec: {type: object, properties: {
      a: {type: string}, num: {type: integer}, f: {type: number}, io: {x-kubernetes-int-or-string: true}, d: {type: string, default: x},
      list: {type: array, items: {type: object, properties: {p: {type: string}, q: {type: integer}}}},
      set: {type: array, x-kubernetes-list-type: set, items: {type: string}},
      keyed: {type: array, x-kubernetes-list-type: map, x-kubernetes-list-map-keys: [p], items: {type: object, required: [p], properties: {p: {type: string}, q: {type: integer}}}},
      one: {type: object, x-kubernetes-map-type: atomic, additionalProperties: {type: string}},
      many: {type: object, additionalProperties: {type: object, properties: {a: {type: string}, b: {type: boolean}}}},
      loose: {type: object, x-kubernetes-preserve-unknown-fields: true}}},
    status: {type: object, properties: {a: {type: string}}}}}}
`

// some draws a part of the members, so that the same outlines come again and again.
func some(t *rapid.T, label string, members map[string]*rapid.Generator[any]) map[string]any {
	out := map[string]any{}
	for _, k := range sortedGenerators(members) {
		if rapid.IntRange(0, 3).Draw(t, label+" has "+k) == 0 {
			out[k] = members[k].Draw(t, label+" "+k)
		}
	}
	return out
}

func sortedGenerators(m map[string]*rapid.Generator[any]) []string {
	keys := make(map[string]any, len(m))
	for k := range m {
		keys[k] = nil
	}
	return sortedKeys(keys)
}

func oneOf(values ...any) *rapid.Generator[any] { return rapid.SampledFrom(values) }

func drawConfig(t *rapid.T, label string) map[string]any {
	text := oneOf("1", "2")
	inner := rapid.Custom(func(t *rapid.T) any {
		return some(t, "inner", map[string]*rapid.Generator[any]{"a": text, "b": oneOf(true, false)})
	})
	meta := some(t, label+" meta", map[string]*rapid.Generator[any]{
		"labels":      oneOf(map[string]any{"l": "1"}, map[string]any{"l": "2"}, map[string]any{"m": "1"}, map[string]any{}),
		"annotations": oneOf(map[string]any{"l": "1"}, map[string]any{lastApplied: "{}"}),
		"finalizers":  oneOf([]any{"example.com/f"}),
	})
	meta["name"], meta["namespace"] = "x", "n"
	out := some(t, label, map[string]*rapid.Generator[any]{"status": oneOf(map[string]any{"a": "1"})})
	out["apiVersion"], out["kind"], out["metadata"] = "example.com/v1", "Thing", meta
	out["spec"] = some(t, label+" spec", map[string]*rapid.Generator[any]{
		"a": oneOf("1", "2", nil, int64(1)), "num": oneOf(int64(1), int64(2)), "f": oneOf(int64(1), 1.0, 1.5), "io": oneOf("1", int64(1)), "d": text,
		"list":  oneOf([]any{map[string]any{"p": "1"}}, []any{map[string]any{"p": "2", "q": int64(1)}}, []any{map[string]any{"unknown": "2"}}),
		"set":   oneOf([]any{"1"}, []any{"1", "2"}),
		"keyed": oneOf([]any{map[string]any{"p": "1"}}, []any{map[string]any{"p": "1", "q": int64(2)}}),
		"one":   oneOf(map[string]any{"x": "1"}, map[string]any{"x": "2"}, map[string]any{"y": "1"}),
		"many":  rapid.Map(rapid.MapOfN(rapid.SampledFrom([]string{"k", "l"}), inner, 1, 2), func(m map[string]any) any { return m }),
		"loose": oneOf(map[string]any{"x": "1"}, map[string]any{"x": int64(2)}),
	})
	return out
}

// drawSimilar draws configurations with few outlines.
func drawSimilar(t *rapid.T, label string) map[string]any {
	out := map[string]any{"apiVersion": "example.com/v1", "kind": "Thing"}
	out["metadata"] = map[string]any{"name": "x", "namespace": "n", "labels": map[string]any{"l": rapid.SampledFrom([]string{"1", "2"}).Draw(t, label+" label")}}
	out["spec"] = some(t, label, map[string]*rapid.Generator[any]{
		"a": oneOf("1", "2"), "one": oneOf(map[string]any{"x": "1"}, map[string]any{"x": "2"}), "many": oneOf(map[string]any{"k": map[string]any{"a": "1"}}, map[string]any{"k": map[string]any{"a": "2"}}),
	})
	return out
}

// TestOverlayAgreesWithLibrary: what is remembered of one configuration holds for every other of its outline.
func TestOverlayAgreesWithLibrary(t *testing.T) {
	t.Run("all kinds of fields", func(t *testing.T) { overlayAgrees(t, drawConfig) })
	t.Run("similar", func(t *testing.T) {
		if overlayAgrees(t, drawSimilar) == 0 { // more than half of them are
			t.Error("nothing was ever laid over")
		}
	})
}

func overlayAgrees(t *testing.T, drawConfig func(t *rapid.T, label string) map[string]any) (laid int) {
	m := define(t, mergedSchema).Storage().Manager("")
	hits := 0
	rapid.Check(t, func(t *rapid.T) {
		first, ok := copyValue(drawConfig(t, "first")).(map[string]any)
		if !ok {
			t.Fatal("no map")
		}
		delete(first, "status")
		if spec, ok := first["spec"].(map[string]any); ok && spec["a"] == int64(1) {
			delete(spec, "a") // validation would have refused it
		}
		live, _, err := m.version.fit(first, false)
		if err != nil {
			return
		}
		made, err := m.Update(nil, live, "first")
		if err != nil {
			t.Fatal(err)
		}
		live = made.(*Object)
		for range rapid.IntRange(0, 2).Draw(t, "before") {
			config := &unstructured.Unstructured{Object: drawConfig(t, "second")}
			if next, err := m.libraryApply(live, config, rapid.SampledFrom([]string{"applier", "other"}).Draw(t, "by"), true); err == nil {
				live = next
			}
		}
		old := metav1.NewTime(time.Unix(1700000000, 0))
		for i := range live.ManagedFields {
			live.ManagedFields[i].Time = &old
		}
		before := live.DeepCopy()
		config := &unstructured.Unstructured{Object: drawConfig(t, "config")}
		by, force := rapid.SampledFrom([]string{"applier", "first", "kubectl"}).Draw(t, "manager"), rapid.Bool().Draw(t, "force")
		if o := m.overlay(live, config.Object, by, force); o != nil {
			laid++
			if known, _ := m.applies.Get(o.outline); known != nil {
				hits++
			}
		}
		quick, err1 := m.Apply(live, config.DeepCopy(), by, force)
		if !equality.Semantic.DeepEqual(live, before) {
			t.Fatal("applying changed the live object")
		}
		slow, err2 := m.libraryApply(live, config, by, force)
		if (err1 == nil) != (err2 == nil) { // the words differ from call to call
			t.Fatalf("quick: %v\nslow: %v", err1, err2)
		}
		if err1 != nil {
			return
		}
		q := quick.(*Object)
		for _, o := range []*Object{q, slow} {
			for i := range o.ManagedFields {
				if e := &o.ManagedFields[i]; e.Time != nil && !e.Time.Equal(&old) {
					now := metav1.NewTime(time.Unix(1800000000, 0))
					e.Time = &now
				}
			}
		}
		a, err := q.AppendJSON(nil)
		if err != nil {
			t.Fatal(err)
		}
		b, err := slow.AppendJSON(nil)
		if err != nil {
			t.Fatal(err)
		}
		if string(a) != string(b) {
			t.Fatalf("quick %s\nslow  %s", a, b)
		}
	})
	t.Log(laid, "laid,", hits, "of them remembered")
	return laid
}
