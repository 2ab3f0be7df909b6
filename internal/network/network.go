package network

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/celox/celox/internal/network/dump"
	"github.com/celox/celox/internal/network/records"
	"github.com/celox/celox/internal/network/shortcut"
)

const (
	// DefaultBridge is the bridge's name if the configuration doesn't say.
	DefaultBridge = "celox0"
	// lingerTime is how long a namespace may outlive its sandbox before its interface is cut off. In nearly every case the kernel has
	// removed both by then, which costs us nothing, whereas to remove an interface takes 10 to 30 ms during which no other can be made.
	lingerTime = 3 * time.Second
)

// Network is the pod network of a node. All methods may be called concurrently.
type Network struct {
	cfg Config
	ns  *os.File // the host's namespace
	h   *netlink.Handle
	ch  *channel // to the host's namespace
	// ruleless is set where the kernel has no nf_tables: pods are connected, and that is all.
	ruleless bool

	// reap is told of sandboxes that are gone; the goroutine that reads it ends with Close.
	reap   chan string
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu        sync.Mutex       // guards what follows
	mac       net.HardwareAddr // of the gateways
	mtu       int              // of the bridge and the pods' interfaces
	pools     []*pool
	sandboxes map[string]*sandbox
	busy      map[string]chan struct{} // sandboxes that are being set up or torn down; closed when that is over
	closed    bool
}

// New makes the bridge and the rules in the calling thread's network namespace, or takes over what an earlier process made, and recalls
// the sandboxes that are still there. Those of another range than the configured keep their addresses as long as they live.
func New(cfg Config) (*Network, error) {
	cfg.Bridge, cfg.linger = cmp.Or(cfg.Bridge, DefaultBridge), cmp.Or(cfg.linger, lingerTime)
	if len(cfg.Bridge) >= unix.IFNAMSIZ {
		return nil, fmt.Errorf("pod network: bridge %q: the name is longer than %d characters", cfg.Bridge, unix.IFNAMSIZ-1)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	n := &Network{cfg: cfg, sandboxes: map[string]*sandbox{}, busy: map[string]chan struct{}{}, reap: make(chan string, 64)}
	families := map[bool]bool{}
	for _, p := range cfg.PodCIDRs {
		pool, err := newPool(p)
		if err != nil {
			return nil, fmt.Errorf("pod network: %w", err)
		}
		if families[p.Addr().Is6()] {
			return nil, fmt.Errorf("pod network: %v is the second range of its family", p)
		}
		families[p.Addr().Is6()] = true
		n.pools = append(n.pools, pool)
	}
	if len(n.pools) == 0 {
		return nil, errors.New("pod network: no pod range")
	}
	if err := os.MkdirAll(cfg.StateDir, 0o700); err != nil {
		return nil, fmt.Errorf("pod network: %w", err)
	}
	if err := n.recall(); err != nil {
		return nil, err
	}
	if err := n.open(); err != nil {
		return nil, errors.Join(fmt.Errorf("pod network: %w", err), n.Close())
	}
	ctx, cancel := context.WithCancel(context.Background())
	n.cancel = cancel
	n.wg.Go(func() { n.reaper(ctx) })
	if cfg.MTU == 0 {
		n.wg.Go(func() { n.followMTU(ctx) })
	}
	return n, nil
}

func (n *Network) recall() error {
	all, err := recall(n.cfg.StateDir, n.cfg.Log)
	if err != nil {
		return err
	}
	for _, s := range all {
		n.sandboxes[s.ID] = s
		for _, a := range s.Addrs {
			for _, p := range n.pools {
				if p.prefix == a.Masked() {
					if err := p.claim(a.Addr(), s.ID); err != nil {
						n.cfg.Log.Error("pod network: recall sandbox", "sandbox", s.ID, "pod", s.Pod, "err", err)
					}
				}
			}
		}
	}
	return nil
}

// open does what New does in the kernel.
func (n *Network) open() error {
	var err error
	if n.ns, err = currentNetNS(); err != nil {
		return err
	}
	if n.h, err = handleAt(n.ns); err != nil {
		return err
	}
	if n.ch, err = openChannel(n.ns); err != nil {
		return err
	}
	if err := within(n.ns, rulesWork); err != nil {
		n.ruleless = true
		n.cfg.Log.Error("pod network: this kernel has no nf_tables: pods keep their addresses on the way out of the cluster, and have no host ports", "err", err)
	}
	if n.cfg.Shortcut != nil {
		// Connection tracking sees a part of the packets: it must not take the others, when it sees them again, for somebody else's.
		if err := within(n.ns, func() error { return setLiberal(n.cfg.StateDir) }); err != nil {
			n.cfg.Log.Warn("pod network: no shortcut between pods", "err", err)
			n.cfg.Shortcut = nil
		}
	} else if err := within(n.ns, func() error { return restoreLiberal(n.cfg.StateDir) }); err != nil { // of an earlier configuration
		n.cfg.Log.Warn("pod network: a setting of connection tracking stays as it is", "err", err)
	}
	found := 0
	if n.cfg.MTU == 0 {
		found, _ = routeMTU(n.h)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.mtu = cmp.Or(n.cfg.MTU, found, defaultMTU)
	return errors.Join(n.ensure(), n.sweep())
}

// sweep removes what sandboxes that are gone have left: what the kernel doesn't remove with a namespace, and what an earlier process would have cut off. n.mu must be held.
func (n *Network) sweep() error {
	links, err := dump.Whole(n.h.LinkList)
	if err != nil {
		return fmt.Errorf("list interfaces: %w", err)
	}
	wanted := map[string]bool{}
	for id, s := range n.sandboxes {
		wanted[ifbName(id)] = s.Bandwidth.Egress > 0
		wanted[vethName(id)] = true
	}
	var errs []error
	for _, l := range links {
		if (isLimit(l) || isPod(l)) && !wanted[l.Attrs().Name] {
			errs = append(errs, removeLink(n.h, l.Attrs().Name))
		}
	}
	return errors.Join(errs...)
}

// ranges are the configured ranges and those that sandboxes still have addresses of. n.mu must be held.
func (n *Network) ranges() []netip.Prefix {
	var out []netip.Prefix
	for _, p := range n.pools {
		out = append(out, p.prefix)
	}
	var old []netip.Prefix
	for _, s := range n.sandboxes {
		for _, a := range s.Addrs {
			if p := a.Masked(); !slices.Contains(out, p) && !slices.Contains(old, p) {
				old = append(old, p)
			}
		}
	}
	slices.SortFunc(old, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
	return append(out, old...)
}

// ensure makes the bridge, the machine's forwarding and the rules what they should be. n.mu must be held.
func (n *Network) ensure() error {
	var gateways []netip.Prefix
	v4, v6 := false, false
	for _, p := range n.ranges() {
		gateways = append(gateways, netip.PrefixFrom(p.Addr().Next(), p.Bits()))
		v4, v6 = v4 || p.Addr().Is4(), v6 || p.Addr().Is6()
	}
	var err error
	if n.mac, err = ensureBridge(n.h, n.cfg.Bridge, n.mtu, gateways); err != nil {
		return err
	}
	if err := within(n.ns, func() error { return Forward(v4, v6) }); err != nil {
		return err
	}
	if err := n.applyRules(); err != nil {
		return err
	}
	return n.leadAll()
}

// leadAll makes the ways to the sandboxes that there are what they should be: routes go with the gateway's address, and an earlier version had none. n.mu must be held.
func (n *Network) leadAll() error {
	if len(n.sandboxes) == 0 {
		return nil
	}
	links, err := dump.Whole(n.h.LinkList)
	if err != nil {
		return fmt.Errorf("list interfaces: %w", err)
	}
	for _, l := range links {
		if !isPod(l) {
			continue
		}
		for id, s := range n.sandboxes {
			if vethName(id) != l.Attrs().Name {
				continue
			}
			mac := l.Attrs().HardwareAddr
			if l.Attrs().MasterIndex != 0 {
				mac, err = n.mac, unplug(n.h, n.ch, l, n.mac, s)
			} else {
				err = lead(n.ch, l.Attrs().Index, s)
			}
			if err == nil {
				err = n.finish(s, l.Attrs().Index, mac)
			}
			if err != nil { // the others need theirs
				n.cfg.Log.Error("pod network: the way to a pod", "sandbox", id, "pod", s.Pod, "err", err)
			}
		}
	}
	return nil
}

// applyRules makes the kernel's rules those that follow from the state. n.mu must be held.
func (n *Network) applyRules() error {
	if n.ruleless {
		return nil
	}
	var all []element
	for _, s := range n.sandboxes {
		all = append(all, elementsOf(s)...)
	}
	return applyRules(n.ns, rulesFor(n.ranges(), n.cfg.ClusterCIDRs), all)
}

// publish adds the host ports of a sandbox to the rules, or takes them away. n.mu must be held, and the sandbox be there, or not any more.
func (n *Network) publish(s *sandbox, there bool) error {
	elements := elementsOf(s)
	if len(elements) == 0 || n.ruleless {
		return nil
	}
	if changeElements(n.ns, there, elements) != nil {
		// Somebody changed the table.
		if err := n.applyRules(); err != nil {
			return err
		}
	}
	if err := forgetFlows(n.ns, elements); err != nil {
		n.cfg.Log.Warn("pod network: flows of UDP may go where a host port led before", "pod", s.Pod, "err", err)
	}
	return nil
}

// Close ends the background work. What was made stays, for the pods that use it.
func (n *Network) Close() error {
	n.mu.Lock()
	closed := n.closed
	n.closed = true
	n.mu.Unlock()
	if closed {
		return nil
	}
	if n.cancel != nil {
		n.cancel()
	}
	n.wg.Wait()
	if n.h != nil {
		n.h.Close()
	}
	var errs []error
	if n.ch != nil {
		errs = append(errs, n.ch.close())
	}
	if n.ns != nil {
		errs = append(errs, n.ns.Close())
	}
	return errors.Join(errs...)
}

// Ready says why pods can't be attached, or nil.
func (n *Network) Ready() error {
	l, err := n.h.LinkByName(n.cfg.Bridge)
	if err != nil {
		return fmt.Errorf("pod network: bridge %s: %w", n.cfg.Bridge, err)
	}
	if l.Attrs().Flags&unix.IFF_UP == 0 {
		return fmt.Errorf("pod network: bridge %s is down", n.cfg.Bridge)
	}
	return nil
}

// MTU is that of the pods' interfaces.
func (n *Network) MTU() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.mtu
}

// acquire waits until nobody else works on a sandbox.
func (n *Network) acquire(ctx context.Context, id string) (release func(), err error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	for {
		n.mu.Lock()
		if n.closed {
			n.mu.Unlock()
			return nil, errors.New("the pod network is closed")
		}
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

// Setup attaches a sandbox and publishes its host ports. For a sandbox that is attached it changes nothing and returns what it has.
func (n *Network) Setup(ctx context.Context, req SandboxRequest) (SandboxResult, error) {
	res, err := n.setup(ctx, req)
	if err != nil {
		return SandboxResult{}, fmt.Errorf("pod network: set up sandbox %s of pod %s/%s: %w", req.ID, req.Namespace, req.Name, err)
	}
	return res, nil
}

func (n *Network) setup(ctx context.Context, req SandboxRequest) (SandboxResult, error) {
	release, err := n.acquire(ctx, req.ID)
	if err != nil {
		return SandboxResult{}, err
	}
	defer release()
	ports, err := normalize(req.PortMappings)
	if err != nil {
		return SandboxResult{}, err
	}
	pod, err := os.Open(req.NetNSPath)
	if err != nil {
		return SandboxResult{}, fmt.Errorf("network namespace: %w", err)
	}
	defer pod.Close()
	s, known, err := n.allocate(req, ports)
	if err != nil {
		return SandboxResult{}, err
	}
	if known && attached(n.h, pod, s) {
		return SandboxResult{IPs: s.ips()}, nil
	}
	if err := n.connect(pod, s); err != nil {
		return SandboxResult{}, errors.Join(err, removeLinks(n.h, s.ID), n.free(s))
	}
	return SandboxResult{IPs: s.ips()}, nil
}

// allocate gives a sandbox its addresses and remembers them, before anything is made that would have to be found again.
func (n *Network) allocate(req SandboxRequest, ports []PortMapping) (s *sandbox, known bool, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if s := n.sandboxes[req.ID]; s != nil {
		return s, true, nil
	}
	if err := conflict(req.ID, ports, n.sandboxes); err != nil {
		return nil, false, err
	}
	s = &sandbox{ID: req.ID, Pod: req.Namespace + "/" + req.Name, NetNS: req.NetNSPath, Ports: ports, Bandwidth: req.Bandwidth}
	for _, p := range n.pools {
		a, err := p.take(s.ID)
		if err != nil {
			n.giveBack(s)
			return nil, false, err
		}
		s.Addrs = append(s.Addrs, netip.PrefixFrom(a, p.prefix.Bits()))
	}
	if err := records.Keep(n.cfg.StateDir, s.ID, s); err != nil {
		n.giveBack(s)
		return nil, false, err
	}
	n.sandboxes[s.ID] = s
	return s, false, nil
}

// giveBack returns addresses to their pools. n.mu must be held.
func (n *Network) giveBack(s *sandbox) {
	for _, a := range s.Addrs {
		for _, p := range n.pools {
			p.release(a.Addr(), s.ID)
		}
	}
}

// connect makes what a sandbox needs in the kernel.
func (n *Network) connect(pod *os.File, s *sandbox) error {
	n.mu.Lock()
	mac, mtu := n.mac, n.mtu
	n.mu.Unlock()
	var unasked error
	ask := func(b *batch, link int) {
		unasked = nil // of an attempt before
		if n.short(s) {
			b.ask(link, n.cfg.Shortcut.Program(), func(err error) { unasked = err })
		}
	}
	link, err := attach(n.h, n.ch, mac, mtu, pod, s, ask)
	if err != nil && n.Ready() != nil {
		// Somebody removed the bridge; it is made again, once.
		n.mu.Lock()
		eerr := n.ensure()
		mac = n.mac
		n.mu.Unlock()
		if eerr != nil {
			return errors.Join(err, eerr)
		}
		link, err = attach(n.h, n.ch, mac, mtu, pod, s, ask)
	}
	if err != nil {
		return err
	}
	n.plug(s, link, mac, unasked)
	if err := n.fromLoopback(s); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.publish(s, true)
}

// short says whether a sandbox may take the shortcut. Limits hold where packets pass the machine.
func (n *Network) short(s *sandbox) bool {
	return n.cfg.Shortcut != nil && s.Bandwidth == (Bandwidth{})
}

// plug tells the shortcut of a sandbox, whose interface asks it unless there is an error.
func (n *Network) plug(s *sandbox, link int, mac net.HardwareAddr, unasked error) {
	if !n.short(s) {
		return
	}
	err := unasked
	if err == nil {
		err = n.cfg.Shortcut.Plug(shortcut.Pod{ID: s.ID, Link: link, MAC: hardwareAddr(s.Addrs[0].Addr()), Gateway: mac, Addrs: s.ips()})
	}
	if err != nil { // the pod does without
		n.cfg.Log.Warn("pod network: no shortcut for a pod", "pod", s.Pod, "err", err)
	}
}

// finish does what another process may have left to do for the interface of a sandbox.
func (n *Network) finish(s *sandbox, link int, mac net.HardwareAddr) error {
	if n.short(s) {
		var b batch
		var unasked error
		b.ask(link, n.cfg.Shortcut.Program(), func(err error) { unasked = err })
		err := n.ch.send(&b)
		n.plug(s, link, mac, cmp.Or(err, unasked))
	}
	return n.fromLoopback(s)
}

// fromLoopback lets packets of 127.0.0.1 go to a sandbox with host ports.
func (n *Network) fromLoopback(s *sandbox) error {
	if len(s.Ports) == 0 {
		return nil
	}
	return within(n.ns, func() error { return fromLoopback(s) })
}

// free forgets a sandbox.
func (n *Network) free(s *sandbox) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := records.Forget(n.cfg.StateDir, s.ID); err != nil {
		return err
	}
	if n.cfg.Shortcut != nil {
		if err := n.cfg.Shortcut.Unplug(s.ID); err != nil {
			return err
		}
	}
	delete(n.sandboxes, s.ID)
	n.giveBack(s)
	return n.publish(s, false)
}

// Attachment is a sandbox with its addresses.
type Attachment struct {
	ID, Pod string // Pod is "namespace/name"
	Addrs   []netip.Addr
}

// Attached are the sandboxes that have addresses.
func (n *Network) Attached() []Attachment {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := make([]Attachment, 0, len(n.sandboxes))
	for _, s := range n.sandboxes {
		out = append(out, Attachment{ID: s.ID, Pod: s.Pod, Addrs: s.ips()})
	}
	return out
}

// Retain says which sandboxes there are. Others that this network knows, after a crash or the loss of somebody's state, are forgotten. It returns those that it doesn't
// know: their addresses may be given to others.
func (n *Network) Retain(ids []string) (unknown []string) {
	n.mu.Lock()
	var gone []string
	for _, id := range ids {
		if n.sandboxes[id] == nil {
			unknown = append(unknown, id)
		}
	}
	for id := range n.sandboxes {
		if !slices.Contains(ids, id) {
			gone = append(gone, id)
		}
	}
	n.mu.Unlock()
	for _, id := range gone {
		n.cfg.Log.Warn("pod network: forgetting a sandbox that nobody has", "sandbox", id)
		if err := n.Teardown(context.Background(), SandboxRequest{ID: id}); err != nil {
			n.cfg.Log.Error("pod network: forget sandbox", "sandbox", id, "err", err)
		}
	}
	return unknown
}

// Teardown gives a sandbox's addresses and host ports free. The caller removes the network namespace, before or after, and the kernel the
// interfaces with it. To tear down what isn't there is no error.
func (n *Network) Teardown(ctx context.Context, req SandboxRequest) error {
	if err := n.teardown(ctx, req); err != nil {
		return fmt.Errorf("pod network: tear down sandbox %s of pod %s/%s: %w", req.ID, req.Namespace, req.Name, err)
	}
	return nil
}

func (n *Network) teardown(ctx context.Context, req SandboxRequest) error {
	release, err := n.acquire(ctx, req.ID)
	if err != nil {
		return err
	}
	defer release()
	n.mu.Lock()
	s := n.sandboxes[req.ID]
	n.mu.Unlock()
	if s == nil {
		return nil
	}
	if err := n.free(s); err != nil {
		return err
	}
	select {
	case n.reap <- s.ID:
	default:
		// The queue is full of sandboxes that went just now: no time to wait for the kernel.
		return removeLinks(n.h, s.ID)
	}
	return nil
}

// reaper cuts off, after a while, sandboxes whose namespace somebody holds on to: their addresses may be given to others.
func (n *Network) reaper(ctx context.Context) {
	type item struct {
		id  string
		due time.Time
	}
	var queue []item
	var timer <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case id := <-n.reap:
			queue = append(queue, item{id, time.Now().Add(n.cfg.linger)})
			if timer == nil {
				timer = time.After(n.cfg.linger)
			}
		case now := <-timer:
			for len(queue) > 0 && !queue[0].due.After(now) {
				n.reapOne(ctx, queue[0].id)
				queue = queue[1:]
			}
			if timer = nil; len(queue) > 0 {
				timer = time.After(time.Until(queue[0].due))
			}
		}
	}
}

func (n *Network) reapOne(ctx context.Context, id string) {
	release, err := n.acquire(ctx, id)
	if err != nil {
		return // closed
	}
	defer release()
	n.mu.Lock()
	again := n.sandboxes[id] != nil
	n.mu.Unlock()
	if again {
		return
	}
	if err := removeLinks(n.h, id); err != nil {
		n.cfg.Log.Error("pod network: cut off sandbox", "sandbox", id, "err", err)
	}
}

// Reset removes what a Network with this configuration made in the calling thread's network namespace: the sandboxes' interfaces, the bridge,
// the rules and the state. Forwarding stays on: others may rely on it by now.
func Reset(ctx context.Context, cfg Config) error {
	cfg.Bridge = cmp.Or(cfg.Bridge, DefaultBridge)
	ns, err := currentNetNS()
	if err != nil {
		return err
	}
	defer ns.Close()
	h, err := handleAt(ns)
	if err != nil {
		return err
	}
	defer h.Close()
	var errs []error
	bridge, err := h.LinkByName(cfg.Bridge)
	var missing netlink.LinkNotFoundError
	switch {
	case errors.As(err, &missing):
	case err != nil:
		errs = append(errs, err)
	case bridge.Type() == "bridge":
		links, err := dump.Whole(h.LinkList)
		errs = append(errs, err)
		for _, l := range links {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if l.Attrs().MasterIndex == bridge.Attrs().Index && l.Type() == "veth" || isPod(l) || isLimit(l) {
				errs = append(errs, removeLink(h, l.Attrs().Name))
			}
		}
		errs = append(errs, removeLink(h, cfg.Bridge))
	}
	if within(ns, rulesWork) == nil { // a kernel that cannot have them has none
		errs = append(errs, applyRules(ns, nil, nil))
	}
	if cfg.StateDir != "" {
		errs = append(errs, within(ns, func() error { return restoreLiberal(cfg.StateDir) }))
		if err := os.RemoveAll(cfg.StateDir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("pod network: reset: %w", err)
	}
	return nil
}
