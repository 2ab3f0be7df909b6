package mesh

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/celox/celox/internal/network/wireguard"
)

const (
	// settle is how long changes are collected: one of somebody else's is often several.
	settle = 50 * time.Millisecond
	// A pass that failed is tried again after retryFirst, doubling to retryLast.
	retryFirst = 500 * time.Millisecond
	retryLast  = 30 * time.Second
)

// Mesh is the way of one node to the pods of the others.
type Mesh struct {
	log *slog.Logger
	ns  *os.File
	h   *netlink.Handle
	// crypt is nil where nothing is encrypted.
	crypt  crypt
	report func(Report) bool
	pace   pace

	wake   chan struct{} // capacity 1
	looked chan struct{} // capacity 1: targets has changed

	mu      sync.Mutex // guards what follows
	self    Self
	peers   []Peer
	said    map[string]string // what was last said of each node's way
	targets []target
}

// New works in the calling thread's network namespace. Nothing is made before Run. Device encrypts, nil is that nothing is encrypted; report is told of ways
// that do not work, and of those that do again, by one goroutine; false is that the time for that has not come, and it is told once more later.
func New(log *slog.Logger, device *wireguard.Device, report func(Report) bool) (*Mesh, error) {
	ns, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, fmt.Errorf("mesh: network namespace: %w", err)
	}
	h, err := netlink.NewHandleAt(netns.NsHandle(ns.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("mesh: netlink: %w", err)
	}
	m := &Mesh{log: log, ns: ns, h: h, report: report, pace: usualPace(), wake: make(chan struct{}, 1), looked: make(chan struct{}, 1), said: map[string]string{}}
	if device != nil {
		m.crypt = device
	}
	return m, nil
}

// Set says what this node has and which others there are. It may be called at any time, from any goroutine.
func (m *Mesh) Set(self Self, peers []Peer) {
	m.mu.Lock()
	m.self, m.peers = self, slices.Clone(peers)
	m.mu.Unlock()
	m.poke()
}

func (m *Mesh) poke() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// Run keeps the kernel as it should be until ctx ends, and leaves everything as it is then: pods go on. Once Set has been called it makes what is wanted, and
// removes what an earlier process left.
func (m *Mesh) Run(ctx context.Context) error {
	defer m.ns.Close()
	defer m.h.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { m.listen(ctx) })
	wg.Go(func() { m.probe(ctx) })
	retry := retryFirst
	var again <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-again:
		case <-m.wake:
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(settle):
			}
		}
		again = nil
		if err := m.apply(); err != nil {
			m.log.Warn("pod network: cannot set the ways to other nodes; trying again", "err", err, "in", retry)
			again, retry = time.After(retry), min(2*retry, retryLast)
			continue
		}
		retry = retryFirst
	}
}

// apply makes one pass.
func (m *Mesh) apply() error {
	m.mu.Lock()
	self, peers := m.self, m.peers
	m.mu.Unlock()
	if len(self.Pods) == 0 {
		return nil // not known yet: what is there stays
	}
	k := kernel{m.h, m.crypt}
	s := plan(self, peers, k.neighbour)
	links, err := k.apply(self, s)
	if err != nil {
		return err
	}
	m.say(s, peers)
	m.aim(k.targets(self, s, peers, links))
	return nil
}

// say logs how each node is reached, when that is new.
func (m *Mesh) say(s spec, peers []Peer) {
	now := map[string]string{}
	for _, p := range peers {
		var ways []string
		for _, r := range s.Routes {
			if !slices.Contains(p.Pods, r.Dst) {
				continue
			}
			switch r.Way {
			case refused:
			case direct:
				ways = append(ways, fmt.Sprintf("%v by %v", r.Dst, r.Via))
			default:
				ways = append(ways, fmt.Sprintf("%v by %v", r.Dst, r.Way))
			}
		}
		now[p.Name] = strings.Join(ways, ", ")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, way := range now {
		if m.said[name] == way {
			continue
		}
		if way == "" {
			m.log.Warn("pod network: no way to the pods of a node: it has no address that this node can use, its networks are another's, or it has no key where encryption is wanted", "node", name)
		} else {
			m.log.Info("pod network: way to the pods of a node", "node", name, "way", way)
		}
	}
	m.said = now
}

// Reset removes what a Mesh made in the calling thread's network namespace.
func Reset() error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("mesh: netlink: %w", err)
	}
	defer h.Close()
	_, err = kernel{h, nil}.apply(Self{}, spec{})
	return err
}
