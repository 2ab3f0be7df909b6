package scheduler

import (
	"fmt"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/utils/clock"
)

// Rules that were found by comparing decisions with those of upstream's scheduler over random clusters.

// scored are the scores of the nodes that a pod fits on.
func (s *Snapshot) scored(p *v1.Pod) string {
	verdicts, _, whole := s.Diagnose(s.NewPod(p))
	out := []string{}
	for _, v := range verdicts {
		if len(v.Refusals) == 0 {
			out = append(out, fmt.Sprintf("%s=%d", v.Node, v.Score))
		}
	}
	return whole + strings.Join(out, " ")
}

// only is a profile that scores by one plugin.
func only(plugin string, weight int) string {
	return fmt.Sprintf("- plugins:\n    score:\n      disabled: [{name: '*'}]\n      enabled: [{name: %s, weight: %d}]\n", plugin, weight)
}

func TestScoresAreUpstreams(t *testing.T) {
	const zone, rack, host = v1.LabelTopologyZone, "rack", v1.LabelHostname
	db := podLabels("app", "db")
	ignoring := func(p *v1.Pod) {
		honor := v1.NodeInclusionPolicyHonor
		p.Spec.TopologySpreadConstraints[0].NodeTaintsPolicy = &honor
	}
	preferringPods := func(weight int32, t v1.PodAffinityTerm) podOption {
		return func(p *v1.Pod) {
			a := affinity(p)
			if a.PodAffinity == nil {
				a.PodAffinity = &v1.PodAffinity{}
			}
			a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution = append(a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution, v1.WeightedPodAffinityTerm{Weight: weight, PodAffinityTerm: t})
		}
	}
	level := func(kv ...string) podOption {
		return func(p *v1.Pod) {
			q := newPod("q", requesting(kv...))
			p.Spec.Resources = &v1.ResourceRequirements{Requests: q.Spec.Containers[0].Resources.Requests}
		}
	}
	second := func(p *v1.Pod) { p.Spec.Containers = append(p.Spec.Containers, v1.Container{Name: "d", Image: "img"}) }
	for _, tt := range []struct {
		name string
		s    *Snapshot
		pod  *v1.Pod
		want string
	}{
		// What is left of a percent is cut off on each side before the sides are compared.
		{"balance", configured(t, only(NameBalancedAllocation, 1), newNode("a", "1", "1000"), newNode("b", "1", "1000")).with(newPod("x", on("a"), requesting("memory", "500")), newPod("y", on("b"), requesting("cpu", "300m", "memory", "700"))),
			newPod("p", requesting("cpu", "100m", "memory", "300")), "a=69 b=70"},
		// What is left of a percent is cut off before the weight counts.
		{"affinity", configured(t, only(NameInterPodAffinity, 2), newNode("a", "4", "4Gi"), newNode("b", "4", "4Gi"), newNode("c", "4", "4Gi")).
			with(newPod("x", on("a"), db), newPod("y", on("a"), db), newPod("w", on("a"), db), newPod("z", on("b"), db), newPod("v", on("b"), db)), newPod("p", preferringPods(1, term(host, "app", "db"))), "a=200 b=132 c=0"},
		// A difference weighs by how many places there are among the nodes that fit, not among all.
		{"places that fit", configured(t, only(NamePodTopologySpread, 1), newNode("a", "4", "4Gi", labelled(zone, "x")), newNode("b", "4", "4Gi", labelled(zone, "y")), newNode("c", "0", "0", labelled(zone, "z")), newNode("d", "0", "0", labelled(zone, "u"))).
			with(newPod("x", on("a"), db), newPod("y", on("a"), db), newPod("z", on("b"), db)), newPod("p", db, requesting("cpu", "1"), spreading(4, zone, v1.ScheduleAnyway, "app", "db")), "a=66 b=100"},
		// A host's own pods count even where the policies leave it out.
		{"tainted host", configured(t, only(NamePodTopologySpread, 1), newNode("a", "4", "4Gi", tainted("k", "", v1.TaintEffectPreferNoSchedule)), newNode("b", "4", "4Gi", labelled(host, "a"))).
			with(newPod("x", on("a"), db), newPod("y", on("a"), db)), newPod("p", db, spreading(1, host, v1.ScheduleAnyway, "app", "db"), ignoring), "a=0 b=100"},
		// A selector for all pods counts none.
		{"all pods", configured(t, only(NamePodTopologySpread, 1), newNode("a", "4", "4Gi"), newNode("b", "4", "4Gi")).with(newPod("x", on("a"), db)), newPod("p", db, spreading(1, host, v1.ScheduleAnyway)), "a=100 b=100"},
		// Containers without requests have none of their own in a pod that says what it requests.
		{"the pod's own requests", configured(t, only(NameNodeResourcesFit, 1), newNode("a", "1", "1000Mi")).with(newPod("x", on("a"), requesting("memory", "100Mi"), second, level("cpu", "500m"))),
			newPod("p", requesting("cpu", "100m", "memory", "100Mi")), "a=60"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.s.scored(tt.pod); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

// TestSpreadOfAll: a constraint whose selector selects all pods refuses nothing.
func TestSpreadOfAll(t *testing.T) {
	s := snapshotOf(newNode("a", "4", "4Gi"), newNode("b", "0", "0")).with(newPod("x", on("a")), newPod("y", on("a")))
	if got := s.outcome(newPod("p", requesting("cpu", "1"), spreading(1, v1.LabelHostname, v1.DoNotSchedule))); got != "a" {
		t.Error(got)
	}
}

// TestDeviceScores: nodes on which a claim gets what it names first are preferred, also by a claim that has devices.
func TestDeviceScores(t *testing.T) {
	first := func(name string, expressions ...string) *resourcev1.ResourceClaim {
		c := gpuClaim(name, 1)
		r := resourcev1.DeviceRequest{Name: "r"}
		for i, e := range expressions {
			r.FirstAvailable = append(r.FirstAvailable, resourcev1.DeviceSubRequest{Name: fmt.Sprint("s", i), DeviceClassName: "gpu", AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: 1,
				Selectors: []resourcev1.DeviceSelector{{CEL: &resourcev1.CELDeviceSelector{Expression: e}}}})
		}
		c.Spec.Devices.Requests = []resourcev1.DeviceRequest{r}
		return c
	}
	index := func(n int) string { return fmt.Sprintf(`device.attributes["gpu.example.com"].index == %d`, n) }
	had := first("had", index(0), index(1))
	had.Status.Allocation = &resourcev1.AllocationResult{Devices: resourcev1.DeviceAllocationResult{Results: []resourcev1.DeviceRequestAllocationResult{{Request: "r/s1", Driver: "gpu.example.com", Pool: "z", Device: "x"}}}}
	s := configured(t, only(NameDynamicResources, 2), newNode("a", "4", "4Gi"), newNode("b", "4", "4Gi"), newNode("c", "4", "4Gi"))
	s.SetDeviceClass(gpuClass())
	for _, r := range []*resourcev1.ResourceSlice{slice("a", "x"), slice("b", "x", "y"), slice("c", "x", "y", "z")} {
		s.SetResourceSlice(r)
	}
	for _, c := range []*resourcev1.ResourceClaim{first("c", index(2), index(1), index(0)), gpuClaim("plain", 1), had} {
		s.SetResourceClaim(c)
	}
	for _, tt := range []struct {
		name string
		pod  *v1.Pod
		want string
	}{
		{"alternatives", newPod("p", claiming("c")), "a=150 b=174 c=200"},
		{"again", newPod("p", claiming("c")), "a=150 b=174 c=200"},
		{"no choice", newPod("p", claiming("plain")), "a=0 b=0 c=0"},
		{"one that has devices", newPod("p", claiming("c"), claiming("had")), "a=172 b=186 c=200"},
		{"nothing to find", newPod("p", claiming("had")), "a=0 b=0 c=0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := s.scored(tt.pod); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
	if got := s.outcome(newPod("p", claiming("c"))); got != "c" {
		t.Errorf("on %s", got)
	}
}

func TestVolumeReasons(t *testing.T) {
	const zone = v1.LabelTopologyZone
	later := storagev1.VolumeBindingWaitForFirstConsumer
	yes := true
	tracked := &storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: "d"}, Spec: storagev1.CSIDriverSpec{StorageCapacity: &yes}}
	one := func() *Snapshot { return snapshotOf(newNode("a", "4", "4Gi", labelled(zone, "x"))) }
	exclusive := func(c *v1.PersistentVolumeClaim) {
		c.Spec.AccessModes = []v1.PersistentVolumeAccessMode{v1.ReadWriteOncePod}
	}
	const busy = " preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."
	for _, tt := range []struct {
		name string
		s    *Snapshot
		pod  *v1.Pod
		want string
	}{
		{"elsewhere, and none to bind", one().storing(newClaim("c", "c", boundTo("v")), newVolume("v", "c", "1Gi", "z"), newClaim("e", "l"), newStorageClass("l", noProvisioner, later)), newPod("p", using("c", "e")),
			"0/1 nodes are available: 1 node(s) didn't find available persistent volumes to bind, 1 node(s) didn't match PersistentVolume's node affinity." + unresolved(1)},
		{"elsewhere, and no room", one().storing(tracked, newClaim("c", "c", boundTo("v")), newVolume("v", "c", "1Gi", "z"), newClaim("e", "l"), newStorageClass("l", "d", later)), newPod("p", using("c", "e")),
			"0/1 nodes are available: 1 node(s) did not have enough free storage, 1 node(s) didn't match PersistentVolume's node affinity." + unresolved(1)},
		{"no such volume", one().storing(newClaim("c", "c", boundTo("v"))), newPod("p", using("c")), `0/1 nodes are available: persistentvolume "v" not found.` + unresolved(1)},
		{"no such volume, and nobody who looks at zones", configured(t, "- plugins:\n    multiPoint:\n      disabled: [{name: VolumeZone}]\n", newNode("a", "4", "4Gi")).storing(newClaim("c", "c", boundTo("v"))), newPod("p", using("c")),
			"0/1 nodes are available: 1 node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)." + unresolved(1)},
		{"unbound comes before that", one().storing(newClaim("c", "c", boundTo("v")), newClaim("e", "i"), newStorageClass("i", "d", storagev1.VolumeBindingImmediate)), newPod("p", using("c", "e")),
			"0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims." + unresolved(1)},
		{"a disk comes before a claim", one().storing(newClaim("c", "c", boundTo("v"), exclusive), newVolume("v", "c", "1Gi", "")).with(newPod("x", on("a"), onDisk("d", false), using("c"))), newPod("p", onDisk("d", true), using("c")),
			"0/1 nodes are available: 1 node(s) had no available disk." + busy},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.s.outcome(tt.pod); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

// TestClaimReasons: that there are no devices is told before that a claim has its devices elsewhere, and only the latter is a reason to take them away.
func TestClaimReasons(t *testing.T) {
	elsewhere := allocatedOn("z")
	s := snapshotOf(newNode("a", "4", "4Gi"))
	s.SetDeviceClass(gpuClass())
	s.SetResourceClaim(elsewhere)
	s.SetResourceClaim(gpuClaim("none", 1))
	if got, want := s.outcome(newPod("p", claiming("c"), claiming("none"))), "0/1 nodes are available: 1 cannot allocate all claims."+unresolved(1); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got, want := s.outcome(newPod("p", claiming("c"))), "0/1 nodes are available: 1 resourceclaim not available on the node."+unresolved(1); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	for _, tt := range []struct {
		f    Failure
		want string
	}{
		{Failure{Nodes: 1, Reasons: map[string]int{"x": 1}, Helpless: 1}, "0/1 nodes are available: 1 x." + unresolved(1)},
		{Failure{Nodes: 1, Reasons: map[string]int{"x": 1}, Helpless: 1, Claims: "done"}, "0/1 nodes are available: 1 x. done," + unresolved(1)},
		{Failure{Nodes: 1, Reasons: map[string]int{"x": 1}, Never: notConfigured, Claims: "done"}, "0/1 nodes are available: 1 x. done"},
		{Failure{Nodes: 1, Reasons: map[string]int{"x": 1}, Never: notConfigured}, "0/1 nodes are available: 1 x."},
		{Failure{Nodes: 1, Reasons: map[string]int{"x": 1}, Claims: "done", Room: "found"}, "0/1 nodes are available: 1 x. preemption: found"},
	} {
		if got := tt.f.Error(); got != tt.want {
			t.Errorf("got  %s\nwant %s", got, tt.want)
		}
	}
}

// TestOthersChange: a pod that other pods keep out is tried again when they change so that they don't, and not when they merely begin to end.
func TestOthersChange(t *testing.T) {
	const profiles = "- schedulerName: default-scheduler\n- schedulerName: spread\n  pluginConfig:\n  - name: PodTopologySpread\n    args: {defaultingType: List, defaultConstraints: [{maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule}]}\n"
	db := podLabels("app", "db")
	anti := apart(term(v1.LabelHostname, "app", "db"))
	spread := spreading(1, v1.LabelHostname, v1.DoNotSchedule, "app", "db")
	byDefault := func(p *v1.Pod) { p.Spec.SchedulerName = "spread" }
	changed := func(p *v1.Pod, change func(*v1.Pod)) *v1.Pod {
		p = p.DeepCopy()
		change(p)
		return p
	}
	relabel := func(p *v1.Pod) { p.Labels = map[string]string{"app": "web"} }
	end := func(p *v1.Pod) {
		now := metav1.Unix(1, 0)
		p.DeletionTimestamp = &now
		p.Generation++
	}
	for _, tt := range []struct {
		name   string
		pod    *v1.Pod
		change func(*v1.Pod)
		wakes  bool
	}{
		{"relabelled, anti-affinity", newPod("p", anti), relabel, true},
		{"relabelled, spread", newPod("p", db, spread), relabel, true},
		{"relabelled, spread by default", newPod("p", db, byDefault), relabel, true},
		{"ends, anti-affinity", newPod("p", anti), end, false},
		{"ends, spread", newPod("p", db, spread), end, true},
		{"ends, spread by default", newPod("p", db, byDefault), end, true},
		{"ends, spread of others", newPod("p", podLabels("app", "web"), spreading(1, v1.LabelHostname, v1.DoNotSchedule, "app", "web")), end, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			other := newPod("x", on("a"), db)
			s := &Scheduler{snapshot: configured(t, profiles, newNode("a", "4", "4Gi"), newNode("b", "4", "4Gi")).with(other), queue: newQueue(time.Second, time.Second), wake: make(chan struct{}, 1), storage: make(chan struct{})}
			s.snapshot.SetSelectors(func(p *v1.Pod) labels.Selector { return labels.SelectorFromSet(p.Labels) })
			s.clock = clock.RealClock{}
			p := s.snapshot.NewPod(tt.pod)
			s.queue.put(tt.pod, p, s.clock.Now(), true)
			it := s.queue.take(s.clock.Now())
			s.queue.park(it, s.clock.Now(), []string{NameInterPodAffinity, NamePodTopologySpread})
			s.setPod(other, changed(other, tt.change))
			if woken := it.stage != stageUnschedulable; woken != tt.wakes {
				t.Errorf("woken: %v", woken)
			}
		})
	}
}

// TestVictimsLinger: a pod that room is made for isn't tried again before its victims are gone, if it isn't resources that it waits for: it keeps being told what is going on.
func TestVictimsLinger(t *testing.T) {
	run(t, func(b *bench) {
		b.lingers("x", 30*time.Second)
		b.create(newPod("p", priority(10), apart(term(v1.LabelHostname, "app", "db"))))
		b.pass(10 * time.Second)
		const want = "False Unschedulable 0/1 nodes are available: 1 node(s) didn't match pod anti-affinity rules. preemption: found a potential placement for pod on node a, preempting 1 victims"
		if got := b.condition("p"); got != want {
			b.Errorf("got  %s\nwant %s", got, want)
		}
		b.pass(time.Minute)
		b.gone("x")
		b.on("a", "p")
	}, newNode("a", "4", "4Gi"), newPod("x", on("a"), podLabels("app", "db")))
}

// TestConfirmed: that a pod is bound, as was expected, frees no room for those that wait for some.
func TestConfirmed(t *testing.T) {
	for _, assumed := range []bool{true, false} {
		other := newPod("x", on("a"))
		s := &Scheduler{snapshot: configured(t, "", newNode("a", "4", "4Gi")), queue: newQueue(time.Second, time.Second), wake: make(chan struct{}, 1), storage: make(chan struct{}), clock: clock.RealClock{}}
		s.snapshot.Place(s.snapshot.NewPod(other), "a", assumed)
		waiting := newPod("p")
		s.queue.put(waiting, s.snapshot.NewPod(waiting), s.clock.Now(), true)
		it := s.queue.take(s.clock.Now())
		s.queue.park(it, s.clock.Now(), []string{NameNodeResourcesFit})
		bound := other.DeepCopy()
		bound.Generation++
		s.setPod(other, bound)
		if woken := it.stage != stageUnschedulable; woken == assumed {
			t.Errorf("woken: %v by a pod that was assumed: %v", woken, assumed)
		}
	}
}
