package openapi_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	openapi_v2 "github.com/google/gnostic-models/openapiv2"
	"google.golang.org/protobuf/proto"

	"github.com/celox/celox/internal/apiserver/openapi"
)

// merger is a source of the v2 document.
type merger struct {
	source
	hash string
	more []openapi.Addition
}

func (m *merger) HashV2() string                            { return m.hash }
func (m *merger) V2() ([]openapi.Addition, error)           { return m.more, nil }
func (m *merger) change(hash string, a ...openapi.Addition) { m.revision++; m.hash, m.more = hash, a }

// document is a v2 document as far as the tests look.
type document struct {
	Paths, Definitions, Parameters map[string]any
}

func v2Of(t *testing.T, h http.Handler) (document, string) {
	t.Helper()
	w := get(h, "/openapi/v2")
	var doc document
	if err := json.Unmarshal(w.Body.Bytes(), &doc); err != nil || w.Code != http.StatusOK {
		t.Fatal(w.Code, err)
	}
	return doc, w.Header().Get("ETag")
}

// inProto checks that the protobuf form has what the JSON form has.
func inProto(t *testing.T, h http.Handler, doc document) {
	t.Helper()
	var pb openapi_v2.Document
	if err := proto.Unmarshal(get(h, "/openapi/v2", "Accept", "application/com.github.proto-openapi.spec.v2@v1.0+protobuf").Body.Bytes(), &pb); err != nil {
		t.Fatal(err)
	}
	if a, b, c := len(pb.Paths.Path), len(pb.Definitions.AdditionalProperties), len(pb.Parameters.AdditionalProperties); a != len(doc.Paths) || b != len(doc.Definitions) || c != len(doc.Parameters) {
		t.Errorf("protobuf has %d, %d, %d; JSON has %d, %d, %d", a, b, c, len(doc.Paths), len(doc.Definitions), len(doc.Parameters))
	}
}

// tag is the document's ETag.
func tag(h http.Handler) string {
	return get(h, "/openapi/v2", "If-None-Match", "*").Header().Get("ETag")
}

const about = `{"get":{"responses":{"200":{"description":"OK","schema":{"$ref":"#/definitions/`

func TestMergedV2(t *testing.T) {
	h := handler(t)
	before, etag := v2Of(t, h)
	m := &merger{}
	h.AddSource(m)
	if tag(h) != etag {
		t.Error("a source without anything to say changed the document")
	}
	m.change("1", openapi.Addition{
		Paths:       []byte(`"/apis/example.com/v1/things":` + about + `com.example.v1.Thing"}}}}}`),
		Definitions: []byte(`"com.example.v1.Thing":{"type":"object"}`),
	})
	doc, changed := v2Of(t, h)
	if changed == etag || len(doc.Paths) != len(before.Paths)+1 || len(doc.Definitions) != len(before.Definitions)+1 || doc.Paths["/apis/example.com/v1/things"] == nil {
		t.Errorf("%d paths, %d definitions, ETag %s", len(doc.Paths), len(doc.Definitions), changed)
	}
	inProto(t, h, doc)
	m.revision++
	if tag(h) != changed {
		t.Error("the same contents have another ETag")
	}
	m.change("")
	if tag(h) != etag || get(h, "/openapi/v2", "Accept-Encoding", "gzip").Body.Len() < 1000 {
		t.Error("the document is not what it was")
	}
}

// Another server's document: what is about another group stays out, what the document has stays as it is, and names that mean
// something else are changed together with all that refers to them.
func TestForeignV2(t *testing.T) {
	h := handler(t)
	before, _ := v2Of(t, h)
	objectMeta, err := json.Marshal(before.Definitions["io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"])
	if err != nil {
		t.Fatal(err)
	}
	a, err := openapi.Cut([]byte(`{"swagger":"2.0",
	"paths": {
		"/apis/metrics.example.com/v1/nodes": {"parameters":[{"$ref":"#/parameters/pretty-0"}], "get":{"responses":{"200":{"description":"OK","schema":{"$ref":"#/definitions/Node"}}}}},
		"/apis/other.example.com/v1/x": `+about+`Other"}}}}}
	},
	"definitions": {
		"Node": {"type":"object","properties":{"status":{"$ref":"#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.Status"},"metadata":{"$ref":"#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}}},
		"io.k8s.apimachinery.pkg.apis.meta.v1.Status": {"type":"object","description":"something else"},
		"io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta": `+string(objectMeta)+`,
		"Other": {"type":"object"}
	},
	"parameters": {"pretty-0": {"name":"pretty","in":"query","type":"string"}, "unused": {"name":"u","in":"query","type":"string"}}
}`), "/apis/metrics.example.com/v1/")
	if err != nil {
		t.Fatal(err)
	}
	m := &merger{}
	m.change("1", a, a)
	h.AddSource(m)
	doc, _ := v2Of(t, h)
	inProto(t, h, doc)
	const status = "io.k8s.apimachinery.pkg.apis.meta.v1.Status"
	if len(doc.Paths) != len(before.Paths)+1 || len(doc.Parameters) != len(before.Parameters)+1 || doc.Definitions["Other"] != nil {
		t.Errorf("%d paths for %d, %d parameters for %d", len(doc.Paths), len(before.Paths), len(doc.Parameters), len(before.Parameters))
	}
	if len(doc.Definitions) < len(before.Definitions)+2 {
		t.Errorf("%d definitions for %d", len(doc.Definitions), len(before.Definitions))
	}
	if s, ok := doc.Definitions[status].(map[string]any); !ok || s["description"] == "something else" {
		t.Errorf("the built-in Status is %v", s)
	}
	if s, ok := doc.Definitions[status+"_v2"].(map[string]any); !ok || s["description"] != "something else" {
		t.Errorf("the other Status is %v", s)
	}
	node, err := json.Marshal(doc.Definitions["Node"])
	if err != nil || !strings.Contains(string(node), `"#/definitions/`+status+`_v2"`) || !strings.Contains(string(node), `v1.ObjectMeta"`) {
		t.Errorf("Node is %s, %v", node, err)
	}
}

// What an old server says in v2 can be read as v3.
func TestV3OfV2(t *testing.T) {
	a, err := openapi.Cut([]byte(`{"swagger":"2.0",
	"paths": {"/apis/metrics.example.com/v1/nodes": {"parameters":[{"$ref":"#/parameters/pretty-0"}], "post":{"consumes":["application/json"],"produces":["application/json"],
		"parameters":[{"name":"body","in":"body","schema":{"$ref":"#/definitions/Node"}}],"responses":{"200":{"description":"OK","schema":{"$ref":"#/definitions/Node"}}},
		"x-kubernetes-group-version-kind":{"group":"metrics.example.com","version":"v1","kind":"Node"}}}},
	"definitions": {"Node": {"type":"object","description":"A node.","properties":{"load":{"$ref":"#/definitions/Load"}}}, "Load": {"type":"integer"}},
	"parameters": {"pretty-0": {"name":"pretty","in":"query","type":"string"}}
}`), "/apis/metrics.example.com/v1/")
	if err != nil {
		t.Fatal(err)
	}
	v3, err := a.V3()
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		OpenAPI    string
		Info       struct{ Title, Version string }
		Components struct {
			Schemas map[string]struct {
				Description string
				Properties  map[string]map[string]any
			}
		}
		Paths map[string]map[string]json.RawMessage
	}
	if err := json.Unmarshal(v3, &doc); err != nil {
		t.Fatal(err)
	}
	node := doc.Components.Schemas["Node"]
	post := string(doc.Paths["/apis/metrics.example.com/v1/nodes"]["post"])
	if doc.OpenAPI != "3.0.0" || doc.Info.Title == "" || doc.Info.Version == "" || node.Description != "A node." || !strings.Contains(fmt.Sprint(node.Properties["load"]), "#/components/schemas/Load") ||
		!strings.Contains(post, `"requestBody"`) || !strings.Contains(post, `"#/components/schemas/Node"`) || !strings.Contains(post, `"x-kubernetes-group-version-kind"`) {
		t.Errorf("%s", v3)
	}
}

func TestCutNothing(t *testing.T) {
	if a, err := openapi.Cut([]byte(`{"paths":{"/a":{}}}`), "/b/"); err != nil || len(a.Paths) > 0 || len(a.Definitions) > 0 {
		t.Errorf("%+v, %v", a, err)
	}
	if _, err := openapi.Cut([]byte(`{"paths":`), "/b/"); err == nil {
		t.Error("half a document is no error")
	}
}
