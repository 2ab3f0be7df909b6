package nodettl

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/celox/celox/internal/client/informers"
	"github.com/celox/celox/internal/controller"
)

// steps are sizes of clusters, in nodes, with the seconds that are told. They overlap, so that a node more or less does not change all others.
var steps = []struct{ least, most, seconds int }{
	{0, 100, 0}, {90, 500, 15}, {450, 1000, 30}, {900, 2000, 60}, {1800, 1 << 30, 300},
}

// tellers is how many nodes are told at a time: when a cluster has grown all are to be told, and each of them waits for the disk.
const tellers = 32

// Controller reconciles nodes.
type Controller struct {
	client kubernetes.Interface
	nodes  corelisters.NodeLister
	loop   *controller.Loop

	mu    sync.Mutex // guards both
	count int
	step  int
}

// New makes the controller and registers it with the informers, which the caller starts.
func New(c kubernetes.Interface, f *informers.Factory, log *slog.Logger, m *controller.Metrics) (*Controller, error) {
	nodes := f.Core().V1().Nodes()
	ctl := &Controller{client: c, nodes: nodes.Lister()}
	ctl.loop = controller.NewLoop("ttlcontroller", ctl.Reconcile, controller.Options{Workers: tellers, Synced: []cache.InformerSynced{nodes.Informer().HasSynced}, Log: log, Metrics: m})
	if err := controller.Watch(nodes.Informer(), controller.Handlers[*corev1.Node]{
		Add:    func(n *corev1.Node) { ctl.counted(1); ctl.loop.AddObject(n) },
		Update: func(_, n *corev1.Node) { ctl.loop.AddObject(n) },
		Delete: func(*corev1.Node) { ctl.counted(-1) },
	}); err != nil {
		return nil, fmt.Errorf("nodettl: %w", err)
	}
	return ctl, nil
}

// Run reconciles until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

// counted notes that there are more or fewer nodes, and tells all of them when that makes a difference.
func (c *Controller) counted(more int) {
	c.mu.Lock()
	c.count += more
	was := c.step
	c.step = next(c.step, c.count)
	changed := c.step != was
	c.mu.Unlock()
	if !changed {
		return
	}
	all, err := c.nodes.List(labels.Everything())
	if err != nil {
		return // a cache does not fail
	}
	for _, n := range all {
		c.loop.AddObject(n)
	}
}

// next is the step after a change of the number of nodes.
func next(step, count int) int {
	for count > steps[step].most {
		step++
	}
	for count < steps[step].least {
		step--
	}
	return step
}

// Reconcile annotates one node.
func (c *Controller) Reconcile(ctx context.Context, name string) error {
	node, err := c.nodes.Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	} else if err != nil {
		return fmt.Errorf("get node: %w", err)
	}
	c.mu.Lock()
	seconds := strconv.Itoa(steps[c.step].seconds)
	c.mu.Unlock()
	if have, ok := node.Annotations[corev1.ObjectTTLAnnotationKey]; ok && have == seconds {
		return nil
	}
	patch := fmt.Appendf(nil, `{"metadata":{"annotations":{%q:%q}}}`, corev1.ObjectTTLAnnotationKey, seconds)
	_, err = c.client.CoreV1().Nodes().Patch(ctx, name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("annotate node: %w", err)
	}
	return nil
}
