package userspace

import (
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/celox/celox/internal/network/proxy"
)

// tended does what the proxy does when it is told that somebody may have interfered, until the datapath is intact.
func (s *stage) tended(all map[proxy.Key]*proxy.Frontend) {
	s.t.Helper()
	limit := time.After(time.Minute)
	for {
		select {
		case <-s.d.Tampering():
		case <-limit:
			s.t.Fatal("nobody says that something was removed")
		}
		ok, err := s.d.Intact()
		s.check(err)
		if !ok {
			break // and not our own changes
		}
	}
	s.check(s.d.Replace(all))
	if ok, err := s.d.Intact(); !ok || err != nil {
		s.t.Fatalf("still not intact: %v", err)
	}
}

// TestMend: what somebody removes on the node comes back, with all that depends on it.
func TestMend(t *testing.T) {
	s := newStage(t)
	all := map[proxy.Key]*proxy.Frontend{
		key(corev1.ProtocolTCP, "10.43.0.10:80"):  {Cluster: true, Endpoints: endpoints(false, 0, 1)},
		key(corev1.ProtocolUDP, "10.43.0.10:80"):  {Cluster: true, Endpoints: endpoints(false, 0, 1)},
		key(corev1.ProtocolTCP, "[fd43::10]:80"):  {Cluster: true, Endpoints: endpoints(true, 0, 1)},
		key(corev1.ProtocolTCP, "203.0.113.7:80"): {Endpoints: endpoints(false, 1)},
		key(corev1.ProtocolTCP, "0.0.0.0:30080"):  {Endpoints: endpoints(false, 0)},
	}
	s.check(s.d.Replace(all))
	works := func() {
		t.Helper()
		s.reaches(s.pods[2], "tcp", "10.43.0.10:80", "pod0", "pod1")
		s.reaches(s.pods[2], "udp", "10.43.0.10:80", "pod0", "pod1")
		s.reaches(s.pods[2], "tcp", "[fd43::10]:80", "pod0", "pod1")
		s.reaches(s.outside, "tcp", "203.0.113.7:80", "pod1")
		s.reaches(s.outside, "tcp", "192.168.7.1:30080", "pod0")
	}
	works()
	if ok, err := s.d.Intact(); !ok || err != nil {
		t.Fatalf("intact: %v, %v", ok, err)
	}
	link := func() netlink.Link {
		t.Helper()
		l, err := s.node.Link.LinkByName(linkName)
		s.check(err)
		return l
	}
	routes := func(change func(r *netlink.Route) error) func() {
		return func() {
			t.Helper()
			list, err := s.node.Link.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{LinkIndex: link().Attrs().Index}, netlink.RT_FILTER_OIF)
			s.check(err)
			n := 0
			for i := range list {
				if list[i].Gw != nil {
					n++
					s.check(change(&list[i]))
				}
			}
			if n != 3 {
				t.Errorf("there were %d routes", n)
			}
		}
	}
	outside := netip.MustParseAddr("192.168.7.2")
	for _, c := range []struct {
		name string
		do   func()
	}{
		{"the routes", routes(s.node.Link.RouteDel)},
		{"the place of a route", func() {
			s.check(s.node.Link.RouteReplace(&netlink.Route{Dst: ipNet(netip.MustParsePrefix("203.0.113.7/32")), Gw: outside.AsSlice()}))
		}},
		{"the interface", func() { s.check(s.node.Link.LinkDel(link())) }},
		{"the interface's being up", func() { s.check(s.node.Link.LinkSetDown(link())) }},
		{"the addresses", func() {
			addrs, err := s.node.Link.AddrList(link(), netlink.FAMILY_ALL)
			s.check(err)
			for i := range addrs {
				s.check(s.node.Link.AddrDel(link(), &addrs[i]))
			}
		}},
	} {
		c.do()
		if ok, err := s.d.Intact(); ok || err != nil {
			t.Errorf("without %s: intact %v, %v", c.name, ok, err)
		}
		s.tended(all)
		works()
		if t.Failed() {
			t.Fatalf("after %s", c.name)
		}
	}
}

// TestListenerThatIsShutDown: who may, can end a socket of another program.
func TestListenerThatIsShutDown(t *testing.T) {
	s := newStage(t)
	k := key(corev1.ProtocolTCP, "10.43.0.10:80")
	s.set(&proxy.Frontend{Cluster: true, Endpoints: endpoints(false, 0)}, k)
	s.reaches(s.pods[2], "tcp", "10.43.0.10:80", "pod0")
	s.d.mu.Lock()
	before, ok := s.d.servers[k].(*tcpServer)
	s.d.mu.Unlock()
	if !ok {
		t.Fatal("nobody listens")
	}
	raw, err := before.l.SyscallConn()
	s.check(err)
	var shut error
	s.check(raw.Control(func(fd uintptr) { shut = unix.Shutdown(int(fd), unix.SHUT_RDWR) }))
	s.check(shut)
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		s.d.mu.Lock()
		now := s.d.servers[k]
		s.d.mu.Unlock()
		if now != nil && now != server(before) {
			break
		}
		if time.Now().After(end) {
			t.Fatal("nobody listens again")
		}
	}
	s.reaches(s.pods[2], "tcp", "10.43.0.10:80", "pod0")
}
