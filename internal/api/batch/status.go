package batch

import (
	"fmt"
	"slices"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api/check"
)

// statusUpdate is a change of a job's status. Other controllers than ours may write it (KEP-4368), so it is checked that it
// holds together. A rule is asked only when what it speaks of changes: a status that breaks one of old may still be written
// elsewhere, and the controller has time to follow a change of the spec.
type statusUpdate struct {
	job      *batchv1.Job
	now, was *batchv1.JobStatus
	path     *field.Path
	errs     field.ErrorList
}

// validateJobStatus checks a status, and that nothing final is taken back: whoever waits for a job relies on its terminal conditions.
func validateJobStatus(j, old *batchv1.Job) field.ErrorList {
	u := &statusUpdate{job: j, now: &j.Status, was: &old.Status, path: field.NewPath("status")}
	u.counts()
	u.endings()
	u.completionTime()
	u.reasons()
	u.leftovers()
	u.indexes()
	u.livePods()
	u.contradictions()
	u.undone()
	return u.errs
}

func (u *statusUpdate) invalid(name string, value any, text string) {
	u.errs = append(u.errs, field.Invalid(u.path.Child(name), value, text))
}

func (u *statusUpdate) conditions(text string) { u.invalid("conditions", field.OmitValueType{}, text) }

// is says whether the condition is true, became whether that is new or no longer so.
func (u *statusUpdate) is(t batchv1.JobConditionType) bool {
	return conditionOf(u.now.Conditions, t) != nil
}

func (u *statusUpdate) became(types ...batchv1.JobConditionType) bool {
	return slices.ContainsFunc(types, func(t batchv1.JobConditionType) bool {
		return u.is(t) != (conditionOf(u.was.Conditions, t) != nil)
	})
}

func (u *statusUpdate) finished() bool { return u.is(batchv1.JobComplete) || u.is(batchv1.JobFailed) }

func (u *statusUpdate) becameFinished() bool {
	before := conditionOf(u.was.Conditions, batchv1.JobComplete) != nil || conditionOf(u.was.Conditions, batchv1.JobFailed) != nil
	return u.finished() != before
}

func changed(a, b any) bool { return !apiequality.Semantic.DeepEqual(a, b) }

func (u *statusUpdate) counts() {
	s := u.now
	number := func(name string, v *int32) {
		if v != nil {
			u.errs = append(u.errs, check.NonNegative(int64(*v), u.path.Child(name))...)
		}
	}
	number("active", &s.Active)
	number("succeeded", &s.Succeeded)
	number("failed", &s.Failed)
	number("ready", s.Ready)
	number("terminating", s.Terminating)
	if s.UncountedTerminatedPods == nil {
		return
	}
	at, seen := u.path.Child("uncountedTerminatedPods"), map[types.UID]bool{}
	for _, list := range []struct {
		name string
		uids []types.UID
	}{{"succeeded", s.UncountedTerminatedPods.Succeeded}, {"failed", s.UncountedTerminatedPods.Failed}} {
		for i, uid := range list.uids {
			switch p := at.Child(list.name).Index(i); {
			case uid == "":
				u.errs = append(u.errs, field.Invalid(p, uid, "must not be empty"))
			case seen[uid]:
				u.errs = append(u.errs, field.Duplicate(p, uid))
			}
			seen[uid] = true
		}
	}
}

// endings wants a job to end in one way.
func (u *statusUpdate) endings() {
	complete, failed := u.is(batchv1.JobComplete), u.is(batchv1.JobFailed)
	if complete && failed && u.became(batchv1.JobComplete, batchv1.JobFailed) {
		u.conditions("cannot set Complete=True and Failed=true conditions")
	}
	if complete && u.is(batchv1.JobFailureTarget) && u.became(batchv1.JobComplete, batchv1.JobFailureTarget) {
		u.conditions("cannot set Complete=True and FailureTarget=true conditions")
	}
}

// completionTime wants complete jobs, and no others, to say when.
func (u *statusUpdate) completionTime() {
	s, complete := u.now, u.is(batchv1.JobComplete)
	if u.became(batchv1.JobComplete) || changed(s.CompletionTime, u.was.CompletionTime) {
		switch {
		case s.CompletionTime != nil && !complete:
			u.invalid("completionTime", s.CompletionTime, "cannot set completionTime when there is no Complete=True condition")
		case s.CompletionTime == nil && complete:
			u.errs = append(u.errs, field.Required(u.path.Child("completionTime"), "completionTime is required for Complete jobs"))
		}
	}
	if (changed(s.CompletionTime, u.was.CompletionTime) || changed(s.StartTime, u.was.StartTime)) &&
		s.StartTime != nil && s.CompletionTime != nil && s.CompletionTime.Before(s.StartTime) {
		u.invalid("completionTime", s.CompletionTime, "must be equal to or after `startTime`")
	}
}

// reasons wants an ending to be announced by the condition that leads to it (KEP-3998).
func (u *statusUpdate) reasons() {
	if u.is(batchv1.JobFailed) && !u.is(batchv1.JobFailureTarget) && (u.became(batchv1.JobFailed) || changed(u.now.FailedIndexes, u.was.FailedIndexes)) {
		u.conditions("cannot set Failed=True condition without the FailureTarget=true condition")
	}
	if u.is(batchv1.JobComplete) && !u.is(batchv1.JobSuccessCriteriaMet) && u.became(batchv1.JobComplete, batchv1.JobSuccessCriteriaMet) {
		u.conditions("cannot set Complete=True condition without the SuccessCriteriaMet=true condition")
	}
}

// contradictions wants a job that has met what success means not to fail, and one with a policy of success to end by it.
func (u *statusUpdate) contradictions() {
	met := u.is(batchv1.JobSuccessCriteriaMet)
	if met && u.is(batchv1.JobFailed) {
		u.conditions("cannot set SuccessCriteriaMet=True and Failed=true conditions")
	}
	if met && u.is(batchv1.JobFailureTarget) {
		u.conditions("cannot set SuccessCriteriaMet=True and FailureTarget=true conditions")
	}
	if u.job.Spec.SuccessPolicy != nil && !met && u.is(batchv1.JobComplete) {
		u.conditions("cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True")
	}
}

// leftovers wants no pods left over when a job is over, and one that is over to have begun.
func (u *statusUpdate) leftovers() {
	s, was := u.now, u.was
	if !u.finished() {
		return
	}
	over := u.becameFinished()
	if s.Active > 0 && (over || s.Active != was.Active) {
		u.invalid("active", s.Active, "active>0 is invalid for finished job")
	}
	// Only a job of nothing can end that never began.
	spec := &u.job.Spec
	none := spec.Suspend != nil && *spec.Suspend && spec.Completions != nil && *spec.Completions == 0
	if s.StartTime == nil && !none && (over || was.StartTime != nil) {
		u.errs = append(u.errs, field.Required(u.path.Child("startTime"), "startTime is required for finished job"))
	}
	if p := s.UncountedTerminatedPods; p != nil && len(p.Succeeded)+len(p.Failed) > 0 && (over || changed(p, was.UncountedTerminatedPods)) {
		u.invalid("uncountedTerminatedPods", check.Rendered(*p), "must be empty for finished job")
	}
}

// livePods wants no pods that still end when a job is over, and no more pods to be ready than there are.
func (u *statusUpdate) livePods() {
	s, was := u.now, u.was
	if t := s.Terminating; t != nil && *t > 0 && u.finished() && (u.becameFinished() || changed(t, was.Terminating)) {
		u.invalid("terminating", *t, "terminating>0 is invalid for finished job")
	}
	if s.Ready != nil && *s.Ready > s.Active && (changed(s.Ready, was.Ready) || s.Active != was.Active) {
		u.invalid("ready", *s.Ready, "cannot set more ready pods than active")
	}
}

// indexes checks the lists of those indexes that have succeeded and failed for good (KEP-2214, KEP-3850).
func (u *statusUpdate) indexes() {
	s, spec := u.now, &u.job.Spec
	completedChanged, failedChanged := s.CompletedIndexes != u.was.CompletedIndexes, changed(s.FailedIndexes, u.was.FailedIndexes)
	if completedChanged && spec.Completions != nil {
		if _, err := countIndexes(s.CompletedIndexes, *spec.Completions); err != nil {
			u.invalid("completedIndexes", s.CompletedIndexes, fmt.Sprintf("error parsing completedIndexes: %v", err))
		}
	}
	if failedChanged && spec.Completions != nil && spec.BackoffLimitPerIndex != nil && s.FailedIndexes != nil {
		if _, err := countIndexes(*s.FailedIndexes, *spec.Completions); err != nil {
			u.invalid("failedIndexes", *s.FailedIndexes, fmt.Sprintf("error parsing failedIndexes: %v", err))
		}
	}
	indexed := spec.CompletionMode != nil && *spec.CompletionMode == batchv1.IndexedCompletion
	if completedChanged && s.CompletedIndexes != "" && !indexed {
		u.invalid("completedIndexes", s.CompletedIndexes, "cannot set non-empty completedIndexes when non-indexed completion mode")
	}
	if failedChanged && s.FailedIndexes != nil && spec.BackoffLimitPerIndex == nil {
		u.invalid("failedIndexes", *s.FailedIndexes, "cannot set non-null failedIndexes when backoffLimitPerIndex is null")
	}
	if (completedChanged || failedChanged) && spec.Completions != nil && s.FailedIndexes != nil {
		if i, both := common(s.CompletedIndexes, *s.FailedIndexes, *spec.Completions); both {
			u.invalid("failedIndexes", *s.FailedIndexes, fmt.Sprintf("failedIndexes and completedIndexes overlap at index: %d", i))
		}
	}
}

// common returns the first index that two lists of them share. What cannot be read is left out: it is complained of elsewhere.
func common(a, b string, completions int32) (index int, ok bool) {
	readable := func(text string) (out [][2]int) {
		for part := range strings.SplitSeq(text, ",") {
			if x, err := interval(part, completions); err == nil {
				out = append(out, x)
			}
		}
		return out
	}
	x, y := readable(a), readable(b)
	for i, j := 0, 0; i < len(x) && j < len(y); {
		switch {
		case x[i][0] <= y[j][1] && y[j][0] <= x[i][1]:
			return max(x[i][0], y[j][0]), true
		case x[i][0] <= y[j][0]:
			i++
		default:
			j++
		}
	}
	return 0, false
}

// undone wants no ending, count or time to be taken back.
func (u *statusUpdate) undone() {
	s, was, spec := u.now, u.was, &u.job.Spec
	for _, t := range []batchv1.JobConditionType{batchv1.JobFailed, batchv1.JobComplete, batchv1.JobFailureTarget} {
		if conditionOf(was.Conditions, t) != nil && !u.is(t) {
			u.conditions(fmt.Sprintf("cannot disable the terminal %s=True condition", t))
		}
	}
	if s.Failed < was.Failed {
		u.invalid("failed", s.Failed, "cannot decrease the failed counter")
	}
	// Elastic indexed jobs may shrink (KEP-3715).
	elastic := spec.CompletionMode != nil && *spec.CompletionMode == batchv1.IndexedCompletion && !changed(spec.Completions, spec.Parallelism)
	if s.Succeeded < was.Succeeded && !elastic {
		u.invalid("succeeded", s.Succeeded, "cannot decrease the succeeded counter")
	}
	if s.CompletionTime != nil && was.CompletionTime != nil && changed(s.CompletionTime, was.CompletionTime) {
		u.invalid("completionTime", s.CompletionTime, check.ImmutableText)
	}
	// A job that goes on after a pause starts again, also if it was told to go on before the pause was seen.
	resumed := conditionOf(was.Conditions, batchv1.JobSuspended) != nil &&
		slices.ContainsFunc(s.Conditions, func(c batchv1.JobCondition) bool {
			return c.Type == batchv1.JobSuspended && c.Status == corev1.ConditionFalse
		})
	if suspended := spec.Suspend != nil && *spec.Suspend; was.StartTime != nil && !suspended && !resumed && changed(s.StartTime, was.StartTime) {
		u.invalid("startTime", s.StartTime, "field is immutable for unsuspended job once set")
	}
	if conditionOf(was.Conditions, batchv1.JobSuccessCriteriaMet) != nil && !u.is(batchv1.JobSuccessCriteriaMet) {
		u.conditions("cannot disable the SuccessCriteriaMet=True condition")
	}
	if conditionOf(was.Conditions, batchv1.JobComplete) != nil && conditionOf(was.Conditions, batchv1.JobSuccessCriteriaMet) == nil && u.is(batchv1.JobSuccessCriteriaMet) {
		u.conditions("cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions")
	}
}
