package podautoscaler

import (
	"fmt"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// setCondition sets a condition; its time moves with its status.
func setCondition(h *autoscalingv2.HorizontalPodAutoscaler, t autoscalingv2.HorizontalPodAutoscalerConditionType, v verdict, now metav1.Time) {
	for i := range h.Status.Conditions {
		if c := &h.Status.Conditions[i]; c.Type == t {
			if c.Status != v.status {
				c.LastTransitionTime = now
			}
			c.Status, c.Reason, c.Message = v.status, v.reason, v.message
			return
		}
	}
	h.Status.Conditions = append(h.Status.Conditions, autoscalingv2.HorizontalPodAutoscalerCondition{
		Type: t, Status: v.status, Reason: v.reason, Message: v.message, LastTransitionTime: now,
	})
}

func isTrue(reason, format string, args ...any) verdict {
	return verdict{corev1.ConditionTrue, reason, fmt.Sprintf(format, args...)}
}

func isFalse(reason, format string, args ...any) verdict {
	return verdict{corev1.ConditionFalse, reason, fmt.Sprintf(format, args...)}
}

func milli(n int64) *resource.Quantity { return resource.NewMilliQuantity(n, resource.DecimalSI) }

// value and average are the forms of what was measured.
func value(n int64) autoscalingv2.MetricValueStatus {
	return autoscalingv2.MetricValueStatus{Value: milli(n)}
}

func average(n int64) autoscalingv2.MetricValueStatus {
	return autoscalingv2.MetricValueStatus{AverageValue: milli(n)}
}

// amount is how much of a resource is used, written as it is usual for that resource.
func amount(name corev1.ResourceName, n int64) *resource.Quantity {
	if name == corev1.ResourceMemory {
		return resource.NewMilliQuantity(n, resource.BinarySI)
	}
	return milli(n)
}

func utilized(name corev1.ResourceName, p proposal) autoscalingv2.MetricValueStatus {
	return autoscalingv2.MetricValueStatus{AverageUtilization: &p.utilization, AverageValue: amount(name, p.usage)}
}
