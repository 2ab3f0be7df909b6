package scheduler

import (
	"math"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	schedulerv1 "k8s.io/kube-scheduler/config/v1"
)

// scored is a resource that scores look at.
type scored struct {
	name   v1.ResourceName
	id     uint32 // of those that have no field of their own
	scalar bool   // counts only for pods that request it
	weight int64
}

func (s *Snapshot) newScored(list []schedulerv1.ResourceSpec) []scored {
	var out []scored
	for _, r := range list {
		e := scored{name: v1.ResourceName(r.Name), weight: max(r.Weight, 1)}
		switch e.name {
		case v1.ResourceCPU, v1.ResourceMemory, v1.ResourceEphemeralStorage:
		default:
			e.id, e.scalar = s.resources.id(r.Name), true
		}
		out = append(out, e)
	}
	return out
}

// of returns how much of the resource would be used on a node with the pod, how much the pod adds, and how much there is; ok is false if the resource doesn't count. real
// says that containers without requests count for nothing.
func (r *scored) of(p *Pod, n *node, real bool) (used, added, capacity int64, ok bool) {
	switch r.name {
	case v1.ResourceCPU:
		if used, added = n.scoredCPU, p.scoredCPU; real {
			used, added = n.used.milliCPU, p.requests.milliCPU
		}
		capacity = n.capacity.milliCPU
	case v1.ResourceMemory:
		if used, added = n.scoredMemory, p.scoredMemory; real {
			used, added = n.used.memoryBytes, p.requests.memoryBytes
		}
		capacity = n.capacity.memoryBytes
	case v1.ResourceEphemeralStorage:
		used, added, capacity = n.used.ephemeralBytes, p.requests.ephemeralBytes, n.capacity.ephemeralBytes
	default:
		added = p.requests.other(r.id)
		if added == 0 {
			return 0, 0, 0, false
		}
		used, capacity = n.used.other(r.id), n.capacity.other(r.id)
	}
	return used + added, added, capacity, capacity != 0
}

// other is how much of an extended resource is requested.
func (r *requests) other(id uint32) int64 {
	for _, e := range r.extended {
		if e.resource == id {
			return e.amount
		}
	}
	return 0
}

// nodeResourcesFit refuses nodes without room, and prefers, by its strategy, the emptier ones (worst fit), the fuller ones (best fit), or
// what a curve over the utilization says.
type nodeResourcesFit struct {
	strategy  schedulerv1.ScoringStrategyType
	resources []scored
	shape     []schedulerv1.UtilizationShapePoint
	// ignored names resources, and groups of them, that nodes needn't have.
	ignored, ignoredGroups []string
}

func (s *Snapshot) newFit(a *schedulerv1.NodeResourcesFitArgs) *nodeResourcesFit {
	f := &nodeResourcesFit{strategy: schedulerv1.LeastAllocated, ignored: a.IgnoredResources, ignoredGroups: a.IgnoredResourceGroups}
	if st := a.ScoringStrategy; st != nil {
		f.strategy, f.resources = st.Type, s.newScored(st.Resources)
		if st.RequestedToCapacityRatio != nil {
			f.shape = st.RequestedToCapacityRatio.Shape
		}
	}
	return f
}

func (*nodeResourcesFit) Name() string             { return NameNodeResourcesFit }
func (*nodeResourcesFit) Normalize() normalization { return asItIs }
func (*nodeResourcesFit) Skips(*Pod) bool          { return false }

// What lacks, in a rejection; further bits are the extended resources that the pod requests, in their order, of which the last one stands for all that
// have no bit.
const (
	lacksPods = rejectedDetail + iota
	lacksCPU
	lacksMemory
	lacksEphemeral
	lacksOther
)

func (f *nodeResourcesFit) ignores(name string) bool {
	group, _, ok := strings.Cut(name, "/")
	if !ok || group+"/" == v1.ResourceDefaultNamespacePrefix {
		return false // not an extended resource
	}
	return slices.Contains(f.ignored, name) || slices.Contains(f.ignoredGroups, group)
}

func (f *nodeResourcesFit) Filter(s *Snapshot, c *class, n *node) rejection {
	var r rejection
	q := &c.pod.requests
	if n.used.pods+1 > n.capacity.pods {
		r |= 1 << lacksPods
	}
	lack := func(want, used, capacity int64, bit int) {
		if want > 0 && want > capacity-used {
			r |= 1 << bit
			if want > capacity {
				r |= rejectedForGood
			}
		}
	}
	lack(q.milliCPU, n.used.milliCPU, n.capacity.milliCPU, lacksCPU)
	lack(q.memoryBytes, n.used.memoryBytes, n.capacity.memoryBytes, lacksMemory)
	lack(q.ephemeralBytes, n.used.ephemeralBytes, n.capacity.ephemeralBytes, lacksEphemeral)
	for i, e := range q.extended {
		if len(f.ignored)+len(f.ignoredGroups) > 0 && f.ignores(s.resources.values[e.resource]) {
			continue
		}
		capacity := n.capacity.other(e.resource)
		if capacity == 0 && s.backed(c.profile, e.resource) {
			continue // the pod gets devices for it
		}
		lack(e.amount, n.used.other(e.resource), capacity, min(lacksOther+i, 63))
	}
	return r
}

func (*nodeResourcesFit) Reasons(s *Snapshot, p *Pod, r rejection) []string {
	var out []string
	for _, l := range []struct {
		bit  int
		text string
	}{{lacksPods, "Too many pods"}, {lacksCPU, "Insufficient cpu"}, {lacksMemory, "Insufficient memory"}, {lacksEphemeral, "Insufficient ephemeral-storage"}} {
		if r&(1<<l.bit) != 0 {
			out = append(out, l.text)
		}
	}
	for i, e := range p.requests.extended {
		if bit := min(lacksOther+i, 63); r&(1<<bit) != 0 {
			out = append(out, "Insufficient "+s.resources.values[e.resource])
		}
	}
	return out
}

func (f *nodeResourcesFit) Score(_ *Snapshot, c *class, n *node) int64 {
	var sum, weights int64
	for i := range f.resources {
		r := &f.resources[i]
		used, _, capacity, ok := r.of(c.pod, n, false)
		if !ok {
			continue
		}
		var v int64
		switch f.strategy {
		case schedulerv1.MostAllocated:
			v = min(used, capacity) * maxNodeScore / capacity
		case schedulerv1.RequestedToCapacityRatio:
			// A resource for which the curve is 0 doesn't pull the others down.
			if v = curve(f.shape, min(used*100/capacity, 100)); v == 0 {
				continue
			}
		default:
			if used <= capacity {
				v = (capacity - used) * maxNodeScore / capacity
			}
		}
		sum += v * r.weight
		weights += r.weight
	}
	if weights == 0 {
		return 0
	}
	if f.strategy == schedulerv1.RequestedToCapacityRatio {
		return int64(math.Round(float64(sum) / float64(weights)))
	}
	return sum / weights
}

// curve is the score of a shape, 0 to 100, for a utilization in percent: straight lines between the points, level outside of them.
func curve(shape []schedulerv1.UtilizationShapePoint, utilization int64) int64 {
	const scale = maxNodeScore / 10 // points score up to 10
	for i, p := range shape {
		if utilization > int64(p.Utilization) {
			continue
		}
		y := int64(p.Score) * scale
		if i == 0 {
			return y
		}
		x0, y0 := int64(shape[i-1].Utilization), int64(shape[i-1].Score)*scale
		return y0 + (y-y0)*(utilization-x0)/(int64(p.Utilization)-x0)
	}
	if len(shape) == 0 {
		return 0
	}
	return int64(shape[len(shape)-1].Score) * scale
}

// fits is how many more pods of a class a node has room for, up to limit.
func (n *node) fits(p *Pod, limit int64) int64 {
	room := min(limit, n.capacity.pods-n.used.pods)
	of := func(want, free int64) {
		if want > 0 {
			room = min(room, free/want)
		}
	}
	q := &p.requests
	of(q.milliCPU, n.capacity.milliCPU-n.used.milliCPU)
	of(q.memoryBytes, n.capacity.memoryBytes-n.used.memoryBytes)
	of(q.ephemeralBytes, n.capacity.ephemeralBytes-n.used.ephemeralBytes)
	for _, e := range q.extended {
		// A resource that the profile ignores may be short; the filters have accepted the node, so one pod fits for certain.
		of(e.amount, max(n.capacity.other(e.resource)-n.used.other(e.resource), e.amount))
	}
	if len(p.ports) > 0 {
		room = min(room, 1)
	}
	return max(room, 0)
}

// balancedAllocation prefers nodes whose resources are used in like proportion, and more so with the pod than without it.
type balancedAllocation struct{ resources []scored }

func (s *Snapshot) newBalanced(a *schedulerv1.NodeResourcesBalancedAllocationArgs) *balancedAllocation {
	return &balancedAllocation{s.newScored(a.Resources)}
}

func (*balancedAllocation) Name() string             { return NameBalancedAllocation }
func (*balancedAllocation) Normalize() normalization { return asItIs }

// Skips: a pod that requests none of the resources changes no balance.
func (b *balancedAllocation) Skips(p *Pod) bool {
	for i := range b.resources {
		r := &b.resources[i]
		switch {
		case r.name == v1.ResourceCPU && p.requests.milliCPU != 0, r.name == v1.ResourceMemory && p.requests.memoryBytes != 0,
			r.name == v1.ResourceEphemeralStorage && p.requests.ephemeralBytes != 0, r.scalar && p.requests.other(r.id) != 0:
			return false
		}
	}
	return true
}

func (b *balancedAllocation) Score(_ *Snapshot, c *class, n *node) int64 {
	var with, without deviation
	for i := range b.resources {
		if used, added, capacity, ok := b.resources[i].of(c.pod, n, true); ok {
			with.add(min(1, float64(used)/float64(capacity)))
			without.add(min(1, float64(used-added)/float64(capacity)))
		}
	}
	// Three quarters are for a pod that leaves the balance as it is. Each side is made whole before they are compared, as upstream does.
	return maxNodeScore/2 + (maxNodeScore/2+with.balance()-without.balance())/2
}

// maxBalanced bounds how many resources are balanced.
const maxBalanced = 16

// deviation is the standard deviation of numbers.
type deviation struct {
	values [maxBalanced]float64
	n      int
}

func (d *deviation) add(x float64) {
	if d.n < maxBalanced {
		d.values[d.n] = x
		d.n++
	}
}

// balance is a score that is lower the more the numbers differ.
func (d *deviation) balance() int64 { return int64((1 - d.value()) * maxNodeScore) }

func (d *deviation) value() float64 {
	switch d.n {
	case 0, 1:
		return 0
	case 2: // exactly 0 for equal numbers
		return math.Abs(d.values[0]-d.values[1]) / 2
	}
	var sum, squares float64
	for _, v := range d.values[:d.n] {
		sum += v
	}
	mean := sum / float64(d.n)
	for _, v := range d.values[:d.n] {
		squares += (v - mean) * (v - mean)
	}
	return math.Sqrt(squares / float64(d.n))
}
