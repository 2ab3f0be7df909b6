package devicetainteviction

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	applymetav1 "k8s.io/client-go/applyconfigurations/meta/v1"
	applyresourcev1 "k8s.io/client-go/applyconfigurations/resource/v1"
)

// ruleStatusPeriod is how often the status of a rule is written at most. It starts some time after an eviction, when more have followed.
const ruleStatusPeriod = 10 * time.Second

// fieldManager owns the conditions of rules.
const fieldManager = "device-taint-eviction-controller"

// effects is what a rule does, or would do.
type effects struct {
	published, allocated int // devices that it selects
	pods, namespaces     int // that have to go
	evicted              int // pods, since the start
}

// count writes a number of things.
func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// conditionOf is what a rule's status says of its effects, but for the time.
func conditionOf(r *resourcev1.DeviceTaintRule, e effects) metav1.Condition {
	c := metav1.Condition{Type: resourcev1.DeviceTaintConditionEvictionInProgress, Status: metav1.ConditionFalse, ObservedGeneration: r.Generation}
	switch r.Spec.Taint.Effect {
	case resourcev1.DeviceTaintEffectNoExecute:
		switch {
		case e.pods > 0:
			c.Status, c.Reason = metav1.ConditionTrue, "PodsPendingEviction"
			c.Message = count(e.pods, "pod needs", "pods need") + " to be evicted in " + count(e.namespaces, "namespace.", "different namespaces.")
		case e.evicted > 0:
			c.Reason = "Completed"
		default:
			c.Reason = "NotStarted"
		}
	case resourcev1.DeviceTaintEffectNone:
		c.Reason = "NoEffect"
		c.Message = count(e.published, "published device", "published devices") + " selected. " + count(e.allocated, "allocated device", "allocated devices") + " selected. " +
			count(e.pods, "pod", "pods") + " would be evicted in " + count(e.namespaces, "namespace", "different namespaces") +
			" if the effect was NoExecute. This information will not be updated again. Recreate the DeviceTaintRule to trigger an update."
	default:
		c.Reason, c.Message = "OtherEffect", "Eviction only happens for the NoExecute effect."
	}
	if e.evicted > 0 {
		if c.Message != "" {
			c.Message += " "
		}
		c.Message += count(e.evicted, "pod", "pods") + " evicted since starting the controller."
	}
	return c
}

// reconcileRule says in a rule's status what it does (KEP-5055).
func (c *Controller) reconcileRule(ctx context.Context, key, name string) error {
	r, err := c.rules.Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	} else if err != nil {
		return fmt.Errorf("get rule: %w", err)
	}
	now := c.clock.Now()
	var have metav1.Condition
	if i := slices.IndexFunc(r.Status.Conditions, func(c metav1.Condition) bool { return c.Type == resourcev1.DeviceTaintConditionEvictionInProgress }); i >= 0 {
		have = r.Status.Conditions[i]
		if since := now.Sub(have.LastTransitionTime.Time); have.ObservedGeneration == r.Generation && since < ruleStatusPeriod {
			c.loop.AddAfter(key, ruleStatusPeriod-since)
			return nil
		}
	}
	e, err := c.effectsOf(r, now)
	if err != nil {
		return err
	}
	want := conditionOf(r, e)
	want.LastTransitionTime = have.LastTransitionTime
	if want == have {
		return nil
	}
	_, err = c.client.ResourceV1().DeviceTaintRules().ApplyStatus(ctx, applyresourcev1.DeviceTaintRule(name).WithUID(r.UID).WithStatus(
		applyresourcev1.DeviceTaintRuleStatus().WithConditions(applymetav1.Condition().WithType(want.Type).WithStatus(want.Status).WithReason(want.Reason).
			WithMessage(want.Message).WithObservedGeneration(want.ObservedGeneration).WithLastTransitionTime(metav1.NewTime(now)))),
		metav1.ApplyOptions{FieldManager: fieldManager, Force: true})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("add condition to DeviceTaintRule status: %w", err)
	}
	return nil
}

// effectsOf counts what a rule selects and who has to go because of it; one with the effect None is looked at as if it ended pods.
func (c *Controller) effectsOf(r *resourcev1.DeviceTaintRule, now time.Time) (effects, error) {
	c.mu.Lock()
	e := effects{evicted: c.evicted[r.UID]}
	c.mu.Unlock()
	effect := r.Spec.Taint.Effect
	if effect != resourcev1.DeviceTaintEffectNoExecute && effect != resourcev1.DeviceTaintEffectNone {
		return e, nil
	}
	all, rules, err := c.state()
	if err != nil {
		return e, err
	}
	if effect == resourcev1.DeviceTaintEffectNone {
		r = r.DeepCopy()
		r.Spec.Taint.Effect = resourcev1.DeviceTaintEffectNoExecute
		rules = []*resourcev1.DeviceTaintRule{r}
		e.published, e.allocated = c.selected(r, all)
	}
	pods, err := c.pods.List(labels.Everything())
	if err != nil {
		return e, fmt.Errorf("determine pending pods: %w", err)
	}
	namespaces := map[string]bool{}
	for _, p := range pods {
		if p.DeletionTimestamp != nil || !usesClaims(p) {
			continue
		}
		end, err := c.end(p, all, rules, now)
		if err != nil {
			return e, err
		}
		if end != nil && slices.ContainsFunc(end.rules, func(o *resourcev1.DeviceTaintRule) bool { return o.UID == r.UID }) {
			e.pods++
			namespaces[p.Namespace] = true
		}
	}
	e.namespaces = len(namespaces)
	return e, nil
}

// selected counts the devices that a rule selects: those of slices, and those of claims.
func (c *Controller) selected(r *resourcev1.DeviceTaintRule, all []*resourcev1.ResourceSlice) (published, allocated int) {
	for _, s := range all {
		if s.Spec.Pool.Generation != newestOf(all, s.Spec.Driver, s.Spec.Pool.Name) {
			continue
		}
		for i := range s.Spec.Devices {
			if selects(r, device{s.Spec.Driver, s.Spec.Pool.Name, s.Spec.Devices[i].Name}) {
				published++
			}
		}
	}
	for _, obj := range c.claims.List() {
		claim, ok := obj.(*resourcev1.ResourceClaim)
		if !ok || claim.Status.Allocation == nil {
			continue
		}
		for i := range claim.Status.Allocation.Devices.Results {
			if selects(r, deviceOf(&claim.Status.Allocation.Devices.Results[i])) {
				allocated++
			}
		}
	}
	return published, allocated
}

// usesClaims says that a pod may have devices.
func usesClaims(p *corev1.Pod) bool {
	return len(p.Spec.ResourceClaims) > 0 || p.Status.ExtendedResourceClaimStatus != nil
}
