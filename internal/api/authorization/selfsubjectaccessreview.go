package authorization

import (
	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api"
)

func selfSubjectAccessReview() *api.Kind {
	return &api.Kind{
		Group:    "authorization.k8s.io",
		Kind:     "SelfSubjectAccessReview",
		Resource: "selfsubjectaccessreviews",
		Singular: "selfsubjectaccessreview",
		Versions: []api.Version{{Version: "v1", New: func() runtime.Object { return &authorizationv1.SelfSubjectAccessReview{} }}},
		Hub:      "v1",
		Verbs:    []string{"create"},
		Validate: api.Check(func(r *authorizationv1.SelfSubjectAccessReview) field.ErrorList {
			errs := validateQuestion(r.Spec.ResourceAttributes, r.Spec.NonResourceAttributes, field.NewPath("spec"))
			return append(errs, validateNoMetadata(r.ObjectMeta, false)...)
		}),
		Virtual: true,
	}
}
