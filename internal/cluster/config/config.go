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
	"k8s.io/apimachinery/pkg/util/validation"
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

	RegistryMirrors    []string
	InsecureRegistries []string
	RuntimeEndpoint    string
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
	fs.StringVar(&s.ServiceCIDR, "service-cidr", "10.43.0.0/16", "addresses of services")
	fs.StringVar(&s.ClusterDomain, "cluster-domain", "cluster.local", "DNS domain of the cluster")
	fs.IntVar(&s.KubeletPort, "kubelet-port", 10250, "port of the node's own API")
	fs.StringSliceVar(&s.RegistryMirrors, "registry-mirror", nil, "where to look first for images of a registry, e.g. docker.io=https://mirror.example.com")
	fs.StringSliceVar(&s.InsecureRegistries, "insecure-registry", nil, "registry hosts that are spoken to without checking certificates")
	fs.StringVar(&s.RuntimeEndpoint, "container-runtime-endpoint", "", "CRI socket to use instead of the embedded runtime, e.g. unix:///run/containerd/containerd.sock")
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
	for key, cidr := range map[string]string{"cluster-cidr": s.ClusterCIDR, "service-cidr": s.ServiceCIDR} {
		if p, err := netip.ParsePrefix(cidr); err != nil {
			bad(key, "%q is no network like 10.42.0.0/24", cidr)
		} else if p.Masked() != p {
			bad(key, "%q has host bits set: did you mean %s?", cidr, p.Masked())
		}
	}
	if msgs := validation.IsDNS1123Subdomain(s.ClusterDomain); len(msgs) > 0 {
		bad("cluster-domain", "%q: %s", s.ClusterDomain, strings.Join(msgs, "; "))
	}
	if _, err := s.Level(); err != nil {
		bad("log-level", "%q: use debug, info, warn or error", s.LogLevel)
	}
	if _, err := s.Mirrors(); err != nil {
		bad("registry-mirror", "%v", err)
	}
	if s.WriteKubeconfig == "" {
		s.WriteKubeconfig = filepath.Join(s.DataDir, "admin.kubeconfig")
	}
	return errors.Join(errs...)
}

// Level is the log level.
func (s *Server) Level() (slog.Level, error) {
	var l slog.Level
	err := l.UnmarshalText([]byte(s.LogLevel))
	return l, err
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
