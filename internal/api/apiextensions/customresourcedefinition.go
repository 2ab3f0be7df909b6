package apiextensions

import (
	"strings"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/check"
)

func customResourceDefinition() *api.Kind {
	return &api.Kind{
		Group:         "apiextensions.k8s.io",
		Kind:          "CustomResourceDefinition",
		Resource:      "customresourcedefinitions",
		Singular:      "customresourcedefinition",
		ShortNames:    []string{"crd", "crds"},
		Categories:    []string{"api-extensions"},
		Prefix:        "apiextensions.k8s.io/customresourcedefinitions",
		Versions:      []api.Version{api.NewVersion[apiextensionsv1.CustomResourceDefinition, apiextensionsv1.CustomResourceDefinitionList]("v1")},
		Hub:           "v1",
		Subresources:  []api.Subresource{api.Status()},
		StoredAsJSON:  true,
		HasGeneration: true,
		PrepareForCreate: api.On(func(d *apiextensionsv1.CustomResourceDefinition) {
			d.Status = apiextensionsv1.CustomResourceDefinitionStatus{}
			for _, v := range d.Spec.Versions {
				if v.Storage {
					d.Status.StoredVersions = []string{v.Name}
				}
			}
		}),
		PrepareForUpdate: api.OnUpdate(func(d, old *apiextensionsv1.CustomResourceDefinition) {
			d.Status = old.Status
			for _, v := range d.Spec.Versions {
				if v.Storage && !contains(d.Status.StoredVersions, v.Name) {
					d.Status.StoredVersions = append(append([]string(nil), d.Status.StoredVersions...), v.Name)
				}
			}
		}),
		PrepareForStatusUpdate: api.OnUpdate(func(d, old *apiextensionsv1.CustomResourceDefinition) {
			d.Spec = old.Spec
			metav1.ResetObjectMetaForStatus(&d.ObjectMeta, &old.ObjectMeta)
		}),
		Default: api.On(func(d *apiextensionsv1.CustomResourceDefinition) {
			apiextensionsv1.SetObjectDefaults_CustomResourceDefinition(d)
		}),
		Validate: api.Check(validateDefinition),
		ValidateUpdate: api.CheckUpdate(func(d, old *apiextensionsv1.CustomResourceDefinition) field.ErrorList {
			p := field.NewPath("spec")
			errs := validateDefinition(d)
			errs = append(errs, check.Immutable(d.Spec.Group, old.Spec.Group, p.Child("group"))...)
			errs = append(errs, check.Immutable(d.Spec.Names.Plural, old.Spec.Names.Plural, p.Child("names", "plural"))...)
			return append(errs, check.Immutable(d.Spec.Scope, old.Spec.Scope, p.Child("scope"))...)
		}),
	}
}

func contains(list []string, s string) bool {
	for _, e := range list {
		if e == s {
			return true
		}
	}
	return false
}

// validateDefinition checks what a definition is called and which versions it has. Their schemas are checked by whoever compiles them.
func validateDefinition(d *apiextensionsv1.CustomResourceDefinition) field.ErrorList {
	p, s := field.NewPath("spec"), &d.Spec
	var errs field.ErrorList
	if name := s.Names.Plural + "." + s.Group; d.Name != name {
		errs = append(errs, field.Invalid(field.NewPath("metadata", "name"), d.Name, "must be spec.names.plural+\".\"+spec.group"))
	}
	switch group := p.Child("group"); {
	case s.Group == "":
		errs = append(errs, field.Required(group, ""))
	default:
		errs = append(errs, check.DNSSubdomain(s.Group, group)...)
		if len(strings.Split(s.Group, ".")) < 2 {
			errs = append(errs, field.Invalid(group, s.Group, "should be a domain with at least one dot"))
		}
	}
	errs = append(errs, check.Enum(s.Scope, p.Child("scope"), apiextensionsv1.ClusterScoped, apiextensionsv1.NamespaceScoped)...)
	stored := 0
	versions := map[string]bool{}
	for i, v := range s.Versions {
		at := p.Child("versions").Index(i)
		if v.Storage {
			stored++
		}
		if versions[v.Name] {
			errs = append(errs, field.Invalid(p.Child("versions"), s.Versions, "must contain unique version names"))
		}
		versions[v.Name] = true
		errs = append(errs, check.Each(validation.IsDNS1035Label(v.Name), at.Child("name"), v.Name)...)
		if v.Schema == nil || v.Schema.OpenAPIV3Schema == nil {
			errs = append(errs, field.Required(at.Child("schema", "openAPIV3Schema"), "schemas are required"))
		}
	}
	if stored != 1 {
		errs = append(errs, field.Invalid(p.Child("versions"), s.Versions, "must have exactly one version marked as storage version"))
	}
	names := p.Child("names")
	for _, f := range []struct{ name, value string }{{"plural", s.Names.Plural}, {"singular", s.Names.Singular}} {
		if f.value == "" {
			errs = append(errs, field.Required(names.Child(f.name), ""))
		} else {
			errs = append(errs, check.Each(validation.IsDNS1035Label(f.value), names.Child(f.name), f.value)...)
		}
	}
	for _, f := range []struct{ name, value string }{{"kind", s.Names.Kind}, {"listKind", s.Names.ListKind}} {
		if f.value == "" {
			errs = append(errs, field.Required(names.Child(f.name), ""))
			continue
		}
		for _, text := range validation.IsDNS1035Label(strings.ToLower(f.value)) {
			errs = append(errs, field.Invalid(names.Child(f.name), f.value, "may have mixed case, but should otherwise match: "+text))
		}
	}
	return errs
}
