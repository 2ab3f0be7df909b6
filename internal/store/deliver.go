package store

import (
	"context"
	"slices"
	"sync"
)

// Sink takes events in the goroutine that found them, so that news for thousands of watchers wakes none of theirs.
type Sink interface {
	// Take takes events, in order and as many as it can without waiting, and says how many. It must not keep the slice.
	Take(events []Event) int
	// Sent is called when all sinks that want the news have been asked: what was taken may go on its way.
	Sent()
}

// Deliver is Next for a reader who also has a sink: what comes while it waits is given to the sink. It returns, for the reader to deal with, what the sink
// did not take, what there was before it began to wait, and bookmarks. When Deliver has returned the sink is left alone.
func (w *Watcher) Deliver(ctx context.Context, sink Sink) ([]Event, error) { return w.next(ctx, sink) }

// parallelSends is how many sinks are told in one goroutine that they may send.
const parallelSends = 256

// delivery is what a topic has for the watchers that wait with a sink. One goroutine at a time delivers, in rounds; it is there only while there is
// something to deliver.
type delivery struct {
	running bool       // guarded by topic.mu
	waiting []*Watcher // guarded by topic.mu; a watcher knows its place
	rounds  func()     // the topic's, made once

	// round is held during a round. Nothing below is touched without it.
	round   sync.Mutex
	turn    []*Watcher
	from    []int // where a watcher's changes begin
	changes []*change
	known   []verdicts // of the changes, in the same order
	events  []Event
	taken   []Sink
}

// attach has the dispatcher serve the watcher. False says that there is something to read first.
func (w *Watcher) attach(sink Sink) bool {
	t := w.t
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed != nil || w.cursor != t.r.tail {
		return false
	}
	if w.stirred == nil {
		w.stirred = make(chan struct{}, 1)
	}
	w.sink, w.refused = sink, nil
	w.place = len(t.out.waiting)
	t.out.waiting = append(t.out.waiting, w)
	return true
}

// detach is the end of attach. It returns what the sink did not take.
func (w *Watcher) detach() []Event {
	t := w.t
	t.mu.Lock()
	t.leave(w)
	t.mu.Unlock()
	t.out.round.Lock() // a round that began before we left has ended when we have this
	defer t.out.round.Unlock()
	refused := w.refused
	w.sink, w.refused = nil, nil
	select {
	case <-w.stirred:
	default:
	}
	return refused
}

// leave takes a watcher out of those that wait. The topic's mu is held.
func (t *topic) leave(w *Watcher) {
	d := &t.out
	if w.place >= len(d.waiting) || d.waiting[w.place] != w {
		return
	}
	last := len(d.waiting) - 1
	d.waiting[w.place] = d.waiting[last]
	d.waiting[w.place].place = w.place
	d.waiting[last] = nil
	d.waiting = d.waiting[:last]
	if last == 0 {
		d.waiting = nil
	}
}

// stir wakes the watcher's reader.
func (w *Watcher) stir() {
	select {
	case w.stirred <- struct{}{}:
	default:
	}
}

// deliver makes sure that somebody delivers. The topic's mu is held.
func (t *topic) deliver() {
	if len(t.out.waiting) == 0 || t.out.running {
		return
	}
	t.out.running = true
	t.pool.Run(t.out.rounds)
}

// rounds delivers until there is nothing new.
func (t *topic) rounds() {
	for t.round() {
	}
}

// round gives all waiting watchers what is new. It says whether there was anything.
func (t *topic) round() bool {
	d := &t.out
	d.round.Lock()
	defer d.round.Unlock()
	if !t.prepare() {
		return false
	}
	d.known = slices.Grow(d.known[:0], len(d.changes))[:len(d.changes)]
	for i, w := range d.turn {
		d.events = w.show(d.events[:0], d.changes[d.from[i]:], d.known[d.from[i]:])
		if len(d.events) == 0 {
			continue
		}
		n := w.sink.Take(d.events)
		if n > 0 {
			d.taken = append(d.taken, w.sink)
		}
		if n < len(d.events) {
			w.refused = append([]Event(nil), d.events[n:]...)
			w.stir()
		}
	}
	t.send(d.taken)
	clear(d.turn)
	clear(d.changes)
	clear(d.known)
	if cap(d.known) > 64 {
		d.known = nil // of a burst
	}
	clear(d.events[:cap(d.events)])
	clear(d.taken)
	d.turn, d.from, d.changes, d.taken = d.turn[:0], d.from[:0], d.changes[:0], d.taken[:0]
	return true
}

// send has sinks send, on two processors if they are many.
func (t *topic) send(sinks []Sink) {
	var wg sync.WaitGroup
	if len(sinks) > parallelSends {
		half := sinks[len(sinks)/2:]
		sinks = sinks[:len(sinks)/2]
		wg.Add(1)
		t.pool.Run(func() {
			defer wg.Done()
			for _, s := range half {
				s.Sent()
			}
		})
	}
	for _, s := range sinks {
		s.Sent()
	}
	wg.Wait()
}

// prepare notes who gets what in the next round; false ends the rounds.
func (t *topic) prepare() bool {
	d := &t.out
	t.mu.Lock()
	defer t.mu.Unlock()
	first := t.r.tail
	for i := 0; i < len(d.waiting); {
		w := d.waiting[i]
		switch {
		case w.refused != nil:
			t.leave(w) // its reader is on the way
		case w.cursor < t.r.head:
			t.leave(w)
			w.stir() // too slow; its reader will find out
		default:
			first = min(first, w.cursor)
			i++
		}
	}
	end := min(t.r.tail, first+eventBatch)
	if t.closed != nil || first == end {
		d.running = false
		return false
	}
	for pos := first; pos < end; pos++ {
		d.changes = append(d.changes, t.r.get(pos))
	}
	for _, w := range d.waiting {
		if w.cursor < end {
			d.turn = append(d.turn, w)
			d.from = append(d.from, int(w.cursor-first))
			w.cursor = end
		}
	}
	return true
}

// framed is one link of a change's short list of what it looks like on the wire.
type framed struct {
	form Form
	typ  EventType
	data []byte
	next *framed
}

// Shared says whether other watchers see the same event: Encoded has a use then.
func (e *Event) Shared() bool { return e.change != nil }

// Encoded returns the event in form f. For all watchers of the same change encode is called at most once for each form and type of event; an error is not
// remembered. The bytes must not be modified.
func (e *Event) Encoded(f Form, encode func(*Event) ([]byte, error)) ([]byte, error) {
	ch := e.change
	if ch == nil {
		return encode(e)
	}
	if data, ok := ch.frame(f, e.Type); ok {
		return data, nil
	}
	ch.framing.Lock()
	defer ch.framing.Unlock()
	if data, ok := ch.frame(f, e.Type); ok {
		return data, nil
	}
	data, err := encode(e)
	if err != nil {
		return nil, err
	}
	ch.frames.Store(&framed{form: f, typ: e.Type, data: data, next: ch.frames.Load()})
	return data, nil
}

func (ch *change) frame(f Form, typ EventType) ([]byte, bool) {
	for l := ch.frames.Load(); l != nil; l = l.next {
		if l.typ == typ && l.form == f {
			return l.data, true
		}
	}
	return nil, false
}
