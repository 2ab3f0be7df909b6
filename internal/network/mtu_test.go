package network

import (
	"net"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// TestMTU: bridge and pods follow the machine's way out, those that are there and those that come.
func TestMTU(t *testing.T) {
	host, _ := newHost(t)
	n := start(t, host, Config{PodCIDRs: prefixes("10.99.0.0/24"), StateDir: t.TempDir()})
	early := setUp(t, n, "early")
	h := handle(t, host)
	becomes := func(want int, pods ...pod) {
		t.Helper()
		for end := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
			ok := n.MTU() == want
			for _, at := range append([]pod{}, pods...) {
				for _, end := range []struct {
					h    *netlink.Handle
					name string
				}{{handle(t, at.ns), podInterface}, {h, vethName(at.req.ID)}, {h, DefaultBridge}} {
					l, err := end.h.LinkByName(end.name)
					if err != nil {
						t.Fatal(err)
					}
					ok = ok && l.Attrs().MTU == want
				}
			}
			if ok {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("it never became %d, but %d", want, n.MTU())
			}
		}
	}
	becomes(1500, early)
	outside, _ := newHost(t)
	wire(t, host, outside, "192.0.2.1/24", "192.0.2.2/24") // with 1400
	up, err := h.LinkByName("up0")
	if err != nil {
		t.Fatal(err)
	}
	way := &netlink.Route{LinkIndex: up.Attrs().Index, Gw: net.IP{192, 0, 2, 2}}
	if err := h.RouteAdd(way); err != nil {
		t.Fatal(err)
	}
	becomes(1400, early)
	late := setUp(t, n, "late")
	if err := h.LinkSetMTU(up, 1450); err != nil {
		t.Fatal(err)
	}
	becomes(1450, early, late)
	// Without a way out it stays.
	if err := h.RouteDel(way); err != nil {
		t.Fatal(err)
	}
	if err := h.LinkSetMTU(up, 1300); err != nil {
		t.Fatal(err)
	}
	if err := h.RouteAdd(way); err != nil {
		t.Fatal(err)
	}
	becomes(1300, early, late)
	echo(t, late.ns, ":80")
	if _, err := call(t, early.ns, late.at(0, 80)); err != nil {
		t.Error(err)
	}
}
