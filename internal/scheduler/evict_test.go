package scheduler

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgotesting "k8s.io/client-go/testing"
)

const (
	unfit      = "0/1 nodes are available: 1 Insufficient cpu."
	preempting = unfit + " preemption: found a potential placement for pod on node a, preempting 1 victims"
)

func TestEvicts(t *testing.T) {
	run(t, func(b *bench) {
		b.create(newPod("p", requesting("cpu", "1"), priority(10)))
		b.on("a", "p", "other")
		b.gone("x")
		for _, want := range []string{
			"x Normal Preempted Preempted by pod uid-p on node a",
			"p Warning FailedScheduling " + preempting,
			"p Normal Scheduled Successfully assigned default/p to a",
		} {
			if b.seen(want) != 1 {
				b.Errorf("no %q in %q", want, b.events)
			}
		}
	}, newNode("a", "1500m", "1Gi"), newPod("x", on("a"), requesting("cpu", "1")), newPod("other", on("a"), requesting("cpu", "500m"), priority(10)))
}

// TestEvictsGracefully: a victim that takes its time is told why, and nobody takes the place meanwhile.
func TestEvictsGracefully(t *testing.T) {
	run(t, func(b *bench) {
		b.lingers("x", 30*time.Second)
		b.create(newPod("p", requesting("cpu", "1"), priority(10)))
		b.pass(time.Second)
		b.on("", "p")
		if got := b.pod("p").Status.NominatedNodeName; got != "a" {
			b.Errorf("nominated for %q", got)
		}
		if got := b.condition("p"); got != "False Unschedulable "+preempting {
			b.Error(got)
		}
		x := b.pod("x")
		if c := x.Status.Conditions; len(c) != 1 || c[0].Type != v1.DisruptionTarget || c[0].Status != v1.ConditionTrue || c[0].Reason != "PreemptionByScheduler" ||
			c[0].Message != "default-scheduler: preempting to accommodate a higher priority pod" {
			b.Errorf("%+v", c)
		}
		b.create(newPod("small", requesting("cpu", "100m")), newPod("equal", requesting("cpu", "1"), priority(10)))
		b.pass(28 * time.Second)
		b.on("", "p", "small", "equal")
		b.pass(2 * time.Second)
		b.on("a", "p")
		b.on("", "small", "equal")
		b.gone("x")
	}, newNode("a", "1", "1Gi"), newPod("x", on("a"), requesting("cpu", "1")))
}

func TestNeverEvicts(t *testing.T) {
	run(t, func(b *bench) {
		never := v1.PreemptNever
		b.create(newPod("p", requesting("cpu", "1"), priority(10), func(p *v1.Pod) { p.Spec.PreemptionPolicy = &never }))
		b.pass(time.Hour)
		b.on("", "p")
		b.on("a", "x")
		if got := b.condition("p"); got != "False Unschedulable "+unfit+" preemption: not eligible due to preemptionPolicy=Never." {
			b.Error(got)
		}
	}, newNode("a", "1", "1Gi"), newPod("x", on("a"), requesting("cpu", "1")))
}

// TestEvictsForMoreImportant: a nominated pod yields to a more important one and finds another place.
func TestEvictsForMoreImportant(t *testing.T) {
	run(t, func(b *bench) {
		b.lingers("x", time.Minute)
		b.create(newPod("p", requesting("cpu", "1"), priority(10)))
		b.create(newPod("q", requesting("cpu", "1"), priority(20)))
		b.pass(time.Second)
		if p, q := b.pod("p").Status.NominatedNodeName, b.pod("q").Status.NominatedNodeName; p != "" || q != "a" {
			b.Errorf("nominated for %q and %q", p, q)
		}
		b.pass(2 * time.Minute)
		b.on("a", "q")
		b.on("", "p")
		b.remove("q")
		b.pass(time.Minute)
		b.on("a", "p")
	}, newNode("a", "1", "1Gi"), newPod("x", on("a"), requesting("cpu", "1")))
}

func TestEvictionFails(t *testing.T) {
	run(t, func(b *bench) {
		fail := true
		b.client.PrependReactor("delete", "pods", func(clientgotesting.Action) (bool, runtime.Object, error) {
			b.mu.Lock()
			defer b.mu.Unlock()
			return fail, nil, apierrors.NewInternalError(errors.New("boom"))
		})
		b.create(newPod("p", requesting("cpu", "1"), priority(10)))
		b.pass(3 * time.Second)
		b.on("", "p")
		b.mu.Lock()
		fail = false
		b.mu.Unlock()
		b.pass(20 * time.Second)
		b.on("a", "p")
		b.gone("x")
	}, newNode("a", "1", "1Gi"), newPod("x", on("a"), requesting("cpu", "1")))
}

// TestEvictionConflicts: a conflict says nothing of whether the victim is gone; it is asked for, and evicted again.
func TestEvictionConflicts(t *testing.T) {
	run(t, func(b *bench) {
		conflicts := 2
		b.client.PrependReactor("delete", "pods", func(clientgotesting.Action) (bool, runtime.Object, error) {
			b.mu.Lock()
			defer b.mu.Unlock()
			conflicts--
			return conflicts >= 0, nil, apierrors.NewConflict(v1.Resource("pods"), "x", errors.New("try again"))
		})
		b.create(newPod("p", requesting("cpu", "1"), priority(10)))
		b.pass(time.Minute)
		b.on("a", "p")
		b.gone("x")
	}, newNode("a", "1", "1Gi"), newPod("x", on("a"), requesting("cpu", "1")))
}

// TestNominationIsKept: another process began to make room; this one goes on.
func TestNominationIsKept(t *testing.T) {
	run(t, func(b *bench) {
		b.on("", "small", "p")
		b.remove("x")
		b.on("a", "p")
		b.on("", "small")
	}, newNode("a", "1", "1Gi"), newPod("x", on("a"), requesting("cpu", "1"), func(p *v1.Pod) {
		p.DeletionTimestamp = &metav1.Time{Time: time.Now()}
		p.Finalizers = []string{"example.com/keep"}
		p.Status.Conditions = []v1.PodCondition{{Type: v1.DisruptionTarget, Status: v1.ConditionTrue, Reason: v1.PodReasonPreemptionByScheduler}}
	}), newPod("small", requesting("cpu", "500m")),
		newPod("p", requesting("cpu", "1"), priority(10), func(p *v1.Pod) { p.Status.NominatedNodeName = "a" }))
}

func TestManyEvict(t *testing.T) {
	var objects []runtime.Object
	for i := range 20 {
		n := fmt.Sprint("n", i)
		objects = append(objects, newNode(n, "4", "8Gi"))
		for k := range 4 {
			objects = append(objects, newPod(fmt.Sprint("low", i, "-", k), on(n), requesting("cpu", "900m")))
		}
	}
	run(t, func(b *bench) {
		for i := range 20 {
			b.create(newPod(fmt.Sprint("high", i), requesting("cpu", "3"), priority(10)))
		}
		b.pass(time.Minute)
		for i := range 20 {
			if b.pod(fmt.Sprint("high", i)).Spec.NodeName == "" {
				b.Errorf("high%d has no node", i)
			}
		}
	}, objects...)
}

// TestRoomForNominated: room that is freed for a nominated pod wakes nobody else, until the nomination ends.
func TestRoomForNominated(t *testing.T) {
	r := prometheus.NewRegistry()
	failures := func(b *bench) float64 {
		return gathered(b.T, r)["scheduler_schedule_attempts_total default-scheduler unschedulable"]
	}
	runWith(t, Config{Metrics: r}, func(b *bench) {
		b.lingers("x", 30*time.Second)
		b.create(newPod("p", requesting("cpu", "1"), priority(10)))
		b.pass(time.Second)
		if got := b.pod("p").Status.NominatedNodeName; got != "a" {
			b.Fatalf("nominated for %q", got)
		}
		b.create(newPod("same", requesting("cpu", "1"), priority(10)), newPod("less", requesting("cpu", "900m"), priority(5)), newPod("tiny", requesting("cpu", "500m"), priority(5)))
		b.pass(20 * time.Second)
		before := failures(b)
		b.pass(20 * time.Second)
		b.on("a", "p", "tiny") // for which there is room besides
		b.on("", "same", "less")
		if n := failures(b) - before; n != 0 {
			b.Errorf("%v attempts in vain", n)
		}
		b.remove("p")
		b.pass(20 * time.Second)
		b.on("a", "same")
	}, newNode("a", "1500m", "1Gi"), newPod("x", on("a"), requesting("cpu", "1")))
}

// TestRoomOfNominatedThatGoes: the room of a nominated pod that is deleted is others'.
func TestRoomOfNominatedThatGoes(t *testing.T) {
	run(t, func(b *bench) {
		b.lingers("x", 30*time.Second)
		b.create(newPod("p", requesting("cpu", "1"), priority(10)))
		b.pass(time.Second)
		b.create(newPod("q", requesting("cpu", "1")))
		b.pass(time.Second)
		b.remove("p")
		b.pass(40 * time.Second)
		b.on("a", "q")
	}, newNode("a", "1", "1Gi"), newPod("x", on("a"), requesting("cpu", "1")))
}

func TestRoomFor(t *testing.T) {
	nominate := func(s *Snapshot, node string, pods ...*v1.Pod) *Snapshot {
		for _, p := range pods {
			s.Nominate(s.NewPod(p), node)
		}
		return s
	}
	four := func() *Snapshot { return snapshotOf(newNode("a", "4", "4Gi"), newNode("b", "4", "4Gi")) }
	port := func(p *v1.Pod) {
		p.Spec.Containers[0].Ports = []v1.ContainerPort{{HostPort: 80, ContainerPort: 80}}
	}
	for _, tt := range []struct {
		name string
		s    *Snapshot
		pod  *v1.Pod
		want int
	}{
		{"nobody", four(), newPod("p", requesting("cpu", "1")), 4},
		{"elsewhere", nominate(four(), "b", newPod("n", requesting("cpu", "3"))), newPod("p", requesting("cpu", "1")), 4},
		{"as important", nominate(four(), "a", newPod("n", requesting("cpu", "3"))), newPod("p", requesting("cpu", "1")), 1},
		{"more important, two", nominate(four(), "a", newPod("n", requesting("cpu", "1"), priority(5)), newPod("m", requesting("cpu", "1"), priority(5))), newPod("p", requesting("cpu", "1")), 2},
		{"all of it", nominate(four(), "a", newPod("n", requesting("cpu", "4"))), newPod("p", requesting("cpu", "1")), 0},
		{"less important", nominate(four(), "a", newPod("n", requesting("cpu", "4"))), newPod("p", requesting("cpu", "1"), priority(5)), 4},
		{"itself", nominate(four(), "a", newPod("p", requesting("cpu", "4"))), newPod("p", requesting("cpu", "4")), 1},
		{"its port", nominate(four(), "a", newPod("n", port)), newPod("p", port), 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.s.RoomFor(tt.s.NewPod(tt.pod), "a", 10); got != tt.want {
				t.Errorf("room for %d, want %d", got, tt.want)
			}
		})
	}
}
