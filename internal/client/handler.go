package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/client-go/tools/cache"
)

// handler is one cache.ResourceEventHandler of an informer, and its registration.
type handler struct {
	to cache.ResourceEventHandler
	of *shared

	gone     atomic.Bool   // it was removed
	synced   chan struct{} // closed when it has been told the first list
	finished chan struct{} // closed when it will not be called any more
	once     sync.Once

	apart bool // it has a goroutine of its own, which calls it with queue; guarded by of.mu, as is queue
	queue []note
}

// call tells the handler, in order, until it is removed or ctx ends.
func (h *handler) call(ctx context.Context, notes []note) {
	for i := range notes {
		if h.gone.Load() || ctx.Err() != nil {
			return
		}
		switch n := &notes[i]; n.kind {
		case noteInitial:
			h.to.OnAdd(n.obj, true)
		case noteAdded:
			h.to.OnAdd(n.obj, false)
		case noteUpdated:
			h.to.OnUpdate(n.old, n.obj)
		case noteDeleted:
			h.to.OnDelete(n.obj)
		case noteListed:
			close(h.synced)
		}
	}
}

func (h *handler) finish() { h.once.Do(func() { close(h.finished) }) }

// HasSynced is of cache.ResourceEventHandlerRegistration.
func (h *handler) HasSynced() bool { return isClosed(h.synced) }

// HasSyncedChecker is of cache.ResourceEventHandlerRegistration.
func (h *handler) HasSyncedChecker() cache.DoneChecker {
	return checker{name: h.of.name() + " + event handler", done: h.synced}
}

// ShutdownChan is what cache.ShutDownEventHandler waits for.
func (h *handler) ShutdownChan() <-chan struct{} { return h.finished }

// checker is a cache.DoneChecker.
type checker struct {
	name string
	done <-chan struct{}
}

func (c checker) Name() string          { return c.name }
func (c checker) Done() <-chan struct{} { return c.done }

func isClosed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

func (s *shared) name() string { return "informer of " + s.source.GroupResource.String() }

// AddEventHandler has to called with every change. One that comes late hears of all objects first, in a goroutine of its own.
func (s *shared) AddEventHandler(to cache.ResourceEventHandler) (cache.ResourceEventHandlerRegistration, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return nil, fmt.Errorf("%s has stopped", s.name())
	}
	h := &handler{to: to, of: s, synced: make(chan struct{}), finished: make(chan struct{})}
	s.handlers = append(slices.Clip(s.handlers), h)
	if !s.listed {
		return h, nil
	}
	all := s.index.List()
	h.queue = make([]note, 0, len(all)+1)
	for _, obj := range all {
		h.queue = append(h.queue, note{kind: noteInitial, obj: obj})
	}
	h.queue = append(h.queue, note{kind: noteListed})
	h.apart = true
	s.running.Go(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.alone(h)
	})
	return h, nil
}

// AddEventHandlerWithResyncPeriod is AddEventHandler.
func (s *shared) AddEventHandlerWithResyncPeriod(to cache.ResourceEventHandler, _ time.Duration) (cache.ResourceEventHandlerRegistration, error) {
	return s.AddEventHandler(to)
}

// AddEventHandlerWithOptions is AddEventHandler.
func (s *shared) AddEventHandlerWithOptions(to cache.ResourceEventHandler, _ cache.HandlerOptions) (cache.ResourceEventHandlerRegistration, error) {
	return s.AddEventHandler(to)
}

// RemoveEventHandler has no more calls begin, but for one at most that is beginning; cache.ShutDownEventHandler waits for it.
func (s *shared) RemoveEventHandler(r cache.ResourceEventHandlerRegistration) error {
	h, ok := r.(*handler)
	if !ok || h.of != s {
		return fmt.Errorf("%T is no registration of %s", r, s.name())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	h.gone.Store(true)
	s.handlers = slices.DeleteFunc(slices.Clone(s.handlers), func(other *handler) bool { return other == h })
	if s.calling != h && !h.apart {
		h.finish()
	}
	return nil
}

// GetStore returns what reads the objects.
func (s *shared) GetStore() cache.Store { return s.index }

// GetIndexer returns what reads the objects.
func (s *shared) GetIndexer() cache.Indexer { return s.index }

// AddIndexers is of cache.SharedIndexInformer.
func (s *shared) AddIndexers(more cache.Indexers) error { return s.index.AddIndexers(more) }

// GetController returns the informer itself.
func (s *shared) GetController() cache.Controller { return s }

// HasSynced says whether the index has been filled.
func (s *shared) HasSynced() bool { return isClosed(s.synced) }

// HasSyncedChecker is HasSynced, to wait for.
func (s *shared) HasSyncedChecker() cache.DoneChecker {
	return checker{name: s.name(), done: s.synced}
}

// LastSyncResourceVersion is the revision up to which the index has everything.
func (s *shared) LastSyncResourceVersion() string { return s.index.LastStoreSyncResourceVersion() }

// IsStopped says whether Run has ended.
func (s *shared) IsStopped() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stopped
}

// SetTransform has f called with each object before it is put into the index. The object is the store's: f must copy what it changes.
func (s *shared) SetTransform(f cache.TransformFunc) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx != nil {
		return fmt.Errorf("%s has started", s.name())
	}
	s.transform = f
	return nil
}

// errNoReflector is the answer to handlers of errors of reflectors.
var errNoReflector = errors.New("an informer over the store has no reflector whose errors could be handled")

// SetWatchErrorHandler is refused.
func (s *shared) SetWatchErrorHandler(cache.WatchErrorHandler) error { return errNoReflector }

// SetWatchErrorHandlerWithContext is refused.
func (s *shared) SetWatchErrorHandlerWithContext(cache.WatchErrorHandlerWithContext) error {
	return errNoReflector
}
