package proxy

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/celox/celox/internal/client/informers"
)

const (
	// replaceAbove is how many changes at once are cheaper made by building everything anew.
	replaceAbove = 2000
	retryFirst   = time.Second
	retryLast    = 30 * time.Second
)

// Datapath is what carries packets. One goroutine uses it.
type Datapath interface {
	// Replace makes all the only frontends. What works before goes on working until then.
	Replace(all map[Key]*Frontend) error
	// Update changes some; nil is one that is gone. After an error only Replace helps.
	Update(changed map[Key]*Frontend) error
	// Intact reports whether nobody has interfered.
	Intact() (bool, error)
	// Close ends our part; what the kernel does goes on.
	Close() error
}

// Config is what New needs.
type Config struct {
	// NodeName is the node that the proxy works for.
	NodeName string
	// Informers of the API; the caller starts them.
	Informers *informers.Factory
	// Datapath is closed when Run ends.
	Datapath Datapath
	// Tampering is signalled when somebody may have changed what the datapath made; nil never is.
	Tampering <-chan struct{}
	// HealthPort is where others ask whether services work here (/healthz, /livez); 0 is nowhere.
	HealthPort uint16
	// Status is what this machine may ask about the proxy.
	Status  Status
	Metrics *Metrics
	Log     *slog.Logger
}

// Proxy keeps a datapath to what the API says.
type Proxy struct {
	cfg      Config
	services corelisters.ServiceLister
	slices   discoverylisters.EndpointSliceLister
	nodes    corelisters.NodeLister
	synced   []cache.InformerSynced
	wake     chan struct{} // capacity 1
	working  chan struct{} // closed when everything is in place for the first time
	health   health

	mu      sync.Mutex
	pending pending // guarded by mu
}

// pending is what changed since the last look.
type pending struct {
	services map[name]bool
	slices   map[name]map[string]bool // by service
	node     bool
	whole    bool
}

func newPending() pending {
	return pending{services: map[name]bool{}, slices: map[name]map[string]bool{}}
}

// New registers the proxy with the informers.
func New(cfg Config) (*Proxy, error) {
	services, slices, nodes := cfg.Informers.Core().V1().Services(), cfg.Informers.Discovery().V1().EndpointSlices(), cfg.Informers.Core().V1().Nodes()
	p := &Proxy{
		cfg: cfg, services: services.Lister(), slices: slices.Lister(), nodes: nodes.Lister(),
		wake: make(chan struct{}, 1), working: make(chan struct{}), pending: newPending(),
	}
	for _, w := range []struct {
		informer cache.SharedIndexInformer
		changed  func(obj any)
	}{
		{services.Informer(), func(obj any) {
			if s, ok := obj.(*corev1.Service); ok {
				p.note(func(w *pending) { w.services[name{s.Namespace, s.Name}] = true })
			}
		}},
		{slices.Informer(), func(obj any) {
			s, ok := obj.(*discoveryv1.EndpointSlice)
			if !ok || s.Labels[discoveryv1.LabelServiceName] == "" {
				return
			}
			n := name{s.Namespace, s.Labels[discoveryv1.LabelServiceName]}
			p.note(func(w *pending) {
				if w.slices[n] == nil {
					w.slices[n] = map[string]bool{}
				}
				w.slices[n][s.Name] = true
			})
		}},
		{nodes.Informer(), func(obj any) {
			if n, ok := obj.(*corev1.Node); ok && n.Name == cfg.NodeName {
				p.note(func(w *pending) { w.node = true })
			}
		}},
	} {
		changed := w.changed
		registration, err := w.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc: func(obj any) {
				cfg.Metrics.seen(obj, false)
				changed(obj)
			},
			UpdateFunc: func(old, obj any) {
				cfg.Metrics.seen(obj, false)
				changed(old) // a slice may have been another service's
				changed(obj)
			},
			DeleteFunc: func(obj any) {
				if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
					obj = gone.Obj
				}
				cfg.Metrics.seen(obj, true)
				changed(obj)
			},
		})
		if err != nil {
			return nil, err
		}
		p.synced = append(p.synced, registration.HasSynced)
	}
	return p, nil
}

func (p *Proxy) note(add func(*pending)) {
	p.mu.Lock()
	add(&p.pending)
	p.mu.Unlock()
	p.health.changed()
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// Again has the datapath made anew, because something changed that it asks for by itself.
func (p *Proxy) Again() { p.note(func(w *pending) { w.whole = true }) }

// Working is closed when all services that there were at the start work.
func (p *Proxy) Working() <-chan struct{} { return p.working }

// Run works until ctx ends. Services go on without it as they are.
func (p *Proxy) Run(ctx context.Context) (err error) {
	checks := &healthServers{log: p.cfg.Log, proxy: &p.health, running: map[uint16]*healthServer{}}
	var asked sync.WaitGroup
	defer func() {
		checks.close()
		asked.Wait()
		err = errors.Join(err, p.cfg.Datapath.Close())
	}()
	if p.cfg.HealthPort != 0 {
		asked.Go(func() {
			listenAlways(ctx, ":"+portName(p.cfg.HealthPort), &p.health, "health of the service proxy", p.cfg.Log)
		})
	}
	if p.cfg.Status.Address != "" {
		asked.Go(func() {
			listenAlways(ctx, p.cfg.Status.Address, p.cfg.Status.handler(), "status of the service proxy", p.cfg.Log)
		})
	}
	if !cache.WaitForCacheSync(ctx.Done(), p.synced...) {
		return nil
	}
	state := newState(node{name: p.cfg.NodeName, zone: p.zone()})
	applied := map[Key]*Frontend{} // what the datapath has
	whole, backoff := true, retryFirst
	var retry <-chan time.Time
	for {
		changed := change{}
		since := p.health.begin()
		p.cfg.Metrics.begin()
		begun := time.Now()
		whole = p.take(state, changed) || whole
		checks.set(state.healthChecks())
		err := p.apply(state, changed, applied, whole)
		p.health.end(since, err)
		p.cfg.Metrics.end(begun, whole, err)
		switch {
		case err != nil:
			p.cfg.Log.Error("service proxy: will try again", "after", backoff, "err", err)
			whole, retry, backoff = true, time.After(backoff), min(2*backoff, retryLast)
		default:
			whole, retry, backoff = false, nil, retryFirst
			select {
			case <-p.working:
			default:
				close(p.working)
			}
		}
		if !p.wait(ctx, retry, &whole) {
			return nil
		}
	}
}

// wait returns when there is something to do, false when there is nothing any more.
func (p *Proxy) wait(ctx context.Context, retry <-chan time.Time, whole *bool) bool {
	for {
		wake := p.wake
		if retry != nil {
			wake = nil // what failed is not tried with each change
		}
		select {
		case <-ctx.Done():
			return false
		case <-wake:
			return true
		case <-retry:
			return true
		case <-p.cfg.Tampering:
			ok, err := p.cfg.Datapath.Intact()
			if ok || err != nil && retry != nil {
				continue
			}
			p.cfg.Log.Warn("service proxy: somebody removed the rules; they are made again", "err", err)
			*whole = true
			return true
		}
	}
}

func (p *Proxy) lookAtNode() {
	n, err := p.nodes.Get(p.cfg.NodeName)
	if err != nil {
		n = nil // listers know no other error than that it is gone
	}
	p.health.look(n)
}

func (p *Proxy) zone() string {
	n, err := p.nodes.Get(p.cfg.NodeName)
	if err != nil {
		return ""
	}
	return n.Labels[corev1.LabelTopologyZone]
}

// take brings the state up to what the informers have, and adds what changed by it. It returns true if that is not all.
func (p *Proxy) take(s *state, changed change) (whole bool) {
	p.mu.Lock()
	work := p.pending
	p.pending = newPending()
	p.mu.Unlock()
	dirty := work.services
	for n := range work.services {
		svc, err := p.services.Services(n.namespace).Get(n.name)
		if err != nil {
			svc = nil // listers know no other error than that it is gone
		}
		s.setService(n, svc)
	}
	for n, names := range work.slices {
		dirty[n] = true
		for sliceName := range names {
			es, err := p.slices.EndpointSlices(n.namespace).Get(sliceName)
			if err != nil || es.Labels[discoveryv1.LabelServiceName] != n.name {
				es = nil
			}
			s.setSlice(n, sliceName, es)
		}
	}
	if work.node {
		p.lookAtNode()
		if zone := p.zone(); zone != s.node.zone {
			s.node.zone = zone
			for n := range s.services {
				dirty[n] = true
			}
		}
	}
	for n := range dirty {
		s.refresh(n, changed)
	}
	return work.whole
}

// apply brings the datapath to the state, by what changed or as a whole.
func (p *Proxy) apply(s *state, changed change, applied map[Key]*Frontend, whole bool) error {
	whole = whole || len(changed) > replaceAbove
	if whole {
		changed = s.all()
		for k := range applied {
			if changed[k] == nil {
				changed[k] = nil
			}
		}
	}
	for k, f := range changed {
		if applied[k] == f && !whole {
			delete(changed, k)
		}
	}
	if len(changed) == 0 && !whole {
		return nil
	}
	for k, f := range changed {
		if f == nil {
			delete(applied, k)
		} else {
			applied[k] = f
		}
	}
	if whole {
		return p.cfg.Datapath.Replace(applied)
	}
	return p.cfg.Datapath.Update(changed)
}
