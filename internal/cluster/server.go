package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"k8s.io/klog/v2"

	"github.com/celox/celox/internal/cluster/config"
	"github.com/celox/celox/internal/cluster/pki"
	"github.com/celox/celox/internal/cluster/version"
)

// Say prints a line for the person who started the server.
type Say func(format string, args ...any)

// Server is a control plane and, unless it is disabled, a node in one process.
type Server struct {
	cfg     config.Server
	log     *slog.Logger
	say     Say
	started time.Time
	// processors are set by Run.
	processors *processors
	nodeIPs    []netip.Addr // one of each family at most; the first is the node's primary address
	// simulation is empty but for simulators.
	simulation Simulation
}

// NewServer returns a server for a complete configuration (config.Server.Complete). Nothing is started or written yet.
func NewServer(cfg config.Server, log *slog.Logger, say Say) (*Server, error) {
	if os.Geteuid() != 0 && !cfg.DisableNode {
		return nil, errors.New("a node needs root: run as root, or give --disable-node for a control plane only")
	}
	return &Server{cfg: cfg, log: log, say: say}, nil
}

// Run starts everything, and stops it when ctx ends; containers go on. It returns early with what kept the server from running.
func (s *Server) Run(ctx context.Context) error {
	s.started = time.Now()
	klog.SetSlogLogger(s.log) // the libraries log through klog, which is global by nature
	tuneGC()
	s.processors = newProcessors()
	if err := checkOwn(s.cfg.DataDir); err != nil {
		return err
	}
	release, err := lock(s.cfg.DataDir)
	if err != nil {
		return err
	}
	defer release()
	began := marked(s.cfg.DataDir)
	if err := Mark(s.cfg.DataDir); err != nil {
		return err
	}
	listener, free, err := s.begin()
	if err != nil {
		if !began {
			unmark(s.cfg.DataDir) // a cluster that never began has nothing to reset
		}
		return err
	}
	defer free()
	what := "control plane and node " + s.cfg.NodeName
	if s.cfg.DisableNode {
		what = "control plane"
	}
	s.say("starting celox %s (Kubernetes %s): %s, data in %s", version.Build, version.Kubernetes, what, s.cfg.DataDir)

	certs, err := pki.Ensure(filepath.Join(s.cfg.DataDir, pkiDir), s.pkiOptions())
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	run := newGroup(ctx)
	err = run.to(func() {
		if err := s.start(run, certs, listener); err != nil {
			run.fail(err)
		}
	})
	if errors.Is(err, syscall.ENOSPC) {
		return fmt.Errorf("%w: the disk of %s is full: free some space and start again; nothing that was confirmed is lost", err, s.cfg.DataDir)
	}
	if ctx.Err() != nil && (err == nil || errors.Is(err, context.Canceled)) {
		if s.cfg.DisableNode {
			s.say("stopped")
		} else {
			s.say("stopped; containers go on running (celox reset removes them)")
		}
		return nil
	}
	return err
}

// begin finds the addresses of the machine, opens the API's port, and takes the machine's network until free: nothing should be written where there is no place to serve it.
func (s *Server) begin() (_ net.Listener, free func(), err error) {
	if s.nodeIPs, err = nodeIPs(s.cfg); err != nil {
		return nil, nil, err
	}
	listener, err := listen(s.cfg.BindAddress, s.cfg.HTTPSPort, "https-port")
	if err != nil {
		return nil, nil, err
	}
	if s.cfg.DisableNode {
		return listener, func() {}, nil
	}
	if err = errors.Join(checkNodeIPs(s.cfg.Node), s.checkRanges()); err == nil {
		free, err = takeNetwork()
	}
	if err != nil {
		return nil, nil, errors.Join(err, listener.Close())
	}
	return listener, free, nil
}

// start brings the rooms up in the order in which they need each other. What it starts, it gives to run.
func (s *Server) start(run *group, certs *pki.PKI, listener net.Listener) error {
	run.run("processors", s.processors.follow)
	plane, err := s.startControlPlane(run, certs, listener)
	if err != nil {
		return err
	}
	s.say("API is ready at %s after %s", clientURL(s.cfg), s.since())
	if err := s.writeKubeconfigs(certs); err != nil {
		return err
	}
	s.say("kubeconfig is %s", s.cfg.WriteKubeconfig)
	if err := s.startControllers(run, plane); err != nil {
		return err
	}
	plane.startup.reach(controllersBegun)
	if f := s.simulation.Ready; f != nil {
		f(plane.handler, plane.sources())
	}
	if s.cfg.DisableNode {
		return nil
	}
	return s.startNode(run, plane)
}

func (s *Server) since() time.Duration { return time.Since(s.started).Round(time.Millisecond) }

// writeKubeconfigs writes the administrator's kubeconfig where celox kubectl looks for it, and where the user wants it.
func (s *Server) writeKubeconfigs(certs *pki.PKI) error {
	cert, key := certs.Admin().PEM()
	data, err := pki.Kubeconfig(clientURL(s.cfg), certs.CACertPEM(), cert, key)
	if err != nil {
		return fmt.Errorf("kubeconfig: %w", err)
	}
	own := filepath.Join(s.cfg.DataDir, AdminKubeconfig)
	for _, path := range []string{own, s.cfg.WriteKubeconfig} {
		if have, err := os.ReadFile(path); err == nil && string(have) == string(data) {
			continue
		}
		if err := writeFile(path, data, 0o600); err != nil {
			return fmt.Errorf("write kubeconfig: %w", err)
		}
	}
	return nil
}

// group runs the parts of a server. The first that fails ends all; they end in the reverse order of their start, so that those that
// write to the API are gone before it is.
type group struct {
	parent context.Context
	broken chan error // from abandon
	mu     sync.Mutex // guards parts, err
	parts  []*part
	err    error
	failed chan struct{}
}

type part struct {
	name   string
	cancel context.CancelFunc
	done   chan struct{}
}

func newGroup(ctx context.Context) *group {
	return &group{parent: ctx, broken: make(chan error, 1), failed: make(chan struct{})}
}

// run starts a part, which is to run until its context ends.
func (g *group) run(name string, f func(ctx context.Context) error) {
	// Not g.parent: the end of the process is passed on part by part.
	ctx, cancel := context.WithCancel(context.WithoutCancel(g.parent))
	p := &part{name: name, cancel: cancel, done: make(chan struct{})}
	g.mu.Lock()
	g.parts = append(g.parts, p)
	g.mu.Unlock()
	go func() {
		defer close(p.done)
		if err := f(ctx); err != nil && ctx.Err() == nil {
			g.fail(fmt.Errorf("%s: %w", name, err))
		}
	}()
}

// atEnd adds something to do when all that was started later has ended.
func (g *group) atEnd(name string, f func() error) {
	g.run(name, func(ctx context.Context) error {
		<-ctx.Done()
		return f()
	})
}

func (g *group) fail(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err == nil {
		g.err = err
		close(g.failed)
	}
}

// abandon makes to return err at once. It is for what ends the process, because its parts cannot be ended any more.
func (g *group) abandon(err error) {
	select {
	case g.broken <- err:
	default: // only the first counts
	}
}

// to starts parts, waits for them as wait does and returns what it returns, or what they were abandoned for.
func (g *group) to(start func()) error {
	ended := make(chan error, 1)
	go func() { // nobody waits for it when the group was abandoned: it hangs with the parts then
		start()
		ended <- g.wait()
	}()
	select {
	case err := <-ended:
		return err
	case err := <-g.broken:
		return err
	}
}

// wait blocks until the parent's end or a failure, ends all parts and returns the failure.
func (g *group) wait() error {
	select {
	case <-g.parent.Done():
	case <-g.failed:
	}
	for {
		g.mu.Lock()
		if len(g.parts) == 0 {
			defer g.mu.Unlock()
			return g.err
		}
		p := g.parts[len(g.parts)-1]
		g.parts = g.parts[:len(g.parts)-1]
		g.mu.Unlock()
		p.cancel()
		<-p.done
	}
}
