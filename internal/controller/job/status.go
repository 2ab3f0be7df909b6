package job

import (
	"cmp"
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/celox/celox/internal/controller/pods"
)

// Back-off after failed pods: 10 seconds, doubling to 10 minutes, forgotten with a success.
const (
	minBackoff = 10 * time.Second
	maxBackoff = 10 * time.Minute
)

func condition(s *batchv1.JobStatus, t batchv1.JobConditionType) *batchv1.JobCondition {
	for i := range s.Conditions {
		if s.Conditions[i].Type == t {
			return &s.Conditions[i]
		}
	}
	return nil
}

func isTrue(s *batchv1.JobStatus, t batchv1.JobConditionType) bool {
	c := condition(s, t)
	return c != nil && c.Status == corev1.ConditionTrue
}

// Finished says that a Job has come to its end, and when.
func Finished(j *batchv1.Job) (time.Time, bool) {
	for _, t := range []batchv1.JobConditionType{batchv1.JobComplete, batchv1.JobFailed} {
		if c := condition(&j.Status, t); c != nil && c.Status == corev1.ConditionTrue {
			return c.LastTransitionTime.Time, true
		}
	}
	return time.Time{}, false
}

// setCondition sets a condition and says whether that changed its status.
func setCondition(s *batchv1.JobStatus, t batchv1.JobConditionType, status corev1.ConditionStatus, reason, message string, now time.Time) bool {
	c := condition(s, t)
	if c == nil {
		if status == corev1.ConditionFalse {
			return false
		}
		s.Conditions = append(s.Conditions, batchv1.JobCondition{Type: t})
		c = &s.Conditions[len(s.Conditions)-1]
	}
	if c.Status == status {
		return false
	}
	c.Status, c.Reason, c.Message = status, reason, message
	c.LastTransitionTime, c.LastProbeTime = metav1.NewTime(now), metav1.NewTime(now)
	return true
}

func isSuspended(j *batchv1.Job) bool { return ptr.Deref(j.Spec.Suspend, false) }

// replacesOnlyFailed says that a pod on its way out is not replaced before it has ended.
func replacesOnlyFailed(j *batchv1.Job) bool {
	return j.Spec.PodReplacementPolicy != nil && *j.Spec.PodReplacementPolicy == batchv1.Failed || j.Spec.PodFailurePolicy != nil
}

// hasFailed says that a pod counts as failed: it ended so, or it is being deleted and nobody waits for its end.
func hasFailed(j *batchv1.Job, p *corev1.Pod) bool {
	if p.Status.Phase == corev1.PodFailed {
		return true
	}
	return !replacesOnlyFailed(j) && p.DeletionTimestamp != nil && p.Status.Phase != corev1.PodSucceeded
}

// finishedAt returns when a pod ended: when its last container did, or its deletion was asked for.
func finishedAt(p *corev1.Pod) time.Time {
	var last time.Time
	for i := range p.Status.ContainerStatuses {
		if t := p.Status.ContainerStatuses[i].State.Terminated; t != nil && t.FinishedAt.After(last) {
			last = t.FinishedAt.Time
		}
	}
	if !last.IsZero() {
		return last
	}
	if c := pods.Condition(p, corev1.PodReady); c != nil && c.Status == corev1.ConditionFalse && !c.LastTransitionTime.IsZero() {
		return c.LastTransitionTime.Time
	}
	if p.DeletionTimestamp != nil {
		return p.DeletionTimestamp.Add(-time.Duration(ptr.Deref(p.DeletionGracePeriodSeconds, 0)) * time.Second)
	}
	return p.CreationTimestamp.Time
}

// failures is what is remembered of the pods of a Job that failed: as they may be deleted at once, the pods that are there do not tell.
type failures struct {
	job  types.UID
	many int       // since the last success
	last time.Time // when the newest of them failed
	seen map[types.UID]bool
}

// see counts the pods that ended and were not seen before; tracked says which of them are not counted in the Job's status yet. Of a Job that
// nothing is known of, all pods that are there say how it went so far.
func (f *failures) see(j *batchv1.Job, ended []*corev1.Pod, tracked map[types.UID]bool) {
	first := f.job != j.UID
	if first {
		*f = failures{job: j.UID}
	}
	var fresh []*corev1.Pod
	seen := map[types.UID]bool{}
	for _, p := range ended {
		if tracked[p.UID] {
			seen[p.UID] = true
		}
		if first || tracked[p.UID] && !f.seen[p.UID] {
			fresh = append(fresh, p)
		}
	}
	f.seen = seen
	// A success wipes out the failures of its time.
	slices.SortStableFunc(fresh, func(a, b *corev1.Pod) int {
		return cmp.Or(finishedAt(a).Compare(finishedAt(b)), cmp.Compare(a.Status.Phase, b.Status.Phase))
	})
	for _, p := range fresh {
		if p.Status.Phase == corev1.PodSucceeded {
			f.many = 0
			continue
		}
		f.many, f.last = f.many+1, finishedAt(p)
	}
}

// backoff returns how long to wait from now before a pod may replace a failed one: it grows with the failures since the last success.
func (f *failures) backoff(now time.Time) time.Duration {
	if f.many == 0 {
		return 0
	}
	return max(0, f.last.Add(delay(f.many)).Sub(now))
}

func delay(failures int) time.Duration {
	d := minBackoff
	for i := 1; i < failures && d < maxBackoff; i++ {
		d *= 2
	}
	return min(d, maxBackoff)
}

// restartsExceed says that containers which their own pod restarts were restarted as often as the Job bears.
func restartsExceed(j *batchv1.Job, running []*corev1.Pod) bool {
	if j.Spec.Template.Spec.RestartPolicy != corev1.RestartPolicyOnFailure {
		return false
	}
	restarts := int32(0)
	for _, p := range running {
		if p.Status.Phase != corev1.PodRunning && p.Status.Phase != corev1.PodPending {
			continue
		}
		for i := range p.Status.InitContainerStatuses {
			restarts += p.Status.InitContainerStatuses[i].RestartCount
		}
		for i := range p.Status.ContainerStatuses {
			restarts += p.Status.ContainerStatuses[i].RestartCount
		}
	}
	limit := ptr.Deref(j.Spec.BackoffLimit, 6)
	return limit == 0 && restarts > 0 || limit > 0 && restarts >= limit
}

// surplus returns at least n of the active pods to delete: those without a place first (of indexed Jobs: no valid index, or not the first of
// theirs), then those that did the least.
func surplus(j *batchv1.Job, active []*corev1.Pod, n int) []*corev1.Pod {
	ranked := slices.SortedFunc(slices.Values(active), pods.CompareWorth)
	if !isIndexed(j) {
		return ranked[:min(n, len(ranked))]
	}
	var out, rest []*corev1.Pod
	taken := map[int]bool{}
	for _, p := range slices.Backward(ranked) { // the one that did the most keeps the index
		i := indexOf(p)
		if i == noIndex || i >= int(ptr.Deref(j.Spec.Completions, 0)) || taken[i] {
			out = append(out, p)
			continue
		}
		taken[i] = true
		rest = append(rest, p)
	}
	slices.Reverse(rest) // the one that did the least goes first
	for len(out) < n && len(rest) > 0 {
		out, rest = append(out, rest[0]), rest[1:]
	}
	return out
}
