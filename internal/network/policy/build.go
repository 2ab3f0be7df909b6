package policy

import (
	"cmp"
	"encoding/binary"
	"slices"
)

// built is a chain with its name; an empty name is that of no restriction.
type built struct {
	name string
	*builder
}

// built finds the chain of a pod in one direction. Pods that the same policies select have the same, so that most of a policy's pods cost no more than a look.
func (s *state) built(ns *namespace, p *pod, d Direction) built {
	key := append(s.key[:0], byte(d))
	s.selected = s.selected[:0]
	byName := false // of the pod's own ports
	add := func(x *policy) {
		s.selected = append(s.selected, x)
		byName = byName || d == Ingress && x.namesPorts
	}
	for _, np := range ns.policies {
		if np.concerns[d] && np.subject.pods.Matches(p.labels) {
			add(np)
		}
	}
	slices.SortFunc(s.selected, func(a, b *policy) int { return cmp.Compare(a.id, b.id) })
	for _, cp := range s.tiers() {
		if cp.selects(ns, p) {
			add(cp)
		}
	}
	if len(s.selected) == 0 {
		return built{}
	}
	for _, x := range s.selected {
		key = binary.BigEndian.AppendUint64(key, x.id)
	}
	if byName {
		for _, port := range p.ports {
			key = append(append(key, port.protocol, byte(port.port>>8), byte(port.port)), port.name...)
			key = append(key, 0)
		}
	}
	s.key = key
	if known, ok := s.memory[string(key)]; ok {
		return known
	}
	var out built
	if b := build(s.selected, p, d); len(b.chain.Admin) > 0 || b.chain.Isolated || len(b.chain.Rest) > 0 {
		out = built{b.chain.name(), b}
	}
	s.memory[string(key)] = out
	return out
}

// build makes the chain of a pod in one direction from the policies that select it, those of the cluster in their order.
func build(selected []*policy, p *pod, d Direction) *builder {
	b := &builder{chain: Chain{Direction: d}, pod: p, sets: map[string]definition{}}
	for _, np := range selected {
		if np.tier == namespaced {
			b.chain.Isolated = true
			for i := range np.rules[d] {
				b.chain.Rest = b.expand(b.chain.Rest, &np.rules[d][i])
			}
		}
	}
	if b.chain.Isolated { // all of them allow: their order means nothing
		slices.SortFunc(b.chain.Rest, compareRules)
		b.chain.Rest = slices.Compact(b.chain.Rest)
		if len(b.chain.Rest) > 0 && b.chain.Rest[0] == (Rule{}) { // everybody, everything
			b.chain.Rest = b.chain.Rest[:1]
		}
	}
	for _, cp := range selected {
		if cp.tier == namespaced || cp.tier == baseline && b.chain.Isolated {
			continue
		}
		into := &b.chain.Admin
		if cp.tier == baseline {
			into = &b.chain.Rest
		}
		for i := range cp.rules[d] {
			*into = b.expand(*into, &cp.rules[d][i])
		}
	}
	used := map[string]definition{}
	for _, rules := range [][]Rule{b.chain.Admin, b.chain.Rest} {
		for _, r := range rules {
			if r.Set != "" {
				used[r.Set] = b.sets[r.Set]
			}
		}
	}
	b.sets = used
	return b
}

// selects is for policies of the cluster.
func (p *policy) selects(ns *namespace, pod *pod) bool {
	// Before its namespace is known a pod is subject to everything that selects it otherwise.
	return (!ns.known || p.subject.namespaces.Matches(ns.labels)) && p.subject.pods.Matches(pod.labels)
}

func compareRules(a, b Rule) int {
	return cmp.Or(cmp.Compare(a.Set, b.Set), cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.First, b.First), cmp.Compare(a.Last, b.Last))
}

// builder makes a chain, and notes the sets that it needs.
type builder struct {
	chain Chain
	pod   *pod
	sets  map[string]definition // more than the chain asks, until it is done
}

// expand adds the rules that one of a policy comes to.
func (b *builder) expand(out []Rule, r *rule) []Rule {
	add := func(set string) {
		if !r.portSpecific {
			out = append(out, Rule{Set: set, Verdict: r.verdict})
			return
		}
		for _, p := range r.ports {
			out = append(out, Rule{Set: set, Protocol: p.protocol, First: p.first, Last: p.last, Verdict: r.verdict})
		}
		if b.chain.Direction == Egress {
			return
		}
		for _, n := range r.named { // a port of this pod
			for _, p := range b.pod.ports {
				if p.name == n.name && (n.protocol == 0 || p.protocol == n.protocol) {
					out = append(out, Rule{Set: set, Protocol: p.protocol, First: p.port, Last: p.port, Verdict: r.verdict})
				}
			}
		}
	}
	if r.anybody {
		add("")
	}
	for _, s := range r.peers {
		add(b.set(definition{name: "pods-" + hash(s.key), kind: Pods, selector: s}))
	}
	if len(r.nets) > 0 {
		add(b.set(definition{name: netsName(r.nets), kind: Networks, nets: r.nets}))
	}
	if len(r.domains) > 0 {
		names := newDomains(r.domains)
		add(b.set(definition{name: namesName(r.domains, false), kind: Pods, domains: names}))
		first := len(out)
		add(b.set(definition{name: namesName(r.domains, true), kind: Pods, domains: names, lapsed: true}))
		for i := range out[first:] {
			out[first+i].Standing = true
		}
	}
	if b.chain.Direction == Ingress {
		return out
	}
	selectors := r.peers
	if r.anybody {
		selectors = []selector{everyPod()}
	}
	for _, n := range r.named { // ports of the peers
		for _, s := range selectors {
			set := b.set(definition{name: portsName(s, n), kind: Ports, selector: s, port: n})
			out = append(out, Rule{Set: set, Verdict: r.verdict})
		}
	}
	return out
}

func (b *builder) set(d definition) string {
	b.sets[d.name] = d
	return d.name
}
