package store

import (
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"github.com/celox/celox/internal/workers"
)

// change is one step of one object, as every watcher of its collection shares it. cur is nil for a deletion, prev for a creation.
type change struct {
	rev       int64
	key       string
	cur, prev *Item
	at        int64 // when it was applied, nanoseconds since the epoch

	once sync.Once
	last *Item // prev as of rev
	// shown, if it isn't nil, is the last state instead of prev, if that has the revision lastOf.
	shown  Object
	lastOf int64

	frames  atomic.Pointer[framed]
	framing sync.Mutex // held while a new frame is made
}

// gone is the last state with the revision of this change: what those see for whom the object goes away.
func (ch *change) gone() *Item {
	ch.once.Do(func() {
		if p := ch.prev; ch.shown != nil && p.Revision == ch.lastOf {
			ch.last = p.shelf.item(ch.shown, p.Key, ch.rev, p.sum, p.Size)
		} else {
			ch.last = p.at(ch.rev)
		}
	})
	return ch.last
}

// ring holds changes in order of revision. Positions only grow at the end, and shrink only when history is put in front.
type ring struct {
	buf        []*change // length 0 or a power of two
	head, tail uint64    // positions of the first change and after the last
}

// ringOrigin leaves room for history in front.
const ringOrigin = 1 << 40

func newRing() ring { return ring{head: ringOrigin, tail: ringOrigin} }

func (r *ring) len() int                { return int(r.tail - r.head) }
func (r *ring) get(pos uint64) *change  { return r.buf[pos&uint64(len(r.buf)-1)] }
func (r *ring) set(p uint64, c *change) { r.buf[p&uint64(len(r.buf)-1)] = c }
func (r *ring) full() bool              { return r.len() == len(r.buf) }

func (r *ring) resize(n int) {
	size := 8
	for size < n {
		size *= 2
	}
	old := *r
	r.buf = make([]*change, size)
	for p := old.head; p < old.tail; p++ {
		r.set(p, old.get(p))
	}
}

func (r *ring) push(c *change) {
	if r.full() {
		r.resize(r.len() + 1)
	}
	r.set(r.tail, c)
	r.tail++
}

func (r *ring) drop() *change {
	c := r.get(r.head)
	r.set(r.head, nil)
	r.head++
	return c
}

// prepend puts older changes in front.
func (r *ring) prepend(cs []*change) {
	if r.len()+len(cs) > len(r.buf) {
		r.resize(r.len() + len(cs))
	}
	for i := len(cs) - 1; i >= 0; i-- {
		r.head--
		r.set(r.head, cs[i])
	}
}

// after is the position of the first change whose revision is greater than rev.
func (r *ring) after(rev int64) uint64 {
	return r.head + uint64(sort.Search(r.len(), func(i int) bool { return r.get(r.head+uint64(i)).rev > rev }))
}

// topicKind says what the watchers of a topic have in common.
type topicKind int8

const (
	topicAll topicKind = iota
	topicNamespace
	topicKey
	topicIndex
)

// topicID names a part of a collection: a namespace, one key, one value of an index.
type topicID struct {
	kind        topicKind
	name, value string // name is the index's
}

// topic is the ring that the watchers of one part of a collection read. The topic of everything lives as long as the collection
// and is its memory of the past; the others exist while they have watchers.
type topic struct {
	id    topicID
	limit int
	pool  *workers.Pool // of who waits for what the topic starts

	mu sync.Mutex
	// r holds all changes of the topic with a revision greater than low.
	r        ring
	low      int64
	bell     chan struct{} // closed at the next change; nil when nobody waits
	watchers map[*Watcher]struct{}
	closed   error

	out delivery // to the watchers that wait with a sink
}

func newTopic(id topicID, low int64, limit int, pool *workers.Pool) *topic {
	t := &topic{id: id, limit: limit, pool: pool, r: newRing(), low: low, watchers: map[*Watcher]struct{}{}}
	t.out.rounds = t.rounds
	return t
}

// freshness is how long the ring grows rather than forget.
const freshness = 75 * time.Second

// publish appends a change. When the ring is full it forgets the oldest change if nobody needs it, else grows up to its limit; at
// the limit those who still need the oldest are too slow.
func (t *topic) publish(c *change) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.r.full() && t.r.len() > 0 {
		switch {
		case t.r.len() >= t.limit:
			t.low = t.r.drop().rev
		case t.id.kind == topicAll && c.at-t.r.get(t.r.head).at < int64(freshness):
		case t.slowest() > t.r.head:
			t.low = t.r.drop().rev
		}
	}
	t.r.push(c)
	t.deliver()
	if t.bell != nil {
		close(t.bell)
		t.bell = nil
	}
}

func (t *topic) slowest() uint64 {
	pos := t.r.tail
	for w := range t.watchers {
		pos = min(pos, w.cursor)
	}
	return pos
}

// trim forgets changes from before the given time that no watcher still has to read, and gives memory back.
func (t *topic) trim(before int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	keep := t.slowest()
	dropped := false
	for t.r.head < keep && t.r.get(t.r.head).at < before {
		t.low = t.r.drop().rev
		dropped = true
	}
	if dropped && len(t.r.buf) > 4*t.r.len() {
		t.r.resize(t.r.len())
	}
}

// end wakes all watchers with an error.
func (t *topic) end(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed == nil {
		t.closed = err
	}
	if t.bell != nil {
		close(t.bell)
		t.bell = nil
	}
	for _, w := range t.out.waiting {
		w.stir()
	}
}
