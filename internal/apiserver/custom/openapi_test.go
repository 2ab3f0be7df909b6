package custom

import (
	"encoding/json"
	"strings"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
)

// served is a registry with the definition as one that is established.
func served(t *testing.T, d *Definition) *Registry {
	t.Helper()
	crd := d.crd.DeepCopy()
	crd.Status.Conditions = []apiextensionsv1.CustomResourceDefinitionCondition{{Type: apiextensionsv1.Established, Status: apiextensionsv1.ConditionTrue}}
	r := NewRegistry(nil, Hooks{})
	if err := r.Set(crd); err != nil {
		t.Fatal(err)
	}
	return r
}

func TestOpenAPI(t *testing.T) {
	r := served(t, define(t, `
versions:
- name: v1
  served: true
  storage: true
  subresources: {status: {}}
  schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {a: {type: string, nullable: true}, d: {type: string, default: told}, i: {x-kubernetes-int-or-string: true}, e: {type: object, x-kubernetes-embedded-resource: true, x-kubernetes-preserve-unknown-fields: true}}}}}}
`))
	o := NewOpenAPI(r)
	if docs := o.Documents(); len(docs) != 1 || docs["apis/example.com/v1"] == 0 {
		t.Errorf("documents %v", docs)
	}
	data, err := o.Document("apis/example.com/v1")
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Paths      map[string]map[string]any `json:"paths"`
		Components struct {
			Schemas map[string]any `json:"schemas"`
		} `json:"components"`
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"things", "namespaces/{namespace}/things", "namespaces/{namespace}/things/{name}", "namespaces/{namespace}/things/{name}/status"} {
		if doc.Paths["/apis/example.com/v1/"+path] == nil {
			t.Errorf("no path %s", path)
		}
	}
	if len(doc.Paths) != 4 || doc.Components.Schemas["com.example.v1.Thing"] == nil || doc.Components.Schemas["com.example.v1.ThingList"] == nil {
		t.Errorf("%d paths, %d schemas", len(doc.Paths), len(doc.Components.Schemas))
	}
	if doc.Components.Schemas["io.k8s.api.autoscaling.v1.Scale"] != nil {
		t.Error("a scale is described that is not there")
	}
	for _, text := range []string{"\x01", `\u0001`, "Deployment", "apps/v1", "protobuf", "strategic"} {
		if strings.Contains(string(data), text) {
			t.Errorf("%q is left of the template", text)
		}
	}
	for name := range doc.Components.Schemas {
		refs := map[string]bool{}
		collectRefs(doc.Components.Schemas[name], refs)
		for ref := range refs {
			if doc.Components.Schemas[ref] == nil {
				t.Errorf("%s refers to %s, which is not there", name, ref)
			}
		}
	}
	all, _ := r.Definitions("example.com")
	kept, err := all[0].Versions()[0].schema()
	if err != nil {
		t.Fatal(err)
	}
	if is := kept.Properties["spec"].Properties["i"].ValueValidation; is != nil && len(is.AnyOf) > 0 {
		t.Errorf("describing the schema changed it: %+v", is)
	}
	two, err := o.V2()
	if err != nil || len(two) != 1 {
		t.Fatal(two, err)
	}
	text := `{"definitions":{` + string(two[0].Definitions) + `},"paths":{` + string(two[0].Paths) + "}}"
	var second struct {
		Definitions map[string]any
		Paths       map[string]map[string]any
	}
	if err := json.Unmarshal([]byte(text), &second); err != nil || len(second.Definitions) != 2 || len(second.Paths) != 4 {
		t.Fatalf("%v; %d definitions, %d paths", err, len(second.Definitions), len(second.Paths))
	}
	for _, is := range []string{"nullable", `"default"`, "components", "Deployment", "apps/v1", "protobuf", "strategic", "\x01", `\u0001`} {
		if strings.Contains(text, is) {
			t.Errorf("OpenAPI v2 has %q", is)
		}
	}
	for _, is := range []string{
		`"$ref":"#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"`, `"items":{"$ref":"#/definitions/com.example.v1.Thing"}`,
		`"operationId":"replaceExampleComV1NamespacedThingStatus"`, `"description":"create a Thing"`,
	} {
		if !strings.Contains(text, is) {
			t.Errorf("OpenAPI v2 lacks %s", is)
		}
	}
}

func TestDiscovery(t *testing.T) {
	r := served(t, define(t, twoVersions))
	before := r.GroupRevision("example.com")
	g := Discovery{Registry: r}.Group("example.com")
	if len(g.Versions) != 2 || g.Versions[0].Version != "v2" || g.Versions[0].Resources[0].StorageVersionHash == "" || g.Versions[0].Resources[0].Verbs[0] != "delete" {
		t.Errorf("%+v", g)
	}
	r.Remove(define(t, twoVersions).GroupResource())
	if r.GroupRevision("example.com") != 0 || r.HasGroup("example.com") || before == r.Revision() {
		t.Error("what was removed is still there")
	}
}
