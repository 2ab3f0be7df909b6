package node

import (
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestExtendedResources: what somebody adds to the capacity of the node can be had, and what is taken out of it can't; the machine's own is put back.
func TestExtendedResources(t *testing.T) {
	const dongles, cpu = corev1.ResourceName("example.com/dongle"), corev1.ResourceCPU
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.start()
		defer func() { r.stop() }()
		pass(time.Second)
		nodes := r.client.CoreV1().Nodes()
		status := func() corev1.NodeStatus {
			t.Helper()
			n, err := nodes.Get(t.Context(), testNode, metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			return n.Status
		}
		cpus := status().Capacity[cpu]
		for _, c := range []struct {
			name string
			set  func(corev1.ResourceList)
			want string // of the dongles that can be had; empty is none
		}{
			{"added", func(l corev1.ResourceList) { l[dongles] = resource.MustParse("4") }, "4"},
			{"fewer", func(l corev1.ResourceList) { l[dongles] = resource.MustParse("3") }, "3"},
			{"the machine's own", func(l corev1.ResourceList) { l[cpu] = resource.MustParse("1000") }, "3"},
			{"removed", func(l corev1.ResourceList) { delete(l, dongles) }, ""},
		} {
			n, err := nodes.Get(t.Context(), testNode, metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			c.set(n.Status.Capacity)
			if _, err := nodes.UpdateStatus(t.Context(), n, metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
			pass(time.Second)
			s := status()
			got := ""
			if q, ok := s.Allocatable[dongles]; ok {
				got = q.String()
			}
			if got != c.want {
				t.Errorf("%s: %q can be had, want %q", c.name, got, c.want)
			}
			if q := s.Capacity[cpu]; q.Cmp(cpus) != 0 {
				t.Errorf("%s: the machine has %s CPUs, want %s", c.name, q.String(), cpus.String())
			}
		}
	})
}
