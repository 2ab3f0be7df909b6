package certificates

import (
	certificatesv1 "k8s.io/api/certificates/v1"

	"github.com/celox/celox/internal/api"
)

func clusterTrustBundle() *api.Kind {
	return &api.Kind{
		Group:    "certificates.k8s.io",
		Kind:     "ClusterTrustBundle",
		Resource: "clustertrustbundles",
		Singular: "clustertrustbundle",
		Prefix:   "clustertrustbundles",
		Versions: []api.Version{api.NewVersion[certificatesv1.ClusterTrustBundle, certificatesv1.ClusterTrustBundleList]("v1")},
		Hub:      "v1",
	}
}
