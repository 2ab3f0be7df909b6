package scheduler

import (
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"
)

// Names of plugins, as upstream has them.
const (
	NameNodeUnschedulable   = "NodeUnschedulable"
	NameNodeName            = "NodeName"
	NameTaintToleration     = "TaintToleration"
	NameNodeAffinity        = "NodeAffinity"
	NameNodePorts           = "NodePorts"
	NameNodeResourcesFit    = "NodeResourcesFit"
	NameBalancedAllocation  = "NodeResourcesBalancedAllocation"
	NameImageLocality       = "ImageLocality"
	NamePodTopologySpread   = "PodTopologySpread"
	NameInterPodAffinity    = "InterPodAffinity"
	NameDefaultBinder       = "DefaultBinder"
	maxNodeScore            = 100
	megabyte                = 1 << 20
	minImageBytes           = 23 * megabyte   // images below make no difference
	maxImageBytesEach       = 1000 * megabyte // nor do those above, for each container
	weightTaintToleration   = 3
	weightNodeAffinity      = 2
	weightPodTopologySpread = 2
	weightInterPodAffinity  = 2
)

// rejection says that a pod can't run on a node. 0 is none. It holds the refusing filter's number, whether other pods' leaving could help,
// and what the filter wants to remember for its explanation.
type rejection uint64

const (
	rejectedFilter  rejection = 0xff      // number of the filter, from 1
	rejectedForGood rejection = 1 << 8    // no eviction on the node helps
	rejectedDetail            = 9         // from this bit on, the filter's own
	rejectedMissing rejection = 1<<64 - 1 // there is no such node
)

// filter tells whether a pod can run on a node. What it says depends on nothing but the pod's class and the node.
type filter interface {
	Name() string
	// Filter returns 0 or a rejection without the filter's number.
	Filter(s *Snapshot, c *class, n *node) rejection
	// Reasons explains a rejection, in upstream's words.
	Reasons(s *Snapshot, p *Pod, r rejection) []string
}

// score tells how good a node is for a pod. What it says depends on nothing but the pod's class and the node.
type score interface {
	Name() string
	Weight() int64
	// Score returns 0 to 100, or for those that normalize, any number from 0.
	Score(s *Snapshot, c *class, n *node) int64
	// Normalize says how scores are made comparable: not at all, or in proportion to the largest of all nodes that fit.
	Normalize() normalization
	// Skips says that the plugin has nothing to say about pods like this.
	Skips(p *Pod) bool
}

type normalization int

const (
	asItIs normalization = iota
	largestIsBest
	largestIsWorst
)

// plugins is what decides. The order of the filters is that in which they are asked; the first refusal counts.
type plugins struct {
	filters []filter
	scores  []score
}

func defaultPlugins() plugins {
	return plugins{
		filters: []filter{nodeUnschedulable{}, nodeName{}, taintToleration{}, nodeAffinity{}, nodePorts{}, nodeResourcesFit{}},
		scores:  []score{nodeResourcesFit{}, balancedAllocation{}, imageLocality{}, nodeAffinity{}, taintToleration{}},
	}
}

// filterNode asks the filters in turn.
func (s *Snapshot) filterNode(c *class, n *node) rejection {
	if !n.exists {
		return rejectedMissing
	}
	for i, f := range s.plugins.filters {
		if r := f.Filter(s, c, n); r != 0 {
			return r | rejection(i+1)
		}
	}
	return 0
}

type nodeUnschedulable struct{}

func (nodeUnschedulable) Name() string { return NameNodeUnschedulable }

func (nodeUnschedulable) Filter(s *Snapshot, c *class, n *node) rejection {
	// A pod that tolerates the taint which comes with being unschedulable may run there.
	if n.unschedulable && !c.tolerates(s, s.taints.id(taint{v1.TaintNodeUnschedulable, "", string(v1.TaintEffectNoSchedule)})) {
		return rejectedForGood | 1<<rejectedDetail
	}
	return 0
}

func (nodeUnschedulable) Reasons(*Snapshot, *Pod, rejection) []string {
	return []string{"node(s) were unschedulable"}
}

type nodeName struct{}

func (nodeName) Name() string { return NameNodeName }

func (nodeName) Filter(_ *Snapshot, c *class, n *node) rejection {
	if want := c.pod.pod.Spec.NodeName; want != "" && want != n.name {
		return rejectedForGood | 1<<rejectedDetail
	}
	return 0
}

func (nodeName) Reasons(*Snapshot, *Pod, rejection) []string {
	return []string{"node(s) didn't match the requested node name"}
}

type taintToleration struct{}

func (taintToleration) Name() string             { return NameTaintToleration }
func (taintToleration) Weight() int64            { return weightTaintToleration }
func (taintToleration) Normalize() normalization { return largestIsWorst }
func (taintToleration) Skips(*Pod) bool          { return false }

func (taintToleration) Filter(s *Snapshot, c *class, n *node) rejection {
	for _, t := range n.hard {
		if !c.tolerates(s, t) {
			return rejectedForGood | 1<<rejectedDetail
		}
	}
	return 0
}

func (taintToleration) Reasons(*Snapshot, *Pod, rejection) []string {
	return []string{"node(s) had untolerated taint(s)"}
}

// Score counts the taints that make a node less welcome.
func (taintToleration) Score(s *Snapshot, c *class, n *node) int64 {
	var bad int64
	for _, t := range n.soft {
		if !c.tolerates(s, t) {
			bad++
		}
	}
	return bad
}

// tolerates says whether pods of the class tolerate a taint, and remembers it.
func (c *class) tolerates(s *Snapshot, id uint32) bool {
	for int(id) >= len(c.toleration) {
		c.toleration = append(c.toleration, unknown)
	}
	if c.toleration[id] == unknown {
		t := s.taints.values[id]
		obj := &v1.Taint{Key: t.key, Value: t.value, Effect: v1.TaintEffect(t.effect)}
		c.toleration[id] = no
		tolerations := c.pod.pod.Spec.Tolerations
		if slices.ContainsFunc(tolerations, func(t v1.Toleration) bool { return t.ToleratesTaint(klog.Logger{}, obj, true) }) {
			c.toleration[id] = yes
		}
	}
	return c.toleration[id] == yes
}

type answer byte

const (
	unknown answer = iota
	yes
	no
)

type nodeAffinity struct{}

func (nodeAffinity) Name() string             { return NameNodeAffinity }
func (nodeAffinity) Weight() int64            { return weightNodeAffinity }
func (nodeAffinity) Normalize() normalization { return largestIsBest }
func (nodeAffinity) Skips(p *Pod) bool        { return len(p.preferred) == 0 }

func (nodeAffinity) Filter(s *Snapshot, c *class, n *node) rejection {
	if !c.pod.selector.matches(s, n) {
		return rejectedForGood | 1<<rejectedDetail
	}
	return 0
}

func (nodeAffinity) Reasons(*Snapshot, *Pod, rejection) []string {
	return []string{"node(s) didn't match Pod's node affinity/selector"}
}

func (nodeAffinity) Score(s *Snapshot, c *class, n *node) int64 {
	var sum int64
	for i := range c.pod.preferred {
		if t := &c.pod.preferred[i]; matchesAll(s, n, t.term) {
			sum += t.weight
		}
	}
	return sum
}

type nodePorts struct{}

func (nodePorts) Name() string { return NameNodePorts }

func (nodePorts) Filter(_ *Snapshot, c *class, n *node) rejection {
	for _, p := range c.pod.ports {
		if slices.ContainsFunc(n.ports, p.conflicts) {
			return 1 << rejectedDetail
		}
	}
	return 0
}

func (nodePorts) Reasons(*Snapshot, *Pod, rejection) []string {
	return []string{"node(s) didn't have free ports for the requested pod ports"}
}

// nodeResourcesFit has upstream's LeastAllocated strategy: the emptier, the better.
type nodeResourcesFit struct{}

func (nodeResourcesFit) Name() string             { return NameNodeResourcesFit }
func (nodeResourcesFit) Weight() int64            { return 1 }
func (nodeResourcesFit) Normalize() normalization { return asItIs }
func (nodeResourcesFit) Skips(*Pod) bool          { return false }

// What lacks, in a rejection; further bits are the extended resources that the pod requests, in their order, of which the last one stands for all that
// have no bit.
const (
	lacksPods = rejectedDetail + iota
	lacksCPU
	lacksMemory
	lacksEphemeral
	lacksOther
)

func (nodeResourcesFit) Filter(_ *Snapshot, c *class, n *node) rejection {
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
		lack(e.amount, n.used.other(e.resource), n.capacity.other(e.resource), min(lacksOther+i, 63))
	}
	return r
}

func (nodeResourcesFit) Reasons(s *Snapshot, p *Pod, r rejection) []string {
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

func (nodeResourcesFit) Score(_ *Snapshot, c *class, n *node) int64 {
	var sum, of int64
	add := func(used, capacity int64) {
		if capacity == 0 {
			return
		}
		of++
		if used <= capacity {
			sum += (capacity - used) * maxNodeScore / capacity
		}
	}
	add(n.scoredCPU+c.pod.scoredCPU, n.capacity.milliCPU)
	add(n.scoredMemory+c.pod.scoredMemory, n.capacity.memoryBytes)
	if of == 0 {
		return 0
	}
	return sum / of
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
		of(e.amount, n.capacity.other(e.resource)-n.used.other(e.resource))
	}
	if len(p.ports) > 0 {
		room = min(room, 1)
	}
	return max(room, 0)
}

// balancedAllocation prefers nodes whose CPU and memory are used in like proportion afterwards.
type balancedAllocation struct{}

func (balancedAllocation) Name() string             { return NameBalancedAllocation }
func (balancedAllocation) Weight() int64            { return 1 }
func (balancedAllocation) Normalize() normalization { return asItIs }
func (balancedAllocation) Skips(p *Pod) bool {
	return p.requests.milliCPU == 0 && p.requests.memoryBytes == 0
}

func (balancedAllocation) Score(_ *Snapshot, c *class, n *node) int64 {
	if n.capacity.milliCPU == 0 || n.capacity.memoryBytes == 0 {
		return maxNodeScore
	}
	cpu := min(1, float64(n.used.milliCPU+c.pod.requests.milliCPU)/float64(n.capacity.milliCPU))
	mem := min(1, float64(n.used.memoryBytes+c.pod.requests.memoryBytes)/float64(n.capacity.memoryBytes))
	// The standard deviation of two numbers is half their distance.
	return int64((1 - max(cpu-mem, mem-cpu)/2) * maxNodeScore)
}

// imageLocality prefers nodes that have the pod's images, less so the fewer nodes have them, so that one of them isn't swamped. Nodes that other nodes' images
// make a little better or worse are evaluated again only when they change themselves.
type imageLocality struct{}

func (imageLocality) Name() string             { return NameImageLocality }
func (imageLocality) Weight() int64            { return 1 }
func (imageLocality) Normalize() normalization { return asItIs }
func (imageLocality) Skips(*Pod) bool          { return false }

func (imageLocality) Score(s *Snapshot, c *class, n *node) int64 {
	if len(n.images) == 0 || c.pod.containers == 0 {
		return 0
	}
	var sum int64
	for _, id := range c.pod.images {
		if i, ok := slices.BinarySearchFunc(n.images, id, func(i image, id uint32) int { return int(i.id) - int(id) }); ok {
			sum += n.images[i].bytes * int64(s.imageNodes[id]) / int64(max(s.count, 1))
		}
	}
	most := int64(c.pod.containers) * maxImageBytesEach
	return maxNodeScore * (min(max(sum, minImageBytes), most) - minImageBytes) / (most - minImageBytes)
}
