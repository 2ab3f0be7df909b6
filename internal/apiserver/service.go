package apiserver

import (
	"context"
	"sync"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/apiserver/allocate"
	"github.com/celox/celox/internal/store"
)

// services gives out cluster IPs and node ports. A write that needs some looks at all services that exist and at all that are about to be
// written, and takes what is free; its claim stands until the write is over. What is taken follows from the services alone, so
// nothing can leak, whatever becomes of a write.
type services struct {
	mu      sync.Mutex
	pool    *allocate.Pool      // guarded by mu
	pending map[*claim]struct{} // guarded by mu
	col     *store.Collection
	// cidrs and addresses are the ServiceCIDR and IPAddress objects.
	cidrs, addresses *store.Collection
}

// claim is what a write that is under way has taken.
type claim struct{ service *corev1.Service }

func nothing(bool) {}

// completeService fills in a service's fields that follow from the cluster's address families, and gives it the addresses and ports that
// it asks for or lacks. As upstream does, this comes before validation: of a service that is wrong in both ways, clients
// see what could not be allocated.
func (x *exchange) completeService(obj, old api.Object) error {
	s, ok := obj.(*corev1.Service)
	if !ok || x.s.services == nil {
		return nil
	}
	x.release() // of an earlier try
	before, _ := old.(*corev1.Service)
	a := x.s.services
	a.mu.Lock()
	defer a.mu.Unlock()
	if errs := a.pool.Complete(s, before); len(errs) > 0 {
		return x.invalid(s.Name, errs)
	}
	if a.pool.Settled(s, before) {
		return nil
	}
	if err := a.look(x.ctx); err != nil {
		return err
	}
	if errs := a.pool.Assign(s, before); len(errs) > 0 {
		return x.invalid(s.Name, errs)
	}
	x.claim = &claim{s.DeepCopy()}
	a.pending[x.claim] = struct{}{}
	return nil
}

// look tells the pool what there is and what is taken. The caller holds the lock.
func (a *services) look(ctx context.Context) error {
	a.pool.Reset()
	if a.cidrs != nil {
		cidrs, err := a.cidrs.List(ctx, store.ListOptions{})
		if err != nil {
			return err
		}
		for _, item := range cidrs.Items {
			if c, ok := item.Object.(*networkingv1.ServiceCIDR); ok {
				a.pool.Extend(c)
			}
		}
	}
	all, err := a.col.List(ctx, store.ListOptions{})
	if err != nil {
		return err
	}
	for _, item := range all.Items {
		if have, ok := item.Object.(*corev1.Service); ok {
			a.pool.Take(have)
		}
	}
	for c := range a.pending {
		a.pool.Take(c.service)
	}
	if a.addresses == nil {
		return nil
	}
	addresses, err := a.addresses.List(ctx, store.ListOptions{})
	if err != nil {
		return err
	}
	for _, item := range addresses.Items {
		if ip, ok := item.Object.(*networkingv1.IPAddress); ok {
			a.pool.TakeAddress(ip)
		}
	}
	return nil
}

// release ends the request's claim: what it took is stored by now, or never will be.
func (x *exchange) release() {
	if x.claim == nil {
		return
	}
	a := x.s.services
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.pending, x.claim)
	x.claim = nil
}

// reserve returns what must be called when the write of a service is over, and not before: until then nobody else can take what it took.
func (x *exchange) reserve(obj, _ api.Object) (commit func(bool), err error) {
	if _, ok := obj.(*corev1.Service); !ok || x.claim == nil {
		return nothing, nil
	}
	return func(bool) { x.release() }, nil
}
