package cni

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// bridgeCalls is what has the packets between two ports of a bridge go through the firewall (br_netfilter), by family.
const bridgeCalls = "/proc/sys/net/bridge/bridge-nf-call-"

// Attachment is a sandbox that plugins have connected.
type Attachment struct {
	ID    string
	Pod   string // "namespace/name"
	NetNS string
	Addrs []netip.Addr
}

// Attached are the sandboxes that have addresses, but for those that are to be taken down.
func (n *Network) Attached() []Attachment {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []Attachment
	for id, r := range n.records {
		if len(r.IPs) > 0 && n.stale[id] == nil {
			out = append(out, Attachment{ID: id, Pod: r.Pod, NetNS: r.NetNS, Addrs: slices.Clone(r.IPs)})
		}
	}
	return out
}

// Unseen returns why packets of a sandbox do not all pass the node's rules for what it forwards, or nil: it is connected by a pair of interfaces, and the node
// routes what comes by it, or its bridge asks the rules. A plugin that hands packets on by other means (eBPF) is not found out.
func (n *Network) Unseen(path string) error {
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return nil //nolint:nilerr // it is gone, and sends nothing
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	defer h.Close()
	link, err := h.LinkByName(interfaceName)
	if err != nil {
		return fmt.Errorf("interface %s: %w", interfaceName, err)
	}
	if link.Type() != "veth" {
		return fmt.Errorf("it has an interface of the type %s, whose packets pass by the rules of the node", link.Type())
	}
	outer, err := netlink.LinkByIndex(link.Attrs().ParentIndex)
	if err != nil || outer.Type() != "veth" || outer.Attrs().ParentIndex != link.Attrs().Index {
		return fmt.Errorf("the other end of its interface %s is not on the node", interfaceName)
	}
	if outer.Attrs().MasterIndex == 0 {
		return nil
	}
	master, err := netlink.LinkByIndex(outer.Attrs().MasterIndex)
	if err != nil {
		return fmt.Errorf("what interface %s is a port of: %w", outer.Attrs().Name, err)
	}
	switch master.Type() {
	case "vrf":
		return nil
	case "bridge":
		return asked(master.Attrs().Name, bridgeCalls)
	}
	return fmt.Errorf("its interface is a port of %s, of the type %s, which passes packets by the rules of the node", master.Attrs().Name, master.Type())
}

// asked says whether a bridge has the firewall look at packets between its ports.
func asked(bridge, calls string) error {
	for _, family := range []string{"iptables", "ip6tables"} {
		text, err := os.ReadFile(calls + family)
		if err != nil {
			return fmt.Errorf("bridge %s passes packets between its ports by the rules of the node: the kernel needs br_netfilter for them (%w)", bridge, err)
		}
		if strings.TrimSpace(string(text)) != "1" {
			return fmt.Errorf("bridge %s passes packets between its ports by the rules of the node: set net.bridge.bridge-nf-call-%s to 1", bridge, family)
		}
	}
	return nil
}
