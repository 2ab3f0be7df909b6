package podgc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"

	"github.com/celox/celox/internal/client/informers"
	"github.com/celox/celox/internal/controller"
)

const (
	// quarantine is how long a node must have been gone before its pods go: it may be registering again.
	quarantine = 40 * time.Second
	// threshold is how many ended pods may stay, as upstream's --terminated-pod-gc-threshold.
	threshold = 12500
	// all is the one key of the loop: the controller looks at all pods at once.
	all = "pods"
	// settle gathers bursts of events into one look.
	settle = time.Second
)

// Controller collects pods.
type Controller struct {
	client kubernetes.Interface
	pods   corelisters.PodLister
	nodes  corelisters.NodeLister
	clock  clock.PassiveClock
	most   int                  // how many ended pods may stay
	gone   map[string]time.Time // since when a node that pods name is missing; used by the one worker only
	loop   *controller.Loop

	deleted, failed *controller.Counter
}

// New makes the controller and registers it with the informers, which the caller starts.
func New(c kubernetes.Interface, f *informers.Factory, clk clock.PassiveClock, log *slog.Logger, m *controller.Metrics) (*Controller, error) {
	pods, nodes := f.Core().V1().Pods(), f.Core().V1().Nodes()
	ctl := &Controller{client: c, pods: pods.Lister(), nodes: nodes.Lister(), clock: clk, most: threshold, gone: map[string]time.Time{}}
	ctl.loop = controller.NewLoop("podgc", ctl.Reconcile, controller.Options{
		Workers: 1, Synced: []cache.InformerSynced{pods.Informer().HasSynced, nodes.Informer().HasSynced}, Log: log, Metrics: m,
	})
	labels := []string{"namespace", "reason"}
	ctl.deleted = m.Counter("pod_gc_collector_force_delete_pods_total", "Number of pods that are being forcefully deleted since the Pod GC Controller started.", labels...)
	ctl.failed = m.Counter("pod_gc_collector_force_delete_pod_errors_total", "Number of errors encountered when forcefully deleting the pods since the Pod GC Controller started.", labels...)
	look := func(pod *corev1.Pod) {
		if ended(pod) || pod.DeletionTimestamp != nil && pod.Spec.NodeName == "" {
			ctl.loop.AddAfter(all, settle)
		} else if pod.Spec.NodeName != "" {
			node, err := ctl.nodes.Get(pod.Spec.NodeName)
			if apierrors.IsNotFound(err) || err == nil && pod.DeletionTimestamp != nil && abandoned(node) {
				ctl.loop.AddAfter(all, settle)
			}
		}
	}
	if err := errors.Join(
		controller.Watch(pods.Informer(), controller.Handlers[*corev1.Pod]{Changed: look}),
		controller.Watch(nodes.Informer(), controller.Handlers[*corev1.Node]{
			Update: func(old, n *corev1.Node) {
				if abandoned(n) && !abandoned(old) {
					ctl.loop.AddAfter(all, settle)
				}
			},
			Delete: func(*corev1.Node) { ctl.loop.AddAfter(all, settle) },
		}),
	); err != nil {
		return nil, fmt.Errorf("podgc: %w", err)
	}
	return ctl, nil
}

// Run collects until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

func ended(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

// abandoned says that somebody vouches that nothing runs on a node any more, and that the node itself cannot say (KEP-2268).
func abandoned(n *corev1.Node) bool {
	return slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeOutOfService }) &&
		!slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
			return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
		})
}

// evicted says that the node put a pod out: nobody misses it.
func evicted(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodFailed && p.Status.Reason == "Evicted"
}

// Reconcile looks at all pods once.
func (c *Controller) Reconcile(ctx context.Context, _ string) error {
	pods, err := c.pods.List(labels.Everything())
	if err != nil {
		return fmt.Errorf("list pods: %w", err)
	}
	now := c.clock.Now()
	missing := map[string]bool{}
	doomed := map[*corev1.Pod]string{}
	var done []*corev1.Pod
	for _, p := range pods {
		if ended(p) {
			done = append(done, p)
		}
		switch {
		case p.Spec.NodeName == "" && p.DeletionTimestamp != nil:
			doomed[p] = "unscheduled"
		case p.Spec.NodeName != "" && c.missing(ctx, p.Spec.NodeName):
			missing[p.Spec.NodeName] = true
			if since, ok := c.gone[p.Spec.NodeName]; ok && now.Sub(since) >= quarantine {
				doomed[p] = "orphaned"
			}
		case p.DeletionTimestamp != nil:
			if node, err := c.nodes.Get(p.Spec.NodeName); err == nil && abandoned(node) {
				doomed[p] = "out-of-service"
			}
		}
	}
	for name := range missing {
		since, known := c.gone[name]
		if !known {
			c.gone[name], since = now, now
		}
		// Each time: an earlier look takes the place of one that was to come.
		if left := since.Add(quarantine).Sub(now); left > 0 {
			c.loop.AddAfter(all, left+settle)
		}
	}
	for name := range c.gone {
		if !missing[name] {
			delete(c.gone, name)
		}
	}
	if excess := len(done) - c.most; excess > 0 {
		slices.SortFunc(done, func(a, b *corev1.Pod) int {
			if evicted(a) != evicted(b) {
				if evicted(a) {
					return -1
				}
				return 1
			}
			return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
		})
		for _, p := range done[:excess] {
			doomed[p] = "terminated"
		}
	}
	var errs []error
	for p, reason := range doomed {
		c.deleted.Inc(p.Namespace, reason)
		err := c.collect(ctx, p, reason)
		if err != nil {
			c.failed.Inc(p.Namespace, reason)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// missing asks the cache and, when that does not know the node, the server: a deletion cannot be taken back.
func (c *Controller) missing(ctx context.Context, node string) bool {
	if _, err := c.nodes.Get(node); !apierrors.IsNotFound(err) {
		return false
	}
	_, err := c.client.CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{})
	return apierrors.IsNotFound(err)
}

// collect marks a pod that had not ended as failed, for its owner counts by phase, and removes it at once.
func (c *Controller) collect(ctx context.Context, p *corev1.Pod, reason string) error {
	if !ended(p) {
		var why []corev1.PodCondition
		if reason == "orphaned" {
			why = append(why, corev1.PodCondition{
				Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "DeletionByPodGC",
				Message: "PodGC: node no longer exists", ObservedGeneration: p.Generation, LastTransitionTime: metav1.NewTime(c.clock.Now()),
			})
		}
		if err := controller.PatchPodStatus(ctx, c.client, p, corev1.PodFailed, why...); err != nil {
			return err
		}
	}
	err := c.client.CoreV1().Pods(p.Namespace).Delete(ctx, p.Name, metav1.DeleteOptions{
		GracePeriodSeconds: ptr.To[int64](0), Preconditions: metav1.NewUIDPreconditions(string(p.UID)),
	})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("collect pod %s/%s: %w", p.Namespace, p.Name, err)
	}
	return nil
}
