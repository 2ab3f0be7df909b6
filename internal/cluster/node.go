package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"time"

	"go.opentelemetry.io/otel/trace/noop"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/user"
	cri "k8s.io/cri-api/pkg/apis"
	criclient "k8s.io/cri-client/pkg"
	"k8s.io/cri-streaming/pkg/streaming"

	"github.com/celox/celox/internal/apiserver/request"
	"github.com/celox/celox/internal/cluster/control"
	"github.com/celox/celox/internal/cluster/version"
	"github.com/celox/celox/internal/network"
	"github.com/celox/celox/internal/node"
	nodeserver "github.com/celox/celox/internal/node/server"
	"github.com/celox/celox/internal/runtime"
	"github.com/celox/celox/internal/runtime/bundle"
	"github.com/celox/celox/internal/runtime/images"
)

const (
	// criSocket is where the embedded runtime answers crictl.
	criSocket = "run/cri.sock"
	// criTimeout bounds the dial of an external runtime.
	criTimeout = 10 * time.Second
	// dnsAddress is the place of the cluster's DNS in the service range, as everywhere.
	dnsAddress = 10
)

// nodeUser is who a node is for the API.
func nodeUser(name string) user.Info {
	return &user.DefaultInfo{Name: "system:node:" + name, Groups: []string{user.NodesGroup, user.AllAuthenticated}}
}

// startNode starts runtime, network and node agent, and says when the node is Ready.
func (s *Server) startNode(run *group, p *controlPlane) error {
	rt, err := s.openRuntime(run)
	if err != nil {
		return err
	}
	listener, err := listen(s.cfg.BindAddress, s.cfg.KubeletPort, "kubelet-port")
	if err != nil {
		return err
	}
	c, err := p.client(nodeUser(s.cfg.NodeName), "kubelet")
	if err != nil {
		return err
	}
	services, err := s.cfg.ServiceCIDRs()
	if err != nil {
		return err
	}
	dns := services[0].Addr()
	for range dnsAddress {
		dns = dns.Next()
	}
	logMaxBytes, err := s.cfg.LogMaxBytes()
	if err != nil {
		return err
	}
	eviction, err := s.cfg.Eviction()
	if err != nil {
		return err
	}
	interval := time.Duration(0) // no heartbeat: while this process lives, so does its node
	if s.elects() {
		interval = heartbeat
	}
	n, err := node.New(node.Config{
		NodeName: s.cfg.NodeName, Client: c, Informers: p.informers,
		Runtime: rt.runtime, Images: rt.images, Streaming: rt.streams,
		RootDir: filepath.Join(s.cfg.DataDir, nodeDir), LogDir: filepath.Join(s.cfg.DataDir, podLogDir), CgroupRoot: cgroupRoot(s.cfg.DataDir),
		NodeIPs: []string{s.nodeIP.String()}, ClusterDNS: []string{dns.String()}, ClusterDomain: s.cfg.ClusterDomain,
		Port: int32(s.cfg.KubeletPort), Listener: listener, ServingTLS: p.certs.KubeletTLSConfig(),
		Authenticate: authenticateKubelet(p.authn), Authorize: p.authorizeKubelet,
		Register:    true,
		LogMaxBytes: logMaxBytes, LogMaxFiles: s.cfg.ContainerLogMaxFiles,
		Pressure: eviction, ImageGCHighPercent: s.cfg.ImageGCHighThreshold, ImageGCLowPercent: s.cfg.ImageGCLowThreshold,
		HeartbeatInterval: interval,
		Version:           version.Git(), Log: s.log,
	})
	if err != nil {
		_ = listener.Close()
		return err
	}
	p.local.set(n.Handler())
	run.run("node", n.Run)
	run.run("node readiness", func(ctx context.Context) error {
		select {
		case <-n.Ready():
			s.say("node %s is Ready after %s", s.cfg.NodeName, s.since())
			if err := p.markControlPlane(ctx, s.cfg.NodeName); err != nil {
				s.log.Warn("cannot label the node as a control plane", "err", err)
			}
		case <-ctx.Done():
			return nil
		}
		<-ctx.Done()
		return nil
	})
	return nil
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

// nodeRuntime is what a node runs containers with.
type nodeRuntime struct {
	runtime cri.RuntimeService
	images  cri.ImageManagerService
	streams streaming.Runtime // nil for a runtime in another process
}

// openRuntime opens the embedded runtime, or connects to an external one.
func (s *Server) openRuntime(run *group) (*nodeRuntime, error) {
	if s.cfg.RuntimeEndpoint != "" {
		tracer := noop.NewTracerProvider()
		rt, err := criclient.NewRemoteRuntimeService(run.parent, s.cfg.RuntimeEndpoint, criTimeout, tracer, false)
		if err != nil {
			return nil, fmt.Errorf("--container-runtime-endpoint: %w", err)
		}
		im, err := criclient.NewRemoteImageService(run.parent, s.cfg.RuntimeEndpoint, criTimeout, tracer, false)
		if err != nil {
			return nil, fmt.Errorf("--container-runtime-endpoint: %w", err)
		}
		return &nodeRuntime{runtime: rt, images: im}, nil
	}
	mirrors, err := s.cfg.Mirrors()
	if err != nil {
		return nil, err
	}
	store, err := images.Open(images.Config{
		Root: filepath.Join(s.cfg.DataDir, ImagesDir), Registries: images.Registries{Mirrors: mirrors, Insecure: s.cfg.InsecureRegistries}, Log: s.log,
	})
	if err != nil {
		return nil, err
	}
	run.atEnd("images", store.Close)
	podCIDR, err := netip.ParsePrefix(s.cfg.ClusterCIDR)
	if err != nil {
		return nil, err
	}
	podNetwork, err := network.New(network.Config{PodCIDRs: []netip.Prefix{podCIDR}, StateDir: filepath.Join(s.cfg.DataDir, networkDir), Log: s.log})
	if err != nil {
		return nil, err
	}
	run.atEnd("pod network", podNetwork.Close)
	binary, err := bundle.Unpack(filepath.Join(s.cfg.DataDir, binDir))
	if err != nil {
		return nil, err
	}
	content, err := bundle.Version()
	if err != nil {
		return nil, err
	}
	rt, err := runtime.New(run.parent, runtime.Config{
		Root: filepath.Join(s.cfg.DataDir, runtimeDir), Binary: binary, BinaryVersion: content, CgroupRoot: cgroupRoot(s.cfg.DataDir),
		Images: store, Network: podNetworkFor{podNetwork}, Version: version.Kubernetes, Log: s.log,
	})
	if err != nil {
		return nil, fmt.Errorf("container runtime: %w", err)
	}
	run.atEnd("container runtime", rt.Close)
	run.run("CRI socket", func(ctx context.Context) error { return rt.Serve(ctx, filepath.Join(s.cfg.DataDir, criSocket)) })
	controlListener, err := control.Listen(control.Socket(s.cfg.DataDir))
	if err != nil {
		return nil, err
	}
	run.run("control socket", func(ctx context.Context) error {
		return serveUntil(ctx, controlListener, control.Handler(control.Local{Store: store}))
	})
	return &nodeRuntime{runtime: rt.Runtime(), images: rt.ImageManager(), streams: rt.Streaming()}, nil
}

// serveUntil serves plain HTTP on l until ctx ends.
func serveUntil(ctx context.Context, l net.Listener, h http.Handler) error {
	srv := &http.Server{Handler: h, ReadHeaderTimeout: headerTimeout}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() }) // there is nobody left to tell
	defer stop()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// podNetworkFor lets the pod network stand where the runtime wants one; neither knows the other.
type podNetworkFor struct{ n *network.Network }

func (a podNetworkFor) Setup(ctx context.Context, r runtime.SandboxRequest) (runtime.SandboxResult, error) {
	got, err := a.n.Setup(ctx, sandboxRequest(r))
	return runtime.SandboxResult{IPs: got.IPs}, err
}

func (a podNetworkFor) Teardown(ctx context.Context, r runtime.SandboxRequest) error {
	return a.n.Teardown(ctx, sandboxRequest(r))
}

func (a podNetworkFor) Ready() error { return a.n.Ready() }

func sandboxRequest(r runtime.SandboxRequest) network.SandboxRequest {
	out := network.SandboxRequest{ID: r.ID, Namespace: r.Namespace, Name: r.Name, UID: r.UID, NetNSPath: r.NetNSPath}
	for _, m := range r.PortMappings {
		out.PortMappings = append(out.PortMappings, network.PortMapping(m))
	}
	return out
}
