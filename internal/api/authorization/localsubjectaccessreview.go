package authorization

import (
	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/check"
)

func localSubjectAccessReview() *api.Kind {
	return &api.Kind{
		Group:      "authorization.k8s.io",
		Kind:       "LocalSubjectAccessReview",
		Resource:   "localsubjectaccessreviews",
		Singular:   "localsubjectaccessreview",
		Namespaced: true,
		Versions:   []api.Version{{Version: "v1", New: func() runtime.Object { return &authorizationv1.LocalSubjectAccessReview{} }}},
		Hub:        "v1",
		Verbs:      []string{"create"},
		Validate: api.Check(func(r *authorizationv1.LocalSubjectAccessReview) field.ErrorList {
			p := field.NewPath("spec")
			errs := validateQuestion(r.Spec.ResourceAttributes, r.Spec.NonResourceAttributes, p)
			errs = append(errs, validateSubject(&r.Spec, p)...)
			errs = append(errs, validateNoMetadata(r.ObjectMeta, true)...)
			if a := r.Spec.ResourceAttributes; a != nil && a.Namespace != r.Namespace {
				errs = append(errs, field.Invalid(p.Child("resourceAttributes", "namespace"), a.Namespace, "must match metadata.namespace"))
			}
			if n := r.Spec.NonResourceAttributes; n != nil {
				errs = append(errs, field.Invalid(p.Child("nonResourceAttributes"), check.Rendered(*n), "disallowed on this kind of request"))
			}
			return errs
		}),
		Virtual: true,
	}
}
