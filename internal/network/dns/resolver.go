package dns

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

const (
	// Limits of how long an answer from outside is believed, whatever it says of itself.
	longestTTL         = 5 * time.Minute
	longestNegativeTTL = 30 * time.Second
	failureTTL         = time.Second
	// maxFollow bounds a chain of aliases.
	maxFollow = 8
)

// Clients tells the namespace of a pod by its address.
type Clients interface {
	Namespace(netip.Addr) (namespace string, ok bool)
}

// resolver finds answers the long way.
type resolver struct {
	zone    *Zone
	forward *forwarder
	search  atomic.Pointer[[]string] // of the machine, with their final dots
}

// found is an answer.
type found struct {
	*dns.Msg
	name string // whose the answer is: the one that was asked for, or the one that it was completed to
	// inside says that it depends on the zone, outside that it depends on what other servers said.
	inside, outside bool
}

// resolve answers a question for a name in lower case with its final dot. namespace is that of the client, if it is a pod of this node and the
// name is below the first domain that such a pod searches.
func (r *resolver) resolve(ctx context.Context, name string, qtype uint16, namespace string, dnssec bool) found {
	m := r.one(ctx, name, qtype, dnssec)
	m.name = name
	if namespace == "" || m.Rcode != dns.RcodeNameError {
		return m
	}
	// The client would try its other domains one after another, and the name itself at last (ndots:5). That is done here, once.
	first := namespace + ".svc." + r.zone.domain
	short := strings.TrimSuffix(name, first)
	for _, domain := range append([]string{"svc." + r.zone.domain, r.zone.domain}, append(slices.Clone(*r.search.Load()), "")...) {
		next := short + domain
		other := r.one(ctx, next, qtype, dnssec)
		m.outside = m.outside || other.outside
		if other.Rcode == dns.RcodeServerFailure {
			return m // the client has to ask by itself, to see the failure where it happens
		}
		if other.Rcode != dns.RcodeSuccess || len(other.Answer) == 0 {
			continue
		}
		alias := &dns.CNAME{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeCNAME, Class: dns.ClassINET, Ttl: lowest(other.Msg, clusterTTL)}, Target: next}
		other.Answer = append([]dns.RR{alias}, other.Answer...)
		other.inside, other.outside, other.name = true, m.outside, next
		return other
	}
	return m
}

// one answers for a name as it is.
func (r *resolver) one(ctx context.Context, name string, qtype uint16, dnssec bool) found {
	out := found{Msg: new(dns.Msg)}
	for range maxFollow {
		res, ok := r.local(name, qtype)
		if !ok {
			r.ask(ctx, &out, name, qtype, dnssec)
			return out
		}
		out.inside, out.Authoritative = true, true
		out.Rcode = res.rcode
		out.Answer = append(out.Answer, res.answer...)
		out.Extra = append(out.Extra, res.extra...)
		if res.follow == "" {
			if len(out.Answer) == 0 && out.Rcode != dns.RcodeServerFailure {
				out.Ns = []dns.RR{r.zone.soa()}
			}
			return out
		}
		name = res.follow
	}
	out.Rcode = dns.RcodeServerFailure
	return out
}

// local answers for names of the zone and, in reverse, for its addresses.
func (r *resolver) local(name string, qtype uint16) (result, bool) {
	zone := r.zone.now()
	switch {
	case zone.contains(name):
		if !zone.ready() {
			return result{rcode: dns.RcodeServerFailure}, true
		}
		return zone.lookup(name, qtype), true
	case strings.HasSuffix(name, ".arpa."):
		return zone.reverse(name, qtype)
	}
	return result{}, false
}

// ask adds what other servers say.
func (r *resolver) ask(ctx context.Context, out *found, name string, qtype uint16, dnssec bool) {
	out.outside = true
	m, err := r.forward.ask(ctx, name, qtype, dnssec)
	if err != nil {
		out.Rcode = dns.RcodeServerFailure
		return
	}
	out.Rcode, out.Ns, out.AuthenticatedData = m.Rcode, m.Ns, m.AuthenticatedData
	out.Answer = append(out.Answer, m.Answer...)
	for _, rr := range m.Extra {
		if rr.Header().Rrtype != dns.TypeOPT {
			out.Extra = append(out.Extra, rr)
		}
	}
}

// lowest is the smallest time to live of the answers, at most top.
func lowest(m *dns.Msg, top uint32) uint32 {
	for _, rr := range m.Answer {
		top = min(top, rr.Header().Ttl)
	}
	return top
}

// believe is for how long a whole answer from outside may be given to others.
func believe(m *dns.Msg) time.Duration {
	switch {
	case m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError:
		return failureTTL
	case len(m.Answer) == 0:
		// RFC 2308: the negative answer's SOA says for how long.
		for _, rr := range m.Ns {
			if soa, ok := rr.(*dns.SOA); ok {
				return min(time.Duration(min(soa.Hdr.Ttl, soa.Minttl))*time.Second, longestNegativeTTL)
			}
		}
		return failureTTL
	case m.Rcode == dns.RcodeNameError:
		return min(time.Duration(lowest(m, 1<<31))*time.Second, longestNegativeTTL)
	}
	return min(time.Duration(lowest(m, 1<<31))*time.Second, longestTTL)
}
