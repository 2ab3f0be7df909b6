package custom

import (
	"reflect"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

// TestNothingLearnedFromBadObjects: the library owns nothing of an object whose values are not of the schema's types. Objects of the same outline that are good
// have owners all the same.
func TestNothingLearnedFromBadObjects(t *testing.T) {
	v := define(t, "versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {count: {type: integer}}}}}}}]").Storage()
	m := v.Manager("")
	for _, c := range []struct {
		text  string
		owned bool
	}{{"spec: {count: many}", false}, {"spec: {count: 1}", true}, {"spec: {count: 2}", true}, {"spec: {count: many}", true}} {
		o, err := m.Update(nil, object(t, v, "metadata: {name: a}\n"+c.text), "me")
		if err != nil || (len(o.GetManagedFields()) > 0) != c.owned {
			t.Errorf("%s: %v, %v", c.text, o.GetManagedFields(), err)
		}
	}
}

// TestSettle: what server-side apply let in that the schema does not know is gone, and what was shared is as it was.
func TestSettle(t *testing.T) {
	v := define(t, `versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, properties: {
  bare: {type: object}, any: {type: object, x-kubernetes-preserve-unknown-fields: true}, values: {type: object, additionalProperties: {type: string}},
  inner: {type: object, x-kubernetes-embedded-resource: true, x-kubernetes-preserve-unknown-fields: true}}}}}]`).Storage()
	fields := func() map[string]any {
		return map[string]any{
			"bare": map[string]any{"a": int64(1)}, "any": map[string]any{"a": int64(1)}, "values": map[string]any{"a": "b"},
			"inner": map[string]any{"apiVersion": "v1", "kind": "Pod", "metadata": map[string]any{"name": "p", "labels": map[string]any{}}, "x": "y"},
		}
	}
	shared := fields()
	o := &Object{Fields: shared}
	if err := v.Settle(o); err != nil {
		t.Fatal(err)
	}
	want := fields()
	want["bare"] = map[string]any{}
	want["inner"].(map[string]any)["metadata"] = map[string]any{"name": "p"}
	if !reflect.DeepEqual(o.Fields, want) {
		t.Errorf("settled %v, want %v", o.Fields, want)
	}
	if !reflect.DeepEqual(shared, fields()) {
		t.Errorf("what was shared became %v", shared)
	}
	strict := define(t, "versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {count: {type: integer}}}}}}}]").Storage()
	o = &Object{Fields: map[string]any{"spec": map[string]any{"count": int64(1)}}}
	before := reflect.ValueOf(o.Fields).Pointer()
	if err := strict.Settle(o); err != nil || reflect.ValueOf(o.Fields).Pointer() != before {
		t.Errorf("an object that cannot be too much was copied, %v", err)
	}
}

// TestRulesWaitForMetadata: rules are not run on objects whose metadata is essentially wrong, and that is told.
func TestRulesWaitForMetadata(t *testing.T) {
	v := define(t, "versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, properties: {count: {type: integer, x-kubernetes-validations: [{rule: self > 1}]}}}}}]").Storage()
	name := field.NewPath("metadata", "name")
	for _, c := range []struct {
		meta field.ErrorList
		want string
	}{
		{nil, "count: Invalid value: 1: failed rule: self > 1"},
		{field.ErrorList{field.Invalid(name, "A", "bad")}, "count: Invalid value: 1: failed rule: self > 1"},
		{field.ErrorList{field.Required(name, "")}, "<nil>: Invalid value: null: some validation rules were not checked"},
		{field.ErrorList{field.TooLong(name, "", 3)}, "<nil>: Invalid value: null: some validation rules were not checked"},
	} {
		o, old := object(t, v, "metadata: {name: a}\ncount: 1"), object(t, v, "metadata: {name: a}\ncount: 2")
		for door, errs := range map[string]field.ErrorList{
			"create": v.Validate(t.Context(), o, c.meta), "update": v.ValidateUpdate(t.Context(), o, old, c.meta), "status": v.ValidateStatusUpdate(t.Context(), o, old, c.meta),
		} {
			if len(errs) != 1 || !strings.HasPrefix(errs[0].Error(), c.want) {
				t.Errorf("%s after %v: %v, want %s", door, c.meta, errs, c.want)
			}
		}
	}
}

// TestEmptyManagedFields: an empty list of managed fields says nothing of a custom object.
func TestEmptyManagedFields(t *testing.T) {
	v := define(t, twoVersions).Storage()
	for text, want := range map[string]bool{"managedFields: []": false, "managedFields: [{}]": true, "labels: {a: b}": false} {
		if o := object(t, v, "metadata: {name: a, "+text+"}"); (o.ManagedFields != nil) != want {
			t.Errorf("%s: %#v", text, o.ManagedFields)
		}
	}
}
