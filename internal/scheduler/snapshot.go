package scheduler

import (
	"cmp"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/celox/celox/internal/scheduler/config"
)

// amounts is how much there is of each resource: milli-CPUs, bytes, pods, and for all others whole units, by their interned number.
type amounts struct {
	milliCPU, memoryBytes, ephemeralBytes int64
	pods                                  int64
	extended                              []int64
}

// other is the amount of an extended resource.
func (a *amounts) other(id uint32) int64 {
	if int(id) < len(a.extended) {
		return a.extended[id]
	}
	return 0
}

func (a *amounts) addOther(id uint32, n int64) {
	if missing := int(id) + 1 - len(a.extended); missing > 0 {
		a.extended = append(a.extended, make([]int64, missing)...)
	}
	a.extended[id] += n
}

// node is one element of the snapshot's array.
type node struct {
	name string
	// exists is false for an unused element, and for a node that pods are assigned to but that isn't known (yet, or any more).
	exists        bool
	unschedulable bool
	restartsAll   bool     // it says that it can start all containers of a pod again together
	labels        []label  // sorted by key
	hard, soft    []uint32 // taints: NoSchedule and NoExecute; PreferNoSchedule
	capacity      amounts  // allocatable
	used          amounts
	// scoredCPU and scoredMemory are used with defaults for containers that request nothing, so that those count for something.
	scoredCPU, scoredMemory int64
	images                  []image
	ports                   []hostPort
	pods                    []*placed
	// nominated are pods that others make room for here.
	nominated []*placed
}

type image struct {
	id    uint32
	bytes int64
}

// value returns the node's value of a label.
func (n *node) value(key uint32) (uint32, bool) {
	i, ok := slices.BinarySearchFunc(n.labels, key, func(l label, k uint32) int { return cmp.Compare(l.key, k) })
	if !ok {
		return 0, false
	}
	return n.labels[i].value, true
}

// placed is a pod on a node.
type placed struct {
	*Pod
	node     int
	position int // in the node's pods
	// assumed says that the binding isn't confirmed yet.
	assumed bool
}

// Snapshot is what the scheduler knows of nodes and of the pods on them. It isn't safe for concurrent use.
type Snapshot struct {
	interned
	nodes  []node
	byName map[string]int
	unused []int // elements of nodes without a node
	count  int   // nodes that exist
	pods   map[types.UID]*placed
	// imageNodes is on how many nodes each image is.
	imageNodes []int

	// changes are the numbers of nodes in the order in which they changed; the first one is change number changesFrom. Classes follow it.
	changes     []int32
	changesFrom uint64

	profiles []*profile // the first one is for pods whose schedulerName has none
	classes  map[string]*class
	uses     uint64 // how often a class was asked; orders them by their last use
	counters counters
	spreads  map[spreadKey]*spreadCount
	volumes  volumes
	devices  devices
	budgets  budgets
	// nominated are the nodes that pods without a node are nominated for, by number; their pods are with the node.
	nominated map[types.UID]int
	// evictions are results of preemption that are kept.
	evictions map[evictionKey]*evictions
	crashes   crashes
	// selectors says what selects a pod together with others; nil if nothing is known of that.
	selectors func(*v1.Pod) labels.Selector
	rand      *rand.Rand
	scratch   scratch
	trial     trial
	below     []*placed
	// byPriority counts the pods on nodes.
	byPriority map[int32]int
	// tallies are those of one decision, used again for the next; tallied is how many of them are in use.
	tallies []*tally
	tallied int
}

// NewSnapshot returns an empty snapshot with the default plugins. Ties between nodes are broken at random, by seed.
func NewSnapshot(seed uint64) *Snapshot {
	return NewSnapshotFor(seed, config.Default().Profiles)
}

// NewSnapshotFor returns an empty snapshot for pods of some profiles, of which there must be one. Pods whose schedulerName has no profile are decided by the first.
func NewSnapshotFor(seed uint64, profiles []config.Profile) *Snapshot {
	s := &Snapshot{
		byName: map[string]int{}, pods: map[types.UID]*placed{}, classes: map[string]*class{}, spreads: map[spreadKey]*spreadCount{}, counters: newCounters(), volumes: newVolumes(), devices: newDevices(), budgets: newBudgets(),
		nominated: map[types.UID]int{}, byPriority: map[int32]int{}, evictions: map[evictionKey]*evictions{}, rand: rand.New(rand.NewPCG(seed, seed)),
	}
	for i := range profiles {
		s.profiles = append(s.profiles, s.newProfile(i, &profiles[i]))
	}
	return s
}

// SetSelectors tells how to find out what selects a pod together with others (its services, its controller): the default constraints of topology spread
// go by that. The function answers nil for a pod that nothing selects; it is called while a decision is made.
func (s *Snapshot) SetSelectors(f func(*v1.Pod) labels.Selector) { s.selectors = f }

// Nodes is how many nodes there are.
func (s *Snapshot) Nodes() int { return s.count }

// maxChanges is how many changes are kept for each node; a class that is further behind is evaluated anew.
const maxChanges = 4

// changed is a number that grows with every change.
func (s *Snapshot) changed() uint64 { return s.changesFrom + uint64(len(s.changes)) }

// touch records that something about a node changed.
func (s *Snapshot) touch(n int) {
	if len(s.changes) > maxChanges*len(s.nodes)+64 {
		drop := len(s.changes) / 2
		s.changes = slices.Delete(s.changes, 0, drop)
		s.changesFrom += uint64(drop)
	}
	s.changes = append(s.changes, int32(n))
}

// slot returns the number of the node with a name, and gives it one if it has none.
func (s *Snapshot) slot(name string) int {
	if i, ok := s.byName[name]; ok {
		return i
	}
	var i int
	if k := len(s.unused); k > 0 {
		i = s.unused[k-1]
		s.unused = s.unused[:k-1]
	} else {
		i = len(s.nodes)
		s.nodes = append(s.nodes, node{})
	}
	s.nodes[i] = node{name: name}
	s.byName[name] = i
	return i
}

// freeSlot gives a number back if neither a node nor a pod needs it.
func (s *Snapshot) freeSlot(i int) {
	if n := &s.nodes[i]; !n.exists && len(n.pods)+len(n.nominated) == 0 {
		delete(s.byName, n.name)
		*n = node{}
		s.unused = append(s.unused, i)
	}
}

// SetNode adds a node or changes it. It says whether anything changed that matters here.
func (s *Snapshot) SetNode(obj *v1.Node) bool {
	i := s.slot(obj.Name)
	n := &s.nodes[i]
	next := node{
		name: obj.Name, exists: true, unschedulable: obj.Spec.Unschedulable, restartsAll: slices.Contains(obj.Status.DeclaredFeatures, restartsAll),
		used: n.used, scoredCPU: n.scoredCPU, scoredMemory: n.scoredMemory, ports: n.ports, pods: n.pods,
		nominated: n.nominated,
	}
	for k, v := range obj.Labels {
		next.labels = append(next.labels, label{s.strings.id(k), s.strings.id(v)})
	}
	slices.SortFunc(next.labels, func(a, b label) int { return cmp.Compare(a.key, b.key) })
	for _, t := range obj.Spec.Taints {
		id := s.taints.id(taint{t.Key, t.Value, string(t.Effect)})
		if t.Effect == v1.TaintEffectPreferNoSchedule {
			next.soft = append(next.soft, id)
		} else {
			next.hard = append(next.hard, id)
		}
	}
	for name, q := range obj.Status.Allocatable {
		switch name {
		case v1.ResourceCPU:
			next.capacity.milliCPU = q.MilliValue()
		case v1.ResourceMemory:
			next.capacity.memoryBytes = q.Value()
		case v1.ResourceEphemeralStorage:
			next.capacity.ephemeralBytes = q.Value()
		case v1.ResourcePods:
			next.capacity.pods = q.Value()
		default:
			next.capacity.addOther(s.resources.id(string(name)), q.Value())
		}
	}
	for _, img := range obj.Status.Images {
		for _, name := range img.Names {
			next.images = append(next.images, image{s.images.id(imageName(name)), img.SizeBytes})
		}
	}
	slices.SortFunc(next.images, func(a, b image) int { return cmp.Compare(a.id, b.id) })
	if n.exists && sameNode(n, &next) {
		return false
	}
	s.countImages(n.images, -1)
	s.countImages(next.images, 1)
	if !n.exists {
		s.count++
	}
	*n = next
	s.touch(i)
	s.devices.SetNode(obj.Name)
	return true
}

func sameNode(a, b *node) bool {
	return a.unschedulable == b.unschedulable && a.restartsAll == b.restartsAll && slices.Equal(a.labels, b.labels) && slices.Equal(a.hard, b.hard) && slices.Equal(a.soft, b.soft) &&
		a.capacity.milliCPU == b.capacity.milliCPU && a.capacity.memoryBytes == b.capacity.memoryBytes && a.capacity.ephemeralBytes == b.capacity.ephemeralBytes &&
		a.capacity.pods == b.capacity.pods && slices.Equal(a.capacity.extended, b.capacity.extended) && slices.Equal(a.images, b.images)
}

func (s *Snapshot) countImages(images []image, by int) {
	for _, i := range images {
		for int(i.id) >= len(s.imageNodes) {
			s.imageNodes = append(s.imageNodes, 0)
		}
		s.imageNodes[i.id] += by
	}
}

// RemoveNode removes a node; pods that are still assigned to it stay known, in case it comes back.
func (s *Snapshot) RemoveNode(name string) {
	i, ok := s.byName[name]
	if !ok || !s.nodes[i].exists {
		return
	}
	n := &s.nodes[i]
	s.countImages(n.images, -1)
	*n = node{name: name, used: n.used, scoredCPU: n.scoredCPU, scoredMemory: n.scoredMemory, ports: n.ports, pods: n.pods, nominated: n.nominated}
	s.count--
	s.touch(i)
	s.devices.RemoveNode(name)
	s.freeSlot(i)
}

// Place puts a pod on the node with a name, from where it was before, if anywhere. assumed says that this isn't confirmed by the API yet.
func (s *Snapshot) Place(p *Pod, nodeName string, assumed bool) {
	if old := s.pods[p.uid()]; old != nil {
		if s.nodes[old.node].name == nodeName && samePlaced(old.Pod, p) {
			old.Pod, old.assumed = p, assumed
			return
		}
		s.Remove(p.uid())
	}
	i := s.slot(nodeName)
	n := &s.nodes[i]
	q := &placed{Pod: p, node: i, position: len(n.pods), assumed: assumed}
	n.pods = append(n.pods, q)
	s.pods[p.uid()] = q
	s.Unnominate(p.uid())
	n.book(p, 1)
	n.ports = append(n.ports, p.ports...)
	s.counters.add(s, q, 1)
	s.volumes.use(p, 1)
	s.byPriority[p.priority]++
	s.touch(i)
}

// samePlaced says whether two forms of a pod are the same to everything that counts pods on nodes.
func samePlaced(a, b *Pod) bool {
	return a.requests.equal(&b.requests) && maps.Equal(a.pod.Labels, b.pod.Labels) &&
		(a.pod.DeletionTimestamp == nil) == (b.pod.DeletionTimestamp == nil) && slices.Equal(a.ports, b.ports)
}

// book adds a pod's requests to what is used, or takes them off.
func (n *node) book(p *Pod, sign int64) {
	n.used.milliCPU += sign * p.requests.milliCPU
	n.used.memoryBytes += sign * p.requests.memoryBytes
	n.used.ephemeralBytes += sign * p.requests.ephemeralBytes
	n.used.pods += sign
	for _, e := range p.requests.extended {
		n.used.addOther(e.resource, sign*e.amount)
	}
	n.scoredCPU += sign * p.scoredCPU
	n.scoredMemory += sign * p.scoredMemory
}

// Remove takes a pod from its node. It returns the node's name, or "" if the pod was on none.
func (s *Snapshot) Remove(uid types.UID) string {
	q := s.pods[uid]
	if q == nil {
		return ""
	}
	delete(s.pods, uid)
	n := &s.nodes[q.node]
	name := n.name
	last := len(n.pods) - 1
	n.pods[q.position] = n.pods[last]
	n.pods[q.position].position = q.position
	n.pods[last] = nil
	n.pods = n.pods[:last]
	n.book(q.Pod, -1)
	if len(q.ports) > 0 {
		n.ports = n.ports[:0]
		for _, o := range n.pods {
			n.ports = append(n.ports, o.ports...)
		}
	}
	s.counters.add(s, q, -1)
	s.volumes.use(q.Pod, -1)
	if s.byPriority[q.priority]--; s.byPriority[q.priority] == 0 {
		delete(s.byPriority, q.priority)
	}
	s.touch(q.node)
	s.freeSlot(q.node)
	return name
}

// On returns the name of the node that a pod is on, and whether that is only assumed.
func (s *Snapshot) On(uid types.UID) (name string, assumed bool) {
	if q := s.pods[uid]; q != nil {
		return s.nodes[q.node].name, q.assumed
	}
	return "", false
}

// imageName completes the name of an image that has no tag.
func imageName(name string) string {
	if strings.LastIndexByte(name, ':') <= strings.LastIndexByte(name, '/') {
		return name + ":latest"
	}
	return name
}
