package core

import (
	"fmt"
	"maps"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/check"
	"github.com/celox/celox/internal/api/podspec"
	"github.com/celox/celox/internal/api/table"
)

// What the columns about a template's containers are described with.
const (
	templateContainers = "Names of each container in the template."
	templateImages     = "Images referenced by each container in the template."
)

func replicationController() *api.Kind {
	spec, status := corev1.ReplicationControllerSpec{}.SwaggerDoc(), corev1.ReplicationControllerStatus{}.SwaggerDoc()
	return &api.Kind{
		Kind: "ReplicationController", Resource: "replicationcontrollers", Singular: "replicationcontroller", ShortNames: []string{"rc"},
		Categories: []string{"all"}, Namespaced: true, Prefix: "controllers",
		Versions: []api.Version{api.NewVersion[corev1.ReplicationController, corev1.ReplicationControllerList]("v1")}, Hub: "v1",
		Subresources:       []api.Subresource{api.Scale(), api.Status()},
		HasGeneration:      true,
		ValidateName:       check.DeclaredName,
		DeclaresName:       true,
		DefaultPropagation: metav1.DeletePropagationOrphan,
		PrepareForCreate: api.On(func(r *corev1.ReplicationController) {
			r.Status = corev1.ReplicationControllerStatus{}
			podspec.DropDisabledTemplate(r.Spec.Template, nil)
		}),
		PrepareForUpdate: api.OnUpdate(func(r, old *corev1.ReplicationController) {
			r.Status = old.Status
			podspec.DropDisabledTemplate(r.Spec.Template, old.Spec.Template)
		}),
		PrepareForStatusUpdate:   api.OnUpdate(func(r, old *corev1.ReplicationController) { r.Spec = old.Spec }),
		Default:                  api.On(defaultReplicationController),
		Validate:                 api.Check(func(r *corev1.ReplicationController) field.ErrorList { return validateReplicationController(r, nil) }),
		ValidateUpdate:           api.CheckUpdate(validateReplicationController),
		Warnings:                 api.Warn(warnReplicationController),
		ValidateStatusUpdate:     api.CheckUpdate(validateReplicationControllerStatus),
		AllowUnconditionalUpdate: true,
		FieldNames:               []string{"status.replicas"},
		Fields: func(obj api.Object) fields.Set {
			return fields.Set{"status.replicas": strconv.Itoa(int(obj.(*corev1.ReplicationController).Status.Replicas))}
		},
		Columns: api.Columns(table.Name(),
			table.Column("Desired", table.Integer, spec["replicas"]),
			table.Column("Current", table.Integer, status["replicas"]),
			table.Column("Ready", table.Integer, status["readyReplicas"]),
			table.AgeColumn(),
			table.Wide("Containers", table.String, templateContainers),
			table.Wide("Images", table.String, templateImages),
			table.Wide("Selector", table.String, spec["selector"])),
		Row: api.Row(func(r *corev1.ReplicationController, now time.Time) []any {
			var names, images string
			if r.Spec.Template != nil {
				names, images = table.Containers(r.Spec.Template.Spec.Containers)
			}
			var desired int64
			if r.Spec.Replicas != nil {
				desired = int64(*r.Spec.Replicas)
			}
			return []any{r.Name, desired, int64(r.Status.Replicas), int64(r.Status.ReadyReplicas), table.Age(r, now), names, images, table.Labels(r.Spec.Selector)}
		}),
	}
}

func defaultReplicationController(r *corev1.ReplicationController) {
	if t := r.Spec.Template; t != nil {
		// Selector and labels come from the template, as they did when this was the only controller.
		if len(t.Labels) > 0 {
			if len(r.Spec.Selector) == 0 {
				r.Spec.Selector = maps.Clone(t.Labels)
			}
			if len(r.Labels) == 0 {
				r.Labels = maps.Clone(t.Labels)
			}
		}
		podspec.SetPodTemplateDefaults(t)
	}
	if r.Spec.Replicas == nil {
		one := int32(1)
		r.Spec.Replicas = &one
	}
}

func warnReplicationController(r, old *corev1.ReplicationController) []string {
	var out []string
	p := field.NewPath("spec", "template")
	if old == nil {
		if texts := validation.IsDNS1123Label(r.Name); len(texts) > 0 {
			out = append(out, fmt.Sprintf("metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: %v", texts))
		}
		if r.Spec.Template != nil {
			out = append(out, podspec.Warnings(r.Spec.Template, nil, p)...)
		}
		return out
	}
	if r.Generation == old.Generation || old.Spec.Template == nil {
		return nil
	}
	return podspec.Warnings(old.Spec.Template, r.Spec.Template, p) // upstream looks at the template that was there
}

func validateReplicationController(r, old *corev1.ReplicationController) field.ErrorList {
	var errs field.ErrorList
	p := field.NewPath("spec")
	selector := labels.SelectorFromSet(r.Spec.Selector)
	if selector.Empty() {
		errs = append(errs, field.Required(p.Child("selector"), ""))
	}
	if r.Spec.Replicas == nil {
		errs = append(errs, field.Required(p.Child("replicas"), ""))
	} else {
		errs = append(errs, check.Declared(check.NonNegative(int64(*r.Spec.Replicas), p.Child("replicas")))...)
	}
	errs = append(errs, check.Declared(check.NonNegative(int64(r.Spec.MinReadySeconds), p.Child("minReadySeconds")))...)
	t := r.Spec.Template
	if t == nil {
		return append(errs, field.Required(p.Child("template"), ""))
	}
	if !selector.Empty() && !selector.Matches(labels.Set(t.Labels)) {
		errs = append(errs, field.Invalid(p.Child("template", "metadata", "labels"), t.Labels, check.LabelsMismatchText))
	}
	var before *corev1.PodTemplateSpec
	if old != nil {
		before = old.Spec.Template
	}
	errs = append(errs, podspec.ValidatePodTemplateSpec(t, p.Child("template"), podspec.OptionsForTemplate(t, before))...)
	if t.Spec.RestartPolicy != corev1.RestartPolicyAlways {
		errs = append(errs, field.NotSupported(p.Child("template", "spec", "restartPolicy"), t.Spec.RestartPolicy, []corev1.RestartPolicy{corev1.RestartPolicyAlways}))
	}
	if t.Spec.ActiveDeadlineSeconds != nil {
		errs = append(errs, field.Forbidden(p.Child("template", "spec", "activeDeadlineSeconds"), "activeDeadlineSeconds in ReplicationController is not Supported"))
	}
	return errs
}

func validateReplicationControllerStatus(r, _ *corev1.ReplicationController) field.ErrorList {
	var errs field.ErrorList
	p, s := field.NewPath("status"), &r.Status
	for _, f := range []struct {
		name string
		n    int32
	}{{"replicas", s.Replicas}, {"fullyLabeledReplicas", s.FullyLabeledReplicas}, {"readyReplicas", s.ReadyReplicas}, {"availableReplicas", s.AvailableReplicas}} {
		errs = append(errs, check.NonNegative(int64(f.n), p.Child(f.name))...)
	}
	errs = append(errs, check.NonNegative(s.ObservedGeneration, p.Child("observedGeneration"))...)
	const most = "cannot be greater than status.replicas"
	if s.FullyLabeledReplicas > s.Replicas {
		errs = append(errs, field.Invalid(p.Child("fullyLabeledReplicas"), s.FullyLabeledReplicas, most))
	}
	if s.ReadyReplicas > s.Replicas {
		errs = append(errs, field.Invalid(p.Child("readyReplicas"), s.ReadyReplicas, most))
	}
	if s.AvailableReplicas > s.Replicas {
		errs = append(errs, field.Invalid(p.Child("availableReplicas"), s.AvailableReplicas, most))
	}
	if s.AvailableReplicas > s.ReadyReplicas {
		errs = append(errs, field.Invalid(p.Child("availableReplicas"), s.AvailableReplicas, "cannot be greater than readyReplicas"))
	}
	return errs
}

func podTemplate() *api.Kind {
	return &api.Kind{
		Kind: "PodTemplate", Resource: "podtemplates", Singular: "podtemplate", Namespaced: true, Prefix: "podtemplates",
		ReturnDeleted: true,
		Versions:      []api.Version{api.NewVersion[corev1.PodTemplate, corev1.PodTemplateList]("v1")}, Hub: "v1",
		HasGeneration:    true,
		Default:          api.On(func(t *corev1.PodTemplate) { podspec.SetPodTemplateDefaults(&t.Template) }),
		PrepareForCreate: api.On(func(t *corev1.PodTemplate) { podspec.DropDisabled(&t.Template.Spec, nil) }),
		PrepareForUpdate: api.OnUpdate(func(t, old *corev1.PodTemplate) { podspec.DropDisabled(&t.Template.Spec, &old.Template.Spec) }),
		Validate: api.Check(func(t *corev1.PodTemplate) field.ErrorList {
			return podspec.ValidatePodTemplateSpec(&t.Template, field.NewPath("template"), podspec.OptionsForTemplate(&t.Template, nil))
		}),
		ValidateUpdate: api.CheckUpdate(func(t, old *corev1.PodTemplate) field.ErrorList {
			return podspec.ValidatePodTemplateSpec(&t.Template, field.NewPath("template"), podspec.OptionsForTemplate(&t.Template, &old.Template))
		}),
		Warnings: api.Warn(func(t, old *corev1.PodTemplate) []string {
			switch {
			case old == nil:
				return podspec.Warnings(&t.Template, nil, field.NewPath("template"))
			case t.Generation == old.Generation:
				return nil
			}
			return podspec.Warnings(&t.Template, &old.Template, field.NewPath("template"))
		}),
		AllowUnconditionalUpdate: true,
		Columns: api.Columns(table.Name(),
			table.Column("Containers", table.String, templateContainers),
			table.Column("Images", table.String, templateImages),
			table.Column("Pod Labels", table.String, "The labels for the pod template.")),
		Row: api.Row(func(t *corev1.PodTemplate, _ time.Time) []any {
			names, images := table.Containers(t.Template.Spec.Containers)
			return []any{t.Name, names, images, table.Labels(t.Template.Labels)}
		}),
	}
}
