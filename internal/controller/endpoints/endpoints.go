package endpoints

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	sliceutil "k8s.io/endpointslice/util"

	"github.com/celox/celox/internal/client/informers"
	"github.com/celox/celox/internal/controller"
)

const (
	managedByLabel = "endpoints.kubernetes.io/managed-by"
	managedBy      = "endpoint-controller"
	// leaderAnnotation is on Endpoints that are somebody's lock, not a service's.
	leaderAnnotation = "control-plane.alpha.kubernetes.io/leader"
)

// Controller reconciles the Endpoints of Services; its keys are Services.
type Controller struct {
	client    kubernetes.Interface
	services  corelisters.ServiceLister
	cached    cache.Indexer // of the services
	pods      corelisters.PodLister
	endpoints corelisters.EndpointsLister
	triggers  *sliceutil.TriggerTimeTracker
	recorder  record.EventRecorder
	log       *slog.Logger
	synced    []cache.InformerSynced
	loop      *controller.Loop
}

// New makes the controller and registers it with the informers, which the caller starts.
func New(c kubernetes.Interface, f *informers.Factory, recorder record.EventRecorder, log *slog.Logger, m *controller.Metrics) (*Controller, error) {
	services, pods, endpoints := f.Core().V1().Services(), f.Core().V1().Pods(), f.Core().V1().Endpoints()
	ctl := &Controller{client: c, services: services.Lister(), cached: services.Informer().GetIndexer(), pods: pods.Lister(), endpoints: endpoints.Lister(), triggers: sliceutil.NewTriggerTimeTracker(), recorder: recorder, log: log}
	ctl.synced = []cache.InformerSynced{services.Informer().HasSynced, pods.Informer().HasSynced, endpoints.Informer().HasSynced}
	ctl.loop = controller.NewLoop("endpoint", ctl.Reconcile, controller.Options{Workers: 5, Log: log, Metrics: m, Synced: ctl.synced})
	queue := func(s *corev1.Service) { ctl.loop.AddObject(s) }
	if err := errors.Join(
		controller.Watch(services.Informer(), controller.Handlers[*corev1.Service]{Changed: queue, Delete: queue}),
		controller.Watch(pods.Informer(), controller.Handlers[*corev1.Pod]{
			Add:    func(pod *corev1.Pod) { ctl.podChanged(nil, pod) },
			Update: func(old, pod *corev1.Pod) { ctl.podChanged(old, pod) },
			Delete: func(pod *corev1.Pod) { ctl.podChanged(pod, nil) },
		}),
		controller.Watch(endpoints.Informer(), controller.Handlers[*corev1.Endpoints]{
			Delete: func(e *corev1.Endpoints) { ctl.loop.AddObject(e) },
		}),
	); err != nil {
		return nil, fmt.Errorf("endpoints: %w", err)
	}
	return ctl, nil
}

// Run reconciles until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	var leftovers sync.WaitGroup
	defer leftovers.Wait()
	leftovers.Go(func() {
		if cache.WaitForCacheSync(ctx.Done(), c.synced...) {
			c.queueLeftovers()
		}
	})
	return c.loop.Run(ctx)
}

// queueLeftovers has the services of all Endpoints looked at, once: a service may have gone while nobody watched. Endpoints that somebody makes later
// without a service are left alone.
func (c *Controller) queueLeftovers() {
	all, err := c.endpoints.List(labels.Everything())
	if err != nil {
		c.log.Error("list endpoints", "err", err)
		return
	}
	for _, e := range all {
		if _, lock := e.Annotations[leaderAnnotation]; !lock {
			c.loop.AddObject(e)
		}
	}
}

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
		c.log.Error("services of a pod", "err", err)
		return
	}
	for key := range services {
		c.loop.Add(key)
	}
}

// Reconcile brings the Endpoints of one Service up to date.
func (c *Controller) Reconcile(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return nil // not a key of ours; a retry would not change it
	}
	client := c.client.CoreV1().Endpoints(namespace)
	service, err := c.services.Services(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		c.triggers.DeleteService(namespace, name)
		if _, err := c.endpoints.Endpoints(namespace).Get(name); err != nil {
			return nil // nothing to remove
		}
		if err := client.Delete(ctx, name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete endpoints: %w", err)
		}
		return nil
	} else if err != nil {
		return fmt.Errorf("get service: %w", err)
	}
	if service.Spec.Type == corev1.ServiceTypeExternalName || service.Spec.Selector == nil {
		return nil
	}
	pods, err := c.pods.Pods(namespace).List(labels.Set(service.Spec.Selector).AsSelectorPreValidated())
	if err != nil {
		return fmt.Errorf("list pods: %w", err)
	}
	trigger := c.triggers.ComputeEndpointLastChangeTriggerTime(namespace, service, pods)
	wantSubsets, truncated := subsets(service, pods)
	have, err := c.endpoints.Endpoints(namespace).Get(name)
	create := apierrors.IsNotFound(err)
	if create {
		have = &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace}}
	} else if err != nil {
		return fmt.Errorf("get endpoints: %w", err)
	}
	want := have.DeepCopy()
	want.Subsets = wantSubsets
	want.Labels = wantLabels(service)
	if truncated {
		metav1.SetMetaDataAnnotation(&want.ObjectMeta, corev1.EndpointsOverCapacity, "truncated")
	} else {
		delete(want.Annotations, corev1.EndpointsOverCapacity)
	}
	if !create && equality.Semantic.DeepEqual(have.Subsets, want.Subsets) && maps.Equal(have.Labels, want.Labels) && maps.Equal(have.Annotations, want.Annotations) {
		return nil
	}
	if trigger.IsZero() {
		delete(want.Annotations, corev1.EndpointsLastChangeTriggerTime)
	} else {
		metav1.SetMetaDataAnnotation(&want.ObjectMeta, corev1.EndpointsLastChangeTriggerTime, trigger.UTC().Format(time.RFC3339Nano))
	}
	return c.write(ctx, service, want, create)
}

// write creates or updates the Endpoints of a service.
func (c *Controller) write(ctx context.Context, service *corev1.Service, want *corev1.Endpoints, create bool) error {
	client, reason, at := c.client.CoreV1().Endpoints(want.Namespace), "FailedToUpdateEndpoint", "update endpoint"
	var err error
	if create {
		reason, at = "FailedToCreateEndpoint", "create endpoint for service"
		_, err = client.Create(ctx, want, metav1.CreateOptions{})
	} else {
		_, err = client.Update(ctx, want, metav1.UpdateOptions{})
	}
	switch {
	case err == nil, apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return nil
	case !apierrors.IsConflict(err) && !apierrors.IsAlreadyExists(err): // else the newer one is on its way
		c.recorder.Eventf(want, corev1.EventTypeWarning, reason, "Failed to %s %s/%s: %v", at, service.Namespace, service.Name, err)
	}
	return fmt.Errorf("write endpoints: %w", err)
}

// wantLabels are the service's labels, less the mark for headless services, which is set by what the service is.
func wantLabels(service *corev1.Service) map[string]string {
	l := map[string]string{managedByLabel: managedBy}
	for k, v := range service.Labels {
		if k != managedByLabel {
			l[k] = v
		}
	}
	delete(l, corev1.IsHeadlessService)
	if service.Spec.ClusterIP == corev1.ClusterIPNone {
		l[corev1.IsHeadlessService] = ""
	}
	return l
}
