package discovery_test

import (
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	clientdiscovery "k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"

	"github.com/celox/celox/internal/api/catalogue"
	"github.com/celox/celox/internal/apiserver/discovery"
)

const aggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"

func newHandler(t *testing.T) *discovery.Handler {
	t.Helper()
	c, err := catalogue.New()
	if err != nil {
		t.Fatal(err)
	}
	h, err := discovery.New(c, "192.0.2.1:6443")
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func get(t *testing.T, h *discovery.Handler, path string, header ...string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, path, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	if !h.Serve(w, r) {
		t.Fatalf("%s is no discovery document", path)
	}
	return w
}

func TestAnswers(t *testing.T) {
	h := newHandler(t)
	for _, c := range []struct {
		name, path, accept string
		code               int
		contentType        string
		body               string // a part of it
	}{
		{"core versions", "/api", "", 200, "application/json", `"kind":"APIVersions","versions":["v1"],"serverAddressByClientCIDRs":[{"clientCIDR":"0.0.0.0/0","serverAddress":"192.0.2.1:6443"}]`},
		{"core resources have no apiVersion", "/api/v1", "", 200, "application/json", `{"kind":"APIResourceList","groupVersion":"v1"`},
		{"storage version hash", "/api/v1", "", 200, "application/json", `"storageVersionHash":"xPOwRZ+Yhw8="`},
		{"events are stored as the core group's", "/apis/events.k8s.io/v1", "", 200, "application/json", `"storageVersionHash":"r2yiGXH7wu8="`},
		{"groups", "/apis", "*/*", 200, "application/json", `"groups":[{"name":"apiregistration.k8s.io"`},
		{"group", "/apis/autoscaling", "", 200, "application/json", `"preferredVersion":{"groupVersion":"autoscaling/v2","version":"v2"}`},
		{"a trailing slash", "/apis/apps/v1/", "", 200, "application/json", `"name":"deployments/scale","singularName":"","namespaced":true,"group":"autoscaling","version":"v1","kind":"Scale"`},
		{"YAML", "/apis/apps/v1", "application/yaml", 200, "application/yaml", "groupVersion: apps/v1\n"},
		{"protobuf", "/apis/apps/v1", "application/vnd.kubernetes.protobuf", 200, "application/vnd.kubernetes.protobuf", "k8s\x00"},
		{"aggregated", "/apis", aggregated, 200, aggregated, `"apiVersion":"apidiscovery.k8s.io/v2"`},
		{"aggregated core", "/api", aggregated + ",application/json", 200, aggregated, `"subresource":"status"`},
		{"aggregated for a group is not asked for", "/apis/apps", aggregated + ",application/json", 200, "application/json", `"kind":"APIGroup"`},
		{"another aggregated version", "/api", "application/json;g=apidiscovery.k8s.io;v=v9;as=APIGroupDiscoveryList", 406, "application/json", `"reason":"NotAcceptable"`},
		{"XML", "/apis", "application/xml", 406, "application/json", "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := get(t, h, c.path, "Accept", c.accept)
			if w.Code != c.code || w.Header().Get("Content-Type") != c.contentType {
				t.Errorf("got %d %q, want %d %q", w.Code, w.Header().Get("Content-Type"), c.code, c.contentType)
			}
			if !strings.Contains(w.Body.String(), c.body) {
				t.Errorf("no %q in %.600s", c.body, w.Body)
			}
		})
	}
	for _, path := range []string{"/", "/apis/nosuch", "/apis/apps/v9", "/apis/extensions/v1beta1", "/api/v1/pods"} {
		if h.Serve(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, path, nil)) {
			t.Errorf("%s was served", path)
		}
	}
}

func TestETag(t *testing.T) {
	h := newHandler(t)
	etag := get(t, h, "/apis", "Accept", aggregated).Header().Get("ETag")
	if w := get(t, h, "/apis", "Accept", aggregated, "If-None-Match", etag); w.Code != http.StatusNotModified || w.Body.Len() > 0 {
		t.Errorf("with its ETag: %d, %d bytes", w.Code, w.Body.Len())
	}
	h.AddSource(&source{revision: 1, groups: map[string]discovery.Group{"example.com": widgets()}})
	if w := get(t, h, "/apis", "Accept", aggregated, "If-None-Match", etag); w.Code != http.StatusOK {
		t.Errorf("after a change: %d", w.Code)
	}
}

func widgets() discovery.Group {
	return discovery.Group{Name: "example.com", Priority: 1000, Versions: []discovery.Version{{Version: "v1", Resources: []metav1.APIResource{
		{Name: "widgets", SingularName: "widget", Namespaced: true, Kind: "Widget", Verbs: metav1.Verbs{"get", "list"}},
		{Name: "widgets/status", Namespaced: true, Kind: "Widget", Verbs: metav1.Verbs{"get"}},
	}}}}
}

// source is a Source of groups that do what the test wants.
type source struct {
	revision uint64
	groups   map[string]discovery.Group
	asked    int
}

func (s *source) Revision() uint64 { return s.revision }
func (s *source) Groups() []string { return slices.Collect(maps.Keys(s.groups)) }
func (s *source) GroupRevision(name string) uint64 {
	if _, ok := s.groups[name]; !ok {
		return 0
	}
	return s.revision
}

func (s *source) Group(name string) discovery.Group {
	s.asked++
	return s.groups[name]
}

func TestSources(t *testing.T) {
	h := newHandler(t)
	s := &source{revision: 1, groups: map[string]discovery.Group{"example.com": widgets()}}
	h.AddSource(s)
	if w := get(t, h, "/apis/example.com/v1"); !strings.Contains(w.Body.String(), `"name":"widgets/status"`) {
		t.Errorf("resources: %s", w.Body)
	}
	var list metav1.APIGroupList
	if err := json.Unmarshal(get(t, h, "/apis").Body.Bytes(), &list); err != nil {
		t.Fatal(err)
	}
	if last := list.Groups[len(list.Groups)-1].Name; last != "example.com" {
		t.Errorf("a custom group is not the last: %s", last)
	}
	w := get(t, h, "/apis", "Accept", aggregated)
	var all apidiscoveryv2.APIGroupDiscoveryList
	if err := json.Unmarshal(w.Body.Bytes(), &all); err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(all.Items, func(g apidiscoveryv2.APIGroupDiscovery) bool { return g.Name == "example.com" }) {
		t.Error("the aggregated document has no example.com")
	}
	if w := get(t, h, "/apis", "Accept", strings.Replace(aggregated, "v=v2", "v=v2beta1", 1)); w.Code != http.StatusNotAcceptable {
		t.Errorf("the old version: %d", w.Code)
	}
	if s.asked != 1 {
		t.Errorf("a group that did not change was asked for %d times", s.asked)
	}
	s.revision, s.groups = 2, nil
	if h.Serve(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/apis/example.com", nil)) {
		t.Error("a group that is gone is still served")
	}
}

// TestClient uses discovery as kubectl does: the kinds of old manifests are found, but never preferred or listed.
func TestClient(t *testing.T) {
	h := newHandler(t)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !h.Serve(w, r) {
			http.NotFound(w, r)
		}
	}))
	defer server.Close()
	client, err := clientdiscovery.NewDiscoveryClientForConfig(&rest.Config{Host: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	groups, err := restmapper.GetAPIGroupResources(client)
	if err != nil {
		t.Fatal(err)
	}
	mapper := restmapper.NewDiscoveryRESTMapper(groups)
	for _, c := range []struct{ group, version, kind, resource string }{
		{"", "v1", "Pod", "pods"},
		{"apps", "v1", "Deployment", "deployments"},
		{"apps", "v1beta1", "Deployment", "deployments"},
		{"extensions", "v1beta1", "Deployment", "deployments"},
		{"events.k8s.io", "v1", "Event", "events"},
	} {
		m, err := mapper.RESTMapping(schema.GroupKind{Group: c.group, Kind: c.kind}, c.version)
		if err != nil {
			t.Errorf("%s/%s %s: %v", c.group, c.version, c.kind, err)
			continue
		}
		if want := (schema.GroupVersionResource{Group: c.group, Version: c.version, Resource: c.resource}); m.Resource != want {
			t.Errorf("%s/%s %s is %s", c.group, c.version, c.kind, m.Resource)
		}
	}
	if r, err := mapper.ResourceFor(schema.GroupVersionResource{Resource: "deployments"}); err != nil || r.Group != "apps" || r.Version != "v1" {
		t.Errorf("deployments are %s, %v", r, err)
	}
	lists, err := client.ServerPreferredResources()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range lists {
		for _, r := range l.APIResources {
			if len(r.Verbs) > 0 && (strings.HasPrefix(l.GroupVersion, "extensions/") || strings.Contains(l.GroupVersion, "beta")) {
				t.Errorf("%s %s is preferred with verbs %v", l.GroupVersion, r.Name, r.Verbs)
			}
		}
	}
	legacy, err := http.Get(server.URL + "/apis/apps")
	if err != nil {
		t.Fatal(err)
	}
	defer legacy.Body.Close()
	var g metav1.APIGroup
	if err := json.NewDecoder(legacy.Body).Decode(&g); err != nil || len(g.Versions) != 1 {
		t.Errorf("versions of apps %v, %v", g.Versions, err)
	}
}

// TestSubresourcesFollow: in the legacy document each subresource follows its parent, sorted by name.
func TestSubresourcesFollow(t *testing.T) {
	h := newHandler(t)
	var list metav1.APIResourceList
	if err := json.Unmarshal(get(t, h, "/apis/apps/v1").Body.Bytes(), &list); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, r := range list.APIResources {
		names = append(names, r.Name)
	}
	if !slices.IsSorted(names) {
		t.Errorf("resources are not sorted: %v", names)
	}
}

func BenchmarkAggregated(b *testing.B) {
	c, err := catalogue.New()
	if err != nil {
		b.Fatal(err)
	}
	h, err := discovery.New(c, "192.0.2.1:6443")
	if err != nil {
		b.Fatal(err)
	}
	r := httptest.NewRequest(http.MethodGet, "/apis", nil)
	r.Header.Set("Accept", aggregated)
	b.ReportAllocs()
	for b.Loop() {
		if !h.Serve(discard{http.Header{}}, r) {
			b.Fatal("not served")
		}
	}
}

// discard is a client that does not listen.
type discard struct{ header http.Header }

func (d discard) Header() http.Header         { return d.header }
func (d discard) Write(p []byte) (int, error) { return len(p), nil }
func (d discard) WriteHeader(int)             {}
