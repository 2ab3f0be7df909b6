package scheduler

import (
	"fmt"
	"testing"

	v1 "k8s.io/api/core/v1"
	"pgregory.net/rapid"
)

// TestPlainRequests: the short way to a pod's requests comes to what the library comes to.
func TestPlainRequests(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := newPod("p")
		p.Spec.Containers = nil
		for i := range rapid.IntRange(1, 4).Draw(t, "containers") {
			c := v1.Container{Name: fmt.Sprint("c", i), Resources: v1.ResourceRequirements{Requests: v1.ResourceList{}}}
			for _, name := range []v1.ResourceName{"cpu", "memory", "ephemeral-storage", "example.com/a", "example.com/b", "hugepages-2Mi"} {
				if rapid.Bool().Draw(t, string(name)) {
					q := rapid.SampledFrom([]string{"0", "1", "2", "100", "1500m", "3Gi"}).Draw(t, "quantity")
					if name != "cpu" && q == "1500m" {
						q = "7"
					}
					c.Resources.Requests[name] = list(map[v1.ResourceName]string{name: q})[name]
				}
			}
			p.Spec.Containers = append(p.Spec.Containers, c)
		}
		s := NewSnapshot(1)
		short := s.NewPod(p)
		// A status makes the pod take the long way, and says nothing.
		q := p.DeepCopy()
		q.Status.ContainerStatuses = []v1.ContainerStatus{{Name: "x"}}
		long := s.NewPod(q)
		if !short.requests.equal(&long.requests) || short.scoredCPU != long.scoredCPU || short.scoredMemory != long.scoredMemory || short.key != long.key {
			t.Fatalf("%+v %d %d, the long way %+v %d %d", short.requests, short.scoredCPU, short.scoredMemory, long.requests, long.scoredCPU, long.scoredMemory)
		}
	})
}
