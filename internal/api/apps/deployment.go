package apps

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	appsv1beta1 "k8s.io/api/apps/v1beta1"
	appsv1beta2 "k8s.io/api/apps/v1beta2"
	extensionsv1beta1 "k8s.io/api/extensions/v1beta1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/check"
	"github.com/celox/celox/internal/api/podspec"
	"github.com/celox/celox/internal/api/table"
)

func deployment() *api.Kind {
	spec, status := appsv1.DeploymentSpec{}.SwaggerDoc(), appsv1.DeploymentStatus{}.SwaggerDoc()
	return &api.Kind{
		Group:      "apps",
		Kind:       "Deployment",
		Resource:   "deployments",
		Singular:   "deployment",
		ShortNames: []string{"deploy"},
		Categories: []string{"all"},
		Namespaced: true,
		Prefix:     "deployments",
		Versions: []api.Version{
			readable(api.NewVersion[appsv1.Deployment, appsv1.DeploymentList]("v1"), readableDeployment),
			api.Legacy[*appsv1.Deployment, appsv1beta2.Deployment, appsv1beta2.DeploymentList]("apps", "v1beta2", nil, nil),
			api.Legacy[*appsv1.Deployment, appsv1beta1.Deployment, appsv1beta1.DeploymentList]("apps", "v1beta1", deploymentFromV1beta1, nil),
			api.Legacy[*appsv1.Deployment, extensionsv1beta1.Deployment, extensionsv1beta1.DeploymentList]("extensions", "v1beta1", deploymentFromExtensions, nil),
		},
		Hub:               "v1",
		Subresources:      []api.Subresource{api.Scale(), api.Status()},
		HasGeneration:     true,
		GenerationChanged: api.Changed(deploymentChanged),
		Resets:            map[string][]string{"status": {"spec", "metadata.labels"}},
		PrepareForCreate: api.On(func(d *appsv1.Deployment) {
			d.Status = appsv1.DeploymentStatus{}
			podspec.DropDisabledTemplate(&d.Spec.Template, nil)
		}),
		PrepareForUpdate: api.OnUpdate(func(d, old *appsv1.Deployment) {
			d.Status = old.Status
			podspec.DropDisabledTemplate(&d.Spec.Template, &old.Spec.Template)
		}),
		PrepareForStatusUpdate: api.OnUpdate(func(d, old *appsv1.Deployment) {
			d.Spec, d.Labels = old.Spec, old.Labels
			setRollback(d, old.Annotations[appsv1.DeprecatedRollbackTo])
		}),
		Default:                  api.On(defaultDeployment),
		Validate:                 api.Check(func(d *appsv1.Deployment) field.ErrorList { return validateDeployment(d, nil) }),
		ValidateUpdate:           api.CheckUpdate(validateDeploymentUpdate),
		ValidateStatusUpdate:     api.CheckUpdate(validateDeploymentStatus),
		Warnings:                 api.Warn(warnDeployment),
		AllowUnconditionalUpdate: true,
		Columns: slices.Concat(api.Columns(
			table.Name(),
			table.Column("Ready", table.String, readyDescription),
			table.Column("Up-to-date", table.String, status["updatedReplicas"]),
			table.Column("Available", table.String, status["availableReplicas"]),
			table.AgeColumn(),
		), wideColumns(spec["selector"])),
		Row: api.Row(func(d *appsv1.Deployment, now time.Time) []any {
			names, images := table.Containers(d.Spec.Template.Spec.Containers)
			return []any{
				d.Name, ratio(d.Status.ReadyReplicas, d.Spec.Replicas), int64(d.Status.UpdatedReplicas), int64(d.Status.AvailableReplicas),
				table.Age(d, now), names, images, table.Selector(d.Spec.Selector),
			}
		}),
	}
}

// deploymentChanged says what the generation counts: annotations too, for they are copied to the replica sets.
func deploymentChanged(d, old *appsv1.Deployment) bool {
	return !apiequality.Semantic.DeepEqual(d.Spec, old.Spec) || !apiequality.Semantic.DeepEqual(d.Annotations, old.Annotations)
}

// The revision to roll back to was a field once, which clients see as an annotation since apps/v1beta2: one that says nothing is none.

// setRollback sets the revision to roll back to, "" is none. It is a number, and written as one.
func setRollback(d *appsv1.Deployment, revision string) {
	if n, err := strconv.ParseInt(revision, 10, 64); err == nil {
		revision = strconv.FormatInt(n, 10)
	}
	switch before, there := d.Annotations[appsv1.DeprecatedRollbackTo]; {
	case revision != "" && revision != before:
		d.Annotations = maps.Clone(d.Annotations)
		metav1.SetMetaDataAnnotation(&d.ObjectMeta, appsv1.DeprecatedRollbackTo, revision)
	case revision != "":
	case there && len(d.Annotations) == 1:
		d.Annotations = nil
	case there:
		d.Annotations = maps.Clone(d.Annotations)
		delete(d.Annotations, appsv1.DeprecatedRollbackTo)
	}
}

func readableDeployment(annotations map[string]string) error {
	to := annotations[appsv1.DeprecatedRollbackTo]
	if to == "" {
		return nil
	}
	if _, err := strconv.ParseInt(to, 10, 64); err != nil {
		return fmt.Errorf("failed to parse annotation[%s]=%s as int64: %w", appsv1.DeprecatedRollbackTo, to, err)
	}
	return nil
}

func defaultDeployment(d *appsv1.Deployment) {
	setRollback(d, d.Annotations[appsv1.DeprecatedRollbackTo])
	s := &d.Spec
	setReplicas(&s.Replicas)
	if s.Strategy.Type == "" {
		s.Strategy.Type = appsv1.RollingUpdateDeploymentStrategyType
	}
	if s.Strategy.Type == appsv1.RollingUpdateDeploymentStrategyType {
		setSteps(&s.Strategy, intstr.FromString("25%"))
	}
	setInt32(&s.RevisionHistoryLimit, 10)
	setInt32(&s.ProgressDeadlineSeconds, 600)
	podspec.SetPodTemplateDefaults(&s.Template)
}

// setSteps fills in how far a rolling update may go at a time, up and down.
func setSteps(s *appsv1.DeploymentStrategy, step intstr.IntOrString) {
	if s.RollingUpdate == nil {
		s.RollingUpdate = &appsv1.RollingUpdateDeployment{}
	}
	if s.RollingUpdate.MaxUnavailable == nil {
		v := step
		s.RollingUpdate.MaxUnavailable = &v
	}
	if s.RollingUpdate.MaxSurge == nil {
		v := step
		s.RollingUpdate.MaxSurge = &v
	}
}

func validateDeployment(d, old *appsv1.Deployment) field.ErrorList {
	p, s := field.NewPath("spec"), &d.Spec
	w := workload{owner: "ReplicaSet", selector: s.Selector, template: &s.Template}
	if old != nil {
		w.options = podspec.OptionsForTemplate(&s.Template, &old.Spec.Template)
	} else {
		w.options = podspec.OptionsForTemplate(&s.Template, nil)
	}
	var errs field.ErrorList
	if s.Replicas != nil {
		errs = append(errs, check.NonNegative(int64(*s.Replicas), p.Child("replicas"))...)
	}
	errs = append(errs, validateSelector(s.Selector, "deployment", p.Child("selector"))...)
	errs = append(errs, w.validateTemplate(p, "invalid label selector")...)
	errs = append(errs, validateDeploymentStrategy(&s.Strategy, p.Child("strategy"))...)
	errs = append(errs, check.NonNegative(int64(s.MinReadySeconds), p.Child("minReadySeconds"))...)
	if s.RevisionHistoryLimit != nil {
		errs = append(errs, check.NonNegative(int64(*s.RevisionHistoryLimit), p.Child("revisionHistoryLimit"))...)
	}
	if deadline := s.ProgressDeadlineSeconds; deadline != nil {
		at := p.Child("progressDeadlineSeconds")
		errs = append(errs, check.NonNegative(int64(*deadline), at)...)
		if *deadline <= s.MinReadySeconds {
			errs = append(errs, field.Invalid(at, *deadline, "must be greater than minReadySeconds"))
		}
	}
	if to, err := strconv.ParseInt(d.Annotations[appsv1.DeprecatedRollbackTo], 10, 64); err == nil {
		errs = append(errs, check.NonNegative(to, p.Child("rollback", "version"))...)
	}
	return errs
}

func validateDeploymentStrategy(s *appsv1.DeploymentStrategy, p *field.Path) field.ErrorList {
	rolling := p.Child("rollingUpdate")
	switch s.Type {
	case appsv1.RecreateDeploymentStrategyType:
		if s.RollingUpdate != nil {
			return field.ErrorList{field.Forbidden(rolling, "may not be specified when strategy `type` is '"+string(s.Type)+"'")}
		}
		return nil
	case appsv1.RollingUpdateDeploymentStrategyType:
		if s.RollingUpdate == nil {
			return field.ErrorList{field.Required(rolling, "this should be defaulted and never be nil")}
		}
	default:
		shown := *s
		if s.RollingUpdate != nil {
			steps := *s.RollingUpdate
			showSteps(&steps.MaxUnavailable, &steps.MaxSurge)
			shown.RollingUpdate = &steps
		}
		return field.ErrorList{field.NotSupported(p, check.Rendered(shown), []string{
			string(appsv1.RecreateDeploymentStrategyType), string(appsv1.RollingUpdateDeploymentStrategyType),
		})}
	}
	r := s.RollingUpdate
	errs := validateStep(r.MaxUnavailable, rolling.Child("maxUnavailable"))
	errs = append(errs, validateStep(r.MaxSurge, rolling.Child("maxSurge"))...)
	if intOrZero(r.MaxUnavailable) == 0 && intOrZero(r.MaxSurge) == 0 {
		errs = append(errs, field.Invalid(rolling.Child("maxUnavailable"), r.MaxUnavailable, "may not be 0 when `maxSurge` is 0"))
	}
	return append(errs, validateStepAtMostAll(r.MaxUnavailable, rolling.Child("maxUnavailable"))...)
}

func validateDeploymentUpdate(d, old *appsv1.Deployment) field.ErrorList {
	errs := validateDeployment(d, old)
	return append(errs, check.Immutable(d.Spec.Selector, old.Spec.Selector, field.NewPath("spec", "selector"))...)
}

func validateDeploymentStatus(d, old *appsv1.Deployment) field.ErrorList {
	p, s := field.NewPath("status"), &d.Status
	updated := count{"updatedReplicas", int64(s.UpdatedReplicas)}
	ready := count{"readyReplicas", int64(s.ReadyReplicas)}
	available := count{"availableReplicas", int64(s.AvailableReplicas)}
	errs := validateCounts(p,
		count{"observedGeneration", s.ObservedGeneration}, count{"replicas", int64(s.Replicas)},
		updated, ready, available, count{"unavailableReplicas", int64(s.UnavailableReplicas)})
	if s.TerminatingReplicas != nil {
		errs = append(errs, validateCounts(p, count{"terminatingReplicas", int64(*s.TerminatingReplicas)})...)
	}
	if s.CollisionCount != nil {
		errs = append(errs, validateCounts(p, count{"collisionCount", int64(*s.CollisionCount)})...)
	}
	errs = append(errs, atMost(s.Replicas, "status.replicas", p, updated, ready, available)...)
	errs = append(errs, atMost(s.ReadyReplicas, "readyReplicas", p, available)...)
	return append(errs, validateCollisions(s.CollisionCount, old.Status.CollisionCount, p.Child("collisionCount"))...)
}

func warnDeployment(d, old *appsv1.Deployment) []string {
	if old != nil {
		if d.Generation == old.Generation {
			return nil
		}
		return podspec.Warnings(&d.Spec.Template, &old.Spec.Template, templatePath)
	}
	return append(nameWarnings(d.Name), podspec.Warnings(&d.Spec.Template, nil, templatePath)...)
}
