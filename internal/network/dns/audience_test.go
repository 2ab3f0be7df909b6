package dns

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// listeners is an audience for some names.
type listeners struct {
	mu    sync.Mutex
	wants []string // guarded by mu
	heard []string // guarded by mu
	hold  chan struct{}
}

func (l *listeners) set(wants ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wants = wants
}

func (l *listeners) Wants(name string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Contains(l.wants, name)
}

func (l *listeners) Resolved(_ context.Context, name string, addrs []netip.Addr, ttl time.Duration) {
	l.mu.Lock()
	l.heard = append(l.heard, fmt.Sprint(name, addrs, ttl))
	hold := l.hold
	l.mu.Unlock()
	if hold != nil {
		<-hold
	}
}

// expect returns after looking at what was heard since the last time.
func (l *listeners) expect(t *testing.T, what string, want ...string) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if !slices.Equal(l.heard, want) {
		t.Errorf("%s: heard %q, want %q", what, l.heard, want)
	}
	l.heard = nil
}

func record(t *testing.T, text string) dns.RR {
	t.Helper()
	rr, err := dns.NewRR(text)
	if err != nil {
		t.Fatal(err)
	}
	return rr
}

// TestAudience is told of the addresses of names that it wants to know, by the names that were asked for, and of no others.
func TestAudience(t *testing.T) {
	l := &listeners{}
	s, _ := newServer(t, &internet{}, cluster()...)
	s.cfg.Audience = l
	s.resolver.forward.exchange = func(_ context.Context, _ string, m *dns.Msg, _ string) (*dns.Msg, error) {
		r := new(dns.Msg).SetReply(m)
		switch q := m.Question[0]; {
		case q.Name == "alias.example." && q.Qtype == dns.TypeA:
			// The order of records means nothing; what is nobody's alias does not belong to the name.
			r.Answer = []dns.RR{
				record(t, "end.example. 7 IN A 192.0.2.1"), record(t, "other.example. 9 IN A 192.0.2.66"), record(t, "ALIAS.example. 50 IN CNAME middle.example."),
				record(t, "end.example. 70 IN A 192.0.2.2"), record(t, "Middle.example. 40 IN CNAME End.example."),
			}
		case q.Name == "six.example." && q.Qtype == dns.TypeAAAA:
			r.Answer = []dns.RR{record(t, "six.example. 100000 IN AAAA 2001:db8::1")}
		case q.Name == "circle.example.":
			r.Answer = []dns.RR{record(t, "circle.example. 7 IN CNAME circle.example.")}
		case q.Name == "six.example.":
		default:
			r.Rcode = dns.RcodeNameError
		}
		return r, nil
	}
	get := func(name string, qtype uint16) string {
		t.Helper()
		packet, err := new(dns.Msg).SetQuestion(name, qtype).Pack()
		if err != nil {
			t.Fatal(err)
		}
		m := new(dns.Msg)
		if err := m.Unpack(s.answer(t.Context(), packet, podClient, "udp")); err != nil {
			t.Fatal(err)
		}
		return show(m)
	}
	get("alias.example.", dns.TypeA)
	l.expect(t, "of a name that it does not want to know")
	l.set("alias.example.", "six.example.", "circle.example.", "none.example.", "headless.ns.svc.cluster.local.")
	get("alias.example.", dns.TypeA)
	l.expect(t, "of an answer that was given before")
	s.Forget()
	get("Alias.Example.", dns.TypeA)
	l.expect(t, "by an alias", "alias.example.[192.0.2.1 192.0.2.2] 7s")
	get("alias.example.", dns.TypeA)
	l.expect(t, "of an answer that it was told of")
	get("six.example.", dns.TypeAAAA)
	l.expect(t, "of the other family", "six.example.[2001:db8::1] 27h46m40s")
	for name, qtype := range map[string]uint16{"six.example.": dns.TypeA, "circle.example.": dns.TypeA, "none.example.": dns.TypeA, "end.example.": dns.TypeA} {
		get(name, qtype)
		l.expect(t, "without an address: "+name)
	}
	// A pod that goes through its search path means the name at the end of it.
	if got := get("six.example.ns.svc.cluster.local.", dns.TypeAAAA); !strings.Contains(got, "2001:db8::1") {
		t.Fatal(got)
	}
	l.expect(t, "by the search path", "six.example.[2001:db8::1] 27h46m40s")
}

// TestAudienceOfTheCluster: what the cluster itself answers is told again when its time is over.
func TestAudienceOfTheCluster(t *testing.T) {
	l := &listeners{}
	s, _ := newServer(t, &internet{}, cluster()...)
	s.cfg.Audience = l
	const name = "web.ns.svc.cluster.local."
	packet, err := new(dns.Msg).SetQuestion(name, dns.TypeA).Pack()
	if err != nil {
		t.Fatal(err)
	}
	s.answer(t.Context(), packet, stranger, "udp")
	l.set(name)
	s.Forget()
	s.answer(t.Context(), packet, stranger, "udp")
	l.mu.Lock()
	if len(l.heard) != 1 || !strings.HasPrefix(l.heard[0], name) {
		t.Errorf("heard %q", l.heard)
	}
	l.mu.Unlock()
	var q question
	now := time.Now()
	if s.known(&q, packet, stranger, nil, now) == nil {
		t.Error("the answer is not remembered")
	}
	if s.known(&q, packet, stranger, nil, now.Add((clusterTTL+1)*time.Second)) != nil {
		t.Error("the answer is remembered for longer than its addresses are known to the audience")
	}
}

// TestAnswerWaits until the audience has taken the addresses in; others don't.
func TestAnswerWaits(t *testing.T) {
	l := &listeners{hold: make(chan struct{})}
	l.set("www.example.com.")
	s, _ := newServer(t, &internet{}, cluster()...)
	s.cfg.Audience = l
	c, err := net.Dial("udp", listen(t, s, 1))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ask := func(name string) {
		t.Helper()
		packet, err := new(dns.Msg).SetQuestion(name, dns.TypeA).Pack()
		if err == nil {
			_, err = c.Write(packet)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	next := func() string {
		t.Helper()
		answer, m := make([]byte, 512), new(dns.Msg)
		if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		n, err := c.Read(answer)
		if err == nil {
			err = m.Unpack(answer[:n])
		}
		if err != nil {
			t.Fatal(err)
		}
		return m.Question[0].Name
	}
	ask("www.example.com.")
	eventually(t, "the audience to be told", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.heard) == 1
	})
	for range 3 {
		ask("web.ns.svc.cluster.local.")
		if got := next(); got != "web.ns.svc.cluster.local." {
			t.Fatalf("an answer about %s", got)
		}
	}
	close(l.hold)
	if got := next(); got != "www.example.com." {
		t.Errorf("an answer about %s", got)
	}
}
