package certificates

import (
	certificatesv1 "k8s.io/api/certificates/v1"

	"github.com/celox/celox/internal/api"
)

func podCertificateRequest() *api.Kind {
	return &api.Kind{
		Group:        "certificates.k8s.io",
		Kind:         "PodCertificateRequest",
		Resource:     "podcertificaterequests",
		Singular:     "podcertificaterequest",
		Namespaced:   true,
		Prefix:       "podcertificaterequests",
		Versions:     []api.Version{api.NewVersion[certificatesv1.PodCertificateRequest, certificatesv1.PodCertificateRequestList]("v1")},
		Hub:          "v1",
		Subresources: []api.Subresource{api.Status()},
	}
}
