package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	maxPacket   = 65535
	bufferSize  = 4096 // of questions over UDP; no plain one is longer
	tcpIdle     = 10 * time.Second
	maxTCP      = 1000 // connections
	maxWaiting  = 4096 // questions on the long way
	readersEach = 2    // goroutines per address over UDP
)

// Config is what New needs.
type Config struct {
	Zone *Zone
	// Upstream are name servers ("address" or "address:port") for everything outside of the cluster; StubDomains those for some domains.
	Upstream    []string
	StubDomains map[string][]string
	// Search are the domains that pods inherit from the machine, which they try after the cluster's.
	Search []string
	// Clients, if not nil, lets the server go through a pod's search domains at the first question.
	Clients Clients
	// Exchange asks other servers; nil is over the network.
	Exchange Exchanger
	Metrics  *Metrics
	Log      *slog.Logger
}

// Server is a name server. Its methods may be called concurrently.
type Server struct {
	cfg      Config
	resolver *resolver
	answers  *answers
	waiting  chan struct{}
	wg       sync.WaitGroup // questions on the long way, connections
}

// New checks the configuration.
func New(cfg Config) (*Server, error) {
	if cfg.Exchange == nil {
		cfg.Exchange = exchange
	}
	f, err := newForwarder(cfg.Upstream, cfg.StubDomains, cfg.Exchange)
	if err != nil {
		return nil, fmt.Errorf("dns: %w", err)
	}
	r := &resolver{zone: cfg.Zone, forward: f}
	for _, s := range cfg.Search {
		r.search = append(r.search, dns.Fqdn(strings.ToLower(s)))
	}
	return &Server{cfg: cfg, resolver: r, answers: newAnswers(), waiting: make(chan struct{}, maxWaiting)}, nil
}

// Serve answers on sockets until ctx ends, and closes them.
func (s *Server) Serve(ctx context.Context, udp []*net.UDPConn, tcp []net.Listener) error {
	var readers sync.WaitGroup
	errs := make(chan error, readersEach*len(udp)+len(tcp))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for _, c := range udp {
		for range readersEach {
			readers.Go(func() {
				errs <- s.serveUDP(ctx, c)
				cancel()
			})
		}
	}
	for _, l := range tcp {
		readers.Go(func() {
			errs <- s.serveTCP(ctx, l)
			cancel()
		})
	}
	<-ctx.Done()
	for _, c := range udp {
		_ = c.Close()
	}
	for _, l := range tcp {
		_ = l.Close()
	}
	readers.Wait()
	s.wg.Wait()
	close(errs)
	var all []error
	for err := range errs {
		all = append(all, err)
	}
	return errors.Join(all...)
}

func (s *Server) serveUDP(ctx context.Context, c *net.UDPConn) error {
	var q question
	packet, out, key := make([]byte, bufferSize), make([]byte, 0, bufferSize), make([]byte, 0, maxName+8)
	for {
		n, from, err := c.ReadFromUDPAddrPort(packet)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("dns: %w", err)
			}
			continue // an error of an earlier answer, such as that nobody was there any more
		}
		start := time.Now()
		client := from.Addr().Unmap()
		if r := s.known(&q, packet[:n], client, key, start); r != nil && len(r.packet) <= q.size {
			out = r.write(out[:0], packet[:n], start)
			s.cfg.Metrics.answered("udp", q.qtype, out[3]&0xf, true, time.Since(start))
			_, _ = c.WriteToUDPAddrPort(out, from) // who is gone gets nothing
			continue
		}
		select {
		case s.waiting <- struct{}{}:
		default:
			continue // it will ask again
		}
		question := append([]byte(nil), packet[:n]...)
		s.wg.Go(func() {
			defer func() { <-s.waiting }()
			if answer := s.answer(ctx, question, client, "udp"); answer != nil {
				_, _ = c.WriteToUDPAddrPort(answer, from)
			}
		})
	}
}

// inside returns the client's namespace if it is a pod and the name is below the first domain that it searches.
func (s *Server) inside(name string, client netip.Addr) string {
	if s.cfg.Clients == nil {
		return ""
	}
	ns, ok := s.cfg.Clients.Namespace(client)
	if !ok {
		return ""
	}
	if first := ns + ".svc." + s.cfg.Zone.domain; len(name) <= len(first) || !strings.HasSuffix(name, "."+first) {
		return ""
	}
	return ns
}

// insideWire is inside for a name on the wire.
func (s *Server) insideWire(q *question, client netip.Addr) bool {
	if s.cfg.Clients == nil {
		return false
	}
	ns, ok := s.cfg.Clients.Namespace(client)
	if !ok {
		return false
	}
	var b [maxName + 1]byte
	end := len(b)
	put := func(part string) {
		end -= len(part)
		copy(b[end:], part)
	}
	// The domain's labels, from the last; "svc" and the namespace before them.
	end--
	b[end] = 0
	labels := s.cfg.Zone.domain[:len(s.cfg.Zone.domain)-1]
	for labels != "" {
		i := strings.LastIndexByte(labels, '.')
		part := labels[i+1:]
		put(part)
		end--
		b[end] = byte(len(part))
		labels = labels[:max(i, 0)]
	}
	put("\x03svc")
	put(ns)
	end--
	b[end] = byte(len(ns))
	suffix := b[end:]
	return q.length > len(suffix) && string(q.name[q.length-len(suffix):q.length]) == string(suffix)
}

// known finds an answer that was given before and still holds.
func (s *Server) known(q *question, packet []byte, client netip.Addr, key []byte, now time.Time) *remembered {
	if !q.parse(packet) {
		q.size = 0
		return nil
	}
	r := s.answers.get(q.key(key, s.insideWire(q, client)))
	switch {
	case r == nil:
		return nil
	case r.generation != s.cfg.Zone.generation.Load() && r.inZone, !r.until.IsZero() && now.After(r.until):
		return nil
	}
	return r
}

// answer answers a packet the long way; nil is no answer at all.
func (s *Server) answer(ctx context.Context, packet []byte, client netip.Addr, network string) []byte {
	start := time.Now()
	if len(packet) < headerSize || packet[2]&bitResponse != 0 {
		return nil // an answer to an answer could go on for ever
	}
	in := new(dns.Msg)
	if err := in.Unpack(packet); err != nil {
		return failure(packet, dns.RcodeFormatError)
	}
	out := new(dns.Msg)
	out.SetReply(in)
	out.RecursionAvailable = true
	size := plainSize
	dnssec := false
	opt := in.IsEdns0()
	if opt != nil {
		size, dnssec = min(max(int(opt.UDPSize()), plainSize), largestUDP), opt.Do()
	}
	if network == "tcp" {
		size = dns.MaxMsgSize
	}
	var generation uint64
	var m found
	var namespace string
	var qtype uint16
	switch {
	case in.Opcode != dns.OpcodeQuery:
		out.Rcode = dns.RcodeNotImplemented
	case len(in.Question) != 1:
		out.Rcode = dns.RcodeFormatError
	case opt != nil && opt.Version() != 0:
		out.Rcode = dns.RcodeBadVers
	case in.Question[0].Qclass != dns.ClassINET || isTransfer(in.Question[0].Qtype):
		out.Rcode = dns.RcodeRefused
	default:
		name := strings.ToLower(in.Question[0].Name)
		qtype, namespace, generation = in.Question[0].Qtype, s.inside(name, client), s.cfg.Zone.generation.Load()
		m = s.resolver.resolve(ctx, name, qtype, namespace, dnssec)
		out.Rcode, out.Answer, out.Ns, out.Extra = m.Rcode, m.Answer, m.Ns, m.Extra
		out.Authoritative, out.AuthenticatedData = m.Authoritative, m.AuthenticatedData
		out.CheckingDisabled = in.CheckingDisabled
	}
	if opt != nil {
		out.SetEdns0(largestUDP, dnssec)
	}
	out.Compress = true
	whole := out.Len() <= size
	if !whole {
		out.Truncate(size)
	}
	bytes, err := out.Pack()
	if err != nil {
		s.cfg.Log.Warn("dns: an answer cannot be put into a packet", "question", in.Question, "err", err)
		return failure(packet, dns.RcodeServerFailure)
	}
	s.cfg.Metrics.answered(network, qtype, byte(out.Rcode), false, time.Since(start))
	if m.Msg != nil && whole {
		m.Msg = out
		s.keep(packet, bytes, m, generation, namespace != "")
	}
	return bytes
}

func isTransfer(qtype uint16) bool { return qtype == dns.TypeAXFR || qtype == dns.TypeIXFR }

// keep leaves an answer for the short way. client says that it is for pods of one namespace.
func (s *Server) keep(packet, answer []byte, m found, generation uint64, client bool) {
	var q question
	if (m.Rcode == dns.RcodeServerFailure && !m.outside) || !q.parse(packet) {
		return
	}
	r := remember(answer, m.Msg)
	if r == nil {
		return
	}
	r.begin, r.generation, r.inZone = time.Now(), generation, m.inside
	if m.outside {
		life := believe(m.Msg)
		if life <= 0 {
			return
		}
		r.until = r.begin.Add(life)
	}
	s.answers.put(string(q.key(nil, client)), r)
}

// failure answers a packet that cannot be answered otherwise: its header, with the code.
func failure(packet []byte, rcode int) []byte {
	out := append([]byte(nil), packet[:headerSize]...)
	out[2] = out[2]&(maskOpcode|bitRecursion) | bitResponse
	out[3] = byte(rcode) | 0x80
	clear(out[4:])
	return out
}

func (s *Server) serveTCP(ctx context.Context, l net.Listener) error {
	seats := make(chan struct{}, maxTCP)
	for {
		c, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("dns: %w", err)
			}
			select { // out of descriptors, for example
			case <-ctx.Done():
				return nil
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		select {
		case seats <- struct{}{}:
		default:
			_ = c.Close()
			continue
		}
		s.wg.Go(func() {
			defer func() { <-seats }()
			defer c.Close()
			stop := context.AfterFunc(ctx, func() { _ = c.Close() })
			defer stop()
			s.serveConnection(ctx, c)
		})
	}
}

// serveConnection answers one question after another, until the client has nothing to ask for a while.
func (s *Server) serveConnection(ctx context.Context, c net.Conn) {
	client := netip.Addr{}
	if a, err := netip.ParseAddrPort(c.RemoteAddr().String()); err == nil {
		client = a.Addr().Unmap()
	}
	var length [2]byte
	for {
		if err := c.SetDeadline(time.Now().Add(tcpIdle)); err != nil {
			return
		}
		if _, err := io.ReadFull(c, length[:]); err != nil {
			return
		}
		packet := make([]byte, binary.BigEndian.Uint16(length[:]))
		if _, err := io.ReadFull(c, packet); err != nil {
			return
		}
		answer := s.answer(ctx, packet, client, "tcp")
		if answer == nil || len(answer) > maxPacket {
			return
		}
		if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...)); err != nil {
			return
		}
	}
}
