package proxy

import (
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// From one state of some frontends to the next: what has to be told to the kernel, and no more.

func (r *ruleset) update(changed map[Key]*Frontend) error {
	b := newBatch()
	var unused []string
	for k, f := range changed {
		if k.Addr.Is6() != (r.family.size == 16) {
			continue
		}
		old := r.placed[k]
		if old != nil && len(old.Sources) > 0 {
			unused = append(unused, sourcesChain(k, old.Sources))
		}
		if f == nil {
			delete(r.placed, k)
			r.change(b, k, old, nil)
			continue
		}
		next := &placed{Frontend: f}
		r.placed[k] = next
		r.change(b, k, old, next)
	}
	if err := r.flush(); err != nil { // chains that are needed now; without elements they do nothing
		return err
	}
	if err := r.send(b); err != nil {
		return err
	}
	for _, chain := range unused {
		if !r.sourcesUsed(chain) {
			r.conn.DelChain(&nftables.Chain{Table: r.table, Name: chain})
			delete(r.chains, chain)
		}
	}
	return r.flush()
}

// change adds to b what leads from one state of a frontend to the next; either may be nil.
func (r *ruleset) change(b *batch, k Key, old, next *placed) {
	var before, after []entry
	var oldAll, oldLocal, all, local []netip.AddrPort
	if old != nil {
		before, oldAll, oldLocal = old.entries, old.all, old.local
	}
	if next != nil {
		all, local = arrange(oldAll, next.Endpoints), arrange(oldLocal, next.LocalEndpoints)
		after = r.entries(b, k, next.Frontend)
		next.all, next.local, next.entries = all, local, after
		r.count(b, k, next.Frontend, 1) // before the others are taken off, or what stays would go and come
	}
	if old != nil {
		r.count(b, k, old.Frontend, -1)
	}
	r.numbers(b, k, 0, oldAll, all)
	r.numbers(b, k, localNumbers, oldLocal, local)
	for _, e := range before {
		if !slices.ContainsFunc(after, e.equal) {
			b.delete(e.set, e.key)
		}
	}
	for _, e := range after {
		if !slices.ContainsFunc(before, e.equal) {
			if e.verdict != nil {
				b.lead(e.set, e.key, e.verdict)
			} else {
				b.put(e.set, e.key, number(e.number))
			}
		}
	}
}

// count keeps the addresses of a frontend in their sets as long as somebody needs them.
func (r *ruleset) count(b *batch, k Key, f *Frontend, by int) {
	one := func(set string, counts map[netip.Addr]int, a netip.Addr, key []byte) {
		before := counts[a]
		counts[a] = before + by
		switch {
		case before == 0:
			b.put(set, key, nil)
		case before+by == 0:
			delete(counts, a)
			b.delete(set, key)
		}
	}
	if f.Cluster {
		one(setCluster, r.cluster, k.Addr, k.Addr.AsSlice())
	}
	for _, list := range [][]Endpoint{f.Endpoints, f.LocalEndpoints} {
		for _, ep := range list {
			if a := ep.Addr.Addr(); ep.Local {
				one(setHairpin, r.hairpin, a, append(a.AsSlice(), a.AsSlice()...))
			}
		}
	}
}

// entry is an element that says what becomes of packets to a key: the number of a route or a fate, or a verdict.
type entry struct {
	set     string
	key     []byte
	number  uint32
	verdict *expr.Verdict
}

func (e entry) equal(o entry) bool {
	return e.set == o.set && e.number == o.number && (e.verdict == nil || *e.verdict == *o.verdict) // in a set all have one or none
}

// entries are a frontend's. The chains that they lead to are made if they don't exist.
func (r *ruleset) entries(b *batch, k Key, f *Frontend) []entry {
	accept, refuse, key := mapFrontends, mapRefused, placeKey(k)
	if k.NodePort() {
		accept, refuse, key = mapNodePorts, mapRefusedPorts, portKey(k)
	}
	var out []entry
	if len(f.Endpoints) > 0 {
		out = append(out, entry{set: accept, key: key, number: r.route(b, routeOf(k, f))})
	} else {
		fate := uint32(fateRefuse)
		if f.Drop {
			fate = fateDrop
		}
		out = append(out, entry{set: refuse, key: key, number: fate})
	}
	if len(f.Sources) > 0 && !k.NodePort() {
		out = append(out, entry{set: mapSources, key: key, verdict: &expr.Verdict{Kind: expr.VerdictGoto, Chain: r.sources(k, f.Sources)}})
	}
	return out
}

// numbers changes the elements of those endpoints whose number leads elsewhere.
func (r *ruleset) numbers(b *batch, k Key, offset uint32, old, next []netip.AddrPort) {
	for i := range max(len(old), len(next)) {
		key := endpointKey(k, offset+uint32(i))
		switch {
		case i < len(old) && i < len(next) && old[i] == next[i]:
			continue
		case i >= len(next):
			b.delete(mapEndpoints, key)
			continue
		case i < len(old):
			b.delete(mapEndpoints, key)
		}
		b.put(mapEndpoints, key, endpointValue(next[i]))
	}
}

// arrange gives endpoints their numbers: those that had one below the new count keep it, the others fill the gaps.
func arrange(old []netip.AddrPort, endpoints []Endpoint) []netip.AddrPort {
	wanted := map[netip.AddrPort]bool{}
	for _, ep := range endpoints {
		wanted[ep.Addr] = true
	}
	out := make([]netip.AddrPort, len(endpoints))
	for i, a := range old[:min(len(old), len(out))] {
		if wanted[a] {
			out[i] = a
			delete(wanted, a)
		}
	}
	next := 0
	for _, ep := range endpoints {
		if !wanted[ep.Addr] {
			continue
		}
		for out[next].IsValid() {
			next++
		}
		out[next] = ep.Addr
		delete(wanted, ep.Addr)
	}
	return out
}
