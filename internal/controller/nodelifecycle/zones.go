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

// member is what counts of a node.
type member struct {
	zone  string
	ready bool
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
func (s *zones) set(name string, node *corev1.Node) change {
	s.mu.Lock()
	defer s.mu.Unlock()
	var is *member
	if node != nil {
		if _, excluded := node.Labels[excludeLabel]; !excluded {
			ready := conditionOf(node, corev1.NodeReady)
			is = &member{zoneOf(node), ready != nil && ready.Status == corev1.ConditionTrue}
		}
	}
	was, known := s.members[name]
	if known == (is != nil) && (!known || was == *is) {
		return change{}
	}
	halted := s.haltedLocked()
	paces := map[string]health{}
	for _, z := range []*member{is, &was} {
		if z != nil && s.zones[z.zone] != nil {
			paces[z.zone] = s.zones[z.zone].health()
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
	out := change{}
	for name, before := range paces {
		if z := s.zones[name]; z != nil && z.health() != before {
			out.pace = true
		}
	}
	if now := s.haltedLocked(); now != halted {
		out.pace, out.back = true, halted && len(s.members) > 0
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
	z := s.zones[zoneOf(node)]
	if z == nil {
		z = &zone{} // excluded from the judgement, alone in its zone
		s.zones[zoneOf(node)] = z
		defer delete(s.zones, zoneOf(node))
	}
	interval, ever := z.interval()
	if !ever || s.haltedLocked() {
		return false, 0
	}
	if left := z.last.Add(interval).Sub(now); left > 0 && !z.last.IsZero() {
		return false, left
	}
	z.last = now
	return true, 0
}
