package authentication

import (
	authenticationv1 "k8s.io/api/authentication/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/celox/celox/internal/api"
)

func selfSubjectReview() *api.Kind {
	return &api.Kind{
		Group:    "authentication.k8s.io",
		Kind:     "SelfSubjectReview",
		Resource: "selfsubjectreviews",
		Singular: "selfsubjectreview",
		Versions: []api.Version{{Version: "v1", New: func() runtime.Object { return &authenticationv1.SelfSubjectReview{} }}},
		Hub:      "v1",
		Verbs:    []string{"create"},
		Virtual:  true,
	}
}
