package dns

import (
	"context"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// Audience is told of the addresses of some names before clients are. Its methods may be called concurrently.
type Audience interface {
	// Wants says whether it is to be told of a name, which is in lower case and has its final dot.
	Wants(name string) bool
	// Resolved is told for how long a name has which addresses. The answer leaves when it returns.
	Resolved(ctx context.Context, name string, addrs []netip.Addr, ttl time.Duration)
}

// Forget ends all answers that were given before: the audience wants to be told of other names.
func (s *Server) Forget() {
	s.upstream.Add(1)
	s.cfg.Zone.generation.Add(1)
}

// tell tells the audience of an answer, if it wants to know.
func (s *Server) tell(ctx context.Context, name string, m *dns.Msg) (told bool) {
	if s.cfg.Audience == nil || m.Rcode != dns.RcodeSuccess || len(m.Answer) == 0 || !s.cfg.Audience.Wants(name) {
		return false
	}
	if addrs, ttl := resolvedTo(name, m.Answer); len(addrs) > 0 {
		s.cfg.Audience.Resolved(ctx, name, addrs, ttl)
	}
	return true
}

// resolvedTo are the addresses of a name, also by way of aliases. Others that an answer may have are not the name's.
func resolvedTo(name string, answer []dns.RR) (addrs []netip.Addr, ttl time.Duration) {
	seconds := uint32(1 << 31)
	for range maxFollow {
		next := ""
		for _, rr := range answer {
			if !strings.EqualFold(rr.Header().Name, name) {
				continue
			}
			var ip []byte
			switch rr := rr.(type) {
			case *dns.A:
				ip = rr.A
			case *dns.AAAA:
				ip = rr.AAAA
			case *dns.CNAME:
				next = rr.Target
			default:
				continue
			}
			seconds = min(seconds, rr.Header().Ttl)
			if a, ok := netip.AddrFromSlice(ip); ok {
				addrs = append(addrs, a.Unmap())
			}
		}
		if next == "" || len(addrs) > 0 {
			break
		}
		name = next
	}
	return addrs, time.Duration(seconds) * time.Second
}
