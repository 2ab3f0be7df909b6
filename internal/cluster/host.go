package cluster

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace/noop"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	cri "k8s.io/cri-api/pkg/apis"
	criclient "k8s.io/cri-client/pkg"
	"k8s.io/cri-streaming/pkg/streaming"

	"github.com/celox/celox/internal/client/informers"
	"github.com/celox/celox/internal/cluster/config"
	"github.com/celox/celox/internal/cluster/control"
	"github.com/celox/celox/internal/cluster/version"
	"github.com/celox/celox/internal/network/policy"
	"github.com/celox/celox/internal/node"
	nodeserver "github.com/celox/celox/internal/node/server"
	"github.com/celox/celox/internal/runtime"
	"github.com/celox/celox/internal/runtime/bundle"
	"github.com/celox/celox/internal/runtime/images"
)

// host is what a machine of the cluster runs, be it the server's or an agent's: container runtime, pod network, and the node agent.
type host struct {
	cfg   *config.Node
	bind  string // the address that the node's API is served on
	log   *slog.Logger
	say   Say
	since func() time.Duration
	// processors are those of the process.
	processors *processors

	facts   facts
	cluster string       // which it is, for an agent: the hash of its authority
	addrs   []netip.Addr // of the node
	// client speaks to the API as the node.
	client kubernetes.Interface
	// informers are of what nodes follow. Who made them starts them.
	informers *informers.Factory
	// pods are those of this node; nil is the informer of all.
	pods cache.SharedIndexInformer
	// network is the pod network once start has been called; nil for a runtime in another process.
	network *nodeNetwork
	// names are the addresses of domain names that policies mention; nil if nobody learns them.
	names *policy.Names
	// listening may put something around the listener of the node's API.
	listening func(net.Listener) net.Listener

	servingTLS   *tls.Config
	authenticate func(*http.Request) (user.Info, bool, error)
	authorize    func(ctx context.Context, u user.Info, a nodeserver.Attributes) (allowed bool, reason string, err error)
	// heartbeat is how often the node's lease is renewed; 0 is never.
	heartbeat time.Duration
	// metrics are those of what else the process does for the node, which the node's API shows with its own.
	metrics *prometheus.Registry
}

// start starts everything and says when the node is Ready. Made is told of the node before it runs, ready when it is Ready.
func (h *host) start(run *group, made func(*node.Node), ready func(context.Context)) error {
	h.metrics = prometheus.NewRegistry()
	rt, err := h.openRuntime(run)
	if err != nil {
		return err
	}
	listener, err := listen(h.bind, h.cfg.KubeletPort, "kubelet-port")
	if err != nil {
		return err
	}
	h.network = rt.network
	if h.listening != nil {
		listener = h.listening(listener)
	}
	n, err := h.newNode(rt, listener)
	if err != nil {
		_ = listener.Close()
		return err
	}
	made(n)
	if rt.network != nil {
		rt.network.changed = n.Changed
	}
	if err := h.openNames(run, rt.network); err != nil {
		return err
	}
	if err := h.startServices(run, rt.network); err != nil {
		return err
	}
	if err := h.startIngress(run); err != nil {
		return err
	}
	if rt.network != nil {
		if err := h.startPolicy(run, rt.network); err != nil {
			return err
		}
		rt.network.start(run)
		if err := rt.network.Ready(); err != nil && rt.network.external {
			h.say("pods wait for a CNI plugin: %v (configurations are looked for in %s, plugins in %s)", err, h.cfg.CNIConfDir, strings.Join(h.cfg.CNIBinDirs, ", "))
		}
	}
	run.run("node", n.Run)
	run.run("node readiness", func(ctx context.Context) error {
		select {
		case <-n.Ready():
			h.say("node %s is Ready after %s", h.cfg.NodeName, h.since())
			ready(ctx)
		case <-ctx.Done():
			return nil
		}
		<-ctx.Done()
		return nil
	})
	return nil
}

func (h *host) newNode(rt *nodeRuntime, listener net.Listener) (*node.Node, error) {
	logMaxBytes, err := h.cfg.LogMaxBytes()
	if err != nil {
		return nil, err
	}
	eviction, err := h.cfg.Eviction()
	if err != nil {
		return nil, err
	}
	sysctls, err := h.cfg.Sysctls()
	if err != nil {
		return nil, err
	}
	var ips []string
	for _, a := range h.addrs {
		ips = append(ips, a.String())
	}
	return node.New(node.Config{
		NodeName: h.cfg.NodeName, Client: h.client, Informers: h.informers, Pods: h.pods,
		Runtime: rt.runtime, Images: rt.images, Streaming: rt.streams,
		RootDir: filepath.Join(h.cfg.DataDir, nodeDir), PluginDir: cmp.Or(h.cfg.PluginRegistry, filepath.Join(h.cfg.DataDir, nodeDir, pluginDir)),
		LogDir: filepath.Join(h.cfg.DataDir, podLogDir), CgroupRoot: cgroupRoot(h.cfg.DataDir),
		DevicePluginDir: cmp.Or(h.cfg.DevicePluginDir, filepath.Join(h.cfg.DataDir, nodeDir, devicePluginDir)),
		StaticPodDir:    h.cfg.StaticPodPath, StaticPodURL: h.cfg.StaticPodURL,
		PodResourcesDir:  filepath.Join(h.cfg.DataDir, nodeDir, podResourcesDir),
		ImageCredentials: h.cfg.ImageCredentials, ImageCredentialsBinDir: h.cfg.ImageCredentialsBinDir,
		NodeIPs: ips, ClusterDNS: []string{h.facts.dns()[0].String()}, ClusterDomain: h.facts.domain,
		Port: int32(h.cfg.KubeletPort), Listener: listener, ServingTLS: h.servingTLS,
		Authenticate: h.authenticate, Authorize: h.authorize,
		Register:    true,
		PodCIDRs:    rt.network.wanted,
		Sysctls:     sysctls,
		LogMaxBytes: logMaxBytes, LogMaxFiles: h.cfg.ContainerLogMaxFiles,
		Pressure: eviction, ImageGCHighPercent: h.cfg.ImageGCHighThreshold, ImageGCLowPercent: h.cfg.ImageGCLowThreshold,
		HeartbeatInterval: h.heartbeat, Metrics: h.metrics,
		Version: version.Git(), Log: h.log,
	})
}

// nodeRuntime is what a node runs containers with.
type nodeRuntime struct {
	runtime cri.RuntimeService
	images  cri.ImageManagerService
	streams streaming.Runtime // nil for a runtime in another process
	network *nodeNetwork      // nil for a runtime in another process, which has its own
}

// openRuntime opens the embedded runtime, or connects to an external one.
func (h *host) openRuntime(run *group) (*nodeRuntime, error) {
	if h.cfg.RuntimeEndpoint != "" {
		tracer := noop.NewTracerProvider()
		rt, err := criclient.NewRemoteRuntimeService(run.parent, h.cfg.RuntimeEndpoint, criTimeout, tracer, false)
		if err != nil {
			return nil, fmt.Errorf("--container-runtime-endpoint: %w", err)
		}
		im, err := criclient.NewRemoteImageService(run.parent, h.cfg.RuntimeEndpoint, criTimeout, tracer, false)
		if err != nil {
			return nil, fmt.Errorf("--container-runtime-endpoint: %w", err)
		}
		return &nodeRuntime{runtime: rt, images: im}, nil
	}
	mirrors, err := h.cfg.Mirrors()
	if err != nil {
		return nil, err
	}
	store, err := images.Open(images.Config{
		Root: filepath.Join(h.cfg.DataDir, ImagesDir), Registries: images.Registries{Mirrors: mirrors, Insecure: h.cfg.InsecureRegistries}, Log: h.log,
	})
	if err != nil {
		return nil, err
	}
	run.atEnd("images", store.Close)
	podNetwork, err := newNodeNetwork(h)
	if err != nil {
		return nil, err
	}
	run.atEnd("pod network", podNetwork.Close)
	binary, err := bundle.Unpack(filepath.Join(h.cfg.DataDir, binDir))
	if err != nil {
		return nil, err
	}
	content, err := bundle.Version()
	if err != nil {
		return nil, err
	}
	rt, err := runtime.New(run.parent, runtime.Config{
		Root: filepath.Join(h.cfg.DataDir, runtimeDir), Binary: binary, BinaryVersion: content, CgroupRoot: cgroupRoot(h.cfg.DataDir),
		Images: store, Network: podNetwork, Version: version.Kubernetes, Log: h.log,
	})
	if err != nil {
		return nil, fmt.Errorf("container runtime: %w", err)
	}
	run.atEnd("container runtime", rt.Close)
	run.run("CRI socket", func(ctx context.Context) error { return rt.Serve(ctx, filepath.Join(h.cfg.DataDir, criSocket)) })
	controlListener, err := control.Listen(control.Socket(h.cfg.DataDir))
	if err != nil {
		return nil, err
	}
	run.run("control socket", func(ctx context.Context) error {
		return serveUntil(ctx, controlListener, control.Handler(control.Local{Store: store}))
	})
	return &nodeRuntime{runtime: rt.Runtime(), images: rt.ImageManager(), streams: rt.Streaming(), network: podNetwork}, nil
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
