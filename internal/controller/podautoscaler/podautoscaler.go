package podautoscaler

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"
	autoscalinglisters "k8s.io/client-go/listers/autoscaling/v2"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/retry"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"

	"github.com/celox/celox/internal/client/informers"
	"github.com/celox/celox/internal/controller"
)

// period is how long after one look at an autoscaler the next follows. Metrics have no events.
const period = 15 * time.Second

// Scales reads and writes the size of workloads.
type Scales interface {
	Scale(ctx context.Context, namespace string, target *autoscalingv2.CrossVersionObjectReference) (*autoscalingv1.Scale, error)
	Resize(ctx context.Context, namespace string, target *autoscalingv2.CrossVersionObjectReference, scale *autoscalingv1.Scale) error
}

// Config is what a Controller needs.
type Config struct {
	Client    kubernetes.Interface
	Informers *informers.Factory
	Source    Source
	Scales    Scales
	Recorder  record.EventRecorder
	Clock     clock.PassiveClock
	Log       *slog.Logger
	Queue     *controller.Metrics
	Metrics   *Metrics
}

// Controller reconciles HorizontalPodAutoscalers.
type Controller struct {
	Config
	autoscalers autoscalinglisters.HorizontalPodAutoscalerLister
	pods        corelisters.PodLister
	calculator  calculator
	loop        *controller.Loop

	mu sync.Mutex // guards the map; what is in it belongs to the one worker that has the key, but for the selector
	// known is what is remembered of each autoscaler, by key.
	known map[string]*memory
}

// memory is what is remembered of one autoscaler.
type memory struct {
	history  history
	selector labels.Selector // guarded by Controller.mu
	// written is the revision of the status that was written last; behind says that the informer had not shown it when the autoscaler was to be looked
	// at. Both are guarded by Controller.mu.
	written uint64
	behind  bool
}

// New makes the controller and registers it with the informers, which the caller starts.
func New(cfg Config) (*Controller, error) {
	autoscalers, pods := cfg.Informers.Autoscaling().V2().HorizontalPodAutoscalers(), cfg.Informers.Core().V1().Pods()
	c := &Controller{
		Config: cfg, autoscalers: autoscalers.Lister(), pods: pods.Lister(), known: map[string]*memory{},
		calculator: calculator{source: cfg.Source, pods: pods.Lister(), clock: cfg.Clock},
	}
	c.loop = controller.NewLoop("horizontalpodautoscaler", c.Reconcile, controller.Options{
		Workers: 5, Log: cfg.Log, Metrics: cfg.Queue, Synced: []cache.InformerSynced{autoscalers.Informer().HasSynced, pods.Informer().HasSynced},
	})
	queue := func(h *autoscalingv2.HorizontalPodAutoscaler) { c.loop.AddObject(h) }
	if err := controller.Watch(autoscalers.Informer(), controller.Handlers[*autoscalingv2.HorizontalPodAutoscaler]{
		Add: queue, Delete: queue,
		Update: func(old, h *autoscalingv2.HorizontalPodAutoscaler) {
			// A status is what we write ourselves.
			if old.UID != h.UID || !equality.Semantic.DeepEqual(old.Spec, h.Spec) || c.waited(h) {
				c.loop.AddObject(h)
			}
		},
	}); err != nil {
		return nil, fmt.Errorf("podautoscaler: %w", err)
	}
	return c, nil
}

// Run reconciles until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

// Reconcile looks once at an autoscaler, and again after the period whatever it finds: an error is in the conditions then.
func (c *Controller) Reconcile(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return nil // not a key of ours; a retry would not change it
	}
	cached, err := c.autoscalers.HorizontalPodAutoscalers(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		c.forget(key)
		return nil
	} else if err != nil {
		return fmt.Errorf("get autoscaler: %w", err)
	}
	defer c.loop.AddAfter(key, period)
	memory := c.remember(key)
	if c.isBehind(memory, cached) {
		c.Metrics.skipped()
		return nil // it is looked at when what was written is seen
	}
	start := c.Clock.Now()
	r := round{Controller: c, key: key, h: cached.DeepCopy(), memory: memory, now: metav1.NewTime(start)}
	failed := r.run(ctx)
	if failed != nil {
		c.Log.Debug("autoscaler", "key", key, "err", failed) // said in the conditions
	}
	err = r.write(ctx, cached)
	c.Metrics.reconciled(r.did(), failure(cmp.Or(failed, err)), c.Clock.Since(start))
	return err
}

// failure is the label of an error in the metrics.
func failure(err error) string {
	switch {
	case errors.Is(err, errSpec):
		return "spec"
	case err != nil:
		return "internal"
	default:
		return "none"
	}
}

func (c *Controller) remember(key string) *memory {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.known[key]
	if m == nil {
		m = &memory{}
		c.known[key] = m
		c.Metrics.count(len(c.known))
	}
	return m
}

// isBehind says that an autoscaler is older than what was written of it last: what was done then would be done again.
func (c *Controller) isBehind(m *memory, h *autoscalingv2.HorizontalPodAutoscaler) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	m.behind = revision(h) < m.written
	return m.behind
}

// waited says that a look at an autoscaler waits for this form of it.
func (c *Controller) waited(h *autoscalingv2.HorizontalPodAutoscaler) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.known[cache.MetaObjectToName(h).String()]
	return m != nil && m.behind && revision(h) >= m.written
}

// revision reads a resource version, which the API lets one compare since v1.35 (KEP-5504).
func revision(h *autoscalingv2.HorizontalPodAutoscaler) uint64 {
	n, err := strconv.ParseUint(h.ResourceVersion, 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func (c *Controller) forget(key string) {
	c.Metrics.forget(key)
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.known, key)
	c.Metrics.count(len(c.known))
}

// claimants are the autoscalers that control some of the pods, sorted, two at most; key has just been given its selector.
func (c *Controller) claimants(key string, selector labels.Selector, pods []*corev1.Pod) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.known[key].selector = selector
	var out []string
	for other, m := range c.known {
		namespace, _, err := cache.SplitMetaNamespaceKey(other)
		if err != nil || m.selector == nil {
			continue
		}
		if slices.ContainsFunc(pods, func(p *corev1.Pod) bool { return p.Namespace == namespace && m.selector.Matches(labels.Set(p.Labels)) }) {
			out = append(out, other)
		}
	}
	slices.Sort(out)
	return out[:min(len(out), 2)]
}

// round is one look at one autoscaler.
type round struct {
	*Controller
	key    string
	h      *autoscalingv2.HorizontalPodAutoscaler
	memory *memory
	now    metav1.Time
	// from and to are the sizes before and after, for the metrics.
	from, to int32
}

func (r *round) did() string { return action(r.from, r.to) }

func (r *round) set(t autoscalingv2.HorizontalPodAutoscalerConditionType, v verdict) {
	setCondition(r.h, t, v, r.now)
}

func (r *round) warn(reason, message string) {
	r.Recorder.Event(r.h, corev1.EventTypeWarning, reason, message)
}

// run does what the autoscaler asks for now and leaves the new status in r.h.
func (r *round) run(ctx context.Context) error {
	h := r.h
	scale, err := r.scale(ctx)
	if err != nil {
		r.warn("FailedGetScale", err.Error())
		r.set(autoscalingv2.AbleToScale, isFalse("FailedGetScale", "the HPA controller was unable to get the target's current scale: %v", err))
		return err
	}
	r.set(autoscalingv2.AbleToScale, isTrue("SucceededGetScale", "the HPA controller was able to get the target's current scale"))
	current := scale.Spec.Replicas
	r.from, r.to = current, current
	hist := &r.memory.history
	if len(hist.recommendations) == 0 {
		hist.recommendations = []recommendation{{current, r.now.Time}}
	}
	desired, reason, statuses, err := r.decide(ctx, scale)
	if errors.Is(err, errNoDecision) {
		r.status(current, h.Status.DesiredReplicas, statuses)
		r.warn("FailedComputeMetricsReplicas", err.Error())
		return err
	}
	if desired == current {
		r.sized(current, current, statuses)
		return err
	}
	if failed := r.resize(ctx, scale, desired); failed != nil {
		r.warn("FailedRescale", fmt.Sprintf("New size: %d; reason: %s; error: %v", desired, reason, failed))
		r.set(autoscalingv2.AbleToScale, isFalse("FailedUpdateScale", "the HPA controller was unable to update the target scale: %v", failed))
		r.status(current, h.Status.DesiredReplicas, statuses)
		return failed
	}
	r.to = desired
	r.set(autoscalingv2.AbleToScale, isTrue("SucceededRescale", "the HPA controller was able to update the target scale to %d", desired))
	r.Recorder.Eventf(h, corev1.EventTypeNormal, "SuccessfulRescale", "New size: %d; reason: %s", desired, reason)
	hist.changed(h.Spec.Behavior, current, desired, r.now.Time)
	if current > 0 && desired == 0 && r.bounds().least == 0 && hasOutside(h) {
		r.set(autoscalingv2.ScaledToZero, isTrue("ScaledToZero", "the HPA controller scaled the workload to zero"))
	} else {
		r.set(autoscalingv2.ScaledToZero, isFalse("NotScaledToZero", "the HPA controller did not scale the workload to zero"))
	}
	r.sized(current, desired, statuses)
	h.Status.LastScaleTime = &r.now
	return err
}

// resize writes the size, once more if somebody else has just written the workload.
func (r *round) resize(ctx context.Context, scale *autoscalingv1.Scale, n int32) error {
	h, target := r.h, &r.h.Spec.ScaleTargetRef
	return retry.RetryOnConflict(retry.DefaultRetry, func() error {
		scale.Spec.Replicas = n
		err := r.Scales.Resize(ctx, h.Namespace, target, scale)
		if err == nil {
			return nil
		}
		if latest, failed := r.Scales.Scale(ctx, h.Namespace, target); failed == nil {
			scale = latest
		}
		return err
	})
}

func (r *round) bounds() bounds {
	return bounds{ptr.Deref(r.h.Spec.MinReplicas, 1), r.h.Spec.MaxReplicas}
}

// isSetToZero says that the workload has no pods because its autoscaler wanted that, and not somebody else: only then it grows again (KEP-2021).
func isSetToZero(h *autoscalingv2.HorizontalPodAutoscaler) bool {
	return slices.ContainsFunc(h.Status.Conditions, func(c autoscalingv2.HorizontalPodAutoscalerCondition) bool {
		return c.Type == autoscalingv2.ScaledToZero && c.Status == corev1.ConditionTrue
	})
}

// hasOutside says that there is a metric that can be known without pods.
func hasOutside(h *autoscalingv2.HorizontalPodAutoscaler) bool {
	return slices.ContainsFunc(h.Spec.Metrics, func(m autoscalingv2.MetricSpec) bool {
		return m.Type == autoscalingv2.ObjectMetricSourceType || m.Type == autoscalingv2.ExternalMetricSourceType
	})
}

func (r *round) scale(ctx context.Context) (*autoscalingv1.Scale, error) {
	if _, err := schema.ParseGroupVersion(r.h.Spec.ScaleTargetRef.APIVersion); err != nil {
		return nil, misspelt{err}
	}
	return r.Scales.Scale(ctx, r.h.Namespace, &r.h.Spec.ScaleTargetRef)
}

// errNoDecision is the kind of errors after which nobody knows what size is right.
var errNoDecision = errors.New("no decision")

// undecided is an error of that kind that reads like its cause.
type undecided struct{ error }

func (undecided) Is(target error) bool { return target == errNoDecision }

// decide says what size the workload should have, why it is another one if it is, and what was measured. It may decide although some metrics failed.
func (r *round) decide(ctx context.Context, scale *autoscalingv1.Scale) (int32, string, []autoscalingv2.MetricStatus, error) {
	current, within := scale.Spec.Replicas, r.bounds()
	switch {
	case current == 0 && !(isSetToZero(r.h) && (within.least != 0 || hasOutside(r.h))): // somebody else wants no pods
		r.set(autoscalingv2.ScalingActive, isFalse("ScalingDisabled", "scaling is disabled since the replica count of the target is zero"))
		return 0, "", nil, nil
	case current == 0: // it is for the metrics to say
	case current > within.most:
		return within.most, "Current number of replicas above Spec.MaxReplicas", nil, nil
	case current < within.least:
		return within.least, "Current number of replicas below Spec.MinReplicas", nil, nil
	}
	wanted, metric, statuses, err := r.measure(ctx, scale)
	if errors.Is(err, errNoDecision) {
		return current, "", statuses, err
	}
	out := r.memory.history.limit(r.h.Spec.Behavior, current, wanted, within, r.now.Time)
	if current == 0 {
		out.replicas = max(out.replicas, within.least) // there was no least when it shrank
	}
	r.set(autoscalingv2.AbleToScale, out.able)
	r.set(autoscalingv2.ScalingLimited, out.limited)
	reason := "" // what was wanted before may count still
	switch {
	case wanted > current:
		reason = metric + " above target"
	case wanted < current:
		reason = "All metrics below target"
	case current == 0 && out.replicas > 0:
		reason = "Current number of replicas below Spec.MinReplicas"
	}
	return out.replicas, reason, statuses, err
}

// measure asks all metrics; the one that wants most pods wins. If one fails the workload may grow, but not shrink.
func (r *round) measure(ctx context.Context, scale *autoscalingv1.Scale) (int32, string, []autoscalingv2.MetricStatus, error) {
	selector, err := r.selector(scale)
	if err != nil {
		return 0, "", nil, undecided{err}
	}
	w := workload{namespace: r.h.Namespace, selector: selector, spec: scale.Spec.Replicas, status: scale.Status.Replicas, tolerance: toleranceOf(r.h)}
	statuses := make([]autoscalingv2.MetricStatus, len(r.h.Spec.Metrics))
	wanted, metric, invalid := int32(0), "", 0
	var first error
	var why verdict
	for i := range r.h.Spec.Metrics {
		m := &r.h.Spec.Metrics[i]
		begin := r.Clock.Now()
		e := r.calculator.evaluate(ctx, w, m)
		did := action(r.h.Status.CurrentReplicas, e.replicas)
		if e.err != nil {
			did = action(0, 0)
		}
		r.Metrics.metric(did, failure(e.err), string(m.Type), r.Clock.Since(begin))
		if e.err != nil {
			r.warn(e.reason, e.err.Error())
			if invalid++; invalid == 1 {
				first, why = e.all(), isFalse(e.reason, "the HPA was unable to compute the replica count: %v", e.err)
			}
			continue
		}
		statuses[i] = e.status
		if wanted == 0 || e.replicas > wanted {
			wanted, metric = e.replicas, e.name
		}
	}
	if invalid > 0 {
		first = fmt.Errorf("invalid metrics (%d invalid out of %d), first error is: %w", invalid, len(statuses), first)
	}
	if invalid >= len(statuses) || invalid > 0 && wanted < w.spec {
		r.set(autoscalingv2.ScalingActive, why)
		return 0, "", statuses, undecided{first}
	}
	r.set(autoscalingv2.ScalingActive, isTrue("ValidMetricFound", "the HPA was able to successfully calculate a replica count from %s", metric))
	return wanted, metric, statuses, first
}

// selector is whose pods are measured; no other autoscaler may control any of them.
func (r *round) selector(scale *autoscalingv1.Scale) (labels.Selector, error) {
	bad := func(reason, message, condition string) (labels.Selector, error) {
		r.warn(reason, message)
		if reason == "SelectorRequired" {
			reason = "InvalidSelector"
		}
		r.set(autoscalingv2.ScalingActive, isFalse(reason, "%s", condition))
		return nil, errors.New(message)
	}
	if scale.Status.Selector == "" {
		return bad("SelectorRequired", "selector is required", "the HPA target's scale is missing a selector")
	}
	selector, err := labels.Parse(scale.Status.Selector)
	if err != nil {
		message := fmt.Sprintf("couldn't convert selector into a corresponding internal selector object: %v", err)
		return bad("InvalidSelector", message, message)
	}
	pods, err := r.pods.Pods(r.h.Namespace).List(selector)
	if err != nil {
		return nil, fmt.Errorf("list pods: %w", err)
	}
	if all := r.claimants(r.key, selector, pods); len(all) > 1 {
		message := fmt.Sprintf("pods by selector %s are controlled by more than one HPA (e.g. %v)", scale.Status.Selector, all)
		return bad("AmbiguousSelector", message, message)
	}
	return selector, nil
}

// status notes sizes and measurements.
func (r *round) status(current, desired int32, metrics []autoscalingv2.MetricStatus) {
	r.h.Status = autoscalingv2.HorizontalPodAutoscalerStatus{
		ObservedGeneration: &r.h.Generation,
		CurrentReplicas:    current, DesiredReplicas: desired, CurrentMetrics: metrics, Conditions: r.h.Status.Conditions, LastScaleTime: r.h.Status.LastScaleTime,
	}
}

// sized is status of a round that knew what size is right.
func (r *round) sized(current, desired int32, metrics []autoscalingv2.MetricStatus) {
	r.status(current, desired, metrics)
	r.Metrics.desire(r.h.Namespace, r.h.Name, desired)
}

// write writes the status if it changed.
func (r *round) write(ctx context.Context, cached *autoscalingv2.HorizontalPodAutoscaler) error {
	if equality.Semantic.DeepEqual(cached.Status, r.h.Status) {
		return nil
	}
	got, err := r.Client.AutoscalingV2().HorizontalPodAutoscalers(r.h.Namespace).UpdateStatus(ctx, r.h, metav1.UpdateOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		r.warn("FailedUpdateStatus", err.Error())
		return fmt.Errorf("update status: %w", err)
	}
	if err == nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.memory.written = revision(got)
	}
	return nil
}
