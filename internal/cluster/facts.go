package cluster

import (
	"fmt"
	"maps"
	"net/netip"
	"strconv"
	"strings"

	"github.com/celox/celox/internal/cluster/config"
)

// facts are what every node has to know of the cluster. A server publishes them in a ConfigMap, and agents keep a copy.
type facts struct {
	clusterCIDRs, serviceCIDRs []netip.Prefix
	domain                     string
	dnsUpstream, dnsStubs      []string // as the flags have them
	disabled                   []string // parts that are left out
	proxyMode                  string   // how services are made to work; empty is a server's that did not know
	// wireguardPort is the UDP port of encrypted packets between nodes; 0 is that nothing is encrypted.
	wireguardPort uint16
	ingress       config.Ingress
}

// The keys of the ConfigMap.
const (
	factClusterCIDR = "cluster-cidr"
	factServiceCIDR = "service-cidr"
	factDomain      = "cluster-domain"
	factDisabled    = "disable"
	factProxyMode   = "proxy-mode"
	factUpstream    = "dns-upstream"
	factStubDomains = "dns-stub-domain"
	factWireGuard   = "wireguard-port"
)

func factsOf(cfg *config.Server) (facts, error) {
	pods, err := cfg.ClusterCIDRs()
	if err != nil {
		return facts{}, err
	}
	services, err := cfg.ServiceCIDRs()
	if err != nil {
		return facts{}, err
	}
	return facts{clusterCIDRs: pods, serviceCIDRs: services, domain: cfg.ClusterDomain, disabled: cfg.Disable, proxyMode: cfg.ProxyMode, dnsUpstream: cfg.DNSUpstream, dnsStubs: cfg.DNSStubDomains, wireguardPort: cfg.WireGuard(), ingress: cfg.Ingress}, nil
}

func (f facts) data() map[string]string {
	data := map[string]string{
		factClusterCIDR: joined(f.clusterCIDRs), factServiceCIDR: joined(f.serviceCIDRs), factDomain: f.domain, factDisabled: strings.Join(f.disabled, ","), factProxyMode: f.proxyMode,
		factUpstream: strings.Join(f.dnsUpstream, ","), factStubDomains: strings.Join(f.dnsStubs, ","),
		factWireGuard: strconv.Itoa(int(f.wireguardPort)),
	}
	maps.Copy(data, ingressData(f.ingress))
	return data
}

func joined(list []netip.Prefix) string {
	texts := make([]string, len(list))
	for i, p := range list {
		texts[i] = p.String()
	}
	return strings.Join(texts, ",")
}

func factsFrom(data map[string]string) (facts, error) {
	list := func(key string) []string {
		return strings.FieldsFunc(data[key], func(r rune) bool { return r == ',' })
	}
	f := facts{domain: data[factDomain], disabled: list(factDisabled), proxyMode: data[factProxyMode], dnsUpstream: list(factUpstream), dnsStubs: list(factStubDomains)}
	for _, key := range []struct {
		name string
		into *[]netip.Prefix
	}{{factClusterCIDR, &f.clusterCIDRs}, {factServiceCIDR, &f.serviceCIDRs}} {
		for text := range strings.SplitSeq(data[key.name], ",") {
			p, err := netip.ParsePrefix(text)
			if err != nil {
				return facts{}, fmt.Errorf("what the cluster says of itself: %s: %w", key.name, err)
			}
			*key.into = append(*key.into, p)
		}
	}
	if text := data[factWireGuard]; text != "" {
		port, err := strconv.ParseUint(text, 10, 16)
		if err != nil {
			return facts{}, fmt.Errorf("what the cluster says of itself: %s: %w", factWireGuard, err)
		}
		f.wireguardPort = uint16(port)
	}
	if f.domain == "" {
		return facts{}, fmt.Errorf("what the cluster says of itself: no %s", factDomain)
	}
	var err error
	f.ingress, err = ingressFrom(data)
	return f, err
}

// dns are the addresses of the cluster's DNS, one of each family that services have.
func (f facts) dns() []netip.Addr {
	var out []netip.Addr
	for _, p := range f.serviceCIDRs {
		out = append(out, config.DNSAddress(p))
	}
	return out
}

func addressTexts(addrs []netip.Addr) []string {
	out := make([]string, len(addrs))
	for i, a := range addrs {
		out[i] = a.String()
	}
	return out
}
