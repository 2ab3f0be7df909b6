package mesh

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func prefixes(texts ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range texts {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// segment is a neighbour function: everything in the prefixes is on interface 7.
func segment(texts ...string) func(netip.Addr) (int, bool) {
	return func(a netip.Addr) (int, bool) {
		return 7, slices.ContainsFunc(prefixes(texts...), func(p netip.Prefix) bool { return p.Contains(a) })
	}
}

func TestPlan(t *testing.T) {
	self := Self{Addrs: []netip.Addr{addr("10.0.0.1")}, Pods: prefixes("10.42.0.0/24")}
	dual := Self{Addrs: []netip.Addr{addr("10.0.0.1"), addr("fd01::1")}, Pods: prefixes("10.42.0.0/24", "fd42::/64")}
	near := Peer{Name: "near", Addrs: []netip.Addr{addr("10.0.0.2")}, Pods: prefixes("10.42.1.0/24")}
	far := Peer{Name: "far", Addrs: []netip.Addr{addr("10.9.0.3")}, Pods: prefixes("10.42.2.0/24")}
	nearRoute := route{Dst: near.Pods[0], Via: addr("10.0.0.2"), Link: 7}
	farRoute := route{Dst: far.Pods[0], Via: addr("10.42.2.0")}
	farEnd := entry{Inside: []netip.Addr{addr("10.42.2.0")}, MAC: hardware(far.Pods), Node: addr("10.9.0.3")}
	tests := []struct {
		name   string
		self   Self
		peers  []Peer
		routes []route
		tunnel []entry
		lost   []string
	}{
		{name: "alone", self: self},
		{name: "a neighbour", self: self, peers: []Peer{near}, routes: []route{nearRoute}},
		{name: "behind a router", self: self, peers: []Peer{far}, routes: []route{farRoute}, tunnel: []entry{farEnd}},
		{name: "each pair for itself", self: self, peers: []Peer{near, far}, routes: []route{farRoute, nearRoute}, tunnel: []entry{farEnd}},
		{name: "no addresses of pods yet", self: Self{Addrs: self.Addrs}, peers: []Peer{near, far}},
		{name: "an address that is not known", self: self, peers: []Peer{{Name: "x", Pods: far.Pods}}, lost: []string{"x"}},
		{name: "two with one network", self: self, peers: []Peer{{Name: "z", Addrs: near.Addrs, Pods: far.Pods}, far}, routes: []route{farRoute}, tunnel: []entry{farEnd}, lost: []string{"z"}},
		{name: "one with this node's network", self: self, peers: []Peer{{Name: "x", Addrs: near.Addrs, Pods: self.Pods}}, lost: []string{"x"}},
		{
			name: "both families to a neighbour", self: dual, peers: []Peer{{Name: "n", Addrs: []netip.Addr{addr("10.0.0.2"), addr("fd01::2")}, Pods: prefixes("10.42.1.0/24", "fd42:1::/64")}},
			routes: []route{nearRoute, {Dst: netip.MustParsePrefix("fd42:1::/64"), Via: addr("fd01::2"), Link: 7}},
		},
		{
			name: "pods of IPv6 on nodes without it", self: Self{Addrs: self.Addrs, Pods: dual.Pods}, peers: []Peer{{Name: "n", Addrs: near.Addrs, Pods: prefixes("10.42.1.0/24", "fd42:1::/64")}},
			routes: []route{nearRoute, {Dst: netip.MustParsePrefix("fd42:1::/64"), Via: addr("fd42:1::")}},
			tunnel: []entry{{Inside: []netip.Addr{addr("fd42:1::")}, MAC: hardware(near.Pods), Node: addr("10.0.0.2")}},
		},
		{name: "pods of a family that this node has none of", self: self, peers: []Peer{{Name: "n", Addrs: near.Addrs, Pods: prefixes("fd42:1::/64")}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := plan(tt.self, tt.peers, segment("10.0.0.0/24", "fd01::/64"))
			if !slices.Equal(got.Routes, tt.routes) || fmt.Sprint(got.Tunnel) != fmt.Sprint(tt.tunnel) || !slices.Equal(got.Lost, tt.lost) {
				t.Errorf("got %+v", got)
			}
		})
	}
}

// Whatever the nodes are: both ends of a pair choose the same way, no network has two routes, and every route into the tunnel has its end.
func TestPlansFitTogether(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(2, 8).Draw(t, "nodes")
		var all []Peer
		for i := range n {
			lan := byte(rapid.IntRange(0, 2).Draw(t, "segment"))
			all = append(all, Peer{
				Name: string(rune('a' + i)), Addrs: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, lan, byte(i + 1)})},
				Pods: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 42, byte(i), 0}), 24)},
			})
		}
		specs := make([]spec, n)
		for i, p := range all {
			lan := netip.PrefixFrom(p.Addrs[0], 24).Masked()
			others := slices.Delete(slices.Clone(all), i, i+1)
			specs[i] = plan(Self{Addrs: p.Addrs, Pods: p.Pods}, others, func(a netip.Addr) (int, bool) { return 3, lan.Contains(a) })
		}
		way := func(from, to int) route {
			var found []route
			for _, r := range specs[from].Routes {
				if r.Dst == all[to].Pods[0] {
					found = append(found, r)
				}
			}
			if len(found) != 1 {
				t.Fatalf("%d routes from %d to %d", len(found), from, to)
			}
			return found[0]
		}
		for i := range all {
			for j := range all {
				if i == j {
					continue
				}
				r := way(i, j)
				if (r.Link == 0) != (way(j, i).Link == 0) {
					t.Fatalf("%d and %d choose differently", i, j)
				}
				in := slices.ContainsFunc(specs[i].Tunnel, func(e entry) bool {
					return e.Node == all[j].Addrs[0] && e.MAC == specs[j].MAC && slices.Equal(e.Inside, specs[j].Inside)
				})
				if in != (r.Link == 0) {
					t.Fatalf("route %+v and tunnel %+v do not fit", r, specs[i].Tunnel)
				}
			}
		}
	})
}
