package client

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/tools/cache"
)

// index is the cache.Indexer of an informer over the store: what is in it by key, and by the values of functions. It does what client-go's does, but takes
// many changes at a time, is told the keys that the store knows anyway, and asks no function for a namespace that the key tells.
type index struct {
	mu      sync.RWMutex
	items   map[string]any // all below is guarded by mu
	parts   []*part
	version string
}

// part is one index: the keys by each value of a function.
type part struct {
	name string
	of   cache.IndexFunc
	keys map[string]map[string]struct{}
}

var _ cache.Indexer = (*index)(nil)

// newIndex returns an empty index by namespaces.
func newIndex() *index {
	return &index{items: map[string]any{}, parts: []*part{{name: cache.NamespaceIndex, of: cache.MetaNamespaceIndexFunc, keys: map[string]map[string]struct{}{}}}}
}

// set puts obj in the place of what is under key, which it returns; nil takes it away. mu is held.
func (x *index) set(key string, obj any) (old any) {
	old = x.items[key]
	if obj == nil {
		delete(x.items, key)
	} else {
		x.items[key] = obj
	}
	for _, p := range x.parts {
		p.move(key, old, obj)
	}
	return old
}

func (p *part) move(key string, old, obj any) {
	if p.name == cache.NamespaceIndex {
		namespace := ""
		if i := strings.IndexByte(key, '/'); i > 0 {
			namespace = key[:i]
		}
		switch {
		case old == nil && obj != nil:
			p.add(namespace, key)
		case old != nil && obj == nil:
			p.remove(namespace, key)
		}
		return
	}
	was, is := p.valuesOf(key, old), p.valuesOf(key, obj)
	if slices.Equal(was, is) {
		return
	}
	for _, v := range was {
		p.remove(v, key)
	}
	for _, v := range is {
		p.add(v, key)
	}
}

// valuesOf are the values of an object, which may be nil. A function that fails is a mistake of who wrote it.
func (p *part) valuesOf(key string, obj any) []string {
	if obj == nil {
		return nil
	}
	values, err := p.of(obj)
	if err != nil {
		panic(fmt.Errorf("index %q of %q: %w", p.name, key, err))
	}
	return values
}

func (p *part) add(value, key string) {
	keys := p.keys[value]
	if keys == nil {
		keys = map[string]struct{}{}
		p.keys[value] = keys
	}
	keys[key] = struct{}{}
}

func (p *part) remove(value, key string) {
	keys := p.keys[value]
	if delete(keys, key); len(keys) == 0 {
		delete(p.keys, value)
	}
}

func (x *index) part(name string) (*part, error) {
	for _, p := range x.parts {
		if p.name == name {
			return p, nil
		}
	}
	return nil, fmt.Errorf("there is no index %q", name)
}

// Get is of cache.Store.
func (x *index) Get(obj any) (any, bool, error) {
	key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(obj)
	if err != nil {
		return nil, false, cache.KeyError{Obj: obj, Err: err}
	}
	return x.GetByKey(key)
}

// GetByKey is of cache.Store.
func (x *index) GetByKey(key string) (any, bool, error) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	obj, ok := x.items[key]
	return obj, ok, nil
}

// List is of cache.Store.
func (x *index) List() []any {
	x.mu.RLock()
	defer x.mu.RUnlock()
	list := make([]any, 0, len(x.items))
	for _, obj := range x.items {
		list = append(list, obj)
	}
	return list
}

// ListKeys is of cache.Store.
func (x *index) ListKeys() []string {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return keysOf(x.items)
}

func keysOf[V any](m map[string]V) []string {
	return slices.AppendSeq(make([]string, 0, len(m)), maps.Keys(m))
}

// Index is of cache.Indexer.
func (x *index) Index(name string, obj any) ([]any, error) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	p, err := x.part(name)
	if err != nil {
		return nil, err
	}
	values, err := p.of(obj)
	if err != nil {
		return nil, err
	}
	if len(values) == 1 {
		return x.under(p, values[0]), nil
	}
	all := map[string]struct{}{}
	for _, v := range values {
		maps.Copy(all, p.keys[v])
	}
	return x.of(all), nil
}

// ByIndex is of cache.Indexer.
func (x *index) ByIndex(name, value string) ([]any, error) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	p, err := x.part(name)
	if err != nil {
		return nil, err
	}
	return x.under(p, value), nil
}

func (x *index) under(p *part, value string) []any { return x.of(p.keys[value]) }

func (x *index) of(keys map[string]struct{}) []any {
	list := make([]any, 0, len(keys))
	for key := range keys {
		list = append(list, x.items[key])
	}
	return list
}

// IndexKeys is of cache.Indexer.
func (x *index) IndexKeys(name, value string) ([]string, error) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	p, err := x.part(name)
	if err != nil {
		return nil, err
	}
	return keysOf(p.keys[value]), nil
}

// ListIndexFuncValues is of cache.Indexer.
func (x *index) ListIndexFuncValues(name string) []string {
	x.mu.RLock()
	defer x.mu.RUnlock()
	p, err := x.part(name)
	if err != nil {
		return []string{}
	}
	return keysOf(p.keys)
}

// GetIndexers is of cache.Indexer.
func (x *index) GetIndexers() cache.Indexers {
	x.mu.RLock()
	defer x.mu.RUnlock()
	all := cache.Indexers{}
	for _, p := range x.parts {
		all[p.name] = p.of
	}
	return all
}

// AddIndexers is of cache.Indexer.
func (x *index) AddIndexers(more cache.Indexers) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	for name := range more {
		if _, err := x.part(name); err == nil {
			return fmt.Errorf("there is an index %q already", name)
		}
	}
	for name, of := range more {
		p := &part{name: name, of: of, keys: map[string]map[string]struct{}{}}
		for key, obj := range x.items {
			p.move(key, nil, obj)
		}
		x.parts = append(x.parts, p)
	}
	return nil
}

// Add is of cache.Store. An informer does not call it; tests put objects so.
func (x *index) Add(obj any) error { return x.change(obj, obj) }

// Update is of cache.Store.
func (x *index) Update(obj any) error { return x.change(obj, obj) }

// Delete is of cache.Store.
func (x *index) Delete(obj any) error { return x.change(obj, nil) }

func (x *index) change(of, to any) error {
	key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(of)
	if err != nil {
		return cache.KeyError{Obj: of, Err: err}
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.set(key, to)
	if m, err := meta.Accessor(of); err == nil {
		x.version = m.GetResourceVersion()
	}
	return nil
}

// Replace is of cache.Store.
func (x *index) Replace(list []any, version string) error {
	now := make(map[string]any, len(list))
	for _, obj := range list {
		key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(obj)
		if err != nil {
			return cache.KeyError{Obj: obj, Err: err}
		}
		now[key] = obj
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	for key := range x.items {
		if now[key] == nil {
			x.set(key, nil)
		}
	}
	for key, obj := range now {
		x.set(key, obj)
	}
	x.version = version
	return nil
}

// Resync is of cache.Store: nothing.
func (x *index) Resync() error { return nil }

// Bookmark is of cache.Store.
func (x *index) Bookmark(version string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.version = version
}

// LastStoreSyncResourceVersion is of cache.Store.
func (x *index) LastStoreSyncResourceVersion() string {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.version
}
