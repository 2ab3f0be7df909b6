package mesh

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// answer is what became of a probe.
type answer int

const (
	unknown answer = iota // it could not be sent
	none                  // not even a small packet came back
	short                 // small packets come back, large ones do not
	well
)

// Messages of ICMP (RFC 792) and ICMPv6 (RFC 4443), and their header.
const (
	echoRequest4, echoReply4 = 8, 0
	echoRequest6, echoReply6 = 128, 129
	icmpHeader               = 8
	ipHeader4, ipHeader6     = 20, 40
	icmpFilter               = 1 // ICMP_FILTER, linux/icmp.h
	icmpv6Filter             = 1 // ICMPV6_FILTER, linux/icmpv6.h
)

// ping sends each target a small echo request, and a large one to those that answer. The sockets live as long as that: a socket that stays would be given
// copies of other programs' messages. Answers are in the order of the targets.
func ping(ctx context.Context, ns *os.File, targets []target, wait time.Duration) ([]answer, error) {
	out := make([]answer, len(targets))
	p, err := openPinger(ns, targets)
	if err != nil {
		return nil, err
	}
	defer p.close()
	var asked []int
	for i, t := range targets {
		if p.send(i, t, icmpHeader+8) == nil {
			out[i] = none
			asked = append(asked, i)
		}
	}
	small := p.gather(ctx, asked, wait)
	asked = asked[:0]
	for i, t := range targets {
		if !small[i] {
			continue
		}
		header := ipHeader4
		if t.to.Is6() {
			header = ipHeader6
		}
		switch err := p.send(i, t, max(t.mtu-header, icmpHeader+8)); {
		case errors.Is(err, unix.EMSGSIZE):
			out[i] = well // the kernel has been told of a smaller MTU, and so are the pods
		case err != nil:
			out[i] = unknown
		default:
			out[i] = short
			asked = append(asked, i)
		}
	}
	for i := range p.gather(ctx, asked, wait) {
		out[i] = well
	}
	return out, nil
}

// pinger has a raw socket of each family that is needed.
type pinger struct {
	id     uint16
	seq    uint16
	fds    map[bool]int // by v6
	sent   map[uint16]int
	target []target
}

// openPinger opens the sockets in a network namespace.
func openPinger(ns *os.File, targets []target) (*pinger, error) {
	p := &pinger{id: uint16(os.Getpid()), seq: uint16(time.Now().UnixMilli()), fds: map[bool]int{}, target: targets}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: a thread with another namespace is not given back
		done <- func() error {
			if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("enter the network namespace: %w", err)
			}
			for _, t := range targets {
				if _, has := p.fds[t.to.Is6()]; has {
					continue
				}
				if err := p.open(t.to.Is6()); err != nil {
					return err
				}
			}
			return nil
		}()
	}()
	if err := <-done; err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

func (p *pinger) open(v6 bool) error {
	family, proto := unix.AF_INET, unix.IPPROTO_ICMP
	if v6 {
		family, proto = unix.AF_INET6, unix.IPPROTO_ICMPV6
	}
	fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, proto)
	if err != nil {
		return fmt.Errorf("socket for echo requests: %w", err)
	}
	p.fds[v6] = fd
	if v6 { // answers alone; in the filter a set bit blocks
		var blocked [32]byte
		for i := range blocked {
			blocked[i] = 0xff
		}
		blocked[echoReply6/8] &^= 1 << (echoReply6 % 8)
		if err := unix.SetsockoptString(fd, unix.IPPROTO_ICMPV6, icmpv6Filter, string(blocked[:])); err != nil {
			return fmt.Errorf("socket for echo requests: %w", err)
		}
		// Never in pieces, or a path that loses large packets would seem good.
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DO)
		if err == nil {
			err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_DONTFRAG, 1)
		}
	} else {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_RAW, icmpFilter, int(^uint32(1<<echoReply4))); err != nil {
			return fmt.Errorf("socket for echo requests: %w", err)
		}
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO)
	}
	if err != nil {
		return fmt.Errorf("socket for echo requests: %w", err)
	}
	return nil
}

func (p *pinger) close() {
	for _, fd := range p.fds {
		_ = unix.Close(fd)
	}
}

// send sends target i an echo request of a size, the header of ICMP included, from the address that is meant to be the source.
func (p *pinger) send(i int, t target, size int) error {
	p.seq++
	if p.sent == nil {
		p.sent = map[uint16]int{}
	}
	b := make([]byte, size)
	binary.BigEndian.PutUint16(b[4:], p.id)
	binary.BigEndian.PutUint16(b[6:], p.seq)
	var to unix.Sockaddr
	var control []byte
	if t.to.Is6() {
		b[0] = echoRequest6 // the kernel computes the checksum
		to = &unix.SockaddrInet6{Addr: t.to.As16()}
		control = unix.PktInfo6(&unix.Inet6Pktinfo{Addr: t.from.As16()})
	} else {
		b[0] = echoRequest4
		binary.BigEndian.PutUint16(b[2:], checksum(b))
		to = &unix.SockaddrInet4{Addr: t.to.As4()}
		control = unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: t.from.As4()})
	}
	if err := unix.Sendmsg(p.fds[t.to.Is6()], b, control, to, 0); err != nil {
		return err
	}
	p.sent[p.seq] = i
	return nil
}

// checksum is that of RFC 1071.
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// gather waits until all that were asked have answered, or for the time that an answer may take, and says who has.
func (p *pinger) gather(ctx context.Context, asked []int, wait time.Duration) map[int]bool {
	got := map[int]bool{}
	waiting := map[int]bool{}
	for _, i := range asked {
		waiting[i] = true
	}
	end := time.Now().Add(wait)
	b := make([]byte, 128) // the heads of answers are enough
	for last := false; len(waiting) > 0 && !last && ctx.Err() == nil; {
		left := max(time.Until(end), 0)
		last = left == 0 // what has come until now counts, also if this program was kept from looking
		var list []unix.PollFd
		for _, fd := range p.fds {
			list = append(list, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
		}
		// In short turns, so that the end of the context is seen.
		if n, err := unix.Poll(list, int(min(left, 200*time.Millisecond)/time.Millisecond)+1); err != nil && !errors.Is(err, unix.EINTR) || n == 0 {
			continue
		}
		for v6, fd := range p.fds {
			for {
				n, from, err := unix.Recvfrom(fd, b, 0)
				if err != nil {
					break // nothing more
				}
				if i, ok := p.reply(v6, b[:min(n, len(b))], from); ok && waiting[i] {
					delete(waiting, i)
					got[i] = true
				}
			}
		}
		p.forget(got)
	}
	clear(p.sent)
	return got
}

func (p *pinger) forget(got map[int]bool) {
	for seq, i := range p.sent {
		if got[i] {
			delete(p.sent, seq)
		}
	}
}

// reply finds out which target a message is from.
func (p *pinger) reply(v6 bool, b []byte, from unix.Sockaddr) (int, bool) {
	var addr netip.Addr
	kind := byte(echoReply6)
	switch a := from.(type) {
	case *unix.SockaddrInet4:
		addr = netip.AddrFrom4(a.Addr)
		kind = echoReply4
		if len(b) < ipHeader4 || int(b[0]&0xf)*4 > len(b) { // a raw socket of IPv4 gives the IP header as well
			return 0, false
		}
		b = b[int(b[0]&0xf)*4:]
	case *unix.SockaddrInet6:
		addr = netip.AddrFrom16(a.Addr)
	}
	if len(b) < icmpHeader || b[0] != kind || binary.BigEndian.Uint16(b[4:]) != p.id || addr.Is6() != v6 {
		return 0, false
	}
	i, ok := p.sent[binary.BigEndian.Uint16(b[6:])]
	return i, ok && p.target[i].to == addr
}
