package networking

import (
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/celox/celox/internal/api"
)

func ingress() *api.Kind {
	return &api.Kind{
		Group:        "networking.k8s.io",
		Kind:         "Ingress",
		Resource:     "ingresses",
		Singular:     "ingress",
		ShortNames:   []string{"ing"},
		Namespaced:   true,
		Prefix:       "ingress",
		Versions:     []api.Version{api.NewVersion[networkingv1.Ingress, networkingv1.IngressList]("v1")},
		Hub:          "v1",
		Subresources: []api.Subresource{api.Status()},
	}
}
