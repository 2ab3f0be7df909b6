package garbagecollector

import (
	"slices"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// identity names an object for good.
type identity struct {
	gvr       schema.GroupVersionResource
	namespace string
	name      string
	uid       types.UID
}

// node is an object in the graph. One that is only known as somebody's owner is virtual: it may not exist.
type node struct {
	identity
	kind       schema.GroupVersionKind // zero while virtual
	owners     []metav1.OwnerReference
	dependents map[types.UID]*node
	virtual    bool
	deleting   bool // has a deletion timestamp
	foreground bool // is being deleted and waits for its dependents
}

// graph is who owns whom. Its methods say what is to be looked at after a change.
type graph struct {
	mu    sync.Mutex // guards nodes and everything in them
	nodes map[types.UID]*node
	// resolve finds the resource of an owner reference, and whether it is namespaced.
	resolve func(schema.GroupVersionKind) (gvr schema.GroupVersionResource, namespaced, ok bool)
	absent  absentOwners
}

// work is what a change asks for, by uid.
type work struct {
	remove []types.UID // look whether these should go
	orphan []types.UID // cut these loose from their dependents
	// invalid are references to owners that are in another namespace, or in one at all while the dependent is in none.
	invalid []invalidRef
}

// invalidRef is an owner reference that cannot hold.
type invalidRef struct {
	dependent identity
	kind      schema.GroupVersionKind
	ref       metav1.OwnerReference
}

// strays says that an owner is in a namespace that is not the dependent's.
func strays(owner, dependent *node) bool {
	return !owner.virtual && owner.namespace != "" && owner.namespace != dependent.namespace
}

// refTo is the place of a reference to an owner, -1 if there is none.
func refTo(d *node, owner types.UID) int {
	return slices.IndexFunc(d.owners, func(r metav1.OwnerReference) bool { return r.UID == owner })
}

func invalid(d *node, owner types.UID) []invalidRef {
	i := refTo(d, owner)
	if i < 0 {
		return nil
	}
	return []invalidRef{{d.identity, d.kind, d.owners[i]}}
}

// upsert puts an object as it is now into the graph.
func (g *graph) upsert(gvr schema.GroupVersionResource, kind schema.GroupVersionKind, obj metav1.Object) work {
	g.mu.Lock()
	defer g.mu.Unlock()
	var w work
	uid := obj.GetUID()
	id := identity{gvr: gvr, namespace: obj.GetNamespace(), name: obj.GetName(), uid: uid}
	n, known := g.nodes[uid]
	if !known {
		n = &node{identity: id, dependents: map[types.UID]*node{}}
		g.nodes[uid] = n
	}
	if !known || n.virtual {
		g.absent.appeared((&node{identity: id, kind: kind}).coordinates())
	}
	if n.virtual {
		// It exists after all. Those that named it with other coordinates must not wait for it.
		n.virtual, n.identity = false, id
		for uid, d := range n.dependents {
			if strays(n, d) {
				w.remove = append(w.remove, uid)
				w.invalid = append(w.invalid, invalid(d, n.uid)...)
			} else if i := refTo(d, n.uid); i >= 0 && !matches(d.owners[i], kind, n.name) {
				w.remove = append(w.remove, uid)
			}
		}
	}
	n.kind = kind
	before := n.owners
	n.owners = obj.GetOwnerReferences()
	for _, ref := range before {
		if !names(n.owners, ref.UID) {
			g.unlink(n, ref.UID)
			// The foreground deletion of a former owner no longer waits for this one.
			if former := g.nodes[ref.UID]; former != nil && former.foreground {
				w.remove = append(w.remove, ref.UID)
			}
		}
	}
	for i, ref := range n.owners {
		if !names(before, ref.UID) {
			if g.link(n, ref) {
				w.remove = append(w.remove, uid)
			}
			if o := g.nodes[ref.UID]; o != nil && strays(o, n) {
				w.remove = append(w.remove, uid)
				w.invalid = append(w.invalid, invalid(n, ref.UID)...)
			}
		}
		// One that no longer blocks lets its owner go.
		if j := slices.IndexFunc(before, func(b metav1.OwnerReference) bool { return b.UID == ref.UID }); j >= 0 && blocks(before[j]) && !blocks(n.owners[i]) {
			w.remove = append(w.remove, ref.UID)
		}
	}
	if obj.GetDeletionTimestamp() != nil {
		n.deleting = true
		switch {
		case slices.Contains(obj.GetFinalizers(), metav1.FinalizerOrphanDependents):
			w.orphan = append(w.orphan, uid)
		case slices.Contains(obj.GetFinalizers(), metav1.FinalizerDeleteDependents):
			if !n.foreground {
				n.foreground = true
				for d := range n.dependents {
					w.remove = append(w.remove, d)
				}
			}
			w.remove = append(w.remove, uid)
		}
		// An owner that waits in the foreground may be waiting for a dependent that now goes.
	}
	return w
}

// delete takes an object out of the graph.
func (g *graph) delete(uid types.UID) work {
	g.mu.Lock()
	defer g.mu.Unlock()
	var w work
	n, known := g.nodes[uid]
	if !known {
		return w
	}
	delete(g.nodes, uid)
	if len(n.dependents) > 0 {
		g.absent.add(n.coordinates())
	}
	for _, ref := range n.owners {
		g.unlink(n, ref.UID)
		if o := g.nodes[ref.UID]; o != nil && o.foreground {
			w.remove = append(w.remove, ref.UID)
		}
	}
	for d := range n.dependents {
		w.remove = append(w.remove, d)
	}
	return w
}

func names(refs []metav1.OwnerReference, uid types.UID) bool {
	return slices.ContainsFunc(refs, func(r metav1.OwnerReference) bool { return r.UID == uid })
}

func blocks(ref metav1.OwnerReference) bool {
	return ref.BlockOwnerDeletion != nil && *ref.BlockOwnerDeletion
}

// link makes n a dependent of the object that ref names. It says whether that object is unknown, has another name or kind than ref says, or is being
// deleted with its dependents: then n must be looked at.
func (g *graph) link(n *node, ref metav1.OwnerReference) bool {
	o, known := g.nodes[ref.UID]
	if !known {
		gvr, namespaced, _ := g.resolve(schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind))
		o = &node{identity: identity{gvr: gvr, name: ref.Name, uid: ref.UID}, dependents: map[types.UID]*node{}, virtual: true}
		if namespaced {
			o.namespace = n.namespace
		}
		g.nodes[ref.UID] = o // also one of a kind that is not known yet: the link must be there when it is
	}
	o.dependents[n.uid] = n
	return o.virtual || o.foreground || !matches(ref, o.kind, o.name)
}

// unlink removes n from the dependents of an owner, and a virtual owner that nobody names any more.
func (g *graph) unlink(n *node, owner types.UID) {
	o, known := g.nodes[owner]
	if !known {
		return
	}
	delete(o.dependents, n.uid)
	if o.virtual && len(o.dependents) == 0 {
		delete(g.nodes, owner)
	}
}

// dependent is a dependent as the graph knows it.
type dependent struct {
	identity
	blocking bool
	deleting bool
}

// view is a copy of what the graph knows of one object.
type view struct {
	identity
	virtual    bool
	deleting   bool
	foreground bool
	dependents []dependent
}

func (g *graph) view(uid types.UID) (view, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	n, known := g.nodes[uid]
	if !known {
		return view{}, false
	}
	v := view{identity: n.identity, virtual: n.virtual, deleting: n.deleting, foreground: n.foreground}
	for _, d := range n.dependents {
		i := refTo(d, uid)
		v.dependents = append(v.dependents, dependent{identity: d.identity, blocking: i >= 0 && blocks(d.owners[i]), deleting: d.deleting})
	}
	return v, true
}
