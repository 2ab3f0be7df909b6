package custom

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/yaml"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/apiserver/negotiate"
)

// define makes a definition of things in example.com of its versions in YAML.
func define(t testing.TB, spec string) *Definition {
	t.Helper()
	crd := &CRD{}
	crd.Name, crd.UID, crd.Generation = "things.example.com", "1", 1
	if err := yaml.Unmarshal([]byte(spec), &crd.Spec); err != nil {
		t.Fatal(err)
	}
	crd.Spec.Group = "example.com"
	crd.Spec.Names = apiextensionsv1.CustomResourceDefinitionNames{Plural: "things", Singular: "thing", Kind: "Thing", ListKind: "ThingList"}
	crd.Status.AcceptedNames = crd.Spec.Names
	if crd.Spec.Scope == "" {
		crd.Spec.Scope = apiextensionsv1.NamespaceScoped
	}
	d, err := New(crd, Hooks{})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func object(t testing.TB, v *Version, text string) *Object {
	t.Helper()
	j, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(j, &m); err != nil {
		t.Fatal(err)
	}
	m["apiVersion"], m["kind"] = v.gvk.GroupVersion().String(), v.gvk.Kind
	if j, err = json.Marshal(m); err != nil {
		t.Fatal(err)
	}
	o, _, err := v.Decode(j, negotiate.JSON, "Ignore")
	if err != nil {
		t.Fatal(err)
	}
	return o
}

const twoVersions = `
versions:
- {name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {a: {type: string}, both: {type: string}}}}}}}
- {name: v2, served: true, schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {b: {type: string, default: two}, both: {type: string}}}}}}}
`

// TestManagersOfOtherVersions: where a new field can't be said in the version that a manager spoke, managed fields stay as they were.
func TestManagersOfOtherVersions(t *testing.T) {
	d := define(t, twoVersions)
	v1, _ := d.Served("v1")
	v2, _ := d.Served("v2")
	made, err := v1.Manager("").Update(nil, object(t, v1, `{metadata: {name: x}, spec: {a: "1", both: "2"}}`), "me")
	if err != nil || len(made.GetManagedFields()) != 1 {
		t.Fatalf("%v, %v", made.GetManagedFields(), err)
	}
	seen, err := d.ConvertTo(t.Context(), []*Object{made.(*Object)}, v2)
	if err != nil {
		t.Fatal(err)
	}
	live := seen[0]
	next := live.DeepCopy()
	next.Fields["spec"].(map[string]any)["b"] = "3"
	var out api.Object
	if out, err = v2.Manager("").Update(live, next, "me"); err != nil || !reflect.DeepEqual(out.GetManagedFields(), live.ManagedFields) {
		t.Errorf("%v, %v", out.GetManagedFields(), err)
	}
}

const oneVersion = `
versions:
- name: v1
  served: true
  storage: true
  schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {a: {type: string}, n: {type: integer}, list: {type: array, items: {type: string}}}}}}}
`

// TestFastUpdate: a change of values alone needs no library.
func TestFastUpdate(t *testing.T) {
	d := define(t, oneVersion)
	v, _ := d.Served("v1")
	m := v.Manager("")
	made, err := m.Update(nil, object(t, v, `{metadata: {name: x, labels: {l: m}}, spec: {a: "1", list: [x]}}`), "me")
	if err != nil {
		t.Fatal(err)
	}
	live := made.(*Object)
	j, err := live.AppendJSON(nil)
	if err != nil {
		t.Fatal(err)
	}
	o, _, err := v.DecodePatched([]byte(strings.Replace(string(j), `"1"`, `"2"`, 1)), true)
	if err != nil {
		t.Fatal(err)
	}
	if !m.fastUpdate(live, o.(*Object), "me") {
		t.Errorf("the library was needed: %s\n%q\n%q", j, m.outline(live, nil, ""), m.outline(o.(*Object), nil, ""))
	}
	if m.fastUpdate(live, o.(*Object), "other") {
		t.Error("another manager took fields without the library")
	}
}
