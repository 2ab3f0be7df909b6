package cluster

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"syscall"

	"github.com/vishvananda/netlink"

	"github.com/celox/celox/internal/cluster/config"
)

// nodeIP finds the address of this machine: as configured, else the bind address if it is one, else that of the default route, else
// any, else loopback.
func nodeIP(cfg config.Server) (netip.Addr, error) {
	if cfg.NodeIP != "" {
		return netip.ParseAddr(cfg.NodeIP)
	}
	if a, err := netip.ParseAddr(cfg.AdvertiseAddress); err == nil && isOwn(a) {
		return a, nil
	}
	if a, err := netip.ParseAddr(cfg.BindAddress); err == nil && !a.IsUnspecified() {
		return a, nil
	}
	links := map[int]bool{}
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("read routes: %w", err)
	}
	for _, r := range routes {
		if r.Dst == nil || r.Dst.IP.IsUnspecified() {
			links[r.LinkIndex] = true
		}
	}
	list, err := netlink.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("read addresses: %w", err)
	}
	var other netip.Addr
	own, err := cfg.ClusterCIDRs()
	if err != nil {
		return netip.Addr{}, err
	}
	for _, a := range list {
		ip, ok := netip.AddrFromSlice(a.IP.To4())
		if !ok || !ip.IsGlobalUnicast() || slices.ContainsFunc(own, func(p netip.Prefix) bool { return p.Contains(ip) }) {
			continue
		}
		if links[a.LinkIndex] {
			return ip, nil
		}
		if !other.IsValid() {
			other = ip
		}
	}
	if other.IsValid() {
		return other, nil
	}
	return netip.MustParseAddr("127.0.0.1"), nil
}

// isOwn says whether an interface of this machine has an address.
func isOwn(a netip.Addr) bool {
	list, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	return err == nil && slices.ContainsFunc(list, func(x netlink.Addr) bool {
		ip, ok := netip.AddrFromSlice(x.IP)
		return ok && ip.Unmap() == a
	})
}

// advertised is where agents and pods reach the API. Nothing outside this machine reaches loopback; pods reach the machine by their gateway.
func (s *Server) advertised() (netip.Addr, error) {
	if s.cfg.AdvertiseAddress != "" {
		return netip.ParseAddr(s.cfg.AdvertiseAddress)
	}
	if !s.nodeIP.IsLoopback() {
		return s.nodeIP, nil
	}
	pods, err := s.cfg.ClusterCIDRs()
	if err != nil {
		return netip.Addr{}, err
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
