package apiextensions_test

import (
	"strings"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/yaml"

	"github.com/celox/celox/internal/api/apiextensions"
	"github.com/celox/celox/internal/api/apitest"
)

// withSchema is a definition with one version and this schema of spec, in YAML's flow style.
func withSchema(spec string) string {
	return definition("foos.a.b", names+"versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, properties: {spec: "+spec+"}}}}]")
}

func TestSchemas(t *testing.T) {
	const at = "spec.validation.openAPIV3Schema.properties[spec]"
	apitest.Check(t, apiextensions.Kinds(), "CustomResourceDefinition", []apitest.Case{
		{"no type", withSchema("{}"), at + ".type: Required value: must not be empty for specified object fields"},
		{"no items", withSchema("{type: array}"), at + ".items: Required value: must be specified"},
		{"unique items", withSchema("{type: array, uniqueItems: true, items: {type: string}}"), at + ".uniqueItems: Forbidden: uniqueItems cannot be set to true since the runtime complexity becomes quadratic"},
		{"a default that does not fit", withSchema("{type: integer, default: x}"), at + `.default: Invalid value: "string":  in body must be of type integer: "string"`},
		{"a map list without keys", withSchema("{type: array, x-kubernetes-list-type: map, items: {type: object}}"), at + ".x-kubernetes-list-map-keys: Required value: must not be empty if x-kubernetes-list-type is map"},
		{"optional keys", withSchema("{type: array, x-kubernetes-list-type: map, x-kubernetes-list-map-keys: [k], items: {type: object, properties: {k: {type: string}}}}"),
			at + ".items.properties[k].default: Required value: this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property"},
		{"a rule", withSchema(`{type: object, properties: {a: {type: integer}}, x-kubernetes-validations: [{rule: "self.a > 0"}]}`), ""},
		{"a rule that costs too much", withSchema(`{type: array, items: {type: string}, x-kubernetes-validations: [{rule: "self.all(x, self.all(y, x == y))"}]}`), "estimated rule cost exceeds budget by factor of more than 100x\n" +
			"contributed to estimated rule cost total\nx-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema exceeds budget by factor of more than 100x"},
		{"an old self that can't be found", withSchema(`{type: array, maxItems: 2, items: {type: string, maxLength: 2, x-kubernetes-validations: [{rule: "self == oldSelf"}]}}`),
			at + `.items.x-kubernetes-validations[0].rule: Invalid value: "self == oldSelf": oldSelf cannot be used on the uncorrelatable portion of the schema within ` + at},
		{"a path into what may be anything", withSchema(`{type: object, additionalProperties: true, x-kubernetes-validations: [{rule: "true", fieldPath: .a.b}]}`),
			at + `.x-kubernetes-validations[0].fieldPath: Invalid value: ".a.b": must be a valid path`},
		{"a selectable field of what may be anything", definition("foos.a.b", names+"versions: [{name: v1, served: true, storage: true, selectableFields: [{jsonPath: .spec.a.b}, {jsonPath: .spec.a}], "+
			"schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, additionalProperties: true}}}}}]"),
			`spec.selectableFields[0].jsonPath: Invalid value: ".spec.a.b": is an invalid path: does not refer to a valid field` + "\n" +
				`spec.selectableFields[1].jsonPath: Invalid value: ".spec.a": must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.`},
		{"an empty rule", withSchema(`{type: object, x-kubernetes-validations: [{rule: ""}]}`), at + ".x-kubernetes-validations[0].rule: Required value: rule is not specified"},
	})
}

// FuzzDefinition: whatever a definition says, checking it ends with complaints and not with a crash.
func FuzzDefinition(f *testing.F) {
	for _, spec := range []string{
		"{type: object}", "{type: array, items: {type: string}}", `{type: object, x-kubernetes-validations: [{rule: "self.a.b.c(1)", messageExpression: "'x' + 1", fieldPath: ".a"}]}`,
		"{type: object, properties: {a: {type: object, default: {b: 1}, properties: {b: {type: integer}}}}}", "{anyOf: [{type: string}], not: {}, oneOf: [{}]}",
		`{type: string, x-kubernetes-validations: [{rule: "self.matches('(a+)+$')"}, {rule: "` + strings.Repeat("(", 200) + `"}]}`,
		"{type: array, items: {type: array, items: {type: object, x-kubernetes-embedded-resource: true, x-kubernetes-preserve-unknown-fields: true}}}",
	} {
		f.Add(withSchema(spec))
	}
	c := apitest.Catalogue(f, apiextensions.Kinds())
	k := apitest.Kind(f, c.Kinds(), "CustomResourceDefinition")
	f.Fuzz(func(t *testing.T, text string) {
		d := &apiextensionsv1.CustomResourceDefinition{}
		if yaml.Unmarshal([]byte(text), d) != nil {
			return
		}
		k.Default(d)
		k.PrepareForCreate(d)
		first := k.Validate(d)
		k.Warnings(d, nil)
		if len(first) > 0 {
			return
		}
		// What was let in may stay.
		if errs := k.ValidateUpdate(d.DeepCopy(), d); len(errs) > 0 {
			t.Errorf("valid when it is new, but not when it does not change: %v", errs)
		}
	})
}
