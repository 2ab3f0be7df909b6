package garbagecollector

import (
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// maxAbsent is how many owners are remembered as gone; upstream remembers as many.
const maxAbsent = 500

// coordinates are an owner as a reference names it. The kind may be one that is not served any more: an object that went with its definition is still
// known to be gone.
type coordinates struct {
	apiVersion, kind, namespace, name string
	uid                               types.UID
}

// coordinatesOf are those of an owner in a namespace, or in none.
func coordinatesOf(ref metav1.OwnerReference, namespace string) coordinates {
	return coordinates{ref.APIVersion, ref.Kind, namespace, ref.Name, ref.UID}
}

func (n *node) coordinates() coordinates {
	return coordinates{n.kind.GroupVersion().String(), n.kind.Kind, n.namespace, n.name, n.uid}
}

// matches says that a reference names an object by the version, kind and name that it has.
func matches(ref metav1.OwnerReference, kind schema.GroupVersionKind, name string) bool {
	return ref.Name == name && ref.Kind == kind.Kind && ref.APIVersion == kind.GroupVersion().String()
}

// absentOwners remembers the owners that were last seen to be gone: the dependents of one that had thousands need not all ask the server. It is used
// by many goroutines.
type absentOwners struct {
	mu    sync.Mutex // guards all below
	known map[coordinates]bool
	order [maxAbsent]coordinates // a ring: next is the oldest
	next  int
}

func (a *absentOwners) add(c coordinates) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.known[c] {
		return
	}
	if a.known == nil {
		a.known = map[coordinates]bool{}
	}
	delete(a.known, a.order[a.next])
	a.order[a.next] = c
	a.next = (a.next + 1) % maxAbsent
	a.known[c] = true
}

// has looks for a reference's owner in a namespace, and in none.
func (a *absentOwners) has(ref metav1.OwnerReference, namespace string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.known[coordinatesOf(ref, "")] || namespace != "" && a.known[coordinatesOf(ref, namespace)]
}

// appeared forgets an owner: its object is there (put back from a copy of the cluster, say).
func (a *absentOwners) appeared(c coordinates) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.known, c) // its place in the ring stays until it is overwritten
}
