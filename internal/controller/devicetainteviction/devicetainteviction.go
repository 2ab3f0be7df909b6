package devicetainteviction

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
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
}

// New makes the controller and registers it with the informers, which the caller starts.
func New(c kubernetes.Interface, f *informers.Factory, recorder record.EventRecorder, clk clock.PassiveClock, log *slog.Logger, m *controller.Metrics) (*Controller, error) {
	pods, claims, slices, rules := f.Core().V1().Pods(), f.Resource().V1().ResourceClaims(), f.Resource().V1().ResourceSlices(), f.Resource().V1().DeviceTaintRules()
	ctl := &Controller{
		client: c, pods: pods.Lister(), claims: claims.Informer().GetIndexer(), slices: slices.Lister(), rules: rules.Lister(), recorder: recorder, clock: clk,
	}
	ctl.loop = controller.NewLoop("device-taint-eviction", ctl.Reconcile, controller.Options{
		Log: log, Metrics: m,
		Synced: []cache.InformerSynced{pods.Informer().HasSynced, claims.Informer().HasSynced, slices.Informer().HasSynced, rules.Informer().HasSynced},
	})
	ctl.deletions = m.Counter("device_taint_eviction_controller_pod_deletions_total", "Pods that were deleted because of a taint of a device.")
	ctl.latency = m.Histogram("device_taint_eviction_controller_pod_deletion_duration_seconds", "From when a taint concerned a pod, and its patience was over, until it was deleted.", controller.EvictionBuckets())
	if err := errors.Join(
		claims.Informer().AddIndexers(cache.Indexers{claimsByUser: func(obj any) ([]string, error) {
			claim, ok := obj.(*resourcev1.ResourceClaim)
			if !ok || claim.Status.Allocation == nil {
				return nil, nil
			}
			return users(claim), nil
		}}),
		controller.Watch(claims.Informer(), controller.Handlers[*resourcev1.ResourceClaim]{Changed: ctl.queueUsers}),
		controller.Watch(slices.Informer(), controller.Handlers[*resourcev1.ResourceSlice]{Changed: func(s *resourcev1.ResourceSlice) {
			for i := range s.Spec.Devices {
				if len(s.Spec.Devices[i].Taints) > 0 {
					ctl.queueDevices(func(d device) bool { return d.driver == s.Spec.Driver && d.pool == s.Spec.Pool.Name })
					return
				}
			}
		}}),
		controller.Watch(rules.Informer(), controller.Handlers[*resourcev1.DeviceTaintRule]{Changed: func(r *resourcev1.DeviceTaintRule) {
			if r.Spec.Taint.Effect == resourcev1.DeviceTaintEffectNoExecute {
				ctl.queueDevices(func(d device) bool { return selects(r, d) })
			}
		}}),
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

// Reconcile evicts one pod, or comes back when its time is up.
func (c *Controller) Reconcile(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return nil // not a key of ours; a retry would not change it
	}
	pod, err := c.pods.Pods(namespace).Get(name)
	if apierrors.IsNotFound(err) || err == nil && (pod.DeletionTimestamp != nil || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed) {
		return nil
	} else if err != nil {
		return fmt.Errorf("get pod: %w", err)
	}
	now := c.clock.Now()
	deadline, ends, err := c.deadline(pod, key, now)
	if err != nil || !ends {
		return err
	}
	if left := deadline.Sub(now); left > 0 {
		c.loop.AddAfter(key, left)
		return nil
	}
	c.recorder.Eventf(pod, corev1.EventTypeNormal, "DeviceTaintManagerEviction", "Marking for deletion Pod %s", key)
	if err := controller.PatchPodStatus(ctx, c.client, pod, "", corev1.PodCondition{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "DeletionByDeviceTaintManager",
		Message: "Device Taint manager: deleting due to NoExecute taint", LastTransitionTime: metav1.NewTime(now),
	}); err != nil {
		return err
	}
	err = c.client.CoreV1().Pods(namespace).Delete(ctx, name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(pod.UID))})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("evict pod: %w", err)
	}
	c.deletions.Inc()
	c.latency.Observe(c.clock.Since(deadline).Seconds())
	return nil
}

// deadline is when the first of the pod's devices may no longer be used; forever is false.
func (c *Controller) deadline(pod *corev1.Pod, key string, now time.Time) (deadline time.Time, ends bool, err error) {
	found, err := c.claims.ByIndex(claimsByUser, key)
	if err != nil {
		return time.Time{}, false, fmt.Errorf("claims of pod %s: %w", key, err)
	}
	if len(found) == 0 {
		return time.Time{}, false, nil
	}
	all, err := c.slices.List(labels.Everything())
	if err != nil {
		return time.Time{}, false, fmt.Errorf("list slices: %w", err)
	}
	rules, err := c.rules.List(labels.Everything())
	if err != nil {
		return time.Time{}, false, fmt.Errorf("list rules: %w", err)
	}
	for _, obj := range found {
		claim, ok := obj.(*resourcev1.ResourceClaim)
		if !ok || !slices.ContainsFunc(claim.Status.ReservedFor, func(r resourcev1.ResourceClaimConsumerReference) bool { return r.UID == pod.UID }) {
			continue
		}
		for i := range claim.Status.Allocation.Devices.Results {
			r := &claim.Status.Allocation.Devices.Results[i]
			if until, limited := patience(r.Tolerations, taintsOf(deviceOf(r), all, rules), now); limited && (!ends || until.Before(deadline)) {
				deadline, ends = until, true
			}
		}
	}
	return deadline, ends, nil
}
