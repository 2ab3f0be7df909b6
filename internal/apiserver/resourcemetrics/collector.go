package resourcemetrics

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/clock"
)

const (
	// firstGap is the time between the first two readings after a pause: somebody waits for them.
	firstGap = time.Second
	// linger is how long after the last question readings go on.
	linger = time.Minute
	// firstTimeout and timeout bound how long a node may take to answer: while somebody waits, and later.
	firstTimeout = 3 * time.Second
	timeout      = 10 * time.Second
	// together is how many nodes are asked at a time.
	together = 50
)

// Nodes knows the nodes and reads from them.
type Nodes interface {
	// Nodes returns all nodes, to be read only.
	Nodes(ctx context.Context) ([]*corev1.Node, error)
	// Read returns what a node answers at a path of its API.
	Read(ctx context.Context, node, path string) ([]byte, error)
}

// resourcePath is where nodes say what they have counted.
const resourcePath = "/metrics/resource"

// Collector takes readings while somebody wants to know them. It may be asked from many goroutines.
type Collector struct {
	nodes Nodes
	clock clock.WithTicker
	log   *slog.Logger
	wake  chan struct{}

	mu sync.Mutex // guards the rest
	// current are the last readings by node, nil while asleep. A map that was handed out is never changed.
	current map[string]*pair
	asked   time.Time
	// ready is closed when current is there, nil if nobody waits for it.
	ready chan struct{}
}

// NewCollector makes a Collector, which answers while it runs.
func NewCollector(nodes Nodes, clk clock.WithTicker, log *slog.Logger) *Collector {
	return &Collector{nodes: nodes, clock: clk, log: log, wake: make(chan struct{}, 1)}
}

// Run collects when it is asked, until ctx ends.
func (c *Collector) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-c.wake:
			c.collect(ctx)
		}
	}
}

// usage returns the last readings of each node. After a pause it takes a moment, until there are two.
func (c *Collector) usage(ctx context.Context) (map[string]*pair, error) {
	for {
		c.mu.Lock()
		c.asked = c.clock.Now()
		if c.current != nil {
			defer c.mu.Unlock()
			return c.current, nil
		}
		if c.ready == nil {
			c.ready = make(chan struct{})
		}
		ready := c.ready
		c.mu.Unlock()
		select {
		case c.wake <- struct{}{}:
		default: // it was called already
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-ready:
		}
	}
}

// collect takes readings until nobody has asked for a while.
func (c *Collector) collect(ctx context.Context) {
	first := c.readAll(ctx, nil, firstTimeout)
	select {
	case <-ctx.Done():
		return
	case <-c.clock.After(firstGap):
	}
	last := c.readAll(ctx, first, firstTimeout)
	tick := c.clock.NewTicker(resolution)
	defer tick.Stop()
	for ctx.Err() == nil && c.publish(last) {
		select {
		case <-ctx.Done():
			return
		case <-tick.C():
		}
		last = c.readAll(ctx, last, timeout)
	}
}

// publish hands out readings; false if nobody wants them any more: then they are forgotten.
func (c *Collector) publish(readings map[string]*pair) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ready == nil && c.clock.Since(c.asked) > linger {
		c.current = nil
		select {
		case <-c.wake: // of somebody who has his answer
		default:
		}
		return false
	}
	c.current = readings
	if c.ready != nil {
		close(c.ready)
		c.ready = nil
	}
	return true
}

// readAll reads from all nodes that are ready. What one says that does not answer now is forgotten: nobody knows what it uses.
func (c *Collector) readAll(ctx context.Context, before map[string]*pair, limit time.Duration) map[string]*pair {
	out := map[string]*pair{}
	nodes, err := c.nodes.Nodes(ctx)
	if err != nil {
		c.log.Debug("listing the nodes to measure", "err", err)
		return out
	}
	var mu sync.Mutex // guards out
	var g errgroup.Group
	g.SetLimit(together)
	for _, n := range nodes {
		if !isReady(n) {
			continue
		}
		g.Go(func() error {
			r, err := c.read(ctx, n.Name, limit)
			if err != nil {
				if !errors.Is(err, context.Canceled) {
					c.log.Debug("measuring a node", "node", n.Name, "err", err)
				}
				return nil // the others are measured all the same
			}
			p := &pair{later: r}
			if b := before[n.Name]; b != nil {
				p.earlier = b.later
				if r.node.hasCPU && !r.node.at.After(b.later.node.at) { // it has counted nothing new
					p = b
				}
			}
			mu.Lock()
			defer mu.Unlock()
			out[n.Name] = p
			return nil
		})
	}
	_ = g.Wait() // each says for itself what went wrong
	return out
}

func (c *Collector) read(ctx context.Context, node string, limit time.Duration) (*reading, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	data, err := c.nodes.Read(ctx, node, resourcePath)
	if err != nil {
		return nil, err
	}
	r, err := read(string(data), c.clock.Now())
	if err != nil {
		return nil, fmt.Errorf("understand node %s: %w", node, err)
	}
	return r, nil
}

func isReady(n *corev1.Node) bool {
	for i := range n.Status.Conditions {
		if c := &n.Status.Conditions[i]; c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}
