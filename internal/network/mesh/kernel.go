package mesh

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/celox/celox/internal/network/dump"
	"github.com/celox/celox/internal/network/wireguard"
)

const (
	// networkID tells these tunnels from others on the same machines (VNI, RFC 7348).
	networkID = 0xce10
	// Port is the UDP port of the tunnels: Linux' own, which firewalls of clusters know.
	Port = 8472
	// protocol marks routes as ours (rtm_protocol); the number is nobody's in rt_protos.
	protocol = 0xce
	// overhead is what a tunnel adds to a packet.
	overhead4, overhead6 = 50, 70
	// lastResort is the metric of routes that refuse: every other is better. (IPv6 has 1024 for those without one.)
	lastResort = 0x7ffffff0
)

// devices are the names of the tunnels over IPv4 and over IPv6: a device of the kernel's has far ends of one family.
var devices = [2]string{"celox-vxlan", "celox-vxlan6"}

// crypt is the device that encrypts.
type crypt interface {
	Apply(cfg wireguard.Config) (link int, err error)
}

// kernel is the routing of one namespace.
type kernel struct {
	h *netlink.Handle
	// crypt is nil where nothing is encrypted.
	crypt crypt
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func host(a netip.Addr) *net.IPNet { return ipNet(netip.PrefixFrom(a, a.BitLen())) }

// neighbour says by which interface an address is reached without a router.
func (k kernel) neighbour(a netip.Addr) (int, bool) {
	routes, err := k.h.RouteGet(a.AsSlice())
	if err != nil || len(routes) == 0 {
		return 0, false
	}
	r := routes[0]
	if r.Gw != nil && !r.Gw.IsUnspecified() || r.Type != 0 && r.Type != unix.RTN_UNICAST || r.LinkIndex == 0 || r.Via != nil {
		return 0, false
	}
	return r.LinkIndex, true
}

// apply makes the kernel be as wanted, and returns the interfaces of the ways.
func (k kernel) apply(self Self, s spec) (links map[way]int, err error) {
	links = map[way]int{}
	if k.crypt != nil {
		if err := k.encrypt(self, s, links); err != nil {
			return nil, err
		}
	}
	for i := range s.Tunnels {
		if len(s.Tunnels[i].Ends) == 0 {
			continue
		}
		if links[tunnel4+way(i)], err = k.ensureTunnel(devices[i], s.Tunnels[i], s); err != nil {
			return nil, err
		}
	}
	if err := k.routes(s, links); err != nil {
		return nil, err
	}
	for i := range s.Tunnels {
		if len(s.Tunnels[i].Ends) == 0 {
			if err := k.removeLink(devices[i]); err != nil {
				return nil, err
			}
		}
	}
	if k.crypt == nil {
		return links, wireguard.Remove(k.h)
	}
	return links, nil
}

// encrypt makes the encrypted tunnel.
func (k kernel) encrypt(self Self, s spec, links map[way]int) error {
	smallest := 0
	for _, a := range self.Addrs {
		mtu, err := k.linkMTU(a)
		if err != nil {
			return err
		}
		if smallest == 0 || mtu < smallest {
			smallest = mtu
		}
	}
	index, err := k.crypt.Apply(wireguard.Config{Port: self.Port, Peers: s.Encrypted, Underlay: smallest})
	if err != nil {
		return err
	}
	links[encrypted] = index
	link, err := k.h.LinkByIndex(index)
	if err != nil {
		return fmt.Errorf("encrypted tunnel: %w", err)
	}
	return k.addresses(link, s.Inside)
}

// routes makes ours those that are wanted.
func (k kernel) routes(s spec, links map[way]int) error {
	have, err := dump.Whole(func() ([]netlink.Route, error) {
		return k.h.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Protocol: protocol}, netlink.RT_FILTER_PROTOCOL)
	})
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	wanted := map[netip.Prefix]route{}
	for _, r := range s.Routes {
		if r.Way != direct {
			r.Link = links[r.Way]
		}
		wanted[r.Dst] = r
	}
	var errs []error
	for i := range have {
		dst := prefixOf(have[i].Dst)
		w, ok := wanted[dst]
		if ok && same(w, &have[i]) {
			delete(wanted, dst)
			continue
		}
		// One that refuses has another metric than others, so that it does not take their place; and IPv6 adds a way to those that are there.
		if ok && dst.Addr().Is4() && (w.Way == refused) == (have[i].Type == unix.RTN_UNREACHABLE) {
			continue // in one step, below
		}
		if err := k.h.RouteDel(&have[i]); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("remove route to %v: %w", dst, err))
		}
	}
	for _, r := range wanted {
		n := &netlink.Route{Dst: ipNet(r.Dst), LinkIndex: r.Link, Protocol: protocol}
		switch r.Way {
		case refused:
			n.Type, n.Priority = unix.RTN_UNREACHABLE, lastResort
		case encrypted:
			n.Scope = unix.RT_SCOPE_LINK
			if r.Dst.Addr().Is6() {
				n.Scope = unix.RT_SCOPE_UNIVERSE
			}
		default:
			n.Gw, n.Flags = r.Via.AsSlice(), int(netlink.FLAG_ONLINK)
		}
		if err := k.h.RouteReplace(n); err != nil {
			errs = append(errs, fmt.Errorf("route to %v (%v %v): %w", r.Dst, r.Way, r.Via, err))
		}
	}
	return errors.Join(errs...)
}

// same says whether the kernel's route is the wanted one.
func same(w route, have *netlink.Route) bool {
	switch w.Way {
	case refused:
		return have.Type == unix.RTN_UNREACHABLE
	case encrypted:
		return have.Type == unix.RTN_UNICAST && have.LinkIndex == w.Link && have.Gw == nil
	}
	return have.Type == unix.RTN_UNICAST && have.LinkIndex == w.Link && addrOf(have.Gw) == w.Via
}

func prefixOf(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.Prefix{}
	}
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(addrOf(n.IP), ones)
}

func addrOf(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

// ensureTunnel makes a device and its entries, and returns its index.
func (k kernel) ensureTunnel(name string, t tunnel, s spec) (int, error) {
	mtu, err := k.linkMTU(t.Own)
	if err != nil {
		return 0, err
	}
	mtu -= overhead4
	if t.Own.Is6() {
		mtu -= overhead6 - overhead4
	}
	mac, err := net.ParseMAC(s.MAC)
	if err != nil {
		return 0, fmt.Errorf("tunnel: %w", err)
	}
	link, err := k.device(name, t.Own, mac, mtu)
	if err != nil {
		return 0, err
	}
	if err := k.addresses(link, s.Inside); err != nil {
		return 0, err
	}
	if link.Attrs().MTU != mtu {
		if err := k.h.LinkSetMTU(link, mtu); err != nil {
			return 0, fmt.Errorf("tunnel: set MTU %d: %w", mtu, err)
		}
	}
	if err := k.h.LinkSetUp(link); err != nil {
		return 0, fmt.Errorf("tunnel: set up: %w", err)
	}
	return link.Attrs().Index, k.entries(link.Attrs().Index, t.Ends)
}

// linkMTU is that of the interface that has an address of this node.
func (k kernel) linkMTU(own netip.Addr) (int, error) {
	fam := netlink.FAMILY_V4
	if own.Is6() {
		fam = netlink.FAMILY_V6
	}
	addrs, err := dump.Whole(func() ([]netlink.Addr, error) { return k.h.AddrList(nil, fam) })
	if err != nil {
		return 0, fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addrs {
		if addrOf(a.IP) != own {
			continue
		}
		l, err := k.h.LinkByIndex(a.LinkIndex)
		if err != nil {
			return 0, fmt.Errorf("interface of %v: %w", own, err)
		}
		return l.Attrs().MTU, nil
	}
	return 0, fmt.Errorf("no interface of this machine has the node's address %v", own)
}

// device makes a device, anew if it is another's or was made for another address.
func (k kernel) device(name string, own netip.Addr, mac net.HardwareAddr, mtu int) (netlink.Link, error) {
	link, err := k.h.LinkByName(name)
	if err == nil {
		v, ok := link.(*netlink.Vxlan)
		if ok && v.VxlanId == networkID && v.Port == Port && addrOf(v.SrcAddr) == own && !v.Learning && bytes.Equal(v.HardwareAddr, mac) {
			return link, nil
		}
		if err := k.h.LinkDel(link); err != nil {
			return nil, fmt.Errorf("tunnel: remove the old one: %w", err)
		}
	} else if !missing(err) {
		return nil, fmt.Errorf("tunnel: %w", err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr, attrs.MTU = name, mac, mtu
	err = k.h.LinkAdd(&netlink.Vxlan{LinkAttrs: attrs, VxlanId: networkID, SrcAddr: own.AsSlice(), Port: Port, Learning: false})
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil, errors.New("tunnel: this kernel has no VXLAN (module vxlan): nodes behind routers cannot be reached")
	}
	if err != nil {
		return nil, fmt.Errorf("tunnel: add device: %w", err)
	}
	if link, err = k.h.LinkByName(name); err != nil {
		return nil, fmt.Errorf("tunnel: %w", err)
	}
	return link, nil
}

func missing(err error) bool {
	var m netlink.LinkNotFoundError
	return errors.As(err, &m)
}

// addresses gives a device exactly its own, besides those of the link.
func (k kernel) addresses(link netlink.Link, wanted []netip.Addr) error {
	have, err := dump.Whole(func() ([]netlink.Addr, error) { return k.h.AddrList(link, netlink.FAMILY_ALL) })
	if err != nil {
		return fmt.Errorf("tunnel: list addresses: %w", err)
	}
	var there []netip.Addr
	for i := range have {
		a := addrOf(have[i].IP)
		if ones, bits := have[i].Mask.Size(); slices.Contains(wanted, a) && ones == bits {
			there = append(there, a)
		} else if !a.IsLinkLocalUnicast() {
			if err := k.h.AddrDel(link, &have[i]); err != nil {
				return fmt.Errorf("tunnel: remove address %v: %w", a, err)
			}
		}
	}
	for _, a := range wanted {
		if slices.Contains(there, a) {
			continue
		}
		addr := &netlink.Addr{IPNet: host(a)}
		if a.Is6() {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := k.h.AddrAdd(link, addr); err != nil {
			return fmt.Errorf("tunnel: add address %v: %w", a, err)
		}
	}
	return nil
}

// entries makes a device's neighbours and forwarding entries those of the far ends.
func (k kernel) entries(link int, ends []entry) error {
	type key struct {
		forwarding bool
		mac        string
		ip         netip.Addr
	}
	wanted := map[key]bool{}
	for _, e := range ends {
		wanted[key{true, e.MAC, e.Node}] = true
		for _, a := range e.Inside {
			wanted[key{false, e.MAC, a}] = true
		}
	}
	var errs []error
	for _, family := range []int{unix.AF_INET, unix.AF_INET6, unix.AF_BRIDGE} {
		have, err := dump.Whole(func() ([]netlink.Neigh, error) { return k.h.NeighList(link, family) })
		if err != nil {
			return fmt.Errorf("tunnel: list neighbours: %w", err)
		}
		for i := range have {
			n := &have[i]
			if n.State&netlink.NUD_PERMANENT == 0 {
				continue
			}
			this := key{family == unix.AF_BRIDGE, n.HardwareAddr.String(), addrOf(n.IP)}
			if wanted[this] {
				delete(wanted, this)
				continue
			}
			if family == unix.AF_BRIDGE {
				n.Family, n.Flags = family, netlink.NTF_SELF
			}
			if err := k.h.NeighDel(n); err != nil && !errors.Is(err, unix.ENOENT) {
				errs = append(errs, fmt.Errorf("tunnel: remove entry %v %v: %w", n.HardwareAddr, n.IP, err))
			}
		}
	}
	for w := range wanted {
		mac, err := net.ParseMAC(w.mac)
		if err != nil {
			return fmt.Errorf("tunnel: %w", err)
		}
		n := &netlink.Neigh{LinkIndex: link, State: netlink.NUD_PERMANENT, HardwareAddr: mac, IP: w.ip.AsSlice()}
		if w.forwarding {
			n.Family, n.Flags = unix.AF_BRIDGE, netlink.NTF_SELF
		}
		if err := k.h.NeighSet(n); err != nil {
			errs = append(errs, fmt.Errorf("tunnel: entry %v %v: %w", w.mac, w.ip, err))
		}
	}
	return errors.Join(errs...)
}

func (k kernel) removeLink(name string) error {
	link, err := k.h.LinkByName(name)
	if missing(err) {
		return nil
	}
	if err == nil {
		err = k.h.LinkDel(link)
	}
	if err != nil {
		return fmt.Errorf("tunnel: remove %s: %w", name, err)
	}
	return nil
}
