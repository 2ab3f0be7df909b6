package admission

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// NodeDeclaredFeatureValidator refuses changes of a pod that its node does not know how to carry out (KEP-5328).
type NodeDeclaredFeatureValidator struct{ objects PodsAndNodes }

// NewNodeDeclaredFeatureValidator returns the plugin.
func NewNodeDeclaredFeatureValidator(objects PodsAndNodes) *NodeDeclaredFeatureValidator {
	return &NodeDeclaredFeatureValidator{objects: objects}
}

// Validate looks at updates and resizes of pods that have a node.
func (p *NodeDeclaredFeatureValidator) Validate(ctx context.Context, a *Attributes) error {
	if a.Operation != Update || !a.is("", "pods", "") && !a.is("", "pods", "resize") {
		return nil
	}
	pod, ok := a.Object.(*corev1.Pod)
	old, wasPod := a.OldObject.(*corev1.Pod)
	if !ok || !wasPod || pod.Spec.NodeName == "" {
		return nil
	}
	wanted := featuresOfChange(&old.Spec, &pod.Spec)
	if len(wanted) == 0 {
		return nil
	}
	node, err := p.objects.Node(ctx, pod.Spec.NodeName)
	if apierrors.IsNotFound(err) {
		return forbid(a, fmt.Errorf("node %q not found", pod.Spec.NodeName))
	}
	if err != nil {
		return err
	}
	lacks := slices.DeleteFunc(wanted, func(f string) bool { return slices.Contains(node.Status.DeclaredFeatures, f) })
	if len(lacks) == 0 {
		return nil
	}
	return forbid(a, fmt.Errorf("pod update requires features %s which are not available on node %q", strings.Join(lacks, ", "), node.Name))
}

// featuresOfChange are the features that a node must have for a change of a pod, sorted.
func featuresOfChange(old, now *corev1.PodSpec) []string {
	var out []string
	if !apiequality.Semantic.DeepEqual(old.Resources, now.Resources) {
		out = append(out, "InPlacePodLevelResourcesVerticalScaling")
	}
	if len(old.InitContainers) == len(now.InitContainers) { // else validation refuses it
		for i := range old.InitContainers {
			c := &old.InitContainers[i]
			sidecar := c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
			if !sidecar && !apiequality.Semantic.DeepEqual(c.Resources, now.InitContainers[i].Resources) {
				out = append(out, "InPlacePodVerticalScalingInitContainers")
				break
			}
		}
	}
	if len(old.Volumes) == len(now.Volumes) {
		for i := range old.Volumes {
			o, n := old.Volumes[i].EmptyDir, now.Volumes[i].EmptyDir
			if o != nil && n != nil && old.Volumes[i].Name == now.Volumes[i].Name && n.Medium == corev1.StorageMediumMemory &&
				o.SizeLimit != nil && n.SizeLimit != nil && o.SizeLimit.Cmp(*n.SizeLimit) != 0 {
				out = append(out, "InPlacePodVerticalScalingMemoryBackedVolumes")
				break
			}
		}
	}
	return out
}
