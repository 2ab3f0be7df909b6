package cluster

import (
	"context"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/tools/cache"

	"github.com/celox/celox/internal/apiserver/request"
	"github.com/celox/celox/internal/node"
	nodeserver "github.com/celox/celox/internal/node/server"
)

const (
	// criSocket is where the embedded runtime answers crictl.
	criSocket = "run/cri.sock"
	// criTimeout bounds the dial of an external runtime.
	criTimeout = 10 * time.Second
)

// nodeUser is who a node is for the API.
func nodeUser(name string) user.Info {
	return &user.DefaultInfo{Name: "system:node:" + name, Groups: []string{user.NodesGroup, user.AllAuthenticated}}
}

// startNode starts runtime, network and node agent of the server's own machine, and says when the node is Ready.
func (s *Server) startNode(run *group, p *controlPlane) error {
	c, err := p.client(nodeUser(s.cfg.NodeName), "kubelet")
	if err != nil {
		return err
	}
	about, err := factsOf(&s.cfg)
	if err != nil {
		return err
	}
	interval := time.Duration(0) // no heartbeat: while this process lives, so does its node
	if s.elects() {
		interval = heartbeat
	}
	h := &host{
		cfg: &s.cfg.Node, bind: s.cfg.BindAddress, log: s.log, say: s.say, since: s.since,
		facts: about, addrs: s.nodeIPs, client: c, informers: p.informers,
		processors: s.processors,
		servingTLS: p.certs.KubeletTLSConfig(), authenticate: authenticateKubelet(p.authn), authorize: p.authorizeKubelet, heartbeat: interval,
	}
	if s.cfg.NodeIP == "" {
		run.run("addresses of the machine", s.watchAddresses)
	}
	return h.start(run, func(n *node.Node) { p.local.set(n.Handler()) }, func(ctx context.Context) {
		if err := p.markControlPlane(ctx, s.cfg.NodeName); err != nil {
			s.log.Warn("cannot label the node as a control plane", "err", err)
		}
		p.keepControlPlaneMarked(ctx, s.cfg.NodeName, s.log)
	})
}

// keepControlPlaneMarked gives the node its role again each time it was removed from the API and has registered anew, until ctx ends.
func (p *controlPlane) keepControlPlaneMarked(ctx context.Context, name string, log *slog.Logger) {
	anew := make(chan struct{}, 1)
	nodes := p.informers.Core().V1().Nodes().Informer()
	handler, err := nodes.AddEventHandler(cache.ResourceEventHandlerDetailedFuncs{AddFunc: func(obj any, known bool) {
		if n, ok := obj.(*corev1.Node); ok && n.Name == name && !known {
			select {
			case anew <- struct{}{}:
			default:
			}
		}
	}})
	if err != nil {
		return // the informers have ended
	}
	defer func() { _ = nodes.RemoveEventHandler(handler) }() // so have they then
	for {
		select {
		case <-ctx.Done():
			return
		case <-anew:
			if err := p.markControlPlane(ctx, name); err != nil && ctx.Err() == nil {
				log.Warn("cannot label the node as a control plane", "err", err)
			}
		}
	}
}

// markControlPlane gives the node its role, which a node may not claim by itself (NodeRestriction).
func (p *controlPlane) markControlPlane(ctx context.Context, name string) error {
	const role = "node-role.kubernetes.io/control-plane"
	n, err := p.admin.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if _, has := n.Labels[role]; has {
		return nil
	}
	patch := []byte(`{"metadata":{"labels":{"` + role + `":""}}}`)
	_, err = p.admin.CoreV1().Nodes().Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{})
	return err
}

// authorizeKubelet asks the API's own authorizer whether somebody may use the node's API.
func (p *controlPlane) authorizeKubelet(ctx context.Context, u user.Info, a nodeserver.Attributes) (bool, string, error) {
	decision, reason, err := p.authz.Authorize(ctx, request.Attributes{
		User: u, Verb: a.Verb, Version: "v1", Resource: "nodes", Subresource: a.Subresource, Name: a.Node, ResourceRequest: true, Path: a.Path,
	})
	return decision == request.Allow, reason, err
}
