package apiserver

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/celox/celox/internal/apiserver/admission"
	"github.com/celox/celox/internal/apiserver/flow"
	"github.com/celox/celox/internal/apiserver/request"
)

const configMaps = "/api/v1/namespaces/n/configmaps"

func TestPaths(t *testing.T) {
	h := newServer(t, func(c *Config) {
		c.Checks = []Check{{Name: "etcd", Run: func(context.Context) error { return nil }}, {Name: "late", ReadyOnly: true, Run: func(context.Context) error { return errors.New("not yet") }}}
		c.Components = []Check{{Name: "scheduler", Run: func(context.Context) error { return nil }}, {Name: "etcd-0", Run: func(context.Context) error { return errors.New("it sleeps") }}}
	}).Handler()
	for _, c := range []struct {
		method, path string
		code         int
		body         string
	}{
		{"GET", "/version", 200, `"minor": "37"`},
		{"GET", "/livez", 200, "ok"},
		{"GET", "/livez?verbose", 200, "[+]etcd ok"},
		{"GET", "/readyz", 500, "[-]late failed: reason withheld"},
		{"GET", "/readyz?exclude=late", 200, "ok"},
		{"GET", "/healthz?verbose", 200, "[+]ping ok\n[+]etcd ok\nhealthz check passed\n"},
		{"GET", "/healthz?verbose&exclude=etcd&exclude=nosuch", 200, "[+]etcd excluded: ok\nwarn: some health checks cannot be excluded: no matches for \"nosuch\"\n"},
		{"GET", "/readyz/late", 500, "internal server error: not yet"},
		{"GET", "/metrics/slis", 200, `kubernetes_healthcheck{name="late",type="readyz"} 0`},
		{"GET", "/metrics/slis", 200, `kubernetes_healthchecks_total{name="etcd",status="success",type="livez"} 2`},
		{"DELETE", "/metrics/slis", 200, "metrics reset\n"},
		{"GET", "/livez", 200, "ok"},
		{"GET", "/metrics/slis", 200, `kubernetes_healthchecks_total{name="etcd",status="success",type="livez"} 1`},
		{"GET", "/readyz/etcd", 200, "ok"},
		{"GET", "/readyz/nosuch", 404, "404 page not found"},
		{"GET", "/readyz/", 404, "404 page not found"},
		{"POST", "/healthz/", 404, "404 page not found"},
		{"GET", "/healthz/ping/", 404, "404 page not found"},
		{"GET", "/version/x", 404, "the server could not find the requested resource"},
		{"HEAD", "/version", 405, ""},
		{"GET", "/index.html", 200, `"/readyz/late"`},
		{"POST", "/statusz", 200, "apiserver statusz"},
		{"GET", "/debug/pprof", 302, "/debug/pprof/"},
		// What is not there is not found by any method; what is there lacks some.
		{"GET", "/api/v1/bindings", 404, "the server could not find the requested resource"},
		{"POST", "/api/v1/bindings", 404, "the server could not find the requested resource"},
		{"DELETE", "/api/v1/namespaces/n/bindings/x", 404, "the server could not find the requested resource"},
		{"GET", "/api/v1/namespaces/n/bindings", 405, "does not allow this method"},
		{"GET", "/api/v1/watch/bindings", 404, "the server could not find the requested resource"},
		{"POST", "/api/v1/watch/configmaps", 405, "does not allow this method"},
		{"HEAD", "/api/v1/configmaps/x", 404, ""},
		{"POST", "/api/v1/configmaps", 405, "does not allow this method"},
		{"GET", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews/x", 404, "the server could not find the requested resource"},
		{"GET", "/api/v1/componentstatuses", 200, `"items":[{"metadata":{"name":"scheduler"},"conditions":[{"type":"Healthy","status":"True","message":"ok"}]},{"metadata":{"name":"etcd-0"},`},
		{"GET", "/api/v1/componentstatuses?fieldSelector=metadata.name%3Detcd-0", 200, `"items":[{"metadata":{"name":"etcd-0"},`},
		{"GET", "/api/v1/componentstatuses?labelSelector=a%3Db", 200, `"items":[]`},
		{"GET", "/api/v1/componentstatuses?limit=x", 400, `parsing \"x\": invalid syntax`},
		{"GET", "/api/v1/componentstatuses/etcd-0", 200, `"conditions":[{"type":"Healthy","status":"False","message":"unhealthy","error":"it sleeps"}]`},
		{"GET", "/api/v1/componentstatuses/etcd-1", 404, `componentstatus \"etcd-1\" not found`},
		{"GET", "/api/v1/componentstatuses?watch=1", 405, `watch is not supported on resources of kind \"componentstatuses\"`},
		{"GET", "/", 200, `"/readyz/late"`},
		{"GET", "/metrics", 200, "apiserver_request_total"},
		{"GET", "/nosuch", 404, "404 page not found"},
		{"GET", "/apis/nosuch.example.com/v1/things", 404, "404 page not found"},
		{"GET", "/api/v1/nosuch", 404, "the server could not find the requested resource"},
		{"GET", "/api/v1/watch", 404, "could not find"},
		{"PUT", configMaps, 405, "does not allow this method"},
		{"FOO", configMaps, 405, "does not allow this method"},
		{"GET", configMaps + "/a", 404, `configmaps \"a\" not found`},
		{"GET", configMaps + "?labelSelector=!", 400, "unable to parse requirement"},
		{"GET", configMaps + "?fieldSelector=data.x%3Da", 400, `is not a known field selector`},
		{"GET", "/api/v1/pods?fieldSelector=spec.nope%3Da", 400, "field label not supported: spec.nope"},
		{"GET", configMaps + "?resourceVersion=999999999", 504, "Too large resource version"},
		{"GET", configMaps + "?watch=1&resourceVersion=999999999", 504, "Too large resource version"},
		{"GET", configMaps + "?resourceVersionMatch=Exact", 422, "forbidden unless resourceVersion is provided"},
		{"GET", configMaps + "?timeout=x", 400, "invalid timeout specified in the request URL"},
		{"GET", "/api/v1/namespaces/n/pods/p/log", 501, "no way to reach nodes"},
	} {
		w := call(t, h, c.method, c.path, "")
		if w.Code != c.code || !strings.Contains(w.Body.String(), c.body) {
			t.Errorf("%s %s: %d %.300s, want %d %s", c.method, c.path, w.Code, w.Body, c.code, c.body)
		}
	}
}

// TestDocumentMethods: some documents are given whatever the method, others to GET alone.
func TestDocumentMethods(t *testing.T) {
	document := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("it")) })
	h := newServer(t, func(c *Config) { c.Discovery, c.KeySet, c.OpenIDConfiguration = document, document, document }).Handler()
	for path, any := range map[string]bool{
		"/api": false, "/api/v1": false, "/apis": true, "/apis/": true, "/apis/apps": true, "/apis/apps/v1": false,
		"/apis/apiregistration.k8s.io": false, "/apis/apiregistration.k8s.io/v1": false,
		"/openid/v1/jwks": false, "/.well-known/openid-configuration": false,
	} {
		for _, method := range []string{"HEAD", "POST", "DELETE", "OPTIONS"} {
			code := 405
			if any {
				code = 200
			}
			if w := call(t, h, method, path, ""); w.Code != code {
				t.Errorf("%s %s: %d, want %d", method, path, w.Code, code)
			}
		}
		if w := call(t, h, "GET", path, ""); w.Code != 200 || w.Body.String() != "it" {
			t.Errorf("GET %s: %d %s", path, w.Code, w.Body)
		}
	}
}

// TestRemaining: how many objects follow a page is told of lists without selectors only, even if a selector does no more than name a namespace.
func TestRemaining(t *testing.T) {
	h := newServer(t).Handler()
	for _, name := range []string{"a", "b", "c"} {
		want(t, h, 201, "POST", configMaps, `{"metadata":{"name":"`+name+`","labels":{"l":"x"}}}`)
	}
	for query, told := range map[string]any{
		"limit=1": 2.0, "limit=1&fieldSelector=": 2.0, "limit=1&fieldSelector=metadata.namespace%3Dn": nil, "limit=1&labelSelector=l": nil,
		"limit=1&fieldSelector=metadata.name!%3Dq": nil,
	} {
		for _, path := range []string{configMaps, "/api/v1/configmaps"} {
			list := want(t, h, 200, "GET", path+"?"+query, "")
			if at(list, "metadata", "remainingItemCount") != told || at(list, "metadata", "continue") == nil {
				t.Errorf("%s?%s: got %v", path, query, at(list, "metadata"))
			}
		}
	}
}

func TestUsers(t *testing.T) {
	h := newServer(t).Handler()
	if w := call(t, h, "GET", configMaps, "", "X-User", "nobody"); w.Code != 401 || !strings.Contains(w.Body.String(), `"message":"Unauthorized"`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	s := want(t, h, 403, "GET", configMaps, "", "X-User", "dave")
	if m := at(s, "message"); m != `configmaps is forbidden: User "dave" cannot list resource "configmaps" in API group "" in the namespace "n"` {
		t.Error(m)
	}
	s = want(t, h, 403, "GET", "/metrics", "", "X-User", "dave")
	if m := at(s, "message"); m != `forbidden: User "dave" cannot get path "/metrics"` {
		t.Error(m)
	}
	s = want(t, h, 403, "GET", configMaps, "", "Impersonate-User", "erin")
	if m, _ := at(s, "message").(string); !strings.Contains(m, `User "erin" cannot list`) {
		t.Error(m)
	}
	s = want(t, h, 403, "GET", configMaps, "", "X-User", "dave", "Impersonate-User", "erin")
	if m, _ := at(s, "message").(string); !strings.Contains(m, `configmaps is forbidden: User "dave" cannot impersonate-on:user-info:list resource "configmaps"`) {
		t.Error(m)
	}
	want(t, h, 400, "GET", configMaps, "", "Impersonate-Group", "g")
	s = want(t, h, 201, "POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", `{}`)
	if at(s, "status", "userInfo", "username") != "admin" {
		t.Error(s)
	}
	s = want(t, h, 201, "POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", `{"spec":{"user":"dave","resourceAttributes":{"verb":"get","resource":"pods"}}}`)
	if at(s, "status", "allowed") != false {
		t.Error(s)
	}
}

func TestDryRunChangesNothing(t *testing.T) {
	h := newServer(t).Handler()
	want(t, h, 201, "POST", configMaps+"?dryRun=All", `{"metadata":{"name":"a"}}`)
	want(t, h, 404, "GET", configMaps+"/a", "")
	want(t, h, 201, "POST", configMaps, `{"metadata":{"name":"a"},"data":{"k":"v"}}`)
	for _, r := range [][3]string{
		{"PUT", "application/json", `{"metadata":{"name":"a"},"data":{"k":"w"}}`},
		{"PATCH", "application/merge-patch+json", `{"data":{"k":"w"}}`},
		{"DELETE", "application/json", ""},
	} {
		want(t, h, 200, r[0], configMaps+"/a?dryRun=All", r[2], "Content-Type", r[1])
	}
	want(t, h, 200, "DELETE", configMaps+"?dryRun=All", "")
	if got := want(t, h, 200, "GET", configMaps+"/a", ""); at(got, "data", "k") != "v" {
		t.Fatal(got)
	}
	want(t, h, 422, "POST", configMaps+"?dryRun=Some", `{"metadata":{"name":"b"}}`)
}

func TestFieldValidation(t *testing.T) {
	h := newServer(t).Handler()
	w := call(t, h, "POST", configMaps, `{"metadata":{"name":"a"},"spec":1,"data":{"k":"1","k":"2"}}`)
	if got := strings.Join(w.Header().Values("Warning"), ";"); w.Code != 201 || !strings.Contains(got, `299 - "unknown field \"spec\""`) || !strings.Contains(got, `299 - "duplicate field \"data.k\""`) {
		t.Errorf("%d %s", w.Code, got)
	}
	want(t, h, 400, "POST", configMaps+"?fieldValidation=Strict", `{"metadata":{"name":"b"},"spec":1}`)
	if w := call(t, h, "POST", configMaps+"?fieldValidation=Ignore", `{"metadata":{"name":"c"},"spec":1}`); w.Code != 201 || len(w.Header().Values("Warning")) > 0 {
		t.Errorf("%d %v", w.Code, w.Header())
	}
	want(t, h, 413, "POST", configMaps, `{"metadata":{"name":"d"},"data":{"k":"`+strings.Repeat("x", 3<<20)+`"}}`)
	want(t, h, 415, "POST", configMaps, `x`, "Content-Type", "text/plain")
	want(t, h, 406, "GET", configMaps, "", "Accept", "text/html")
}

func TestFinalizersAndPropagation(t *testing.T) {
	h := newServer(t).Handler()
	// Finalizers are the system's own or say whose they are, on update too.
	want(t, h, 201, "POST", configMaps, `{"metadata":{"name":"c"}}`)
	if got := want(t, h, 422, "PATCH", configMaps+"/c", `{"metadata":{"finalizers":["mine"]}}`, "Content-Type", "application/merge-patch+json"); at(got, "details", "causes", 0, "field") != "metadata.finalizers[0]" {
		t.Error(got)
	}
	want(t, h, 200, "PATCH", configMaps+"/c", `{"metadata":{"finalizers":["e.com/f","orphan"]}}`, "Content-Type", "application/merge-patch+json")
	want(t, h, 201, "POST", configMaps, `{"metadata":{"name":"a","finalizers":["e.com/f"]}}`)
	if got := want(t, h, 200, "DELETE", configMaps+"/a", ""); at(got, "metadata", "deletionTimestamp") == nil || at(got, "metadata", "deletionGracePeriodSeconds") != 0.0 {
		t.Fatal(got)
	}
	want(t, h, 409, "POST", configMaps, `{"metadata":{"name":"a"}}`)
	want(t, h, 422, "PATCH", configMaps+"/a", `{"metadata":{"finalizers":["e.com/f","e.com/g"]}}`, "Content-Type", "application/merge-patch+json")
	want(t, h, 200, "PATCH", configMaps+"/a", `{"metadata":{"finalizers":null},"data":{"last":"words"}}`, "Content-Type", "application/merge-patch+json")
	want(t, h, 404, "GET", configMaps+"/a", "")

	want(t, h, 201, "POST", configMaps, `{"metadata":{"name":"b"}}`)
	if got := want(t, h, 200, "DELETE", configMaps+"/b?propagationPolicy=Foreground", ""); at(got, "metadata", "finalizers", 0) != "foregroundDeletion" {
		t.Fatal(got)
	}
	if got := want(t, h, 200, "DELETE", configMaps+"/b", `{"propagationPolicy":"Background"}`); at(got, "status") != "Success" {
		t.Fatal(got)
	}
}

func TestTableAndMetadata(t *testing.T) {
	h := newServer(t).Handler()
	want(t, h, 201, "POST", configMaps, `{"metadata":{"name":"a","labels":{"x":"y"}},"data":{"k":"v"}}`)
	const table = "application/json;as=Table;v=v1;g=meta.k8s.io"
	got := want(t, h, 200, "GET", configMaps, "", "Accept", table)
	if at(got, "kind") != "Table" || at(got, "rows", 0, "cells", 0) != "a" || at(got, "rows", 0, "object", "kind") != "PartialObjectMetadata" {
		t.Fatal(got)
	}
	if got := want(t, h, 200, "GET", configMaps+"?includeObject=Object", "", "Accept", table); at(got, "rows", 0, "object", "data", "k") != "v" {
		t.Fatal(got)
	}
	if got := want(t, h, 200, "GET", configMaps, "", "Accept", "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"); at(got, "items", 0, "metadata", "labels", "x") != "y" || at(got, "items", 0, "data") != nil {
		t.Fatal(got)
	}
	w := call(t, h, "GET", configMaps+"?watch=1&timeoutSeconds=1", "", "Accept", table)
	var first map[string]any
	if err := json.NewDecoder(w.Body).Decode(&first); err != nil || at(first, "object", "columnDefinitions") == nil {
		t.Fatal(err, first)
	}
}

func TestListPages(t *testing.T) {
	h := newServer(t).Handler()
	for _, n := range []string{"a", "b", "c"} {
		want(t, h, 201, "POST", configMaps, `{"metadata":{"name":"`+n+`"}}`)
	}
	first := want(t, h, 200, "GET", configMaps+"?limit=2", "")
	if at(first, "metadata", "remainingItemCount") != 1.0 || at(first, "items", 1, "metadata", "name") != "b" || at(first, "items", 0, "kind") != nil {
		t.Fatal(first)
	}
	rest := want(t, h, 200, "GET", fmt.Sprint(configMaps, "?limit=2&continue=", at(first, "metadata", "continue")), "")
	if at(rest, "items", 0, "metadata", "name") != "c" || at(rest, "metadata", "resourceVersion") != at(first, "metadata", "resourceVersion") {
		t.Fatal(rest)
	}
	want(t, h, 400, "GET", configMaps+"?limit=2&continue=x", "")
	if got := want(t, h, 200, "DELETE", configMaps, ""); len(at(got, "items").([]any)) != 3 {
		t.Fatal(got)
	}
}

func TestGzip(t *testing.T) {
	h := newServer(t).Handler()
	want(t, h, 201, "POST", configMaps, `{"metadata":{"name":"a"},"data":{"k":"`+strings.Repeat("x", 200<<10)+`"}}`)
	plain := call(t, h, "GET", configMaps, "")
	packed := call(t, h, "GET", configMaps, "", "Accept-Encoding", "gzip")
	if packed.Header().Get("Content-Encoding") != "gzip" || packed.Body.Len() > plain.Body.Len()/10 {
		t.Fatalf("%v, %d bytes", packed.Header(), packed.Body.Len())
	}
	z, err := gzip.NewReader(packed.Body)
	if err != nil {
		t.Fatal(err)
	}
	if data, err := io.ReadAll(z); err != nil || !bytes.Equal(data, plain.Body.Bytes()) {
		t.Fatalf("%v, %d bytes, want %d", err, len(data), plain.Body.Len())
	}
}

// plugin is an admission plugin made of a function.
type plugin func(context.Context, *admission.Attributes) error

func (p plugin) Admit(ctx context.Context, a *admission.Attributes) error { return p(ctx, a) }

func TestAdmission(t *testing.T) {
	h := newServer(t, func(c *Config) {
		c.Admission = admission.Chain{plugin(func(_ context.Context, a *admission.Attributes) error {
			switch m := a.Object.(type) {
			case *corev1.ConfigMap:
				if m.Data["refuse"] != "" {
					return errors.New("refused")
				}
				m.Annotations = map[string]string{"seen": string(a.Operation)}
				a.Warn("looked at it")
			case nil:
				if a.Operation != admission.Delete {
					return errors.New("nothing to look at")
				}
			}
			return nil
		})}
	}).Handler()
	w := call(t, h, "POST", configMaps, `{"metadata":{"name":"a"}}`)
	if w.Code != 201 || !strings.Contains(w.Body.String(), `"seen":"CREATE"`) || w.Header().Get("Warning") != `299 - "looked at it"` {
		t.Fatalf("%d %v %s", w.Code, w.Header(), w.Body)
	}
	if got := want(t, h, 200, "PUT", configMaps+"/a", `{"metadata":{"name":"a"}}`); at(got, "metadata", "annotations", "seen") != "UPDATE" {
		t.Fatal(got)
	}
	want(t, h, 500, "POST", configMaps, `{"metadata":{"name":"b"},"data":{"refuse":"1"}}`)
	want(t, h, 200, "DELETE", configMaps+"/a", "")
}

// slow is an authorizer that waits until the request's time is over, or panics.
type slow struct{ panics bool }

func (s slow) Authorize(ctx context.Context, _ request.Attributes) (request.Decision, string, error) {
	if s.panics {
		panic("on purpose")
	}
	<-ctx.Done()
	return request.NoOpinion, "", ctx.Err()
}

func TestLimits(t *testing.T) {
	h := newServer(t, func(c *Config) { c.Authorizer, c.Limits.Timeout = slow{}, time.Millisecond }).Handler()
	if w := call(t, h, "GET", configMaps, ""); w.Code != 500 && w.Code != 504 {
		t.Errorf("too slow: %d", w.Code)
	}
	h = newServer(t, func(c *Config) { c.Authorizer = slow{panics: true} }).Handler()
	if w := call(t, h, "GET", configMaps, ""); w.Code != 500 || !strings.Contains(w.Body.String(), "caused apiserver to panic") {
		t.Errorf("a panic: %d %s", w.Code, w.Body)
	}
	// All seats of the level of last resort, the only one that is configured here, are taken.
	s := newServer(t, func(c *Config) { c.Limits.ReadOnly, c.Limits.Mutating = 1, 1 })
	held := make([]flow.Ticket, 2)
	for i := range held {
		if err := s.flow.Enter(t.Context(), &held[i], flow.Request{User: &user.DefaultInfo{Name: "eve"}, Info: &request.Info{Verb: "get"}}); err != nil {
			t.Fatal(err)
		}
		defer held[i].Leave()
	}
	w := call(t, s.Handler(), "POST", configMaps, `{"metadata":{"name":"a"}}`, "X-User", "dave")
	if w.Code != 429 || w.Header().Get("Retry-After") != "1" || w.Body.String() != "Too many requests, please try again later.\n" {
		t.Errorf("too many: %d %s", w.Code, w.Body)
	}
	if w := call(t, s.Handler(), "GET", configMaps, ""); w.Code != 200 {
		t.Errorf("an administrator is kept out: %d", w.Code)
	}
}

func TestServices(t *testing.T) {
	h := newServer(t).Handler()
	const services = "/api/v1/namespaces/n/services"
	a := want(t, h, 201, "POST", services, `{"metadata":{"name":"a"},"spec":{"type":"NodePort","ports":[{"port":80}]}}`)
	ip, port := at(a, "spec", "clusterIP"), at(a, "spec", "ports", 0, "nodePort")
	if ip == nil || port == nil || at(a, "spec", "clusterIPs", 0) != ip || at(a, "spec", "ipFamilyPolicy") != "SingleStack" {
		t.Fatal(a)
	}
	want(t, h, 422, "POST", services, fmt.Sprintf(`{"metadata":{"name":"b"},"spec":{"clusterIP":%q,"ports":[{"port":80}]}}`, ip))
	want(t, h, 201, "POST", services+"?dryRun=All", `{"metadata":{"name":"c"},"spec":{"ports":[{"port":80}]}}`)
	want(t, h, 200, "DELETE", services+"/a", "")
	want(t, h, 201, "POST", services, fmt.Sprintf(`{"metadata":{"name":"b"},"spec":{"clusterIP":%q,"ports":[{"port":80}]}}`, ip))
}

// Whatever a patch says, the answer is an API answer and the object is still whole.
func FuzzPatch(f *testing.F) {
	for i, s := range []string{`{"data":{"k":null}}`, `[{"op":"add","path":"/data","value":{}}]`, `{"$patch":"delete"}`, `{"apiVersion":"v1","kind":"ConfigMap","data":{"a":"b"}}`, "[", "{a: [b", `{"metadata":{"managedFields":[{}]}}`} {
		f.Add(i%4, []byte(s))
	}
	s := newServer(f)
	h := s.Handler()
	want(f, h, 201, "POST", configMaps, `{"metadata":{"name":"a"},"data":{"k":"v"}}`)
	f.Fuzz(func(t *testing.T, kind int, patch []byte) {
		ctype := [...]string{"application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json", "application/apply-patch+yaml"}[uint(kind)%4]
		path := configMaps + "/a?fieldManager=f"
		if uint(kind)%4 == 3 {
			path += "&force=true"
		}
		w := call(t, h, "PATCH", path, string(patch), "Content-Type", ctype)
		var out runtime.TypeMeta
		if err := json.Unmarshal(w.Body.Bytes(), &out); err != nil || out.Kind != "Status" && out.Kind != "ConfigMap" {
			t.Fatalf("%d %s: %v", w.Code, w.Body, err)
		}
		if strings.Contains(w.Body.String(), "caused apiserver to panic") {
			t.Fatalf("panic on %s %q", ctype, patch)
		}
		if w := call(t, h, "GET", configMaps+"/a", ""); w.Code == http.StatusNotFound {
			want(t, h, 201, "POST", configMaps, `{"metadata":{"name":"a"},"data":{"k":"v"}}`)
		} else if w.Code != 200 {
			t.Fatalf("afterwards: %d %s", w.Code, w.Body)
		}
	})
}

func FuzzQuery(f *testing.F) {
	for _, s := range []string{"labelSelector=a+in+(b,c)", "fieldSelector=metadata.name%3Da,metadata.namespace!%3Dn", "limit=1&continue=abc", "resourceVersion=5&resourceVersionMatch=Exact", "watch=0&timeoutSeconds=x", "%zz"} {
		f.Add(s)
	}
	s := newServer(f)
	want(f, s.Handler(), 201, "POST", configMaps, `{"metadata":{"name":"a"}}`)
	f.Fuzz(func(t *testing.T, query string) {
		x := &exchange{s: s, w: &responseWriter{scope: &request.Scope{}}, ctx: context.Background(), res: s.resources[corev1.SchemeGroupVersion.WithResource("configmaps")], info: &request.Info{Verb: "list", Namespace: "n"}}
		r, err := http.NewRequest(http.MethodGet, configMaps, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.URL.RawQuery = query
		x.r = r
		o, err := x.listOptions()
		if err != nil || o.ResourceVersion != "" {
			return
		}
		if _, _, err := x.listItems(&o); err != nil && x.status(err).Code == 500 {
			t.Fatal(err)
		}
	})
}
