package batch

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/podspec"
	"github.com/celox/celox/internal/api/table"
)

// Labels that tie pods to their job; the first two are what newer clients look for.
const (
	controllerUID       = batchv1.ControllerUidLabel
	jobName             = batchv1.JobNameLabel
	legacyControllerUID = "controller-uid"
	legacyJobName       = "job-name"
)

func job() *api.Kind {
	spec, status := batchv1.JobSpec{}.SwaggerDoc(), batchv1.JobStatus{}.SwaggerDoc()
	return &api.Kind{
		Group:            "batch",
		Kind:             "Job",
		Resource:         "jobs",
		Singular:         "job",
		Categories:       []string{"all"},
		Namespaced:       true,
		Prefix:           "jobs",
		Versions:         []api.Version{api.NewVersion[batchv1.Job, batchv1.JobList]("v1")},
		Hub:              "v1",
		Subresources:     []api.Subresource{api.Status()},
		HasGeneration:    true,
		PrepareForCreate: api.On(prepareJob),
		PrepareForUpdate: api.OnUpdate(func(j, old *batchv1.Job) {
			j.Status = old.Status
			podspec.DropDisabledTemplate(&j.Spec.Template, &old.Spec.Template)
			if old.Spec.Scheduling == nil {
				j.Spec.Scheduling = nil
			}
		}),
		PrepareForStatusUpdate: api.OnUpdate(func(j, old *batchv1.Job) { j.Spec = old.Spec }),
		Default:                api.On(defaultJob),
		Validate:               api.Check(func(j *batchv1.Job) field.ErrorList { return validateJob(j, nil) }),
		ValidateUpdate:         api.CheckUpdate(validateJobUpdate),
		ValidateStatusUpdate:   api.CheckUpdate(validateJobStatus),
		Warnings:               api.Warn(warnJob),
		// A job without labels shows its pods' when it is read again: nobody looks whether these are good.
		Canonicalize: api.On(func(j *batchv1.Job) {
			if len(j.Labels) == 0 {
				j.Labels = maps.Clone(j.Spec.Template.Labels)
			}
		}),
		AllowUnconditionalUpdate: true,
		// Jobs outlive their deletion's silence: pods stay unless somebody says otherwise.
		DefaultPropagation: metav1.DeletePropagationOrphan,
		FieldNames:         []string{"status.successful"},
		FieldRefusal: func(_ schema.GroupVersionKind, name string) string {
			return fmt.Sprintf("field label %q not supported for Job", name)
		},
		Fields: func(o api.Object) fields.Set {
			return fields.Set{"status.successful": strconv.Itoa(int(o.(*batchv1.Job).Status.Succeeded))}
		},
		Columns: slices.Concat(api.Columns(
			table.Name(),
			table.Column("Status", table.String, "Status of the job."),
			table.Column("Completions", table.String, status["succeeded"]),
			table.Column("Duration", table.String, "Time required to complete the job."),
			table.AgeColumn(),
		), wideColumns(spec["selector"])),
		Row: api.Row(func(j *batchv1.Job, now time.Time) []any {
			names, images := table.Containers(j.Spec.Template.Spec.Containers)
			return []any{
				j.Name, state(j), completions(j), took(j, now), table.Age(j, now), names, images, table.Selector(j.Spec.Selector),
			}
		}),
	}
}

func wideColumns(selector string) []metav1.TableColumnDefinition {
	return api.Columns(
		table.Wide("Containers", table.String, "Names of each container in the template."),
		table.Wide("Images", table.String, "Images referenced by each container in the template."),
		table.Wide("Selector", table.String, selector),
	)
}

func has(j *batchv1.Job, t batchv1.JobConditionType) bool {
	return conditionOf(j.Status.Conditions, t) != nil
}

// conditionOf returns the condition of a type if it is true.
func conditionOf(list []batchv1.JobCondition, t batchv1.JobConditionType) *batchv1.JobCondition {
	for i := range list {
		if list[i].Type == t && list[i].Status == corev1.ConditionTrue {
			return &list[i]
		}
	}
	return nil
}

func state(j *batchv1.Job) string {
	switch {
	case has(j, batchv1.JobComplete):
		return "Complete"
	case has(j, batchv1.JobFailed):
		return "Failed"
	case j.DeletionTimestamp != nil:
		return "Terminating"
	case has(j, batchv1.JobSuspended):
		return "Suspended"
	case has(j, batchv1.JobFailureTarget):
		return "FailureTarget"
	case has(j, batchv1.JobSuccessCriteriaMet):
		return "SuccessCriteriaMet"
	}
	return "Running"
}

func completions(j *batchv1.Job) string {
	switch parallel := j.Spec.Parallelism; {
	case j.Spec.Completions != nil:
		return fmt.Sprintf("%d/%d", j.Status.Succeeded, *j.Spec.Completions)
	case parallel != nil && *parallel > 1:
		return fmt.Sprintf("%d/1 of %d", j.Status.Succeeded, *parallel)
	}
	return fmt.Sprintf("%d/1", j.Status.Succeeded)
}

// took is how long the job runs or ran.
func took(j *batchv1.Job, now time.Time) string {
	if j.Status.StartTime == nil {
		return ""
	}
	switch failed := conditionOf(j.Status.Conditions, batchv1.JobFailed); {
	case j.Status.CompletionTime != nil:
		now = j.Status.CompletionTime.Time
	case failed != nil:
		now = failed.LastTransitionTime.Time
	}
	return duration.HumanDuration(now.Sub(j.Status.StartTime.Time))
}

func setInt32(v **int32, to int32) {
	if *v == nil {
		*v = &to
	}
}

// defaultFailurePolicy makes rules about conditions of pods ones about conditions that are true.
func defaultFailurePolicy(p *batchv1.PodFailurePolicy) {
	if p == nil {
		return
	}
	for i := range p.Rules {
		conditions := p.Rules[i].OnPodConditions
		for n := range conditions {
			if conditions[n].Status == "" {
				conditions[n].Status = corev1.ConditionTrue
			}
		}
	}
}

func defaultJob(j *batchv1.Job) {
	s := &j.Spec
	if s.Completions == nil && s.Parallelism == nil {
		setInt32(&s.Completions, 1)
	}
	setInt32(&s.Parallelism, 1)
	if s.BackoffLimitPerIndex != nil {
		setInt32(&s.BackoffLimit, math.MaxInt32)
	}
	setInt32(&s.BackoffLimit, 6)
	if len(j.Labels) == 0 && len(s.Template.Labels) > 0 {
		j.Labels = s.Template.Labels // the same map: what prepareJob adds to the template's labels is the job's too, as upstream
	}
	if s.CompletionMode == nil {
		m := batchv1.NonIndexedCompletion
		s.CompletionMode = &m
	}
	if s.Suspend == nil {
		s.Suspend = new(bool)
	}
	if s.ManualSelector == nil {
		s.ManualSelector = new(bool)
	}
	defaultFailurePolicy(s.PodFailurePolicy)
	if s.PodReplacementPolicy == nil {
		p := batchv1.TerminatingOrFailed
		if s.PodFailurePolicy != nil {
			p = batchv1.Failed
		}
		s.PodReplacementPolicy = &p
	}
	podspec.SetPodTemplateDefaults(&s.Template)
}

// prepareJob makes the selector and the labels that it selects out of the job's name and uid, unless the user does that. What
// the user has set already stays, so that validation can complain.
func prepareJob(j *batchv1.Job) {
	j.Status = batchv1.JobStatus{}
	podspec.DropDisabledTemplate(&j.Spec.Template, nil)
	j.Spec.Scheduling = nil // gang scheduling of jobs (KEP-5547) is behind a feature gate
	if m := j.Spec.ManualSelector; m != nil && *m {
		return
	}
	labels := j.Spec.Template.Labels
	if labels == nil {
		labels = map[string]string{}
	}
	for _, l := range [...]struct{ key, value string }{
		{legacyJobName, j.Name}, {jobName, j.Name}, {legacyControllerUID, string(j.UID)}, {controllerUID, string(j.UID)},
	} {
		if _, ok := labels[l.key]; !ok {
			labels[l.key] = l.value
		}
	}
	j.Spec.Template.Labels = labels
	if j.Spec.Selector == nil {
		j.Spec.Selector = &metav1.LabelSelector{}
	}
	if j.Spec.Selector.MatchLabels == nil {
		j.Spec.Selector.MatchLabels = map[string]string{}
	}
	if _, ok := j.Spec.Selector.MatchLabels[controllerUID]; !ok {
		j.Spec.Selector.MatchLabels[controllerUID] = string(j.UID)
	}
}

func warnJob(j, old *batchv1.Job) []string {
	p := field.NewPath("spec", "template")
	var out []string
	switch {
	case old == nil:
		out = append(nameWarnings(j.Name), podspec.Warnings(&j.Spec.Template, nil, p)...)
	case j.Generation != old.Generation:
		out = podspec.Warnings(&j.Spec.Template, &old.Spec.Template, p)
	}
	// A few numbers are allowed that no controller deals well with.
	s := &j.Spec
	if s.CompletionMode != nil && *s.CompletionMode == batchv1.IndexedCompletion && s.Completions != nil && s.Parallelism != nil &&
		*s.Completions > maxIndexed && *s.Parallelism > maxParallelLargeIndexed {
		out = append(out, "In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, Kubernetes might not be able to track completedIndexes when a big number of indexes fail")
	}
	return out
}
