package nodeipam

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/celox/celox/internal/client/informers"
	"github.com/celox/celox/internal/controller"
)

// notAvailable is the reason of the event of a node for which no network is left.
const notAvailable = "CIDRNotAvailable"

// Config is what New needs.
type Config struct {
	Client    kubernetes.Interface
	Informers *informers.Factory
	Recorder  record.EventRecorder
	// Ranges are those of the cluster, one of each family at most, in the order in which nodes get their networks.
	Ranges  []Range
	Log     *slog.Logger
	Metrics *controller.Metrics
}

// Controller reconciles nodes.
type Controller struct {
	Config
	nodes corelisters.NodeLister
	loop  *controller.Loop

	mu      sync.Mutex // guards what follows
	pools   []*pool
	held    map[string]holding // by the names of the nodes: as was seen, or is being written
	waiting map[string]bool    // nodes for which nothing was left
	begun   bool               // every node that there was at first has been seen

	counted counters
}

// holding is what a node has. A node that comes again under its name, before its end was heard of, has what it had.
type holding struct {
	uid      types.UID
	networks []netip.Prefix
}

// New makes the controller and registers it with the informers, which the caller starts.
func New(cfg Config) (*Controller, error) {
	c := &Controller{Config: cfg, held: map[string]holding{}, waiting: map[string]bool{}}
	for _, r := range cfg.Ranges {
		if err := r.Check(); err != nil {
			return nil, fmt.Errorf("nodeipam: %w", err)
		}
		c.pools = append(c.pools, newPool(r))
	}
	if len(c.pools) == 0 {
		return nil, errors.New("nodeipam: no range of addresses for pods")
	}
	c.counted = newCounters(cfg.Metrics, c.pools)
	nodes := cfg.Informers.Core().V1().Nodes()
	c.nodes = nodes.Lister()
	c.loop = controller.NewLoop("node_ipam", c.Reconcile, controller.Options{
		Workers: 1, Synced: []cache.InformerSynced{nodes.Informer().HasSynced}, Log: cfg.Log, Metrics: cfg.Metrics,
	})
	if err := controller.Watch(nodes.Informer(), controller.Handlers[*corev1.Node]{
		Changed: c.seen,
		Delete:  func(n *corev1.Node) { c.gone(n.Name, n.UID) },
	}); err != nil {
		return nil, fmt.Errorf("nodeipam: %w", err)
	}
	return c, nil
}

// Run reconciles until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

// networksOf are the networks that a node has. What is no network is nobody's.
func networksOf(n *corev1.Node) []netip.Prefix {
	texts := n.Spec.PodCIDRs
	if len(texts) == 0 && n.Spec.PodCIDR != "" {
		texts = []string{n.Spec.PodCIDR}
	}
	var out []netip.Prefix
	for _, t := range texts {
		if p, err := netip.ParsePrefix(t); err == nil {
			out = append(out, p.Masked())
		}
	}
	return out
}

func (c *Controller) seen(n *corev1.Node) {
	if has := networksOf(n); len(has) > 0 {
		c.mu.Lock()
		c.hold(n, has)
		c.mu.Unlock()
		return
	}
	c.loop.AddObject(n)
}

// hold notes what a node has now. c.mu must be held.
func (c *Controller) hold(node *corev1.Node, has []netip.Prefix) {
	was := c.held[node.Name].networks
	c.held[node.Name] = holding{node.UID, has}
	delete(c.waiting, node.Name)
	if slices.Equal(was, has) {
		return
	}
	for _, p := range c.pools {
		before := len(p.used)
		for _, n := range has {
			p.occupy(n)
		}
		more := len(p.used) - before
		for _, n := range was {
			p.release(n)
		}
		c.counted.changed(p, more, before+more-len(p.used))
	}
}

// gone gives the networks of a node back, to one that waits if there is one.
func (c *Controller) gone(name string, uid types.UID) {
	c.drop(name, func(has holding) bool { return has.uid == uid || has.uid == "" })
}

// forget is gone for a node whose end may have been heard of just before it was given networks. One that comes under its name is in the cache before it is seen.
func (c *Controller) forget(name string) {
	c.drop(name, func(holding) bool {
		_, err := c.nodes.Get(name)
		return apierrors.IsNotFound(err)
	})
}

// drop gives the networks of a node back, if they are those that are meant, and has those looked at that wait.
func (c *Controller) drop(name string, meant func(holding) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if has := c.held[name]; meant(has) {
		for _, p := range c.pools {
			before := len(p.used)
			for _, n := range has.networks {
				p.release(n)
			}
			c.counted.changed(p, 0, before-len(p.used))
		}
		delete(c.held, name)
		delete(c.waiting, name)
	}
	for name := range c.waiting {
		c.loop.Add(name)
	}
}

// begin makes sure that every node that there is counts, before the first network is given away: informers call handlers in their own time.
func (c *Controller) begin() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.begun {
		return nil
	}
	all, err := c.nodes.List(labels.Everything())
	if err != nil {
		return fmt.Errorf("list nodes: %w", err)
	}
	for _, n := range all {
		if has := networksOf(n); len(has) > 0 {
			c.hold(n, has)
		}
	}
	c.begun = true
	return nil
}

// Reconcile gives a node its networks.
func (c *Controller) Reconcile(ctx context.Context, name string) error {
	if err := c.begin(); err != nil {
		return err
	}
	node, err := c.nodes.Get(name)
	if apierrors.IsNotFound(err) {
		c.forget(name)
		return nil
	}
	if err != nil {
		return fmt.Errorf("get node: %w", err)
	}
	if len(networksOf(node)) > 0 || node.DeletionTimestamp != nil {
		return nil
	}
	networks, ok := c.assign(node)
	if !ok {
		c.tell(node, notAvailable)
		c.Log.Warn("no pod network is left for a node", "node", name, "ranges", fmt.Sprint(c.Ranges))
		return nil // a node that goes wakes those that wait
	}
	texts := make([]string, len(networks))
	for i, n := range networks {
		texts[i] = n.String()
	}
	// The uid keeps this from a node of the same name that came in between.
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": node.UID},
		"spec":     map[string]any{"podCIDR": texts[0], "podCIDRs": texts},
	})
	if err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	// What was assigned stays so if this fails: it may have been written nevertheless, and is tried again.
	if _, err := c.Client.CoreV1().Nodes().Patch(ctx, name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}); err != nil {
		c.tell(node, "CIDRAssignmentFailed")
		return fmt.Errorf("set podCIDRs of node %s: %w", name, err)
	}
	return nil
}

// tell writes an event about a node.
func (c *Controller) tell(node *corev1.Node, reason string) {
	c.Recorder.Eventf(&corev1.ObjectReference{Kind: "Node", Name: node.Name, UID: node.UID}, corev1.EventTypeNormal, reason, "Node %s status is now: %s", node.Name, reason)
}

// assign finds a network of each range for a node; again for the same node it finds the same.
func (c *Controller) assign(node *corev1.Node) ([]netip.Prefix, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if has := c.held[node.Name].networks; len(has) > 0 {
		c.held[node.Name] = holding{node.UID, has}
		return has, true
	}
	var out []netip.Prefix
	for _, p := range c.pools {
		n, ok := p.take()
		if !ok {
			for j, n := range out {
				c.pools[j].release(n)
			}
			c.waiting[node.Name] = true
			return nil, false
		}
		out = append(out, n)
	}
	for _, p := range c.pools {
		c.counted.changed(p, 1, 0)
		c.counted.tries.Observe(float64(p.tries), p.Prefix.String())
	}
	c.held[node.Name] = holding{node.UID, out}
	delete(c.waiting, node.Name)
	return out, true
}
