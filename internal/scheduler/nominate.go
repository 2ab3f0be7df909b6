package scheduler

import (
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Nominate says that room is being made for a pod on a node: pods that are no more important don't take it.
func (s *Snapshot) Nominate(p *Pod, nodeName string) {
	if i, ok := s.nominated[p.uid()]; ok && s.nodes[i].name == nodeName {
		k := slices.IndexFunc(s.nodes[i].nominated, func(o *placed) bool { return o.uid() == p.uid() })
		before := s.nodes[i].nominated[k]
		s.nodes[i].nominated[k] = &placed{Pod: p, node: i}
		if before.priority != p.priority || !samePlaced(before.Pod, p) {
			s.touch(i)
		}
		return
	}
	s.Unnominate(p.uid())
	i := s.slot(nodeName)
	s.nodes[i].nominated = append(s.nodes[i].nominated, &placed{Pod: p, node: i})
	s.nominated[p.uid()] = i
	s.touch(i)
}

// Unnominate ends a nomination. It returns the node's name, or "" if there was none.
func (s *Snapshot) Unnominate(uid types.UID) string {
	i, ok := s.nominated[uid]
	if !ok {
		return ""
	}
	delete(s.nominated, uid)
	n := &s.nodes[i]
	name := n.name
	n.nominated = slices.DeleteFunc(n.nominated, func(p *placed) bool { return p.uid() == uid })
	s.touch(i)
	s.freeSlot(i)
	return name
}

// NominatedFor returns the name of the node that a pod is nominated for, or "".
func (s *Snapshot) NominatedFor(uid types.UID) string {
	if i, ok := s.nominated[uid]; ok {
		return s.nodes[i].name
	}
	return ""
}

// ownNomination is the number of the node that a pod is nominated for, or -1.
func (s *Snapshot) ownNomination(p *Pod) int32 {
	if i, ok := s.nominated[p.uid()]; ok {
		return int32(i)
	}
	return -1
}

// besides says whether a pod that fits on a node still does when those that are nominated for it, and no less important, are there. own is what ownNomination says,
// and the class is up to date.
func (s *Snapshot) besides(c *class, p *Pod, others []asked, i, own int32) rejection {
	if len(s.nominated) == 0 {
		return 0
	}
	if len(others) > 0 || i == own {
		return s.tryBesides(c, p, others, i)
	}
	// Nothing but the node and the class matters: it is said anew only when the node has changed.
	for len(c.crowded) < len(s.nodes) {
		c.crowded = append(c.crowded, crowd{})
	}
	k := &c.crowded[i]
	if !k.known || k.priority != p.priority {
		*k = crowd{known: true, priority: p.priority, says: s.tryBesides(c, p, nil, i)}
	}
	return k.says
}

// crowd is what besides says to pods of a class and a priority that aren't nominated for the node themselves.
type crowd struct {
	known    bool
	priority int32
	says     rejection
}

// tryBesides is besides without what is kept, for a class that may be out of date.
func (s *Snapshot) tryBesides(c *class, p *Pod, others []asked, i int32) rejection {
	if len(s.nodes[i].nominated) == 0 {
		return 0
	}
	t := s.newTrial(c, others, int(i))
	defer t.restore()
	if !t.addNominated(p) {
		return 0
	}
	return t.filter()
}

// trial is a node on which pods are taken away and added to see what that would change. It changes nothing but what the asked plugins have been told, and that only
// until restore.
type trial struct {
	s      *Snapshot
	c      *class
	others []asked
	index  int
	node   node
	moves  []move
	// extended is memory for the node's amounts.
	extended []int64
}

type move struct {
	pod *placed
	by  int64
}

func (s *Snapshot) newTrial(c *class, others []asked, i int) *trial {
	t := &s.trial
	*t = trial{s: s, c: c, others: others, index: i, node: s.nodes[i], moves: t.moves[:0], extended: append(t.extended[:0], s.nodes[i].used.extended...)}
	t.node.used.extended = t.extended
	return t
}

// move takes a pod away (by is -1) or adds it (1).
func (t *trial) move(q *placed, by int64) {
	t.node.book(q.Pod, by)
	for _, o := range t.others {
		o.adjust(t.s, q, by)
	}
	t.moves = append(t.moves, move{q, by})
}

func (t *trial) restore() {
	for _, m := range t.moves {
		for _, o := range t.others {
			o.adjust(t.s, m.pod, -m.by)
		}
	}
	t.moves = t.moves[:0]
}

// addNominated adds the pods that are nominated for the node and no less important than p. It says whether there were any.
func (t *trial) addNominated(p *Pod) bool {
	some := false
	for _, o := range t.s.nodes[t.index].nominated {
		if o.priority >= p.priority && o.uid() != p.uid() {
			t.move(o, 1)
			some = true
		}
	}
	return some
}

// filter asks all filters.
func (t *trial) filter() rejection {
	if len(t.c.pod.ports) > 0 {
		t.node.ports = t.ports()
	}
	if r := t.s.filterNode(t.c, &t.node); r != 0 {
		return r
	}
	for _, o := range t.others {
		if r := o.filter(int32(t.index)); r != 0 {
			return r
		}
	}
	return 0
}

// ports are those of the pods that are there after all moves.
func (t *trial) ports() []hostPort {
	there := map[*placed]int64{}
	for _, q := range t.node.pods {
		there[q] = 1
	}
	for _, m := range t.moves {
		there[m.pod] += m.by
	}
	var out []hostPort
	for q, n := range there {
		if n > 0 {
			out = append(out, q.ports...)
		}
	}
	return out
}

// terminating says whether a pod is being deleted because somebody more important needs its place.
func terminating(p *v1.Pod) bool {
	return p.DeletionTimestamp != nil && slices.ContainsFunc(p.Status.Conditions, func(c v1.PodCondition) bool {
		return c.Type == v1.DisruptionTarget && c.Status == v1.ConditionTrue && c.Reason == v1.PodReasonPreemptionByScheduler
	})
}
