package servicecidr

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	applymetav1 "k8s.io/client-go/applyconfigurations/meta/v1"
	applynetworkingv1 "k8s.io/client-go/applyconfigurations/networking/v1"
	"k8s.io/client-go/kubernetes"
	networkinglisters "k8s.io/client-go/listers/networking/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/celox/celox/internal/client/informers"
	"github.com/celox/celox/internal/controller"
)

const (
	// finalizer keeps a ServiceCIDR until nobody needs it.
	finalizer = "networking.k8s.io/service-cidr-finalizer"
	manager   = "service-cidrs-controller"

	readyMessage = "Kubernetes Service CIDR is ready"
	stillMessage = "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR"
)

// Controller reconciles ServiceCIDRs; its keys are their names.
type Controller struct {
	client    kubernetes.Interface
	cidrs     networkinglisters.ServiceCIDRLister
	addresses networkinglisters.IPAddressLister
	loop      *controller.Loop
}

// New makes the controller and registers it with the informers, which the caller starts.
func New(c kubernetes.Interface, f *informers.Factory, log *slog.Logger, m *controller.Metrics) (*Controller, error) {
	cidrs, addresses := f.Networking().V1().ServiceCIDRs(), f.Networking().V1().IPAddresses()
	ctl := &Controller{client: c, cidrs: cidrs.Lister(), addresses: addresses.Lister()}
	ctl.loop = controller.NewLoop("servicecidr", ctl.Reconcile, controller.Options{
		Workers: 1, Synced: []cache.InformerSynced{cidrs.Informer().HasSynced, addresses.Informer().HasSynced}, Log: log, Metrics: m,
	})
	// Those that wait for their end may come to it when an address goes, or when another one takes over.
	waiting := func() {
		all, err := ctl.cidrs.List(labels.Everything())
		if err != nil {
			return // a lister of memory does not fail
		}
		for _, c := range all {
			if c.DeletionTimestamp != nil {
				ctl.loop.AddObject(c)
			}
		}
	}
	changed := func(c *networkingv1.ServiceCIDR) {
		ctl.loop.AddObject(c)
		waiting()
	}
	if err := errors.Join(
		controller.Watch(cidrs.Informer(), controller.Handlers[*networkingv1.ServiceCIDR]{Changed: changed, Delete: changed}),
		controller.Watch(addresses.Informer(), controller.Handlers[*networkingv1.IPAddress]{Delete: func(*networkingv1.IPAddress) { waiting() }}),
	); err != nil {
		return nil, fmt.Errorf("servicecidr: %w", err)
	}
	return ctl, nil
}

// Run reconciles until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

// deletionGrace is how long another server may still give away addresses of a range that is being deleted.
const deletionGrace = 10 * time.Second

// Reconcile brings one ServiceCIDR forward.
func (c *Controller) Reconcile(ctx context.Context, key string) error {
	cidr, err := c.cidrs.Get(key)
	if apierrors.IsNotFound(err) {
		return nil
	} else if err != nil {
		return fmt.Errorf("get ServiceCIDR: %w", err)
	}
	if cidr.DeletionTimestamp == nil {
		if err := c.finalize(ctx, cidr, append(slices.Clone(cidr.Finalizers), finalizer)); err != nil {
			return err
		}
		return c.tell(ctx, cidr, metav1.ConditionTrue, "", readyMessage)
	}
	if !slices.Contains(cidr.Finalizers, finalizer) {
		return nil
	}
	needed, err := c.needed(cidr)
	if err != nil {
		return err
	}
	if needed {
		return c.tell(ctx, cidr, metav1.ConditionFalse, networkingv1.ServiceCIDRReasonTerminating, stillMessage)
	}
	if left := time.Until(cidr.DeletionTimestamp.Add(deletionGrace)); left > 0 {
		c.loop.AddAfter(key, left)
		return nil
	}
	return c.finalize(ctx, cidr, slices.DeleteFunc(slices.Clone(cidr.Finalizers), func(f string) bool { return f == finalizer }))
}

// finalize sets the finalizers, if that changes anything.
func (c *Controller) finalize(ctx context.Context, cidr *networkingv1.ServiceCIDR, want []string) error {
	slices.Sort(want)
	want = slices.Compact(want)
	if slices.Contains(cidr.Finalizers, finalizer) == slices.Contains(want, finalizer) {
		return nil
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": cidr.UID, "resourceVersion": cidr.ResourceVersion, "finalizers": want}})
	if err != nil {
		return fmt.Errorf("finalizers: %w", err)
	}
	_, err = c.client.NetworkingV1().ServiceCIDRs().Patch(ctx, cidr.Name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: manager})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("finalizers: %w", err)
	}
	return nil
}

// tell sets the condition Ready, if it says something else.
func (c *Controller) tell(ctx context.Context, cidr *networkingv1.ServiceCIDR, status metav1.ConditionStatus, reason, message string) error {
	since := metav1.Now()
	if have := meta.FindStatusCondition(cidr.Status.Conditions, networkingv1.ServiceCIDRConditionReady); have != nil {
		if have.Status == status && have.Reason == reason && have.Message == message {
			return nil
		}
		if have.Status == status {
			since = have.LastTransitionTime
		}
	}
	condition := applymetav1.Condition().WithType(networkingv1.ServiceCIDRConditionReady).WithStatus(status).WithReason(reason).
		WithMessage(message).WithLastTransitionTime(since)
	_, err := c.client.NetworkingV1().ServiceCIDRs().ApplyStatus(ctx,
		applynetworkingv1.ServiceCIDR(cidr.Name).WithStatus(applynetworkingv1.ServiceCIDRStatus().WithConditions(condition)),
		metav1.ApplyOptions{FieldManager: manager, Force: true})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("condition: %w", err)
	}
	return nil
}

// needed says whether an address is in use that comes from this one and no other.
func (c *Controller) needed(cidr *networkingv1.ServiceCIDR) (bool, error) {
	all, err := c.cidrs.List(labels.Everything())
	if err != nil {
		return false, fmt.Errorf("list ServiceCIDRs: %w", err)
	}
	var others []netip.Prefix
	for _, o := range all {
		if o.Name != cidr.Name && o.DeletionTimestamp == nil {
			others = append(others, prefixes(o)...)
		}
	}
	mine := prefixes(cidr)
	addresses, err := c.addresses.List(labels.Everything())
	if err != nil {
		return false, fmt.Errorf("list IPAddresses: %w", err)
	}
	for _, ip := range addresses {
		a, err := netip.ParseAddr(ip.Name)
		if err != nil {
			continue
		}
		holds := func(p netip.Prefix) bool { return p.Contains(a) }
		if slices.ContainsFunc(mine, holds) && !slices.ContainsFunc(others, holds) {
			return true, nil
		}
	}
	return false, nil
}

func prefixes(c *networkingv1.ServiceCIDR) []netip.Prefix {
	var out []netip.Prefix
	for _, text := range c.Spec.CIDRs {
		if p, err := netip.ParsePrefix(text); err == nil {
			out = append(out, p)
		}
	}
	return out
}
