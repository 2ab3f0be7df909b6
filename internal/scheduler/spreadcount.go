package scheduler

import (
	"maps"
	"math"
	"slices"
)

const (
	// maxSpreadCounts bounds for how many rules of how many classes counts are kept.
	maxSpreadCounts = 128
	// maxTogether is how many rules a group has at most whose counts are kept.
	maxTogether = 4
	// fewDomains are looked at one by one.
	fewDomains = 64
)

// spreadCount is how many pods that a topology spread constraint selects are in each domain, as pods of one class see it. It is kept from one decision to the next and follows
// the changes of nodes.
type spreadCount struct {
	domains *domains
	counter *counter
	seen    uint64
	used    uint64

	of     []int32 // by node: the domain that it counts for, or -1
	n      []int32 // by node: what it counts
	counts []int64 // by domain
	nodes  []int32 // by domain: how many count for it
	known  int     // how many domains have such nodes
	// levels is by count how many of those domains have it, and low a count below which there is none; kept only for many domains.
	levels []int32
	low    int64
}

// spreadKey is what a count depends on besides nodes and pods.
type spreadKey struct {
	class    *class
	matcher  string
	topology uint32
	honors   [3]bool // affinity, taints; hard rules are apart from others
	place    int     // in its group
	together [maxTogether]uint32
}

// spreadCountOf returns the count of one of a group of rules, up to date.
func (s *Snapshot) spreadCountOf(p *Pod, c *class, group []spreadState, k int, lenient bool) *spreadCount {
	r := group[k].spreadRule
	var kept *spreadCount
	if c.kept && len(group) <= maxTogether {
		key := spreadKey{class: c, matcher: r.key, topology: r.topology, honors: [3]bool{r.honorAffinity, r.honorTaints, r.hard}, place: k}
		if !lenient {
			for i := range group {
				key.together[i] = group[i].topology + 1 // 0 is none
			}
		}
		if kept = s.spreads[key]; kept == nil {
			if len(s.spreads) >= maxSpreadCounts {
				s.dropOldestSpread()
			}
			kept = &spreadCount{}
			s.spreads[key] = kept
		}
		s.uses++
		kept.used = s.uses
	} else {
		kept = &spreadCount{}
	}
	kept.refresh(s, p, c, group, k, lenient)
	return kept
}

func (s *Snapshot) dropOldestSpread() {
	var oldest spreadKey
	least := uint64(math.MaxUint64)
	for key, k := range s.spreads {
		if k.used < least {
			oldest, least = key, k.used
		}
	}
	delete(s.spreads, oldest)
}

// dropSpreads forgets the counts of a class.
func (s *Snapshot) dropSpreads(c *class) {
	maps.DeleteFunc(s.spreads, func(key spreadKey, _ *spreadCount) bool { return key.class == c })
}

// refresh counts anew what has changed. The domains of all rules of the group are up to date.
func (k *spreadCount) refresh(s *Snapshot, p *Pod, c *class, group []spreadState, at int, lenient bool) {
	st := &group[at]
	counter, now := s.counter(&st.matcher), s.changed()
	many := len(st.domains.ids) > fewDomains
	all := k.counter != counter || k.domains != st.domains || k.seen < s.changesFrom || now-k.seen > uint64(len(s.nodes)) || many != (k.levels != nil)
	if all {
		*k = spreadCount{domains: st.domains, counter: counter, used: k.used, of: k.of[:0], n: k.n[:0]}
		if many {
			k.levels = make([]int32, 1)
		}
	}
	for len(k.of) < len(s.nodes) {
		k.of, k.n = append(k.of, -1), append(k.n, 0)
	}
	if missing := len(st.domains.ids) - len(k.counts); missing > 0 {
		k.counts, k.nodes = append(k.counts, make([]int64, missing)...), append(k.nodes, make([]int32, missing)...)
	}
	set := func(i int) {
		d := st.domains.of[i]
		if d >= 0 && (!lenient && !hasAll(group, i) || !s.counts(p, c, st.spreadRule, &s.nodes[i])) {
			d = -1
		}
		var n int32
		if i < len(counter.nodes) {
			n = counter.nodes[i]
		}
		k.set(i, d, n)
	}
	if all {
		for i := range s.nodes {
			set(i)
		}
	} else {
		for _, i := range s.changes[k.seen-s.changesFrom:] {
			set(int(i))
		}
	}
	k.seen = now
}

// set says for which domain a node counts, or -1, and how much.
func (k *spreadCount) set(i int, domain, n int32) {
	old, was := k.of[i], k.n[i]
	if old == domain && was == n {
		return
	}
	if old >= 0 {
		k.move(old, -1, -int64(was))
	}
	if domain >= 0 {
		k.move(domain, 1, int64(n))
	}
	k.of[i], k.n[i] = domain, n
}

// move changes how many nodes a domain has, and what they count.
func (k *spreadCount) move(domain, nodes int32, n int64) {
	if k.nodes[domain] > 0 {
		k.known--
		k.level(k.counts[domain], -1)
	}
	k.nodes[domain] += nodes
	k.counts[domain] += n
	if k.nodes[domain] > 0 {
		k.known++
		k.level(k.counts[domain], 1)
	}
}

// level notes that a domain with a count comes or goes.
func (k *spreadCount) level(count int64, by int32) {
	if k.levels == nil {
		return
	}
	if missing := int(count) + 1 - len(k.levels); missing > 0 {
		k.levels = append(k.levels, make([]int32, missing)...)
	}
	k.levels[count] += by
	k.low = min(k.low, count)
}

// add counts pods in a node's domain until they are taken off again; it makes no difference if the node doesn't count.
func (k *spreadCount) add(node int, by int64) {
	if d := k.of[node]; d >= 0 {
		k.move(d, 0, by)
	}
}

// least is what the domain with the fewest pods has; 0 if there are too few domains.
func (k *spreadCount) least(minDomains int64) int64 {
	if int64(k.known) < minDomains || k.known == 0 {
		return 0
	}
	if k.levels == nil {
		least := int64(math.MaxInt64)
		for d, nodes := range k.nodes {
			if nodes > 0 {
				least = min(least, k.counts[d])
			}
		}
		return least
	}
	k.low += int64(slices.IndexFunc(k.levels[k.low:], func(n int32) bool { return n > 0 }))
	return k.low
}
