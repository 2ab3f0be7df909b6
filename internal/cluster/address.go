package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/celox/celox/internal/cluster/config"
	"github.com/celox/celox/internal/network/dump"
)

// nodeIPs finds the addresses of the server's machine, one of each family that pods have: as configured, else the address that agents are told or that the
// API is served on, else that of the family's default route, else any of the family. Without one of those families it is one of the other, and loopback at last.
func nodeIPs(cfg config.Server) ([]netip.Addr, error) {
	given, err := cfg.NodeIPs()
	if err != nil || len(given) > 0 {
		return given, err
	}
	pods, err := cfg.ClusterCIDRs()
	if err != nil {
		return nil, err
	}
	services, err := cfg.ServiceCIDRs()
	if err != nil {
		return nil, err
	}
	var named netip.Addr
	if a, err := netip.ParseAddr(cfg.AdvertiseAddress); err == nil && isOwn(a) {
		named = a.Unmap()
	} else if a, err := netip.ParseAddr(cfg.BindAddress); err == nil && !a.IsUnspecified() {
		named = a.Unmap()
	}
	if named.IsValid() && named.IsLoopback() {
		return []netip.Addr{named}, nil
	}
	found, err := machineAddresses(pods, append(slices.Clone(pods), services...), named)
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
	}
	return found, nil
}

// machineAddresses finds an address of this machine of each family that pods have, in their order. Known is one that is known to be good; not are ranges that
// no machine's address is of. Where there is none of these families, one of the other is better than nothing.
func machineAddresses(pods, not []netip.Prefix, known netip.Addr) ([]netip.Addr, error) {
	var out []netip.Addr
	find := func(v6 bool) error {
		if known.IsValid() && known.Is6() == v6 {
			out = append(out, known)
			return nil
		}
		a, err := machineAddress(v6, not)
		if err == nil && a.IsValid() {
			out = append(out, a)
		}
		return err
	}
	for _, p := range pods {
		if err := find(p.Addr().Is6()); err != nil {
			return nil, err
		}
	}
	if len(out) == 0 && len(pods) == 1 {
		if err := find(!pods[0].Addr().Is6()); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// ownLinks begins the names of interfaces that this program makes.
const ownLinks = "celox"

// machineAddress is the address of a family that the interface of the default route has, else that of another interface; invalid if there is none. Addresses
// that pass (RFC 8981), and those that the kernel has given up, do not count.
func machineAddress(v6 bool, not []netip.Prefix) (netip.Addr, error) {
	family := netlink.FAMILY_V4
	if v6 {
		family = netlink.FAMILY_V6
	}
	routes, err := dump.Whole(func() ([]netlink.Route, error) { return netlink.RouteList(nil, family) })
	if err != nil {
		return netip.Addr{}, fmt.Errorf("read routes: %w", err)
	}
	ways := map[int]bool{} // interfaces with a default route
	for _, r := range routes {
		if r.Dst == nil || r.Dst.IP.IsUnspecified() {
			if ones, _ := maskOf(r.Dst); ones == 0 {
				ways[r.LinkIndex] = true
			}
		}
	}
	list, err := dump.Whole(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, family) })
	if err != nil {
		return netip.Addr{}, fmt.Errorf("read addresses: %w", err)
	}
	var other netip.Addr
	for _, a := range list {
		ip, ok := netip.AddrFromSlice(a.IP)
		ip = ip.Unmap()
		if !ok || !ip.IsGlobalUnicast() || a.Flags&(unix.IFA_F_TEMPORARY|unix.IFA_F_DEPRECATED|unix.IFA_F_DADFAILED) != 0 ||
			slices.ContainsFunc(not, func(p netip.Prefix) bool { return p.Contains(ip) }) {
			continue
		}
		if ways[a.LinkIndex] {
			return ip, nil
		}
		if l, err := netlink.LinkByIndex(a.LinkIndex); err == nil && !other.IsValid() && !strings.HasPrefix(l.Attrs().Name, ownLinks) {
			other = ip
		}
	}
	return other, nil
}

func maskOf(n *net.IPNet) (ones, bits int) {
	if n == nil {
		return 0, 0
	}
	return n.Mask.Size()
}

// isOwn says whether an interface of this machine has an address.
func isOwn(a netip.Addr) bool {
	list, err := dump.Whole(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_ALL) })
	return err == nil && slices.ContainsFunc(list, func(x netlink.Addr) bool {
		ip, ok := netip.AddrFromSlice(x.IP)
		return ok && ip.Unmap() == a
	})
}

// checkNodeIPs refuses addresses that a node was given and that its machine does not have: nothing would reach it.
func checkNodeIPs(cfg config.Node) error {
	given, err := cfg.NodeIPs()
	if err != nil {
		return err
	}
	for _, a := range given {
		if !isOwn(a) {
			return fmt.Errorf("--node-ip: %v is no address of this machine", a)
		}
	}
	return nil
}

// awaitNodeIPs waits until the machine has the addresses that the node was given: at boot they may come late.
func awaitNodeIPs(ctx context.Context, cfg config.Node, say Say) error {
	if _, err := cfg.NodeIPs(); err != nil {
		return err
	}
	said := ""
	for ctx.Err() == nil {
		err := checkNodeIPs(cfg)
		if err == nil {
			return nil
		}
		if err.Error() != said {
			said = err.Error()
			say("%v; waiting for it", err)
		}
		if err := addressComes(ctx, func() bool { return checkNodeIPs(cfg) == nil }); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// addressComes waits until the addresses of this machine change, until come says that nothing is missed, or until ctx ends.
func addressComes(ctx context.Context, come func() bool) error {
	news, stop, err := addressNews()
	if err != nil {
		return err
	}
	defer stop()
	if come() { // before anybody listened
		return nil
	}
	select {
	case <-ctx.Done():
	case <-news: // closed, too: then there was more to tell than could be read
	}
	return nil
}

// advertised is where agents and pods reach the API: an address of the family that services have first. Nothing outside this machine reaches loopback; pods
// reach the machine by their gateway.
func (s *Server) advertised() (netip.Addr, error) {
	if s.cfg.AdvertiseAddress != "" {
		return netip.ParseAddr(s.cfg.AdvertiseAddress)
	}
	services, err := s.cfg.ServiceCIDRs()
	if err != nil {
		return netip.Addr{}, err
	}
	pods, err := s.cfg.ClusterCIDRs()
	if err != nil {
		return netip.Addr{}, err
	}
	v6 := services[0].Addr().Is6()
	for _, a := range s.nodeIPs {
		if !a.IsLoopback() && a.Is6() == v6 {
			return a, nil
		}
	}
	for _, p := range pods {
		if p.Addr().Is6() == v6 {
			return firstAddress(p), nil
		}
	}
	if !s.nodeIPs[0].IsLoopback() {
		return s.nodeIPs[0], nil
	}
	return firstAddress(pods[0]), nil
}

// listen opens a TCP port, with a word on what to do when it is taken.
func listen(address string, port int, flag string) (net.Listener, error) {
	l, err := net.Listen("tcp", net.JoinHostPort(address, strconv.Itoa(port)))
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("port %d is taken by another program: stop it, or give another --%s", port, flag)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return nil, fmt.Errorf("%s is no address of this machine: give another --bind-address", address)
	case errors.Is(err, syscall.EACCES):
		return nil, fmt.Errorf("port %d: not permitted: run as root, or give another --%s", port, flag)
	case err != nil:
		return nil, fmt.Errorf("listen: %w", err)
	}
	return l, nil
}

// clientURL is where clients on this machine reach the API.
func clientURL(cfg config.Server) string {
	host := cfg.BindAddress
	if a, err := netip.ParseAddr(host); err == nil && a.IsUnspecified() {
		host = "127.0.0.1"
		if a.Is6() {
			host = "::1"
		}
	}
	return "https://" + net.JoinHostPort(host, strconv.Itoa(cfg.HTTPSPort))
}

// firstAddress is the first usable address of a range.
func firstAddress(p netip.Prefix) netip.Addr { return p.Masked().Addr().Next() }

func netIPs(addrs []netip.Addr) []net.IP {
	out := make([]net.IP, len(addrs))
	for i, a := range addrs {
		out[i] = a.AsSlice()
	}
	return out
}
