package core

import (
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/celox/celox/internal/api/apitest"
)

// TestNullBytes: bytes that a client wrote as null are none, in the answer to a dry run too.
func TestNullBytes(t *testing.T) {
	c := apitest.Catalogue(t, Kinds())
	for kind, doc := range map[string]string{"ConfigMap": "binaryData: {a: null, b: AAAA}", "Secret": "data: {a: null, b: AAAA}"} {
		obj, errs := apitest.Create(t, c, apitest.Kind(t, c.Kinds(), kind), "metadata: {name: x}\n"+doc)
		if len(errs) > 0 {
			t.Fatal(errs)
		}
		var data map[string][]byte
		switch o := obj.(type) {
		case *corev1.ConfigMap:
			data = o.BinaryData
		case *corev1.Secret:
			data = o.Data
		}
		if data["a"] == nil || len(data["a"]) > 0 || len(data["b"]) != 3 {
			t.Errorf("%s: got %v", kind, data)
		}
	}
}
