package nodelifecycle

import (
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
)

const (
	// evictionInterval is the time between two nodes of a zone whose pods are sent away; in a large zone of which most nodes are gone it is
	// slowInterval, in a small one no further pods are. Upstream calls these 0.1 and 0.01 nodes per second.
	evictionInterval = 10 * time.Second
	slowInterval     = 100 * time.Second
	// settle is how long a node has to be lost before its pods may be sent away: nodes that go together are judged together, also when one is
	// heard of before the others. Upstream looks at all nodes this often.
	settle = 5 * time.Second
	// largeZone is the number of nodes above which a zone is large, unhealthyShare the share of nodes that makes a zone partly disrupted.
	largeZone      = 50
	unhealthyShare = 0.55
)

// health is what a zone's nodes say together.
type health int

const (
	normal health = iota
	// partial: so many nodes are gone that it may well be us who cannot see them.
	partial
	// full: no node is ready.
	full
)

// zone counts the nodes of one zone and paces their evictions.
type zone struct {
	ready, notReady int
	// last is when the latest node's turn was; the zero time says that nobody's was yet.
	last time.Time
}

func (z *zone) health() health {
	switch {
	case z.notReady > 0 && z.ready == 0:
		return full
	case z.notReady > 2 && float64(z.notReady)/float64(z.notReady+z.ready) >= unhealthyShare:
		return partial
	default:
		return normal
	}
}

// interval is the time between two evictions; false says that there are none.
func (z *zone) interval() (time.Duration, bool) {
	if z.health() != partial {
		return evictionInterval, true // a dead zone among living ones is dead
	}
	return slowInterval, z.ready+z.notReady > largeZone
}

// pace is what an interval is while no node is ready anywhere, and while some are: 0 says that there are no evictions.
func (z *zone) pace(halted bool) time.Duration {
	if interval, ever := z.interval(); ever && !halted {
		return interval
	}
	return 0
}

// repace makes the zone's next eviction follow its new pace. Who had to wait waits a whole new interval from now on, who did not does not.
func (z *zone) repace(was, is time.Duration, now time.Time) {
	switch {
	case was == is:
	case was == 0 || !z.last.IsZero() && now.Before(z.last.Add(was)):
		z.last = now
	default:
		z.last = time.Time{}
	}
}

// member is what counts of a node.
type member struct {
	zone  string
	ready bool
	// lost is when the node was first seen not to be ready; the zero time if it is.
	lost time.Time
}

// zones decides when the pods of a node that is lost may be sent away. While no node of any zone is ready it is us who are lost: nobody is sent away.
// All methods may be called from many goroutines.
type zones struct {
	mu      sync.Mutex // guards both
	zones   map[string]*zone
	members map[string]member
}

func newZones() *zones { return &zones{zones: map[string]*zone{}, members: map[string]member{}} }

// zoneOf names a node's zone; nodes without labels share one.
func zoneOf(n *corev1.Node) string {
	region, name := n.Labels[corev1.LabelTopologyRegion], n.Labels[corev1.LabelTopologyZone]
	if region == "" && name == "" {
		return ""
	}
	return region + ":\x00:" + name
}

// change is what the news of a node mean for the others.
type change struct {
	// pace says that some zone's pace, and with it the turn of its nodes, is another.
	pace bool
	// back says that a node is ready again after none was.
	back bool
}

// set notes how a node is, nil that it is gone.
func (s *zones) set(name string, node *corev1.Node, now time.Time) change {
	s.mu.Lock()
	defer s.mu.Unlock()
	was, known := s.members[name]
	var is *member
	if node != nil {
		if _, excluded := node.Labels[excludeLabel]; !excluded {
			ready := conditionOf(node, corev1.NodeReady)
			is = &member{zone: zoneOf(node), ready: ready != nil && ready.Status == corev1.ConditionTrue}
			switch {
			case is.ready:
			case known && !was.ready:
				is.lost = was.lost
			default:
				is.lost = now
			}
		}
	}
	if known == (is != nil) && (!known || was == *is) {
		return change{}
	}
	halted := s.haltedLocked()
	before := map[string]time.Duration{}
	for name, z := range s.zones {
		if halted || is != nil && name == is.zone || known && name == was.zone {
			before[name] = z.pace(halted)
		}
	}
	if known {
		s.count(was, -1)
		delete(s.members, name)
	}
	if is != nil {
		s.members[name] = *is
		s.count(*is, 1)
	}
	halts := s.haltedLocked()
	out := change{pace: halts != halted, back: halted && !halts && len(s.members) > 0}
	for name, pace := range before {
		z := s.zones[name]
		if z == nil {
			continue
		}
		if next := z.pace(halts); next != pace {
			out.pace = true
			z.repace(pace, next, now)
		}
	}
	return out
}

// excludeLabel keeps a node out of the judgement of its zone.
const excludeLabel = "node.kubernetes.io/exclude-disruption"

func (s *zones) count(m member, by int) {
	z := s.zones[m.zone]
	if z == nil {
		z = &zone{}
		s.zones[m.zone] = z
	}
	if m.ready {
		z.ready += by
	} else {
		z.notReady += by
	}
	if z.ready == 0 && z.notReady == 0 {
		delete(s.zones, m.zone)
	}
}

// halted says that no node is ready anywhere.
func (s *zones) halted() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.haltedLocked()
}

func (s *zones) haltedLocked() bool {
	for _, z := range s.zones {
		if z.health() != full {
			return false
		}
	}
	return len(s.zones) > 0
}

// turn says whether it is a node's turn, which is then over, or how long it is until somebody's may be: 0 says that a change has to come first.
func (s *zones) turn(node *corev1.Node, now time.Time) (bool, time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m, counts := s.members[node.Name]; counts && m.ready {
		return false, settle // its news have not come to set yet
	} else if left := m.lost.Add(settle).Sub(now); left > 0 {
		return false, left
	}
	z := s.zones[zoneOf(node)]
	if z == nil {
		z = &zone{} // excluded from the judgement, and nobody else is in its zone
	}
	interval := z.pace(s.haltedLocked())
	if interval == 0 {
		return false, 0
	}
	if left := z.last.Add(interval).Sub(now); left > 0 && !z.last.IsZero() {
		return false, left
	}
	z.last = now
	return true, 0
}
