package scheduler

import (
	"math"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// Where a program crashed once it may crash again: the machine may be the reason. The snapshot remembers pairs of an owner and a node whose pods failed and
// likes such a node less for the owner's other pods. The memory fades: it halves after each half-life, and is forgotten when it is too faint to matter. Like
// all scores it only orders nodes that fit.

const (
	// crashWeight is what one fresh crash costs a node, in scores from 0 to 100.
	crashWeight = 50
	// maxCrash is the most that a node can lose.
	maxCrash = 200
	// faint is below what a memory is dropped.
	faint = 1
)

// crashes is the memory; it is off while halfLife is 0.
type crashes struct {
	halfLife time.Duration
	now      time.Time
	byOwner  map[types.UID]map[string]crash
}

// crash is a memory as it was at a time.
type crash struct {
	cost float64
	at   time.Time
}

// RememberCrashes turns the memory on; halfLife is after which time a crash counts for half.
func (s *Snapshot) RememberCrashes(halfLife time.Duration) {
	s.crashes = crashes{halfLife: halfLife, byOwner: map[types.UID]map[string]crash{}}
}

// Advance tells the time, by which memories fade.
func (s *Snapshot) Advance(now time.Time) { s.crashes.now = now }

// Crashed tells that a pod of an owner failed on a node.
func (s *Snapshot) Crashed(owner types.UID, node string) {
	m := &s.crashes
	if m.halfLife <= 0 || owner == "" || node == "" {
		return
	}
	on := m.byOwner[owner]
	if on == nil {
		m.forget()
		on = map[string]crash{}
		m.byOwner[owner] = on
	}
	on[node] = crash{min(m.faded(on[node])+crashWeight, maxCrash), m.now}
}

func (m *crashes) faded(c crash) float64 {
	if c.cost == 0 {
		return 0
	}
	return c.cost * math.Exp2(-float64(m.now.Sub(c.at))/float64(m.halfLife))
}

// forget drops what is too faint.
func (m *crashes) forget() {
	for owner, on := range m.byOwner {
		for node, c := range on {
			if m.faded(c) < faint {
				delete(on, node)
			}
		}
		if len(on) == 0 {
			delete(m.byOwner, owner)
		}
	}
}

// wary is the score, prepared for a pod whose owner has memories.
type wary struct{ cost map[int32]int64 }

// newWary is nil if there are none.
func (s *Snapshot) newWary(p *Pod) *wary {
	m := &s.crashes
	if len(m.byOwner) == 0 {
		return nil
	}
	w := &wary{cost: map[int32]int64{}}
	for _, ref := range p.pod.OwnerReferences {
		for name, c := range m.byOwner[ref.UID] {
			if i, ok := s.byName[name]; ok {
				if cost := int64(m.faded(c)); cost > 0 {
					w.cost[int32(i)] = cost
				}
			}
		}
	}
	if len(w.cost) == 0 {
		return nil
	}
	return w
}

func (w *wary) filter(int32) rejection           { return 0 }
func (w *wary) adjust(*Snapshot, *placed, int64) {}
func (w *wary) score(_ *Snapshot, nodes []int32, out []int64) []int64 {
	for _, i := range nodes {
		out = append(out, maxCrash-w.cost[i])
	}
	return out
}
