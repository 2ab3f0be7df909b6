package authorization

import (
	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/runtime"

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
		Virtual:  true,
	}
}
