package scheduler

import (
	"fmt"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"github.com/celox/celox/internal/scheduler/config"
)

// configured is a snapshot with the profiles of a configuration file, given from "profiles:" on.
func configured(t *testing.T, profiles string, nodes ...*v1.Node) *Snapshot {
	t.Helper()
	c, err := config.Parse([]byte("apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\nprofiles:\n" + profiles))
	if err != nil {
		t.Fatal(err)
	}
	s := NewSnapshotFor(1, c.Profiles)
	for _, n := range nodes {
		s.SetNode(n)
	}
	return s
}

func TestProfiles(t *testing.T) {
	fit := func(args string) string {
		return "- pluginConfig:\n  - name: NodeResourcesFit\n    args:\n" + args
	}
	three := func() []*v1.Node {
		return []*v1.Node{newNode("a", "10", "10Gi", allocatable("example.com/gpu", "8")), newNode("b", "10", "10Gi"), newNode("c", "10", "10Gi")}
	}
	fill := func(s *Snapshot) *Snapshot {
		return s.with(newPod("x", on("a"), requesting("cpu", "8", "memory", "8Gi")), newPod("y", on("b"), requesting("cpu", "5", "memory", "5Gi")))
	}
	small := requesting("cpu", "100m", "memory", "100Mi")
	always := "- plugins:\n    score:\n      disabled: [{name: '*'}]\n      enabled: [{name: NodeResourcesFit}]\n"
	deaf := "- pluginConfig:\n  - name: InterPodAffinity\n    args: {hardPodAffinityWeight: 40, ignorePreferredTermsOfExistingPods: true}\n"
	for _, tt := range []struct {
		name string
		s    *Snapshot
		pod  *v1.Pod
		want string
	}{
		{"least allocated", fill(configured(t, "- {}", three()...)), newPod("p", small), "c"},
		{"most allocated", fill(configured(t, fit("      scoringStrategy: {type: MostAllocated}\n"), three()...)), newPod("p", small), "a"},
		{"a shape", fill(configured(t, fit("      scoringStrategy:\n        type: RequestedToCapacityRatio\n        requestedToCapacityRatio:\n          shape: [{utilization: 0, score: 0}, {utilization: 50, score: 10}, {utilization: 100, score: 0}]\n"), three()...)), newPod("p", small), "b"},
		{"an ignored resource", configured(t, fit("      ignoredResources: [example.com/none]\n"), newNode("a", "1", "1Gi")), newPod("p", requesting("example.com/none", "1")), "a"},
		{"an ignored group", configured(t, fit("      ignoredResourceGroups: [example.com]\n"), newNode("a", "1", "1Gi")), newPod("p", requesting("example.com/none", "1")), "a"},
		{"added affinity", configured(t, "- pluginConfig:\n  - name: NodeAffinity\n    args:\n      addedAffinity:\n        requiredDuringSchedulingIgnoredDuringExecution:\n          nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [c]}]}]\n", three()...), newPod("p"), "c"},
		{"added affinity nowhere", configured(t, "- pluginConfig:\n  - name: NodeAffinity\n    args:\n      addedAffinity:\n        requiredDuringSchedulingIgnoredDuringExecution:\n          nodeSelectorTerms: [{matchExpressions: [{key: x, operator: Exists}]}]\n", three()...), newPod("p"),
			"0/3 nodes are available: 3 node(s) didn't match scheduler-enforced node affinity." + unresolved(3)},
		{"a filter less", configured(t, "- plugins:\n    multiPoint:\n      disabled: [{name: TaintToleration}]\n", newNode("a", "1", "1Gi", tainted("k", "", v1.TaintEffectNoSchedule))), newPod("p"), "a"},
		{"no preemption", configured(t, "- plugins:\n    postFilter:\n      disabled: [{name: '*'}]\n", newNode("a", "1", "1Gi")).with(newPod("x", on("a"), requesting("cpu", "1"))), newPod("p", requesting("cpu", "1"), priority(10)), "0/1 nodes are available: 1 Insufficient cpu."},
		{"only one score", fill(configured(t, always, three()...)), newPod("p", small), "c"},
		{"hard affinity weighs nothing", configured(t, "- pluginConfig:\n  - name: InterPodAffinity\n    args: {hardPodAffinityWeight: 0}\n", newNode("a", "4", "4Gi"), newNode("b", "4", "4Gi")).
			with(newPod("x", on("a"), requesting("cpu", "1"), near(term(v1.LabelHostname, "app", "db")))), newPod("p", podLabels("app", "db"), requesting("cpu", "1")), "b"},
		{"who has no wishes hears none", configured(t, deaf, newNode("a", "4", "4Gi"), newNode("b", "4", "4Gi")).
			with(newPod("x", on("a"), requesting("cpu", "1"), near(term(v1.LabelHostname, "app", "db")))), newPod("p", podLabels("app", "db"), requesting("cpu", "1")), "b"},
		{"who has some hears the others'", configured(t, deaf, newNode("a", "4", "4Gi"), newNode("b", "4", "4Gi")).
			with(newPod("x", on("a"), requesting("cpu", "1"), near(term(v1.LabelHostname, "app", "db")))), newPod("p", podLabels("app", "db"), requesting("cpu", "1"), wishing(term(v1.LabelHostname, "app", "none"))), "a"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for range 4 {
				if got := tt.s.outcome(tt.pod); got != tt.want {
					t.Errorf("got %s, want %s", got, tt.want)
				}
			}
		})
	}
}

// TestSeveralProfiles: each pod is decided by the profile of its schedulerName.
func TestSeveralProfiles(t *testing.T) {
	s := configured(t, "- schedulerName: default-scheduler\n- schedulerName: packing\n  pluginConfig:\n  - name: NodeResourcesFit\n    args:\n      scoringStrategy: {type: MostAllocated}\n",
		newNode("a", "4", "4Gi"), newNode("b", "4", "4Gi")).with(newPod("x", on("a"), requesting("cpu", "2", "memory", "2Gi")))
	small := requesting("cpu", "100m", "memory", "100Mi")
	for range 4 {
		if got := s.outcome(newPod("p", small)); got != "b" {
			t.Errorf("by default on %s", got)
		}
		if got := s.outcome(newPod("p", small, func(p *v1.Pod) { p.Spec.SchedulerName = "packing" })); got != "a" {
			t.Errorf("packed on %s", got)
		}
	}
	if !s.cares("packing") || s.cares("another") {
		t.Error("cares for the wrong pods")
	}
}

func TestEnough(t *testing.T) {
	for _, tt := range []struct{ percentage, nodes, want int }{{0, 50, 50}, {0, 100, 100}, {0, 1000, 420}, {0, 5000, 500}, {0, 10000, 500}, {30, 1000, 300}, {100, 5000, 5000}, {1, 5000, 100}} {
		p := &profile{percentage: tt.percentage}
		if got := p.enough(tt.nodes); got != tt.want {
			t.Errorf("%d%% of %d: %d, want %d", tt.percentage, tt.nodes, got, tt.want)
		}
	}
}

// TestDefaultSpread: pods that a service or controller selects are spread over nodes and zones unless they say otherwise.
func TestDefaultSpread(t *testing.T) {
	const zone = v1.LabelTopologyZone
	db := podLabels("app", "db")
	nodes := []*v1.Node{newNode("a", "40", "40Gi", labelled(zone, "x")), newNode("b", "40", "40Gi", labelled(zone, "x")), newNode("c", "40", "40Gi", labelled(zone, "y"))}
	s := configured(t, "- {}", nodes...).with(newPod("1", on("a"), db), newPod("2", on("c"), db), newPod("4", on("b"), requesting("cpu", "1")))
	s.SetSelectors(func(p *v1.Pod) labels.Selector { return labels.SelectorFromSet(p.Labels) })
	for range 4 {
		if got := s.outcome(newPod("p", db)); got != "b" {
			t.Errorf("on %s", got)
		}
	}
	list := configured(t, "- pluginConfig:\n  - name: PodTopologySpread\n    args:\n      defaultingType: List\n      defaultConstraints: [{maxSkew: 1, topologyKey: topology.kubernetes.io/zone, whenUnsatisfiable: DoNotSchedule}]\n", nodes[0], nodes[2]).
		with(newPod("1", on("a"), db), newPod("2", on("c"), requesting("cpu", "30")))
	list.SetSelectors(func(p *v1.Pod) labels.Selector { return labels.SelectorFromSet(p.Labels) })
	if got := list.outcome(newPod("p", db)); got != "c" {
		t.Errorf("by a list on %s", got)
	}
}

func TestCrashes(t *testing.T) {
	s := snapshotOf(newNode("a", "4", "4Gi"), newNode("b", "4", "4Gi")).with(newPod("x", on("b"), requesting("cpu", "1", "memory", "1Gi")))
	owned := func(p *v1.Pod) { p.OwnerReferences = []metav1.OwnerReference{{UID: types.UID("rs")}} }
	small := requesting("cpu", "100m", "memory", "100Mi")
	start := time.Unix(1e9, 0)
	check := func(when, want string) {
		t.Helper()
		for range 4 {
			if got := s.outcome(newPod("p", small, owned)); got != want {
				t.Errorf("%s: on %s, want %s", when, got, want)
			}
		}
	}
	s.Advance(start)
	s.Crashed("rs", "a")
	check("switched off", "a")
	s.RememberCrashes(time.Hour)
	s.Advance(start)
	s.Crashed("rs", "a")
	check("fresh", "b")
	if got := s.outcome(newPod("p", small)); got != "a" {
		t.Errorf("somebody else's on %s", got)
	}
	s.Advance(start.Add(10 * time.Hour))
	check("faded", "a")
	s.Crashed("another", "b")
	if n := len(s.crashes.byOwner); n != 1 {
		t.Errorf("%d owners are remembered", n)
	}
}

// TestNoOvercommit: whatever happens to a cluster, no node ever has more on it than it can hold, unless it became smaller.
func TestNoOvercommit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := NewSnapshot(rapid.Uint64().Draw(t, "seed"))
		amount := rapid.IntRange(1, 10)
		var waiting []*v1.Pod
		placed := map[string]*v1.Pod{}
		shrunk := map[string]bool{}
		n := 0
		place := func(q *Pod, node string) {
			s.Place(q, node, rapid.Bool().Draw(t, "assumed"))
			placed[q.pod.Name] = q.pod
			waiting = waiting[1:]
		}
		t.Repeat(map[string]func(*rapid.T){
			"node": func(t *rapid.T) {
				name := fmt.Sprint("n", rapid.IntRange(0, 4).Draw(t, "node"))
				s.SetNode(newNode(name, fmt.Sprint(amount.Draw(t, "cpu")), fmt.Sprint(amount.Draw(t, "memory"), "Gi"), allocatable("pods", fmt.Sprint(amount.Draw(t, "pods"))), allocatable("example.com/gpu", fmt.Sprint(amount.Draw(t, "gpus")))))
				shrunk[name] = true // perhaps
				if i := s.byName[name]; len(s.nodes[i].pods) == 0 {
					delete(shrunk, name)
				}
			},
			"no node": func(t *rapid.T) { s.RemoveNode(fmt.Sprint("n", rapid.IntRange(0, 4).Draw(t, "node"))) },
			"pod": func(t *rapid.T) {
				n++
				opts := []podOption{requesting("cpu", fmt.Sprint(amount.Draw(t, "cpu")), "memory", fmt.Sprint(amount.Draw(t, "memory"), "Gi"), "example.com/gpu", fmt.Sprint(rapid.IntRange(0, 3).Draw(t, "gpus"))), priority(int32(rapid.IntRange(0, 3).Draw(t, "priority")))}
				if rapid.Bool().Draw(t, "port") {
					opts = append(opts, port(80, "", ""))
				}
				waiting = append(waiting, newPod(fmt.Sprint("p", n), opts...))
			},
			"gone": func(t *rapid.T) {
				for name, p := range placed {
					s.Remove(p.UID)
					delete(placed, name)
					break
				}
			},
			"decide": func(t *rapid.T) {
				if len(waiting) == 0 {
					return
				}
				q := s.NewPod(waiting[0])
				d := s.Decide(q)
				if d.Failure == nil {
					place(q, d.Node)
					return
				}
				if e, ok := s.Preempt(q, d.Failure); ok {
					for _, v := range e.Victims {
						s.Remove(v.UID)
						delete(placed, v.Name)
					}
					s.Nominate(q, e.Node)
					if d := s.Decide(q); d.Node != e.Node {
						t.Fatalf("room was made on %s, but it goes to %q", e.Node, d.Node)
					}
					place(q, e.Node)
				}
			},
			"": func(t *rapid.T) {
				for i := range s.nodes {
					nd := &s.nodes[i]
					if !nd.exists || shrunk[nd.name] {
						continue
					}
					var cpu, memory, gpus int64
					ports := 0
					for _, q := range nd.pods {
						cpu += q.requests.milliCPU
						memory += q.requests.memoryBytes
						for _, e := range q.requests.extended {
							gpus += e.amount
						}
						ports += len(q.ports)
					}
					if cpu > nd.capacity.milliCPU || memory > nd.capacity.memoryBytes || int64(len(nd.pods)) > nd.capacity.pods || ports > 1 || gpus > nd.capacity.other(s.resources.id("example.com/gpu")) {
						t.Fatalf("node %s: %d pods, %dm, %d bytes, %d ports, %d gpus", nd.name, len(nd.pods), cpu, memory, ports, gpus)
					}
					if cpu != nd.used.milliCPU || memory != nd.used.memoryBytes {
						t.Fatalf("node %s is booked with %+v", nd.name, nd.used)
					}
				}
			},
		})
	})
}

func TestDiagnose(t *testing.T) {
	s := snapshotOf(newNode("a", "1", "1Gi", tainted("k", "", v1.TaintEffectNoSchedule)), newNode("b", "4", "4Gi"), newNode("c", "1", "4Gi"))
	got, plugin, whole := s.Diagnose(s.NewPod(newPod("p", requesting("cpu", "2", "memory", "2Gi"))))
	if len(got) != 3 || plugin != "" || whole != "" || len(got[1].Refusals) != 0 || got[1].Score == 0 {
		t.Fatalf("%+v %s %s", got, plugin, whole)
	}
	if a := fmt.Sprint(got[0].Refusals); a != "[{TaintToleration [node(s) had untolerated taint(s)] true []} {NodeResourcesFit [Insufficient cpu Insufficient memory] true [cpu: wanted 2000, free 1000 of 1000 memory: wanted 2147483648, free 1073741824 of 1073741824]}]" {
		t.Error(a)
	}
	if c := fmt.Sprint(got[2].Refusals); c != "[{NodeResourcesFit [Insufficient cpu] true [cpu: wanted 2000, free 1000 of 1000]}]" {
		t.Error(c)
	}
	if _, plugin, whole = s.Diagnose(s.NewPod(newPod("p", using("none")))); plugin != NameVolumeBinding || whole == "" {
		t.Errorf("%s %s", plugin, whole)
	}
}
