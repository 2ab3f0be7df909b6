package tainteviction

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"

	"github.com/celox/celox/internal/client/informers"
	"github.com/celox/celox/internal/controller"
)

// Controller reconciles pods on tainted nodes; its keys are pods.
type Controller struct {
	client   kubernetes.Interface
	pods     corelisters.PodLister
	nodes    corelisters.NodeLister
	recorder record.EventRecorder
	clock    clock.PassiveClock
	logger   klog.Logger
	loop     *controller.Loop

	deletions *controller.Counter
	latency   *controller.Histogram

	mu sync.Mutex
	// since is when a pod was first seen under taints that do not say when they were added, by the pod's key. Guarded by mu.
	since map[string]seen
}

// seen is when a pod was first seen under a taint of its node.
type seen struct {
	pod  types.UID
	node string
	at   time.Time
	// due says that its end was appointed: if it is called off somebody is told.
	due bool
	// done says that it was deleted, which the cache may not know yet.
	done bool
}

// New makes the controller and registers it with the informers, which the caller starts.
func New(c kubernetes.Interface, f *informers.Factory, recorder record.EventRecorder, clk clock.PassiveClock, log *slog.Logger, m *controller.Metrics) (*Controller, error) {
	pods, nodes := f.Core().V1().Pods(), f.Core().V1().Nodes()
	ctl := &Controller{client: c, pods: pods.Lister(), nodes: nodes.Lister(), recorder: recorder, clock: clk, logger: klog.Background(), since: map[string]seen{}}
	ctl.loop = controller.NewLoop("taint-eviction", ctl.Reconcile, controller.Options{
		Workers: 8, Synced: []cache.InformerSynced{pods.Informer().HasSynced, nodes.Informer().HasSynced}, Log: log, Metrics: m,
	})
	ctl.deletions = m.Counter("taint_eviction_controller_pod_deletions_total", "Total number of Pods deleted by TaintEvictionController since its start.")
	ctl.latency = m.Histogram("taint_eviction_controller_pod_deletion_duration_seconds", "Latency, in seconds, between the time when a taint effect has been activated for the Pod and its deletion via TaintEvictionController.", controller.EvictionBuckets())
	pod := func(p *corev1.Pod) {
		if node, err := ctl.nodes.Get(p.Spec.NodeName); err == nil && len(noExecute(node)) > 0 {
			ctl.loop.AddObject(p)
		}
	}
	if err := errors.Join(
		controller.Watch(pods.Informer(), controller.Handlers[*corev1.Pod]{Changed: pod, Delete: func(p *corev1.Pod) { ctl.forget(cache.MetaObjectToName(p).String()) }}),
		controller.Watch(nodes.Informer(), controller.Handlers[*corev1.Node]{Changed: ctl.nodeChanged}),
	); err != nil {
		return nil, fmt.Errorf("tainteviction: %w", err)
	}
	return ctl, nil
}

// Run reconciles until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

func noExecute(node *corev1.Node) []corev1.Taint {
	var taints []corev1.Taint
	for _, t := range node.Spec.Taints {
		if t.Effect == corev1.TaintEffectNoExecute {
			taints = append(taints, t)
		}
	}
	return taints
}

func (c *Controller) nodeChanged(node *corev1.Node) {
	if len(noExecute(node)) == 0 {
		c.mu.Lock()
		defer c.mu.Unlock()
		for key, s := range c.since {
			if s.node == node.Name {
				c.loop.Add(key)
			}
		}
		return
	}
	pods, err := c.pods.List(labels.Everything())
	if err != nil {
		return // a lister over memory does not fail
	}
	for _, p := range pods {
		if p.Spec.NodeName == node.Name {
			c.loop.AddObject(p)
		}
	}
}

// first returns when the pod was first seen under taints: now, if it was not.
func (c *Controller) first(key string, p *corev1.Pod) seen {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, ok := c.since[key]
	if !ok || s.pod != p.UID {
		s = seen{pod: p.UID, node: p.Spec.NodeName, at: c.clock.Now()}
		c.since[key] = s
	}
	return s
}

// forget is first's opposite.
func (c *Controller) forget(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.since, key)
}

// note remembers what was done about a pod: that its end was appointed, or that it was deleted.
func (c *Controller) note(key string, due, done bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s, ok := c.since[key]; ok {
		s.due, s.done = due, done
		c.since[key] = s
	}
}

// spare forgets a pod that no taint sends away, and says so if one was about to.
func (c *Controller) spare(key string, p *corev1.Pod) {
	c.mu.Lock()
	s := c.since[key]
	delete(c.since, key)
	c.mu.Unlock()
	if s.due && s.pod == p.UID {
		c.recorder.Eventf(p, corev1.EventTypeNormal, "TaintManagerEviction", "Cancelling deletion of Pod %s", key)
	}
}

// patience says how long a pod may stay under the given taints: forever is false. The time runs from when a taint was added, or where that is
// not said, as nobody does who taints a node by hand, from when the pod was first seen under it.
func patience(logger klog.Logger, p *corev1.Pod, taints []corev1.Taint, first time.Time) (deadline time.Time, ends bool) {
	for i := range taints {
		t := &taints[i]
		added := first
		if t.TimeAdded != nil {
			added = t.TimeAdded.Time
			if p.CreationTimestamp.After(added) {
				added = p.CreationTimestamp.Time // the time of a pod begins with itself
			}
		}
		tolerated := false
		for j := range p.Spec.Tolerations {
			tol := &p.Spec.Tolerations[j]
			if !tol.ToleratesTaint(logger, t, true) {
				continue
			}
			tolerated = true
			if tol.TolerationSeconds != nil {
				until := added.Add(time.Duration(max(0, *tol.TolerationSeconds)) * time.Second)
				if !ends || until.Before(deadline) {
					deadline, ends = until, true
				}
			}
			break // of several the first counts
		}
		if !tolerated {
			return added, true
		}
	}
	return deadline, ends
}

// Reconcile evicts one pod, or comes back when its time is up.
func (c *Controller) Reconcile(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return nil // not a key of ours; a retry would not change it
	}
	pod, err := c.pods.Pods(namespace).Get(name)
	if apierrors.IsNotFound(err) || err == nil && (pod.DeletionTimestamp != nil || pod.Spec.NodeName == "") {
		c.forget(key)
		return nil
	} else if err != nil {
		return fmt.Errorf("get pod: %w", err)
	}
	node, err := c.nodes.Get(pod.Spec.NodeName)
	if err != nil {
		return nil // pod garbage collection's business
	}
	taints := noExecute(node)
	if len(taints) == 0 {
		c.spare(key, pod)
		return nil
	}
	first := c.first(key, pod)
	if first.done {
		return nil
	}
	deadline, ends := patience(c.logger, pod, taints, first.at)
	if !ends {
		c.spare(key, pod)
		return nil
	}
	if left := deadline.Sub(c.clock.Now()); left > 0 {
		c.note(key, true, false)
		c.loop.AddAfter(key, left)
		return nil
	}
	c.recorder.Eventf(pod, corev1.EventTypeNormal, "TaintManagerEviction", "Marking for deletion Pod %s", key)
	if err := controller.PatchPodStatus(ctx, c.client, pod, "", corev1.PodCondition{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "DeletionByTaintManager",
		Message: "Taint manager: deleting due to NoExecute taint", ObservedGeneration: pod.Generation, LastTransitionTime: metav1.NewTime(c.clock.Now()),
	}); err != nil {
		return err
	}
	err = c.client.CoreV1().Pods(namespace).Delete(ctx, name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(pod.UID))})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("evict pod: %w", err)
	}
	c.note(key, false, true)
	c.deletions.Inc()
	c.latency.Observe(c.clock.Since(deadline).Seconds())
	return nil
}
