package podcertificate

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	certificateslisters "k8s.io/client-go/listers/certificates/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/clock"

	"github.com/celox/celox/internal/client/informers"
	"github.com/celox/celox/internal/controller"
)

// life is how long a request stays.
const life = 15 * time.Minute

// Cleaner reconciles PodCertificateRequests.
type Cleaner struct {
	client   kubernetes.Interface
	requests certificateslisters.PodCertificateRequestLister
	clock    clock.PassiveClock
	loop     *controller.Loop
}

// NewCleaner makes the controller and registers it with the informers, which the caller starts.
func NewCleaner(c kubernetes.Interface, f *informers.Factory, clk clock.PassiveClock, log *slog.Logger, m *controller.Metrics) (*Cleaner, error) {
	requests := f.Certificates().V1().PodCertificateRequests()
	ctl := &Cleaner{client: c, requests: requests.Lister(), clock: clk}
	ctl.loop = controller.NewLoop("podcertificaterequest_cleaner", ctl.Reconcile, controller.Options{
		Workers: 1, Synced: []cache.InformerSynced{requests.Informer().HasSynced}, Log: log, Metrics: m,
	})
	err := controller.Watch(requests.Informer(), controller.Handlers[*certificatesv1.PodCertificateRequest]{
		Changed: func(r *certificatesv1.PodCertificateRequest) { ctl.loop.AddObject(r) },
	})
	if err != nil {
		return nil, fmt.Errorf("podcertificate: %w", err)
	}
	return ctl, nil
}

// Run reconciles until ctx ends.
func (c *Cleaner) Run(ctx context.Context) error { return c.loop.Run(ctx) }

// Reconcile removes a request that is old, or comes back when it will be.
func (c *Cleaner) Reconcile(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return fmt.Errorf("pod certificate request: %w", err)
	}
	r, err := c.requests.PodCertificateRequests(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("get pod certificate request: %w", err)
	}
	if left := r.CreationTimestamp.Add(life).Sub(c.clock.Now()); left > 0 {
		c.loop.AddAfter(key, left)
		return nil
	}
	err = c.client.CertificatesV1().PodCertificateRequests(namespace).Delete(ctx, name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(r.UID))})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("remove pod certificate request %s: %w", key, err)
	}
	return nil
}
