package network

import (
	"net/netip"
	"os"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/celox/celox/internal/network/flows"
)

// strays finds flows of UDP, which has no end that would be seen, to host ports that lead elsewhere now. It implements netlink.CustomConntrackFilter.
type strays []element

// forgetFlows has the kernel forget flows to host ports of UDP that came or went: packets that go on would go on to where the port led before.
func forgetFlows(ns *os.File, changed []element) error {
	udp := strays(slices.DeleteFunc(slices.Clone(changed), func(e element) bool { return e.In == setSelf || e.Protocol != "UDP" }))
	if len(udp) == 0 {
		return nil
	}
	return flows.Forget(ns, udp)
}

// MatchConntrackFlow reports whether a flow has to be forgotten.
func (s strays) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	if flow.Forward.Protocol != unix.IPPROTO_UDP {
		return false
	}
	to, ok := netip.AddrFromSlice(flow.Forward.DstIP)
	if !ok {
		return false
	}
	to = to.Unmap()
	return slices.ContainsFunc(s, func(e element) bool {
		return e.Port == flow.Forward.DstPort && e.Addr.Is6() == to.Is6() && (e.In == mapPorts || e.Addr == to)
	})
}
