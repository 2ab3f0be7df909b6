package nodelifecycle

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/retry"
	"k8s.io/utils/clock"

	"github.com/celox/celox/internal/controller/controllertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestHealth(t *testing.T) {
	for _, c := range []struct {
		ready, notReady int
		want            health
		interval        time.Duration
		ever            bool
	}{
		{3, 0, normal, evictionInterval, true},
		{0, 1, full, evictionInterval, true},
		{1, 2, normal, evictionInterval, true}, // two are not many
		{1, 3, partial, slowInterval, false},
		{9, 11, partial, slowInterval, false},
		{10, 11, normal, evictionInterval, true},
		{20, 31, partial, slowInterval, true},
		{20, 30, partial, slowInterval, false},
	} {
		z := zone{ready: c.ready, notReady: c.notReady}
		interval, ever := z.interval()
		if z.health() != c.want || interval != c.interval || ever != c.ever {
			t.Errorf("%+v: %v, %v %v", c, z.health(), interval, ever)
		}
	}
}

// zoned is a node of a zone.
func zoned(zone string, i int, ready corev1.ConditionStatus) *corev1.Node {
	n := node(fmt.Sprintf("%s-%d", zone, i), ready)
	n.Labels = map[string]string{corev1.LabelTopologyZone: zone}
	return n
}

func TestTurns(t *testing.T) {
	start := time.Unix(1000, 0)
	s, now := newZones(), start.Add(settle)
	for i := range 4 {
		s.set("", zoned("a", i, corev1.ConditionTrue), start) // one name, one node
	}
	if len(s.members) != 1 || s.zones[":\x00:a"].ready != 1 {
		t.Fatalf("%+v", s.zones[":\x00:a"])
	}
	s = newZones()
	set := func(n *corev1.Node) change { return s.set(n.Name, n, start) }
	for i := range 5 {
		set(zoned("a", i, corev1.ConditionTrue))
	}
	b := zoned("b", 0, corev1.ConditionUnknown)
	set(b)
	if ok, left := s.turn(b, start.Add(time.Second)); ok || left != settle-time.Second {
		t.Errorf("before it is known who else is lost: %v, %v", ok, left)
	}
	if ok, _ := s.turn(b, now); !ok {
		t.Error("a dead zone among living ones is not dead")
	}
	set(zoned("a", 0, corev1.ConditionUnknown))
	set(zoned("a", 1, corev1.ConditionFalse))
	if ok, _ := s.turn(zoned("a", 0, ""), now); !ok {
		t.Error("the first has to wait")
	}
	if ok, left := s.turn(zoned("a", 1, ""), now.Add(4*time.Second)); ok || left != 6*time.Second {
		t.Errorf("the second: %v, %v", ok, left)
	}
	if ok, _ := s.turn(zoned("a", 1, ""), now.Add(10*time.Second)); !ok {
		t.Error("the second has to wait for longer")
	}
	if c := set(zoned("a", 2, corev1.ConditionUnknown)); !c.pace || c.back {
		t.Errorf("three of five: %+v", c)
	}
	if ok, left := s.turn(zoned("a", 2, ""), now.Add(time.Hour)); ok || left != 0 {
		t.Errorf("most of a small zone: %v, %v", ok, left)
	}
	set(zoned("a", 3, corev1.ConditionUnknown))
	if c := set(zoned("a", 4, corev1.ConditionUnknown)); !c.pace || !s.halted() {
		t.Errorf("nobody is there: %+v", c)
	}
	if ok, left := s.turn(b, now.Add(time.Hour)); ok || left != 0 {
		t.Errorf("while nobody is there: %v, %v", ok, left)
	}
	if c := set(zoned("a", 4, corev1.ConditionTrue)); !c.pace || !c.back || s.halted() {
		t.Errorf("somebody is back: %+v", c)
	}
	for i := range 5 {
		s.set(fmt.Sprintf("a-%d", i), nil, start)
	}
	s.set("b-0", nil, start)
	if len(s.zones) != 0 || len(s.members) != 0 || s.halted() {
		t.Errorf("something is left: %+v", s)
	}
}

// When a zone's pace changes, who had to wait waits a whole interval of the new one, who did not does not; a node that doesn't count for its zone
// stays where it is while no node is ready anywhere.
func TestNewPace(t *testing.T) {
	start := time.Unix(1000, 0)
	at := func(seconds int) time.Time { return start.Add(time.Duration(seconds) * time.Second) }
	s := newZones()
	set := func(i int, ready corev1.ConditionStatus, seconds int) {
		n := zoned("a", i, ready)
		s.set(n.Name, n, at(seconds))
	}
	expect := func(what string, seconds int, left time.Duration) {
		t.Helper()
		ok, got := s.turn(zoned("a", 0, ""), at(seconds))
		if ok != (left < 0) || !ok && got != left {
			t.Errorf("%s: %v, %v", what, ok, got)
		}
	}
	const turn, never = time.Duration(-1), time.Duration(0)
	for i := range 60 {
		set(i, corev1.ConditionTrue, 0)
	}
	for i := range 40 {
		set(i, corev1.ConditionUnknown, 1)
	}
	expect("most of a large zone", 6, turn)
	expect("the next", 7, 99*time.Second)
	for i := 40; i > 20; i-- {
		set(i, corev1.ConditionTrue, 20)
	}
	expect("normal again", 21, 9*time.Second)
	expect("normal again, later", 30, turn)
	for i := 20; i < 60; i++ {
		set(i, corev1.ConditionUnknown, 50)
	}
	expect("nobody is there", 60, never)
	outside := zoned("b", 0, corev1.ConditionUnknown)
	outside.Labels[excludeLabel] = ""
	s.set(outside.Name, outside, at(60))
	if ok, left := s.turn(outside, at(60)); ok || left != 0 || len(s.zones) != 1 {
		t.Errorf("outside the judgement: %v, %v", ok, left)
	}
	set(59, corev1.ConditionTrue, 70)
	expect("one is back: most of a large zone", 71, 99*time.Second)
	if ok, _ := s.turn(outside, at(71)); !ok {
		t.Error("outside the judgement: no turn")
	}
	s = newZones()
	for i := range 4 {
		set(i, corev1.ConditionTrue, 0)
		set(i, corev1.ConditionUnknown, 1)
	}
	set(3, corev1.ConditionTrue, 10)
	expect("most of a small zone", 20, never)
	set(2, corev1.ConditionTrue, 30)
	expect("two are not many", 31, 9*time.Second)
}

// cluster is an API with the controller in virtual time, and leases that are renewed for the nodes that live.
type cluster struct {
	*controllertest.Env
	t     *testing.T
	lives map[string]bool
}

func play(t *testing.T, f func(*cluster)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		e := controllertest.Start(t)
		ctl, err := New(Config{Client: e.Client, Informers: e.Informers, Recorder: e.Recorder, Clock: clock.RealClock{}})
		if err != nil {
			t.Fatal(err)
		}
		e.Run(t, ctl)
		f(&cluster{Env: e, t: t, lives: map[string]bool{}})
	})
}

func (c *cluster) add(zone string, n int) {
	c.t.Helper()
	for i := range n {
		node := zoned(zone, i, corev1.ConditionTrue)
		if _, err := c.Client.CoreV1().Nodes().Create(context.Background(), node, metav1.CreateOptions{}); err != nil {
			c.t.Fatal(err)
		}
		if _, err := c.Client.CoordinationV1().Leases(corev1.NamespaceNodeLease).Create(context.Background(), lease(node.Name), metav1.CreateOptions{}); err != nil {
			c.t.Fatal(err)
		}
		c.lives[node.Name] = true
	}
}

// set says of the first n nodes of a zone whether they live. Those that come to life say that they are ready.
func (c *cluster) set(zone string, n int, live bool) {
	c.t.Helper()
	for i := range n {
		name := fmt.Sprintf("%s-%d", zone, i)
		if c.lives[name] = live; !live {
			continue
		}
		// The controller writes to the same node at the same instant.
		if err := retry.RetryOnConflict(retry.DefaultBackoff, func() error {
			node, err := c.Client.CoreV1().Nodes().Get(context.Background(), name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			ready := conditionOf(node, corev1.NodeReady)
			ready.Status, ready.LastHeartbeatTime = corev1.ConditionTrue, metav1.Now()
			_, err = c.Client.CoreV1().Nodes().UpdateStatus(context.Background(), node, metav1.UpdateOptions{})
			return err
		}); err != nil {
			c.t.Fatal(err)
		}
	}
}

// pass lets time pass, while living nodes renew their leases.
func (c *cluster) pass(d time.Duration) {
	c.t.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); {
		for name, live := range c.lives {
			if !live {
				continue
			}
			patch := fmt.Appendf(nil, `{"spec":{"renewTime":%q}}`, time.Now().UTC().Format(metav1.RFC3339Micro))
			if _, err := c.Client.CoordinationV1().Leases(corev1.NamespaceNodeLease).Patch(context.Background(), name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
				c.t.Fatal(err)
			}
		}
		time.Sleep(min(10*time.Second, time.Until(end)))
	}
	synctest.Wait()
}

// expect counts the nodes that are not ready, and those whose pods are sent away.
func (c *cluster) expect(what string, unknown, evicting int) {
	c.t.Helper()
	list, err := c.Client.CoreV1().Nodes().List(context.Background(), metav1.ListOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	u, e := 0, 0
	for _, n := range list.Items {
		if conditionOf(&n, corev1.NodeReady).Status == corev1.ConditionUnknown {
			u++
		}
		for _, taint := range n.Spec.Taints {
			if taint.Effect == corev1.TaintEffectNoExecute {
				e++
			}
		}
	}
	if u != unknown || e != evicting {
		c.t.Errorf("%s: %d unknown and %d evicting, want %d and %d", what, u, e, unknown, evicting)
	}
}

func TestPaceOfAZone(t *testing.T) {
	play(t, func(c *cluster) {
		c.add("a", 10)
		c.pass(time.Minute)
		c.expect("all is well", 0, 0)
		c.set("a", 4, false)
		c.pass(41 * time.Second)
		c.expect("four are silent", 4, 0)
		c.pass(settle)
		c.expect("one is evicted", 4, 1)
		c.pass(10 * time.Second)
		c.expect("ten seconds later", 4, 2)
		c.pass(time.Minute)
		c.expect("all have had their turn", 4, 4)
		c.set("a", 4, true)
		c.pass(time.Second)
		c.expect("back", 0, 0)
	})
}

func TestMostOfASmallZone(t *testing.T) {
	play(t, func(c *cluster) {
		c.add("a", 4)
		c.add("b", 4)
		c.pass(time.Second)
		c.set("a", 3, false)
		c.pass(10 * time.Minute)
		c.expect("nobody is sent away", 3, 0)
	})
}

func TestPartitionFromAll(t *testing.T) {
	play(t, func(c *cluster) {
		c.add("a", 3)
		c.add("b", 3)
		c.pass(time.Second)
		c.set("a", 3, false)
		c.pass(70*time.Second + settle)
		c.expect("a dead zone", 3, 3)
		c.set("b", 3, false)
		c.pass(10 * time.Minute)
		c.expect("nobody is heard: nobody is sent away", 6, 0)
		c.set("b", 3, true)
		c.pass(31 * time.Second)
		c.expect("one zone is back, the other gets its turns", 3, 3)
		c.set("a", 3, true)
		c.pass(time.Second)
		c.expect("all are back", 0, 0)
	})
}
