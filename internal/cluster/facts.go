package cluster

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/celox/celox/internal/cluster/config"
)

// facts are what every node has to know of the cluster. A server publishes them in a ConfigMap, and agents keep a copy.
type facts struct {
	clusterCIDRs, serviceCIDRs []netip.Prefix
	domain                     string
	disabled                   []string // parts that are left out
}

// The keys of the ConfigMap.
const (
	factClusterCIDR = "cluster-cidr"
	factServiceCIDR = "service-cidr"
	factDomain      = "cluster-domain"
	factDisabled    = "disable"
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
	return facts{clusterCIDRs: pods, serviceCIDRs: services, domain: cfg.ClusterDomain, disabled: cfg.Disable}, nil
}

func (f facts) data() map[string]string {
	return map[string]string{
		factClusterCIDR: joined(f.clusterCIDRs), factServiceCIDR: joined(f.serviceCIDRs), factDomain: f.domain, factDisabled: strings.Join(f.disabled, ","),
	}
}

func joined(list []netip.Prefix) string {
	texts := make([]string, len(list))
	for i, p := range list {
		texts[i] = p.String()
	}
	return strings.Join(texts, ",")
}

func factsFrom(data map[string]string) (facts, error) {
	f := facts{domain: data[factDomain], disabled: strings.Split(data[factDisabled], ",")}
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
	if f.domain == "" {
		return facts{}, fmt.Errorf("what the cluster says of itself: no %s", factDomain)
	}
	return f, nil
}

// dns is the address of the cluster's DNS.
func (f facts) dns() netip.Addr {
	a := f.serviceCIDRs[0].Addr()
	for range dnsAddress {
		a = a.Next()
	}
	return a
}
