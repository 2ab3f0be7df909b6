package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/catalogue"
	"github.com/celox/celox/internal/apiserver"
	"github.com/celox/celox/internal/apiserver/aggregate"
	"github.com/celox/celox/internal/apiserver/authn"
	"github.com/celox/celox/internal/apiserver/authz"
	"github.com/celox/celox/internal/apiserver/bootstrap"
	"github.com/celox/celox/internal/apiserver/connect"
	"github.com/celox/celox/internal/apiserver/custom"
	"github.com/celox/celox/internal/apiserver/discovery"
	"github.com/celox/celox/internal/apiserver/lookup"
	"github.com/celox/celox/internal/apiserver/openapi"
	"github.com/celox/celox/internal/apiserver/webhook"
	"github.com/celox/celox/internal/client"
	"github.com/celox/celox/internal/client/informers"
	"github.com/celox/celox/internal/cluster/config"
	"github.com/celox/celox/internal/cluster/gather"
	"github.com/celox/celox/internal/cluster/pki"
	"github.com/celox/celox/internal/cluster/version"
	"github.com/celox/celox/internal/store"
	"github.com/celox/celox/internal/store/kv"
	"github.com/celox/celox/internal/store/kv/etcd"
	"github.com/celox/celox/internal/store/kv/observed"
)

const (
	// issuer is who service account tokens are from.
	issuer = "https://kubernetes.default.svc.cluster.local"
	// drain is how long requests may go on when the server stops.
	drain = 2 * time.Second
	// headerTimeout is how long a client may take to say what it wants.
	headerTimeout = 32 * time.Second
	// streamsPerConnection bounds the requests that one HTTP/2 connection makes at a time.
	streamsPerConnection = 1000
)

// controlPlane is what the other rooms need of a running API.
type controlPlane struct {
	certs     *pki.PKI
	catalogue *api.Catalogue
	engine    kv.Engine
	store     *store.Store
	api       *apiserver.Server
	// aggregator has the API groups of other servers.
	aggregator *aggregate.Aggregator
	handler    http.Handler
	authn      *authn.Authenticator
	// accounts makes and checks tokens of service accounts.
	accounts *authn.ServiceAccounts
	authz    *authz.Authorizer
	metrics  *prometheus.Registry
	// webhooks calls the webhooks of admission and of conversions.
	webhooks *webhook.Client
	// admin calls the API in this process with every right.
	admin kubernetes.Interface
	// informers are shared by everything in this process.
	informers *informers.Factory
	// passages are the ways to nodes and pods.
	passages *passages
	// local is where the API server finds the kubelet API of the node in this process.
	local *localNode
	// startup knows how far the start has come.
	startup startup
}

// client returns a clientset that calls the API in this process as u.
func (p *controlPlane) client(u user.Info, agent string) (kubernetes.Interface, error) {
	return client.Clientset(p.handler, u, agent)
}

func (s *Server) pkiOptions() pki.Options {
	names, ips := []string{s.cfg.NodeName}, netIPs(s.nodeIPs)
	if services, err := s.cfg.ServiceCIDRs(); err == nil {
		ips = append(ips, net.IP(firstAddress(services[0]).AsSlice()))
	}
	for _, san := range append(s.cfg.TLSSANs, s.cfg.BindAddress, s.cfg.AdvertiseAddress) {
		if san == "" {
			continue
		}
		if a, err := netip.ParseAddr(san); err != nil {
			names = append(names, san)
		} else if !a.IsUnspecified() {
			ips = append(ips, net.IP(a.AsSlice()))
		}
	}
	o := pki.Options{ServerNames: names, ServerIPs: ips}
	if !s.cfg.DisableNode {
		o.NodeName, o.NodeIPs = s.cfg.NodeName, append(netIPs(s.nodeIPs), net.IPv4(127, 0, 0, 1))
	}
	return o
}

// prefixes are the keys of each resource, for metrics.
func prefixes(c *api.Catalogue) map[string]observed.Name {
	out := map[string]observed.Name{}
	for _, k := range c.Kinds() {
		if !k.Virtual {
			out[k.Prefix] = observed.Name{Group: k.Group, Resource: k.Resource}
		}
	}
	return out
}

// engine opens the key-value store: the embedded etcd, or the external one.
func (s *Server) engine(run *group) (kv.Engine, error) {
	ctx := run.parent
	if len(s.cfg.EtcdServers) > 0 {
		tlsConfig, err := s.cfg.EtcdTLS()
		if err != nil {
			return nil, err
		}
		e, err := etcd.Connect(ctx, s.cfg.EtcdServers, tlsConfig, s.log)
		if err != nil {
			return nil, err
		}
		run.atEnd("etcd client", e.Close)
		return e, nil
	}
	socket := filepath.Join(s.cfg.DataDir, etcdSocket)
	if err := os.MkdirAll(filepath.Dir(socket), 0o700); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	if len(socket) >= maxSocketPath {
		s.log.Info("the data directory's path is too long for a unix socket: etcdctl cannot be used", "path", socket)
		socket = ""
	}
	e, err := etcd.Start(ctx, etcd.Config{Dir: filepath.Join(s.cfg.DataDir, etcdDir), QuotaBytes: s.cfg.EtcdQuota, Listen: socket, Logger: s.log, Crowded: s.processors.crowded, Fatal: func(reason error) {
		run.abandon(fmt.Errorf("etcd cannot go on: %w", reason))
		select {} // etcd believes that the process has ended, which it does now
	}})
	if err != nil {
		return nil, err
	}
	run.atEnd("etcd", e.Close)
	afterCollections(ctx, func() { e.TrimMapped(mappedFiles) })
	return e, nil
}

// maxSocketPath is what the kernel allows for the path of a unix socket.
const maxSocketPath = 108

// startControlPlane starts store and API and makes the objects that every cluster has. The listener is its own from then on.
func (s *Server) startControlPlane(run *group, certs *pki.PKI, listener net.Listener) (*controlPlane, error) {
	served := false
	defer func() {
		if !served {
			_ = listener.Close()
		}
	}()
	engine, err := s.engine(run)
	if err != nil {
		return nil, err
	}
	kinds, err := catalogue.New()
	if err != nil {
		return nil, fmt.Errorf("catalogue: %w", err)
	}
	registry := prometheus.NewRegistry()
	measured := observed.New(engine, registry, "/registry/", prefixes(kinds))
	// Not run.parent: what ends before the store has last words, such as who gives its lease up.
	st, err := store.New(context.WithoutCancel(run.parent), measured, store.Options{Logger: s.log, Linearizable: len(s.cfg.EtcdServers) > 0})
	if err != nil {
		return nil, err
	}
	run.atEnd("store", st.Close)
	apart, err := s.apart(run, measured, registry)
	if err != nil {
		return nil, err
	}
	if err := apiserver.RegisterApart(st, kinds, apart); err != nil {
		return nil, err
	}
	for _, other := range apart {
		if err := other.Start(run.parent); err != nil {
			return nil, err
		}
	}
	if err := st.Start(run.parent); err != nil {
		return nil, err
	}
	p := &controlPlane{certs: certs, catalogue: kinds, engine: engine, store: st, metrics: registry, local: &localNode{name: s.cfg.NodeName}}
	p.metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	p.startup.reach(cachesFull)
	if err := s.makeAPI(run, p); err != nil {
		return nil, err
	}
	p.startup.reach(apiMade)
	p.admin, err = p.client(&user.DefaultInfo{Name: user.APIServerUser, Groups: []string{user.SystemPrivilegedGroup}}, "kube-apiserver")
	if err != nil {
		return nil, err
	}
	p.noteTokenUse(s.log)
	if err := s.bootstrap(run.parent, p, p.admin); err != nil {
		return nil, err
	}
	p.startup.reach(firstObjectsMade)
	p.passages.tell(s, run, p.admin)
	run.run("priority and fairness", func(ctx context.Context) error {
		p.api.Flow().Run(ctx, p.admin)
		return nil
	})
	p.startup.reach(flowFollowed)
	if err := s.runAggregator(run, p); err != nil {
		return nil, fmt.Errorf("aggregation: %w", err)
	}
	p.startup.reach(groupsFollowed)
	served = true
	s.serve(run, listener, p)
	return p, nil
}

// makeAPI puts the API server together.
func (s *Server) makeAPI(run *group, p *controlPlane) error {
	reader := func(gr schema.GroupResource) (store.Reader, bool) {
		c, ok := p.store.Collection(gr)
		return c, ok
	}
	objects := lookup.New(reader)
	p.local.others = connect.Remote{Objects: objects}
	tokens, err := authn.NewIssuer(issuer, nil, p.certs.ServiceAccountKey())
	if err != nil {
		return fmt.Errorf("service account tokens: %w", err)
	}
	accounts := authn.NewServiceAccounts(tokens, objects, nil)
	p.accounts = accounts
	clientCA, _ := p.certs.CA()
	proxyCA, _ := p.certs.FrontProxyCA()
	p.authn = authn.New(authn.Config{
		ClientCA: clientCA, FrontProxyCA: proxyCA, FrontProxyNames: []string{"front-proxy-client"}, ServiceAccounts: accounts,
		Bootstrap:      &authn.BootstrapTokens{Secrets: objects},
		AnonymousPaths: authn.HealthPaths(),
	})
	roles, roleBindings, clusterRoles, clusterRoleBindings, err := objects.RBACReaders()
	if err != nil {
		return err
	}
	rbac := authz.NewRBAC(authz.Readers{Roles: roles, RoleBindings: roleBindings, ClusterRoles: clusterRoles, ClusterRoleBindings: clusterRoleBindings})
	run.run("rbac", func(ctx context.Context) error {
		rbac.Run(ctx, s.log)
		return nil
	})
	nodes := authz.NewNodes(objects, bootstrap.NodeRules())
	if !s.cfg.Disables(config.IngressController) {
		nodes = nodes.Serving(servedSecret(objects))
	}
	p.authz = authz.New(nodes, rbac, authn.HealthPaths())
	serviceCIDRs, err := s.cfg.ServiceCIDRs()
	if err != nil {
		return err
	}
	docs, err := discovery.New(p.catalogue, net.JoinHostPort(s.nodeIPs[0].String(), fmt.Sprint(s.cfg.HTTPSPort)))
	if err != nil {
		return fmt.Errorf("discovery: %w", err)
	}
	schemas, err := openapi.New()
	if err != nil {
		return fmt.Errorf("openapi: %w", err)
	}
	keys, err := tokens.KeysHandler()
	if err != nil {
		return err
	}
	// Pods and other parties follow this document to the keys, so it names what they reach.
	advertise, err := s.advertised()
	if err != nil {
		return err
	}
	openID, err := tokens.DiscoveryHandler("https://" + net.JoinHostPort(advertise.String(), fmt.Sprint(s.cfg.HTTPSPort)))
	if err != nil {
		return err
	}
	if p.passages, err = s.passages(run, p, objects); err != nil {
		return fmt.Errorf("ways to nodes: %w", err)
	}
	plugins, err := s.admission(run, p, objects, authz.NewGuard(p.authz, rbac))
	if err != nil {
		return fmt.Errorf("admission: %w", err)
	}
	if p.aggregator, err = s.aggregator(run.parent, p, objects); err != nil {
		return fmt.Errorf("aggregation: %w", err)
	}
	docs.AddSource(p.aggregator)
	schemas.AddSource(p.aggregator)
	auditor, err := s.auditor(run)
	if err != nil {
		return err
	}
	way := connect.New(connect.Config{
		Objects: objects, Nodes: p.local, NodeTLS: p.certs.ClientTLSConfig(p.certs.KubeletClient()), Dialer: p.passages, Authorizer: p.authz,
	})
	computed, err := s.resourceMetrics(run, p, objects, way, docs, schemas)
	if err != nil {
		return fmt.Errorf("metrics of resources: %w", err)
	}
	server, err := apiserver.New(apiserver.Config{
		Store: p.store, Catalogue: p.catalogue,
		Authenticator: p.authn, Authorizer: p.authz,
		Admission:   plugins,
		Webhooks:    p.webhooks,
		TokenIssuer: accounts, TokenReviewer: p.authn, RuleResolver: p.authz,
		Connect: way, Computed: computed,
		Discovery: discoveryHandler(docs), OpenAPI: schemas, Aggregator: p.aggregator, Audit: auditor,
		OpenIDConfiguration: openID, KeySet: keys,
		Version: version.Info(), Flags: s.cfg.Flags, ServiceCIDRs: serviceCIDRs, Metrics: p.metrics, Logger: s.log,
		Checks: p.checks(run.parent), Components: p.components(),
	})
	if err != nil {
		return fmt.Errorf("api server: %w", err)
	}
	p.api = server
	docs.AddSource(custom.Discovery{Registry: server.Customs()})
	schemas.AddSource(custom.NewOpenAPI(server.Customs()))
	run.run("custom resource definitions", server.Run)
	// What the last requests needed goes back when there are no more: an idle server is a small one.
	p.handler = newIdleWatch(releaseMemory).wrap(s.processors.wrap(server.Handler()))
	return nil
}

// discoveryHandler serves the documents, and upstream's answer for paths that are none.
func discoveryHandler(docs *discovery.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !docs.Serve(w, r) {
			http.NotFound(w, r)
		}
	})
}

// bootstrap makes what every cluster has. It writes nothing where all is there.
func (s *Server) bootstrap(ctx context.Context, p *controlPlane, admin kubernetes.Interface) error {
	if err := bootstrap.Ensure(ctx, admin); err != nil {
		return fmt.Errorf("first objects: %w", err)
	}
	_, proxyCA := p.certs.FrontProxyCA()
	if err := bootstrap.EnsureAuthenticationConfig(ctx, admin, p.certs.CACertPEM(), proxyCA, []string{"front-proxy-client"}); err != nil {
		return fmt.Errorf("first objects: %w", err)
	}
	if !s.cfg.Disables(config.MetricsServer) {
		if err := bootstrap.EnsureMetricsReader(ctx, admin); err != nil {
			return fmt.Errorf("first objects: %w", err)
		}
	}
	services, err := s.cfg.ServiceCIDRs()
	if err != nil {
		return err
	}
	advertise, err := s.advertised()
	if err != nil {
		return err
	}
	about, err := factsOf(&s.cfg)
	if err != nil {
		return err
	}
	if err := bootstrap.EnsureJoining(ctx, admin, about.data()); err != nil {
		return fmt.Errorf("first objects: %w", err)
	}
	if err := s.ensureIngress(ctx, admin); err != nil {
		return fmt.Errorf("first objects: %w", err)
	}
	if err := bootstrap.EnsureServiceCIDR(ctx, admin, services); err != nil {
		return fmt.Errorf("first objects: %w", err)
	}
	if err := bootstrap.EnsureKubernetesService(ctx, admin, firstAddress(services[0]).String(), advertise.String(), s.cfg.HTTPSPort); err != nil {
		return fmt.Errorf("service kubernetes: %w", err)
	}
	if s.cfg.Disables(config.DNS) {
		return bootstrap.RemoveDNSService(ctx, admin)
	}
	return bootstrap.EnsureDNSService(ctx, admin, addressTexts(about.dns()))
}

// serve serves the API on l until the server stops.
func (s *Server) serve(run *group, l net.Listener, p *controlPlane) {
	srv := &http.Server{
		Handler: p.passages.wrap(p.handler), TLSConfig: p.certs.ServerTLSConfig(), ReadHeaderTimeout: headerTimeout, IdleTimeout: 90 * time.Second,
		HTTP2:    &http.HTTP2Config{MaxConcurrentStreams: streamsPerConnection},
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	run.run("certificates", func(ctx context.Context) error {
		p.certs.Run(ctx, func(err error) { s.log.Error("renew certificates", "err", err) })
		return nil
	})
	run.run("api", func(ctx context.Context) error {
		srv.BaseContext = func(net.Listener) context.Context { return ctx } // ends streams that were taken over
		if err := gather.HTTP2(srv); err != nil {
			return err
		}
		stopped := make(chan error, 1)
		go func() {
			<-ctx.Done()
			drainCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), drain)
			defer cancel()
			err := srv.Shutdown(drainCtx)
			if errors.Is(err, context.DeadlineExceeded) {
				err = srv.Close() // watches never end by themselves
			}
			stopped <- err
		}()
		if err := srv.ServeTLS(gather.Listen(l), "", ""); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return <-stopped
	})
}
