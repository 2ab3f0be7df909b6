package podautoscaler

import (
	"context"
	"errors"
	"fmt"
	"math"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// evaluated is what one metric says.
type evaluated struct {
	replicas int32
	// name says which metric it is, in upstream's words.
	name   string
	status autoscalingv2.MetricStatus
	// reason names the kind of failure; err is what the event and the condition say of it, and failed goes before it where it is one of several.
	reason string
	err    error
	failed string
}

// all is the error with what failed.
func (e evaluated) all() error {
	if e.failed == "" {
		return e.err
	}
	return fmt.Errorf("%s: %w", e.failed, e.err)
}

// errSpec is the kind of errors that only another spec mends.
var errSpec = errors.New("spec")

// misspelt is an error of that kind that reads like its cause.
type misspelt struct{ error }

func (misspelt) Is(target error) bool { return target == errSpec }

// evaluate computes what one metric asks for.
func (c *calculator) evaluate(ctx context.Context, w workload, m *autoscalingv2.MetricSpec) evaluated {
	switch {
	case m.Type == autoscalingv2.ResourceMetricSourceType && m.Resource != nil:
		v, name, n, err := c.resource(ctx, w, m.Resource.Name, "", &m.Resource.Target)
		e := evaluated{n, name, autoscalingv2.MetricStatus{Type: m.Type, Resource: &autoscalingv2.ResourceMetricStatus{Name: m.Resource.Name, Current: v}}, "FailedGetResourceMetric", err, ""}
		return e.wrapped(fmt.Sprintf("failed to get %s resource metric value", m.Resource.Name))
	case m.Type == autoscalingv2.ContainerResourceMetricSourceType && m.ContainerResource != nil:
		s := m.ContainerResource
		v, name, n, err := c.resource(ctx, w, s.Name, s.Container, &s.Target)
		e := evaluated{n, name, autoscalingv2.MetricStatus{Type: m.Type, ContainerResource: &autoscalingv2.ContainerResourceMetricStatus{Name: s.Name, Container: s.Container, Current: v}},
			"FailedGetContainerResourceMetric", err, ""}
		return e.wrapped(fmt.Sprintf("failed to get %s container metric value", s.Container))
	case m.Type == autoscalingv2.PodsMetricSourceType && m.Pods != nil:
		return c.podsMetric(ctx, w, m.Pods).wrapped("failed to get pods metric value")
	case m.Type == autoscalingv2.ObjectMetricSourceType && m.Object != nil:
		return c.objectMetric(ctx, w, m.Object).wrapped("failed to get object metric value")
	case m.Type == autoscalingv2.ExternalMetricSourceType && m.External != nil:
		return c.externalMetric(ctx, w, m.External).wrapped(fmt.Sprintf("failed to get %s external metric value", m.External.Metric.Name))
	default:
		return evaluated{reason: "InvalidMetricSourceType", err: misspelt{fmt.Errorf("unknown metric source type %q", m.Type)}}
	}
}

// wrapped says what failed, and keeps no status of it.
func (e evaluated) wrapped(failed string) evaluated {
	if e.err == nil {
		return e
	}
	if e.failed != "" {
		failed += ": " + e.failed
	}
	return evaluated{reason: e.reason, err: e.err, failed: failed}
}

func (c *calculator) resource(ctx context.Context, w workload, name corev1.ResourceName, container string, target *autoscalingv2.MetricTarget) (autoscalingv2.MetricValueStatus, string, int32, error) {
	none := autoscalingv2.MetricValueStatus{}
	switch {
	case target.AverageValue != nil:
		samples, err := c.source.Resource(ctx, w.namespace, w.selector, name, container)
		if err != nil {
			return none, "", 0, fmt.Errorf("failed to get %s usage: unable to get metrics for resource %s: %w", name, name, err)
		}
		p, err := c.average(w, samples, name, target.AverageValue.MilliValue())
		if err != nil {
			return none, "", 0, fmt.Errorf("failed to get %s usage: %w", name, err)
		}
		return autoscalingv2.MetricValueStatus{AverageValue: amount(name, p.usage)}, fmt.Sprintf("%s resource", name), p.replicas, nil
	case target.AverageUtilization != nil:
		p, err := c.utilization(ctx, w, name, container, *target.AverageUtilization)
		if err != nil {
			return none, "", 0, fmt.Errorf("failed to get %s utilization: %w", name, err)
		}
		what := "resource"
		if container != "" {
			what = "container resource"
		}
		return utilized(name, p), fmt.Sprintf("%s %s utilization (percentage of request)", name, what), p.replicas, nil
	default:
		return none, "", 0, errors.New("invalid resource metric source: neither an average utilization target nor an average value (usage) target was set")
	}
}

func (c *calculator) podsMetric(ctx context.Context, w workload, m *autoscalingv2.PodsMetricSource) evaluated {
	out := evaluated{reason: "FailedGetPodsMetric", name: "pods metric " + m.Metric.Name}
	series, err := metav1.LabelSelectorAsSelector(orEmpty(m.Metric.Selector))
	if err != nil {
		out.err = err
		return out
	}
	samples, err := c.source.Pods(ctx, w.namespace, m.Metric.Name, w.selector, series)
	if err != nil {
		out.err = fmt.Errorf("unable to get metric %s: %w", m.Metric.Name, err)
		return out
	}
	if m.Target.AverageValue == nil {
		out.err = errors.New("invalid pods metric source: no average value target was set")
		return out
	}
	p, err := c.average(w, samples, "", m.Target.AverageValue.MilliValue())
	out.replicas, out.err = p.replicas, err
	out.status = autoscalingv2.MetricStatus{Type: autoscalingv2.PodsMetricSourceType, Pods: &autoscalingv2.PodsMetricStatus{Metric: m.Metric, Current: average(p.usage)}}
	return out
}

func (c *calculator) objectMetric(ctx context.Context, w workload, m *autoscalingv2.ObjectMetricSource) evaluated {
	out := evaluated{reason: "FailedGetObjectMetric"}
	series, err := metav1.LabelSelectorAsSelector(orEmpty(m.Metric.Selector))
	if err != nil {
		out.err = err
		return out
	}
	status := &autoscalingv2.ObjectMetricStatus{DescribedObject: m.DescribedObject, Metric: m.Metric}
	usage := int64(0)
	if m.Target.Value != nil || m.Target.AverageValue != nil {
		if usage, err = c.source.Object(ctx, w.namespace, m.Metric.Name, &m.DescribedObject, series); err != nil {
			out.err = fmt.Errorf("unable to get metric %s on %s %s/%s: %w", m.Metric.Name, m.DescribedObject.Kind, w.namespace, m.DescribedObject.Name, err)
			if m.Target.Type == autoscalingv2.AverageValueMetricType {
				out.failed = fmt.Sprintf("failed to get %s object metric", m.Metric.Name)
			}
			return out
		}
	}
	switch {
	case m.Target.Type == autoscalingv2.ValueMetricType && m.Target.Value != nil:
		p, err := c.total(w, usage, m.Target.Value.MilliValue())
		out.replicas, out.err, out.name = p.replicas, err, fmt.Sprintf("%s metric %s", m.DescribedObject.Kind, m.Metric.Name)
		status.Current = value(p.usage)
	case m.Target.Type == autoscalingv2.AverageValueMetricType && m.Target.AverageValue != nil:
		p := c.share(w, usage, m.Target.AverageValue.MilliValue())
		out.replicas, out.name = p.replicas, fmt.Sprintf("external metric %s(%+v)", m.Metric.Name, m.Metric.Selector)
		status.Current = average(p.usage)
	default:
		out.err = errors.New("invalid object metric source: neither a value target nor an average value target was set")
	}
	out.status = autoscalingv2.MetricStatus{Type: autoscalingv2.ObjectMetricSourceType, Object: status}
	return out
}

func (c *calculator) externalMetric(ctx context.Context, w workload, m *autoscalingv2.ExternalMetricSource) evaluated {
	out := evaluated{reason: "FailedGetExternalMetric", name: fmt.Sprintf("external metric %s(%+v)", m.Metric.Name, m.Metric.Selector)}
	if m.Target.AverageValue == nil && m.Target.Value == nil {
		out.err = errors.New("invalid external metric source: neither a value target nor an average value target was set")
		return out
	}
	out.failed = "failed to get external metric " + m.Metric.Name
	if m.Target.AverageValue != nil {
		out.failed = fmt.Sprintf("failed to get %s external metric", m.Metric.Name)
	}
	series, err := metav1.LabelSelectorAsSelector(orEmpty(m.Metric.Selector))
	if err != nil {
		out.err = err
		return out
	}
	values, err := c.source.External(ctx, w.namespace, m.Metric.Name, series)
	if err != nil {
		out.err = fmt.Errorf("unable to get external metric %s/%s/%+v: %w", w.namespace, m.Metric.Name, m.Metric.Selector, err)
		return out
	}
	usage := int64(0)
	for _, v := range values {
		if v > 0 && usage > math.MaxInt64-v {
			usage = math.MaxInt64
			break
		}
		usage += v
	}
	status := &autoscalingv2.ExternalMetricStatus{Metric: m.Metric}
	if m.Target.AverageValue != nil {
		p := c.share(w, usage, m.Target.AverageValue.MilliValue())
		out.replicas, status.Current = p.replicas, average(p.usage)
	} else {
		p, err := c.total(w, usage, m.Target.Value.MilliValue())
		out.replicas, out.err, status.Current = p.replicas, err, value(p.usage)
	}
	out.status = autoscalingv2.MetricStatus{Type: autoscalingv2.ExternalMetricSourceType, External: status}
	return out
}

// orEmpty turns "no selector", which for metrics means all series, into one that says so.
func orEmpty(s *metav1.LabelSelector) *metav1.LabelSelector {
	if s == nil {
		return &metav1.LabelSelector{}
	}
	return s
}
