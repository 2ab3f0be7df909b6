package serve

import (
	"encoding/hex"
	"hash/fnv"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/celox/celox/internal/network/ingress/loop"
	"github.com/celox/celox/internal/network/ingress/route"
)

// suspicion is how long an endpoint that could not be reached is left out while there are others.
const suspicion = 10 * time.Second

// endpoint is a process that serves a backend. It lives as long as it is in the list of its backend.
type endpoint struct {
	addr netip.AddrPort
	host string // addr as text
	id   string // in cookies

	active  atomic.Int64 // requests under way
	suspect atomic.Int64 // time in Unix nanoseconds until which others are better
	gone    atomic.Bool  // no longer in the list

	idle idleConns
}

// backend is the endpoints of a backend.
type backend struct {
	route.Backend
	endpoints atomic.Pointer[[]*endpoint]
}

// set replaces the endpoints. Those that stay keep their connections; those that go lose the idle ones at once, and the others when their requests are done.
func (b *backend) set(addrs []netip.AddrPort) {
	var old []*endpoint
	if p := b.endpoints.Load(); p != nil {
		old = *p
	}
	next := make([]*endpoint, 0, len(addrs))
	kept := make(map[*endpoint]bool, len(addrs))
	for _, a := range addrs {
		var e *endpoint
		for _, o := range old {
			if o.addr == a {
				e = o
				break
			}
		}
		if e == nil {
			e = &endpoint{addr: a, host: a.String(), id: endpointID(b.Backend, a)}
		}
		kept[e] = true
		next = append(next, e)
	}
	b.endpoints.Store(&next)
	for _, o := range old {
		if !kept[o] {
			o.gone.Store(true)
			o.idle.close()
		}
	}
}

// endpointID is what a cookie calls an endpoint: nothing that tells its address, the same on all nodes.
func endpointID(b route.Backend, a netip.AddrPort) string {
	h := fnv.New128a()
	_, _ = h.Write([]byte(b.String() + " " + a.String())) // a hash takes everything
	return hex.EncodeToString(h.Sum(nil))
}

// byID finds the endpoint of a cookie; nil is none that works.
func (b *backend) byID(id string, now time.Time) *endpoint {
	p := b.endpoints.Load()
	if p == nil || id == "" {
		return nil
	}
	for _, e := range *p {
		if e.id == id && e.suspect.Load() <= now.UnixNano() {
			return e
		}
	}
	return nil
}

// pick chooses an endpoint: of two at random the one with fewer requests under way. Those in tried, and those that could not be reached lately, are the last choice.
// It returns nil if there is none.
func (b *backend) pick(now time.Time, tried []*endpoint) *endpoint {
	p := b.endpoints.Load()
	if p == nil || len(*p) == 0 {
		return nil
	}
	all := *p
	if len(all) == 1 {
		return all[0]
	}
	x := rand.IntN(len(all))
	y := rand.IntN(len(all) - 1)
	if y >= x {
		y++
	}
	one, two := all[x], all[y]
	nanos := now.UnixNano()
	good := func(e *endpoint) bool {
		if e.suspect.Load() > nanos {
			return false
		}
		for _, t := range tried {
			if t == e {
				return false
			}
		}
		return true
	}
	switch ok1, ok2 := good(one), good(two); {
	case ok1 && ok2:
		if two.active.Load() < one.active.Load() {
			return two
		}
		return one
	case ok1:
		return one
	case ok2:
		return two
	}
	for i := range all {
		if e := all[(x+i)%len(all)]; good(e) {
			return e
		}
	}
	for i := range all { // nothing is good: rather one that was not tried for this request
		e := all[(x+i)%len(all)]
		fresh := true
		for _, t := range tried {
			fresh = fresh && t != e
		}
		if fresh {
			return e
		}
	}
	return one
}

// avoid notes that the endpoint could not be reached.
func (e *endpoint) avoid(now time.Time) { e.suspect.Store(now.Add(suspicion).UnixNano()) }

// idleConns are connections to an endpoint that wait for their next request.
type idleConns struct {
	mu     sync.Mutex
	conns  []*upstream // guarded by mu; the last was used last
	timer  *time.Timer // guarded by mu; runs while there are any
	closed bool        // guarded by mu
}

const (
	// maxIdle is how many connections to one endpoint wait.
	maxIdle = 128
	// idleTime is how long.
	idleTime = 30 * time.Second
)

// get takes the one of a loop (nil is of none) that was used last.
func (i *idleConns) get(l *loop.Loop) *upstream {
	i.mu.Lock()
	defer i.mu.Unlock()
	for n := len(i.conns) - 1; n >= 0; n-- {
		if u := i.conns[n]; u.wire.on() == l {
			i.conns = slices.Delete(i.conns, n, n+1)
			return u
		}
	}
	return nil
}

// put keeps a connection, or closes it.
func (i *idleConns) put(u *upstream, now time.Time) {
	u.idleSince = now
	i.mu.Lock()
	if i.closed || len(i.conns) >= maxIdle {
		i.mu.Unlock()
		u.close()
		return
	}
	i.conns = append(i.conns, u)
	if i.timer == nil {
		i.timer = time.AfterFunc(idleTime, i.reap)
	}
	i.mu.Unlock()
}

// reap closes what waited too long, and comes again while something waits.
func (i *idleConns) reap() {
	i.mu.Lock()
	defer i.mu.Unlock()
	now := time.Now()
	n := 0
	for n < len(i.conns) && now.Sub(i.conns[n].idleSince) >= idleTime {
		i.conns[n].wire.drop()
		n++
	}
	rest := copy(i.conns, i.conns[n:])
	clear(i.conns[rest:])
	i.conns = i.conns[:rest]
	if rest == 0 || i.closed {
		i.timer = nil
		return
	}
	i.timer.Reset(idleTime - now.Sub(i.conns[0].idleSince))
}

// close closes what waits, and what is put later.
func (i *idleConns) close() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.closed = true
	for _, u := range i.conns {
		u.wire.drop()
	}
	i.conns = nil
	if i.timer != nil {
		i.timer.Stop()
		i.timer = nil
	}
}
