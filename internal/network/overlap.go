package network

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/celox/celox/internal/network/dump"
)

// routesOfNodes is the protocol number of the routes to pods of other nodes; see package mesh.
const routesOfNodes = 206

// Overlap is something that a machine has in a range that is to be the pods' or services'.
type Overlap struct {
	Range netip.Prefix
	// Address is that of an interface in the range. If it isn't valid, Route is what overlaps; that is less bad, because of two routes the one
	// to the smaller network counts.
	Address netip.Addr
	Route   netip.Prefix
	Device  string
}

func (o Overlap) String() string {
	if o.Address.IsValid() {
		return fmt.Sprintf("%v has the address %v of this machine's interface %s in it", o.Range, o.Address, o.Device)
	}
	return fmt.Sprintf("%v overlaps with this machine's route to %v by interface %s", o.Range, o.Route, o.Device)
}

// Overlaps looks for addresses and routes in ranges, in the calling thread's network namespace, that aren't of this or an earlier cluster's making.
func Overlaps(ranges []netip.Prefix) ([]Overlap, error) {
	ns, err := currentNetNS()
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	h, err := handleAt(ns)
	if err != nil {
		return nil, err
	}
	defer h.Close()
	links, err := dump.Whole(h.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	names := map[int]string{}
	for _, l := range links {
		if name := l.Attrs().Name; !isOurs(name) {
			names[l.Attrs().Index] = name
		}
	}
	addrs, err := dump.Whole(func() ([]netlink.Addr, error) { return h.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	var out []Overlap
	for _, a := range addrs {
		ip, _ := netip.AddrFromSlice(a.IP)
		for _, r := range ranges {
			if name := names[a.LinkIndex]; name != "" && r.Contains(ip.Unmap()) {
				out = append(out, Overlap{Range: r, Address: ip.Unmap(), Device: name})
			}
		}
	}
	routes, err := dump.Whole(func() ([]netlink.Route, error) {
		return h.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	for _, route := range routes {
		if route.Dst == nil || route.Protocol == routesOfNodes {
			continue
		}
		ip, _ := netip.AddrFromSlice(route.Dst.IP)
		ones, _ := route.Dst.Mask.Size()
		to := netip.PrefixFrom(ip.Unmap(), ones)
		for _, r := range ranges {
			if name := names[route.LinkIndex]; name != "" && ones > 0 && r.Overlaps(to) {
				out = append(out, Overlap{Range: r, Route: to, Device: name})
			}
		}
	}
	return out, nil
}

// isOurs says whether an interface is a cluster's: its bridges and tunnels, or those of its pods.
func isOurs(name string) bool {
	return strings.HasPrefix(name, "celox") || strings.HasPrefix(name, vethPrefix) || strings.HasPrefix(name, ifbPrefix)
}
