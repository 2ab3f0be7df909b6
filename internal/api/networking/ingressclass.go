package networking

import (
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/celox/celox/internal/api"
)

func ingressClass() *api.Kind {
	return &api.Kind{
		Group:    "networking.k8s.io",
		Kind:     "IngressClass",
		Resource: "ingressclasses",
		Singular: "ingressclass",
		Prefix:   "ingressclasses",
		Versions: []api.Version{api.NewVersion[networkingv1.IngressClass, networkingv1.IngressClassList]("v1")},
		Hub:      "v1",
	}
}
