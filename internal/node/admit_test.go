package node

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
)

func TestAdmissible(t *testing.T) {
	list := func(cpu, memory string) corev1.ResourceList {
		return corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory)}
	}
	others := map[types.UID]corev1.ResourceList{"1": list("1500m", "1Gi")}
	node := &corev1.Node{}
	node.Labels = map[string]string{"disk": "ssd"}
	node.Spec.Taints = []corev1.Taint{{Key: "gone", Effect: corev1.TaintEffectNoExecute}}
	tolerant := []corev1.Toleration{{Operator: corev1.TolerationOpExists}}
	tests := []struct {
		name     string
		requests corev1.ResourceList
		spec     corev1.PodSpec
		maxPods  int
		reason   string
		message  string
	}{
		{"fits", list("500m", "1Gi"), corev1.PodSpec{Tolerations: tolerant, NodeSelector: map[string]string{"disk": "ssd"}}, 10, "", ""},
		{"cpu", list("600m", "1Gi"), corev1.PodSpec{Tolerations: tolerant}, 10, "OutOfcpu", "Node didn't have enough resource: cpu, requested: 600, used: 1500, capacity: 2000"},
		{"memory", list("100m", "4Gi"), corev1.PodSpec{Tolerations: tolerant}, 10, "OutOfmemory", "Node didn't have enough resource: memory, requested: 4294967296, used: 1073741824, capacity: 4294967296"},
		{"pods", nil, corev1.PodSpec{Tolerations: tolerant}, 1, "OutOfpods", "Node didn't have enough resource: pods, requested: 1, used: 1, capacity: 1"},
		{"selector", nil, corev1.PodSpec{Tolerations: tolerant, NodeSelector: map[string]string{"disk": "hdd"}}, 10, "NodeAffinity", "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"},
		{"taint", nil, corev1.PodSpec{}, 10, "TaintToleration", "Predicate TaintToleration failed: node(s) had untolerated taint {gone: }"},
		{"device", corev1.ResourceList{"example.com/gpu": resource.MustParse("1")}, corev1.PodSpec{Tolerations: tolerant}, 10, "OutOfexample.com/gpu", "Node didn't have enough resource: example.com/gpu, requested: 1, used: 0, capacity: 0"},
		{"os", nil, corev1.PodSpec{OS: &corev1.PodOS{Name: corev1.Windows}}, 10, "PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := admissible(&corev1.Pod{Spec: tt.spec}, tt.requests, others, list("2", "4Gi"), node, tt.maxPods)
			if r == nil {
				r = &rejection{}
			}
			if r.reason != tt.reason || r.message != tt.message {
				t.Errorf("got %+v", r)
			}
		})
	}
}
