package client

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/tools/cache"

	"github.com/celox/celox/internal/store"
)

// shared is a cache.SharedIndexInformer over the store. client-go's hands an event from the reader of the watch to a queue, to its reader, and then for each
// handler to one goroutine that queues and one that calls; with a dozen handlers the goroutines that wake cost many times what the handlers do. Here one goroutine, the
// driver, waits for changes, puts them into the index and calls the handlers itself, one after the other, all changes of a batch at a time.
//
// A handler that takes long does not hold the others up: whoever drives is relieved by a new goroutine and becomes the handler's own, until the handler has
// caught up with what was queued for it meanwhile (see tell and relieve).
//
// What handlers are promised is as with client-go: each is called by one goroutine at a time, with the changes of an object in their order, after the index has
// them; it hears of objects that vanished unseen by a cache.DeletedFinalStateUnknown. There are no resyncs, which only tell again what was told.
type shared struct {
	source Source
	index  *index

	// Only the driver uses these.
	watch *store.Watcher
	pause time.Duration // after the next failure

	synced chan struct{} // closed when the index has been filled

	mu        sync.Mutex // guards all below
	transform cache.TransformFunc
	ctx       context.Context // of Run
	stopped   bool
	listed    bool
	handlers  []*handler // replaced, never changed
	running   sync.WaitGroup

	// What is being told.
	notes    []note
	audience []*handler
	next     int      // of audience
	calling  *handler // by the driver
	driver   int      // which driver it is: the number grows when one is relieved
	calls    uint64   // how many calls of handlers there have been
	guard    *time.Timer
	guarding bool
	seen     uint64 // what the guard saw of calls
}

// patience is how long a handler may take, or twice that, until the driver is relieved.
const patience = 50 * time.Millisecond

// The pauses between attempts to list, when that fails.
const (
	minPause = 100 * time.Millisecond
	maxPause = 10 * time.Second
)

// note is what handlers are told of one change.
type note struct {
	kind     noteKind
	old, obj any
}

type noteKind int8

const (
	noteInitial noteKind = iota // an object of the first list
	noteAdded
	noteUpdated
	noteDeleted
	noteListed // the first list has been told
)

var _ cache.SharedIndexInformer = (*shared)(nil)

func newShared(s Source) *shared {
	if s.Log == nil {
		s.Log = slog.New(slog.DiscardHandler)
	}
	return &shared{source: s, index: newIndex(), synced: make(chan struct{})}
}

// Run is RunWithContext until stop is closed.
func (s *shared) Run(stop <-chan struct{}) { s.RunWithContext(wait.ContextForChannel(stop)) }

// RunWithContext follows the store until ctx ends, and returns when no handler is being called any more. It is called once.
func (s *shared) RunWithContext(ctx context.Context) {
	s.mu.Lock()
	if s.ctx != nil {
		s.mu.Unlock()
		return
	}
	s.ctx = ctx
	s.running.Add(1)
	s.mu.Unlock()
	s.drive(0)
	s.running.Wait()
}

// drive tells the handlers what there is to tell until ctx ends or another driver has taken its place.
func (s *shared) drive(me int) {
	defer s.running.Done()
	for s.tell(me) {
		if !s.follow() {
			s.stop()
			return
		}
	}
}

// stop is the end of the last driver.
func (s *shared) stop() {
	if s.watch != nil {
		s.watch.Stop()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = true
	if s.guard != nil {
		s.guard.Stop()
	}
	for _, h := range s.handlers {
		if !h.apart {
			h.finish()
		}
	}
	s.handlers = nil
}

// follow waits for something new and puts it into the index and up to be told; false is the end of ctx.
func (s *shared) follow() bool {
	for s.ctx.Err() == nil {
		if s.watch == nil {
			if err := s.list(); err != nil {
				s.source.Log.Warn("informer: cannot list, will retry", "resource", s.source.GroupResource.String(), "error", err)
				s.rest()
				continue
			}
			s.pause = 0
			return true
		}
		events, err := s.watch.Next(s.ctx)
		if err == nil {
			s.take(events)
			return true
		}
		s.watch.Stop()
		s.watch = nil
		if s.ctx.Err() == nil {
			s.source.Log.Debug("informer: the watch has ended, lists again", "resource", s.source.GroupResource.String(), "error", err)
		}
	}
	return false
}

// rest lets time pass after a failure.
func (s *shared) rest() {
	s.pause = min(max(2*s.pause, minPause), maxPause)
	t := time.NewTimer(s.pause)
	defer t.Stop()
	select {
	case <-t.C:
	case <-s.ctx.Done():
	}
}

// list fills the index with what there is now, begins to watch from there, and says what is other than before.
func (s *shared) list() error {
	src := &s.source
	got, err := src.Reader.List(s.ctx, store.ListOptions{Index: src.Index, IndexValue: src.IndexValue})
	if err != nil {
		return fmt.Errorf("list: %w", err)
	}
	watch, err := src.Reader.Watch(s.ctx, store.WatchOptions{Revision: got.Revision, Index: src.Index, IndexValue: src.IndexValue})
	if err != nil {
		return fmt.Errorf("watch: %w", err)
	}
	s.watch = watch
	there := make(map[string]struct{}, len(got.Items))
	for _, it := range got.Items {
		there[it.Key] = struct{}{}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var notes []note
	s.index.mu.Lock()
	for key := range s.index.items {
		if _, ok := there[key]; !ok {
			notes = append(notes, note{kind: noteDeleted, obj: cache.DeletedFinalStateUnknown{Key: key, Obj: s.index.set(key, nil)}})
		}
	}
	kind := noteAdded
	if !s.listed {
		kind = noteInitial
		notes = make([]note, 0, len(got.Items)+1)
	}
	for _, it := range got.Items {
		if old, ok := s.index.items[it.Key]; ok && versionOf(old) == it.Object.GetResourceVersion() {
			continue
		}
		notes = s.put(notes, kind, it)
	}
	s.index.version = strconv.FormatInt(got.Revision, 10)
	s.index.mu.Unlock()
	if !s.listed {
		s.listed = true
		notes = append(notes, note{kind: noteListed})
		close(s.synced)
	}
	s.announce(notes)
	return nil
}

// take puts events into the index and up to be told.
func (s *shared) take(events []store.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	notes := make([]note, 0, len(events))
	s.index.mu.Lock()
	for i := range events {
		switch e := &events[i]; e.Type {
		case store.Added, store.Modified:
			notes = s.put(notes, noteAdded, e.Item)
		case store.Deleted:
			if s.index.set(e.Item.Key, nil) != nil {
				notes = append(notes, note{kind: noteDeleted, obj: s.shown(e.Item)})
			}
		}
	}
	s.index.version = strconv.FormatInt(events[len(events)-1].Revision, 10)
	s.index.mu.Unlock()
	s.announce(notes)
}

// put puts an item into the index and notes that; kind is what it is if it was not there. Both mu are held.
func (s *shared) put(notes []note, kind noteKind, it *store.Item) []note {
	obj := s.shown(it)
	old := s.index.set(it.Key, obj)
	if old != nil {
		kind = noteUpdated
	}
	return append(notes, note{kind: kind, old: old, obj: obj})
}

// shown is what an item is in the index. mu is held.
func (s *shared) shown(it *store.Item) any {
	if s.transform == nil {
		return it.Object
	}
	obj, err := s.transform(it.Object)
	if err != nil {
		s.source.Log.Warn("informer: an object stays as it is", "resource", s.source.GroupResource.String(), "key", it.Key, "error", err)
		return it.Object
	}
	return obj
}

func versionOf(obj any) string {
	if m, ok := obj.(interface{ GetResourceVersion() string }); ok {
		return m.GetResourceVersion()
	}
	return ""
}

// announce puts notes up to be told to all handlers that there are now. mu is held.
func (s *shared) announce(notes []note) {
	if len(notes) > 0 && len(s.handlers) > 0 {
		s.notes, s.audience, s.next = notes, s.handlers, 0
	}
}

// tell calls the handlers with what was announced. It returns false when this driver was relieved; then it has been the goroutine of the handler that took so long
// until that had nothing left to do.
func (s *shared) tell(me int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.next < len(s.audience) {
		h, notes := s.audience[s.next], s.notes
		s.next++
		switch {
		case h.gone.Load():
			continue
		case h.apart:
			h.queue = append(h.queue, notes...)
			continue
		}
		s.calling = h
		s.calls++
		s.watchOver()
		s.mu.Unlock()
		h.call(s.ctx, notes)
		s.mu.Lock()
		if s.driver != me {
			s.alone(h)
			return false
		}
		s.calling = nil
		if h.gone.Load() {
			h.finish()
		}
	}
	s.notes, s.audience, s.next = nil, nil, 0
	return true
}

// alone calls one handler with what is queued for it. mu is held, and let go meanwhile.
func (s *shared) alone(h *handler) {
	for len(h.queue) > 0 && !h.gone.Load() && !s.stopped {
		notes := h.queue
		h.queue = nil
		s.mu.Unlock()
		h.call(s.ctx, notes)
		s.mu.Lock()
	}
	h.apart = false
	if h.gone.Load() || s.stopped {
		h.finish()
	}
}

// watchOver has somebody look from time to time whether the driver is stuck in a handler, for as long as there is something to tell. mu is held.
func (s *shared) watchOver() {
	if s.guarding {
		return
	}
	s.guarding, s.seen = true, s.calls
	if s.guard == nil {
		s.guard = time.AfterFunc(patience, s.relieve)
	} else {
		s.guard.Reset(patience)
	}
}

// relieve gives the informer a new driver if the one that it has is where it was when the guard looked last.
func (s *shared) relieve() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped || s.calling == nil {
		s.guarding = false
		return
	}
	if s.calls == s.seen {
		s.calling.apart = true
		s.calling = nil
		s.driver++
		me := s.driver
		s.running.Add(1) // the one that is stuck counts as well, so nobody has stopped waiting
		go s.drive(me)
	}
	s.seen = s.calls
	s.guard.Reset(patience)
}
