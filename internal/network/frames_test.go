package network

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// checksum is the sum of RFC 1071.
func checksum(parts ...[]byte) uint16 {
	sum := uint32(0)
	for _, p := range parts {
		for i := 0; i < len(p); i += 2 {
			word := uint32(p[i]) << 8
			if i+1 < len(p) {
				word |= uint32(p[i+1])
			}
			sum += word
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

func ethernet(to, from net.HardwareAddr, kind uint16, payload []byte) []byte {
	b := binary.BigEndian.AppendUint16(append(append([]byte{}, to...), from...), kind)
	return append(b, payload...)
}

// packet is one of IP between two addresses, with the right sums; put is where the sum of the payload belongs.
func packet(from, to netip.Addr, protocol byte, payload []byte, put int) (kind uint16, b []byte) {
	length := binary.BigEndian.AppendUint32(nil, uint32(len(payload)))
	sum := checksum(from.AsSlice(), to.AsSlice(), length, []byte{0, protocol}, payload)
	if from.Is4() && protocol == unix.IPPROTO_ICMP {
		sum = checksum(payload)
	}
	binary.BigEndian.PutUint16(payload[put:], sum)
	if from.Is6() {
		b = []byte{0x60, 0, 0, 0, length[2], length[3], protocol, 255}
		return unix.ETH_P_IPV6, append(append(append(b, from.AsSlice()...), to.AsSlice()...), payload...)
	}
	b = []byte{0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, protocol, 0, 0}
	binary.BigEndian.PutUint16(b[2:], uint16(20+len(payload)))
	b = append(append(b, from.AsSlice()...), to.AsSlice()...)
	binary.BigEndian.PutUint16(b[10:], checksum(b))
	return unix.ETH_P_IP, append(b, payload...)
}

// datagram is a packet of UDP to port 9.
func datagram(from, to netip.Addr, text string) (kind uint16, b []byte) {
	head := []byte{0x40, 0, 0, 9, 0, 0, 0, 0}
	binary.BigEndian.PutUint16(head[4:], uint16(8+len(text)))
	return packet(from, to, unix.IPPROTO_UDP, append(head, text...), 6)
}

// claim is what says by ARP, or by neighbour discovery, that an address is at a hardware address.
func claim(a netip.Addr, at net.HardwareAddr, to netip.Addr) (kind uint16, b []byte) {
	if a.Is6() {
		b = append(append([]byte{136, 0, 0, 0, 0x20, 0, 0, 0}, a.AsSlice()...), 2, 1) // override, and the option with the hardware address
		return packet(a, to, unix.IPPROTO_ICMPV6, append(b, at...), 2)
	}
	b = append([]byte{0, 1, 8, 0, 6, 4, 0, 2}, at...)
	b = append(append(b, a.AsSlice()...), 0xff, 0xff, 0xff, 0xff, 0xff, 0xff)
	return unix.ETH_P_ARP, append(b, to.AsSlice()...)
}

// router says that its sender is a router for everything.
func router(from netip.Addr) (kind uint16, b []byte) {
	return packet(from, netip.MustParseAddr("ff02::1"), unix.IPPROTO_ICMPV6, []byte{134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0}, 2)
}

// tap is a raw socket on an interface, as a container with NET_RAW has it.
type tap struct {
	t     *testing.T
	fd    int
	index int
	mac   net.HardwareAddr
	mu    sync.Mutex
	seen  [][]byte // guarded by mu
}

func newTap(t *testing.T, ns *os.File, name string) *tap {
	t.Helper()
	l, err := handle(t, ns).LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	s := &tap{t: t, index: l.Attrs().Index, mac: l.Attrs().HardwareAddr}
	limit := unix.NsecToTimeval((10 * time.Millisecond).Nanoseconds())
	s.fd = at(t, ns, func() (int, error) {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(networkOrder(unix.ETH_P_ALL)))
		if err != nil {
			return 0, err
		}
		return fd, errors.Join(unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: networkOrder(unix.ETH_P_ALL), Ifindex: s.index}),
			unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit))
	})
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 64<<10)
		for {
			select {
			case <-stop:
				return
			default:
			}
			n, from, err := unix.Recvfrom(s.fd, b, 0)
			if at, ok := from.(*unix.SockaddrLinklayer); err != nil || !ok || at.Pkttype == unix.PACKET_OUTGOING {
				continue
			}
			s.mu.Lock()
			s.seen = append(s.seen, bytes.Clone(b[:n]))
			s.mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		close(stop)
		<-done
		if err := unix.Close(s.fd); err != nil {
			t.Error(err)
		}
	})
	return s
}

func (s *tap) send(frame []byte) {
	s.t.Helper()
	if err := unix.Sendto(s.fd, frame, 0, &unix.SockaddrLinklayer{Protocol: networkOrder(unix.ETH_P_ALL), Ifindex: s.index, Halen: 6}); err != nil {
		s.t.Fatal(err)
	}
}

// has says whether a frame with something in it came by.
func (s *tap) has(what []byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.seen {
		if bytes.Contains(f, what) {
			return true
		}
	}
	return false
}

// arrives sends frames, each different from all others before, until one comes by.
func (s *tap) arrives(from *tap, what string, frame func(text string) []byte) {
	s.t.Helper()
	for end := time.Now().Add(time.Minute); ; {
		text := fmt.Sprint(what, " ", time.Now().UnixNano())
		from.send(frame(text))
		for range 20 {
			if s.has([]byte(text)) {
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
		if time.Now().After(end) {
			s.t.Fatalf("%s: does not arrive", what)
		}
	}
}

// TestFrames: with raw frames a pod neither gets past the gateway nor speaks in the name of others.
func TestFrames(t *testing.T) {
	for _, ranges := range [][]string{{"10.99.0.0/24"}, {"fd99::/64"}, {"10.99.0.0/24", "fd99::/64"}} {
		t.Run(strings.Join(ranges, ","), func(t *testing.T) {
			host, _ := newHost(t)
			n := start(t, host, Config{PodCIDRs: prefixes(ranges...), StateDir: t.TempDir()})
			evil, other, third := setUp(t, n, "evil"), setUp(t, n, "other"), setUp(t, n, "third")
			tryFrames(t, host, evil, other, third)
		})
	}
}

func tryFrames(t *testing.T, host *os.File, evil, other, third pod) {
	from, to, beside := newTap(t, evil.ns, podInterface), newTap(t, other.ns, podInterface), newTap(t, third.ns, podInterface)
	echo(t, other.ns, ":80")
	wire, err := handle(t, host).LinkByName(vethName(evil.req.ID))
	if err != nil {
		t.Fatal(err)
	}
	gateway, everybody := wire.Attrs().HardwareAddr, net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	for i, own := range evil.addr {
		target, bystander := other.addr[i], third.addr[i]
		bits := 24
		if own.Is6() {
			bits = 64
		}
		via := gatewayOf(netip.PrefixFrom(own, bits))
		sources := []string{bystander.String(), target.String(), via.String(), own.Next().Next().Next().Next().String(), "127.0.0.1", "203.0.113.9", "192.0.2.1", "255.255.255.255", "0.0.0.0"}
		if own.Is6() {
			sources = append(sources[:4], "::1", "2001:db8::9", "fe80::1", "::")
		}
		type try struct {
			what     string
			to, from net.HardwareAddr
			src      netip.Addr
		}
		tries := []try{
			{"to a neighbour's hardware address", to.mac, from.mac, own},
			{"to a neighbour's hardware address, from a forged one", to.mac, beside.mac, own},
			{"to everybody", everybody, from.mac, own},
			{"from the gateway's hardware address to a neighbour's", to.mac, gateway, own},
		}
		for _, s := range sources {
			for _, at := range []net.HardwareAddr{gateway, to.mac} {
				tries = append(tries, try{fmt.Sprintf("from %s by way of %v", s, at), at, from.mac, netip.MustParseAddr(s)})
			}
		}
		var marks []string
		for _, try := range tries {
			kind, b := datagram(try.src, target, "<"+try.what+">")
			from.send(ethernet(try.to, try.from, kind, b))
			marks = append(marks, "<"+try.what+">")
		}
		// That others are where it is, told to everybody, to one of them and to the machine.
		for _, whose := range []netip.Addr{target, bystander, via} {
			for _, at := range []net.HardwareAddr{everybody, to.mac, beside.mac, gateway, {0x33, 0x33, 0, 0, 0, 1}} {
				for _, who := range []netip.Addr{target, bystander, via} {
					kind, b := claim(whose, from.mac, who)
					from.send(ethernet(at, from.mac, kind, b))
				}
			}
			// And by sending from their hardware addresses, from which a bridge learns.
			kind, b := datagram(own, via, "learn this")
			from.send(ethernet(gateway, to.mac, kind, b))
		}
		if own.Is6() {
			kind, b := router(netip.MustParseAddr("fe80::8ce:1"))
			from.send(ethernet(net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}, from.mac, kind, b))
		}

		to.arrives(from, "what is honest", func(text string) []byte {
			kind, b := datagram(own, target, text)
			return ethernet(gateway, from.mac, kind, b)
		})
		for _, m := range marks {
			if to.has([]byte(m)) || beside.has([]byte(m)) {
				t.Errorf("arrives: %s", m)
			}
		}
		// What is for the other still goes there, and not to who claimed to be it.
		to.arrives(beside, "between others", func(text string) []byte {
			kind, b := datagram(bystander, target, text)
			return ethernet(gateway, beside.mac, kind, b)
		})
		if from.has([]byte("between others")) {
			t.Error("what others say to each other is heard")
		}
		for _, who := range []struct {
			what string
			ns   *os.File
			want string
		}{{"the machine", host, via.String()}, {"a pod", third.ns, bystander.String()}, {"who forged", evil.ns, own.String()}} {
			if got, err := call(t, who.ns, other.at(i, 80)); err != nil || got != who.want {
				t.Errorf("%s calls the other: %q %v, want %q", who.what, got, err, who.want)
			}
		}
	}
	routes, err := handle(t, host).RouteListFiltered(netlink.FAMILY_V6, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range routes {
		if r.Gw != nil {
			t.Errorf("a pod made itself the machine's router: %v", r)
		}
	}
	for _, s := range []*tap{to, beside} {
		if s.has(append([]byte{2, 1}, from.mac...)) || s.has(append([]byte{0, 2}, from.mac...)) {
			t.Error("a claim arrives")
		}
	}
}

// TestUnplug: pods that an earlier version plugged into the bridge are reached while they are taken off it, and cannot do more than new ones from then on.
func TestUnplug(t *testing.T) {
	host, _ := newHost(t)
	cfg := Config{PodCIDRs: prefixes("10.99.0.0/24", "fd99::/64"), StateDir: t.TempDir()}
	n := start(t, host, cfg)
	old, other, third := setUp(t, n, "old", PortMapping{ContainerPort: 81, HostPort: 8081}), setUp(t, n, "other"), setUp(t, n, "third")
	h := handle(t, host)
	bridge, err := h.LinkByName(DefaultBridge)
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range []pod{old, other} {
		l, err := h.LinkByName(vethName(p.req.ID))
		if err != nil {
			t.Fatal(err)
		}
		if err := h.LinkSetHardwareAddr(l, net.HardwareAddr{0x0a, 1, 2, 3, 4, byte(i)}); err != nil {
			t.Fatal(err)
		}
		routes, err := h.RouteList(l, netlink.FAMILY_ALL)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range routes {
			if r.Src != nil {
				if err := h.RouteDel(&r); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := errors.Join(h.LinkSetMaster(l, bridge), h.LinkSetHairpin(l, true)); err != nil {
			t.Fatal(err)
		}
		in := handle(t, p.ns)
		eth, err := in.LinkByName(podInterface)
		if err != nil {
			t.Fatal(err)
		}
		entries, err := in.NeighList(eth.Attrs().Index, netlink.FAMILY_ALL)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if e.State == netlink.NUD_PERMANENT {
				if err := in.NeighDel(&e); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	echo(t, old.ns, ":81")
	for i := range old.addr {
		if _, err := call(t, host, old.at(i, 81)); err != nil {
			t.Fatalf("before: %v", err)
		}
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	start(t, host, cfg)
	for _, p := range []pod{old, other} {
		if l, err := h.LinkByName(vethName(p.req.ID)); err != nil || l.Attrs().MasterIndex != 0 {
			t.Errorf("%v: %v", l, err)
		}
	}
	if _, err := call(t, host, "127.0.0.1:8081"); err != nil {
		t.Errorf("host port: %v", err)
	}
	tryFrames(t, host, old, other, third)
}
