package proxy

import (
	"net/netip"
	"os"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/celox/celox/internal/network/flows"
)

// stale finds what would go on leading to an endpoint that a frontend doesn't have any more: connections of UDP, which has no end that would be seen,
// and affinities. It implements netlink.CustomConntrackFilter.
type stale struct {
	keys     map[Key]*Frontend // those that lost endpoints, with what they have now
	ports    map[uint16]bool   // the node ports of UDP among them
	udp      bool
	affinity bool
}

// newStale returns nil if nothing that changed can leave such connections.
func newStale(old, changed map[Key]*Frontend) *stale {
	out := &stale{keys: map[Key]*Frontend{}, ports: map[uint16]bool{}}
	for k, f := range changed {
		before := old[k]
		if before == nil || (k.Protocol != corev1.ProtocolUDP && before.Affinity == 0) || !lost(before, f) {
			continue
		}
		out.keys[k] = f
		out.affinity = out.affinity || before.Affinity > 0
		if k.Protocol != corev1.ProtocolUDP {
			continue
		}
		out.udp = true
		if k.NodePort() {
			out.ports[k.Port] = true
		}
	}
	if len(out.keys) == 0 {
		return nil
	}
	return out
}

func lost(before, after *Frontend) bool {
	if after == nil {
		return true
	}
	for _, list := range [][]Endpoint{before.Endpoints, before.LocalEndpoints} {
		for _, ep := range list {
			if !after.has(ep.Addr) {
				return true
			}
		}
	}
	return len(before.Endpoints) == 0 // packets may have gone elsewhere before
}

func (f *Frontend) has(a netip.AddrPort) bool {
	is := func(ep Endpoint) bool { return ep.Addr == a }
	return slices.ContainsFunc(f.Endpoints, is) || slices.ContainsFunc(f.LocalEndpoints, is)
}

// MatchConntrackFlow reports whether the connection has to be forgotten.
func (s *stale) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	if flow.Forward.Protocol != unix.IPPROTO_UDP {
		return false
	}
	dst, ok := netip.AddrFromSlice(flow.Forward.DstIP)
	if !ok {
		return false
	}
	dst = dst.Unmap()
	k := Key{Addr: dst, Protocol: corev1.ProtocolUDP, Port: flow.Forward.DstPort}
	f, ok := s.keys[k]
	if !ok && s.ports[k.Port] {
		if k.Addr = netip.IPv4Unspecified(); dst.Is6() {
			k.Addr = netip.IPv6Unspecified()
		}
		f, ok = s.keys[k]
	}
	if !ok {
		return false
	}
	to, ok := netip.AddrFromSlice(flow.Reverse.SrcIP)
	return !ok || f == nil || !f.has(netip.AddrPortFrom(to.Unmap(), flow.Reverse.SrcPort))
}

// forget removes the connections.
func (s *stale) forget(ns *os.File) error {
	if !s.udp {
		return nil
	}
	return flows.Forget(ns, s)
}
