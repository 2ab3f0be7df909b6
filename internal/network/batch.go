package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/celox/celox/internal/network/nft"
)

// The messages of route netlink (RFC 3549, linux/rtnetlink.h) that connect a pod, several in one call. The library sends each by itself and waits for its answer.

const (
	// answerTime is within which the kernel answers, or something is wrong.
	answerTime = time.Minute
	answerSize = 8 << 10 // of what is asked for here
)

// channel is a socket of route netlink in one namespace.
type channel struct {
	mu     sync.Mutex // guards what follows
	fd     int
	seq    uint32
	answer []byte
}

// openChannel opens one in a namespace.
func openChannel(ns *os.File) (*channel, error) {
	c := &channel{answer: make([]byte, answerSize)}
	err := within(ns, func() (err error) {
		c.fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("netlink: %w", err)
	}
	limit := unix.NsecToTimeval(answerTime.Nanoseconds())
	if err := errors.Join(unix.SetsockoptTimeval(c.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit), unix.Bind(c.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})); err != nil {
		return nil, errors.Join(fmt.Errorf("netlink: %w", err), c.close())
	}
	return c, nil
}

func (c *channel) close() error { return unix.Close(c.fd) }

// batch are requests to the kernel, which carries out one after another, also after one that fails.
type batch struct {
	b     []byte
	parts []part
}

// part is one request.
type part struct {
	at   int // where it begins
	what string
	// failed is what becomes of an error: another, or nil if nothing does.
	failed func(error) error
	// got is told of the first answer that is more than an error; it may be nil.
	got func(body []byte)
}

// add adds a request; write adds what follows its header.
func (b *batch) add(kind, flags uint16, what string, write func()) *part {
	at := len(b.b)
	b.parts = append(b.parts, part{at: at, what: what, failed: func(err error) error { return err }})
	b.b = binary.NativeEndian.AppendUint32(b.b, 0)
	b.b = binary.NativeEndian.AppendUint16(b.b, kind)
	b.b = binary.NativeEndian.AppendUint16(b.b, unix.NLM_F_REQUEST|flags)
	b.b = append(b.b, make([]byte, 8)...) // sequence and port: see send
	write()
	binary.NativeEndian.PutUint32(b.b[at:], uint32(len(b.b)-at))
	return &b.parts[len(b.parts)-1]
}

// send sends the requests and waits until the kernel has done what it can.
func (c *channel) send(b *batch) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	first := c.seq + 1
	for i, p := range b.parts {
		c.seq++
		binary.NativeEndian.PutUint32(b.b[p.at+8:], c.seq)
		if i == len(b.parts)-1 { // the others answer if they fail
			flags := binary.NativeEndian.Uint16(b.b[p.at+6:])
			binary.NativeEndian.PutUint16(b.b[p.at+6:], flags|unix.NLM_F_ACK)
		}
	}
	for {
		err := unix.Sendto(c.fd, b.b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("netlink: send: %w", err)
		}
	}
	var failed error
	for {
		n, from, err := unix.Recvfrom(c.fd, c.answer, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("netlink: receive: %w", err)
		}
		if sender, ok := from.(*unix.SockaddrNetlink); !ok || sender.Pid != nl.PidKernel {
			continue
		}
		for m := c.answer[:n]; len(m) >= unix.NLMSG_HDRLEN; {
			length := int(binary.NativeEndian.Uint32(m))
			if length < unix.NLMSG_HDRLEN || length > len(m) {
				return errors.New("netlink: an answer that makes no sense")
			}
			kind, i, body := binary.NativeEndian.Uint16(m[4:]), int(binary.NativeEndian.Uint32(m[8:])-first), m[unix.NLMSG_HDRLEN:length]
			m = m[min(len(m), (length+unix.NLMSG_ALIGNTO-1)&^(unix.NLMSG_ALIGNTO-1)):]
			if i < 0 || i >= len(b.parts) { // of requests before, whose answers nobody waited for
				continue
			}
			p := &b.parts[i]
			if kind != unix.NLMSG_ERROR {
				if p.got != nil {
					p.got(body)
					p.got = nil
				}
				continue
			}
			if len(body) < 4 {
				return errors.New("netlink: an answer that makes no sense")
			}
			if errno := -int32(binary.NativeEndian.Uint32(body)); errno != 0 {
				if err := p.failed(unix.Errno(errno)); err != nil && failed == nil {
					failed = fmt.Errorf("%s: %w", p.what, err)
				}
			}
			if i == len(b.parts)-1 {
				return failed
			}
		}
	}
}

func (b *batch) word(v uint32) { b.b = binary.NativeEndian.AppendUint32(b.b, v) }
func (b *batch) nest(kind uint16, f func()) {
	var at int
	b.b, at = nft.Begin(b.b, kind)
	f()
	b.b = nft.End(b.b, at)
}
func (b *batch) bytes(kind uint16, v []byte) { b.nest(kind, func() { b.b = append(b.b, v...) }) }
func (b *batch) text(kind uint16, v string) {
	b.nest(kind, func() { b.b = append(append(b.b, v...), 0) })
}
func (b *batch) number(kind uint16, v uint32) { b.nest(kind, func() { b.word(v) }) }

// link is a struct ifinfomsg.
func (b *batch) link(index int, flags, change uint32) {
	b.word(0)
	b.word(uint32(index))
	b.word(flags)
	b.word(change)
}

// end are the attributes of one end of a pair.
func (b *batch) end(name string, mtu int, mac net.HardwareAddr) {
	b.text(unix.IFLA_IFNAME, name)
	b.number(unix.IFLA_MTU, uint32(mtu))
	b.bytes(unix.IFLA_ADDRESS, mac)
	// One queue is what is used anyway. To have more, and to have to say so, takes the kernel two of its grace periods.
	b.number(unix.IFLA_NUM_TX_QUEUES, 1)
	b.number(unix.IFLA_NUM_RX_QUEUES, 1)
}

// pair makes a pair of interfaces whose other end is in a namespace. made gets the indexes of both from kernels that tell (6.2).
func (b *batch) pair(name string, mac net.HardwareAddr, peer string, peerMAC net.HardwareAddr, ns *os.File, mtu int, made func(index, peer int)) {
	p := b.add(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ECHO, "add interface "+name, func() {
		b.link(0, 0, 0)
		b.end(name, mtu, mac)
		b.nest(unix.IFLA_LINKINFO, func() {
			b.text(unix.IFLA_INFO_KIND, "veth")
			b.nest(unix.IFLA_INFO_DATA, func() {
				b.nest(nl.VETH_INFO_PEER, func() {
					b.link(0, 0, 0)
					b.end(peer, mtu, peerMAC)
					b.number(unix.IFLA_NET_NS_FD, uint32(ns.Fd()))
				})
			})
		})
	})
	p.got = indexes(made)
}

// look asks for an interface by its index, or by its name if that is 0. found may be nil.
func (b *batch) look(index int, name string, found func(index, peer int)) {
	p := b.add(unix.RTM_GETLINK, 0, "interface "+name, func() {
		b.link(index, 0, 0)
		if index == 0 {
			b.text(unix.IFLA_IFNAME, name)
		}
	})
	if found != nil {
		p.got = indexes(found)
	}
}

// indexes reads those of both ends of a pair in news of one.
func indexes(tell func(index, peer int)) func([]byte) {
	return func(body []byte) {
		if len(body) < unix.SizeofIfInfomsg {
			return
		}
		if peer := nft.Find(body[unix.SizeofIfInfomsg:], unix.IFLA_LINK); len(peer) == 4 {
			tell(int(binary.NativeEndian.Uint32(body[4:])), int(binary.NativeEndian.Uint32(peer)))
		}
	}
}

// up sets an interface up.
func (b *batch) up(index int, name string) {
	b.add(unix.RTM_NEWLINK, 0, "interface "+name+": set up", func() { b.link(index, unix.IFF_UP, unix.IFF_UP) })
}

func familyOf(a netip.Addr) byte {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// address gives an interface an address that makes no route. Those that it has stay.
func (b *batch) address(index int, a netip.Prefix) {
	p := b.add(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL, fmt.Sprintf("add address %v", a), func() {
		b.b = append(b.b, familyOf(a.Addr()), byte(a.Bits()), 0, unix.RT_SCOPE_UNIVERSE)
		b.word(uint32(index))
		flags := uint32(unix.IFA_F_NOPREFIXROUTE)
		if isIPv6(a) {
			flags |= unix.IFA_F_NODAD
		}
		b.bytes(unix.IFA_LOCAL, a.Addr().AsSlice())
		b.bytes(unix.IFA_ADDRESS, a.Addr().AsSlice())
		if !isIPv6(a) {
			all := a.Masked().Addr().As4()
			for i := a.Bits(); i < 32; i++ {
				all[i/8] |= 0x80 >> (i % 8)
			}
			b.bytes(unix.IFA_BROADCAST, all[:])
		}
		b.number(unix.IFA_FLAGS, flags)
	})
	p.failed = unless(unix.EEXIST)
}

// unless makes nothing of an error.
func unless(harmless error) func(error) error {
	return func(err error) error {
		if errors.Is(err, harmless) {
			return nil
		}
		return err
	}
}

// neighbour tells who has an address, so that nobody on the wire is asked, or believed.
func (b *batch) neighbour(index int, a netip.Addr, mac net.HardwareAddr) {
	b.add(unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, fmt.Sprintf("entry of neighbour %v", a), func() {
		b.b = append(b.b, familyOf(a), 0, 0, 0)
		b.word(uint32(index))
		b.b = binary.NativeEndian.AppendUint16(b.b, unix.NUD_PERMANENT)
		b.b = append(b.b, 0, 0)
		b.bytes(unix.NDA_DST, a.AsSlice())
		b.bytes(unix.NDA_LLADDR, mac)
	})
}

// route makes a route of the main table what it should be.
func (b *batch) route(what string, family, bits, scope byte, flags uint32, write func()) {
	b.add(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, what, func() {
		b.b = append(b.b, family, bits, 0, 0, unix.RT_TABLE_MAIN, unix.RTPROT_BOOT, scope, unix.RTN_UNICAST)
		b.word(flags)
		write()
	})
}

// routeTo routes packets for an address to an interface; what the machine itself sends there comes from another address.
func (b *batch) routeTo(index int, a, from netip.Addr) {
	scope := byte(unix.RT_SCOPE_UNIVERSE)
	if a.Is4() {
		scope = unix.RT_SCOPE_LINK
	}
	b.route(fmt.Sprintf("route to %v", a), familyOf(a), byte(a.BitLen()), scope, 0, func() {
		b.bytes(unix.RTA_DST, a.AsSlice())
		b.bytes(unix.RTA_PREFSRC, from.AsSlice())
		b.number(unix.RTA_OIF, uint32(index))
	})
}

// routeBy routes all of a family to a gateway, which is behind the interface whatever its address.
func (b *batch) routeBy(index int, gateway netip.Addr) {
	b.route(fmt.Sprintf("default route by %v", gateway), familyOf(gateway), 0, unix.RT_SCOPE_UNIVERSE, unix.RTNH_F_ONLINK, func() {
		b.bytes(unix.RTA_GATEWAY, gateway.AsSlice())
		b.number(unix.RTA_OIF, uint32(index))
	})
}

// ask has a program decide about what comes by an interface, instead of what another process had asked. failed is told if that is not possible; the rest goes on.
func (b *batch) ask(index, program int, failed func(error)) {
	tc := func(kind, flags uint16, what string, handle, parent, info uint32, write func()) *part {
		return b.add(kind, unix.NLM_F_CREATE|flags, what, func() {
			b.word(0)
			b.word(uint32(index))
			b.word(handle)
			b.word(parent)
			b.word(info)
			write()
		})
	}
	note := func(what string) func(error) error {
		return func(err error) error {
			failed(fmt.Errorf("%s: %w", what, err))
			return nil
		}
	}
	hook := tc(unix.RTM_NEWQDISC, unix.NLM_F_EXCL, "clsact", netlink.MakeHandle(0xffff, 0), netlink.HANDLE_CLSACT, 0, func() { b.text(nl.TCA_KIND, "clsact") })
	hook.failed = func(err error) error {
		if errors.Is(err, unix.EEXIST) {
			return nil
		}
		return note("clsact")(err)
	}
	const priority, handle = 1, 1
	filter := tc(unix.RTM_NEWTFILTER, 0, "classifier", handle, netlink.HANDLE_MIN_INGRESS, netlink.MakeHandle(priority, networkOrder(unix.ETH_P_ALL)), func() {
		b.text(nl.TCA_KIND, "bpf")
		b.nest(nl.TCA_OPTIONS, func() {
			b.number(nl.TCA_BPF_FD, uint32(program))
			b.text(nl.TCA_BPF_NAME, "celox")
			b.number(nl.TCA_BPF_FLAGS, nl.TCA_BPF_FLAG_ACT_DIRECT)
		})
	})
	filter.failed = note("classifier")
}

// networkOrder is a number as the kernel has those of protocols.
func networkOrder(n uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, n))
}
