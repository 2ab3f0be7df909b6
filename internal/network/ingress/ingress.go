package ingress

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"

	"github.com/celox/celox/internal/client/informers"
	"github.com/celox/celox/internal/network/ingress/route"
	"github.com/celox/celox/internal/network/ingress/serve"
)

const (
	// listenRetry is how long to wait when a port is taken.
	listenRetry = 10 * time.Second
	// secretTime bounds the wait for a secret that was never seen.
	secretTime = 5 * time.Second
	// keptSecretTime is the same for one that was kept.
	keptSecretTime = 50 * time.Millisecond
	// mostTold is how many Ingresses are told of a port that is taken.
	mostTold = 16
	// maxLoops is how many loops carry plain connections at most.
	maxLoops = 16
)

// PortTaken is the reason of the event on an Ingress whose port another program of the machine has.
const PortTaken = "PortTaken"

// Secrets are the secrets that Ingresses name.
type Secrets interface {
	// Use says which are needed from now on. A change of one of them is to be told by Ingress.Again.
	Use(names []types.NamespacedName)
	// Secret returns one; an error says that there is none, or that it cannot be read.
	Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error)
}

// Config is what New needs.
type Config struct {
	// Informers of the API; the caller starts them.
	Informers *informers.Factory
	Secrets   Secrets
	// HTTPPort and HTTPSPort are those of the machine.
	HTTPPort, HTTPSPort int
	// Listen opens a port; nil is on all addresses.
	Listen func(port int) (net.Listener, error)
	// Tell says something about an Ingress in an event of type Warning.
	Tell func(i *networkingv1.Ingress, reason, message string)
	// Say says something to whoever started the node.
	Say func(format string, args ...any)
	// Cores is how many processors the program has when it is busy. More is told how many more than else it needs from now on, or fewer; nil is nobody,
	// for a program that has what Go gives it.
	Cores int
	More  func(n int)
	// Serve is how requests are carried; its ports and log are set here.
	Serve serve.Config
	// Keep is for a start while the API is away; nil is a node that never has one.
	Keep *Keep
	Log  *slog.Logger
}

// Ingress is the part of one node.
type Ingress struct {
	cfg    Config
	server *serve.Server
	live   source // of the informers
	synced []cache.InformerSynced
	keeper *keeper       // nil if nothing is to be kept
	kept   *kept         // what an earlier life knew; nil if there is nothing
	wake   chan struct{} // capacity 1

	mu      sync.Mutex
	whole   bool                                    // guarded by mu: the table is to be made again
	changed map[types.NamespacedName]bool           // guarded by mu: services whose endpoints changed
	used    map[types.NamespacedName]bool           // guarded by mu: services that the table leads to, or would if they were there
	secrets map[types.NamespacedName]*corev1.Secret // guarded by mu, never changed: those of the table

	// What follows belongs to Run.
	now      *source // live, or kept as long as the informers have not heard of everything
	backends map[types.NamespacedName][]route.Backend
	pairs    map[types.NamespacedName]pair
	open     *listening
	failed   string             // what was said when the ports could not be opened
	told     map[types.UID]bool // Ingresses that have the event of it
	retry    time.Duration
	patience time.Duration // keepPatience, but for tests
}

// pair is a certificate as it was read from a secret.
type pair struct {
	version string
	cert    *tls.Certificate
	err     error
}

// New registers with the informers. Nothing is opened yet.
func New(cfg Config) (*Ingress, error) {
	if cfg.Listen == nil {
		cfg.Listen = func(port int) (net.Listener, error) { return net.Listen("tcp", ":"+strconv.Itoa(port)) }
	}
	if cfg.More == nil {
		cfg.Cores, cfg.More = runtime.GOMAXPROCS(0), func(int) {}
	}
	cfg.Serve.HTTPSPort, cfg.Serve.Log, cfg.Serve.Loops = cfg.HTTPSPort, cfg.Log, min(cfg.Cores, maxLoops)
	f := cfg.Informers
	ingresses, classes := f.Networking().V1().Ingresses(), f.Networking().V1().IngressClasses()
	services, slices := f.Core().V1().Services(), f.Discovery().V1().EndpointSlices()
	g := &Ingress{
		cfg: cfg, server: serve.New(cfg.Serve), live: source{ingresses.Lister(), classes.Lister(), services.Lister(), slices.Lister()},
		wake: make(chan struct{}, 1), changed: map[types.NamespacedName]bool{}, retry: listenRetry, patience: keepPatience,
	}
	g.now = &g.live
	if cfg.Keep != nil {
		g.keeper, g.kept = newKeeper(*cfg.Keep, cfg.Log)
	}
	whole := func(any) { g.Again() }
	service := func(obj any) {
		if s, ok := obj.(*corev1.Service); ok && g.uses(s.Namespace, s.Name) {
			g.Again()
		}
	}
	slice := func(obj any) {
		s, ok := obj.(*discoveryv1.EndpointSlice)
		if name := ""; ok {
			name = s.Labels[discoveryv1.LabelServiceName]
			g.endpointsChanged(types.NamespacedName{Namespace: s.Namespace, Name: name})
		}
	}
	for _, w := range []struct {
		informer cache.SharedIndexInformer
		changed  func(obj any)
	}{{ingresses.Informer(), whole}, {classes.Informer(), whole}, {services.Informer(), service}, {slices.Informer(), slice}} {
		changed := w.changed
		registration, err := w.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc: changed,
			UpdateFunc: func(old, obj any) {
				if same(old, obj) {
					return
				}
				changed(old) // a slice may have been another service's
				changed(obj)
			},
			DeleteFunc: func(obj any) {
				if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
					obj = gone.Obj
				}
				changed(obj)
			},
		})
		if err != nil {
			return nil, fmt.Errorf("ingress: %w", err)
		}
		g.synced = append(g.synced, registration.HasSynced)
	}
	return g, nil
}

// same says whether an update changed nothing that counts: of an Ingress its status does not.
func same(old, obj any) bool {
	was, ok := old.(*networkingv1.Ingress)
	is, ok2 := obj.(*networkingv1.Ingress)
	if !ok || !ok2 || was.Generation != is.Generation || len(was.Annotations) != len(is.Annotations) {
		return false
	}
	for k, v := range was.Annotations {
		if w, ok := is.Annotations[k]; !ok || v != w {
			return false
		}
	}
	return was.UID == is.UID
}

// Server is what carries requests: its metrics are for the node's.
func (g *Ingress) Server() *serve.Server { return g.server }

// Again has the table made again.
func (g *Ingress) Again() {
	g.mu.Lock()
	g.whole = true
	g.mu.Unlock()
	g.poke()
}

func (g *Ingress) uses(namespace, name string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.used[types.NamespacedName{Namespace: namespace, Name: name}]
}

func (g *Ingress) endpointsChanged(n types.NamespacedName) {
	g.mu.Lock()
	used := g.used[n]
	if used {
		g.changed[n] = true
	}
	g.mu.Unlock()
	if used {
		g.poke()
	}
}

func (g *Ingress) poke() {
	select {
	case g.wake <- struct{}{}:
	default:
	}
}

// Run works until ctx ends.
func (g *Ingress) Run(ctx context.Context) error {
	var running sync.WaitGroup
	defer func() {
		g.shut()
		g.server.Close()
		running.Wait()
	}()
	synced := make(chan struct{})
	running.Go(func() {
		if cache.WaitForCacheSync(ctx.Done(), g.synced...) {
			close(synced)
		}
	})
	if !g.begin(ctx, synced) {
		return nil
	}
	if g.now == &g.live {
		synced = nil
	}
	if g.keeper != nil {
		running.Go(func() { g.keeper.run(ctx, g.contents) })
	}
	g.Again()
	var retry <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-g.wake:
		case <-synced:
			synced = nil
			g.takeOver()
		case <-retry:
			retry = nil
		case err := <-g.broken():
			g.cfg.Log.Error("ingress: the ports were lost", "err", err)
			g.open.cancel()
			g.open = nil
		}
		g.update(ctx)
		if !g.wanted() {
			g.shut()
			g.failed, g.told, retry = "", nil, nil
			continue
		}
		if g.open == nil && retry == nil {
			if err := g.listen(ctx); err != nil {
				g.complain(err)
				retry = time.After(g.retry)
			}
		} else if g.open == nil {
			g.tell()
		}
	}
}

// begin waits until the informers have heard of everything, or takes what was kept if that takes long. False is that ctx has ended.
func (g *Ingress) begin(ctx context.Context, synced <-chan struct{}) bool {
	var late <-chan time.Time
	if g.kept != nil {
		late = time.After(g.patience)
	}
	select {
	case <-ctx.Done():
		return false
	case <-synced:
	case <-late:
		g.now = &g.kept.source
		g.cfg.Log.Info("ingress: the API is away: what is served is what it said last", "file", g.keeper.Path)
	}
	return true
}

// takeOver turns from what was kept to what the informers have. Connections to endpoints that are still there stay.
func (g *Ingress) takeOver() {
	g.cfg.Log.Info("ingress: the API says again what is served")
	g.now = &g.live
	g.mu.Lock()
	defer g.mu.Unlock()
	g.whole = true
	for n := range g.backends { // those that stay in the table have endpoints of the file
		g.changed[n] = true
	}
}

// wanted says whether there is an Ingress of ours.
func (g *Ingress) wanted() bool { return g.backends != nil }

// update takes up what changed.
func (g *Ingress) update(ctx context.Context) {
	g.mu.Lock()
	whole, changed := g.whole, g.changed
	g.whole, g.changed = false, map[types.NamespacedName]bool{}
	g.mu.Unlock()
	if whole {
		g.compile(ctx)
	}
	for n := range changed {
		for _, b := range g.backends[n] {
			g.server.SetEndpoints(b, g.endpoints(b))
		}
	}
	if g.keeper != nil && g.now == &g.live {
		g.keeper.poke()
	}
}

// endpoints are those of a backend.
func (g *Ingress) endpoints(b route.Backend) []netip.AddrPort {
	of, err := g.now.slicesOf(b.Namespace, b.Service)
	if err != nil {
		return nil // a cache does not fail
	}
	return route.Endpoints(b, of)
}

// compile makes the table.
func (g *Ingress) compile(ctx context.Context) {
	ours, classes, err := g.now.ours()
	if err != nil {
		g.cfg.Log.Error("ingress", "err", err) // caches do not fail
		return
	}
	var names []types.NamespacedName
	for _, i := range ours {
		for _, s := range route.SecretsOf(i) {
			names = append(names, types.NamespacedName{Namespace: i.Namespace, Name: s})
		}
	}
	g.cfg.Secrets.Use(names)
	secrets, cancel := g.reader(ctx)
	defer cancel()
	used := map[types.NamespacedName]bool{}
	pairs := map[types.NamespacedName]pair{}
	// From here on a service that is asked for is one that is followed, also if it is not there yet.
	table, _ := route.Compile(route.Sources{
		Ingresses: ours, Classes: classes,
		Service: func(namespace, name string) *corev1.Service {
			n := types.NamespacedName{Namespace: namespace, Name: name}
			if !used[n] {
				used[n] = true
				g.mu.Lock()
				if g.used == nil {
					g.used = map[types.NamespacedName]bool{}
				}
				g.used[n] = true
				g.mu.Unlock()
			}
			s, err := g.now.services.Services(namespace).Get(name)
			if err != nil {
				return nil // listers know no other error than that it is gone
			}
			return s
		},
		Secret: secrets.get,
		KeyPair: func(s *corev1.Secret) (*tls.Certificate, error) {
			n := types.NamespacedName{Namespace: s.Namespace, Name: s.Name}
			p, ok := g.pairs[n]
			if version := string(s.UID) + "/" + s.ResourceVersion; !ok || p.version != version {
				p = pair{version: version}
				p.cert, p.err = route.KeyPair(s)
			}
			pairs[n] = p
			return p.cert, p.err
		},
	})
	g.pairs = pairs
	g.backends = nil
	if len(table.Ingresses) > 0 {
		g.backends = map[types.NamespacedName][]route.Backend{}
	}
	for b := range table.Backends() {
		n := types.NamespacedName{Namespace: b.Namespace, Name: b.Service}
		g.backends[n] = append(g.backends[n], b)
	}
	g.server.SetTable(table, g.endpoints)
	g.mu.Lock()
	g.used, g.secrets = used, secrets.have
	g.mu.Unlock()
}

// secretReader reads secrets for one table.
type secretReader struct {
	*Ingress
	ctx  context.Context // of the wait for all of them: they are asked for at the same time
	have map[types.NamespacedName]*corev1.Secret
}

func (g *Ingress) reader(ctx context.Context) (*secretReader, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(ctx, secretTime)
	return &secretReader{Ingress: g, ctx: ctx, have: map[types.NamespacedName]*corev1.Secret{}}, cancel
}

// get returns a secret; nil is none. As long as the API has not said anything about it, it is as it was kept.
func (r *secretReader) get(namespace, name string) *corev1.Secret {
	n := types.NamespacedName{Namespace: namespace, Name: name}
	var old *corev1.Secret
	if r.kept != nil {
		old = r.kept.secrets[n]
	}
	ctx, cancel := r.ctx, context.CancelFunc(func() {})
	if old != nil { // there is no need to wait
		ctx, cancel = context.WithTimeout(ctx, keptSecretTime)
	}
	defer cancel()
	s, err := r.cfg.Secrets.Secret(ctx, namespace, name)
	switch {
	case err == nil:
	case apierrors.IsNotFound(err), apierrors.IsForbidden(err):
		s = nil
	default:
		if ctx.Err() != nil {
			time.AfterFunc(secretTime, r.Again) // its first word does not come by Again
		}
		s = old
	}
	if err != nil {
		r.cfg.Log.Debug("ingress: secret", "namespace", namespace, "name", name, "kept", s != nil, "err", err)
	}
	if s != nil {
		r.have[n] = s
	}
	return s
}

// listening is the two ports and who serves them.
type listening struct {
	cancel context.CancelFunc
	ended  chan error
}

func (g *Ingress) broken() <-chan error {
	if g.open == nil {
		return nil
	}
	return g.open.ended
}

// listen opens the ports.
func (g *Ingress) listen(ctx context.Context) error {
	plain, err := g.cfg.Listen(g.cfg.HTTPPort)
	if err != nil {
		return err
	}
	secure, err := g.cfg.Listen(g.cfg.HTTPSPort)
	if err != nil {
		return errors.Join(err, plain.Close())
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	o := &listening{cancel: cancel, ended: make(chan error, 1)}
	go func() {
		// A loop under load is always there when Go looks: the program's other goroutines keep as many processors as they have without loops.
		g.cfg.More(g.cfg.Serve.Loops)
		err := g.server.Serve(ctx, plain, secure)
		g.cfg.More(-g.cfg.Serve.Loops)
		o.ended <- err
	}()
	g.open = o
	if g.failed != "" {
		g.cfg.Say("ingress works now, on ports %d and %d", g.cfg.HTTPPort, g.cfg.HTTPSPort)
	}
	g.failed, g.told = "", nil
	g.cfg.Log.Info("ingress: listening", "http", g.cfg.HTTPPort, "https", g.cfg.HTTPSPort)
	return nil
}

// shut closes the ports, when requests under way have had their time.
func (g *Ingress) shut() {
	if g.open == nil {
		return
	}
	g.open.cancel()
	if err := <-g.open.ended; err != nil {
		g.cfg.Log.Warn("ingress", "err", err)
	}
	g.open = nil
}

// complain says that the ports cannot be opened: once to whoever started the node, and on the Ingresses, so that those who wait for them know.
func (g *Ingress) complain(err error) {
	if g.failed != err.Error() {
		g.failed = err.Error()
		g.cfg.Say("ingress does not work yet: %v (does another program of this machine have the port? --ingress-http-port and --ingress-https-port take others, --disable=ingress leaves it out)", err)
	}
	g.tell()
}

// tell tells the Ingresses that do not know it yet that the ports cannot be opened.
func (g *Ingress) tell() {
	if g.now != &g.live {
		return // there is nobody to write it down
	}
	ours, _, err := g.now.ours()
	if err != nil {
		return // caches do not fail
	}
	for _, i := range ours {
		if len(g.told) >= mostTold || g.told[i.UID] {
			continue
		}
		if g.told == nil {
			g.told = map[types.UID]bool{}
		}
		g.told[i.UID] = true
		g.cfg.Tell(i, PortTaken, "this node cannot serve it yet: "+g.failed)
	}
}
