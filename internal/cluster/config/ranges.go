package config

import (
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
)

const (
	// ProxyHealthPort is kube-proxy's: cloud load balancers ask there whether a node wants packets (KEP-3836).
	ProxyHealthPort = 10256
	// maxNodes bounds how many parts a network of pods has, as the length of a number.
	maxNodes = 16
)

// reserved are networks whose addresses mean something of their own on every machine.
func reserved() map[netip.Prefix]string {
	return map[netip.Prefix]string{
		netip.MustParsePrefix("0.0.0.0/8"): "this network", netip.MustParsePrefix("127.0.0.0/8"): "loopback", netip.MustParsePrefix("169.254.0.0/16"): "link-local",
		netip.MustParsePrefix("224.0.0.0/4"): "multicast", netip.MustParsePrefix("::/127"): "loopback", netip.MustParsePrefix("::ffff:0:0/96"): "IPv4 addresses in IPv6",
		netip.MustParsePrefix("fe80::/10"): "link-local", netip.MustParsePrefix("ff00::/8"): "multicast",
	}
}

func checkReserved(bad func(key, format string, args ...any), key string, p netip.Prefix) {
	for other, what := range reserved() {
		if p.Overlaps(other) {
			bad(key, "%v has addresses of %v (%s)", p, other, what)
		}
	}
}

// nodeCIDRKey is the key that says how large a node's part of a network of pods is.
func (s *Server) nodeCIDRKey(p netip.Prefix) string {
	switch {
	case s.NodeCIDRMask != 0:
		return "node-cidr-mask-size"
	case p.Addr().Is4():
		return "node-cidr-mask-size-ipv4"
	}
	return "node-cidr-mask-size-ipv6"
}

// checkNetworks tells bad about ranges that pods and services can't have, and addresses of machines in them.
func (s *Server) checkNetworks(bad func(key, format string, args ...any)) {
	const podsKey, servicesKey = "cluster-cidr", "service-cidr"
	pods, err := s.ClusterCIDRs()
	if err != nil {
		bad(podsKey, "%v", err)
	}
	services, err := s.ServiceCIDRs()
	if err != nil {
		bad(servicesKey, "%v", err)
	}
	for _, m := range []struct {
		key         string
		size, least int
		most        int
	}{{"node-cidr-mask-size", s.NodeCIDRMask, 0, 126}, {"node-cidr-mask-size-ipv4", s.NodeCIDRMaskIPv4, 1, 30}, {"node-cidr-mask-size-ipv6", s.NodeCIDRMaskIPv6, 1, 126}} {
		if m.size < m.least || m.size > m.most {
			bad(m.key, "%d is not the length of a prefix that leaves room for pods: use %d to %d", m.size, max(m.least, 1), m.most)
			pods = nil // nothing can be said of what follows from it
		}
	}
	for _, p := range pods {
		checkReserved(bad, podsKey, p)
		if bits := s.NodeCIDRBits(p); bits < p.Bits() || bits > p.Addr().BitLen()-2 || bits-p.Bits() > maxNodes {
			bad(s.nodeCIDRKey(p), "networks of /%d cannot be cut out of %v: use %d to %d", bits, p, p.Bits(), min(p.Bits()+maxNodes, p.Addr().BitLen()-2))
		}
		for _, q := range services {
			if p.Overlaps(q) {
				bad(podsKey, "%v overlaps %v of --service-cidr: pods and services need networks of their own", p, q)
			}
		}
	}
	for _, p := range services {
		checkReserved(bad, servicesKey, p)
		if p.Bits() > p.Addr().BitLen()-2 {
			bad(servicesKey, "%v is too small: use /%d or a shorter prefix", p, p.Addr().BitLen()-4)
		} else if !s.Disables(DNS) && !p.Contains(DNSAddress(p)) {
			bad(servicesKey, "%v is too small to have %v, the address of the cluster's DNS: use /%d or a shorter prefix, or leave DNS out (--disable=dns)", p, DNSAddress(p), p.Addr().BitLen()-4)
		}
	}
	if len(pods) > 0 && len(services) > 0 && !sharesFamily(pods, services) {
		bad(servicesKey, "%s is of another family than %s of --cluster-cidr: no service would have a pod", s.ServiceCIDR, s.ClusterCIDR)
	}
	s.checkOwnAddresses(bad, pods, services)
}

func sharesFamily(a, b []netip.Prefix) bool {
	for _, p := range a {
		for _, q := range b {
			if p.Addr().Is4() == q.Addr().Is4() {
				return true
			}
		}
	}
	return false
}

// checkOwnAddresses tells bad about addresses of this machine that nobody could reach it at.
func (s *Server) checkOwnAddresses(bad func(key, format string, args ...any), pods, services []netip.Prefix) {
	checkBind(bad, s.BindAddress)
	if a, err := netip.ParseAddr(s.BindAddress); err == nil && s.AdvertiseAddress == "" && a.Zone() == "" && a.IsLinkLocalUnicast() {
		bad("bind-address", "%v is link-local, where pods do not reach the API: say with --advertise-address where they do", a)
	} else if a.Zone() != "" {
		bad("bind-address", "%q has a zone: give an address without", s.BindAddress)
	}
	if s.AdvertiseAddress != "" {
		a, err := netip.ParseAddr(s.AdvertiseAddress)
		a = a.Unmap()
		switch {
		case err != nil:
			bad("advertise-address", "%q is no IP address", s.AdvertiseAddress)
		case a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() || a.IsLinkLocalUnicast() || a.Zone() != "":
			bad("advertise-address", "%v is no address at which agents and pods reach this machine", a)
		case len(services) > 0 && a.Is4() != services[0].Addr().Is4():
			bad("advertise-address", "%v is of another family than the first network of --service-cidr, so that the service kubernetes could not have it", a)
		default:
			checkApart(bad, "advertise-address", a, "service-cidr", services)
		}
	}
	given, err := s.NodeIPs()
	if err != nil {
		return // has been told
	}
	for _, a := range given {
		checkApart(bad, "node-ip", a, "cluster-cidr", pods)
		checkApart(bad, "node-ip", a, "service-cidr", services)
	}
}

func checkApart(bad func(key, format string, args ...any), key string, a netip.Addr, other string, networks []netip.Prefix) {
	for _, p := range networks {
		if p.Contains(a) {
			bad(key, "%v is in %v of --%s, which the cluster has for itself: give another --%s", a, p, other, other)
		}
	}
}

// checkBind tells bad about an address that nothing can be served on.
func checkBind(bad func(key, format string, args ...any), address string) {
	if a, err := netip.ParseAddr(address); err != nil {
		bad("bind-address", "%q is no IP address", address)
	} else if a.IsMulticast() {
		bad("bind-address", "%v is a multicast address", a)
	}
}

// checkPort tells bad about a number that is no port, and says whether it is one.
func checkPort(bad func(key, format string, args ...any), key string, port int) bool {
	if port < 1 || port > 65535 {
		bad(key, "%d is no port: use 1 to 65535", port)
		return false
	}
	return true
}

// checkPorts tells bad about ports that are none, or that one machine has two uses for. That a server's API is where its ingress would be is no mistake: it may be
// that only other nodes have one.
func (s *Server) checkPorts(bad func(key, format string, args ...any)) {
	checkPort(bad, "https-port", s.HTTPSPort)
	checkPort(bad, "wireguard-port", s.WireGuardPort)
	if s.DisableNode {
		return
	}
	taken := map[int]string{}
	if !s.Disables(ServiceProxy) {
		taken[ProxyHealthPort] = "that at which load balancers ask for the health of the service proxy"
	}
	for _, use := range []struct {
		key  string
		port int
		none bool // it is not used
	}{
		{key: "kubelet-port", port: s.KubeletPort}, {key: "https-port", port: s.HTTPSPort},
		{"ingress-http-port", s.Ingress.HTTPPort, s.Disables(IngressController) || s.Ingress.HTTPPort == s.HTTPSPort},
		{"ingress-https-port", s.Ingress.HTTPSPort, s.Disables(IngressController) || s.Ingress.HTTPSPort == s.HTTPSPort || s.Ingress.HTTPSPort == s.Ingress.HTTPPort},
	} {
		if use.none {
			continue
		}
		if other := taken[use.port]; other != "" {
			bad(use.key, "%d is %s: give another", use.port, other)
		}
		taken[use.port] = "that of --" + use.key
	}
}

// checkNames tells bad about names that no certificate can have.
func (s *Server) checkNames(bad func(key, format string, args ...any)) {
	for _, san := range s.TLSSANs {
		if a, err := netip.ParseAddr(san); err == nil {
			if a.IsUnspecified() || a.Zone() != "" {
				bad("tls-san", "%v is no address of a machine", a)
			}
			continue
		}
		if len(validation.IsDNS1123Subdomain(strings.ToLower(strings.TrimPrefix(san, "*.")))) > 0 {
			bad("tls-san", "%q is neither a host's name nor an IP address", san)
		}
	}
}

// CheckRegistryHosts refuses what is no host of a registry.
func CheckRegistryHosts(hosts []string) error {
	for _, host := range hosts {
		if !isHost(host) {
			return fmt.Errorf("%q is no host like registry.example or registry.example:5000", host)
		}
	}
	return nil
}

// isHost says whether a text is HOST or HOST:PORT, with brackets around an IPv6 address.
func isHost(text string) bool {
	u, err := url.Parse("https://" + text)
	if err != nil || text == "" || u.Host != text || u.Hostname() == "" || strings.ContainsAny(text, " \t") {
		return false
	}
	if strings.Contains(u.Hostname(), ":") && !strings.HasPrefix(text, "[") {
		return false
	}
	if strings.HasSuffix(text, ":") {
		return false
	}
	if port := u.Port(); port != "" {
		n, err := strconv.Atoi(port)
		return err == nil && n >= 1 && n <= 65535
	}
	return true
}

// checkEtcd tells bad about what the external etcd, or the embedded one, cannot be.
func (s *Server) checkEtcd(bad func(key, format string, args ...any)) {
	for _, e := range s.EtcdServers {
		if u, err := url.Parse(e); err != nil || !isHost(u.Host) || u.Scheme != "http" && u.Scheme != "https" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.User != nil {
			bad("etcd-servers", "%q is no URL like https://10.0.0.1:2379", e)
		}
	}
	if (s.EtcdCertFile == "") != (s.EtcdKeyFile == "") {
		bad("etcd-certfile", "give it together with --etcd-keyfile")
	} else if len(s.EtcdServers) == 0 {
		for key, file := range map[string]string{"etcd-cafile": s.EtcdCAFile, "etcd-certfile": s.EtcdCertFile} {
			if file != "" {
				bad(key, "give it together with --etcd-servers: the embedded etcd needs none")
			}
		}
	} else if _, err := s.EtcdTLS(); err != nil {
		key, what, _ := strings.Cut(strings.TrimPrefix(err.Error(), "--"), ": ")
		bad(key, "%s", what)
	}
	if s.EtcdQuota != 0 && s.EtcdQuota < minEtcdQuota {
		bad("etcd-quota-bytes", "%d bytes are too few for a cluster: use %d or more, or 0 for the default", s.EtcdQuota, minEtcdQuota)
	}
}

// minEtcdQuota is less than any cluster needs: whoever is below it meant another unit.
const minEtcdQuota = 4 << 20
