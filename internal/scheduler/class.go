package scheduler

// maxClasses bounds how many classes' results are kept.
const maxClasses = 256

// rejectedScore stands for the score of a node that doesn't fit: less than any.
const rejectedScore = -1

// class holds what the plugins say about pods that are equal to them, for every node. Results are brought up to date when the class is asked.
type class struct {
	// pod is one of the class; plugins may only look at what is in its key.
	pod        *Pod
	toleration []answer // by number of the taint

	// seen is the number of changes that the results take into account.
	seen       uint64
	rejections []rejection // by node
	own        []int64     // weighted sum of the scores that aren't normalized, or rejectedScore
	relative   []relative
	fitting    int // nodes that fit
	used       uint64
}

// relative holds the scores of a plugin that normalizes.
type relative struct {
	plugin score
	scores []int64
	// nonzero counts nodes with a score; without any the plugin makes no difference.
	nonzero int
}

func newClass(s *Snapshot, p *Pod) *class {
	c := &class{pod: p}
	for _, sc := range s.plugins.scores {
		if sc.Normalize() != asItIs && !sc.Skips(p) {
			c.relative = append(c.relative, relative{plugin: sc})
		}
	}
	return c
}

// classOf returns the class of a pod, up to date.
func (s *Snapshot) classOf(p *Pod) *class {
	c := s.classes[p.key]
	if c == nil {
		c = newClass(s, p)
		if len(s.classes) >= maxClasses {
			old := s.dropOldestClass()
			c.rejections, c.own = old.rejections[:0], old.own[:0] // their memory
		}
		s.classes[p.key] = c
	}
	s.uses++
	c.used = s.uses
	c.refresh(s)
	return c
}

func (s *Snapshot) dropOldestClass() *class {
	var oldest string
	least := s.uses + 1
	for key, c := range s.classes {
		if c.used < least {
			oldest, least = key, c.used
		}
	}
	c := s.classes[oldest]
	delete(s.classes, oldest)
	return c
}

// refresh evaluates the nodes that changed since the class was asked last.
func (c *class) refresh(s *Snapshot) {
	now := s.changesFrom + uint64(len(s.changes))
	if len(c.rejections) == 0 || c.seen < s.changesFrom || now-c.seen > uint64(len(s.nodes)) {
		c.resize(len(s.nodes))
		for i := range s.nodes {
			c.evaluate(s, i)
		}
	} else if c.seen < now {
		c.resize(len(s.nodes))
		for _, i := range s.changes[c.seen-s.changesFrom:] {
			c.evaluate(s, int(i))
		}
	}
	c.seen = now
}

// resize makes room for nodes that are new; they are among the changes.
func (c *class) resize(n int) {
	for len(c.rejections) < n {
		c.rejections = append(c.rejections, rejectedMissing)
		c.own = append(c.own, rejectedScore)
		for i := range c.relative {
			c.relative[i].scores = append(c.relative[i].scores, 0)
		}
	}
}

func (c *class) evaluate(s *Snapshot, i int) {
	n := &s.nodes[i]
	r := s.filterNode(c, n)
	if (c.rejections[i] == 0) != (r == 0) {
		if r == 0 {
			c.fitting++
		} else {
			c.fitting--
		}
	}
	c.rejections[i] = r
	c.own[i] = rejectedScore
	if r == 0 {
		c.own[i] = s.ownScore(c, n)
	}
	for k := range c.relative {
		rel := &c.relative[k]
		var v int64
		if r == 0 {
			v = rel.plugin.Score(s, c, n)
		}
		if (rel.scores[i] == 0) != (v == 0) {
			if v != 0 {
				rel.nonzero++
			} else {
				rel.nonzero--
			}
		}
		rel.scores[i] = v
	}
}

// ownScore is the weighted sum of the scores that aren't normalized.
func (s *Snapshot) ownScore(c *class, n *node) int64 {
	var sum int64
	for _, sc := range s.plugins.scores {
		if sc.Normalize() == asItIs && !sc.Skips(c.pod) {
			sum += sc.Weight() * sc.Score(s, c, n)
		}
	}
	return sum
}

// normalize brings v into 0 to 100, where most is the largest of all.
func normalize(how normalization, v, most int64) int64 {
	if most == 0 {
		if how == largestIsWorst {
			return maxNodeScore
		}
		return 0
	}
	v = v * maxNodeScore / most
	if how == largestIsWorst {
		v = maxNodeScore - v
	}
	return v
}
