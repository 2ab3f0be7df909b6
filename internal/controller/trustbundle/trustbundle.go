package trustbundle

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	certificateslisters "k8s.io/client-go/listers/certificates/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/celox/celox/internal/client/informers"
	"github.com/celox/celox/internal/controller"
)

// Signer is whose bundle is published.
const Signer = "kubernetes.io/kube-apiserver-serving"

// hashBytes is how much of the contents' SHA-256 is in the name.
const hashBytes = 12

// Controller keeps the bundle; its one key is the signer.
type Controller struct {
	client  kubernetes.Interface
	bundles certificateslisters.ClusterTrustBundleLister
	name    string
	bundle  string
	loop    *controller.Loop
	syncs   controller.Syncs
}

// New makes the controller, which publishes ca (PEM), and registers it with the informers, which the caller starts.
func New(c kubernetes.Interface, f *informers.Factory, ca []byte, log *slog.Logger, m *controller.Metrics) (*Controller, error) {
	bundles := f.Certificates().V1().ClusterTrustBundles()
	ctl := &Controller{client: c, bundles: bundles.Lister(), name: Name(ca), bundle: string(ca), syncs: m.Syncs("clustertrustbundle_publisher")}
	ctl.loop = controller.NewLoop("ca_cert_publisher_cluster_trust_bundles", ctl.Reconcile, controller.Options{
		Workers: 1, Synced: []cache.InformerSynced{bundles.Informer().HasSynced}, Log: log, Metrics: m,
	})
	ours := func(b *certificatesv1.ClusterTrustBundle) {
		if b.Spec.SignerName == Signer {
			ctl.loop.Add(Signer)
		}
	}
	if err := controller.Watch(bundles.Informer(), controller.Handlers[*certificatesv1.ClusterTrustBundle]{Changed: ours, Delete: ours}); err != nil {
		return nil, fmt.Errorf("trustbundle: %w", err)
	}
	return ctl, nil
}

// Name is what a bundle of the signer with these contents is called.
func Name(ca []byte) string {
	sum := sha256.Sum256(ca)
	return fmt.Sprintf("%s:%x", strings.ReplaceAll(Signer, "/", ":"), sum[:hashBytes])
}

// Run reconciles until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	c.loop.Add(Signer)
	return c.loop.Run(ctx)
}

// Reconcile makes or mends the bundle, and deletes those before it.
func (c *Controller) Reconcile(ctx context.Context, _ string) error {
	begin := time.Now()
	err := c.publish(ctx)
	c.syncs.Done(time.Since(begin), err)
	return err
}

func (c *Controller) publish(ctx context.Context) error {
	api := c.client.CertificatesV1().ClusterTrustBundles()
	have, err := c.bundles.Get(c.name)
	switch {
	case apierrors.IsNotFound(err):
		_, err = api.Create(ctx, &certificatesv1.ClusterTrustBundle{
			ObjectMeta: metav1.ObjectMeta{Name: c.name}, Spec: certificatesv1.ClusterTrustBundleSpec{SignerName: Signer, TrustBundle: c.bundle},
		}, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			err = nil // the cache is behind, and comes back with it
		}
	case err == nil && have.Spec.TrustBundle != c.bundle:
		mended := have.DeepCopy()
		mended.Spec.TrustBundle = c.bundle
		_, err = api.Update(ctx, mended, metav1.UpdateOptions{})
	}
	if err != nil {
		return fmt.Errorf("publish trust bundle: %w", err)
	}
	all, err := c.bundles.List(labels.Everything())
	if err != nil {
		return fmt.Errorf("list trust bundles: %w", err)
	}
	var errs []error
	for _, b := range all {
		if b.Name == c.name || b.Spec.SignerName != Signer {
			continue
		}
		if err := api.Delete(ctx, b.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(b.UID))}); err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("delete trust bundle %s: %w", b.Name, err))
		}
	}
	return errors.Join(errs...)
}
