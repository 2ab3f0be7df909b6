package admission

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestDeclaredFeatures(t *testing.T) {
	f := setup(t)
	f.Put(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "old"}},
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "new"}, Status: corev1.NodeStatus{DeclaredFeatures: []string{"InPlacePodLevelResourcesVerticalScaling", "InPlacePodVerticalScalingInitContainers"}}})
	cpu := func(n string) corev1.ResourceRequirements {
		return corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": resource.MustParse(n)}}
	}
	always := corev1.ContainerRestartPolicyAlways
	whole := func(n string) func(*corev1.PodSpec) {
		return func(s *corev1.PodSpec) { r := cpu(n); s.Resources = &r }
	}
	start := func(n string, policy *corev1.ContainerRestartPolicy) func(*corev1.PodSpec) {
		return func(s *corev1.PodSpec) {
			s.InitContainers = []corev1.Container{{Name: "i", RestartPolicy: policy, Resources: cpu(n)}}
		}
	}
	memory := func(size string, medium corev1.StorageMedium) func(*corev1.PodSpec) {
		return func(s *corev1.PodSpec) {
			q := resource.MustParse(size)
			s.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: medium, SizeLimit: &q}}}}
		}
	}
	plain := func(n string) func(*corev1.PodSpec) {
		return func(s *corev1.PodSpec) { s.Containers = []corev1.Container{{Name: "c", Resources: cpu(n)}} }
	}
	const lacks = `pods "p" is forbidden: pod update requires features `
	p := NewNodeDeclaredFeatureValidator(f.Objects)
	for _, c := range []struct {
		name, node, door string
		old, now         func(*corev1.PodSpec)
		want             string
	}{
		{"containers", "old", "resize", plain("1"), plain("2"), ""},
		{"the whole pod", "old", "resize", whole("1"), whole("2"), lacks + `InPlacePodLevelResourcesVerticalScaling which are not available on node "old"`},
		{"the whole pod, a node that can", "new", "resize", whole("1"), whole("2"), ""},
		{"the same in other words", "old", "resize", whole("1"), whole("1000m"), ""},
		{"no node yet", "", "resize", whole("1"), whole("2"), ""},
		{"a node that is gone", "gone", "resize", whole("1"), whole("2"), `pods "p" is forbidden: node "gone" not found`},
		{"init containers", "old", "resize", start("1", nil), start("2", nil), lacks + `InPlacePodVerticalScalingInitContainers which are not available on node "old"`},
		{"init containers, a node that can", "new", "resize", start("1", nil), start("2", nil), ""},
		{"sidecars", "old", "resize", start("1", &always), start("2", &always), ""},
		{"volumes in memory", "new", "", memory("1Mi", corev1.StorageMediumMemory), memory("2Mi", corev1.StorageMediumMemory), lacks + `InPlacePodVerticalScalingMemoryBackedVolumes which are not available on node "new"`},
		{"volumes on disk", "old", "", memory("1Mi", ""), memory("2Mi", ""), ""},
		{"another door", "old", "status", whole("1"), whole("2"), ""},
		{"several", "old", "resize", func(s *corev1.PodSpec) { whole("1")(s); start("1", nil)(s) }, func(s *corev1.PodSpec) { whole("2")(s); start("2", nil)(s) },
			lacks + `InPlacePodLevelResourcesVerticalScaling, InPlacePodVerticalScalingInitContainers which are not available on node "old"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			of := func(change func(*corev1.PodSpec)) *corev1.Pod {
				return pod("p", func(p *corev1.Pod) { p.Spec.NodeName = c.node; change(&p.Spec) })
			}
			err := p.Validate(context.Background(), &Attributes{Operation: Update, Resource: corev1.SchemeGroupVersion.WithResource("pods"), Subresource: c.door, Name: "p", Object: of(c.now), OldObject: of(c.old)})
			if (err == nil) != (c.want == "") || err != nil && err.Error() != c.want {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}
