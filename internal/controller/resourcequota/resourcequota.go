package resourcequota

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/clock"

	"github.com/celox/celox/internal/api/quota"
	"github.com/celox/celox/internal/client/informers"
	"github.com/celox/celox/internal/controller"
)

const (
	// recount is how often each quota is counted whether something happened or not.
	recount = 5 * time.Minute
	// settle is how long less than what is written must have been counted before it is believed.
	settle = 200 * time.Millisecond
	// lag is how long after an object was seen first the quotas that it uses are counted. Admission has charged them already, and most often rightly; but a count
	// that was under way may have written less because the object, of another watch than the quota, was still to come. Many objects are one count.
	lag = time.Second
	// unknown is how long a quota of a kind that nobody serves waits for it.
	unknown = 30 * time.Second
)

// Resource is a namespaced resource whose objects an informer of the process holds.
type Resource struct {
	GroupResource schema.GroupResource
	Informer      cache.SharedIndexInformer
}

// Config is what a Controller needs.
type Config struct {
	Client    kubernetes.Interface
	Metadata  metadata.Interface
	Informers *informers.Factory
	Resources []Resource
	// Resolve finds the version of a resource that is not among Resources; false if nobody serves it.
	Resolve func(schema.GroupResource) (schema.GroupVersionResource, bool)
	Clock   clock.WithTicker
	Log     *slog.Logger
	Metrics *controller.Metrics
}

// Controller reconciles quotas; its keys are "namespace/name".
type Controller struct {
	client  kubernetes.Interface
	quotas  corelisters.ResourceQuotaLister
	cached  cache.Indexer // of the quotas
	indexes map[schema.GroupResource]cache.Indexer
	others  *others
	clock   clock.WithTicker
	loop    *controller.Loop

	mu     sync.Mutex
	doubts map[string]doubt // by key; guarded by mu
}

// doubt is a count that was lower than what the quota said.
type doubt struct {
	version string // of the quota
	used    corev1.ResourceList
	since   time.Time
}

// New makes the controller and registers it with the informers, which the caller starts.
func New(cfg Config) (*Controller, error) {
	q := cfg.Informers.Core().V1().ResourceQuotas()
	c := &Controller{client: cfg.Client, quotas: q.Lister(), cached: q.Informer().GetIndexer(), indexes: map[schema.GroupResource]cache.Indexer{}, clock: cfg.Clock, doubts: map[string]doubt{}}
	c.others = newOthers(cfg.Metadata, cfg.Resolve, c.appeared, c.replenish)
	synced := []cache.InformerSynced{q.Informer().HasSynced}
	errs := []error{controller.Watch(q.Informer(), controller.Handlers[*corev1.ResourceQuota]{
		Add: func(q *corev1.ResourceQuota) { c.loop.AddObject(q) },
		Update: func(old, q *corev1.ResourceQuota) {
			// What admission charges is no reason to count.
			if !equality.Semantic.DeepEqual(old.Spec, q.Spec) || !equality.Semantic.DeepEqual(q.Spec.Hard, q.Status.Hard) {
				c.loop.AddObject(q)
			}
		},
	})}
	for _, r := range cfg.Resources {
		c.indexes[r.GroupResource] = r.Informer.GetIndexer()
		synced = append(synced, r.Informer.HasSynced)
		errs = append(errs, controller.Watch(r.Informer, controller.Handlers[metav1.Object]{
			Add: func(obj metav1.Object) { c.appeared(r.GroupResource, obj.GetNamespace()) },
			Update: func(old, obj metav1.Object) {
				if c.limited(obj.GetNamespace()) && c.lessens(r.GroupResource, old, obj) {
					c.replenish(r.GroupResource, obj.GetNamespace())
				}
			},
			Delete: func(obj metav1.Object) { c.replenish(r.GroupResource, obj.GetNamespace()) },
		}))
	}
	c.loop = controller.NewLoop("resourcequota", c.Reconcile, controller.Options{Workers: 5, Synced: synced, Log: cfg.Log, Metrics: cfg.Metrics})
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("resourcequota: %w", err)
	}
	return c, nil
}

// limited says whether a namespace has quotas. One that comes later is counted anyway.
func (c *Controller) limited(namespace string) bool {
	return len(controller.In[*corev1.ResourceQuota](c.cached, namespace)) > 0
}

// lessens says whether an update gives something back, to one quota if not to all: only kinds whose usage depends on more than their being there can.
func (c *Controller) lessens(gr schema.GroupResource, old, obj metav1.Object) bool {
	var was, is runtime.Object
	switch o := old.(type) {
	case *corev1.Pod, *corev1.Service, *corev1.PersistentVolumeClaim:
		was, _ = o.(runtime.Object)
		is, _ = obj.(runtime.Object)
	default:
		return false
	}
	if p, ok := old.(*corev1.Pod); ok {
		if q, ok := obj.(*corev1.Pod); ok && (p.Spec.ActiveDeadlineSeconds == nil) != (q.Spec.ActiveDeadlineSeconds == nil) {
			return true // from those that do not terminate to those that do
		}
	}
	now := c.clock.Now()
	before, after := quota.Usage(gr, was, now), quota.Usage(gr, is, now)
	for name, n := range before {
		if m := after[name]; m.Cmp(n) < 0 {
			return true
		}
	}
	return false
}

// replenish counts the quotas of a namespace that objects of a resource use.
func (c *Controller) replenish(gr schema.GroupResource, namespace string) {
	for _, q := range c.limiting(gr, namespace) {
		c.loop.AddObject(q)
	}
}

// appeared counts them a little later, for an object that was not seen before.
func (c *Controller) appeared(gr schema.GroupResource, namespace string) {
	for _, q := range c.limiting(gr, namespace) {
		c.loop.AddAfter(cache.MetaObjectToName(q).String(), lag)
	}
}

// limiting are the quotas of a namespace that objects of a resource use.
func (c *Controller) limiting(gr schema.GroupResource, namespace string) []*corev1.ResourceQuota {
	return slices.DeleteFunc(controller.In[*corev1.ResourceQuota](c.cached, namespace), func(q *corev1.ResourceQuota) bool {
		for name := range q.Spec.Hard {
			if r, ok := quota.Resource(name); ok && r == gr {
				return false
			}
		}
		return true
	})
}

// Run reconciles until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	c.others.start(ctx)
	defer c.others.stop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		t := c.clock.NewTicker(recount)
		defer t.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-t.C():
				c.recountAll()
			}
		}
	}()
	err := c.loop.Run(ctx)
	<-done
	return err
}

func (c *Controller) recountAll() {
	list, err := c.quotas.List(labels.Everything())
	if err != nil {
		return
	}
	wanted := map[schema.GroupResource]bool{}
	for _, q := range list {
		c.loop.AddObject(q)
		for name := range q.Spec.Hard {
			if r, ok := quota.Resource(name); ok {
				wanted[r] = true
			}
		}
	}
	c.others.keep(wanted)
}

// Reconcile counts what is used of one quota and writes it down.
func (c *Controller) Reconcile(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return nil //nolint:nilerr // no key of ours
	}
	q, err := c.quotas.ResourceQuotas(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		c.believe(key)
		return nil
	} else if err != nil {
		return fmt.Errorf("get quota: %w", err)
	}
	used, complete, err := c.count(ctx, q)
	if err != nil {
		return err
	}
	if !complete {
		c.loop.AddAfter(key, unknown)
	}
	used = c.settled(key, q, used)
	if q.Status.Used != nil && equality.Semantic.DeepEqual(q.Spec.Hard, q.Status.Hard) && equality.Semantic.DeepEqual(used, q.Status.Used) {
		return nil
	}
	next := q.DeepCopy()
	next.Status = corev1.ResourceQuotaStatus{Hard: q.Spec.Hard.DeepCopy(), Used: used}
	if _, err := c.client.CoreV1().ResourceQuotas(namespace).UpdateStatus(ctx, next, metav1.UpdateOptions{}); err != nil {
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("write usage: %w", err)
	}
	return nil
}

// settled returns what of a count may be written down. Admission charges a quota before the object is stored, and the object is seen
// here some time after that: a count that knows of the charge and not of the object would give away what is taken. So less than the
// quota says is believed only if it was counted so for some time in which nobody was charged; what is written then must still be of
// that version of the quota. Until then the higher amounts stay.
func (c *Controller) settled(key string, q *corev1.ResourceQuota, used corev1.ResourceList) corev1.ResourceList {
	whole, less := used.DeepCopy(), false
	for name, n := range whole {
		if was, ok := q.Status.Used[name]; ok && n.Cmp(was) < 0 {
			whole[name], less = was, true
		}
	}
	if !less {
		c.believe(key)
		return used
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.clock.Now()
	d, known := c.doubts[key]
	switch {
	case !known || d.version != q.ResourceVersion || !equality.Semantic.DeepEqual(d.used, used):
		c.doubts[key] = doubt{version: q.ResourceVersion, used: used, since: now}
		c.loop.AddAfter(key, settle)
		return whole
	case now.Sub(d.since) < settle:
		c.loop.AddAfter(key, settle-now.Sub(d.since))
		return whole
	}
	delete(c.doubts, key)
	return used
}

// believe forgets what was in doubt.
func (c *Controller) believe(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.doubts, key)
}

// count sums up what the objects of the quota's namespace use of it. Complete is false if a kind that it counts is not served.
func (c *Controller) count(ctx context.Context, q *corev1.ResourceQuota) (used corev1.ResourceList, complete bool, err error) {
	used, complete = corev1.ResourceList{}, true
	resources := map[schema.GroupResource]bool{}
	for name, hard := range q.Spec.Hard {
		used[name] = *resource.NewQuantity(0, hard.Format)
		if gr, ok := quota.Resource(name); ok {
			resources[gr] = true
		}
	}
	now := c.clock.Now()
	for gr := range resources {
		objects, served, err := c.objects(ctx, gr, q.Namespace)
		if err != nil {
			return nil, false, err
		}
		complete = complete && served
		for _, obj := range objects {
			o, ok := obj.(runtime.Object)
			if !ok || !quota.Matches(q, o) {
				continue
			}
			for name, n := range quota.Usage(gr, o, now) {
				if sum, limited := used[name]; limited {
					sum.Add(n)
					used[name] = sum
				}
			}
		}
	}
	return used, complete, nil
}

// objects returns the objects of a resource in a namespace; served is false if there is no such resource.
func (c *Controller) objects(ctx context.Context, gr schema.GroupResource, namespace string) (objects []any, served bool, err error) {
	index, ok := c.indexes[gr]
	if !ok {
		if index, ok, err = c.others.index(ctx, gr); err != nil || !ok {
			return nil, false, err
		}
	}
	objects, err = index.ByIndex(cache.NamespaceIndex, namespace)
	if err != nil {
		return nil, true, fmt.Errorf("list %s: %w", gr, err)
	}
	return objects, true, nil
}
