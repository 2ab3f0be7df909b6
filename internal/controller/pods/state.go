package pods

import (
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Ended says that a pod's containers have all ended for good.
func Ended(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

// Active says that a pod counts: it neither ended nor is being deleted.
func Active(p *corev1.Pod) bool { return !Ended(p) && p.DeletionTimestamp == nil }

// Terminating says that a pod is being deleted and has not ended yet.
func Terminating(p *corev1.Pod) bool { return !Ended(p) && p.DeletionTimestamp != nil }

// Condition returns the condition of a type, or nil.
func Condition(p *corev1.Pod, t corev1.PodConditionType) *corev1.PodCondition {
	for i := range p.Status.Conditions {
		if p.Status.Conditions[i].Type == t {
			return &p.Status.Conditions[i]
		}
	}
	return nil
}

// ReadySince says whether a pod is ready, and since when.
func ReadySince(p *corev1.Pod) (time.Time, bool) {
	if c := Condition(p, corev1.PodReady); c != nil && c.Status == corev1.ConditionTrue {
		return c.LastTransitionTime.Time, true
	}
	return time.Time{}, false
}

// Ready says that a pod is ready.
func Ready(p *corev1.Pod) bool {
	_, ready := ReadySince(p)
	return ready
}

// Available says that a pod has been ready for minReady.
func Available(p *corev1.Pod, minReady time.Duration, now time.Time) bool {
	since, ready := ReadySince(p)
	return ready && (minReady == 0 || !since.IsZero() && !since.Add(minReady).After(now))
}
