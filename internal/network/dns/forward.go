package dns

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sync/singleflight"
)

const (
	upstreamTime  = 2 * time.Second  // for one try
	questionTime  = 5 * time.Second  // for all of them, as long as a resolver waits
	avoidTime     = 10 * time.Second // after a server has not answered
	maxConcurrent = 1000             // questions that wait for other servers
)

var errBusy = errors.New("too many questions wait for other name servers")

// Exchanger asks one name server. The client of the dns library does over UDP or TCP.
type Exchanger func(ctx context.Context, network string, m *dns.Msg, server string) (*dns.Msg, error)

// forwarder asks other name servers.
type forwarder struct {
	stubs    map[string][]string // by domain, with its final dot
	exchange Exchanger
	seats    chan struct{}
	asking   singleflight.Group // questions under way: whoever asks the same meanwhile gets the same answer

	mu      sync.Mutex           // guards what follows
	servers []string             // "address:port", those that everything goes to
	avoid   map[string]time.Time // servers that did not answer, until then
	loops   map[string]bool      // servers that ask us again
}

func newForwarder(servers []string, stubs map[string][]string, exchange Exchanger) (*forwarder, error) {
	f := &forwarder{
		stubs: map[string][]string{}, exchange: exchange, seats: make(chan struct{}, maxConcurrent), avoid: map[string]time.Time{}, loops: map[string]bool{},
	}
	if err := f.set(servers); err != nil {
		return nil, err
	}
	var err error
	for domain, s := range stubs {
		if f.stubs[dns.Fqdn(strings.ToLower(domain))], err = withPorts(s); err != nil {
			return nil, fmt.Errorf("stub domain %s: %w", domain, err)
		}
	}
	return f, nil
}

// set makes others the servers that everything goes to which no stub domain has.
func (f *forwarder) set(servers []string) error {
	complete, err := withPorts(servers)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.servers = complete
	clear(f.avoid)
	clear(f.loops)
	return nil
}

// withPorts completes addresses with the port of DNS.
func withPorts(servers []string) ([]string, error) {
	var out []string
	for _, s := range servers {
		if a, err := netip.ParseAddr(s); err == nil {
			s = net.JoinHostPort(a.String(), "53")
		} else if _, err := netip.ParseAddrPort(s); err != nil {
			return nil, fmt.Errorf("name server %q: neither an address nor an address with a port", s)
		}
		out = append(out, s)
	}
	return out, nil
}

// serversFor are those of the longest stub domain that has the name, or the general ones.
func (f *forwarder) serversFor(name string) []string {
	for off, end := 0, false; !end; off, end = dns.NextLabel(name, off) {
		if s, ok := f.stubs[name[off:]]; ok {
			return s
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.servers
}

// domains are those that have servers, "." first, whose servers are the general ones.
func (f *forwarder) domains() []string {
	return append([]string{"."}, slices.Sorted(maps.Keys(f.stubs))...)
}

// exclude has a server not be asked again.
func (f *forwarder) exclude(server string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.loops[server] = true
}

// ask asks the servers one after another until one answers. Others get the same answer: it must not be modified.
func (f *forwarder) ask(ctx context.Context, name string, qtype uint16, dnssec bool) (*dns.Msg, error) {
	m, err, _ := f.asking.Do(fmt.Sprint(name, qtype, dnssec), func() (any, error) { return f.askAll(ctx, name, qtype, dnssec) })
	if err != nil {
		return nil, err
	}
	return m.(*dns.Msg), nil
}

func (f *forwarder) askAll(ctx context.Context, name string, qtype uint16, dnssec bool) (*dns.Msg, error) {
	servers := f.order(f.serversFor(name))
	if len(servers) == 0 {
		return nil, errors.New("no name server is known for names outside of the cluster")
	}
	select {
	case f.seats <- struct{}{}:
		defer func() { <-f.seats }()
	default:
		return nil, errBusy
	}
	ctx, cancel := context.WithTimeout(ctx, questionTime)
	defer cancel()
	var errs []error
	for _, s := range servers {
		q := new(dns.Msg)
		q.SetQuestion(name, qtype)
		q.SetEdns0(largestUDP, dnssec)
		m, err := f.try(ctx, q, s)
		if err == nil && m.Rcode != dns.RcodeServerFailure && m.Rcode != dns.RcodeRefused {
			return m, nil
		}
		if err == nil {
			err = fmt.Errorf("%s says %s", s, dns.RcodeToString[m.Rcode])
		} else {
			f.setAvoid(s)
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	return nil, errors.Join(errs...)
}

func (f *forwarder) try(ctx context.Context, q *dns.Msg, server string) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, upstreamTime)
	defer cancel()
	m, err := f.exchange(ctx, "udp", q, server)
	if err == nil && m.Truncated {
		m, err = f.exchange(ctx, "tcp", q, server)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", server, err)
	}
	if len(m.Question) != 1 || !strings.EqualFold(m.Question[0].Name, q.Question[0].Name) || m.Question[0].Qtype != q.Question[0].Qtype {
		return nil, fmt.Errorf("%s: answers another question", server)
	}
	return m, nil
}

// order puts servers that lately did not answer last, and leaves out those that ask us again.
func (f *forwarder) order(servers []string) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	var good, bad []string
	for _, s := range servers {
		if f.loops[s] {
			continue
		} else if f.avoid[s].After(now) {
			bad = append(bad, s)
		} else {
			good = append(good, s)
		}
	}
	return append(good, bad...)
}

func (f *forwarder) setAvoid(server string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.avoid[server] = time.Now().Add(avoidTime)
}

// exchange is the Exchanger of real networks: a new socket, and so a new port, for each question.
func exchange(ctx context.Context, network string, m *dns.Msg, server string) (*dns.Msg, error) {
	c := &dns.Client{Net: network, UDPSize: largestUDP}
	r, _, err := c.ExchangeContext(ctx, m, server)
	return r, err
}
