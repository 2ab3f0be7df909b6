package mesh

import (
	"cmp"
	"crypto/sha256"
	"net"
	"net/netip"
	"slices"
)

// Peer is another node.
type Peer struct {
	Name string
	// Addrs are its addresses, the first of each family counts.
	Addrs []netip.Addr
	// Pods are the networks of its pods, one of each family at most.
	Pods []netip.Prefix
}

// Self is this node.
type Self struct {
	// Addrs are its addresses. The first says of which family the tunnel is.
	Addrs []netip.Addr
	Pods  []netip.Prefix
}

// route leads to the pods of a node.
type route struct {
	Dst netip.Prefix
	Via netip.Addr
	// Link is the interface that it leaves by; 0 is the tunnel.
	Link int
}

// entry says where an end of the tunnel is: the address inside the tunnel and the hardware address that stand for it, and the address of its node.
type entry struct {
	Inside []netip.Addr
	MAC    string
	Node   netip.Addr
}

// spec is what should be in the kernel.
type spec struct {
	Routes []route
	// Tunnel are the far ends; without any there is no device.
	Tunnel []entry
	// Inside are the addresses of this node's own end.
	Inside []netip.Addr
	// MAC is the hardware address of this node's own end.
	MAC string
	// Lost names the nodes that there is no way to.
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
	var s spec
	for _, p := range self.Pods {
		s.Inside = append(s.Inside, end(p))
	}
	s.MAC = hardware(self.Pods)
	if len(self.Addrs) == 0 || len(self.Pods) == 0 {
		return spec{}
	}
	tunnel6 := self.Addrs[0].Is6()
	taken := map[netip.Prefix]bool{} // two nodes with one network: the first by name has it
	peers = slices.Clone(peers)
	slices.SortFunc(peers, func(a, b Peer) int { return cmp.Compare(a.Name, b.Name) })
	for _, p := range peers {
		var inside []netip.Addr
		lost := false
		for _, pods := range p.Pods {
			if taken[pods] || slices.ContainsFunc(self.Pods, pods.Overlaps) {
				lost = true
				continue
			}
			taken[pods] = true
			if a, ok := family(p.Addrs, pods.Addr().Is6()); ok {
				if link, ok := neighbour(a); ok {
					s.Routes = append(s.Routes, route{Dst: pods, Via: a, Link: link})
					continue
				}
			}
			// Through the tunnel both ends need pods of the family, or answers have no way back.
			if !slices.ContainsFunc(self.Pods, func(own netip.Prefix) bool { return own.Addr().Is6() == pods.Addr().Is6() }) {
				continue
			}
			s.Routes = append(s.Routes, route{Dst: pods, Via: end(pods)})
			inside = append(inside, end(pods))
		}
		if len(inside) > 0 {
			if a, ok := family(p.Addrs, tunnel6); ok {
				s.Tunnel = append(s.Tunnel, entry{Inside: inside, MAC: hardware(p.Pods), Node: a})
			} else {
				lost = true
				s.Routes = slices.DeleteFunc(s.Routes, func(r route) bool { return slices.Contains(inside, r.Via) && r.Link == 0 })
			}
		}
		if lost {
			s.Lost = append(s.Lost, p.Name)
		}
	}
	return s
}
