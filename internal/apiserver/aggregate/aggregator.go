package aggregate

import (
	"context"
	"crypto/tls"
	"log/slog"
	"maps"
	"net"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	apiregistrationclient "k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset/typed/apiregistration/v1"

	"github.com/celox/celox/internal/store"
)

// Resolver finds an address (host and port) behind a port of a service.
type Resolver interface {
	ResolveEndpoint(ctx context.Context, namespace, name string, port int32) (address string, err error)
}

// Objects finds services and where they run; what it returns is only read.
type Objects interface {
	Service(ctx context.Context, namespace, name string) (*corev1.Service, error)
	EndpointSlices(ctx context.Context, namespace, service string) ([]*discoveryv1.EndpointSlice, error)
}

// Config is what an Aggregator is made of. All but Logger is required.
type Config struct {
	// APIServices, Definitions (of custom resources), Services and EndpointSlices are followed.
	APIServices, Definitions, Services, EndpointSlices store.Reader
	Objects                                            Objects
	Resolver                                           Resolver
	// Dial connects to the addresses that the Resolver finds; nil does it straight.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Certificate is the front proxy's client certificate, asked for at each connection.
	Certificate func() *tls.Certificate
	// Local are the group versions that this server serves, with the priorities of their APIServices.
	Local []Local
	// Logger is silent if it is nil.
	Logger *slog.Logger
}

// Local is a group version that is served here.
type Local struct {
	schema.GroupVersion
	GroupPriority, VersionPriority int32
	// Yields says that another server may take the place of this one, by its own APIService; for as long as there is that one.
	Yields bool
}

// pause is how long to wait before a watch that broke is begun again.
const pause = time.Second

// Aggregator passes requests on. Serve may be called from many goroutines, before, while and after it runs.
type Aggregator struct {
	cfg    Config
	log    *slog.Logger
	client apiregistrationclient.APIServiceInterface

	table    atomic.Pointer[map[schema.GroupVersion]*backend] // those of other servers
	revision atomic.Uint64
	// registered is set once the APIServices of all local groups are there.
	registered atomic.Bool

	mu       sync.Mutex // guards backends and groups
	backends map[string]*backend
	groups   map[string]uint64 // the revision of each group that another server has a part in

	custom customGroups
}

// New returns an Aggregator that knows the APIServices that are stored now; Run follows them.
func New(ctx context.Context, cfg Config) (*Aggregator, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	a := &Aggregator{cfg: cfg, log: cfg.Logger, backends: map[string]*backend{}, groups: map[string]uint64{}}
	a.table.Store(&map[schema.GroupVersion]*backend{})
	l, err := cfg.APIServices.List(ctx, store.ListOptions{Match: store.NotOlderThan})
	if err != nil {
		return nil, err
	}
	for _, item := range l.Items {
		if s, ok := item.Object.(*apiregistrationv1.APIService); ok {
			a.set(s)
		}
	}
	return a, nil
}

// Run keeps the APIServices true through client until ctx ends.
func (a *Aggregator) Run(ctx context.Context, client apiregistrationclient.APIServiceInterface) {
	a.client = client
	var wg sync.WaitGroup
	defer wg.Wait()
	go1 := func(what string, f func(context.Context) error) {
		wg.Go(func() {
			for ctx.Err() == nil {
				if err := f(ctx); err != nil && ctx.Err() == nil {
					a.log.Debug("following again", "what", what, "error", err)
					select {
					case <-ctx.Done():
					case <-time.After(pause):
					}
				}
			}
		})
	}
	wg.Go(func() { a.register(ctx) })
	go1("customresourcedefinitions", a.followDefinitions)
	go1("apiservices", func(ctx context.Context) error { return a.followAPIServices(ctx, &wg) })
	go1("services", func(ctx context.Context) error { return a.followTargets(ctx, a.cfg.Services) })
	go1("endpointslices", func(ctx context.Context) error { return a.followTargets(ctx, a.cfg.EndpointSlices) })
}

// set takes over an APIService as it is now.
func (a *Aggregator) set(s *apiregistrationv1.APIService) {
	a.mu.Lock()
	defer a.mu.Unlock()
	old := a.backends[s.Name]
	if old != nil && reflect.DeepEqual(old.spec, s.Spec) && old.uid == s.UID {
		old.available.Store(isAvailable(s))
		return
	}
	if old == nil && s.Spec.Service == nil {
		return
	}
	if old != nil {
		old.stop()
		delete(a.backends, s.Name)
	}
	if s.Spec.Service != nil {
		b := newBackend(a, s)
		if old != nil && old.spec.Group == s.Spec.Group {
			b.found.Store(old.found.Load())
		}
		a.backends[s.Name] = b
	}
	a.publish(s.Spec.Group)
}

func (a *Aggregator) remove(name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if old := a.backends[name]; old != nil {
		old.stop()
		delete(a.backends, name)
		a.publish(old.spec.Group)
	}
}

// publish makes the backends known to requests, after a change of a group. The caller holds the lock.
func (a *Aggregator) publish(group string) {
	table := make(map[schema.GroupVersion]*backend, len(a.backends))
	for _, b := range a.backends {
		table[b.gv] = b
	}
	a.table.Store(&table)
	a.changed(group)
}

// changed notes that what discovery shows of a group has changed. The caller holds the lock.
func (a *Aggregator) changed(group string) {
	a.groups[group] = a.revision.Add(1)
	for _, b := range a.backends {
		if b.spec.Group == group {
			return
		}
	}
	delete(a.groups, group)
}

func (a *Aggregator) followAPIServices(ctx context.Context, wg *sync.WaitGroup) error {
	w, err := a.cfg.APIServices.Watch(ctx, store.WatchOptions{SendInitial: true, Bookmarks: true})
	if err != nil {
		return err
	}
	defer w.Stop()
	seen, settled := map[string]bool{}, false
	start := func(b *backend) {
		if b != nil {
			wg.Go(func() { b.run(ctx) })
		}
	}
	for {
		events, err := w.Next(ctx)
		if err != nil {
			return err
		}
		for _, e := range events {
			switch e.Type {
			case store.Added, store.Modified:
				s, ok := e.Item.Object.(*apiregistrationv1.APIService)
				if !ok {
					continue
				}
				a.set(s)
				start(a.asleep(s.Name))
				if !settled {
					seen[s.Name] = true
				}
			case store.Deleted:
				a.remove(e.Item.Key)
			case store.Bookmark:
				if e.Initial && !settled {
					settled = true
					a.forget(seen)
				}
			}
		}
	}
}

// asleep returns the backend of a name if nobody watches it yet.
func (a *Aggregator) asleep(name string) *backend {
	a.mu.Lock()
	defer a.mu.Unlock()
	if b := a.backends[name]; b != nil && !b.started {
		b.started = true
		return b
	}
	return nil
}

// forget removes what was deleted while nobody watched.
func (a *Aggregator) forget(seen map[string]bool) {
	a.mu.Lock()
	names := slices.Collect(maps.Keys(a.backends))
	a.mu.Unlock()
	for _, name := range names {
		if !seen[name] {
			a.remove(name)
		}
	}
}

// followTargets wakes the checks of the backends that a service, or the endpoints of one, belong to.
func (a *Aggregator) followTargets(ctx context.Context, r store.Reader) error {
	w, err := r.Watch(ctx, store.WatchOptions{FromNow: true})
	if err != nil {
		return err
	}
	defer w.Stop()
	a.wake("", "") // what happened before
	for {
		events, err := w.Next(ctx)
		if err != nil {
			return err
		}
		if len(*a.table.Load()) == 0 {
			continue
		}
		for _, e := range events {
			if e.Item == nil {
				continue
			}
			name := e.Item.Object.GetName()
			if s, ok := e.Item.Object.(*discoveryv1.EndpointSlice); ok {
				name = s.Labels[discoveryv1.LabelServiceName]
			}
			a.wake(e.Item.Object.GetNamespace(), name)
		}
	}
}

// wake lets the backends of a service be checked; "" is all.
func (a *Aggregator) wake(namespace, name string) {
	for _, b := range *a.table.Load() {
		if s := b.spec.Service; name == "" || s.Namespace == namespace && s.Name == name {
			select {
			case b.poke <- struct{}{}:
			default:
			}
		}
	}
}

func isAvailable(s *apiregistrationv1.APIService) bool {
	for i := range s.Status.Conditions {
		if c := &s.Status.Conditions[i]; c.Type == apiregistrationv1.Available {
			return c.Status == apiregistrationv1.ConditionTrue
		}
	}
	return false
}
