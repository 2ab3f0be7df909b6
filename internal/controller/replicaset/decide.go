package replicaset

import (
	"cmp"
	"math/bits"
	"slices"
	"strconv"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/utils/ptr"

	"github.com/celox/celox/internal/controller/pods"
)

// computeStatus says what the status is, given the set's active pods, the number of those on their way out, and the error of this
// round's creations or deletions.
func computeStatus(rs *appsv1.ReplicaSet, active []*corev1.Pod, terminating int, manageErr error, now time.Time) appsv1.ReplicaSetStatus {
	status := *rs.Status.DeepCopy()
	status.Replicas = int32(len(active))
	status.FullyLabeledReplicas, status.ReadyReplicas, status.AvailableReplicas = 0, 0, 0
	template := labels.Set(rs.Spec.Template.Labels).AsSelectorPreValidated()
	minReady := time.Duration(rs.Spec.MinReadySeconds) * time.Second
	for _, p := range active {
		if template.Matches(labels.Set(p.Labels)) {
			status.FullyLabeledReplicas++
		}
		if pods.Ready(p) {
			status.ReadyReplicas++
		}
		if pods.Available(p, minReady, now) {
			status.AvailableReplicas++
		}
	}
	status.TerminatingReplicas = ptr.To(int32(terminating))
	status.ObservedGeneration = rs.Generation
	failure := slices.IndexFunc(status.Conditions, func(c appsv1.ReplicaSetCondition) bool { return c.Type == appsv1.ReplicaSetReplicaFailure })
	switch {
	case manageErr != nil && failure < 0:
		reason := "FailedCreate"
		if rs.Spec.Replicas != nil && len(active) > int(*rs.Spec.Replicas) {
			reason = "FailedDelete"
		}
		status.Conditions = append(status.Conditions, appsv1.ReplicaSetCondition{
			Type: appsv1.ReplicaSetReplicaFailure, Status: corev1.ConditionTrue, Reason: reason, Message: pods.Cause(manageErr),
			LastTransitionTime: metav1.NewTime(now),
		})
	case manageErr == nil && failure >= 0:
		status.Conditions = slices.Delete(status.Conditions, failure, failure+1)
	}
	return status
}

// victims chooses n of the active pods to delete: what is worth least first. related are the active pods of the set and of its
// siblings; a pod that shares its node with more of them ranks earlier.
func victims(active, related []*corev1.Pod, n int, now time.Time) []*corev1.Pod {
	if n >= len(active) {
		return active
	}
	perNode := map[string]int{}
	for _, p := range related {
		if p.Spec.NodeName != "" {
			perNode[p.Spec.NodeName]++
		}
	}
	ranked := slices.Clone(active)
	slices.SortStableFunc(ranked, func(a, b *corev1.Pod) int { return compareWorth(a, b, perNode, now) })
	return ranked[:n]
}

// compareWorth orders by upstream's rules: unassigned < assigned, pending < unknown < running, not ready < ready, lower deletion
// cost < higher, more siblings on the node < fewer, ready for less time < longer, more restarts < fewer, newer < older. Times are compared
// by magnitude (a power of two), so that an old pod is not kept for seconds of difference (upstream KEP-2185).
func compareWorth(a, b *corev1.Pod, perNode map[string]int, now time.Time) int {
	phase := func(p *corev1.Pod) int {
		switch p.Status.Phase {
		case corev1.PodPending:
			return 0
		case corev1.PodUnknown:
			return 1
		}
		return 2
	}
	aSince, aReady := pods.ReadySince(a)
	bSince, bReady := pods.ReadySince(b)
	if c := cmp.Or(
		compareBool(a.Spec.NodeName != "", b.Spec.NodeName != ""),
		cmp.Compare(phase(a), phase(b)),
		compareBool(aReady, bReady),
		cmp.Compare(deletionCost(a), deletionCost(b)),
		cmp.Compare(perNode[b.Spec.NodeName], perNode[a.Spec.NodeName]),
	); c != 0 {
		return c
	}
	if aReady && bReady && !aSince.Equal(bSince) {
		if c := compareAge(aSince, bSince, now); c != 0 {
			return c
		}
	}
	aRestarts, aSidecars := pods.Restarts(a)
	bRestarts, bSidecars := pods.Restarts(b)
	return cmp.Or(
		cmp.Compare(bRestarts, aRestarts),
		cmp.Compare(bSidecars, aSidecars),
		compareAge(a.CreationTimestamp.Time, b.CreationTimestamp.Time, now),
		cmp.Compare(a.UID, b.UID),
	)
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// compareAge puts the younger first, by the magnitude of the age in seconds; an unset time is the youngest.
func compareAge(a, b time.Time, now time.Time) int {
	magnitude := func(t time.Time) int {
		if t.IsZero() {
			return -1
		}
		return bits.Len64(uint64(max(0, now.Sub(t).Seconds())))
	}
	return cmp.Compare(magnitude(a), magnitude(b))
}

func deletionCost(p *corev1.Pod) int32 {
	n, err := strconv.ParseInt(p.Annotations[corev1.PodDeletionCost], 10, 32)
	if err != nil {
		return 0 // absent, or refused by validation
	}
	return int32(n)
}
