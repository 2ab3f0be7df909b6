package ephemeralvolume

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/component-helpers/storage/ephemeral"
	"k8s.io/utils/ptr"

	"github.com/celox/celox/internal/client/informers"
	"github.com/celox/celox/internal/controller"
)

// byClaim is the index of pods by the keys of the claims of their ephemeral volumes.
const byClaim = "ephemeralvolume.claim"

// Config is what a Controller needs.
type Config struct {
	Client    kubernetes.Interface
	Informers *informers.Factory
	Recorder  record.EventRecorder
	Log       *slog.Logger
	Metrics   *controller.Metrics
	// Registry gets the counters of claims made; nil counts nothing.
	Registry prometheus.Registerer
}

// Controller reconciles pods with ephemeral volumes.
type Controller struct {
	client             kubernetes.Interface
	pods               corelisters.PodLister
	claims             corelisters.PersistentVolumeClaimLister
	recorder           record.EventRecorder
	attempts, failures prometheus.Counter
	loop               *controller.Loop
}

// New makes the controller and registers it with the informers, which the caller starts.
func New(cfg Config) (*Controller, error) {
	pods, claims := cfg.Informers.Core().V1().Pods(), cfg.Informers.Core().V1().PersistentVolumeClaims()
	ctl := &Controller{
		client: cfg.Client, pods: pods.Lister(), claims: claims.Lister(), recorder: cfg.Recorder,
		attempts: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "ephemeral_volume_controller_create_total", Help: "Number of PersistentVolumeClaim creation requests"}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "ephemeral_volume_controller_create_failures_total", Help: "Number of PersistentVolumeClaim creation request failures"}),
	}
	if cfg.Registry != nil {
		if err := errors.Join(cfg.Registry.Register(ctl.attempts), cfg.Registry.Register(ctl.failures)); err != nil {
			return nil, fmt.Errorf("ephemeralvolume: %w", err)
		}
	}
	ctl.loop = controller.NewLoop("ephemeral_volume", ctl.Reconcile, controller.Options{
		Synced: []cache.InformerSynced{pods.Informer().HasSynced, claims.Informer().HasSynced}, Log: cfg.Log, Metrics: cfg.Metrics,
	})
	indexer := pods.Informer().GetIndexer()
	// A pod's volumes never change, so its later states are of no interest.
	if err := errors.Join(
		pods.Informer().AddIndexers(cache.Indexers{byClaim: func(obj any) ([]string, error) {
			p, ok := obj.(*corev1.Pod)
			if !ok {
				return nil, nil
			}
			return claimsOf(p), nil
		}}),
		controller.Watch(pods.Informer(), controller.Handlers[*corev1.Pod]{
			Add: func(p *corev1.Pod) {
				if p.DeletionTimestamp == nil && len(claimsOf(p)) > 0 {
					ctl.loop.AddObject(p)
				}
			},
			Update: func(old, p *corev1.Pod) {
				if old.UID != p.UID && len(claimsOf(p)) > 0 {
					ctl.loop.AddObject(p)
				}
			},
		}),
		controller.Watch(claims.Informer(), controller.Handlers[*corev1.PersistentVolumeClaim]{Delete: func(c *corev1.PersistentVolumeClaim) {
			keys, _ := indexer.IndexKeys(byClaim, c.Namespace+"/"+c.Name) // the index is there
			for _, k := range keys {
				ctl.loop.Add(k)
			}
		}}),
	); err != nil {
		return nil, fmt.Errorf("ephemeralvolume: %w", err)
	}
	return ctl, nil
}

// Run makes claims until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

func claimsOf(p *corev1.Pod) []string {
	var out []string
	for i := range p.Spec.Volumes {
		if v := &p.Spec.Volumes[i]; v.Ephemeral != nil {
			out = append(out, p.Namespace+"/"+ephemeral.VolumeClaimName(p, v))
		}
	}
	return out
}

// claimFor is the claim of a pod's ephemeral volume.
func claimFor(p *corev1.Pod, v *corev1.Volume) *corev1.PersistentVolumeClaim {
	t := v.Ephemeral.VolumeClaimTemplate.DeepCopy()
	return &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{
			Name: ephemeral.VolumeClaimName(p, v), Namespace: p.Namespace, Annotations: t.Annotations, Labels: t.Labels,
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: "v1", Kind: "Pod", Name: p.Name, UID: p.UID, Controller: ptr.To(true), BlockOwnerDeletion: ptr.To(true),
			}},
		},
		Spec: t.Spec,
	}
}

// Reconcile makes those claims of one pod that do not exist.
func (c *Controller) Reconcile(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return nil // not a key of ours; a retry would not change it
	}
	p, err := c.pods.Pods(namespace).Get(name)
	if apierrors.IsNotFound(err) || err == nil && p.DeletionTimestamp != nil {
		return nil
	} else if err != nil {
		return fmt.Errorf("get pod: %w", err)
	}
	for i := range p.Spec.Volumes {
		v := &p.Spec.Volumes[i]
		if v.Ephemeral == nil || v.Ephemeral.VolumeClaimTemplate == nil {
			continue
		}
		if err := c.ensure(ctx, p, v); err != nil {
			c.recorder.Eventf(p, corev1.EventTypeWarning, "FailedBinding", "ephemeral volume %s: %v", v.Name, err)
			return fmt.Errorf("pod %s, ephemeral volume %s: %w", key, v.Name, err)
		}
	}
	return nil
}

func (c *Controller) ensure(ctx context.Context, p *corev1.Pod, v *corev1.Volume) error {
	want := claimFor(p, v)
	have, err := c.claims.PersistentVolumeClaims(p.Namespace).Get(want.Name)
	if err == nil {
		return ephemeral.VolumeIsForPod(p, have)
	} else if !apierrors.IsNotFound(err) {
		return fmt.Errorf("get PVC %s: %w", want.Name, err)
	}
	c.attempts.Inc()
	if _, err := c.client.CoreV1().PersistentVolumeClaims(p.Namespace).Create(ctx, want, metav1.CreateOptions{}); err != nil {
		c.failures.Inc()
		return fmt.Errorf("create PVC %s: %w", want.Name, err)
	}
	return nil
}
