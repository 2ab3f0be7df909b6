package config

import (
	"errors"
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
	schedulerconfig "github.com/celox/celox/internal/scheduler/config"
)

// DefaultDataDir is where a cluster keeps everything unless told otherwise.
const DefaultDataDir = "/var/lib/celox"

// Server is what `celox server` can be told.
type Server struct {
	DataDir     string
	BindAddress string
	HTTPSPort   int
	NodeName    string
	NodeIP      string
	DisableNode bool

	EtcdServers  []string
	EtcdCAFile   string
	EtcdCertFile string
	EtcdKeyFile  string
	EtcdQuota    int64

	WriteKubeconfig string
	TLSSANs         []string
	LogLevel        string

	ClusterCIDR   string
	ServiceCIDR   string
	ClusterDomain string
	KubeletPort   int

	// Controllers says which controllers run: "*" is all, a name that one, a name after "-" all but that one.
	Controllers []string

	// SchedulerConfig is the file that configures the scheduler; empty is none.
	SchedulerConfig string

	// AdmissionConfig is the file that configures plugins of admission; empty is none.
	AdmissionConfig string

	AuditPolicyFile                                    string
	AuditLogPath                                       string
	AuditLogMaxAge, AuditLogMaxBackup, AuditLogMaxSize int

	RegistryMirrors    []string
	InsecureRegistries []string
	RuntimeEndpoint    string

	ContainerLogMaxSize  string
	ContainerLogMaxFiles int

	EvictionHard                              string
	ImageGCHighThreshold, ImageGCLowThreshold int
}

// Bind declares the keys as flags of fs, with their defaults.
func (s *Server) Bind(fs *pflag.FlagSet) {
	fs.StringVar(&s.DataDir, "data-dir", DefaultDataDir, "directory that holds everything the cluster keeps")
	fs.StringVar(&s.BindAddress, "bind-address", "0.0.0.0", "address that the API is served on")
	fs.IntVar(&s.HTTPSPort, "https-port", 6443, "port that the API is served on")
	fs.StringVar(&s.NodeName, "node-name", "", "name of this node (default: the host name)")
	fs.StringVar(&s.NodeIP, "node-ip", "", "address of this node (default: that of the default route)")
	fs.BoolVar(&s.DisableNode, "disable-node", false, "run the control plane only, no containers")
	fs.StringSliceVar(&s.EtcdServers, "etcd-servers", nil, "external etcd to use instead of the embedded one, e.g. https://10.0.0.1:2379")
	fs.StringVar(&s.EtcdCAFile, "etcd-cafile", "", "CA of the external etcd")
	fs.StringVar(&s.EtcdCertFile, "etcd-certfile", "", "client certificate for the external etcd")
	fs.StringVar(&s.EtcdKeyFile, "etcd-keyfile", "", "client key for the external etcd")
	fs.Int64Var(&s.EtcdQuota, "etcd-quota-bytes", 8<<30, "size of the embedded database at which writes are refused")
	fs.StringVar(&s.WriteKubeconfig, "write-kubeconfig", "", "file to write the administrator's kubeconfig to (default: DATA-DIR/admin.kubeconfig)")
	fs.StringSliceVar(&s.TLSSANs, "tls-san", nil, "further names and addresses that the API's certificate is good for")
	fs.StringVar(&s.LogLevel, "log-level", "warn", "debug, info, warn or error")
	fs.StringVar(&s.ClusterCIDR, "cluster-cidr", "10.42.0.0/24", "addresses of pods on this node")
	fs.StringVar(&s.ServiceCIDR, "service-cidr", "10.43.0.0/16", "addresses of services; two networks of different families, with a comma between them, give dual-stack services")
	fs.StringVar(&s.ClusterDomain, "cluster-domain", "cluster.local", "DNS domain of the cluster")
	fs.IntVar(&s.KubeletPort, "kubelet-port", 10250, "port of the node's own API")
	fs.StringSliceVar(&s.Controllers, "controllers", []string{"*"}, "controllers to run: * is all, NAME is that one, -NAME all but that one, \"\" none; the scheduler counts as one")
	fs.StringVar(&s.SchedulerConfig, "scheduler-config", "", "KubeSchedulerConfiguration (kubescheduler.config.k8s.io/v1) with the scheduler's profiles, plugins and extenders; none is the defaults")
	fs.StringVar(&s.AdmissionConfig, "admission-control-config-file", "", "AdmissionConfiguration (apiserver.config.k8s.io/v1) with the defaults and exemptions of PodSecurity; none is the defaults")
	fs.StringVar(&s.AuditPolicyFile, "audit-policy-file", "", "audit policy (audit.k8s.io/v1) that says which requests are written to the audit log; none is no audit")
	fs.StringVar(&s.AuditLogPath, "audit-log-path", "", "file that audit events are written to, a line of JSON each; - is the standard output")
	fs.IntVar(&s.AuditLogMaxAge, "audit-log-maxage", 366, "days that full audit logs are kept; 0 is for ever")
	fs.IntVar(&s.AuditLogMaxBackup, "audit-log-maxbackup", 100, "full audit logs that are kept; 0 is all")
	fs.IntVar(&s.AuditLogMaxSize, "audit-log-maxsize", 100, "megabytes at which an audit log is full; 0 is never")
	fs.StringSliceVar(&s.RegistryMirrors, "registry-mirror", nil, "where to look first for images of a registry, e.g. docker.io=https://mirror.example.com")
	fs.StringSliceVar(&s.InsecureRegistries, "insecure-registry", nil, "registry hosts that are spoken to without checking certificates")
	fs.StringVar(&s.ContainerLogMaxSize, "container-log-max-size", "10Mi", "size at which a container's log goes on in a new file, e.g. 10Mi; -1 is never")
	fs.IntVar(&s.ContainerLogMaxFiles, "container-log-max-files", 5, "files that are kept of a container's log, the one in use included; at least 2")
	fs.StringVar(&s.EvictionHard, "eviction-hard", "memory.available<100Mi,nodefs.available<10%,nodefs.inodesFree<5%,imagefs.available<15%,imagefs.inodesFree<5%",
		"what has to be left on the node, else pods are evicted; what isn't named isn't watched")
	fs.IntVar(&s.ImageGCHighThreshold, "image-gc-high-threshold", 85, "percentage of the images' disk in use at which unused images are removed; 100 is never")
	fs.IntVar(&s.ImageGCLowThreshold, "image-gc-low-threshold", 80, "percentage of the images' disk in use down to which unused images are removed")
	fs.StringVar(&s.RuntimeEndpoint, "container-runtime-endpoint", "", "CRI socket to use instead of the embedded runtime, e.g. unix:///run/containerd/containerd.sock")
}

// ServiceCIDRs are the networks of services, the primary one first.
func (s *Server) ServiceCIDRs() ([]netip.Prefix, error) {
	var out []netip.Prefix
	for text := range strings.SplitSeq(s.ServiceCIDR, ",") {
		p, err := network(text)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	if len(out) > 2 || len(out) == 2 && out[0].Addr().Is4() == out[1].Addr().Is4() {
		return nil, fmt.Errorf("%q: give one network, or one of IPv4 and one of IPv6", s.ServiceCIDR)
	}
	return out, nil
}

func network(cidr string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(cidr)
	if err != nil {
		return p, fmt.Errorf("%q is no network like 10.42.0.0/24", cidr)
	}
	if p.Masked() != p {
		return p, fmt.Errorf("%q has host bits set: did you mean %s?", cidr, p.Masked())
	}
	return p, nil
}

// Complete fills in what depends on the machine and checks every value. The error names the key.
func (s *Server) Complete() error {
	var errs []error
	bad := func(key, format string, args ...any) {
		errs = append(errs, fmt.Errorf("--%s: %s", key, fmt.Sprintf(format, args...)))
	}
	dir, err := filepath.Abs(s.DataDir)
	if err != nil || s.DataDir == "" {
		bad("data-dir", "%q is no directory name", s.DataDir)
	}
	s.DataDir = dir
	if _, err := netip.ParseAddr(s.BindAddress); err != nil {
		bad("bind-address", "%q is no IP address", s.BindAddress)
	}
	for key, port := range map[string]int{"https-port": s.HTTPSPort, "kubelet-port": s.KubeletPort} {
		if port < 1 || port > 65535 {
			bad(key, "%d is no port: use 1 to 65535", port)
		}
	}
	if s.NodeName == "" {
		host, err := os.Hostname()
		if err != nil {
			bad("node-name", "not given, and the host name cannot be read: %v", err)
		}
		s.NodeName = strings.ToLower(host)
	}
	if msgs := validation.IsDNS1123Subdomain(s.NodeName); len(msgs) > 0 {
		bad("node-name", "%q: %s", s.NodeName, strings.Join(msgs, "; "))
	}
	if s.NodeIP != "" {
		if _, err := netip.ParseAddr(s.NodeIP); err != nil {
			bad("node-ip", "%q is no IP address", s.NodeIP)
		}
	}
	for _, e := range s.EtcdServers {
		if u, err := url.Parse(e); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			bad("etcd-servers", "%q is no URL like https://10.0.0.1:2379", e)
		}
	}
	if (s.EtcdCertFile == "") != (s.EtcdKeyFile == "") {
		bad("etcd-certfile", "give it together with --etcd-keyfile")
	}
	if _, err := network(s.ClusterCIDR); err != nil {
		bad("cluster-cidr", "%v", err)
	}
	if _, err := s.ServiceCIDRs(); err != nil {
		bad("service-cidr", "%v", err)
	}
	if msgs := validation.IsDNS1123Subdomain(s.ClusterDomain); len(msgs) > 0 {
		bad("cluster-domain", "%q: %s", s.ClusterDomain, strings.Join(msgs, "; "))
	}
	if (s.AuditPolicyFile == "") != (s.AuditLogPath == "") {
		bad("audit-policy-file", "give it together with --audit-log-path")
	}
	for key, n := range map[string]int{"audit-log-maxage": s.AuditLogMaxAge, "audit-log-maxbackup": s.AuditLogMaxBackup, "audit-log-maxsize": s.AuditLogMaxSize} {
		if n < 0 {
			bad(key, "%d is negative: use 0 or more", n)
		}
	}
	if _, err := s.Scheduler(); err != nil {
		bad("scheduler-config", "%v", err)
	}
	if _, err := s.Level(); err != nil {
		bad("log-level", "%q: use debug, info, warn or error", s.LogLevel)
	}
	if _, err := s.Mirrors(); err != nil {
		bad("registry-mirror", "%v", err)
	}
	if _, err := s.LogMaxBytes(); err != nil {
		bad("container-log-max-size", "%v", err)
	}
	if s.ContainerLogMaxFiles < 2 {
		bad("container-log-max-files", "%d is too few: use 2 or more", s.ContainerLogMaxFiles)
	}
	if _, err := s.Eviction(); err != nil {
		bad("eviction-hard", "%v", err)
	}
	if s.ImageGCHighThreshold < 1 || s.ImageGCHighThreshold > 100 {
		bad("image-gc-high-threshold", "%d is no percentage: use 1 to 100", s.ImageGCHighThreshold)
	}
	if s.ImageGCLowThreshold < 1 || s.ImageGCLowThreshold >= s.ImageGCHighThreshold {
		bad("image-gc-low-threshold", "%d is not between 1 and --image-gc-high-threshold", s.ImageGCLowThreshold)
	}
	if s.WriteKubeconfig == "" {
		s.WriteKubeconfig = filepath.Join(s.DataDir, "admin.kubeconfig")
	}
	return errors.Join(errs...)
}

// Runs says whether the controller of that name is wanted. Of two words about it the first counts; without a list all are wanted.
func (s *Server) Runs(controller string) bool {
	all := s.Controllers == nil
	for _, word := range s.Controllers {
		switch word {
		case controller:
			return true
		case "-" + controller:
			return false
		case "*":
			all = true
		}
	}
	return all
}

// Scheduler is the scheduler's configuration.
func (s *Server) Scheduler() (*schedulerconfig.Scheduler, error) {
	if s.SchedulerConfig == "" {
		return schedulerconfig.Default(), nil
	}
	return schedulerconfig.Load(s.SchedulerConfig)
}

// Level is the log level.
func (s *Server) Level() (slog.Level, error) {
	var l slog.Level
	err := l.UnmarshalText([]byte(s.LogLevel))
	return l, err
}

// LogMaxBytes is the size at which a container's log is rotated; negative is never.
func (s *Server) LogMaxBytes() (int64, error) {
	q, err := resource.ParseQuantity(s.ContainerLogMaxSize)
	if err != nil {
		return 0, fmt.Errorf("%q is no size like 10Mi", s.ContainerLogMaxSize)
	}
	if q.IsZero() {
		return 0, fmt.Errorf("%q: use a size like 10Mi, or -1 for no rotation", s.ContainerLogMaxSize)
	}
	return q.Value(), nil
}

// Eviction is what has to be left on the node.
func (s *Server) Eviction() (pressure.Thresholds, error) {
	t, err := pressure.Parse(s.EvictionHard)
	if t == (pressure.Thresholds{}) {
		t.Off = true // nothing is named
	}
	return t, err
}

// Mirrors are the registry mirrors by the registry's host.
func (s *Server) Mirrors() (map[string][]string, error) {
	out := map[string][]string{}
	for _, m := range s.RegistryMirrors {
		host, mirror, ok := strings.Cut(m, "=")
		if !ok || host == "" || mirror == "" {
			return nil, fmt.Errorf("%q is not REGISTRY=URL", m)
		}
		out[host] = append(out[host], mirror)
	}
	return out, nil
}
