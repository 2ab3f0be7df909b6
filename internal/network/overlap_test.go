package network

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
)

func TestOverlaps(t *testing.T) {
	host, _ := newHost(t)
	outside, _ := newHost(t)
	wire(t, host, outside, "10.42.7.1/24", "10.42.7.2/24")
	h := handle(t, host)
	up, err := h.LinkByName("up0")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []netlink.Route{
		{Dst: ipNet(netip.MustParsePrefix("10.0.0.0/8"))}, {Dst: ipNet(netip.MustParsePrefix("10.50.1.0/24"))}, {Dst: ipNet(netip.MustParsePrefix("0.0.0.0/0"))},
		{Dst: ipNet(netip.MustParsePrefix("10.42.9.0/24")), Protocol: routesOfNodes},
	} {
		r.LinkIndex, r.Gw = up.Attrs().Index, netip.MustParseAddr("10.42.7.2").AsSlice()
		if err := h.RouteAdd(&r); err != nil {
			t.Fatal(err)
		}
	}
	// What this network makes itself is no overlap.
	start(t, host, Config{PodCIDRs: prefixes("10.42.3.0/24"), StateDir: t.TempDir()})
	for _, tt := range []struct{ ranges, want string }{
		{"10.42.0.0/16", "10.42.0.0/16 has the address 10.42.7.1 of this machine's interface up0 in it; 10.42.0.0/16 overlaps with this machine's route to 10.0.0.0/8 by interface up0; " +
			"10.42.0.0/16 overlaps with this machine's route to 10.42.7.0/24 by interface up0"},
		{"10.50.0.0/16", "10.50.0.0/16 overlaps with this machine's route to 10.0.0.0/8 by interface up0; 10.50.0.0/16 overlaps with this machine's route to 10.50.1.0/24 by interface up0"},
		{"192.168.0.0/16 fd00::/48", ""},
	} {
		got := at(t, host, func() ([]Overlap, error) { return Overlaps(prefixes(strings.Fields(tt.ranges)...)) })
		var texts []string
		for _, o := range got {
			texts = append(texts, o.String())
		}
		if text := strings.Join(texts, "; "); text != tt.want {
			t.Errorf("%s: got  %s\nwant %s", tt.ranges, text, tt.want)
		}
	}
}
