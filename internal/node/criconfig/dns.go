package criconfig

import (
	"bufio"
	"io"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The limits of resolvers that pods run with (glibc, musl) and of the API.
const (
	maxNameservers   = 3
	maxSearches      = 32
	maxSearchesBytes = 2048
)

// Resolver is the content of a resolv.conf.
type Resolver struct {
	Servers  []string
	Searches []string
	Options  []string
}

// ParseResolver reads a resolv.conf; lines that it does not understand are skipped, as resolvers do.
func ParseResolver(r io.Reader) (Resolver, error) {
	var out Resolver
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		line := lines.Text()
		if i := strings.IndexAny(line, "#;"); i >= 0 {
			line = line[:i]
		}
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		switch f[0] {
		case "nameserver":
			if _, err := netip.ParseAddr(f[1]); err == nil {
				out.Servers = append(out.Servers, f[1])
			}
		case "search", "domain":
			out.Searches = nil
			for _, s := range f[1:] {
				if s != "." {
					s = strings.TrimSuffix(s, ".")
				}
				out.Searches = append(out.Searches, s)
			}
		case "options":
			out.Options = f[1:]
		}
	}
	return out, lines.Err()
}

// DNS is the resolver configuration of the pod: its policy applied to the cluster's servers and the host's, then its own
// dnsConfig merged in.
func DNS(pod *corev1.Pod, clusterServers []string, clusterDomain string, host Resolver) *runtimeapi.DNSConfig {
	policy := pod.Spec.DNSPolicy
	if policy == "" || policy == corev1.DNSClusterFirst && pod.Spec.HostNetwork {
		if policy == "" && !pod.Spec.HostNetwork {
			policy = corev1.DNSClusterFirst
		} else {
			policy = corev1.DNSDefault
		}
	}
	if len(clusterServers) == 0 && (policy == corev1.DNSClusterFirst || policy == corev1.DNSClusterFirstWithHostNet) {
		policy = corev1.DNSDefault
	}
	var r Resolver
	switch policy {
	case corev1.DNSClusterFirst, corev1.DNSClusterFirstWithHostNet:
		r.Servers = slices.Clone(clusterServers)
		if clusterDomain != "" {
			r.Searches = append(r.Searches, pod.Namespace+".svc."+clusterDomain, "svc."+clusterDomain, clusterDomain)
		}
		r.Searches = append(r.Searches, host.Searches...)
		r.Options = []string{"ndots:5"}
	case corev1.DNSNone:
	default:
		r = Resolver{Servers: slices.Clone(host.Servers), Searches: slices.Clone(host.Searches), Options: slices.Clone(host.Options)}
	}
	if c := pod.Spec.DNSConfig; c != nil {
		r.Servers = append(r.Servers, c.Nameservers...)
		r.Searches = append(r.Searches, c.Searches...)
		r.Options = mergeOptions(r.Options, c.Options)
	}
	r.Servers = unique(r.Servers)
	r.Searches = unique(r.Searches)
	if len(r.Servers) > maxNameservers {
		r.Servers = r.Servers[:maxNameservers]
	}
	bytes := 0
	for i, s := range r.Searches {
		bytes += len(s) + 1
		if i >= maxSearches || bytes > maxSearchesBytes {
			r.Searches = r.Searches[:i]
			break
		}
	}
	return &runtimeapi.DNSConfig{Servers: r.Servers, Searches: r.Searches, Options: r.Options}
}

func mergeOptions(have []string, add []corev1.PodDNSConfigOption) []string {
	for _, o := range add {
		text := o.Name
		if o.Value != nil && *o.Value != "" {
			text += ":" + *o.Value
		}
		have = slices.DeleteFunc(have, func(h string) bool {
			name, _, _ := strings.Cut(h, ":")
			return name == o.Name
		})
		have = append(have, text)
	}
	return have
}

func unique(list []string) []string {
	var out []string
	for _, s := range list {
		if s != "" && !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}
