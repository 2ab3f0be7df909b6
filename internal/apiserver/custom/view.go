package custom

import (
	"context"
	"fmt"

	"github.com/celox/celox/internal/store"
)

// Collection is the store's collection of a definition's objects.
type Collection interface {
	Get(ctx context.Context, key string, o store.GetOptions) (*store.Item, error)
	List(ctx context.Context, o store.ListOptions) (store.List, error)
	Watch(ctx context.Context, o store.WatchOptions) (*store.Watcher, error)
	Mutate(ctx context.Context, key string, f store.MutateFunc) (*store.Item, error)
	Len() int
	Watchers() int
}

// View shows the stored objects of a definition in one of its versions, and stores what is written in that version. An object is
// converted once, however many look at it, and all objects of a list or of a batch of events in one step. Safe for concurrent use.
type View struct {
	col     Collection
	version *Version
	storage *Version
}

// View returns the version's view of the stored objects.
func (v *Version) View(col Collection) *View {
	return &View{col: col, version: v, storage: v.def.Storage()}
}

// Len is the number of objects in memory.
func (w *View) Len() int { return w.col.Len() }

// Watchers is how many watch the objects.
func (w *View) Watchers() int { return w.col.Watchers() }

// Plain returns the collection itself if its objects have only ever been of the view's version, so that there is nothing to convert.
func (w *View) Plain() (Collection, bool) {
	return w.col, len(w.version.def.versions) == 1
}

// Get returns one object.
func (w *View) Get(ctx context.Context, key string, o store.GetOptions) (*store.Item, error) {
	item, err := w.col.Get(ctx, key, o)
	if err != nil || item == nil {
		return item, err
	}
	return w.one(ctx, item)
}

// List returns a part of the objects. What is selected is decided by the converted objects.
func (w *View) List(ctx context.Context, o store.ListOptions) (store.List, error) {
	filter := o.Filter
	if filter == nil {
		l, err := w.col.List(ctx, o)
		if err != nil {
			return l, err
		}
		l.Items, err = w.all(ctx, l.Items)
		return l, err
	}
	o.Filter = nil
	want := o.Limit
	var out store.List
	for {
		l, err := w.col.List(ctx, o)
		if err != nil {
			return l, err
		}
		items, err := w.all(ctx, l.Items)
		if err != nil {
			return l, err
		}
		for _, it := range items {
			if filter(it.Object) {
				out.Items = append(out.Items, it)
			}
		}
		out.Revision, out.Continue = l.Revision, l.Continue
		// A page that the filter left short is followed by the next; pages are never cut, so one may hold more than was asked for.
		if l.Continue == "" || want <= 0 || int64(len(out.Items)) >= want {
			return out, nil
		}
		o.Continue, o.Match, o.Revision = l.Continue, store.MostRecent, 0
	}
}

// Mutate changes one object as store.Collection does, in the version's form.
func (w *View) Mutate(ctx context.Context, key string, f store.MutateFunc) (*store.Item, error) {
	item, err := w.col.Mutate(ctx, key, func(current *store.Item) (store.Mutation, error) {
		seen := current
		if current != nil {
			var err error
			if seen, err = w.one(ctx, current); err != nil {
				return store.Mutation{}, err
			}
		}
		m, err := f(seen)
		if err != nil || m.Object == nil {
			return m, err
		}
		if seen != nil && m.Object == seen.Object {
			return store.Mutation{Object: current.Object, TTL: m.TTL}, nil
		}
		o, ok := m.Object.(*Object)
		if !ok {
			return m, fmt.Errorf("writing a %T", m.Object)
		}
		stored, err := w.version.def.ConvertTo(ctx, []*Object{o}, w.storage)
		if err != nil {
			return m, err
		}
		m.Object = stored[0]
		return m, nil
	})
	if err != nil || item == nil {
		return item, err
	}
	return w.one(ctx, item)
}

// one returns an item in the view's version.
func (w *View) one(ctx context.Context, item *store.Item) (*store.Item, error) {
	if o, ok := item.Object.(*Object); ok && o.APIVersion == w.version.gvk.GroupVersion().String() {
		return item, nil
	}
	if seen, ok := item.As(w.version.gvk.GroupVersion()); ok {
		return seen, nil
	}
	items, err := w.all(ctx, []*store.Item{item})
	if err != nil {
		return nil, err
	}
	return items[0], nil
}

// all returns items in the view's version; those that are not yet known in it are converted together.
func (w *View) all(ctx context.Context, items []*store.Item) ([]*store.Item, error) {
	gv := w.version.gvk.GroupVersion()
	target := gv.String()
	out := make([]*store.Item, len(items))
	var missing []*Object
	var where []int
	for i, it := range items {
		o, ok := it.Object.(*Object)
		if !ok {
			return nil, fmt.Errorf("a stored custom object is a %T", it.Object)
		}
		if o.APIVersion == target {
			out[i] = it
		} else if seen, ok := it.As(gv); ok {
			out[i] = seen
		} else {
			missing, where = append(missing, o), append(where, i)
		}
	}
	if len(missing) == 0 {
		return out, nil
	}
	converted, err := w.version.def.ConvertTo(ctx, missing, w.version)
	if err != nil {
		return nil, err
	}
	for i, o := range converted {
		out[where[i]] = items[where[i]].Show(gv, o)
	}
	return out, nil
}

// Watch follows the objects. With a filter it is the converted objects that are looked at.
func (w *View) Watch(ctx context.Context, o store.WatchOptions) (*Watch, error) {
	out := &Watch{view: w}
	if o.Filter != nil && len(w.version.def.versions) > 1 {
		// The store asks the filter about the state before and after each change, so it must see both converted.
		filter := o.Filter
		o.Filter = func(obj store.Object) bool {
			seen, ok := obj.(*Object)
			if !ok {
				return false
			}
			if seen.APIVersion != w.version.gvk.GroupVersion().String() {
				converted, err := w.version.def.ConvertTo(ctx, []*Object{seen}, w.version)
				if err != nil {
					return true // the event itself will show the error
				}
				seen = converted[0]
			}
			return filter(seen)
		}
	}
	inner, err := w.col.Watch(ctx, o)
	if err != nil {
		return nil, err
	}
	out.inner = inner
	return out, nil
}

// Watch is a stream of events in one version.
type Watch struct {
	view  *View
	inner *store.Watcher
}

// Next returns the next events, as store.Watcher does.
func (w *Watch) Next(ctx context.Context) ([]store.Event, error) {
	events, err := w.inner.Next(ctx)
	if err != nil {
		return nil, err
	}
	items := make([]*store.Item, 0, len(events))
	for i := range events {
		if events[i].Item != nil {
			items = append(items, events[i].Item)
		}
	}
	if items, err = w.view.all(ctx, items); err != nil {
		return nil, err
	}
	n := 0
	out := make([]store.Event, len(events))
	for i, e := range events {
		if e.Item != nil {
			e.Item = items[n]
			n++
		}
		out[i] = e
	}
	return out, nil
}

// Stop ends the stream.
func (w *Watch) Stop() { w.inner.Stop() }
