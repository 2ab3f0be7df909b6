package authorization

import (
	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api"
)

func subjectAccessReview() *api.Kind {
	return &api.Kind{
		Group:    "authorization.k8s.io",
		Kind:     "SubjectAccessReview",
		Resource: "subjectaccessreviews",
		Singular: "subjectaccessreview",
		Versions: []api.Version{{Version: "v1", New: func() runtime.Object { return &authorizationv1.SubjectAccessReview{} }}},
		Hub:      "v1",
		Verbs:    []string{"create"},
		Validate: api.Check(func(r *authorizationv1.SubjectAccessReview) field.ErrorList {
			p := field.NewPath("spec")
			errs := validateQuestion(r.Spec.ResourceAttributes, r.Spec.NonResourceAttributes, p)
			errs = append(errs, validateSubject(&r.Spec, p)...)
			return append(errs, validateNoMetadata(r.ObjectMeta, false)...)
		}),
		Virtual: true,
	}
}
