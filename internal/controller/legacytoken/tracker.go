package legacytoken

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

const (
	// trackingName is the ConfigMap in kube-system that says since when the use of tokens is noted, and since its key.
	trackingName = "kube-apiserver-legacy-service-account-token-tracking"
	since        = "since"
	// dateFormat is how days are written, in UTC. Days in it compare as texts.
	dateFormat = "2006-01-02"
	// creationPause is between two creations of the ConfigMap: whoever deletes it may have a reason, an API server that does not note, say.
	creationPause = 30 * time.Minute
)

// Tracker keeps the ConfigMap that says since when the use of tokens is noted.
type Tracker struct {
	client  kubernetes.Interface
	maps    corelisters.ConfigMapLister
	clock   clock.PassiveClock
	created time.Time // by this process; one worker
	loop    *controller.Loop
}

// NewTracker makes the controller and registers it with the informers, which the caller starts.
func NewTracker(c kubernetes.Interface, f *informers.Factory, clk clock.PassiveClock, log *slog.Logger, m *controller.Metrics) (*Tracker, error) {
	maps := f.Core().V1().ConfigMaps()
	t := &Tracker{client: c, maps: maps.Lister(), clock: clk}
	t.loop = controller.NewLoop("legacy_token_tracking_controller", t.Reconcile, controller.Options{
		Workers: 1, Synced: []cache.InformerSynced{maps.Informer().HasSynced}, Log: log, Metrics: m,
	})
	look := func(m *corev1.ConfigMap) {
		if m.Namespace == metav1.NamespaceSystem && m.Name == trackingName {
			t.loop.AddObject(m)
		}
	}
	if err := controller.Watch(maps.Informer(), controller.Handlers[*corev1.ConfigMap]{Changed: look, Delete: look}); err != nil {
		return nil, fmt.Errorf("legacytoken: %w", err)
	}
	return t, nil
}

// Run reconciles until ctx ends.
func (t *Tracker) Run(ctx context.Context) error {
	t.loop.Add(metav1.NamespaceSystem + "/" + trackingName)
	return t.loop.Run(ctx)
}

// Reconcile makes the ConfigMap, or writes today into one that says no day.
func (t *Tracker) Reconcile(ctx context.Context, key string) error {
	now := t.clock.Now()
	today := now.UTC().Format(dateFormat)
	api := t.client.CoreV1().ConfigMaps(metav1.NamespaceSystem)
	known, err := t.maps.ConfigMaps(metav1.NamespaceSystem).Get(trackingName)
	switch {
	case apierrors.IsNotFound(err):
		if left := creationPause - now.Sub(t.created); !t.created.IsZero() && left > 0 {
			t.loop.AddAfter(key, left)
			return nil
		}
		_, err := api.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: trackingName}, Data: map[string]string{since: today}}, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			return nil // another server's
		} else if err != nil {
			return fmt.Errorf("create config map: %w", err)
		}
		t.created = now
		return nil
	case err != nil:
		return fmt.Errorf("get config map: %w", err)
	}
	if _, err := time.Parse(dateFormat, known.Data[since]); err == nil {
		return nil
	}
	known = known.DeepCopy()
	if known.Data == nil {
		known.Data = map[string]string{}
	}
	known.Data[since] = today
	if _, err := api.Update(ctx, known, metav1.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("update config map: %w", err)
	}
	return nil
}
