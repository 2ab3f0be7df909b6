package mesh

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/celox/celox/internal/network/wireguard"
)

// inNamespace runs f on a thread with a network namespace of its own, in which eth0 has 10.0.0.1/24, and a default route.
func inNamespace(t *testing.T, f func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test makes network namespaces: run it as root")
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine, and the namespace with it
		done <- func() error {
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return err
			}
			attrs := netlink.NewLinkAttrs()
			attrs.Name = "eth0"
			veth := netlink.NewVeth(attrs)
			veth.PeerName = "peer"
			if err := netlink.LinkAdd(veth); err != nil {
				return err
			}
			peer, err := netlink.LinkByName("peer")
			if err != nil {
				return err
			}
			addr := &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(10, 0, 0, 1), Mask: net.CIDRMask(24, 32)}}
			if err := errors.Join(netlink.AddrAdd(veth, addr), netlink.LinkSetUp(veth), netlink.LinkSetUp(peer)); err != nil {
				return err
			}
			if err := netlink.RouteAdd(&netlink.Route{Gw: net.IPv4(10, 0, 0, 254)}); err != nil {
				return err
			}
			f()
			return nil
		}()
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// eventually waits until check is satisfied. It asks on the thread of the test, whose namespace it is.
func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("%s: %v", what, err)
			return
		}
		time.Sleep(10 * time.Millisecond) // the kernel is asked; there is no event for all of it
	}
}

// ways are the routes of ours, as text.
func ways() (map[string]string, error) {
	list, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Protocol: protocol}, netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, r := range list {
		l, err := netlink.LinkByIndex(r.LinkIndex)
		if err != nil {
			return nil, err
		}
		out[r.Dst.String()] = fmt.Sprintf("%v %s", r.Gw, l.Attrs().Name)
	}
	return out, nil
}

func expectWays(want map[string]string) func() error {
	return func() error {
		got, err := ways()
		if err != nil {
			return err
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			return fmt.Errorf("routes are %v, want %v", got, want)
		}
		return nil
	}
}

// ends counts the permanent entries of the tunnel.
func ends(forwarding, inside int) func() error {
	return func() error {
		l, err := netlink.LinkByName(devices[0])
		if err != nil {
			return err
		}
		counts := map[int]int{}
		for _, family := range []int{unix.AF_BRIDGE, unix.AF_INET} {
			list, err := netlink.NeighList(l.Attrs().Index, family)
			if err != nil {
				return err
			}
			for _, n := range list {
				if n.State&netlink.NUD_PERMANENT != 0 {
					counts[family]++
				}
			}
		}
		if counts[unix.AF_BRIDGE] != forwarding || counts[unix.AF_INET] != inside {
			return fmt.Errorf("%d forwarding entries and %d neighbours, want %d and %d", counts[unix.AF_BRIDGE], counts[unix.AF_INET], forwarding, inside)
		}
		return nil
	}
}

func TestKernelFollows(t *testing.T) {
	inNamespace(t, func() {
		m, err := New(slog.New(slog.DiscardHandler), nil, nil)
		if err != nil {
			t.Error(err)
			return
		}
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- m.Run(ctx) }()
		defer func() {
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
			if err := errors.Join(Reset(), Reset()); err != nil { // twice is as once
				t.Error(err)
			}
			if err := expectWays(nil)(); err != nil {
				t.Errorf("after the reset: %v", err)
			}
			if _, err := netlink.LinkByName(devices[0]); !missing(err) {
				t.Errorf("after the reset the tunnel is there: %v", err)
			}
		}()
		self := Self{Addrs: []netip.Addr{addr("10.0.0.1")}, Pods: prefixes("10.42.0.0/24")}
		near := Peer{Name: "near", Addrs: []netip.Addr{addr("10.0.0.2")}, Pods: prefixes("10.42.1.0/24")}
		far := Peer{Name: "far", Addrs: []netip.Addr{addr("10.9.0.3")}, Pods: prefixes("10.42.2.0/24")}
		both := map[string]string{"10.42.1.0/24": "10.0.0.2 eth0", "10.42.2.0/24": "10.42.2.0 " + devices[0]}

		m.Set(self, []Peer{near})
		eventually(t, "a neighbour", expectWays(map[string]string{"10.42.1.0/24": "10.0.0.2 eth0"}))
		if _, err := netlink.LinkByName(devices[0]); !missing(err) {
			t.Errorf("there is a tunnel that nobody needs: %v", err)
		}
		m.Set(self, []Peer{near, far})
		eventually(t, "one behind a router", expectWays(both))
		eventually(t, "its end of the tunnel", ends(1, 1))
		l, err := netlink.LinkByName(devices[0])
		if err != nil {
			t.Error(err)
			return
		}
		if l.Attrs().MTU != 1450 {
			t.Errorf("the tunnel's MTU is %d", l.Attrs().MTU)
		}

		// What somebody removes comes back.
		for dst := range both {
			_, n, _ := net.ParseCIDR(dst)
			if err := netlink.RouteDel(&netlink.Route{Dst: n}); err != nil {
				t.Error(err)
			}
			eventually(t, "a removed route", expectWays(both))
		}
		if err := netlink.LinkDel(l); err != nil {
			t.Error(err)
		}
		eventually(t, "a removed tunnel", expectWays(both))
		eventually(t, "its entries", ends(1, 1))

		// A node moves to this segment, and one goes.
		far.Addrs = []netip.Addr{addr("10.0.0.3")}
		m.Set(self, []Peer{far})
		eventually(t, "a node that moved", expectWays(map[string]string{"10.42.2.0/24": "10.0.0.3 eth0"}))
		eventually(t, "the tunnel to go", func() error {
			if _, err := netlink.LinkByName(devices[0]); !missing(err) {
				return fmt.Errorf("it is there (%v)", err)
			}
			return nil
		})
		// Nothing known is no reason to remove anything.
		m.Set(Self{}, nil)
		m.Set(self, []Peer{far, near})
		eventually(t, "both at last", expectWays(map[string]string{"10.42.1.0/24": "10.0.0.2 eth0", "10.42.2.0/24": "10.0.0.3 eth0"}))
	})
}

// fakeCrypt has another device in the place of the encrypted one.
type fakeCrypt struct{ last wireguard.Config }

func (f *fakeCrypt) Apply(cfg wireguard.Config) (int, error) {
	f.last = cfg
	attrs := netlink.NewLinkAttrs()
	attrs.Name = wireguard.Name
	if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil && !errors.Is(err, unix.EEXIST) {
		return 0, err
	}
	l, err := netlink.LinkByName(wireguard.Name)
	if err != nil {
		return 0, err
	}
	return l.Attrs().Index, netlink.LinkSetUp(l)
}

// kinds are the routes of ours by what becomes of packets.
func kinds() (map[string]string, error) {
	list, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Protocol: protocol}, netlink.RT_FILTER_PROTOCOL)
	out := map[string]string{}
	for _, r := range list {
		switch {
		case r.Type == unix.RTN_UNREACHABLE:
			out[r.Dst.String()] = "refused"
		case r.Gw != nil:
			out[r.Dst.String()] = "by " + r.Gw.String()
		default:
			out[r.Dst.String()] = "device"
		}
	}
	return out, err
}

// With encryption everything goes into its device, and what cannot is refused; without it again, nothing of that is left.
func TestKernelEncrypts(t *testing.T) {
	inNamespace(t, func() {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			t.Error(err)
			return
		}
		defer h.Close()
		f := &fakeCrypt{}
		k := kernel{h, f}
		self := Self{Addrs: []netip.Addr{addr("10.0.0.1")}, Pods: prefixes("10.42.0.0/24", "fd42::/64"), Cluster: prefixes("10.42.0.0/16", "fd42::/56"), Port: 51820}
		near := Peer{Name: "near", Addrs: []netip.Addr{addr("10.0.0.2")}, Pods: prefixes("10.42.1.0/24", "fd42:0:0:1::/64")}
		pass := func(what string, want map[string]string) {
			t.Helper()
			if _, err := k.apply(self, plan(self, []Peer{near}, k.neighbour)); err != nil {
				t.Errorf("%s: %v", what, err)
			}
			if got, err := kinds(); err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("%s: routes are %v, want %v; %v", what, got, want, err)
			}
		}
		closed := map[string]string{"10.42.0.0/16": "refused", "fd42::/56": "refused", "10.42.1.0/24": "refused", "fd42:0:0:1::/64": "refused"}
		open := map[string]string{"10.42.0.0/16": "refused", "fd42::/56": "refused", "10.42.1.0/24": "device", "fd42:0:0:1::/64": "device"}
		pass("a node without a key", closed)
		near.Key = keyOf(1)
		for range 2 {
			pass("a node with a key", open)
		}
		if f.last.Underlay != 1500 || len(f.last.Peers) != 1 {
			t.Errorf("the device is %+v", f.last)
		}
		near.Key = wireguard.Key{}
		pass("its key is gone", closed)
		near.Key = keyOf(2)
		pass("another key", open)
		// Encryption is switched off.
		k.crypt, self.Port = nil, 0
		for range 2 {
			pass("without encryption", map[string]string{"10.42.1.0/24": "by 10.0.0.2", "fd42:0:0:1::/64": "by fd42:0:0:1::"})
		}
		if _, err := netlink.LinkByName(wireguard.Name); !missing(err) {
			t.Errorf("the encrypted device is there: %v", err)
		}
	})
}
