package custom

import (
	"context"
	"fmt"
	"sync"

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
// converted once, however many look at it (and at the same time), and all objects of a list or of a batch of events in one step. Safe for
// concurrent use.
type View struct {
	col     Collection
	version *Version
	storage *Version

	mu sync.Mutex
	// converting are the items that somebody converts at the moment; guarded by mu.
	converting map[*store.Item]*conversion
}

// conversion is one step of converting items that others may wait for.
type conversion struct {
	done chan struct{}
	err  error // valid when done is closed, as is the next
	// gaveUp says that whoever converted went away: that says nothing about the objects.
	gaveUp bool
}

// View returns the version's view of the stored objects.
func (v *Version) View(col Collection) *View {
	return &View{col: col, version: v, storage: v.def.Storage(), converting: map[*store.Item]*conversion{}}
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
		stored, err := w.stored(ctx, o)
		if err != nil {
			return m, err
		}
		m.Object = stored
		return m, nil
	})
	if err != nil || item == nil {
		return item, err
	}
	return w.one(ctx, item)
}

// stored returns an object of the view's version as it is stored.
func (w *View) stored(ctx context.Context, o *Object) (*Object, error) {
	out, err := w.version.def.ConvertTo(ctx, []*Object{o}, w.storage)
	if err != nil || out[0] == o {
		return o, err
	}
	// Whoever reads it from the store finds these defaults, so it has them at once.
	return out[0], w.storage.Default(out[0])
}

// Rehearse returns what would be read of an object of the view's version if it were written.
func (w *View) Rehearse(ctx context.Context, o *Object) (*Object, error) {
	stored, err := w.stored(ctx, o)
	if err != nil || stored == o {
		return o, err
	}
	out, err := w.version.def.ConvertTo(ctx, []*Object{stored}, w.version)
	if err != nil {
		return nil, err
	}
	return out[0], nil
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
	for {
		var missing []*store.Item
		for i, it := range items {
			if out[i] != nil {
				continue
			}
			o, ok := it.Object.(*Object)
			if !ok {
				return nil, fmt.Errorf("a stored custom object is a %T", it.Object)
			}
			if o.APIVersion == target {
				out[i] = it
			} else if seen, ok := it.As(gv); ok {
				out[i] = seen
			} else {
				missing = append(missing, it)
			}
		}
		if len(missing) == 0 {
			return out, nil
		}
		if err := w.convert(ctx, missing); err != nil {
			return nil, err
		}
	}
}

// convert converts items, but those that somebody else converts already: for these it waits. Afterwards most are known in the view's
// version; whoever asked looks again.
func (w *View) convert(ctx context.Context, items []*store.Item) error {
	gv := w.version.gvk.GroupVersion()
	own := &conversion{done: make(chan struct{})}
	var mine []*store.Item
	var objects []*Object
	others := map[*conversion]bool{}
	w.mu.Lock()
	for _, it := range items {
		if c := w.converting[it]; c != nil {
			if c != own {
				others[c] = true
			}
			continue
		}
		if _, ok := it.As(gv); ok {
			continue // somebody was faster
		}
		if o, ok := it.Object.(*Object); ok {
			w.converting[it] = own
			mine, objects = append(mine, it), append(objects, o)
		}
	}
	w.mu.Unlock()
	if len(mine) > 0 {
		own.err = w.convertAll(ctx, mine, objects)
		own.gaveUp = ctx.Err() != nil
		w.mu.Lock()
		for _, it := range mine {
			delete(w.converting, it)
		}
		w.mu.Unlock()
		close(own.done)
		if own.err != nil {
			return own.err
		}
	}
	for c := range others {
		select {
		case <-c.done:
		case <-ctx.Done():
			return ctx.Err()
		}
		if c.err != nil && !c.gaveUp {
			return c.err
		}
	}
	return nil
}

// convertAll converts objects in one step and lets their items remember what they are.
func (w *View) convertAll(ctx context.Context, items []*store.Item, objects []*Object) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic while converting to %s: %v", w.version.gvk, p) // others wait for an answer
		}
	}()
	converted, err := w.version.def.ConvertTo(ctx, objects, w.version)
	if err != nil {
		return err
	}
	for i, o := range converted {
		items[i].Show(w.version.gvk.GroupVersion(), o)
	}
	return nil
}

// Watch follows the objects. With a filter it is the converted objects that are looked at.
func (w *View) Watch(ctx context.Context, o store.WatchOptions) (*Watch, error) {
	out := &Watch{view: w}
	if o.Filter != nil && len(w.version.def.versions) > 1 {
		// The store asks about the state before and after each change, so both must be seen converted.
		filter := o.Filter
		o.Filter, o.Select = nil, func(it *store.Item) bool {
			seen, err := w.one(ctx, it)
			return err != nil || filter(seen.Object) // the event itself will show the error
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
