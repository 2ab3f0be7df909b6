package scheduler

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
)

// slice is a pool of devices of a node, with numbers as attributes.
func slice(node string, devices ...string) *resourcev1.ResourceSlice {
	s := &resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: node + "-slice"}}
	s.Spec = resourcev1.ResourceSliceSpec{Driver: "gpu.example.com", NodeName: &node, Pool: resourcev1.ResourcePool{Name: node, Generation: 1, ResourceSliceCount: 1}}
	for i, name := range devices {
		n := int64(i)
		s.Spec.Devices = append(s.Spec.Devices, resourcev1.Device{Name: name, Attributes: map[resourcev1.QualifiedName]resourcev1.DeviceAttribute{"index": {IntValue: &n}}})
	}
	return s
}

func gpuClass() *resourcev1.DeviceClass {
	return &resourcev1.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: "gpu"}, Spec: resourcev1.DeviceClassSpec{
		Selectors: []resourcev1.DeviceSelector{{CEL: &resourcev1.CELDeviceSelector{Expression: `device.driver == "gpu.example.com"`}}},
	}}
}

func gpuClaim(name string, count int64, expressions ...string) *resourcev1.ResourceClaim {
	c := &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID("claim-" + name)}}
	r := &resourcev1.ExactDeviceRequest{DeviceClassName: "gpu", AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: count}
	for _, e := range expressions {
		r.Selectors = append(r.Selectors, resourcev1.DeviceSelector{CEL: &resourcev1.CELDeviceSelector{Expression: e}})
	}
	c.Spec.Devices.Requests = []resourcev1.DeviceRequest{{Name: "r", Exactly: r}}
	return c
}

// claim returns a claim as the API has it, and its devices.
func (b *bench) claim(name string) (*resourcev1.ResourceClaim, string) {
	b.Helper()
	c, err := b.client.ResourceV1().ResourceClaims("default").Get(b.Context(), name, metav1.GetOptions{})
	if err != nil {
		b.Fatal(err)
	}
	if c.Status.Allocation == nil {
		return c, ""
	}
	var out []string
	for _, r := range c.Status.Allocation.Devices.Results {
		out = append(out, r.Request+"="+r.Pool+"/"+r.Device)
	}
	return c, strings.Join(out, " ")
}

func (b *bench) changeClaim(name string, change func(*resourcev1.ResourceClaim)) {
	b.Helper()
	c, _ := b.claim(name)
	change(c)
	if _, err := b.client.ResourceV1().ResourceClaims("default").UpdateStatus(b.Context(), c, metav1.UpdateOptions{}); err != nil {
		b.Fatal(err)
	}
	b.pass(time.Second)
}

func TestDevicesAreAllocated(t *testing.T) {
	objects := []runtime.Object{
		newNode("a", "4", "4Gi"), newNode("b", "4", "4Gi"), slice("b", "gpu-0", "gpu-1"), gpuClass(),
		gpuClaim("one", 1, `device.attributes["gpu.example.com"].index == 1`), gpuClaim("two", 1), gpuClaim("three", 1), gpuClaim("bad", 1, `device.attributes["gpu.example.com"].nosuch == 1`),
	}
	run(t, func(b *bench) {
		b.create(newPod("p", claiming("one")))
		b.on("b", "p")
		c, got := b.claim("one")
		if got != "r=b/gpu-1" || len(c.Status.ReservedFor) != 1 || c.Status.ReservedFor[0].UID != "uid-p" || !slices.Contains(c.Finalizers, resourcev1.Finalizer) {
			b.Errorf("%s, %v, %v", got, c.Status.ReservedFor, c.Finalizers)
		}
		if sel := c.Status.Allocation.NodeSelector; sel == nil || sel.NodeSelectorTerms[0].MatchFields[0].Values[0] != "b" {
			b.Errorf("node selector %v", sel)
		}
		// Another pod with the same claim joins it.
		b.create(newPod("q", claiming("one")))
		b.on("b", "q")
		if c, _ = b.claim("one"); len(c.Status.ReservedFor) != 2 {
			b.Errorf("reserved for %v", c.Status.ReservedFor)
		}
		b.create(newPod("r", claiming("two")), newPod("s", claiming("three")))
		b.pass(time.Minute)
		b.on("b", "r")
		b.on("", "s")
		if got := b.condition("s"); got != "False Unschedulable 0/2 nodes are available: 2 cannot allocate all claims. preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling." {
			b.Error(got)
		}
		// As the claim's controller does when its pod is gone.
		b.remove("r")
		b.changeClaim("two", func(c *resourcev1.ResourceClaim) { c.Status = resourcev1.ResourceClaimStatus{} })
		b.on("b", "s")
		if _, got := b.claim("three"); got != "r=b/gpu-0" {
			b.Error(got)
		}
		b.remove("s")
		b.changeClaim("three", func(c *resourcev1.ResourceClaim) { c.Status = resourcev1.ResourceClaimStatus{} })
		b.create(newPod("t", claiming("bad")))
		if got := b.condition("t"); !strings.Contains(got, "claim default/bad: selector #0 on device gpu.example.com/b/gpu-0: CEL runtime error: no such key: nosuch") {
			b.Error(got)
		}
		b.remove("t")
	}, objects...)
}

// TestDevicesOfOneClass: what is missing is waited for: a class, then devices.
func TestDevicesAreWaitedFor(t *testing.T) {
	run(t, func(b *bench) {
		b.create(newPod("p", claiming("c")))
		if got := b.condition("p"); !strings.HasPrefix(got, "False Unschedulable 0/1 nodes are available: request r: device class gpu does not exist. preemption:") {
			b.Error(got)
		}
		if _, err := b.client.ResourceV1().DeviceClasses().Create(b.Context(), gpuClass(), metav1.CreateOptions{}); err != nil {
			b.Fatal(err)
		}
		b.pass(time.Minute)
		b.on("", "p")
		if _, err := b.client.ResourceV1().ResourceSlices().Create(b.Context(), slice("a", "gpu-0"), metav1.CreateOptions{}); err != nil {
			b.Fatal(err)
		}
		b.pass(time.Second)
		b.on("a", "p")
	}, newNode("a", "1", "1Gi"), gpuClaim("c", 1))
}

// TestDevicesMoveOn: a claim that nobody uses any more gives its devices back if its next pod can't go where they are.
func TestDevicesMoveOn(t *testing.T) {
	run(t, func(b *bench) {
		b.create(newPod("p", claiming("c"), selecting(v1.LabelHostname, "a")))
		b.on("a", "p")
		b.remove("p")
		b.changeClaim("c", func(c *resourcev1.ResourceClaim) { c.Status.ReservedFor = nil })
		b.create(newPod("q", claiming("c"), selecting(v1.LabelHostname, "b")))
		b.pass(time.Minute)
		b.on("b", "q")
		if _, got := b.claim("c"); got != "r=b/gpu-0" {
			b.Error(got)
		}
	}, newNode("a", "1", "1Gi"), newNode("b", "1", "1Gi"), slice("a", "gpu-0"), slice("b", "gpu-0"), gpuClass(), gpuClaim("c", 1))
}

// TestDevicesThatTakeTime: a pod is bound when the driver says that its device is ready (KEP-5007), and goes elsewhere if that fails or takes too long.
func TestDevicesThatTakeTime(t *testing.T) {
	slow := func(node string) *resourcev1.ResourceSlice {
		s := slice(node, "gpu-0")
		s.Spec.Devices[0].BindingConditions, s.Spec.Devices[0].BindingFailureConditions = []string{"Attached"}, []string{"Broken"}
		return s
	}
	say := func(b *bench, kind string) {
		b.changeClaim("c", func(c *resourcev1.ResourceClaim) {
			r := c.Status.Allocation.Devices.Results[0]
			c.Status.Devices = []resourcev1.AllocatedDeviceStatus{{Driver: r.Driver, Pool: r.Pool, Device: r.Device, Conditions: []metav1.Condition{{Type: kind, Status: metav1.ConditionTrue}}}}
		})
	}
	run(t, func(b *bench) {
		b.create(newPod("p", claiming("c")))
		b.pass(time.Second)
		b.on("", "p")
		if c, got := b.claim("c"); got != "r=a/gpu-0" || c.Status.Allocation.AllocationTimestamp == nil {
			b.Fatalf("%s", got)
		}
		say(b, "Broken")
		b.on("", "p")
		if got := b.condition("p"); !strings.HasPrefix(got, `False SchedulerError running PreBind plugin "DynamicResources": claim default/c: binding of device gpu.example.com/a/gpu-0 failed: Broken`) {
			b.Error(got)
		}
		b.pass(11 * time.Minute) // nobody says anything now
		b.on("", "p")
		if _, got := b.claim("c"); got != "r=a/gpu-0" {
			b.Errorf("%q", got)
		}
		say(b, "Attached")
		b.on("a", "p")
	}, newNode("a", "1", "1Gi"), slow("a"), gpuClass(), gpuClaim("c", 1))
}

// TestManyPodsNeverShareADevice: pods that come at once get each their own.
func TestManyPodsNeverShareADevice(t *testing.T) {
	const nodes, perNode, pods = 4, 3, 20
	objects := []runtime.Object{gpuClass()}
	for i := range nodes {
		name := fmt.Sprint("n", i)
		objects = append(objects, newNode(name, "100", "100Gi"), slice(name, "gpu-0", "gpu-1", "gpu-2"))
	}
	var all []*v1.Pod
	for i := range pods {
		objects = append(objects, gpuClaim(fmt.Sprint("c", i), 1))
		all = append(all, newPod(fmt.Sprint("p", i), claiming(fmt.Sprint("c", i))))
	}
	run(t, func(b *bench) {
		b.create(all...)
		b.pass(time.Minute)
		seen, placed := map[string]bool{}, 0
		for i := range pods {
			_, got := b.claim(fmt.Sprint("c", i))
			if got == "" {
				continue
			}
			if seen[got] {
				b.Errorf("%s twice", got)
			}
			seen[got] = true
			placed++
			if node := b.pod(fmt.Sprint("p", i)).Spec.NodeName; !strings.HasPrefix(got, "r="+node+"/") {
				b.Errorf("pod on %q with %s", node, got)
			}
		}
		if placed != nodes*perNode {
			b.Errorf("%d pods have devices", placed)
		}
	}, objects...)
}

// TestExtendedResourcesThatAreDevices (KEP-5004): a node that has the resource itself gives it as ever; on others the pod gets devices of the class that stands for it.
func TestExtendedResourcesThatAreDevices(t *testing.T) {
	const name = "example.com/gpu"
	class := gpuClass()
	resource := name
	class.Spec.ExtendedResourceName = &resource
	run(t, func(b *bench) {
		b.create(newPod("p", requesting(name, "1")), newPod("q", requesting(name, "2")))
		b.pass(time.Minute)
		b.on("own", "p")
		b.on("", "q")
		if got := b.condition("q"); !strings.HasPrefix(got, "False Unschedulable 0/2 nodes are available: 2 Insufficient example.com/gpu.") {
			b.Error(got)
		}
		if _, err := b.client.ResourceV1().DeviceClasses().Create(b.Context(), class, metav1.CreateOptions{}); err != nil {
			b.Fatal(err)
		}
		b.pass(time.Second)
		b.on("other", "q")
		claims, err := b.client.ResourceV1().ResourceClaims("default").List(b.Context(), metav1.ListOptions{})
		if err != nil || len(claims.Items) != 1 {
			b.Fatalf("%v, %v", claims, err)
		}
		c := &claims.Items[0]
		st := b.pod("q").Status.ExtendedResourceClaimStatus
		if st == nil || st.ResourceClaimName != c.Name || len(st.RequestMappings) != 1 || st.RequestMappings[0] != (v1.ContainerExtendedResourceRequest{ContainerName: "c", ResourceName: name, RequestName: "container-0-request-0"}) {
			b.Errorf("status %+v, claim %q", st, c.Name)
		}
		if a := c.Status.Allocation; a == nil || len(a.Devices.Results) != 2 || len(c.Status.ReservedFor) != 1 || c.Annotations[resourcev1.ExtendedResourceClaimAnnotation] != "true" || !metav1.IsControlledBy(c, b.pod("q")) {
			b.Errorf("claim %+v", c)
		}
		b.create(newPod("r", requesting(resourcev1.ResourceDeviceClassPrefix+"gpu", "1")))
		b.on("", "r")
		if got := b.condition("r"); !strings.HasPrefix(got, "False Unschedulable 0/2 nodes are available: 2 cannot allocate all claims.") {
			b.Error(got)
		}
		b.remove("r")
	}, newNode("own", "4", "4Gi", allocatable(name, "1")), newNode("other", "4", "4Gi"), slice("other", "gpu-0", "gpu-1"))
}
