package vacprotection

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"

	"github.com/celox/celox/internal/client/informers"
	"github.com/celox/celox/internal/controller"
)

const (
	finalizer = "kubernetes.io/vac-protection"
	// byClass is the index of claims and of volumes by the classes that they name.
	byClass = "vacprotection.class"
)

// Controller reconciles VolumeAttributesClasses.
type Controller struct {
	client          kubernetes.Interface
	classes         storagelisters.VolumeAttributesClassLister
	claims, volumes cache.Indexer
	loop            *controller.Loop
}

// New makes the controller and registers it with the informers, which the caller starts.
func New(c kubernetes.Interface, f *informers.Factory, log *slog.Logger, m *controller.Metrics) (*Controller, error) {
	classes, claims, volumes := f.Storage().V1().VolumeAttributesClasses(), f.Core().V1().PersistentVolumeClaims(), f.Core().V1().PersistentVolumes()
	ctl := &Controller{client: c, classes: classes.Lister(), claims: claims.Informer().GetIndexer(), volumes: volumes.Informer().GetIndexer()}
	ctl.loop = controller.NewLoop("vacprotection", ctl.Reconcile, controller.Options{
		Workers: 1, Synced: []cache.InformerSynced{classes.Informer().HasSynced, claims.Informer().HasSynced, volumes.Informer().HasSynced}, Log: log, Metrics: m,
	})
	let := func(names []string) {
		for _, n := range names {
			ctl.loop.Add(n)
		}
	}
	if err := errors.Join(
		claims.Informer().AddIndexers(cache.Indexers{byClass: func(obj any) ([]string, error) {
			c, ok := obj.(*corev1.PersistentVolumeClaim)
			if !ok {
				return nil, nil
			}
			return classesOfClaim(c), nil
		}}),
		volumes.Informer().AddIndexers(cache.Indexers{byClass: func(obj any) ([]string, error) {
			v, ok := obj.(*corev1.PersistentVolume)
			if !ok {
				return nil, nil
			}
			return classesOfVolume(v), nil
		}}),
		controller.Watch(classes.Informer(), controller.Handlers[*storagev1.VolumeAttributesClass]{Changed: func(c *storagev1.VolumeAttributesClass) { ctl.loop.Add(c.Name) }}),
		controller.Watch(claims.Informer(), controller.Handlers[*corev1.PersistentVolumeClaim]{
			Update: func(old, c *corev1.PersistentVolumeClaim) {
				if was := classesOfClaim(old); !slices.Equal(was, classesOfClaim(c)) {
					let(was)
				}
			},
			Delete: func(c *corev1.PersistentVolumeClaim) { let(classesOfClaim(c)) },
		}),
		controller.Watch(volumes.Informer(), controller.Handlers[*corev1.PersistentVolume]{
			Update: func(old, v *corev1.PersistentVolume) {
				if was := classesOfVolume(old); !slices.Equal(was, classesOfVolume(v)) {
					let(was)
				}
			},
			Delete: func(v *corev1.PersistentVolume) { let(classesOfVolume(v)) },
		}),
	); err != nil {
		return nil, fmt.Errorf("vacprotection: %w", err)
	}
	return ctl, nil
}

// Run protects until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

// classesOfClaim are the classes that a claim wants, has, and is on its way to.
func classesOfClaim(c *corev1.PersistentVolumeClaim) []string {
	names := []string{ptr.Deref(c.Spec.VolumeAttributesClassName, ""), ptr.Deref(c.Status.CurrentVolumeAttributesClassName, "")}
	if m := c.Status.ModifyVolumeStatus; m != nil {
		names = append(names, m.TargetVolumeAttributesClassName)
	}
	slices.Sort(names)
	return slices.DeleteFunc(slices.Compact(names), func(n string) bool { return n == "" })
}

func classesOfVolume(v *corev1.PersistentVolume) []string {
	if n := ptr.Deref(v.Spec.VolumeAttributesClassName, ""); n != "" {
		return []string{n}
	}
	return nil
}

// decide returns the finalizers that a class should have, and whether they are others than it has.
func decide(c *storagev1.VolumeAttributesClass, used bool) (finalizers []string, changed bool) {
	switch has := slices.Contains(c.Finalizers, finalizer); {
	case c.DeletionTimestamp == nil && !has:
		return append(slices.Clone(c.Finalizers), finalizer), true
	case c.DeletionTimestamp != nil && has && !used:
		return slices.DeleteFunc(slices.Clone(c.Finalizers), func(f string) bool { return f == finalizer }), true
	}
	return c.Finalizers, false
}

// Reconcile adds or removes the finalizer of one class.
func (c *Controller) Reconcile(ctx context.Context, name string) error {
	class, err := c.classes.Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	} else if err != nil {
		return fmt.Errorf("get volume attributes class: %w", err)
	}
	used := false
	for _, i := range []cache.Indexer{c.claims, c.volumes} {
		keys, err := i.IndexKeys(byClass, name)
		if err != nil {
			return fmt.Errorf("users of volume attributes class %s: %w", name, err)
		}
		used = used || len(keys) > 0
	}
	finalizers, changed := decide(class, used)
	if !changed {
		return nil
	}
	if class.DeletionTimestamp != nil {
		// The cache denies users; what it cannot know yet, the API server does.
		if used, err := c.usedLive(ctx, name); err != nil || used {
			return err
		}
	}
	class = class.DeepCopy()
	class.Finalizers = finalizers
	if _, err := c.client.StorageV1().VolumeAttributesClasses().Update(ctx, class, metav1.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("set finalizers of volume attributes class %s: %w", name, err)
	}
	return nil
}

func (c *Controller) usedLive(ctx context.Context, name string) (bool, error) {
	claims, err := c.client.CoreV1().PersistentVolumeClaims("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return false, fmt.Errorf("list claims: %w", err)
	}
	for i := range claims.Items {
		if slices.Contains(classesOfClaim(&claims.Items[i]), name) {
			return true, nil
		}
	}
	volumes, err := c.client.CoreV1().PersistentVolumes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return false, fmt.Errorf("list volumes: %w", err)
	}
	for i := range volumes.Items {
		if slices.Contains(classesOfVolume(&volumes.Items[i]), name) {
			return true, nil
		}
	}
	return false, nil
}
