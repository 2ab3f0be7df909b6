package admission

import (
	"context"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	resourcehelper "k8s.io/component-helpers/resource"
)

// Causes of the refusals of PodResizeValidator, as clients look for them.
const (
	causeNodeCapacity        metav1.CauseType = "NodeCapacity"
	causeUnsupportedPlatform metav1.CauseType = "UnsupportedPlatform"
)

// PodResizeValidator refuses resizes that the pod's node can never grant, however empty it is (KEP-1287).
type PodResizeValidator struct{ objects PodsAndNodes }

// NewPodResizeValidator returns the plugin.
func NewPodResizeValidator(objects PodsAndNodes) *PodResizeValidator {
	return &PodResizeValidator{objects: objects}
}

// Validate looks at resizes of pods that have a node, if they change anything.
func (p *PodResizeValidator) Validate(ctx context.Context, a *Attributes) error {
	if a.Operation != Update || !a.is("", "pods", "resize") {
		return nil
	}
	pod, ok := a.Object.(*corev1.Pod)
	if !ok || pod.Spec.NodeName == "" {
		return nil
	}
	if old, ok := a.OldObject.(*corev1.Pod); ok && apiequality.Semantic.DeepEqual(old.Spec, pod.Spec) {
		return nil
	}
	node, err := p.objects.Node(ctx, pod.Spec.NodeName)
	if apierrors.IsNotFound(err) {
		return forbid(a, fmt.Errorf("node %q not found", pod.Spec.NodeName))
	}
	if err != nil {
		return err
	}
	if os, ok := node.Labels[corev1.LabelOSStable]; ok && os != "linux" {
		return because(causeUnsupportedPlatform, forbid(a, fmt.Errorf("pod resize is only supported on linux nodes, node %q is %q", node.Name, os)))
	}
	if err := withinAllocatable(pod, node); err != nil {
		return because(causeNodeCapacity, forbid(a, err))
	}
	return nil
}

func withinAllocatable(pod *corev1.Pod, node *corev1.Node) error {
	asked := resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{})
	var lacks []string
	if want, have := asked.Cpu(), node.Status.Allocatable.Cpu(); want.Cmp(*have) > 0 {
		lacks = append(lacks, fmt.Sprintf("cpu, requested: %d, allocatable: %d", want.MilliValue(), have.MilliValue()))
	}
	if want, have := asked.Memory(), node.Status.Allocatable.Memory(); want.Cmp(*have) > 0 {
		lacks = append(lacks, fmt.Sprintf("memory, requested: %d, allocatable: %d", want.Value(), have.Value()))
	}
	if len(lacks) == 0 {
		return nil
	}
	return errors.New("node didn't have enough allocatable resources: " + strings.Join(lacks, "; "))
}

func because(cause metav1.CauseType, err *apierrors.StatusError) error {
	err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{Type: cause})
	return err
}
