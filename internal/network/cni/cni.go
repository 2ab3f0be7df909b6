package cni

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/celox/celox/internal/network"
	"github.com/celox/celox/internal/network/records"
)

// Config is what New needs.
type Config struct {
	// ConfDir is where configurations are looked for, BinDirs are where plugins are. Without the former, nothing is connected any more: it is only taken down.
	ConfDir string
	BinDirs []string
	// StateDir keeps one file for each sandbox, and the cache of results.
	StateDir string
	// Ranges returns the ranges that the cluster gave to this node, in the order of the pods' addresses; none while it hasn't.
	Ranges func() []netip.Prefix
	// Changed is called when Ready answers something else than before.
	Changed func()
	Log     *slog.Logger
}

// Network runs plugins for the sandboxes of a node. All methods may be called concurrently.
type Network struct {
	cfg   Config
	cni   *libcni.CNIConfig
	clock times

	// wake has Run look again at everything that it looks after; capacity 1.
	wake chan struct{}

	// alone is held shared while plugins connect a sandbox, and by itself while they are told which there are: they would take what is new for garbage.
	alone sync.RWMutex

	mu      sync.Mutex                // guards what follows
	conf    *libcni.NetworkConfigList // nil while there is none
	problem error                     // why pods can't be connected
	records map[string]*record        // by sandbox
	busy    map[string]chan struct{}  // sandboxes that are worked on; closed when that is over
	stale   map[string]*attempt       // sandboxes that are to be taken down, but weren't yet
	collect bool                      // plugins have to be told which sandboxes there are
}

// attempt is what is known of a sandbox that could not be taken down.
type attempt struct {
	due   time.Time
	pause time.Duration
}

// times are how long Network waits for what nothing tells of.
type times struct {
	firstRetry, lastRetry time.Duration // before a sandbox is taken down again
	unwell, well          time.Duration // between two questions whether the plugins are well (STATUS), by the last answer
}

// New recalls the sandboxes of earlier processes and reads the configuration, if there is one.
func New(cfg Config) (*Network, error) {
	if cfg.Changed == nil {
		cfg.Changed = func() {}
	}
	if cfg.ConfDir != "" {
		cfg.ConfDir = filepath.Clean(cfg.ConfDir)
	}
	dirs := make([]string, len(cfg.BinDirs))
	for i, dir := range cfg.BinDirs {
		dirs[i] = filepath.Clean(dir)
	}
	cfg.BinDirs = dirs
	n := &Network{
		cfg: cfg, clock: times{firstRetry: time.Second, lastRetry: time.Minute, unwell: 5 * time.Second, well: 30 * time.Second}, wake: make(chan struct{}, 1),
		busy: map[string]chan struct{}{}, stale: map[string]*attempt{}, problem: errUninitialized,
	}
	n.cni = libcni.NewCNIConfigWithCacheDir(cfg.BinDirs, filepath.Join(cfg.StateDir, "cache"), &runner{log: cfg.Log})
	if err := os.MkdirAll(cfg.StateDir, 0o700); err != nil {
		return nil, fmt.Errorf("cni: %w", err)
	}
	var err error
	if n.records, err = recall(cfg.StateDir, cfg.Log); err != nil {
		return nil, fmt.Errorf("cni: recall sandboxes: %w", err)
	}
	n.reload(context.Background())
	return n, nil
}

// Has says whether there are sandboxes of earlier processes in a state directory.
func Has(stateDir string) bool {
	some, err := records.Any(stateDir)
	return err == nil && some
}

// Ready says why pods can't be connected, or nil.
func (n *Network) Ready() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.problem
}

// acquire waits until nobody else works on a sandbox.
func (n *Network) acquire(ctx context.Context, id string) (release func(), err error) {
	for {
		n.mu.Lock()
		wait := n.busy[id]
		if wait == nil {
			mine := make(chan struct{})
			n.busy[id] = mine
			n.mu.Unlock()
			return func() {
				n.mu.Lock()
				delete(n.busy, id)
				n.mu.Unlock()
				close(mine)
			}, nil
		}
		n.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (n *Network) record(id string) *record {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.records[id]
}

// limited bounds a context by the time that plugins have.
func limited(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, pluginTime, fmt.Errorf("it did not answer within %v", pluginTime))
}

// Setup has the plugins connect a sandbox (ADD). One that is connected, as the plugins say (CHECK), stays as it is. If it fails, the caller calls Teardown.
func (n *Network) Setup(ctx context.Context, req network.SandboxRequest) (network.SandboxResult, error) {
	release, err := n.acquire(ctx, req.ID)
	if err != nil {
		return network.SandboxResult{}, err
	}
	defer release()
	n.alone.RLock()
	defer n.alone.RUnlock()
	ctx, cancel := limited(ctx)
	defer cancel()
	if r := n.record(req.ID); r != nil {
		if len(r.IPs) > 0 && n.check(ctx, r) == nil {
			return network.SandboxResult{IPs: r.IPs}, nil
		}
		if err := n.remove(ctx, r); err != nil {
			return network.SandboxResult{}, err
		}
	}
	n.mu.Lock()
	conf, problem := n.conf, n.problem
	n.mu.Unlock()
	if conf == nil || problem != nil {
		return network.SandboxResult{}, problem
	}
	ranges := n.cfg.Ranges()
	if len(ranges) == 0 && capable(conf, "ipRanges") {
		return network.SandboxResult{}, errors.New("a plugin wants to be told this node's range of addresses (ipRanges), but the cluster has not given it one yet")
	}
	r, err := newRecord(req, conf, ranges)
	if err != nil {
		return network.SandboxResult{}, err
	}
	if err := n.connect(ctx, r, ranges); err != nil {
		n.poke() // perhaps the plugins are not well
		return network.SandboxResult{}, err
	}
	return network.SandboxResult{IPs: r.IPs}, nil
}

// connect has the plugins make what a sandbox needs.
func (n *Network) connect(ctx context.Context, r *record, ranges []netip.Prefix) error {
	if err := records.Keep(n.cfg.StateDir, r.ID, r); err != nil {
		return err
	}
	n.mu.Lock()
	n.records[r.ID] = r
	n.mu.Unlock()
	if err := loopback(r.NetNS); err != nil {
		return err
	}
	list, rt, err := r.call()
	if err != nil {
		return err
	}
	result, err := n.cni.AddNetworkList(ctx, list, rt)
	if err != nil {
		return err
	}
	ips, err := addresses(result, rt.NetNS, ranges)
	if err != nil {
		return fmt.Errorf("network %q: %w", list.Name, err)
	}
	done := *r
	done.IPs = ips
	if err := records.Keep(n.cfg.StateDir, done.ID, &done); err != nil {
		return err
	}
	n.mu.Lock()
	n.records[r.ID] = &done
	n.mu.Unlock()
	r.IPs = ips
	return nil
}

// loopback sets up the one interface that no plugin is asked for.
func loopback(path string) error {
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return fmt.Errorf("network namespace: %w", err)
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	defer h.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.Index = "lo", 1
	if err := h.LinkSetUp(&netlink.Device{LinkAttrs: attrs}); err != nil {
		return fmt.Errorf("pod's interface lo: set up: %w", err)
	}
	return nil
}

// addresses are those of a sandbox's interface, in the order of the families of ranges.
func addresses(result types.Result, ns string, ranges []netip.Prefix) ([]netip.Addr, error) {
	r, err := types100.NewResultFromResult(result)
	if err != nil {
		return nil, fmt.Errorf("result of the plugins: %w", err)
	}
	var out []netip.Addr
	for _, ip := range r.IPs {
		if i := ip.Interface; i != nil && *i >= 0 && *i < len(r.Interfaces) {
			if at := r.Interfaces[*i]; at.Name != interfaceName || at.Sandbox != "" && at.Sandbox != ns {
				continue
			}
		}
		if a, ok := netip.AddrFromSlice(ip.Address.IP); ok {
			out = append(out, a.Unmap())
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("the plugins gave %s no address", interfaceName)
	}
	if len(ranges) > 0 {
		first := ranges[0].Addr().Is4()
		slices.SortStableFunc(out, func(a, b netip.Addr) int {
			switch {
			case a.Is4() == b.Is4():
				return 0
			case a.Is4() == first:
				return -1
			}
			return 1
		})
	}
	return out, nil
}

// check asks the plugins whether a sandbox is still as they made it. Those of before CNI 0.4.0 can't say.
func (n *Network) check(ctx context.Context, r *record) error {
	list, rt, err := r.call()
	if err != nil {
		return err
	}
	if err := n.cni.CheckNetworkList(ctx, list, rt); !errors.Is(err, libcni.ErrorCheckNotSupp) {
		return err
	}
	return nil
}

// Teardown has the plugins take back what they gave (DEL). To take down what isn't there is no error. After an error it is tried again, in the background and by whoever calls.
func (n *Network) Teardown(ctx context.Context, req network.SandboxRequest) error {
	release, err := n.acquire(ctx, req.ID)
	if err != nil {
		return err
	}
	defer release()
	r := n.record(req.ID)
	if r == nil {
		return nil
	}
	ctx, cancel := limited(ctx)
	defer cancel()
	return n.remove(ctx, r)
}

// remove takes a sandbox down. The caller has acquired it.
func (n *Network) remove(ctx context.Context, r *record) error {
	list, rt, err := r.call()
	if err == nil {
		err = n.cni.DelNetworkList(ctx, list, rt)
	}
	if err == nil {
		err = records.Forget(n.cfg.StateDir, r.ID)
	}
	n.mu.Lock()
	if err == nil {
		delete(n.records, r.ID)
		delete(n.stale, r.ID)
		n.mu.Unlock()
		return nil
	}
	a := n.stale[r.ID]
	if a == nil {
		a = &attempt{pause: n.clock.firstRetry}
		n.stale[r.ID] = a
	} else {
		a.pause = min(2*a.pause, n.clock.lastRetry)
	}
	a.due = time.Now().Add(a.pause)
	n.mu.Unlock()
	n.poke()
	return err
}

// Retain says which sandboxes there are; all others are taken down. The plugins are told as well, once there is a configuration (GC). It returns those that the
// plugins did not connect.
func (n *Network) Retain(ids []string) (unknown []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, id := range ids {
		if n.records[id] == nil {
			unknown = append(unknown, id)
		}
	}
	for id := range n.records {
		if !slices.Contains(ids, id) && n.stale[id] == nil {
			n.stale[id] = &attempt{pause: n.clock.firstRetry}
		}
	}
	n.collect = true
	n.poke()
	return unknown
}

func (n *Network) poke() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// Reset takes down every sandbox that there is a record of, and removes the state. What plugins refuse is left to them.
func Reset(ctx context.Context, cfg Config) error {
	cfg.ConfDir = ""
	n, err := New(cfg)
	if err != nil {
		return err
	}
	var errs []error
	for _, r := range n.records {
		errs = append(errs, func() error {
			ctx, cancel := limited(ctx)
			defer cancel()
			if err := n.remove(ctx, r); err != nil {
				return fmt.Errorf("cni: take down sandbox %s of pod %s: %w", r.ID, r.Pod, err)
			}
			return nil
		}())
	}
	return errors.Join(append(errs, os.RemoveAll(cfg.StateDir))...)
}
