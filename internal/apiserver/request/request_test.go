package request

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"k8s.io/apiserver/pkg/authentication/user"
)

func TestParse(t *testing.T) {
	for _, c := range []struct {
		method, path, query string
		want                Info
	}{
		{"GET", "/", "", Info{Verb: "get"}},
		{"GET", "/api/v1", "", Info{Verb: "get"}},
		{"GET", "/apis/apps/v1", "", Info{Verb: "get"}},
		{"POST", "/version", "", Info{Verb: "post"}},
		{"GET", "/api/v1/pods", "", Info{IsResource: true, Verb: "list", Version: "v1", Resource: "pods"}},
		{"GET", "/api/v1/pods", "watch=1", Info{IsResource: true, Verb: "watch", Version: "v1", Resource: "pods"}},
		{"GET", "/api/v1/pods", "watch=false", Info{IsResource: true, Verb: "list", Version: "v1", Resource: "pods"}},
		{"GET", "/api/v1/pods", "fieldSelector=metadata.name%3Dx", Info{IsResource: true, Verb: "list", Version: "v1", Resource: "pods", Name: "x", FieldSelector: "metadata.name=x"}},
		{"GET", "/api/v1/watch/namespaces/n/pods/p", "", Info{IsResource: true, Verb: "watch", Version: "v1", Resource: "pods", Namespace: "n", Name: "p", NameInPath: true, LegacyWatch: true}},
		{"GET", "/api/v1/watch", "", Info{IsResource: true, Verb: "get", Version: "v1", Malformed: true}},
		{"DELETE", "/api/v1/namespaces/n/pods", "", Info{IsResource: true, Verb: "deletecollection", Version: "v1", Resource: "pods", Namespace: "n"}},
		{"GET", "/api/v1/namespaces/n", "", Info{IsResource: true, Verb: "get", Version: "v1", Resource: "namespaces", Namespace: "n", Name: "n", NameInPath: true}},
		{"PUT", "/api/v1/namespaces/n/finalize", "", Info{IsResource: true, Verb: "update", Version: "v1", Resource: "namespaces", Namespace: "n", Name: "n", NameInPath: true, Subresource: "finalize"}},
		{"PATCH", "/apis/apps/v1/namespaces/n/deployments/d/scale", "", Info{IsResource: true, Verb: "patch", Group: "apps", Version: "v1", Resource: "deployments", Namespace: "n", Name: "d", NameInPath: true, Subresource: "scale"}},
		{"GET", "/api/v1/namespaces/n/pods/p/proxy/a/b", "", Info{IsResource: true, Verb: "get", Version: "v1", Resource: "pods", Namespace: "n", Name: "p", NameInPath: true, Subresource: "proxy"}},
	} {
		got := parse(c.method, c.path, c.query)
		c.want.Path, c.want.Parts = c.path, got.Parts
		if !equal(got, c.want) {
			t.Errorf("%s %s?%s: got %+v, want %+v", c.method, c.path, c.query, got, c.want)
		}
	}
}

func equal(a, b Info) bool {
	a.Parts, b.Parts = nil, nil
	return a.IsResource == b.IsResource && a.Path == b.Path && a.Verb == b.Verb && a.Group == b.Group && a.Version == b.Version &&
		a.Resource == b.Resource && a.Subresource == b.Subresource && a.Namespace == b.Namespace && a.Name == b.Name &&
		a.NameInPath == b.NameInPath && a.LegacyWatch == b.LegacyWatch && a.Malformed == b.Malformed
}

func TestLongRunning(t *testing.T) {
	for p, want := range map[string]bool{
		"/api/v1/namespaces/n/pods/p/log": true, "/api/v1/namespaces/n/pods/p/exec": true, "/api/v1/nodes/n/proxy/x": true,
		"/api/v1/namespaces/n/pods/p": false, "/version": false,
	} {
		if i := parse("GET", p, ""); i.LongRunning() != want {
			t.Errorf("%s: long running %v", p, !want)
		}
	}
}

func TestWarnings(t *testing.T) {
	s := &Scope{}
	ctx := WithScope(WithUser(context.Background(), &user.DefaultInfo{Name: "u"}), s)
	Warn(ctx, "a")
	Warn(ctx, "b")
	Warn(ctx, "a")
	Warn(context.Background(), "nobody hears")
	if got := strings.Join(s.Warnings(), ","); got != "a,b" {
		t.Fatalf("warnings %q", got)
	}
	if u, ok := UserFrom(ctx); !ok || u.GetName() != "u" {
		t.Fatal("user lost")
	}
}

// TestManyWarnings: when there is more to tell than an answer may carry, each warning is cut, and the last ones are left out.
func TestManyWarnings(t *testing.T) {
	for _, tt := range []struct {
		name         string
		told, length int
		shown, cut   int
	}{
		{"few", 10, 300, 10, 300},
		{"a long one", 1, 5000, 1, 256},
		{"many long ones", 100, 300, 16, 256},
		{"many short ones", 5000, 10, 410, 10},
	} {
		s := &Scope{}
		ctx := WithScope(context.Background(), s)
		for i := range tt.told {
			Warn(ctx, fmt.Sprintf("%0*d", tt.length, i))
			Warn(ctx, fmt.Sprintf("%0*d", tt.length, i))
		}
		got := s.Warnings()
		if len(got) != tt.shown || len(got[0]) != tt.cut {
			t.Errorf("%s: %d of %d characters, want %d of %d", tt.name, len(got), len(got[0]), tt.shown, tt.cut)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"/api/v1/namespaces/n/pods/p/log", "/apis/a/b/c", "/api/v1/watch/", "//api//v1", "/apis/g/v/namespaces//x/status/y", "/api/v1/proxy/namespaces"} {
		f.Add("GET", s, "watch=1&fieldSelector=metadata.name=a")
	}
	f.Fuzz(func(t *testing.T, method, p, q string) {
		i := parse(method, p, q)
		if i.IsResource && !i.Malformed && i.Resource != i.Parts[0] {
			t.Fatalf("resource %q is not the first of %q", i.Resource, i.Parts)
		}
		if !i.IsResource && (i.Name != "" || i.Group != "" && i.Version == "") {
			t.Fatalf("a plain path with a name: %+v", i)
		}
		if i.Subresource != "" && len(i.Parts) < 3 {
			t.Fatalf("subresource without a part: %+v", i)
		}
	})
}
