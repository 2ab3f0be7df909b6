package node

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	cri "k8s.io/cri-api/pkg/apis"
	"k8s.io/cri-streaming/pkg/streaming"
	"k8s.io/utils/clock"

	"github.com/celox/celox/internal/client/informers"
	"github.com/celox/celox/internal/node/imagegc"
	"github.com/celox/celox/internal/node/pressure"
	"github.com/celox/celox/internal/node/server"
	"github.com/celox/celox/internal/node/sysctl"
)

// Config is everything a node is given. Fields without a comment on their default are required.
type Config struct {
	NodeName string
	Client   kubernetes.Interface
	// Informers gives the informers below that are nil. The caller starts the factory after New; an agent restricts it
	// to what the node may see.
	Informers *informers.Factory
	// Pods may hold pods of other nodes as well: they are ignored.
	Pods     cache.SharedIndexInformer
	Services cache.SharedIndexInformer
	Nodes    cache.SharedIndexInformer

	Runtime cri.RuntimeService
	Images  cri.ImageManagerService
	// Streaming enters containers of a runtime in this process. If nil, exec, attach and port-forward are proxied to the
	// URLs that the runtime gives.
	Streaming streaming.Runtime

	// RootDir holds the pods' volumes and other files: <data>/node.
	RootDir string
	// LogDir holds the containers' logs, by default <RootDir>/../log/pods.
	LogDir string
	// CgroupRoot is unique per cluster, e.g. "/celox-ab12cd". Empty: no cgroups are made (tests).
	CgroupRoot string

	NodeIPs       []string // the first is the node's address; one per family
	ClusterDNS    []string
	ClusterDomain string // default "cluster.local"
	ResolvConf    string // default /etc/resolv.conf
	HostsFile     string // default /etc/hosts

	// Port is where the kubelet API is reached, for the Node object. Listener, if given, is served by Run with
	// ServingTLS; otherwise the caller serves Handler itself.
	Port       int32
	Listener   net.Listener
	ServingTLS *tls.Config
	// Authenticate and Authorize guard the kubelet API. If nil every request is refused, except /healthz.
	Authenticate func(*http.Request) (user.Info, bool, error)
	Authorize    func(ctx context.Context, u user.Info, a server.Attributes) (allowed bool, reason string, err error)

	// Register makes and updates the Node object; false for nodes whose object others make.
	Register bool
	Labels   map[string]string // besides the well-known ones
	Taints   []corev1.Taint    // at first registration
	MaxPods  int               // default 110
	// PodCIDRs are the networks of pods that the node asks for when its object is made anew, because its pods have addresses of them; nil or none leaves it
	// to the cluster.
	PodCIDRs func() []string
	// Sysctls are the kernel settings that pods may change; the zero value is the safe ones.
	Sysctls sysctl.Allowed
	// PodPIDs limits the processes of each pod; 0: no limit.
	PodPIDs int64
	// Reserved is kept for the system: capacity minus Reserved is allocatable.
	Reserved corev1.ResourceList
	// HeartbeatInterval renews the node's lease; 0: never, for a node in the server's process that needs no heartbeat.
	HeartbeatInterval time.Duration
	// StatusInterval writes the node's status even if nothing changed; 0: only on change.
	StatusInterval time.Duration
	// Metrics, if not nil, are shown with the node's own: those of what else runs for it.
	Metrics prometheus.Gatherer
	// Version is what the node says it runs, e.g. "v1.37.2-celox".
	Version string
	// Pressure holds the eviction thresholds; the zero value takes upstream's defaults.
	Pressure pressure.Thresholds
	// ImageGCHighPercent of the images' disk in use makes unused images go, down to ImageGCLowPercent; default 85 and 80, 100 for the first:
	// never.
	ImageGCHighPercent, ImageGCLowPercent int

	// PluginDir is where drivers register; without one, none do.
	PluginDir string

	// DevicePluginDir is where device plugins register and have their sockets; without one, there are none.
	DevicePluginDir string

	// PodResourcesDir is where programs are told which pod has which devices; "" for none.
	PodResourcesDir string
	// ImageCredentials is a CredentialProviderConfig, or a directory of some, and ImageCredentialsBinDir where the plugins are; "" for none.
	ImageCredentials, ImageCredentialsBinDir string

	StaticPodDir  string // "" for none
	StaticPodURL  string // "" for none
	SeccompDir    string // default <RootDir>/seccomp
	LogMaxBytes   int64  // default 10 MiB; negative: logs are never rotated
	LogMaxFiles   int    // default 5
	ParallelPulls int    // default 5

	Clock clock.WithTicker // default the real one
	Log   *slog.Logger
}

func (c *Config) complete() error {
	switch {
	case c.NodeName == "":
		return errors.New("node: NodeName is empty")
	case c.Client == nil:
		return errors.New("node: Client is nil")
	case c.Runtime == nil || c.Images == nil:
		return errors.New("node: Runtime or Images is nil")
	case c.RootDir == "":
		return errors.New("node: RootDir is empty")
	case c.Informers == nil && (c.Pods == nil || c.Services == nil || c.Nodes == nil):
		return errors.New("node: Informers is nil and not every informer is given")
	}
	root, err := filepath.Abs(c.RootDir)
	if err != nil {
		return fmt.Errorf("node: %w", err)
	}
	c.RootDir = root
	if c.Pods == nil {
		c.Pods = c.Informers.Core().V1().Pods().Informer()
	}
	if c.Services == nil {
		c.Services = c.Informers.Core().V1().Services().Informer()
	}
	if c.Nodes == nil {
		c.Nodes = c.Informers.Core().V1().Nodes().Informer()
	}
	set := func(s *string, value string) {
		if *s == "" {
			*s = value
		}
	}
	set(&c.LogDir, filepath.Join(filepath.Dir(root), "log", "pods"))
	set(&c.ClusterDomain, "cluster.local")
	set(&c.ResolvConf, "/etc/resolv.conf")
	set(&c.HostsFile, "/etc/hosts")
	set(&c.SeccompDir, filepath.Join(root, "seccomp"))
	set(&c.Version, "v1.37.0")
	if c.MaxPods == 0 {
		c.MaxPods = 110
	}
	if c.ImageGCHighPercent == 0 {
		c.ImageGCHighPercent = imagegc.DefaultHighPercent
	}
	if c.ImageGCLowPercent == 0 {
		c.ImageGCLowPercent = min(imagegc.DefaultLowPercent, c.ImageGCHighPercent-1)
	}
	if c.ImageGCLowPercent >= c.ImageGCHighPercent {
		return fmt.Errorf("node: the low mark of image garbage collection (%d %%) is not below the high one (%d %%)", c.ImageGCLowPercent, c.ImageGCHighPercent)
	}
	if c.LogMaxBytes == 0 {
		c.LogMaxBytes = 10 << 20
	}
	if c.LogMaxFiles == 0 {
		c.LogMaxFiles = 5
	}
	if c.ParallelPulls == 0 {
		c.ParallelPulls = 5
	}
	if c.Clock == nil {
		c.Clock = clock.RealClock{}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Authenticate == nil {
		c.Authenticate = func(*http.Request) (user.Info, bool, error) { return nil, false, nil }
	}
	if c.Authorize == nil {
		c.Authorize = func(context.Context, user.Info, server.Attributes) (bool, string, error) { return false, "", nil }
	}
	return nil
}
