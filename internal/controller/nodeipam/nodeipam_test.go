package nodeipam

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/record"
	"pgregory.net/rapid"

	"github.com/celox/celox/internal/controller/controllertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func cidr(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func TestPool(t *testing.T) {
	p := newPool(Range{cidr("10.42.0.0/22"), 24})
	p.occupy(cidr("10.42.1.0/24"))
	p.occupy(cidr("10.42.3.128/25")) // smaller than a part: the part is not free
	p.occupy(cidr("192.168.0.0/24")) // nobody's business
	var got []string
	for {
		n, ok := p.take()
		if !ok {
			break
		}
		got = append(got, n.String())
	}
	if want := []string{"10.42.0.0/24", "10.42.2.0/24"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	p.release(cidr("10.42.0.0/23"))
	p.occupy(cidr("10.42.0.0/24"))
	if n, ok := p.take(); !ok || n != cidr("10.42.1.0/24") {
		t.Errorf("got %v, %v", n, ok)
	}
	six := newPool(Range{cidr("fd00:42::/56"), 64})
	for i := range 256 {
		n, ok := six.take()
		if want := fmt.Sprintf("fd00:42:0:%x::/64", i); !ok || n != cidr(want) {
			t.Fatalf("got %v, want %s", n, want)
		}
	}
	if n, ok := six.take(); ok {
		t.Errorf("%v of a range that is used up", n)
	}
}

func TestRangesThatCannotBe(t *testing.T) {
	for _, r := range []Range{{}, {cidr("10.0.0.1/16"), 24}, {cidr("10.0.0.0/24"), 16}, {cidr("10.0.0.0/24"), 31}, {cidr("10.0.0.0/4"), 24}, {cidr("fd00::/32"), 64}} {
		if r.Check() == nil {
			t.Errorf("%v is accepted", r)
		}
	}
	if err := (Range{cidr("10.0.0.0/24"), 24}).Check(); err != nil {
		t.Errorf("one for one node: %v", err)
	}
}

// Whatever comes and goes, nothing is given out twice, and everything that is free can be had.
func TestPoolIsExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := newPool(Range{cidr("10.42.0.0/20"), 24})
		var held []netip.Prefix
		t.Repeat(map[string]func(*rapid.T){
			"take": func(t *rapid.T) {
				n, ok := p.take()
				if ok != (len(held) < 16) {
					t.Fatalf("%d of 16 are held, and one more: %t", len(held), ok)
				}
				if ok && slices.ContainsFunc(held, n.Overlaps) {
					t.Fatalf("%v is given out twice", n)
				}
				if ok {
					held = append(held, n)
				}
			},
			"release": func(t *rapid.T) {
				if len(held) == 0 {
					t.Skip("nothing is held")
				}
				i := rapid.IntRange(0, len(held)-1).Draw(t, "which")
				p.release(held[i])
				held = slices.Delete(held, i, i+1)
			},
		})
	})
}

func node(name string, cidrs ...string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{PodCIDRs: cidrs}}
	if len(cidrs) > 0 {
		n.Spec.PodCIDR = cidrs[0]
	}
	return n
}

type world struct {
	*controllertest.Env
	t      *testing.T
	events *record.FakeRecorder
}

func start(t *testing.T, ranges []Range, nodes ...*corev1.Node) *world {
	t.Helper()
	w := &world{Env: controllertest.Start(t), t: t, events: record.NewFakeRecorder(1000)}
	for _, n := range nodes {
		w.create(n)
	}
	c, err := New(Config{Client: w.Client, Informers: w.Informers, Recorder: w.events, Ranges: ranges, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	w.Run(t, c)
	return w
}

func (w *world) create(n *corev1.Node) {
	w.t.Helper()
	if _, err := w.Client.CoreV1().Nodes().Create(context.Background(), n, metav1.CreateOptions{}); err != nil {
		w.t.Fatal(err)
	}
}

// has waits until a node has networks.
func (w *world) has(name string, want ...string) []string {
	w.t.Helper()
	var got []string
	controllertest.Eventually(w.t, func() error {
		n, err := w.Client.CoreV1().Nodes().Get(context.Background(), name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if got = n.Spec.PodCIDRs; len(got) == 0 || n.Spec.PodCIDR != got[0] || want != nil && !slices.Equal(got, want) {
			return fmt.Errorf("node %s has %v, want %v", name, got, want)
		}
		return nil
	})
	return got
}

func TestNodesGetNetworks(t *testing.T) {
	t.Parallel()
	w := start(t, []Range{{cidr("10.42.0.0/22"), 24}, {cidr("fd42::/62"), 64}},
		node("old", "10.42.1.0/24", "fd42:0:0:1::/64"), node("plain"))
	w.has("plain", "10.42.0.0/24", "fd42::/64")
	w.create(node("third"))
	w.has("third", "10.42.2.0/24", "fd42:0:0:2::/64")
	w.create(node("fourth"))
	w.has("fourth", "10.42.3.0/24", "fd42:0:0:3::/64")

	// A fifth waits until somebody goes.
	w.create(node("fifth"))
	controllertest.Eventually(t, func() error {
		select {
		case e := <-w.events.Events:
			if e != "Normal CIDRNotAvailable Node fifth status is now: CIDRNotAvailable" {
				t.Errorf("event %q", e)
			}
			return nil
		default:
			return errors.New("no event says that nothing is left")
		}
	})
	if err := w.Client.CoreV1().Nodes().Delete(context.Background(), "old", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.has("fifth", "10.42.1.0/24", "fd42:0:0:1::/64")
}

func TestNeverTwice(t *testing.T) {
	t.Parallel()
	w := start(t, []Range{{cidr("10.42.0.0/19"), 24}})
	const nodes = 32
	for i := range nodes {
		w.create(node(fmt.Sprintf("n%d", i)))
		if i%5 == 4 { // some come and go at once
			if err := w.Client.CoreV1().Nodes().Delete(context.Background(), fmt.Sprintf("n%d", i), metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	seen := map[string]string{}
	for i := range nodes {
		if i%5 == 4 {
			continue
		}
		name := fmt.Sprintf("n%d", i)
		got := strings.Join(w.has(name), ",")
		if other := seen[got]; other != "" {
			t.Errorf("%s and %s both have %s", name, other, got)
		}
		seen[got] = name
	}
}

// TestNodesThatGo: one that is being deleted gets no network, and one whose end was heard of while it was given one gives it back.
func TestNodesThatGo(t *testing.T) {
	t.Parallel()
	e := controllertest.Start(t)
	w := &world{Env: e, t: t, events: record.NewFakeRecorder(1000)}
	going := node("going")
	going.Finalizers = []string{"example.com/keep"}
	w.create(going)
	if err := e.Client.CoreV1().Nodes().Delete(context.Background(), "going", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c, err := New(Config{Client: e.Client, Informers: e.Informers, Recorder: w.events, Ranges: []Range{{cidr("10.42.0.0/23"), 24}}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	w.Run(t, c)
	w.create(node("first"))
	w.has("first", "10.42.0.0/24")
	if n, err := e.Client.CoreV1().Nodes().Get(context.Background(), "going", metav1.GetOptions{}); err != nil || n.Spec.PodCIDR != "" {
		t.Errorf("the node that goes has %q, %v", n.Spec.PodCIDR, err)
	}
	// As if the informer had told of its end between the look and this.
	if got, ok := c.assign(node("late")); !ok || got[0] != cidr("10.42.1.0/24") {
		t.Fatalf("assigned %v", got)
	}
	w.create(node("second"))
	controllertest.Eventually(t, func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		if !c.waiting["second"] {
			return errors.New("the second node does not wait")
		}
		return nil
	})
	if err := c.Reconcile(context.Background(), "late"); err != nil { // which the failed write of its network would bring about
		t.Fatal(err)
	}
	w.has("second", "10.42.1.0/24")
	n, err := e.Client.CoreV1().Nodes().Get(context.Background(), "going", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	n.Finalizers = nil
	if _, err := e.Client.CoreV1().Nodes().Update(context.Background(), n, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.has("first", "10.42.0.0/24")
}
