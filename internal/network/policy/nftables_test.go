package policy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/yaml"

	"github.com/celox/celox/internal/network/networktest"
)

// stage is a node with three pods and a machine outside. The first pod is labelled app=web and has the port 8080 as "http"; the others are app=one and app=two.
type stage struct {
	t             *testing.T
	node, outside *networktest.Machine
	pods          []*networktest.Machine
	d             *NFTables
	s             *state
}

func newStage(t *testing.T) *stage {
	t.Parallel()
	s := &stage{t: t, node: networktest.NewMachine(t, "node"), outside: networktest.NewMachine(t, "outside"), s: newState()}
	s.node.Forward()
	networktest.Wire(s.node, s.outside, []string{"192.168.7.1/24", "fd07::1/64"}, []string{"192.168.7.2/24", "fd07::2/64"})
	s.outside.Route("10.42.0.0/16", "192.168.7.1")
	s.outside.Route("fd42::/16", "fd07::1")
	s.outside.Echo(8080)
	s.s.setNamespace("default", true, map[string]string{"kubernetes.io/metadata.name": "default"})
	for i, app := range []string{"web", "one", "two"} {
		p := networktest.NewMachine(t, fmt.Sprint("pod", i))
		networktest.Wire(s.node, p, []string{fmt.Sprintf("10.42.%d.1/24", i), fmt.Sprintf("fd42:%d::1/64", i)},
			[]string{fmt.Sprintf("10.42.%d.2/24", i), fmt.Sprintf("fd42:%d::2/64", i)})
		p.Route("default", fmt.Sprintf("10.42.%d.1", i))
		p.Route("default", fmt.Sprintf("fd42:%d::1", i))
		p.Echo(8080)
		p.Echo(9090)
		s.pods = append(s.pods, p)
		addrs := []netip.Addr{netip.MustParseAddr(fmt.Sprintf("10.42.%d.2", i)), netip.MustParseAddr(fmt.Sprintf("fd42:%d::2", i))}
		s.s.attach(p.Name, name{"default", p.Name}, addrs)
		s.s.setPod(name{"default", p.Name}, &pod{labels: map[string]string{"app": app}, addrs: addrs, ports: []namedPort{{"http", 6, 8080}}})
	}
	s.node.Must(func() (err error) {
		s.d, err = NewNFTables()
		return err
	})
	t.Cleanup(func() {
		if err := s.d.Close(); err != nil {
			t.Error(err)
		}
	})
	s.s.settle()
	s.check(s.d.Replace(s.s.desired))
	return s
}

func (s *stage) check(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// policy sets a policy of the namespace, or removes it.
func (s *stage) policy(n string, spec *networkingv1.NetworkPolicySpec) {
	s.t.Helper()
	var p *policy
	if spec != nil {
		var err error
		p, err = parse(&networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: n}, Spec: *spec})
		s.check(err)
	}
	s.s.setPolicy(name{"default", n}, p)
	s.check(s.d.Update(s.s.desired, s.s.settle()))
}

// calls is a pod's echo, in both families.
func calls(machine string, port int) []string {
	switch machine {
	case "outside":
		return []string{fmt.Sprintf("192.168.7.2:%d", port), fmt.Sprintf("[fd07::2]:%d", port)}
	}
	i := machine[len("pod"):]
	return []string{fmt.Sprintf("10.42.%s.2:%d", i, port), fmt.Sprintf("[fd42:%s::2]:%d", i, port)}
}

func (s *stage) reaches(from, to *networktest.Machine, port int) {
	s.t.Helper()
	for _, addr := range calls(to.Name, port) {
		for _, network := range []string{"tcp", "udp"} {
			s.reachesOver(from, network, addr, to.Name)
		}
	}
}

// reachesOver calls until there is an answer: addresses that were made a moment ago are slow to be found.
func (s *stage) reachesOver(from *networktest.Machine, network, addr, want string) {
	s.t.Helper()
	var last error
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		who, _, err := from.CallFor(5*time.Second, network, addr)
		if err == nil && who == want {
			return
		}
		if last = err; err == nil {
			s.t.Fatalf("%s → %s over %s: %s answers", from.Name, addr, network, who)
		}
	}
	s.t.Fatalf("%s → %s over %s: %v", from.Name, addr, network, last)
}

// silent expects no answer from any of them.
func (s *stage) silent(from, to *networktest.Machine, port int) {
	s.t.Helper()
	for _, addr := range calls(to.Name, port) {
		for _, network := range []string{"tcp", "udp"} {
			s.silentOver(from, network, addr)
		}
	}
}

func (s *stage) silentOver(from *networktest.Machine, network, addr string) {
	s.t.Helper()
	who, _, err := from.CallFor(100*time.Millisecond, network, addr)
	if err == nil {
		s.t.Fatalf("%s → %s over %s: %s answers", from.Name, addr, network, who)
	}
	if ne, ok := err.(interface{ Timeout() bool }); !ok || !ne.Timeout() {
		s.t.Fatalf("%s → %s: %v instead of silence", from.Name, addr, err)
	}
}

func selects(app string) metav1.LabelSelector {
	return metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}
}

func from(app string) []networkingv1.NetworkPolicyPeer {
	sel := selects(app)
	return []networkingv1.NetworkPolicyPeer{{PodSelector: &sel}}
}

func TestIngress(t *testing.T) {
	s := newStage(t)
	web, one, two := s.pods[0], s.pods[1], s.pods[2]
	s.reaches(one, web, 8080)
	s.policy("deny", &networkingv1.NetworkPolicySpec{PodSelector: selects("web")})
	s.silent(one, web, 8080)
	s.silent(s.outside, web, 8080)
	s.reaches(s.node, web, 8080) // as the kubelet does
	s.reaches(web, one, 8080)    // replies come back
	s.reaches(web, s.outside, 8080)
	s.reaches(one, two, 8080)
	s.policy("one", &networkingv1.NetworkPolicySpec{PodSelector: selects("web"), Ingress: []networkingv1.NetworkPolicyIngressRule{{From: from("one")}}})
	s.reaches(one, web, 8080)
	s.silent(two, web, 8080)
	http := intstr.FromString("http")
	s.policy("one", &networkingv1.NetworkPolicySpec{PodSelector: selects("web"), Ingress: []networkingv1.NetworkPolicyIngressRule{{
		From:  from("one"),
		Ports: []networkingv1.NetworkPolicyPort{{Port: &http}},
	}}})
	s.reachesOver(one, "tcp", "10.42.0.2:8080", "pod0")
	s.silentOver(one, "udp", "10.42.0.2:8080")
	s.silentOver(one, "tcp", "10.42.0.2:9090")
	s.policy("one", nil)
	s.silent(one, web, 8080)
	s.policy("deny", nil)
	s.reaches(one, web, 8080)
	s.tables(0)
}

// tables counts what is there of ours.
func (s *stage) tables(want int) {
	s.t.Helper()
	n := 0
	for _, r := range s.d.families {
		all, err := s.d.socket.tables(r.number)
		s.check(err)
		n += len(all)
	}
	if n != want {
		s.t.Errorf("%d tables, want %d", n, want)
	}
}

func TestEgress(t *testing.T) {
	s := newStage(t)
	web, one, two := s.pods[0], s.pods[1], s.pods[2]
	s.policy("shut", &networkingv1.NetworkPolicySpec{PodSelector: selects("one"), PolicyTypes: []networkingv1.PolicyType{"Egress"}})
	s.silent(one, web, 8080)
	s.silent(one, s.outside, 8080)
	s.reaches(two, one, 8080) // whose answers are no egress
	s.reaches(s.outside, one, 8080)
	s.reaches(one, one, 8080)
	http := intstr.FromString("http")
	udp := corev1.ProtocolUDP
	first, last := intstr.FromInt32(8000), int32(8080)
	s.policy("some", &networkingv1.NetworkPolicySpec{PodSelector: selects("one"), PolicyTypes: []networkingv1.PolicyType{"Egress"}, Egress: []networkingv1.NetworkPolicyEgressRule{
		{To: from("web"), Ports: []networkingv1.NetworkPolicyPort{{Port: &http}}}, // TCP 8080, as web has it
		{To: []networkingv1.NetworkPolicyPeer{{IPBlock: &networkingv1.IPBlock{CIDR: "192.168.0.0/16", Except: []string{"192.168.7.0/31"}}}},
			Ports: []networkingv1.NetworkPolicyPort{{Protocol: &udp, Port: &first, EndPort: &last}}},
		{To: []networkingv1.NetworkPolicyPeer{{IPBlock: &networkingv1.IPBlock{CIDR: "::/0", Except: []string{"fd42:2::/64"}}}}},
	}})
	s.reachesOver(one, "tcp", "10.42.0.2:8080", "pod0")
	s.silentOver(one, "udp", "10.42.0.2:8080")
	s.silentOver(one, "tcp", "10.42.0.2:9090")
	s.silentOver(one, "tcp", "10.42.2.2:8080")
	s.reachesOver(one, "udp", "192.168.7.2:8080", "outside")
	s.silentOver(one, "tcp", "192.168.7.2:8080")
	s.reachesOver(one, "tcp", "[fd07::2]:8080", "outside")
	s.reachesOver(one, "udp", "[fd42:0::2]:9090", "pod0")
	s.silentOver(one, "tcp", "[fd42:2::2]:8080")
	// A pod that gets the port, and one that loses it.
	both := []netip.Addr{netip.MustParseAddr("10.42.2.2"), netip.MustParseAddr("fd42:2::2")}
	s.s.setPod(name{"default", "pod2"}, &pod{labels: map[string]string{"app": "web"}, addrs: both, ports: []namedPort{{"http", 6, 9090}}})
	s.s.setPod(name{"default", "pod0"}, nil)
	s.check(s.d.Update(s.s.desired, s.s.settle()))
	s.reachesOver(one, "tcp", "10.42.2.2:9090", "pod2")
	s.silentOver(one, "tcp", "10.42.2.2:8080")
	s.silentOver(one, "tcp", "10.42.0.2:8080")
}

// talk opens one connection over UDP to pod0, and returns what says something on it and reports whether the pod answers.
func (s *stage) talk(from *networktest.Machine, addr string) (answered func() bool) {
	s.t.Helper()
	var c net.Conn
	from.Must(func() (err error) {
		c, err = (&net.Dialer{FallbackDelay: -1}).Dial("udp", addr)
		return err
	})
	s.t.Cleanup(func() { c.Close() })
	return func() bool {
		s.t.Helper()
		_, err := c.Write([]byte("hello"))
		s.check(err)
		s.check(c.SetReadDeadline(time.Now().Add(200 * time.Millisecond)))
		_, err = c.Read(make([]byte, 100))
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			s.t.Fatal(err)
		}
		return err == nil
	}
}

// until waits until something is so.
func (s *stage) until(what string, so func() bool) {
	s.t.Helper()
	for end := time.Now().Add(time.Minute); !so(); {
		if time.Now().After(end) {
			s.t.Fatalf("still not: %s", what)
		}
	}
}

// TestStandingConnections keeps connections open over changes.
func TestStandingConnections(t *testing.T) {
	s := newStage(t)
	web, one := s.pods[0], s.pods[1]
	for _, addr := range []string{"10.42.0.2:8080", "[fd42:0::2]:8080"} {
		answered := s.talk(one, addr)
		s.until("an answer", answered)
		s.policy("deny", &networkingv1.NetworkPolicySpec{PodSelector: selects("web")})
		// An answer may have been on its way; none comes after it.
		s.until("silence", func() bool { return !answered() })
		if answered() {
			t.Fatalf("%s answers over what stood before", addr)
		}
		s.reaches(web, one, 8080) // replies to what the pod begins pass
		s.policy("deny", nil)
		s.until("an answer again", answered)
		// Egress of the client cuts it as well.
		s.policy("shut", &networkingv1.NetworkPolicySpec{PodSelector: selects("one"), PolicyTypes: []networkingv1.PolicyType{"Egress"}})
		s.until("silence", func() bool { return !answered() })
		if answered() {
			t.Fatalf("%s answers over what stood before", addr)
		}
		s.policy("shut", nil)
	}
}

func TestClusterTiers(t *testing.T) {
	s := newStage(t)
	web, one, two := s.pods[0], s.pods[1], s.pods[2]
	set := func(n, spec string) {
		t.Helper()
		var p *policy
		if spec != "" {
			in := &ClusterNetworkPolicy{}
			s.check(yaml.UnmarshalStrict([]byte("spec: "+spec), in))
			var err error
			p, err = parseCluster(in, true)
			s.check(err)
		}
		s.s.setClusterPolicy(n, p)
		s.check(s.d.Update(s.s.desired, s.s.settle()))
	}
	const all = "{namespaces: {}}"
	set("base", `{tier: Baseline, priority: 0, subject: `+all+`, ingress: [{action: Deny, from: [`+all+`]}]}`)
	s.silent(one, web, 8080)
	s.reaches(s.outside, web, 8080) // which is no pod
	s.policy("one", &networkingv1.NetworkPolicySpec{PodSelector: selects("web"), Ingress: []networkingv1.NetworkPolicyIngressRule{{From: from("one")}}})
	s.reaches(one, web, 8080) // instead of the tier below
	s.silent(s.outside, web, 8080)
	set("admin", `{tier: Admin, priority: 5, subject: `+all+`, ingress: [{action: Deny, from: [{pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: one}}}}], protocols: [{tcp: {destinationPort: {number: 9090}}}]}]}`)
	s.silentOver(one, "tcp", "10.42.0.2:9090")
	s.reachesOver(one, "tcp", "10.42.0.2:8080", "pod0")
	s.reachesOver(one, "udp", "10.42.0.2:9090", "pod0")
	set("before", `{tier: Admin, priority: 4, subject: `+all+`, ingress: [{action: Pass, from: [{namespaces: {}}]}]}`)
	s.reaches(one, web, 9090)
	s.silent(two, web, 8080)
	set("first", `{tier: Admin, priority: 0, subject: `+all+`, ingress: [{action: Accept, from: [{pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: two}}}}]}]}`)
	s.reaches(two, web, 8080)
	s.reaches(two, one, 8080)
	s.silent(web, one, 8080) // passed down to the baseline
	for _, n := range []string{"base", "admin", "before", "first"} {
		set(n, "")
	}
	s.policy("one", nil)
	s.reaches(web, one, 8080)
	s.tables(0)
}

// TestTakeOver has a second process begin, and somebody else interfere.
func TestTakeOver(t *testing.T) {
	s := newStage(t)
	web, one := s.pods[0], s.pods[1]
	s.policy("deny", &networkingv1.NetworkPolicySpec{PodSelector: selects("web")})
	s.tables(2)
	var second *NFTables
	var watch *Watch
	s.node.Must(func() (err error) {
		if second, err = NewNFTables(); err != nil {
			return err
		}
		watch, err = NewWatch(second.Port())
		return err
	})
	defer second.Close()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- watch.Run(ctx) }()
	defer func() {
		cancel()
		s.check(<-ended)
	}()
	s.silent(one, web, 8080)
	s.check(second.Replace(s.s.desired))
	s.tables(2)
	s.silent(one, web, 8080)
	// What is begun and never finished, as by a process that is killed, is of no effect and goes with the next.
	r := newRuleset(ipv4, s.d.socket)
	r.batch.table = tablePrefix + "9"
	r.batch.reset()
	r.batch.newTable()
	r.fixed()
	s.check(r.socket.send(&r.batch))
	s.tables(3)
	s.silent(one, web, 8080)
	for _, interfere := range []func(b *batch){
		func(b *batch) { b.deleteTable(second.families[0].batch.table) },
		func(b *batch) {
			b.table = second.families[0].batch.table
			b.elements(mapIngress, false, once(func() { b.element(0, []byte{10, 42, 0, 2}, nil) }))
		},
	} {
		for drained := false; !drained; { // news of what the first process did
			select {
			case <-watch.C():
			case <-time.After(200 * time.Millisecond):
				drained = true
			}
		}
		b := &batch{family: ipv4.number}
		b.reset()
		interfere(b)
		s.check(s.d.socket.send(b))
		<-watch.C()
		s.check(second.Replace(s.s.desired))
		s.silent(one, web, 8080)
		s.tables(2)
	}
	s.node.Must(Remove)
	s.tables(0)
	s.reaches(one, web, 8080)
}

// once writes one element.
func once(write func()) func() bool {
	written := false
	return func() bool {
		if written {
			return false
		}
		written = true
		write()
		return true
	}
}

// TestMany has more elements than one message may.
func TestMany(t *testing.T) {
	s := newStage(t)
	for i := range 3000 {
		n := name{"default", fmt.Sprint("far", i)}
		a := netip.AddrFrom4([4]byte{10, 50, byte(i >> 8), byte(i)})
		s.s.setPod(n, &pod{labels: map[string]string{"app": "far"}, addrs: []netip.Addr{a}})
	}
	s.policy("far", &networkingv1.NetworkPolicySpec{PodSelector: selects("web"), Ingress: []networkingv1.NetworkPolicyIngressRule{{From: from("far")}}})
	s.silent(s.pods[1], s.pods[0], 8080)
	for i := range 3000 { // the pods go, and one of ours becomes one of them
		s.s.setPod(name{"default", fmt.Sprint("far", i)}, nil)
	}
	s.s.setPod(name{"default", "pod1"}, &pod{labels: map[string]string{"app": "far"}, addrs: []netip.Addr{netip.MustParseAddr("10.42.1.2"), netip.MustParseAddr("fd42:1::2")}})
	s.check(s.d.Update(s.s.desired, s.s.settle()))
	s.reaches(s.pods[1], s.pods[0], 8080)
	s.silent(s.pods[2], s.pods[0], 8080)
}

func TestErrors(t *testing.T) {
	s := newStage(t)
	b := &batch{family: ipv4.number, table: "not-there"}
	b.reset()
	b.newChain("x")
	if err := s.d.socket.send(b); !errors.Is(err, unix.ENOENT) {
		t.Errorf("a chain in no table: %v", err)
	}
	// The next transaction gets its own answer.
	s.policy("deny", &networkingv1.NetworkPolicySpec{PodSelector: selects("web")})
	s.silent(s.pods[1], s.pods[0], 8080)
}
