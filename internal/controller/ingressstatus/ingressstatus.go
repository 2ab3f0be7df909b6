package ingressstatus

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	networkinglisters "k8s.io/client-go/listers/networking/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/celox/celox/internal/client/informers"
	"github.com/celox/celox/internal/controller"
	"github.com/celox/celox/internal/network/ingress/route"
)

const (
	// maxAddresses is how many nodes a status names: those with the first names.
	maxAddresses = 64
	// patience is how long a problem lasts before it is told: an Ingress often comes a moment before its service.
	patience = 2 * time.Second
	// problems is the key of the look at all Ingresses. No Ingress is called so.
	problems = "problems"
	// portTaken is the reason of the event on an Ingress whose port nodes give to a service. Nodes use the same word for one that another program has.
	portTaken = "PortTaken"
	// mostTold is how many Ingresses are told of such a port.
	mostTold = 16
)

// Config is what New needs.
type Config struct {
	Client    kubernetes.Interface
	Informers *informers.Factory
	Recorder  record.EventRecorder
	// HTTPPort and HTTPSPort are where nodes listen; others than 80 and 443 are named in the status.
	HTTPPort, HTTPSPort int
	// Disabled says that nodes serve no Ingress, so that there is nothing to do.
	Disabled bool
	Log      *slog.Logger
	Metrics  *controller.Metrics
}

// Controller reconciles the status of Ingresses of ours.
type Controller struct {
	cfg       Config
	ingresses networkinglisters.IngressLister
	classes   networkinglisters.IngressClassLister
	services  corelisters.ServiceLister
	secrets   corelisters.SecretLister
	nodes     corelisters.NodeLister
	loop      *controller.Loop
	told      map[problem]bool // belongs to the one worker
	any       atomic.Bool      // something was told
}

// problem is what was told of an Ingress.
type problem struct {
	uid             types.UID
	reason, message string
}

// New registers the controller with the informers, which the caller starts.
func New(cfg Config) (*Controller, error) {
	network, core := cfg.Informers.Networking().V1(), cfg.Informers.Core().V1()
	c := &Controller{
		cfg: cfg, ingresses: network.Ingresses().Lister(), classes: network.IngressClasses().Lister(), services: core.Services().Lister(), secrets: core.Secrets().Lister(),
		nodes: core.Nodes().Lister(), told: map[problem]bool{},
	}
	c.loop = controller.NewLoop("ingressstatus", c.Reconcile, controller.Options{Workers: 1, Log: cfg.Log, Metrics: cfg.Metrics, Synced: []cache.InformerSynced{
		network.Ingresses().Informer().HasSynced, network.IngressClasses().Informer().HasSynced, core.Services().Informer().HasSynced, core.Secrets().Informer().HasSynced,
		core.Nodes().Informer().HasSynced,
	}})
	if cfg.Disabled {
		return c, nil
	}
	for _, err := range []error{
		controller.Watch(network.Ingresses().Informer(), controller.Handlers[*networkingv1.Ingress]{
			Add: func(i *networkingv1.Ingress) { c.loop.AddObject(i); c.look() },
			Update: func(was, i *networkingv1.Ingress) {
				c.loop.AddObject(i)
				if was.Generation != i.Generation || !apiequality.Semantic.DeepEqual(was.Annotations, i.Annotations) {
					c.look()
				}
			},
			Delete: func(*networkingv1.Ingress) { c.look() },
		}),
		controller.Watch(network.IngressClasses().Informer(), controller.Handlers[*networkingv1.IngressClass]{
			Changed: func(*networkingv1.IngressClass) { c.all() },
			Delete:  func(*networkingv1.IngressClass) { c.all() },
		}),
		controller.Watch(core.Nodes().Informer(), controller.Handlers[*corev1.Node]{
			Add: func(*corev1.Node) { c.all() },
			Update: func(was, n *corev1.Node) {
				if !slices.Equal(addressesOf(was), addressesOf(n)) {
					c.all()
				}
			},
			Delete: func(*corev1.Node) { c.all() },
		}),
		controller.Watch(core.Services().Informer(), controller.Handlers[*corev1.Service]{
			Changed: func(*corev1.Service) { c.look() }, Delete: func(*corev1.Service) { c.look() },
		}),
		controller.Watch(core.Secrets().Informer(), controller.Handlers[*corev1.Secret]{
			Changed: func(*corev1.Secret) { c.look() }, Delete: func(*corev1.Secret) { c.look() },
		}),
	} {
		if err != nil {
			return nil, fmt.Errorf("ingressstatus: %w", err)
		}
	}
	return c, nil
}

// Run reconciles until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

// look has problems looked for, if there is anything to look at.
func (c *Controller) look() {
	if all, err := c.ingresses.List(labels.Everything()); err == nil && (len(all) > 0 || c.any.Load()) {
		c.loop.AddAfter(problems, patience)
	}
}

// all has every Ingress reconciled.
func (c *Controller) all() {
	list, err := c.ingresses.List(labels.Everything())
	if err != nil {
		return // a cache does not fail
	}
	for _, i := range list {
		c.loop.AddObject(i)
	}
	c.look()
}

// Reconcile writes the status of one Ingress, or tells the problems of all.
func (c *Controller) Reconcile(ctx context.Context, key string) error {
	classes, err := c.classes.List(labels.Everything())
	if err != nil {
		return fmt.Errorf("list classes: %w", err)
	}
	if key == problems {
		return c.tell(classes)
	}
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return fmt.Errorf("key: %w", err)
	}
	i, err := c.ingresses.Ingresses(namespace).Get(name)
	if apierrors.IsNotFound(err) || err == nil && (i.DeletionTimestamp != nil || !route.Ours(i, classes)) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("get ingress: %w", err)
	}
	want, err := c.status()
	if err != nil {
		return err
	}
	if apiequality.Semantic.DeepEqual(i.Status.LoadBalancer.Ingress, want) {
		return nil
	}
	i = i.DeepCopy()
	i.Status.LoadBalancer.Ingress = want
	_, err = c.cfg.Client.NetworkingV1().Ingresses(namespace).UpdateStatus(ctx, i, metav1.UpdateOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("write status: %w", err)
	}
	return nil
}

// status is where Ingresses are reached.
func (c *Controller) status() ([]networkingv1.IngressLoadBalancerIngress, error) {
	nodes, err := c.nodes.List(labels.Everything())
	if err != nil {
		return nil, fmt.Errorf("list nodes: %w", err)
	}
	slices.SortFunc(nodes, func(a, b *corev1.Node) int { return strings.Compare(a.Name, b.Name) })
	var out []networkingv1.IngressLoadBalancerIngress
	for _, n := range nodes {
		for _, address := range addressesOf(n) {
			if len(out) >= maxAddresses {
				return out, nil
			}
			out = append(out, networkingv1.IngressLoadBalancerIngress{IP: address, Ports: c.ports()})
		}
	}
	return out, nil
}

func (c *Controller) ports() []networkingv1.IngressPortStatus {
	if c.cfg.HTTPPort == 80 && c.cfg.HTTPSPort == 443 {
		return nil
	}
	return []networkingv1.IngressPortStatus{
		{Port: int32(c.cfg.HTTPPort), Protocol: corev1.ProtocolTCP}, {Port: int32(c.cfg.HTTPSPort), Protocol: corev1.ProtocolTCP},
	}
}

// addressesOf are the addresses at which a node serves clients: none while it is not Ready, or when it asks to be left out; those outside of the cluster if it has any.
func addressesOf(n *corev1.Node) []string {
	_, excluded := n.Labels[corev1.LabelNodeExcludeBalancers]
	ready := slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
	if excluded || !ready || n.DeletionTimestamp != nil {
		return nil
	}
	for _, kind := range []corev1.NodeAddressType{corev1.NodeExternalIP, corev1.NodeInternalIP} {
		var out []string
		for _, a := range n.Status.Addresses {
			if ip, err := netip.ParseAddr(a.Address); err == nil && a.Type == kind && !ip.IsLoopback() {
				out = append(out, a.Address)
			}
		}
		if len(out) > 0 {
			return out
		}
	}
	return nil
}

// tell writes an event for each problem that was not there before.
func (c *Controller) tell(classes []*networkingv1.IngressClass) error {
	all, err := c.ingresses.List(labels.Everything())
	if err != nil {
		return fmt.Errorf("list ingresses: %w", err)
	}
	_, found := route.Compile(route.Sources{
		Ingresses: all, Classes: classes,
		Service: func(namespace, name string) *corev1.Service {
			s, err := c.services.Services(namespace).Get(name)
			if err != nil {
				return nil // listers know no other error than that it is gone
			}
			return s
		},
		Secret: func(namespace, name string) *corev1.Secret {
			s, err := c.secrets.Secrets(namespace).Get(name)
			if err != nil {
				return nil // as above
			}
			return s
		},
	})
	taken, err := c.taken(all, classes)
	if err != nil {
		return err
	}
	now := map[problem]bool{}
	for _, f := range append(found, taken...) {
		p := problem{f.Ingress.UID, f.Reason, f.Message}
		if !c.told[p] && !now[p] {
			c.cfg.Recorder.Event(f.Ingress, corev1.EventTypeWarning, f.Reason, f.Message)
		}
		now[p] = true
	}
	c.told = now
	c.any.Store(len(now) > 0)
	return nil
}

// taken are the Ingresses that clients do not reach at a port, because a service has the same one at the addresses of the nodes: as a load balancer it
// gets what comes there first.
func (c *Controller) taken(all []*networkingv1.Ingress, classes []*networkingv1.IngressClass) ([]route.Problem, error) {
	nodes, err := c.nodes.List(labels.Everything())
	if err != nil {
		return nil, fmt.Errorf("list nodes: %w", err)
	}
	services, err := c.services.List(labels.Everything())
	if err != nil {
		return nil, fmt.Errorf("list services: %w", err)
	}
	addresses := map[string]bool{}
	for _, n := range nodes {
		for _, a := range addressesOf(n) {
			addresses[a] = true
		}
	}
	owners := map[int]string{} // of the ports that are not the Ingresses'
	for _, s := range services {
		if s.Spec.Type != corev1.ServiceTypeLoadBalancer || !slices.ContainsFunc(s.Status.LoadBalancer.Ingress, func(i corev1.LoadBalancerIngress) bool { return addresses[i.IP] }) {
			continue
		}
		for _, p := range s.Spec.Ports {
			name := s.Namespace + "/" + s.Name
			if port := int(p.Port); p.Protocol == corev1.ProtocolTCP && (owners[port] == "" || name < owners[port]) {
				owners[port] = name
			}
		}
	}
	if len(owners) == 0 {
		return nil, nil
	}
	// Always the same are told, however the cache lists them.
	all = slices.SortedFunc(slices.Values(all), func(a, b *networkingv1.Ingress) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
	var out []route.Problem
	for _, i := range all {
		if len(out) >= mostTold || !route.Ours(i, classes) {
			continue
		}
		for _, port := range []int{c.cfg.HTTPPort, c.cfg.HTTPSPort} {
			if owner := owners[port]; owner != "" && (port == c.cfg.HTTPPort || len(i.Spec.TLS) > 0) {
				out = append(out, route.Problem{Ingress: i, Reason: portTaken, Message: fmt.Sprintf(
					"port %d of the nodes belongs to the service %s of type LoadBalancer: requests to it do not reach this Ingress; give that service another port or type", port, owner)})
			}
		}
	}
	return out, nil
}
