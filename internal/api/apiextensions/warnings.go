package apiextensions

import (
	"fmt"
	"slices"

	internal "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apiserver/pkg/cel/environment"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

// warnings tells of formats that nobody checks and of sets that server-side apply can't merge, if they are new.
func warnings(d, old *apiextensionsv1.CustomResourceDefinition) []string {
	var before []string
	if old != nil {
		before = append(formatWarnings(old), setWarnings(old)...)
	}
	return slices.DeleteFunc(append(formatWarnings(d), setWarnings(d)...), func(w string) bool { return slices.Contains(before, w) })
}

func formatWarnings(d *apiextensionsv1.CustomResourceDefinition) []string {
	crd, err := unversioned(d)
	if err != nil {
		return nil
	}
	version := environment.DefaultCompatibilityVersion()
	var out []string
	anySchema(&crd.Spec, func(j *internal.JSONSchemaProps) bool {
		if j.Format != "" {
			s := &spec.Schema{SchemaProps: spec.SchemaProps{Format: j.Format, Type: []string{j.Type}}}
			for _, f := range validation.GetUnrecognizedFormats(s, version) {
				out = append(out, fmt.Sprintf("unrecognized format %q", f))
			}
		}
		return false
	})
	return out
}

func setWarnings(d *apiextensionsv1.CustomResourceDefinition) []string {
	crd, err := unversioned(d)
	if err != nil {
		return nil
	}
	var out []string
	anySchema(&crd.Spec, func(j *internal.JSONSchemaProps) bool {
		if j.XListType != nil && *j.XListType == "set" && j.Items != nil && j.Items.Schema != nil && (j.Items.Schema.Type == "object" || j.Items.Schema.Type == "array") {
			out = append(out, fmt.Sprintf("x-kubernetes-list-type: set for items of type %q is not supported by server-side apply or CEL validation rules", j.Items.Schema.Type))
		}
		return false
	})
	slices.Sort(out)
	return slices.Compact(out)
}
