package networking

import (
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/celox/celox/internal/api"
)

func ipAddress() *api.Kind {
	return &api.Kind{
		Group:      "networking.k8s.io",
		Kind:       "IPAddress",
		Resource:   "ipaddresses",
		Singular:   "ipaddress",
		ShortNames: []string{"ip"},
		Prefix:     "ipaddresses",
		Versions:   []api.Version{api.NewVersion[networkingv1.IPAddress, networkingv1.IPAddressList]("v1")},
		Hub:        "v1",
	}
}
