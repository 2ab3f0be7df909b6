package live

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/celox/celox/internal/store"
)

// Collection is the part of a store's collection that is needed here.
type Collection interface {
	List(ctx context.Context, o store.ListOptions) (store.List, error)
	// Changed is another number after each change.
	Changed() int64
}

// View is a T derived from collections. It is safe for concurrent use; a T that was handed out never changes.
type View[T any] struct {
	collections []Collection
	derive      func(old T, lists [][]*store.Item) T

	mu      sync.Mutex // held by the one who derives
	current atomic.Pointer[state[T]]
}

type state[T any] struct {
	changed []int64
	value   T
}

// New returns a View. Derive is called with the previous value (at first the zero value) and the objects of each collection in the
// order of their keys; never twice at a time.
func New[T any](derive func(old T, lists [][]*store.Item) T, collections ...Collection) *View[T] {
	return &View[T]{collections: collections, derive: derive}
}

// Get returns the value as of now.
func (v *View[T]) Get(ctx context.Context) (T, error) {
	if s := v.current.Load(); s != nil && v.fresh(s) {
		return s.value, nil
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	old := v.current.Load()
	if old != nil && v.fresh(old) {
		return old.value, nil
	}
	next := &state[T]{changed: make([]int64, len(v.collections))}
	lists := make([][]*store.Item, len(v.collections))
	for i, c := range v.collections {
		// The number first: a change between the two is seen twice rather than never.
		next.changed[i] = c.Changed()
		l, err := c.List(ctx, store.ListOptions{Match: store.NotOlderThan})
		if err != nil {
			var none T
			return none, err
		}
		lists[i] = slices.Clip(l.Items)
	}
	var before T
	if old != nil {
		before = old.value
	}
	next.value = v.derive(before, lists)
	v.current.Store(next)
	return next.value, nil
}

func (v *View[T]) fresh(s *state[T]) bool {
	for i, c := range v.collections {
		if c.Changed() != s.changed[i] {
			return false
		}
	}
	return true
}
