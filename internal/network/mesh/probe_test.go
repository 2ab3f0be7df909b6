package mesh

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/celox/celox/internal/network/networktest"
	"github.com/celox/celox/internal/network/wireguard"
)

// side is a node in a test: a machine with a bridge for pods, and its mesh.
type side struct {
	*networktest.Machine
	name    string
	self    Self
	mesh    *Mesh
	reports chan Report
}

func (s *side) peer() Peer { return Peer{Name: s.name, Addrs: s.self.Addrs, Pods: s.self.Pods} }

// quick is a pace for tests.
func quick() pace {
	return pace{
		first: 10 * time.Millisecond, fresh: 300 * time.Millisecond, every: 100 * time.Millisecond, proven: 300 * time.Millisecond,
		broken: 50 * time.Millisecond, wait: 200 * time.Millisecond,
	}
}

// newSide makes a node whose mesh runs until the test ends. Its machine has the addresses already.
func newSide(t *testing.T, m *networktest.Machine, self Self, secret *wireguard.PrivateKey) *side {
	t.Helper()
	s := &side{Machine: m, name: m.Name, self: self, reports: make(chan Report, 100)}
	m.Must(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "pods"
		bridge := &netlink.Bridge{LinkAttrs: attrs}
		err := errors.Join(netlink.LinkAdd(bridge), netlink.LinkSetUp(bridge))
		for _, p := range self.Pods {
			a := &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(gateway(p), p.Bits()))}
			if p.Addr().Is6() {
				a.Flags = unix.IFA_F_NODAD
			}
			err = errors.Join(err, netlink.AddrAdd(bridge, a))
		}
		if err != nil {
			return err
		}
		var device *wireguard.Device
		if secret != nil {
			if device, err = wireguard.Open(*secret); err != nil {
				return err
			}
			t.Cleanup(func() { _ = device.Close() })
		}
		s.mesh, err = New(slog.New(slog.DiscardHandler), device, func(r Report) bool {
			s.reports <- r
			return true
		})
		return err
	})
	s.mesh.pace = quick()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.mesh.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return s
}

// filter makes the firewall of a router drop what the expressions match; none is that it drops nothing.
func filter(t *testing.T, router *networktest.Machine, match ...expr.Any) {
	t.Helper()
	router.Must(func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		table := &nftables.Table{Family: nftables.TableFamilyINet, Name: "firewall"}
		c.AddTable(table)
		c.DelTable(table)
		c.AddTable(table)
		chain := c.AddChain(&nftables.Chain{Table: table, Name: "forward", Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter})
		if len(match) > 0 {
			c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: append(match, &expr.Verdict{Kind: expr.VerdictDrop})})
		}
		return c.Flush()
	})
}

func toPort(port uint16) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(port)},
	}
}

func longer(bytes uint32) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyLEN, Register: 1},
		&expr.Cmp{Op: expr.CmpOpGt, Register: 1, Data: binaryutil.NativeEndian.PutUint32(bytes)},
	}
}

// expect waits for a report with a reason, "" is that all works, and with a word in it. Others may come before: a way that changes may fail for a moment.
func (s *side) expect(t *testing.T, reason, word string) {
	t.Helper()
	deadline := time.After(time.Minute)
	var others []Report
	for {
		select {
		case r := <-s.reports:
			if r.Works == (reason == "") && r.Reason == reason && strings.Contains(r.Problem, word) {
				return
			}
			others = append(others, r)
		case <-deadline:
			t.Fatalf("%s says %+v, want %q with %q", s.name, others, reason, word)
		}
	}
}

// A firewall between two nodes is noticed, and named, and so is its end.
func TestBlockedWay(t *testing.T) {
	router := networktest.NewMachine(t, "router")
	router.Forward()
	var sides []*side
	for i, name := range []string{"one", "two"} {
		m := networktest.NewMachine(t, name)
		at := func(last string) []string {
			return []string{fmt.Sprintf("10.0.%d.%s/24", i+1, last), fmt.Sprintf("fd01:0:0:%d::%s/64", i+1, last)}
		}
		networktest.Wire(m, router, at("1"), at("9"))
		m.Route("default", fmt.Sprintf("10.0.%d.9", i+1))
		m.Route("default", fmt.Sprintf("fd01:0:0:%d::9", i+1))
		self := Self{Addrs: []netip.Addr{addr(fmt.Sprintf("10.0.%d.1", i+1))}, Pods: prefixes(fmt.Sprintf("10.42.%d.0/24", i+1), fmt.Sprintf("fd42:0:0:%d::/64", i+1))}
		if i == 0 { // the tunnel over IPv6 comes later
			self.Addrs = append(self.Addrs, addr("fd01:0:0:1::1"))
		}
		sides = append(sides, newSide(t, m, self, nil))
	}
	one, two := sides[0], sides[1]
	meet := func() {
		one.mesh.Set(one.self, []Peer{two.peer()})
		two.mesh.Set(two.self, []Peer{one.peer()})
	}
	filter(t, router, toPort(Port)...)
	meet()
	for _, s := range sides {
		s.expect(t, "VXLANBlocked", "UDP port 8472")
	}
	filter(t, router)
	for _, s := range sides {
		s.expect(t, "", "")
	}
	filter(t, router, longer(1200)...)
	for _, s := range sides {
		s.expect(t, "MTUTooLarge", "")
	}
	filter(t, router)
	for _, s := range sides {
		s.expect(t, "", "")
	}

	// One of them has IPv6 alone from now on: both families of pods go through the other tunnel.
	two.self.Addrs = []netip.Addr{addr("fd01:0:0:2::1")}
	meet()
	for _, s := range sides {
		eventually(t, "the other tunnel", func() error {
			s.mesh.mu.Lock()
			defer s.mesh.mu.Unlock()
			if len(s.mesh.targets) != 2 || s.mesh.targets[0].way != tunnel6 || s.mesh.targets[1].way != tunnel6 {
				return fmt.Errorf("the ways are %v", s.mesh.targets)
			}
			return nil
		})
	}
	filter(t, router, toPort(Port)...)
	for _, s := range sides {
		s.expect(t, "VXLANBlocked", "fd01:0:0:2::1")
	}
	filter(t, router)
	for _, s := range sides {
		s.expect(t, "", "")
	}
	one.Must(func() error {
		if _, err := netlink.LinkByName(devices[0]); !missing(err) {
			return fmt.Errorf("the tunnel over IPv4 is there still: %v", err)
		}
		_, err := netlink.LinkByName(devices[1])
		return err
	})
}

// Neighbours that do not pass on packets of pods are noticed, too.
func TestBlockedNeighbour(t *testing.T) {
	a, b := networktest.NewMachine(t, "one"), networktest.NewMachine(t, "two")
	networktest.Wire(a, b, []string{"10.0.0.1/24", "fd01::1/64"}, []string{"10.0.0.2/24", "fd01::2/64"})
	one := newSide(t, a, Self{Addrs: []netip.Addr{addr("10.0.0.1"), addr("fd01::1")}, Pods: prefixes("10.42.1.0/24", "fd42:0:0:1::/64")}, nil)
	two := newSide(t, b, Self{Addrs: []netip.Addr{addr("10.0.0.2"), addr("fd01::2")}, Pods: prefixes("10.42.2.0/24", "fd42:0:0:2::/64")}, nil)
	one.mesh.Set(one.self, []Peer{two.peer()})
	// The other does not know of the first yet, and has no way for its answers.
	one.expect(t, "PodRouteBlocked", "a neighbour")
	two.mesh.Set(two.self, []Peer{one.peer()})
	one.expect(t, "", "")
	// Told of a node that goes, it has no complaint.
	one.mesh.Set(one.self, nil)
	eventually(t, "the ways to go", func() error {
		one.mesh.mu.Lock()
		defer one.mesh.mu.Unlock()
		if len(one.mesh.targets) > 0 {
			return fmt.Errorf("there are %v", one.mesh.targets)
		}
		return nil
	})
}

// TestEncryptedWay needs a kernel with WireGuard: `make test-vm` has one.
func TestEncryptedWay(t *testing.T) {
	router := networktest.NewMachine(t, "router")
	router.Forward()
	var sides []*side
	var keys []wireguard.Key
	for i, name := range []string{"one", "two"} {
		m := networktest.NewMachine(t, name)
		networktest.Wire(m, router, []string{fmt.Sprintf("10.0.%d.1/24", i+1)}, []string{fmt.Sprintf("10.0.%d.9/24", i+1)})
		m.Route("default", fmt.Sprintf("10.0.%d.9", i+1))
		secret, made, err := wireguard.LoadKey(t.TempDir() + "/key")
		if err != nil || !made {
			t.Fatal(made, err)
		}
		if err := m.Do(func() error {
			d, err := wireguard.Open(secret)
			if err == nil {
				err = d.Close()
			}
			return err
		}); errors.Is(err, wireguard.ErrNotSupported) {
			t.Skipf("%v: run `make test-vm`, whose kernel has it", err)
		}
		self := Self{
			Addrs: []netip.Addr{addr(fmt.Sprintf("10.0.%d.1", i+1))}, Port: wireguard.DefaultPort, Cluster: prefixes("10.42.0.0/16", "fd42::/56"),
			Pods: prefixes(fmt.Sprintf("10.42.%d.0/24", i+1), fmt.Sprintf("fd42:0:0:%d::/64", i+1)),
		}
		sides = append(sides, newSide(t, m, self, &secret))
		keys = append(keys, secret.Public())
	}
	meet := func() {
		for i, s := range sides {
			p := sides[1-i].peer()
			p.Key = keys[1-i]
			s.mesh.Set(s.self, []Peer{p})
		}
	}
	// Nothing of the pods may cross the router but encrypted.
	filter(t, router, toPort(wireguard.DefaultPort)...)
	meet()
	for _, s := range sides {
		s.expect(t, "WireGuardBlocked", "")
	}
	filter(t, router)
	for _, s := range sides {
		s.expect(t, "", "")
	}
	sides[0].Must(func() error {
		l, err := netlink.LinkByName(wireguard.Name)
		if err == nil && l.Attrs().MTU != 1440 {
			err = fmt.Errorf("its MTU is %d", l.Attrs().MTU)
		}
		return err
	})
	// A node that lost its key has another: the first one's is taken back.
	lost := keys[1]
	keys[1] = keyOf(9)
	meet()
	sides[0].expect(t, "WireGuardBlocked", "")
	keys[1] = lost
	meet()
	sides[0].expect(t, "", "")
}
