package ipaddress

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	networkinglisters "k8s.io/client-go/listers/networking/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/celox/celox/internal/client/informers"
	"github.com/celox/celox/internal/controller"
)

const (
	// managedBy is the value of networkingv1.LabelManagedBy of the objects that are kept here.
	managedBy = "ipallocator.k8s.io"
	// byAddress is the index of services by their cluster IPs.
	byAddress = "ipaddress.clusterIP"
	workers   = 5
)

// Controller reconciles addresses; its keys are the addresses as text, which are the names of the objects.
type Controller struct {
	client    kubernetes.Interface
	services  cache.Indexer
	addresses networkinglisters.IPAddressLister
	loop      *controller.Loop
}

// New makes the controller and registers it with the informers, which the caller starts.
func New(c kubernetes.Interface, f *informers.Factory, log *slog.Logger, m *controller.Metrics) (*Controller, error) {
	services, addresses := f.Core().V1().Services().Informer(), f.Networking().V1().IPAddresses()
	ctl := &Controller{client: c, services: services.GetIndexer(), addresses: addresses.Lister()}
	ctl.loop = controller.NewLoop("ipaddress", ctl.Reconcile, controller.Options{
		Workers: workers, Synced: []cache.InformerSynced{services.HasSynced, addresses.Informer().HasSynced}, Log: log, Metrics: m,
	})
	all := func(s *corev1.Service) {
		for _, ip := range addressesOf(s) {
			ctl.loop.Add(ip)
		}
	}
	one := func(ip *networkingv1.IPAddress) { ctl.loop.Add(ip.Name) }
	if err := errors.Join(
		services.AddIndexers(cache.Indexers{byAddress: func(obj any) ([]string, error) {
			s, ok := obj.(*corev1.Service)
			if !ok {
				return nil, nil
			}
			return addressesOf(s), nil
		}}),
		controller.Watch(services, controller.Handlers[*corev1.Service]{
			Changed: all, Delete: all,
			Update: func(old, now *corev1.Service) {
				all(old)
				all(now)
			},
		}),
		controller.Watch(addresses.Informer(), controller.Handlers[*networkingv1.IPAddress]{Changed: one, Delete: one}),
	); err != nil {
		return nil, fmt.Errorf("ipaddress: %w", err)
	}
	return ctl, nil
}

// addressesOf are the cluster IPs of a service in the one way to write them.
func addressesOf(s *corev1.Service) []string {
	var out []string
	for _, ip := range s.Spec.ClusterIPs {
		if a, err := netip.ParseAddr(ip); err == nil {
			out = append(out, a.String())
		}
	}
	return out
}

// Run reconciles until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

// Reconcile makes or removes the object of one address.
func (c *Controller) Reconcile(ctx context.Context, key string) error {
	found, err := c.services.ByIndex(byAddress, key)
	if err != nil {
		return fmt.Errorf("find the service of an address: %w", err)
	}
	have, err := c.addresses.Get(key)
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("get address: %w", err)
	}
	exists := err == nil
	if exists && have.Labels[networkingv1.LabelManagedBy] != managedBy {
		return nil
	}
	api := c.client.NetworkingV1().IPAddresses()
	var owner *corev1.Service
	if len(found) > 0 {
		owner, _ = found[0].(*corev1.Service)
	}
	switch {
	case exists && (owner == nil || !refersTo(have, owner)):
		err := api.Delete(ctx, key, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(have.UID))})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("release address: %w", err)
		}
		return nil // its end brings the key back, if somebody has the address now
	case owner == nil || exists:
		return nil
	}
	family := corev1.IPv4Protocol
	if a, err := netip.ParseAddr(key); err == nil && a.Is6() {
		family = corev1.IPv6Protocol
	}
	_, err = api.Create(ctx, &networkingv1.IPAddress{
		ObjectMeta: metav1.ObjectMeta{Name: key, Labels: map[string]string{
			networkingv1.LabelIPAddressFamily: string(family), networkingv1.LabelManagedBy: managedBy,
		}},
		Spec: networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{Resource: "services", Namespace: owner.Namespace, Name: owner.Name}},
	}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("record address: %w", err)
	}
	return nil
}

func refersTo(ip *networkingv1.IPAddress, s *corev1.Service) bool {
	r := ip.Spec.ParentRef
	return r != nil && r.Group == "" && r.Resource == "services" && r.Namespace == s.Namespace && r.Name == s.Name
}
