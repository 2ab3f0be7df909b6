package scheduler

import (
	"slices"
)

// Decision is where a pod should go, or why it can't go anywhere.
type Decision struct {
	// Node is the name of the best node; empty if none fits.
	Node string
	// Nodes is how many nodes there are, Fitting how many of them would do.
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
// It changes nothing: the caller books the pod with Place.
func (s *Snapshot) Decide(p *Pod) Decision {
	if p.only != nil {
		return s.decideAmong(p)
	}
	c := s.classOf(p)
	var others []otherPods
	if c.fitting > 0 {
		others = s.otherPods(p, c)
	}
	d := Decision{Nodes: s.count}
	if len(others) == 0 && !c.hasRelative() {
		if d.Fitting = c.fitting; c.fitting > 0 {
			d.Node = s.nodes[s.best(c.own)].name
			return d
		}
		d.Failure = s.explain(p, c.rejections)
		return d
	}
	s.scratch.fitting = s.scratch.fitting[:0]
	for i, own := range c.own {
		if own != rejectedScore {
			s.scratch.fitting = append(s.scratch.fitting, int32(i))
		}
	}
	return s.decideFrom(p, c, others)
}

// decideAmong decides for a pod that names its nodes: only those are looked at.
func (s *Snapshot) decideAmong(p *Pod) Decision {
	c := newClass(s, p)
	c.resize(len(s.nodes))
	s.scratch.fitting = s.scratch.fitting[:0]
	for i := range s.nodes {
		if s.nodes[i].exists {
			c.rejections[i] = rejectedByName
		}
	}
	for _, name := range p.only {
		if i, ok := s.byName[name]; ok {
			if c.evaluate(s, i); c.rejections[i] == 0 {
				s.scratch.fitting = append(s.scratch.fitting, int32(i))
			}
		}
	}
	return s.decideFrom(p, c, s.otherPods(p, c))
}

func (c *class) hasRelative() bool {
	return slices.ContainsFunc(c.relative, func(r relative) bool { return r.nonzero > 0 })
}

// best returns the index of one of the largest numbers.
func (s *Snapshot) best(scores []int64) int {
	top, ties := int64(rejectedScore), 0
	for _, v := range scores {
		if v > top {
			top, ties = v, 1
		} else if v == top {
			ties++
		}
	}
	pick := 0
	if ties > 1 {
		pick = s.rand.IntN(ties)
	}
	for i, v := range scores {
		if v == top {
			if pick == 0 {
				return i
			}
			pick--
		}
	}
	return -1
}

// decideFrom applies what depends on other pods and on all nodes that fit (s.scratch.fitting).
func (s *Snapshot) decideFrom(p *Pod, c *class, others []otherPods) Decision {
	d := Decision{Nodes: s.count}
	rejections := c.rejections
	if len(others) > 0 {
		s.scratch.rejects = append(s.scratch.rejects[:0], c.rejections...)
		rejections = s.scratch.rejects
		s.scratch.fitting = slices.DeleteFunc(s.scratch.fitting, func(i int32) bool {
			for _, o := range others {
				if r := o.filter(i); r != 0 {
					rejections[i] = r
					return true
				}
			}
			return false
		})
	}
	fitting := s.scratch.fitting
	if d.Fitting = len(fitting); d.Fitting == 0 {
		d.Failure = s.explain(p, rejections)
		return d
	}
	if len(fitting) == 1 {
		d.Node = s.nodes[fitting[0]].name
		return d
	}
	scores := s.scratch.scores[:0]
	for _, i := range fitting {
		scores = append(scores, c.own[i])
	}
	for _, rel := range c.relative {
		var most int64
		for _, i := range fitting {
			most = max(most, rel.scores[i])
		}
		how, weight := rel.plugin.Normalize(), rel.plugin.Weight()
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
	d.Node = s.nodes[fitting[s.best(scores)]].name
	return d
}

// FitsOn says whether a pod could run on a node as things are, and how many like it, up to limit. Rules about other pods are not asked.
func (s *Snapshot) FitsOn(p *Pod, nodeName string, limit int) int {
	i, ok := s.byName[nodeName]
	if !ok || p.only != nil && !slices.Contains(p.only, nodeName) {
		return 0
	}
	c := s.classes[p.key]
	if c == nil || p.only != nil {
		c = newClass(s, p)
	}
	if s.filterNode(c, &s.nodes[i]) != 0 {
		return 0
	}
	return int(s.nodes[i].fits(p, int64(limit)))
}
