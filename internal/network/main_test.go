package network

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

// newNS pins a fresh network namespace and returns it and the path of the pin.
func newNS(t testing.TB) (*os.File, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "net")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		// This thread stays in the new namespace, so it isn't given back: it ends with the goroutine.
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			err = unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, "")
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		f.Close()
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && err != unix.EINVAL && err != unix.ENOENT {
			t.Error(err)
		}
	})
	return f, path
}

// newHost makes a namespace that stands for a machine.
func newHost(t testing.TB) (*os.File, string) {
	t.Helper()
	f, path := newNS(t)
	h := handle(t, f)
	lo, err := h.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	if err := h.LinkSetUp(lo); err != nil {
		t.Fatal(err)
	}
	return f, path
}

// unpin lets a namespace go.
func unpin(t testing.TB, f *os.File, path string) {
	t.Helper()
	f.Close()
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
}

func at[T any](t testing.TB, ns *os.File, f func() (T, error)) T {
	t.Helper()
	var v T
	err := within(ns, func() (err error) {
		v, err = f()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func start(t testing.TB, host *os.File, cfg Config) *Network {
	t.Helper()
	n := at(t, host, func() (*Network, error) { return New(cfg) })
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

func handle(t testing.TB, ns *os.File) *netlink.Handle {
	t.Helper()
	h, err := handleAt(ns)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	return h
}

func prefixes(s ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range s {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

// echo answers each connection with the address that it comes from.
func echo(t testing.TB, ns *os.File, addr string) {
	t.Helper()
	l := at(t, ns, func() (net.Listener, error) { return net.Listen("tcp", addr) })
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(c, c.RemoteAddr().(*net.TCPAddr).IP)
			c.Close()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
	})
}

// call connects from a namespace and returns the address that the other side saw.
func call(t testing.TB, ns *os.File, addr string) (string, error) {
	t.Helper()
	var got string
	err := within(ns, func() error {
		c, err := net.DialTimeout("tcp", addr, time.Minute)
		if err != nil {
			return err
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
			return err
		}
		b := make([]byte, 64)
		n, err := c.Read(b)
		got = string(b[:n])
		return err
	})
	return got, err
}

// wire connects two namespaces with a pair of interfaces, "up0" and "down0".
func wire(t testing.TB, a, b *os.File, addrA, addrB string) {
	t.Helper()
	ha, hb := handle(t, a), handle(t, b)
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = "up0", 1400
	v := netlink.NewVeth(attrs)
	v.PeerName, v.PeerNamespace = "down0", netlink.NsFd(int(b.Fd()))
	if err := ha.LinkAdd(v); err != nil {
		t.Fatal(err)
	}
	for _, e := range []struct {
		h          *netlink.Handle
		name, addr string
	}{{ha, "up0", addrA}, {hb, "down0", addrB}} {
		l, err := e.h.LinkByName(e.name)
		if err != nil {
			t.Fatal(err)
		}
		if err := e.h.AddrAdd(l, address(netip.MustParsePrefix(e.addr))); err != nil {
			t.Fatal(err)
		}
		if err := e.h.LinkSetUp(l); err != nil {
			t.Fatal(err)
		}
	}
}
