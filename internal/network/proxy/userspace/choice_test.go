package userspace

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/celox/celox/internal/network/proxy"
)

func at(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 9, byte(n >> 8), byte(n)}) }

func some(n int) []proxy.Endpoint {
	var out []proxy.Endpoint
	for i := range n {
		out = append(out, proxy.Endpoint{Addr: netip.AddrPortFrom(at(i), 80)})
	}
	return out
}

func newChoice(f *proxy.Frontend) *choice {
	c := &choice{inside: func(a netip.Addr) bool { return a == at(1000) }}
	c.front.Store(f)
	return c
}

func TestChoice(t *testing.T) {
	now := time.Now()
	mine, stranger := at(1000), at(2000)
	for _, c := range []struct {
		name   string
		front  proxy.Frontend
		client netip.Addr
		from   []proxy.Endpoint // whom the choice is of
		want   int
	}{
		{"none", proxy.Frontend{}, stranger, nil, 0},
		{"one", proxy.Frontend{Endpoints: some(1)}, stranger, some(1), 1},
		{"two", proxy.Frontend{Endpoints: some(2)}, stranger, some(2), 2},
		{"a few of many", proxy.Frontend{Endpoints: some(50)}, stranger, some(50), tries},
		{"a stranger gets local ones", proxy.Frontend{Endpoints: some(9), LocalOnly: true, LocalEndpoints: some(2)}, stranger, some(2), 2},
		{"a stranger where there are none", proxy.Frontend{Endpoints: some(9), LocalOnly: true}, stranger, nil, 0},
		{"a pod gets all", proxy.Frontend{Endpoints: some(2), LocalOnly: true}, mine, some(2), 2},
		{"not from there", proxy.Frontend{Endpoints: some(2), Sources: prefixes("192.0.2.0/24")}, stranger, nil, 0},
		{"from there", proxy.Frontend{Endpoints: some(2), Sources: prefixes("10.9.0.0/16")}, stranger, some(2), 2},
		{"the node itself", proxy.Frontend{Endpoints: some(2), Sources: prefixes("192.0.2.0/24")}, mine, some(2), 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := newChoice(&c.front).endpoints(c.client, now)
			if len(got) != c.want {
				t.Fatalf("got %v", got)
			}
			for i, a := range got {
				if slices.Contains(got[:i], a) || !slices.ContainsFunc(c.from, func(ep proxy.Endpoint) bool { return ep.Addr == a }) {
					t.Errorf("%v is not one of %v, or twice in %v", a, c.from, got)
				}
			}
		})
	}
}

func TestAffinityEnds(t *testing.T) {
	now := time.Now()
	client := at(2000)
	c := newChoice(&proxy.Frontend{Endpoints: some(50), Affinity: time.Minute})
	first := c.endpoints(client, now)[0]
	c.went(client, first, now)
	for range 50 {
		if got := c.endpoints(client, now.Add(time.Minute)); got[0] != first {
			t.Fatalf("got %v", got)
		}
	}
	if got := c.known(client, now.Add(time.Minute+1)); got.IsValid() {
		t.Errorf("still %v", got)
	}
	// An endpoint that is gone is not gone to.
	c.front.Store(&proxy.Frontend{Endpoints: slices.DeleteFunc(some(50), func(ep proxy.Endpoint) bool { return ep.Addr == first }), Affinity: time.Minute})
	if got := c.endpoints(client, now); slices.Contains(got, first) {
		t.Errorf("got %v", got)
	}
	// Without affinity nothing is remembered.
	c.front.Store(&proxy.Frontend{Endpoints: some(50)})
	c.went(client, first, now)
	if c.clients != nil {
		t.Errorf("%v", c.clients)
	}
}

// TestAffinityIsBounded has more clients than are remembered, of whom many are long gone at first.
func TestAffinityIsBounded(t *testing.T) {
	now := time.Now()
	c := newChoice(&proxy.Frontend{Endpoints: some(3), Affinity: time.Minute})
	to := some(1)[0].Addr
	client := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{11, byte(i >> 16), byte(i >> 8), byte(i)}) }
	for i := range 5000 {
		c.went(client(i), to, now)
	}
	later := now.Add(time.Hour)
	for i := range 5000 {
		c.went(client(100_000+i), to, later)
	}
	if n := len(c.clients); n > 9000 {
		t.Errorf("%d clients are remembered of 5,000 that matter", n)
	}
	for i := range maxClients + 1000 {
		c.went(client(200_000+i), to, later)
	}
	if n := len(c.clients); n != maxClients {
		t.Errorf("%d clients are remembered, want %d", n, maxClients)
	}
}

// BenchmarkChoice is the choice for one client of a service with 1,000 endpoints and an affinity.
func BenchmarkChoice(b *testing.B) {
	c, now := newChoice(&proxy.Frontend{Endpoints: some(1000), Affinity: time.Hour}), time.Now()
	client := at(2000)
	b.ReportAllocs()
	for b.Loop() {
		c.went(client, c.endpoints(client, now)[0], now)
	}
}
