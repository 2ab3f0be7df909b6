package objects

import (
	"context"
	"fmt"
	"sync"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// syncPatience bounds how long somebody who asks waits for the first list.
const syncPatience = 10 * time.Second

// Certificates holds the cluster's trust bundles (KEP-3257) and this node's requests for pods' certificates (KEP-4317). Each of the two is watched
// from the first pod that needs one on: a selector may pick any bundle, and a bundle that is new may be picked as well. Its methods are safe for
// concurrent use; objects that it returns are read-only.
type Certificates struct {
	bundles, requests collection
	ctx               context.Context
	stop              context.CancelFunc
	wg                sync.WaitGroup
}

// NewCertificates makes a Certificates for the node of that name. bundles is called when any bundle changed, request with the pod whose request did;
// both may be called from any goroutine.
func NewCertificates(client kubernetes.Interface, node string, bundles func(), request func(types.UID)) *Certificates {
	ctx, stop := context.WithCancel(context.Background())
	c := &Certificates{ctx: ctx, stop: stop}
	c.bundles = collection{
		example: &certificatesv1.ClusterTrustBundle{},
		source: cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
			ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
				return client.CertificatesV1().ClusterTrustBundles().List(ctx, o)
			},
			WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
				return client.CertificatesV1().ClusterTrustBundles().Watch(ctx, o)
			},
		}, client),
		changed: func(any) { bundles() },
	}
	// A node may see no other requests than its own.
	mine := fields.OneTermEqualSelector("spec.nodeName", node).String()
	c.requests = collection{
		example: &certificatesv1.PodCertificateRequest{},
		source: cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
			ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
				o.FieldSelector = mine
				return client.CertificatesV1().PodCertificateRequests("").List(ctx, o)
			},
			WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
				o.FieldSelector = mine
				return client.CertificatesV1().PodCertificateRequests("").Watch(ctx, o)
			},
		}, client),
		changed: func(obj any) {
			if r, ok := obj.(*certificatesv1.PodCertificateRequest); ok {
				request(r.Spec.PodUID)
			}
		},
	}
	return c
}

// Close ends all watches and waits for them.
func (c *Certificates) Close() {
	c.bundles.close()
	c.requests.close()
	c.stop()
	c.wg.Wait()
}

// TrustBundles lists all bundles of the cluster, in no order.
func (c *Certificates) TrustBundles(ctx context.Context) ([]*certificatesv1.ClusterTrustBundle, error) {
	store, err := c.open(ctx, &c.bundles)
	if err != nil {
		return nil, fmt.Errorf("ClusterTrustBundles are not known yet: %w", err)
	}
	var out []*certificatesv1.ClusterTrustBundle
	for _, obj := range store.List() {
		if b, ok := obj.(*certificatesv1.ClusterTrustBundle); ok {
			out = append(out, b)
		}
	}
	return out, nil
}

// Request returns a request of this node; one that isn't known (yet) is a NotFound error.
func (c *Certificates) Request(ctx context.Context, namespace, name string) (*certificatesv1.PodCertificateRequest, error) {
	store, err := c.open(ctx, &c.requests)
	if err != nil {
		return nil, fmt.Errorf("PodCertificateRequests are not known yet: %w", err)
	}
	obj, ok, err := store.GetByKey(namespace + "/" + name)
	if err != nil {
		return nil, err
	}
	r, is := obj.(*certificatesv1.PodCertificateRequest)
	if !ok || !is {
		return nil, apierrors.NewNotFound(certificatesv1.Resource("podcertificaterequests"), name)
	}
	return r, nil
}

// collection is everything of a kind that a list gives, as it is now.
type collection struct {
	example runtime.Object
	source  cache.ListerWatcher
	changed func(any)

	mu     sync.Mutex
	closed bool        // guarded by mu
	store  cache.Store // nil: nobody asked yet; guarded by mu
	synced func() bool // guarded by mu
}

func (k *collection) close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.closed = true
}

// open begins to watch unless that is done, and waits until the first list is there.
func (c *Certificates) open(ctx context.Context, k *collection) (cache.Store, error) {
	k.mu.Lock()
	if k.closed {
		k.mu.Unlock()
		return nil, context.Canceled
	}
	if k.store == nil {
		var controller cache.Controller
		gone := func(obj any) {
			if d, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = d.Obj
			}
			k.changed(obj)
		}
		k.store, controller = cache.NewInformerWithOptions(cache.InformerOptions{
			ListerWatcher: k.source, ObjectType: k.example,
			Handler: cache.ResourceEventHandlerFuncs{AddFunc: k.changed, UpdateFunc: func(_, obj any) { k.changed(obj) }, DeleteFunc: gone},
		})
		k.synced = controller.HasSynced
		c.wg.Go(func() { controller.RunWithContext(c.ctx) })
	}
	store, synced := k.store, k.synced
	k.mu.Unlock()
	if synced() {
		return store, nil
	}
	ctx, cancel := context.WithTimeout(ctx, syncPatience)
	defer cancel()
	if !cache.WaitForCacheSync(ctx.Done(), synced) {
		return nil, context.Cause(ctx)
	}
	return store, nil
}
