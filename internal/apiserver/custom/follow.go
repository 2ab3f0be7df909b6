package custom

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/celox/celox/internal/store"
)

// openSet are the definitions whose objects somebody has asked for. There are objects of no others: what exists is opened when the
// server starts, and what is made is made through an open collection.
type openSet struct {
	mu      sync.Mutex
	all     map[*Served]bool // guarded by mu
	changed chan struct{}    // guarded by mu; closed at the next change
}

func (o *openSet) add(s *Served) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.all == nil {
		o.all = map[*Served]bool{}
	}
	o.all[s] = true
	o.tell()
}

func (o *openSet) remove(s *Served) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.all, s)
	o.tell()
}

func (o *openSet) tell() {
	if o.changed != nil {
		close(o.changed)
		o.changed = nil
	}
}

// missing returns those that are not in have, and a channel that is closed at the next change.
func (o *openSet) missing(have map[*Served]bool) (news []*Served, changed <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for s := range o.all {
		if !have[s] {
			news = append(news, s)
		}
	}
	for s := range have {
		if !o.all[s] {
			delete(have, s)
		}
	}
	if o.changed == nil {
		o.changed = make(chan struct{})
	}
	return news, o.changed
}

// unknownKeys is how many keys of collections that are not open may wait to be looked at; more are dropped, for one of a resource is enough.
const unknownKeys = 1024

// noteStored finds out which definitions have objects.
func (r *Registry) noteStored(ctx context.Context) error {
	for _, name := range r.Groups() {
		all, _ := r.Definitions(name)
		for _, s := range all {
			there, err := r.store.Stored(ctx, s.Resource().Prefix)
			if err != nil {
				return err
			}
			s.stored.Store(there)
		}
	}
	return nil
}

// openStored opens the definitions that have objects: those that have some now, and those of which another server writes some.
func (r *Registry) openStored(ctx context.Context, log *slog.Logger) {
	keys := make(chan string, unknownKeys)
	r.store.OnUnknown(func(key string) {
		select {
		case keys <- key:
		default:
		}
	})
	open := func(s *Served) {
		if err := s.Open(); err != nil && !errors.Is(err, ErrReplaced) && ctx.Err() == nil {
			log.Error("a custom resource can't be read", "resource", s.GroupResource(), "error", err)
		}
	}
	for _, name := range r.Groups() {
		all, _ := r.Definitions(name)
		for _, s := range all {
			if ctx.Err() != nil {
				return
			}
			if s.stored.Load() {
				open(s)
			}
		}
	}
	for {
		select {
		case <-ctx.Done():
			return
		case key := <-keys:
			group, rest, _ := strings.Cut(key, "/")
			plural, _, _ := strings.Cut(rest, "/")
			if s, ok := r.Find(schema.GroupResource{Group: group, Resource: plural}); ok {
				open(s)
			}
		}
	}
}

// Follower is told of all custom objects.
type Follower struct {
	// Changed is called for each object that there is, and again when it changes; Deleted when it is gone.
	Changed, Deleted func(gvr schema.GroupVersionResource, obj metav1.Object)
}

// Follow tells f of all custom objects of all definitions, those that come later included, until ctx ends. Objects are those of the
// store, in the version that they are stored in, and only to be read; those of one definition come one after the other.
func (r *Registry) Follow(ctx context.Context, f Follower) {
	var wg sync.WaitGroup
	defer wg.Wait()
	followed := map[*Served]bool{}
	for {
		news, changed := r.opened.missing(followed)
		for _, s := range news {
			followed[s] = true
			wg.Go(func() { s.follow(ctx, f) })
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

// follow tells of the objects until the collection ends.
func (s *Served) follow(ctx context.Context, f Follower) {
	s.mu.RLock()
	col := s.col
	s.mu.RUnlock()
	gvr := s.GroupResource().WithVersion(s.preferred())
	for ctx.Err() == nil {
		w, err := col.Watch(ctx, store.WatchOptions{SendInitial: true})
		if err != nil {
			return
		}
		for err == nil {
			var events []store.Event
			if events, err = w.Next(ctx); err != nil {
				break
			}
			for _, e := range events {
				switch {
				case e.Item == nil:
				case e.Type == store.Deleted:
					f.Deleted(gvr, e.Item.Object)
				default:
					f.Changed(gvr, e.Item.Object)
				}
			}
		}
		w.Stop()
		if errors.Is(err, store.ErrUnregistered) {
			return
		}
	}
}

// preferred is the version that is served first, or the storage version if none is.
func (d *Definition) preferred() string {
	if names := d.sortedVersions(); len(names) > 0 {
		return names[0]
	}
	return d.storage
}

// ByKind finds the served resource of a kind, and whether it is namespaced.
func (r *Registry) ByKind(gvk schema.GroupVersionKind) (gvr schema.GroupVersionResource, namespaced, ok bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	g := r.groups[gvk.Group]
	if g == nil {
		return schema.GroupVersionResource{}, false, false
	}
	for _, s := range g.served {
		if s.crd.Status.AcceptedNames.Kind != gvk.Kind {
			continue
		}
		if v, ok := s.Definition.Served(gvk.Version); ok {
			return s.GroupResource().WithVersion(v.spec.Name), s.Namespaced(), true
		}
	}
	return schema.GroupVersionResource{}, false, false
}

// Namespaced are the namespaced resources that have or have had objects, each in one version that is served.
func (r *Registry) Namespaced() []schema.GroupVersionResource {
	var out []schema.GroupVersionResource
	for _, name := range r.Groups() {
		all, _ := r.Definitions(name)
		for _, s := range all {
			if s.Namespaced() && len(s.Versions()) > 0 && (s.stored.Load() || s.isOpen()) {
				out = append(out, s.GroupResource().WithVersion(s.preferred()))
			}
		}
	}
	return out
}
