package volume

import (
	"cmp"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// Certificates gives what pods' certificates are made of. Errors are the API's own.
type Certificates interface {
	// TrustBundles lists all bundles of the cluster.
	TrustBundles(ctx context.Context) ([]*certificatesv1.ClusterTrustBundle, error)
	// Request returns a request that this node made.
	Request(ctx context.Context, namespace, name string) (*certificatesv1.PodCertificateRequest, error)
}

const certificateBlock = "CERTIFICATE"

// trustBundle projects the trust anchors of one bundle, or of all bundles of a signer that a selector picks (KEP-3257).
func (b *build) trustBundle(ctx context.Context, p *corev1.ClusterTrustBundleProjection, defaultMode *int32) error {
	all, err := b.m.certificates.TrustBundles(ctx)
	if err != nil {
		return err
	}
	picked, err := pickBundles(all, p)
	if err != nil {
		return err
	}
	return b.private(p.Path, anchors(picked, b.m.seed), defaultMode)
}

// pickBundles returns the bundles that p names. A missing one is an error unless p says that it may be missing.
func pickBundles(all []*certificatesv1.ClusterTrustBundle, p *corev1.ClusterTrustBundleProjection) ([]*certificatesv1.ClusterTrustBundle, error) {
	var matches func(*certificatesv1.ClusterTrustBundle) bool
	var missing error
	switch {
	case p.Name != nil:
		matches = func(b *certificatesv1.ClusterTrustBundle) bool { return b.Name == *p.Name }
		missing = fmt.Errorf("while getting ClusterTrustBundle: %w", apierrors.NewNotFound(certificatesv1.Resource("clustertrustbundle"), *p.Name))
	case p.SignerName != nil:
		// No selector picks nothing, an empty one everything.
		selector, err := metav1.LabelSelectorAsSelector(p.LabelSelector)
		if err != nil {
			return nil, fmt.Errorf("while parsing label selector: %w", err)
		}
		matches = func(b *certificatesv1.ClusterTrustBundle) bool {
			return b.Spec.SignerName == *p.SignerName && selector.Matches(labels.Set(b.Labels))
		}
		missing = errors.New("combination of signerName and labelSelector matched zero ClusterTrustBundles")
	default:
		return nil, errors.New("ClusterTrustBundle projection requires either name or signerName to be set")
	}
	var picked []*certificatesv1.ClusterTrustBundle
	for _, b := range all {
		if matches(b) {
			picked = append(picked, b)
		}
	}
	if len(picked) == 0 && (p.Optional == nil || !*p.Optional) {
		return nil, missing
	}
	return picked, nil
}

// anchors merges the bundles' certificates into one list of PEM blocks, each once. Their order is nobody's: it is the same as long as the node runs
// and another when it is started again, so that no program learns to rely on it.
func anchors(bundles []*certificatesv1.ClusterTrustBundle, seed maphash.Seed) []byte {
	seen := map[string]bool{}
	var ders [][]byte
	for _, b := range bundles {
		for rest := []byte(b.Spec.TrustBundle); ; {
			var block *pem.Block
			if block, rest = pem.Decode(rest); block == nil {
				break
			}
			if !seen[string(block.Bytes)] {
				seen[string(block.Bytes)] = true
				ders = append(ders, block.Bytes)
			}
		}
	}
	slices.SortFunc(ders, func(a, b []byte) int {
		return cmp.Or(cmp.Compare(maphash.Bytes(seed, a), maphash.Bytes(seed, b)), slices.Compare(a, b))
	})
	var out []byte
	for _, der := range ders {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: certificateBlock, Bytes: der})...)
	}
	return out
}

// private adds a file of what only the pod is to read: if there is one user or group that will, only for them.
func (b *build) private(path string, data []byte, defaultMode *int32) error {
	mode := b.mode(nil, defaultMode)
	if b.uid != nil || b.gid != nil {
		mode = 0o600
		if b.gid != nil {
			mode = 0o640
		}
	}
	if err := b.add(path, data, mode); err != nil {
		return err
	}
	if b.uid != nil {
		f := b.payload[path]
		f.UID = b.uid
		b.payload[path] = f
	}
	return nil
}
