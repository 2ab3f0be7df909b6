package nodelifecycle

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	coordinationlisters "k8s.io/client-go/listers/coordination/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"

	"github.com/celox/celox/internal/client/informers"
	"github.com/celox/celox/internal/controller"
)

const (
	// gracePeriod is how long a lease may stay unrenewed before its node is Unknown.
	gracePeriod = 50 * time.Second
	// startupGrace is the same for a node that has never renewed one.
	startupGrace = time.Minute
)

// Config is what a Controller needs.
type Config struct {
	Client    kubernetes.Interface
	Informers *informers.Factory
	Recorder  record.EventRecorder
	Clock     clock.PassiveClock
	Log       *slog.Logger
	Metrics   *controller.Metrics
	Registry  prometheus.Registerer // nil: nothing is counted
	// Local names the node that lives in this process, which needs no heartbeat: while this controller runs, so does the node. "" is none.
	Local string
}

// Controller reconciles nodes.
type Controller struct {
	Config
	nodes  corelisters.NodeLister
	pods   corelisters.PodLister
	leases coordinationlisters.LeaseLister
	// seen is when this process last saw a sign of life: clocks of nodes are not compared with ours. It belongs to the single worker.
	seen  map[string]heartbeat
	zones *zones
	// back is set when nodes are to get another grace, because it was us who could not see them.
	back atomic.Bool
	loop *controller.Loop

	counters *counters
}

// heartbeat is the latest sign of life: a renewed lease, or a status.
type heartbeat struct {
	renewed metav1.MicroTime
	posted  metav1.Time
	at      time.Time
}

// New makes the controller and registers it with the informers, which the caller starts.
func New(cfg Config) (*Controller, error) {
	nodes, pods, leases := cfg.Informers.Core().V1().Nodes(), cfg.Informers.Core().V1().Pods(), cfg.Informers.Coordination().V1().Leases()
	c := &Controller{Config: cfg, nodes: nodes.Lister(), pods: pods.Lister(), leases: leases.Lister(), seen: map[string]heartbeat{}, zones: newZones()}
	c.counters = newCounters(cfg.Registry, c.zones)
	c.loop = controller.NewLoop("node-lifecycle", c.Reconcile, controller.Options{
		Workers: 1, Log: cfg.Log, Metrics: cfg.Metrics,
		Synced: []cache.InformerSynced{nodes.Informer().HasSynced, pods.Informer().HasSynced, leases.Informer().HasSynced},
	})
	queue := func(n *corev1.Node) {
		c.judge(n.Name, n)
		c.loop.AddObject(n)
	}
	gone := func(n *corev1.Node) {
		c.judge(n.Name, nil)
		c.loop.AddObject(n)
	}
	lease := func(l *coordinationv1.Lease) {
		if l.Namespace == corev1.NamespaceNodeLease {
			c.loop.Add(l.Name)
		}
	}
	if err := errors.Join(
		controller.Watch(nodes.Informer(), controller.Handlers[*corev1.Node]{Changed: queue, Delete: gone}),
		controller.Watch(leases.Informer(), controller.Handlers[*coordinationv1.Lease]{Changed: lease}),
	); err != nil {
		return nil, fmt.Errorf("nodelifecycle: %w", err)
	}
	return c, nil
}

// Run reconciles until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

// judge notes how a node is and, when that changes whose pods may be sent away, looks at all nodes again.
func (c *Controller) judge(name string, node *corev1.Node) {
	change := c.zones.set(name, node, c.Clock.Now())
	if change.back {
		c.back.Store(true)
	}
	if !change.pace {
		return
	}
	all, err := c.nodes.List(labels.Everything())
	if err != nil {
		return // a cache does not fail
	}
	for _, n := range all {
		c.loop.AddObject(n)
	}
}

// Reconcile judges one node.
func (c *Controller) Reconcile(ctx context.Context, name string) error {
	begin := c.Clock.Now()
	defer func() { c.counters.judged(c.Clock.Since(begin)) }()
	if c.back.Swap(false) {
		now := c.Clock.Now()
		for n, last := range c.seen {
			last.at = now
			c.seen[n] = last
		}
	}
	node, err := c.nodes.Get(name)
	if apierrors.IsNotFound(err) {
		if _, known := c.seen[name]; known {
			c.Recorder.Eventf(&corev1.ObjectReference{Kind: "Node", Name: name}, corev1.EventTypeNormal, "RemovingNode", "Node %s event: Removing Node %s from Controller", name, name)
		}
		delete(c.seen, name)
		return nil
	} else if err != nil {
		return fmt.Errorf("get node: %w", err)
	}
	if _, known := c.seen[name]; !known {
		c.Recorder.Eventf(reference(node), corev1.EventTypeNormal, "RegisteredNode", "Node %s event: Registered Node %s in Controller", name, name)
		c.seen[name] = heartbeat{at: c.Clock.Now()}
	}
	if name != c.Local {
		if left := c.left(node); left > 0 {
			c.loop.AddAfter(name, left)
		} else if node, err = c.markUnknown(ctx, node); err != nil {
			return err
		}
	}
	if err := c.taint(ctx, node); err != nil {
		return err
	}
	if ready := conditionOf(node, corev1.NodeReady); ready != nil && ready.Status == corev1.ConditionUnknown {
		return c.markPodsNotReady(ctx, node) // of a node that speaks its kubelet says itself how its pods are
	}
	return nil
}

// reference is what events of a node are about.
func reference(node *corev1.Node) *corev1.ObjectReference {
	return &corev1.ObjectReference{Kind: "Node", Name: node.Name, UID: node.UID}
}

// left says how long the node's lease may stay as it is.
func (c *Controller) left(node *corev1.Node) time.Duration {
	now := c.Clock.Now()
	last := c.seen[node.Name]
	renewed, posted, grace := last.renewed, metav1.Time{}, startupGrace
	if lease, err := c.leases.Leases(corev1.NamespaceNodeLease).Get(node.Name); err == nil && lease.Spec.RenewTime != nil {
		renewed, grace = *lease.Spec.RenewTime, gracePeriod
	}
	if ready := conditionOf(node, corev1.NodeReady); ready != nil {
		posted, grace = ready.LastHeartbeatTime, gracePeriod
	}
	if !last.renewed.Equal(&renewed) || !last.posted.Equal(&posted) {
		last = heartbeat{renewed: renewed, posted: posted, at: now}
		c.seen[node.Name] = last
	}
	return last.at.Add(grace).Sub(now)
}

func conditionOf(node *corev1.Node, t corev1.NodeConditionType) *corev1.NodeCondition {
	for i := range node.Status.Conditions {
		if node.Status.Conditions[i].Type == t {
			return &node.Status.Conditions[i]
		}
	}
	return nil
}

// markUnknown says in the node's conditions that nobody knows.
func (c *Controller) markUnknown(ctx context.Context, node *corev1.Node) (*corev1.Node, error) {
	updated := node.DeepCopy()
	now := metav1.NewTime(c.Clock.Now())
	for _, t := range []corev1.NodeConditionType{corev1.NodeReady, corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure} {
		cond := conditionOf(updated, t)
		if cond == nil {
			updated.Status.Conditions = append(updated.Status.Conditions, corev1.NodeCondition{
				Type: t, Status: corev1.ConditionUnknown, Reason: "NodeStatusNeverUpdated", Message: "Kubelet never posted node status.",
				LastHeartbeatTime: node.CreationTimestamp, LastTransitionTime: now,
			})
			continue
		}
		if cond.Status != corev1.ConditionUnknown {
			cond.Status, cond.Reason, cond.Message, cond.LastTransitionTime = corev1.ConditionUnknown, "NodeStatusUnknown", "Kubelet stopped posting node status.", now
		}
	}
	if equality.Semantic.DeepEqual(node.Status, updated.Status) {
		return node, nil
	}
	if alive, err := c.renewed(ctx, node.Name); err != nil || alive {
		return node, err
	}
	got, err := c.Client.CoreV1().Nodes().UpdateStatus(ctx, updated, metav1.UpdateOptions{})
	if err != nil {
		return nil, fmt.Errorf("mark node unknown: %w", err)
	}
	if ready := conditionOf(node, corev1.NodeReady); ready != nil && ready.Status == corev1.ConditionTrue {
		c.Recorder.Eventf(reference(node), corev1.EventTypeNormal, "NodeNotReady", "Node %s status is now: NodeNotReady", node.Name)
	}
	return got, nil
}

// renewed asks the API server whether a node has renewed its lease after all: that a node seems lost may as well mean that our watch is behind.
// Then it has another grace. As long as nobody answers no node is given up.
func (c *Controller) renewed(ctx context.Context, name string) (bool, error) {
	lease, err := c.Client.CoordinationV1().Leases(corev1.NamespaceNodeLease).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return false, nil
	} else if err != nil {
		return false, fmt.Errorf("error looking up lease to verify node %s: %w", name, err)
	}
	last := c.seen[name]
	if lease.Spec.RenewTime == nil || !last.renewed.Before(lease.Spec.RenewTime) {
		return false, nil
	}
	c.loop.AddAfter(name, staleRetry)
	return true, nil
}

// staleRetry is how soon a node is looked at again whose lease in the cache is older than the real one.
const staleRetry = 5 * time.Second

// conditional are the keys of taints that say with the effect NoSchedule what a node's conditions say.
var conditional = []string{
	corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable, corev1.TaintNodeMemoryPressure, corev1.TaintNodeDiskPressure,
	corev1.TaintNodePIDPressure, corev1.TaintNodeNetworkUnavailable, corev1.TaintNodeUnschedulable,
}

// evicts says that a taint is one by which this controller sends pods away.
func evicts(t corev1.Taint) bool {
	return t.Effect == corev1.TaintEffectNoExecute && (t.Key == corev1.TaintNodeNotReady || t.Key == corev1.TaintNodeUnreachable)
}

// ruled says that this controller gives and takes a taint, whatever its value. With another effect such a key is its giver's.
func ruled(t corev1.Taint) bool {
	return evicts(t) || t.Effect == corev1.TaintEffectNoSchedule && slices.Contains(conditional, t.Key)
}

// retaint returns those of a node's taints that stay when it should have the wanted ones of those that are ruled here, and the wanted ones that it lacks.
func retaint(has, want []corev1.Taint) (stay, missing []corev1.Taint) {
	matches := func(t corev1.Taint) func(corev1.Taint) bool {
		return func(u corev1.Taint) bool { return t.MatchTaint(&u) }
	}
	for _, t := range has {
		if !ruled(t) || slices.ContainsFunc(want, matches(t)) {
			stay = append(stay, t)
		}
	}
	for _, t := range want {
		if !slices.ContainsFunc(has, matches(t)) {
			missing = append(missing, t)
		}
	}
	return stay, missing
}

// taintsFor says which of the taints that are ruled here a node should have.
func taintsFor(node *corev1.Node) []corev1.Taint {
	var taints []corev1.Taint
	add := func(key string, effects ...corev1.TaintEffect) {
		for _, e := range effects {
			taints = append(taints, corev1.Taint{Key: key, Effect: e})
		}
	}
	is := func(t corev1.NodeConditionType, s corev1.ConditionStatus) bool {
		c := conditionOf(node, t)
		return c != nil && c.Status == s
	}
	if is(corev1.NodeReady, corev1.ConditionFalse) {
		add(corev1.TaintNodeNotReady, corev1.TaintEffectNoSchedule, corev1.TaintEffectNoExecute)
	}
	if is(corev1.NodeReady, corev1.ConditionUnknown) {
		add(corev1.TaintNodeUnreachable, corev1.TaintEffectNoSchedule, corev1.TaintEffectNoExecute)
	}
	if conditionOf(node, corev1.NodeReady) == nil {
		// Registered, but it has not spoken yet: no place for pods, no reason to evict.
		add(corev1.TaintNodeNotReady, corev1.TaintEffectNoSchedule)
	}
	for _, p := range []struct {
		condition corev1.NodeConditionType
		taint     string
	}{
		{corev1.NodeMemoryPressure, corev1.TaintNodeMemoryPressure},
		{corev1.NodeDiskPressure, corev1.TaintNodeDiskPressure},
		{corev1.NodePIDPressure, corev1.TaintNodePIDPressure},
		{corev1.NodeNetworkUnavailable, corev1.TaintNodeNetworkUnavailable},
	} {
		if is(p.condition, corev1.ConditionTrue) {
			add(p.taint, corev1.TaintEffectNoSchedule)
		}
	}
	if node.Spec.Unschedulable {
		add(corev1.TaintNodeUnschedulable, corev1.TaintEffectNoSchedule)
	}
	return taints
}

// inTurn leaves those of the wanted taints that the node may have now. What sends pods away comes one node at a time, and not while no node is ready
// anywhere; a node that has it already may change the reason.
func (c *Controller) inTurn(node *corev1.Node, want []corev1.Taint) []corev1.Taint {
	if !slices.ContainsFunc(want, evicts) {
		return want
	}
	has := slices.ContainsFunc(node.Spec.Taints, evicts)
	may := has && !c.zones.halted()
	if !has {
		var left time.Duration
		if may, left = c.zones.turn(node, c.Clock.Now()); left > 0 {
			c.loop.AddAfter(node.Name, left)
		}
	}
	if !may {
		want = slices.DeleteFunc(want, evicts)
	}
	return want
}

// missingLabels are labels by the names that they once had, for whoever still selects by those.
func missingLabels(node *corev1.Node) map[string]string {
	var out map[string]string
	for was, is := range map[string]string{"beta.kubernetes.io/os": corev1.LabelOSStable, "beta.kubernetes.io/arch": corev1.LabelArchStable} {
		if v, ok := node.Labels[is]; ok && node.Labels[was] != v {
			if out == nil {
				out = map[string]string{}
			}
			out[was] = v
		}
	}
	return out
}

// taint gives the node the taints that its conditions ask for, keeping those of others and the times of those that stand, and the labels that it lacks.
func (c *Controller) taint(ctx context.Context, node *corev1.Node) error {
	taints, missing := retaint(node.Spec.Taints, c.inTurn(node, taintsFor(node)))
	labels := missingLabels(node)
	if len(missing) == 0 && len(taints) == len(node.Spec.Taints) && len(labels) == 0 {
		return nil
	}
	now := metav1.NewTime(c.Clock.Now())
	for _, t := range missing {
		t.TimeAdded = &now
		taints = append(taints, t)
	}
	updated := node.DeepCopy()
	updated.Spec.Taints = taints
	for k, v := range labels {
		metav1.SetMetaDataLabel(&updated.ObjectMeta, k, v)
	}
	if _, err := c.Client.CoreV1().Nodes().Update(ctx, updated, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("update taints: %w", err)
	}
	c.counters.tainted(node, updated)
	return nil
}

// markPodsNotReady tells services not to use the pods of a node that is not ready.
func (c *Controller) markPodsNotReady(ctx context.Context, node *corev1.Node) error {
	pods, err := c.pods.List(labels.Everything())
	if err != nil {
		return fmt.Errorf("list pods: %w", err)
	}
	var errs []error
	for _, p := range pods {
		if p.Spec.NodeName != node.Name {
			continue
		}
		i := slices.IndexFunc(p.Status.Conditions, func(cond corev1.PodCondition) bool { return cond.Type == corev1.PodReady })
		if i < 0 || p.Status.Conditions[i].Status != corev1.ConditionTrue {
			continue
		}
		condition := p.Status.Conditions[i]
		condition.Status, condition.LastTransitionTime = corev1.ConditionFalse, metav1.NewTime(c.Clock.Now())
		if err := controller.PatchPodStatus(ctx, c.Client, p, "", condition); err != nil {
			errs = append(errs, err)
			continue
		}
		c.Recorder.Event(p, corev1.EventTypeWarning, "NodeNotReady", "Node is not ready")
	}
	return errors.Join(errs...)
}
