package userspace

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/celox/celox/internal/network/dump"
)

const (
	// linkName is the node's end of the wire to the namespace; it goes with the namespace, and that with the process.
	linkName = "celox-userspace"
	peerName = "node"
)

// ways are a namespace in which addresses of services are local, and the routes to it.
type ways struct {
	host, inner *os.File // namespaces
	home        bool     // the host's is the one that this process's goroutines are in
	node, there *netlink.Handle
	link        int // index of the node's end
	back        int // and of the other
	ranges      []netip.Prefix
	sources     []netip.Addr
	to          map[netip.Prefix]bool // ranges and single addresses that lead there
	six         bool                  // there is IPv6
}

// ends are the addresses of the wire, the node's first.
func ends(v6 bool) (node, there netip.Prefix) {
	if v6 {
		return netip.MustParsePrefix("fe80::1/64"), netip.MustParsePrefix("fe80::2/64")
	}
	return netip.MustParsePrefix("169.254.20.20/31"), netip.MustParsePrefix("169.254.20.21/31")
}

// newWays makes the namespace, the wire to it from the node's, which is this process's if it is nil, and the routes for ranges. sources are addresses
// of the machine that its own packets have.
func newWays(node *os.File, ranges []netip.Prefix, sources []netip.Addr) (*ways, error) {
	w := &ways{
		home: node == nil, ranges: ranges, sources: sources, to: map[netip.Prefix]bool{},
		six: slices.ContainsFunc(ranges, func(p netip.Prefix) bool { return p.Addr().Is6() }),
	}
	err := w.enter(node)
	if err == nil {
		err = w.open()
	}
	if err == nil {
		err = w.set(map[netip.Addr]bool{})
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("namespace of services: %w", err), w.close())
	}
	return w, nil
}

// enter opens the namespaces.
func (w *ways) enter(node *os.File) (err error) {
	at := "/proc/thread-self/ns/net"
	if node != nil {
		at = fmt.Sprintf("/proc/self/fd/%d", node.Fd())
	}
	if w.host, err = os.Open(at); err != nil {
		return err
	}
	w.inner, err = newNamespace()
	return err
}

func (w *ways) open() error {
	var err error
	if w.node, err = netlink.NewHandleAt(netns.NsHandle(int(w.host.Fd())), unix.NETLINK_ROUTE); err != nil {
		return err
	}
	if w.there, err = netlink.NewHandleAt(netns.NsHandle(int(w.inner.Fd())), unix.NETLINK_ROUTE); err != nil {
		return err
	}
	if err := w.wire(); err != nil {
		return err
	}
	return w.furnish()
}

// wire makes the pair of interfaces.
func (w *ways) wire() error {
	if old, err := w.node.LinkByName(linkName); err == nil { // of a process whose end the kernel is still busy with
		if err := w.node.LinkDel(old); err != nil {
			return fmt.Errorf("remove interface %s: %w", linkName, err)
		}
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = linkName
	v := netlink.NewVeth(attrs)
	v.PeerName, v.PeerNamespace = peerName, netlink.NsFd(int(w.inner.Fd()))
	if err := w.node.LinkAdd(v); err != nil {
		return fmt.Errorf("add interface %s: %w", linkName, err)
	}
	return nil
}

// furnish gives the interfaces what they need, or what of it is missing.
func (w *ways) furnish() error {
	var err error
	if _, err := up(w.there, "lo"); err != nil {
		return err
	}
	if w.link, err = up(w.node, linkName); err != nil {
		return err
	}
	if w.back, err = up(w.there, peerName); err != nil {
		return err
	}
	for _, six := range w.families() {
		node, there := ends(six)
		if err := setAddress(w.node, w.link, node); err != nil {
			return err
		}
		if err := setAddress(w.there, w.back, there); err != nil {
			return err
		}
		all := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		if six {
			all = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
		if err := w.there.RouteReplace(&netlink.Route{LinkIndex: w.back, Dst: ipNet(all), Gw: node.Addr().AsSlice()}); err != nil {
			return fmt.Errorf("route from services: %w", err)
		}
	}
	for _, p := range w.ranges {
		// Messages that a packet was refused come from it (over IPv6, which takes no address for that which is only routed): one that no service can have.
		if first := p.Masked().Addr(); first.Is6() {
			if err := setAddress(w.there, w.back, netip.PrefixFrom(first, first.BitLen())); err != nil {
				return err
			}
		}
	}
	// The pods' packets come by another interface; whoever made it may have made only that one forward.
	return w.within(w.host, func() error {
		return os.WriteFile(filepath.Join("/proc/sys/net/ipv4/conf", linkName, "forwarding"), []byte("1"), 0)
	})
}

// families are those that there are, by whether they are IPv6.
func (w *ways) families() []bool {
	if w.six {
		return []bool{false, true}
	}
	return []bool{false}
}

// intact reports whether the node's end of the wire and its routes are as they were made. Nobody else is in the other namespace.
func (w *ways) intact() (bool, error) {
	l, err := w.node.LinkByIndex(w.link)
	var gone netlink.LinkNotFoundError
	if errors.As(err, &gone) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("interface %s: %w", linkName, err)
	}
	if l.Attrs().Name != linkName || l.Attrs().Flags&net.FlagUp == 0 {
		return false, nil
	}
	there := map[netip.Prefix]bool{}
	for _, six := range w.families() {
		number := netlink.FAMILY_V4
		if six {
			number = netlink.FAMILY_V6
		}
		node, _ := ends(six)
		addrs, err := dump.Whole(func() ([]netlink.Addr, error) { return w.node.AddrList(l, number) })
		if err != nil {
			return false, fmt.Errorf("addresses of %s: %w", linkName, err)
		}
		if !slices.ContainsFunc(addrs, func(a netlink.Addr) bool { return a.IP.Equal(node.Addr().AsSlice()) }) {
			return false, nil
		}
		routes, err := dump.Whole(func() ([]netlink.Route, error) {
			return w.node.RouteListFiltered(number, &netlink.Route{LinkIndex: w.link, Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_OIF|netlink.RT_FILTER_TABLE)
		})
		if err != nil {
			return false, fmt.Errorf("routes by %s: %w", linkName, err)
		}
		for _, r := range routes {
			if p, ok := prefix(r.Dst); ok && r.Gw != nil {
				there[p] = true
			}
		}
	}
	for p := range w.to {
		if !there[p.Masked()] {
			return false, nil
		}
	}
	return true, nil
}

// mend makes again what somebody removed.
func (w *ways) mend() error {
	l, err := w.node.LinkByName(linkName)
	var gone netlink.LinkNotFoundError
	if err != nil && !errors.As(err, &gone) {
		return fmt.Errorf("interface %s: %w", linkName, err)
	}
	if err != nil || l.Attrs().Index != w.link {
		if err := w.wire(); err != nil {
			return err
		}
	}
	if err := w.furnish(); err != nil {
		return err
	}
	for p := range w.to {
		if err := w.put(p); err != nil {
			return err
		}
	}
	return nil
}

func (w *ways) close() error {
	var errs []error
	if w.node != nil {
		if l, err := w.node.LinkByName(linkName); err == nil && w.link != 0 && l.Attrs().Index == w.link {
			errs = append(errs, w.node.LinkDel(l))
		}
		w.node.Close()
	}
	if w.there != nil {
		w.there.Close()
	}
	for _, f := range []*os.File{w.host, w.inner} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

// set makes the ranges and these addresses what leads to the namespace.
func (w *ways) set(addrs map[netip.Addr]bool) error {
	for p := range w.to {
		if addrs[p.Addr()] || slices.Contains(w.ranges, p) {
			continue
		}
		delete(w.to, p)
		for _, err := range []error{w.node.RouteDel(w.route(p)), w.there.RouteDel(local(p))} {
			if err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("remove the route to %v: %w", p, err)
			}
		}
	}
	for _, p := range w.ranges {
		if err := w.add(p); err != nil {
			return err
		}
	}
	for a := range addrs {
		if err := w.add(netip.PrefixFrom(a, a.BitLen())); err != nil {
			return err
		}
	}
	return nil
}

func (w *ways) add(p netip.Prefix) error {
	if w.to[p] {
		return nil
	}
	if err := w.put(p); err != nil {
		return err
	}
	w.to[p] = true
	return nil
}

// put makes the routes for one, whether they are there or not.
func (w *ways) put(p netip.Prefix) error {
	if err := w.there.RouteReplace(local(p)); err != nil {
		return fmt.Errorf("make %v local: %w", p, err)
	}
	if err := w.node.RouteReplace(w.route(p)); err != nil {
		return fmt.Errorf("route to %v: %w", p, err)
	}
	return nil
}

// leads reports whether packets for an address go to the namespace.
func (w *ways) leads(a netip.Addr) bool {
	return w.to[netip.PrefixFrom(a, a.BitLen())] || contains(w.ranges, a)
}

func (w *ways) route(p netip.Prefix) *netlink.Route {
	_, there := ends(p.Addr().Is6())
	r := &netlink.Route{LinkIndex: w.link, Dst: ipNet(p), Gw: there.Addr().AsSlice()}
	for _, a := range w.sources {
		if a.Is6() == p.Addr().Is6() && !a.IsLoopback() {
			r.Src = a.AsSlice()
			break
		}
	}
	return r
}

func local(p netip.Prefix) *netlink.Route {
	r := &netlink.Route{LinkIndex: 1, Dst: ipNet(p), Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL} // 1 is the loopback's index in every namespace
	if p.Addr().Is4() {
		r.Scope = unix.RT_SCOPE_HOST
	}
	return r
}

// within runs f in a namespace. f must not start goroutines that rely on that.
func (w *ways) within(ns *os.File, f func() error) error {
	if ns == w.host && w.home {
		return f()
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("enter network namespace: %w", err)
			return
		}
		done <- f()
	}()
	return <-done
}

func newNamespace() (*os.File, error) {
	type result struct {
		ns  *os.File
		err error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- result{nil, err}
			return
		}
		ns, err := os.Open("/proc/thread-self/ns/net")
		done <- result{ns, err}
	}()
	r := <-done
	return r.ns, r.err
}

func up(h *netlink.Handle, name string) (int, error) {
	l, err := h.LinkByName(name)
	if err == nil {
		err = h.LinkSetUp(l)
	}
	if err != nil {
		return 0, fmt.Errorf("interface %s: %w", name, err)
	}
	return l.Attrs().Index, nil
}

func setAddress(h *netlink.Handle, link int, p netip.Prefix) error {
	a := &netlink.Addr{IPNet: ipNet(p), Flags: unix.IFA_F_NODAD} // usable at once
	a.IP = p.Addr().AsSlice()
	if err := h.AddrReplace(&netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: link}}, a); err != nil {
		return fmt.Errorf("address %v: %w", p, err)
	}
	return nil
}
