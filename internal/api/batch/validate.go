package batch

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api/check"
	"github.com/celox/celox/internal/api/podspec"
)

// Limits of a job.
const (
	maxIndexed              = 100000 // parallelism; completions above it with backoffLimitPerIndex want maxFailedIndexes
	maxParallelLargeIndexed = 10000  // parallelism and maxFailedIndexes beyond maxIndexed completions
	maxManagedBy            = 63     // bytes
	maxRules                = 20     // of a policy
	maxConditions           = 20     // of a rule
	maxExitCodes            = 255    // of a rule
	maxSucceededIndexes     = 64 << 10
)

func validateJob(j, old *batchv1.Job) field.ErrorList {
	var before *corev1.PodTemplateSpec
	if old != nil {
		before = &old.Spec.Template
	}
	options := podspec.OptionsForTemplate(&j.Spec.Template, before)
	if old != nil {
		return validateSelected(j, options)
	}
	return slices.Concat(validateGenerated(j), validateSelected(j, options), validateLastPod(j))
}

// validateLastPod wants the host name of the last pod of an indexed job, the longest, to be one.
func validateLastPod(j *batchv1.Job) field.ErrorList {
	s := &j.Spec
	if s.CompletionMode == nil || *s.CompletionMode != batchv1.IndexedCompletion || s.Completions == nil || *s.Completions <= 0 {
		return nil
	}
	last := fmt.Sprintf("%s-%d", j.Name, *s.Completions-1)
	if len(validation.IsDNS1123Label(last)) == 0 {
		return nil
	}
	return field.ErrorList{field.Invalid(field.NewPath("metadata", "name"), j.Name, "will not able to create pod with invalid DNS label: "+last)}
}

// validateSelected checks the spec of a job, which unlike that of a cron job's template has a selector.
func validateSelected(j *batchv1.Job, options podspec.Options) field.ErrorList {
	p := field.NewPath("spec")
	errs := validateJobSpec(&j.Spec, p, options)
	if j.Spec.Selector == nil {
		errs = append(errs, field.Required(p.Child("selector"), ""))
	} else {
		errs = append(errs, check.Selector(j.Spec.Selector, p.Child("selector"), false)...)
	}
	if s, err := metav1.LabelSelectorAsSelector(j.Spec.Selector); err == nil && !s.Matches(labels.Set(j.Spec.Template.Labels)) {
		errs = append(errs, field.Invalid(p.Child("template", "metadata", "labels"), j.Spec.Template.Labels, check.LabelsMismatchText))
	}
	return errs
}

// validateGenerated checks that a generated selector is what it would be generated as, and so selects no other job's pods.
func validateGenerated(j *batchv1.Job) field.ErrorList {
	if (j.Spec.ManualSelector != nil && *j.Spec.ManualSelector) || j.Spec.Selector == nil {
		return nil
	}
	var errs field.ErrorList
	if j.UID == "" {
		errs = append(errs, field.Required(field.NewPath("metadata", "uid"), ""))
	}
	expected := labels.Set{}
	for _, l := range [...]struct{ key, value string }{
		{legacyControllerUID, string(j.UID)}, {legacyJobName, j.Name}, {controllerUID, string(j.UID)}, {jobName, j.Name},
	} {
		expected[l.key] = l.value
		p := field.NewPath("spec", "template", "metadata", "labels").Key(l.key)
		switch got, ok := j.Spec.Template.Labels[l.key]; {
		case !ok:
			errs = append(errs, field.Required(p, fmt.Sprintf("must be '%s'", l.value)))
		case got != l.value:
			errs = append(errs, field.Invalid(p, j.Spec.Template.Labels, fmt.Sprintf("must be '%s'", l.value)))
		}
	}
	if s, err := metav1.LabelSelectorAsSelector(j.Spec.Selector); err == nil && !s.Matches(expected) {
		errs = append(errs, field.Invalid(field.NewPath("spec", "selector"), j.Spec.Selector, "`selector` not auto-generated"))
	}
	return errs
}

// validateJobSpec checks what the specs of jobs and of the templates of cron jobs have in common.
func validateJobSpec(s *batchv1.JobSpec, p *field.Path, options podspec.Options) field.ErrorList {
	var errs field.ErrorList
	number := func(name string, v *int32) {
		if v != nil {
			errs = append(errs, check.NonNegative(int64(*v), p.Child(name))...)
		}
	}
	number("parallelism", s.Parallelism)
	number("completions", s.Completions)
	if s.ActiveDeadlineSeconds != nil {
		errs = append(errs, check.NonNegative(*s.ActiveDeadlineSeconds, p.Child("activeDeadlineSeconds"))...)
	}
	number("backoffLimit", s.BackoffLimit)
	number("ttlSecondsAfterFinished", s.TTLSecondsAfterFinished)
	number("backoffLimitPerIndex", s.BackoffLimitPerIndex)
	if s.MaxFailedIndexes != nil {
		number("maxFailedIndexes", s.MaxFailedIndexes)
		if s.BackoffLimitPerIndex == nil {
			errs = append(errs, field.Required(p.Child("backoffLimitPerIndex"), "when maxFailedIndexes is specified"))
		}
	}
	if m := s.ManagedBy; m != nil {
		errs = append(errs, validation.IsDomainPrefixedPath(p.Child("managedBy"), *m)...)
		if len(*m) > maxManagedBy {
			errs = append(errs, field.TooLong(p.Child("managedBy"), *m, maxManagedBy))
		}
	}
	errs = append(errs, validateMode(s, p)...)
	if s.PodFailurePolicy != nil {
		errs = append(errs, validateFailurePolicy(s, p.Child("podFailurePolicy"))...)
	}
	if s.SuccessPolicy != nil {
		errs = append(errs, validateSuccessPolicy(s, p.Child("successPolicy"))...)
	}
	errs = append(errs, validateReplacement(s, p.Child("podReplacementPolicy"))...)
	errs = append(errs, podspec.ValidatePodTemplateSpec(&s.Template, p.Child("template"), options)...)
	restart := p.Child("template", "spec", "restartPolicy")
	switch r := s.Template.Spec.RestartPolicy; {
	case r == "" || r == corev1.RestartPolicyAlways:
		// Always may be the default of a pod rather than the user's wish, so it counts as absent.
		errs = append(errs, field.Required(restart, fmt.Sprintf("valid values: %q, %q", corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever)))
	case r != corev1.RestartPolicyOnFailure && r != corev1.RestartPolicyNever:
		errs = append(errs, field.NotSupported(restart, r, []corev1.RestartPolicy{corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever}))
	case s.PodFailurePolicy != nil && r != corev1.RestartPolicyNever:
		errs = append(errs, field.Invalid(restart, r, fmt.Sprintf("only %q is supported when podFailurePolicy is specified", corev1.RestartPolicyNever)))
	}
	return errs
}

func validateMode(s *batchv1.JobSpec, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	mode := batchv1.NonIndexedCompletion // what the template of a cron job leaves open
	if s.CompletionMode != nil {
		mode = *s.CompletionMode
	}
	switch mode {
	case batchv1.IndexedCompletion:
	case batchv1.NonIndexedCompletion:
		if s.BackoffLimitPerIndex != nil {
			errs = append(errs, field.Invalid(p.Child("backoffLimitPerIndex"), *s.BackoffLimitPerIndex, "requires indexed completion mode"))
		}
		if s.MaxFailedIndexes != nil {
			errs = append(errs, field.Invalid(p.Child("maxFailedIndexes"), *s.MaxFailedIndexes, "requires indexed completion mode"))
		}
		return errs
	default:
		return field.ErrorList{field.NotSupported(p.Child("completionMode"), mode, []batchv1.CompletionMode{batchv1.NonIndexedCompletion, batchv1.IndexedCompletion})}
	}
	if s.Completions == nil {
		errs = append(errs, field.Required(p.Child("completions"), fmt.Sprintf("when completion mode is %s", mode)))
	}
	if s.Parallelism != nil && *s.Parallelism > maxIndexed {
		errs = append(errs, field.Invalid(p.Child("parallelism"), *s.Parallelism, fmt.Sprintf("must be less than or equal to %d when completion mode is %s", maxIndexed, mode)))
	}
	failed := p.Child("maxFailedIndexes")
	if s.Completions != nil && s.MaxFailedIndexes != nil && *s.MaxFailedIndexes > *s.Completions {
		errs = append(errs, field.Invalid(failed, *s.MaxFailedIndexes, "must be less than or equal to completions"))
	}
	if s.MaxFailedIndexes != nil && *s.MaxFailedIndexes > maxIndexed {
		errs = append(errs, field.Invalid(failed, *s.MaxFailedIndexes, fmt.Sprintf("must be less than or equal to %d", maxIndexed)))
	}
	if s.Completions == nil || *s.Completions <= maxIndexed || s.BackoffLimitPerIndex == nil {
		return errs
	}
	if s.MaxFailedIndexes == nil {
		errs = append(errs, field.Required(failed, fmt.Sprintf("must be specified when completions is above %d", maxIndexed)))
	}
	const large = "must be less than or equal to %d when completions are above %d and used with backoff limit per index"
	if s.Parallelism != nil && *s.Parallelism > maxParallelLargeIndexed {
		errs = append(errs, field.Invalid(p.Child("parallelism"), *s.Parallelism, fmt.Sprintf(large, maxParallelLargeIndexed, maxIndexed)))
	}
	if s.MaxFailedIndexes != nil && *s.MaxFailedIndexes > maxParallelLargeIndexed {
		errs = append(errs, field.Invalid(failed, *s.MaxFailedIndexes, fmt.Sprintf(large, maxParallelLargeIndexed, maxIndexed)))
	}
	return errs
}

func validateReplacement(s *batchv1.JobSpec, p *field.Path) field.ErrorList {
	if s.PodReplacementPolicy == nil {
		return nil
	}
	if s.PodFailurePolicy != nil {
		return check.OneOf(*s.PodReplacementPolicy, p, batchv1.Failed)
	}
	return check.OneOf(*s.PodReplacementPolicy, p, batchv1.Failed, batchv1.TerminatingOrFailed)
}

func validateFailurePolicy(s *batchv1.JobSpec, p *field.Path) field.ErrorList {
	rules := p.Child("rules")
	var containers []string
	for i := range s.Template.Spec.InitContainers {
		containers = append(containers, s.Template.Spec.InitContainers[i].Name)
	}
	for i := range s.Template.Spec.Containers {
		containers = append(containers, s.Template.Spec.Containers[i].Name)
	}
	var errs field.ErrorList
	if n := len(s.PodFailurePolicy.Rules); n > maxRules {
		errs = append(errs, field.TooMany(rules, n, maxRules))
	}
	for i := range s.PodFailurePolicy.Rules {
		errs = append(errs, validateFailureRule(s, &s.PodFailurePolicy.Rules[i], containers, rules.Index(i))...)
	}
	return errs
}

func validateFailureRule(s *batchv1.JobSpec, r *batchv1.PodFailurePolicyRule, containers []string, p *field.Path) field.ErrorList {
	errs := oneOfListed(r.Action, p.Child("action"), batchv1.PodFailurePolicyActionCount, batchv1.PodFailurePolicyActionFailIndex,
		batchv1.PodFailurePolicyActionFailJob, batchv1.PodFailurePolicyActionIgnore)
	if r.Action == batchv1.PodFailurePolicyActionFailIndex && s.BackoffLimitPerIndex == nil {
		errs = append(errs, field.Invalid(p.Child("action"), r.Action, "requires the backoffLimitPerIndex to be set"))
	}
	if c := r.OnExitCodes; c != nil {
		errs = append(errs, validateExitCodes(c, containers, p.Child("onExitCodes"))...)
	}
	if n := len(r.OnPodConditions); n > maxConditions {
		errs = append(errs, field.TooMany(p.Child("onPodConditions"), n, maxConditions))
	}
	for i, c := range r.OnPodConditions {
		at := p.Child("onPodConditions").Index(i)
		errs = append(errs, check.QualifiedName(string(c.Type), at.Child("type"))...)
		errs = append(errs, oneOfListed(c.Status, at.Child("status"), corev1.ConditionFalse, corev1.ConditionTrue, corev1.ConditionUnknown)...)
	}
	switch {
	case r.OnExitCodes != nil && len(r.OnPodConditions) > 0:
		errs = append(errs, field.Invalid(p, field.OmitValueType{}, "specifying both OnExitCodes and OnPodConditions is not supported"))
	case r.OnExitCodes == nil && len(r.OnPodConditions) == 0:
		errs = append(errs, field.Invalid(p, field.OmitValueType{}, "specifying one of OnExitCodes and OnPodConditions is required"))
	}
	return errs
}

// oneOfListed wants one of some values; it lists them also where there is none.
func oneOfListed[T ~string](v T, p *field.Path, sorted ...T) field.ErrorList {
	if v == "" {
		return field.ErrorList{field.Required(p, fmt.Sprintf("valid values: %q", sorted))}
	}
	return check.OneOf(v, p, sorted...)
}

func validateExitCodes(c *batchv1.PodFailurePolicyOnExitCodesRequirement, containers []string, p *field.Path) field.ErrorList {
	errs := oneOfListed(c.Operator, p.Child("operator"), batchv1.PodFailurePolicyOnExitCodesOpIn, batchv1.PodFailurePolicyOnExitCodesOpNotIn)
	if c.ContainerName != nil && !slices.Contains(containers, *c.ContainerName) {
		errs = append(errs, field.Invalid(p.Child("containerName"), *c.ContainerName, "must be one of the container or initContainer names in the pod template"))
	}
	values := p.Child("values")
	switch n := len(c.Values); {
	case n == 0:
		errs = append(errs, field.Invalid(values, c.Values, "at least one value is required"))
	case n > maxExitCodes:
		errs = append(errs, field.TooMany(values, n, maxExitCodes))
	}
	seen := map[int32]bool{}
	for i, v := range c.Values {
		if c.Operator == batchv1.PodFailurePolicyOnExitCodesOpIn && v == 0 {
			errs = append(errs, field.Invalid(values.Index(i), v, "must not be 0 for the In operator"))
		}
		if seen[v] {
			errs = append(errs, field.Duplicate(values.Index(i), v))
		}
		seen[v] = true
	}
	if !slices.IsSorted(c.Values) {
		errs = append(errs, field.Invalid(values, c.Values, "must be ordered"))
	}
	return errs
}

func validateSuccessPolicy(s *batchv1.JobSpec, p *field.Path) field.ErrorList {
	policy, rules := s.SuccessPolicy, p.Child("rules")
	switch n := len(policy.Rules); {
	case s.CompletionMode == nil || *s.CompletionMode != batchv1.IndexedCompletion:
		return field.ErrorList{field.Invalid(p, check.Rendered(*policy), "requires indexed completion mode")}
	case n == 0:
		return field.ErrorList{field.Required(rules, "at least one rules must be specified when the successPolicy is specified")}
	case n > maxRules:
		return field.ErrorList{field.TooMany(rules, n, maxRules)}
	}
	var errs field.ErrorList
	for i := range policy.Rules {
		errs = append(errs, validateSuccessRule(s, &policy.Rules[i], rules.Index(i))...)
	}
	return errs
}

func validateSuccessRule(s *batchv1.JobSpec, r *batchv1.SuccessPolicyRule, p *field.Path) field.ErrorList {
	if r.SucceededCount == nil && r.SucceededIndexes == nil {
		return field.ErrorList{field.Required(p, "at least one of succeededCount or succeededIndexes must be specified")}
	}
	var errs field.ErrorList
	var total int32
	if x := r.SucceededIndexes; x != nil {
		at := p.Child("succeededIndexes")
		if len(*x) > maxSucceededIndexes {
			errs = append(errs, field.TooLong(at, *x, maxSucceededIndexes))
		}
		limit := int32(0)
		if s.Completions != nil {
			limit = *s.Completions
		}
		n, err := countIndexes(*x, limit)
		if err != nil {
			errs = append(errs, field.Invalid(at, *x, fmt.Sprintf("error parsing succeededIndexes: %v", err)))
		}
		total = n
	}
	if c := r.SucceededCount; c != nil {
		at := p.Child("succeededCount")
		errs = append(errs, check.NonNegative(int64(*c), at)...)
		if s.Completions != nil && *c > *s.Completions {
			errs = append(errs, field.Invalid(at, *c, fmt.Sprintf("must be less than or equal to %d (the number of specified completions)", *s.Completions)))
		}
		if r.SucceededIndexes != nil && *c > total {
			errs = append(errs, field.Invalid(at, *c, fmt.Sprintf("must be less than or equal to %d (the number of indexes in the specified succeededIndexes field)", total)))
		}
	}
	return errs
}

// countIndexes counts what a text like "0,2-5" lists: growing indexes below completions.
func countIndexes(text string, completions int32) (int32, error) {
	list, err := intervals(text, completions)
	if err != nil {
		return 0, err
	}
	var total int32
	for _, x := range list {
		total += int32(x[1] - x[0] + 1)
	}
	return total, nil
}

// intervals reads such a text into the first and the last index of each of its parts.
func intervals(text string, completions int32) ([][2]int, error) {
	if text == "" {
		return nil, nil
	}
	var out [][2]int
	for part := range strings.SplitSeq(text, ",") {
		x, err := interval(part, completions)
		if err != nil {
			return nil, err
		}
		if n := len(out); n > 0 && out[n-1][1] >= x[0] {
			return nil, fmt.Errorf("non-increasing order, previous: %d, current: %d", out[n-1][1], x[0])
		}
		out = append(out, x)
	}
	return out, nil
}

// interval reads one part of such a text.
func interval(part string, completions int32) (x [2]int, err error) {
	ends := strings.Split(part, "-")
	if len(ends) > 2 {
		return x, fmt.Errorf("the fragment %q violates the requirement that an index interval can have at most two parts separated by '-'", part)
	}
	for i, t := range ends {
		n, err := strconv.Atoi(t)
		if err != nil {
			return x, fmt.Errorf("cannot convert string to integer for index: %q", t)
		}
		if n >= int(completions) {
			return x, fmt.Errorf("too large index: %q", t)
		}
		x[i] = n
	}
	if len(ends) == 1 {
		x[1] = x[0]
	} else if x[0] >= x[1] {
		return x, fmt.Errorf("non-increasing order, previous: %d, current: %d", x[0], x[1])
	}
	return x, nil
}

func validateJobUpdate(j, old *batchv1.Job) field.ErrorList {
	p, s, was := field.NewPath("spec"), &j.Spec, &old.Spec
	errs := validateJob(j, old)
	errs = append(errs, validateCompletions(s, was, p)...)
	errs = append(errs, check.Immutable(s.Selector, was.Selector, p.Child("selector"))...)
	errs = append(errs, validateTemplateUpdate(j, old, p.Child("template"))...)
	errs = append(errs, check.Immutable(s.CompletionMode, was.CompletionMode, p.Child("completionMode"))...)
	for _, f := range []struct {
		name        string
		now, before any
		same        bool
	}{
		{"podFailurePolicy", s.PodFailurePolicy, was.PodFailurePolicy, apiequality.Semantic.DeepEqual(s.PodFailurePolicy, was.PodFailurePolicy)},
		{"backoffLimitPerIndex", s.BackoffLimitPerIndex, was.BackoffLimitPerIndex, apiequality.Semantic.DeepEqual(s.BackoffLimitPerIndex, was.BackoffLimitPerIndex)},
		{"managedBy", s.ManagedBy, was.ManagedBy, apiequality.Semantic.DeepEqual(s.ManagedBy, was.ManagedBy)},
		{"successPolicy", s.SuccessPolicy, was.SuccessPolicy, apiequality.Semantic.DeepEqual(s.SuccessPolicy, was.SuccessPolicy)},
	} {
		if !f.same {
			errs = append(errs, field.Invalid(p.Child(f.name), check.Rendered(f.now), check.ImmutableText))
		}
	}
	return append(errs, validateLastPod(j)...)
}

// validateCompletions lets an indexed job grow and shrink only together with its parallelism (KEP-3715).
func validateCompletions(s, was *batchv1.JobSpec, p *field.Path) field.ErrorList {
	at := p.Child("completions")
	indexed := s.CompletionMode != nil && *s.CompletionMode == batchv1.IndexedCompletion
	if !indexed || apiequality.Semantic.DeepEqual(s.Completions, was.Completions) {
		return check.Immutable(s.Completions, was.Completions, at)
	}
	if s.Completions == nil {
		return nil // said already: required
	}
	if s.Parallelism == nil || *s.Completions != *s.Parallelism {
		return field.ErrorList{field.Invalid(at, *s.Completions, fmt.Sprintf("can only be modified in tandem with %s", p.Child("parallelism")))}
	}
	return nil
}

// validateTemplateUpdate: a job that is suspended and never started may still be told where to run and on what.
func validateTemplateUpdate(j, old *batchv1.Job, p *field.Path) field.ErrorList {
	now, before := &j.Spec.Template, old.Spec.Template.DeepCopy()
	if suspended := old.Spec.Suspend != nil && *old.Spec.Suspend; !suspended || old.Status.StartTime != nil {
		if apiequality.Semantic.DeepEqual(now, before) {
			return nil
		}
		return field.ErrorList{field.Invalid(p, check.Rendered(now), check.ImmutableText)}
	}
	before.Annotations, before.Labels = now.Annotations, now.Labels
	was, is := &before.Spec, &now.Spec
	if is.Affinity != nil || was.Affinity != nil {
		merged := &corev1.Affinity{}
		if was.Affinity != nil {
			merged = was.Affinity
		}
		if is.Affinity != nil {
			merged.NodeAffinity = is.Affinity.NodeAffinity
		} else {
			merged.NodeAffinity = nil
		}
		if was.Affinity = merged; *merged == (corev1.Affinity{}) && is.Affinity == nil {
			was.Affinity = nil
		}
	}
	was.NodeSelector, was.Tolerations, was.SchedulingGates = is.NodeSelector, is.Tolerations, is.SchedulingGates
	for _, c := range []struct{ was, is []corev1.Container }{{was.Containers, is.Containers}, {was.InitContainers, is.InitContainers}} {
		for i := range min(len(c.was), len(c.is)) {
			c.was[i].Resources = c.is[i].Resources
		}
	}
	if apiequality.Semantic.DeepEqual(*is, *was) {
		return nil
	}
	return field.ErrorList{field.Invalid(p.Child("spec"), check.Rendered(is), check.ImmutableText)}
}
