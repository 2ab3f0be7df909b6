package expand

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/celox/celox/internal/client/informers"
	"github.com/celox/celox/internal/controller"
)

// Controller reconciles claims that want to be larger than they are.
type Controller struct {
	claims   corelisters.PersistentVolumeClaimLister
	volumes  corelisters.PersistentVolumeLister
	recorder record.EventRecorder
	loop     *controller.Loop
}

// New makes the controller and registers it with the informers, which the caller starts.
func New(f *informers.Factory, recorder record.EventRecorder, log *slog.Logger, m *controller.Metrics) (*Controller, error) {
	claims, volumes := f.Core().V1().PersistentVolumeClaims(), f.Core().V1().PersistentVolumes()
	ctl := &Controller{claims: claims.Lister(), volumes: volumes.Lister(), recorder: recorder}
	ctl.loop = controller.NewLoop("volume_expand", ctl.Reconcile, controller.Options{
		Workers: 1, Synced: []cache.InformerSynced{claims.Informer().HasSynced, volumes.Informer().HasSynced}, Log: log, Metrics: m,
	})
	return ctl, controller.Watch(claims.Informer(), controller.Handlers[*corev1.PersistentVolumeClaim]{
		Add: func(c *corev1.PersistentVolumeClaim) {
			if grows(c) {
				ctl.loop.AddObject(c)
			}
		},
		// Only a new size is news: a resizer's own notes in the status are not.
		Update: func(old, c *corev1.PersistentVolumeClaim) {
			size, was := c.Spec.Resources.Requests[corev1.ResourceStorage], old.Spec.Resources.Requests[corev1.ResourceStorage]
			if size.Cmp(was) > 0 && grows(c) {
				ctl.loop.AddObject(c)
			}
		},
	})
}

// Run watches until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

// grows says that a bound claim asks for more than it has.
func grows(c *corev1.PersistentVolumeClaim) bool {
	want, have := c.Spec.Resources.Requests[corev1.ResourceStorage], c.Status.Capacity[corev1.ResourceStorage]
	return c.Status.Phase == corev1.ClaimBound && c.Spec.VolumeName != "" && c.DeletionTimestamp == nil && want.Cmp(have) > 0
}

// errNotBound says that the claim and the volume do not agree; they will, or the claim is lost.
var errNotBound = errors.New("persistent volume is not bound to the claim")

// belong says that a volume is the claim's.
func belong(c *corev1.PersistentVolumeClaim, v *corev1.PersistentVolume) error {
	if r := v.Spec.ClaimRef; r == nil || r.Namespace != c.Namespace || r.UID != c.UID {
		return errNotBound
	}
	return nil
}

// Reconcile tells about one claim that grows.
func (c *Controller) Reconcile(_ context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return nil // not a key of ours; a retry would not change it
	}
	claim, err := c.claims.PersistentVolumeClaims(namespace).Get(name)
	if apierrors.IsNotFound(err) || err == nil && !grows(claim) {
		return nil
	} else if err != nil {
		return fmt.Errorf("get claim: %w", err)
	}
	v, err := c.volumes.Get(claim.Spec.VolumeName)
	if apierrors.IsNotFound(err) {
		return nil // the claim is lost
	} else if err != nil {
		return fmt.Errorf("get volume: %w", err)
	}
	if err := belong(claim, v); err != nil {
		return fmt.Errorf("claim %s, volume %s: %w", key, v.Name, err)
	}
	// Whoever has the volume: nothing here enlarges any.
	c.recorder.Event(claim, corev1.EventTypeNormal, "ExternalExpanding", "waiting for an external controller to expand this PVC")
	return nil
}
