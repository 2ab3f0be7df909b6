package devicetainteviction

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	resourcelisters "k8s.io/client-go/listers/resource/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"

	"github.com/celox/celox/internal/client/informers"
	"github.com/celox/celox/internal/controller"
)

// claimsByUser is the index of claims by the namespace/name of the pods that they are reserved for.
const claimsByUser = "devicetainteviction.user"

// Controller reconciles pods with devices.
type Controller struct {
	client   kubernetes.Interface
	pods     corelisters.PodLister
	claims   cache.Indexer
	slices   resourcelisters.ResourceSliceLister
	rules    resourcelisters.DeviceTaintRuleLister
	recorder record.EventRecorder
	clock    clock.PassiveClock
	loop     *controller.Loop

	deletions *controller.Counter
	latency   *controller.Histogram

	mu      sync.Mutex           // guards all below
	waiting map[string]types.UID // the pods whose deletion is announced, by key
	evicted map[types.UID]int    // how many pods went because of a rule
}

// ruleKey is before the keys of rules.
const ruleKey = "rule:"

// New makes the controller and registers it with the informers, which the caller starts.
func New(c kubernetes.Interface, f *informers.Factory, recorder record.EventRecorder, clk clock.PassiveClock, log *slog.Logger, m *controller.Metrics) (*Controller, error) {
	pods, claims, published, rules := f.Core().V1().Pods(), f.Resource().V1().ResourceClaims(), f.Resource().V1().ResourceSlices(), f.Resource().V1().DeviceTaintRules()
	ctl := &Controller{
		client: c, pods: pods.Lister(), claims: claims.Informer().GetIndexer(), slices: published.Lister(), rules: rules.Lister(), recorder: recorder, clock: clk,
		waiting: map[string]types.UID{}, evicted: map[types.UID]int{},
	}
	ctl.loop = controller.NewLoop("device-taint-eviction", ctl.Reconcile, controller.Options{
		Log: log, Metrics: m,
		Synced: []cache.InformerSynced{pods.Informer().HasSynced, claims.Informer().HasSynced, published.Informer().HasSynced, rules.Informer().HasSynced},
	})
	ctl.deletions = m.Counter("device_taint_eviction_controller_pod_deletions_total", "Total number of Pods deleted by DeviceTaintEvictionController since its start.")
	ctl.latency = m.Histogram("device_taint_eviction_controller_pod_deletion_duration_seconds", "Latency, in seconds, between the time when a device taint effect has been activated and a Pod's deletion via DeviceTaintEvictionController.", controller.EvictionBuckets())
	if err := errors.Join(
		claims.Informer().AddIndexers(cache.Indexers{claimsByUser: func(obj any) ([]string, error) {
			claim, ok := obj.(*resourcev1.ResourceClaim)
			if !ok || claim.Status.Allocation == nil {
				return nil, nil
			}
			return users(claim), nil
		}}),
		controller.Watch(pods.Informer(), controller.Handlers[*corev1.Pod]{
			Update: func(old, p *corev1.Pod) {
				if usesClaims(p) && (old.Spec.NodeName != p.Spec.NodeName || old.UID != p.UID) {
					ctl.loop.AddObject(p)
				}
			},
			Delete: func(p *corev1.Pod) {
				if usesClaims(p) {
					ctl.wait(p.Namespace+"/"+p.Name, nil)
				}
			},
		}),
		controller.Watch(claims.Informer(), controller.Handlers[*resourcev1.ResourceClaim]{
			Add: ctl.queueUsers, Delete: ctl.queueUsers,
			Update: func(old, claim *resourcev1.ResourceClaim) {
				if !slices.Equal(old.Status.ReservedFor, claim.Status.ReservedFor) || claim.Status.Allocation == nil {
					ctl.queueUsers(old)
				}
				ctl.queueUsers(claim)
			},
		}),
		controller.Watch(published.Informer(), controller.Handlers[*resourcev1.ResourceSlice]{
			Add: ctl.queueSlice, Delete: ctl.queueSlice,
			Update: func(old, s *resourcev1.ResourceSlice) {
				if equality.Semantic.DeepEqual(old.Spec, s.Spec) {
					return
				}
				ctl.queueSlice(old)
				ctl.queueSlice(s)
			},
		}),
		controller.Watch(rules.Informer(), controller.Handlers[*resourcev1.DeviceTaintRule]{
			Add: ctl.queueRule,
			Update: func(old, r *resourcev1.DeviceTaintRule) {
				if old.UID == r.UID && equality.Semantic.DeepEqual(old.Spec, r.Spec) {
					return // a status is what we write ourselves
				}
				ctl.queueRule(old)
				ctl.queueRule(r)
			},
			Delete: func(r *resourcev1.DeviceTaintRule) {
				ctl.mu.Lock()
				delete(ctl.evicted, r.UID)
				ctl.mu.Unlock()
				ctl.queueRule(r)
			},
		}),
	); err != nil {
		return nil, fmt.Errorf("devicetainteviction: %w", err)
	}
	return ctl, nil
}

// Run evicts until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

// users are the keys of the pods that a claim is reserved for.
func users(claim *resourcev1.ResourceClaim) []string {
	var out []string
	for _, r := range claim.Status.ReservedFor {
		if r.APIGroup == "" && r.Resource == "pods" {
			out = append(out, claim.Namespace+"/"+r.Name)
		}
	}
	return out
}

func (c *Controller) queueUsers(claim *resourcev1.ResourceClaim) {
	if claim.Status.Allocation != nil {
		for _, k := range users(claim) {
			c.loop.Add(k)
		}
	}
}

// queueDevices has the users of certain devices looked at.
// queueSlice looks at who uses the devices of a slice's pool, if it taints one.
func (c *Controller) queueSlice(s *resourcev1.ResourceSlice) {
	if slices.ContainsFunc(s.Spec.Devices, func(d resourcev1.Device) bool { return len(d.Taints) > 0 }) {
		c.queueDevices(func(d device) bool { return d.driver == s.Spec.Driver && d.pool == s.Spec.Pool.Name })
	}
}

// queueRule looks at a rule, and at who uses what it selects.
func (c *Controller) queueRule(r *resourcev1.DeviceTaintRule) {
	c.loop.Add(ruleKey + r.Name)
	if r.Spec.Taint.Effect == resourcev1.DeviceTaintEffectNoExecute {
		c.queueDevices(func(d device) bool { return selects(r, d) })
	}
}

func (c *Controller) queueDevices(is func(device) bool) {
	for _, obj := range c.claims.List() {
		claim, ok := obj.(*resourcev1.ResourceClaim)
		if !ok || claim.Status.Allocation == nil {
			continue
		}
		results := claim.Status.Allocation.Devices.Results
		if slices.ContainsFunc(results, func(r resourcev1.DeviceRequestAllocationResult) bool { return is(deviceOf(&r)) }) {
			c.queueUsers(claim)
		}
	}
}

// Reconcile evicts a pod whose patience is over, looks again when it will be, and says when the reason has gone; or writes the status of a rule.
func (c *Controller) Reconcile(ctx context.Context, key string) error {
	if name, ok := strings.CutPrefix(key, ruleKey); ok {
		return c.reconcileRule(ctx, key, name)
	}
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return nil // not a key of ours; a retry would not change it
	}
	pod, err := c.pods.Pods(namespace).Get(name)
	if apierrors.IsNotFound(err) || err == nil && (pod.DeletionTimestamp != nil || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed) {
		c.wait(key, nil)
		return nil
	} else if err != nil {
		return fmt.Errorf("get pod: %w", err)
	}
	now := c.clock.Now()
	all, rules, err := c.state()
	if err != nil {
		return err
	}
	end, err := c.end(pod, all, rules, now)
	if err != nil {
		return err
	}
	if end == nil {
		if c.wait(key, nil) == pod.UID {
			c.recorder.Event(pod, corev1.EventTypeNormal, "DeviceTaintManagerEviction", "Cancelling deletion")
		}
		return nil
	}
	c.wait(key, pod)
	for _, r := range end.rules {
		c.loop.AddAfter(ruleKey+r.Name, ruleStatusPeriod)
	}
	if left := end.at.Sub(now); left > 0 {
		c.loop.AddAfter(key, left)
		return nil
	}
	return c.evict(ctx, key, pod, end)
}

// evict ends a pod.
func (c *Controller) evict(ctx context.Context, key string, pod *corev1.Pod, end *end) error {
	c.recorder.Event(pod, corev1.EventTypeNormal, "DeviceTaintManagerEviction", "Marking for deletion")
	if err := controller.PatchPodStatus(ctx, c.client, pod, "", corev1.PodCondition{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "DeletionByDeviceTaintManager",
		Message: "Device Taint manager: deleting due to NoExecute taint", ObservedGeneration: pod.Generation, LastTransitionTime: metav1.NewTime(c.clock.Now()),
	}); err != nil {
		return err
	}
	err := c.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(pod.UID))})
	c.wait(key, nil)
	if apierrors.IsNotFound(err) {
		return nil
	} else if err != nil {
		return fmt.Errorf("evict pod: %w", err)
	}
	c.deletions.Inc()
	c.latency.Observe(c.clock.Since(end.at).Seconds())
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range end.rules {
		c.evicted[r.UID]++
	}
	return nil
}

// wait remembers that a pod's deletion is announced, or with nil that none is any more, and returns whose was.
func (c *Controller) wait(key string, p *corev1.Pod) types.UID {
	c.mu.Lock()
	defer c.mu.Unlock()
	was := c.waiting[key]
	if p == nil {
		delete(c.waiting, key)
	} else {
		c.waiting[key] = p.UID
	}
	return was
}

// state is what taints devices.
func (c *Controller) state() ([]*resourcev1.ResourceSlice, []*resourcev1.DeviceTaintRule, error) {
	all, err := c.slices.List(labels.Everything())
	if err != nil {
		return nil, nil, fmt.Errorf("list slices: %w", err)
	}
	rules, err := c.rules.List(labels.Everything())
	if err != nil {
		return nil, nil, fmt.Errorf("list rules: %w", err)
	}
	return all, rules, nil
}

// end says when a pod has to go; nil is never. One that has no node has not begun to use anything.
func (c *Controller) end(pod *corev1.Pod, all []*resourcev1.ResourceSlice, rules []*resourcev1.DeviceTaintRule, now time.Time) (*end, error) {
	if pod.Spec.NodeName == "" {
		return nil, nil
	}
	found, err := c.claims.ByIndex(claimsByUser, pod.Namespace+"/"+pod.Name)
	if err != nil {
		return nil, fmt.Errorf("claims of pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	var out *end
	for _, obj := range found {
		claim, ok := obj.(*resourcev1.ResourceClaim)
		if !ok || !slices.ContainsFunc(claim.Status.ReservedFor, func(r resourcev1.ResourceClaimConsumerReference) bool { return r.UID == pod.UID }) {
			continue
		}
		for i := range claim.Status.Allocation.Devices.Results {
			r := &claim.Status.Allocation.Devices.Results[i]
			out = out.and(patience(r.Tolerations, taintsOf(deviceOf(r), all, rules), now))
		}
	}
	return out, nil
}
