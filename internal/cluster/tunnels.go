package cluster

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/tools/cache"

	"github.com/celox/celox/internal/cluster/config"
	"github.com/celox/celox/internal/cluster/join"
	"github.com/celox/celox/internal/cluster/tunnel"
	"github.com/celox/celox/internal/cluster/wayout"
)

// newsTimeout is how long news may be under way from the API to the node, when the server has it already.
const newsTimeout = 2 * time.Second

// tunnels are an agent's: where they come from, and where they lead on this machine.
type tunnels struct {
	a *Agent
	h *host
	// api is how the node's own API is reached, without a socket.
	api *tunnel.Listener

	mu      sync.Mutex        // guards what follows
	servers []string          // the addresses of all servers that are known
	changed chan struct{}     // closed when servers change
	told    map[string]string // what each server has said last

	learn func(servers []string) error // set before anything follows servers
}

func newTunnels(a *Agent, h *host) *tunnels {
	return &tunnels{a: a, h: h, changed: make(chan struct{}), told: map[string]string{}}
}

// listen takes over the listener of the node's API.
func (t *tunnels) listen(l net.Listener) net.Listener {
	t.api = tunnel.NewListener(l)
	return t.api
}

// start keeps a tunnel to each server. The node has been started.
func (t *tunnels) start(run *group, server *url.URL, id *join.Identity) error {
	t.learn = id.Learn
	slices, own := t.endpoints()
	if _, err := slices.AddEventHandler(cache.FilteringResourceEventHandler{
		FilterFunc: func(obj any) bool {
			s, ok := obj.(*discoveryv1.EndpointSlice)
			return ok && s.Namespace == metav1.NamespaceDefault && s.Labels[discoveryv1.LabelServiceName] == kubernetesService
		},
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc: func(any) { t.follow(slices) }, UpdateFunc: func(any, any) { t.follow(slices) }, DeleteFunc: func(any) { t.follow(slices) },
		},
	}); err != nil {
		return fmt.Errorf("tunnels: follow servers: %w", err)
	}
	if own {
		run.run("servers", func(ctx context.Context) error {
			slices.RunWithContext(ctx)
			return nil
		})
	}
	keeper := tunnel.NewAgent(tunnel.AgentConfig{
		// The tunnel's own pings find out who is gone.
		Dial:   (&wayout.Dialer{KeepAlive: -1}).DialContext,
		Server: server.Host, Servers: t.known, Reach: t.reach, Notice: t.notice, Say: t.a.say, Log: t.a.log,
		TLS: func() *tls.Config {
			return &tls.Config{
				MinVersion: tls.VersionTLS12, RootCAs: id.Pool(),
				GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return id.Client(), nil },
			}
		},
	})
	run.run("tunnels", keeper.Run)
	return nil
}

// kubernetesService is the service whose endpoints are the servers.
const kubernetesService = "kubernetes"

// endpoints is what follows EndpointSlices: that of all, if the node has it anyway, or one of the servers' own, which has to be run.
func (t *tunnels) endpoints() (_ cache.SharedIndexInformer, own bool) {
	if !slices.Contains(t.h.facts.disabled, config.DNS) || !slices.Contains(t.h.facts.disabled, config.ServiceProxy) {
		return t.h.informers.Discovery().V1().EndpointSlices().Informer(), false
	}
	named := fields.OneTermEqualSelector(metav1.ObjectNameField, kubernetesService).String()
	return cache.NewSharedIndexInformerWithOptions(
		cache.NewFilteredListWatchFromClient(t.h.client.DiscoveryV1().RESTClient(), "endpointslices", metav1.NamespaceDefault, func(o *metav1.ListOptions) { o.FieldSelector = named }),
		&discoveryv1.EndpointSlice{}, cache.SharedIndexInformerOptions{ObjectDescription: "servers"}), true
}

// follow takes up where the servers are.
func (t *tunnels) follow(from cache.SharedIndexInformer) {
	var servers []string
	for _, obj := range from.GetStore().List() {
		s, ok := obj.(*discoveryv1.EndpointSlice)
		if !ok || s.Namespace != metav1.NamespaceDefault || s.Labels[discoveryv1.LabelServiceName] != kubernetesService {
			continue
		}
		for i := range s.Ports {
			for j := range s.Endpoints {
				if p := s.Ports[i].Port; p != nil {
					for _, a := range s.Endpoints[j].Addresses {
						servers = append(servers, net.JoinHostPort(a, strconv.Itoa(int(*p))))
					}
				}
			}
		}
	}
	slices.Sort(servers)
	servers = slices.Compact(servers)
	t.mu.Lock()
	defer t.mu.Unlock()
	if !slices.Equal(servers, t.servers) {
		t.servers = servers
		close(t.changed)
		t.changed = make(chan struct{})
		if err := t.learn(servers); err != nil {
			t.a.log.Warn("cannot keep where the servers are", "err", err)
		}
	}
}

func (t *tunnels) known() ([]string, <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.servers, t.changed
}

// notice says why a server needs its tunnel.
func (t *tunnels) notice(server, word string) {
	t.mu.Lock()
	again := t.told[server] == word
	t.told[server] = word
	t.mu.Unlock()
	if !again {
		t.a.say("the server at %s cannot connect to TCP port %d of this node (%s): logs, exec and port-forward take the tunnel; open the port in the firewall for the direct way",
			server, t.h.cfg.KubeletPort, word)
	}
}

// reach opens what a server may ask for.
func (t *tunnels) reach(ctx context.Context, address string) (net.Conn, error) {
	if address == tunnel.API {
		return t.api.Dial(ctx)
	}
	at, err := netip.ParseAddrPort(address)
	if err == nil && t.h.network != nil && t.h.network.external {
		// The server may know a pod's address, which a plugin chose, before the news comes back here.
		for end := time.Now().Add(newsTimeout); !t.allowed(at) && time.Now().Before(end) && ctx.Err() == nil; {
			time.Sleep(newsTimeout / 20)
		}
	}
	if err != nil || !t.allowed(at) {
		return nil, fmt.Errorf("%w: not to %q", tunnel.ErrForbidden, address)
	}
	return (&net.Dialer{KeepAlive: 30 * time.Second}).DialContext(ctx, "tcp", address)
}

// allowed says whether something is a pod of this node: any port of a pod with addresses of its own, and the ports that pods with the node's addresses declare.
func (t *tunnels) allowed(at netip.AddrPort) bool {
	ip := at.Addr().Unmap()
	if n := t.h.network; n != nil && !n.external {
		for _, r := range n.podRanges() {
			// The first addresses are the network's and the node's own.
			if r.Contains(ip) && ip.Compare(r.Masked().Addr().Next()) > 0 {
				return true
			}
		}
	}
	for _, obj := range t.h.pods.GetStore().List() {
		p, ok := obj.(*corev1.Pod)
		switch {
		case !ok:
		case p.Spec.HostNetwork:
			if slices.Contains(t.h.addrs, ip) && declares(p, at.Port()) {
				return true
			}
		case slices.Contains(podAddresses(p), ip):
			return true
		}
	}
	return false
}

// declares says whether a container of the pod has the port.
func declares(p *corev1.Pod, port uint16) bool {
	for _, containers := range [][]corev1.Container{p.Spec.Containers, p.Spec.InitContainers} {
		for i := range containers {
			if slices.ContainsFunc(containers[i].Ports, func(c corev1.ContainerPort) bool { return c.ContainerPort == int32(port) }) {
				return true
			}
		}
	}
	return false
}
