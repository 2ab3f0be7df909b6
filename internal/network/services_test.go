package network

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/celox/celox/internal/network/dump"
)

func TestServiceAddresses(t *testing.T) {
	host, _ := newHost(t)
	h := handle(t, host)
	want := ServiceAddresses{
		Own:    []netip.Addr{netip.MustParseAddr("10.43.0.10"), netip.MustParseAddr("fd43::a")},
		Ranges: prefixes("10.43.0.0/16", "fd43::/108"), Sources: []netip.Addr{netip.MustParseAddr("127.0.0.1")},
	}
	for i := range 2 { // the second start of a machine
		if err := within(host, func() error { return EnsureServiceAddresses(want) }); err != nil {
			t.Fatal(err)
		}
		addr := fmt.Sprint("10.43.0.10:", 1053+i)
		echo(t, host, addr)
		if got, err := call(t, host, addr); err != nil || got != "10.43.0.10" {
			t.Errorf("%q %v", got, err)
		}
		routes, err := h.RouteList(nil, netlink.FAMILY_ALL)
		if err != nil {
			t.Fatal(err)
		}
		found := 0
		for _, r := range routes {
			if r.Dst != nil && (r.Dst.String() == "10.43.0.0/16" || r.Dst.String() == "fd43::/108") {
				found++
			}
		}
		if found != 2 {
			t.Errorf("%d routes of %v", found, routes)
		}
	}
	for range 2 {
		if err := within(host, RemoveServiceAddresses); err != nil {
			t.Fatal(err)
		}
	}
	links, err := dump.Whole(h.LinkList)
	if err != nil || len(links) != 1 {
		t.Errorf("left: %v %v", links, err)
	}
}
