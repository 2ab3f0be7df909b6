package apiserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiversion "k8s.io/apimachinery/pkg/version"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/utils/clock"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/apiserver/admission"
	"github.com/celox/celox/internal/apiserver/allocate"
	"github.com/celox/celox/internal/apiserver/apply"
	"github.com/celox/celox/internal/apiserver/audit"
	"github.com/celox/celox/internal/apiserver/custom"
	"github.com/celox/celox/internal/apiserver/flow"
	"github.com/celox/celox/internal/apiserver/request"
	"github.com/celox/celox/internal/apiserver/share"
	"github.com/celox/celox/internal/apiserver/webhook"
	"github.com/celox/celox/internal/apiserver/wire"
	"github.com/celox/celox/internal/store"
)

// Authenticator finds out who asks. Not ok is "nobody that I know", which is answered with 401 as an error is.
type Authenticator interface {
	AuthenticateRequest(r *http.Request) (u user.Info, ok bool, err error)
}

// Connector serves the subresources that are streams to or through a node: log, exec, attach, portforward and proxy. The
// request is authenticated and authorized.
type Connector interface {
	Connect(w http.ResponseWriter, r *http.Request, info request.Info) error
}

// TokenIssuer answers a TokenRequest for a service account: it checks it, and returns it completed with defaults and the token.
type TokenIssuer interface {
	Request(ctx context.Context, namespace, name string, in *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error)
}

// TokenReviewer tells whose a bearer token is, for TokenReview, and which of the asked audiences it is good for.
type TokenReviewer interface {
	ReviewToken(ctx context.Context, token string, audiences []string) (u user.Info, goodFor []string, err error)
}

// RuleResolver lists what a user may do in a namespace, for SelfSubjectRulesReview.
type RuleResolver interface {
	RulesFor(ctx context.Context, u user.Info, namespace string) (authorizationv1.SubjectRulesReviewStatus, error)
}

// Check is one line of /livez, /readyz and /healthz.
type Check struct {
	Name string
	// Run returns what is wrong, or nil.
	Run func(ctx context.Context) error
	// ReadyOnly leaves the check out of /livez and /healthz.
	ReadyOnly bool
}

// Limits bound what the server does at a time. Zero values are the defaults.
type Limits struct {
	// ReadOnly and Mutating together are the seats that priority and fairness shares out; 0 is 400 and 200.
	ReadOnly, Mutating int
	// Timeout is how long a request that is no stream may take; 0 is 60 s.
	Timeout time.Duration
	// WatchTimeout is how long a watch lives at least when its client says nothing; it is at most twice as long. 0 is 30 min.
	WatchTimeout time.Duration
}

// Config is what a Server is made of. Store, Catalogue, Authenticator and Authorizer are required.
type Config struct {
	Store     *store.Store
	Catalogue *api.Catalogue

	Authenticator Authenticator
	Authorizer    request.Authorizer
	Admission     admission.Chain

	// Connect, TokenIssuer, TokenReviewer and RuleResolver serve what they are named after; without them the answer is 501.
	Connect       Connector
	TokenIssuer   TokenIssuer
	TokenReviewer TokenReviewer
	RuleResolver  RuleResolver

	// Discovery serves /api and /apis, OpenAPI /openapi. OpenIDConfiguration and KeySet serve the two documents of OpenID
	// Connect discovery. Nil is 404.
	Discovery, OpenAPI          http.Handler
	OpenIDConfiguration, KeySet http.Handler

	// Webhooks calls the webhooks that convert custom objects; nil: they can't be.
	Webhooks *webhook.Client

	// Audit writes down who does what. Nil: nothing is written.
	Audit *audit.Auditor

	// Aggregator has the API groups of other servers. Nil: there are none.
	Aggregator Aggregator
	// Computed are the group versions whose objects are stored nowhere. Discovery has to know them too.
	Computed map[schema.GroupVersion]Computed

	Checks []Check
	// Components are the parts of the control plane that componentstatuses shows.
	Components []Check
	Version    apiversion.Info
	// Flags are what the program was started with, for /flagz. Nil: nobody is told. What is secret must not be among them.
	Flags func() map[string]string

	// ServiceCIDRs are where cluster IPs come from, the primary family first; empty is 10.96.0.0/16. The first address of the first
	// is that of the "kubernetes" service. NodePorts is the range of node ports; zero is 30000-32767.
	ServiceCIDRs []netip.Prefix
	NodePorts    allocate.PortRange

	Limits  Limits
	Metrics *prometheus.Registry // nil: a registry of its own
	Clock   clock.PassiveClock   // nil: the real one
	Logger  *slog.Logger         // nil: silent
}

// Server is the API. Its Handler may be used at once and from many goroutines; it keeps no goroutine of its own.
type Server struct {
	cfg       Config
	log       *slog.Logger
	clock     clock.PassiveClock
	resources map[schema.GroupVersionResource]*resource
	// groups and versions are those that exist at all, hidden ones included.
	versions map[schema.GroupVersion]bool
	groups   map[string]bool
	services *services
	tracker  *apply.Tracker
	empties  emptier
	json     wire.Types
	customs  *custom.Registry
	// definitions follows the definitions of custom resources from definitionsRevision on.
	definitions         *custom.Controller
	definitionStore     *store.Collection
	definitionsRevision int64
	metrics             *metrics
	admission           *admission.Metrics
	flow                *flow.Filter
	plain               map[string]http.Handler
	started             time.Time
	outcomes            *outcomes
	live                healthChecks
	ready               healthChecks
	handler             http.Handler
}

// Register adds a collection for every stored kind of the catalogue to a store.
func Register(s *store.Store, c *api.Catalogue) error {
	return RegisterApart(s, c, nil)
}

// RegisterApart is Register, but that some resources are kept in stores of their own, and found in s as well.
func RegisterApart(s *store.Store, c *api.Catalogue, apart map[schema.GroupResource]*store.Store) error {
	for _, k := range c.Kinds() {
		if k.Virtual {
			continue
		}
		r := store.Resource{GroupResource: k.GroupResource(), Prefix: k.Prefix, Namespaced: k.Namespaced, Codec: storeCodec{c.Codec(k)}}
		for name, f := range k.Indexes {
			if r.Indexes == nil {
				r.Indexes = map[string]func(store.Object) []string{}
			}
			r.Indexes[name] = func(o store.Object) []string { return f(o) }
		}
		r.Share = sharing(k.GroupResource())
		keeper := s
		if other := apart[k.GroupResource()]; other != nil {
			keeper = other
		}
		collection, err := keeper.Register(r)
		if err == nil && keeper != s {
			err = s.Adopt(collection)
		}
		if err != nil {
			return fmt.Errorf("registering %s: %w", k.GroupResource(), err)
		}
	}
	return nil
}

// sharing lets objects of those resources of which there are many share what is equal in them.
func sharing(gr schema.GroupResource) func(store.Object, []byte) {
	switch gr {
	case schema.GroupResource{Resource: "pods"}:
		var pods share.Pods
		return func(o store.Object, stored []byte) {
			if pod, ok := o.(*corev1.Pod); ok {
				pods.Share(pod, stored)
			}
		}
	case schema.GroupResource{Resource: "events"}:
		var events share.Events
		return func(o store.Object, _ []byte) {
			if ev, ok := o.(*corev1.Event); ok {
				events.Share(ev)
			}
		}
	}
	return nil
}

// storeCodec lets a catalogue's codec stand where the store wants its own type of object.
type storeCodec struct{ codec api.Codec }

func (c storeCodec) Append(to []byte, obj store.Object) ([]byte, error) {
	return c.codec.Append(to, obj)
}
func (c storeCodec) Decode(data []byte) (store.Object, error) { return c.codec.Decode(data) }

// New makes a server. The store must have a collection for every stored kind (see Register).
func New(cfg Config) (*Server, error) {
	if cfg.Store == nil || cfg.Catalogue == nil || cfg.Authenticator == nil || cfg.Authorizer == nil {
		return nil, errors.New("apiserver: store, catalogue, authenticator and authorizer are required")
	}
	cfg.defaults()
	s := &Server{
		cfg: cfg, log: cfg.Logger, clock: cfg.Clock,
		resources: map[schema.GroupVersionResource]*resource{},
		versions:  map[schema.GroupVersion]bool{},
		groups:    map[string]bool{},
		metrics:   newMetrics(cfg.Metrics),
		admission: admission.NewMetrics(cfg.Metrics, cfg.Admission),
	}
	if err := s.makeFlow(); err != nil {
		return nil, err
	}
	tracker := apply.NewTracker(cfg.Catalogue)
	s.tracker = tracker
	s.customs = custom.NewRegistry(cfg.Store, custom.Hooks{Webhooks: cfg.Webhooks})
	for _, k := range cfg.Catalogue.Kinds() {
		var col *store.Collection
		if !k.Virtual {
			var ok bool
			if col, ok = cfg.Store.Collection(k.GroupResource()); !ok {
				return nil, fmt.Errorf("apiserver: the store has no collection for %s", k.GroupResource())
			}
		}
		versions := admission.NewBuilt(cfg.Catalogue, k, tracker.Types)
		for i := range k.Versions {
			v := &k.Versions[i]
			r := newResource(k, v, col, tracker)
			r.target.Read = s.json.Read
			r.shownAs = versions
			s.resources[r.gvr] = r
			s.versions[r.gvr.GroupVersion()] = true
			s.groups[r.gvr.Group] = true
		}
	}
	for gv := range cfg.Computed {
		s.versions[gv], s.groups[gv.Group] = true, true
	}
	if col, ok := cfg.Store.Collection(schema.GroupResource{Resource: "services"}); ok {
		pool, err := allocate.New(cfg.ServiceCIDRs, cfg.NodePorts)
		if err != nil {
			return nil, fmt.Errorf("apiserver: %w", err)
		}
		cidrs, _ := cfg.Store.Collection(schema.GroupResource{Group: networkingv1.GroupName, Resource: "servicecidrs"})
		addresses, _ := cfg.Store.Collection(schema.GroupResource{Group: networkingv1.GroupName, Resource: "ipaddresses"})
		s.services = newServices(pool, col, cidrs, addresses)
	}
	if err := s.startCustoms(context.Background()); err != nil {
		return nil, err
	}
	cfg.Metrics.MustRegister(contents{s}, buildInfo(cfg.Version))
	s.started = s.clock.Now()
	s.health()
	s.plainPaths()
	s.handler = s.chain()
	return s, nil
}

// makeFlow makes priority and fairness over the stored configuration.
func (s *Server) makeFlow() error {
	var readers [2]store.Reader
	for i, name := range []string{"flowschemas", "prioritylevelconfigurations"} {
		col, ok := s.cfg.Store.Collection(schema.GroupResource{Group: "flowcontrol.apiserver.k8s.io", Resource: name})
		if !ok {
			return fmt.Errorf("apiserver: the store has no collection for %s", name)
		}
		readers[i] = col
	}
	var err error
	s.flow, err = flow.New(context.Background(), flow.Config{
		Schemas: readers[0], Levels: readers[1], Seats: s.cfg.Limits.ReadOnly + s.cfg.Limits.Mutating,
		Metrics: s.cfg.Metrics, Logger: s.log,
	})
	if err != nil {
		return fmt.Errorf("apiserver: %w", err)
	}
	return nil
}

// Flow is the priority and fairness of the server. It starts with the configuration that is stored; its Run follows the changes.
func (s *Server) Flow() *flow.Filter { return s.flow }

func (c *Config) defaults() {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Clock == nil {
		c.Clock = clock.RealClock{}
	}
	if c.Metrics == nil {
		c.Metrics = prometheus.NewRegistry()
	}
	if len(c.ServiceCIDRs) == 0 {
		c.ServiceCIDRs = []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 96, 0, 0}), 16)}
	}
	if c.NodePorts == (allocate.PortRange{}) {
		c.NodePorts = allocate.PortRange{First: 30000, Last: 32767}
	}
	if c.Limits.ReadOnly == 0 {
		c.Limits.ReadOnly = 400
	}
	if c.Limits.Mutating == 0 {
		c.Limits.Mutating = 200
	}
	if c.Limits.Timeout == 0 {
		c.Limits.Timeout = time.Minute
	}
	if c.Limits.WatchTimeout == 0 {
		c.Limits.WatchTimeout = 30 * time.Minute
	}
}

// Handler is the whole API.
func (s *Server) Handler() http.Handler { return s.handler }
