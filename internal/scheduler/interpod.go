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
	// affinity are places that have a pod which matches all terms, one for each term; free says that there is no such pod anywhere and that this
	// one is the first of its kind.
	affinity []place
	free     bool
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

// newInterPod is nil if neither the pod nor any other has a say.
func (s *Snapshot) newInterPod(p *Pod) *interPod {
	out := &interPod{}
	group := func(into *[]place, key uint32) *place {
		d := s.domainsOf(key)
		for i := range *into {
			if (*into)[i].domains == d {
				return &(*into)[i]
			}
		}
		*into = append(*into, place{d, s.newTally(d)})
		return &(*into)[len(*into)-1]
	}
	for _, h := range s.counters.avoid {
		if h.term.matches(s, p.pod) {
			g := group(&out.existing, h.term.topology)
			s.places(g.tally, g.domains, &h.count, 1)
		}
	}
	for _, h := range s.counters.wish {
		if h.term.matches(s, p.pod) {
			g := group(&out.wishes, h.term.topology)
			s.places(g.tally, g.domains, &h.count, h.term.weight)
		}
	}
	if r := p.others; r != nil && r.hasTerms {
		if len(r.affinity) > 0 {
			all := allOf(r.affinity)
			count := s.counter(&all)
			for _, t := range r.affinity {
				g := group(&out.affinity, t.topology)
				if len(g.tally.list) == 0 {
					s.places(g.tally, g.domains, count, 1)
				}
			}
			out.free = r.matchesItsOwn
			for i := range out.affinity {
				out.free = out.free && len(out.affinity[i].tally.list) == 0
			}
		}
		for i := range r.anti {
			g := group(&out.anti, r.anti[i].topology)
			s.places(g.tally, g.domains, s.counter(&r.anti[i].matcher), 1)
		}
		for i := range r.preferred {
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
		if !in || n == 0 && !ip.free {
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

func (ip *interPod) score(_ *Snapshot, nodes []int32, out []int64) []int64 {
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
			out[from+k] = weightInterPodAffinity * maxNodeScore * (v - least) / (most - least)
		} else {
			out[from+k] = 0
		}
	}
	return out
}
