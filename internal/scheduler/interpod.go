package scheduler

import "k8s.io/apimachinery/pkg/labels"

// Details of the plugin's rejections.
const (
	interPodAffinity rejection = (1 << rejectedDetail) | filterInterPod | rejectedForGood
	interPodAnti     rejection = (2 << rejectedDetail) | filterInterPod
	interPodExisting rejection = (3 << rejectedDetail) | filterInterPod
)

func interPodReason(r rejection) string {
	switch r {
	case interPodAffinity:
		return "node(s) didn't match pod affinity rules"
	case interPodAnti:
		return "node(s) didn't match pod anti-affinity rules"
	}
	return "node(s) didn't satisfy existing pods anti-affinity rules"
}

// interPod is the plugin for affinity between pods, prepared for one pod.
type interPod struct {
	pod     *Pod
	filters bool
	// affinity are places that have a pod which matches all terms (all), one for each term; first says that the pod would do itself, if it is the first of
	// its kind.
	affinity []place
	all      matcher
	first    bool
	anti     []place
	existing []place // that pods there keep this one out of
	wishes   []place // with the sum of weights, of this pod's and of others' terms
}

type place struct {
	domains *domains
	tally   *tally
}

// at is the number for a node's place, and whether the node is in one.
func (p *place) at(i int32) (int64, bool) {
	d := p.domains.of[i]
	if d < 0 {
		return 0, false
	}
	return p.tally.counts[d], true
}

// groupFor returns the place in a list for a topology, and makes one if there is none.
func (s *Snapshot) groupFor(into *[]place, key uint32) *place {
	d := s.domainsOf(key)
	for i := range *into {
		if (*into)[i].domains == d {
			return &(*into)[i]
		}
	}
	*into = append(*into, place{d, s.newTally(d)})
	return &(*into)[len(*into)-1]
}

// newInterPod is nil if neither the pod nor any other has a say. filters says that it refuses nodes, not only scores them.
func (s *Snapshot) newInterPod(p *Pod, filters bool) *interPod {
	out := &interPod{pod: p, filters: filters}
	group := s.groupFor
	if filters {
		for _, h := range s.counters.avoid {
			if h.term.matches(s, p.pod) {
				g := group(&out.existing, h.term.topology)
				s.places(g.tally, g.domains, &h.count, 1)
			}
		}
	}
	deaf := p.profile.onlyOwnWishes && (p.others == nil || len(p.others.preferred) == 0)
	if p.profile.interPodWeight > 0 && !deaf {
		for _, h := range s.counters.wish {
			weight := h.term.weight
			if h.term.required {
				weight = p.profile.hardWeight
			}
			if weight != 0 && h.term.matches(s, p.pod) {
				g := group(&out.wishes, h.term.topology)
				s.places(g.tally, g.domains, &h.count, weight)
			}
		}
	}
	if r := p.others; r != nil && r.hasTerms {
		if len(r.affinity) > 0 && filters {
			out.all = allOf(r.affinity)
			count := s.counter(&out.all)
			for _, t := range r.affinity {
				g := group(&out.affinity, t.topology)
				if len(g.tally.list) == 0 {
					s.places(g.tally, g.domains, count, 1)
				}
			}
			out.first = r.matchesItsOwn
		}
		for i := 0; filters && i < len(r.anti); i++ {
			g := group(&out.anti, r.anti[i].topology)
			s.places(g.tally, g.domains, s.counter(&r.anti[i].matcher), 1)
		}
		for i := 0; p.profile.interPodWeight > 0 && i < len(r.preferred); i++ {
			t := &r.preferred[i]
			g := group(&out.wishes, t.topology)
			s.places(g.tally, g.domains, s.counter(&t.matcher), t.weight)
		}
	}
	if len(out.affinity)+len(out.anti)+len(out.existing)+len(out.wishes) == 0 {
		return nil
	}
	return out
}

// allOf matches pods that match every term.
func allOf(terms []podTerm) matcher {
	if len(terms) == 1 {
		return terms[0].matcher
	}
	m := newMatcher(nil, labels.Nothing(), false)
	m.every = make([]matcher, len(terms))
	m.key = "every"
	for i, t := range terms {
		m.every[i] = t.matcher
		m.key += "\x01" + t.key
	}
	return m
}

func (ip *interPod) filter(i int32) rejection {
	for k := range ip.affinity {
		n, in := ip.affinity[k].at(i)
		if !in || n == 0 && !ip.alone() {
			return interPodAffinity
		}
	}
	for k := range ip.anti {
		if n, _ := ip.anti[k].at(i); n > 0 {
			return interPodAnti
		}
	}
	for k := range ip.existing {
		if n, _ := ip.existing[k].at(i); n > 0 {
			return interPodExisting
		}
	}
	return 0
}

// alone says that no pod anywhere matches the affinity, but this one itself does.
func (ip *interPod) alone() bool {
	if !ip.first {
		return false
	}
	for i := range ip.affinity {
		if ip.affinity[i].tally.sum != 0 {
			return false
		}
	}
	return true
}

func (ip *interPod) adjust(s *Snapshot, q *placed, by int64) {
	add := func(g *place) {
		if d := g.domains.of[q.node]; d >= 0 {
			g.tally.add(d, by)
		}
	}
	if len(ip.affinity) > 0 && ip.all.matches(s, q.pod) {
		for k := range ip.affinity {
			add(&ip.affinity[k])
		}
	}
	if r := ip.pod.others; r != nil && ip.filters {
		for i := range r.anti {
			if r.anti[i].matches(s, q.pod) {
				add(s.groupFor(&ip.anti, r.anti[i].topology))
			}
		}
	}
	if q.others == nil || !ip.filters {
		return
	}
	for i := range q.others.anti {
		if t := &q.others.anti[i]; t.matches(s, ip.pod.pod) {
			add(s.groupFor(&ip.existing, t.topology))
		}
	}
}

func (ip *interPod) score(_ *Snapshot, nodes []int32, out []int64) []int64 {
	if len(ip.wishes) == 0 {
		return out
	}
	from := len(out)
	var least, most int64
	for k, i := range nodes {
		var sum int64
		for w := range ip.wishes {
			n, _ := ip.wishes[w].at(i)
			sum += n
		}
		if k == 0 {
			least, most = sum, sum
		}
		least, most = min(least, sum), max(most, sum)
		out = append(out, sum)
	}
	for k, v := range out[from:] {
		if most > least {
			// As upstream counts, to the last bit: what is cut off is cut off before the weight.
			out[from+k] = ip.pod.profile.interPodWeight * int64(maxNodeScore*(float64(v-least)/float64(most-least)))
		} else {
			out[from+k] = 0
		}
	}
	return out
}
