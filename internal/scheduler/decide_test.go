package scheduler

import (
	"fmt"
	"testing"

	v1 "k8s.io/api/core/v1"
	"pgregory.net/rapid"
)

func unresolved(n int) string {
	return fmt.Sprintf(" preemption: 0/%d nodes are available: %d Preemption is not helpful for scheduling.", n, n)
}

func TestFilters(t *testing.T) {
	always := v1.ContainerRestartPolicyAlways
	for _, tt := range []struct {
		name string
		s    *Snapshot
		pod  *v1.Pod
		want string
	}{
		{"no nodes", snapshotOf(), newPod("p"), "no nodes available to schedule pods"},
		{"fits", snapshotOf(newNode("a", "1", "1Gi")), newPod("p", requesting("cpu", "1", "memory", "1Gi")), "a"},
		{"cpu in use", snapshotOf(newNode("a", "1", "1Gi")).with(newPod("x", on("a"), requesting("cpu", "600m"))), newPod("p", requesting("cpu", "500m")),
			"0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."},
		{"never preempts", snapshotOf(newNode("a", "1", "1Gi")).with(newPod("x", on("a"), requesting("cpu", "600m"))), newPod("p", requesting("cpu", "500m"), func(p *v1.Pod) {
			never := v1.PreemptNever
			p.Spec.PreemptionPolicy = &never
		}), "0/1 nodes are available: 1 Insufficient cpu. preemption: not eligible due to preemptionPolicy=Never."},
		{"more than there is", snapshotOf(newNode("a", "1", "1Gi"), newNode("b", "1", "1Gi")), newPod("p", requesting("cpu", "2", "memory", "2Gi", "ephemeral-storage", "1Ti", "example.com/gpu", "1")),
			"0/2 nodes are available: 2 Insufficient cpu, 2 Insufficient ephemeral-storage, 2 Insufficient example.com/gpu, 2 Insufficient memory." + unresolved(2)},
		{"extended", snapshotOf(newNode("a", "1", "1Gi"), newNode("b", "1", "1Gi", allocatable("example.com/gpu", "2"))).with(newPod("x", on("b"), requesting("example.com/gpu", "1"))), newPod("p", requesting("example.com/gpu", "1")), "b"},
		{"too many pods", snapshotOf(newNode("a", "1", "1Gi", allocatable("pods", "1"))).with(newPod("x", on("a"))), newPod("p"),
			"0/1 nodes are available: 1 Too many pods. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."},
		{"init container is the largest", snapshotOf(newNode("a", "1", "1Gi")), newPod("p", func(p *v1.Pod) {
			p.Spec.InitContainers = []v1.Container{{Name: "i", Resources: v1.ResourceRequirements{Requests: list(map[v1.ResourceName]string{"cpu": "2"})}}}
		}), "0/1 nodes are available: 1 Insufficient cpu." + unresolved(1)},
		{"sidecar adds up", snapshotOf(newNode("a", "1", "1Gi")), newPod("p", requesting("cpu", "600m"), func(p *v1.Pod) {
			p.Spec.InitContainers = []v1.Container{{Name: "i", RestartPolicy: &always, Resources: v1.ResourceRequirements{Requests: list(map[v1.ResourceName]string{"cpu": "500m"})}}}
		}), "0/1 nodes are available: 1 Insufficient cpu." + unresolved(1)},
		{"overhead adds up", snapshotOf(newNode("a", "1", "1Gi")), newPod("p", requesting("cpu", "600m"), func(p *v1.Pod) {
			p.Spec.Overhead = list(map[v1.ResourceName]string{"cpu": "500m"})
		}), "0/1 nodes are available: 1 Insufficient cpu." + unresolved(1)},
		{"no node restarts all", snapshotOf(newNode("a", "1", "1Gi")), newPod("p", restartingAll),
			"0/1 nodes are available: 1 node(s) didn't match Pod's required features." + unresolved(1)},
		{"one node restarts all", snapshotOf(newNode("a", "1", "1Gi"), newNode("b", "1", "1Gi", declaring("Other", "RestartAllContainersOnContainerExits"))), newPod("p", restartingAll), "b"},
		{"a node learns to restart all", func() *Snapshot {
			s := snapshotOf(newNode("a", "1", "1Gi"))
			if !s.SetNode(newNode("a", "1", "1Gi", declaring("RestartAllContainersOnContainerExits"))) {
				t.Error("nothing changed")
			}
			return s
		}(), newPod("p", restartingAll), "a"},
		{"cordoned", snapshotOf(newNode("a", "1", "1Gi", cordoned)), newPod("p"), "0/1 nodes are available: 1 node(s) were unschedulable." + unresolved(1)},
		{"cordoned, tolerated", snapshotOf(newNode("a", "1", "1Gi", cordoned)), newPod("p", tolerating(v1.Toleration{Key: v1.TaintNodeUnschedulable, Operator: v1.TolerationOpExists})), "a"},
		{"tainted", snapshotOf(newNode("a", "1", "1Gi", tainted("k", "v", v1.TaintEffectNoSchedule)), newNode("b", "1", "1Gi", tainted("k", "w", v1.TaintEffectNoExecute))), newPod("p"),
			"0/2 nodes are available: 2 node(s) had untolerated taint(s)." + unresolved(2)},
		{"tainted, tolerated", snapshotOf(newNode("a", "1", "1Gi", tainted("k", "v", v1.TaintEffectNoSchedule)), newNode("b", "1", "1Gi", tainted("k", "w", v1.TaintEffectNoExecute))),
			newPod("p", tolerating(v1.Toleration{Key: "k", Value: "w", Effect: v1.TaintEffectNoExecute})), "b"},
		{"selector", snapshotOf(newNode("a", "1", "1Gi"), newNode("b", "1", "1Gi", labelled("disk", "ssd"))), newPod("p", selecting("disk", "ssd")), "b"},
		{"selector of nothing", snapshotOf(newNode("a", "1", "1Gi"), newNode("b", "1", "1Gi")), newPod("p", selecting("disk", "ssd")),
			"0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector." + unresolved(2)},
		{"affinity in", snapshotOf(newNode("a", "1", "1Gi", labelled("n", "3")), newNode("b", "1", "1Gi", labelled("n", "5"))), newPod("p", requiring(expression("n", v1.NodeSelectorOpIn, "4", "5"))), "b"},
		{"affinity not in", snapshotOf(newNode("a", "1", "1Gi", labelled("n", "3")), newNode("b", "1", "1Gi")), newPod("p", requiring(expression("n", v1.NodeSelectorOpNotIn, "3"))), "b"},
		{"affinity exists", snapshotOf(newNode("a", "1", "1Gi", labelled("n", "3")), newNode("b", "1", "1Gi")), newPod("p", requiring(expression("n", v1.NodeSelectorOpExists))), "a"},
		{"affinity does not exist", snapshotOf(newNode("a", "1", "1Gi", labelled("n", "3")), newNode("b", "1", "1Gi")), newPod("p", requiring(expression("n", v1.NodeSelectorOpDoesNotExist))), "b"},
		{"affinity greater", snapshotOf(newNode("a", "1", "1Gi", labelled("n", "3")), newNode("b", "1", "1Gi", labelled("n", "5")), newNode("c", "1", "1Gi", labelled("n", "x"))), newPod("p", requiring(expression("n", v1.NodeSelectorOpGt, "4"))), "b"},
		{"affinity less", snapshotOf(newNode("a", "1", "1Gi", labelled("n", "3")), newNode("b", "1", "1Gi", labelled("n", "5"))), newPod("p", requiring(expression("n", v1.NodeSelectorOpLt, "4"))), "a"},
		{"affinity, one of two terms", snapshotOf(newNode("a", "1", "1Gi", labelled("n", "3")), newNode("b", "1", "1Gi")), newPod("p", requiring(expression("x", v1.NodeSelectorOpExists), expression("n", v1.NodeSelectorOpExists))), "a"},
		{"an empty term matches nothing", snapshotOf(newNode("a", "1", "1Gi")), newPod("p", requiring(v1.NodeSelectorTerm{})), "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector." + unresolved(1)},
		{"by name", snapshotOf(newNode("a", "1", "1Gi"), newNode("b", "1", "1Gi"), newNode("c", "1", "1Gi")), newPod("p", requiring(named("b"))), "b"},
		{"by name, full", snapshotOf(newNode("a", "1", "1Gi"), newNode("b", "1", "1Gi"), newNode("c", "1", "1Gi")).with(newPod("x", on("b"), requesting("cpu", "1"))), newPod("p", requiring(named("b")), requesting("cpu", "1")),
			"0/3 nodes are available: 1 Insufficient cpu, 2 node(s) didn't satisfy plugin(s) [NodeAffinity]. preemption: 0/3 nodes are available: 1 No preemption victims found for incoming pod, 2 Preemption is not helpful for scheduling."},
		{"port in use", snapshotOf(newNode("a", "1", "1Gi")).with(newPod("x", on("a"), port(80, "", ""))), newPod("p", port(80, "1.2.3.4", "TCP")),
			"0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."},
		{"another port", snapshotOf(newNode("a", "1", "1Gi")).with(newPod("x", on("a"), port(80, "1.1.1.1", ""))), newPod("p", port(80, "1.2.3.4", "TCP"), port(80, "1.1.1.1", "UDP"), port(81, "", "")), "a"},
		{"a node that is gone", func() *Snapshot {
			s := snapshotOf(newNode("a", "1", "1Gi"), newNode("b", "1", "1Gi")).with(newPod("x", on("a")))
			s.RemoveNode("a")
			return s
		}(), newPod("p"), "b"},
		{"a node that comes back with its pods", func() *Snapshot {
			s := snapshotOf(newNode("a", "1", "1Gi")).with(newPod("x", on("a"), requesting("cpu", "1")))
			s.RemoveNode("a")
			s.SetNode(newNode("a", "1", "1Gi"))
			return s
		}(), newPod("p", requesting("cpu", "1")), "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for range 2 { // the second time from what is kept
				if got := tt.s.outcome(tt.pod); got != tt.want {
					t.Errorf("got  %s\nwant %s", got, tt.want)
				}
			}
		})
	}
}

func TestScores(t *testing.T) {
	images := func(name string, size int64) nodeOption {
		return func(n *v1.Node) {
			n.Status.Images = append(n.Status.Images, v1.ContainerImage{Names: []string{name}, SizeBytes: size})
		}
	}
	for _, tt := range []struct {
		name string
		s    *Snapshot
		pod  *v1.Pod
		want string
	}{
		{"the emptier", snapshotOf(newNode("a", "4", "4Gi"), newNode("b", "4", "4Gi")).with(newPod("x", on("a"), requesting("cpu", "1", "memory", "1Gi"))), newPod("p", requesting("cpu", "1", "memory", "1Gi")), "b"},
		{"pods without requests count", snapshotOf(newNode("a", "4", "4Gi"), newNode("b", "4", "4Gi")).with(newPod("x", on("a"))), newPod("p"), "b"},
		{"the more balanced", snapshotOf(newNode("a", "4", "4Gi"), newNode("b", "4", "4Gi")).with(newPod("x", on("a"), requesting("cpu", "2", "memory", "100Mi")), newPod("y", on("b"), requesting("cpu", "1", "memory", "1Gi"))), newPod("p", requesting("cpu", "1", "memory", "100Mi")), "b"},
		{"preferred", snapshotOf(newNode("a", "4", "4Gi"), newNode("b", "4", "4Gi", labelled("x", "1")), newNode("c", "4", "4Gi", labelled("x", "2"))), newPod("p", preferring(1, expression("x", v1.NodeSelectorOpIn, "1")), preferring(10, expression("x", v1.NodeSelectorOpIn, "2"))), "c"},
		{"less welcome", snapshotOf(newNode("a", "4", "4Gi", tainted("k", "", v1.TaintEffectPreferNoSchedule)), newNode("b", "4", "4Gi")), newPod("p"), "b"},
		{"image", snapshotOf(newNode("a", "4", "4Gi"), newNode("b", "4", "4Gi", images("img:latest", 900<<20))), newPod("p"), "b"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for range 8 {
				if got := tt.s.outcome(tt.pod); got != tt.want {
					t.Errorf("got %s, want %s", got, tt.want)
				}
			}
		})
	}
}

func TestOtherPods(t *testing.T) {
	const zone = v1.LabelTopologyZone
	zones := func() *Snapshot {
		return snapshotOf(newNode("a1", "4", "4Gi", labelled(zone, "a")), newNode("a2", "4", "4Gi", labelled(zone, "a")), newNode("b1", "4", "4Gi", labelled(zone, "b")))
	}
	db := podLabels("app", "db")
	for _, tt := range []struct {
		name string
		s    *Snapshot
		pod  *v1.Pod
		want string
	}{
		{"near", zones().with(newPod("x", on("b1"), db)), newPod("p", near(term(zone, "app", "db"))), "b1"},
		{"near nobody", zones(), newPod("p", near(term(zone, "app", "db"))), "0/3 nodes are available: 3 node(s) didn't match pod affinity rules." + unresolved(3)},
		{"near, the first of its kind", snapshotOf(newNode("a", "4", "4Gi", labelled(zone, "a")), newNode("x", "4", "4Gi")), newPod("p", db, near(term(zone, "app", "db"))), "a"},
		{"near, another namespace", zones().with(newPod("x", on("b1"), db, func(p *v1.Pod) { p.Namespace = "other" })), newPod("p", near(term(zone, "app", "db"))), "0/3 nodes are available: 3 node(s) didn't match pod affinity rules." + unresolved(3)},
		{"near both", zones().with(newPod("x", on("b1"), db), newPod("y", on("a1"), db, podLabels("v", "2"))), newPod("p", near(term(zone, "app", "db"), term(v1.LabelHostname, "v", "2"))), "a1"},
		{"apart", zones().with(newPod("x", on("a1"), db)), newPod("p", apart(term(zone, "app", "db"))), "b1"},
		{"apart from everybody", zones().with(newPod("x", on("a1"), db), newPod("y", on("b1"), db)), newPod("p", apart(term(zone, "app", "db"))),
			"0/3 nodes are available: 3 node(s) didn't match pod anti-affinity rules. preemption: 0/3 nodes are available: 3 No preemption victims found for incoming pod."},
		{"kept away", zones().with(newPod("x", on("a1"), apart(term(zone, "app", "db")))), newPod("p", db), "b1"},
		{"kept away everywhere", zones().with(newPod("x", on("a1"), apart(term(zone, "app", "db"))), newPod("y", on("b1"), apart(term(zone, "app", "db")))), newPod("p", db),
			"0/3 nodes are available: 3 node(s) didn't satisfy existing pods anti-affinity rules. preemption: 0/3 nodes are available: 3 No preemption victims found for incoming pod."},
		{"would rather be near", zones().with(newPod("x", on("b1"), db)), newPod("p", func(p *v1.Pod) {
			affinity(p).PodAffinity = &v1.PodAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []v1.WeightedPodAffinityTerm{{Weight: 10, PodAffinityTerm: term(zone, "app", "db")}}}
		}), "b1"},
		{"others would rather have it near", zones().with(newPod("x", on("b1"), near(term(zone, "app", "db")))), newPod("p", db), "b1"},
		{"spread", zones().with(newPod("x", on("a1"), db), newPod("y", on("a2"), db), newPod("z", on("b1"), db)), newPod("p", db, spreading(1, zone, v1.DoNotSchedule, "app", "db")), "b1"},
		{"spread, skewed by size", snapshotOf(newNode("a", "4", "4Gi", labelled(zone, "a")), newNode("b", "1", "1Gi", labelled(zone, "b")), newNode("c", "4", "4Gi")).with(newPod("x", on("a"), db), newPod("y", on("b"), requesting("cpu", "1"))), newPod("p", db, requesting("cpu", "1"), spreading(1, zone, v1.DoNotSchedule, "app", "db")),
			"0/3 nodes are available: 1 Insufficient cpu, 1 node(s) didn't match pod topology spread constraints, 1 node(s) didn't match pod topology spread constraints (missing required label). preemption: 0/3 nodes are available: 1 Preemption is not helpful for scheduling, 2 No preemption victims found for incoming pod."},
		{"would rather be spread", zones().with(newPod("x", on("a1"), db), newPod("y", on("b1"), requesting("cpu", "500m"))), newPod("p", db, spreading(1, zone, v1.ScheduleAnyway, "app", "db")), "b1"},
		{"spread, min domains", zones().with(newPod("x", on("a1"), db), newPod("z", on("b1"), db)), newPod("p", db, spreading(1, zone, v1.DoNotSchedule, "app", "db"), func(p *v1.Pod) {
			three := int32(3)
			p.Spec.TopologySpreadConstraints[0].MinDomains = &three
		}), "0/3 nodes are available: 3 node(s) didn't match pod topology spread constraints. preemption: 0/3 nodes are available: 3 No preemption victims found for incoming pod."},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for range 3 {
				if got := tt.s.outcome(tt.pod); got != tt.want {
					t.Errorf("got  %s\nwant %s", got, tt.want)
				}
			}
		})
	}
}

func TestNamespaceSelector(t *testing.T) {
	s := snapshotOf(newNode("a", "4", "4Gi"), newNode("b", "4", "4Gi")).with(newPod("x", on("b"), podLabels("app", "db"), func(p *v1.Pod) { p.Namespace = "other" }))
	tm := term(v1.LabelHostname, "app", "db")
	tm.NamespaceSelector = term("", "team", "x").LabelSelector
	p := newPod("p", near(tm))
	if got := s.outcome(p); got == "b" {
		t.Error(got)
	}
	s.SetNamespace("other", map[string]string{"team": "x"})
	if got := s.outcome(p); got != "b" {
		t.Error(got)
	}
	s.SetNamespace("other", nil)
	if got := s.outcome(p); got == "b" {
		t.Error(got)
	}
}

// TestKept: after any history of nodes and pods, what a class has kept is what an evaluation from nothing gives, and counters count what is there.
func TestKept(t *testing.T) {
	const zone = v1.LabelTopologyZone
	rapid.Check(t, func(t *rapid.T) {
		s := NewSnapshot(1)
		name := rapid.StringMatching("[a-h]")
		kinds := []func(string) *v1.Pod{
			func(n string) *v1.Pod {
				return newPod(n, requesting("cpu", "500m", "memory", "100Mi"), podLabels("app", "a"))
			},
			func(n string) *v1.Pod {
				return newPod(n, selecting("disk", "ssd"), podLabels("app", "b"), apart(term(zone, "app", "a")))
			},
			func(n string) *v1.Pod {
				return newPod(n, port(80, "", ""), podLabels("app", "a"), spreading(1, zone, v1.DoNotSchedule, "app", "a"))
			},
			func(n string) *v1.Pod {
				return newPod(n, near(term(zone, "app", "b")), tolerating(v1.Toleration{Key: "k", Operator: v1.TolerationOpExists}))
			},
			func(n string) *v1.Pod { return newPod(n, requiring(named("a", "b"))) },
		}
		pod := func(t *rapid.T) *v1.Pod {
			k := rapid.IntRange(0, len(kinds)-1).Draw(t, "kind")
			return kinds[k](fmt.Sprint("p", rapid.IntRange(0, 20).Draw(t, "pod")))
		}
		nodes := map[string]*v1.Node{}
		pods := map[string]*v1.Pod{}
		nominated := map[string]*v1.Pod{} // for the node in their specification
		t.Repeat(map[string]func(*rapid.T){
			"nominate": func(t *rapid.T) {
				p := kinds[rapid.IntRange(0, len(kinds)-1).Draw(t, "kind")](fmt.Sprint("p", rapid.IntRange(0, 20).Draw(t, "pod")))
				node := name.Draw(t, "node")
				if pods[p.Name] != nil || nodes[node] == nil {
					return
				}
				priority(int32(rapid.IntRange(0, 2).Draw(t, "priority")))(p)
				s.Nominate(s.NewPod(p), node)
				p.Status.NominatedNodeName = node
				nominated[p.Name] = p
			},
			"end of a nomination": func(t *rapid.T) {
				n := fmt.Sprint("p", rapid.IntRange(0, 20).Draw(t, "pod"))
				delete(nominated, n)
				s.Unnominate(newPod(n).UID)
			},
			"node": func(t *rapid.T) {
				n := newNode(name.Draw(t, "node"), rapid.SampledFrom([]string{"1", "2"}).Draw(t, "cpu"), "1Gi")
				if rapid.Bool().Draw(t, "ssd") {
					n.Labels["disk"] = "ssd"
				}
				if z := rapid.SampledFrom([]string{"", "x", "y"}).Draw(t, "zone"); z != "" {
					n.Labels[zone] = z
				}
				if rapid.Bool().Draw(t, "taint") {
					tainted("k", "", v1.TaintEffectNoSchedule)(n)
				}
				nodes[n.Name] = n
				s.SetNode(n)
			},
			"no node": func(t *rapid.T) {
				n := name.Draw(t, "node")
				delete(nodes, n)
				s.RemoveNode(n)
			},
			"place": func(t *rapid.T) {
				p := pod(t)
				p.Spec.NodeName = name.Draw(t, "node")
				pods[p.Name] = p
				delete(nominated, p.Name)
				s.Place(s.NewPod(p), p.Spec.NodeName, false)
			},
			"remove": func(t *rapid.T) {
				n := fmt.Sprint("p", rapid.IntRange(0, 20).Draw(t, "pod"))
				if p := pods[n]; p != nil {
					delete(pods, n)
					s.Remove(p.UID)
				}
			},
			"decide": func(t *rapid.T) { s.Decide(s.NewPod(pod(t))) },
			"": func(t *rapid.T) {
				fresh := NewSnapshot(1)
				for _, n := range nodes {
					fresh.SetNode(n)
				}
				for _, p := range pods {
					fresh.Place(fresh.NewPod(p), p.Spec.NodeName, false)
				}
				for _, p := range nominated {
					fresh.Nominate(fresh.NewPod(p), p.Status.NominatedNodeName)
				}
				for key, c := range s.classes {
					c.refresh(s)
					plain, fits := newClass(c.pod), 0
					var most int64 = rejectedScore
					for i := range s.nodes {
						score, r := int64(rejectedScore), s.filterNode(plain, &s.nodes[i])
						if r == 0 {
							score = s.ownScore(plain, &s.nodes[i])
							fits++
						}
						if most = max(most, score); c.rejections[i] != r || c.own.scores[i] != score {
							t.Fatalf("class %q, node %s: %x %d is kept, %x %d is true", key, s.nodes[i].name, c.rejections[i], c.own.scores[i], r, score)
						}
					}
					for _, level := range []int32{0, 1, 2, 1} {
						p := *c.pod
						p.priority = level
						for i := range s.nodes {
							if a, b := s.besides(c, &p, nil, int32(i), s.ownNomination(&p)), s.tryBesides(plain, &p, nil, int32(i)); a != b {
								t.Fatalf("class %q of priority %d besides those nominated for %s: %x is kept, %x is true", key, level, s.nodes[i].name, a, b)
							}
						}
					}
					if c.fitting != fits || fits > 0 && c.own.scores[c.own.best(s.rand)] != most {
						t.Fatalf("class %q: %d fit, %d are known; the best has %d", key, fits, c.fitting, most)
					}
				}
				for i, k := range kinds {
					p := k("new")
					a, b := s.Decide(s.NewPod(p)), fresh.Decide(fresh.NewPod(p))
					if len(nominated) > 0 {
						// Which nodes are looked at depends on which of the best comes first, by chance: if it keeps room for nobody, the others aren't asked whether they do.
						a.Fitting = b.Fitting
					}
					if a.Nodes != b.Nodes || a.Fitting != b.Fitting || (a.Failure == nil) != (b.Failure == nil) {
						t.Fatalf("kind %d: %+v, from nothing %+v", i, a, b)
					}
					if a.Failure != nil && a.Failure.Error() != b.Failure.Error() {
						t.Fatalf("kind %d: %v, from nothing %v", i, a.Failure, b.Failure)
					}
				}
			},
		})
	})
}

func benchmarkDecide(b *testing.B, nodes int, pod func(i int) *v1.Pod) {
	s := NewSnapshot(1)
	for i := range nodes {
		s.SetNode(newNode(nodeNumber(i), "64", "256Gi", labelled(v1.LabelTopologyZone, fmt.Sprint("z", i%3)), allocatable("pods", "1000")))
	}
	var pods []*Pod
	for i := range 10000 {
		pods = append(pods, s.NewPod(pod(i)))
	}
	b.ReportAllocs()
	b.ResetTimer()
	for i := 0; b.Loop(); i++ {
		p := pods[i%len(pods)]
		if i >= len(pods) {
			s.Remove(p.uid())
		}
		d := s.Decide(p)
		if d.Failure != nil {
			b.Fatal(d.Failure)
		}
		s.Place(p, d.Node, true)
	}
}

func BenchmarkDecide(b *testing.B) {
	plain := func(i int) *v1.Pod { return newPod(fmt.Sprint("p", i), requesting("cpu", "100m", "memory", "200Mi")) }
	b.Run("plain", func(b *testing.B) { benchmarkDecide(b, 5000, plain) })
	b.Run("hundred kinds", func(b *testing.B) {
		benchmarkDecide(b, 5000, func(i int) *v1.Pod {
			return newPod(fmt.Sprint("p", i), requesting("cpu", fmt.Sprintf("%dm", 100+i%100), "memory", "200Mi"))
		})
	})
	b.Run("every pod another kind", func(b *testing.B) {
		benchmarkDecide(b, 5000, func(i int) *v1.Pod {
			return newPod(fmt.Sprint("p", i), requesting("cpu", "100m", "memory", fmt.Sprint(200<<20+i)))
		})
	})
	b.Run("preferred", func(b *testing.B) {
		benchmarkDecide(b, 5000, func(i int) *v1.Pod {
			return newPod(fmt.Sprint("p", i), requesting("cpu", "100m"), preferring(5, expression(v1.LabelTopologyZone, v1.NodeSelectorOpIn, "z1")))
		})
	})
	b.Run("anti-affinity", func(b *testing.B) {
		benchmarkDecide(b, 5000, func(i int) *v1.Pod {
			app := fmt.Sprint("app", i/10)
			return newPod(fmt.Sprint("p", i), requesting("cpu", "100m"), podLabels("app", app), apart(term(v1.LabelHostname, "app", app)))
		})
	})
	b.Run("spread", func(b *testing.B) {
		benchmarkDecide(b, 5000, func(i int) *v1.Pod {
			return newPod(fmt.Sprint("p", i), requesting("cpu", "100m"), podLabels("app", "a"), spreading(1, v1.LabelTopologyZone, v1.DoNotSchedule, "app", "a"), spreading(1, v1.LabelHostname, v1.ScheduleAnyway, "app", "a"))
		})
	})
}

func BenchmarkNewPod(b *testing.B) {
	s := NewSnapshot(1)
	p := newPod("p", requesting("cpu", "100m", "memory", "200Mi"), tolerating(v1.Toleration{Key: "a", Operator: v1.TolerationOpExists}))
	b.ReportAllocs()
	for b.Loop() {
		s.NewPod(p)
	}
}
