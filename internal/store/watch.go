package store

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/btree"
	"k8s.io/utils/clock"

	"github.com/celox/celox/internal/store/kv"
)

// eventBatch is how many events one Next returns at most.
const eventBatch = 500

// Watcher is a cursor on the ring of a collection. Next must not be called from several goroutines at once; Stop may be called
// from anywhere, once or more often.
type Watcher struct {
	c *Collection
	t *topic
	o WatchOptions

	cursor uint64 // guarded by topic.mu
	place  int    // among those that wait with a sink; guarded by topic.mu

	sink    Sink          // of Deliver, as are the next two
	refused []Event       // what the sink did not take; guarded by delivery.round
	left    []Event       // refused when the reader had to go
	stirred chan struct{} // holds a token when the reader has to look

	initial   *initialState
	backlog   []*change // changes of a narrow topic from before this watcher came
	floor     int64     // changes up to here are not ours
	told      int64     // the last revision that the reader has heard of
	scratch   []*change
	timer     clock.Timer // for bookmarks, made at the first wait
	done      chan struct{}
	closeOnce sync.Once
}

// initialState is what a watcher still has to send before it begins to follow changes.
type initialState struct {
	walk walker
	span span
	rev  int64
	from string // the next key
}

// Watch begins a watch; the caller reads it with Next and ends it with Stop.
func (c *Collection) Watch(ctx context.Context, o WatchOptions) (*Watcher, error) {
	state := o.SendInitial || (o.Revision == 0 && !o.FromNow)
	switch {
	case o.SendInitial && o.Revision > 0:
		if err := c.s.waitFor(ctx, o.Revision); err != nil {
			return nil, err
		}
	case o.SendInitial || o.FromNow:
		if err := c.s.readIndex(ctx); err != nil {
			return nil, err
		}
	case o.Revision > c.Changed():
		// Of another server that is ahead of this one; or of a past that a restore has undone, for which one would wait for ever.
		if err := c.s.waitFor(ctx, o.Revision); err != nil {
			return nil, listAgain(err)
		}
	}
	if o.Index != "" && c.res.Indexes[o.Index] == nil {
		return nil, fmt.Errorf("store: %s has no index %q", c.res.GroupResource, o.Index)
	}
	for attempt := 0; ; attempt++ {
		w, err := c.subscribe(o, state)
		if err != nil || w != nil {
			return w, err
		}
		// The ring does not reach back that far: perhaps the engine's history does.
		if attempt == 3 {
			return nil, watchExpired(o.Revision, c.oldest())
		}
		if err := c.backfill(ctx, o.Revision); err != nil {
			return nil, err
		}
	}
}

func (c *Collection) oldest() int64 {
	c.mu.RLock()
	defer c.mu.RUnlock()
	c.main.mu.Lock()
	defer c.main.mu.Unlock()
	return c.main.low
}

// topicOf is the narrowest topic that has everything that the watcher wants.
func (c *Collection) topicOf(o WatchOptions) topicID {
	switch {
	case o.Name != "" && (o.Namespace != "" || !c.res.Namespaced):
		key := o.Name
		if c.res.Namespaced {
			key = o.Namespace + "/" + o.Name
		}
		return topicID{kind: topicKey, value: key}
	case o.Index != "":
		return topicID{kind: topicIndex, name: o.Index, value: o.IndexValue}
	case o.Namespace != "" && c.res.Namespaced:
		return topicID{kind: topicNamespace, value: o.Namespace}
	}
	return topicID{}
}

// subscribe makes the watcher at one instant between changes; nil says that the ring lacks history.
func (c *Collection) subscribe(o WatchOptions, state bool) (*Watcher, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.s.ctx.Err(); err != nil {
		return nil, engineError(errClosed)
	}
	now := c.revisionLocked()
	w := &Watcher{c: c, o: o, done: make(chan struct{}), floor: now, told: now}
	id := c.topicOf(o)

	c.main.mu.Lock()
	defer c.main.mu.Unlock()
	if c.main.closed != nil {
		return nil, engineError(c.main.closed)
	}
	cursor := c.main.r.tail
	if !state && !o.FromNow {
		if o.Revision < c.main.low {
			return nil, nil
		}
		w.floor, w.told = o.Revision, o.Revision
		cursor = c.main.r.after(o.Revision)
	}
	if id.kind == topicAll {
		w.t, w.cursor = c.main, cursor
	} else {
		for pos := cursor; pos < c.main.r.tail; pos++ {
			if ch := c.main.r.get(pos); c.concerns(id, ch) {
				w.backlog = append(w.backlog, ch)
			}
		}
		if w.t = c.topics[id]; w.t == nil {
			w.t = newTopic(id, now, c.s.o.RingEvents, &c.s.pool)
			c.topics[id] = w.t
		}
		w.t.mu.Lock()
		defer w.t.mu.Unlock()
		w.cursor = w.t.r.tail
	}
	w.t.watchers[w] = struct{}{}
	if state {
		span := c.span(ListOptions{Namespace: o.Namespace, Name: o.Name})
		w.initial = &initialState{span: span, from: span.from, rev: now, walk: c.initialLocked(id)}
	}
	return w, nil
}

// initialLocked walks over the current objects of a topic.
func (c *Collection) initialLocked(id topicID) walker {
	switch id.kind {
	case topicKey:
		if item, ok := c.tree.Get(&Item{Key: id.value}); ok {
			return treeOf([]*Item{item})
		}
		return treeOf(nil)
	case topicIndex:
		m := c.indexes[id.name][id.value]
		items := make([]*Item, 0, len(m))
		for _, it := range m {
			items = append(items, it)
		}
		return treeOf(items)
	}
	return treeWalker(c.freezeLocked())
}

func treeOf(items []*Item) walker {
	t := btree.NewG(8, lessItem)
	for _, it := range items {
		t.ReplaceOrInsert(it)
	}
	return treeWalker(t)
}

// Stop ends the watch; a Next that waits returns.
func (w *Watcher) Stop() {
	w.closeOnce.Do(func() {
		close(w.done)
		c := w.c
		c.mu.Lock()
		defer c.mu.Unlock()
		w.t.mu.Lock()
		defer w.t.mu.Unlock()
		delete(w.t.watchers, w)
		if w.t.id.kind != topicAll && len(w.t.watchers) == 0 && c.topics[w.t.id] == w.t {
			delete(c.topics, w.t.id)
		}
	})
}

// Next waits until there is at least one event and returns those that are there. When the reader was too slow, or the
// collection or the store is gone, it returns an error, after which the watch is over: 410 Expired says to list again.
func (w *Watcher) Next(ctx context.Context) ([]Event, error) { return w.next(ctx, nil) }

func (w *Watcher) next(ctx context.Context, sink Sink) ([]Event, error) {
	if left := w.left; left != nil {
		w.left = nil
		return left, nil
	}
	if w.initial != nil {
		if events := w.nextInitial(); len(events) > 0 {
			return events, nil
		}
	}
	if f := w.o.Settled; f != nil {
		w.o.Settled = nil
		f()
	}
	if len(w.backlog) > 0 {
		backlog := w.backlog
		w.backlog = nil
		if events := w.events(backlog); len(events) > 0 {
			return events, nil
		}
	}
	var due <-chan time.Time
	if w.o.Bookmarks {
		if wait := w.untilBookmark(ctx); w.timer == nil {
			w.timer = w.c.s.o.Clock.NewTimer(wait)
		} else {
			w.timer.Reset(wait)
		}
		defer w.timer.Stop()
		due = w.timer.C()
	}
	bookmark := false
	for {
		reached := w.c.s.revision.Load() // before the look: everything up to it is in the ring
		bell, err := w.take(sink == nil)
		if err != nil {
			return nil, err
		}
		if len(w.scratch) > 0 {
			if events := w.events(w.scratch); len(events) > 0 {
				return events, nil
			}
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			continue
		}
		if bookmark && reached > w.told {
			w.told = reached
			return []Event{{Type: Bookmark, Revision: reached}}, nil
		}
		if sink != nil {
			if !w.attach(sink) {
				continue
			}
			bell = w.stirred
		}
		var end error
		select {
		case <-bell:
		case <-due:
			bookmark = true
			w.timer.Reset(w.untilBookmark(ctx))
		case <-ctx.Done():
			end = ctx.Err()
		case <-w.done:
			end = errStopped
		}
		if sink != nil {
			w.left = w.detach()
		}
		if end != nil {
			return nil, end
		}
		if left := w.left; left != nil {
			w.left = nil
			return left, nil
		}
	}
}

// untilBookmark is how long to wait for the next bookmark.
func (w *Watcher) untilBookmark(ctx context.Context) time.Duration {
	if end, ok := ctx.Deadline(); ok {
		if left := end.Sub(w.c.s.o.Clock.Now()) - lastBookmark; left > 0 {
			return min(left, bookmarkInterval)
		}
	}
	return bookmarkInterval
}

var errStopped = errors.New("store: the watch was stopped")

// take copies the next changes from the ring to scratch; if there are none and the watcher will wait for some, it says for what.
func (w *Watcher) take(wait bool) (<-chan struct{}, error) {
	clear(w.scratch)
	w.scratch = w.scratch[:0]
	t := w.t
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed != nil {
		return nil, engineError(t.closed)
	}
	if w.cursor < t.r.head {
		return nil, watchExpired(w.told, t.low)
	}
	if w.cursor == t.r.tail {
		if wait && t.bell == nil {
			t.bell = make(chan struct{})
		}
		return t.bell, nil
	}
	for w.cursor < t.r.tail && len(w.scratch) < eventBatch {
		w.scratch = append(w.scratch, t.r.get(w.cursor))
		w.cursor++
	}
	return nil, nil
}

// nextInitial sends the state at the beginning, a batch at a time, and in the end says that it was all.
func (w *Watcher) nextInitial() []Event {
	in := w.initial
	var events []Event
	more := false
	in.walk(in.from, func(it *Item) bool {
		if !in.span.holds(it.Key) {
			return in.span.before(it.Key)
		}
		if len(events) == eventBatch {
			in.from, more = it.Key, true
			return false
		}
		if w.wants(it) {
			events = append(events, Event{Type: Added, Item: it, Revision: it.Revision})
		}
		return true
	})
	if more {
		return events
	}
	if w.o.SendInitial && w.o.Bookmarks {
		events = append(events, Event{Type: Bookmark, Revision: in.rev, Initial: true})
	}
	w.initial = nil
	return events
}

// wants says whether the watcher sees an item. What its topic already selects by key is not asked again.
func (w *Watcher) wants(it *Item) bool { return w.covers(it) && w.passes(it) }

// covers says whether the item is where the watcher looks, its filters aside.
func (w *Watcher) covers(it *Item) bool {
	if it == nil {
		return false
	}
	o, kind := &w.o, w.t.id.kind
	if kind != topicKey {
		if o.Namespace != "" && w.c.res.Namespaced && kind != topicNamespace && !inNamespace(it.Key, o.Namespace) {
			return false
		}
		if o.Name != "" && name(it.Key) != o.Name {
			return false
		}
	}
	return o.Index == "" || contains(w.c.res.Indexes[o.Index](it.Object), o.IndexValue)
}

// passes says whether the item gets through the watcher's filters.
func (w *Watcher) passes(it *Item) bool {
	return (w.o.Filter == nil || w.o.Filter(it.Object)) && (w.o.Select == nil || w.o.Select(it))
}

// verdicts are what some filters say of a change. Many watchers have the same one: every node's proxy, every replica of an operator.
type verdicts struct {
	known [4]verdict
	next  uint8 // where a new one goes
}

type verdict struct {
	filter  string
	is, was bool
}

// of says what the watcher's filter says of the change before and after.
func (v *verdicts) of(w *Watcher, ch *change) (is, was bool) {
	name := w.o.FilterName
	for i := range v.known {
		if k := &v.known[i]; k.filter == name {
			return k.is, k.was
		}
	}
	k := &v.known[v.next]
	v.next = (v.next + 1) % uint8(len(v.known))
	*k = verdict{name, ch.cur != nil && w.passes(ch.cur), ch.prev != nil && w.passes(ch.prev)}
	return k.is, k.was
}

// events shows changes through the watcher's filter.
func (w *Watcher) events(changes []*change) []Event { return w.show(nil, changes, nil) }

// show appends to events what the watcher sees of changes. It looks into what is known of each of them before it asks its filter.
func (w *Watcher) show(events []Event, changes []*change, known []verdicts) []Event {
	shared := known != nil && w.o.FilterName != ""
	for i, ch := range changes {
		if ch.rev <= w.floor {
			continue
		}
		is, was := w.covers(ch.cur), w.covers(ch.prev)
		switch {
		case !is && !was:
			continue
		case shared:
			passes, passed := known[i].of(w, ch)
			is, was = is && passes, was && passed
		default:
			is, was = is && w.passes(ch.cur), was && w.passes(ch.prev)
		}
		e := Event{Revision: ch.rev, change: ch}
		switch {
		case is && was:
			e.Type, e.Item = Modified, ch.cur
		case is:
			e.Type, e.Item = Added, ch.cur
		case was:
			e.Type, e.Item = Deleted, ch.gone()
		default:
			continue
		}
		if events == nil {
			events = make([]Event, 0, len(changes)-i)
		}
		events = append(events, e)
		w.told = ch.rev
	}
	return events
}

// backfill reads the history from rev to the beginning of the ring out of the engine and puts it in front, so that others who come
// back with old revisions (all of them do after a restart) find it there.
func (c *Collection) backfill(ctx context.Context, rev int64) error {
	c.backfilling.Lock()
	defer c.backfilling.Unlock()
	low := c.oldest()
	if rev >= low {
		return nil
	}
	if rev < c.s.compacted.Load() {
		return watchExpired(rev, low)
	}
	ctx, cancel := context.WithTimeout(ctx, freshRevisionTimeout)
	defer cancel()
	before := map[string]kv.KeyValue{}
	_, err := c.s.scan(ctx, c.prefix, prefixEnd(c.prefix), rev, func(item kv.KeyValue) { before[item.Key] = item })
	if err == nil {
		var events []kv.Event
		if events, err = c.history(ctx, rev+1, low); err == nil {
			return c.prepend(rev, low, before, events)
		}
	}
	if errors.Is(err, kv.ErrCompacted) || errors.Is(err, errTooMuch) {
		return watchExpired(rev, low)
	}
	return engineError(err)
}

var errTooMuch = errors.New("more history than the ring holds")

// history returns the events of [from, to].
func (c *Collection) history(ctx context.Context, from, to int64) ([]kv.Event, error) {
	watch, cancel := context.WithCancel(ctx)
	defer cancel()
	ch := c.s.engine.Watch(watch, c.prefix, from)
	var events []kv.Event
	nudge := c.s.o.Clock.NewTicker(20 * time.Millisecond) // an engine may forget a request that comes before the watch has caught up
	defer nudge.Stop()
	for {
		if err := c.s.engine.RequestProgress(ctx); err != nil {
			return nil, err
		}
		select {
		case resp, ok := <-ch:
			switch {
			case !ok:
				return nil, fmt.Errorf("%w: %w", kv.ErrUnavailable, errWatchEnded)
			case resp.Err != nil:
				return nil, resp.Err
			}
			for _, ev := range resp.Events {
				if ev.KV.ModRevision <= to {
					events = append(events, ev)
				}
			}
			if len(events) > c.s.o.RingEvents {
				return nil, errTooMuch
			}
			if resp.Revision >= to {
				return events, nil
			}
		case <-nudge.C():
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// prepend turns events into changes, given the state before them, and puts them into the ring.
func (c *Collection) prepend(rev, low int64, before map[string]kv.KeyValue, events []kv.Event) error {
	at := c.s.o.Clock.Now().UnixNano()
	state := map[string]*Item{}
	item := func(key string, stored kv.KeyValue) *Item {
		if cached := c.cached(key); cached != nil && cached.Revision == stored.ModRevision {
			return cached
		}
		it, err := c.decode(key, stored)
		if err != nil {
			c.s.log.Error("store: a stored object cannot be read and is left out", "key", stored.Key, "revision", stored.ModRevision, "error", err)
			return nil
		}
		return it
	}
	changes := make([]*change, 0, len(events))
	for _, ev := range events {
		key := ev.KV.Key[len(c.prefix):]
		prev, known := state[key]
		if !known {
			if old, ok := before[ev.KV.Key]; ok {
				prev = item(key, old)
			}
		}
		ch := &change{rev: ev.KV.ModRevision, key: key, prev: prev, at: at}
		if ev.Type == kv.Put {
			ch.cur = item(key, ev.KV)
		}
		state[key] = ch.cur
		if ch.cur != nil || ch.prev != nil {
			changes = append(changes, ch)
		}
	}
	c.mu.RLock()
	defer c.mu.RUnlock()
	c.main.mu.Lock()
	defer c.main.mu.Unlock()
	if c.main.low != low {
		return nil // the ring moved on; the caller tries again
	}
	if c.main.r.len()+len(changes) > c.main.limit {
		return watchExpired(rev, low)
	}
	for w := range c.main.watchers {
		if w.cursor < c.main.r.head {
			w.cursor = 0 // it had lost its place already, and must not find it in what comes in front now
		}
	}
	c.main.r.prepend(changes)
	c.main.low = rev
	return nil
}
