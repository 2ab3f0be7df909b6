package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/celox/celox/internal/cluster/config"
	"github.com/celox/celox/internal/network"
	"github.com/celox/celox/internal/network/cni"
	"github.com/celox/celox/internal/network/shortcut"
	"github.com/celox/celox/internal/runtime"
)

// rangesFile, in the directory of the pod network, has the ranges that the node had last: pods get addresses also while the API is away.
const rangesFile = "ranges"

// nodeNetwork is the pod network of a node whose ranges the cluster says, in the Node object, and the ways to the pods of other nodes. If the built-in
// network is left out, plugins connect pods, and find the ways.
type nodeNetwork struct {
	node     string
	external bool         // plugins connect pods
	addrs    []netip.Addr // of the node
	cluster  []netip.Prefix
	stateDir string
	log      *slog.Logger
	ways     *ways        // nil if the plugins have their own ways
	plugins  *cni.Network // nil if no pod has to do with them
	nodes    corelisters.NodeLister
	synced   cache.InformerSynced
	shortcut *shortcut.Shortcut // between pods of this node; nil if there is none
	// changed is called when pods can be attached that could not, or the other way round.
	changed func()
	wake    chan struct{} // capacity 1

	mu      sync.Mutex // guards what follows
	pending bool       // the cluster is about to give this node ranges, which may be others than it had
	ranges  []netip.Prefix
	current *network.Network // nil until the ranges are known, and with plugins
	rules   sandboxRules     // nil if none are kept
}

// newNodeNetwork takes up the ranges that the node had last, if it had any.
func newNodeNetwork(h *host) (*nodeNetwork, error) {
	nodes := h.informers.Core().V1().Nodes()
	n := &nodeNetwork{
		node: h.cfg.NodeName, addrs: h.addrs, cluster: h.facts.clusterCIDRs, stateDir: filepath.Join(h.cfg.DataDir, networkDir), log: h.log,
		external: slices.Contains(h.facts.disabled, config.PodNetwork),
		nodes:    nodes.Lister(), synced: nodes.Informer().HasSynced, changed: func() {}, wake: make(chan struct{}, 1),
	}
	if err := n.openPlugins(h.cfg); err != nil {
		return nil, err
	}
	if n.external {
		if err := n.retire(); err != nil {
			return nil, err
		}
	} else if err := n.open(h); err != nil {
		return nil, err
	}
	if _, err := nodes.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { n.poke() },
		UpdateFunc: func(old, now any) {
			was, ok := old.(*corev1.Node)
			is, ok2 := now.(*corev1.Node)
			if !ok || !ok2 || !slices.Equal(was.Spec.PodCIDRs, is.Spec.PodCIDRs) || !slices.Equal(was.Status.Addresses, is.Status.Addresses) ||
				was.Annotations[wireguardKey] != is.Annotations[wireguardKey] {
				n.poke()
			}
		},
		DeleteFunc: func(any) { n.poke() },
	}); err != nil {
		return nil, fmt.Errorf("pod network: follow nodes: %w", err)
	}
	return n, nil
}

func (n *nodeNetwork) poke() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// Run follows the nodes until ctx ends. What was made stays.
func (n *nodeNetwork) Run(ctx context.Context) error {
	if !cache.WaitForCacheSync(ctx.Done(), n.synced) {
		return nil
	}
	n.poke()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-n.wake:
			if err := n.update(); err != nil {
				return err
			}
		}
	}
}

// open takes up the built-in network as it was.
func (n *nodeNetwork) open(h *host) error {
	if err := n.checkOverlaps(h); err != nil {
		return err
	}
	var err error
	// Others who keep to policies in the machine's rules need to see all packets.
	if !slices.Contains(h.facts.disabled, config.NetworkPolicy) {
		if n.shortcut, err = shortcut.New(); err != nil {
			h.log.Info("pod network: this kernel has no shortcut between pods of the node; it needs Linux 5.11", "err", err)
		}
	}
	if n.ways, err = openWays(h, n.isReady); err != nil {
		return err
	}
	ranges, err := readRanges(filepath.Join(n.stateDir, rangesFile))
	if err != nil || len(ranges) == 0 {
		return err
	}
	return n.use(ranges)
}

// start starts what follows the cluster.
func (n *nodeNetwork) start(run *group) {
	if n.ways != nil {
		n.ways.start(run)
	}
	if n.plugins != nil {
		run.run("CNI plugins", n.plugins.Run)
	}
	run.run("ranges of pods", n.Run)
}

// update does what follows from the nodes that there are.
func (n *nodeNetwork) update() error {
	all, err := n.nodes.List(labels.Everything())
	if err != nil {
		return fmt.Errorf("pod network: list nodes: %w", err)
	}
	var own []netip.Prefix
	pending := false
	for _, node := range all {
		if node.Name == n.node {
			own = networksOf(node)
			pending = len(own) == 0
		}
	}
	n.mu.Lock()
	has := n.ranges
	changed := n.pending != pending && len(has) > 0
	n.pending = pending
	n.mu.Unlock()
	if changed {
		n.changed()
	}
	// A node whose object is gone, or has no ranges yet, goes on with what it has; but new pods wait for the cluster's word.
	if len(own) == 0 {
		own = has
	} else if !slices.Equal(own, has) {
		use := n.use
		if n.external {
			use = n.tell
		}
		if err := use(own); err != nil {
			return err
		}
		n.changed()
	}
	if n.ways != nil {
		n.ways.set(own, all)
	}
	return nil
}

// use makes the pod network over ranges. Pods with addresses of others keep them as long as they live.
func (n *nodeNetwork) use(ranges []netip.Prefix) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.current != nil {
		if err := n.current.Close(); err != nil {
			n.log.Warn("pod network: close", "err", err)
		}
		n.current = nil
	}
	cfg := network.Config{PodCIDRs: ranges, ClusterCIDRs: n.cluster, StateDir: n.stateDir, Log: n.log}
	if n.shortcut != nil {
		cfg.Shortcut = n.shortcut
	}
	next, err := network.New(cfg)
	if err != nil {
		return err
	}
	if err := writeRanges(filepath.Join(n.stateDir, rangesFile), ranges); err != nil {
		return errors.Join(err, next.Close())
	}
	n.current, n.ranges = next, ranges
	return nil
}

func writeRanges(path string, ranges []netip.Prefix) error {
	var text strings.Builder
	for _, r := range ranges {
		fmt.Fprintln(&text, r)
	}
	if err := writeFile(path, []byte(text.String()), 0o600); err != nil {
		return fmt.Errorf("pod network: keep the ranges: %w", err)
	}
	return nil
}

func readRanges(path string) ([]netip.Prefix, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("pod network: %w", err)
	}
	var out []netip.Prefix
	for text := range strings.FieldsSeq(string(data)) {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("pod network: %s is damaged: %w", path, err)
		}
		out = append(out, p)
	}
	return out, nil
}

// isReady says whether the cluster believes that a node works.
func (n *nodeNetwork) isReady(name string) bool {
	node, err := n.nodes.Get(name)
	return err == nil && slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

// networksOf are the ranges of a node's pods.
func networksOf(node *corev1.Node) []netip.Prefix {
	var out []netip.Prefix
	for _, text := range node.Spec.PodCIDRs {
		if p, err := netip.ParsePrefix(text); err == nil {
			out = append(out, p.Masked())
		}
	}
	return out
}

// addressesOf are the addresses at which other nodes reach a node.
func addressesOf(node *corev1.Node) []netip.Addr {
	var out []netip.Addr
	for _, a := range node.Status.Addresses {
		if a.Type != corev1.NodeInternalIP {
			continue
		}
		if ip, err := netip.ParseAddr(a.Address); err == nil {
			out = append(out, ip)
		}
	}
	return out
}

// Close ends the background work of the pod network.
func (n *nodeNetwork) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	var err error
	if n.current != nil {
		err = n.current.Close()
	}
	if n.shortcut != nil {
		err = errors.Join(err, n.shortcut.Close())
	}
	return err
}

var errNoRange = errors.New("the cluster has not given this node addresses for pods yet (spec.podCIDRs of the Node)")

// podRanges are the ranges that pods of this node get addresses of. Plugins needn't keep to the node's part of the cluster's.
func (n *nodeNetwork) podRanges() []netip.Prefix {
	if n.external {
		return n.cluster
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.ranges
}

func (n *nodeNetwork) network() (*network.Network, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.current == nil {
		return nil, errNoRange
	}
	return n.current, nil
}

// settled is the network for new pods.
func (n *nodeNetwork) settled() (*network.Network, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.current == nil || n.pending {
		return nil, errNoRange
	}
	return n.current, nil
}

// wanted are the ranges that this node had, to be asked for when its object is made anew: its pods have addresses of them. Those that are not the cluster's (any
// more), or another node's by now, are not.
func (n *nodeNetwork) wanted() []string {
	if n == nil || n.external {
		return nil
	}
	n.mu.Lock()
	has := n.ranges
	n.mu.Unlock()
	if len(has) != len(n.cluster) {
		return nil
	}
	all, err := n.nodes.List(labels.Everything())
	if err != nil {
		return nil
	}
	var out []string
	for i, r := range has {
		if !n.cluster[i].Overlaps(r) || n.cluster[i].Bits() > r.Bits() {
			return nil
		}
		for _, node := range all {
			if node.Name != n.node && slices.ContainsFunc(networksOf(node), r.Overlaps) {
				return nil
			}
		}
		out = append(out, r.String())
	}
	return out
}

// Setup implements runtime.Network; neither the runtime nor the pod network knows the other.
func (n *nodeNetwork) Setup(ctx context.Context, r runtime.SandboxRequest) (runtime.SandboxResult, error) {
	req := sandboxRequest(r)
	var err error
	if req.Bandwidth, err = network.BandwidthOf(r.Annotations); err != nil {
		return runtime.SandboxResult{}, err
	}
	if n.external {
		got, err := n.plugins.Setup(ctx, req)
		if err == nil {
			err = n.restrict(ctx, r, got.IPs)
		}
		return runtime.SandboxResult{IPs: got.IPs}, err
	}
	current, err := n.settled()
	if err != nil {
		return runtime.SandboxResult{}, err
	}
	got, err := current.Setup(ctx, req)
	if err == nil {
		err = n.restrict(ctx, r, got.IPs)
	}
	return runtime.SandboxResult{IPs: got.IPs}, err
}

// Teardown implements runtime.Network. Before there are ranges nothing was set up by the built-in network. Which of the two connected a pod
// depends on what was configured then.
func (n *nodeNetwork) Teardown(ctx context.Context, r runtime.SandboxRequest) error {
	if n.plugins != nil {
		if err := n.plugins.Teardown(ctx, sandboxRequest(r)); err != nil {
			return err
		}
		if n.external {
			n.unrestrict(r.ID)
		}
	}
	current, err := n.network()
	if err != nil {
		return nil //nolint:nilerr // as above
	}
	err = current.Teardown(ctx, sandboxRequest(r))
	if err == nil {
		n.unrestrict(r.ID)
	}
	return err
}

// Retain implements runtime.Network.
func (n *nodeNetwork) Retain(ids []string) (lost []string) {
	if n.plugins != nil {
		if lost = n.plugins.Retain(ids); n.external {
			return lost
		}
	}
	current, err := n.network()
	if err != nil {
		return nil
	}
	return current.Retain(ids)
}

// Ready implements runtime.Network.
func (n *nodeNetwork) Ready() error {
	if n.external {
		return n.plugins.Ready()
	}
	current, err := n.settled()
	if err != nil {
		return err
	}
	return current.Ready()
}

func sandboxRequest(r runtime.SandboxRequest) network.SandboxRequest {
	out := network.SandboxRequest{
		ID: r.ID, Namespace: r.Namespace, Name: r.Name, UID: r.UID, NetNSPath: r.NetNSPath, Annotations: r.Annotations, DNS: network.DNS(r.DNS),
	}
	for _, m := range r.PortMappings {
		out.PortMappings = append(out.PortMappings, network.PortMapping(m))
	}
	return out
}
