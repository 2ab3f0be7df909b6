package batch

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	batchv1beta1 "k8s.io/api/batch/v1beta1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/batch/cron"
	"github.com/celox/celox/internal/api/check"
	"github.com/celox/celox/internal/api/podspec"
	"github.com/celox/celox/internal/api/table"
)

// maxCronJobName leaves room for the eleven characters that the names of jobs have more.
const maxCronJobName = 52

func cronJob() *api.Kind {
	spec, status := batchv1.CronJobSpec{}.SwaggerDoc(), batchv1.CronJobStatus{}.SwaggerDoc()
	return &api.Kind{
		Group:      "batch",
		Kind:       "CronJob",
		Resource:   "cronjobs",
		Singular:   "cronjob",
		ShortNames: []string{"cj"},
		Categories: []string{"all"},
		Namespaced: true,
		Prefix:     "cronjobs",
		Versions: []api.Version{
			api.NewVersion[batchv1.CronJob, batchv1.CronJobList]("v1"),
			api.Legacy[*batchv1.CronJob, batchv1beta1.CronJob, batchv1beta1.CronJobList]("batch", "v1beta1", nil, nil),
		},
		Hub:           "v1",
		Subresources:  []api.Subresource{api.Status()},
		HasGeneration: true,
		PrepareForCreate: api.On(func(c *batchv1.CronJob) {
			c.Status, c.Spec.JobTemplate.Spec.Scheduling = batchv1.CronJobStatus{}, nil
			podspec.DropDisabledTemplate(&c.Spec.JobTemplate.Spec.Template, nil)
		}),
		PrepareForUpdate: api.OnUpdate(func(c, old *batchv1.CronJob) {
			c.Status = old.Status
			podspec.DropDisabledTemplate(&c.Spec.JobTemplate.Spec.Template, &old.Spec.JobTemplate.Spec.Template)
			if old.Spec.JobTemplate.Spec.Scheduling == nil {
				c.Spec.JobTemplate.Spec.Scheduling = nil
			}
		}),
		PrepareForStatusUpdate:   api.OnUpdate(func(c, old *batchv1.CronJob) { c.Spec = old.Spec }),
		Default:                  api.On(defaultCronJob),
		Validate:                 api.Check(func(c *batchv1.CronJob) field.ErrorList { return validateCronJob(c, nil) }),
		ValidateUpdate:           api.CheckUpdate(validateCronJob),
		Warnings:                 api.Warn(warnCronJob),
		AllowUnconditionalUpdate: true,
		Columns: slices.Concat(api.Columns(
			table.Name(),
			table.Column("Schedule", table.String, spec["schedule"]),
			table.Column("Timezone", table.String, spec["timeZone"]),
			table.Column("Suspend", table.Boolean, spec["suspend"]),
			table.Column("Active", table.Integer, status["active"]),
			table.Column("Last Schedule", table.String, status["lastScheduleTime"]),
			table.AgeColumn(),
		), wideColumns(batchv1.JobSpec{}.SwaggerDoc()["selector"])),
		Row: api.Row(func(c *batchv1.CronJob, now time.Time) []any {
			zone, suspended, last := table.None, "False", table.None
			if c.Spec.TimeZone != nil {
				zone = *c.Spec.TimeZone
			}
			if c.Spec.Suspend != nil && *c.Spec.Suspend {
				suspended = "True"
			}
			if c.Status.LastScheduleTime != nil {
				last = table.Since(*c.Status.LastScheduleTime, now)
			}
			job := &c.Spec.JobTemplate.Spec
			names, images := table.Containers(job.Template.Spec.Containers)
			return []any{
				c.Name, c.Spec.Schedule, zone, suspended, int64(len(c.Status.Active)), last, table.Age(c, now), names, images, table.Selector(job.Selector),
			}
		}),
	}
}

func defaultCronJob(c *batchv1.CronJob) {
	s := &c.Spec
	if s.ConcurrencyPolicy == "" {
		s.ConcurrencyPolicy = batchv1.AllowConcurrent
	}
	if s.Suspend == nil {
		s.Suspend = new(bool)
	}
	setInt32(&s.SuccessfulJobsHistoryLimit, 3)
	setInt32(&s.FailedJobsHistoryLimit, 1)
	defaultFailurePolicy(s.JobTemplate.Spec.PodFailurePolicy)
	podspec.SetPodTemplateDefaults(&s.JobTemplate.Spec.Template)
}

func validateCronJob(c, old *batchv1.CronJob) field.ErrorList {
	var errs field.ErrorList
	p, s := field.NewPath("spec"), &c.Spec
	options := podspec.OptionsForTemplate(&s.JobTemplate.Spec.Template, nil)
	if old != nil {
		options = podspec.OptionsForTemplate(&s.JobTemplate.Spec.Template, &old.Spec.JobTemplate.Spec.Template)
	}
	if s.Schedule != "" {
		errs = append(errs, validateSchedule(s.Schedule, old != nil && strings.Contains(old.Spec.Schedule, "TZ"), s.TimeZone != nil, p.Child("schedule"))...)
	}
	if s.StartingDeadlineSeconds != nil {
		errs = append(errs, check.NonNegative(*s.StartingDeadlineSeconds, p.Child("startingDeadlineSeconds"))...)
	}
	if z := s.TimeZone; z != nil && (old == nil || old.Spec.TimeZone == nil || *old.Spec.TimeZone != *z) {
		errs = append(errs, validateTimeZone(*z, p.Child("timeZone"))...)
	}
	errs = append(errs, check.Enum(s.ConcurrencyPolicy, p.Child("concurrencyPolicy"), batchv1.AllowConcurrent, batchv1.ForbidConcurrent, batchv1.ReplaceConcurrent)...)

	job := p.Child("jobTemplate", "spec")
	errs = append(errs, validateJobSpec(&s.JobTemplate.Spec, job, options)...)
	if made := s.JobTemplate.Spec.Selector; made != nil {
		errs = append(errs, field.Invalid(job.Child("selector"), made, "`selector` will be auto-generated"))
	}
	if m := s.JobTemplate.Spec.ManualSelector; m != nil && *m {
		errs = append(errs, field.NotSupported(job.Child("manualSelector"), *m, []string{"nil", "false"}))
	}
	if n := s.SuccessfulJobsHistoryLimit; n != nil {
		errs = append(errs, check.NonNegative(int64(*n), p.Child("successfulJobsHistoryLimit"))...)
	}
	if n := s.FailedJobsHistoryLimit; n != nil {
		errs = append(errs, check.NonNegative(int64(*n), p.Child("failedJobsHistoryLimit"))...)
	}
	if old == nil && len(c.Name) > maxCronJobName {
		errs = append(errs, field.Invalid(field.NewPath("metadata", "name"), c.Name, fmt.Sprintf("must be no more than %d characters", maxCronJobName)))
	}
	if s.Schedule == "" { // upstream says this last, as it does of all that its declarations require
		errs = append(errs, field.Required(p.Child("schedule"), ""))
	}
	return errs
}

// validateSchedule checks a schedule. There may be a time zone in it where there was one before.
func validateSchedule(text string, zones, hasZone bool, p *field.Path) field.ErrorList {
	when, zoned := text, strings.Contains(text, "TZ")
	if strings.HasPrefix(text, "TZ=") || strings.HasPrefix(text, "CRON_TZ=") {
		if _, rest, ok := strings.Cut(text, " "); ok {
			when = strings.TrimSpace(rest)
		}
	}
	var errs field.ErrorList
	if _, err := cron.Parse(when); err != nil {
		errs = append(errs, field.Invalid(p, text, err.Error()))
	}
	switch {
	case zoned && !zones:
		errs = append(errs, field.Invalid(p, text, "cannot use TZ or CRON_TZ in schedule, use timeZone field instead"))
	case zoned && hasZone:
		errs = append(errs, field.Invalid(p, text, "cannot use both timeZone field and TZ or CRON_TZ in schedule"))
	}
	return errs
}

// zonePart is what may stand between the slashes of a time zone's name.
var zonePart = regexp.MustCompile(`^[A-Za-z0-9._+-]{1,14}$`)

// validateTimeZone wants a name of the time zone database, as it is written there: it is the name of a file, and none beside that.
func validateTimeZone(zone string, p *field.Path) field.ErrorList {
	if zone == "" {
		return field.ErrorList{field.Invalid(p, zone, "timeZone must be nil or non-empty string")}
	}
	for part := range strings.SplitSeq(zone, "/") {
		if part == "." || part == ".." || strings.HasPrefix(part, "-") || !zonePart.MatchString(part) {
			return field.ErrorList{field.Invalid(p, zone, "unknown time zone "+zone)}
		}
	}
	var errs field.ErrorList
	if strings.EqualFold(zone, "Local") {
		errs = append(errs, field.Invalid(p, zone, "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones"))
	}
	if _, err := time.LoadLocation(zone); err != nil {
		errs = append(errs, field.Invalid(p, zone, err.Error()))
	}
	return errs
}

func warnCronJob(c, old *batchv1.CronJob) []string {
	p := field.NewPath("spec", "jobTemplate", "spec", "template")
	if old == nil {
		return append(nameWarnings(c.Name), podspec.Warnings(&c.Spec.JobTemplate.Spec.Template, nil, p)...)
	}
	var out []string
	if c.Generation != old.Generation {
		out = podspec.Warnings(&c.Spec.JobTemplate.Spec.Template, &old.Spec.JobTemplate.Spec.Template, p)
	}
	if strings.Contains(c.Spec.Schedule, "TZ") {
		out = append(out, fmt.Sprintf("%s: cannot use TZ or CRON_TZ in schedule, use timeZone instead", field.NewPath("spec", "schedule")))
	}
	return out
}

// nameWarnings are for kinds whose name becomes a part of the names of pods.
func nameWarnings(name string) []string {
	if texts := validation.IsDNS1123Label(name); len(texts) > 0 {
		return []string{fmt.Sprintf("metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: %v", texts)}
	}
	return nil
}
