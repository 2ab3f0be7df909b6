package mesh

import (
	"crypto/sha256"
	"net"
	"net/netip"
	"slices"
	"sort"

	"github.com/celox/celox/internal/network/wireguard"
)

// Peer is another node.
type Peer struct {
	Name string
	// Addrs are its addresses, the first of each family counts.
	Addrs []netip.Addr
	// Pods are the networks of its pods, one of each family at most.
	Pods []netip.Prefix
	// Key is its public key for encryption; the zero key is none.
	Key wireguard.Key
}

// Self is this node.
type Self struct {
	// Addrs are its addresses, one of each family at most.
	Addrs []netip.Addr
	Pods  []netip.Prefix
	// Cluster are the ranges of the pods of all nodes.
	Cluster []netip.Prefix
	// Port is the UDP port that encrypted packets of all nodes go to; 0 is that nothing is encrypted.
	Port uint16
}

// way is how packets get to the pods of a node.
type way int

const (
	direct    way = iota // by the node itself, a neighbour
	tunnel4              // through the tunnel over IPv4
	tunnel6              // through the tunnel over IPv6
	encrypted            // through the encrypted tunnel
	refused              // not at all: senders are told so
)

func (w way) String() string {
	return [...]string{"direct", "VXLAN", "VXLAN over IPv6", "WireGuard", "no way"}[w]
}

// route leads to the pods of a node.
type route struct {
	Dst netip.Prefix
	Way way
	// Via is the next hop of a direct way, and the address of the far end inside a tunnel.
	Via netip.Addr
	// Link is the interface of a direct way.
	Link int
}

// entry says where an end of a tunnel is: the address inside the tunnel and the hardware address that stand for it, and the address of its node.
type entry struct {
	Inside []netip.Addr
	MAC    string
	Node   netip.Addr
}

// tunnel is a device and its far ends; without any there is no device. Of each family of addresses of nodes there is one.
type tunnel struct {
	// Own is the address of this node that packets leave with.
	Own  netip.Addr
	Ends []entry
}

// spec is what should be in the kernel.
type spec struct {
	Routes  []route
	Tunnels [2]tunnel // tunnel4, tunnel6
	// Inside are the addresses of this node's own end of every tunnel.
	Inside []netip.Addr
	// MAC is the hardware address of this node's own end.
	MAC string
	// Encrypted are the far ends of the encrypted tunnel.
	Encrypted []wireguard.Peer
	// Lost names the nodes to which a way is missing.
	Lost []string
}

// family finds the first address of a family.
func family(addrs []netip.Addr, v6 bool) (netip.Addr, bool) {
	for _, a := range addrs {
		if a.Is6() == v6 {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// underlay chooses the addresses by which two nodes reach each other: IPv4 if both have it, because less is lost to headers. Both ends choose alike.
func underlay(self, peer []netip.Addr) (own, far netip.Addr, ok bool) {
	for _, v6 := range []bool{false, true} {
		own, has := family(self, v6)
		far, reached := family(peer, v6)
		if has && reached {
			return own, far, true
		}
	}
	return netip.Addr{}, netip.Addr{}, false
}

// end is the address of a node's end of the tunnel: the first of its network of pods, which no pod has.
func end(pods netip.Prefix) netip.Addr { return pods.Masked().Addr() }

// hardware is the hardware address of a node's end of the tunnel. It follows from the network of its pods, so that nobody has to be asked for it.
func hardware(pods []netip.Prefix) string {
	if len(pods) == 0 {
		return ""
	}
	sum := sha256.Sum256(end(pods[0]).AsSlice())
	return net.HardwareAddr(append([]byte{0x0a, 0xcf}, sum[:4]...)).String()
}

// plan computes what should be. Neighbour tells by which interface a neighbour is reached; false is that a router is between, or nothing.
func plan(self Self, peers []Peer, neighbour func(netip.Addr) (link int, ok bool)) spec {
	if len(self.Addrs) == 0 || len(self.Pods) == 0 {
		return spec{}
	}
	s := spec{MAC: hardware(self.Pods)}
	for _, p := range self.Pods {
		s.Inside = append(s.Inside, end(p))
	}
	taken := map[netip.Prefix]bool{} // two nodes with one network: the first by name has it
	peers = slices.Clone(peers)
	sort.Slice(peers, func(i, j int) bool { return peers[i].Name < peers[j].Name })
	for _, p := range peers {
		var pods []netip.Prefix // that this node can have a way to
		lost := false
		for _, n := range p.Pods {
			if taken[n] || slices.ContainsFunc(self.Pods, n.Overlaps) {
				lost = true
				continue
			}
			taken[n] = true
			pods = append(pods, n)
		}
		if self.Port != 0 {
			lost = s.encrypt(self, p, pods) || lost
		} else {
			lost = s.clear(self, p, pods, neighbour) || lost
		}
		if lost {
			s.Lost = append(s.Lost, p.Name)
		}
	}
	if self.Port != 0 {
		// What no node has, or none that is known yet, must not leave by a default route, in clear.
		for _, c := range self.Cluster {
			if !taken[c] && !slices.Contains(self.Pods, c) {
				s.Routes = append(s.Routes, route{Dst: c, Way: refused})
			}
		}
	}
	return s
}

// clear adds the ways to a node that packets go as they are, and says whether one is missing.
func (s *spec) clear(self Self, p Peer, pods []netip.Prefix, neighbour func(netip.Addr) (int, bool)) (lost bool) {
	var inside []netip.Addr
	own, far, reached := underlay(self.Addrs, p.Addrs)
	by := tunnel4
	if own.Is6() {
		by = tunnel6
	}
	for _, n := range pods {
		if a, ok := family(p.Addrs, n.Addr().Is6()); ok {
			if link, ok := neighbour(a); ok {
				s.Routes = append(s.Routes, route{Dst: n, Via: a, Link: link})
				continue
			}
		}
		// Through the tunnel both ends need pods of the family, or answers have no way back.
		if !slices.ContainsFunc(self.Pods, func(own netip.Prefix) bool { return own.Addr().Is6() == n.Addr().Is6() }) {
			continue
		}
		if !reached {
			lost = true
			continue
		}
		s.Routes = append(s.Routes, route{Dst: n, Way: by, Via: end(n)})
		inside = append(inside, end(n))
	}
	if len(inside) > 0 {
		t := &s.Tunnels[by-tunnel4]
		t.Own = own
		t.Ends = append(t.Ends, entry{Inside: inside, MAC: hardware(p.Pods), Node: far})
	}
	return lost
}

// encrypt adds the encrypted way to a node, for neighbours as well. A node without a key is not reached: nothing goes in clear where encryption is wanted.
func (s *spec) encrypt(self Self, p Peer, pods []netip.Prefix) (lost bool) {
	_, far, reached := underlay(self.Addrs, p.Addrs)
	by := encrypted
	if !reached || p.Key.IsZero() || slices.ContainsFunc(s.Encrypted, func(o wireguard.Peer) bool { return o.Key == p.Key }) {
		by = refused
	}
	for _, n := range pods {
		r := route{Dst: n, Way: by}
		if by == encrypted {
			r.Via = end(n)
		}
		s.Routes = append(s.Routes, r)
	}
	if by == encrypted && len(pods) > 0 {
		s.Encrypted = append(s.Encrypted, wireguard.Peer{Key: p.Key, Endpoint: netip.AddrPortFrom(far, self.Port), Allowed: pods})
	}
	return by == refused
}
