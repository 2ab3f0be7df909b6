package resource

import (
	"encoding/json"
	"time"

	resourcev1 "k8s.io/api/resource/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/check"
	"github.com/celox/celox/internal/api/table"
)

func resourceClaimTemplate() *api.Kind {
	return &api.Kind{
		Group:            "resource.k8s.io",
		Kind:             "ResourceClaimTemplate",
		Resource:         "resourceclaimtemplates",
		Singular:         "resourceclaimtemplate",
		Namespaced:       true,
		Prefix:           "resourceclaimtemplates",
		Versions:         []api.Version{api.NewVersion[resourcev1.ResourceClaimTemplate, resourcev1.ResourceClaimTemplateList]("v1")},
		Hub:              "v1",
		PrepareForCreate: api.On(func(t *resourcev1.ResourceClaimTemplate) { dropFromClaim(&t.Spec.Spec, nil) }),
		PrepareForUpdate: api.OnUpdate(func(t, old *resourcev1.ResourceClaimTemplate) {
			dropFromClaim(&t.Spec.Spec, &old.Spec.Spec)
		}),
		Default:  api.On(func(t *resourcev1.ResourceClaimTemplate) { defaultClaim(&t.Spec.Spec) }),
		Validate: api.Check(validateTemplate),
		ValidateInNamespace: api.CheckInNamespace(func(t, old *resourcev1.ResourceClaimTemplate, labels map[string]string) field.ErrorList {
			if old != nil {
				return nil // it cannot change
			}
			return validateAdmin(&t.Spec.Spec, labels)
		}),
		ValidateUpdate:           api.CheckUpdate(validateTemplateUpdate),
		AllowUnconditionalUpdate: true,
		ReturnDeleted:            true,
		Columns:                  api.Columns(table.Name(), table.AgeColumn()),
		Row: api.Row(func(t *resourcev1.ResourceClaimTemplate, now time.Time) []any {
			return []any{t.Name, table.Age(t, now)}
		}),
	}
}

// validateTemplate checks a template; of metadata, claims inherit labels and annotations alone.
func validateTemplate(t *resourcev1.ResourceClaimTemplate) field.ErrorList {
	p, meta := field.NewPath("spec"), &t.Spec.ObjectMeta
	at := p.Child("metadata")
	errs := check.Labels(meta.Labels, at.Child("labels"))
	errs = append(errs, check.Annotations(meta.Annotations, at.Child("annotations"))...)
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"name", meta.Name != ""}, {"generateName", meta.GenerateName != ""}, {"namespace", meta.Namespace != ""}, {"uID", meta.UID != ""},
		{"selfLink", meta.SelfLink != ""}, {"resourceVersion", meta.ResourceVersion != ""}, {"generation", meta.Generation != 0}, {"creationTimestamp", !meta.CreationTimestamp.IsZero()},
		{"deletionTimestamp", meta.DeletionTimestamp != nil}, {"deletionGracePeriodSeconds", meta.DeletionGracePeriodSeconds != nil}, {"managedFields", meta.ManagedFields != nil},
		{"ownerReferences", meta.OwnerReferences != nil}, {"finalizers", meta.Finalizers != nil},
	} {
		if f.set {
			errs = append(errs, field.Forbidden(at.Child(f.name), "cannot be set"))
		}
	}
	return append(errs, validateClaimSpec(&t.Spec.Spec, p.Child("spec"))...)
}

func validateTemplateUpdate(t, old *resourcev1.ResourceClaimTemplate) field.ErrorList {
	errs := validateTemplate(t)
	if apiequality.Semantic.DeepEqual(t.Spec, old.Spec) {
		return errs
	}
	shown := struct {
		metav1.ObjectMeta
		Spec json.Marshaler
	}{t.Spec.ObjectMeta, check.Rendered(t.Spec.Spec)}
	return append(errs, field.Invalid(field.NewPath("spec"), shown, check.ImmutableText))
}
