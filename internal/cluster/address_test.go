package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/celox/celox/internal/cluster/config"
	"github.com/celox/celox/internal/network/networktest"
)

func prefixList(texts ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, text := range texts {
		out = append(out, netip.MustParsePrefix(text))
	}
	return out
}

// addTo adds an address to an interface of a machine, with flags.
func addTo(m *networktest.Machine, link, address string, flags int) {
	m.Must(func() error {
		l, err := netlink.LinkByName(link)
		if err != nil {
			return err
		}
		a, err := netlink.ParseAddr(address)
		if err != nil {
			return err
		}
		a.Flags = flags | unix.IFA_F_NODAD
		return netlink.AddrAdd(l, a)
	})
}

func TestMachineAddresses(t *testing.T) {
	m, net1, net2 := networktest.NewMachine(t, "machine"), networktest.NewMachine(t, "lan"), networktest.NewMachine(t, "uplink")
	// The first network has no way out, the second has.
	networktest.Wire(m, net1, []string{"192.168.7.1/24", "fd07::1/64"}, []string{"192.168.7.2/24", "fd07::2/64"})
	networktest.Wire(m, net2, []string{"10.42.9.9/32", "10.7.0.1/24"}, []string{"10.7.0.2/24", "fd08::2/64"})
	addTo(m, "uplink", "fd08::dead/64", unix.IFA_F_DEPRECATED)
	find := func(pods []netip.Prefix, known string) []string {
		t.Helper()
		var out []string
		m.Must(func() error {
			var a netip.Addr
			if known != "" {
				a = netip.MustParseAddr(known)
			}
			found, err := machineAddresses(pods, prefixList("10.42.0.0/16", "fd42::/56"), a)
			for _, a := range found {
				out = append(out, a.String())
			}
			return err
		})
		return out
	}
	expect := func(what string, got []string, want ...string) {
		t.Helper()
		if !slices.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", what, got, want)
		}
	}
	four, both := prefixList("10.42.0.0/16"), prefixList("10.42.0.0/16", "fd42::/56")
	expect("no default route", find(four, ""), "192.168.7.1")
	m.Route("default", "10.7.0.2")
	expect("a default route", find(four, ""), "10.7.0.1")
	expect("a family without a default route", find(both, ""), "10.7.0.1", "fd07::1")
	addTo(m, "uplink", "fd08::1/64", 0)
	m.Route("default", "fd08::2")
	expect("both families", find(both, ""), "10.7.0.1", "fd08::1")
	expect("the order of the pods", find(prefixList("fd42::/56", "10.42.0.0/16"), ""), "fd08::1", "10.7.0.1")
	expect("an address that is known", find(both, "192.168.7.1"), "192.168.7.1", "fd08::1")
	expect("one of another family than the pods'", find(four, "fd07::1"), "10.7.0.1")

	m.Must(func() error {
		cfg := config.Server{Node: config.Node{NodeIP: "192.0.2.1,2001:db8::1"}, ClusterCIDR: "10.42.0.0/16", ServiceCIDR: "fd43::/112,10.43.0.0/16"}
		got, err := nodeIPs(cfg)
		if err != nil || fmt.Sprint(got) != "[192.0.2.1 2001:db8::1]" {
			t.Errorf("given addresses: %v, %v", got, err)
		}
		s := &Server{cfg: cfg, nodeIPs: got}
		if a, err := s.advertised(); err != nil || a.String() != "2001:db8::1" {
			t.Errorf("services of IPv6 first: the API is advertised at %v, %v", a, err)
		}
		if err := checkNodeIPs(cfg.Node); err == nil || !strings.Contains(err.Error(), "--node-ip: 192.0.2.1 is no address of this machine") {
			t.Errorf("addresses of another machine: %v", err)
		}
		if err := checkNodeIPs(config.Node{NodeIP: "10.7.0.1,fd08::1"}); err != nil {
			t.Errorf("addresses of this machine: %v", err)
		}
		cfg.NodeIP, cfg.BindAddress = "", "127.0.0.1"
		if got, err = nodeIPs(cfg); err != nil || fmt.Sprint(got) != "[127.0.0.1]" {
			t.Errorf("bound to loopback: %v, %v", got, err)
		}
		return nil
	})
}

// TestAddressesThatComeLate: a node waits for the addresses that it was given, says for which, and stops waiting when it is told to end.
func TestAddressesThatComeLate(t *testing.T) {
	m, peer := networktest.NewMachine(t, "machine"), networktest.NewMachine(t, "peer")
	networktest.Wire(m, peer, []string{"10.7.0.1/24"}, []string{"10.7.0.9/24"})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	said := make(chan string, 8)
	say := func(format string, args ...any) { said <- fmt.Sprintf(format, args...) }
	wait := func(ips string) <-chan error {
		ended := make(chan error, 1)
		go func() {
			ended <- m.Do(func() error { return awaitNodeIPs(ctx, config.Node{NodeIP: ips}, say) })
		}()
		return ended
	}
	ended := wait("10.8.0.1,fd08::1")
	for i, address := range []string{"10.8.0.1", "fd08::1"} {
		if got, want := <-said, "--node-ip: "+address+" is no address of this machine; waiting for it"; got != want {
			t.Errorf("it says %q, want %q", got, want)
		}
		addTo(m, "peer", fmt.Sprintf("10.9.%d.1/24", i), 0) // another one is no help
		addTo(m, "peer", address+"/24", 0)
	}
	if err := <-ended; err != nil {
		t.Errorf("when it has all: %v", err)
	}
	ended = wait("10.8.0.2")
	<-said
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("told to end: %v", err)
	}
}

func TestAddressesThatChange(t *testing.T) {
	m, peer := networktest.NewMachine(t, "machine"), networktest.NewMachine(t, "peer")
	networktest.Wire(m, peer, []string{"10.7.0.1/24"}, []string{"10.7.0.9/24"})
	four := prefixList("10.42.0.0/16")
	have := []netip.Addr{netip.MustParseAddr("10.7.0.1")}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	looked := make(chan int, 100)
	go func() {
		ended <- m.Do(func() error {
			return watchAddresses(ctx, have, func() ([]netip.Addr, error) {
				found, err := machineAddresses(four, nil, netip.Addr{})
				select {
				case looked <- len(found):
				default:
				}
				return found, err
			})
		})
	}()
	<-looked // it follows now
	m.Must(func() error {
		l, err := netlink.LinkByName("peer")
		if err != nil {
			return err
		}
		a, err := netlink.ParseAddr("10.7.0.1/24")
		if err != nil {
			return err
		}
		return netlink.AddrDel(l, a)
	})
	for n := range looked {
		if n == 0 {
			break // it has seen that there is none, which is no reason for anything
		}
	}
	addTo(m, "peer", "10.7.0.2/24", 0)
	var moved *movedError
	if err := <-ended; !errors.As(err, &moved) || fmt.Sprint(moved.to) != "[10.7.0.2]" {
		t.Errorf("got %v", err)
	}
}
