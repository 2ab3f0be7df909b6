package userspace

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/celox/celox/internal/network/proxy"
)

const (
	// tries is how many endpoints are called before a client is turned away.
	tries = 3
	// maxClients is how many clients of one key an affinity is remembered for.
	maxClients = 1 << 16
)

// choice says where clients of one key go.
type choice struct {
	front atomic.Pointer[proxy.Frontend]
	// inside reports whether an address is a pod's or a process's of this node.
	inside func(netip.Addr) bool

	mu      sync.Mutex
	clients map[netip.Addr]stay // guarded by mu
	sweepAt int                 // guarded by mu: how many clients are worth a look for old ones
}

// stay is where a client went, and until when it goes there again.
type stay struct {
	to    netip.AddrPort
	until time.Time
}

// endpoints are those that a client may have, in the order in which they are to be tried. There are none for whom the address isn't.
func (c *choice) endpoints(client netip.Addr, now time.Time) []netip.AddrPort {
	f := c.front.Load()
	if len(f.Sources) > 0 && !contains(f.Sources, client) && !c.inside(client) {
		return nil
	}
	list := f.Endpoints
	if f.LocalOnly && !c.inside(client) {
		list = f.LocalEndpoints
	}
	if len(list) == 0 {
		return nil
	}
	var out []netip.AddrPort
	if known := c.known(client, now); known.IsValid() {
		if slices.ContainsFunc(list, func(ep proxy.Endpoint) bool { return ep.Addr == known }) {
			out = append(out, known)
		}
	}
	// One by chance, and those behind it: the order of all by chance would cost as much as there are.
	for i, first := 0, rand.IntN(len(list)); i < len(list) && len(out) < tries; i++ {
		if ep := list[(first+i)%len(list)].Addr; !slices.Contains(out, ep) {
			out = append(out, ep)
		}
	}
	return out
}

func (c *choice) known(client netip.Addr, now time.Time) netip.AddrPort {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, ok := c.clients[client]
	if !ok || now.After(s.until) {
		return netip.AddrPort{}
	}
	return s.to
}

// went remembers where a client went, if that matters.
func (c *choice) went(client netip.Addr, to netip.AddrPort, now time.Time) {
	period := c.front.Load().Affinity
	c.mu.Lock()
	defer c.mu.Unlock()
	if period == 0 {
		c.clients = nil
		return
	}
	if c.clients == nil {
		c.clients, c.sweepAt = map[netip.Addr]stay{}, 1024
	}
	if len(c.clients) >= c.sweepAt {
		for a, s := range c.clients {
			if now.After(s.until) {
				delete(c.clients, a)
			}
		}
		c.sweepAt = max(1024, 2*len(c.clients))
	}
	if len(c.clients) >= maxClients {
		for a := range c.clients { // any other: better one that is forgotten than no limit
			delete(c.clients, a)
			break
		}
	}
	c.clients[client] = stay{to: to, until: now.Add(period)}
}
