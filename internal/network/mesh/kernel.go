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
)

const (
	// device is the tunnel's name.
	device = "celox-vxlan"
	// networkID tells this tunnel from others on the same machines (VNI, RFC 7348).
	networkID = 0xce10
	// Port is the UDP port of the tunnel: Linux' own, which firewalls of clusters know.
	Port = 8472
	// protocol marks routes as ours (rtm_protocol); the number is nobody's in rt_protos.
	protocol = 0xce
	// overhead is what the tunnel adds to a packet.
	overhead4, overhead6 = 50, 70
)

// kernel is the routing of one namespace.
type kernel struct{ h *netlink.Handle }

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
	if r.Gw != nil && !r.Gw.IsUnspecified() || r.Type == unix.RTN_LOCAL || r.LinkIndex == 0 || r.Via != nil {
		return 0, false
	}
	return r.LinkIndex, true
}

// apply makes the kernel be as wanted.
func (k kernel) apply(self Self, s spec) error {
	tunnel := 0
	if len(s.Tunnel) > 0 {
		var err error
		if tunnel, err = k.ensureTunnel(self.Addrs[0], s); err != nil {
			return err
		}
	}
	if err := k.routes(s, tunnel); err != nil {
		return err
	}
	if tunnel == 0 {
		return k.removeTunnel()
	}
	return nil
}

// routes makes ours those that are wanted.
func (k kernel) routes(s spec, tunnel int) error {
	have, err := k.h.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Protocol: protocol}, netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	wanted := map[netip.Prefix]route{}
	for _, r := range s.Routes {
		if r.Link == 0 {
			r.Link = tunnel
		}
		wanted[r.Dst] = r
	}
	var errs []error
	for i := range have {
		dst, via := prefixOf(have[i].Dst), addrOf(have[i].Gw)
		if w, ok := wanted[dst]; ok && w.Via == via && w.Link == have[i].LinkIndex {
			delete(wanted, dst)
			continue
		}
		if _, replaced := wanted[dst]; replaced && dst.Addr().Is4() {
			continue // in one step, below
		}
		if err := k.h.RouteDel(&have[i]); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("remove route to %v: %w", dst, err))
		}
	}
	for _, r := range wanted {
		err := k.h.RouteReplace(&netlink.Route{Dst: ipNet(r.Dst), Gw: r.Via.AsSlice(), LinkIndex: r.Link, Protocol: protocol, Flags: int(netlink.FLAG_ONLINK)})
		if err != nil {
			errs = append(errs, fmt.Errorf("route to %v by %v: %w", r.Dst, r.Via, err))
		}
	}
	return errors.Join(errs...)
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

// ensureTunnel makes the device and its entries, and returns its index.
func (k kernel) ensureTunnel(own netip.Addr, s spec) (int, error) {
	mtu, err := k.underlayMTU(own)
	if err != nil {
		return 0, err
	}
	mac, err := net.ParseMAC(s.MAC)
	if err != nil {
		return 0, fmt.Errorf("tunnel: %w", err)
	}
	link, err := k.device(own, mac, mtu)
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
	return link.Attrs().Index, k.entries(link.Attrs().Index, s.Tunnel)
}

// underlayMTU is what fits through the tunnel over the interface that has the node's address.
func (k kernel) underlayMTU(own netip.Addr) (int, error) {
	overhead := overhead4
	fam := netlink.FAMILY_V4
	if own.Is6() {
		overhead, fam = overhead6, netlink.FAMILY_V6
	}
	addrs, err := k.h.AddrList(nil, fam)
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
		return l.Attrs().MTU - overhead, nil
	}
	return 0, fmt.Errorf("no interface of this machine has the node's address %v", own)
}

// device makes the device, anew if it is another's or was made for another address.
func (k kernel) device(own netip.Addr, mac net.HardwareAddr, mtu int) (netlink.Link, error) {
	link, err := k.h.LinkByName(device)
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
	attrs.Name, attrs.HardwareAddr, attrs.MTU = device, mac, mtu
	err = k.h.LinkAdd(&netlink.Vxlan{LinkAttrs: attrs, VxlanId: networkID, SrcAddr: own.AsSlice(), Port: Port, Learning: false})
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil, errors.New("tunnel: this kernel has no VXLAN (module vxlan): nodes behind routers cannot be reached")
	}
	if err != nil {
		return nil, fmt.Errorf("tunnel: add device: %w", err)
	}
	if link, err = k.h.LinkByName(device); err != nil {
		return nil, fmt.Errorf("tunnel: %w", err)
	}
	return link, nil
}

func missing(err error) bool {
	var m netlink.LinkNotFoundError
	return errors.As(err, &m)
}

// addresses gives the device exactly its own, besides those of the link.
func (k kernel) addresses(link netlink.Link, wanted []netip.Addr) error {
	have, err := k.h.AddrList(link, netlink.FAMILY_ALL)
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

// entries makes the device's neighbours and forwarding entries those of the far ends.
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
		have, err := k.h.NeighList(link, family)
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

func (k kernel) removeTunnel() error {
	link, err := k.h.LinkByName(device)
	if missing(err) {
		return nil
	}
	if err == nil {
		err = k.h.LinkDel(link)
	}
	if err != nil {
		return fmt.Errorf("tunnel: remove: %w", err)
	}
	return nil
}
