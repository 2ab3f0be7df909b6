package admission

import (
	"context"
	"fmt"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/celox/celox/internal/apiserver/request"
)

// ClusterTrustBundleAttest lets only those publish the trust anchors of a signer who may attest for it (KEP-3257).
type ClusterTrustBundleAttest struct{ authorizer request.Authorizer }

// NewClusterTrustBundleAttest returns the plugin.
func NewClusterTrustBundleAttest(authorizer request.Authorizer) *ClusterTrustBundleAttest {
	return &ClusterTrustBundleAttest{authorizer: authorizer}
}

// Validate looks at bundles that name a signer, or named one before.
func (p *ClusterTrustBundleAttest) Validate(ctx context.Context, a *Attributes) error {
	if a.Resource.Resource != "clustertrustbundles" || a.Resource.Group != certificatesv1.GroupName || a.Operation != Create && a.Operation != Update {
		return nil
	}
	signer := signerOf(a.Object)
	if a.Operation == Update && signer == "" {
		signer = signerOf(a.OldObject) // it cannot change; a wrong new one is validation's business
	}
	if signer == "" {
		return nil
	}
	ok, err := mayActFor(ctx, p.authorizer, a, "attest", signer)
	if err != nil {
		return err
	}
	if !ok {
		return forbid(a, fmt.Errorf("user not permitted to attest for signerName %q", signer))
	}
	return nil
}

func signerOf(obj runtime.Object) string {
	b, ok := obj.(*certificatesv1.ClusterTrustBundle)
	if !ok || b == nil {
		return ""
	}
	return b.Spec.SignerName
}
