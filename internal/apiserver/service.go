package apiserver

import (
	"sync"

	corev1 "k8s.io/api/core/v1"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/apiserver/allocate"
	"github.com/celox/celox/internal/store"
)

// services gives out cluster IPs and node ports. One write that needs some runs at a time in this process: it looks at all
// services that exist, takes what is free, and is written before the next one looks.
type services struct {
	mu   sync.Mutex
	pool *allocate.Pool // guarded by mu
	col  *store.Collection
}

func nothing(bool) {}

// completeService fills in a service's fields that follow from the cluster's address families.
func (x *exchange) completeService(obj, old api.Object) error {
	s, ok := obj.(*corev1.Service)
	if !ok || x.s.services == nil {
		return nil
	}
	before, _ := old.(*corev1.Service)
	a := x.s.services
	a.mu.Lock()
	defer a.mu.Unlock()
	if errs := a.pool.Complete(s, before); len(errs) > 0 {
		return x.invalid(s.Name, errs)
	}
	return nil
}

// reserve gives a service that is about to be written what it lacks. The returned function must be called when the write is
// over, and not before: until then nobody else can take the same.
func (x *exchange) reserve(obj, old api.Object) (commit func(bool), err error) {
	s, ok := obj.(*corev1.Service)
	if !ok || x.s.services == nil {
		return nothing, nil
	}
	before, _ := old.(*corev1.Service)
	a := x.s.services
	a.mu.Lock()
	if a.pool.Settled(s, before) {
		a.mu.Unlock()
		return nothing, nil
	}
	all, err := a.col.List(x.ctx, store.ListOptions{})
	if err != nil {
		a.mu.Unlock()
		return nothing, err
	}
	a.pool.Reset()
	for _, item := range all.Items {
		if have, ok := item.Object.(*corev1.Service); ok {
			a.pool.Take(have)
		}
	}
	if errs := a.pool.Assign(s); len(errs) > 0 {
		a.mu.Unlock()
		return nothing, x.invalid(s.Name, errs)
	}
	return func(bool) { a.mu.Unlock() }, nil
}
