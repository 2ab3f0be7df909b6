package store

import "sync"

// pool lends things that many goroutines need for a moment.
type pool[T any] struct{ pool sync.Pool }

// get returns one that is new or as somebody left it.
func (p *pool[T]) get() *T {
	if t, ok := p.pool.Get().(*T); ok {
		return t
	}
	return new(T)
}

func (p *pool[T]) put(t *T) { p.pool.Put(t) }
