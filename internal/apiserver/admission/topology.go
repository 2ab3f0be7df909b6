package admission

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// PodTopologyLabels tells pods in which zone and region they run, by the labels of their node (KEP-4742).
type PodTopologyLabels struct{ objects PodsAndNodes }

// NewPodTopologyLabels returns the plugin.
func NewPodTopologyLabels(objects PodsAndNodes) *PodTopologyLabels {
	return &PodTopologyLabels{objects: objects}
}

// Admit completes bindings, and new pods that have their node already.
func (p *PodTopologyLabels) Admit(ctx context.Context, a *Attributes) error {
	if a.Operation != Create {
		return nil
	}
	switch o := a.Object.(type) {
	case *corev1.Binding:
		if a.is("", "pods", "binding") || a.is("", "bindings", "") {
			return p.complete(ctx, o.Target.Name, &o.ObjectMeta)
		}
	case *corev1.Pod:
		if a.is("", "pods", "") && o.Spec.NodeName != "" {
			return p.complete(ctx, o.Spec.NodeName, &o.ObjectMeta)
		}
	}
	return nil
}

// complete copies the labels of a node. A node that is not there has none.
func (p *PodTopologyLabels) complete(ctx context.Context, name string, m *metav1.ObjectMeta) error {
	if name == "" {
		return nil
	}
	node, err := p.objects.Node(ctx, name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, label := range [...]string{corev1.LabelTopologyZone, corev1.LabelTopologyRegion} {
		v, ok := node.Labels[label]
		if !ok {
			continue
		}
		if m.Labels == nil {
			m.Labels = map[string]string{}
		}
		m.Labels[label] = v
	}
	return nil
}
