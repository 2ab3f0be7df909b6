package loadbalancer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/celox/celox/internal/client/informers"
	"github.com/celox/celox/internal/controller"
)

const (
	// Class is the spec.loadBalancerClass of services that are ours, besides none.
	Class = "celox.io/nodes"
	// Annotation marks services to which this controller gave addresses.
	Annotation = "celox.io/load-balancer"

	// finalizer keeps a service until its load balancer is gone; upstream's name.
	finalizer = "service.kubernetes.io/load-balancer-cleanup"
	// portInUse is the reason of the condition of a service that doesn't get its ports.
	portInUse = "PortInUse"

	indexBalanced = "loadbalancer.celox.ours"
	indexPorts    = "loadbalancer.celox.ports"
)

// Config is what New needs.
type Config struct {
	Client    kubernetes.Interface
	Informers *informers.Factory
	Recorder  record.EventRecorder
	// Reserved are ports of every node that no service may have, with what they are for.
	Reserved map[Port]string
	// Release says that load balancers are others' from now on: what was given by this controller is taken back, and nothing is given.
	Release bool
	Log     *slog.Logger
	Metrics *controller.Metrics
}

// Controller reconciles Services.
type Controller struct {
	Config
	services corelisters.ServiceLister
	index    cache.Indexer // services
	nodes    corelisters.NodeLister
	slices   discoverylisters.EndpointSliceLister
	loop     *controller.Loop
}

// New makes the controller and registers it with the informers, which the caller starts.
func New(cfg Config) (*Controller, error) {
	services, nodes, endpoints := cfg.Informers.Core().V1().Services(), cfg.Informers.Core().V1().Nodes(), cfg.Informers.Discovery().V1().EndpointSlices()
	c := &Controller{Config: cfg, services: services.Lister(), index: services.Informer().GetIndexer(), nodes: nodes.Lister(), slices: endpoints.Lister()}
	c.loop = controller.NewLoop("service", c.Reconcile, controller.Options{
		Workers: 2, Log: cfg.Log, Metrics: cfg.Metrics,
		Synced: []cache.InformerSynced{services.Informer().HasSynced, nodes.Informer().HasSynced, endpoints.Informer().HasSynced},
	})
	if err := errors.Join(
		services.Informer().AddIndexers(cache.Indexers{indexBalanced: c.indexBalanced, indexPorts: c.indexPorts}),
		controller.Watch(services.Informer(), controller.Handlers[*corev1.Service]{
			Add: c.serviceChanged, Delete: c.serviceChanged,
			Update: func(old, s *corev1.Service) {
				// What changed only by our own hand, or by the hands of allocators, says nothing about others.
				if old.Generation == s.Generation && equality.Semantic.DeepEqual(old.Spec, s.Spec) && (old.DeletionTimestamp == nil) == (s.DeletionTimestamp == nil) {
					c.loop.AddObject(s)
					return
				}
				c.serviceChanged(old)
				c.serviceChanged(s)
			},
		}),
		controller.Watch(nodes.Informer(), controller.Handlers[*corev1.Node]{
			Add: func(*corev1.Node) { c.all() }, Delete: func(*corev1.Node) { c.all() },
			Update: func(old, n *corev1.Node) {
				wasMay, wasReady := candidate(old)
				may, ready := candidate(n)
				if wasMay != may || wasReady != ready || !slices.Equal(old.Status.Addresses, n.Status.Addresses) {
					c.all()
				}
			},
		}),
		controller.Watch(endpoints.Informer(), controller.Handlers[*discoveryv1.EndpointSlice]{
			Changed: c.sliceChanged, Delete: c.sliceChanged,
		}),
	); err != nil {
		return nil, fmt.Errorf("loadbalancer: %w", err)
	}
	return c, nil
}

// Run reconciles until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

// ours says whether a service is for this controller to balance.
func (c *Controller) ours(s *corev1.Service) bool {
	return !c.Release && s.Spec.Type == corev1.ServiceTypeLoadBalancer && s.DeletionTimestamp == nil &&
		(s.Spec.LoadBalancerClass == nil || *s.Spec.LoadBalancerClass == Class)
}

// indexBalanced finds the services that are ours.
func (c *Controller) indexBalanced(obj any) ([]string, error) {
	if s, ok := obj.(*corev1.Service); ok && c.ours(s) {
		return []string{""}, nil
	}
	return nil, nil
}

// indexPorts finds the services that have or want a port of the nodes.
func (c *Controller) indexPorts(obj any) ([]string, error) {
	s, ok := obj.(*corev1.Service)
	if !ok {
		return nil, nil
	}
	all := nodePorts(s)
	if c.ours(s) {
		all = append(all, claims(s)...)
	}
	var out []string
	for _, cl := range all {
		out = append(out, cl.Port.String())
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// all queues every service that is ours.
func (c *Controller) all() {
	found, err := c.index.ByIndex(indexBalanced, "")
	if err != nil {
		c.Log.Error("services with load balancers", "err", err)
		return
	}
	for _, obj := range found {
		c.loop.AddObject(obj.(*corev1.Service))
	}
}

// serviceChanged queues a service, and those that may get or lose ports by what it is now.
func (c *Controller) serviceChanged(s *corev1.Service) {
	if s.Spec.Type != corev1.ServiceTypeLoadBalancer && s.Spec.Type != corev1.ServiceTypeNodePort && s.Annotations[Annotation] == "" {
		return
	}
	c.loop.AddObject(s)
	for _, o := range c.around(s) {
		if c.ours(o) {
			c.loop.AddObject(o)
		}
	}
}

func (c *Controller) sliceChanged(s *discoveryv1.EndpointSlice) {
	svc, err := c.services.Services(s.Namespace).Get(s.Labels[discoveryv1.LabelServiceName])
	if err == nil && c.ours(svc) && svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal {
		c.loop.AddObject(svc)
	}
}

// around are the services that have or want a port that s wants or has, or one that those want, and so on, less s.
func (c *Controller) around(s *corev1.Service) []*corev1.Service {
	seen := map[string]*corev1.Service{}
	next := append(claims(s), nodePorts(s)...)
	looked := map[Port]bool{}
	for len(next) > 0 {
		p := next[len(next)-1].Port
		next = next[:len(next)-1]
		if looked[p] {
			continue
		}
		looked[p] = true
		found, err := c.index.ByIndex(indexPorts, p.String())
		if err != nil {
			c.Log.Error("services with a port", "err", err)
			return nil
		}
		for _, obj := range found {
			o := obj.(*corev1.Service)
			key := cache.MetaObjectToName(o).String()
			if seen[key] != nil || o.Namespace == s.Namespace && o.Name == s.Name {
				continue
			}
			seen[key] = o
			if c.ours(o) {
				next = append(next, claims(o)...)
			}
		}
	}
	return slices.Collect(maps.Values(seen))
}

// Reconcile gives one service what it is to have, or takes it back.
func (c *Controller) Reconcile(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return nil // not a key of ours; a retry would not change it
	}
	svc, err := c.services.Services(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	} else if err != nil {
		return fmt.Errorf("get service: %w", err)
	}
	if c.ours(svc) {
		return c.ensure(ctx, svc)
	}
	return c.release(ctx, svc)
}

// ensure writes where a service is reached.
func (c *Controller) ensure(ctx context.Context, svc *corev1.Service) error {
	want := svc.DeepCopy()
	if !slices.Contains(want.Finalizers, finalizer) {
		want.Finalizers = append(want.Finalizers, finalizer)
	}
	metav1.SetMetaDataAnnotation(&want.ObjectMeta, Annotation, Class)
	why := refuse(svc, c.around(svc), c.ours, c.Reserved)
	if why != nil {
		want.Status.LoadBalancer.Ingress = nil
		meta.SetStatusCondition(&want.Status.Conditions, metav1.Condition{
			Type: corev1.LoadBalancerPortsError, Status: metav1.ConditionTrue, Reason: portInUse, Message: why.String(), ObservedGeneration: svc.Generation,
		})
	} else {
		nodes, err := c.nodes.List(labels.Everything())
		if err != nil {
			return fmt.Errorf("list nodes: %w", err)
		}
		endpoints, err := c.slices.EndpointSlices(svc.Namespace).List(labels.Set{discoveryv1.LabelServiceName: svc.Name}.AsSelectorPreValidated())
		if err != nil {
			return fmt.Errorf("list endpoint slices: %w", err)
		}
		want.Status.LoadBalancer.Ingress = ingress(svc, nodes, endpoints)
		if i := slices.IndexFunc(want.Status.Conditions, func(x metav1.Condition) bool { return x.Type == corev1.LoadBalancerPortsError && x.Reason == portInUse }); i >= 0 {
			want.Status.Conditions = slices.Delete(want.Status.Conditions, i, i+1)
		}
	}
	had, has := len(svc.Status.LoadBalancer.Ingress) > 0, len(want.Status.LoadBalancer.Ingress) > 0
	changed := !equality.Semantic.DeepEqual(svc.Status, want.Status)
	if !changed && slices.Equal(svc.Finalizers, want.Finalizers) && svc.Annotations[Annotation] == want.Annotations[Annotation] {
		return nil
	}
	if has && !had {
		c.Recorder.Event(svc, corev1.EventTypeNormal, "EnsuringLoadBalancer", "Ensuring load balancer")
	}
	if _, err := c.Client.CoreV1().Services(svc.Namespace).UpdateStatus(ctx, want, metav1.UpdateOptions{}); err != nil {
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("write the addresses of a service: %w", err)
	}
	switch {
	case why != nil && changed:
		c.Recorder.Eventf(svc, corev1.EventTypeWarning, "SyncLoadBalancerFailed", "Error syncing load balancer: %s", why)
	case why != nil:
	case has && !had:
		c.Recorder.Event(svc, corev1.EventTypeNormal, "EnsuredLoadBalancer", "Ensured load balancer")
		if ip := svc.Spec.LoadBalancerIP; ip != "" {
			c.Recorder.Eventf(svc, corev1.EventTypeWarning, "LoadBalancerIPIgnored", "spec.loadBalancerIP %s is ignored: the addresses of a service are those of the nodes", ip)
		}
	case has && changed:
		c.Recorder.Event(svc, corev1.EventTypeNormal, "UpdatedLoadBalancer", "Updated load balancer with new hosts")
	case !has:
		c.Recorder.Event(svc, corev1.EventTypeWarning, "UnAvailableLoadBalancer", "There are no available nodes for LoadBalancer")
	}
	return nil
}

// release takes back what a service was given that is not ours, or no longer: it goes, is of another type, or load balancers are others'.
func (c *Controller) release(ctx context.Context, svc *corev1.Service) error {
	marked := svc.Annotations[Annotation] != ""
	// One that an upstream cluster's controller has left would never go otherwise.
	left := !c.Release && slices.Contains(svc.Finalizers, finalizer) && (svc.Spec.LoadBalancerClass == nil || *svc.Spec.LoadBalancerClass == Class)
	if !marked && !left {
		return nil
	}
	want := svc.DeepCopy()
	want.Finalizers = slices.DeleteFunc(want.Finalizers, func(f string) bool { return f == finalizer })
	delete(want.Annotations, Annotation)
	want.Status.LoadBalancer = corev1.LoadBalancerStatus{}
	want.Status.Conditions = slices.DeleteFunc(want.Status.Conditions, func(x metav1.Condition) bool { return x.Type == corev1.LoadBalancerPortsError && x.Reason == portInUse })
	c.Recorder.Event(svc, corev1.EventTypeNormal, "DeletingLoadBalancer", "Deleting load balancer")
	if _, err := c.Client.CoreV1().Services(svc.Namespace).UpdateStatus(ctx, want, metav1.UpdateOptions{}); err != nil {
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("take back the addresses of a service: %w", err)
	}
	c.Recorder.Event(svc, corev1.EventTypeNormal, "DeletedLoadBalancer", "Deleted load balancer")
	return nil
}
