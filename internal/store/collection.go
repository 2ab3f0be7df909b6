package store

import (
	"context"
	"sort"
	"strings"
	"sync"

	"github.com/google/btree"
)

// btreeDegree gives nodes of about half a kilobyte of pointers.
const btreeDegree = 32

// Collection holds one resource: a tree of its objects, its indexes and the ring of its changes. Its methods may be called from
// many goroutines.
type Collection struct {
	s      *Store
	res    Resource
	prefix string // of its keys in the engine, with the trailing slash

	mu   sync.RWMutex
	tree *btree.BTreeG[*Item] // by key
	// inNamespace counts the objects of each namespace, so that a page of a list can say what follows without counting it.
	inNamespace map[string]int
	// view is a frozen copy of tree, made when someone wants one, nil after the next change.
	view    *btree.BTreeG[*Item]
	indexes map[string]map[string]map[string]*Item // index, value, key
	// rev is the revision of the last change, or of loading. Changes up to it are in tree.
	rev    int64
	loaded bool
	topics map[topicID]*topic // all but main
	main   *topic

	backfilling sync.Mutex // held by the one who reads history from the engine
}

func lessItem(a, b *Item) bool { return a.Key < b.Key }

func newCollection(s *Store, r Resource) *Collection {
	c := &Collection{
		s: s, res: r, prefix: s.o.Prefix + strings.Trim(r.Prefix, "/") + "/",
		tree:    btree.NewG(btreeDegree, lessItem),
		indexes: make(map[string]map[string]map[string]*Item, len(r.Indexes)),
		topics:  map[topicID]*topic{},

		inNamespace: map[string]int{},
		main:        newTopic(topicID{}, 0, s.o.RingEvents, &s.pool),
	}
	for n := range r.Indexes {
		c.indexes[n] = map[string]map[string]*Item{}
	}
	return c
}

// Resource returns what the collection was registered with.
func (c *Collection) Resource() Resource { return c.res }

// share has a new object share what it can with others.
func (c *Collection) share(obj Object, stored []byte) {
	if c.res.Share != nil {
		c.res.Share(obj, stored)
	}
}

// Watchers is how many watches of the whole collection there are: those that every write has to be told to.
func (c *Collection) Watchers() int {
	c.main.mu.Lock()
	defer c.main.mu.Unlock()
	return len(c.main.watchers)
}

// Changed is the revision of the last change in memory: while it stays the same, so do the objects. Cheap enough to be asked by
// every request.
func (c *Collection) Changed() int64 {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.rev
}

// Len is the number of objects in memory.
func (c *Collection) Len() int {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.tree.Len()
}

// Get returns one object, as the options ask; a missing one is a NotFound of the API.
func (c *Collection) Get(ctx context.Context, key string, o GetOptions) (*Item, error) {
	switch {
	case o.AnyRevision:
	case o.MinRevision > 0:
		if err := c.s.waitFor(ctx, o.MinRevision); err != nil {
			return nil, err
		}
	default:
		if err := c.s.readIndex(ctx); err != nil {
			return nil, err
		}
	}
	if item := c.cached(key); item != nil {
		return item, nil
	}
	return nil, c.notFound(key)
}

// Peek returns what is in memory under key, or nil.
func (c *Collection) Peek(key string) *Item { return c.cached(key) }

func (c *Collection) cached(key string) *Item {
	probe := c.s.probes.get()
	probe.Key = key
	defer c.s.probes.put(probe)
	c.mu.RLock()
	defer c.mu.RUnlock()
	item, _ := c.tree.Get(probe)
	return item
}

// snapshot returns a frozen tree, the revision of which it is the exact state, and how many objects a list covers.
func (c *Collection) snapshot(o ListOptions, s span) (*btree.BTreeG[*Item], int64, int64) {
	c.mu.RLock()
	view, rev, total := c.view, c.revisionLocked(), c.totalLocked(o, s)
	c.mu.RUnlock()
	if view != nil {
		return view, rev, total
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.freezeLocked(), c.revisionLocked(), c.totalLocked(o, s)
}

func (c *Collection) freezeLocked() *btree.BTreeG[*Item] {
	if c.view == nil {
		c.view = c.tree.Clone()
	}
	return c.view
}

// revisionLocked is the newest revision of which tree is the exact state: that of its last change, or one that the whole store
// has reached.
func (c *Collection) revisionLocked() int64 { return max(c.rev, c.s.revision.Load()) }

// apply makes changes of cur visible, in order. It fills in prev and tells the topics. Only the store's loop calls it.
func (c *Collection) apply(changes []*change) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, ch := range changes {
		if ch.rev < c.rev || !c.loaded {
			continue // loading has seen it already
		}
		if !c.put(ch) {
			continue
		}
		c.rev = ch.rev
		c.tell(ch)
	}
}

// put changes the tree and the indexes; false says that there was nothing to change.
func (c *Collection) put(ch *change) bool {
	if ch.cur == nil {
		ch.prev, _ = c.tree.Delete(&Item{Key: ch.key})
		if ch.prev == nil {
			return false
		}
	} else {
		if old, ok := c.tree.Get(ch.cur); ok && old.Revision >= ch.cur.Revision {
			return false
		}
		ch.prev, _ = c.tree.ReplaceOrInsert(ch.cur)
	}
	c.view = nil
	if c.res.Namespaced && (ch.prev == nil) != (ch.cur == nil) {
		c.count(ch.key, ch.cur != nil)
	}
	for index, values := range c.indexes {
		f := c.res.Indexes[index]
		if ch.prev != nil {
			for _, v := range f(ch.prev.Object) {
				delete(values[v], ch.key)
				if len(values[v]) == 0 {
					delete(values, v)
				}
			}
		}
		if ch.cur != nil {
			for _, v := range f(ch.cur.Object) {
				if values[v] == nil {
					values[v] = map[string]*Item{}
				}
				values[v][ch.key] = ch.cur
			}
		}
	}
	return true
}

// count notes that a namespace has an object more or less.
func (c *Collection) count(key string, more bool) {
	namespace, _, _ := strings.Cut(key, "/")
	if more {
		c.inNamespace[namespace]++
	} else if c.inNamespace[namespace]--; c.inNamespace[namespace] == 0 {
		delete(c.inNamespace, namespace)
	}
}

// totalLocked is how many objects a list covers, or -1 if that would have to be counted.
func (c *Collection) totalLocked(o ListOptions, s span) int64 {
	switch {
	case s.only != "" || s.from != s.prefix || o.selective():
		return -1
	case s.prefix == "":
		return int64(c.tree.Len())
	}
	return int64(c.inNamespace[strings.TrimSuffix(s.prefix, "/")])
}

// tell publishes a change to the ring of everything and to those narrower topics that it concerns and that have watchers.
func (c *Collection) tell(ch *change) {
	c.main.publish(ch)
	if len(c.topics) == 0 {
		return
	}
	if t := c.topics[topicID{kind: topicKey, value: ch.key}]; t != nil {
		t.publish(ch)
	}
	if i := strings.IndexByte(ch.key, '/'); i > 0 {
		if t := c.topics[topicID{kind: topicNamespace, value: ch.key[:i]}]; t != nil {
			t.publish(ch)
		}
	}
	for index, f := range c.res.Indexes {
		var values []string
		if ch.cur != nil {
			values = append(values, f(ch.cur.Object)...)
		}
		if ch.prev != nil {
			values = append(values, f(ch.prev.Object)...)
		}
		for i, v := range values {
			if t := c.topics[topicID{kind: topicIndex, name: index, value: v}]; t != nil && !contains(values[:i], v) {
				t.publish(ch)
			}
		}
	}
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

// concerns says whether a change belongs to a topic.
func (c *Collection) concerns(id topicID, ch *change) bool {
	switch id.kind {
	case topicNamespace:
		return inNamespace(ch.key, id.value)
	case topicKey:
		return ch.key == id.value
	case topicIndex:
		return (ch.cur != nil && c.indexed(id, ch.cur)) || (ch.prev != nil && c.indexed(id, ch.prev))
	}
	return true
}

func inNamespace(key, namespace string) bool {
	return len(key) > len(namespace) && key[len(namespace)] == '/' && strings.HasPrefix(key, namespace)
}

func (c *Collection) indexed(id topicID, item *Item) bool {
	return contains(c.res.Indexes[id.name](item.Object), id.value)
}

// indexedItems returns the items under one value of an index, in key order.
func (c *Collection) indexedItems(index, value string) ([]*Item, int64) {
	c.mu.RLock()
	m := c.indexes[index][value]
	items := make([]*Item, 0, len(m))
	for _, it := range m {
		items = append(items, it)
	}
	rev := c.revisionLocked()
	c.mu.RUnlock()
	sort.Slice(items, func(i, j int) bool { return items[i].Key < items[j].Key })
	return items, rev
}

// trim lets the rings forget what is older than the given time.
func (c *Collection) trim(before int64) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	c.main.trim(before)
	for _, t := range c.topics {
		t.trim(before)
	}
}

// end tells all watchers that there will be nothing more.
func (c *Collection) end(err error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	c.main.end(err)
	for _, t := range c.topics {
		t.end(err)
	}
}
