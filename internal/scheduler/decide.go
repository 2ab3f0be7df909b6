package scheduler

import (
	"slices"
	"strconv"
)

// Decision is where a pod should go, or why it can't go anywhere.
type Decision struct {
	// Node is the name of the best node; empty if none fits.
	Node string
	// Nodes is how many nodes there are, Fitting how many of those that were looked at would do.
	Nodes, Fitting int
	// Failure explains why there is no node.
	Failure *Failure
}

// scratch is memory that one decision after another uses.
type scratch struct {
	fitting []int32
	scores  []int64
	raw     []int64
	rejects []rejection
}

// Decide chooses a node for a pod: of those that all filters accept the one with the highest sum of weighted scores, at random if there are several.
// In large clusters the search ends when enough nodes are found, if it has to look at each of them. A node that the pod is nominated for comes first. It
// changes nothing: the caller books the pod with Place.
func (s *Snapshot) Decide(p *Pod) Decision {
	if i, ok := s.nominated[p.uid()]; ok {
		if c, others, ok := s.fitsNominated(p, i); ok && s.tryBesides(c, p, others, int32(i)) == 0 {
			return Decision{Node: s.nodes[i].name, Nodes: s.count, Fitting: 1}
		}
	}
	c, others, no := s.prepare(p)
	if no != nil {
		return s.refused(p, no)
	}
	if p.only == nil && c.fitting > 0 && len(others) == 0 && !c.hasRelative() {
		if i := c.own.best(s.rand); s.besides(c, p, nil, int32(i), s.ownNomination(p)) == 0 {
			return Decision{Node: s.nodes[i].name, Nodes: s.count, Fitting: c.fitting}
		}
	}
	if f := s.search(p, c, others); f != nil {
		return Decision{Nodes: s.count, Failure: f}
	}
	d := Decision{Nodes: s.count, Fitting: len(s.scratch.fitting)}
	k := 0
	if d.Fitting > 1 {
		k = best(s.scoresOf(c, others), s.rand)
	}
	d.Node = s.nodes[s.scratch.fitting[k]].name
	return d
}

// prepare brings up to date what is kept for a pod and prepares the plugins that are asked.
func (s *Snapshot) prepare(p *Pod) (*class, []asked, *refusal) {
	var c *class
	if p.only == nil {
		c = s.classOf(p)
		if c.fitting == 0 && p.volumes == nil && len(p.pod.Spec.ResourceClaims) == 0 {
			return c, nil, nil
		}
	} else {
		// A pod that names its nodes: only those are looked at.
		c = newClass(p)
		c.resize(len(s.nodes))
		for i := range s.nodes {
			if s.nodes[i].exists {
				c.reject(i, rejectedByName)
			}
		}
		for _, name := range p.only {
			if i, ok := s.byName[name]; ok {
				c.evaluate(s, i)
			}
		}
	}
	others, no := s.ask(p, c)
	return c, others, no
}

func (c *class) hasRelative() bool {
	return slices.ContainsFunc(c.relative, func(r relative) bool { return r.nonzero > 0 })
}

// fitsNominated says whether a pod fits on a node, other pods' nominations aside. What is kept for the class that it returns may be out of date.
func (s *Snapshot) fitsNominated(p *Pod, i int) (*class, []asked, bool) {
	if p.only != nil && !slices.Contains(p.only, s.nodes[i].name) {
		return nil, nil, false
	}
	c := s.classes[p.key]
	if c == nil || p.only != nil {
		c = newClass(p)
	}
	if s.filterNode(c, &s.nodes[i]) != 0 {
		return nil, nil, false
	}
	others, no := s.ask(p, c)
	if no != nil {
		return nil, nil, false
	}
	for _, o := range others {
		if o.filter(int32(i)) != 0 {
			return nil, nil, false
		}
	}
	return c, others, true
}

// search goes through the nodes that the class doesn't refuse until enough of them fit by the word of the others too: s.scratch.fitting.
// If there are none, it says why.
func (s *Snapshot) search(p *Pod, c *class, others []asked) *Failure {
	fitting := s.scratch.fitting[:0]
	s.scratch.fitting = fitting
	if c.fitting == 0 {
		return s.explain(p, c.counts)
	}
	rejects := append(s.scratch.rejects[:0], c.rejections...)
	s.scratch.rejects = rejects
	enough := p.profile.enough(s.count)
	n := len(rejects)
	start, looked, own := 0, 0, s.ownNomination(p)
	if enough < s.count {
		// Not all are looked at: from a place that chance chooses, so that every node has its turn, whoever asks (Borg's relaxed randomization).
		start = s.rand.IntN(n)
	}
	for ; looked < n && len(fitting) < enough; looked++ {
		i := start + looked
		if i >= n {
			i -= n
		}
		if rejects[i] != 0 {
			continue
		}
		var r rejection
		for _, o := range others {
			if r = o.filter(int32(i)); r != 0 {
				break
			}
		}
		if r == 0 {
			r = s.besides(c, p, others, int32(i), own)
		}
		if rejects[i] = r; r == 0 {
			fitting = append(fitting, int32(i))
		}
	}
	if s.scratch.fitting = fitting; len(fitting) == 0 {
		return s.explain(p, countRejections(rejects))
	}
	return nil
}

// scoresOf adds up the scores of the nodes in s.scratch.fitting.
func (s *Snapshot) scoresOf(c *class, others []asked) []int64 {
	fitting := s.scratch.fitting
	scores := s.scratch.scores[:0]
	for _, i := range fitting {
		scores = append(scores, c.own.scores[i])
	}
	for _, rel := range c.relative {
		var most int64
		for _, i := range fitting {
			most = max(most, rel.scores[i])
		}
		how, weight := rel.plugin.Normalize(), rel.plugin.weight
		for k, i := range fitting {
			scores[k] += weight * normalize(how, rel.scores[i], most)
		}
	}
	for _, o := range others {
		s.scratch.raw = o.score(s, fitting, s.scratch.raw[:0])
		for k, v := range s.scratch.raw {
			scores[k] += v
		}
	}
	s.scratch.scores = scores
	return scores
}

// FitsOn says whether a pod could run on a node as things are, nominations aside, and how many like it, up to limit. Rules about other pods and volumes
// are not asked.
func (s *Snapshot) FitsOn(p *Pod, nodeName string, limit int) int {
	return s.roomOn(p, nodeName, limit, false)
}

// RoomFor is FitsOn when those are there that are nominated for the node and no less important.
func (s *Snapshot) RoomFor(p *Pod, nodeName string, limit int) int {
	return s.roomOn(p, nodeName, limit, true)
}

func (s *Snapshot) roomOn(p *Pod, nodeName string, limit int, nominated bool) int {
	i, ok := s.byName[nodeName]
	if !ok || p.only != nil && !slices.Contains(p.only, nodeName) {
		return 0
	}
	c := s.classes[p.key]
	if c == nil || p.only != nil {
		c = newClass(p)
	}
	n := &s.nodes[i]
	if s.filterNode(c, n) != 0 {
		return 0
	}
	if nominated && len(n.nominated) > 0 {
		t := s.newTrial(c, nil, i)
		defer t.restore()
		if t.addNominated(p) {
			if t.filter() != 0 {
				return 0
			}
			n = &t.node
		}
	}
	return int(n.fits(p, int64(limit)))
}

// refused is the decision for a pod that fits nowhere, whatever the node.
func (s *Snapshot) refused(p *Pod, no *refusal) Decision {
	f := s.newFailure(p)
	f.Whole, f.Plugins, f.Helpless, f.Quiet = no.message, []string{no.plugin}, s.count, no.quiet
	return Decision{Nodes: s.count, Failure: f}
}

// Verdict is what the plugins say about a pod on one node.
type Verdict struct {
	Node string
	// Refusals are of all filters, in their order; none if the pod fits.
	Refusals []Refusal
	// Score is the sum of the weighted scores among the nodes that fit.
	Score int64
}

// Refusal is why one plugin doesn't want a pod on a node.
type Refusal struct {
	Plugin  string
	Reasons []string
	// Helpless says that no eviction of other pods from the node would change that.
	Helpless bool
	// Lacks says of resources that are short how much the pod wants and how much is free, in the units of the resource (milli-CPUs, bytes, pieces).
	Lacks []Shortage
}

// Shortage is a resource of which a node has too little.
type Shortage struct {
	Resource           string
	Wanted, Free, Size int64
}

// Diagnose says, for each node in the order of their names, everything that speaks against a pod there; whole, if it isn't empty, is what speaks against the pod
// anywhere, and which plugin says so.
func (s *Snapshot) Diagnose(p *Pod) (verdicts []Verdict, plugin, whole string) {
	c := newClass(p)
	c.resize(len(s.nodes))
	others, no := s.ask(p, c)
	if no != nil {
		plugin, whole = no.plugin, no.message
	}
	s.scratch.fitting = s.scratch.fitting[:0]
	var fitting []int // of the verdicts
	names := make([]string, 0, s.count)
	for i := range s.nodes {
		if s.nodes[i].exists {
			names = append(names, s.nodes[i].name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		i := s.byName[name]
		n := &s.nodes[i]
		v := Verdict{Node: name}
		refuse := func(r rejection) {
			plugin, reasons := s.reasons(p, r)
			ref := Refusal{Plugin: plugin, Reasons: reasons, Helpless: r&rejectedForGood != 0}
			if plugin == NameNodeResourcesFit {
				ref.Lacks = s.lacks(p, n)
			}
			v.Refusals = append(v.Refusals, ref)
		}
		c.evaluate(s, i)
		if p.only != nil && !slices.Contains(p.only, name) {
			refuse(rejectedByName)
		}
		for k, f := range p.profile.filters {
			if r := f.Filter(s, c, n); r != 0 {
				refuse(r | rejection(k+1))
			}
		}
		for _, o := range others {
			if r := o.filter(int32(i)); r != 0 {
				refuse(r)
			}
		}
		if len(v.Refusals) == 0 && no == nil {
			if r := s.besides(c, p, others, int32(i), s.ownNomination(p)); r != 0 {
				refuse(r)
			}
		}
		if len(v.Refusals) == 0 && no == nil {
			s.scratch.fitting = append(s.scratch.fitting, int32(i))
			fitting = append(fitting, len(verdicts))
		}
		verdicts = append(verdicts, v)
	}
	for k, score := range s.scoresOf(c, others) {
		verdicts[fitting[k]].Score = score
	}
	return verdicts, plugin, whole
}

// lacks are the resources that a node has too little of for a pod.
func (s *Snapshot) lacks(p *Pod, n *node) []Shortage {
	var out []Shortage
	add := func(name string, wanted, used, size int64) {
		if wanted > 0 && wanted > size-used {
			out = append(out, Shortage{name, wanted, size - used, size})
		}
	}
	q := &p.requests
	add("pods", 1, n.used.pods, n.capacity.pods)
	add("cpu", q.milliCPU, n.used.milliCPU, n.capacity.milliCPU)
	add("memory", q.memoryBytes, n.used.memoryBytes, n.capacity.memoryBytes)
	add("ephemeral-storage", q.ephemeralBytes, n.used.ephemeralBytes, n.capacity.ephemeralBytes)
	for _, e := range q.extended {
		add(s.resources.values[e.resource], e.amount, n.used.other(e.resource), n.capacity.other(e.resource))
	}
	return out
}

func (r Shortage) String() string {
	return r.Resource + ": wanted " + strconv.FormatInt(r.Wanted, 10) + ", free " + strconv.FormatInt(r.Free, 10) + " of " + strconv.FormatInt(r.Size, 10)
}
