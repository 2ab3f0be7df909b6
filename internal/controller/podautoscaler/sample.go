package podautoscaler

import (
	"context"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// Sample is what one pod was measured to use.
type Sample struct {
	// Value is in thousandths of the metric's unit.
	Value int64
	// At is the end of the time that was measured, Window its length.
	At     time.Time
	Window time.Duration
}

// Samples are samples by pod name.
type Samples map[string]Sample

func (s Samples) without(names map[string]bool) {
	for name := range names {
		delete(s, name)
	}
}

// Source answers what is measured. Its errors say which API did not answer, or that there is nothing.
type Source interface {
	// Resource is what the selected pods use of a resource; with a container's name, what that container uses.
	Resource(ctx context.Context, namespace string, pods labels.Selector, resource corev1.ResourceName, container string) (Samples, error)
	// Pods is a metric of each of the selected pods.
	Pods(ctx context.Context, namespace, metric string, pods, series labels.Selector) (Samples, error)
	// Object is a metric of one object, in thousandths.
	Object(ctx context.Context, namespace, metric string, object *autoscalingv2.CrossVersionObjectReference, series labels.Selector) (int64, error)
	// External is the values of a metric that belongs to no object, in thousandths.
	External(ctx context.Context, namespace, metric string, series labels.Selector) ([]int64, error)
}
