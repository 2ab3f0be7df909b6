package network

import (
	"fmt"
	"net/netip"
	"os"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// strays finds flows of UDP, which has no end that would be seen, to host ports that lead elsewhere now. It implements netlink.CustomConntrackFilter.
type strays []element

// forgetFlows has the kernel forget flows to host ports of UDP that came or went: packets that go on would go on to where the port led before.
func forgetFlows(ns *os.File, changed []element) error {
	udp := strays(slices.DeleteFunc(slices.Clone(changed), func(e element) bool { return e.In == setSelf || e.Protocol != "UDP" }))
	if len(udp) == 0 {
		return nil
	}
	h, err := netlink.NewHandleAt(netns.NsHandle(ns.Fd()), unix.NETLINK_NETFILTER)
	if err != nil {
		return fmt.Errorf("conntrack: %w", err)
	}
	defer h.Close()
	for _, f := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
		if _, err := h.ConntrackDeleteFilters(netlink.ConntrackTable, f, udp); err != nil {
			return fmt.Errorf("conntrack: %w", err)
		}
	}
	return nil
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
