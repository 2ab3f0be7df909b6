package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/celox/celox/test/e2e/machine"
)

const (
	throughputMethod = "A server and an agent with a router between them. One connection over TCP for 2 s, from a namespace on one machine to one on the other, in turns: between " +
		"addresses of the two nodes' ranges of pods, on the nodes' bridges, through celox's tunnel; and between namespaces that are wired the same way to a bridge and a VXLAN device made " +
		"by hand, without any rules. Bytes received; medians of 10 turns. The machines, router and both ends share this machine's processors."

	throughputTurns = 10
	throughputTime  = 2 * time.Second
	plainVNI        = 77
	plainPort       = 4790
	throughputPort  = 5201
	// tunnelMTU is what fits in a packet of 1500 bytes with what VXLAN adds.
	tunnelMTU = 1450
)

func throughput(ctx context.Context, b *bench) (err error) {
	t := &tunnelled{}
	defer func() { err = errors.Join(err, t.close()) }()
	if err := t.open(); err != nil {
		return err
	}
	own, err := t.pods(ctx)
	if err != nil {
		return err
	}
	plain, err := t.plain()
	if err != nil {
		return err
	}
	noise, err := beginNoise(cluster{pid: t.machines[0].Pid(), dataDir: t.machines[0].DataDir})
	if err != nil {
		return err
	}
	var ours, theirs, ratio []float64
	for i := range throughputTurns {
		b.say("throughput: %d of %d", i+1, throughputTurns)
		one, err := own.measure()
		if err != nil {
			return fmt.Errorf("through celox: %w", err)
		}
		other, err := plain.measure()
		if err != nil {
			return fmt.Errorf("through a plain VXLAN: %w", err)
		}
		ours, theirs, ratio = append(ours, one), append(theirs, other), append(ratio, one/other)
	}
	for _, list := range [][]float64{ours, theirs, ratio} {
		slices.Sort(list)
	}
	b.out.figure(figure{Name: "pods over VXLAN to plain VXLAN", Value: ratio[len(ratio)/2], Unit: shareUnit, Target: 0.95,
		Detail: fmt.Sprintf("medians %.2f and %.2f Gbit/s; ratios of turns %.2f to %.2f", ours[len(ours)/2], theirs[len(theirs)/2], ratio[0], ratio[len(ratio)-1])})
	percent, err := noise.percent(cluster{pid: t.machines[0].Pid(), dataDir: t.machines[0].DataDir})
	b.out.noise(percent)
	return err
}

// tunnelled are two machines behind a router, and what was plugged into them.
type tunnelled struct {
	segments []*machine.Segment
	router   *machine.NetNS
	machines []*machine.Machine
	ends     []*machine.NetNS
}

func (t *tunnelled) close() error {
	var errs []error
	for _, ns := range t.ends {
		errs = append(errs, ns.Close())
	}
	for _, m := range t.machines { // the hand-made tunnel is not celox's to remove
		errs = append(errs, m.NS.Do(func() error {
			for _, name := range []string{"plain", "plain-bridge"} {
				if l, err := netlink.LinkByName(name); err == nil {
					if err := netlink.LinkDel(l); err != nil {
						return err
					}
				}
			}
			return nil
		}), m.Remove())
	}
	if t.router != nil {
		errs = append(errs, t.router.Close())
	}
	for _, s := range t.segments {
		errs = append(errs, s.Close())
	}
	return errors.Join(errs...)
}

func underlay(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 8, byte(2 + i), 1}) }

// open makes the machines and starts celox on both.
func (t *tunnelled) open() (err error) {
	if t.router, err = machine.Router(); err != nil {
		return err
	}
	for i := range 2 {
		s, err := machine.NewSegment()
		if err != nil {
			return err
		}
		t.segments = append(t.segments, s)
		gateway := netip.AddrFrom4([4]byte{10, 8, byte(2 + i), 254})
		if err := s.Plug(t.router, fmt.Sprint("lan", i), netip.PrefixFrom(gateway, 24)); err != nil {
			return err
		}
		m, err := machine.New(fmt.Sprint("throughput-", i))
		if err != nil {
			return err
		}
		t.machines = append(t.machines, m)
		if err := s.Plug(m.NS, machine.Interface, netip.PrefixFrom(underlay(i), 24)); err != nil {
			return err
		}
		if err := machine.Gateway(m.NS, gateway); err != nil {
			return err
		}
	}
	if err := t.machines[0].Start(); err != nil {
		return err
	}
	token, err := t.machines[0].Celox("token", "create")
	if err != nil {
		return err
	}
	return t.machines[1].StartAgent("--server", fmt.Sprintf("https://%v:6443", underlay(0)), "--token", strings.TrimSpace(token))
}

// farEnds are two namespaces on two machines.
type farEnds struct {
	from, to *machine.NetNS
	addr     netip.Addr
}

// pods waits until the nodes know the way to each other, and plugs a namespace into each bridge of celox's, as a pod is.
func (t *tunnelled) pods(ctx context.Context) (*farEnds, error) {
	client, err := t.machines[0].Client()
	if err != nil {
		return nil, err
	}
	p := &farEnds{}
	for i, m := range t.machines {
		if err := awaitNode(ctx, t.machines[0], fmt.Sprint("throughput-", i)); err != nil {
			return nil, err
		}
		pods, err := rangeOf(ctx, client, fmt.Sprint("throughput-", i))
		if err != nil {
			return nil, err
		}
		gateway := pods.Addr().Next()
		addr := netip.AddrFrom4([4]byte{pods.Addr().As4()[0], pods.Addr().As4()[1], pods.Addr().As4()[2], 250})
		ns, err := t.plug(m.NS, "celox0", netip.PrefixFrom(addr, pods.Bits()), gateway)
		if err != nil {
			return nil, err
		}
		if i == 0 {
			p.from = ns
		} else {
			p.to, p.addr = ns, addr
		}
	}
	return p, nil
}

func rangeOf(ctx context.Context, client kubernetes.Interface, node string) (netip.Prefix, error) {
	var n *corev1.Node
	n, err := client.CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{})
	if err != nil {
		return netip.Prefix{}, err
	}
	return netip.ParsePrefix(n.Spec.PodCIDR)
}

// plain makes a tunnel by hand, with the same devices and routes.
func (t *tunnelled) plain() (*farEnds, error) {
	p := &farEnds{}
	subnet := func(i int) netip.Prefix { return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 88, byte(i), 0}), 24) }
	mac := func(i int) []byte { return []byte{2, 0, 0, 0, 88, byte(i)} }
	for i, m := range t.machines {
		other := 1 - i
		gateway := subnet(i).Addr().Next()
		err := m.NS.Do(func() error {
			attrs := netlink.NewLinkAttrs()
			attrs.Name = "plain-bridge"
			bridge := &netlink.Bridge{LinkAttrs: attrs}
			if err := netlink.LinkAdd(bridge); err != nil {
				return err
			}
			if err := netlink.AddrAdd(bridge, &netlink.Addr{IPNet: &net.IPNet{IP: gateway.AsSlice(), Mask: net.CIDRMask(24, 32)}}); err != nil {
				return err
			}
			attrs = netlink.NewLinkAttrs()
			attrs.Name, attrs.HardwareAddr = "plain", mac(i)
			vxlan := &netlink.Vxlan{LinkAttrs: attrs, VxlanId: plainVNI, Port: plainPort, SrcAddr: underlay(i).AsSlice(), Learning: false}
			if err := netlink.LinkAdd(vxlan); err != nil {
				return err
			}
			for _, l := range []netlink.Link{bridge, vxlan} {
				if err := netlink.LinkSetUp(l); err != nil {
					return err
				}
			}
			far := subnet(other).Addr().Next()
			for _, entry := range []*netlink.Neigh{
				{LinkIndex: vxlan.Index, IP: far.AsSlice(), HardwareAddr: mac(other), State: netlink.NUD_PERMANENT},
				{LinkIndex: vxlan.Index, Family: unix.AF_BRIDGE, Flags: netlink.NTF_SELF, IP: underlay(other).AsSlice(), HardwareAddr: mac(other), State: netlink.NUD_PERMANENT},
			} {
				if err := netlink.NeighSet(entry); err != nil {
					return err
				}
			}
			dst := &net.IPNet{IP: subnet(other).Addr().AsSlice(), Mask: net.CIDRMask(24, 32)}
			return netlink.RouteAdd(&netlink.Route{LinkIndex: vxlan.Index, Dst: dst, Gw: far.AsSlice(), Flags: int(netlink.FLAG_ONLINK)})
		})
		if err != nil {
			return nil, err
		}
		addr := netip.AddrFrom4([4]byte{10, 88, byte(i), 250})
		ns, err := t.plug(m.NS, "plain-bridge", netip.PrefixFrom(addr, 24), gateway)
		if err != nil {
			return nil, err
		}
		if i == 0 {
			p.from = ns
		} else {
			p.to, p.addr = ns, addr
		}
	}
	return p, nil
}

// plug wires a new namespace to a bridge, as pods are.
func (t *tunnelled) plug(node *machine.NetNS, bridge string, addr netip.Prefix, gateway netip.Addr) (*machine.NetNS, error) {
	ns, err := machine.NewNetNS()
	if err != nil {
		return nil, err
	}
	t.ends = append(t.ends, ns)
	var inside *os.File
	if err := ns.Do(func() error {
		inside, err = os.Open("/proc/thread-self/ns/net")
		return err
	}); err != nil {
		return nil, err
	}
	defer func() { _ = inside.Close() }() // only named by it
	if err := node.Do(func() error {
		b, err := netlink.LinkByName(bridge)
		if err != nil {
			return err
		}
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MasterIndex, attrs.MTU = fmt.Sprint("end", len(t.ends)), b.Attrs().Index, tunnelMTU
		veth := netlink.NewVeth(attrs)
		veth.PeerName, veth.PeerNamespace, veth.PeerMTU = machine.Interface, netlink.NsFd(int(inside.Fd())), tunnelMTU
		if err := netlink.LinkAdd(veth); err != nil {
			return err
		}
		return netlink.LinkSetUp(veth)
	}); err != nil {
		return nil, err
	}
	if err := ns.Address(machine.Interface, addr); err != nil {
		return nil, err
	}
	if err := ns.SetLink(machine.Interface, true); err != nil {
		return nil, err
	}
	return ns, machine.Gateway(ns, gateway)
}

// measure sends for a while and returns how much arrived, in Gbit/s.
func (p *farEnds) measure() (gbits float64, err error) {
	l, err := p.to.Listen("tcp4", fmt.Sprint("0.0.0.0:", throughputPort))
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	ctx, cancel := context.WithTimeout(context.Background(), startLimit)
	defer cancel()
	c, err := p.from.Dial(ctx, "tcp4", netip.AddrPortFrom(p.addr, throughputPort).String())
	if err != nil {
		return 0, err
	}
	type result struct {
		bytes int64
		took  time.Duration
		err   error
	}
	received := make(chan result, 1)
	begin := time.Now()
	go func() {
		in, err := l.Accept()
		if err != nil {
			received <- result{err: err}
			return
		}
		n, err := io.Copy(io.Discard, in)
		received <- result{n, time.Since(begin), errors.Join(err, in.Close())}
	}()
	buf := make([]byte, 1<<18)
	for err == nil && time.Since(begin) < throughputTime {
		_, err = c.Write(buf)
	}
	err = errors.Join(err, c.Close())
	r := <-received
	return float64(r.bytes) * 8 / r.took.Seconds() / 1e9, errors.Join(err, r.err)
}
