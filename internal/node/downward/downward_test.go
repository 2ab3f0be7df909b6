package downward

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestField(t *testing.T) {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "n", Namespace: "ns", UID: "u", Labels: map[string]string{"b": "2", "a": "1\n"}, Annotations: map[string]string{"x/y": "z"}},
		Spec:       corev1.PodSpec{NodeName: "node", ServiceAccountName: "sa"},
	}
	node := Node{HostIPs: []string{"h1", "h2"}, PodIPs: []string{"p1", "p2"}}
	for path, want := range map[string]string{
		"metadata.name": "n", "metadata.namespace": "ns", "metadata.uid": "u", "metadata.labels": "a=\"1\\n\"\nb=\"2\"", "metadata.labels['b']": "2",
		"metadata.annotations['x/y']": "z", "metadata.annotations['none']": "", "spec.nodeName": "node", "spec.serviceAccountName": "sa",
		"status.hostIP": "h1", "status.hostIPs": "h1,h2", "status.podIP": "p1", "status.podIPs": "p1,p2",
	} {
		if got, err := Field(pod, node, path); err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", path, got, err, want)
		}
	}
	for _, bad := range []string{"", "spec.containers", "metadata.name['x']", "metadata.labels['x"} {
		if got, err := Field(pod, node, bad); err == nil {
			t.Errorf("%s gave %q", bad, got)
		}
	}
}

func FuzzField(f *testing.F) {
	for _, s := range []string{"metadata.name", "metadata.labels['a']", "metadata.labels['", "x['y']"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, path string) {
		if got, err := Field(&corev1.Pod{}, Node{}, path); err == nil && got != "" {
			t.Errorf("%q of an empty pod is %q", path, got)
		}
	})
}

func TestResource(t *testing.T) {
	c := corev1.Container{Name: "c", Resources: corev1.ResourceRequirements{
		Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("250m")},
		Limits:   corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1500m"), "hugepages-2Mi": resource.MustParse("4Mi")},
	}}
	pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{c}}}
	node := Node{Allocatable: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("1Gi")}}
	for _, tt := range []struct{ name, divisor, want string }{
		{"limits.cpu", "0", "2"}, {"limits.cpu", "1m", "1500"}, {"requests.cpu", "1m", "250"}, {"limits.memory", "1Mi", "1024"},
		{"requests.memory", "0", "0"}, {"limits.hugepages-2Mi", "1Mi", "4"}, {"limits.hugepages-1Gi", "0", "0"},
	} {
		got, err := Resource(pod, nil, node, &corev1.ResourceFieldSelector{ContainerName: "c", Resource: tt.name, Divisor: resource.MustParse(tt.divisor)})
		if err != nil || got != tt.want {
			t.Errorf("%s / %s: %s, %v; want %s", tt.name, tt.divisor, got, err, tt.want)
		}
	}
	pod.Spec.Resources = &corev1.ResourceRequirements{Limits: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("64Mi"), corev1.ResourceCPU: resource.MustParse("8")}}
	for name, want := range map[string]string{"limits.memory": "67108864", "limits.cpu": "2", "limits.ephemeral-storage": "0"} {
		if got, err := Resource(pod, nil, node, &corev1.ResourceFieldSelector{ContainerName: "c", Resource: name}); err != nil || got != want {
			t.Errorf("%s where the pod has limits: %s, %v; want %s", name, got, err, want)
		}
	}
	for _, bad := range []corev1.ResourceFieldSelector{{ContainerName: "none", Resource: "limits.cpu"}, {Resource: "limits.cpu"}, {ContainerName: "c", Resource: "cpu"}, {ContainerName: "c", Resource: "x.cpu"}} {
		if got, err := Resource(pod, nil, node, &bad); err == nil {
			t.Errorf("%+v gave %s", bad, got)
		}
	}
}
