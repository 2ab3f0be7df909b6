package replicaset

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"

	"github.com/celox/celox/internal/client/informers"
	"github.com/celox/celox/internal/controller"
	"github.com/celox/celox/internal/controller/pods"
)

// burst is the most pods that one reconciliation creates or deletes; the rest follows when those were seen.
const burst = 500

// sets is where a controller's sets are: ReplicaSets, or ReplicationControllers in their shape. The two are one machine with two names.
type sets struct {
	kind schema.GroupVersionKind
	get  func(namespace, name string) (*appsv1.ReplicaSet, error)
	list func(namespace string) ([]*appsv1.ReplicaSet, error)
	// terminating says whether the status counts pods on their way out; a ReplicationController's has no such field.
	terminating bool
	// fresh asks the server; update writes the status.
	fresh  func(ctx context.Context, namespace, name string) (*appsv1.ReplicaSet, error)
	update func(ctx context.Context, rs *appsv1.ReplicaSet) error
}

// Controller reconciles ReplicaSets.
type Controller struct {
	sets  sets
	pods  *pods.Keeper
	clock clock.PassiveClock
	loop  *controller.Loop
	large sync.Map // by key: how many pods a set had that is large

	ages  *controller.Histogram
	stale controller.Stale
}

const (
	// largeSet is from how many pods on a set isn't looked at after each change of a pod, but after a while for several: looking costs so much per pod.
	largeSet    = 100
	restPerPod  = 30 * time.Microsecond
	longestRest = time.Second / 2
)

// podChanged has a set looked at because of a pod.
func (c *Controller) podChanged(key string) {
	n, ok := c.large.Load(key)
	if !ok {
		c.loop.Add(key)
		return
	}
	c.loop.AddAfter(key, min(time.Duration(n.(int))*restPerPod, longestRest))
}

// New makes the controller and registers it with the informers, which the caller starts.
func New(c kubernetes.Interface, f *informers.Factory, recorder record.EventRecorder, clk clock.PassiveClock, log *slog.Logger, m *controller.Metrics) (*Controller, error) {
	informer := f.Apps().V1().ReplicaSets()
	lister := informer.Lister()
	ctl, err := start(c, f, recorder, clk, log, m, "replicaset", informer.Informer(), sets{
		kind: appsv1.SchemeGroupVersion.WithKind("ReplicaSet"), terminating: true,
		get: func(namespace, name string) (*appsv1.ReplicaSet, error) {
			return lister.ReplicaSets(namespace).Get(name)
		},
		list: func(namespace string) ([]*appsv1.ReplicaSet, error) {
			return lister.ReplicaSets(namespace).List(labels.Everything())
		},
		fresh: func(ctx context.Context, namespace, name string) (*appsv1.ReplicaSet, error) {
			return c.AppsV1().ReplicaSets(namespace).Get(ctx, name, metav1.GetOptions{})
		},
		update: func(ctx context.Context, rs *appsv1.ReplicaSet) error {
			_, err := c.AppsV1().ReplicaSets(rs.Namespace).UpdateStatus(ctx, rs, metav1.UpdateOptions{})
			return err
		},
	})
	if err != nil {
		return nil, err
	}
	ctl.ages = m.Histogram("replicaset_controller_sorting_deletion_age_ratio", "The age of a pod that is deleted, of all that could be, divided by that of the youngest of them.",
		prometheus.ExponentialBuckets(0.25, 2, 6))
	ctl.stale = m.Stale("replicaset_controller")
	queue := func(rs *appsv1.ReplicaSet) { ctl.loop.AddObject(rs) }
	return ctl, controller.Watch(informer.Informer(), controller.Handlers[*appsv1.ReplicaSet]{Changed: queue, Delete: queue})
}

func start(c kubernetes.Interface, f *informers.Factory, recorder record.EventRecorder, clk clock.PassiveClock, log *slog.Logger, m *controller.Metrics, name string, informer cache.SharedIndexInformer, s sets) (*Controller, error) {
	ctl := &Controller{sets: s, clock: clk}
	var err error
	ctl.pods, err = pods.New(pods.Config{
		Client: c, Informers: f, Recorder: recorder, Clock: clk, Kind: s.kind,
		Queue:    func(key string) { ctl.podChanged(key) },
		Matching: ctl.matching,
		Fresh: func(ctx context.Context, namespace, name string) (metav1.Object, error) {
			return s.fresh(ctx, namespace, name)
		},
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	ctl.loop = controller.NewLoop(name, ctl.Reconcile, controller.Options{
		Workers: 5, Synced: []cache.InformerSynced{informer.HasSynced, ctl.pods.HasSynced}, Log: log, Metrics: m,
	})
	return ctl, nil
}

// Run reconciles until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

// matching returns the sets whose selector matches an orphan.
func (c *Controller) matching(pod *corev1.Pod) []metav1.Object {
	all, err := c.sets.list(pod.Namespace)
	return pods.Matching(pod, all, err, func(rs *appsv1.ReplicaSet) *metav1.LabelSelector { return rs.Spec.Selector })
}

// Reconcile makes the number of pods of one ReplicaSet what its spec says and its status what the pods are.
func (c *Controller) Reconcile(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return nil // not a key of ours; a retry would not change it
	}
	rs, err := c.sets.get(namespace, name)
	if apierrors.IsNotFound(err) {
		c.pods.Forget(key)
		c.large.Delete(key)
		return nil
	} else if err != nil {
		return fmt.Errorf("get %s: %w", c.sets.kind.Kind, err)
	}
	selector, err := metav1.LabelSelectorAsSelector(rs.Spec.Selector)
	if err != nil {
		return fmt.Errorf("selector of %s: %w", key, err)
	}
	settled := c.stale.Look(c.pods.Settled(key))
	active, err := c.pods.Claim(ctx, rs, selector, pods.Active)
	if err != nil {
		return err
	}
	if len(active) >= largeSet {
		c.large.Store(key, len(active))
	} else {
		c.large.Delete(key)
	}
	var manageErr error
	if settled && rs.DeletionTimestamp == nil {
		manageErr = c.manage(ctx, key, rs, active)
	}
	status := computeStatus(rs, active, len(c.pods.Owned(rs.UID, pods.Terminating)), manageErr, c.clock.Now())
	if !c.sets.terminating {
		status.TerminatingReplicas = nil
	}
	if err := c.writeStatus(ctx, rs, status); err != nil {
		return errors.Join(manageErr, err)
	}
	// A pod becomes available by the passing of time alone: come back when the next one does.
	if rs.Spec.MinReadySeconds > 0 && status.ReadyReplicas != status.AvailableReplicas {
		c.loop.AddAfter(key, time.Duration(rs.Spec.MinReadySeconds)*time.Second)
	}
	return manageErr
}

// manage creates or deletes pods.
func (c *Controller) manage(ctx context.Context, key string, rs *appsv1.ReplicaSet, active []*corev1.Pod) error {
	diff := len(active) - int(ptr.Deref(rs.Spec.Replicas, 1))
	switch {
	case diff < 0:
		wanted := make([]*corev1.Pod, min(-diff, burst))
		for i := range wanted {
			wanted[i] = c.pods.FromTemplate(rs, &rs.Spec.Template)
		}
		_, err := c.pods.CreateAll(ctx, key, rs, wanted)
		return err
	case diff > 0:
		chosen := victims(active, c.related(rs), min(diff, burst), c.clock.Now())
		c.note(active, chosen)
		return c.pods.DeleteAll(ctx, key, rs, chosen)
	}
	return nil
}

// note observes how old the chosen pods are, of those that are ready, beside the youngest.
func (c *Controller) note(active, chosen []*corev1.Pod) {
	if c.ages == nil || len(chosen) == len(active) {
		return
	}
	now := c.clock.Now()
	age := func(p *corev1.Pod) (time.Duration, bool) {
		since, ready := pods.ReadySince(p)
		return now.Sub(since), ready
	}
	youngest := time.Duration(0)
	for _, p := range active {
		if a, ready := age(p); ready && (youngest == 0 || a < youngest) {
			youngest = a
		}
	}
	for _, p := range chosen {
		if a, ready := age(p); ready && youngest > 0 {
			c.ages.Observe(a.Seconds() / youngest.Seconds())
		}
	}
}

// related returns the active pods of all sets with the same controller: doubling up on a node with pods of an older
// revision counts when victims are chosen.
func (c *Controller) related(rs *appsv1.ReplicaSet) []*corev1.Pod {
	uids := []types.UID{rs.UID}
	if ref := metav1.GetControllerOf(rs); ref != nil {
		all, err := c.sets.list(rs.Namespace)
		if err == nil {
			for _, s := range all {
				if r := metav1.GetControllerOf(s); r != nil && r.UID == ref.UID && s.UID != rs.UID {
					uids = append(uids, s.UID)
				}
			}
		}
	}
	var related []*corev1.Pod
	for _, uid := range uids {
		related = append(related, c.pods.Owned(uid, pods.Active)...)
	}
	return related
}

func (c *Controller) writeStatus(ctx context.Context, rs *appsv1.ReplicaSet, status appsv1.ReplicaSetStatus) error {
	if equality.Semantic.DeepEqual(rs.Status, status) {
		return nil
	}
	updated := rs.DeepCopy()
	updated.Status = status
	if err := c.sets.update(ctx, updated); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("update status: %w", err)
	}
	return nil
}
