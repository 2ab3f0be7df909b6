package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"

	"github.com/celox/celox/internal/apiserver/bootstrap"
	"github.com/celox/celox/internal/client/informers"
	"github.com/celox/celox/internal/cluster/config"
	"github.com/celox/celox/internal/cluster/join"
	"github.com/celox/celox/internal/cluster/version"
	"github.com/celox/celox/internal/node"
)

const (
	// factsFile, in the directory of an agent's identity, has what the cluster said of itself last.
	factsFile = "cluster.json"
	// What cannot be reached is tried again after joinRetry, doubling to joinRetryLast.
	joinRetry, joinRetryLast = time.Second, 30 * time.Second
	// factsTimeout is how long an agent that has a copy waits for newer words of the cluster.
	factsTimeout = 5 * time.Second
)

// Agent is a node whose API server is elsewhere.
type Agent struct {
	cfg     config.Agent
	log     *slog.Logger
	say     Say
	started time.Time
	// processors are set by Run.
	processors *processors
}

// NewAgent returns an agent for a complete configuration (config.Agent.Complete). Nothing is started or written yet.
func NewAgent(cfg config.Agent, log *slog.Logger, say Say) (*Agent, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("a node needs root: run as root")
	}
	return &Agent{cfg: cfg, log: log, say: say}, nil
}

// Run joins the cluster if the machine has not joined yet, runs the node, and stops it when ctx ends; containers go on. It returns early with what kept
// the node from running.
func (a *Agent) Run(ctx context.Context) error {
	a.started = time.Now()
	klog.SetSlogLogger(a.log) // as a server
	tuneGC()
	a.processors = newProcessors()
	if err := checkOwn(a.cfg.DataDir); err != nil {
		return err
	}
	release, err := lock(a.cfg.DataDir)
	if err != nil {
		return err
	}
	defer release()
	began := marked(a.cfg.DataDir)
	if err := Mark(a.cfg.DataDir); err != nil {
		return err
	}
	a.say("starting celox %s (Kubernetes %s): node %s, data in %s", version.Build, version.Kubernetes, a.cfg.NodeName, a.cfg.DataDir)
	id, free, err := a.begin(ctx)
	if err != nil {
		if !began {
			unmark(a.cfg.DataDir) // a machine that never joined has nothing to reset
		}
		return ended(ctx, err)
	}
	defer free()
	for {
		run := newGroup(ctx)
		err = run.to(func() {
			run.run("processors", a.processors.follow)
			if err := a.start(run, id); err != nil {
				run.fail(err)
			}
		})
		var moved *movedError
		if !errors.As(err, &moved) || ctx.Err() != nil {
			break
		}
		// Everything that knows the addresses starts anew, as after a restart: pods go on.
		a.started = time.Now()
		a.say("%v: the node starts anew with them; containers go on running", moved)
	}
	if ctx.Err() != nil && (err == nil || errors.Is(err, context.Canceled)) {
		a.say("stopped; containers go on running (celox reset removes them)")
		return nil
	}
	return err
}

// ended forgives what an end that was asked for has left.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func (a *Agent) since() time.Duration { return time.Since(a.started).Round(time.Millisecond) }

// begin finds out what the node is to the cluster, and takes the machine's network for it, until free.
func (a *Agent) begin(ctx context.Context) (id *join.Identity, free func(), err error) {
	if err := awaitNodeIPs(ctx, a.cfg.Node, a.say); err != nil {
		return nil, nil, err
	}
	if id, err = a.identity(ctx); err != nil {
		return nil, nil, err
	}
	if free, err = takeNetwork(); err != nil {
		return nil, nil, err
	}
	return id, free, nil
}

// identity loads what the node is to the cluster, or joins.
func (a *Agent) identity(ctx context.Context) (*join.Identity, error) {
	dir := filepath.Join(a.cfg.DataDir, agentDir)
	id, err := join.Load(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return a.join(ctx, dir)
	}
	if err != nil {
		return nil, err
	}
	if since, expired := id.ClientExpired(time.Now()); expired {
		if a.cfg.Token == "" && a.cfg.TokenFile == "" {
			return nil, fmt.Errorf("the certificate of this node expired on %s (the clock says %s): give a new --token (from `celox token create` on the server)",
				since.UTC().Format(time.RFC3339), time.Now().UTC().Format(time.RFC3339))
		}
		if a.cfg.Server == "" {
			a.cfg.Server = id.Server
		}
		return a.join(ctx, dir)
	}
	if name := id.NodeName(); name != a.cfg.NodeName {
		return nil, fmt.Errorf("this machine has joined as node %s: start it with --node-name %s, or remove it with `celox reset` before it joins as %s", name, name, a.cfg.NodeName)
	}
	if a.cfg.Server != "" {
		servers, err := join.ServerURLs(a.cfg.Server)
		if err != nil {
			return nil, fmt.Errorf("--server: %w", err)
		}
		if given := joinedURLs(servers); given != id.Server {
			if err := id.SetServer(given); err != nil {
				return nil, err
			}
		}
	}
	a.say("node %s of the cluster at %s", a.cfg.NodeName, id.Server)
	return id, nil
}

// token reads the token from where it is.
func (a *Agent) token() (join.Token, error) {
	text, key := a.cfg.Token, "token"
	if a.cfg.TokenFile != "" {
		key = "token-file"
		data, err := os.ReadFile(a.cfg.TokenFile)
		if err != nil {
			return join.Token{}, fmt.Errorf("--token-file: %w", err)
		}
		text = strings.TrimSpace(string(data))
	}
	if text == "" || a.cfg.Server == "" {
		return join.Token{}, errors.New("this machine has not joined a cluster yet: give --server https://HOST:6443 and --token (from `celox token create` on the server)")
	}
	t, err := join.ParseToken(text, a.cfg.CAHash)
	if err != nil {
		return join.Token{}, fmt.Errorf("--%s: %w", key, err)
	}
	return t, nil
}

// join gets the node its first certificate. It is patient with a server that cannot be reached, not with one that says no.
func (a *Agent) join(ctx context.Context, dir string) (*join.Identity, error) {
	t, err := a.token()
	if err != nil {
		return nil, err
	}
	servers, err := join.ServerURLs(a.cfg.Server)
	if err != nil {
		return nil, fmt.Errorf("--server: %w", err)
	}
	a.say("joining the cluster at %s", joinedURLs(servers))
	said := ""
	for wait := joinRetry; ; wait = min(2*wait, joinRetryLast) {
		var id *join.Identity
		var err error
		for _, server := range servers { // the first that answers
			if id, err = a.tryJoin(ctx, dir, server, t); err == nil || !errors.Is(err, join.ErrUnreachable) {
				break
			}
		}
		if err == nil {
			a.say("joined as node %s after %s", a.cfg.NodeName, a.since())
			return id, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if !errors.Is(err, join.ErrUnreachable) {
			return nil, err
		}
		if err.Error() != said {
			said = err.Error()
			a.say("%v; trying again", err)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(wait):
		}
	}
}

func (a *Agent) tryJoin(ctx context.Context, dir string, server *url.URL, t join.Token) (*join.Identity, error) {
	found, err := join.Discover(ctx, server, t.CAHash, time.Now())
	if err != nil {
		return nil, err
	}
	cert, key, err := join.First(ctx, server, found.CA, t, a.cfg.NodeName)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	given, err := join.ServerURLs(a.cfg.Server)
	if err != nil {
		return nil, err
	}
	return join.Create(dir, joinedURLs(given), found.CA, cert, key)
}

func joinedURLs(list []*url.URL) string {
	texts := make([]string, len(list))
	for i, u := range list {
		texts[i] = u.String()
	}
	return strings.Join(texts, ",")
}

// start brings the node up. What it starts, it gives to run.
func (a *Agent) start(run *group, id *join.Identity) error {
	ctx := run.parent
	servers, err := join.ServerURLs(id.Server)
	if err != nil {
		return err
	}
	server := servers[0] // of which messages speak
	rest, reconnect := id.Config("kubelet")
	back := newSignal()
	rest.Wrap(watchServer(server, a.say, back))
	client, err := kubernetes.NewForConfig(rest)
	if err != nil {
		return fmt.Errorf("client: %w", err)
	}
	about, err := a.facts(ctx, client, server)
	if err != nil {
		return err
	}
	addrs, err := a.addresses(ctx, servers, about)
	if err != nil {
		return err
	}
	renewal := &join.Renewal{Identity: id, Client: client, NodeName: a.cfg.NodeName, IPs: netIPs(addrs), Renewed: reconnect, Back: back.next, Clock: clock.RealClock{}, Log: a.log}
	access := newKubeletAccess(client)
	cluster, err := join.HashPEM(id.CA)
	if err != nil {
		return fmt.Errorf("the cluster's authority: %w", err)
	}
	f := informers.New(client)
	own := fields.OneTermEqualSelector("spec.nodeName", a.cfg.NodeName).String()
	pods := cache.NewSharedIndexInformerWithOptions(
		cache.NewFilteredListWatchFromClient(client.CoreV1().RESTClient(), "pods", metav1.NamespaceAll, func(o *metav1.ListOptions) { o.FieldSelector = own }),
		&corev1.Pod{}, cache.SharedIndexInformerOptions{ObjectDescription: "pods of this node"})
	h := &host{
		cfg: &a.cfg.Node, bind: a.cfg.BindAddress, log: a.log, say: a.say, since: a.since,
		facts: about, cluster: cluster, addrs: addrs, client: client, informers: f, pods: pods,
		processors: a.processors,
		servingTLS: id.ServingTLS(), authenticate: access.authenticate, authorize: access.authorize, heartbeat: heartbeat,
	}
	t := newTunnels(a, h)
	h.listening = t.listen
	if err := h.start(run, func(*node.Node) {}, func(context.Context) {}); err != nil {
		return err
	}
	if err := t.start(run, server, id); err != nil {
		return err
	}
	if a.cfg.NodeIP == "" {
		run.run("addresses of the machine", func(ctx context.Context) error {
			return watchAddresses(ctx, addrs, func() ([]netip.Addr, error) { return findAddresses(ctx, servers, about) })
		})
	}
	run.run("client certificate", func(ctx context.Context) error {
		renewal.RunClient(ctx)
		return nil
	})
	run.run("serving certificate", func(ctx context.Context) error {
		renewal.RunServing(ctx)
		return nil
	})
	run.run("pods", func(ctx context.Context) error {
		pods.RunWithContext(ctx)
		return nil
	})
	run.run("informers", func(ctx context.Context) error {
		f.StartWithContext(ctx)
		<-ctx.Done()
		f.Shutdown()
		return nil
	})
	return nil
}

// facts asks the cluster about itself. An agent that has asked before can do without an answer.
func (a *Agent) facts(ctx context.Context, client kubernetes.Interface, server *url.URL) (facts, error) {
	path := filepath.Join(a.cfg.DataDir, agentDir, factsFile)
	kept, err := readFacts(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return facts{}, err
	}
	known := err == nil
	for wait := joinRetry; ; wait = min(2*wait, joinRetryLast) {
		asked, cancel := context.WithTimeout(ctx, factsTimeout)
		got, err := client.CoreV1().ConfigMaps(metav1.NamespaceSystem).Get(asked, bootstrap.ClusterConfigMap, metav1.GetOptions{})
		cancel()
		switch {
		case err == nil:
			f, err := factsFrom(got.Data)
			if err != nil {
				return facts{}, err
			}
			data, err := json.Marshal(got.Data)
			if err != nil {
				return facts{}, err
			}
			if err := writeFile(path, data, 0o600); err != nil {
				return facts{}, fmt.Errorf("keep what the cluster says of itself: %w", err)
			}
			return f, nil
		case ctx.Err() != nil:
			return facts{}, ctx.Err()
		case apierrors.IsUnauthorized(err):
			return facts{}, fmt.Errorf("the server at %s does not accept this node's certificate (any more): is it the cluster that the node joined? `celox reset` and a new token let it join another", server.Host)
		case apierrors.IsNotFound(err), apierrors.IsForbidden(err):
			return facts{}, fmt.Errorf("the server at %s does not tell about its cluster: is it a celox server of this version? %w", server.Host, err)
		case known:
			return kept, nil
		}
		a.log.Debug("the cluster does not tell about itself yet", "err", err)
		select {
		case <-ctx.Done():
			return facts{}, ctx.Err()
		case <-time.After(wait):
		}
	}
}

func readFacts(path string) (facts, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return facts{}, err
	}
	var values map[string]string
	if err := json.Unmarshal(data, &values); err != nil {
		return facts{}, fmt.Errorf("%s is damaged: %w", path, err)
	}
	return factsFrom(values)
}

// addresses are the node's: as configured, or found.
func (a *Agent) addresses(ctx context.Context, servers []*url.URL, about facts) ([]netip.Addr, error) {
	given, err := a.cfg.NodeIPs()
	if err != nil || len(given) > 0 {
		return given, err
	}
	said := false
	for wait := joinRetry; ; wait = min(2*wait, joinRetryLast) {
		found, err := findAddresses(ctx, servers, about)
		if err == nil {
			return found, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if !said {
			said = true
			a.say("%v; waiting for a way", join.Explain(err, servers[0], time.Now()))
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(wait):
		}
	}
}

// findAddresses are the one that this machine reaches the server from, and for pods of another family that of the default route; one of each family that
// pods have, in their order.
func findAddresses(ctx context.Context, servers []*url.URL, about facts) ([]netip.Addr, error) {
	var first error
	for _, server := range servers {
		conn, err := (&net.Dialer{}).DialContext(ctx, "udp", server.Host) // sends nothing
		if err != nil {
			if first == nil {
				first = err
			}
			continue
		}
		local, ok := conn.LocalAddr().(*net.UDPAddr)
		_ = conn.Close()
		if !ok || !local.AddrPort().IsValid() {
			return nil, errors.New("the address of this node cannot be found: give --node-ip")
		}
		return machineAddresses(about.clusterCIDRs, slices.Concat(about.clusterCIDRs, about.serviceCIDRs), local.AddrPort().Addr().WithZone("").Unmap())
	}
	return nil, first
}
