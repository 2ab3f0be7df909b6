package network

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestBatch: requests that go together are carried out one by one, whatever becomes of those before, and the first failure is told.
func TestBatch(t *testing.T) {
	host, _ := newNS(t)
	pod, _ := newNS(t)
	c, err := openChannel(host)
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	mac, peerMAC := hardwareAddr(netip.MustParseAddr("10.99.0.1")), hardwareAddr(netip.MustParseAddr("10.99.0.2"))
	var index, peer, found, foundPeer int
	pair := func() error {
		var b batch
		b.pair("clxabc", mac, podInterface, peerMAC, pod, 1400, func(i, p int) { index, peer = i, p })
		return c.send(&b)
	}
	if err := pair(); err != nil {
		t.Fatal(err)
	}
	if err := pair(); !errors.Is(err, unix.EEXIST) {
		t.Errorf("a second pair of the same name: %v", err)
	}
	var b batch
	b.look(0, "clxabc", func(i, p int) { found, foundPeer = i, p })
	b.up(4711, "nowhere")
	b.up(4712, "elsewhere")
	b.address(found, netip.MustParsePrefix("10.99.0.1/24")) // no index yet: it fails, too
	b.up(1, "lo")
	if err := c.send(&b); !errors.Is(err, unix.ENODEV) || !strings.Contains(err.Error(), "interface nowhere: set up") {
		t.Errorf("among others that fail: %v", err)
	}
	inHost, inPod := handle(t, host), handle(t, pod)
	l, err := inHost.LinkByName("clxabc")
	if err != nil {
		t.Fatal(err)
	}
	if a := l.Attrs(); a.Index != found || a.MTU != 1400 || a.HardwareAddr.String() != mac.String() || a.NumTxQueues != 1 || a.Flags&unix.IFF_UP != 0 {
		t.Errorf("the host's end, found at %d: %+v", found, a)
	}
	e, err := inPod.LinkByName(podInterface)
	if err != nil {
		t.Fatal(err)
	}
	if a := e.Attrs(); a.Index != foundPeer || a.MTU != 1400 || a.HardwareAddr.String() != peerMAC.String() || a.NumTxQueues != 1 {
		t.Errorf("the pod's end, found at %d: %+v", foundPeer, a)
	}
	// Kernels before 6.2 don't tell.
	if index != 0 && (index != found || peer != foundPeer) {
		t.Errorf("the kernel told of %d and %d when it made %d and %d", index, peer, found, foundPeer)
	}
	if lo, err := inHost.LinkByName("lo"); err != nil || lo.Attrs().Flags&unix.IFF_UP == 0 {
		t.Errorf("what came after failures: %v, %v", lo, err)
	}
	// All that a pod gets, twice.
	gateway, addrs := netip.MustParseAddr("10.99.0.1"), prefixes("10.99.0.2/24", "fd99::2/64")
	for range 2 {
		b = batch{}
		b.up(found, "clxabc")
		for _, a := range addrs {
			b.address(found, a)
			b.routeTo(found, a.Addr().Next(), a.Addr())
			b.neighbour(found, a.Addr().Next(), peerMAC)
		}
		b.routeBy(found, gateway)
		if err := c.send(&b); err != nil {
			t.Fatal(err)
		}
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		have, err := inHost.NeighList(found, family)
		if err != nil {
			t.Fatal(err)
		}
		known := 0
		for _, n := range have {
			if n.State == netlink.NUD_PERMANENT && n.HardwareAddr.String() == peerMAC.String() {
				known++
			}
		}
		if known != 1 {
			t.Errorf("family %d: %d entries of neighbours", family, known)
		}
	}
	routes, err := inHost.RouteList(l, netlink.FAMILY_V4)
	if err != nil || len(routes) != 2 {
		t.Errorf("routes: %v, %v", routes, err)
	}
	// A program that is none keeps nothing else from being done.
	var unasked error
	b = batch{}
	b.ask(found, -1, func(err error) { unasked = err })
	b.up(found, "clxabc")
	if err := c.send(&b); err != nil || !errors.Is(unasked, unix.EBADF) {
		t.Errorf("no program: %v, and %v of it", err, unasked)
	}
}
