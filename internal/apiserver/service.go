package apiserver

import (
	"context"
	"net/netip"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/apiserver/allocate"
	"github.com/celox/celox/internal/store"
)

// services gives out cluster IPs and node ports. What is taken follows from the services that are stored and from those that are
// about to be written: a claim stands until its write is over. So nothing can leak, whatever becomes of a write. The pool is told of each change of
// a service once, when somebody next wants something.
type services struct {
	mu   sync.Mutex
	pool *allocate.Pool // guarded by mu
	// seen are the services that the pool knows, of a revision; 0 is that it knows none. Both are guarded by mu.
	seen     map[string]*corev1.Service
	revision int64
	// ranges is the revision of the ServiceCIDRs that the pool knows; guarded by mu.
	ranges int64

	col *store.Collection
	// cidrs and addresses are the ServiceCIDR and IPAddress objects.
	cidrs, addresses *store.Collection
}

func newServices(pool *allocate.Pool, col, cidrs, addresses *store.Collection) *services {
	if addresses != nil {
		pool.Others(func(a netip.Addr) string {
			item := addresses.Peek(a.String())
			if item == nil {
				return ""
			}
			ip, ok := item.Object.(*networkingv1.IPAddress)
			if !ok {
				return ""
			}
			return allocate.OwnerOf(ip)
		})
	}
	return &services{pool: pool, col: col, cidrs: cidrs, addresses: addresses, ranges: -1}
}

// claim is what a write that is under way has taken; end gives it back.
type claim struct{ end func() }

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
	x.claim = &claim{a.pool.Claim(s)}
	return nil
}

// catchUpWait is how long to wait for changes that are there; in vain after the store has been loaded anew.
const catchUpWait = time.Second

// look tells the pool what there is and what is taken. The caller holds the lock.
func (a *services) look(ctx context.Context) error {
	if a.cidrs != nil && a.cidrs.Changed() != a.ranges {
		ranges := a.cidrs.Changed()
		cidrs, err := a.cidrs.List(ctx, store.ListOptions{Match: store.NotOlderThan})
		if err != nil {
			return err
		}
		a.pool.Shrink()
		for _, item := range cidrs.Items {
			if c, ok := item.Object.(*networkingv1.ServiceCIDR); ok {
				a.pool.Extend(c)
			}
		}
		a.ranges = ranges
	}
	newest := a.col.Changed()
	if a.seen != nil && newest == a.revision {
		return nil
	}
	if a.seen != nil && a.catchUp(ctx, newest) == nil {
		return nil
	}
	return a.reload(ctx)
}

// catchUp tells the pool of the changes up to a revision that the collection has. An error says that they are not all to be had.
func (a *services) catchUp(ctx context.Context, to int64) error {
	ctx, cancel := context.WithTimeout(ctx, catchUpWait)
	defer cancel()
	w, err := a.col.Watch(ctx, store.WatchOptions{Revision: a.revision})
	if err != nil {
		return err
	}
	defer w.Stop()
	for a.revision < to {
		events, err := w.Next(ctx)
		if err != nil {
			return err
		}
		for _, e := range events {
			if e.Item == nil {
				continue
			}
			if old := a.seen[e.Item.Key]; old != nil {
				a.pool.Drop(old)
				delete(a.seen, e.Item.Key)
			}
			if s, ok := e.Item.Object.(*corev1.Service); ok && e.Type != store.Deleted {
				a.pool.Take(s)
				a.seen[e.Item.Key] = s
			}
			a.revision = max(a.revision, e.Revision)
		}
	}
	return nil
}

// reload tells the pool of all services.
func (a *services) reload(ctx context.Context) error {
	a.seen = nil
	revision := a.col.Changed() // before the look: what changes meanwhile is seen again
	all, err := a.col.List(ctx, store.ListOptions{Match: store.NotOlderThan})
	if err != nil {
		return err
	}
	a.pool.Reset()
	a.seen, a.revision = make(map[string]*corev1.Service, len(all.Items)), revision
	for _, item := range all.Items {
		if s, ok := item.Object.(*corev1.Service); ok {
			a.pool.Take(s)
			a.seen[item.Key] = s
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
	x.claim.end()
	x.claim = nil
}

// reserve returns what must be called when the write of a service is over, and not before: until then nobody else can take what it took.
func (x *exchange) reserve(obj, _ api.Object) (commit func(bool), err error) {
	if _, ok := obj.(*corev1.Service); !ok || x.claim == nil {
		return nothing, nil
	}
	return func(bool) { x.release() }, nil
}
