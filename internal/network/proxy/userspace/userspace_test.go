package userspace

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"

	"github.com/celox/celox/internal/network/dump"
	"github.com/celox/celox/internal/network/networktest"
	"github.com/celox/celox/internal/network/proxy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// stage is a node with three pods, a neighbour that is another node, and a machine outside.
type stage struct {
	t             *testing.T
	node, outside *networktest.Machine
	pods          []*networktest.Machine
	d             *Datapath
	said          *said
}

// said collects what is logged.
type said struct {
	mu   sync.Mutex
	text bytes.Buffer // guarded by mu
}

func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *said) count(what string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Count(s.text.String(), what)
}

const elsewhere = "192.168.7.99"

func newStage(t *testing.T) *stage {
	t.Parallel()
	s := &stage{t: t, node: networktest.NewMachine(t, "node"), outside: networktest.NewMachine(t, "outside"), said: &said{}}
	s.node.Forward()
	networktest.Wire(s.node, s.outside, []string{"192.168.7.1/24", "fd07::1/64"}, []string{"192.168.7.2/24", elsewhere + "/24", "fd07::2/64"})
	for _, to := range []string{"10.43.0.0/16", "10.42.0.0/16", "203.0.113.7/32"} {
		s.outside.Route(to, "192.168.7.1")
	}
	s.outside.Route("fd43::/64", "fd07::1")
	for i := range 3 {
		p := networktest.NewMachine(t, fmt.Sprint("pod", i))
		networktest.Wire(s.node, p, []string{fmt.Sprintf("10.42.%d.1/24", i), fmt.Sprintf("fd42:%d::1/64", i)},
			[]string{fmt.Sprintf("10.42.%d.2/24", i), fmt.Sprintf("fd42:%d::2/64", i)})
		p.Route("default", fmt.Sprintf("10.42.%d.1", i))
		p.Route("default", fmt.Sprintf("fd42:%d::1", i))
		p.Echo(8080)
		s.pods = append(s.pods, p)
	}
	var err error
	s.d, err = New(Config{
		Namespace: s.node.NS,
		Ranges:    prefixes("10.43.0.0/16", "fd43::/64"), Sources: []netip.Addr{netip.MustParseAddr("192.168.7.1"), netip.MustParseAddr("fd07::1")},
		Pods:      func() []netip.Prefix { return prefixes("10.42.0.0/16", "fd42::/16") },
		Elsewhere: func(a netip.Addr) bool { return a.String() == elsewhere },
		Log:       slog.New(slog.NewTextHandler(s.said, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	s.check(err)
	t.Cleanup(func() {
		s.check(s.d.Close())
		if t.Failed() {
			t.Log(s.said.text.String())
		}
	})
	return s
}

func prefixes(list ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range list {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

func (s *stage) check(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *stage) set(f *proxy.Frontend, keys ...proxy.Key) {
	s.t.Helper()
	changed := map[proxy.Key]*proxy.Frontend{}
	for _, k := range keys {
		changed[k] = f
	}
	s.check(s.d.Update(changed))
}

func key(proto corev1.Protocol, addr string) proxy.Key {
	a := netip.MustParseAddrPort(addr)
	return proxy.Key{Addr: a.Addr(), Protocol: proto, Port: a.Port()}
}

// endpoints are pods by their number.
func endpoints(v6 bool, pods ...int) []proxy.Endpoint {
	var out []proxy.Endpoint
	for _, i := range pods {
		a := netip.MustParseAddr(fmt.Sprintf("10.42.%d.2", i))
		if v6 {
			a = netip.MustParseAddr(fmt.Sprintf("fd42:%d::2", i))
		}
		out = append(out, proxy.Endpoint{Addr: netip.AddrPortFrom(a, 8080), Local: true})
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
	for range 200 {
		who, seen, err := from.CallFor(time.Minute, network, addr)
		if err != nil {
			s.t.Fatalf("%s → %s %s: %v", from.Name, network, addr, err)
		}
		if !strings.Contains(" "+strings.Join(want, " ")+" ", " "+who+" ") {
			s.t.Fatalf("%s → %s: %s answers", from.Name, addr, who)
		}
		if delete(missing, who); len(missing) == 0 {
			return seen
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
	if !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, syscall.ECONNRESET) {
		s.t.Fatalf("%s → %s %s: %v instead of a refusal", from.Name, network, addr, err)
	}
}

func TestClusterAddress(t *testing.T) {
	s := newStage(t)
	for _, v6 := range []bool{false, true} {
		addr, seen := "10.43.0.10:80", "10.42.1.1"
		if v6 {
			addr, seen = "[fd43::10]:80", "fd42:1::1"
		}
		tcp, udp := key(corev1.ProtocolTCP, addr), key(corev1.ProtocolUDP, addr)
		s.refused(s.pods[2], "tcp", addr)
		s.set(&proxy.Frontend{Cluster: true, Endpoints: endpoints(v6, 0, 1)}, tcp, udp)
		for _, network := range []string{"tcp", "udp"} {
			for _, from := range []*networktest.Machine{s.pods[2], s.outside, s.node, s.pods[0]} {
				s.reaches(from, network, addr, "pod0", "pod1")
			}
		}
		s.set(&proxy.Frontend{Cluster: true, Endpoints: endpoints(v6, 1)}, tcp, udp)
		for _, network := range []string{"tcp", "udp"} {
			for range 5 {
				if got := s.reaches(s.pods[2], network, addr, "pod1"); got != seen {
					t.Errorf("%s: endpoints see %s, want the node: %s", network, got, seen)
				}
			}
		}
		s.refused(s.pods[2], "tcp", netip.AddrPortFrom(tcp.Addr, 81).String())
		s.set(&proxy.Frontend{Cluster: true}, tcp, udp)
		for _, from := range []*networktest.Machine{s.pods[2], s.outside, s.node} {
			s.refused(from, "tcp", addr)
			s.refused(from, "udp", addr)
		}
		s.set(&proxy.Frontend{Cluster: true, Endpoints: endpoints(v6, 2)}, tcp, udp)
		s.reaches(s.pods[0], "tcp", addr, "pod2")
		s.reaches(s.pods[0], "udp", addr, "pod2")
		s.check(s.d.Replace(nil))
		s.refused(s.pods[2], "tcp", addr)
	}
	if len(s.d.servers)+len(s.d.wanted) != 0 {
		t.Errorf("left: %v %v", s.d.servers, s.d.wanted)
	}
}

// TestDeadEndpoint has an endpoint that refuses: clients don't notice.
func TestDeadEndpoint(t *testing.T) {
	s := newStage(t)
	dead := proxy.Endpoint{Addr: netip.MustParseAddrPort("10.42.1.2:8081")}
	s.set(&proxy.Frontend{Cluster: true, Endpoints: append(endpoints(false, 0), dead)}, key(corev1.ProtocolTCP, "10.43.0.10:80"))
	for range 20 {
		s.reaches(s.pods[2], "tcp", "10.43.0.10:80", "pod0")
	}
	s.set(&proxy.Frontend{Cluster: true, Endpoints: []proxy.Endpoint{dead}}, key(corev1.ProtocolTCP, "10.43.0.10:80"))
	s.refused(s.pods[2], "tcp", "10.43.0.10:80")
}

func TestNodePort(t *testing.T) {
	s := newStage(t)
	tcp, udp := key(corev1.ProtocolTCP, "0.0.0.0:30080"), key(corev1.ProtocolUDP, "0.0.0.0:30080")
	tcp6, udp6 := key(corev1.ProtocolTCP, "[::]:30080"), key(corev1.ProtocolUDP, "[::]:30080")
	s.set(&proxy.Frontend{Endpoints: endpoints(false, 0, 1)}, tcp, udp)
	s.set(&proxy.Frontend{Endpoints: endpoints(true, 0, 1)}, tcp6, udp6)
	for _, network := range []string{"tcp", "udp"} {
		// Over UDP, the answer comes from the address that was asked, or the client would not take it.
		for _, addr := range []string{"192.168.7.1:30080", "10.42.0.1:30080", "[fd07::1]:30080"} {
			s.reaches(s.pods[2], network, addr, "pod0", "pod1")
			s.reaches(s.node, network, addr, "pod0", "pod1")
		}
		s.reaches(s.outside, network, "192.168.7.1:30080", "pod0", "pod1")
		s.reaches(s.outside, network, "[fd07::1]:30080", "pod0", "pod1")
	}
	s.refusedOrNothing("127.0.0.1:30080")
	// Strangers get local endpoints only.
	remote := proxy.Endpoint{Addr: netip.MustParseAddrPort("10.42.1.2:8080")}
	s.set(&proxy.Frontend{Endpoints: append(endpoints(false, 0), remote), LocalOnly: true, LocalEndpoints: endpoints(false, 0)}, tcp)
	for range 10 {
		s.reaches(s.outside, "tcp", "192.168.7.1:30080", "pod0")
	}
	s.reaches(s.pods[2], "tcp", "192.168.7.1:30080", "pod0", "pod1")
	s.reaches(s.node, "tcp", "192.168.7.1:30080", "pod0", "pod1")
	s.set(&proxy.Frontend{Endpoints: []proxy.Endpoint{remote}, LocalOnly: true}, tcp)
	s.refused(s.outside, "tcp", "192.168.7.1:30080")
	s.reaches(s.pods[2], "tcp", "192.168.7.1:30080", "pod1")
}

// refusedOrNothing calls from the node. The listener takes the connection before it knows, so that it ends without a word.
func (s *stage) refusedOrNothing(addr string) {
	s.t.Helper()
	if who, _, err := s.node.CallFor(time.Minute, "tcp", addr); err == nil {
		s.t.Fatalf("%s answers", who)
	}
}

func TestAffinity(t *testing.T) {
	s := newStage(t)
	for _, network := range []string{"tcp", "udp"} {
		k := key(corev1.Protocol(strings.ToUpper(network)), "10.43.0.11:80")
		s.set(&proxy.Frontend{Cluster: true, Endpoints: endpoints(false, 0, 1), Affinity: time.Hour}, k)
		first, _, err := s.outside.CallFor(time.Minute, network, "10.43.0.11:80")
		s.check(err)
		for range 20 {
			s.reaches(s.outside, network, "10.43.0.11:80", first)
		}
		other := map[string]int{"pod0": 1, "pod1": 0}[first]
		s.set(&proxy.Frontend{Cluster: true, Endpoints: endpoints(false, other), Affinity: time.Hour}, k)
		s.reaches(s.outside, network, "10.43.0.11:80", fmt.Sprint("pod", other))
		s.set(&proxy.Frontend{Cluster: true, Endpoints: endpoints(false, 0, 1)}, k)
		s.reaches(s.outside, network, "10.43.0.11:80", "pod0", "pod1")
	}
}

func TestExternalAddresses(t *testing.T) {
	s := newStage(t)
	external, foreign, own := key(corev1.ProtocolTCP, "203.0.113.7:80"), key(corev1.ProtocolTCP, elsewhere+":80"), key(corev1.ProtocolTCP, "192.168.7.1:8888")
	s.set(&proxy.Frontend{Endpoints: endpoints(false, 0)}, external, foreign, own)
	for _, from := range []*networktest.Machine{s.outside, s.node, s.pods[1]} {
		s.reaches(from, "tcp", "203.0.113.7:80", "pod0")
		s.reaches(from, "tcp", "192.168.7.1:8888", "pod0")
	}
	// Another node's address stays where it is.
	s.outside.Echo(80)
	s.reaches(s.node, "tcp", elsewhere+":80", "outside")
	s.set(&proxy.Frontend{Endpoints: endpoints(false, 0), Sources: prefixes("10.42.0.0/16")}, external)
	s.refused(s.outside, "tcp", "203.0.113.7:80")
	s.reaches(s.pods[1], "tcp", "203.0.113.7:80", "pod0")
	s.reaches(s.node, "tcp", "203.0.113.7:80", "pod0")
	s.set(nil, external, foreign, own)
	routes, err := s.node.Link.RouteList(nil, 2)
	s.check(err)
	for _, r := range routes {
		if r.Dst != nil && strings.HasPrefix(r.Dst.String(), "203.") {
			t.Errorf("left: %v", r)
		}
	}
}

// TestUDPFollows keeps one socket: its packets go to another endpoint as soon as the first is gone, and are refused when there is none.
func TestUDPFollows(t *testing.T) {
	s := newStage(t)
	for _, addr := range []string{"10.43.0.53:53", "192.168.7.1:30053"} {
		k := key(corev1.ProtocolUDP, addr)
		if strings.HasPrefix(addr, "192") {
			k.Addr = netip.IPv4Unspecified()
		}
		s.set(&proxy.Frontend{Cluster: !k.NodePort(), Endpoints: endpoints(false, 0)}, k)
		talk, answer := s.outside.Talk("udp", addr)
		for range 3 {
			s.check(talk())
			if who := answer(); who != "pod0" {
				t.Fatal(who)
			}
		}
		s.set(&proxy.Frontend{Cluster: !k.NodePort(), Endpoints: endpoints(false, 1)}, k)
		s.check(talk())
		if who := answer(); who != "pod1" {
			t.Fatal(who)
		}
		s.set(nil, k)
	}
}

// TestTakenPort has another program on a node port: it is said once, other services work, and it is taken when the other is gone.
func TestTakenPort(t *testing.T) {
	s := newStage(t)
	var other net.Listener
	s.node.Must(func() (err error) {
		other, err = net.Listen("tcp4", "0.0.0.0:30080")
		return err
	})
	defer other.Close()
	k := key(corev1.ProtocolTCP, "0.0.0.0:30080")
	f := &proxy.Frontend{Service: "default/web", Endpoints: endpoints(false, 0)}
	s.set(f, k)
	s.set(&proxy.Frontend{Cluster: true, Endpoints: endpoints(false, 1)}, key(corev1.ProtocolTCP, "10.43.0.1:80"))
	s.reaches(s.pods[2], "tcp", "10.43.0.1:80", "pod1")
	s.set(f, k)
	s.check(s.d.again())
	if n := s.said.count("cannot be listened on"); n != 1 {
		t.Errorf("said %d times", n)
	}
	s.check(other.Close())
	s.check(s.d.again())
	s.reaches(s.outside, "tcp", "192.168.7.1:30080", "pod0")
	// The same port of a service is another place.
	s.set(&proxy.Frontend{Cluster: true, Endpoints: endpoints(false, 2)}, key(corev1.ProtocolTCP, "10.43.0.1:30080"))
	s.reaches(s.pods[1], "tcp", "10.43.0.1:30080", "pod2")
	s.reaches(s.outside, "tcp", "192.168.7.1:30080", "pod0")
}

func TestSCTP(t *testing.T) {
	s := newStage(t)
	k := key(corev1.ProtocolSCTP, "10.43.0.1:80")
	for range 3 {
		s.set(&proxy.Frontend{Service: "default/web", Cluster: true, Endpoints: endpoints(false, 0)}, k)
	}
	if n := s.said.count("SCTP needs a kernel with nf_tables"); n != 1 {
		t.Errorf("said %d times", n)
	}
}

// TestStream sends much both ways at once, says that it is done, and reads on.
func TestStream(t *testing.T) {
	s := newStage(t)
	l := s.listen(s.pods[0], "10.42.0.2:9000")
	var wg sync.WaitGroup
	defer wg.Wait()
	defer l.Close()
	wg.Go(func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		// All of it back, and then a word that comes after the client's end.
		if _, err := io.Copy(c, c); err == nil {
			_, _ = io.WriteString(c, "end")
		}
	})
	s.set(&proxy.Frontend{Cluster: true, Endpoints: []proxy.Endpoint{{Addr: netip.MustParseAddrPort("10.42.0.2:9000")}}}, key(corev1.ProtocolTCP, "10.43.0.1:80"))
	c := s.connect(s.pods[1], "10.43.0.1:80")
	defer c.Close()
	sent := make([]byte, 4<<20)
	_, _ = rand.Read(sent)
	wg.Go(func() {
		_, _ = c.Write(sent)
		_ = c.CloseWrite()
	})
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, append(sent, "end"...)) {
		t.Errorf("%d bytes came back, %v", len(got), err)
	}
}

// TestEnds: an endpoint that ends a connection in bad order, a service that goes away, and the end of the proxy.
func TestEnds(t *testing.T) {
	s := newStage(t)
	l := s.listen(s.pods[0], "10.42.0.2:9000")
	defer l.Close()
	k := key(corev1.ProtocolTCP, "10.43.0.1:80")
	s.set(&proxy.Frontend{Cluster: true, Endpoints: []proxy.Endpoint{{Addr: netip.MustParseAddrPort("10.42.0.2:9000")}}}, k)
	begin := func() (client, endpoint *net.TCPConn) {
		client = s.connect(s.pods[1], "10.43.0.1:80")
		c, err := l.Accept()
		s.check(err)
		return client, c.(*net.TCPConn)
	}
	reset := func(c *net.TCPConn) {
		t.Helper()
		s.check(c.SetReadDeadline(time.Now().Add(time.Minute)))
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("got %v", err)
		}
		c.Close()
	}
	client, endpoint := begin()
	s.check(endpoint.SetLinger(0))
	s.check(endpoint.Close())
	reset(client)
	client, endpoint = begin()
	s.check(client.SetLinger(0))
	s.check(client.Close())
	reset(endpoint)
	// Connections outlive their service, as they do in the kernel, but not the proxy.
	client, endpoint = begin()
	s.set(nil, k)
	s.refused(s.pods[1], "tcp", "10.43.0.1:80")
	_, err := client.Write([]byte("x"))
	s.check(err)
	_, err = io.ReadFull(endpoint, make([]byte, 1))
	s.check(err)
	s.check(s.d.Close())
	reset(client)
	reset(endpoint)
	if links, err := dump.Whole(s.node.Link.LinkList); err != nil || strings.Contains(fmt.Sprint(links), linkName) {
		t.Errorf("left: %v %v", links, err)
	}
	s.d, err = New(s.d.cfg) // for the cleanup
	s.check(err)
}

func (s *stage) listen(m *networktest.Machine, addr string) (l net.Listener) {
	s.t.Helper()
	m.Must(func() (err error) {
		l, err = net.Listen("tcp", addr)
		return err
	})
	return l
}

func (s *stage) connect(m *networktest.Machine, addr string) (c *net.TCPConn) {
	s.t.Helper()
	m.Must(func() error {
		conn, err := (&net.Dialer{FallbackDelay: -1}).Dial("tcp", addr)
		if err == nil {
			c = conn.(*net.TCPConn)
		}
		return err
	})
	return c
}
