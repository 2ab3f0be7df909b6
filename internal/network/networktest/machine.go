package networktest

import (
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Machine is a network namespace with its loopback up. It ends with the test, and with it all that is in it.
type Machine struct {
	t    testing.TB
	Name string
	NS   *os.File
	Link *netlink.Handle
}

// NewMachine makes one.
func NewMachine(t testing.TB, name string) *Machine {
	t.Helper()
	m := &Machine{t: t, Name: name}
	done := make(chan error)
	go func() {
		// This thread stays in the new namespace, so it isn't given back: it ends with the goroutine.
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			m.NS, err = os.Open("/proc/thread-self/ns/net")
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.NS.Close() })
	h, err := netlink.NewHandleAt(netns.NsHandle(int(m.NS.Fd())), unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	m.Link = h
	t.Cleanup(h.Close)
	m.up("lo")
	return m
}

// Do runs f on a thread that is in the machine. f must not start goroutines that rely on that.
func (m *Machine) Do(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine
		if err := unix.Setns(int(m.NS.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	return <-done
}

// Must runs f in the machine and fails the test if it fails.
func (m *Machine) Must(f func() error) {
	m.t.Helper()
	if err := m.Do(f); err != nil {
		m.t.Fatalf("%s: %v", m.Name, err)
	}
}

// Sysctl sets a parameter of the machine's network, such as "ipv4/ip_forward".
func (m *Machine) Sysctl(name, value string) {
	m.t.Helper()
	m.Must(func() error { return os.WriteFile("/proc/sys/net/"+name, []byte(value), 0) })
}

// Forward makes the machine a router.
func (m *Machine) Forward() {
	m.t.Helper()
	m.Sysctl("ipv4/ip_forward", "1")
	m.Sysctl("ipv6/conf/all/forwarding", "1")
}

// Wire connects two machines: each gets an interface with the name of the other and the addresses given, which are prefixes.
func Wire(a, b *Machine, addrsA, addrsB []string) {
	a.t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = b.Name
	v := netlink.NewVeth(attrs)
	v.PeerName, v.PeerNamespace = a.Name, netlink.NsFd(int(b.NS.Fd()))
	if err := a.Link.LinkAdd(v); err != nil {
		a.t.Fatal(err)
	}
	a.addresses(b.Name, addrsA)
	b.addresses(a.Name, addrsB)
	a.up(b.Name)
	b.up(a.Name)
}

func (m *Machine) up(name string) {
	m.t.Helper()
	l, err := m.Link.LinkByName(name)
	if err == nil {
		err = m.Link.LinkSetUp(l)
	}
	if err != nil {
		m.t.Fatalf("%s: %s: %v", m.Name, name, err)
	}
}

func (m *Machine) addresses(name string, addrs []string) {
	m.t.Helper()
	l, err := m.Link.LinkByName(name)
	if err != nil {
		m.t.Fatal(err)
	}
	for _, a := range addrs {
		addr, err := netlink.ParseAddr(a)
		if err != nil {
			m.t.Fatal(err)
		}
		addr.Flags = unix.IFA_F_NODAD // an address that is usable at once
		if err := m.Link.AddrAdd(l, addr); err != nil {
			m.t.Fatalf("%s: %s: %v", m.Name, a, err)
		}
	}
}

// Route sends packets for a prefix, "default" or one of IPv6 to a gateway.
func (m *Machine) Route(to, via string) {
	m.t.Helper()
	gw := netip.MustParseAddr(via)
	r := &netlink.Route{Gw: gw.AsSlice()}
	prefix := "0.0.0.0/0"
	if gw.Is6() {
		prefix = "::/0"
	}
	if to != "default" {
		prefix = to
	}
	dst, err := netlink.ParseIPNet(prefix)
	if err == nil {
		r.Dst = dst
		err = m.Link.RouteAdd(r)
	}
	if err != nil {
		m.t.Fatal(fmt.Errorf("%s: route to %s via %s: %w", m.Name, to, via, err))
	}
}
