package scheduler

import (
	"container/heap"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Upstream's times.
const (
	initialBackoff = time.Second
	maxBackoff     = 10 * time.Second
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
	// failures in a row make the back-off; until is when it is over. patient says that it must be waited for even if there is nothing else to do.
	failures int
	until    time.Time
	patient  bool
	parked   time.Time // when it became unschedulable
	index    int       // in its heap
}

// queue holds the pods without a node. It knows neither clock nor API; the time is given to it.
type queue struct {
	items   map[types.UID]*item
	active  activeHeap
	backoff backoffHeap
	// classes are the unschedulable pods by class: what one of them waits for, all do. parked are the same in the order in which
	// they came, with some that have left since.
	classes map[string]*activeHeap
	parked  []parked
	// social are those of them that were refused for where other pods are.
	social map[*item]bool
}

type parked struct {
	it *item
	at time.Time
}

func (p parked) still() bool { return p.it.stage == stageUnschedulable && p.it.parked.Equal(p.at) }

func newQueue() *queue {
	return &queue{items: map[types.UID]*item{}, classes: map[string]*activeHeap{}, social: map[*item]bool{}}
}

// activeHeap is ordered by priority, then age.
type activeHeap []*item

func (h activeHeap) Len() int { return len(h) }
func (h activeHeap) Less(i, j int) bool {
	if h[i].p.priority != h[j].p.priority {
		return h[i].p.priority > h[j].p.priority
	}
	return h[i].since.Before(h[j].since)
}
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

// leave takes an item out of where it is.
func (q *queue) leave(it *item) {
	switch it.stage {
	case stageActive:
		heap.Remove(&q.active, it.index)
	case stageBackoff:
		heap.Remove(&q.backoff, it.index)
	case stageUnschedulable:
		class := q.classes[it.p.key]
		if heap.Remove(class, it.index); len(*class) == 0 {
			delete(q.classes, it.p.key)
		}
		delete(q.social, it)
	}
	it.stage = stageGone
}

// put brings a pod into the queue, or a changed pod's new form. changed says that the change may let it fit.
func (q *queue) put(pod *v1.Pod, p *Pod, now time.Time, changed bool) {
	it := q.items[pod.UID]
	if it == nil {
		it = &item{since: now}
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
		return
	}
	if was == stageGated {
		it.since = now
	}
	q.wake(it, now)
}

// wake makes an item active, or lets it wait for the end of its back-off.
func (q *queue) wake(it *item, now time.Time) {
	q.leave(it)
	if it.until.After(now) {
		it.stage = stageBackoff
		heap.Push(&q.backoff, it)
		return
	}
	it.stage = stageActive
	heap.Push(&q.active, it)
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
	// Rather than do nothing, take one whose back-off isn't over, if something happened that lets it fit.
	for _, it := range q.backoff {
		if !it.patient {
			q.leave(it)
			it.stage = stageBusy
			return it
		}
	}
	return nil
}

// tick moves what is due.
func (q *queue) tick(now time.Time) {
	for len(q.backoff) > 0 && !q.backoff[0].until.After(now) {
		it := heap.Pop(&q.backoff).(*item)
		it.stage = stageActive
		heap.Push(&q.active, it)
	}
	for len(q.parked) > 0 && (!q.parked[0].still() || now.Sub(q.parked[0].at) >= leftoverAfter) {
		if first := q.parked[0]; first.still() {
			q.wake(first.it, now)
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
func backoffOf(failures int) time.Duration {
	d := initialBackoff
	for i := 1; i < failures && d < maxBackoff; i++ {
		d *= 2
	}
	return min(d, maxBackoff)
}

// park puts a pod that fits nowhere, by the word of these plugins, aside until an event wakes it.
func (q *queue) park(it *item, now time.Time, plugins []string) {
	it.failures++
	it.until = now.Add(backoffOf(it.failures))
	it.patient = false
	it.parked = now
	it.stage = stageUnschedulable
	class := q.classes[it.p.key]
	if class == nil {
		class = &activeHeap{}
		q.classes[it.p.key] = class
	}
	heap.Push(class, it)
	q.parked = append(q.parked, parked{it, now})
	if slices.Contains(plugins, NameInterPodAffinity) || slices.Contains(plugins, NamePodTopologySpread) {
		q.social[it] = true
	}
}

// retry puts a pod whose binding failed back, to be tried again after its back-off.
func (q *queue) retry(it *item, now time.Time) {
	it.failures++
	it.until = now.Add(backoffOf(it.failures))
	it.patient = true
	it.stage = stageBackoff
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
