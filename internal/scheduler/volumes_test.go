package scheduler

import (
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

func using(claims ...string) podOption {
	return func(p *v1.Pod) {
		for _, c := range claims {
			p.Spec.Volumes = append(p.Spec.Volumes, v1.Volume{Name: c, VolumeSource: v1.VolumeSource{PersistentVolumeClaim: &v1.PersistentVolumeClaimVolumeSource{ClaimName: c}}})
		}
	}
}

func onDisk(name string, readOnly bool) podOption {
	return func(p *v1.Pod) {
		p.Spec.Volumes = append(p.Spec.Volumes, v1.Volume{Name: name, VolumeSource: v1.VolumeSource{GCEPersistentDisk: &v1.GCEPersistentDiskVolumeSource{PDName: name, ReadOnly: readOnly}}})
	}
}

type claimOption func(*v1.PersistentVolumeClaim)

func newClaim(name, class string, opts ...claimOption) *v1.PersistentVolumeClaim {
	c := &v1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID("uid-" + name)}}
	c.Spec.StorageClassName = &class
	c.Spec.AccessModes = []v1.PersistentVolumeAccessMode{v1.ReadWriteOnce}
	c.Spec.Resources.Requests = list(map[v1.ResourceName]string{"storage": "1Gi"})
	for _, o := range opts {
		o(c)
	}
	return c
}

func boundTo(pv string) claimOption {
	return func(c *v1.PersistentVolumeClaim) {
		c.Spec.VolumeName = pv
		metav1.SetMetaDataAnnotation(&c.ObjectMeta, annBindCompleted, "yes")
	}
}

func exclusive(c *v1.PersistentVolumeClaim) {
	c.Spec.AccessModes = []v1.PersistentVolumeAccessMode{v1.ReadWriteOncePod}
}

func newVolume(name, class, size string, node string, opts ...func(*v1.PersistentVolume)) *v1.PersistentVolume {
	pv := &v1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{}}}
	pv.Spec.StorageClassName = class
	pv.Spec.Capacity = list(map[v1.ResourceName]string{"storage": size})
	pv.Spec.AccessModes = []v1.PersistentVolumeAccessMode{v1.ReadWriteOnce}
	pv.Status.Phase = v1.VolumeAvailable
	if node != "" {
		pv.Spec.NodeAffinity = &v1.VolumeNodeAffinity{Required: &v1.NodeSelector{NodeSelectorTerms: []v1.NodeSelectorTerm{expression(v1.LabelHostname, v1.NodeSelectorOpIn, node)}}}
	}
	for _, o := range opts {
		o(pv)
	}
	return pv
}

func newStorageClass(name, provisioner string, mode storagev1.VolumeBindingMode) *storagev1.StorageClass {
	return &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Provisioner: provisioner, VolumeBindingMode: &mode}
}

// storing adds storage objects.
func (s *Snapshot) storing(objects ...runtime.Object) *Snapshot {
	for _, o := range objects {
		switch o := o.(type) {
		case *v1.PersistentVolumeClaim:
			s.SetClaim(o)
		case *v1.PersistentVolume:
			s.SetVolume(o)
		case *storagev1.StorageClass:
			s.SetStorageClass(o)
		case *storagev1.CSINode:
			s.SetCSINode(o)
		case *storagev1.CSIDriver:
			s.SetCSIDriver(o)
		case *storagev1.CSIStorageCapacity:
			s.SetStorageCapacity(o)
		}
	}
	return s
}

func TestVolumes(t *testing.T) {
	const zone = v1.LabelTopologyZone
	two := func() *Snapshot {
		return snapshotOf(newNode("a", "4", "4Gi", labelled(zone, "x")), newNode("b", "4", "4Gi", labelled(zone, "y")))
	}
	now, later := storagev1.VolumeBindingImmediate, storagev1.VolumeBindingWaitForFirstConsumer
	csi := func(handle string) func(*v1.PersistentVolume) {
		return func(pv *v1.PersistentVolume) {
			pv.Spec.CSI = &v1.CSIPersistentVolumeSource{Driver: "d", VolumeHandle: handle}
		}
	}
	limit := func(node string, n int32) *storagev1.CSINode {
		return &storagev1.CSINode{ObjectMeta: metav1.ObjectMeta{Name: node}, Spec: storagev1.CSINodeSpec{Drivers: []storagev1.CSINodeDriver{{Name: "d", Allocatable: &storagev1.VolumeNodeResources{Count: &n}}}}}
	}
	yes := true
	tracked := &storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: "d"}, Spec: storagev1.CSIDriverSpec{StorageCapacity: &yes}}
	insists := func(is bool) *storagev1.CSIDriver {
		return &storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: "d"}, Spec: storagev1.CSIDriverSpec{PreventPodSchedulingIfMissing: &is}}
	}
	has := func(node string, drivers ...string) *storagev1.CSINode {
		n := &storagev1.CSINode{ObjectMeta: metav1.ObjectMeta{Name: node}}
		for _, d := range drivers {
			n.Spec.Drivers = append(n.Spec.Drivers, storagev1.CSINodeDriver{Name: d})
		}
		return n
	}
	onCSI := func(objects ...runtime.Object) *Snapshot {
		return two().storing(append(objects, newClaim("c", "c", boundTo("v")), newVolume("v", "c", "1Gi", "", csi("v")))...)
	}
	room := func(z, size string) *storagev1.CSIStorageCapacity {
		q := resource.MustParse(size)
		return &storagev1.CSIStorageCapacity{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: z}, StorageClassName: "c", Capacity: &q, NodeTopology: &metav1.LabelSelector{MatchLabels: map[string]string{zone: z}}}
	}
	topology := newStorageClass("c", "d", later)
	topology.AllowedTopologies = []v1.TopologySelectorTerm{{MatchLabelExpressions: []v1.TopologySelectorLabelRequirement{{Key: zone, Values: []string{"y"}}}}}
	const nobody = " preemption: 0/2 nodes are available: 2 No preemption victims found for incoming pod."
	for _, tt := range []struct {
		name string
		s    *Snapshot
		pod  *v1.Pod
		want string
	}{
		{"no claim", two(), newPod("p", using("c")), `0/2 nodes are available: persistentvolumeclaim "c" not found.` + unresolved(2)},
		{"unbound", two().storing(newClaim("c", "c"), newStorageClass("c", "d", now)), newPod("p", using("c")), "0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims." + unresolved(2)},
		{"bound", two().storing(newClaim("c", "c", boundTo("v")), newVolume("v", "c", "1Gi", "b")), newPod("p", using("c")), "b"},
		{"bound elsewhere", two().storing(newClaim("c", "c", boundTo("v")), newVolume("v", "c", "1Gi", "z")), newPod("p", using("c")), "0/2 nodes are available: 2 node(s) didn't match PersistentVolume's node affinity." + unresolved(2)},
		{"bound to nothing", two().storing(newClaim("c", "c", boundTo("v"))), newPod("p", using("c")), `0/2 nodes are available: persistentvolume "v" not found.` + unresolved(2)},
		{"a volume is there", two().storing(newClaim("c", "c"), newStorageClass("c", noProvisioner, later), newVolume("v", "c", "2Gi", "b"), newVolume("small", "c", "1Mi", "a")), newPod("p", using("c")), "b"},
		{"one volume for two", two().storing(newClaim("c", "c"), newClaim("e", "c"), newStorageClass("c", noProvisioner, later), newVolume("v", "c", "2Gi", "b")), newPod("p", using("c", "e")),
			"0/2 nodes are available: 2 node(s) didn't find available persistent volumes to bind." + unresolved(2)},
		{"meant for this claim", two().storing(newClaim("c", "c"), newStorageClass("c", "d", later), newVolume("v", "c", "2Gi", "b", func(pv *v1.PersistentVolume) {
			pv.Spec.ClaimRef = &v1.ObjectReference{Namespace: "default", Name: "c"}
		})), newPod("p", using("c")), "b"},
		{"made where it may be", two().storing(newClaim("c", "c"), topology), newPod("p", using("c")), "b"},
		{"made where there is room", two().storing(newClaim("c", "c"), newStorageClass("c", "d", later), tracked, room("x", "1Mi"), room("y", "1Ti")), newPod("p", using("c")), "b"},
		{"no room", two().storing(newClaim("c", "c"), newStorageClass("c", "d", later), tracked, room("x", "1Mi")), newPod("p", using("c")), "0/2 nodes are available: 2 node(s) did not have enough free storage." + unresolved(2)},
		{"under way", two().storing(newClaim("c", "c", func(c *v1.PersistentVolumeClaim) { metav1.SetMetaDataAnnotation(&c.ObjectMeta, annSelectedNode, "b") }), newStorageClass("c", "d", later)), newPod("p", using("c")), "b"},
		{"zone", two().storing(newClaim("c", "c", boundTo("v")), newVolume("v", "c", "1Gi", "", func(pv *v1.PersistentVolume) { pv.Labels[zone] = "y__z" })), newPod("p", using("c")), "b"},
		{"no zone", two().storing(newClaim("c", "c", boundTo("v")), newVolume("v", "c", "1Gi", "", func(pv *v1.PersistentVolume) { pv.Labels[zone] = "z" })), newPod("p", using("c")), "0/2 nodes are available: 2 node(s) had no available volume zone." + unresolved(2)},
		{"disk in use", snapshotOf(newNode("a", "4", "4Gi")).with(newPod("x", on("a"), onDisk("d", false))), newPod("p", onDisk("d", true)), "0/1 nodes are available: 1 node(s) had no available disk. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."},
		{"disk shared", snapshotOf(newNode("a", "4", "4Gi")).with(newPod("x", on("a"), onDisk("d", true))), newPod("p", onDisk("d", true)), "a"},
		{"claim in use", two().storing(newClaim("c", "c", boundTo("v"), exclusive), newVolume("v", "c", "1Gi", "")).with(newPod("x", on("a"), using("c"))), newPod("p", using("c")),
			"0/2 nodes are available: 2 node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod." + nobody},
		{"too many", two().storing(limit("a", 1), limit("b", 2), newClaim("c", "c", boundTo("v")), newVolume("v", "c", "1Gi", "", csi("v")), newClaim("e", "c", boundTo("w")), newVolume("w", "c", "1Gi", "", csi("w"))).
			with(newPod("x", on("a"), using("c")), newPod("y", on("b"), using("c"))), newPod("p", using("e")), "b"},
		{"a driver that insists is there", onCSI(insists(true), has("a", "other"), has("b", "other", "d")), newPod("p", using("c")), "b"},
		{"a driver that insists is nowhere", onCSI(insists(true), has("a", "other")), newPod("p", using("c")), "0/2 nodes are available: 2 d CSI driver is not installed on the node." + nobody},
		{"one that insists makes the volume", two().storing(insists(true), has("b", "d"), newClaim("c", "c"), newStorageClass("c", "d", later)), newPod("p", using("c")), "b"},
		{"one that doesn't insist", two().storing(insists(false), has("b", "other"), newClaim("c", "c", boundTo("v")), newVolume("v", "c", "1Gi", "b", csi("v"))), newPod("p", using("c")), "b"},
		{"the same counts once", snapshotOf(newNode("a", "4", "4Gi")).storing(limit("a", 1), newClaim("c", "c", boundTo("v")), newVolume("v", "c", "1Gi", "", csi("v"))).with(newPod("x", on("a"), using("c"))), newPod("p", using("c")), "a"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for range 2 {
				if got := tt.s.outcome(tt.pod); got != tt.want {
					t.Errorf("got  %s\nwant %s", got, tt.want)
				}
			}
		})
	}
	s := two().storing(newClaim("c", "c", boundTo("v"), exclusive), newVolume("v", "c", "1Gi", "")).with(newPod("x", on("a"), using("c")))
	if got := s.plan(newPod("p", using("c"), priority(10))); got != "a: x" {
		t.Errorf("for an exclusive claim: %s", got)
	}
}

// TestStorageScores: nodes are preferred by what is left of their storage, or by what the configuration says.
func TestStorageScores(t *testing.T) {
	const zone = v1.LabelTopologyZone
	const alone = "- plugins:\n    score:\n      disabled: [{name: '*'}]\n      enabled: [{name: VolumeBinding}]\n"
	const full = alone + "  pluginConfig:\n  - name: VolumeBinding\n    args:\n      shape: [{utilization: 0, score: 0}, {utilization: 100, score: 10}]\n"
	yes := true
	tracked := &storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: "d"}, Spec: storagev1.CSIDriverSpec{StorageCapacity: &yes}}
	room := func(class, z, size, largest string) *storagev1.CSIStorageCapacity {
		c := &storagev1.CSIStorageCapacity{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: class + z + size}, StorageClassName: class, NodeTopology: &metav1.LabelSelector{MatchLabels: map[string]string{zone: z}}}
		if size != "" {
			q := resource.MustParse(size)
			c.Capacity = &q
		}
		if largest != "" {
			q := resource.MustParse(largest)
			c.MaximumVolumeSize = &q
		}
		return c
	}
	two := func(profile string) *Snapshot {
		return configured(t, profile, newNode("a", "4", "4Gi", labelled(zone, "x")), newNode("b", "4", "4Gi", labelled(zone, "y"))).storing(tracked,
			newStorageClass("c", "d", storagev1.VolumeBindingWaitForFirstConsumer), newStorageClass("e", "d", storagev1.VolumeBindingWaitForFirstConsumer),
			newStorageClass("l", noProvisioner, storagev1.VolumeBindingWaitForFirstConsumer), newClaim("p", "c"), newClaim("q", "c"), newClaim("r", "e"), newClaim("s", "l"))
	}
	for _, tt := range []struct {
		name string
		s    *Snapshot
		pod  *v1.Pod
		a, b int64 // scores
	}{
		{"more is left", two(alone).storing(room("c", "x", "2Gi", ""), room("c", "y", "10Gi", "")), newPod("p", using("p")), 50, 90},
		{"less is better", two(full).storing(room("c", "x", "2Gi", ""), room("c", "y", "10Gi", "")), newPod("p", using("p")), 50, 10},
		{"two of a class", two(alone).storing(room("c", "x", "4Gi", ""), room("c", "y", "8Gi", "")), newPod("p", using("p", "q")), 50, 75},
		{"two that don't fit together", two(alone).storing(room("c", "x", "1Gi", ""), room("c", "y", "2Gi", "")), newPod("p", using("p", "q")), 0, 0},
		{"two classes", two(alone).storing(room("c", "x", "2Gi", ""), room("e", "x", "4Gi", ""), room("c", "y", "10Gi", ""), room("e", "y", "1Gi", "")), newPod("p", using("p", "r")), 63, 45},
		{"several reports", two(alone).storing(room("c", "x", "2Gi", ""), room("c", "x", "5Gi", ""), room("c", "y", "2Gi", "")), newPod("p", using("p")), 80, 50},
		{"only the largest is known", two(alone).storing(room("c", "x", "", "2Gi"), room("c", "y", "2Gi", "1Gi")), newPod("p", using("p")), 0, 50},
		{"volumes that are there", two(alone).storing(newVolume("v", "l", "4Gi", "a"), newVolume("w", "l", "1Gi", "b")), newPod("p", using("s")), 75, 0},
		{"one is there, one is made", two(alone).storing(newVolume("v", "l", "4Gi", "a"), newVolume("w", "l", "2Gi", "b"), room("c", "x", "1Gi", ""), room("c", "y", "1Ti", "")), newPod("p", using("s", "p")), 75, 50},
		{"huge", two(alone).storing(room("c", "x", "8Ei", ""), room("c", "y", "1Gi", "")), newPod("p", using("p")), 100, 0},
		{"bound", two(alone).storing(newClaim("p", "c", boundTo("v")), newVolume("v", "c", "1Gi", "")), newPod("p", using("p")), 0, 0},
		{"not scored", two("- plugins:\n    score:\n      disabled: [{name: VolumeBinding}, {name: NodeResourcesFit}, {name: NodeResourcesBalancedAllocation}]\n").storing(room("c", "x", "2Gi", ""), room("c", "y", "10Gi", "")), newPod("p", using("p")), 0, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := tt.s.NewPod(tt.pod)
			ask, no := tt.s.newVolumeAsk(p)
			if no != nil {
				t.Fatal(no.message)
			}
			got := ask.score(tt.s, []int32{int32(tt.s.byName["a"]), int32(tt.s.byName["b"])}, nil)
			if len(got) == 0 {
				got = []int64{0, 0}
			}
			if got[0] != tt.a || got[1] != tt.b {
				t.Errorf("scores %v, want %d and %d", got, tt.a, tt.b)
			}
			want := map[bool]string{true: "a", false: "b"}[tt.a > tt.b]
			for range 4 {
				if on := tt.s.outcome(tt.pod); tt.a != tt.b && on != want {
					t.Errorf("on %s, want %s", on, want)
				}
			}
		})
	}
}

// TestVolumesAreMade: the scheduler says for which node a volume is wanted, waits until it is there, and only then binds the pod.
func TestVolumesAreMade(t *testing.T) {
	claims := schema.GroupVersionResource{Version: "v1", Resource: "persistentvolumeclaims"}
	run(t, func(b *bench) {
		b.create(newPod("p", using("c")))
		b.pass(time.Second)
		b.on("", "p")
		obj, err := b.client.Tracker().Get(claims, "default", "c")
		if err != nil {
			b.Fatal(err)
		}
		c := obj.(*v1.PersistentVolumeClaim).DeepCopy()
		if got := c.Annotations[annSelectedNode]; got != "a" {
			b.Errorf("selected %q", got)
		}
		if got := b.pod("p").Status.NominatedNodeName; got != "a" {
			b.Errorf("expected on %q", got)
		}
		boundTo("v")(c)
		if err := b.client.Tracker().Update(claims, c, "default"); err != nil {
			b.Fatal(err)
		}
		b.pass(time.Second)
		b.on("a", "p")
	}, newNode("a", "1", "1Gi"), newClaim("c", "c"), newStorageClass("c", "d", storagev1.VolumeBindingWaitForFirstConsumer))
}

// TestVolumesAreNotMade: after the time that the profile allows the pod comes back to the queue.
func TestVolumesAreNotMade(t *testing.T) {
	run(t, func(b *bench) {
		b.create(newPod("p", using("c")), newPod("q"))
		b.on("a", "q")
		b.pass(600*time.Second + 500*time.Millisecond)
		b.on("", "p")
		if got := b.condition("p"); got != `False SchedulerError running PreBind plugin "VolumeBinding": binding volumes: context deadline exceeded` {
			b.Error(got)
		}
		if got := b.pod("p").Status.NominatedNodeName; got != "" {
			b.Errorf("expected on %q", got)
		}
		b.remove("p")
	}, newNode("a", "1", "1Gi"), newClaim("c", "c"), newStorageClass("c", "d", storagev1.VolumeBindingWaitForFirstConsumer))
}

func TestVolumesAreGiven(t *testing.T) {
	run(t, func(b *bench) {
		b.create(newPod("p", using("c")))
		pv, err := b.client.CoreV1().PersistentVolumes().Get(b.Context(), "v", metav1.GetOptions{})
		if err != nil {
			b.Fatal(err)
		}
		if r := pv.Spec.ClaimRef; r == nil || r.Name != "c" || r.UID != "uid-c" || pv.Annotations[annBoundByUs] != "yes" {
			b.Errorf("%+v", pv)
		}
		// The pod's claim goes: so does the wait.
		if err := b.client.CoreV1().PersistentVolumeClaims("default").Delete(b.Context(), "c", metav1.DeleteOptions{}); err != nil {
			b.Fatal(err)
		}
		b.pass(5 * time.Second)
		b.on("", "p")
		if got := b.condition("p"); got != `False Unschedulable 0/1 nodes are available: persistentvolumeclaim "c" not found.`+unresolved(1) {
			b.Error(got)
		}
	}, newNode("a", "1", "1Gi"), newClaim("c", "c"), newStorageClass("c", noProvisioner, storagev1.VolumeBindingWaitForFirstConsumer), newVolume("v", "c", "1Gi", "a"))
}

// TestClaimsAreWaitedFor: each change that can help wakes the pod.
func TestClaimsAreWaitedFor(t *testing.T) {
	run(t, func(b *bench) {
		b.create(newPod("p", using("c")))
		b.pass(time.Minute)
		create := func(o runtime.Object) {
			if err := b.client.Tracker().Add(o); err != nil {
				b.Fatal(err)
			}
			b.pass(time.Minute)
		}
		create(newClaim("c", "c", boundTo("v")))
		b.on("", "p")
		create(newVolume("v", "c", "1Gi", "a"))
		b.on("a", "p")
	}, newNode("a", "1", "1Gi"))
}
