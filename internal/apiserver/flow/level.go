package flow

import (
	"sync"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
)

// estimate is how long a request is taken to run until it is known (KEP-1040). It is corrected when the request ends.
const estimate = 3 * time.Millisecond

// Reasons of refusals, in the words of the metric's label.
const (
	reasonQueueFull = "queue-full"
	reasonNoSeats   = "concurrency-limit"
	reasonTimeOut   = "time-out"
	reasonCancelled = "cancelled"
)

// level is a priority level: its seats, who sits and who waits.
type level struct {
	name    string
	metrics *metrics
	// uid is that of the level's object; quiescing says that it is gone. Both are guarded by the filter's lock.
	uid       string
	quiescing bool

	mu sync.Mutex // guards all below

	exempt bool
	capacity
	limit  int // seats at present: nominal, less what is lent, more what is borrowed
	widest int
	target float64
	last   period

	// queues may be more than the first deck ones for a while: those that a smaller configuration left behind are emptied first.
	queues           []*queue
	deck, hand, most int // how many queues, how many a flow may use, how long each may get
	turn             int // where the search for the next queue begins

	inUse, executing           int // seats, requests
	waiting, waitingSeats      int // requests, seats
	dispatched, timedOut, gone int
	refused                    int
	demand                     demand
	active                     int     // queues with requests, waiting or executing
	virtual                    float64 // progress of each active queue: seat-seconds (R of the KEP)
	virtualAt                  time.Time
	lastDispatch               float64
	sitting                    list
	flows                      map[string]*stats
	retry                      retryAfter
}

// queue is a line of requests.
type queue struct {
	line             list
	seats, executing int // seats in use, requests that have them
	waitingSeats     int
	// next is the virtual time at which the queue's next request begins (S of the KEP).
	next float64
}

func (q *queue) busy() bool { return q.executing > 0 || q.line.n > 0 }

// list is a doubly linked list of tickets through the tickets themselves.
type list struct {
	head, tail *Ticket
	n          int
}

func (l *list) push(t *Ticket) {
	t.prev, t.next = l.tail, nil
	if l.tail == nil {
		l.head = t
	} else {
		l.tail.next = t
	}
	l.tail = t
	l.n++
}

func (l *list) remove(t *Ticket) {
	if t.prev == nil {
		l.head = t.next
	} else {
		t.prev.next = t.next
	}
	if t.next == nil {
		l.tail = t.prev
	} else {
		t.next.prev = t.prev
	}
	t.prev, t.next = nil, nil
	l.n--
}

func newLevel(name string, m *metrics, now time.Time) *level {
	return &level{
		name: name, metrics: m, virtualAt: now, flows: map[string]*stats{}, retry: retryAfter{seconds: 1},
		demand: demand{since: now, last: now},
	}
}

// configure takes over what the level's object says now.
func (l *level) configure(now time.Time, spec *flowcontrolv1.PriorityLevelConfigurationSpec, c capacity) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.advance(now)
	l.exempt = spec.Type == flowcontrolv1.PriorityLevelEnablementExempt
	l.deck, l.hand, l.most = 0, 0, 0
	if spec.Limited != nil && spec.Limited.LimitResponse.Queuing != nil && spec.Limited.LimitResponse.Type == flowcontrolv1.LimitResponseTypeQueue {
		q := spec.Limited.LimitResponse.Queuing
		l.deck, l.hand, l.most = int(q.Queues), int(q.HandSize), int(q.QueueLengthLimit)
	}
	for len(l.queues) < l.deck {
		l.queues = append(l.queues, &queue{})
	}
	l.trim()
	if l.capacity != c || l.limit == 0 {
		l.capacity = c
		// Half of what it may lend is away until the first adjustment knows better.
		l.limit = max(1, c.nominal-(c.nominal-c.lower)/2)
	}
	l.widest = widest(c.nominal, l.hand)
	l.dispatch(now)
}

// trim forgets queues that are no longer wanted, from the end, once they are empty.
func (l *level) trim() {
	for n := len(l.queues); n > l.deck && !l.queues[n-1].busy(); n-- {
		l.queues = l.queues[:n-1]
	}
}

// advance brings the virtual time up to now.
func (l *level) advance(now time.Time) {
	if dt := now.Sub(l.virtualAt).Seconds(); dt > 0 {
		if l.active > 0 {
			l.virtual += dt * float64(min(l.inUse+l.waitingSeats, l.limit)) / float64(l.active)
		}
		l.virtualAt = now
	}
}

func (l *level) fits(seats int) bool {
	return l.inUse+seats <= l.limit || l.inUse == 0
}

// admit lets a request in, puts it into a queue, or refuses it. It is in when t.state says so; else its ready channel is
// closed when it may go on.
func (l *level) admit(now time.Time, t *Ticket, unbounded bool) (refusal string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.advance(now)
	w := t.work.width(l.widest)
	t.width, t.seats = w, max(w.seats, w.final)
	if l.exempt {
		l.sit(now, t)
		return ""
	}
	if l.deck == 0 {
		if !unbounded && !l.fits(t.seats) {
			t.flow.tight++
			return l.refuse(now, t, reasonNoSeats)
		}
		l.sit(now, t)
		return ""
	}
	q := l.choose(t.hash)
	t.queue = q
	if unbounded || l.waiting == 0 && l.fits(t.seats) {
		l.sit(now, t)
		return ""
	}
	if l.inUse >= l.limit && q.line.n >= l.most {
		return l.refuse(now, t, reasonQueueFull)
	}
	if !q.busy() {
		l.active++
		q.next = l.virtual
	}
	t.state, t.ready, t.arrivedAt = waits, make(chan struct{}), l.virtual
	q.line.push(t)
	q.waitingSeats += t.seats
	l.waiting++
	l.waitingSeats += t.seats
	t.flow.waiting++
	t.flow.waitingSeats += t.seats
	t.flow.length.Observe(float64(q.line.n))
	l.demand.change(now, l.inUse+l.waitingSeats)
	l.dispatch(now)
	return ""
}

func (l *level) refuse(now time.Time, t *Ticket, reason string) string {
	l.refused++
	t.flow.refuse(reason)
	l.retry.drop(now.Unix())
	return reason
}

// choose is the queue of a flow's hand with the least work.
func (l *level) choose(h uint64) *queue {
	var hand [maxHand]int
	n := deal(h, l.deck, l.hand, &hand)
	var best *queue
	for _, i := range hand[:n] {
		if q := l.queues[i]; best == nil || q.seats+q.waitingSeats < best.seats+best.waitingSeats {
			best = q
		}
	}
	return best
}

// sit gives a request its seats.
func (l *level) sit(now time.Time, t *Ticket) {
	if q := t.queue; q != nil {
		if !q.busy() && t.state != waits {
			l.active++
			q.next = l.virtual
		}
		if t.state == waits {
			q.next = max(q.next, t.arrivedAt)
		}
		q.next += float64(t.seats) * (estimate + t.after).Seconds()
		q.seats += t.seats
		q.executing++
		l.lastDispatch = l.virtual
	}
	t.state, t.started = sits, now
	l.inUse += t.seats
	l.executing++
	l.dispatched++
	t.flow.executing++
	t.flow.seats += t.seats
	t.flow.dispatched++
	l.sitting.push(t)
	l.demand.change(now, l.inUse+l.waitingSeats)
}

// stand takes the seats of a request away.
func (l *level) stand(now time.Time, t *Ticket) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.advance(now)
	t.state = stands
	l.sitting.remove(t)
	l.inUse -= t.seats
	l.executing--
	t.flow.executing--
	t.flow.seats -= t.seats
	if q := t.queue; q != nil {
		q.seats -= t.seats
		q.executing--
		q.next += float64(t.seats) * (now.Sub(t.started) - estimate - t.after).Seconds()
		l.rest(q)
	}
	l.demand.change(now, l.inUse+l.waitingSeats)
	l.dispatch(now)
}

// rest notes that a queue may have nothing left.
func (l *level) rest(q *queue) {
	if q.busy() {
		return
	}
	l.active--
	if len(l.queues) > l.deck {
		l.trim()
	}
}

// leaveLine takes a request that waits no longer out of its queue. False: it has got its seats meanwhile.
func (l *level) leaveLine(now time.Time, t *Ticket, reason string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if t.state != waits {
		return false
	}
	l.advance(now)
	l.unline(t)
	t.state = stands
	l.rest(t.queue)
	if reason == reasonTimeOut {
		l.timedOut++
		l.retry.drop(now.Unix())
	} else {
		l.gone++
	}
	t.flow.refuse(reason)
	l.demand.change(now, l.inUse+l.waitingSeats)
	l.dispatch(now) // it may have kept narrower ones from sitting down
	return true
}

func (l *level) unline(t *Ticket) {
	t.queue.line.remove(t)
	t.queue.waitingSeats -= t.seats
	l.waiting--
	l.waitingSeats -= t.seats
	t.flow.waiting--
	t.flow.waitingSeats -= t.seats
}

// dispatch lets requests sit down for as long as the one whose turn it is finds its seats.
func (l *level) dispatch(now time.Time) {
	for l.waiting > 0 {
		t := l.pick()
		if t == nil {
			return
		}
		if !l.fits(t.seats) {
			t.flow.tight++
			return
		}
		l.unline(t)
		l.sit(now, t)
		close(t.ready)
	}
}

// pick is the waiting request that would be the first to be done in virtual time; among equals, the queues take turns.
func (l *level) pick() *Ticket {
	var best *Ticket
	var first float64
	at := 0
	n := len(l.queues)
	for i := range n {
		k := (l.turn + i) % n
		q := l.queues[k]
		t := q.line.head
		if t == nil {
			continue
		}
		end := max(q.next, t.arrivedAt) + float64(t.seats)*(estimate+t.after).Seconds()
		if best == nil || end < first {
			best, first, at = t, end, k
		}
	}
	l.turn = (at + 1) % max(n, 1)
	return best
}

// idle says whether nobody sits or waits.
func (l *level) idle() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.executing == 0 && l.waiting == 0
}
