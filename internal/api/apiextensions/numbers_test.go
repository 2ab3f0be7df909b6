package apiextensions

import (
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
)

// TestNumbersOfSchemas: values in a schema are kept in the server's own words, as the objects are that take them over.
func TestNumbersOfSchemas(t *testing.T) {
	for in, want := range map[string]string{
		`1.0`: `1`, `1e3`: `1000`, `-0.0`: `0`, `1.10`: `1.1`, `9223372036854775807`: `9223372036854775807`, `9223372036854775808`: `9223372036854776000`,
		`{"b":[1.0],"a":"x"}`: `{"a":"x","b":[1]}`, `null`: `null`, `{`: `{`,
	} {
		value := func() *apiextensionsv1.JSON { return &apiextensionsv1.JSON{Raw: []byte(in)} }
		s := apiextensionsv1.JSONSchemaProps{Default: value(), Items: &apiextensionsv1.JSONSchemaPropsOrArray{Schema: &apiextensionsv1.JSONSchemaProps{Enum: []apiextensionsv1.JSON{*value()}}}}
		root := &apiextensionsv1.JSONSchemaProps{Properties: map[string]apiextensionsv1.JSONSchemaProps{"p": s}, AllOf: []apiextensionsv1.JSONSchemaProps{s}}
		rewriteNumbers(root)
		for _, p := range []apiextensionsv1.JSONSchemaProps{root.Properties["p"], root.AllOf[0]} {
			if got := string(p.Default.Raw); got != want {
				t.Errorf("%s: %s", in, got)
			}
			if got := string(p.Items.Schema.Enum[0].Raw); got != want {
				t.Errorf("%s in an enumeration: %s", in, got)
			}
		}
	}
}
