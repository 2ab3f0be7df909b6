package pvprotection

import (
	"context"
	"fmt"
	"log/slog"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/celox/celox/internal/client/informers"
	"github.com/celox/celox/internal/controller"
)

const finalizer = "kubernetes.io/pv-protection"

// Controller reconciles volumes.
type Controller struct {
	client  kubernetes.Interface
	volumes corelisters.PersistentVolumeLister
	loop    *controller.Loop
}

// New makes the controller and registers it with the informers, which the caller starts.
func New(c kubernetes.Interface, f *informers.Factory, log *slog.Logger, m *controller.Metrics) (*Controller, error) {
	volumes := f.Core().V1().PersistentVolumes()
	ctl := &Controller{client: c, volumes: volumes.Lister()}
	ctl.loop = controller.NewLoop("pvprotection", ctl.Reconcile, controller.Options{
		Workers: 1, Synced: []cache.InformerSynced{volumes.Informer().HasSynced}, Log: log, Metrics: m,
	})
	return ctl, controller.Watch(volumes.Informer(), controller.Handlers[*corev1.PersistentVolume]{Changed: func(v *corev1.PersistentVolume) {
		if _, changed := decide(v); changed {
			ctl.loop.Add(v.Name)
		}
	}})
}

// Run protects until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

// decide returns the finalizers that a volume should have, and whether they are others than it has.
func decide(v *corev1.PersistentVolume) (finalizers []string, changed bool) {
	switch has := slices.Contains(v.Finalizers, finalizer); {
	case v.DeletionTimestamp == nil && !has:
		return append(slices.Clone(v.Finalizers), finalizer), true
	case v.DeletionTimestamp != nil && has && v.Status.Phase != corev1.VolumeBound:
		return slices.DeleteFunc(slices.Clone(v.Finalizers), func(f string) bool { return f == finalizer }), true
	}
	return v.Finalizers, false
}

// Reconcile adds or removes the finalizer of one volume.
func (c *Controller) Reconcile(ctx context.Context, name string) error {
	v, err := c.volumes.Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	} else if err != nil {
		return fmt.Errorf("get volume: %w", err)
	}
	finalizers, changed := decide(v)
	if !changed {
		return nil
	}
	v = v.DeepCopy()
	v.Finalizers = finalizers
	if _, err := c.client.CoreV1().PersistentVolumes().Update(ctx, v, metav1.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("set finalizers of volume %s: %w", name, err)
	}
	return nil
}
