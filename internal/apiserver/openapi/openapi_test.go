package openapi_test

import (
	"compress/gzip"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	openapi_v2 "github.com/google/gnostic-models/openapiv2"
	"google.golang.org/protobuf/proto"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/openapi3"
	"k8s.io/client-go/rest"
	kubectlopenapi "k8s.io/kubectl/pkg/util/openapi"

	"github.com/celox/celox/internal/api/catalogue"
	"github.com/celox/celox/internal/apiserver/openapi"
)

func handler(t *testing.T) *openapi.Handler {
	t.Helper()
	h, err := openapi.New()
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func get(h http.Handler, path string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodGet, path, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestStatusCodes(t *testing.T) {
	h := handler(t)
	for _, c := range []struct {
		name, path, accept string
		code               int
		contentType        string
	}{
		{"v2", "/openapi/v2", "", 200, "application/json"},
		{"v2 for a browser", "/openapi/v2", "text/html, */*;q=0.1", 200, "application/json"},
		{"v2 as protobuf", "/openapi/v2", "application/com.github.proto-openapi.spec.v2@v1.0+protobuf", 200, "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"},
		{"v2 as XML", "/openapi/v2", "application/xml", 406, ""},
		{"v3 index", "/openapi/v3", "", 200, "text/plain; charset=utf-8"},
		{"v3 document", "/openapi/v3/apis/apps/v1", "application/json", 200, "application/json"},
		{"v3 group", "/openapi/v3/apis/apps", "", 200, "application/json"},
		{"v3 version", "/openapi/v3/version", "", 200, "application/json"},
		{"v3 of a hidden file name", "/openapi/v3/.well-known/openid-configuration", "", 200, "application/json"},
		{"v3 unknown", "/openapi/v3/apis/nosuch/v1", "", 404, ""},
		{"v3 as XML", "/openapi/v3/api/v1", "application/xml", 406, ""},
		{"neither", "/openapi/v4", "", 404, "text/plain; charset=utf-8"},
		{"v2 and a slash", "/openapi/v2/", "", 404, "text/plain; charset=utf-8"},
		{"v3 and a slash", "/openapi/v3/", "", 404, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := get(h, c.path, "Accept", c.accept)
			if w.Code != c.code || w.Header().Get("Content-Type") != c.contentType {
				t.Errorf("got %d %q, want %d %q", w.Code, w.Header().Get("Content-Type"), c.code, c.contentType)
			}
			if c.code != 200 && c.contentType == "" && w.Body.Len() > 0 {
				t.Errorf("body %q", w.Body)
			}
		})
	}
}

func TestCaching(t *testing.T) {
	h := handler(t)
	for _, path := range []string{"/openapi/v2", "/openapi/v3", "/openapi/v3/api/v1"} {
		etag := get(h, path).Header().Get("ETag")
		if len(etag) < 10 {
			t.Errorf("%s: ETag %q", path, etag)
		}
		if w := get(h, path, "If-None-Match", etag); w.Code != http.StatusNotModified || w.Body.Len() > 0 {
			t.Errorf("%s with its ETag: %d, %d bytes", path, w.Code, w.Body.Len())
		}
	}
	w := get(h, "/openapi/v3/api/v1?hash=OLD")
	if w.Code != http.StatusMovedPermanently {
		t.Fatalf("an old hash: %d", w.Code)
	}
	w = get(h, w.Header().Get("Location"))
	if w.Code != 200 || !strings.Contains(w.Header().Get("Cache-Control"), "immutable") {
		t.Errorf("the right hash: %d %q", w.Code, w.Header().Get("Cache-Control"))
	}
}

func TestCompression(t *testing.T) {
	h := handler(t)
	plain := get(h, "/openapi/v3/apis/apps/v1").Body.Bytes()
	w := get(h, "/openapi/v3/apis/apps/v1", "Accept-Encoding", "br, gzip;q=0.9")
	if w.Header().Get("Content-Encoding") != "gzip" || w.Body.Len() >= len(plain)/4 {
		t.Fatalf("encoding %q, %d bytes for %d", w.Header().Get("Content-Encoding"), w.Body.Len(), len(plain))
	}
	z, err := gzip.NewReader(w.Body)
	if err != nil {
		t.Fatal(err)
	}
	unpacked, err := io.ReadAll(z)
	if err != nil || string(unpacked) != string(plain) {
		t.Errorf("unpacked %d bytes, %v", len(unpacked), err)
	}
}

// source is a Source whose documents do what the test wants.
type source struct {
	revision uint64
	docs     map[string]string
	asked    int
}

func (s *source) Revision() uint64 { return s.revision }

func (s *source) Documents() map[string]uint64 {
	out := map[string]uint64{}
	for name := range s.docs {
		out[name] = 1
	}
	return out
}

func (s *source) Document(name string) ([]byte, error) {
	s.asked++
	return []byte(s.docs[name]), nil
}

func TestSource(t *testing.T) {
	h := handler(t)
	before := get(h, "/openapi/v3").Header().Get("ETag")
	s := &source{revision: 1, docs: map[string]string{"apis/example.com/v1": `{"openapi":"3.0.0"}`, "api/v1": `{}`}}
	h.AddSource(s)
	if got := get(h, "/openapi/v3/apis/example.com/v1").Body.String(); got != `{"openapi":"3.0.0"}` {
		t.Errorf("extra document: %q", got)
	}
	if get(h, "/openapi/v3/api/v1").Body.Len() < 1000 {
		t.Error("an extra document took a built-in one's place")
	}
	if get(h, "/openapi/v3").Header().Get("ETag") == before {
		t.Error("the index did not change")
	}
	s.revision++
	get(h, "/openapi/v3")
	if s.asked != 1 {
		t.Errorf("a document that did not change was asked for %d times", s.asked)
	}
	s.revision, s.docs = 3, nil
	if got := get(h, "/openapi/v3").Header().Get("ETag"); got != before {
		t.Error("the index is not what it was")
	}
}

// TestEveryKind checks that each visible kind of the catalogue is a schema of its document, and that the paths that clients
// look for (kubectl asks whether PATCH knows dryRun and fieldValidation) are there. It fails when the catalogue changed and
// the documents were not made again.
func TestEveryKind(t *testing.T) {
	server := httptest.NewServer(handler(t))
	defer server.Close()
	client, err := discovery.NewDiscoveryClientForConfig(&rest.Config{Host: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	root := openapi3.NewRoot(client.OpenAPIV3())
	c, err := catalogue.New()
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range c.Groups() {
		for _, v := range g.Versions {
			gv := schema.GroupVersion{Group: g.Name, Version: v.Version}
			doc, err := root.GVSpec(gv)
			if err != nil {
				t.Errorf("%s: %v", gv, err)
				continue
			}
			schemas, patches := sets.New[string](), map[string]sets.Set[string]{}
			for _, s := range doc.Components.Schemas {
				kinds, _ := s.Extensions["x-kubernetes-group-version-kind"].([]any)
				for _, k := range kinds {
					m, _ := k.(map[string]any)
					if m["group"] == gv.Group && m["version"] == gv.Version {
						name, _ := m["kind"].(string)
						schemas.Insert(name)
					}
				}
			}
			for _, p := range doc.Paths.Paths {
				if p.Patch == nil {
					continue
				}
				var gvk map[string]string
				if err := p.Patch.Extensions.GetObject("x-kubernetes-group-version-kind", &gvk); err != nil {
					t.Errorf("%s: %v", gv, err)
				}
				if patches[gvk["kind"]] == nil {
					patches[gvk["kind"]] = sets.New[string]()
				}
				for _, q := range p.Patch.Parameters {
					patches[gvk["kind"]].Insert(q.Name)
				}
			}
			for _, k := range v.Kinds {
				if !schemas.Has(k.Kind) {
					t.Errorf("%s has no schema of %s", gv, k.Kind)
				}
				if sets.New(k.ResourceVerbs()...).Has("patch") && !patches[k.Kind].HasAll("dryRun", "fieldValidation", "fieldManager", "force") {
					t.Errorf("%s: PATCH of %s takes %v", gv, k.Kind, sets.List(patches[k.Kind]))
				}
			}
		}
	}
}

// TestV2 reads the protobuf form as kubectl does.
func TestV2(t *testing.T) {
	h := handler(t)
	var doc openapi_v2.Document
	w := get(h, "/openapi/v2", "Accept", "application/com.github.proto-openapi.spec.v2@v1.0+protobuf")
	if err := proto.Unmarshal(w.Body.Bytes(), &doc); err != nil {
		t.Fatal(err)
	}
	resources, err := kubectlopenapi.NewOpenAPIData(&doc)
	if err != nil {
		t.Fatal(err)
	}
	for _, gvk := range []schema.GroupVersionKind{{Version: "v1", Kind: "Pod"}, {Group: "apps", Version: "v1", Kind: "Deployment"}, {Group: "autoscaling", Version: "v2", Kind: "HorizontalPodAutoscaler"}} {
		if resources.LookupResource(gvk) == nil {
			t.Errorf("no schema of %s", gvk)
		}
	}
	var plain struct {
		Swagger string
		Paths   map[string]map[string]json.RawMessage
	}
	if err := json.Unmarshal(get(h, "/openapi/v2").Body.Bytes(), &plain); err != nil || plain.Swagger != "2.0" {
		t.Fatalf("JSON form: %v, version %q", err, plain.Swagger)
	}
	if _, ok := plain.Paths["/api/v1/namespaces/{namespace}/configmaps"]["get"]; !ok {
		t.Error("no list of config maps")
	}
}

func BenchmarkV3(b *testing.B) {
	h, err := openapi.New()
	if err != nil {
		b.Fatal(err)
	}
	r := httptest.NewRequest(http.MethodGet, "/openapi/v3/api/v1", nil)
	r.Header.Set("Accept-Encoding", "gzip")
	b.ReportAllocs()
	for b.Loop() {
		h.ServeHTTP(httptest.NewRecorder(), r)
	}
}
