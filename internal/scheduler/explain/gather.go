package explain

import (
	"fmt"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/cache"

	"github.com/celox/celox/internal/scheduler"
)

// gather lists objects of a kind, for the snapshot to be told of them.
func gather[T any](w *world, r *Report, resource string, list func() (runtime.Object, error), set func(*scheduler.Snapshot, T)) error {
	items, err := listed(r, resource, list)
	if err != nil {
		return err
	}
	for _, o := range items {
		if t, ok := o.(T); ok {
			w.objects = append(w.objects, func(s *scheduler.Snapshot) { set(s, t) })
		}
	}
	return nil
}

// collect lists objects of a kind, for a lister.
func collect(into cache.Indexer, r *Report, resource string, list func() (runtime.Object, error)) error {
	items, err := listed(r, resource, list)
	if err != nil {
		return err
	}
	for _, o := range items {
		if err := into.Add(o); err != nil {
			return fmt.Errorf("list %s: %w", resource, err)
		}
	}
	return nil
}

func newIndexer() cache.Indexer {
	return cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
}

// listed are the objects of a kind; none if they may not be read, which the report then says.
func listed(r *Report, resource string, list func() (runtime.Object, error)) ([]runtime.Object, error) {
	objects, err := list()
	if err != nil {
		if unreadable(err) {
			r.Unread = append(r.Unread, resource)
			return nil, nil
		}
		return nil, fmt.Errorf("list %s: %w", resource, err)
	}
	items, err := meta.ExtractList(objects)
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", resource, err)
	}
	return items, nil
}
