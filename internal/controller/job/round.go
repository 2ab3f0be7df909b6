package job

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/celox/celox/internal/controller/pods"
)

// maxUncounted is how many ended pods a status names at a time, which bounds its size.
const maxUncounted = 500

// round is one look at a Job and its pods.
type round struct {
	c   *Controller
	key string
	job *batchv1.Job // a copy whose status is being made
	now time.Time

	active, terminating, ended []*corev1.Pod
	// release are ended pods whose finalizer can go once the status says all that is known of them.
	release []*corev1.Pod
	// ruled are what rules of the failure policy did to pods that are counted now.
	ruled []batchv1.PodFailurePolicyAction
	// more says that some ended pods were left for the next round, held how many wait for their successor.
	more bool
	held int
	// completed and failedIndexes are of indexed Jobs; lastFailed is the newest failed pod of each index without a later pod.
	completed, failedIndexes indexes
	lastFailed               map[int]*corev1.Pod
	failures                 *failures
	failJob                  string // the message of a FailJob rule that matched
	created                  int
	events                   []event
	tracked                  map[types.UID]bool // the pods whose finalizer is ours still
	settled                  bool               // all that was made or deleted before has been seen
	action                   string             // what was done, for the metrics
}

type event struct{ level, reason, message string }

// count sorts the pods of a Job and counts those that have ended.
func (c *Controller) count(key string, j *batchv1.Job, all []*corev1.Pod) *round {
	r := &round{c: c, key: key, job: j, now: c.clock.Now(), lastFailed: map[int]*corev1.Pod{}, action: reconciling}
	s := &j.Status
	if s.StartTime == nil && !isSuspended(j) {
		s.StartTime = ptr.To(metav1.NewTime(r.now))
	}
	if s.UncountedTerminatedPods == nil {
		s.UncountedTerminatedPods = &batchv1.UncountedTerminatedPods{}
	}
	completions := int(ptr.Deref(j.Spec.Completions, 0))
	if isIndexed(j) {
		r.completed = parseIndexes(s.CompletedIndexes, completions)
		r.failedIndexes = parseIndexes(ptr.Deref(s.FailedIndexes, ""), completions)
	}
	tracked := map[types.UID]bool{}
	r.tracked = tracked
	for _, p := range all {
		switch {
		case pods.Active(p):
			r.active = append(r.active, p)
		case pods.Terminating(p):
			r.terminating = append(r.terminating, p)
		}
		tracked[p.UID] = hasFinalizer(p) && !c.isReleased(p.UID)
		// One that is being deleted without the finalizer is no failure: it was in the way (see retire).
		if (p.Status.Phase == corev1.PodSucceeded || hasFailed(j, p)) && (tracked[p.UID] || p.DeletionTimestamp == nil) {
			r.ended = append(r.ended, p)
		}
	}
	c.seeReleased(key, all)
	r.failures = c.failuresOf(key)
	r.failures.see(j, r.ended, tracked)
	// Whose finalizer is gone is counted now.
	uncounted := s.UncountedTerminatedPods
	s.Succeeded += settle(&uncounted.Succeeded, tracked)
	s.Failed += settle(&uncounted.Failed, tracked)

	slices.SortStableFunc(r.ended, func(a, b *corev1.Pod) int {
		return cmp.Or(finishedAt(a).Compare(finishedAt(b)), cmp.Compare(a.Name, b.Name))
	})
	for _, p := range r.ended {
		r.countEnded(p, completions, tracked[p.UID])
	}
	if isIndexed(j) {
		s.Succeeded = int32(r.completed.total())
		s.CompletedIndexes = r.completed.String()
		if j.Spec.BackoffLimitPerIndex != nil {
			s.FailedIndexes = ptr.To(r.failedIndexes.String())
		}
	}
	return r
}

// settle takes from the list whose pods are no longer tracked, and returns how many.
func settle(uids *[]types.UID, tracked map[types.UID]bool) int32 {
	before := len(*uids)
	*uids = slices.DeleteFunc(*uids, func(uid types.UID) bool { return !tracked[uid] })
	return int32(before - len(*uids))
}

// countEnded counts a pod that has ended and still has its finalizer: in the sets of indexes, or by its uid.
func (r *round) countEnded(p *corev1.Pod, completions int, tracked bool) {
	j, uncounted := r.job, r.job.Status.UncountedTerminatedPods
	index := indexOf(p)
	placed := !isIndexed(j) || index != noIndex && index < completions
	succeeded := p.Status.Phase == corev1.PodSucceeded
	v := verdict{}
	if placed && !succeeded {
		v = judge(j, p)
		if v.action == batchv1.PodFailurePolicyActionFailJob && r.failJob == "" {
			r.failJob = v.message
		}
	}
	if !tracked {
		return // it has been counted, or was in the way; an index that a smaller Job forgot begins anew when the Job grows again
	}
	if placed && !succeeded && j.Spec.BackoffLimitPerIndex != nil && !r.completed.has(index) {
		counted, _ := failuresBefore(p)
		// Once the Job is to end, the pods that it stops say nothing of their indexes.
		over := isTrue(&j.Status, batchv1.JobFailureTarget) || isTrue(&j.Status, batchv1.JobSuccessCriteriaMet)
		switch {
		case over && p.Status.Phase != corev1.PodFailed:
		case v.action == batchv1.PodFailurePolicyActionFailIndex, v.action != batchv1.PodFailurePolicyActionIgnore && counted+1 > int(*j.Spec.BackoffLimitPerIndex):
			r.failedIndexes = r.failedIndexes.with(index, index)
		case !r.replaced(index, p):
			// The next pod of the index inherits the number of failures from this one: it must not vanish before.
			r.lastFailed[index] = p
			if !over && j.DeletionTimestamp == nil {
				r.held++
				return
			}
		}
	}
	if placed && succeeded && isIndexed(j) {
		r.completed = r.completed.with(index, index)
	}
	if slices.Contains(uncounted.Succeeded, p.UID) || slices.Contains(uncounted.Failed, p.UID) {
		r.release = append(r.release, p)
		return
	}
	if len(uncounted.Succeeded)+len(uncounted.Failed) >= maxUncounted {
		r.more = true
		return
	}
	switch {
	case !placed, succeeded && isIndexed(j), !succeeded && v.action == batchv1.PodFailurePolicyActionIgnore: // nothing to count by uid
	case succeeded:
		uncounted.Succeeded = append(uncounted.Succeeded, p.UID)
	default:
		uncounted.Failed = append(uncounted.Failed, p.UID)
	}
	if v.message != "" { // a rule matched
		r.ruled = append(r.ruled, v.action)
	}
	r.release = append(r.release, p)
}

// replaced says that an index has a newer pod than p.
func (r *round) replaced(index int, p *corev1.Pod) bool {
	newer := func(o *corev1.Pod) bool {
		return indexOf(o) == index && o.UID != p.UID && !o.CreationTimestamp.Before(&p.CreationTimestamp) && failuresOf(o) > failuresOf(p)
	}
	return slices.ContainsFunc(r.active, newer) || slices.ContainsFunc(r.ended, newer) || slices.ContainsFunc(r.terminating, newer)
}

func failuresOf(p *corev1.Pod) int {
	counted, ignored := failuresBefore(p)
	return counted + ignored
}

func (r *round) succeeded() int {
	if isIndexed(r.job) {
		return r.completed.total()
	}
	return int(r.job.Status.Succeeded) + len(r.job.Status.UncountedTerminatedPods.Succeeded)
}

func (r *round) failed() int {
	return int(r.job.Status.Failed) + len(r.job.Status.UncountedTerminatedPods.Failed)
}

// ending is how a Job comes to its end.
type ending struct {
	failed          bool
	reason, message string
}

// end says whether the Job is to end, and how; nil while it goes on.
func (r *round) end() *ending {
	j := r.job
	if c := condition(&j.Status, batchv1.JobFailureTarget); c != nil && c.Status == corev1.ConditionTrue {
		return &ending{failed: true, reason: c.Reason, message: c.Message}
	}
	if c := condition(&j.Status, batchv1.JobSuccessCriteriaMet); c != nil && c.Status == corev1.ConditionTrue {
		return &ending{reason: c.Reason, message: c.Message}
	}
	if r.failJob != "" {
		return &ending{failed: true, reason: batchv1.JobReasonPodFailurePolicy, message: r.failJob}
	}
	if r.failed() > int(ptr.Deref(j.Spec.BackoffLimit, 6)) || restartsExceed(j, r.active) {
		return &ending{failed: true, reason: batchv1.JobReasonBackoffLimitExceeded, message: "Job has reached the specified backoff limit"}
	}
	if j.Spec.ActiveDeadlineSeconds != nil && j.Status.StartTime != nil && !isSuspended(j) {
		left := j.Status.StartTime.Add(time.Duration(*j.Spec.ActiveDeadlineSeconds) * time.Second).Sub(r.now)
		if left <= 0 {
			return &ending{failed: true, reason: batchv1.JobReasonDeadlineExceeded, message: "Job was active longer than specified deadline"}
		}
		r.c.loop.AddAfter(r.key, left)
	}
	if j.Spec.MaxFailedIndexes != nil && r.failedIndexes.total() > int(*j.Spec.MaxFailedIndexes) {
		return &ending{failed: true, reason: batchv1.JobReasonMaxFailedIndexesExceeded, message: "Job has exceeded the specified maximal number of failed indexes"}
	}
	if n := r.failedIndexes.total(); n > 0 && r.succeeded()+n >= int(ptr.Deref(j.Spec.Completions, 0)) {
		return &ending{failed: true, reason: batchv1.JobReasonFailedIndexes, message: "Job has failed indexes"}
	}
	if message, met := succeedsBy(j, r.completed); met {
		return &ending{reason: batchv1.JobReasonSuccessPolicy, message: message}
	}
	return nil
}

// complete says that all is done, and nobody works any more.
func (r *round) complete() *ending {
	j := r.job
	reached := &ending{reason: batchv1.JobReasonCompletionsReached, message: "Reached expected number of succeeded pods"}
	enough := r.succeeded() > 0
	if j.Spec.Completions != nil {
		enough = r.succeeded() >= int(*j.Spec.Completions)
	}
	if enough && len(r.active)+r.created == 0 {
		return reached
	}
	return nil
}

// finish ends all pods. That the Job is over is said, and they are counted, once they are deleted and no others are about to appear.
func (r *round) finish(ctx context.Context, e *ending) error {
	if err := r.deleteActive(ctx, r.active); err != nil || !r.settled {
		return err
	}
	r.note(e)
	r.releaseRest(e.failed)
	return nil
}

// note says how the Job ends.
func (r *round) note(e *ending) {
	t := batchv1.JobSuccessCriteriaMet
	if e.failed {
		t = batchv1.JobFailureTarget
	}
	setCondition(&r.job.Status, t, corev1.ConditionTrue, e.reason, e.message, r.now)
}

// releaseRest lets the pods go that are not counted otherwise any more: as failures, if that is how the Job ends.
func (r *round) releaseRest(failed bool) {
	uncounted, completions := r.job.Status.UncountedTerminatedPods, int(ptr.Deref(r.job.Spec.Completions, 0))
	seen := map[types.UID]bool{}
	for _, p := range r.ended {
		seen[p.UID] = true
	}
	for _, p := range slices.Concat(r.active, r.terminating) {
		if !r.tracked[p.UID] || seen[p.UID] {
			continue
		}
		if len(uncounted.Succeeded)+len(uncounted.Failed) >= maxUncounted {
			r.more = true
			return
		}
		index := indexOf(p)
		placed := !isIndexed(r.job) || index != noIndex && index < completions
		if failed && placed && !slices.Contains(uncounted.Failed, p.UID) && judge(r.job, p).action != batchv1.PodFailurePolicyActionIgnore {
			uncounted.Failed = append(uncounted.Failed, p.UID)
		}
		r.release = append(r.release, p)
	}
}

// conclude says the last word if it can be said.
func (r *round) conclude() {
	j := r.job
	uncounted := j.Status.UncountedTerminatedPods
	if len(r.active)+len(r.terminating)+len(uncounted.Succeeded)+len(uncounted.Failed)+r.held > 0 || r.more || !r.settled {
		return
	}
	over := isTrue(&j.Status, batchv1.JobFailureTarget) || isTrue(&j.Status, batchv1.JobSuccessCriteriaMet)
	if over && j.Status.StartTime == nil && ptr.Deref(j.Spec.Completions, 1) != 0 {
		j.Status.StartTime = ptr.To(metav1.NewTime(r.now)) // it ends while it is suspended, and what has work to do cannot end without having begun
	}
	if c := condition(&j.Status, batchv1.JobFailureTarget); c != nil && c.Status == corev1.ConditionTrue {
		if setCondition(&j.Status, batchv1.JobFailed, corev1.ConditionTrue, c.Reason, c.Message, r.now) {
			r.events = append(r.events, event{corev1.EventTypeWarning, condition(&j.Status, batchv1.JobFailed).Reason, condition(&j.Status, batchv1.JobFailed).Message})
		}
	} else if c := condition(&j.Status, batchv1.JobSuccessCriteriaMet); c != nil && c.Status == corev1.ConditionTrue {
		if setCondition(&j.Status, batchv1.JobComplete, corev1.ConditionTrue, c.Reason, c.Message, r.now) {
			j.Status.CompletionTime = ptr.To(metav1.NewTime(r.now))
			if j.Spec.Completions != nil && j.Status.Succeeded > *j.Spec.Completions {
				r.events = append(r.events, event{corev1.EventTypeWarning, "TooManySucceededPods", "Too many succeeded pods running after completion count reached"})
			}
			r.events = append(r.events, event{corev1.EventTypeNormal, "Completed", "Job completed"})
		}
	}
}

// write writes what was found: first the ended pods by name, then, when their finalizers are gone, as numbers.
func (r *round) write(ctx context.Context, cached *batchv1.Job) error {
	s := &r.job.Status
	s.Active = int32(len(r.active) + r.created)
	s.Terminating = ptr.To(int32(len(r.terminating)))
	ready := int32(0)
	for _, p := range r.active {
		if pods.Ready(p) {
			ready++
		}
	}
	s.Ready = ptr.To(ready)
	if len(r.release) == 0 {
		r.conclude()
	}
	if !equality.Semantic.DeepEqual(&cached.Status, s) {
		got, err := r.c.updateStatus(ctx, r.key, r.job)
		if err != nil {
			return err
		}
		r.c.Metrics.wrote(cached, got)
		r.c.Metrics.ruled(r.ruled)
		r.job = got
		if r.job.Status.UncountedTerminatedPods == nil {
			r.job.Status.UncountedTerminatedPods = &batchv1.UncountedTerminatedPods{}
		}
		r.tell()
	}
	if len(r.release) == 0 {
		return nil
	}
	if err := r.releaseAll(ctx, r.release); err != nil {
		return err
	}
	s, uncounted := &r.job.Status, r.job.Status.UncountedTerminatedPods
	before := r.job.DeepCopy()
	gone := map[types.UID]bool{}
	for _, p := range r.release {
		gone[p.UID] = true
	}
	still := map[types.UID]bool{}
	for _, uid := range slices.Concat(uncounted.Succeeded, uncounted.Failed) {
		still[uid] = !gone[uid]
	}
	s.Succeeded += settle(&uncounted.Succeeded, still)
	s.Failed += settle(&uncounted.Failed, still)
	r.conclude()
	if equality.Semantic.DeepEqual(&before.Status, s) {
		return nil
	}
	got, err := r.c.updateStatus(ctx, r.key, r.job)
	if err != nil {
		return err
	}
	r.c.Metrics.wrote(before, got)
	r.tell()
	if r.more {
		r.c.loop.Add(r.key)
	}
	return nil
}

func (r *round) tell() {
	for _, e := range r.events {
		r.c.recorder.Event(r.job, e.level, e.reason, e.message)
	}
	r.events = nil
}

// releaseAll removes the finalizers of pods that need not be counted any more.
func (r *round) releaseAll(ctx context.Context, done []*corev1.Pod) error {
	errs := make([]error, len(done))
	limit := make(chan struct{}, 16)
	var calls sync.WaitGroup
	for i, p := range done {
		limit <- struct{}{}
		calls.Go(func() {
			defer func() { <-limit }()
			if errs[i] = r.c.release(ctx, p); errs[i] == nil {
				r.c.mu.Lock()
				r.c.released[p.UID] = r.key
				r.c.mu.Unlock()
			}
		})
	}
	calls.Wait()
	return errors.Join(errs...)
}

// seeReleased drops from memory the pods of a Job that the informer shows without our finalizer, or no longer.
func (c *Controller) seeReleased(key string, all []*corev1.Pod) {
	c.mu.Lock()
	defer c.mu.Unlock()
	shown := map[types.UID]bool{}
	for _, p := range all {
		shown[p.UID] = hasFinalizer(p)
	}
	for uid, k := range c.released {
		if k == key && !shown[uid] {
			delete(c.released, uid)
		}
	}
}
