package apps

import (
	"encoding/json"
	"slices"
	"strconv"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	appsv1beta2 "k8s.io/api/apps/v1beta2"
	corev1 "k8s.io/api/core/v1"
	extensionsv1beta1 "k8s.io/api/extensions/v1beta1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/check"
	"github.com/celox/celox/internal/api/podspec"
	"github.com/celox/celox/internal/api/table"
)

func daemonSet() *api.Kind {
	spec, status, pod := appsv1.DaemonSetSpec{}.SwaggerDoc(), appsv1.DaemonSetStatus{}.SwaggerDoc(), corev1.PodSpec{}.SwaggerDoc()
	return &api.Kind{
		Group:      "apps",
		Kind:       "DaemonSet",
		Resource:   "daemonsets",
		Singular:   "daemonset",
		ShortNames: []string{"ds"},
		Categories: []string{"all"},
		Namespaced: true,
		Prefix:     "daemonsets",
		Versions: []api.Version{
			readable(api.NewVersion[appsv1.DaemonSet, appsv1.DaemonSetList]("v1"), readableDaemonSet),
			api.Legacy[*appsv1.DaemonSet, appsv1beta2.DaemonSet, appsv1beta2.DaemonSetList]("apps", "v1beta2", nil, nil),
			api.Legacy[*appsv1.DaemonSet, extensionsv1beta1.DaemonSet, extensionsv1beta1.DaemonSetList]("extensions", "v1beta1", daemonSetFromExtensions, nil),
		},
		Hub:              "v1",
		Subresources:     []api.Subresource{api.Status()},
		HasGeneration:    true,
		Unversioned:      []string{appsv1.DeprecatedTemplateGeneration},
		PrepareForCreate: api.On(prepareDaemonSet),
		PrepareForUpdate: api.OnUpdate(prepareDaemonSetUpdate),
		PrepareForStatusUpdate: api.OnUpdate(func(d, old *appsv1.DaemonSet) {
			d.Spec = old.Spec
			setTemplateGeneration(d, templateGeneration(old))
		}),
		Default:                  api.On(defaultDaemonSet),
		Validate:                 api.Check(func(d *appsv1.DaemonSet) field.ErrorList { return validateDaemonSet(d, nil) }),
		ValidateUpdate:           api.CheckUpdate(validateDaemonSetUpdate),
		ValidateStatusUpdate:     api.CheckUpdate(validateDaemonSetStatus),
		Warnings:                 api.Warn(warnDaemonSet),
		AllowUnconditionalUpdate: true,
		Columns: slices.Concat(api.Columns(
			table.Name(),
			table.Column("Desired", table.Integer, status["desiredNumberScheduled"]),
			table.Column("Current", table.Integer, status["currentNumberScheduled"]),
			table.Column("Ready", table.Integer, status["numberReady"]),
			table.Column("Up-to-date", table.Integer, status["updatedNumberScheduled"]),
			table.Column("Available", table.Integer, status["numberAvailable"]),
			table.Column("Node Selector", table.String, pod["nodeSelector"]),
			table.AgeColumn(),
		), wideColumns(spec["selector"])),
		Row: api.Row(func(d *appsv1.DaemonSet, now time.Time) []any {
			names, images := table.Containers(d.Spec.Template.Spec.Containers)
			s := &d.Status
			return []any{
				d.Name, int64(s.DesiredNumberScheduled), int64(s.CurrentNumberScheduled), int64(s.NumberReady), int64(s.UpdatedNumberScheduled),
				int64(s.NumberAvailable), table.Labels(d.Spec.Template.Spec.NodeSelector), table.Age(d, now), names, images, table.Selector(d.Spec.Selector),
			}
		}),
	}
}

// The template generation, which counts the changes of the template, is a field that clients see as an annotation since apps/v1:
// it is always there, and what they write into it is put back.
func prepareDaemonSet(d *appsv1.DaemonSet) {
	d.Status = appsv1.DaemonSetStatus{}
	podspec.DropDisabledTemplate(&d.Spec.Template, nil)
	setTemplateGeneration(d, max(templateGeneration(d), 1))
}

func prepareDaemonSetUpdate(d, old *appsv1.DaemonSet) {
	d.Status = old.Status
	podspec.DropDisabledTemplate(&d.Spec.Template, &old.Spec.Template)
	n := templateGeneration(old)
	if !apiequality.Semantic.DeepEqual(d.Spec.Template, old.Spec.Template) {
		n++
	}
	setTemplateGeneration(d, n)
}

func readableDaemonSet(annotations map[string]string) error {
	text, ok := annotations[appsv1.DeprecatedTemplateGeneration]
	if !ok {
		return nil
	}
	_, err := strconv.ParseInt(text, 10, 64)
	return err
}

func templateGeneration(d *appsv1.DaemonSet) int64 {
	n, err := strconv.ParseInt(d.Annotations[appsv1.DeprecatedTemplateGeneration], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func setTemplateGeneration(d *appsv1.DaemonSet, n int64) {
	metav1.SetMetaDataAnnotation(&d.ObjectMeta, appsv1.DeprecatedTemplateGeneration, strconv.FormatInt(n, 10))
}

func defaultDaemonSet(d *appsv1.DaemonSet) {
	if _, ok := d.Annotations[appsv1.DeprecatedTemplateGeneration]; !ok {
		setTemplateGeneration(d, 0)
	}
	u := &d.Spec.UpdateStrategy
	if u.Type == "" {
		u.Type = appsv1.RollingUpdateDaemonSetStrategyType
	}
	if u.Type == appsv1.RollingUpdateDaemonSetStrategyType {
		if u.RollingUpdate == nil {
			u.RollingUpdate = &appsv1.RollingUpdateDaemonSet{}
		}
		if u.RollingUpdate.MaxUnavailable == nil {
			v := intstr.FromInt32(1)
			u.RollingUpdate.MaxUnavailable = &v
		}
		if u.RollingUpdate.MaxSurge == nil {
			v := intstr.FromInt32(0)
			u.RollingUpdate.MaxSurge = &v
		}
	} else if u.RollingUpdate != nil {
		showSteps(&u.RollingUpdate.MaxUnavailable, &u.RollingUpdate.MaxSurge) // as upstream: steps that nobody takes are none
	}
	setInt32(&d.Spec.RevisionHistoryLimit, 10)
	podspec.SetPodTemplateDefaults(&d.Spec.Template)
}

func validateDaemonSet(d, old *appsv1.DaemonSet) field.ErrorList {
	p, s := field.NewPath("spec"), &d.Spec
	w := workload{owner: "DaemonSet", selector: s.Selector, template: &s.Template}
	if old != nil {
		w.options = podspec.OptionsForTemplate(&s.Template, &old.Spec.Template)
	} else {
		w.options = podspec.OptionsForTemplate(&s.Template, nil)
	}
	var errs field.ErrorList
	if s.Selector != nil {
		errs = append(errs, check.Selector(s.Selector, p.Child("selector"), false)...)
	}
	template := p.Child("template")
	if selector, err := metav1.LabelSelectorAsSelector(s.Selector); err == nil && !selector.Matches(labels.Set(s.Template.Labels)) {
		errs = append(errs, field.Invalid(template.Child("metadata", "labels"), s.Template.Labels, check.LabelsMismatchText))
	}
	if s.Selector != nil && isEmpty(s.Selector) {
		errs = append(errs, field.Invalid(p.Child("selector"), s.Selector, "empty selector is invalid for daemonset"))
	}
	errs = append(errs, podspec.ValidatePodTemplateSpec(&s.Template, template, w.options)...)
	errs = append(errs, w.validateForever(template)...)
	errs = append(errs, check.NonNegative(int64(s.MinReadySeconds), p.Child("minReadySeconds"))...)
	errs = append(errs, validateDaemonSetStrategy(&s.UpdateStrategy, p.Child("updateStrategy"))...)
	if s.RevisionHistoryLimit != nil {
		errs = append(errs, check.NonNegative(int64(*s.RevisionHistoryLimit), p.Child("revisionHistoryLimit"))...)
	}
	return errs
}

func validateDaemonSetStrategy(s *appsv1.DaemonSetUpdateStrategy, p *field.Path) field.ErrorList {
	rolling := p.Child("rollingUpdate")
	switch s.Type {
	case appsv1.OnDeleteDaemonSetStrategyType:
		return nil
	case appsv1.RollingUpdateDaemonSetStrategyType:
		if s.RollingUpdate == nil {
			return field.ErrorList{field.Required(rolling, "")}
		}
	default:
		return field.ErrorList{field.NotSupported(p, shownStrategy(s), []string{
			string(appsv1.RollingUpdateDaemonSetStrategyType), string(appsv1.OnDeleteDaemonSetStrategyType),
		})}
	}
	r, unavailable, surge := s.RollingUpdate, rolling.Child("maxUnavailable"), rolling.Child("maxSurge")
	errs := slices.Concat(
		validateStep(r.MaxUnavailable, unavailable), validateStep(r.MaxSurge, surge),
		validateStepAtMostAll(r.MaxUnavailable, unavailable), validateStepAtMostAll(r.MaxSurge, surge),
	)
	switch down, up := intOrZero(r.MaxUnavailable) != 0, intOrZero(r.MaxSurge) != 0; {
	case down && up:
		errs = append(errs, field.Invalid(surge, r.MaxSurge, "may not be set when maxUnavailable is non-zero"))
	case !down && !up:
		errs = append(errs, field.Required(unavailable, "cannot be 0 when maxSurge is 0"))
	}
	return errs
}

// shownStrategy is a strategy as messages show it: its steps are numbers there, 0 where they are absent.
func shownStrategy(s *appsv1.DaemonSetUpdateStrategy) json.Marshaler {
	out := *s
	if s.RollingUpdate != nil {
		r := *s.RollingUpdate
		showSteps(&r.MaxUnavailable, &r.MaxSurge)
		out.RollingUpdate = &r
	}
	return check.Rendered(out)
}

// showSteps makes absent steps of a rolling update 0.
func showSteps(steps ...**intstr.IntOrString) {
	for _, step := range steps {
		if *step == nil {
			*step = &intstr.IntOrString{}
		}
	}
}

func validateDaemonSetUpdate(d, old *appsv1.DaemonSet) field.ErrorList {
	return append(check.Immutable(d.Spec.Selector, old.Spec.Selector, field.NewPath("spec", "selector")), validateDaemonSet(d, old)...)
}

func validateDaemonSetStatus(d, old *appsv1.DaemonSet) field.ErrorList {
	p, s := field.NewPath("status"), &d.Status
	errs := validateCounts(p,
		count{"currentNumberScheduled", int64(s.CurrentNumberScheduled)},
		count{"numberMisscheduled", int64(s.NumberMisscheduled)},
		count{"desiredNumberScheduled", int64(s.DesiredNumberScheduled)},
		count{"numberReady", int64(s.NumberReady)},
		count{"observedGeneration", s.ObservedGeneration},
		count{"updatedNumberScheduled", int64(s.UpdatedNumberScheduled)},
		count{"numberAvailable", int64(s.NumberAvailable)},
		count{"numberUnavailable", int64(s.NumberUnavailable)})
	if s.CollisionCount != nil {
		errs = append(errs, validateCounts(p, count{"collisionCount", int64(*s.CollisionCount)})...)
	}
	return append(errs, validateCollisions(s.CollisionCount, old.Status.CollisionCount, p.Child("collisionCount"))...)
}

func warnDaemonSet(d, old *appsv1.DaemonSet) []string {
	if old != nil {
		if d.Generation == old.Generation {
			return nil
		}
		return podspec.Warnings(&d.Spec.Template, &old.Spec.Template, templatePath)
	}
	return podspec.Warnings(&d.Spec.Template, nil, templatePath)
}
