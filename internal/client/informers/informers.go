package informers

import (
	"context"
	"reflect"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// Factory makes informers and starts them; there is one of each Go type. Its methods may be called from several goroutines.
type Factory struct {
	client kubernetes.Interface

	mu           sync.Mutex
	informers    map[reflect.Type]cache.SharedIndexInformer // guarded by mu
	started      map[reflect.Type]bool                      // guarded by mu
	shuttingDown bool                                       // guarded by mu
	running      sync.WaitGroup
}

// New returns a factory whose informers list and watch through c, in all namespaces.
func New(c kubernetes.Interface) *Factory {
	return &Factory{client: c, informers: map[reflect.Type]cache.SharedIndexInformer{}, started: map[reflect.Type]bool{}}
}

// InformerFor returns the informer of example's Go type. The first call makes it, with newInformer.
func (f *Factory) InformerFor(example runtime.Object, newInformer func() cache.SharedIndexInformer) cache.SharedIndexInformer {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := reflect.TypeOf(example)
	informer, ok := f.informers[t]
	if !ok {
		informer = newInformer()
		f.informers[t] = informer
	}
	return informer
}

// StartWithContext starts the informers that were asked for since the last call; they run until ctx ends.
func (f *Factory) StartWithContext(ctx context.Context) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.shuttingDown {
		return
	}
	for t, informer := range f.informers {
		if !f.started[t] {
			f.started[t] = true
			f.running.Go(func() { informer.RunWithContext(ctx) })
		}
	}
}

// WaitForCacheSync waits until each started informer has listed once, and reports whether all have before ctx ended.
func (f *Factory) WaitForCacheSync(ctx context.Context) bool {
	f.mu.Lock()
	var synced []cache.InformerSynced
	for t, informer := range f.informers {
		if f.started[t] {
			synced = append(synced, informer.HasSynced)
		}
	}
	f.mu.Unlock()
	return cache.WaitForCacheSync(ctx.Done(), synced...)
}

// Shutdown waits for the informers, whose context must have ended. None can be started afterwards.
func (f *Factory) Shutdown() {
	f.mu.Lock()
	f.shuttingDown = true
	f.mu.Unlock()
	f.running.Wait()
}

// Kind is the informer of a kind and what reads its cache; L is the kind's lister of client-go.
type Kind[L any] struct {
	f       *Factory
	example runtime.Object
	source  *cache.ListWatch
	lister  func(cache.Indexer) L
}

// Informer returns the informer. It runs from the factory's next StartWithContext on.
func (k Kind[L]) Informer() cache.SharedIndexInformer {
	return k.f.InformerFor(k.example, func() cache.SharedIndexInformer {
		source := cache.ToListWatcherWithWatchListSemantics(k.source, k.f.client)
		return cache.NewSharedIndexInformer(source, k.example, 0, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
	})
}

// Lister returns what reads the informer's cache.
func (k Kind[L]) Lister() L { return k.lister(k.Informer().GetIndexer()) }

// lists is what each typed client can do.
type lists[O runtime.Object] interface {
	List(ctx context.Context, opts metav1.ListOptions) (O, error)
	Watch(ctx context.Context, opts metav1.ListOptions) (watch.Interface, error)
}

// through is the source of an informer that asks a typed client.
func through[O runtime.Object](c lists[O]) *cache.ListWatch {
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, opts metav1.ListOptions) (runtime.Object, error) { return c.List(ctx, opts) },
		WatchFuncWithContext: func(ctx context.Context, opts metav1.ListOptions) (watch.Interface, error) {
			return c.Watch(ctx, opts)
		},
	}
}
