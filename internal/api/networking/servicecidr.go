package networking

import (
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/celox/celox/internal/api"
)

func serviceCIDR() *api.Kind {
	return &api.Kind{
		Group:        "networking.k8s.io",
		Kind:         "ServiceCIDR",
		Resource:     "servicecidrs",
		Singular:     "servicecidr",
		Prefix:       "servicecidrs",
		Versions:     []api.Version{api.NewVersion[networkingv1.ServiceCIDR, networkingv1.ServiceCIDRList]("v1")},
		Hub:          "v1",
		Subresources: []api.Subresource{api.Status()},
	}
}
