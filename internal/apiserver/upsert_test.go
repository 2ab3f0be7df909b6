package apiserver

import (
	"context"
	"strings"
	"testing"

	"github.com/celox/celox/internal/apiserver/request"
)

// changers allows only to change what there is to who isn't an administrator.
type changers struct{ admins }

func (c changers) Authorize(ctx context.Context, a request.Attributes) (request.Decision, string, error) {
	if a.Verb == "update" || a.Verb == "patch" {
		return request.Allow, "", nil
	}
	return c.admins.Authorize(ctx, a)
}

// TestMakingByChanging: a write that would make an object asks whether its author may create such; those who may only change them can do that.
func TestMakingByChanging(t *testing.T) {
	h := newServer(t, func(c *Config) { c.Authorizer = changers{} }).Handler()
	want(t, h, 201, "POST", "/api/v1/namespaces", `{"metadata":{"name":"n"}}`)
	const (
		lease   = "/apis/coordination.k8s.io/v1/namespaces/n/leases/x"
		apply   = "application/apply-patch+yaml"
		plain   = "application/json"
		refused = "is forbidden: User \\\"u\\\" cannot create resource \\\""
	)
	for _, c := range []struct {
		what, user, method, path, media, body string
		code                                  int
		told                                  string
	}{
		{"a PUT makes nothing", "u", "PUT", lease, plain, `{"metadata":{"name":"x"}}`, 403, refused + "leases"},
		{"nor does it in a dry run", "u", "PUT", lease + "?dryRun=All", plain, `{"metadata":{"name":"x"}}`, 403, refused + "leases"},
		{"what is wrong comes first", "u", "PUT", lease, plain, `{"metadata":{"name":"x","labels":{"!":"!"}}}`, 422, "metadata.labels"},
		{"nor does apply", "u", "PATCH", configMaps + "/x?fieldManager=m", apply, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"}}`, 403, refused + "configmaps"},
		{"an administrator may", "", "PUT", lease, plain, `{"metadata":{"name":"x"}}`, 201, ""},
		{"and apply", "", "PATCH", configMaps + "/x?fieldManager=m", apply, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"}}`, 201, ""},
		{"what is there is changed", "u", "PATCH", lease, "application/merge-patch+json", `{"metadata":{"labels":{"a":"b"}}}`, 200, `"a":"b"`},
		{"and applied to", "u", "PATCH", configMaps + "/x?fieldManager=m", apply, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"},"data":{"a":"b"}}`, 200, `"a":"b"`},
	} {
		w := call(t, h, c.method, c.path, c.body, "X-User", c.user, "Content-Type", c.media)
		if w.Code != c.code || !strings.Contains(w.Body.String(), c.told) {
			t.Errorf("%s: %d %s, want %d %s", c.what, w.Code, w.Body, c.code, c.told)
		}
	}
}
