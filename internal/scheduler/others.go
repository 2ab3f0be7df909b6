package scheduler

import (
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// What a pod demands of others (inter-pod affinity, topology spread) depends on where matching pods are. Every distinct demand has a counter of
// matching pods per node, which is made when it is first asked for and from then on follows every pod that comes or goes.

// asked is a plugin that looks at more than the class of a pod and the node, prepared for one pod. What it says is asked anew for each decision.
type asked interface {
	filter(i int32) rejection
	// score appends the weighted, normalized scores of the nodes, or nothing if it has no say.
	score(s *Snapshot, nodes []int32, out []int64) []int64
	// adjust pretends that a pod came to its node (by is 1) or left it (-1). Only filter takes that into account.
	adjust(s *Snapshot, q *placed, by int64)
}

// refusal says that a pod fits nowhere, whatever the node.
type refusal struct {
	plugin, message string
	// quiet says that it will be over soon by itself, so that nobody needs to be told.
	quiet bool
}

// matcher selects pods.
type matcher struct {
	namespaces []string // sorted
	// spaces selects further namespaces by their labels; nil selects none.
	spaces labels.Selector
	pods   []labels.Selector // all must match
	// alive leaves out pods that are being deleted.
	alive bool
	// every, if set, are matchers which all must match, instead of the above.
	every []matcher
	key   string
}

func newMatcher(namespaces []string, spaces labels.Selector, alive bool, pods ...labels.Selector) matcher {
	m := matcher{namespaces: slices.Compact(slices.Sorted(slices.Values(namespaces))), spaces: spaces, pods: pods, alive: alive}
	var b strings.Builder
	b.WriteString(strings.Join(m.namespaces, ","))
	if spaces != nil {
		b.WriteString("\x00s" + spaces.String())
	}
	if alive {
		b.WriteString("\x00a")
	}
	for _, p := range pods {
		b.WriteString("\x00p" + p.String())
		if p == labels.Nothing() {
			b.WriteString("\x00nothing")
		}
	}
	m.key = b.String()
	return m
}

func (m *matcher) matches(s *Snapshot, p *v1.Pod) bool {
	if m.every != nil {
		for i := range m.every {
			if !m.every[i].matches(s, p) {
				return false
			}
		}
		return true
	}
	if m.alive && p.DeletionTimestamp != nil {
		return false
	}
	if _, ok := slices.BinarySearch(m.namespaces, p.Namespace); !ok && (m.spaces == nil || !m.spaces.Matches(s.counters.namespaces[p.Namespace])) {
		return false
	}
	for _, sel := range m.pods {
		if !sel.Matches(labels.Set(p.Labels)) {
			return false
		}
	}
	return true
}

// counter counts pods per node.
type counter struct {
	matcher
	nodes []int32
	total int
	used  uint64
}

func (c *counter) add(node int, by int32) {
	for node >= len(c.nodes) {
		c.nodes = append(c.nodes, 0)
	}
	c.nodes[node] += by
	c.total += int(by)
}

// at is the number for a node.
func (c *counter) at(i int32) int64 {
	if int(i) < len(c.nodes) {
		return int64(c.nodes[i])
	}
	return 0
}

// podTerm is a term of a pod's affinity or anti-affinity: other pods, and the label that says which nodes are one place.
type podTerm struct {
	matcher
	topology uint32
	weight   int64 // for preferred terms; negative for anti-affinity
	required bool
}

// holder counts, per node, the pods that have a term.
type holder struct {
	term  podTerm
	count counter
}

// podRules is what a pod demands of others.
type podRules struct {
	spread              []spreadRule
	affinity, anti      []podTerm
	preferred           []podTerm
	matchesItsOwn       bool
	hasSpread, hasTerms bool
}

func (s *Snapshot) newPodRules(pod *v1.Pod) *podRules {
	if len(pod.Spec.TopologySpreadConstraints) == 0 && (pod.Spec.Affinity == nil || pod.Spec.Affinity.PodAffinity == nil && pod.Spec.Affinity.PodAntiAffinity == nil) {
		return nil
	}
	r := &podRules{}
	for i := range pod.Spec.TopologySpreadConstraints {
		r.spread = append(r.spread, s.newSpreadRule(pod, &pod.Spec.TopologySpreadConstraints[i]))
	}
	if a := pod.Spec.Affinity; a != nil {
		if p := a.PodAffinity; p != nil {
			for i := range p.RequiredDuringSchedulingIgnoredDuringExecution {
				r.affinity = append(r.affinity, s.newPodTerm(pod, &p.RequiredDuringSchedulingIgnoredDuringExecution[i], 0))
			}
			for i := range p.PreferredDuringSchedulingIgnoredDuringExecution {
				w := &p.PreferredDuringSchedulingIgnoredDuringExecution[i]
				r.preferred = append(r.preferred, s.newPodTerm(pod, &w.PodAffinityTerm, int64(w.Weight)))
			}
		}
		if p := a.PodAntiAffinity; p != nil {
			for i := range p.RequiredDuringSchedulingIgnoredDuringExecution {
				r.anti = append(r.anti, s.newPodTerm(pod, &p.RequiredDuringSchedulingIgnoredDuringExecution[i], 0))
			}
			for i := range p.PreferredDuringSchedulingIgnoredDuringExecution {
				w := &p.PreferredDuringSchedulingIgnoredDuringExecution[i]
				r.preferred = append(r.preferred, s.newPodTerm(pod, &w.PodAffinityTerm, -int64(w.Weight)))
			}
		}
	}
	r.hasSpread = len(r.spread) > 0
	r.hasTerms = len(r.affinity)+len(r.anti)+len(r.preferred) > 0
	if !r.hasSpread && !r.hasTerms {
		return nil
	}
	r.matchesItsOwn = len(r.affinity) > 0
	for i := range r.affinity {
		r.matchesItsOwn = r.matchesItsOwn && r.affinity[i].matches(s, pod)
	}
	return r
}

func (s *Snapshot) newPodTerm(pod *v1.Pod, t *v1.PodAffinityTerm, weight int64) podTerm {
	namespaces := t.Namespaces
	if len(namespaces) == 0 && t.NamespaceSelector == nil {
		namespaces = []string{pod.Namespace}
	}
	var spaces labels.Selector
	if t.NamespaceSelector != nil {
		spaces = selectorOf(t.NamespaceSelector)
	}
	sel := withLabelKeys(withLabelKeys(t.LabelSelector, pod, t.MatchLabelKeys, metav1.LabelSelectorOpIn), pod, t.MismatchLabelKeys, metav1.LabelSelectorOpNotIn)
	return podTerm{matcher: newMatcher(namespaces, spaces, false, selectorOf(sel)), topology: s.strings.id(t.TopologyKey), weight: weight, required: weight == 0}
}

// selectorOf is nothing for a selector that isn't there or can't be read; validation refuses the latter.
func selectorOf(l *metav1.LabelSelector) labels.Selector {
	sel, err := metav1.LabelSelectorAsSelector(l)
	if err != nil {
		return labels.Nothing()
	}
	return sel
}

// withLabelKeys adds the pod's own values of some labels to a selector (KEP-3243, KEP-3633). The API server may have done so already, which makes no difference.
func withLabelKeys(l *metav1.LabelSelector, pod *v1.Pod, keys []string, op metav1.LabelSelectorOperator) *metav1.LabelSelector {
	if l == nil || len(keys) == 0 {
		return l
	}
	out := l.DeepCopy()
	for _, k := range keys {
		if v, ok := pod.Labels[k]; ok {
			out.MatchExpressions = append(out.MatchExpressions, metav1.LabelSelectorRequirement{Key: k, Operator: op, Values: []string{v}})
		}
	}
	return out
}

// maxCounters bounds how many demands have counters.
const maxCounters = 512

// counters follows pods for all demands.
type counters struct {
	matching map[string]*counter // by matcher
	// avoid are required anti-affinity terms, wish the others, of pods on nodes: by topology, weight and matcher.
	avoid, wish map[termKey]*holder
	namespaces  map[string]labels.Set
	domains     map[uint32]*domains
	uses        uint64
}

type termKey struct {
	topology uint32
	weight   int64
	matcher  string
}

func newCounters() counters {
	return counters{
		matching: map[string]*counter{}, avoid: map[termKey]*holder{}, wish: map[termKey]*holder{},
		namespaces: map[string]labels.Set{}, domains: map[uint32]*domains{},
	}
}

// SetNamespace tells of a namespace's labels, which affinity may select by; nil labels for one that is gone. It says whether that is new.
func (s *Snapshot) SetNamespace(name string, l map[string]string) (changed bool) {
	if labels.Equals(s.counters.namespaces[name], l) && (l != nil) == (s.counters.namespaces[name] != nil) {
		return false
	}
	if s.counters.namespaces[name] = l; l == nil {
		delete(s.counters.namespaces, name)
	}
	for key, c := range s.counters.matching {
		if c.spaces != nil { // also for those of several terms, any of which may select by labels
			delete(s.counters.matching, key) // counted anew when it is asked for
		}
	}
	return true
}

// add follows a pod that comes to a node or leaves it.
func (c *counters) add(s *Snapshot, p *placed, by int32) {
	for _, m := range c.matching {
		if m.matches(s, p.pod) {
			m.add(p.node, by)
		}
	}
	if p.others == nil {
		return
	}
	hold := func(into map[termKey]*holder, terms []podTerm) {
		for _, t := range terms {
			key := termKey{t.topology, t.weight, t.key}
			h := into[key]
			if h == nil {
				h = &holder{term: t}
				into[key] = h
			}
			if h.count.add(p.node, by); h.count.total == 0 {
				delete(into, key)
			}
		}
	}
	hold(c.avoid, p.others.anti)
	hold(c.wish, p.others.affinity)
	hold(c.wish, p.others.preferred)
}

// counter returns the counter of a matcher.
func (s *Snapshot) counter(m *matcher) *counter {
	c := s.counters.matching[m.key]
	if c == nil {
		c = &counter{matcher: *m}
		for _, p := range s.pods {
			if c.matches(s, p.pod) {
				c.add(p.node, 1)
			}
		}
		if len(s.counters.matching) >= maxCounters {
			var oldest string
			least := s.counters.uses + 1
			for key, o := range s.counters.matching {
				if o.used < least {
					oldest, least = key, o.used
				}
			}
			delete(s.counters.matching, oldest)
		}
		s.counters.matching[m.key] = c
	}
	s.counters.uses++
	c.used = s.counters.uses
	return c
}

// domains says in which place each node is, by one label: a number for the label's value, or -1. It follows the snapshot's changes.
type domains struct {
	key  uint32
	of   []int32
	ids  map[uint32]int32 // of the label's values
	seen uint64
}

func (s *Snapshot) domainsOf(key uint32) *domains {
	d := s.counters.domains[key]
	if d == nil {
		d = &domains{key: key, ids: map[uint32]int32{}}
		s.counters.domains[key] = d
	}
	now := s.changed()
	set := func(i int) {
		n := &s.nodes[i]
		d.of[i] = -1
		if v, ok := n.value(key); ok && n.exists {
			id, ok := d.ids[v]
			if !ok {
				id = int32(len(d.ids))
				d.ids[v] = id
			}
			d.of[i] = id
		}
	}
	all := d.of == nil || d.seen < s.changesFrom
	for len(d.of) < len(s.nodes) {
		d.of = append(d.of, -1)
	}
	if all {
		for i := range s.nodes {
			set(i)
		}
	} else {
		for _, i := range s.changes[d.seen-s.changesFrom:] {
			set(int(i))
		}
	}
	d.seen = now
	return d
}

// among is in how many places those nodes are that aren't marked in a list; all that are nowhere are in one.
func (d *domains) among(s *Snapshot, nodes []int32, list []int64, mark int64) int {
	t, nowhere := s.newTally(d), 0
	for k, i := range nodes {
		switch id := d.of[i]; {
		case list[k] == mark:
		case id < 0:
			nowhere = 1
		case !t.known[id]:
			t.add(id, 0)
		}
	}
	return len(t.list) + nowhere
}

// tally is a number for each domain: a map that is quick to fill and to clear.
type tally struct {
	counts []int64
	known  []bool
	list   []int32 // the domains that are known
	sum    int64   // of all counts
}

// newTally returns an empty tally for domains. It is good until the next decision.
func (s *Snapshot) newTally(d *domains) *tally {
	var t *tally
	if s.tallied < len(s.tallies) {
		t = s.tallies[s.tallied]
	} else {
		t = &tally{}
		s.tallies = append(s.tallies, t)
	}
	s.tallied++
	for _, k := range t.list {
		t.counts[k], t.known[k] = 0, false
	}
	t.list, t.sum = t.list[:0], 0
	if missing := len(d.ids) - len(t.counts); missing > 0 {
		t.counts = append(t.counts, make([]int64, missing)...)
		t.known = append(t.known, make([]bool, missing)...)
	}
	return t
}

func (t *tally) add(domain int32, n int64) {
	if !t.known[domain] {
		t.known[domain] = true
		t.list = append(t.list, domain)
	}
	t.counts[domain] += n
	t.sum += n
}

// places adds up a counter over the nodes of each domain, weighted.
func (s *Snapshot) places(t *tally, d *domains, c *counter, weight int64) {
	for i, n := range c.nodes {
		if n != 0 && i < len(d.of) && d.of[i] >= 0 {
			t.add(d.of[i], weight*int64(n))
		}
	}
}

// ask prepares the plugins that look at more than the node, if they have anything to say.
func (s *Snapshot) ask(p *Pod, c *class) ([]asked, *refusal) {
	s.tallied = 0
	var out []asked
	on := p.profile.asked
	if p.volumes != nil {
		vs, no := s.askVolumes(p)
		if no != nil {
			return nil, no
		}
		out = append(out, vs...)
	}
	if d, no := s.askDevices(p); no != nil {
		return nil, no
	} else if d != nil {
		out = append(out, d)
	}
	if rules := s.spreadRules(p); len(rules) > 0 {
		out = append(out, s.newSpread(p, c, rules, on[NamePodTopologySpread]))
	}
	if w := s.newWary(p); w != nil {
		out = append(out, w)
	}
	if p.others == nil && len(s.counters.avoid) == 0 && len(s.counters.wish) == 0 {
		return out, nil
	}
	if on[NameInterPodAffinity] || p.profile.interPodWeight > 0 {
		if i := s.newInterPod(p, on[NameInterPodAffinity]); i != nil {
			out = append(out, i)
		}
	}
	return out, nil
}

// spreadsWith says whether a waiting pod must keep its distance from pods like another one, be that alive or not.
func (s *Snapshot) spreadsWith(waiting, other *Pod) bool {
	var rules []spreadRule
	switch own := waiting.others != nil && waiting.others.hasSpread; {
	case own:
		rules = waiting.others.spread
	case waiting.profile.spreadsHard:
		rules = s.spreadRules(waiting)
	}
	return slices.ContainsFunc(rules, func(r spreadRule) bool {
		r.alive = false
		return r.hard && r.matches(s, other.pod)
	})
}

// concerns says whether it can matter to a waiting pod that another comes to a node or leaves one.
func (s *Snapshot) concerns(waiting, other *Pod) bool {
	if s.spreadsWith(waiting, other) {
		return true
	}
	if r := waiting.others; r != nil {
		for _, terms := range [][]podTerm{r.affinity, r.anti} {
			for i := range terms {
				if terms[i].matches(s, other.pod) {
					return true
				}
			}
		}
	}
	if other.others != nil {
		for i := range other.others.anti {
			if other.others.anti[i].matches(s, waiting.pod) {
				return true
			}
		}
	}
	return false
}
