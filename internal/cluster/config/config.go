package config

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/util/validation"
)

// DefaultDataDir is where a cluster keeps everything unless told otherwise.
const DefaultDataDir = "/var/lib/celox"

// Server is what `celox server` can be told.
type Server struct {
	Node
	BindAddress string
	// AdvertiseAddress is where agents and pods reach the API; empty is the address of the node.
	AdvertiseAddress string
	HTTPSPort        int
	DisableNode      bool

	EtcdServers  []string
	EtcdCAFile   string
	EtcdCertFile string
	EtcdKeyFile  string
	EtcdQuota    int64

	WriteKubeconfig string
	TLSSANs         []string

	ClusterCIDR                                      string
	NodeCIDRMask, NodeCIDRMaskIPv4, NodeCIDRMaskIPv6 int
	ServiceCIDR                                      string
	// PodEncryption says how packets of pods are encrypted between nodes: none, or wireguard.
	PodEncryption string
	WireGuardPort int
	ClusterDomain string

	// DNSUpstream are name servers for names outside of the cluster; none is those of each machine. DNSStubDomains are "DOMAIN=SERVER"; a server without a
	// domain is one more of the domain before it.
	DNSUpstream, DNSStubDomains []string

	// ProxyMode is how the addresses of services are made to work.
	ProxyMode string

	Ingress Ingress

	// Disable names parts that others are to take the place of, see Disables.
	Disable []string

	// Controllers says which controllers run: "*" is all, a name that one, a name after "-" all but that one.
	Controllers []string

	// SchedulerConfig is the file that configures the scheduler; empty is none.
	SchedulerConfig string
	// CrashMemory is the time after which the scheduler's memory of a node on which an owner's pods crashed has faded to a half; 0 is no memory.
	CrashMemory time.Duration

	// AdmissionConfig is the file that configures plugins of admission; empty is none.
	AdmissionConfig string

	AuditPolicyFile                                    string
	AuditLogPath                                       string
	AuditLogMaxAge, AuditLogMaxBackup, AuditLogMaxSize int
}

// Bind declares the keys as flags of fs, with their defaults.
func (s *Server) Bind(fs *pflag.FlagSet) {
	s.bind(fs)
	fs.StringVar(&s.BindAddress, "bind-address", "0.0.0.0", "address that the API is served on")
	fs.IntVar(&s.HTTPSPort, "https-port", 6443, "port that the API is served on")
	fs.StringVar(&s.NodeIP, "node-ip", "", "address of this node, or one of each family with a comma between them (default: those of the default routes, of the families that pods have)")
	fs.BoolVar(&s.DisableNode, "disable-node", false, "run the control plane only, no containers")
	fs.StringSliceVar(&s.EtcdServers, "etcd-servers", nil, "external etcd to use instead of the embedded one, e.g. https://10.0.0.1:2379")
	fs.StringVar(&s.EtcdCAFile, "etcd-cafile", "", "CA of the external etcd")
	fs.StringVar(&s.EtcdCertFile, "etcd-certfile", "", "client certificate for the external etcd")
	fs.StringVar(&s.EtcdKeyFile, "etcd-keyfile", "", "client key for the external etcd")
	fs.Int64Var(&s.EtcdQuota, "etcd-quota-bytes", 8<<30, "size of the embedded database at which writes are refused")
	fs.StringVar(&s.WriteKubeconfig, "write-kubeconfig", "", "file to write the administrator's kubeconfig to (default: DATA-DIR/admin.kubeconfig)")
	fs.StringSliceVar(&s.TLSSANs, "tls-san", nil, "further names and addresses that the API's certificate is good for")
	fs.StringVar(&s.AdvertiseAddress, "advertise-address", "", "address at which agents and pods reach the API (default: the node's address)")
	fs.StringVar(&s.ClusterCIDR, "cluster-cidr", "10.42.0.0/16", "addresses of pods, of which each node gets a part; two networks of different families, with a comma between them, give dual-stack pods")
	fs.IntVar(&s.NodeCIDRMask, "node-cidr-mask-size", 0, "size of a node's part of --cluster-cidr, as the length of its prefix; 0 is that of the family below")
	fs.IntVar(&s.NodeCIDRMaskIPv4, "node-cidr-mask-size-ipv4", 24, "size of a node's part of an IPv4 network")
	fs.IntVar(&s.NodeCIDRMaskIPv6, "node-cidr-mask-size-ipv6", 64, "size of a node's part of an IPv6 network")
	fs.StringVar(&s.ServiceCIDR, "service-cidr", "10.43.0.0/16", "addresses of services; two networks of different families, with a comma between them, give dual-stack services")
	fs.StringVar(&s.PodEncryption, "pod-encryption", encryptionNone, "how packets between pods of different nodes are encrypted: none, or wireguard, which the kernel of every node must have then")
	fs.IntVar(&s.WireGuardPort, "wireguard-port", 51820, "UDP port on which nodes take each other's encrypted packets")
	fs.StringVar(&s.ClusterDomain, "cluster-domain", "cluster.local", "DNS domain of the cluster")
	fs.StringSliceVar(&s.DNSUpstream, "dns-upstream", nil, "name servers that the cluster's DNS asks for names outside of the cluster, as addresses with or without a port (default: those in each machine's /etc/resolv.conf)")
	fs.StringSliceVar(&s.DNSStubDomains, "dns-stub-domain", nil, "domain that other name servers know, e.g. corp.example=10.1.2.3,10.1.2.4; can be given more than once")
	fs.StringVar(&s.ProxyMode, "proxy-mode", ProxyNFTables, "what makes the addresses of services work: nftables (userspace on nodes whose kernel does not have it), userspace (celox carries the packets itself), none (as --disable=service-proxy)")
	fs.StringSliceVar(&s.Disable, "disable", nil, "built-in parts to leave out, to put others in their place: metrics-server, dns, service-proxy, network-policy, load-balancer, ingress, pod-network (CNI plugins take its place)")
	s.Ingress.bind(fs)
	fs.StringSliceVar(&s.Controllers, "controllers", []string{"*"}, "controllers to run: * is all, NAME is that one, -NAME all but that one, \"\" none; the scheduler counts as one")
	fs.StringVar(&s.SchedulerConfig, "scheduler-config", "", "KubeSchedulerConfiguration (kubescheduler.config.k8s.io/v1) with the scheduler's profiles, plugins and extenders; none is the defaults")
	fs.DurationVar(&s.CrashMemory, "scheduler-crash-memory", 0, "let the scheduler remember on which nodes the pods of an owner crashed and prefer others for its next ones; half of the memory is gone after this time; 0 is no memory")
	fs.StringVar(&s.AdmissionConfig, "admission-control-config-file", "", "AdmissionConfiguration (apiserver.config.k8s.io/v1) of PodSecurity, ResourceQuota and the webhooks; none is the defaults")
	fs.StringVar(&s.AuditPolicyFile, "audit-policy-file", "", "audit policy (audit.k8s.io/v1) that says which requests are written to the audit log; none is no audit")
	fs.StringVar(&s.AuditLogPath, "audit-log-path", "", "file that audit events are written to, a line of JSON each; - is the standard output")
	fs.IntVar(&s.AuditLogMaxAge, "audit-log-maxage", 366, "days that full audit logs are kept; 0 is for ever")
	fs.IntVar(&s.AuditLogMaxBackup, "audit-log-maxbackup", 100, "full audit logs that are kept; 0 is all")
	fs.IntVar(&s.AuditLogMaxSize, "audit-log-maxsize", 100, "megabytes at which an audit log is full; 0 is never")
}

// Flags are the values of all flags by name, as the server runs with them. None of them is secret: files hold what is.
func (s *Server) Flags() map[string]string {
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	shown := &Server{}
	shown.Bind(fs)
	*shown = *s // the flags point at its fields, which say now what s does
	out := map[string]string{}
	fs.VisitAll(func(f *pflag.Flag) { out[f.Name] = f.Value.String() })
	return out
}

// ServiceCIDRs are the networks of services, the primary one first.
func (s *Server) ServiceCIDRs() ([]netip.Prefix, error) { return networks(s.ServiceCIDR) }

// ClusterCIDRs are the networks of pods, the primary one first.
func (s *Server) ClusterCIDRs() ([]netip.Prefix, error) { return networks(s.ClusterCIDR) }

// NodeCIDRBits is how long the prefix of a node's part of a network of pods is. One that is no larger than that is for one node.
func (s *Server) NodeCIDRBits(p netip.Prefix) int {
	bits := s.NodeCIDRMaskIPv6
	if p.Addr().Is4() {
		bits = s.NodeCIDRMaskIPv4
	}
	if s.NodeCIDRMask != 0 {
		return s.NodeCIDRMask
	}
	return max(bits, p.Bits())
}

// networks are one network, or one of each family.
func networks(list string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for text := range strings.SplitSeq(list, ",") {
		p, err := network(text)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	if len(out) > 2 || len(out) == 2 && out[0].Addr().Is4() == out[1].Addr().Is4() {
		return nil, fmt.Errorf("%q: give one network, or one of IPv4 and one of IPv6", list)
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
	s.complete(bad)
	switch s.ProxyMode {
	case ProxyNFTables, ProxyUserspace, "":
	case proxyNone:
		if !s.Disables(ServiceProxy) {
			s.Disable = append(s.Disable, ServiceProxy)
		}
	default:
		bad("proxy-mode", "%q: use %s, %s or %s", s.ProxyMode, ProxyNFTables, ProxyUserspace, proxyNone)
	}
	s.checkPorts(bad)
	s.checkNetworks(bad)
	s.checkNames(bad)
	s.checkEtcd(bad)
	if s.PodEncryption != encryptionNone && s.PodEncryption != encryptionWireGuard {
		bad("pod-encryption", "%q: use %s or %s", s.PodEncryption, encryptionNone, encryptionWireGuard)
	}
	if msgs := validation.IsDNS1123Subdomain(s.ClusterDomain); len(msgs) > 0 {
		bad("cluster-domain", "%q: %s", s.ClusterDomain, strings.Join(msgs, "; "))
	}
	s.checkDNS(bad)
	s.Ingress.check(bad)
	for key, n := range map[string]int{"audit-log-maxage": s.AuditLogMaxAge, "audit-log-maxbackup": s.AuditLogMaxBackup, "audit-log-maxsize": s.AuditLogMaxSize} {
		if n < 0 {
			bad(key, "%d is negative: use 0 or more", n)
		}
	}
	for _, part := range s.Disable {
		if !slices.Contains(parts(), part) {
			bad("disable", "%q is no part that can be left out: use %s", part, strings.Join(parts(), ", "))
		}
	}
	if s.Disables(PodNetwork) && len(s.CNIBinDirs) == 0 {
		bad("cni-bin-dir", "none is given: with --disable=pod-network the CNI plugins must be somewhere")
	}
	s.checkControllers(bad)
	s.checkFiles(bad)
	if s.CrashMemory < 0 {
		bad("scheduler-crash-memory", "%v is negative: use 0 for none, or e.g. 1h", s.CrashMemory)
	}
	if s.WriteKubeconfig == "" {
		s.WriteKubeconfig = filepath.Join(s.DataDir, "admin.kubeconfig")
	}
	return errors.Join(errs...)
}

// What --pod-encryption can be.
const (
	encryptionNone      = "none"
	encryptionWireGuard = "wireguard"
)

// WireGuard is the UDP port of encrypted packets between nodes, 0 if none are encrypted.
func (s *Server) WireGuard() uint16 {
	if s.PodEncryption != encryptionWireGuard {
		return 0
	}
	return uint16(s.WireGuardPort)
}

// What --proxy-mode can be.
const (
	ProxyNFTables  = "nftables"
	ProxyUserspace = "userspace"
	proxyNone      = "none"
)

// Parts that can be left out.
const (
	// MetricsServer serves metrics.k8s.io.
	MetricsServer = "metrics-server"
	// DNS is the cluster's name server, and the service kube-dns.
	DNS = "dns"
	// ServiceProxy makes the addresses of services work.
	ServiceProxy = "service-proxy"
	// NetworkPolicy keeps pods to the network policies.
	NetworkPolicy = "network-policy"
	// LoadBalancer gives services of type LoadBalancer the addresses of nodes.
	LoadBalancer = "load-balancer"
	// PodNetwork connects pods; in its place come plugins (CNI).
	PodNetwork = "pod-network"
)

func parts() []string {
	return []string{MetricsServer, DNS, ServiceProxy, NetworkPolicy, LoadBalancer, PodNetwork, IngressController}
}

// Disables says whether a part is to be left out.
func (s *Server) Disables(part string) bool { return slices.Contains(s.Disable, part) }
