package admission

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/celox/celox/internal/api/catalogue"
)

// moving is a mutator that puts objects into a namespace.
type moving string

func (m moving) Admit(_ context.Context, a *Attributes) error {
	a.Object.(metav1.Object).SetNamespace(string(m))
	return nil
}

// TestNamespaceStays: what mutators do to the namespace of an object is refused, or mended where it says nothing.
func TestNamespaceStays(t *testing.T) {
	pods, nodes, namespaces := schema.GroupVersionResource{Version: "v1", Resource: "pods"}, schema.GroupVersionResource{Version: "v1", Resource: "nodes"}, schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}
	for _, tt := range []struct {
		name       string
		resource   schema.GroupVersionResource
		in, to, is string
		want       string
		object     runtime.Object
	}{
		{"another", pods, "n", "other", "other", "the namespace of the provided object does not match the namespace sent on the request", &corev1.Pod{}},
		{"the same", pods, "n", "n", "n", "", &corev1.Pod{}},
		{"taken away", pods, "n", "", "n", "", &corev1.Pod{}},
		{"of what is in none", nodes, "", "n", "", "", &corev1.Node{}},
		{"of a namespace", namespaces, "n", "n", "", "", &corev1.Namespace{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := &Attributes{Operation: Create, Resource: tt.resource, Namespace: tt.in, Object: tt.object}
			got := ""
			if err := (Chain{moving(tt.to)}).Admit(t.Context(), a); err != nil {
				got = err.Error()
			}
			if ns := tt.object.(metav1.Object).GetNamespace(); got != tt.want || ns != tt.is {
				t.Errorf("got %q in %q", got, ns)
			}
		})
	}
}

// TestReadAnotherKind: an object does not become one of another kind or version.
func TestReadAnotherKind(t *testing.T) {
	c, err := catalogue.New()
	if err != nil {
		t.Fatal(err)
	}
	k, _, _ := c.ByKind(corev1.SchemeGroupVersion.WithKind("ConfigMap"))
	b := NewBuilt(c, k, nil)
	for data, want := range map[string]string{
		`{"apiVersion":"v1","kind":"ConfigMap","data":{"a":"b"}}`: "",
		`{"data":{"a":"b"}}`:                                    "",
		`{"apiVersion":"v1","kind":"Secret"}`:                   "failed to convert object: converting (v1.Secret) to (v1.ConfigMap): unknown conversion",
		`{"apiVersion":"v1","kind":"Secret","data":{"a":"b"}}`:  "illegal base64 data at input byte 0",
		`{"apiVersion":"v2","kind":"ConfigMap"}`:                `no kind "ConfigMap" is registered for version "v2" in scheme "pkg/runtime/scheme.go:111"`,
		`{"apiVersion":"v1","kind":"ConfigMap","data":{"a":1}}`: "json: cannot unmarshal number into Go struct field ConfigMap.data of type string",
	} {
		got := ""
		if _, err := b.Read([]byte(data), corev1.SchemeGroupVersion.WithKind("ConfigMap")); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s: got %q, want %q", data, got, want)
		}
	}
}
