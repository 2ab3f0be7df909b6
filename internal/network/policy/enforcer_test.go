package policy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/cache"

	"github.com/celox/celox/internal/client/informers"
)

// memory is a datapath that remembers.
type memory struct {
	mu       sync.Mutex
	has      string
	replaced int
	fail     error
	closed   bool
}

// show is a Desired in a line: each restricted address with what its chains say.
func show(d *Desired) string {
	var out []string
	for a, r := range d.Pods {
		for direction, c := range r {
			if c == closed {
				out = append(out, fmt.Sprintf("%v %v: closed", a, Direction(direction)))
			} else if c != "" {
				chain := d.Chains[c]
				var rules []string
				for _, rule := range slices.Concat(chain.Admin, chain.Rest) {
					text := "everybody"
					if rule.Set != "" {
						var members []string
						for e := range d.Sets[rule.Set].Elements {
							members = append(members, e.Addr.String())
						}
						slices.Sort(members)
						text = strings.Join(members, "+")
					}
					rules = append(rules, fmt.Sprint(text, " ", rule.Protocol, " ", rule.First, "-", rule.Last))
				}
				out = append(out, fmt.Sprintf("%v %v: %s", a, Direction(direction), strings.Join(rules, ", ")))
			}
		}
	}
	slices.Sort(out)
	return strings.Join(out, "; ")
}

func (m *memory) Replace(want *Desired) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail == nil {
		m.replaced++
		m.has = show(want)
	}
	return m.fail
}

func (m *memory) Update(want *Desired, _ *Dirty) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail == nil {
		m.has = show(want)
	}
	return m.fail
}

func (m *memory) Stands(*Desired) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.has != "", m.fail
}

func (m *memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	return nil
}

func (m *memory) set(fail error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail = fail
}

func (m *memory) look() (has string, replaced int) {
	time.Sleep(time.Second) // informers are looked at from time to time until they have listed
	synctest.Wait()
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.has, m.replaced
}

// bench is an enforcer for the node "here", in virtual time.
type bench struct {
	t         *testing.T
	ctx       context.Context
	client    *fake.Clientset
	e         *Enforcer
	path      *memory
	tampering chan struct{}
	peers     cache.SharedIndexInformer
	mu        sync.Mutex
	warnings  []string // guarded by mu
	run       func()
}

func podInformer(c *fake.Clientset) cache.SharedIndexInformer {
	return cache.NewSharedIndexInformer(cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, opts metav1.ListOptions) (runtime.Object, error) {
			return c.CoreV1().Pods("").List(ctx, opts)
		},
		WatchFuncWithContext: c.CoreV1().Pods("").Watch,
	}, c), &corev1.Pod{}, 0, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
}

func newBench(t *testing.T, objects ...runtime.Object) *bench {
	return newBenchWith(t, true, objects...)
}

// newBenchWith may have one informer for the pods of the node and those of others.
func newBenchWith(t *testing.T, twoInformers bool, objects ...runtime.Object) *bench {
	b, _ := newBenchKeeping(t, "", twoInformers, objects...)
	return b
}

// newBenchKeeping is one with a file. It ends with the test, or by end.
func newBenchKeeping(t *testing.T, keep string, twoInformers bool, objects ...runtime.Object) (_ *bench, end func()) {
	ctx, cancel := context.WithCancel(t.Context())
	b := &bench{t: t, ctx: ctx, client: fake.NewClientset(objects...), path: &memory{}, tampering: make(chan struct{}, 1)}
	f := informers.New(b.client)
	own := podInformer(b.client)
	if twoInformers {
		b.peers = podInformer(b.client)
	}
	var err error
	b.e, err = New(Config{
		NodeName: "here", Informers: f, Own: own, Peers: b.peers, Datapath: b.path, Tampering: b.tampering, Keep: keep, Log: slog.New(slog.DiscardHandler),
		Sandboxes: []Sandbox{{ID: "old", Namespace: "ns", Name: "old", Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}}, {ID: "lost", Namespace: "ns", Name: "lost", Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.2")}}},
		Warn: func(_ context.Context, p runtime.Object, message string) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.warnings = append(b.warnings, message)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	b.run = func() {
		f.StartWithContext(ctx)
		running.Go(func() { own.RunWithContext(ctx) })
	}
	running.Go(func() {
		if err := b.e.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	end = func() {
		cancel()
		running.Wait()
		f.Shutdown()
		if !b.path.closed {
			t.Error("the datapath is not closed")
		}
	}
	t.Cleanup(end)
	return b, end
}

func (b *bench) expect(want string) {
	b.t.Helper()
	if has, _ := b.path.look(); has != want {
		b.t.Fatalf("in force: %s\nwant: %s", has, want)
	}
}

func apiPod(namespace, n, node, addr string, l map[string]string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: n, Labels: l}, Spec: corev1.PodSpec{NodeName: node}}
	if addr != "" {
		p.Status.PodIPs = []corev1.PodIP{{IP: addr}}
	}
	return p
}

func apiPolicy(n string, spec networkingv1.NetworkPolicySpec) *networkingv1.NetworkPolicy {
	return &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: n}, Spec: spec}
}

// waits starts an Attach and returns what reports whether it has returned.
func (b *bench) waits(ctx context.Context, s Sandbox) (returned func() (bool, error)) {
	done := make(chan error, 1)
	go func() { done <- b.e.Attach(ctx, s) }()
	return func() (bool, error) {
		time.Sleep(time.Second)
		synctest.Wait()
		select {
		case err := <-done:
			return true, err
		default:
			return false, nil
		}
	}
}

func TestEnforcer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t,
			&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns"}},
			apiPod("ns", "old", "here", "10.0.0.1", map[string]string{"app": "web"}), apiPod("ns", "new", "here", "", map[string]string{"app": "web"}),
			apiPod("ns", "free", "here", "", map[string]string{"app": "free"}), apiPod("ns", "far", "there", "10.0.1.1", map[string]string{"app": "one"}),
			apiPolicy("one", networkingv1.NetworkPolicySpec{PodSelector: selects("web"), Ingress: []networkingv1.NetworkPolicyIngressRule{{From: from("one")}}}))
		early := b.waits(b.ctx, Sandbox{ID: "new", Namespace: "ns", Name: "new", Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.3")}})
		impatient, cancel := context.WithTimeout(b.ctx, time.Second)
		defer cancel()
		gaveUp := b.waits(impatient, Sandbox{ID: "free", Namespace: "ns", Name: "free", Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.4")}})
		time.Sleep(time.Minute)
		if yes, _ := early(); yes {
			t.Fatal("a pod is on the network before the policies have been read")
		}
		if yes, err := gaveUp(); !yes || !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("a pod that cannot wait: %v, %v", yes, err)
		}
		b.run()
		if yes, err := early(); !yes || err != nil {
			t.Fatalf("not yet: %v", err)
		}
		<-b.e.Working()
		const lost = "10.0.0.2 egress: closed; 10.0.0.2 ingress: closed"
		b.expect("10.0.0.1 ingress: 10.0.1.1 0 0-0; " + lost + "; 10.0.0.3 ingress: 10.0.1.1 0 0-0")
		b.e.Detach("lost")
		b.e.Detach("new")
		b.expect("10.0.0.1 ingress: 10.0.1.1 0 0-0")

		// A peer that comes and goes.
		if _, err := b.client.CoreV1().Pods("ns").Create(b.ctx, apiPod("ns", "far2", "there", "10.0.1.2", map[string]string{"app": "one"}), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		b.expect("10.0.0.1 ingress: 10.0.1.1+10.0.1.2 0 0-0")
		if err := b.client.CoreV1().Pods("ns").Delete(b.ctx, "far", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		b.expect("10.0.0.1 ingress: 10.0.1.2 0 0-0")

		// While the datapath fails nobody new gets on the network.
		b.path.set(errors.New("no"))
		late := b.waits(b.ctx, Sandbox{ID: "new2", Namespace: "ns", Name: "new", Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.5")}})
		time.Sleep(5 * time.Minute)
		if yes, _ := late(); yes {
			t.Fatal("a pod is on the network without its rules")
		}
		b.path.set(nil)
		time.Sleep(retryLast)
		if yes, err := late(); !yes || err != nil {
			t.Fatalf("not yet: %v", err)
		}
		b.expect("10.0.0.1 ingress: 10.0.1.2 0 0-0; 10.0.0.5 ingress: 10.0.1.2 0 0-0")

		// Somebody interferes.
		_, before := b.path.look()
		b.tampering <- struct{}{}
		if _, after := b.path.look(); after != before+1 {
			t.Errorf("made again %d times", after-before)
		}
		if err := b.client.NetworkingV1().NetworkPolicies("ns").Delete(b.ctx, "one", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		b.expect("")
	})
}

func TestPeersAreFollowedWhenNeeded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns"}}, apiPod("ns", "old", "here", "10.0.0.1", nil), apiPod("ns", "far", "there", "10.0.1.1", nil))
		b.run()
		b.expect("")
		if b.peers.HasSynced() {
			t.Error("the pods of all nodes are followed without a policy")
		}
		if _, err := b.client.NetworkingV1().NetworkPolicies("ns").Create(b.ctx, apiPolicy("all", networkingv1.NetworkPolicySpec{
			Ingress: []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{{PodSelector: &metav1.LabelSelector{}}}}},
		}), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		b.expect("10.0.0.1 ingress: 10.0.0.1+10.0.1.1 0 0-0; 10.0.0.2 egress: closed; 10.0.0.2 ingress: closed")
	})
}

// TestOneInformer is a server's node, whose informer has all pods.
func TestOneInformer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBenchWith(t, false, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns"}}, apiPod("ns", "old", "here", "10.0.0.1", nil), apiPod("ns", "far", "there", "10.0.1.1", nil))
		b.run()
		b.expect("")
		if _, err := b.client.NetworkingV1().NetworkPolicies("ns").Create(b.ctx, apiPolicy("all", networkingv1.NetworkPolicySpec{
			Ingress: []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{{PodSelector: &metav1.LabelSelector{}}}}},
		}), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		b.expect("10.0.0.1 ingress: 10.0.0.1+10.0.1.1 0 0-0; 10.0.0.2 egress: closed; 10.0.0.2 ingress: closed")
	})
}

func TestWarnings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sctp := corev1.ProtocolSCTP
		p := apiPolicy("sctp", networkingv1.NetworkPolicySpec{Ingress: []networkingv1.NetworkPolicyIngressRule{{Ports: []networkingv1.NetworkPolicyPort{{Protocol: &sctp}}}}})
		b := newBench(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns"}}, p)
		b.run()
		expect := func(want ...string) {
			t.Helper()
			time.Sleep(time.Second)
			synctest.Wait()
			b.mu.Lock()
			defer b.mu.Unlock()
			if !maps.Equal(count(b.warnings), count(want)) {
				t.Errorf("warnings %q, want %q", b.warnings, want)
			}
		}
		expect(errNoSCTP.Error())
		p.Labels = map[string]string{"changed": "a little"}
		if _, err := b.client.NetworkingV1().NetworkPolicies("ns").Update(b.ctx, p, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		expect(errNoSCTP.Error())
		bad := p.DeepCopy()
		bad.Spec.PodSelector.MatchExpressions = []metav1.LabelSelectorRequirement{{Key: "x", Operator: "Like"}}
		if _, err := b.client.NetworkingV1().NetworkPolicies("ns").Update(b.ctx, bad, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		expect(errNoSCTP.Error(), "podSelector: \"Like\" is not a valid label selector operator\n"+errNoSCTP.Error())
	})
}

func count(list []string) map[string]int {
	out := map[string]int{}
	for _, s := range list {
		out[s]++
	}
	return out
}

// wipe is somebody who removes everything.
func (m *memory) wipe() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.has = ""
}
