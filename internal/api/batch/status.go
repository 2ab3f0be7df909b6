package batch

import (
	batchv1 "k8s.io/api/batch/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api/check"
)

// validateJobStatus checks that a status holds together, and that nothing final is taken back: whoever waits for a job relies
// on its terminal conditions.
func validateJobStatus(j, old *batchv1.Job) field.ErrorList {
	p, s, was := field.NewPath("status"), &j.Status, &old.Status
	var errs field.ErrorList
	for _, c := range []struct {
		name  string
		value int32
	}{{"active", s.Active}, {"succeeded", s.Succeeded}, {"failed", s.Failed}} {
		errs = append(errs, check.NonNegative(int64(c.value), p.Child(c.name))...)
	}
	if s.Ready != nil {
		errs = append(errs, check.NonNegative(int64(*s.Ready), p.Child("ready"))...)
	}
	if s.Terminating != nil {
		errs = append(errs, check.NonNegative(int64(*s.Terminating), p.Child("terminating"))...)
	}
	errs = append(errs, validateCompletion(j, p)...)
	errs = append(errs, validateFinished(s, p)...)
	if s.Ready != nil && *s.Ready > s.Active {
		errs = append(errs, field.Invalid(p.Child("ready"), *s.Ready, "cannot set more ready pods than active"))
	}
	if s.Succeeded < was.Succeeded {
		errs = append(errs, field.Invalid(p.Child("succeeded"), s.Succeeded, "cannot decrease the succeeded counter"))
	}
	if s.Failed < was.Failed {
		errs = append(errs, field.Invalid(p.Child("failed"), s.Failed, "cannot decrease the failed counter"))
	}
	return append(errs, validateNothingUndone(s, was, p.Child("conditions"))...)
}

func validateCompletion(j *batchv1.Job, p *field.Path) field.ErrorList {
	s := &j.Status
	var errs field.ErrorList
	complete := conditionOf(s.Conditions, batchv1.JobComplete) != nil
	failed := conditionOf(s.Conditions, batchv1.JobFailed) != nil
	switch {
	case complete && s.CompletionTime == nil:
		errs = append(errs, field.Required(p.Child("completionTime"), "completionTime is required for Complete jobs"))
	case !complete && s.CompletionTime != nil:
		errs = append(errs, field.Invalid(p.Child("completionTime"), s.CompletionTime, "cannot set completionTime when there is no Complete=True condition"))
	case complete && s.StartTime != nil && s.CompletionTime.Before(s.StartTime):
		errs = append(errs, field.Invalid(p.Child("completionTime"), s.CompletionTime, "completionTime cannot be set before startTime"))
	}
	conditions := p.Child("conditions")
	if complete && failed {
		errs = append(errs, field.Invalid(conditions, field.OmitValueType{}, "cannot set Complete=True and Failed=true conditions"))
	}
	met, target := conditionOf(s.Conditions, batchv1.JobSuccessCriteriaMet) != nil, conditionOf(s.Conditions, batchv1.JobFailureTarget) != nil
	if complete && target {
		errs = append(errs, field.Invalid(conditions, field.OmitValueType{}, "cannot set Complete=True and FailureTarget=true conditions"))
	}
	if failed && met {
		errs = append(errs, field.Invalid(conditions, field.OmitValueType{}, "cannot set Failed=True and SuccessCriteriaMet=true conditions"))
	}
	if met && target {
		errs = append(errs, field.Invalid(conditions, field.OmitValueType{}, "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions"))
	}
	if failed && !target {
		errs = append(errs, field.Invalid(conditions, field.OmitValueType{}, "cannot set Failed=True condition without the FailureTarget=true condition"))
	}
	if complete && !met {
		errs = append(errs, field.Invalid(conditions, field.OmitValueType{}, "cannot set Complete=True condition without the SuccessCriteriaMet=true condition"))
	}
	return errs
}

// validateFinished wants no pods left over when a job is over.
func validateFinished(s *batchv1.JobStatus, p *field.Path) field.ErrorList {
	if conditionOf(s.Conditions, batchv1.JobComplete) == nil && conditionOf(s.Conditions, batchv1.JobFailed) == nil {
		return nil
	}
	var errs field.ErrorList
	if s.Active > 0 {
		errs = append(errs, field.Invalid(p.Child("active"), s.Active, "active>0 is invalid for finished job"))
	}
	if s.Terminating != nil && *s.Terminating > 0 {
		errs = append(errs, field.Invalid(p.Child("terminating"), *s.Terminating, "terminating>0 is invalid for finished job"))
	}
	if u := s.UncountedTerminatedPods; u != nil && len(u.Succeeded)+len(u.Failed) > 0 {
		errs = append(errs, field.Invalid(p.Child("uncountedTerminatedPods"), check.Rendered(*u), "must be empty for finished job"))
	}
	return errs
}

func validateNothingUndone(s, was *batchv1.JobStatus, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, c := range []struct {
		kind batchv1.JobConditionType
		text string
	}{
		{batchv1.JobFailed, "cannot disable the terminal Failed=True condition"},
		{batchv1.JobComplete, "cannot disable the terminal Complete=True condition"},
		{batchv1.JobFailureTarget, "cannot disable the FailureTarget=True condition"},
		{batchv1.JobSuccessCriteriaMet, "cannot disable the SuccessCriteriaMet=True condition"},
	} {
		if conditionOf(was.Conditions, c.kind) != nil && conditionOf(s.Conditions, c.kind) == nil {
			errs = append(errs, field.Invalid(p, field.OmitValueType{}, c.text))
		}
	}
	return errs
}
