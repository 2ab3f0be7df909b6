package client

import (
	"context"
	"fmt"
	"strconv"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/celox/celox/internal/client/informers"
	"github.com/celox/celox/internal/store"
)

// Source is a resource whose objects an informer factory can take from the store.
type Source struct {
	GroupResource schema.GroupResource
	// Example is an empty object of the Go type that the store holds; informers are found by it.
	Example runtime.Object
	Reader  store.Reader
	// Index and IndexValue narrow what is seen, e.g. to the pods of one node; empty means everything.
	Index, IndexValue string
}

// Informers returns an informer factory whose informers for the given sources hold the store's own pointers. Informers for other
// types go through c as usual. The factory starts every informer it knows, so a caller names only the sources that it reads.
func Informers(c kubernetes.Interface, sources []Source) *informers.Factory {
	f := informers.New(c)
	for _, s := range sources {
		InformerFor(f, s)
	}
	return f
}

// InformerFor returns f's informer for a source; the first call makes it.
func InformerFor(f *informers.Factory, s Source) cache.SharedIndexInformer {
	return f.InformerFor(s.Example, func() cache.SharedIndexInformer {
		return cache.NewSharedIndexInformerWithOptions(&listWatch{source: s}, s.Example, cache.SharedIndexInformerOptions{
			Indexers:          cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc},
			ObjectDescription: s.GroupResource.String(),
		})
	})
}

// listWatch feeds a reflector from the store. The list carries pointers, not copies.
type listWatch struct {
	source Source
}

// IsWatchListSemanticsUnSupported keeps reflectors from asking for a streaming list: a list of pointers is cheaper.
func (l *listWatch) IsWatchListSemanticsUnSupported() bool { return true }

func (l *listWatch) List(o metav1.ListOptions) (runtime.Object, error) {
	return l.ListWithContext(context.Background(), o)
}

func (l *listWatch) Watch(o metav1.ListOptions) (watch.Interface, error) {
	return l.WatchWithContext(context.Background(), o)
}

func (l *listWatch) ListWithContext(ctx context.Context, _ metav1.ListOptions) (runtime.Object, error) {
	got, err := l.source.Reader.List(ctx, store.ListOptions{Index: l.source.Index, IndexValue: l.source.IndexValue})
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", l.source.GroupResource, err)
	}
	list := &metav1.List{Items: make([]runtime.RawExtension, len(got.Items))}
	list.ResourceVersion = strconv.FormatInt(got.Revision, 10)
	for i, item := range got.Items {
		list.Items[i].Object = item.Object
	}
	return list, nil
}

func (l *listWatch) WatchWithContext(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	rev, err := strconv.ParseInt(o.ResourceVersion, 10, 64)
	if err != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("invalid resource version %q", o.ResourceVersion))
	}
	ctx, cancel := context.WithCancel(ctx)
	w, err := l.source.Reader.Watch(ctx, store.WatchOptions{Revision: rev, Index: l.source.Index, IndexValue: l.source.IndexValue})
	if err != nil {
		cancel()
		return nil, err
	}
	s := &storeWatch{events: make(chan watch.Event, 64), cancel: cancel, done: make(chan struct{})}
	go s.run(ctx, w)
	return s, nil
}

// storeWatch turns a store.Watcher into a watch.Interface.
type storeWatch struct {
	events chan watch.Event
	cancel context.CancelFunc
	once   sync.Once
	done   chan struct{}
}

func (s *storeWatch) ResultChan() <-chan watch.Event { return s.events }

func (s *storeWatch) Stop() {
	s.once.Do(s.cancel)
	<-s.done
}

func (s *storeWatch) run(ctx context.Context, w *store.Watcher) {
	defer close(s.done)
	defer close(s.events)
	defer w.Stop()
	for {
		batch, err := w.Next(ctx)
		if err != nil {
			if ctx.Err() == nil {
				status := apierrors.NewInternalError(err).Status()
				if known, ok := err.(apierrors.APIStatus); ok { //nolint:errorlint // the store returns it unwrapped
					status = known.Status()
				}
				s.send(ctx, watch.Event{Type: watch.Error, Object: &status})
			}
			return
		}
		for _, e := range batch {
			if e.Type == store.Bookmark {
				continue
			}
			if !s.send(ctx, watch.Event{Type: watchTypes[e.Type], Object: e.Item.Object}) {
				return
			}
		}
	}
}

var watchTypes = [...]watch.EventType{store.Added: watch.Added, store.Modified: watch.Modified, store.Deleted: watch.Deleted}

func (s *storeWatch) send(ctx context.Context, e watch.Event) bool {
	select {
	case s.events <- e:
		return true
	case <-ctx.Done():
		return false
	}
}
