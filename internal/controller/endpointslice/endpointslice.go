package endpointslice

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
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
)

// Controller reconciles the slices of Services; its keys are Services.
type Controller struct {
	services   corelisters.ServiceLister
	pods       corelisters.PodLister
	slices     func(namespace, service string) ([]*discoveryv1.EndpointSlice, error)
	tracker    *sliceutil.EndpointSliceTracker
	triggers   *sliceutil.TriggerTimeTracker
	reconciler *slices.Reconciler
	recorder   record.EventRecorder
	logger     klog.Logger
	loop       *controller.Loop
}

// New makes the controller and registers it with the informers, which the caller starts.
func New(c kubernetes.Interface, f *informers.Factory, recorder record.EventRecorder, log *slog.Logger, m *controller.Metrics) (*Controller, error) {
	services, pods, nodes, endpoints := f.Core().V1().Services(), f.Core().V1().Pods(), f.Core().V1().Nodes(), f.Discovery().V1().EndpointSlices()
	logger := klog.Background()
	count(m)
	ctl := &Controller{
		services: services.Lister(), pods: pods.Lister(), recorder: recorder, logger: logger,
		tracker: sliceutil.NewEndpointSliceTracker(), triggers: sliceutil.NewTriggerTimeTracker(),
	}
	ctl.reconciler = slices.NewReconciler(c, nodes.Lister(), maxEndpoints, ctl.tracker, topologycache.NewTopologyCache(), recorder, managedBy,
		slices.WithPreferSameTrafficDistributionEnabled(true))
	var err error
	if ctl.slices, err = controller.SlicesOf(endpoints.Informer(), managedBy); err != nil {
		return nil, fmt.Errorf("endpointslice: %w", err)
	}
	ctl.loop = controller.NewLoop("endpointslice", ctl.Reconcile, controller.Options{
		Workers: 5, Log: log, Metrics: m, MinBackoff: time.Second,
		Synced: []cache.InformerSynced{services.Informer().HasSynced, pods.Informer().HasSynced, nodes.Informer().HasSynced, endpoints.Informer().HasSynced},
	})
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
				if ctl.reconciler.ManagedByController(s) && ctl.tracker.ShouldSync(s) {
					queueOwner(s)
				}
			},
			Update: func(old, s *discoveryv1.EndpointSlice) {
				if old.Labels[discoveryv1.LabelServiceName] != s.Labels[discoveryv1.LabelServiceName] {
					queueOwner(old)
				}
				if ctl.reconciler.ManagedByChanged(old, s) || ctl.reconciler.ManagedByController(s) && ctl.tracker.ShouldSync(s) {
					queueOwner(s)
				}
			},
			Delete: func(s *discoveryv1.EndpointSlice) {
				if ctl.reconciler.ManagedByController(s) && ctl.tracker.Has(s) && !ctl.tracker.HandleDeletion(s) {
					queueOwner(s)
				}
			},
		}),
	); err != nil {
		return nil, fmt.Errorf("endpointslice: %w", err)
	}
	return ctl, nil
}

// Run reconciles until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

// podChanged queues the services that a change of a pod concerns; nil is before its creation or after its deletion.
func (c *Controller) podChanged(old, pod *corev1.Pod) {
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
	outcome, err := c.sync(key)
	synced(outcome)
	return err
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
			alive = append(alive, s)
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
