package resource

import (
	resourcev1 "k8s.io/api/resource/v1"

	"github.com/celox/celox/internal/api"
)

func resourceClaimTemplate() *api.Kind {
	return &api.Kind{
		Group:      "resource.k8s.io",
		Kind:       "ResourceClaimTemplate",
		Resource:   "resourceclaimtemplates",
		Singular:   "resourceclaimtemplate",
		Namespaced: true,
		Prefix:     "resourceclaimtemplates",
		Versions:   []api.Version{api.NewVersion[resourcev1.ResourceClaimTemplate, resourcev1.ResourceClaimTemplateList]("v1")},
		Hub:        "v1",
	}
}
