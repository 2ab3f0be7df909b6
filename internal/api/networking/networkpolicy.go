package networking

import (
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/celox/celox/internal/api"
)

func networkPolicy() *api.Kind {
	return &api.Kind{
		Group:      "networking.k8s.io",
		Kind:       "NetworkPolicy",
		Resource:   "networkpolicies",
		Singular:   "networkpolicy",
		ShortNames: []string{"netpol"},
		Namespaced: true,
		Prefix:     "networkpolicies",
		Versions:   []api.Version{api.NewVersion[networkingv1.NetworkPolicy, networkingv1.NetworkPolicyList]("v1")},
		Hub:        "v1",
	}
}
