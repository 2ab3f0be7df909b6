package config

import (
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/celox/celox/internal/node/pressure"
	"github.com/celox/celox/internal/node/sysctl"
)

// Node is what a server and an agent can both be told: all that is about one machine.
type Node struct {
	DataDir  string
	NodeName string
	// NodeIP is the node's address, or one of each family with a comma between them.
	NodeIP      string
	KubeletPort int
	LogLevel    string

	RegistryMirrors    []string
	InsecureRegistries []string
	RuntimeEndpoint    string
	// ImageCredentials is a CredentialProviderConfig, or a directory of some, and ImageCredentialsBinDir where its plugins are.
	ImageCredentials, ImageCredentialsBinDir string
	// PluginRegistry is where drivers register with the node, DevicePluginDir where device plugins do.
	PluginRegistry, DevicePluginDir string
	// StaticPodPath and StaticPodURL are where manifests of pods come from that the node runs without being told by the API: a directory, and an address in the web. "" is none.
	StaticPodPath, StaticPodURL string

	// CNIConfDir has the configuration of the plugins that connect pods if the built-in network is left out, CNIBinDirs the plugins.
	CNIConfDir string
	CNIBinDirs []string

	ContainerLogMaxSize  string
	ContainerLogMaxFiles int

	// AllowedUnsafeSysctls are the kernel settings that pods may change besides the safe ones.
	AllowedUnsafeSysctls []string

	EvictionHard                              string
	ImageGCHighThreshold, ImageGCLowThreshold int
}

// bind declares the keys as flags of fs, with their defaults.
func (n *Node) bind(fs *pflag.FlagSet) {
	fs.StringVar(&n.DataDir, "data-dir", DefaultDataDir, "directory that holds everything the cluster keeps")
	fs.StringVar(&n.NodeName, "node-name", "", "name of this node (default: the host name)")
	fs.IntVar(&n.KubeletPort, "kubelet-port", 10250, "port of the node's own API")
	fs.StringVar(&n.LogLevel, "log-level", "warn", "debug, info, warn or error")
	fs.StringSliceVar(&n.RegistryMirrors, "registry-mirror", nil, "where to look first for images of a registry, e.g. docker.io=https://mirror.example.com; http:// before it means plain HTTP")
	fs.StringSliceVar(&n.InsecureRegistries, "insecure-registry", nil, "registry hosts that are spoken to without checking certificates")
	fs.StringVar(&n.ImageCredentials, "image-credential-provider-config", "", "CredentialProviderConfig, or a directory of some: the plugins that are asked for credentials of registries")
	fs.StringVar(&n.ImageCredentialsBinDir, "image-credential-provider-bin-dir", "", "directory with these plugins")
	fs.StringVar(&n.ContainerLogMaxSize, "container-log-max-size", "10Mi", "size at which a container's log goes on in a new file, e.g. 10Mi; -1 is never")
	fs.IntVar(&n.ContainerLogMaxFiles, "container-log-max-files", 5, "files that are kept of a container's log, the one in use included; at least 2")
	fs.StringSliceVar(&n.AllowedUnsafeSysctls, "allowed-unsafe-sysctls", nil, "kernel settings that pods may change besides the safe ones: names, or beginnings of names with a * (net.core.*)")
	fs.StringVar(&n.EvictionHard, "eviction-hard", "memory.available<100Mi,nodefs.available<10%,nodefs.inodesFree<5%,imagefs.available<15%,imagefs.inodesFree<5%",
		"what has to be left on the node, else pods are evicted; what isn't named isn't watched")
	fs.IntVar(&n.ImageGCHighThreshold, "image-gc-high-threshold", 85, "percentage of the images' disk in use at which unused images are removed; 100 is never")
	fs.IntVar(&n.ImageGCLowThreshold, "image-gc-low-threshold", 80, "percentage of the images' disk in use down to which unused images are removed")
	fs.StringVar(&n.CNIConfDir, "cni-conf-dir", "/etc/cni/net.d", "directory with the configuration of CNI plugins, of which the first file by name counts; for clusters with --disable=pod-network")
	fs.StringSliceVar(&n.CNIBinDirs, "cni-bin-dir", []string{"/opt/cni/bin"}, "directories with CNI plugins, which are searched in this order; for clusters with --disable=pod-network")
	fs.StringVar(&n.PluginRegistry, "plugin-registry", "", "directory where drivers of devices register with the node by a socket (default: node/plugins_registry in the data directory); "+
		"drivers made for the kubelet use /var/lib/kubelet/plugins_registry unless they are told")
	fs.StringVar(&n.DevicePluginDir, "device-plugin-dir", "", "directory where device plugins register with the node (kubelet.sock) and have their sockets (default: node/device-plugins in the data directory); "+
		"plugins made for the kubelet use /var/lib/kubelet/device-plugins unless they are told")
	fs.StringVar(&n.StaticPodPath, "pod-manifest-path", "", "directory with manifests of static pods, e.g. /etc/kubernetes/manifests: the node runs them by itself, and shows them in the API")
	fs.StringVar(&n.StaticPodURL, "manifest-url", "", "where more manifests of static pods are fetched from, e.g. https://boot.example/pods.yaml")
	fs.StringVar(&n.RuntimeEndpoint, "container-runtime-endpoint", "", "CRI socket to use instead of the embedded runtime, e.g. unix:///run/containerd/containerd.sock")
}

// complete fills in what depends on the machine and tells bad about every value that is wrong.
func (n *Node) complete(bad func(key, format string, args ...any)) {
	dir, err := filepath.Abs(n.DataDir)
	if err != nil || n.DataDir == "" {
		bad("data-dir", "%q is no directory name", n.DataDir)
	}
	n.DataDir = dir
	for key, dir := range map[string]string{"device-plugin-dir": n.DevicePluginDir, "plugin-registry": n.PluginRegistry, "pod-manifest-path": n.StaticPodPath} {
		if dir != "" && !filepath.IsAbs(dir) {
			bad(key, "%q is no absolute path", dir)
		}
	}
	if u, err := url.Parse(n.StaticPodURL); n.StaticPodURL != "" && (err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https") {
		bad("manifest-url", "%q is no URL like https://boot.example/pods.yaml", n.StaticPodURL)
	}
	if e := n.RuntimeEndpoint; e != "" && !filepath.IsAbs(strings.TrimPrefix(e, "unix://")) {
		bad("container-runtime-endpoint", "%q is no socket like unix:///run/containerd/containerd.sock", e)
	}
	if !filepath.IsAbs(n.CNIConfDir) {
		bad("cni-conf-dir", "%q is no absolute path", n.CNIConfDir)
	}
	for _, dir := range n.CNIBinDirs {
		if !filepath.IsAbs(dir) {
			bad("cni-bin-dir", "%q is no absolute path", dir)
		}
	}
	checkPort(bad, "kubelet-port", n.KubeletPort)
	if n.NodeName == "" {
		host, err := os.Hostname()
		if err != nil {
			bad("node-name", "not given, and the host name cannot be read: %v", err)
		}
		n.NodeName = strings.ToLower(host)
	}
	if msgs := validation.IsDNS1123Subdomain(n.NodeName); len(msgs) > 0 {
		bad("node-name", "%q: %s", n.NodeName, strings.Join(msgs, "; "))
	}
	if _, err := n.NodeIPs(); err != nil {
		bad("node-ip", "%v", err)
	}
	if _, err := n.Level(); err != nil {
		bad("log-level", "%q: use debug, info, warn or error", n.LogLevel)
	}
	if _, err := n.Mirrors(); err != nil {
		bad("registry-mirror", "%v", err)
	}
	if err := CheckRegistryHosts(n.InsecureRegistries); err != nil {
		bad("insecure-registry", "%v", err)
	}
	switch {
	case n.ImageCredentials != "" && n.ImageCredentialsBinDir == "":
		bad("image-credential-provider-bin-dir", "not given: the plugins of --image-credential-provider-config must be somewhere")
	case n.ImageCredentials == "" && n.ImageCredentialsBinDir != "":
		bad("image-credential-provider-config", "not given: it says which plugins of --image-credential-provider-bin-dir are asked for what")
	}
	if _, err := n.LogMaxBytes(); err != nil {
		bad("container-log-max-size", "%v", err)
	}
	if n.ContainerLogMaxFiles < 2 {
		bad("container-log-max-files", "%d is too few: use 2 or more", n.ContainerLogMaxFiles)
	}
	if _, err := n.Sysctls(); err != nil {
		bad("allowed-unsafe-sysctls", "%v", err)
	}
	if _, err := n.Eviction(); err != nil {
		bad("eviction-hard", "%v", err)
	}
	if n.ImageGCHighThreshold < 1 || n.ImageGCHighThreshold > 100 {
		bad("image-gc-high-threshold", "%d is no percentage: use 1 to 100", n.ImageGCHighThreshold)
	}
	if n.ImageGCLowThreshold < 1 || n.ImageGCLowThreshold >= n.ImageGCHighThreshold {
		bad("image-gc-low-threshold", "%d is not between 1 and --image-gc-high-threshold", n.ImageGCLowThreshold)
	}
}

// NodeIPs are the addresses that the node was given, one of each family at most; none are to be found.
func (n *Node) NodeIPs() ([]netip.Addr, error) {
	if n.NodeIP == "" {
		return nil, nil
	}
	var out []netip.Addr
	for text := range strings.SplitSeq(n.NodeIP, ",") {
		a, err := netip.ParseAddr(strings.TrimSpace(text))
		if err != nil || a.Zone() != "" || a.IsUnspecified() || a.IsMulticast() {
			return nil, fmt.Errorf("%q is no IP address of a machine", text)
		}
		out = append(out, a.Unmap())
	}
	if len(out) > 2 || len(out) == 2 && out[0].Is4() == out[1].Is4() {
		return nil, fmt.Errorf("%q: give one address, or one of IPv4 and one of IPv6", n.NodeIP)
	}
	return out, nil
}

// Level is the log level.
func (n *Node) Level() (slog.Level, error) {
	var l slog.Level
	err := l.UnmarshalText([]byte(n.LogLevel))
	return l, err
}

// minLogSize is less than anybody wants of a log: whoever is below it meant another unit ("10m" is the hundredth part of a byte).
const minLogSize = 1 << 10

// LogMaxBytes is the size at which a container's log is rotated; negative is never.
func (n *Node) LogMaxBytes() (int64, error) {
	q, err := resource.ParseQuantity(n.ContainerLogMaxSize)
	if err != nil {
		return 0, fmt.Errorf("%q is no size like 10Mi", n.ContainerLogMaxSize)
	}
	size := q.Value()
	if size != -1 && size < minLogSize {
		return 0, fmt.Errorf("%q: use a size like 10Mi, or -1 for no rotation", n.ContainerLogMaxSize)
	}
	return size, nil
}

// Sysctls are the kernel settings that pods may change.
func (n *Node) Sysctls() (sysctl.Allowed, error) { return sysctl.Parse(n.AllowedUnsafeSysctls) }

// Eviction is what has to be left on the node.
func (n *Node) Eviction() (pressure.Thresholds, error) {
	t, err := pressure.Parse(n.EvictionHard)
	if t == (pressure.Thresholds{}) {
		t.Off = true // nothing is named
	}
	return t, err
}

// Mirrors are the registry mirrors by the registry's host.
func (n *Node) Mirrors() (map[string][]string, error) {
	out := map[string][]string{}
	for _, m := range n.RegistryMirrors {
		host, mirror, ok := strings.Cut(m, "=")
		if !ok || host == "" || mirror == "" {
			return nil, fmt.Errorf("%q is not REGISTRY=URL", m)
		}
		at, _ := strings.CutPrefix(mirror, "https://")
		at, _ = strings.CutPrefix(at, "http://")
		if at, _, _ = strings.Cut(at, "/"); !isHost(at) {
			return nil, fmt.Errorf("%q is no mirror like https://mirror.example.com or http://10.0.0.1:5000", mirror)
		}
		out[host] = append(out[host], mirror)
	}
	return out, nil
}
