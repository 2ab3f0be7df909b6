package dynamicresources

import (
	"fmt"
	"testing"

	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// fleet is many nodes with eight devices each, all of them taken on most nodes.
func fleet(nodes, taken int) *Inventory {
	v := New(numbered())
	v.SetClass(&resourcev1.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: "toy"}, Spec: resourcev1.DeviceClassSpec{Selectors: exactly("", where(`device.driver == "toys.example.com"`)).Exactly.Selectors}})
	for n := range nodes {
		name := fmt.Sprint("node-", n)
		v.SetNode(name)
		s := published(name, func(s *resourcev1.ResourceSliceSpec) { s.AllNodes, s.NodeName, s.Pool.Name = nil, &name, name })
		for d := range 8 {
			id, memory := fmt.Sprint(name, "/", d), int64(80)
			s.Spec.Devices = append(s.Spec.Devices, resourcev1.Device{Name: fmt.Sprint("gpu-", d), Attributes: map[resourcev1.QualifiedName]resourcev1.DeviceAttribute{"uuid": {StringValue: &id}, "memory": {IntValue: &memory}}})
		}
		v.SetSlice(s)
		if n < taken {
			c := claimOf(fmt.Sprint("old-", n), exactly("r", everything))
			c.Status.Allocation = &resourcev1.AllocationResult{}
			for d := range 8 {
				c.Status.Allocation.Devices.Results = append(c.Status.Allocation.Devices.Results, resourcev1.DeviceRequestAllocationResult{Request: "r", Driver: driver, Pool: name, Device: fmt.Sprint("gpu-", d)})
			}
			v.SetClaim(c)
		}
	}
	return v
}

// BenchmarkAllocate is a pod for which all of 1000 nodes are asked, most of which are full, and whose claim gets two devices, one after the other.
func BenchmarkAllocate(b *testing.B) {
	const nodes, taken = 1000, 900
	v := fleet(nodes, taken)
	names := make([]Node, nodes)
	for n := range nodes {
		names[n] = plainNode(fmt.Sprint("node-", n))
	}
	two := exactly("r", func(e *resourcev1.ExactDeviceRequest) {
		e.Count = 2
		where(`device.attributes["toys.example.com"].memory >= 40`)(e)
	})
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		c := claimOf("c", two)
		c.UID = types.UID(fmt.Sprint("new-", i))
		i++
		v.SetClaim(c)
		a, err := v.Prepare([]*resourcev1.ResourceClaim{c})
		if err != nil {
			b.Fatal(err)
		}
		var at Node
		for _, n := range names {
			if a.Fits(n) {
				at = n
			}
		}
		got := a.Allocate(at)
		if got == nil {
			b.Fatal("no devices")
		}
		v.Promise(c.UID, got[0])
		v.RemoveClaim("ns", "c")
	}
}

// BenchmarkFirstDecision is the same for a claim of a form that was never seen before: every node is looked at.
func BenchmarkFirstDecision(b *testing.B) {
	const nodes, taken = 1000, 900
	v := fleet(nodes, taken)
	c := claimOf("c", exactly("r", nil))
	v.SetClaim(c)
	b.ReportAllocs()
	for b.Loop() {
		clear(v.answers)
		a, err := v.Prepare([]*resourcev1.ResourceClaim{c})
		if err != nil {
			b.Fatal(err)
		}
		fitting := 0
		for n := range nodes {
			if a.Fits(plainNode(fmt.Sprint("node-", n))) {
				fitting++
			}
		}
		if fitting != nodes-taken {
			b.Fatal(fitting)
		}
	}
}
