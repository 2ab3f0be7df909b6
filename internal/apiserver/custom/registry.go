package custom

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/celox/celox/internal/store"
)

// Registry holds the definitions that are served. Safe for concurrent use.
type Registry struct {
	store *store.Store
	hooks Hooks

	// revision counts the changes, for those who keep what they made of the definitions.
	revision atomic.Uint64

	opened openSet

	mu     sync.RWMutex
	groups map[string]*group // guarded by mu
}

// group are the definitions of one API group by plural.
type group struct {
	revision uint64
	served   map[string]*Served
}

// NewRegistry returns an empty registry whose definitions keep their objects in st.
func NewRegistry(st *store.Store, hooks Hooks) *Registry {
	hooks.meta = &metaTypes{}
	return &Registry{store: st, hooks: hooks, groups: map[string]*group{}}
}

// Served is a definition with what serving it needs. The objects' collection is opened when somebody first asks for it.
type Served struct {
	*Definition
	registry *Registry

	// newest is the definition's newest state; it differs from the one served in status and metadata only.
	newest atomic.Pointer[CRD]

	// stored says that there were objects when the server started.
	stored atomic.Bool

	mu       sync.RWMutex
	ended    bool              // guarded by mu
	col      *store.Collection // guarded by mu; nil before its first use
	prepared map[*Version]any  // guarded by mu
}

// ErrReplaced says that a definition is no longer served in this form: look it up again.
var ErrReplaced = errors.New("the definition has changed")

// Prepare returns what prepare made of the version and its view of the objects; it is called once a version.
func (s *Served) Prepare(v *Version, prepare func(*View) any) (any, error) {
	s.mu.RLock()
	p, ok := s.prepared[v]
	s.mu.RUnlock()
	if ok {
		return p, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if p, ok := s.prepared[v]; ok {
		return p, nil
	}
	if err := s.openLocked(); err != nil {
		return nil, err
	}
	p = prepare(v.View(s.col))
	if s.prepared == nil {
		s.prepared = map[*Version]any{}
	}
	s.prepared[v] = p
	return p, nil
}

// openLocked opens the objects' collection. The caller holds mu.
func (s *Served) openLocked() error {
	switch {
	case s.ended:
		return ErrReplaced
	case s.col != nil:
		return nil
	}
	for _, v := range s.versions {
		if _, err := v.schema(); err != nil {
			return err
		}
	}
	col, err := s.registry.store.Register(s.Resource())
	if err != nil {
		return err
	}
	s.col = col
	s.registry.opened.add(s)
	return nil
}

// Open opens the objects' collection, if it is not open.
func (s *Served) Open() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.openLocked()
}

// isOpen says whether somebody has asked for the objects.
func (s *Served) isOpen() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.col != nil
}

// end closes the collection; requests that have it go on without seeing what others write.
func (s *Served) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	if s.col != nil {
		s.registry.store.Unregister(s.GroupResource())
		s.registry.opened.remove(s)
	}
}

// Set serves the definition of crd from now on, in place of an earlier one of its name. Objects of an earlier one with other
// contents are read anew and their watches end.
func (r *Registry) Set(crd *CRD) error {
	d, err := New(crd, r.hooks)
	if err != nil {
		return err
	}
	next := &Served{Definition: d, registry: r}
	next.newest.Store(crd)
	if !r.replace(next) {
		return nil
	}
	// Who follows the objects must not lose sight of them.
	if err := next.Open(); err != nil && !errors.Is(err, ErrReplaced) {
		return fmt.Errorf("reading the objects of %s anew: %w", crd.Name, err)
	}
	return nil
}

// replace puts next in the place of an earlier definition, and says whether that one's objects were open.
func (r *Registry) replace(next *Served) (open bool) {
	gr := next.GroupResource()
	r.mu.Lock()
	defer r.mu.Unlock()
	g := r.groups[gr.Group]
	if g == nil {
		g = &group{served: map[string]*Served{}}
		r.groups[gr.Group] = g
	}
	if old := g.served[gr.Resource]; old != nil {
		open = old.isOpen()
		next.stored.Store(old.stored.Load())
		old.end()
	}
	g.served[gr.Resource] = next
	g.revision = r.revision.Add(1)
	return open
}

// Update notes a newer state of a definition that is served in the same way (see Same).
func (r *Registry) Update(crd *CRD) {
	gr := resourceOf(crd)
	r.mu.Lock()
	defer r.mu.Unlock()
	g := r.groups[gr.Group]
	if g == nil || g.served[gr.Resource] == nil {
		return
	}
	old := g.served[gr.Resource].newest.Swap(crd)
	if Terminating(old) != Terminating(crd) || isTrue(old, apiextensionsv1.Established) != isTrue(crd, apiextensionsv1.Established) {
		g.revision = r.revision.Add(1) // what discovery shows of it
	}
}

// Remove stops serving a resource.
func (r *Registry) Remove(gr schema.GroupResource) {
	r.mu.Lock()
	defer r.mu.Unlock()
	g := r.groups[gr.Group]
	if g == nil || g.served[gr.Resource] == nil {
		return
	}
	g.served[gr.Resource].end()
	delete(g.served, gr.Resource)
	g.revision = r.revision.Add(1)
	if len(g.served) == 0 {
		delete(r.groups, gr.Group)
	}
}

// Find returns who serves a resource.
func (r *Registry) Find(gr schema.GroupResource) (*Served, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	g := r.groups[gr.Group]
	if g == nil {
		return nil, false
	}
	s := g.served[gr.Resource]
	return s, s != nil
}

// HasGroup says whether a group has definitions.
func (r *Registry) HasGroup(name string) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.groups[name] != nil
}

// Revision counts the changes of the registry.
func (r *Registry) Revision() uint64 { return r.revision.Load() }

// Groups returns the names of the groups, sorted.
func (r *Registry) Groups() []string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return slices.Sorted(maps.Keys(r.groups))
}

// Definitions returns the definitions of a group, sorted by plural, and the revision at which they last changed.
func (r *Registry) Definitions(name string) (defs []*Served, revision uint64) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	g := r.groups[name]
	if g == nil {
		return nil, 0
	}
	for _, plural := range slices.Sorted(maps.Keys(g.served)) {
		defs = append(defs, g.served[plural])
	}
	return defs, g.revision
}

// GroupRevision returns the revision at which a group last changed, 0 if there is none.
func (r *Registry) GroupRevision(name string) uint64 {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if g := r.groups[name]; g != nil {
		return g.revision
	}
	return 0
}

// Same says whether two states of a definition are served in the same way.
func Same(a, b *CRD) bool {
	return a.UID == b.UID && a.Generation == b.Generation && sameNames(&a.Status.AcceptedNames, &b.Status.AcceptedNames)
}

// Close ends everything that is served.
func (r *Registry) Close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, g := range r.groups {
		for _, s := range g.served {
			s.end()
		}
	}
	r.groups = map[string]*group{}
	r.revision.Add(1)
}

// Newest returns the definition's newest state. Read-only.
func (s *Served) Newest() *CRD { return s.newest.Load() }

func (s *Served) String() string { return fmt.Sprint(s.GroupResource()) }
