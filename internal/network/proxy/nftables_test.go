package proxy

import (
	"fmt"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"github.com/google/nftables"
	corev1 "k8s.io/api/core/v1"

	"github.com/celox/celox/internal/network/networktest"
)

// stage is a node with two pods and a machine outside.
type stage struct {
	t             *testing.T
	node, outside *networktest.Machine
	pods          []*networktest.Machine
	d             *NFTables
	all           map[Key]*Frontend
}

func newStage(t *testing.T) *stage {
	t.Parallel()
	s := &stage{t: t, node: networktest.NewMachine(t, "node"), outside: networktest.NewMachine(t, "outside"), all: map[Key]*Frontend{}}
	s.node.Forward()
	networktest.Wire(s.node, s.outside, []string{"192.168.7.1/24", "fd07::1/64"}, []string{"192.168.7.2/24", "fd07::2/64"})
	// The node's way out is the machine that asks, which would be told that it is a shorter way to services itself.
	for _, key := range []string{"ipv4/conf/all/send_redirects", "ipv4/conf/outside/send_redirects"} {
		s.node.Sysctl(key, "0")
	}
	s.outside.Sysctl("ipv6/conf/node/accept_redirects", "0")
	s.outside.Route("10.43.0.0/16", "192.168.7.1")
	s.outside.Route("fd43::/64", "fd07::1")
	s.node.Route("default", "192.168.7.2")
	s.node.Route("default", "fd07::2")
	for i := range 3 {
		p := networktest.NewMachine(t, fmt.Sprint("pod", i))
		networktest.Wire(s.node, p, []string{fmt.Sprintf("10.42.%d.1/24", i), fmt.Sprintf("fd42:%d::1/64", i)},
			[]string{fmt.Sprintf("10.42.%d.2/24", i), fmt.Sprintf("fd42:%d::2/64", i)})
		p.Route("default", fmt.Sprintf("10.42.%d.1", i))
		p.Route("default", fmt.Sprintf("fd42:%d::1", i))
		p.Echo(8080)
		s.pods = append(s.pods, p)
	}
	s.node.Must(func() (err error) {
		s.d, err = NewNFTables(func() []netip.Prefix {
			return []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16"), netip.MustParsePrefix("fd42::/16")}
		}, slog.New(slog.DiscardHandler))
		return err
	})
	t.Cleanup(func() {
		if err := s.d.Close(); err != nil {
			t.Error(err)
		}
	})
	s.check(s.d.Replace(s.all))
	return s
}

func (s *stage) check(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// set changes frontends by address or port.
func (s *stage) set(f *Frontend, keys ...Key) {
	s.t.Helper()
	changed := map[Key]*Frontend{}
	for _, k := range keys {
		changed[k] = f
		s.all[k] = f
		if f == nil {
			delete(s.all, k)
		}
	}
	s.check(s.d.Update(changed))
}

func key(proto corev1.Protocol, addr string) Key {
	a := netip.MustParseAddrPort(addr)
	return Key{Addr: a.Addr(), Protocol: proto, Port: a.Port()}
}

// endpoints are pods by their number.
func endpoints(v6 bool, pods ...int) []Endpoint {
	var out []Endpoint
	for _, i := range pods {
		a := netip.MustParseAddr(fmt.Sprintf("10.42.%d.2", i))
		if v6 {
			a = netip.MustParseAddr(fmt.Sprintf("fd42:%d::2", i))
		}
		out = append(out, Endpoint{Addr: netip.AddrPortFrom(a, 8080), Local: true})
	}
	return out
}

// reaches calls until all of want have answered, and fails if anybody else does. It returns the address that the last one saw.
func (s *stage) reaches(from *networktest.Machine, network, addr string, want ...string) string {
	s.t.Helper()
	missing := map[string]bool{}
	for _, w := range want {
		missing[w] = true
	}
	last := ""
	for range 200 {
		who, seen, err := from.Call(network, addr)
		if err != nil {
			s.t.Fatalf("%s → %s: %v", from.Name, addr, err)
		}
		known := false
		for _, w := range want {
			known = known || w == who
		}
		if !known {
			s.t.Fatalf("%s → %s: %s answers", from.Name, addr, who)
		}
		delete(missing, who)
		if last = seen; len(missing) == 0 {
			return last
		}
	}
	s.t.Fatalf("%s → %s: %v never answer", from.Name, addr, missing)
	return ""
}

// refused expects an answer that says no, which comes at once.
func (s *stage) refused(from *networktest.Machine, network, addr string) {
	s.t.Helper()
	who, _, err := from.CallFor(time.Minute, network, addr)
	if err == nil {
		s.t.Fatalf("%s → %s: %s answers", from.Name, addr, who)
	}
	if ne, ok := err.(interface{ Timeout() bool }); ok && ne.Timeout() {
		s.t.Fatalf("%s → %s: %v instead of a refusal", from.Name, addr, err)
	}
}

// silent expects no answer at all.
func (s *stage) silent(from *networktest.Machine, network, addr string) {
	s.t.Helper()
	if who, _, err := from.CallFor(300*time.Millisecond, network, addr); err == nil {
		s.t.Fatalf("%s → %s: %s answers", from.Name, addr, who)
	} else if ne, ok := err.(interface{ Timeout() bool }); !ok || !ne.Timeout() {
		s.t.Fatalf("%s → %s: %v instead of silence", from.Name, addr, err)
	}
}

func TestClusterAddress(t *testing.T) {
	s := newStage(t)
	for _, v6 := range []bool{false, true} {
		addr, node, pod := "10.43.0.10:80", "10.42.1.1", "10.42.1.2"
		if v6 {
			addr, node, pod = "[fd43::10]:80", "fd42:1::1", "fd42:1::2"
		}
		tcp, udp := key(corev1.ProtocolTCP, addr), key(corev1.ProtocolUDP, addr)
		s.set(&Frontend{Cluster: true, Endpoints: endpoints(v6, 0, 1)}, tcp, udp)
		for _, network := range []string{"tcp", "udp"} {
			s.reaches(s.pods[2], network, addr, "pod0", "pod1")
			s.reaches(s.outside, network, addr, "pod0", "pod1")
			s.reaches(s.node, network, addr, "pod0", "pod1")
			s.reaches(s.pods[0], network, addr, "pod0", "pod1") // itself, too
		}
		s.set(&Frontend{Cluster: true, Endpoints: endpoints(v6, 1)}, tcp, udp)
		for _, network := range []string{"tcp", "udp"} {
			if seen := s.reaches(s.pods[2], network, addr, "pod1"); seen != map[bool]string{false: "10.42.2.2", true: "fd42:2::2"}[v6] {
				t.Errorf("a pod is seen as %s", seen)
			}
			if seen := s.reaches(s.outside, network, addr, "pod1"); seen != node {
				t.Errorf("a stranger is seen as %s", seen)
			}
			if seen := s.reaches(s.pods[1], network, addr, "pod1"); seen != node {
				t.Errorf("itself is seen as %s (%s)", seen, pod)
			}
		}
		// Another port of the address, and the address without endpoints.
		other := netip.AddrPortFrom(tcp.Addr, 81).String()
		s.refused(s.pods[2], "tcp", other)
		s.set(&Frontend{Cluster: true}, tcp, udp)
		for _, from := range []*networktest.Machine{s.pods[2], s.outside, s.node} {
			s.refused(from, "tcp", addr)
			s.refused(from, "udp", addr)
		}
		s.set(&Frontend{Cluster: true, Drop: true}, tcp)
		s.silent(s.pods[2], "tcp", addr)
		s.set(&Frontend{Cluster: true, Endpoints: endpoints(v6, 2)}, tcp, udp)
		s.reaches(s.pods[0], "tcp", addr, "pod2")
		s.set(nil, tcp, udp)
	}
	s.empty()
}

// empty checks that nothing of any frontend is left in the kernel.
func (s *stage) empty() {
	s.t.Helper()
	for _, r := range s.d.families {
		for name, set := range r.sets {
			if name == setPods || name == mapAffinity || name == mapRoutes || name == mapFates {
				continue
			}
			elements, err := r.conn.GetSetElements(set)
			if err != nil || len(elements) != 0 {
				s.t.Errorf("%s: %d elements are left: %v", name, len(elements), err)
			}
		}
	}
}

func TestNodePort(t *testing.T) {
	s := newStage(t)
	np := key(corev1.ProtocolTCP, "0.0.0.0:30080")
	s.set(&Frontend{Endpoints: endpoints(false, 0, 1)}, np)
	for _, addr := range []string{"192.168.7.1:30080", "10.42.0.1:30080"} {
		if seen := s.reaches(s.outside2(addr), "tcp", addr, "pod0", "pod1"); seen == "192.168.7.2" {
			t.Errorf("a stranger keeps its address on the way to any endpoint")
		}
		s.reaches(s.pods[2], "tcp", addr, "pod0", "pod1")
		s.reaches(s.node, "tcp", addr, "pod0", "pod1")
	}
	// Only local endpoints, with the client's own address.
	remote := Endpoint{Addr: netip.MustParseAddrPort("10.42.1.2:8080")}
	s.set(&Frontend{Endpoints: append(endpoints(false, 0), remote), LocalOnly: true, LocalEndpoints: endpoints(false, 0)}, np)
	if seen := s.reaches(s.outside, "tcp", "192.168.7.1:30080", "pod0"); seen != "192.168.7.2" {
		t.Errorf("a stranger is seen as %s", seen)
	}
	for range 10 {
		s.reaches(s.outside, "tcp", "192.168.7.1:30080", "pod0")
	}
	s.reaches(s.pods[2], "tcp", "192.168.7.1:30080", "pod0", "pod1")
	s.reaches(s.node, "tcp", "192.168.7.1:30080", "pod0", "pod1")
	s.set(&Frontend{Endpoints: []Endpoint{remote}, LocalOnly: true}, np)
	s.silent(s.outside, "tcp", "192.168.7.1:30080")
	s.reaches(s.pods[2], "tcp", "192.168.7.1:30080", "pod1")
	s.set(&Frontend{LocalOnly: true}, np)
	s.refused(s.outside, "tcp", "192.168.7.1:30080")
	s.set(nil, np)
	s.empty()
}

// outside2 is who asks for an address: the pods' gateways are not reached from outside here.
func (s *stage) outside2(addr string) *networktest.Machine {
	if addr == "192.168.7.1:30080" {
		return s.outside
	}
	return s.node
}

func TestAffinity(t *testing.T) {
	s := newStage(t)
	for _, addr := range []string{"10.43.0.11:80", "[fd43::11]:80"} {
		k := key(corev1.ProtocolTCP, addr)
		s.set(&Frontend{Cluster: true, Endpoints: endpoints(k.Addr.Is6(), 0, 1), Affinity: time.Hour}, k)
		first, _, err := s.outside.Call("tcp", addr)
		s.check(err)
		for range 20 {
			s.reaches(s.outside, "tcp", addr, first)
		}
		other := map[string]int{"pod0": 1, "pod1": 0}[first]
		s.set(&Frontend{Cluster: true, Endpoints: endpoints(k.Addr.Is6(), other), Affinity: time.Hour}, k)
		s.reaches(s.outside, "tcp", addr, fmt.Sprint("pod", other))
		s.set(&Frontend{Cluster: true, Endpoints: endpoints(k.Addr.Is6(), 0, 1)}, k)
		s.reaches(s.outside, "tcp", addr, "pod0", "pod1")
	}
}

func TestSourceRanges(t *testing.T) {
	s := newStage(t)
	k := key(corev1.ProtocolTCP, "10.43.9.9:80")
	s.set(&Frontend{Endpoints: endpoints(false, 0), Sources: []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16")}}, k)
	s.silent(s.outside, "tcp", "10.43.9.9:80")
	s.reaches(s.pods[1], "tcp", "10.43.9.9:80", "pod0")
	s.reaches(s.node, "tcp", "10.43.9.9:80", "pod0")
	s.set(&Frontend{Endpoints: endpoints(false, 0), Sources: []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16"), netip.MustParsePrefix("192.168.7.2/32")}}, k)
	s.reaches(s.outside, "tcp", "10.43.9.9:80", "pod0")
	s.set(nil, k)
	s.empty()
}

// TestUDPFollows keeps one socket: its packets go to another endpoint as soon as the first is gone.
func TestUDPFollows(t *testing.T) {
	s := newStage(t)
	k := key(corev1.ProtocolUDP, "10.43.0.53:53")
	s.set(&Frontend{Cluster: true, Endpoints: endpoints(false, 0)}, k)
	talk, answer := s.outside.Talk("udp", "10.43.0.53:53")
	s.check(talk())
	if who := answer(); who != "pod0" {
		t.Fatal(who)
	}
	s.set(&Frontend{Cluster: true, Endpoints: endpoints(false, 1)}, k)
	s.check(talk())
	if who := answer(); who != "pod1" {
		t.Fatal(who)
	}
}

func TestReplaceTakesOver(t *testing.T) {
	s := newStage(t)
	a, b := key(corev1.ProtocolTCP, "10.43.0.1:80"), key(corev1.ProtocolTCP, "10.43.0.2:80")
	s.set(&Frontend{Cluster: true, Endpoints: endpoints(false, 0)}, a)
	// Another process begins, with what another has made in place.
	var second *NFTables
	s.node.Must(func() (err error) {
		second, err = NewNFTables(func() []netip.Prefix { return nil }, slog.New(slog.DiscardHandler))
		return err
	})
	defer second.Close()
	s.check(second.Replace(map[Key]*Frontend{b: {Cluster: true, Endpoints: endpoints(false, 1)}}))
	s.reaches(s.outside, "tcp", "10.43.0.2:80", "pod1")
	s.silentOrRefused("10.43.0.1:80")
	if ok, err := s.d.Intact(); ok || err != nil {
		t.Errorf("the first is intact: %v %v", ok, err)
	}
	if ok, err := second.Intact(); !ok || err != nil {
		t.Errorf("the second is not: %v %v", ok, err)
	}
	tables := 0
	s.node.Must(func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		all, err := conn.ListTables()
		tables = len(all)
		return err
	})
	if tables != 2 {
		t.Errorf("%d tables", tables)
	}
	s.check(second.Replace(nil))
	s.node.Must(Remove)
	if ok, err := second.Intact(); ok || err != nil {
		t.Errorf("intact after its end: %v %v", ok, err)
	}
}

func (s *stage) silentOrRefused(addr string) {
	s.t.Helper()
	if who, _, err := s.outside.CallFor(300*time.Millisecond, "tcp", addr); err == nil {
		s.t.Fatalf("%s answers", who)
	}
}
