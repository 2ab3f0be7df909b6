package disruption

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
)

// staleTimeout is how long a pod may be said to be about to be disrupted without being deleted; then whoever meant to has given up.
const staleTimeout = 2 * time.Minute

// disruptionTarget returns the condition that announces a pod's disruption, if it can become stale. The kubelet's own word never does: it may need long
// to end a pod.
func disruptionTarget(p *corev1.Pod) *corev1.PodCondition {
	if p.DeletionTimestamp != nil || p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
		return nil
	}
	for i := range p.Status.Conditions {
		c := &p.Status.Conditions[i]
		if c.Type == corev1.DisruptionTarget && c.Status == corev1.ConditionTrue && c.Reason != corev1.PodReasonTerminationByKubelet {
			return c
		}
	}
	return nil
}

// takeBack withdraws the announcement of a pod's disruption when it is stale, or comes back when it will be.
func (c *Controller) takeBack(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return nil // not a key of ours; a retry would not change it
	}
	p, err := c.pods.Pods(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	} else if err != nil {
		return fmt.Errorf("get pod: %w", err)
	}
	target := disruptionTarget(p)
	if target == nil {
		return nil
	}
	if left := target.LastTransitionTime.Add(staleTimeout).Sub(c.clock.Now()); left > 0 {
		c.stale.AddAfter(key, left)
		return nil
	}
	updated := p.DeepCopy()
	*disruptionTarget(updated) = corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionFalse, ObservedGeneration: p.Generation, LastTransitionTime: metav1.NewTime(c.clock.Now())}
	if _, err := c.client.CoreV1().Pods(namespace).UpdateStatus(ctx, updated, metav1.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("update pod status: %w", err)
	}
	return nil
}
