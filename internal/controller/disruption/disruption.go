package disruption

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	policylisters "k8s.io/client-go/listers/policy/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"

	"github.com/celox/celox/internal/client/informers"
	"github.com/celox/celox/internal/controller"
	"github.com/celox/celox/internal/controller/pods"
)

// deletionTimeout is how long a granted eviction may take to show as a deletion; then it is believed to have failed.
const deletionTimeout = 2 * time.Minute

// Scales tells how many pods the controller of a pod means to have.
type Scales interface {
	// Expected returns the number that belongs to the controller ref in a namespace, and what identifies that controller (a ReplicaSet's is
	// its Deployment). Known is false for kinds without a scale.
	Expected(ctx context.Context, namespace string, ref metav1.OwnerReference) (id string, n int32, known bool, err error)
}

// Controller reconciles PodDisruptionBudgets.
type Controller struct {
	client   kubernetes.Interface
	budgets  policylisters.PodDisruptionBudgetLister
	cached   cache.Indexer // of the budgets
	pods     corelisters.PodLister
	scales   Scales
	recorder record.EventRecorder
	clock    clock.PassiveClock
	loop     *controller.Loop
	stale    *controller.Loop // keys of pods that are said to be about to be disrupted
}

// New makes the controller and registers it with the informers, which the caller starts.
func New(c kubernetes.Interface, f *informers.Factory, scales Scales, recorder record.EventRecorder, clk clock.PassiveClock, log *slog.Logger, m *controller.Metrics) (*Controller, error) {
	budgets, podInformer := f.Policy().V1().PodDisruptionBudgets(), f.Core().V1().Pods()
	ctl := &Controller{client: c, budgets: budgets.Lister(), cached: budgets.Informer().GetIndexer(), pods: podInformer.Lister(), scales: scales, recorder: recorder, clock: clk}
	ctl.loop = controller.NewLoop("disruption", ctl.Reconcile, controller.Options{
		Workers: 2, Log: log, Metrics: m, Synced: []cache.InformerSynced{budgets.Informer().HasSynced, podInformer.Informer().HasSynced},
	})
	ctl.stale = controller.NewLoop("stale-pod-disruption", ctl.takeBack, controller.Options{Workers: 1, Log: log, Metrics: m, Synced: []cache.InformerSynced{podInformer.Informer().HasSynced}})
	queue := func(b *policyv1.PodDisruptionBudget) { ctl.loop.AddObject(b) }
	announced := func(p *corev1.Pod) {
		if disruptionTarget(p) != nil {
			ctl.stale.AddObject(p)
		}
	}
	return ctl, errors.Join(
		controller.Watch(budgets.Informer(), controller.Handlers[*policyv1.PodDisruptionBudget]{Changed: queue}),
		controller.Watch(podInformer.Informer(), controller.Handlers[*corev1.Pod]{
			Add: ctl.podChanged, Delete: ctl.podChanged,
			Update: func(old, p *corev1.Pod) {
				if !equality.Semantic.DeepEqual(old.Labels, p.Labels) {
					ctl.podChanged(old)
				}
				ctl.podChanged(p)
			},
		}),
		controller.Watch(podInformer.Informer(), controller.Handlers[*corev1.Pod]{Changed: announced}),
		watchScale(ctl, f.Apps().V1().Deployments().Informer(), func(d *appsv1.Deployment) *int32 { return d.Spec.Replicas }),
		watchScale(ctl, f.Apps().V1().ReplicaSets().Informer(), func(s *appsv1.ReplicaSet) *int32 { return s.Spec.Replicas }),
		watchScale(ctl, f.Apps().V1().StatefulSets().Informer(), func(s *appsv1.StatefulSet) *int32 { return s.Spec.Replicas }),
		watchScale(ctl, f.Core().V1().ReplicationControllers().Informer(), func(r *corev1.ReplicationController) *int32 { return r.Spec.Replicas }),
	)
}

// watchScale looks at the budgets of a namespace again when a controller of pods there means to have another number of them: its pods may have been seen before it.
func watchScale[T metav1.Object](c *Controller, informer cache.SharedIndexInformer, replicas func(T) *int32) error {
	queue := func(o T) {
		budgets, err := c.budgets.PodDisruptionBudgets(o.GetNamespace()).List(labels.Everything())
		if err != nil {
			return // a cache does not fail
		}
		for _, b := range budgets {
			c.loop.AddObject(b)
		}
	}
	return controller.Watch(informer, controller.Handlers[T]{Add: queue, Delete: queue, Update: func(old, o T) {
		if !ptr.Equal(replicas(old), replicas(o)) {
			queue(o)
		}
	}})
}

// Run reconciles until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	var stale sync.WaitGroup
	var staleErr error
	stale.Go(func() { staleErr = c.stale.Run(ctx) })
	err := c.loop.Run(ctx)
	stale.Wait()
	return errors.Join(err, staleErr)
}

func (c *Controller) podChanged(p *corev1.Pod) {
	for _, b := range controller.In[*policyv1.PodDisruptionBudget](c.cached, p.Namespace) {
		// An empty selector selects all pods of the namespace, a missing one none.
		if selector, err := metav1.LabelSelectorAsSelector(b.Spec.Selector); err == nil && selector.Matches(labels.Set(p.Labels)) {
			c.loop.AddObject(b)
		}
	}
}

// Reconcile brings the status of one budget up to date. When that is not possible the budget grants nothing, to be safe.
func (c *Controller) Reconcile(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return nil // not a key of ours; a retry would not change it
	}
	b, err := c.budgets.PodDisruptionBudgets(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	} else if err != nil {
		return fmt.Errorf("get budget: %w", err)
	}
	status, err := c.compute(ctx, key, b)
	if err != nil {
		c.recorder.Eventf(b, corev1.EventTypeWarning, "CalculateExpectedPodCountFailed", "Failed to calculate the number of expected pods: %v", err)
		status = *b.Status.DeepCopy()
		status.DisruptionsAllowed = 0
		meta.SetStatusCondition(&status.Conditions, metav1.Condition{
			Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionFalse, Reason: policyv1.SyncFailedReason, Message: err.Error(), ObservedGeneration: b.Status.ObservedGeneration,
		})
	}
	written := c.writeStatus(ctx, b, status)
	if errors.As(err, new(noScale)) {
		return written // a change of the budget or its pods may help, and leads here
	}
	return errors.Join(err, written)
}

func (c *Controller) writeStatus(ctx context.Context, b *policyv1.PodDisruptionBudget, status policyv1.PodDisruptionBudgetStatus) error {
	if equality.Semantic.DeepEqual(b.Status, status) {
		return nil
	}
	updated := b.DeepCopy()
	updated.Status = status
	if _, err := c.client.PolicyV1().PodDisruptionBudgets(b.Namespace).UpdateStatus(ctx, updated, metav1.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("update status: %w", err)
	}
	return nil
}

func (c *Controller) compute(ctx context.Context, key string, b *policyv1.PodDisruptionBudget) (policyv1.PodDisruptionBudgetStatus, error) {
	status := policyv1.PodDisruptionBudgetStatus{Conditions: b.DeepCopy().Status.Conditions}
	selector, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
	if err != nil {
		return status, fmt.Errorf("selector: %w", err)
	}
	all, err := c.pods.Pods(b.Namespace).List(selector)
	if err != nil {
		return status, fmt.Errorf("list pods: %w", err)
	}
	// A cache lists in any order, and what the conditions say of a pod is to be of the same one each time.
	slices.SortFunc(all, func(x, y *corev1.Pod) int { return strings.Compare(x.Name, y.Name) })
	if len(all) == 0 {
		c.recorder.Event(b, corev1.EventTypeNormal, "NoPods", "No matching pods found")
	}
	expected, needed, err := c.needed(ctx, b, all)
	if err != nil {
		return status, err
	}
	disrupted, recheck := c.disrupted(b, all)
	healthy := int32(0)
	for _, p := range all {
		if _, going := disrupted[p.Name]; p.DeletionTimestamp == nil && !going && pods.Ready(p) {
			healthy++
		}
	}
	if recheck > 0 {
		c.loop.AddAfter(key, recheck)
	}
	status.ObservedGeneration, status.DisruptedPods = b.Generation, disrupted
	status.ExpectedPods, status.DesiredHealthy, status.CurrentHealthy = expected, needed, healthy
	condition := metav1.Condition{Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionFalse, Reason: policyv1.InsufficientPodsReason, ObservedGeneration: b.Generation}
	if expected > 0 {
		status.DisruptionsAllowed = max(0, healthy-needed)
	}
	if status.DisruptionsAllowed > 0 {
		condition.Status, condition.Reason = metav1.ConditionTrue, policyv1.SufficientPodsReason
	}
	if !meta.IsStatusConditionPresentAndEqual(status.Conditions, condition.Type, condition.Status) {
		condition.LastTransitionTime = metav1.NewTime(c.clock.Now())
	}
	meta.SetStatusCondition(&status.Conditions, condition)
	return status, nil
}

// needed returns how many pods there should be, and how many of them have to be healthy.
func (c *Controller) needed(ctx context.Context, b *policyv1.PodDisruptionBudget, all []*corev1.Pod) (expected, needed int32, err error) {
	switch {
	case b.Spec.MaxUnavailable != nil:
		if expected, err = c.expected(ctx, b, all); err != nil {
			return 0, 0, err
		}
		n, err := intstr.GetScaledValueFromIntOrPercent(b.Spec.MaxUnavailable, int(expected), true)
		if err != nil {
			return 0, 0, fmt.Errorf("maxUnavailable: %w", err)
		}
		return expected, max(0, expected-int32(n)), nil
	case b.Spec.MinAvailable == nil:
		return 0, 0, nil // a budget that says nothing allows nothing
	case b.Spec.MinAvailable.Type == intstr.Int:
		return int32(len(all)), b.Spec.MinAvailable.IntVal, nil
	}
	if expected, err = c.expected(ctx, b, all); err != nil {
		return 0, 0, err
	}
	n, err := intstr.GetScaledValueFromIntOrPercent(b.Spec.MinAvailable, int(expected), true)
	if err != nil {
		return 0, 0, fmt.Errorf("minAvailable: %w", err)
	}
	return expected, int32(n), nil
}

// expected adds up what the controllers of the pods mean to have. Pods without a controller cannot be counted so.
func (c *Controller) expected(ctx context.Context, b *policyv1.PodDisruptionBudget, all []*corev1.Pod) (int32, error) {
	counted := map[string]bool{}
	sum := int32(0)
	var unmanaged []string
	for _, p := range all {
		ref := metav1.GetControllerOf(p)
		if ref == nil {
			unmanaged = append(unmanaged, p.Name)
			continue
		}
		id, n, known, err := c.scales.Expected(ctx, b.Namespace, *ref)
		if err != nil {
			return 0, err
		}
		if !known {
			return 0, fmt.Errorf("found no controllers for pod %q", p.Name)
		}
		if !counted[id] {
			counted[id] = true
			sum += n
		}
	}
	if len(unmanaged) > 0 {
		c.recorder.Eventf(b, corev1.EventTypeWarning, "UnmanagedPods", "Pods selected by this PodDisruptionBudget (selector: %v) were found to be unmanaged. As a result, the status of the PDB cannot be calculated correctly, which may result in undefined behavior. To account for these pods please set \".spec.minAvailable\" field of the PDB to an integer value.", b.Spec.Selector)
	}
	return sum, nil
}

// disrupted returns the granted evictions that have not become deletions yet, and when the next of them runs out.
func (c *Controller) disrupted(b *policyv1.PodDisruptionBudget, all []*corev1.Pod) (map[string]metav1.Time, time.Duration) {
	var kept map[string]metav1.Time
	next := time.Duration(0)
	now := c.clock.Now()
	for _, p := range all {
		at, granted := b.Status.DisruptedPods[p.Name]
		if !granted || p.DeletionTimestamp != nil {
			continue
		}
		left := at.Add(deletionTimeout).Sub(now)
		if left <= 0 {
			c.recorder.Eventf(p, corev1.EventTypeWarning, "NotDeleted", "Pod was expected by PDB %s/%s to be deleted but it wasn't", b.Namespace, b.Name)
			continue
		}
		if kept == nil {
			kept = map[string]metav1.Time{}
		}
		kept[p.Name] = at
		if next == 0 || left < next {
			next = left
		}
	}
	return kept, next
}
