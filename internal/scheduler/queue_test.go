package scheduler

import (
	"fmt"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
)

type queueTest struct {
	*testing.T
	q   *queue
	s   *Snapshot
	now time.Time
}

func newQueueTest(t *testing.T) *queueTest {
	return &queueTest{T: t, q: newQueue(time.Second, 10*time.Second), s: NewSnapshot(1), now: time.Unix(1e9, 0)}
}

func (t *queueTest) put(p *v1.Pod) { t.q.put(p, t.s.NewPod(p), t.now, true) }

func (t *queueTest) pass(d time.Duration) { t.now = t.now.Add(d) }

func (t *queueTest) take(want string) *item {
	t.Helper()
	it := t.q.take(t.now)
	got := ""
	if it != nil {
		got = it.pod.Name
	}
	if got != want {
		t.Fatalf("took %q, want %q", got, want)
	}
	return it
}

func TestQueueOrder(t *testing.T) {
	q := newQueueTest(t)
	for i, p := range []*v1.Pod{newPod("a"), newPod("b", priority(10)), newPod("c"), newPod("d", priority(10))} {
		q.put(p)
		q.pass(time.Duration(i+1) * time.Millisecond)
	}
	q.q.drop("uid-c")
	for _, want := range []string{"b", "d", "a", ""} {
		q.take(want)
	}
}

func TestQueueGates(t *testing.T) {
	q := newQueueTest(t)
	p := newPod("a", func(p *v1.Pod) { p.Spec.SchedulingGates = []v1.PodSchedulingGate{{Name: "x"}} })
	q.put(p)
	q.take("")
	if !q.q.due().IsZero() {
		t.Error("waits for a time")
	}
	p = p.DeepCopy()
	p.Spec.SchedulingGates = nil
	q.put(p)
	q.take("a")
}

func TestQueueBackoff(t *testing.T) {
	q := newQueueTest(t)
	q.put(newPod("a"))
	for i, want := range []time.Duration{1, 2, 4, 8, 10, 10} {
		it := q.take("a")
		q.q.retry(it, q.now)
		q.take("")
		due := q.q.due()
		if due.Sub(q.now) != want*time.Second {
			t.Errorf("failure %d: %v", i, due.Sub(q.now))
		}
		q.now = due
	}
}

func TestQueueUnschedulable(t *testing.T) {
	q := newQueueTest(t)
	for i := range 4 {
		q.put(newPod(fmt.Sprint("a", i), requesting("cpu", "1")))
		q.pass(time.Millisecond)
	}
	q.put(newPod("b", requesting("cpu", "2")))
	for _, n := range []string{"a0", "a1", "a2", "a3", "b"} {
		q.q.park(q.take(n), q.now, []string{NameNodeResourcesFit})
	}
	q.take("")
	// Two of the four are woken, the oldest; their back-off isn't over, but there is nothing else to do.
	q.pass(500 * time.Millisecond)
	key := q.q.items["uid-a0"].p.key
	q.q.wakeClass(key, 2, q.now)
	for range 2 {
		it := q.q.take(q.now)
		if it == nil || it.pod.Name > "a1" {
			t.Fatalf("%v", it)
		}
		q.q.park(it, q.now, []string{NameNodeResourcesFit})
	}
	q.take("")
	// A change of its own that can't help doesn't wake a pod; one that can does.
	p := newPod("b", requesting("cpu", "2"), podLabels("x", "y"))
	q.q.put(p, q.s.NewPod(p), q.now, false)
	q.take("")
	q.pass(time.Minute)
	q.put(p)
	q.q.park(q.take("b"), q.now, nil)
	// What nothing wakes is tried again in the end.
	due := q.q.due()
	if d := due.Sub(q.now); d <= 0 || d > leftoverAfter {
		t.Errorf("due in %v", d)
	}
	q.now = due
	q.take("a2")
	q.take("a3")
	q.pass(leftoverAfter)
	for _, n := range []string{"a0", "a1", "b"} {
		q.take(n)
	}
	q.take("")
	if len(q.q.classes) != 0 || len(q.q.parked) != 0 {
		t.Errorf("%d classes, %d parked", len(q.q.classes), len(q.q.parked))
	}
}
