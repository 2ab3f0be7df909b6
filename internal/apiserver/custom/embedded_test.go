package custom

import (
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

// TestEmbeddedOrder: objects in objects are told of by their paths, each one's metadata in the order of all metadata.
func TestEmbeddedOrder(t *testing.T) {
	d := define(t, `
versions:
- name: v1
  served: true
  storage: true
  schema:
    openAPIV3Schema:
      type: object
      properties:
        b: {type: object, x-kubernetes-embedded-resource: true, x-kubernetes-preserve-unknown-fields: true}
        a: {type: object, x-kubernetes-embedded-resource: true, x-kubernetes-preserve-unknown-fields: true}
`)
	v := d.Storage()
	o := object(t, v, `{metadata: {name: x}, b: {apiVersion: a/b/c, kind: 1X}, a: {apiVersion: v1, kind: X, metadata: {name: x, namespace: B_, labels: {"-": a}, annotations: {"_": x}}}}`)
	var got []string
	for _, e := range v.Validate(t.Context(), o, field.ErrorList{}) {
		got = append(got, e.Field)
	}
	want := []string{"a.metadata.namespace", "a.metadata.labels", "a.metadata.annotations", "b.apiVersion", "b.kind"}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
