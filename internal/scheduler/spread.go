package scheduler

import (
	"math"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// spreadRule is one of a pod's topology spread constraints (KEP-895).
type spreadRule struct {
	matcher
	topology      uint32
	maxSkew       int64
	minDomains    int64
	hard          bool
	honorAffinity bool // count only nodes that the pod's selector and affinity accept
	honorTaints   bool // count only nodes whose taints the pod tolerates
	matchesItself bool
	hostname      bool // each node is a domain of its own
}

func (s *Snapshot) newSpreadRule(pod *v1.Pod, t *v1.TopologySpreadConstraint) spreadRule {
	return s.newRule(pod, t, selectorOf(withLabelKeys(t.LabelSelector, pod, t.MatchLabelKeys, "In")))
}

func (s *Snapshot) newRule(pod *v1.Pod, t *v1.TopologySpreadConstraint, sel labels.Selector) spreadRule {
	counted := sel
	if sel.Empty() {
		counted = labels.Nothing() // upstream's scheduler counts no pods for a selector that selects all
	}
	r := spreadRule{
		matcher:  newMatcher([]string{pod.Namespace}, nil, true, counted),
		topology: s.strings.id(t.TopologyKey), maxSkew: int64(t.MaxSkew), minDomains: 1,
		hard:          t.WhenUnsatisfiable == v1.DoNotSchedule,
		honorAffinity: t.NodeAffinityPolicy == nil || *t.NodeAffinityPolicy == v1.NodeInclusionPolicyHonor,
		hostname:      t.TopologyKey == v1.LabelHostname,
		honorTaints:   t.NodeTaintsPolicy != nil && *t.NodeTaintsPolicy == v1.NodeInclusionPolicyHonor,
	}
	if t.MinDomains != nil {
		r.minDomains = int64(*t.MinDomains)
	}
	r.matchesItself = sel.Matches(labels.Set(pod.Labels))
	return r
}

// Details of the plugin's rejections.
const (
	spreadSkewed rejection = (1 << rejectedDetail) | filterTopologySpread
	spreadNoKey  rejection = (2 << rejectedDetail) | filterTopologySpread | rejectedForGood
)

func spreadReason(r rejection) string {
	if r == spreadNoKey {
		return "node(s) didn't match pod topology spread constraints (missing required label)"
	}
	return "node(s) didn't match pod topology spread constraints"
}

// spread is the plugin, prepared for one pod.
type spread struct {
	pod        *Pod
	filters    bool
	hard, soft []spreadState
	// lenient says that nodes without some of the labels take part in the others' rules.
	lenient bool
}

type spreadState struct {
	*spreadRule
	domains *domains
	counted *spreadCount
	least   int64 // matching pods in the domain that has fewest
}

// spreadRules are a pod's own, or the default ones for what selects it together with others.
func (s *Snapshot) spreadRules(p *Pod) []spreadRule {
	if p.others != nil && p.others.hasSpread {
		return p.others.spread
	}
	if len(p.profile.spreadBy) == 0 || s.selectors == nil {
		return nil
	}
	sel := s.selectors(p.pod)
	if sel == nil || sel.Empty() {
		return nil
	}
	rules := make([]spreadRule, 0, len(p.profile.spreadBy))
	for i := range p.profile.spreadBy {
		rules = append(rules, s.newRule(p.pod, &p.profile.spreadBy[i], sel))
	}
	return rules
}

func (s *Snapshot) newSpread(p *Pod, c *class, rules []spreadRule, filters bool) *spread {
	own := p.others != nil && p.others.hasSpread
	out := &spread{pod: p, filters: filters, lenient: !own && p.profile.byDefault}
	for i := range rules {
		r := &rules[i]
		if r.hard && !filters || !r.hard && p.profile.spreadWeight == 0 {
			continue
		}
		st := spreadState{spreadRule: r, domains: s.domainsOf(r.topology)}
		if r.hard {
			out.hard = append(out.hard, st)
		} else {
			out.soft = append(out.soft, st)
		}
	}
	for _, group := range [][]spreadState{out.hard, out.soft} {
		for k := range group {
			st := &group[k]
			st.counted = s.spreadCountOf(p, c, group, k, out.lenient)
			st.least = st.counted.least(st.minDomains)
		}
	}
	return out
}

// hasAll says whether a node has the labels of all rules of a group; others don't take part.
func hasAll(group []spreadState, i int) bool {
	for k := range group {
		if group[k].domains.of[i] < 0 {
			return false
		}
	}
	return true
}

// counts says whether a node takes part in a rule.
func (s *Snapshot) counts(p *Pod, c *class, r *spreadRule, n *node) bool {
	if r.honorAffinity && !p.selector.matches(s, n) {
		return false
	}
	if r.honorTaints {
		for _, t := range n.hard {
			if !c.tolerates(s, t) {
				return false
			}
		}
	}
	return true
}

func (sp *spread) filter(i int32) rejection {
	for k := range sp.hard {
		st := &sp.hard[k]
		d := st.domains.of[i]
		if d < 0 {
			return spreadNoKey
		}
		n := st.counted.counts[d]
		if st.matchesItself {
			n++
		}
		if n-st.least > st.maxSkew {
			return spreadSkewed
		}
	}
	return 0
}

func (sp *spread) adjust(s *Snapshot, q *placed, by int64) {
	for k := range sp.hard {
		if st := &sp.hard[k]; st.matches(s, q.pod) {
			st.counted.add(q.node, by)
			st.least = st.counted.least(st.minDomains)
		}
	}
}

// score prefers domains with few matching pods; the more domains the nodes are in, the more a difference weighs.
func (sp *spread) score(s *Snapshot, nodes []int32, out []int64) []int64 {
	if len(sp.soft) == 0 {
		return out
	}
	const outside = -1
	least, most := int64(math.MaxInt64), int64(0)
	from := len(out)
	takePart := 0
	for _, i := range nodes {
		if sp.lenient || hasAll(sp.soft, int(i)) {
			takePart++
			out = append(out, 0)
		} else {
			out = append(out, outside)
		}
	}
	weights := make([]float64, len(sp.soft))
	for k := range sp.soft {
		size := takePart
		if st := &sp.soft[k]; !st.hostname {
			size = st.domains.among(s, nodes, out[from:], outside)
		}
		weights[k] = math.Log(float64(size + 2))
	}
	for at, i := range nodes {
		if out[from+at] == outside {
			continue
		}
		var sum float64
		for k := range sp.soft {
			st := &sp.soft[k]
			d := st.domains.of[i]
			if d < 0 {
				continue
			}
			n := st.counted.counts[d]
			if st.hostname {
				n = st.counted.counter.at(i) // also where the rule's policies don't count the node
			}
			sum += float64(n)*weights[k] + float64(st.maxSkew-1)
		}
		v := int64(math.Round(sum))
		least, most = min(least, v), max(most, v)
		out[from+at] = v
	}
	for k, v := range out[from:] {
		switch {
		case v == outside:
			v = 0
		case most == 0:
			v = maxNodeScore
		default:
			v = maxNodeScore * (most + least - v) / most
		}
		out[from+k] = v * sp.pod.profile.spreadWeight
	}
	return out
}
