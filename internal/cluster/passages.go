package cluster

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"

	"github.com/celox/celox/internal/apiserver/connect"
	"github.com/celox/celox/internal/apiserver/lookup"
	"github.com/celox/celox/internal/cluster/config"
	"github.com/celox/celox/internal/cluster/tunnel"
	"github.com/celox/celox/internal/store"
)

// What is remembered of the ways to a node.
const (
	wayToAPI  = "api"
	wayToHost = "host"
	wayToPods = "pods"
)

// unreachableReason is the reason of the event about a node whose API the server reaches through its tunnel only.
const unreachableReason = "ReachedThroughTunnel"

// passages open the server's connections to nodes and pods: straight, or through the tunnels that agents keep.
type passages struct {
	hub    *tunnel.Hub
	dialer *tunnel.Dialer
	direct net.Dialer
	log    *slog.Logger
	nodes  store.Reader
	pods   store.Reader
	self   string // the node in this process, which has pods without any tunnel; "" for none
	// elsewhere says that addresses of pods do not follow from the ranges of their nodes, because plugins hand them out.
	elsewhere bool
	// events gets what is wrong with a node; nil before there is somebody to tell.
	events atomic.Pointer[record.EventRecorder]
}

func (s *Server) passages(run *group, p *controlPlane, objects *lookup.Objects) (*passages, error) {
	w := &passages{
		hub: tunnel.NewHub(p.authn.AuthenticateRequest, s.log), direct: net.Dialer{KeepAlive: 30 * time.Second}, log: s.log, elsewhere: s.cfg.Disables(config.PodNetwork),
	}
	if !s.cfg.DisableNode {
		w.self = s.cfg.NodeName
	}
	for resource, to := range map[string]*store.Reader{"nodes": &w.nodes, "pods": &w.pods} {
		c, ok := p.store.Collection(schema.GroupResource{Resource: resource})
		if !ok {
			return nil, fmt.Errorf("the catalogue has no %s", resource)
		}
		*to = c
	}
	w.dialer = tunnel.NewDialer(w.hub, func(ctx context.Context, node string, err error) { w.unreachable(ctx, objects, node, err) })
	run.atEnd("tunnels", w.hub.Close)
	run.atEnd("ways to nodes", w.dialer.Close)
	return w, nil
}

// tell lets w say what is wrong with nodes.
func (w *passages) tell(s *Server, run *group, c kubernetes.Interface) {
	r := s.recorder(run, c, "celox-server")
	w.events.Store(&r)
}

// wrap serves the tunnels of nodes beside next.
func (w *passages) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == tunnel.Path {
			w.hub.ServeHTTP(rw, r)
			return
		}
		next.ServeHTTP(rw, r)
	})
}

// DialNode implements connect.Dialer.
func (w *passages) DialNode(ctx context.Context, node, address string, prepare connect.Prepare) (net.Conn, error) {
	conn, err := w.dialer.Dial(ctx, node, wayToAPI, tunnel.Ways{
		Straight: func(ctx context.Context) (net.Conn, error) {
			return prepared(ctx, prepare)(w.direct.DialContext(ctx, "tcp", address))
		},
		Through: func(ctx context.Context) (net.Conn, error) {
			return prepared(ctx, prepare)(w.hub.Dial(ctx, node, tunnel.API))
		},
	})
	if err != nil && !w.hub.Has(node) {
		return nil, fmt.Errorf("%w (%w)", err, tunnel.ErrNone)
	}
	return conn, err
}

func prepared(ctx context.Context, prepare connect.Prepare) func(net.Conn, error) (net.Conn, error) {
	return func(c net.Conn, err error) (net.Conn, error) {
		if err != nil {
			return nil, err
		}
		return prepare(ctx, c)
	}
}

// DialPod implements connect.Dialer, for addresses of pods and whatever else a service leads to.
func (w *passages) DialPod(ctx context.Context, network, address string) (net.Conn, error) {
	straight := func(ctx context.Context) (net.Conn, error) { return w.direct.DialContext(ctx, network, address) }
	if w.hub.Empty() {
		return straight(ctx)
	}
	node, own, err := w.nodeOf(ctx, address)
	if err != nil {
		return nil, err
	}
	if node == "" || node == w.self {
		return straight(ctx)
	}
	both := tunnel.Ways{Straight: straight, Through: func(ctx context.Context) (net.Conn, error) { return w.hub.Dial(ctx, node, address) }}
	if own {
		return w.dialer.Dial(ctx, node, wayToHost, both)
	}
	if w.self == "" {
		// This machine is not in the pods' network: what it reaches at their addresses is not them.
		return w.dialer.Through(ctx, both)
	}
	return w.dialer.Dial(ctx, node, wayToPods, both)
}

// nodeOf finds the node behind an address of a pod, and whether it is the node's own; "" if there is none, or not only one.
func (w *passages) nodeOf(ctx context.Context, address string) (name string, own bool, err error) {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return "", false, nil //nolint:nilerr // a name of somewhere else
	}
	ip := at.Addr().Unmap()
	nodes, err := w.nodes.List(ctx, store.ListOptions{Match: store.NotOlderThan})
	if err != nil {
		return "", false, err
	}
	var found []string
	for _, item := range nodes.Items {
		n, ok := item.Object.(*corev1.Node)
		if !ok {
			continue
		}
		if !w.elsewhere && slices.ContainsFunc(networksOf(n), func(p netip.Prefix) bool { return p.Contains(ip) }) {
			return n.Name, false, nil
		}
		if slices.Contains(addressesOf(n), ip) {
			found = append(found, n.Name)
		}
	}
	switch {
	case len(found) == 1:
		return found[0], true, nil
	case len(found) == 0 && w.elsewhere:
		name, err = w.nodeOfPod(ctx, ip)
		return name, false, err
	}
	return "", false, nil // two nodes behind address translation may have one address
}

// nodeOfPod looks through all pods.
func (w *passages) nodeOfPod(ctx context.Context, ip netip.Addr) (string, error) {
	pods, err := w.pods.List(ctx, store.ListOptions{Match: store.NotOlderThan})
	if err != nil {
		return "", err
	}
	for _, item := range pods.Items {
		if p, ok := item.Object.(*corev1.Pod); ok && p.Status.Phase == corev1.PodRunning && slices.Contains(podAddresses(p), ip) {
			return p.Spec.NodeName, nil
		}
	}
	return "", nil
}

// podAddresses are the addresses that a pod has said it has.
func podAddresses(p *corev1.Pod) []netip.Addr {
	out := make([]netip.Addr, 0, len(p.Status.PodIPs))
	for _, a := range p.Status.PodIPs {
		if ip, err := netip.ParseAddr(a.IP); err == nil {
			out = append(out, ip)
		}
	}
	return out
}

// unreachable tells whom it concerns that the server does not reach the API of a node, and does without.
func (w *passages) unreachable(ctx context.Context, objects *lookup.Objects, name string, reason error) {
	ctx, cancel := context.WithTimeout(ctx, tellTimeout)
	defer cancel()
	w.log.Debug("a node is reached through its tunnel only", "node", name, "err", reason)
	if err := w.hub.Tell(ctx, name, reason.Error()); err != nil {
		w.log.Debug("tell the agent", "node", name, "err", err)
	}
	events := w.events.Load()
	node, err := objects.Node(ctx, name)
	if events == nil || err != nil {
		return // too early, or the node is gone
	}
	ref := &corev1.ObjectReference{Kind: "Node", Name: name, UID: node.UID}
	(*events).Eventf(ref, corev1.EventTypeNormal, unreachableReason,
		"the server cannot connect to TCP port %d of the node (%v): it goes through the tunnel that the agent keeps", node.Status.DaemonEndpoints.KubeletEndpoint.Port, reason)
}

// tellTimeout bounds how long it takes to tell what is wrong with a node.
const tellTimeout = 10 * time.Second
