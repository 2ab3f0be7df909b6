package match

import (
	"sync"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/celox/celox/internal/apiserver/admission"
)

// mostShapes bounds what a Set remembers.
const mostShapes = 4096

// Set is a list of things with criteria, in order. It is safe for concurrent use.
type Set[T any] struct {
	members  []T
	criteria func(T) *Criteria

	mu     sync.RWMutex
	shapes map[shape][]T // guarded by mu
}

// shape is what two writes have in common that the same members can concern.
type shape struct {
	resource    schema.GroupVersionResource
	subresource string
	operation   admission.Operation
	namespaced  bool
	versions    admission.Versions
}

// NewSet returns a Set of members, which must not change any more.
func NewSet[T any](members []T, criteria func(T) *Criteria) *Set[T] {
	return &Set[T]{members: members, criteria: criteria, shapes: map[shape][]T{}}
}

// Candidates returns the members that a may concern, in order: whose rules do not speak against it. Read-only.
func (s *Set[T]) Candidates(a *admission.Attributes) []T {
	if s == nil || len(s.members) == 0 {
		return nil
	}
	key := shape{resource: a.Resource, subresource: a.Subresource, operation: a.Operation, namespaced: a.Namespace != "", versions: a.Versions}
	s.mu.RLock()
	found, ok := s.shapes[key]
	s.mu.RUnlock()
	if ok {
		return found
	}
	for _, m := range s.members {
		if c := s.criteria(m); c == nil || c.could(a) { // without criteria it is a mistake that its owner reports
			found = append(found, m)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.shapes) >= mostShapes {
		clear(s.shapes)
	}
	s.shapes[key] = found
	return found
}
