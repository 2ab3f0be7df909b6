package apply

import (
	"fmt"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// scaleConverter stands where the merging library wants conversions; a Scale has one version.
type scaleConverter struct{}

func (scaleConverter) ConvertToVersion(in runtime.Object, _ runtime.GroupVersioner) (runtime.Object, error) {
	u, ok := in.(*unstructured.Unstructured)
	if !ok {
		return in, nil
	}
	s := &autoscalingv1.Scale{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, s); err != nil {
		return nil, err
	}
	return s, nil
}

func (scaleConverter) Convert(_, _, _ any) error {
	return fmt.Errorf("a Scale has one version")
}

func (scaleConverter) ConvertFieldLabel(_ schema.GroupVersionKind, label, value string) (string, string, error) {
	return label, value, nil
}

func (scaleConverter) Default(runtime.Object) {}

func (scaleConverter) New(gvk schema.GroupVersionKind) (runtime.Object, error) {
	s := &autoscalingv1.Scale{}
	s.SetGroupVersionKind(gvk)
	return s, nil
}
