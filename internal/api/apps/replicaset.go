package apps

import (
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	appsv1beta2 "k8s.io/api/apps/v1beta2"
	extensionsv1beta1 "k8s.io/api/extensions/v1beta1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/check"
	"github.com/celox/celox/internal/api/podspec"
	"github.com/celox/celox/internal/api/table"
)

func replicaSet() *api.Kind {
	spec, status := appsv1.ReplicaSetSpec{}.SwaggerDoc(), appsv1.ReplicaSetStatus{}.SwaggerDoc()
	return &api.Kind{
		Group:      "apps",
		Kind:       "ReplicaSet",
		Resource:   "replicasets",
		Singular:   "replicaset",
		ShortNames: []string{"rs"},
		Categories: []string{"all"},
		Namespaced: true,
		Prefix:     "replicasets",
		Versions: []api.Version{
			api.NewVersion[appsv1.ReplicaSet, appsv1.ReplicaSetList]("v1"),
			api.Legacy[*appsv1.ReplicaSet, appsv1beta2.ReplicaSet, appsv1beta2.ReplicaSetList]("apps", "v1beta2", nil, nil),
			api.Legacy[*appsv1.ReplicaSet, extensionsv1beta1.ReplicaSet, extensionsv1beta1.ReplicaSetList]("extensions", "v1beta1", replicaSetFromExtensions, nil),
		},
		Hub:           "v1",
		Subresources:  []api.Subresource{api.Scale(), api.Status()},
		HasGeneration: true,
		PrepareForCreate: api.On(func(r *appsv1.ReplicaSet) {
			r.Status = appsv1.ReplicaSetStatus{}
			podspec.DropDisabledTemplate(&r.Spec.Template, nil)
		}),
		PrepareForUpdate: api.OnUpdate(func(r, old *appsv1.ReplicaSet) {
			r.Status = old.Status
			podspec.DropDisabledTemplate(&r.Spec.Template, &old.Spec.Template)
		}),
		PrepareForStatusUpdate:   api.OnUpdate(func(r, old *appsv1.ReplicaSet) { r.Spec = old.Spec }),
		Default:                  api.On(defaultReplicaSet),
		Validate:                 api.Check(func(r *appsv1.ReplicaSet) field.ErrorList { return validateReplicaSet(r, nil) }),
		ValidateUpdate:           api.CheckUpdate(validateReplicaSetUpdate),
		ValidateStatusUpdate:     api.CheckUpdate(validateReplicaSetStatus),
		Warnings:                 api.Warn(warnReplicaSet),
		AllowUnconditionalUpdate: true,
		Columns: slices.Concat(api.Columns(
			table.Name(),
			table.Column("Desired", table.Integer, spec["replicas"]),
			table.Column("Current", table.Integer, status["replicas"]),
			table.Column("Ready", table.Integer, status["readyReplicas"]),
			table.AgeColumn(),
		), wideColumns(spec["selector"])),
		Row: api.Row(func(r *appsv1.ReplicaSet, now time.Time) []any {
			var desired int64
			if r.Spec.Replicas != nil {
				desired = int64(*r.Spec.Replicas)
			}
			names, images := table.Containers(r.Spec.Template.Spec.Containers)
			return []any{
				r.Name, desired, int64(r.Status.Replicas), int64(r.Status.ReadyReplicas), table.Age(r, now),
				names, images, table.Selector(r.Spec.Selector),
			}
		}),
	}
}

func defaultReplicaSet(r *appsv1.ReplicaSet) {
	setReplicas(&r.Spec.Replicas)
	podspec.SetPodTemplateDefaults(&r.Spec.Template)
}

func validateReplicaSet(r, old *appsv1.ReplicaSet) field.ErrorList {
	p, s := field.NewPath("spec"), &r.Spec
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
	errs = append(errs, check.NonNegative(int64(s.MinReadySeconds), p.Child("minReadySeconds"))...)
	errs = append(errs, validateSelector(s.Selector, "deployment", p.Child("selector"))...)
	return append(errs, w.validateTemplate(p, "invalid label selector")...)
}

func validateReplicaSetUpdate(r, old *appsv1.ReplicaSet) field.ErrorList {
	return append(validateReplicaSet(r, old), check.Immutable(r.Spec.Selector, old.Spec.Selector, field.NewPath("spec", "selector"))...)
}

func validateReplicaSetStatus(r, _ *appsv1.ReplicaSet) field.ErrorList {
	p, s := field.NewPath("status"), &r.Status
	labelled := count{"fullyLabeledReplicas", int64(s.FullyLabeledReplicas)}
	ready := count{"readyReplicas", int64(s.ReadyReplicas)}
	available := count{"availableReplicas", int64(s.AvailableReplicas)}
	errs := validateCounts(p, count{"replicas", int64(s.Replicas)}, labelled, ready, available, count{"observedGeneration", s.ObservedGeneration})
	if s.TerminatingReplicas != nil {
		errs = append(errs, validateCounts(p, count{"terminatingReplicas", int64(*s.TerminatingReplicas)})...)
	}
	errs = append(errs, atMost(s.Replicas, "status.replicas", p, labelled, ready, available)...)
	return append(errs, atMost(s.ReadyReplicas, "readyReplicas", p, available)...)
}

func warnReplicaSet(r, old *appsv1.ReplicaSet) []string {
	if old != nil {
		if r.Generation == old.Generation {
			return nil
		}
		return podspec.Warnings(&r.Spec.Template, &old.Spec.Template, templatePath)
	}
	return append(nameWarnings(r.Name), podspec.Warnings(&r.Spec.Template, nil, templatePath)...)
}
