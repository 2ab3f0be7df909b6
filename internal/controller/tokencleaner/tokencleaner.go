package tokencleaner

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/clock"

	"github.com/celox/celox/internal/client/informers"
	"github.com/celox/celox/internal/controller"
)

// expiration is the key of the data that says when a token is over (RFC 3339).
const expiration = "expiration"

// Controller reconciles secrets.
type Controller struct {
	client  kubernetes.Interface
	secrets corelisters.SecretLister
	clock   clock.PassiveClock
	loop    *controller.Loop
}

// New makes the controller and registers it with the informers, which the caller starts.
func New(c kubernetes.Interface, f *informers.Factory, clk clock.PassiveClock, log *slog.Logger, m *controller.Metrics) (*Controller, error) {
	secrets := f.Core().V1().Secrets()
	ctl := &Controller{client: c, secrets: secrets.Lister(), clock: clk}
	ctl.loop = controller.NewLoop("token_cleaner", ctl.Reconcile, controller.Options{Workers: 1, Synced: []cache.InformerSynced{secrets.Informer().HasSynced}, Log: log, Metrics: m})
	if err := controller.Watch(secrets.Informer(), controller.Handlers[*corev1.Secret]{Changed: func(s *corev1.Secret) {
		if isToken(s) {
			ctl.loop.AddObject(s)
		}
	}}); err != nil {
		return nil, fmt.Errorf("tokencleaner: %w", err)
	}
	return ctl, nil
}

func isToken(s *corev1.Secret) bool {
	return s.Type == corev1.SecretTypeBootstrapToken && s.Namespace == metav1.NamespaceSystem
}

// Run reconciles until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

// Reconcile removes a token that is over, or comes back when it will be. One without an end stays, and one whose end is no time as well: it is
// good for nothing, but somebody may have meant something by it.
func (c *Controller) Reconcile(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return fmt.Errorf("token: %w", err)
	}
	s, err := c.secrets.Secrets(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("get token: %w", err)
	}
	end, err := time.Parse(time.RFC3339, string(s.Data[expiration]))
	if !isToken(s) || err != nil {
		return nil
	}
	if left := end.Sub(c.clock.Now()); left > 0 {
		c.loop.AddAfter(key, left)
		return nil
	}
	err = c.client.CoreV1().Secrets(namespace).Delete(ctx, name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(s.UID))})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("remove token %s: %w", name, err)
	}
	return nil
}
