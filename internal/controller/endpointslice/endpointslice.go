package endpointslice

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	slices "k8s.io/endpointslice"
	"k8s.io/endpointslice/topologycache"
	sliceutil "k8s.io/endpointslice/util"
	"k8s.io/klog/v2"

	"github.com/celox/celox/internal/client/informers"
	"github.com/celox/celox/internal/controller"
)

const (
	// managedBy marks the slices that this controller owns, with upstream's name so that an upstream cluster's slices are kept.
	managedBy = "endpointslice-controller.k8s.io"
	// maxEndpoints is how many endpoints a slice holds.
	maxEndpoints = 100
	// staleRetry is how soon a service is looked at again whose slices in the cache are older than our own writes.
	staleRetry = 50 * time.Millisecond
	// zonesDelay is how long changes of nodes are gathered until all nodes are looked at.
	zonesDelay = 100 * time.Millisecond
)

// Controller reconciles the slices of Services; its keys are Services.
type Controller struct {
	services   corelisters.ServiceLister
	cached     cache.Indexer // of the services
	pods       corelisters.PodLister
	nodes      corelisters.NodeLister
	slices     func(namespace, service string) ([]*discoveryv1.EndpointSlice, error)
	tracker    *sliceutil.EndpointSliceTracker
	triggers   *sliceutil.TriggerTimeTracker
	topology   *topologycache.TopologyCache
	reconciler *slices.Reconciler
	recorder   record.EventRecorder
	logger     klog.Logger
	loop       *controller.Loop
	zones      *controller.Loop // has one key: the share that each zone has of the nodes
	first      sync.Once        // the zones are looked at before the first service

	mu sync.Mutex // guards busy
	// busy has the services that are reconciled now, with what is to be done about changes of their slices when that is over: in this process they
	// are seen before the tracker knows that they are our own.
	busy map[string][]func()
}

// New makes the controller and registers it with the informers, which the caller starts.
func New(c kubernetes.Interface, f *informers.Factory, recorder record.EventRecorder, log *slog.Logger, m *controller.Metrics) (*Controller, error) {
	services, pods, nodes, endpoints := f.Core().V1().Services(), f.Core().V1().Pods(), f.Core().V1().Nodes(), f.Discovery().V1().EndpointSlices()
	logger := klog.Background()
	count(m)
	ctl := &Controller{
		services: services.Lister(), cached: services.Informer().GetIndexer(), pods: pods.Lister(), recorder: recorder, logger: logger,
		tracker: sliceutil.NewEndpointSliceTracker(), triggers: sliceutil.NewTriggerTimeTracker(), topology: topologycache.NewTopologyCache(),
		nodes: nodes.Lister(), busy: map[string][]func(){},
	}
	ctl.reconciler = slices.NewReconciler(c, nodes.Lister(), maxEndpoints, ctl.tracker, ctl.topology, recorder, managedBy,
		slices.WithPreferSameTrafficDistributionEnabled(true))
	var err error
	if ctl.slices, err = controller.SlicesOf(endpoints.Informer(), managedBy); err != nil {
		return nil, fmt.Errorf("endpointslice: %w", err)
	}
	options := controller.Options{
		Workers: 5, Log: log, Metrics: m, MinBackoff: time.Second,
		Synced: []cache.InformerSynced{services.Informer().HasSynced, pods.Informer().HasSynced, nodes.Informer().HasSynced, endpoints.Informer().HasSynced},
	}
	ctl.loop = controller.NewLoop("endpointslice", ctl.Reconcile, options)
	options.Workers = 1
	ctl.zones = controller.NewLoop("endpointslice_zones", ctl.share, options)
	queue := func(s *corev1.Service) { ctl.loop.AddObject(s) }
	queueOwner := func(s *discoveryv1.EndpointSlice) {
		if name := s.Labels[discoveryv1.LabelServiceName]; name != "" && ctl.reconciler.ManagedByController(s) {
			ctl.loop.Add(s.Namespace + "/" + name)
		}
	}
	if err := errors.Join(
		controller.Watch(services.Informer(), controller.Handlers[*corev1.Service]{Changed: queue, Delete: queue}),
		controller.Watch(pods.Informer(), controller.Handlers[*corev1.Pod]{
			Add:    func(pod *corev1.Pod) { ctl.podChanged(nil, pod) },
			Update: func(old, pod *corev1.Pod) { ctl.podChanged(old, pod) },
			Delete: func(pod *corev1.Pod) { ctl.podChanged(pod, nil) },
		}),
		controller.Watch(endpoints.Informer(), controller.Handlers[*discoveryv1.EndpointSlice]{
			Add: func(s *discoveryv1.EndpointSlice) {
				ctl.whenIdle(s, func() {
					if ctl.reconciler.ManagedByController(s) && ctl.tracker.ShouldSync(s) {
						queueOwner(s)
					}
				})
			},
			Update: func(old, s *discoveryv1.EndpointSlice) {
				if old.Labels[discoveryv1.LabelServiceName] != s.Labels[discoveryv1.LabelServiceName] {
					queueOwner(old)
				}
				ctl.whenIdle(s, func() {
					if ctl.reconciler.ManagedByChanged(old, s) || ctl.reconciler.ManagedByController(s) && ctl.tracker.ShouldSync(s) {
						queueOwner(s)
					}
				})
			},
			Delete: func(s *discoveryv1.EndpointSlice) {
				ctl.whenIdle(s, func() {
					if ctl.reconciler.ManagedByController(s) && ctl.tracker.Has(s) && !ctl.tracker.HandleDeletion(s) {
						queueOwner(s)
					}
				})
			},
		}),
		controller.Watch(nodes.Informer(), controller.Handlers[*corev1.Node]{
			Add: func(*corev1.Node) { ctl.zones.AddAfter(allNodes, zonesDelay) },
			Update: func(old, n *corev1.Node) {
				if ready(old) != ready(n) || old.Labels[corev1.LabelTopologyZone] != n.Labels[corev1.LabelTopologyZone] {
					ctl.zones.AddAfter(allNodes, zonesDelay)
				}
			},
			Delete: func(*corev1.Node) { ctl.zones.AddAfter(allNodes, zonesDelay) },
		}),
	); err != nil {
		return nil, fmt.Errorf("endpointslice: %w", err)
	}
	return ctl, nil
}

// Run reconciles until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	var zones sync.WaitGroup
	var zonesErr error
	zones.Go(func() { zonesErr = c.zones.Run(ctx) })
	err := c.loop.Run(ctx)
	zones.Wait()
	return errors.Join(err, zonesErr)
}

// allNodes is the only key of the loop that looks after zones.
const allNodes = "nodes"

func ready(n *corev1.Node) bool {
	for i := range n.Status.Conditions {
		if n.Status.Conditions[i].Type == corev1.NodeReady {
			return n.Status.Conditions[i].Status == corev1.ConditionTrue
		}
	}
	return false
}

// share tells the library which share of the cluster each zone has, for services with topology-mode Auto, and queues those whose endpoints don't fit
// it any more.
func (c *Controller) share(context.Context, string) error {
	if err := c.look(); err != nil {
		return err
	}
	for _, key := range c.topology.GetOverloadedServices() {
		c.loop.Add(key)
	}
	return nil
}

func (c *Controller) look() error {
	nodes, err := c.nodes.List(labels.Everything())
	if err != nil {
		return fmt.Errorf("list nodes: %w", err)
	}
	c.topology.SetNodes(c.logger, nodes)
	return nil
}

// whenIdle does something about a slice when nobody reconciles its service: at once, or when that is over.
func (c *Controller) whenIdle(s *discoveryv1.EndpointSlice, do func()) {
	key := s.Namespace + "/" + s.Labels[discoveryv1.LabelServiceName]
	c.mu.Lock()
	waiting, busy := c.busy[key]
	if busy {
		c.busy[key] = append(waiting, do)
	}
	c.mu.Unlock()
	if !busy {
		do()
	}
}

// isBusy says that a service is being reconciled, and returns what ends that.
func (c *Controller) isBusy(key string) (end func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.busy[key] = nil
	return func() {
		c.mu.Lock()
		waiting := c.busy[key]
		delete(c.busy, key)
		c.mu.Unlock()
		for _, do := range waiting {
			do()
		}
	}
}

// podChanged queues the services that a change of a pod concerns; nil is before its creation or after its deletion.
func (c *Controller) podChanged(old, pod *corev1.Pod) {
	if !controller.SelectedIn(c.cached, cmp.Or(old, pod).Namespace) {
		return
	}
	// A nil *Pod in an interface is not a nil interface, and the library asks for the latter.
	var was, is any
	if old != nil {
		was = old
	}
	if pod != nil {
		is = pod
	}
	services, err := sliceutil.GetServicesToUpdate(c.services, sliceutil.GetPodUpdateProjectionKey(was, is))
	if err != nil {
		c.logger.Error(err, "services of a pod")
		return
	}
	for key := range services {
		c.loop.Add(key)
	}
}

// Reconcile brings the slices of one Service up to date.
func (c *Controller) Reconcile(_ context.Context, key string) error {
	var err error
	if c.first.Do(func() { err = c.look() }); err != nil {
		return err // a cache does not fail
	}
	defer c.isBusy(key)()
	outcome, err := c.sync(key)
	synced(outcome)
	return err
}

// plain is a slice as the library makes one: by its kind, which the store's objects say, a slice without endpoints would be another than the one that
// is wanted, and be written anew each time.
func plain(s *discoveryv1.EndpointSlice) *discoveryv1.EndpointSlice {
	if len(s.Endpoints) > 0 || s.TypeMeta == (metav1.TypeMeta{}) {
		return s
	}
	out := *s
	out.TypeMeta = metav1.TypeMeta{}
	return &out
}

func (c *Controller) sync(key string) (outcome string, err error) {
	outcome = "success"
	defer func() {
		if err != nil {
			outcome = "error"
		}
	}()
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return outcome, nil // not a key of ours; a retry would not change it
	}
	service, err := c.services.Services(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		c.triggers.DeleteService(namespace, name)
		c.reconciler.DeleteService(namespace, name)
		c.tracker.DeleteService(namespace, name)
		return outcome, nil // the slices go by garbage collection
	} else if err != nil {
		return outcome, fmt.Errorf("get service: %w", err)
	}
	if service.Spec.Type == corev1.ServiceTypeExternalName || service.Spec.Selector == nil {
		return outcome, nil
	}
	pods, err := c.pods.Pods(namespace).List(labels.Set(service.Spec.Selector).AsSelectorPreValidated())
	if err != nil {
		return outcome, fmt.Errorf("list pods: %w", err)
	}
	existing, err := c.slices(namespace, name)
	if err != nil {
		return outcome, err
	}
	var alive []*discoveryv1.EndpointSlice
	for _, s := range existing {
		if s.DeletionTimestamp == nil {
			alive = append(alive, plain(s))
		}
	}
	if c.tracker.StaleSlices(service, alive) {
		c.loop.AddAfter(key, staleRetry)
		return "stale", nil
	}
	trigger := c.triggers.ComputeEndpointLastChangeTriggerTime(namespace, service, pods)
	if err := c.reconciler.Reconcile(c.logger, service, pods, alive, trigger); err != nil {
		if !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			c.recorder.Eventf(service, corev1.EventTypeWarning, "FailedToUpdateEndpointSlices", "Error updating Endpoint Slices for Service %s: %v", key, err)
			return outcome, fmt.Errorf("reconcile slices: %w", err)
		}
	}
	return outcome, nil
}
