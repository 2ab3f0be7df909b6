package mesh

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/celox/celox/internal/network/wireguard"
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

// keyOf is a key like no other's.
func keyOf(b byte) wireguard.Key { return wireguard.Key{b, 1, 2, 3} }

func TestPlan(t *testing.T) {
	self := Self{Addrs: []netip.Addr{addr("10.0.0.1")}, Pods: prefixes("10.42.0.0/24")}
	dual := Self{Addrs: []netip.Addr{addr("10.0.0.1"), addr("fd01::1")}, Pods: prefixes("10.42.0.0/24", "fd42::/64")}
	six := Self{Addrs: []netip.Addr{addr("fd01::1")}, Pods: dual.Pods}
	near := Peer{Name: "near", Addrs: []netip.Addr{addr("10.0.0.2")}, Pods: prefixes("10.42.1.0/24")}
	far := Peer{Name: "far", Addrs: []netip.Addr{addr("10.9.0.3")}, Pods: prefixes("10.42.2.0/24")}
	nearRoute := route{Dst: near.Pods[0], Via: addr("10.0.0.2"), Link: 7}
	farRoute := route{Dst: far.Pods[0], Way: tunnel4, Via: addr("10.42.2.0")}
	farEnds := []entry{{Inside: []netip.Addr{addr("10.42.2.0")}, MAC: hardware(far.Pods), Node: addr("10.9.0.3")}}
	six2 := prefixes("fd42:1::/64")[0]
	tests := []struct {
		name    string
		self    Self
		peers   []Peer
		routes  []route
		tunnel4 []entry
		tunnel6 []entry
		lost    []string
	}{
		{name: "alone", self: self},
		{name: "a neighbour", self: self, peers: []Peer{near}, routes: []route{nearRoute}},
		{name: "behind a router", self: self, peers: []Peer{far}, routes: []route{farRoute}, tunnel4: farEnds},
		{name: "each pair for itself", self: self, peers: []Peer{near, far}, routes: []route{farRoute, nearRoute}, tunnel4: farEnds},
		{name: "no addresses of pods yet", self: Self{Addrs: self.Addrs}, peers: []Peer{near, far}},
		{name: "an address that is not known", self: self, peers: []Peer{{Name: "x", Pods: far.Pods}}, lost: []string{"x"}},
		{name: "two with one network", self: self, peers: []Peer{{Name: "z", Addrs: near.Addrs, Pods: far.Pods}, far}, routes: []route{farRoute}, tunnel4: farEnds, lost: []string{"z"}},
		{name: "one with this node's network", self: self, peers: []Peer{{Name: "x", Addrs: near.Addrs, Pods: self.Pods}}, lost: []string{"x"}},
		{
			name: "both families to a neighbour", self: dual, peers: []Peer{{Name: "n", Addrs: []netip.Addr{addr("10.0.0.2"), addr("fd01::2")}, Pods: prefixes("10.42.1.0/24", "fd42:1::/64")}},
			routes: []route{nearRoute, {Dst: six2, Via: addr("fd01::2"), Link: 7}},
		},
		{
			name: "pods of IPv6 on nodes without it", self: Self{Addrs: self.Addrs, Pods: dual.Pods}, peers: []Peer{{Name: "n", Addrs: near.Addrs, Pods: prefixes("10.42.1.0/24", "fd42:1::/64")}},
			routes:  []route{nearRoute, {Dst: six2, Way: tunnel4, Via: addr("fd42:1::")}},
			tunnel4: []entry{{Inside: []netip.Addr{addr("fd42:1::")}, MAC: hardware(near.Pods), Node: addr("10.0.0.2")}},
		},
		{name: "pods of a family that this node has none of", self: self, peers: []Peer{{Name: "n", Addrs: near.Addrs, Pods: prefixes("fd42:1::/64")}}},
		{
			name: "both families behind a router", self: dual, peers: []Peer{{Name: "n", Addrs: []netip.Addr{addr("fd09::3"), addr("10.9.0.3")}, Pods: prefixes("10.42.1.0/24", "fd42:1::/64")}},
			routes:  []route{{Dst: near.Pods[0], Way: tunnel4, Via: addr("10.42.1.0")}, {Dst: six2, Way: tunnel4, Via: addr("fd42:1::")}},
			tunnel4: []entry{{Inside: []netip.Addr{addr("10.42.1.0"), addr("fd42:1::")}, MAC: hardware(near.Pods), Node: addr("10.9.0.3")}},
		},
		{
			name: "only IPv6 in common", self: six, peers: []Peer{{Name: "n", Addrs: []netip.Addr{addr("10.9.0.3"), addr("fd09::3")}, Pods: prefixes("10.42.1.0/24", "fd42:1::/64")}},
			routes:  []route{{Dst: near.Pods[0], Way: tunnel6, Via: addr("10.42.1.0")}, {Dst: six2, Way: tunnel6, Via: addr("fd42:1::")}},
			tunnel6: []entry{{Inside: []netip.Addr{addr("10.42.1.0"), addr("fd42:1::")}, MAC: hardware(near.Pods), Node: addr("fd09::3")}},
		},
		{
			name: "a tunnel of each family", self: dual, peers: []Peer{far, {Name: "six", Addrs: []netip.Addr{addr("fd09::4")}, Pods: prefixes("10.42.1.0/24")}},
			routes:  []route{farRoute, {Dst: near.Pods[0], Way: tunnel6, Via: addr("10.42.1.0")}},
			tunnel4: farEnds, tunnel6: []entry{{Inside: []netip.Addr{addr("10.42.1.0")}, MAC: hardware(near.Pods), Node: addr("fd09::4")}},
		},
		{name: "no family in common", self: six, peers: []Peer{far}, lost: []string{"far"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := plan(tt.self, tt.peers, segment("10.0.0.0/24", "fd01::/64"))
			if !slices.Equal(got.Routes, tt.routes) || fmt.Sprint(got.Tunnels[0].Ends) != fmt.Sprint(tt.tunnel4) || fmt.Sprint(got.Tunnels[1].Ends) != fmt.Sprint(tt.tunnel6) || !slices.Equal(got.Lost, tt.lost) {
				t.Errorf("got %+v", got)
			}
		})
	}
}

func TestPlanEncrypted(t *testing.T) {
	self := Self{Addrs: []netip.Addr{addr("10.0.0.1"), addr("fd01::1")}, Pods: prefixes("10.42.0.0/24", "fd42::/64"), Cluster: prefixes("10.42.0.0/16", "fd42::/48"), Port: 51820}
	near := Peer{Name: "near", Addrs: []netip.Addr{addr("10.0.0.2")}, Pods: prefixes("10.42.1.0/24", "fd42:0:0:1::/64"), Key: keyOf(1)}
	far := Peer{Name: "six", Addrs: []netip.Addr{addr("fd09::3")}, Pods: prefixes("10.42.2.0/24"), Key: keyOf(2)}
	open := Peer{Name: "without a key", Addrs: []netip.Addr{addr("10.0.0.4")}, Pods: prefixes("10.42.3.0/24")}
	thief := Peer{Name: "thief", Addrs: []netip.Addr{addr("10.0.0.5")}, Pods: prefixes("10.42.4.0/24"), Key: keyOf(1)}
	got := plan(self, []Peer{near, far, open, thief}, segment("10.0.0.0/24", "fd01::/64"))
	want := map[string]way{
		"10.42.1.0/24": encrypted, "fd42:0:0:1::/64": encrypted, "10.42.2.0/24": encrypted, "10.42.3.0/24": refused, "10.42.4.0/24": refused,
		"10.42.0.0/16": refused, "fd42::/48": refused,
	}
	for _, r := range got.Routes {
		if w, ok := want[r.Dst.String()]; !ok || w != r.Way {
			t.Errorf("route %+v", r)
		}
		delete(want, r.Dst.String())
	}
	if len(want) > 0 || !slices.Equal(got.Lost, []string{"thief", "without a key"}) {
		t.Errorf("missing %v, lost %v", want, got.Lost)
	}
	ends := fmt.Sprint(got.Encrypted)
	if want := fmt.Sprint([]wireguard.Peer{
		{Key: near.Key, Endpoint: netip.MustParseAddrPort("10.0.0.2:51820"), Allowed: near.Pods},
		{Key: far.Key, Endpoint: netip.MustParseAddrPort("[fd09::3]:51820"), Allowed: far.Pods},
	}); ends != want {
		t.Errorf("ends %s, want %s", ends, want)
	}
	for _, tun := range got.Tunnels {
		if len(tun.Ends) > 0 {
			t.Errorf("a tunnel in clear: %+v", tun)
		}
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
				if r.Way != way(j, i).Way {
					t.Fatalf("%d and %d choose differently", i, j)
				}
				in := slices.ContainsFunc(specs[i].Tunnels[0].Ends, func(e entry) bool {
					return e.Node == all[j].Addrs[0] && e.MAC == specs[j].MAC && slices.Equal(e.Inside, specs[j].Inside)
				})
				if in != (r.Way == tunnel4) {
					t.Fatalf("route %+v and tunnel %+v do not fit", r, specs[i].Tunnels)
				}
			}
		}
	})
}
