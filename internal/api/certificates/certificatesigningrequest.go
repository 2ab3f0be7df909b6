package certificates

import (
	certificatesv1 "k8s.io/api/certificates/v1"

	"github.com/celox/celox/internal/api"
)

func certificateSigningRequest() *api.Kind {
	return &api.Kind{
		Group:        "certificates.k8s.io",
		Kind:         "CertificateSigningRequest",
		Resource:     "certificatesigningrequests",
		Singular:     "certificatesigningrequest",
		ShortNames:   []string{"csr"},
		Prefix:       "certificatesigningrequests",
		Versions:     []api.Version{api.NewVersion[certificatesv1.CertificateSigningRequest, certificatesv1.CertificateSigningRequestList]("v1")},
		Hub:          "v1",
		Subresources: []api.Subresource{{Name: "approval", Verbs: api.StatusVerbs()}, api.Status()},
	}
}
