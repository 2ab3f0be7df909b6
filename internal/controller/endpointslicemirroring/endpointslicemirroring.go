package endpointslicemirroring

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	sliceutil "k8s.io/endpointslice/util"
	"k8s.io/utils/clock"

	"github.com/celox/celox/internal/client/informers"
	"github.com/celox/celox/internal/controller"
)

// unseenRetry is when Endpoints are looked at again of which a slice that we made was not seen to come; it usually is, and then they are at once.
const unseenRetry = 30 * time.Second

// Controller reconciles the slices of Endpoints; its keys are Endpoints, which are named as their Services.
type Controller struct {
	client    kubernetes.Interface
	services  corelisters.ServiceLister
	endpoints corelisters.EndpointsLister
	slices    func(namespace, service string) ([]*discoveryv1.EndpointSlice, error)
	pending   *controller.Pending // slices that were made and not seen yet
	recorder  record.EventRecorder
	counted   *counters
	loop      *controller.Loop
}

// New makes the controller and registers it with the informers, which the caller starts.
func New(c kubernetes.Interface, f *informers.Factory, recorder record.EventRecorder, clk clock.PassiveClock, log *slog.Logger, m *controller.Metrics) (*Controller, error) {
	services, endpoints, mirrors := f.Core().V1().Services(), f.Core().V1().Endpoints(), f.Discovery().V1().EndpointSlices()
	ctl := &Controller{
		client: c, services: services.Lister(), endpoints: endpoints.Lister(),
		pending: controller.NewPending(clk), recorder: recorder, counted: newCounters(m),
	}
	var err error
	if ctl.slices, err = controller.SlicesOf(mirrors.Informer(), managedBy); err != nil {
		return nil, fmt.Errorf("endpointslicemirroring: %w", err)
	}
	ctl.loop = controller.NewLoop("endpoint_slice_mirroring", ctl.Reconcile, controller.Options{
		Workers: 5, Log: log, Metrics: m, MinBackoff: time.Second, MaxBackoff: 100 * time.Second,
		Synced: []cache.InformerSynced{services.Informer().HasSynced, endpoints.Informer().HasSynced, mirrors.Informer().HasSynced},
	})
	queue := func(e *corev1.Endpoints) { ctl.loop.AddObject(e) }
	queueService := func(s *corev1.Service) { ctl.loop.AddObject(s) }
	if err := errors.Join(
		controller.Watch(endpoints.Informer(), controller.Handlers[*corev1.Endpoints]{
			Add: queue, Delete: queue,
			Update: func(old, e *corev1.Endpoints) {
				if wanted(old) || wanted(e) {
					queue(e)
				}
			},
		}),
		controller.Watch(services.Informer(), controller.Handlers[*corev1.Service]{
			Add: queueService, Delete: queueService,
			Update: func(old, s *corev1.Service) {
				if (old.Spec.Selector == nil) != (s.Spec.Selector == nil) {
					queueService(s)
				}
			},
		}),
		controller.Watch(mirrors.Informer(), controller.Handlers[*discoveryv1.EndpointSlice]{
			Add: func(s *discoveryv1.EndpointSlice) {
				ctl.pending.ObserveCreated(s.UID)
				ctl.queueOwner(s)
			},
			Update: func(old, s *discoveryv1.EndpointSlice) {
				if old.Labels[discoveryv1.LabelServiceName] != s.Labels[discoveryv1.LabelServiceName] || !managed(s) {
					ctl.queueOwner(old)
				}
				ctl.queueOwner(s)
			},
			Delete: func(s *discoveryv1.EndpointSlice) {
				ctl.pending.ObserveDeleted(s.UID)
				ctl.queueOwner(s)
			},
		}),
	); err != nil {
		return nil, fmt.Errorf("endpointslicemirroring: %w", err)
	}
	return ctl, nil
}

// Run reconciles until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

func managed(s *discoveryv1.EndpointSlice) bool {
	return s.Labels[discoveryv1.LabelManagedBy] == managedBy
}

func (c *Controller) queueOwner(s *discoveryv1.EndpointSlice) {
	if name := s.Labels[discoveryv1.LabelServiceName]; name != "" && managed(s) {
		c.loop.Add(s.Namespace + "/" + name)
	}
}

// Reconcile makes the slices of one Endpoints object what it says, or none.
func (c *Controller) Reconcile(ctx context.Context, key string) error {
	begin := time.Now()
	defer func() { c.counted.took.Observe(time.Since(begin).Seconds()) }()
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return nil // not a key of ours; a retry would not change it
	}
	e, want, err := c.want(namespace, name)
	if err != nil {
		return err
	}
	have, err := c.slices(namespace, name)
	if err != nil {
		return err
	}
	if e == nil {
		c.counted.none(key)
		return c.remove(ctx, have)
	}
	have = slices.DeleteFunc(slices.Clone(have), func(s *discoveryv1.EndpointSlice) bool { return s.DeletionTimestamp != nil })
	if !c.pending.Settled(key) {
		c.loop.AddAfter(key, unseenRetry)
		return nil
	}
	if want.invalid > 0 {
		c.recorder.Eventf(e, corev1.EventTypeWarning, "InvalidIPAddress", "Skipped %d invalid IP addresses when mirroring to EndpointSlices", want.invalid)
	}
	if want.skipped > 0 {
		c.recorder.Eventf(e, corev1.EventTypeWarning, "TooManyAddressesToMirror",
			"A max of %d addresses can be mirrored to EndpointSlices per Endpoints subset. %d addresses were skipped", maxAddresses, want.skipped)
	}
	c.counted.wanted(key, want, have)
	if err := c.apply(ctx, e, want, have); err != nil && !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		c.recorder.Eventf(e, corev1.EventTypeWarning, "FailedToUpdateEndpointSlices", "Error updating Endpoint Slices for Endpoints %s: %v", key, err)
		return err
	}
	return nil
}

// want is what is to be mirrored; nil Endpoints are nothing.
func (c *Controller) want(namespace, name string) (*corev1.Endpoints, mirrored, error) {
	e, err := c.endpoints.Endpoints(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return nil, mirrored{}, nil
	} else if err != nil {
		return nil, mirrored{}, fmt.Errorf("get endpoints: %w", err)
	}
	service, err := c.services.Services(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return nil, mirrored{}, nil
	} else if err != nil {
		return nil, mirrored{}, fmt.Errorf("get service: %w", err)
	}
	// Where there is a selector, another controller makes both.
	if service.Spec.Selector != nil || !wanted(e) || e.DeletionTimestamp != nil {
		return nil, mirrored{}, nil
	}
	return e, mirror(e), nil
}

// apply brings the slices to what is wanted: one at each place, in the slice that is there already if there is one.
func (c *Controller) apply(ctx context.Context, e *corev1.Endpoints, want mirrored, have []*discoveryv1.EndpointSlice) error {
	slices.SortFunc(have, func(a, b *discoveryv1.EndpointSlice) int {
		return a.CreationTimestamp.Compare(b.CreationTimestamp.Time)
	})
	var surplus []*discoveryv1.EndpointSlice
	taken := map[place]*discoveryv1.EndpointSlice{}
	for _, s := range have {
		at := place{s.AddressType, sliceutil.NewPortMapKey(slices.Clone(s.Ports))}
		if want.slices[at] == nil || taken[at] != nil {
			surplus = append(surplus, s)
			continue
		}
		taken[at] = s
	}
	// A slice whose ports are no longer wanted becomes another's of its family rather than that one goes and one comes.
	var errs []error
	for at, content := range want.slices {
		s := taken[at]
		if s == nil {
			if i := slices.IndexFunc(surplus, func(s *discoveryv1.EndpointSlice) bool { return s.AddressType == at.family }); i >= 0 {
				s = surplus[i]
				surplus = slices.Delete(surplus, i, i+1)
			}
		}
		errs = append(errs, c.put(ctx, s, sliceOf(e, at, content)))
	}
	return errors.Join(append(errs, c.remove(ctx, surplus))...)
}

// put makes a slice, or makes one that there is like it.
func (c *Controller) put(ctx context.Context, have, want *discoveryv1.EndpointSlice) error {
	client := c.client.DiscoveryV1().EndpointSlices(want.Namespace)
	var err error
	switch {
	case have == nil:
		err = c.pending.Create(want.Namespace+"/"+want.Labels[discoveryv1.LabelServiceName], func() (types.UID, error) {
			got, err := client.Create(ctx, want, metav1.CreateOptions{})
			if err != nil {
				return "", err
			}
			c.counted.changes.Inc("create")
			return got.UID, nil
		})
	case equality.Semantic.DeepEqual(have.Endpoints, want.Endpoints) && equality.Semantic.DeepEqual(have.Ports, want.Ports) &&
		maps.Equal(have.Labels, want.Labels) && maps.Equal(have.Annotations, want.Annotations) && equality.Semantic.DeepEqual(have.OwnerReferences, want.OwnerReferences):
		return nil
	default:
		next := have.DeepCopy()
		next.Endpoints, next.Ports, next.Labels, next.Annotations, next.OwnerReferences = want.Endpoints, want.Ports, want.Labels, want.Annotations, want.OwnerReferences
		if _, err = client.Update(ctx, next, metav1.UpdateOptions{}); err == nil {
			c.counted.changes.Inc("update")
		}
	}
	if err != nil {
		return fmt.Errorf("write an endpoint slice: %w", err)
	}
	return nil
}

func (c *Controller) remove(ctx context.Context, gone []*discoveryv1.EndpointSlice) error {
	var errs []error
	for _, s := range gone {
		err := c.client.DiscoveryV1().EndpointSlices(s.Namespace).Delete(ctx, s.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(s.UID))})
		if err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("delete an endpoint slice: %w", err))
		} else if err == nil {
			c.counted.changes.Inc("delete")
		}
	}
	return errors.Join(errs...)
}
