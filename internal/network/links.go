package network

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

const (
	// podInterface is what the interface of a pod is called inside.
	podInterface = "eth0"
	// vethPrefix begins the name of every interface of ours on the host, the rest of which follows from the sandbox's id.
	vethPrefix = "clx"
	defaultMTU = 1500
)

// vethName is what the host's end of a sandbox's pair is called.
func vethName(id string) string {
	sum := sha256.Sum256([]byte(id))
	return vethPrefix + hex.EncodeToString(sum[:6]) // 15 characters, the kernel's limit
}

// hardwareAddr is a locally administered address that follows from an IP address.
func hardwareAddr(ip netip.Addr) net.HardwareAddr {
	b := ip.AsSlice()
	if len(b) == 16 {
		sum := sha256.Sum256(b)
		b = sum[:4]
	}
	return append(net.HardwareAddr{0x0a, 0xce}, b...)
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func isIPv6(p netip.Prefix) bool { return p.Addr().Is6() }

// address is p as the kernel wants it. Addresses here are unique by construction; to wait for the detection of duplicates would only delay a pod.
func address(p netip.Prefix) *netlink.Addr {
	a := &netlink.Addr{IPNet: ipNet(p)}
	if isIPv6(p) {
		a.Flags = unix.IFA_F_NODAD
	}
	return a
}

// handleAt opens route netlink sockets in a namespace.
func handleAt(ns *os.File) (*netlink.Handle, error) {
	h, err := netlink.NewHandleAt(netns.NsHandle(ns.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("netlink: %w", err)
	}
	return h, nil
}

// gatewayOf is the gateway of the range that an address is of.
func gatewayOf(a netip.Prefix) netip.Addr { return a.Masked().Addr().Next() }

// ensureBridge makes the bridge, with exactly the wanted addresses (of the ranges' gateways), and returns its hardware address. Nothing is plugged into it: it is
// where the gateways' addresses are, whatever pods there are.
func ensureBridge(h *netlink.Handle, name string, mtu int, addrs []netip.Prefix) (net.HardwareAddr, error) {
	link, err := h.LinkByName(name)
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		snooping := false // there is no multicast router to ask, and its timers would wake an idle machine
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU = name, mtu
		// Those that remember it, over restarts, remember the same.
		attrs.HardwareAddr = hardwareAddr(addrs[0].Addr())
		if err := h.LinkAdd(&netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping}); err != nil {
			return nil, fmt.Errorf("add bridge %s: %w", name, err)
		}
		link, err = h.LinkByName(name)
	}
	if err != nil {
		return nil, fmt.Errorf("bridge %s: %w", name, err)
	}
	if link.Type() != "bridge" {
		return nil, fmt.Errorf("bridge %s: there is an interface of type %s with this name", name, link.Type())
	}
	if link.Attrs().MTU != mtu {
		if err := h.LinkSetMTU(link, mtu); err != nil {
			return nil, fmt.Errorf("bridge %s: set MTU %d: %w", name, mtu, err)
		}
	}
	have, err := h.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("bridge %s: addresses: %w", name, err)
	}
	missingAddrs := map[netip.Prefix]bool{}
	for _, a := range addrs {
		missingAddrs[a] = true
	}
	for _, a := range have {
		ip, _ := netip.AddrFromSlice(a.IP)
		ones, _ := a.Mask.Size()
		p := netip.PrefixFrom(ip.Unmap(), ones)
		switch {
		case missingAddrs[p]:
			delete(missingAddrs, p)
		case !ip.IsLinkLocalUnicast():
			if err := h.AddrDel(link, &a); err != nil {
				return nil, fmt.Errorf("bridge %s: remove address %v: %w", name, p, err)
			}
		}
	}
	for p := range missingAddrs {
		if err := h.AddrAdd(link, address(p)); err != nil {
			return nil, fmt.Errorf("bridge %s: add address %v: %w", name, p, err)
		}
	}
	if err := h.LinkSetUp(link); err != nil {
		return nil, fmt.Errorf("bridge %s: set up: %w", name, err)
	}
	return link.Attrs().HardwareAddr, nil
}

// attach makes a sandbox's pair and configures both ends. The host's end, whose index it returns, has the hardware address of the gateway. ask may have something
// asked about what comes by it.
//
// The order is the kernel's: to change what handles an interface's packets is cheap before it is up, and an interface that comes up when its other end is up already
// need not be waited for.
func attach(h *netlink.Handle, host *channel, gateway net.HardwareAddr, mtu int, pod *os.File, s *sandbox, ask func(b *batch, link int)) (link int, err error) {
	in, err := openChannel(pod)
	if err != nil {
		return 0, err
	}
	defer in.close()
	name := vethName(s.ID)
	link, eth := 0, 0
	made := func(index, peer int) { link, eth = index, peer }
	pair := func() error {
		var b batch
		b.pair(name, gateway, podInterface, hardwareAddr(s.Addrs[0].Addr()), pod, mtu, made)
		return host.send(&b)
	}
	if err = pair(); errors.Is(err, unix.EEXIST) {
		// Left by an attempt that a crash interrupted.
		if err := removePair(h, name, pod); err != nil {
			return 0, err
		}
		err = pair()
	}
	if err != nil {
		return 0, err
	}
	if link == 0 { // a kernel that didn't say
		var b batch
		b.look(0, name, made)
		if err := host.send(&b); err != nil {
			return 0, err
		}
	}
	var b batch
	ask(&b, link)
	b.up(link, name)
	if err := host.send(&b); err != nil {
		return 0, err
	}
	if err := configurePod(in, eth, s, gateway); err != nil {
		return 0, err
	}
	if err := limit(h, s.ID, link, mtu, s.Bandwidth); err != nil {
		return 0, err
	}
	b = batch{}
	// The host's end carries packets when the kernel gets round to noticing that the other end is up, or when it is asked.
	b.look(link, name, nil)
	b.lead(link, s)
	return link, host.send(&b)
}

// removePair removes a pair of which at least one end is where it belongs; that takes the other with it.
func removePair(h *netlink.Handle, name string, pod *os.File) error {
	in, err := handleAt(pod)
	if err != nil {
		return err
	}
	defer in.Close()
	return cmp.Or(removeLink(h, name), removeLink(in, podInterface))
}

// lead routes packets for a sandbox to its interface, away from one that had the address before. What comes from there with another source than has such a route is dropped (see rulesFor).
func (b *batch) lead(link int, s *sandbox) {
	mac := hardwareAddr(s.Addrs[0].Addr())
	for _, a := range s.Addrs {
		b.routeTo(link, a.Addr(), gatewayOf(a))
		b.neighbour(link, a.Addr(), mac)
	}
}

// lead does so for a sandbox that is attached.
func lead(host *channel, link int, s *sandbox) error {
	var b batch
	b.lead(link, s)
	return host.send(&b)
}

// unplug takes an interface off the bridge, to which an earlier version of this package connected pods. Connections go on.
func unplug(h *netlink.Handle, host *channel, end netlink.Link, gateway net.HardwareAddr, s *sandbox) error {
	pod, err := os.Open(s.NetNS)
	if err != nil {
		return fmt.Errorf("network namespace: %w", err)
	}
	defer pod.Close()
	in, err := openChannel(pod)
	if err != nil {
		return err
	}
	defer in.close()
	eth := 0
	var b batch
	b.look(0, podInterface, func(index, _ int) { eth = index })
	if err := in.send(&b); err != nil {
		return fmt.Errorf("pod's %w", err)
	}
	b = batch{}
	for _, a := range s.Addrs {
		b.neighbour(eth, gatewayOf(a), gateway)
	}
	if err := in.send(&b); err != nil {
		return fmt.Errorf("pod's %w", err)
	}
	// The kernel forgets neighbours with the hardware address that they were known by: lead comes after it. Packets for the pod go the new way from then on, those
	// from the pod with the last step.
	if err := h.LinkSetHardwareAddr(end, gateway); err != nil {
		return fmt.Errorf("set hardware address: %w", err)
	}
	if err := lead(host, end.Attrs().Index, s); err != nil {
		return err
	}
	if err := h.LinkSetNoMaster(end); err != nil {
		return fmt.Errorf("take off the bridge: %w", err)
	}
	return nil
}

// configurePod gives a pod's own end its addresses and routes.
func configurePod(in *channel, eth int, s *sandbox, gateway net.HardwareAddr) error {
	const loopback = 1 // the first interface of every namespace
	var b batch
	b.up(eth, podInterface)
	b.up(loopback, "lo")
	for _, a := range s.Addrs {
		// No route to the others of the range: all packets go by way of the gateway, where services and policies see both directions.
		b.address(eth, a)
	}
	for _, a := range s.Addrs {
		g := gatewayOf(a)
		// The host doesn't answer for addresses of IPv6 that are on another of its interfaces.
		b.neighbour(eth, g, gateway)
		b.routeBy(eth, g)
	}
	if err := in.send(&b); err != nil {
		return fmt.Errorf("pod's %w", err)
	}
	return nil
}

// attached says whether a sandbox has its interface, with its addresses, already.
func attached(h *netlink.Handle, pod *os.File, s *sandbox) bool {
	if _, err := h.LinkByName(vethName(s.ID)); err != nil {
		return false
	}
	in, err := handleAt(pod)
	if err != nil {
		return false
	}
	defer in.Close()
	eth, err := in.LinkByName(podInterface)
	if err != nil || eth.Attrs().Flags&net.FlagUp == 0 {
		return false
	}
	have, err := in.AddrList(eth, netlink.FAMILY_ALL)
	if err != nil {
		return false
	}
	found := 0
	for _, a := range have {
		ip, _ := netip.AddrFromSlice(a.IP)
		for _, w := range s.Addrs {
			if w.Addr() == ip.Unmap() {
				found++
			}
		}
	}
	routes, err := in.RouteList(eth, netlink.FAMILY_ALL)
	if err != nil {
		return false
	}
	defaults := 0
	for _, r := range routes {
		if r.Gw != nil {
			defaults++
		}
	}
	return found == len(s.Addrs) && defaults >= len(s.Addrs)
}

// removeLink removes an interface if it is there.
func removeLink(h *netlink.Handle, name string) error {
	l, err := h.LinkByName(name)
	if err == nil {
		err = h.LinkDel(l)
	}
	var missing netlink.LinkNotFoundError
	if err == nil || errors.As(err, &missing) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	return fmt.Errorf("remove interface %s: %w", name, err)
}

// isPod says whether an interface is the host's end of a pair of ours.
func isPod(l netlink.Link) bool {
	return l.Type() == "veth" && strings.HasPrefix(l.Attrs().Name, vethPrefix)
}

// removeLinks removes what a sandbox has on the host.
func removeLinks(h *netlink.Handle, id string) error {
	return errors.Join(removeLink(h, vethName(id)), removeLink(h, ifbName(id)))
}

// fromLoopback lets packets of 127.0.0.1 go to a sandbox with host ports: see rulesFor. It must run in the host's network namespace.
func fromLoopback(s *sandbox) error {
	if len(s.Ports) == 0 || !slices.ContainsFunc(s.Addrs, func(a netip.Prefix) bool { return a.Addr().Is4() }) {
		return nil
	}
	return setSysctl(filepath.Join("/proc/sys/net/ipv4/conf", vethName(s.ID), "route_localnet"), "1")
}

// Forward turns the machine of the calling thread's network namespace into a router of the given families.
func Forward(v4, v6 bool) error {
	const sys = "/proc/sys/net"
	if v4 {
		if err := setSysctl(filepath.Join(sys, "ipv4/ip_forward"), "1"); err != nil {
			return err
		}
	}
	if !v6 {
		return nil
	}
	all := filepath.Join(sys, "ipv6/conf/all/forwarding")
	if b, err := os.ReadFile(all); err != nil || strings.TrimSpace(string(b)) == "1" {
		if errors.Is(err, fs.ErrNotExist) {
			return errors.New("the kernel has no IPv6, but a pod range is of IPv6")
		}
		return err
	}
	// A router ignores router advertisements, unless it is told not to; the machine may have its own default route from them.
	conf, err := filepath.Glob(filepath.Join(sys, "ipv6/conf/*/accept_ra"))
	if err != nil {
		return err
	}
	for _, f := range conf {
		if b, err := os.ReadFile(f); err == nil && strings.TrimSpace(string(b)) == "1" {
			if err := setSysctl(f, "2"); err != nil {
				return err
			}
		}
	}
	return setSysctl(all, "1")
}

func setSysctl(path, value string) error {
	if b, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(b)) == value {
		return nil
	}
	if err := os.WriteFile(path, []byte(value), 0); err != nil {
		return fmt.Errorf("set %s: %w", path, err)
	}
	return nil
}
