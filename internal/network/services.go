package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// serviceLink is the interface that has the addresses of services that the node itself answers on, such as the cluster's DNS.
const serviceLink = "celox-services"

// ServiceAddresses is what EnsureServiceAddresses makes.
type ServiceAddresses struct {
	// Own are the addresses that this machine answers on.
	Own []netip.Addr
	// Ranges are those of all services. The machine's own packets for them need a route before they are sent elsewhere, even if it has no default route;
	// what nobody takes ends there.
	Ranges []netip.Prefix
	// Sources are addresses of the machine, which its own packets to services have; one of each family at most.
	Sources []netip.Addr
}

// EnsureServiceAddresses makes the interface in the calling thread's network namespace, with exactly these addresses and routes.
func EnsureServiceAddresses(s ServiceAddresses) error {
	if err := ensureServiceAddresses(s); err != nil {
		return fmt.Errorf("addresses of services: %w", err)
	}
	return nil
}

func ensureServiceAddresses(s ServiceAddresses) error {
	ns, err := currentNetNS()
	if err != nil {
		return err
	}
	defer ns.Close()
	h, err := handleAt(ns)
	if err != nil {
		return err
	}
	defer h.Close()
	// Made anew: there is nothing in it that anybody holds on to, and what an earlier configuration left goes.
	if err := removeLink(h, serviceLink); err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = serviceLink
	err = h.LinkAdd(&netlink.Dummy{LinkAttrs: attrs})
	if errors.Is(err, unix.EOPNOTSUPP) { // a kernel without dummies has bridges; one without ports is as good
		snooping := false
		err = h.LinkAdd(&netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping})
	}
	if err != nil {
		return fmt.Errorf("add interface %s: %w", serviceLink, err)
	}
	link, err := h.LinkByName(serviceLink)
	if err != nil {
		return fmt.Errorf("interface %s: %w", serviceLink, err)
	}
	for _, a := range s.Own {
		if err := h.AddrAdd(link, address(netip.PrefixFrom(a, a.BitLen()))); err != nil {
			return fmt.Errorf("add address %v: %w", a, err)
		}
	}
	if err := h.LinkSetUp(link); err != nil {
		return fmt.Errorf("interface %s: set up: %w", serviceLink, err)
	}
	for _, p := range s.Ranges {
		r := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(p), Src: sourceFor(p, s.Sources)}
		if p.Addr().Is4() {
			r.Scope = unix.RT_SCOPE_LINK
		}
		if err := h.RouteReplace(r); err != nil {
			return fmt.Errorf("route for %v: %w", p, err)
		}
	}
	return nil
}

func sourceFor(p netip.Prefix, sources []netip.Addr) net.IP {
	for _, a := range sources {
		if a.Is6() == p.Addr().Is6() && !a.IsLoopback() {
			return a.AsSlice()
		}
	}
	return nil
}

// RemoveServiceAddresses removes what EnsureServiceAddresses made.
func RemoveServiceAddresses() error {
	ns, err := currentNetNS()
	if err != nil {
		return err
	}
	h, err := handleAt(ns)
	if err != nil {
		return errors.Join(err, ns.Close())
	}
	err = removeLink(h, serviceLink)
	h.Close()
	return errors.Join(err, ns.Close())
}
