package autoscaling

import (
	"fmt"
	"strings"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/check"
	"github.com/celox/celox/internal/api/table"
)

// defaultUtilization is the CPU use that an autoscaler without metrics aims at, in percent of the request.
const defaultUtilization int32 = 80

func horizontalPodAutoscaler() *api.Kind {
	spec, status := autoscalingv2.HorizontalPodAutoscalerSpec{}.SwaggerDoc(), autoscalingv2.HorizontalPodAutoscalerStatus{}.SwaggerDoc()
	v1 := api.NewVersion[autoscalingv1.HorizontalPodAutoscaler, autoscalingv1.HorizontalPodAutoscalerList]("v1")
	v1.ToHub = func(in runtime.Object) (api.Object, error) {
		return fromV1(in.(*autoscalingv1.HorizontalPodAutoscaler)), nil
	}
	v1.FromHub = func(in api.Object) (runtime.Object, error) {
		return toV1(in.(*autoscalingv2.HorizontalPodAutoscaler))
	}
	return &api.Kind{
		Group:      "autoscaling",
		Kind:       "HorizontalPodAutoscaler",
		Resource:   "horizontalpodautoscalers",
		Singular:   "horizontalpodautoscaler",
		ShortNames: []string{"hpa"},
		Categories: []string{"all"},
		Namespaced: true,
		Prefix:     "horizontalpodautoscalers",
		Versions: []api.Version{
			api.NewVersion[autoscalingv2.HorizontalPodAutoscaler, autoscalingv2.HorizontalPodAutoscalerList]("v2"),
			v1,
		},
		Hub:           "v2",
		Subresources:  []api.Subresource{api.Status()},
		HasGeneration: true,
		PrepareForCreate: api.On(func(h *autoscalingv2.HorizontalPodAutoscaler) {
			h.Status = autoscalingv2.HorizontalPodAutoscalerStatus{}
		}),
		PrepareForUpdate:       api.OnUpdate(func(h, old *autoscalingv2.HorizontalPodAutoscaler) { h.Status = old.Status }),
		PrepareForStatusUpdate: api.OnUpdate(func(h, old *autoscalingv2.HorizontalPodAutoscaler) { h.Spec = old.Spec }),
		Default:                api.On(defaultAutoscaler),
		Validate:               api.Check(func(h *autoscalingv2.HorizontalPodAutoscaler) field.ErrorList { return validateAutoscaler(h, nil) }),
		ValidateUpdate:         api.CheckUpdate(validateAutoscaler),
		ValidateStatusUpdate: api.CheckUpdate(func(h, _ *autoscalingv2.HorizontalPodAutoscaler) field.ErrorList {
			p := field.NewPath("status")
			errs := check.NonNegative(int64(h.Status.CurrentReplicas), p.Child("currentReplicas"))
			errs = append(errs, check.NonNegative(int64(h.Status.DesiredReplicas), p.Child("desiredReplicas"))...)
			for i, c := range h.Status.Conditions {
				if c.ObservedGeneration != nil {
					errs = append(errs, check.NonNegative(*c.ObservedGeneration, p.Child("conditions").Index(i).Child("observedGeneration"))...)
				}
			}
			return errs
		}),
		AllowUnconditionalUpdate: true,
		Columns: api.Columns(
			table.Name(),
			table.Column("Reference", table.String, spec["scaleTargetRef"]),
			table.Column("Targets", table.String, spec["metrics"]),
			table.Column("MinPods", table.String, spec["minReplicas"]),
			table.Column("MaxPods", table.String, spec["maxReplicas"]),
			table.Column("Replicas", table.String, status["currentReplicas"]),
			table.AgeColumn(),
		),
		Row: api.Row(func(h *autoscalingv2.HorizontalPodAutoscaler, now time.Time) []any {
			least := table.Unset
			if h.Spec.MinReplicas != nil {
				least = fmt.Sprint(*h.Spec.MinReplicas)
			}
			ref := h.Spec.ScaleTargetRef
			return []any{
				h.Name, ref.Kind + "/" + ref.Name, targets(h.Spec.Metrics, h.Status.CurrentMetrics), least, int64(h.Spec.MaxReplicas),
				int64(h.Status.CurrentReplicas), table.Age(h, now),
			}
		}),
	}
}

// targets shows how far each metric is from its target: "cpu: 44%/55%". Two are shown, the rest counted.
func targets(specs []autoscalingv2.MetricSpec, statuses []autoscalingv2.MetricStatus) string {
	const few = 2
	if len(specs) == 0 {
		return table.None
	}
	list := make([]string, 0, few)
	for i := range specs[:min(few, len(specs))] {
		var s autoscalingv2.MetricStatus
		if i < len(statuses) {
			s = statuses[i]
		}
		list = append(list, target(specs[i], s))
	}
	out := strings.Join(list, ", ")
	if n := len(specs) - few; n > 0 {
		out += fmt.Sprintf(" + %d more...", n)
	}
	return out
}

func target(m autoscalingv2.MetricSpec, s autoscalingv2.MetricStatus) string {
	current, name := table.Unknown, ""
	var t autoscalingv2.MetricTarget
	var now *autoscalingv2.MetricValueStatus
	average := ""
	switch {
	case m.Type == autoscalingv2.PodsMetricSourceType && m.Pods != nil:
		t = m.Pods.Target
		if s.Pods != nil {
			now = &s.Pods.Current
		}
	case m.Type == autoscalingv2.ObjectMetricSourceType && m.Object != nil:
		t, average = m.Object.Target, " (avg)"
		if s.Object != nil {
			now = &s.Object.Current
		}
	case m.Type == autoscalingv2.ExternalMetricSourceType && m.External != nil:
		t, average = m.External.Target, " (avg)"
		if s.External != nil {
			now = &s.External.Current
		}
	case m.Type == autoscalingv2.ResourceMetricSourceType && m.Resource != nil:
		t, name = m.Resource.Target, string(m.Resource.Name)+": "
		if s.Resource != nil {
			now = &s.Resource.Current
		}
	case m.Type == autoscalingv2.ContainerResourceMetricSourceType && m.ContainerResource != nil:
		t, name = m.ContainerResource.Target, string(m.ContainerResource.Name)+": "
		if s.ContainerResource != nil {
			now = &s.ContainerResource.Current
		}
	default:
		return "<unknown type>"
	}
	switch {
	case t.AverageValue != nil:
		if now != nil && now.AverageValue != nil {
			current = now.AverageValue.String()
		}
		return name + current + "/" + t.AverageValue.String() + average
	case t.AverageUtilization != nil:
		if now != nil && now.AverageUtilization != nil {
			current = fmt.Sprintf("%d%%", *now.AverageUtilization)
		}
		return fmt.Sprintf("%s%s/%d%%", name, current, *t.AverageUtilization)
	case t.Value != nil:
		if now != nil && now.Value != nil {
			current = now.Value.String()
		}
		return name + current + "/" + t.Value.String()
	}
	return name + current + "/<auto>"
}

func defaultAutoscaler(h *autoscalingv2.HorizontalPodAutoscaler) {
	if h.Spec.MinReplicas == nil {
		n := int32(1)
		h.Spec.MinReplicas = &n
	}
	if len(h.Spec.Metrics) == 0 {
		n := defaultUtilization
		h.Spec.Metrics = []autoscalingv2.MetricSpec{utilization(&n)}
	}
	if b := h.Spec.Behavior; b != nil {
		var none int32
		b.ScaleUp = defaultRules(b.ScaleUp, &none, autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PodsScalingPolicy, Value: 4, PeriodSeconds: 15})
		b.ScaleDown = defaultRules(b.ScaleDown, nil)
	}
}

// utilization is the metric that v1 knew alone: the use of CPU.
func utilization(percent *int32) autoscalingv2.MetricSpec {
	return autoscalingv2.MetricSpec{
		Type: autoscalingv2.ResourceMetricSourceType,
		Resource: &autoscalingv2.ResourceMetricSource{
			Name:   corev1.ResourceCPU,
			Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: percent},
		},
	}
}

// defaultRules fills in one direction of a behavior: the fastest of policies and doubling (or halving) every 15 seconds.
func defaultRules(r *autoscalingv2.HPAScalingRules, window *int32, policies ...autoscalingv2.HPAScalingPolicy) *autoscalingv2.HPAScalingRules {
	if r == nil {
		r = &autoscalingv2.HPAScalingRules{}
	}
	if r.StabilizationWindowSeconds == nil {
		r.StabilizationWindowSeconds = window
	}
	if r.SelectPolicy == nil {
		p := autoscalingv2.MaxChangePolicySelect
		r.SelectPolicy = &p
	}
	if r.Policies == nil {
		r.Policies = append(policies, autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PercentScalingPolicy, Value: 100, PeriodSeconds: 15})
	}
	return r
}
