package scheduler

import (
	"container/heap"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	// leftoverAfter is when a pod is tried again although nothing happened that should let it fit.
	leftoverAfter = 5 * time.Minute
)

// place in the queue.
type stage int

const (
	stageGone stage = iota
	stageActive
	stageBackoff       // will be active when its back-off is over, or as soon as nothing else is
	stageUnschedulable // waits for an event
	stageGated         // has scheduling gates
	stageBusy          // was taken out and is being decided or bound
)

// item is a pod that waits for a node.
type item struct {
	pod   *v1.Pod
	p     *Pod
	stage stage
	since time.Time // when it became active for the first time; orders equal priorities
	// number counts the pods as they came; it orders those of one time.
	number uint64
	// failures in a row make the back-off; until is when it is over. patient says that it must be waited for even if there is nothing else to do.
	failures int
	until    time.Time
	patient  bool
	parked   time.Time // when it became unschedulable
	index    int       // in its heap
	eager    int       // in the heap of the eager ones
	attempts int
	// plugins are those that refused it last.
	plugins []string
	// evicting says that others are being evicted for it; until that is done it isn't tried, but woken says that it would have been.
	evicting, woken bool
	// flushed says that it was tried again last because of its age alone.
	flushed bool
}

// stuck is what a pod waits for that no node by itself can give.
type stuck int

const (
	stuckPods    stuck = iota // other pods that come or go
	stuckVolumes              // claims, volumes, classes, drivers, and pods that use them
	stuckDevices              // claims to devices
	stuckKinds
)

// stuckFor says what a pod waits for that these plugins refused, and whether a change of a node, or room on it, can help.
func stuckFor(plugins []string) (kinds [stuckKinds]bool, node bool) {
	for _, name := range plugins {
		switch name {
		case NameInterPodAffinity, NamePodTopologySpread:
			kinds[stuckPods] = true
		case NameVolumeBinding, NameVolumeZone, NameNodeVolumeLimits, NameVolumeRestrictions:
			kinds[stuckVolumes] = true
		case NameDynamicResources:
			kinds[stuckDevices] = true
		default:
			node = true
		}
	}
	return kinds, node || len(plugins) == 0
}

// waitsForOthers says that room on a node is not all that the pod waits for.
func (it *item) waitsForOthers() bool {
	kinds, _ := stuckFor(it.plugins)
	return slices.Contains(kinds[:], true)
}

// queue holds the pods without a node. It knows neither clock nor API; the time is given to it.
type queue struct {
	items map[types.UID]*item
	count uint64 // pods that ever came
	// came is told of pods that come into a part of the queue, and why; nil: nobody wants to know.
	came    func(queue, event string)
	active  activeHeap
	backoff backoffHeap
	// eager are those in their back-off that something happened for; rather than do nothing they are taken before it is over.
	eager eagerHeap
	// classes are the unschedulable pods by class: what one of them waits for, all do. parked are the same in the order in which
	// they came, with some that have left since.
	classes map[string]*activeHeap
	parked  []parked
	// stuck are those of them that wait for other things than a node.
	stuck [stuckKinds]map[*item]bool
	// initial and most are the first and the longest back-off.
	initial, most time.Duration
}

type parked struct {
	it *item
	at time.Time
}

func (p parked) still() bool { return p.it.stage == stageUnschedulable && p.it.parked.Equal(p.at) }

func newQueue(initial, most time.Duration) *queue {
	q := &queue{items: map[types.UID]*item{}, classes: map[string]*activeHeap{}, initial: initial, most: most}
	for k := range q.stuck {
		q.stuck[k] = map[*item]bool{}
	}
	return q
}

// before says whether an item is to be decided before another: by priority, then age.
func (it *item) before(o *item) bool {
	if it.p.priority != o.p.priority {
		return it.p.priority > o.p.priority
	}
	if !it.since.Equal(o.since) {
		return it.since.Before(o.since)
	}
	return it.number < o.number
}

// activeHeap is ordered by what is to be decided first.
type activeHeap []*item

func (h activeHeap) Len() int           { return len(h) }
func (h activeHeap) Less(i, j int) bool { return h[i].before(h[j]) }
func (h activeHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}
func (h *activeHeap) Push(x any) {
	it := x.(*item)
	it.index = len(*h)
	*h = append(*h, it)
}
func (h *activeHeap) Pop() any {
	old := *h
	it := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return it
}

// backoffHeap is ordered by the end of the back-off.
type backoffHeap []*item

func (h backoffHeap) Len() int           { return len(h) }
func (h backoffHeap) Less(i, j int) bool { return h[i].until.Before(h[j].until) }
func (h backoffHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}
func (h *backoffHeap) Push(x any) {
	it := x.(*item)
	it.index = len(*h)
	*h = append(*h, it)
}
func (h *backoffHeap) Pop() any {
	old := *h
	it := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return it
}

// eagerHeap is ordered as activeHeap is; its items are in another heap too.
type eagerHeap []*item

func (h eagerHeap) Len() int           { return len(h) }
func (h eagerHeap) Less(i, j int) bool { return h[i].before(h[j]) }
func (h eagerHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].eager, h[j].eager = i, j
}
func (h *eagerHeap) Push(x any) {
	it := x.(*item)
	it.eager = len(*h)
	*h = append(*h, it)
}
func (h *eagerHeap) Pop() any {
	old := *h
	it := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return it
}

// leave takes an item out of where it is.
func (q *queue) leave(it *item) {
	switch it.stage {
	case stageActive:
		heap.Remove(&q.active, it.index)
	case stageBackoff:
		heap.Remove(&q.backoff, it.index)
		q.calm(it)
	case stageUnschedulable:
		if it.index >= 0 {
			class := q.classes[it.p.key]
			if heap.Remove(class, it.index); len(*class) == 0 {
				delete(q.classes, it.p.key)
			}
		}
		for k := range q.stuck {
			delete(q.stuck[k], it)
		}
	}
	it.stage = stageGone
}

// put brings a pod into the queue, or a changed pod's new form. changed says that the change may let it fit.
func (q *queue) put(pod *v1.Pod, p *Pod, now time.Time, changed bool) {
	it := q.items[pod.UID]
	if it == nil {
		q.count++
		it = &item{since: now, number: q.count}
		q.items[pod.UID] = it
		changed = true
	}
	was := it.stage
	if was == stageBusy {
		it.pod, it.p = pod, p // it comes back, or doesn't, when it has been decided
		return
	}
	if !changed && was != stageGated && p.key == it.p.key {
		it.pod, it.p = pod, p
		return
	}
	q.leave(it)
	it.pod, it.p = pod, p
	if len(pod.Spec.SchedulingGates) > 0 {
		it.stage = stageGated
		q.tell("gated", "PodAdd")
		return
	}
	event := "PodUpdate"
	switch was {
	case stageGated:
		it.since = now
	case stageGone:
		event = "PodAdd"
	}
	q.wakeFor(it, now, event)
}

func (q *queue) tell(part, event string) {
	if q.came != nil {
		q.came(part, event)
	}
}

// wake makes an item active, or lets it wait for the end of its back-off, because something happened in the cluster.
func (q *queue) wake(it *item, now time.Time) { q.wakeFor(it, now, "ClusterEvent") }

func (q *queue) wakeFor(it *item, now time.Time, event string) {
	if it.evicting {
		it.woken = true
		return
	}
	q.leave(it)
	if it.until.After(now) {
		it.stage = stageBackoff
		q.tell("backoff", event)
		heap.Push(&q.backoff, it)
		if !it.patient {
			heap.Push(&q.eager, it)
		}
		return
	}
	it.stage = stageActive
	q.tell("active", event)
	heap.Push(&q.active, it)
}

// calm takes an item out of the eager ones, if it is one.
func (q *queue) calm(it *item) {
	if it.eager < len(q.eager) && q.eager[it.eager] == it {
		heap.Remove(&q.eager, it.eager)
	}
}

// drop forgets a pod.
func (q *queue) drop(uid types.UID) {
	if it := q.items[uid]; it != nil {
		q.leave(it)
		delete(q.items, uid)
	}
}

// take returns the next pod to decide, or nil.
func (q *queue) take(now time.Time) *item {
	q.tick(now)
	if len(q.active) > 0 {
		it := heap.Pop(&q.active).(*item)
		it.stage = stageBusy
		return it
	}
	// Rather than do nothing, take the first of those whose back-off isn't over, if something happened that lets it fit.
	if len(q.eager) > 0 {
		it := q.eager[0]
		q.leave(it)
		it.stage = stageBusy
		return it
	}
	return nil
}

// tick moves what is due.
func (q *queue) tick(now time.Time) {
	for len(q.backoff) > 0 && !q.backoff[0].until.After(now) {
		it := heap.Pop(&q.backoff).(*item)
		q.calm(it)
		it.stage = stageActive
		q.tell("active", "BackoffComplete")
		heap.Push(&q.active, it)
	}
	for len(q.parked) > 0 && (!q.parked[0].still() || now.Sub(q.parked[0].at) >= leftoverAfter) {
		if first := q.parked[0]; first.still() {
			first.it.flushed = true
			q.wakeFor(first.it, now, "UnschedulableTimeout")
		}
		q.parked = q.parked[1:]
	}
}

// due is when tick must be called next; zero if there is nothing to wait for.
func (q *queue) due() time.Time {
	var at time.Time
	if len(q.backoff) > 0 {
		at = q.backoff[0].until
	}
	if len(q.parked) > 0 {
		if t := q.parked[0].at.Add(leftoverAfter); at.IsZero() || t.Before(at) {
			at = t
		}
	}
	return at
}

// backoffOf is how long to wait after so many failures in a row.
func (q *queue) backoffOf(failures int) time.Duration {
	d := q.initial
	for i := 1; i < failures && d < q.most; i++ {
		d *= 2
	}
	return min(d, q.most)
}

// park puts a pod that fits nowhere, by the word of these plugins, aside until an event wakes it.
func (q *queue) park(it *item, now time.Time, plugins []string) {
	it.failures++
	it.until = now.Add(q.backoffOf(it.failures))
	it.patient, it.flushed = false, false
	it.parked = now
	it.plugins = plugins
	it.stage = stageUnschedulable
	q.tell("unschedulable", "ScheduleAttemptFailure")
	it.index = -1
	q.parked = append(q.parked, parked{it, now})
	if !it.evicting {
		q.enlist(it)
	}
}

// enlist says what wakes a pod that is put aside.
func (q *queue) enlist(it *item) {
	kinds, node := stuckFor(it.plugins)
	if node {
		class := q.classes[it.p.key]
		if class == nil {
			class = &activeHeap{}
			q.classes[it.p.key] = class
		}
		heap.Push(class, it)
	}
	for k, is := range kinds {
		if is {
			q.stuck[k][it] = true
		}
	}
}

// evicted ends a pod's wait for the eviction of others. now is when.
func (q *queue) evicted(it *item, now time.Time) {
	if !it.evicting {
		return
	}
	it.evicting = false
	switch {
	case q.items[it.pod.UID] != it:
	case it.woken:
		q.wake(it, now)
	case it.stage == stageUnschedulable:
		q.enlist(it)
	}
	it.woken = false
}

// retry puts a pod whose binding failed back, to be tried again after its back-off.
func (q *queue) retry(it *item, now time.Time) {
	it.failures++
	it.until = now.Add(q.backoffOf(it.failures))
	it.patient = true
	it.stage = stageBackoff
	q.tell("backoff", "ScheduleAttemptFailure")
	heap.Push(&q.backoff, it)
}

// wakeClass wakes the n foremost pods of a class, in the order in which they would be decided.
func (q *queue) wakeClass(key string, n int, now time.Time) {
	for ; n > 0; n-- {
		class := q.classes[key]
		if class == nil {
			return
		}
		q.wake((*class)[0], now)
	}
}
