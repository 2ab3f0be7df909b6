package scheduler

// maxClasses bounds how many classes' results are kept.
const maxClasses = 256

// class holds what the plugins say about pods that are equal to them, for every node. Results are brought up to date when the class is asked.
type class struct {
	profile *profile
	// pod is one of the class; plugins may only look at what is in its key.
	pod        *Pod
	toleration []answer // by number of the taint

	// kept says that the class is one of those of the snapshot.
	kept bool
	// seen is the number of changes that the results take into account.
	seen       uint64
	rejections []rejection         // by node
	counts     map[rejection]int32 // how many nodes have a rejection
	own        ranking             // by the weighted sum of the scores that aren't normalized
	relative   []relative
	fitting    int // nodes that fit
	// crowded is what besides said of nodes that others are nominated for; it ends with the node's next change.
	crowded []crowd
	used    uint64
	// hint is what was said about the nearest fit when seen was one less than hintFor.
	hint    string
	hintFor uint64
}

// relative holds the scores of a plugin that normalizes.
type relative struct {
	plugin weighted
	scores []int64
	// nonzero counts nodes with a score; without any the plugin makes no difference.
	nonzero int
}

func newClass(p *Pod) *class {
	c := &class{pod: p, profile: p.profile, counts: map[rejection]int32{}, own: newRanking(p.profile.most())}
	for _, sc := range p.profile.scores {
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
		c = newClass(p)
		if len(s.classes) >= maxClasses {
			s.dropOldestClass()
		}
		c.kept = true
		s.classes[p.key] = c
	}
	s.uses++
	c.used = s.uses
	c.refresh(s)
	return c
}

func (s *Snapshot) dropOldestClass() {
	var oldest string
	least := s.uses + 1
	for key, c := range s.classes {
		if c.used < least {
			oldest, least = key, c.used
		}
	}
	s.dropSpreads(s.classes[oldest])
	delete(s.classes, oldest)
}

// refresh evaluates the nodes that changed since the class was asked last.
func (c *class) refresh(s *Snapshot) {
	now := s.changed()
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
	c.own.resize(n)
	for len(c.rejections) < n {
		c.rejections = append(c.rejections, rejectedMissing)
		for i := range c.relative {
			c.relative[i].scores = append(c.relative[i].scores, 0)
		}
	}
}

// reject sets what is said against a node.
func (c *class) reject(i int, r rejection) {
	old := c.rejections[i]
	if old == r {
		return
	}
	c.rejections[i] = r
	switch old {
	case 0:
		c.fitting--
	case rejectedMissing:
	default:
		if c.counts[old]--; c.counts[old] == 0 {
			delete(c.counts, old)
		}
	}
	switch r {
	case 0:
		c.fitting++
	case rejectedMissing:
	default:
		c.counts[r]++
	}
}

func (c *class) evaluate(s *Snapshot, i int) {
	n := &s.nodes[i]
	r := s.filterNode(c, n)
	c.reject(i, r)
	if i < len(c.crowded) {
		c.crowded[i] = crowd{}
	}
	if r != 0 {
		c.own.set(i, rejectedScore)
	} else {
		c.own.set(i, s.ownScore(c, n))
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
	for _, sc := range c.profile.scores {
		if sc.Normalize() == asItIs && !sc.Skips(c.pod) {
			sum += sc.weight * sc.Score(s, c, n)
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
