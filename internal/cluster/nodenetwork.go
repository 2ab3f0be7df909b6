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

	"github.com/celox/celox/internal/client/informers"
	"github.com/celox/celox/internal/network"
	"github.com/celox/celox/internal/network/mesh"
	"github.com/celox/celox/internal/runtime"
)

// rangesFile, in the directory of the pod network, has the ranges that the node had last: pods get addresses also while the API is away.
const rangesFile = "ranges"

// nodeNetwork is the pod network of a node whose ranges the cluster says, in the Node object, and the ways to the pods of other nodes.
type nodeNetwork struct {
	node     string
	addrs    []netip.Addr // of the node
	cluster  []netip.Prefix
	stateDir string
	log      *slog.Logger
	mesh     *mesh.Mesh
	nodes    corelisters.NodeLister
	synced   cache.InformerSynced
	// changed is called when pods can be attached that could not, or the other way round.
	changed func()
	wake    chan struct{} // capacity 1

	mu      sync.Mutex // guards what follows
	ranges  []netip.Prefix
	current *network.Network // nil until the ranges are known
}

// newNodeNetwork takes up the ranges that the node had last, if it had any.
func newNodeNetwork(node string, addrs []netip.Addr, cluster []netip.Prefix, stateDir string, f *informers.Factory, log *slog.Logger) (*nodeNetwork, error) {
	m, err := mesh.New(log)
	if err != nil {
		return nil, err
	}
	nodes := f.Core().V1().Nodes()
	n := &nodeNetwork{
		node: node, addrs: addrs, cluster: cluster, stateDir: stateDir, log: log, mesh: m, nodes: nodes.Lister(), synced: nodes.Informer().HasSynced,
		changed: func() {}, wake: make(chan struct{}, 1),
	}
	ranges, err := readRanges(filepath.Join(stateDir, rangesFile))
	if err != nil {
		return nil, err
	}
	if len(ranges) > 0 {
		if err := n.use(ranges); err != nil {
			return nil, err
		}
	}
	if _, err := nodes.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { n.poke() },
		UpdateFunc: func(old, now any) {
			was, ok := old.(*corev1.Node)
			is, ok2 := now.(*corev1.Node)
			if !ok || !ok2 || !slices.Equal(was.Spec.PodCIDRs, is.Spec.PodCIDRs) || !slices.Equal(was.Status.Addresses, is.Status.Addresses) {
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

// update does what follows from the nodes that there are.
func (n *nodeNetwork) update() error {
	all, err := n.nodes.List(labels.Everything())
	if err != nil {
		return fmt.Errorf("pod network: list nodes: %w", err)
	}
	var peers []mesh.Peer
	var own []netip.Prefix
	for _, node := range all {
		pods := networksOf(node)
		if node.Name == n.node {
			own = pods
		} else if len(pods) > 0 {
			peers = append(peers, mesh.Peer{Name: node.Name, Addrs: addressesOf(node), Pods: pods})
		}
	}
	n.mu.Lock()
	has := n.ranges
	n.mu.Unlock()
	// A node whose object is gone, or has no ranges yet, goes on with what it has.
	if len(own) == 0 {
		own = has
	} else if !slices.Equal(own, has) {
		if err := n.use(own); err != nil {
			return err
		}
		n.changed()
	}
	n.mesh.Set(mesh.Self{Addrs: n.addrs, Pods: own}, peers)
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
	next, err := network.New(network.Config{PodCIDRs: ranges, ClusterCIDRs: n.cluster, StateDir: n.stateDir, Log: n.log})
	if err != nil {
		return err
	}
	var text strings.Builder
	for _, r := range ranges {
		fmt.Fprintln(&text, r)
	}
	if err := writeFile(filepath.Join(n.stateDir, rangesFile), []byte(text.String()), 0o600); err != nil {
		return errors.Join(fmt.Errorf("pod network: keep the ranges: %w", err), next.Close())
	}
	n.current, n.ranges = next, ranges
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
	if n.current == nil {
		return nil
	}
	return n.current.Close()
}

var errNoRange = errors.New("the cluster has not given this node addresses for pods yet (spec.podCIDRs of the Node)")

// podRanges are the ranges that pods of this node get addresses of.
func (n *nodeNetwork) podRanges() []netip.Prefix {
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

// Setup implements runtime.Network; neither the runtime nor the pod network knows the other.
func (n *nodeNetwork) Setup(ctx context.Context, r runtime.SandboxRequest) (runtime.SandboxResult, error) {
	current, err := n.network()
	if err != nil {
		return runtime.SandboxResult{}, err
	}
	got, err := current.Setup(ctx, sandboxRequest(r))
	return runtime.SandboxResult{IPs: got.IPs}, err
}

// Teardown implements runtime.Network. Before there are ranges nothing was set up.
func (n *nodeNetwork) Teardown(ctx context.Context, r runtime.SandboxRequest) error {
	current, err := n.network()
	if err != nil {
		return nil //nolint:nilerr // as above
	}
	return current.Teardown(ctx, sandboxRequest(r))
}

// Ready implements runtime.Network.
func (n *nodeNetwork) Ready() error {
	current, err := n.network()
	if err != nil {
		return err
	}
	return current.Ready()
}

func sandboxRequest(r runtime.SandboxRequest) network.SandboxRequest {
	out := network.SandboxRequest{ID: r.ID, Namespace: r.Namespace, Name: r.Name, UID: r.UID, NetNSPath: r.NetNSPath}
	for _, m := range r.PortMappings {
		out.PortMappings = append(out.PortMappings, network.PortMapping(m))
	}
	return out
}
