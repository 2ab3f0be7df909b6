package admission

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestPodResize(t *testing.T) {
	f := setup(t)
	node := func(name, os string) *corev1.Node {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelOSStable: os}},
			Status: corev1.NodeStatus{Allocatable: corev1.ResourceList{"cpu": resource.MustParse("2"), "memory": resource.MustParse("1Ki")}}}
	}
	f.Put(node("n1", "linux"), node("w1", "windows"))
	on := func(node, cpu, memory string) *corev1.Pod {
		return pod("p", func(p *corev1.Pod) {
			p.Spec.NodeName = node
			p.Spec.Containers = []corev1.Container{{Name: "c", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": resource.MustParse(cpu), "memory": resource.MustParse(memory)}}}}
		})
	}
	p := NewPodResizeValidator(f.Objects)
	for _, c := range []struct {
		name     string
		old, pod *corev1.Pod
		want     string
		cause    metav1.CauseType
	}{
		{"fits", on("n1", "1", "1"), on("n1", "2", "1Ki"), "", ""},
		{"no node yet", on("", "1", "1"), on("", "8", "1Gi"), "", ""},
		{"nothing new", on("n1", "8", "1"), on("n1", "8", "1"), "", ""},
		{"too much", on("n1", "1", "1"), on("n1", "2500m", "1"), `pods "p" is forbidden: node didn't have enough allocatable resources: cpu, requested: 2500, allocatable: 2000`, "NodeCapacity"},
		{"too much of both", on("n1", "1", "1"), on("n1", "3", "2Ki"),
			`pods "p" is forbidden: node didn't have enough allocatable resources: cpu, requested: 3000, allocatable: 2000; memory, requested: 2048, allocatable: 1024`, "NodeCapacity"},
		{"another system", on("w1", "1", "1"), on("w1", "2", "1"), `pods "p" is forbidden: pod resize is only supported on linux nodes, node "w1" is "windows"`, "UnsupportedPlatform"},
		{"lost node", on("gone", "1", "1"), on("gone", "2", "1"), `pods "p" is forbidden: node "gone" not found`, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := p.Validate(context.Background(), &Attributes{Operation: Update, Resource: corev1.SchemeGroupVersion.WithResource("pods"), Subresource: "resize", Name: "p", Object: c.pod, OldObject: c.old})
			if (err == nil) != (c.want == "") || err != nil && err.Error() != c.want {
				t.Errorf("got %v, want %q", err, c.want)
			}
			if c.cause != "" && !apierrors.HasStatusCause(err, c.cause) {
				t.Errorf("no cause %s in %#v", c.cause, err)
			}
		})
	}
	if err := p.Validate(t.Context(), &Attributes{Operation: Update, Resource: corev1.SchemeGroupVersion.WithResource("pods"), Object: on("n1", "9", "1"), OldObject: on("n1", "1", "1")}); err != nil {
		t.Errorf("another door: %v", err)
	}
}
