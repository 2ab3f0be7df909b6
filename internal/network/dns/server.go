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
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

const (
	maxPacket  = 65535
	tcpIdle    = 10 * time.Second
	maxTCP     = 1000 // connections
	maxWaiting = 4096 // questions on the long way
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
	// Audience, if not nil, is told of addresses before they are given out.
	Audience Audience
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
	batches  sync.Pool      // of *batch
	probes   probes
	upstream atomic.Uint64 // how often there were other name servers
	changed  chan struct{} // that there are others; capacity 1
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
	r.setSearch(cfg.Search)
	return &Server{
		cfg: cfg, resolver: r, answers: newAnswers(), waiting: make(chan struct{}, maxWaiting), batches: sync.Pool{New: func() any { return newBatch() }},
		probes: probes{sent: map[string]bool{}}, changed: make(chan struct{}, 1),
	}, nil
}

// Serve answers on sockets until ctx ends, and closes them. Several UDP sockets may have one address (SO_REUSEPORT): each is read by a goroutine of its own.
func (s *Server) Serve(ctx context.Context, udp []*net.UDPConn, tcp []net.Listener) error {
	var readers sync.WaitGroup
	errs := make(chan error, len(udp)+len(tcp))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	serve := func(f func() error) {
		readers.Go(func() {
			errs <- f()
			cancel()
		})
	}
	for _, c := range udp {
		serve(func() error {
			r, err := newUDPReader(s, c)
			if err != nil {
				return err
			}
			return r.run(ctx)
		})
	}
	for _, l := range tcp {
		serve(func() error { return s.serveTCP(ctx, l) })
	}
	s.wg.Go(func() { s.findLoops(ctx) })
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
	case r.generation != s.cfg.Zone.generation.Load() && r.inZone, !r.until.IsZero() && (now.After(r.until) || r.upstream != s.upstream.Load()):
		return nil
	}
	return r
}

// answer answers a packet; nil is no answer at all.
func (s *Server) answer(ctx context.Context, packet []byte, client netip.Addr, network string) []byte {
	var q question
	now := time.Now()
	if r := s.known(&q, packet, client, nil, now); r != nil && (network == "tcp" || len(r.packet) <= q.size) {
		t := tally{network: network}
		out := r.write(nil, packet, now)
		t.hit(q.qtype, out[3]&0xf)
		s.cfg.Metrics.add(&t, time.Since(now))
		return out
	}
	return s.find(ctx, packet, client, network)
}

// find answers a packet the long way.
func (s *Server) find(ctx context.Context, packet []byte, client netip.Addr, network string) []byte {
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
	upstream := s.upstream.Load()
	var m found
	var namespace string
	var qtype uint16
	told := false
	switch {
	case in.Opcode != dns.OpcodeQuery:
		out.Rcode = dns.RcodeNotImplemented
	case len(in.Question) != 1:
		out.Rcode = dns.RcodeFormatError
	case opt != nil && opt.Version() != 0:
		out.Rcode = dns.RcodeBadVers
	case in.Question[0].Qclass != dns.ClassINET || isTransfer(in.Question[0].Qtype):
		out.Rcode = dns.RcodeRefused
	case in.Question[0].Qtype == dns.TypeHINFO && s.probes.back(strings.ToLower(in.Question[0].Name)):
		out.Rcode = dns.RcodeRefused
	default:
		name := strings.ToLower(in.Question[0].Name)
		qtype, namespace, generation = in.Question[0].Qtype, s.inside(name, client), s.cfg.Zone.generation.Load()
		m = s.resolver.resolve(ctx, name, qtype, namespace, dnssec)
		told = s.tell(ctx, m.name, m.Msg)
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
	s.cfg.Metrics.missed(network, qtype, out.Rcode, time.Since(start))
	if m.Msg != nil && whole {
		given := m // another variable: out stays on the stack
		given.Msg = out
		s.keep(packet, bytes, given, generation, upstream, namespace != "", told)
	}
	return bytes
}

func isTransfer(qtype uint16) bool { return qtype == dns.TypeAXFR || qtype == dns.TypeIXFR }

// keep leaves an answer for the short way. client says that it is for pods of one namespace, told that the audience was told: the next one, when this is over, has to be
// told again.
func (s *Server) keep(packet, answer []byte, m found, generation, upstream uint64, client, told bool) {
	var q question
	if (m.Rcode == dns.RcodeServerFailure && !m.outside) || !q.parse(packet) {
		return
	}
	r := remember(answer, m.Msg)
	if r == nil {
		return
	}
	r.begin, r.generation, r.upstream, r.inZone = time.Now(), generation, upstream, m.inside
	if m.outside {
		life := believe(m.Msg)
		if life <= 0 {
			return
		}
		r.until = r.begin.Add(life)
	} else if told {
		r.until = r.begin.Add(time.Duration(lowest(m.Msg, clusterTTL)) * time.Second)
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
