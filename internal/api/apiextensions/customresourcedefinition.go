package apiextensions

import (
	"slices"
	"strings"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/table"
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
		Subresources:  []api.Subresource{api.TablelessStatus()},
		Resets:        map[string][]string{"": {"status"}, "status": {"metadata", "spec"}},
		StoredAsJSON:  true,
		HasGeneration: true,
		PrepareForCreate: api.On(func(d *apiextensionsv1.CustomResourceDefinition) {
			d.Status = apiextensionsv1.CustomResourceDefinitionStatus{}
			for _, v := range d.Spec.Versions {
				if v.Storage {
					d.Status.StoredVersions = []string{v.Name}
					break
				}
			}
		}),
		PrepareForUpdate: api.OnUpdate(func(d, old *apiextensionsv1.CustomResourceDefinition) {
			d.Status = old.Status
			for _, v := range d.Spec.Versions {
				if !v.Storage {
					continue
				}
				if !slices.Contains(d.Status.StoredVersions, v.Name) {
					d.Status.StoredVersions = append(append([]string(nil), d.Status.StoredVersions...), v.Name)
				}
				break
			}
		}),
		PrepareForStatusUpdate: api.OnUpdate(func(d, old *apiextensionsv1.CustomResourceDefinition) {
			d.Spec = old.Spec // metadata changes through this door too, upstream means otherwise but does so
		}),
		Default: api.On(func(d *apiextensionsv1.CustomResourceDefinition) {
			apiextensionsv1.SetObjectDefaults_CustomResourceDefinition(d)
			for i := range d.Spec.Versions {
				if s := d.Spec.Versions[i].Schema; s != nil && s.OpenAPIV3Schema != nil {
					rewriteNumbers(s.OpenAPIV3Schema)
				}
			}
			// A webhook of which nothing is said is none.
			if c := d.Spec.Conversion; c != nil && c.Webhook != nil && c.Webhook.ClientConfig == nil && len(c.Webhook.ConversionReviewVersions) == 0 {
				c.Webhook = nil
			}
		}),
		Validate:       api.Check(validateNew),
		ValidateUpdate: api.CheckUpdate(validateChange),
		ValidateStatusUpdate: api.CheckUpdate(func(d, _ *apiextensionsv1.CustomResourceDefinition) field.ErrorList {
			crd, err := unversioned(d)
			if err != nil {
				return field.ErrorList{field.InternalError(field.NewPath("spec"), err)}
			}
			return validateNames(&crd.Status.AcceptedNames, field.NewPath("status", "acceptedNames"))
		}),
		Warnings: api.Warn(warnings),
		Columns: api.Columns(
			table.Name(),
			table.Column("Scope", table.String, "Cluster/Namespaced"),
			table.Column("Versions", table.String, "Served versions"),
			table.Column("Created At", table.Date, metav1.ObjectMeta{}.SwaggerDoc()["creationTimestamp"]),
			table.Wide("Group", table.String, "API group"),
			table.Wide("Kind", table.String, "CustomResource kind"),
			table.Wide("ShortNames", table.String, "Short names"),
			table.Wide("Established", table.Boolean, "Established status"),
		),
		Row: api.Row(row),
	}
}

// row tells what a definition defines: the versions that are served, and whether it is in force.
func row(d *apiextensionsv1.CustomResourceDefinition, _ time.Time) []any {
	var versions []string
	for _, v := range d.Spec.Versions {
		switch {
		case v.Served && v.Storage:
			versions = append(versions, v.Name+"(storage)")
		case v.Served:
			versions = append(versions, v.Name)
		}
	}
	slices.Sort(versions)
	established := slices.ContainsFunc(d.Status.Conditions, func(c apiextensionsv1.CustomResourceDefinitionCondition) bool {
		return c.Type == apiextensionsv1.Established && c.Status == apiextensionsv1.ConditionTrue
	})
	n := &d.Spec.Names
	return []any{d.Name, string(d.Spec.Scope), strings.Join(versions, ","), d.CreationTimestamp.UTC().Format(time.RFC3339), d.Spec.Group, n.Kind, strings.Join(n.ShortNames, ","), established}
}
