package autoscaling

import (
	"slices"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation/path"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api/check"
)

// Limits of a behavior, in seconds.
const (
	maxPeriod              int32 = 1800
	maxStabilizationWindow int32 = 3600
)

func validateAutoscaler(h, old *autoscalingv2.HorizontalPodAutoscaler) field.ErrorList {
	p, s := field.NewPath("spec"), &h.Spec
	var errs field.ErrorList
	if s.MinReplicas != nil && s.MaxReplicas < *s.MinReplicas {
		errs = append(errs, field.Invalid(p.Child("maxReplicas"), s.MaxReplicas, "must be greater than or equal to `minReplicas`"))
	}
	ref := p.Child("scaleTargetRef")
	errs = append(errs, validateObject(s.ScaleTargetRef, ref)...)
	if old == nil || old.Spec.ScaleTargetRef.APIVersion != s.ScaleTargetRef.APIVersion || old.Spec.ScaleTargetRef.Kind != s.ScaleTargetRef.Kind {
		// Nothing else of the core group can be scaled.
		errs = append(errs, validateAPIVersion(s.ScaleTargetRef, s.ScaleTargetRef.Kind == "ReplicationController", ref.Child("apiVersion"))...)
	}
	errs = append(errs, validateMetrics(s.Metrics, s.MinReplicas, old != nil && describesOddly(old), p.Child("metrics"))...)
	if b := s.Behavior; b != nil {
		errs = append(errs, validateRules(b.ScaleUp, p.Child("behavior", "scaleUp"))...)
		errs = append(errs, validateRules(b.ScaleDown, p.Child("behavior", "scaleDown"))...)
	}
	// Upstream says last what its declarations demand.
	if s.MinReplicas != nil { // none at all is possible since v1.37 (KEP-2021)
		errs = append(errs, check.NonNegative(int64(*s.MinReplicas), p.Child("minReplicas"))...)
	}
	switch {
	case s.MaxReplicas == 0:
		errs = append(errs, field.Required(p.Child("maxReplicas"), ""))
	case s.MaxReplicas < 0:
		errs = append(errs, field.Invalid(p.Child("maxReplicas"), s.MaxReplicas, "must be greater than or equal to 1"))
	}
	return errs
}

func validateObject(r autoscalingv2.CrossVersionObjectReference, p *field.Path) field.ErrorList {
	return append(validateSegment(r.Kind, p.Child("kind")), validateSegment(r.Name, p.Child("name"))...)
}

func validateSegment(v string, p *field.Path) field.ErrorList {
	if v == "" {
		return field.ErrorList{field.Required(p, "")}
	}
	return check.Each(path.IsValidPathSegmentName(v), p, v)
}

// describesOddly tells whether a metric of an autoscaler is about an object of a version that nobody can read; one that was stored so may stay so.
func describesOddly(h *autoscalingv2.HorizontalPodAutoscaler) bool {
	return slices.ContainsFunc(h.Spec.Metrics, func(m autoscalingv2.MetricSpec) bool {
		return m.Type == autoscalingv2.ObjectMetricSourceType && m.Object != nil && len(validateAPIVersion(m.Object.DescribedObject, true, nil)) > 0
	})
}

// validateAPIVersion wants a version, with its group unless it may be the core group.
func validateAPIVersion(r autoscalingv2.CrossVersionObjectReference, core bool, p *field.Path) field.ErrorList {
	gv, err := schema.ParseGroupVersion(r.APIVersion)
	if err != nil {
		return field.ErrorList{field.Invalid(p, r.APIVersion, err.Error())}
	}
	if gv.Group == "" && !core {
		return field.ErrorList{field.Invalid(p, r.APIVersion, "apiVersion must specify API group")}
	}
	return nil
}

func validateMetrics(metrics []autoscalingv2.MetricSpec, least *int32, odd bool, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	outside := false // a metric that exists without pods
	for i := range metrics {
		errs = append(errs, validateMetric(&metrics[i], odd, p.Index(i))...)
		outside = outside || metrics[i].Type == autoscalingv2.ObjectMetricSourceType || metrics[i].Type == autoscalingv2.ExternalMetricSourceType
	}
	if least != nil && *least == 0 && !outside {
		errs = append(errs, field.Forbidden(p, "must specify at least one Object or External metric to support scaling to zero replicas"))
	}
	return errs
}

// validateMetric lets a metric be about an object of an odd version where the autoscaler had one.
func validateMetric(m *autoscalingv2.MetricSpec, odd bool, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if m.Type == "" {
		errs = append(errs, field.Required(p.Child("type"), "must specify a metric source type"))
	}
	unknown := check.OneOf(m.Type, p.Child("type"), autoscalingv2.ObjectMetricSourceType, autoscalingv2.PodsMetricSourceType,
		autoscalingv2.ResourceMetricSourceType, autoscalingv2.ExternalMetricSourceType, autoscalingv2.ContainerResourceMetricSourceType)
	errs = append(errs, unknown...)
	sources := []struct {
		kind     autoscalingv2.MetricSourceType
		name     string
		set      bool
		validate func(p *field.Path) field.ErrorList
	}{
		{autoscalingv2.ObjectMetricSourceType, "object", m.Object != nil, func(p *field.Path) field.ErrorList {
			s := m.Object
			errs := validateObject(s.DescribedObject, p.Child("describedObject"))
			if !odd {
				errs = append(errs, validateAPIVersion(s.DescribedObject, true, p.Child("describedObject", "apiVersion"))...)
			}
			errs = append(errs, validateIdentifier(s.Metric, p.Child("metric"))...)
			errs = append(errs, validateTarget(s.Target, p.Child("target"))...)
			if s.Target.Value == nil && s.Target.AverageValue == nil {
				errs = append(errs, field.Required(p.Child("target", "averageValue"), "must set either a target value or averageValue"))
			}
			return errs
		}},
		{autoscalingv2.ExternalMetricSourceType, "external", m.External != nil, func(p *field.Path) field.ErrorList {
			s := m.External
			errs := append(validateIdentifier(s.Metric, p.Child("metric")), validateTarget(s.Target, p.Child("target"))...)
			switch {
			case s.Target.Value == nil && s.Target.AverageValue == nil:
				errs = append(errs, field.Required(p.Child("target", "averageValue"), "must set either a target value for metric or a per-pod target"))
			case s.Target.Value != nil && s.Target.AverageValue != nil:
				errs = append(errs, field.Forbidden(p.Child("target", "value"), "may not set both a target value for metric and a per-pod target"))
			}
			return errs
		}},
		{autoscalingv2.PodsMetricSourceType, "pods", m.Pods != nil, func(p *field.Path) field.ErrorList {
			s := m.Pods
			errs := append(validateIdentifier(s.Metric, p.Child("metric")), validateTarget(s.Target, p.Child("target"))...)
			if s.Target.AverageValue == nil {
				errs = append(errs, field.Required(p.Child("target", "averageValue"), "must specify a positive target averageValue"))
			}
			return errs
		}},
		{autoscalingv2.ResourceMetricSourceType, "resource", m.Resource != nil, func(p *field.Path) field.ErrorList {
			return validateResourceMetric(string(m.Resource.Name), nil, m.Resource.Target, p)
		}},
		{autoscalingv2.ContainerResourceMetricSourceType, "containerResource", m.ContainerResource != nil, func(p *field.Path) field.ErrorList {
			return validateResourceMetric(string(m.ContainerResource.Name), &m.ContainerResource.Container, m.ContainerResource.Target, p)
		}},
	}
	set := 0
	var extra []string
	for _, s := range sources {
		if !s.set {
			continue
		}
		if set++; set == 1 {
			errs = append(errs, s.validate(p.Child(s.name))...)
		}
		if s.kind != m.Type {
			extra = append(extra, s.name)
		}
	}
	for _, s := range sources {
		if s.kind == m.Type && !s.set {
			errs = append(errs, field.Required(p.Child(s.name), "must populate information for the given metric source"))
		}
	}
	if set > 1 {
		slices.Sort(extra)
		for _, name := range extra {
			errs = append(errs, field.Forbidden(p.Child(name), "must populate the given metric source only"))
		}
	}
	return errs
}

// validateResourceMetric checks a metric of resources; container is nil for the pod's own.
func validateResourceMetric(name string, container *string, t autoscalingv2.MetricTarget, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if name == "" {
		errs = append(errs, field.Required(p.Child("name"), "must specify a resource name"))
	} else if container != nil {
		errs = append(errs, check.ContainerResourceName(corev1.ResourceName(name), p.Child("name"))...)
	}
	if container != nil && *container == "" {
		errs = append(errs, field.Required(p.Child("container"), "must specify a container"))
	} else if container != nil {
		errs = append(errs, check.DNSLabel(*container, p.Child("container"))...)
	}
	errs = append(errs, validateTarget(t, p.Child("target"))...)
	switch {
	case t.AverageUtilization == nil && t.AverageValue == nil:
		errs = append(errs, field.Required(p.Child("target", "averageUtilization"), "must set either a target raw value or a target utilization"))
	case t.AverageUtilization != nil && t.AverageValue != nil:
		errs = append(errs, field.Forbidden(p.Child("target", "averageValue"), "may not set both a target raw value and a target utilization"))
	}
	return errs
}

func validateIdentifier(m autoscalingv2.MetricIdentifier, p *field.Path) field.ErrorList {
	if m.Name == "" {
		return field.ErrorList{field.Required(p.Child("name"), "must specify a metric name")}
	}
	return check.Each(path.IsValidPathSegmentName(m.Name), p.Child("name"), m.Name)
}

func validateTarget(t autoscalingv2.MetricTarget, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if t.Type == "" {
		errs = append(errs, field.Required(p.Child("type"), "must specify a metric target type"))
	}
	switch t.Type {
	case autoscalingv2.UtilizationMetricType, autoscalingv2.ValueMetricType, autoscalingv2.AverageValueMetricType:
	default:
		errs = append(errs, field.Invalid(p.Child("type"), t.Type, "must be either Utilization, Value, or AverageValue"))
	}
	if t.Value != nil && t.Value.Sign() != 1 {
		errs = append(errs, field.Invalid(p.Child("value"), t.Value, "must be positive"))
	}
	if t.AverageValue != nil && t.AverageValue.Sign() != 1 {
		errs = append(errs, field.Invalid(p.Child("averageValue"), t.AverageValue, "must be positive"))
	}
	if t.AverageUtilization != nil && *t.AverageUtilization < 1 {
		errs = append(errs, field.Invalid(p.Child("averageUtilization"), *t.AverageUtilization, "must be greater than 0"))
	}
	return errs
}

func validateRules(r *autoscalingv2.HPAScalingRules, p *field.Path) field.ErrorList {
	if r == nil {
		return nil
	}
	var errs field.ErrorList
	if w := r.StabilizationWindowSeconds; w != nil {
		at := p.Child("stabilizationWindowSeconds")
		if *w < 0 {
			errs = append(errs, field.Invalid(at, *w, "must be greater than or equal to zero"))
		}
		if *w > maxStabilizationWindow {
			errs = append(errs, field.Invalid(at, *w, "must be less than or equal to 3600"))
		}
	}
	if r.SelectPolicy != nil {
		errs = append(errs, check.OneOf(*r.SelectPolicy, p.Child("selectPolicy"),
			autoscalingv2.MaxChangePolicySelect, autoscalingv2.MinChangePolicySelect, autoscalingv2.DisabledPolicySelect)...)
	}
	if len(r.Policies) == 0 {
		errs = append(errs, field.Required(p.Child("policies"), "must specify at least one Policy"))
	}
	for i, policy := range r.Policies {
		at := p.Child("policies").Index(i)
		errs = append(errs, check.OneOf(policy.Type, at.Child("type"), autoscalingv2.PodsScalingPolicy, autoscalingv2.PercentScalingPolicy)...)
		if policy.Value <= 0 {
			errs = append(errs, field.Invalid(at.Child("value"), policy.Value, "must be greater than zero"))
		}
		if policy.PeriodSeconds <= 0 {
			errs = append(errs, field.Invalid(at.Child("periodSeconds"), policy.PeriodSeconds, "must be greater than zero"))
		}
		if policy.PeriodSeconds > maxPeriod {
			errs = append(errs, field.Invalid(at.Child("periodSeconds"), policy.PeriodSeconds, "must be less than or equal to 1800"))
		}
	}
	if r.Tolerance != nil {
		errs = append(errs, check.NonNegativeQuantity(*r.Tolerance, p.Child("tolerance"))...)
	}
	return errs
}
