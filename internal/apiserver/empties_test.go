package apiserver

import (
	"slices"
	"testing"
)

// TestEmptyListsAreNone: a list that was written as an empty one is none from then on. Who writes back what they read has changed nothing, and owns nothing.
func TestEmptyListsAreNone(t *testing.T) {
	h := newServer(t).Handler()
	const ingresses = "/apis/networking.k8s.io/v1/namespaces/n/ingresses"
	ingress := func(tls string) string {
		return `{"apiVersion":"networking.k8s.io/v1","kind":"Ingress","metadata":{"name":"i"},"spec":{"defaultBackend":{"service":{"name":"a","port":{"number":80}}},"tls":[` + tls + `]}}`
	}
	owners := func(o any) (out []string) {
		list, _ := at(o, "metadata", "managedFields").([]any)
		for _, e := range list {
			if at(e, "fieldsV1", "f:spec", "f:tls") != nil {
				name, _ := at(e, "manager").(string)
				out = append(out, name)
			}
		}
		return out
	}
	apply := func(code int, tls string) {
		t.Helper()
		want(t, h, code, "PATCH", ingresses+"/i?fieldManager=applier&force=true", ingress(tls), "Content-Type", "application/apply-patch+yaml")
	}
	apply(201, `{"hosts":["a.b"]}`)
	apply(200, `{"hosts":[]}`)
	if got := owners(want(t, h, 200, "PUT", ingresses+"/i?fieldManager=reader", ingress(`{}`))); !slices.Equal(got, []string{"applier"}) {
		t.Errorf("after writing back what was read, tls is owned by %q", got)
	}
}
