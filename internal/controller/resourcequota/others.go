package resourcequota

import (
	"context"
	"fmt"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/tools/cache"

	"github.com/celox/celox/internal/controller"
)

// patience is how long a count waits for the objects of a resource that is watched since now.
const patience = 10 * time.Second

// others watches resources that the process has no informers of, as long as a quota counts them.
type others struct {
	metadata metadata.Interface
	resolve  func(schema.GroupResource) (schema.GroupVersionResource, bool)
	appeared func(gr schema.GroupResource, namespace string)
	gone     func(gr schema.GroupResource, namespace string)

	mu       sync.Mutex
	ctx      context.Context                   // guarded by mu; nil before start
	watching map[schema.GroupResource]*watched // guarded by mu
	running  sync.WaitGroup
}

type watched struct {
	gvr      schema.GroupVersionResource
	informer cache.SharedIndexInformer
	cancel   context.CancelFunc
}

func newOthers(m metadata.Interface, resolve func(schema.GroupResource) (schema.GroupVersionResource, bool), appeared, gone func(schema.GroupResource, string)) *others {
	return &others{metadata: m, resolve: resolve, appeared: appeared, gone: gone, watching: map[schema.GroupResource]*watched{}}
}

func (o *others) start(ctx context.Context) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ctx = ctx
}

// stop waits for the informers to end; their context must have ended.
func (o *others) stop() { o.running.Wait() }

// index returns the objects of a resource once they are all there; false if nobody serves it.
func (o *others) index(ctx context.Context, gr schema.GroupResource) (cache.Indexer, bool, error) {
	gvr, ok := o.resolve(gr)
	if !ok {
		o.drop(gr)
		return nil, false, nil
	}
	w, err := o.watch(gr, gvr)
	if err != nil {
		return nil, false, err
	}
	wait, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if !cache.WaitForCacheSync(wait.Done(), w.informer.HasSynced) {
		return nil, false, fmt.Errorf("list %s: %w", gr, wait.Err())
	}
	return w.informer.GetIndexer(), true, nil
}

func (o *others) watch(gr schema.GroupResource, gvr schema.GroupVersionResource) (*watched, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.ctx == nil {
		return nil, fmt.Errorf("watch %s: not running", gr)
	}
	if w := o.watching[gr]; w != nil {
		if w.gvr == gvr {
			return w, nil
		}
		w.cancel()
	}
	informer := metadatainformer.NewFilteredMetadataInformer(o.metadata, gvr, metav1.NamespaceAll, 0, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc}, nil).Informer()
	if err := controller.Watch(informer, controller.Handlers[metav1.Object]{
		Add:    func(obj metav1.Object) { o.appeared(gr, obj.GetNamespace()) },
		Delete: func(obj metav1.Object) { o.gone(gr, obj.GetNamespace()) },
	}); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(o.ctx)
	w := &watched{gvr: gvr, informer: informer, cancel: cancel}
	o.watching[gr] = w
	o.running.Go(func() { informer.RunWithContext(ctx) })
	return w, nil
}

func (o *others) drop(gr schema.GroupResource) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if w := o.watching[gr]; w != nil {
		w.cancel()
		delete(o.watching, gr)
	}
}

// keep ends the informers of resources that no quota counts any more.
func (o *others) keep(wanted map[schema.GroupResource]bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for gr, w := range o.watching {
		if !wanted[gr] {
			w.cancel()
			delete(o.watching, gr)
		}
	}
}
