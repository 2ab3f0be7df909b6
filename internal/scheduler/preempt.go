package scheduler

import (
	"cmp"
	"container/heap"
	"math"
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	corev1 "k8s.io/component-helpers/scheduling/corev1"
)

// Eviction is a plan to make room for a pod.
type Eviction struct {
	Node string
	// Victims are the pods that must go, the most important first. All are less important than the pod.
	Victims []*v1.Pod
	// Violations is how many of them their disruption budgets would rather keep.
	Violations int
	// Yielding are pods that are nominated for the node and less important.
	Yielding []types.UID
}

// eviction is what it would take to make room on one node.
type eviction struct {
	ok bool
	// reason is why it can't be done; 0 if there is nobody to evict.
	reason     rejection
	violations int32
	highest    int32 // priority of the most important victim
	count      int32
	start      int64 // when the earliest of those began, in nanoseconds
	sum        int64 // of the victims' priorities, counted from the least
	// guarded says that a budget had a say, and generation which budgets.
	guarded    bool
	generation uint64
	// lot is drawn: it decides between nodes that cost the same.
	lot uint32
}

// better says whether it takes less than another: fewer violated budgets, less important victims, fewer, younger ones.
func (e *eviction) better(o *eviction) bool {
	switch {
	case e.violations != o.violations:
		return e.violations < o.violations
	case e.highest != o.highest:
		return e.highest < o.highest
	case e.sum != o.sum:
		return e.sum < o.sum
	case e.count != o.count:
		return e.count < o.count
	}
	return e.start > o.start
}

// evictions are kept for a class of pods of one priority, as results of filters are: only nodes that changed are tried again.
type evictions struct {
	seen    uint64
	used    uint64
	results []eviction // by node
	// best are the nodes where room can be made, as a heap: the one that costs least comes first. at is where each node is in it, -1 if it isn't.
	best, at []int32
	// generation is that of the budgets which had a say.
	generation uint64
}

// Len, Less, Swap, Push and Pop implement heap.Interface.
func (k *evictions) Len() int { return len(k.best) }

// Less puts first what takes less.
func (k *evictions) Less(x, y int) bool {
	a, b := &k.results[k.best[x]], &k.results[k.best[y]]
	return a.better(b) || a.lot < b.lot && !b.better(a)
}

// Swap exchanges two places.
func (k *evictions) Swap(x, y int) {
	k.best[x], k.best[y] = k.best[y], k.best[x]
	k.at[k.best[x]], k.at[k.best[y]] = int32(x), int32(y)
}

// Push puts the number of a node, an int32, last.
func (k *evictions) Push(x any) {
	i, _ := x.(int32)
	k.at[i] = int32(len(k.best))
	k.best = append(k.best, i)
}

// Pop takes the last one.
func (k *evictions) Pop() any {
	last := len(k.best) - 1
	i := k.best[last]
	k.at[i] = -1
	k.best = k.best[:last]
	return i
}

// set notes what it takes to make room on a node.
func (k *evictions) set(i int32, e eviction) {
	k.results[i] = e
	switch place := k.at[i]; {
	case e.ok && place < 0:
		heap.Push(k, i)
	case e.ok:
		heap.Fix(k, int(place))
	case place >= 0:
		heap.Remove(k, int(place))
	}
}

// resize makes room for n nodes.
func (k *evictions) resize(n int) {
	for len(k.results) < n {
		k.results = append(k.results, eviction{})
		k.at = append(k.at, -1)
	}
}

type evictionKey struct {
	class    string
	priority int32
}

// maxEvictions bounds for how many classes evictions are kept.
const maxEvictions = 16

// Preempt looks for the node on which room is made for a pod that Decide found none for, at the least cost to others. If there is none, it completes f with the reasons. It
// changes nothing.
func (s *Snapshot) Preempt(p *Pod, f *Failure) (Eviction, bool) {
	c, others, refusal, ok := s.preemption(p, f)
	if !ok {
		return Eviction{}, false
	}
	var at int
	if len(others) == 0 && p.only == nil && len(f.hopeless) == 0 {
		at = s.bestKept(c, p, f)
	} else {
		at = s.bestTried(c, p, others, refusal, f)
	}
	if at < 0 {
		return Eviction{}, false
	}
	return s.evictionOn(c, p, others, at), true
}

// Evictions are the plans that Preempt chooses from, as many as the profile has it try, for those who want a say in the choice. If there are none, it
// completes f with the reasons.
func (s *Snapshot) Evictions(p *Pod, f *Failure) []Eviction {
	c, others, refusal, ok := s.preemption(p, f)
	if !ok {
		return nil
	}
	var at []int
	s.try(c, p, others, refusal, f, func(i int, _ *eviction) { at = append(at, i) })
	out := make([]Eviction, len(at))
	for k, i := range at {
		out[k] = s.evictionOn(c, p, others, i)
	}
	return out
}

// leastOf is the plan that takes least, the first of several; there must be one.
func leastOf(plans []Eviction) Eviction {
	best, top := 0, eviction{}
	for k, plan := range plans {
		e := eviction{violations: int32(min(max(plan.Violations, 0), math.MaxInt32)), start: math.MaxInt64, highest: math.MinInt32}
		for _, v := range plan.Victims {
			e.add(corev1.PodPriority(v), startOf(v))
		}
		if k == 0 || e.better(&top) {
			best, top = k, e
		}
	}
	return plans[best]
}

// preemption says what to try to make room for a pod that Decide found none for; false if nothing can be.
func (s *Snapshot) preemption(p *Pod, f *Failure) (c *class, others []asked, refusal func(int) rejection, ok bool) {
	if f.Never != "" || f.Whole != "" || f.Helpless >= f.Nodes || !s.hasBelow(p.priority) {
		return nil, nil, nil, false
	}
	c, others, no := s.prepare(p)
	if no == nil && c.fitting == 0 {
		others, no = s.ask(p, c)
	}
	if no != nil {
		return nil, nil, nil, false
	}
	refusal = func(i int) rejection {
		r := c.rejections[i]
		for k := 0; r == 0 && k < len(others); k++ {
			r = others[k].filter(int32(i))
		}
		if r == 0 && f.hopeless[s.nodes[i].name] {
			r = rejectedForGood
		}
		return r
	}
	if i, ok := s.nominated[p.uid()]; ok && refusal(i)&rejectedForGood == 0 {
		if slices.ContainsFunc(s.nodes[i].pods, func(q *placed) bool { return q.priority < p.priority && terminating(q.pod) }) {
			f.Never = "not eligible due to a terminating pod on the nominated node."
			return nil, nil, nil, false
		}
	}
	return c, others, refusal, true
}

// evictionOn says what it takes to make room on a node where it can be made.
func (s *Snapshot) evictionOn(c *class, p *Pod, others []asked, at int) Eviction {
	var victims []*placed
	e := s.tryEviction(c, p, others, at, &victims)
	out := Eviction{Node: s.nodes[at].name, Violations: int(e.violations)}
	slices.SortFunc(victims, byImportance)
	for _, v := range victims {
		out.Victims = append(out.Victims, v.pod)
	}
	for _, o := range s.nodes[at].nominated {
		if o.priority < p.priority {
			out.Yielding = append(out.Yielding, o.uid())
		}
	}
	return out
}

// hasBelow says whether there is any pod of a lower priority on a node.
func (s *Snapshot) hasBelow(priority int32) bool {
	for have := range s.byPriority {
		if have < priority {
			return true
		}
	}
	return false
}

// bestKept finds the best node for pods that nothing but the class matters to, from what is kept. It returns -1 if there is none.
func (s *Snapshot) bestKept(c *class, p *Pod, f *Failure) int {
	key := evictionKey{p.key, p.priority}
	k := s.evictions[key]
	now := s.changed()
	if k == nil {
		if len(s.evictions) >= maxEvictions {
			s.dropOldestEvictions()
		}
		k = &evictions{}
		s.evictions[key] = k
	}
	if len(k.results) == 0 || k.seen < s.changesFrom || now-k.seen > uint64(len(s.nodes)) {
		*k = evictions{generation: s.budgets.generation}
		k.resize(len(s.nodes))
		for i := range s.nodes {
			if k.results[i] = s.tryUnlessHelpless(c, p, i); k.results[i].ok {
				k.Push(int32(i))
			}
		}
		heap.Init(k)
	} else {
		k.resize(len(s.nodes))
		for _, i := range s.changes[k.seen-s.changesFrom:] {
			k.set(int32(i), s.tryUnlessHelpless(c, p, int(i)))
		}
	}
	if k.generation != s.budgets.generation {
		k.generation = s.budgets.generation
		for i := range k.results {
			if e := &k.results[i]; e.guarded && e.generation != k.generation {
				k.set(int32(i), s.tryUnlessHelpless(c, p, i))
			}
		}
	}
	k.seen, k.used = now, s.uses
	best := -1
	if len(k.best) > 0 {
		best = int(k.best[0])
	}
	if best < 0 {
		f.Occupied, f.Unfit = 0, nil
		for i := range k.results {
			if r := c.rejections[i]; r != rejectedMissing && r&rejectedForGood == 0 {
				s.addUnfit(p, f, &k.results[i])
			}
		}
	}
	return best
}

func (s *Snapshot) dropOldestEvictions() {
	var oldest evictionKey
	least := s.uses + 1
	for key, k := range s.evictions {
		if k.used < least {
			oldest, least = key, k.used
		}
	}
	delete(s.evictions, oldest)
}

func (s *Snapshot) tryUnlessHelpless(c *class, p *Pod, i int) eviction {
	if c.rejections[i]&rejectedForGood != 0 {
		return eviction{}
	}
	return s.tryEviction(c, p, nil, i, nil)
}

// bestTried finds the best node for pods that more than the class matters to.
func (s *Snapshot) bestTried(c *class, p *Pod, others []asked, refusal func(int) rejection, f *Failure) int {
	best := -1
	var top eviction
	s.try(c, p, others, refusal, f, func(i int, e *eviction) {
		if best < 0 || e.better(&top) {
			best, top = i, *e
		}
	})
	return best
}

// try tries nodes, from a random one on, until room can be made on as many as the profile demands; each is told of those.
func (s *Snapshot) try(c *class, p *Pod, others []asked, refusal func(int) rejection, f *Failure, each func(int, *eviction)) {
	want, found := max(s.count*p.profile.minTriedPercent/100, p.profile.minTried, 1), 0
	f.Occupied, f.Unfit = 0, nil
	n := len(s.nodes)
	start := s.rand.IntN(n)
	for j := 0; j < n && found < want; j++ {
		i := (start + j) % n
		if r := refusal(i); r&rejectedForGood != 0 {
			continue
		}
		e := s.tryEviction(c, p, others, i, nil)
		if !e.ok {
			s.addUnfit(p, f, &e)
			continue
		}
		found++
		each(i, &e)
	}
}

// addUnfit counts a node where no eviction makes room.
func (s *Snapshot) addUnfit(p *Pod, f *Failure, e *eviction) {
	if e.reason == 0 {
		f.Occupied++
		return
	}
	if f.Unfit == nil {
		f.Unfit = map[string]int{}
	}
	_, texts := s.reasons(p, e.reason)
	for _, t := range texts {
		f.Unfit[t]++
	}
}

// tryEviction finds out which pods would have to leave a node for a pod: all that are less important are taken away, and then as many as can stay are put
// back, the most important first, but before them those that a disruption budget protects. victims, if it isn't nil, gets the others.
func (s *Snapshot) tryEviction(c *class, p *Pod, others []asked, i int, victims *[]*placed) eviction {
	n := &s.nodes[i]
	below := s.below[:0]
	for _, q := range n.pods {
		if q.priority < p.priority {
			below = append(below, q)
		}
	}
	s.below = below
	if len(below) == 0 || !n.exists {
		return eviction{}
	}
	t := s.newTrial(c, others, i)
	defer t.restore()
	for _, q := range below {
		t.move(q, -1)
	}
	t.addNominated(p)
	if r := t.filter(); r != 0 {
		return eviction{reason: r}
	}
	slices.SortFunc(below, byImportance)
	e := eviction{start: math.MaxInt64, highest: math.MinInt32, generation: s.budgets.generation, lot: s.rand.Uint32()}
	violating, guarded := s.budgets.violated(below)
	e.guarded = guarded
	for _, protected := range []bool{true, false} {
		for k, q := range below {
			if (violating != nil && violating[k]) != protected {
				continue
			}
			if t.move(q, 1); t.filter() == 0 {
				continue
			}
			t.move(q, -1)
			e.add(q.priority, startOf(q.pod))
			if protected {
				e.violations++
			}
			if victims != nil {
				*victims = append(*victims, q)
			}
		}
	}
	e.ok = e.count > 0
	return e
}

// add counts a victim.
func (e *eviction) add(priority int32, start int64) {
	e.count++
	e.sum += int64(priority) - math.MinInt32
	if priority > e.highest {
		e.highest, e.start = priority, start
	} else if priority == e.highest {
		e.start = min(e.start, start)
	}
}

// startOf is when a pod began to run; one that hasn't comes last.
func startOf(p *v1.Pod) int64 {
	if p.Status.StartTime == nil {
		return math.MaxInt64
	}
	return p.Status.StartTime.UnixNano()
}

// byImportance orders the more important pod first: by priority, then by how long it has been running.
func byImportance(a, b *placed) int {
	return cmp.Or(cmp.Compare(b.priority, a.priority), cmp.Compare(startOf(a.pod), startOf(b.pod)))
}
