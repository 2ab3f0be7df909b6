package resource

import (
	resourcev1 "k8s.io/api/resource/v1"

	"github.com/celox/celox/internal/api"
)

func resourceClaim() *api.Kind {
	return &api.Kind{
		Group:        "resource.k8s.io",
		Kind:         "ResourceClaim",
		Resource:     "resourceclaims",
		Singular:     "resourceclaim",
		Namespaced:   true,
		Prefix:       "resourceclaims",
		Versions:     []api.Version{api.NewVersion[resourcev1.ResourceClaim, resourcev1.ResourceClaimList]("v1")},
		Hub:          "v1",
		Subresources: []api.Subresource{api.Status()},
	}
}
