package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
)

const (
	// dnsAddress is the place of the cluster's DNS in each range of services, as everywhere.
	dnsAddress = 10
	// dnsPort is that of name servers that don't say another.
	dnsPort = 53
)

// LinkLocalDNS is the address at which every node has the cluster's DNS besides those of the service, as NodeLocal DNSCache has it.
func LinkLocalDNS() netip.Addr { return netip.AddrFrom4([4]byte{169, 254, 20, 10}) }

// DNSAddress is the address of the cluster's DNS in a range of services.
func DNSAddress(services netip.Prefix) netip.Addr {
	a := services.Masked().Addr()
	for range dnsAddress {
		a = a.Next()
	}
	return a
}

// NameServers are the servers of a list, with their ports.
func NameServers(list []string) ([]netip.AddrPort, error) {
	var out []netip.AddrPort
	for _, text := range list {
		if a, err := netip.ParseAddr(text); err == nil {
			out = append(out, netip.AddrPortFrom(a.Unmap(), dnsPort))
		} else if a, err := netip.ParseAddrPort(text); err == nil && a.Port() != 0 {
			out = append(out, netip.AddrPortFrom(a.Addr().Unmap(), a.Port()))
		} else {
			return nil, fmt.Errorf("%q is no name server: give an address like 10.1.2.3, or one with a port like 10.1.2.3:5353", text)
		}
	}
	return out, nil
}

// StubDomains are the name servers of domains, by domain in lower case and without its final dot.
func StubDomains(list []string) (map[string][]netip.AddrPort, error) {
	out := map[string][]netip.AddrPort{}
	domain := ""
	for _, text := range list {
		server := text
		if d, rest, ok := strings.Cut(text, "="); ok {
			domain, server = strings.ToLower(strings.TrimSuffix(d, ".")), rest
			if msgs := validation.IsDNS1123Subdomain(domain); len(msgs) > 0 {
				return nil, fmt.Errorf("%q: %s", d, strings.Join(msgs, "; "))
			}
		}
		if domain == "" {
			return nil, fmt.Errorf("%q names no domain: give e.g. corp.example=10.1.2.3", text)
		}
		servers, err := NameServers([]string{server})
		if err != nil {
			return nil, err
		}
		out[domain] = append(out[domain], servers...)
	}
	return out, nil
}

// checkDNS refuses name servers that are none, or that are this cluster's own DNS: it would ask itself for ever.
func (s *Server) checkDNS(bad func(key, format string, args ...any)) {
	own := []netip.Addr{LinkLocalDNS()}
	if services, err := s.ServiceCIDRs(); err == nil {
		for _, p := range services {
			own = append(own, DNSAddress(p))
		}
	}
	check := func(key string, servers []netip.AddrPort, err error) {
		if err != nil {
			bad(key, "%v", err)
			return
		}
		for _, a := range servers {
			if slices.Contains(own, a.Addr()) && a.Port() == dnsPort {
				bad(key, "%v is the cluster's own DNS, which would ask itself", a.Addr())
			}
		}
	}
	servers, err := NameServers(s.DNSUpstream)
	check("dns-upstream", servers, err)
	stubs, err := StubDomains(s.DNSStubDomains)
	check("dns-stub-domain", nil, err)
	for domain, servers := range stubs {
		check("dns-stub-domain", servers, nil)
		if domain == s.ClusterDomain || strings.HasSuffix(domain, "."+s.ClusterDomain) {
			bad("dns-stub-domain", "%q is in the cluster's own domain %s", domain, s.ClusterDomain)
		}
	}
}
