package userspace

import (
	"cmp"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/celox/celox/internal/network/proxy"
)

const (
	// talkTime is how long a client's way to an endpoint stays without a packet, the same as of the kernel's for UDP that was answered.
	talkTime = 2 * time.Minute
	// maxTalks is how many clients of one key have a socket at a time; packets of further ones are lost.
	maxTalks = 8192
)

// packet is a buffer that any packet fits in, and how much of it is one.
type packet struct {
	n    int
	data [1 << 16]byte
}

// udpServer takes the packets of one key. Each client has a socket of its own to its endpoint.
type udpServer struct {
	d   *Datapath
	key proxy.Key
	choice
	c   *net.UDPConn
	raw syscall.RawConn

	talksMu sync.Mutex
	talks   map[talker]*talk // guarded by talksMu
	full    bool             // guarded by talksMu: said so
	stopped bool             // guarded by talksMu: nobody begins to talk any more
}

// talker is a client and the address that it asks.
type talker struct {
	client netip.AddrPort
	at     netip.Addr
}

type talk struct {
	conn *net.UDPConn
	to   netip.AddrPort
	last atomic.Int64 // when the last packet came, of either side, in nanoseconds
}

func (s *udpServer) stop() error {
	err := s.c.Close()
	s.talksMu.Lock()
	s.stopped = true
	s.talksMu.Unlock()
	s.keep(func(netip.AddrPort) bool { return false })
	return err
}

// set changes where packets go, also those of clients that have an endpoint which is gone.
func (s *udpServer) set(f *proxy.Frontend) {
	s.front.Store(f)
	s.keep(func(to netip.AddrPort) bool { return leadsTo(f, to) })
}

func leadsTo(f *proxy.Frontend, to netip.AddrPort) bool {
	is := func(ep proxy.Endpoint) bool { return ep.Addr == to }
	return slices.ContainsFunc(f.Endpoints, is) || slices.ContainsFunc(f.LocalEndpoints, is)
}

// keep ends the talks with endpoints that are not good any more. Their goroutines clean up.
func (s *udpServer) keep(good func(netip.AddrPort) bool) {
	s.talksMu.Lock()
	defer s.talksMu.Unlock()
	for who, t := range s.talks {
		if !good(t.to) {
			delete(s.talks, who)
			_ = t.conn.Close() // ends its goroutine
		}
	}
}

// run takes packets until the socket is closed.
func (s *udpServer) run() {
	for {
		who, packet, err := s.receive()
		switch {
		case err == nil:
			s.pass(who, packet.data[:packet.n])
			s.d.packets.Put(packet)
		case errors.Is(err, net.ErrClosed):
			return
		}
	}
}

// receive waits for a packet. Until there is one, there is no buffer for it: there may be thousands of us.
func (s *udpServer) receive() (who talker, p *packet, err error) {
	var failed error
	err = s.raw.Read(func(fd uintptr) bool {
		var control [128]byte
		var from unix.Sockaddr
		var controls int
		p = s.d.packet()
		p.n, controls, _, from, failed = unix.Recvmsg(int(fd), p.data[:], control[:], 0)
		if failed == nil {
			who, failed = s.talker(from, control[:controls])
		}
		if failed != nil {
			s.d.packets.Put(p)
		}
		return !again(failed)
	})
	return who, p, cmp.Or(err, failed)
}

func again(err error) bool { return errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) }

func (s *udpServer) talker(from unix.Sockaddr, control []byte) (who talker, err error) {
	switch a := from.(type) {
	case *unix.SockaddrInet4:
		who.client = netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		addr := netip.AddrFrom16(a.Addr)
		if a.ZoneId != 0 {
			addr = addr.WithZone(strconv.FormatUint(uint64(a.ZoneId), 10))
		}
		who.client = netip.AddrPortFrom(addr, uint16(a.Port))
	default:
		return who, errors.New("a packet without its source")
	}
	if who.at = s.key.Addr; s.key.NodePort() {
		who.at, err = destination(control)
	}
	return who, err
}

// destination is the address that a packet was sent to.
func destination(control []byte) (netip.Addr, error) {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return netip.Addr{}, err
	}
	for _, m := range messages {
		switch {
		case m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_PKTINFO && len(m.Data) >= unix.SizeofInet4Pktinfo:
			return netip.AddrFrom4([4]byte(m.Data[8:12])), nil
		case m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_PKTINFO && len(m.Data) >= unix.SizeofInet6Pktinfo:
			return netip.AddrFrom16([16]byte(m.Data[0:16])), nil
		}
	}
	return netip.Addr{}, errors.New("a packet without its destination")
}

// from makes a packet's source an address of this machine.
func from(a netip.Addr) []byte {
	if a.Is4() {
		return unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: a.As4()})
	}
	return unix.PktInfo6(&unix.Inet6Pktinfo{Addr: a.As16()})
}

// pass gives a packet to the endpoint of its client.
func (s *udpServer) pass(who talker, packet []byte) {
	if s.key.NodePort() && !s.d.nodePortAt(who.at) {
		return
	}
	t := s.talk(who)
	if t == nil {
		return
	}
	t.last.Store(time.Now().UnixNano())
	if _, err := t.conn.Write(packet); err != nil {
		s.end(who, t) // it was refused, or has just ended: the client's next packet begins another
	}
}

// talk finds the socket of a client, or makes one. It returns nil for whom there is nobody to talk to.
func (s *udpServer) talk(who talker) *talk {
	s.talksMu.Lock()
	t, room := s.talks[who], len(s.talks) < maxTalks
	said := s.full
	s.full = !room
	s.talksMu.Unlock()
	if t != nil {
		return t
	}
	if !room {
		if !said {
			s.d.cfg.Log.Warn("service proxy: too many clients of a service over UDP; packets of new ones are lost", "service", s.front.Load().Service, "where", s.key, "clients", maxTalks)
		}
		return nil
	}
	now := time.Now()
	for _, to := range s.endpoints(who.client.Addr().Unmap(), now) {
		conn, err := s.d.dial("udp", to)
		if err != nil {
			s.d.cfg.Log.Debug("service proxy: endpoint", "service", s.front.Load().Service, "endpoint", to, "err", err)
			continue
		}
		udp, ok := conn.(*net.UDPConn)
		if !ok {
			_ = conn.Close() // cannot be
			continue
		}
		s.went(who.client.Addr().Unmap(), to, now)
		t := &talk{conn: udp, to: to}
		t.last.Store(now.UnixNano())
		if !s.begin(who, t) {
			_ = conn.Close()
			return nil
		}
		return t
	}
	return nil
}

// begin lets a talk begin, unless its endpoint or we are gone since it was chosen.
func (s *udpServer) begin(who talker, t *talk) bool {
	s.talksMu.Lock()
	defer s.talksMu.Unlock()
	if s.stopped || !leadsTo(s.front.Load(), t.to) {
		return false
	}
	s.talks[who] = t
	s.d.wg.Go(func() { s.answers(who, t) })
	return true
}

func (s *udpServer) end(who talker, t *talk) {
	s.talksMu.Lock()
	if s.talks[who] == t {
		delete(s.talks, who)
	}
	s.talksMu.Unlock()
	_ = t.conn.Close() // perhaps once more
}

// answers gives what an endpoint says to its client, until both have been silent for long enough.
func (s *udpServer) answers(who talker, t *talk) {
	defer s.end(who, t)
	raw, err := t.conn.SyscallConn()
	if err != nil {
		return
	}
	for {
		if err := t.conn.SetReadDeadline(time.Unix(0, t.last.Load()).Add(talkTime)); err != nil {
			return
		}
		var p *packet
		var failed error
		err := raw.Read(func(fd uintptr) bool {
			p = s.d.packet()
			if p.n, failed = unix.Read(int(fd), p.data[:]); failed != nil {
				s.d.packets.Put(p)
			}
			return !again(failed)
		})
		var timeout net.Error
		switch {
		case errors.As(err, &timeout) && timeout.Timeout():
			if time.Since(time.Unix(0, t.last.Load())) < talkTime { // the client has spoken meanwhile
				continue
			}
			return
		case err != nil:
			return
		}
		if failed != nil { // refused, most of all
			return
		}
		t.last.Store(time.Now().UnixNano())
		var source []byte
		if s.key.NodePort() {
			source = from(who.at)
		}
		// One that cannot be sent is lost, as packets are.
		_, _, _ = s.c.WriteMsgUDPAddrPort(p.data[:p.n], source, who.client)
		s.d.packets.Put(p)
	}
}
