package machine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Firewall is what a router drops of what it forwards.
type Firewall struct {
	// UDPPort are packets over UDP to that port; 0 is none.
	UDPPort uint16
	// Longer, with a port, lets packets of up to so many bytes through: nobody is told of the others.
	Longer uint32
	// Percent is the share of all packets, by chance.
	Percent uint32
	// TCPPorts are connections to those ports, from the first packet on.
	TCPPorts []uint16
}

// Filter makes a router drop just that.
func (n *NetNS) Filter(f Firewall) error {
	return n.Do(func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		table := &nftables.Table{Family: nftables.TableFamilyINet, Name: "firewall"}
		c.AddTable(table) // or there is nothing to remove
		c.DelTable(table)
		c.AddTable(table)
		chain := c.AddChain(&nftables.Chain{Table: table, Name: "forward", Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter})
		drop := func(match ...expr.Any) {
			c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: append(match, &expr.Verdict{Kind: expr.VerdictDrop})})
		}
		to := func(protocol byte, port uint16) []expr.Any {
			return []expr.Any{
				&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{protocol}},
				&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
				&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(port)},
			}
		}
		if f.UDPPort != 0 {
			match := to(unix.IPPROTO_UDP, f.UDPPort)
			if f.Longer != 0 { // the length is a number in the machine's order, too: see below
				match = append(match, &expr.Meta{Key: expr.MetaKeyLEN, Register: 1},
					&expr.Byteorder{SourceRegister: 1, DestRegister: 1, Op: expr.ByteorderHton, Len: 4, Size: 4},
					&expr.Cmp{Op: expr.CmpOpGt, Register: 1, Data: binaryutil.BigEndian.PutUint32(f.Longer)})
			}
			drop(match...)
		}
		for _, port := range f.TCPPorts {
			drop(to(unix.IPPROTO_TCP, port)...)
		}
		if f.Percent != 0 {
			// Numbers are in the machine's order of bytes, and are compared as in a network's.
			drop(&expr.Numgen{Register: 1, Modulus: 100, Type: unix.NFT_NG_RANDOM},
				&expr.Byteorder{SourceRegister: 1, DestRegister: 1, Op: expr.ByteorderHton, Len: 4, Size: 4},
				&expr.Cmp{Op: expr.CmpOpLt, Register: 1, Data: binaryutil.BigEndian.PutUint32(f.Percent)})
		}
		return c.Flush()
	})
}

// SetLink sets an interface up or down, as a cable that is pulled out: addresses stay.
func (n *NetNS) SetLink(name string, up bool) error {
	return n.Do(func() error {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		if up {
			return netlink.LinkSetUp(link)
		}
		return netlink.LinkSetDown(link)
	})
}

// SetPort connects or disconnects the machine on a port of the segment; the first that was plugged has port 1. What it notices is that its cable is out.
func (s *Segment) SetPort(port int, up bool) error {
	return s.ns.SetLink(fmt.Sprintf("port%d", port), up)
}

// vnetHeader is how long the header is by which the kernel says what has still to be done to a packet: checksums, and to cut it (virtio_net_hdr).
const vnetHeader = 10

// Relay is a bad cable: what goes through it is late by chance, so that packets overtake each other, and some never arrive.
type Relay struct {
	cancel context.CancelFunc
	wg     sync.WaitGroup
	ns     *NetNS
	files  []*os.File
}

// PlugBadly is Plug by a cable that keeps each packet for up to a time, and loses so many of a hundred.
func (s *Segment) PlugBadly(ns *NetNS, name string, address netip.Prefix, late time.Duration, lost int) (*Relay, error) {
	// The segment's end and the machine's are two cables, and between them is a namespace in which this process carries packets.
	middle, err := NewNetNS()
	if err != nil {
		return nil, err
	}
	if err := s.plug(middle, "segment"); err != nil {
		return nil, errors.Join(err, middle.Close())
	}
	err = middle.Do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "machine"
		veth := netlink.NewVeth(attrs)
		veth.PeerName, veth.PeerNamespace = name, netlink.NsFd(int(ns.file.Fd()))
		if err := netlink.LinkAdd(veth); err != nil {
			return fmt.Errorf("add cable: %w", err)
		}
		return netlink.LinkSetUp(veth)
	})
	err = errors.Join(err, middle.SetLink("segment", true))
	if err == nil {
		err = errors.Join(ns.Address(name, address), ns.SetLink(name, true))
	}
	if err != nil {
		return nil, errors.Join(err, middle.Close())
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &Relay{cancel: cancel, ns: middle}
	for _, end := range []string{"segment", "machine"} {
		f, err := middle.packets(end)
		if err != nil {
			return nil, errors.Join(err, r.Close())
		}
		r.files = append(r.files, f)
	}
	for i := range r.files {
		r.wg.Go(func() { r.carry(ctx, r.files[i], r.files[1-i], late, lost) })
	}
	return r, nil
}

// packets opens an interface for all its packets.
func (n *NetNS) packets(name string) (f *os.File, err error) {
	err = n.Do(func() error {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		all := uint16(unix.ETH_P_ALL)<<8 | uint16(unix.ETH_P_ALL)>>8 // in the network's order
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return fmt.Errorf("packet socket: %w", err)
		}
		f = os.NewFile(uintptr(fd), name)
		err = errors.Join(
			unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1),
			unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
			unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &unix.PacketMreq{Ifindex: int32(link.Attrs().Index), Type: unix.PACKET_MR_PROMISC}),
			unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: link.Attrs().Index}))
		if err != nil {
			return errors.Join(fmt.Errorf("packet socket: %w", err), f.Close())
		}
		return nil
	})
	return f, err
}

// carry takes packets from one end to the other until the relay is closed.
func (r *Relay) carry(ctx context.Context, from, to *os.File, late time.Duration, lost int) {
	buf := make([]byte, vnetHeader+1<<16+100)
	for ctx.Err() == nil {
		n, err := from.Read(buf)
		if err != nil {
			if errors.Is(err, os.ErrClosed) {
				return
			}
			continue // an interface that went down
		}
		if rand.IntN(100) < lost {
			continue
		}
		packet := append([]byte{}, buf[:n]...)
		r.wg.Go(func() {
			select {
			case <-time.After(rand.N(late)):
				_, _ = to.Write(packet) // a cable does not care whether anybody is there
			case <-ctx.Done():
			}
		})
	}
}

// Close pulls the cable out.
func (r *Relay) Close() error {
	r.cancel()
	var errs []error
	for _, f := range r.files {
		errs = append(errs, f.Close())
	}
	r.wg.Wait()
	return errors.Join(append(errs, r.ns.Close())...)
}
