package apiextensions_test

import (
	"slices"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"

	"github.com/celox/celox/internal/api/apiextensions"
	"github.com/celox/celox/internal/api/apitest"
)

func definition(meta, spec string) string {
	return "metadata: {name: " + meta + "}\nspec: {" + spec + "}"
}

const (
	names   = "group: a.b, scope: Namespaced, names: {plural: foos, kind: Foo}, "
	schema  = "schema: {openAPIV3Schema: {type: object}}"
	version = "{name: v1, served: true, storage: true, " + schema + "}"
)

func TestCustomResourceDefinition(t *testing.T) {
	apitest.Check(t, apiextensions.Kinds(), "CustomResourceDefinition", []apitest.Case{
		{"minimal", definition("foos.a.b", names+"versions: ["+version+"]"), ""},
		{"another name", definition("foo.a.b", names+"versions: ["+version+"]"), `metadata.name: Invalid value: "foo.a.b": must be spec.names.plural+"."+spec.group`},
		{"a generated name", "metadata: {generateName: foo}\nspec: {" + names + "versions: [" + version + "]}", `metadata.generateName: Invalid value: "foo": must be spec.names.plural+"."+spec.group`},
		{"no domain", definition("foos.a", "group: a, scope: Namespaced, names: {plural: foos, kind: Foo}, versions: ["+version+"]"), "should be a domain with at least one dot"},
		{"no scope", definition("foos.a.b", "group: a.b, names: {plural: foos, kind: Foo}, versions: ["+version+"]"), "spec.scope: Required value"},
		{"no schema", definition("foos.a.b", names+"versions: [{name: v1, served: true, storage: true}]"), "spec.versions[0].schema.openAPIV3Schema: Required value"},
		{"a schema that means nothing, and a field of it", definition("foos.a.b", names+"versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, $ref: there}}, selectableFields: [{jsonPath: .x.y}]}]"),
			"spec.validation.openAPIV3Schema.$ref: Forbidden: $ref is not supported\nspec.schema.openAPIV3Schema: Invalid value: \"\": OpenAPIV3Schema '$ref' is not supported\nspec.selectableFields[0].jsonPath: Invalid value: \".x.y\": is an invalid path: does not refer to a valid field"},
		{"nothing stored", definition("foos.a.b", names+"versions: [{name: v1, served: true, "+schema+"}]"), `spec.versions: Invalid value: [{"Name":"v1","Served":true,"Storage":false,"Deprecated":false,"DeprecationWarning":null,"Schema":null,"Subresources":null,"AdditionalPrinterColumns":null,"SelectableFields":null}]: must have exactly one version marked as storage version
status.storedVersions: Invalid value: null: must have at least one stored version`},
		{"bad names", definition("Foos.a.b", "group: a.b, scope: Cluster, names: {plural: Foos, kind: F_oo, singular: foo}, versions: ["+version+"]"),
			"spec.names.plural: Invalid value: \"Foos\"\nspec.names.kind: Invalid value: \"F_oo\"\nspec.names.listKind: Invalid value: \"F_ooList\""},
	})
}

// TestStoredVersions: every version that something may be stored in is remembered.
func TestStoredVersions(t *testing.T) {
	c := apitest.Catalogue(t, apiextensions.Kinds())
	k := apitest.Kind(t, c.Kinds(), "CustomResourceDefinition")
	obj, errs := apitest.Create(t, c, k, definition("foos.a.b", names+"versions: ["+version+"]"))
	if len(errs) > 0 {
		t.Fatal(apitest.Text(errs))
	}
	old := obj.(*apiextensionsv1.CustomResourceDefinition)
	if n := old.Spec.Names; n.Singular != "foo" || n.ListKind != "FooList" || old.Spec.Conversion.Strategy != "None" || !slices.Equal(old.Status.StoredVersions, []string{"v1"}) {
		t.Errorf("filled in %+v", old)
	}
	d := old.DeepCopy()
	d.Status = apiextensionsv1.CustomResourceDefinitionStatus{}
	d.Spec.Versions[0].Storage = false
	d.Spec.Versions = append(d.Spec.Versions, *old.Spec.Versions[0].DeepCopy())
	d.Spec.Versions[1].Name = "v2"
	k.PrepareForUpdate(d, old)
	if !slices.Equal(d.Status.StoredVersions, []string{"v1", "v2"}) || len(old.Status.StoredVersions) != 1 {
		t.Errorf("stored versions %v, were %v", d.Status.StoredVersions, old.Status.StoredVersions)
	}
	if got := apitest.Text(k.ValidateUpdate(d, old)); got != "" {
		t.Error(got)
	}
	d.Spec.Scope = apiextensionsv1.ClusterScoped
	if got := apitest.Text(k.ValidateUpdate(d, old)); got != "" {
		t.Error(got)
	}
	old.Status.Conditions = []apiextensionsv1.CustomResourceDefinitionCondition{{Type: apiextensionsv1.Established, Status: apiextensionsv1.ConditionTrue}}
	if got := apitest.Text(k.ValidateUpdate(d, old)); got != `spec.scope: Invalid value: "Cluster": field is immutable` {
		t.Error(got)
	}
}

// TestStatusDoorTakesLabels: the status door of a definition puts back the spec, and leaves metadata as they were sent.
func TestStatusDoorTakesLabels(t *testing.T) {
	c := apitest.Catalogue(t, apiextensions.Kinds())
	k := apitest.Kind(t, c.Kinds(), "CustomResourceDefinition")
	old := apitest.Read(t, c, k, "metadata: {name: as.e.com}\nspec: {group: e.com}")
	obj := apitest.Read(t, c, k, "metadata: {name: as.e.com, labels: {a: b}}\nspec: {group: f.com}")
	k.PrepareForStatusUpdate(obj, old)
	if group := obj.(*apiextensionsv1.CustomResourceDefinition).Spec.Group; obj.GetLabels()["a"] != "b" || group != "e.com" {
		t.Errorf("labels %v, group %s", obj.GetLabels(), group)
	}
}

// TestEmptyConversion: a conversion webhook of which nothing is said is none.
func TestEmptyConversion(t *testing.T) {
	c := apitest.Catalogue(t, apiextensions.Kinds())
	k := apitest.Kind(t, c.Kinds(), "CustomResourceDefinition")
	for text, want := range map[string]bool{"{}": false, "{conversionReviewVersions: []}": false, "{conversionReviewVersions: [v1]}": true, "{clientConfig: {url: 'https://a/b'}}": true} {
		d := apitest.Read(t, c, k, definition("foos.a.b", names+"conversion: {strategy: None, webhook: "+text+"}, versions: ["+version+"]")).(*apiextensionsv1.CustomResourceDefinition)
		k.Default(d)
		if got := d.Spec.Conversion.Webhook != nil; got != want {
			t.Errorf("%s is kept: %v, want %v", text, got, want)
		}
	}
}
