package scheduler

import (
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"
)

// Names of plugins, as upstream has them.
const (
	NameNodeUnschedulable  = "NodeUnschedulable"
	NameNodeName           = "NodeName"
	NameTaintToleration    = "TaintToleration"
	NameNodeAffinity       = "NodeAffinity"
	NameNodePorts          = "NodePorts"
	NameNodeResourcesFit   = "NodeResourcesFit"
	NameBalancedAllocation = "NodeResourcesBalancedAllocation"
	NameImageLocality      = "ImageLocality"
	NamePodTopologySpread  = "PodTopologySpread"
	NameInterPodAffinity   = "InterPodAffinity"
	NameDefaultBinder      = "DefaultBinder"
	NameVolumeRestrictions = "VolumeRestrictions"
	NameNodeVolumeLimits   = "NodeVolumeLimits"
	NameVolumeBinding      = "VolumeBinding"
	NameVolumeZone         = "VolumeZone"
	NameDynamicResources   = "DynamicResources"
	NameDefaultPreemption  = "DefaultPreemption"
	NameDeclaredFeatures   = "NodeDeclaredFeatures"
)

const (
	maxNodeScore      = 100
	megabyte          = 1 << 20
	minImageBytes     = 23 * megabyte   // images below make no difference
	maxImageBytesEach = 1000 * megabyte // nor do those above, for each container
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

// Numbers of the filters that look at more than the class and the node.
const (
	filterTopologySpread rejection = 0xfe - iota
	filterInterPod
	filterVolumeRestrictions
	filterVolumeLimits
	filterVolumeBinding
	filterVolumeZone
	filterClaims
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

// filterNode asks the filters in turn.
func (s *Snapshot) filterNode(c *class, n *node) rejection {
	if !n.exists {
		return rejectedMissing
	}
	for i, f := range c.profile.filters {
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

// nodeAffinity is for what pods say of nodes, and for what the profile adds to that.
type nodeAffinity struct {
	limited   bool
	added     nodeSelector
	preferred []preferredTerm
}

func (s *Snapshot) newNodeAffinity(added *v1.NodeAffinity) *nodeAffinity {
	a := &nodeAffinity{}
	if added != nil {
		a.limited, a.added, a.preferred = true, s.newNodeSelector(nil, added), s.newPreferred(added)
	}
	return a
}

func (*nodeAffinity) Name() string             { return NameNodeAffinity }
func (*nodeAffinity) Normalize() normalization { return largestIsBest }
func (a *nodeAffinity) Skips(p *Pod) bool      { return len(p.preferred)+len(a.preferred) == 0 }

// The second detail says that it was the profile that refused.
const byProfile rejection = 2 << rejectedDetail

func (a *nodeAffinity) Filter(s *Snapshot, c *class, n *node) rejection {
	if a.limited && !a.added.matches(s, n) {
		return rejectedForGood | byProfile
	}
	if !c.pod.selector.matches(s, n) {
		return rejectedForGood | 1<<rejectedDetail
	}
	return 0
}

func (*nodeAffinity) Reasons(_ *Snapshot, _ *Pod, r rejection) []string {
	if r&byProfile != 0 {
		return []string{"node(s) didn't match scheduler-enforced node affinity"}
	}
	return []string{"node(s) didn't match Pod's node affinity/selector"}
}

func (a *nodeAffinity) Score(s *Snapshot, c *class, n *node) int64 {
	var sum int64
	for _, terms := range [][]preferredTerm{a.preferred, c.pod.preferred} {
		for i := range terms {
			if t := &terms[i]; matchesAll(s, n, t.term) {
				sum += t.weight
			}
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

// imageLocality prefers nodes that have the pod's images, less so the fewer nodes have them, so that one of them isn't swamped. Nodes that other nodes' images
// make a little better or worse are evaluated again only when they change themselves.
type imageLocality struct{}

func (imageLocality) Name() string             { return NameImageLocality }
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
