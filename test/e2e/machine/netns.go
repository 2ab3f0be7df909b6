package machine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// NetNS is a network namespace that lives as long as it is open, or as a process is in it.
type NetNS struct{ file *os.File }

// NewNetNS makes a namespace in which loopback is up.
func NewNetNS() (*NetNS, error) {
	type result struct {
		f   *os.File
		err error
	}
	made := make(chan result, 1)
	go func() {
		// The thread is not unlocked: it ends with the goroutine, and its namespace with it.
		runtime.LockOSThread()
		f, err := func() (*os.File, error) {
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return nil, fmt.Errorf("new network namespace (root?): %w", err)
			}
			lo, err := netlink.LinkByName("lo")
			if err != nil {
				return nil, err
			}
			if err := netlink.LinkSetUp(lo); err != nil {
				return nil, err
			}
			return os.Open("/proc/thread-self/ns/net")
		}()
		made <- result{f, err}
	}()
	r := <-made
	return &NetNS{r.f}, r.err
}

// NetNSOf is the namespace that a process is in.
func NetNSOf(pid int) (*NetNS, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return nil, fmt.Errorf("network namespace of a process: %w", err)
	}
	return &NetNS{f}, nil
}

// Close lets go of the namespace.
func (n *NetNS) Close() error { return n.file.Close() }

// Do runs f on a thread in the namespace.
func (n *NetNS) Do(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // as above: a thread with another namespace is not given back
		if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("enter network namespace: %w", err)
			return
		}
		done <- f()
	}()
	return <-done
}

// Start starts a command in the namespace.
func (n *NetNS) Start(cmd *exec.Cmd) error { return n.Do(cmd.Start) }

// Dial connects from within the namespace.
func (n *NetNS) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	var conn net.Conn
	err := n.Do(func() error {
		var err error
		conn, err = (&net.Dialer{}).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// Listen listens within the namespace.
func (n *NetNS) Listen(network, address string) (net.Listener, error) {
	var l net.Listener
	err := n.Do(func() error {
		var err error
		l, err = net.Listen(network, address)
		return err
	})
	return l, err
}

// Pair connects two namespaces with a pair of interfaces, called Interface on both sides.
func Pair(a, b *NetNS, atA, atB netip.Prefix) error {
	err := a.Do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = Interface
		v := netlink.NewVeth(attrs)
		v.PeerName, v.PeerNamespace = Interface, netlink.NsFd(int(b.file.Fd()))
		if err := netlink.LinkAdd(v); err != nil {
			return fmt.Errorf("add interfaces: %w", err)
		}
		return nil
	})
	return errors.Join(err, a.Address(Interface, atA), b.Address(Interface, atB), a.SetLink(Interface, true), b.SetLink(Interface, true))
}
