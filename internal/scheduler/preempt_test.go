package scheduler

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"pgregory.net/rapid"
)

func began(second int) podOption {
	return func(p *v1.Pod) { p.Status.StartTime = &metav1.Time{Time: time.Unix(int64(second), 0)} }
}

func budgetFor(name string, allowed int32, kv ...string) *policyv1.PodDisruptionBudget {
	b := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
	b.Spec.Selector = term("", kv...).LabelSelector
	b.Spec.MinAvailable = &intstr.IntOrString{IntVal: 1}
	b.Status.DisruptionsAllowed = allowed
	return b
}

// plan is the outcome of preemption: node and victims, or the failure.
func (s *Snapshot) plan(p *v1.Pod) string {
	q := s.NewPod(p)
	d := s.Decide(q)
	if d.Failure == nil {
		return "fits " + d.Node
	}
	e, ok := s.Preempt(q, d.Failure)
	if !ok {
		return d.Failure.Error()
	}
	names := []string{e.Node + ":"}
	for _, v := range e.Victims {
		names = append(names, v.Name)
	}
	return strings.Join(names, " ")
}

func TestPreempt(t *testing.T) {
	whole := requesting("cpu", "1")
	half := requesting("cpu", "500m")
	db := podLabels("app", "db")
	two := func() *Snapshot { return snapshotOf(newNode("a", "1", "1Gi"), newNode("b", "1", "1Gi")) }
	guarded := func(s *Snapshot, b ...*policyv1.PodDisruptionBudget) *Snapshot {
		for _, b := range b {
			s.SetBudget(b)
		}
		return s
	}
	nominated := func(s *Snapshot, node string, pods ...*v1.Pod) *Snapshot {
		for _, p := range pods {
			s.Nominate(s.NewPod(p), node)
		}
		return s
	}
	for _, tt := range []struct {
		name string
		s    *Snapshot
		pod  *v1.Pod
		want string
	}{
		{"the less important", two().with(newPod("x", on("a"), whole, priority(5)), newPod("y", on("b"), whole, priority(3))), newPod("p", whole, priority(10)), "b: y"},
		{"an equal isn't touched", two().with(newPod("x", on("a"), whole, priority(10)), newPod("y", on("b"), whole, priority(11))), newPod("p", whole, priority(10)),
			"0/2 nodes are available: 2 Insufficient cpu. preemption: 0/2 nodes are available: 2 No preemption victims found for incoming pod."},
		{"as few as possible", two().with(newPod("x", on("a"), half, priority(1)), newPod("y", on("a"), half, priority(1)), newPod("z", on("b"), half), newPod("w", on("b"), half, priority(20))), newPod("p", half, priority(10)), "b: z"},
		{"the younger", two().with(newPod("x", on("a"), whole, began(1)), newPod("y", on("b"), whole, began(2))), newPod("p", whole, priority(10)), "b: y"},
		{"fewer", two().with(newPod("x", on("a"), whole), newPod("y", on("b"), half), newPod("z", on("b"), half)), newPod("p", whole, priority(10)), "a: x"},
		{"the more important stays", snapshotOf(newNode("a", "1", "1Gi")).with(newPod("x", on("a"), half, priority(1)), newPod("y", on("a"), half, priority(2))), newPod("p", half, priority(10)), "a: x"},
		{"a budget is kept", guarded(two().with(newPod("x", on("a"), whole, db, priority(1)), newPod("y", on("b"), whole, priority(5))), budgetFor("b", 0, "app", "db")), newPod("p", whole, priority(10)), "b: y"},
		{"a budget that allows it", guarded(two().with(newPod("x", on("a"), whole, db, priority(1)), newPod("y", on("b"), whole, priority(5))), budgetFor("b", 1, "app", "db")), newPod("p", whole, priority(10)), "a: x"},
		{"a budget is broken if need be", guarded(snapshotOf(newNode("a", "1", "1Gi")).with(newPod("x", on("a"), whole, db)), budgetFor("b", 0, "app", "db")), newPod("p", whole, priority(10)), "a: x"},
		{"the protected stays on the node", guarded(snapshotOf(newNode("a", "1", "1Gi")).with(newPod("x", on("a"), half, db), newPod("y", on("a"), half, priority(5))), budgetFor("b", 0, "app", "db")), newPod("p", half, priority(10)), "a: y"},
		{"nowhere near enough", snapshotOf(newNode("a", "1", "1Gi")).with(newPod("x", on("a"), half), newPod("y", on("a"), half, priority(20))), newPod("p", whole, priority(10)),
			"0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 Insufficient cpu."},
		{"more than there is", snapshotOf(newNode("a", "1", "1Gi")).with(newPod("x", on("a"), half)), newPod("p", requesting("cpu", "2"), priority(10)), "0/1 nodes are available: 1 Insufficient cpu." + unresolved(1)},
		{"port", snapshotOf(newNode("a", "4", "4Gi")).with(newPod("x", on("a"), port(80, "", "")), newPod("y", on("a"), port(81, "", ""))), newPod("p", port(80, "", ""), priority(10)), "a: x"},
		{"apart", snapshotOf(newNode("a", "4", "4Gi")).with(newPod("x", on("a"), db), newPod("y", on("a"))), newPod("p", apart(term(v1.LabelHostname, "app", "db")), priority(10)), "a: x"},
		{"kept away", snapshotOf(newNode("a", "4", "4Gi")).with(newPod("x", on("a"), apart(term(v1.LabelHostname, "app", "db"))), newPod("y", on("a"))), newPod("p", db, priority(10)), "a: x"},
		{"near", snapshotOf(newNode("a", "1", "4Gi")).with(newPod("x", on("a"), db, half, priority(20)), newPod("y", on("a"), half, priority(1))), newPod("p", near(term(v1.LabelHostname, "app", "db")), half, priority(10)), "a: y"},
		{"spread", snapshotOf(newNode("a", "4", "4Gi"), newNode("b", "1", "1Gi")).with(newPod("x", on("a"), db), newPod("z", on("b"), requesting("cpu", "1"), priority(50))),
			newPod("p", db, half, priority(10), spreading(1, v1.LabelHostname, v1.DoNotSchedule, "app", "db")), "a: x"},
		{"beside a nominated one", nominated(snapshotOf(newNode("a", "1", "1Gi")).with(newPod("x", on("a"), half), newPod("y", on("a"), half)), "a", newPod("n", half, priority(10))), newPod("p", half, priority(10)), "a: x y"},
		{"instead of a nominated one", nominated(snapshotOf(newNode("a", "1", "1Gi")).with(newPod("x", on("a"), half), newPod("y", on("a"), half, began(1))), "a", newPod("n", half, priority(9))), newPod("p", half, priority(10)), "a: x"},
		{"only where it may go", two().with(newPod("x", on("a"), whole, priority(1)), newPod("y", on("b"), whole, priority(5))), newPod("p", whole, priority(10), requiring(named("b"))), "b: y"},
		{"its room is being made", nominated(snapshotOf(newNode("a", "1", "1Gi")).with(newPod("x", on("a"), whole, func(p *v1.Pod) {
			p.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)}
			p.Status.Conditions = []v1.PodCondition{{Type: v1.DisruptionTarget, Status: v1.ConditionTrue, Reason: v1.PodReasonPreemptionByScheduler}}
		})), "a", newPod("p", whole, priority(10))), newPod("p", whole, priority(10)),
			"0/1 nodes are available: 1 Insufficient cpu. preemption: not eligible due to a terminating pod on the nominated node."},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for range 3 {
				if got := tt.s.plan(tt.pod); got != tt.want {
					t.Errorf("got  %s\nwant %s", got, tt.want)
				}
			}
		})
	}
}

func TestNominated(t *testing.T) {
	s := snapshotOf(newNode("a", "1", "1Gi"), newNode("b", "1", "1Gi", labelled("x", "y")))
	n := newPod("n", requesting("cpu", "1"), priority(10))
	s.Nominate(s.NewPod(n), "a")
	for _, tt := range []struct {
		pod  *v1.Pod
		want string
	}{
		{newPod("p", requesting("cpu", "1")), "b"},
		{newPod("p", requesting("cpu", "1"), priority(10)), "b"},
		{n, "a"},
		{newPod("p", requesting("cpu", "1"), selecting(v1.LabelHostname, "a"), priority(11)), "a"},
		{newPod("p", requesting("cpu", "1"), selecting(v1.LabelHostname, "a")), "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) didn't match Pod's node affinity/selector. preemption: 0/2 nodes are available: 1 No preemption victims found for incoming pod, 1 Preemption is not helpful for scheduling."},
	} {
		if got := s.outcome(tt.pod); got != tt.want {
			t.Errorf("got  %s\nwant %s", got, tt.want)
		}
	}
	s.Unnominate(n.UID)
	if got := s.outcome(newPod("p", requesting("cpu", "1"), selecting(v1.LabelHostname, "a"))); got != "a" {
		t.Error(got)
	}
}

// cheapest checks that what is kept of evictions is what they would take now, and that the first one takes least.
func cheapest(t *rapid.T, s *Snapshot, p *Pod, k *evictions) {
	first := &k.results[k.best[0]]
	n := 0
	for i := range s.nodes {
		now := s.tryUnlessHelpless(s.classes[p.key], p, i)
		if now.ok != k.results[i].ok || now.ok && (now.better(&k.results[i]) || k.results[i].better(&now)) {
			t.Fatalf("node %d takes %+v, kept is %+v", i, now, k.results[i])
		}
		if now.ok {
			n++
			if now.better(first) {
				t.Fatalf("node %d takes %+v, the first of all %+v", i, now, first)
			}
		}
		if (k.at[i] >= 0) != now.ok || now.ok && k.best[k.at[i]] != int32(i) {
			t.Fatalf("node %d is at %d of %v", i, k.at[i], k.best)
		}
	}
	if n != len(k.best) {
		t.Fatalf("%d nodes, but %d are kept", n, len(k.best))
	}
}

// TestPreemptionProperties: over any cluster, victims are less important, the pod fits once they are gone, none of them could have stayed, and what is kept of earlier tries changes nothing.
func TestPreemptionProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := NewSnapshot(1)
		cpu := rapid.IntRange(1, 8)
		name := rapid.IntRange(0, 5)
		pods := map[string]*v1.Pod{}
		n := 0
		node := func(i int) *v1.Node {
			return newNode(fmt.Sprint("n", i), fmt.Sprintf("%d00m", cpu.Draw(t, "capacity")), "1Gi", labelled(v1.LabelTopologyZone, fmt.Sprint("z", i%2)))
		}
		fresh := func(kind int, opts ...podOption) *v1.Pod {
			n++
			kinds := [][]podOption{
				{}, {podLabels("app", "a"), apart(term(v1.LabelTopologyZone, "app", "b"))}, {podLabels("app", "b"), spreading(1, v1.LabelTopologyZone, v1.DoNotSchedule, "app", "b")}, {port(80, "", "")},
			}
			all := append([]podOption{requesting("cpu", fmt.Sprintf("%d00m", cpu.Draw(t, "cpu"))), priority(int32(rapid.IntRange(0, 5).Draw(t, "priority"))), began(rapid.IntRange(0, 3).Draw(t, "start"))}, kinds[kind]...)
			return newPod(fmt.Sprint("p", n), append(all, opts...)...)
		}
		kind := rapid.IntRange(0, 3)
		t.Repeat(map[string]func(*rapid.T){
			"node": func(t *rapid.T) { s.SetNode(node(name.Draw(t, "node"))) },
			"budget": func(t *rapid.T) {
				s.SetBudget(budgetFor("b", int32(rapid.IntRange(0, 2).Draw(t, "allowed")), "app", rapid.SampledFrom([]string{"a", "b"}).Draw(t, "app")))
			},
			"remove": func(t *rapid.T) {
				if len(pods) > 0 {
					k := rapid.SampledFrom(slices.Sorted(maps.Keys(pods))).Draw(t, "pod")
					s.Remove(pods[k].UID)
					delete(pods, k)
				}
			},
			"": func(t *rapid.T) {},
			"pod": func(t *rapid.T) {
				p := fresh(kind.Draw(t, "kind"))
				q := s.NewPod(p)
				d := s.Decide(q)
				if d.Failure == nil {
					if !s.Fits(q, d.Node) {
						t.Fatalf("%s doesn't fit on %s", p.Name, d.Node)
					}
					s.Place(q, d.Node, false)
					pods[p.Name] = p
					return
				}
				e, ok := s.Preempt(q, d.Failure)
				if !ok {
					return
				}
				again, ok := s.Preempt(q, d.Failure)
				if !ok || len(again.Victims) != len(e.Victims) || again.Violations != e.Violations {
					t.Fatalf("%+v, then %+v", e, again)
				}
				if k := s.evictions[evictionKey{q.key, q.priority}]; k != nil && k.seen == s.changed() && k.used == s.uses {
					cheapest(t, s, q, k)
				}
				for _, v := range e.Victims {
					if *v.Spec.Priority >= *p.Spec.Priority {
						t.Fatalf("priority %d for %d", *v.Spec.Priority, *p.Spec.Priority)
					}
					s.Remove(v.UID)
					delete(pods, v.Name)
				}
				if !s.Fits(q, e.Node) {
					t.Fatalf("%s doesn't fit on %s after %d have gone", p.Name, e.Node, len(e.Victims))
				}
				for _, v := range e.Victims {
					s.Place(s.NewPod(v), e.Node, false)
					if s.Fits(q, e.Node) {
						t.Fatalf("%s could have stayed", v.Name)
					}
					s.Remove(v.UID)
				}
				s.Place(q, e.Node, false)
				pods[p.Name] = p
			},
		})
	})
}
