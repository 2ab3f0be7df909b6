package apps

import (
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	appsv1beta1 "k8s.io/api/apps/v1beta1"
	appsv1beta2 "k8s.io/api/apps/v1beta2"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/check"
	"github.com/celox/celox/internal/api/podspec"
	"github.com/celox/celox/internal/api/table"
)

func statefulSet() *api.Kind {
	return &api.Kind{
		Group:      "apps",
		Kind:       "StatefulSet",
		Resource:   "statefulsets",
		Singular:   "statefulset",
		ShortNames: []string{"sts"},
		Categories: []string{"all"},
		Namespaced: true,
		Prefix:     "statefulsets",
		Versions: []api.Version{
			api.NewVersion[appsv1.StatefulSet, appsv1.StatefulSetList]("v1"),
			api.Legacy[*appsv1.StatefulSet, appsv1beta2.StatefulSet, appsv1beta2.StatefulSetList]("apps", "v1beta2", nil, nil),
			api.Legacy[*appsv1.StatefulSet, appsv1beta1.StatefulSet, appsv1beta1.StatefulSetList]("apps", "v1beta1", statefulSetFromV1beta1, nil),
		},
		Hub:           "v1",
		Subresources:  []api.Subresource{api.Scale(), api.Status()},
		HasGeneration: true,
		PrepareForCreate: api.On(func(s *appsv1.StatefulSet) {
			s.Status = appsv1.StatefulSetStatus{}
			podspec.DropDisabledTemplate(&s.Spec.Template, nil)
		}),
		PrepareForUpdate: api.OnUpdate(func(s, old *appsv1.StatefulSet) {
			s.Status = old.Status
			podspec.DropDisabledTemplate(&s.Spec.Template, &old.Spec.Template)
		}),
		PrepareForStatusUpdate: api.OnUpdate(func(s, old *appsv1.StatefulSet) { s.Spec = old.Spec }),
		Default:                api.On(defaultStatefulSet),
		// The name becomes a part of the pods' host names.
		ValidateName:             check.NameIsDNSLabel,
		Validate:                 api.Check(validateStatefulSet),
		ValidateUpdate:           api.CheckUpdate(validateStatefulSetUpdate),
		ValidateStatusUpdate:     api.CheckUpdate(validateStatefulSetStatus),
		Warnings:                 api.Warn(warnStatefulSet),
		AllowUnconditionalUpdate: true,
		Columns: slices.Concat(api.Columns(
			table.Name(),
			table.Column("Ready", table.String, readyDescription),
			table.AgeColumn(),
		), wideColumns("")),
		Row: api.Row(func(s *appsv1.StatefulSet, now time.Time) []any {
			names, images := table.Containers(s.Spec.Template.Spec.Containers)
			return []any{s.Name, ratio(s.Status.ReadyReplicas, s.Spec.Replicas), table.Age(s, now), names, images}
		}),
	}
}

func defaultStatefulSet(s *appsv1.StatefulSet) {
	spec := &s.Spec
	if spec.PodManagementPolicy == "" {
		spec.PodManagementPolicy = appsv1.OrderedReadyPodManagement
	}
	u := &spec.UpdateStrategy
	if u.Type == "" {
		u.Type = appsv1.RollingUpdateStatefulSetStrategyType
		if u.RollingUpdate == nil {
			u.RollingUpdate = &appsv1.RollingUpdateStatefulSetStrategy{}
		}
	}
	if u.Type == appsv1.RollingUpdateStatefulSetStrategyType && u.RollingUpdate != nil {
		setInt32(&u.RollingUpdate.Partition, 0)
		if u.RollingUpdate.MaxUnavailable == nil {
			one := intstr.FromInt32(1)
			u.RollingUpdate.MaxUnavailable = &one
		}
	}
	if spec.PersistentVolumeClaimRetentionPolicy == nil {
		spec.PersistentVolumeClaimRetentionPolicy = &appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{}
	}
	for _, p := range []*appsv1.PersistentVolumeClaimRetentionPolicyType{
		&spec.PersistentVolumeClaimRetentionPolicy.WhenDeleted, &spec.PersistentVolumeClaimRetentionPolicy.WhenScaled,
	} {
		if *p == "" {
			*p = appsv1.RetainPersistentVolumeClaimRetentionPolicyType
		}
	}
	setReplicas(&spec.Replicas)
	setInt32(&spec.RevisionHistoryLimit, 10)
	podspec.SetPodTemplateDefaults(&spec.Template)
	for i := range spec.VolumeClaimTemplates {
		c := &spec.VolumeClaimTemplates[i]
		c.APIVersion, c.Kind = "v1", "PersistentVolumeClaim"
		if c.Status.Phase == "" {
			c.Status.Phase = corev1.ClaimPending
		}
		podspec.SetClaimSpecDefaults(&c.Spec)
	}
}

func validateStatefulSet(s *appsv1.StatefulSet) field.ErrorList {
	return validateStatefulSetSpec(&s.Spec, true, false, podspec.OptionsForTemplate(&s.Spec.Template, nil))
}

// validateStatefulSetSpec checks a spec. What never changes and may be wrong since long ago, from before there was a check of it, is
// checked of a fresh one only; a template is not looked into where the old spec, which is kept, was wrong.
func validateStatefulSetSpec(spec *appsv1.StatefulSetSpec, fresh, kept bool, options podspec.Options) field.ErrorList {
	p := field.NewPath("spec")
	w := workload{owner: "StatefulSet", selector: spec.Selector, template: asRun(spec), options: options, kept: kept}
	var errs field.ErrorList
	switch spec.PodManagementPolicy {
	case appsv1.OrderedReadyPodManagement, appsv1.ParallelPodManagement:
	case "":
		errs = append(errs, field.Required(p.Child("podManagementPolicy"), ""))
	default:
		errs = append(errs, field.Invalid(p.Child("podManagementPolicy"), spec.PodManagementPolicy, "must be 'OrderedReady' or 'Parallel'"))
	}
	errs = append(errs, validateStatefulSetStrategy(&spec.UpdateStrategy, p.Child("updateStrategy"))...)
	if r := spec.PersistentVolumeClaimRetentionPolicy; r != nil {
		at := p.Child("persistentVolumeClaimRetentionPolicy")
		errs = append(errs, validateRetention(r.WhenDeleted, at.Child("whenDeleted"))...)
		errs = append(errs, validateRetention(r.WhenScaled, at.Child("whenScaled"))...)
	}
	if fresh {
		for i := range spec.VolumeClaimTemplates {
			errs = append(errs, podspec.ValidateClaimSpec(&spec.VolumeClaimTemplates[i].Spec, nil, p.Child("volumeClaimTemplates").Index(i).Child("spec"))...)
		}
	}
	if spec.Replicas != nil {
		errs = append(errs, check.NonNegative(int64(*spec.Replicas), p.Child("replicas"))...)
	}
	errs = append(errs, check.NonNegative(int64(spec.MinReadySeconds), p.Child("minReadySeconds"))...)
	if spec.Ordinals != nil {
		errs = append(errs, check.NonNegative(int64(spec.Ordinals.Start), p.Child("ordinals.start"))...)
	}
	if spec.ServiceName != "" && fresh {
		errs = append(errs, check.DNSLabel(spec.ServiceName, p.Child("serviceName"))...)
	}
	errs = append(errs, validateSelector(spec.Selector, "statefulset", p.Child("selector"))...)
	return append(errs, w.validateTemplate(p, "")...)
}

// asRun is the template as its pods are made of it: host name and subdomain are the controller's to set, and there are volumes for the
// claim templates, which win over volumes of the same name.
func asRun(s *appsv1.StatefulSetSpec) *corev1.PodTemplateSpec {
	out := s.Template
	out.Spec.Hostname, out.Spec.Subdomain = "", ""
	if len(s.VolumeClaimTemplates) == 0 {
		return &out
	}
	seen := map[string]bool{}
	out.Spec.Volumes = nil
	for i := range s.VolumeClaimTemplates {
		name := s.VolumeClaimTemplates[i].Name
		if seen[name] {
			continue
		}
		seen[name] = true
		out.Spec.Volumes = append(out.Spec.Volumes, corev1.Volume{
			Name: name, VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name}},
		})
	}
	for i := range s.Template.Spec.Volumes {
		if v := &s.Template.Spec.Volumes[i]; !seen[v.Name] {
			out.Spec.Volumes = append(out.Spec.Volumes, *v)
		}
	}
	return &out
}

func validateStatefulSetStrategy(u *appsv1.StatefulSetUpdateStrategy, p *field.Path) field.ErrorList {
	at := p.Child("rollingUpdate")
	switch u.Type {
	case "":
		return field.ErrorList{field.Required(p, "")}
	case appsv1.OnDeleteStatefulSetStrategyType:
		if u.RollingUpdate != nil {
			shown := *u.RollingUpdate
			if shown.Partition == nil {
				shown.Partition = new(int32)
			}
			return field.ErrorList{field.Invalid(at, check.Rendered(&shown), "only allowed for updateStrategy 'RollingUpdate'")}
		}
		return nil
	case appsv1.RollingUpdateStatefulSetStrategyType:
		r := u.RollingUpdate
		if r == nil {
			return nil
		}
		var errs field.ErrorList
		if r.Partition != nil {
			errs = append(errs, check.NonNegative(int64(*r.Partition), at.Child("partition"))...)
		}
		if r.MaxUnavailable != nil {
			errs = append(errs, validateStep(r.MaxUnavailable, at.Child("maxUnavailable"))...)
			if intOrZero(r.MaxUnavailable) == 0 {
				errs = append(errs, field.Invalid(at.Child("maxUnavailable"), r.MaxUnavailable, "cannot be 0"))
			}
			errs = append(errs, validateStepAtMostAll(r.MaxUnavailable, at.Child("maxUnavailable"))...)
		}
		return errs
	}
	return field.ErrorList{field.Invalid(p, check.Rendered(*u), "must be 'RollingUpdate' or 'OnDelete'")}
}

func validateRetention(v appsv1.PersistentVolumeClaimRetentionPolicyType, p *field.Path) field.ErrorList {
	switch v {
	case appsv1.RetainPersistentVolumeClaimRetentionPolicyType, appsv1.DeletePersistentVolumeClaimRetentionPolicyType:
		return nil
	}
	return field.ErrorList{field.NotSupported(p, v, []appsv1.PersistentVolumeClaimRetentionPolicyType{
		appsv1.RetainPersistentVolumeClaimRetentionPolicyType, appsv1.DeletePersistentVolumeClaimRetentionPolicyType,
	})}
}

func validateStatefulSetUpdate(s, old *appsv1.StatefulSet) field.ErrorList {
	p, now, was := field.NewPath("spec"), &s.Spec, &old.Spec
	options := podspec.OptionsForTemplate(&now.Template, &was.Template)
	errs := validateStatefulSetSpec(now, false, len(validateStatefulSetSpec(was, false, false, options)) > 0, options)
	errs = append(errs, check.Immutable(now.Selector, was.Selector, p.Child("selector"))...)
	if !apiequality.Semantic.DeepEqual(now.VolumeClaimTemplates, was.VolumeClaimTemplates) {
		errs = append(errs, field.Invalid(p.Child("volumeClaimTemplates"), check.Rendered(now.VolumeClaimTemplates), check.ImmutableText))
	}
	errs = append(errs, check.Immutable(now.ServiceName, was.ServiceName, p.Child("serviceName"))...)
	return append(errs, check.Immutable(now.PodManagementPolicy, was.PodManagementPolicy, p.Child("podManagementPolicy"))...)
}

func validateStatefulSetStatus(n, old *appsv1.StatefulSet) field.ErrorList {
	p, s := field.NewPath("status"), &n.Status
	ready := count{"readyReplicas", int64(s.ReadyReplicas)}
	current := count{"currentReplicas", int64(s.CurrentReplicas)}
	updated := count{"updatedReplicas", int64(s.UpdatedReplicas)}
	available := count{"availableReplicas", int64(s.AvailableReplicas)}
	errs := validateCounts(p, count{"replicas", int64(s.Replicas)}, ready, current, updated, available, count{"observedGeneration", s.ObservedGeneration})
	if s.CollisionCount != nil {
		errs = append(errs, validateCounts(p, count{"collisionCount", int64(*s.CollisionCount)})...)
	}
	errs = append(errs, atMost(s.Replicas, "status.replicas", p, ready, current, updated, available)...)
	errs = append(errs, atMost(s.ReadyReplicas, "status.readyReplicas", p, available)...)
	return append(errs, validateCollisions(s.CollisionCount, old.Status.CollisionCount, p.Child("collisionCount"))...)
}

func warnStatefulSet(s, old *appsv1.StatefulSet) []string {
	var out []string
	switch {
	case old == nil:
		out = podspec.Warnings(&s.Spec.Template, nil, templatePath)
	case s.Generation != old.Generation:
		out = podspec.Warnings(&s.Spec.Template, &old.Spec.Template, templatePath)
	}
	for i := range s.Spec.VolumeClaimTemplates {
		at := field.NewPath("spec", "volumeClaimTemplates").Index(i)
		if old != nil {
			at = at.Child("Spec") // so it is called there
		}
		out = append(out, podspec.ClaimWarnings(&s.Spec.VolumeClaimTemplates[i].Spec, at)...)
	}
	if s.Spec.RevisionHistoryLimit != nil && *s.Spec.RevisionHistoryLimit < 0 {
		out = append(out, "spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended")
	}
	return out
}
