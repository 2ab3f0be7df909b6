package machine

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// Interface is what a machine's interface on a segment is called.
	Interface  = "eth0"
	switchName = "switch"
)

// Segment is an Ethernet that machines are plugged into: a bridge in a namespace of its own.
type Segment struct {
	ns    *NetNS
	ports int
}

// NewSegment makes an Ethernet without machines.
func NewSegment() (*Segment, error) {
	ns, err := NewNetNS()
	if err != nil {
		return nil, err
	}
	err = ns.Do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = switchName
		b := &netlink.Bridge{LinkAttrs: attrs}
		if err := netlink.LinkAdd(b); err != nil {
			return fmt.Errorf("add bridge: %w", err)
		}
		return netlink.LinkSetUp(b)
	})
	if err != nil {
		return nil, errors.Join(err, ns.Close())
	}
	return &Segment{ns: ns}, nil
}

// Close lets go of the segment. The machines' ends of the cables go with it.
func (s *Segment) Close() error { return s.ns.Close() }

// Plug connects a namespace to the segment by an interface with an address.
func (s *Segment) Plug(ns *NetNS, name string, address netip.Prefix) error {
	if err := s.plug(ns, name); err != nil {
		return err
	}
	if err := ns.Address(name, address); err != nil {
		return err
	}
	return ns.SetLink(name, true)
}

// plug makes the cable.
func (s *Segment) plug(ns *NetNS, name string) error {
	s.ports++
	port := fmt.Sprintf("port%d", s.ports)
	return s.ns.Do(func() error {
		bridge, err := netlink.LinkByName(switchName)
		if err != nil {
			return err
		}
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MasterIndex = port, bridge.Attrs().Index
		veth := netlink.NewVeth(attrs)
		veth.PeerName, veth.PeerNamespace = name, netlink.NsFd(int(ns.file.Fd()))
		if err := netlink.LinkAdd(veth); err != nil {
			return fmt.Errorf("add cable: %w", err)
		}
		return netlink.LinkSetUp(veth)
	})
}

// Address gives an interface one more address, which can be used at once.
func (n *NetNS) Address(name string, address netip.Prefix) error {
	return n.Do(func() error {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(link, netlinkAddr(address)); err != nil {
			return fmt.Errorf("address %v: %w", address, err)
		}
		return nil
	})
}

// RemoveAddress takes an address away from an interface.
func (n *NetNS) RemoveAddress(name string, address netip.Prefix) error {
	return n.Do(func() error {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		return netlink.AddrDel(link, netlinkAddr(address))
	})
}

func netlinkAddr(address netip.Prefix) *netlink.Addr {
	out := &netlink.Addr{IPNet: &net.IPNet{IP: address.Addr().AsSlice(), Mask: net.CIDRMask(address.Bits(), address.Addr().BitLen())}}
	if address.Addr().Is6() {
		out.Flags = unix.IFA_F_NODAD
	}
	return out
}

// Gateway gives a namespace a default route of the gateway's family.
func Gateway(ns *NetNS, via netip.Addr) error {
	all := &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}
	if via.Is6() {
		all = &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
	}
	return ns.Do(func() error { return netlink.RouteReplace(&netlink.Route{Dst: all, Gw: via.AsSlice()}) })
}

// Router makes a namespace that forwards between the segments that it is plugged into.
func Router() (*NetNS, error) {
	ns, err := NewNetNS()
	if err != nil {
		return nil, err
	}
	// The file is that of the namespace of the thread that opens it.
	if err := ns.Do(func() error {
		return errors.Join(os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0), os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte("1"), 0))
	}); err != nil {
		return nil, errors.Join(err, ns.Close())
	}
	return ns, nil
}

// Routes are the networks that the namespace has routes to, of those that a protocol number marks.
func (n *NetNS) Routes(protocol netlink.RouteProtocol) (to []string, err error) {
	err = n.Do(func() error {
		list, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Protocol: protocol}, netlink.RT_FILTER_PROTOCOL)
		for _, r := range list {
			to = append(to, r.Dst.String())
		}
		return err
	})
	return to, err
}

// RemoveRoutes removes the routes that a protocol number marks, and a device, and says how many routes there were.
func (n *NetNS) RemoveRoutes(protocol netlink.RouteProtocol, device string) (removed int, err error) {
	err = n.Do(func() error {
		list, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Protocol: protocol}, netlink.RT_FILTER_PROTOCOL)
		if err != nil {
			return err
		}
		for i := range list {
			if err := netlink.RouteDel(&list[i]); err != nil {
				return fmt.Errorf("remove route to %v: %w", list[i].Dst, err)
			}
			removed++
		}
		link, err := netlink.LinkByName(device)
		if err != nil {
			return fmt.Errorf("remove %s: %w", device, err)
		}
		return netlink.LinkDel(link)
	})
	return removed, err
}

// Unplug takes an interface away, with its cable.
func (n *NetNS) Unplug(name string) error {
	return n.Do(func() error {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		return netlink.LinkDel(link)
	})
}
