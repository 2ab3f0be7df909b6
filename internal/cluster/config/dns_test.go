package config

import (
	"fmt"
	"strings"
	"testing"
)

func TestNameServers(t *testing.T) {
	for _, tc := range []struct {
		upstream, stubs []string
		want            string // of the stubs, or of the complaint
	}{
		{want: "map[]"},
		{upstream: []string{"10.1.2.3", "[fd00::1]:5353"}, stubs: []string{"Corp.example.=10.1.2.3", "10.1.2.4:5353", "b.example=fd00::1"}, want: "map[b.example:[[fd00::1]:53] corp.example:[10.1.2.3:53 10.1.2.4:5353]]"},
		{stubs: []string{"a.example=10.1.2.3", "b.example=10.1.2.3", "a.example=10.1.2.4"}, want: "map[a.example:[10.1.2.3:53 10.1.2.4:53] b.example:[10.1.2.3:53]]"},
		{upstream: []string{"dns.example"}, want: `--dns-upstream: "dns.example" is no name server`},
		{upstream: []string{"10.43.0.10"}, want: "--dns-upstream: 10.43.0.10 is the cluster's own DNS"},
		{upstream: []string{"fd43::a"}, want: "--dns-upstream: fd43::a is the cluster's own DNS"},
		{upstream: []string{"169.254.20.10:53"}, want: "--dns-upstream: 169.254.20.10 is the cluster's own DNS"},
		{upstream: []string{"10.43.0.10:5353"}, want: "map[]"},
		{stubs: []string{"10.1.2.3"}, want: `--dns-stub-domain: "10.1.2.3" names no domain`},
		{stubs: []string{"a_b=10.1.2.3"}, want: `--dns-stub-domain: "a_b"`},
		{stubs: []string{"a.example="}, want: `--dns-stub-domain: "" is no name server`},
		{stubs: []string{"a.cluster.local=10.1.2.3"}, want: `--dns-stub-domain: "a.cluster.local" is in the cluster's own domain`},
		{stubs: []string{"a.example=169.254.20.10"}, want: "--dns-stub-domain: 169.254.20.10 is the cluster's own DNS"},
	} {
		s := Server{ServiceCIDR: "10.43.0.0/16,fd43::/112", ClusterDomain: "cluster.local", DNSUpstream: tc.upstream, DNSStubDomains: tc.stubs}
		var complaints []string
		s.checkDNS(func(key, format string, args ...any) {
			complaints = append(complaints, "--"+key+": "+fmt.Sprintf(format, args...))
		})
		got := strings.Join(complaints, "; ")
		if got == "" {
			stubs, err := StubDomains(tc.stubs)
			got = fmt.Sprint(stubs)
			if err != nil {
				t.Error(err)
			}
		}
		if !strings.HasPrefix(got, tc.want) {
			t.Errorf("%v, %v: %s; want %s", tc.upstream, tc.stubs, got, tc.want)
		}
	}
}
