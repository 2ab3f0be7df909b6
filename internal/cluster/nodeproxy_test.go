package cluster

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/celox/celox/internal/cluster/config"
)

func TestProxyMode(t *testing.T) {
	can, cannot := func() error { return nil }, func() error { return errors.New("protocol not supported") }
	for _, c := range []struct {
		wanted string
		probe  func() error
		want   string
		said   bool
	}{
		{config.ProxyNFTables, can, config.ProxyNFTables, false},
		{"", can, config.ProxyNFTables, false}, // a server of before
		{config.ProxyNFTables, cannot, config.ProxyUserspace, true},
		{config.ProxyUserspace, can, config.ProxyUserspace, false},
		{config.ProxyUserspace, cannot, config.ProxyUserspace, false},
	} {
		said := ""
		got := proxyMode(c.wanted, c.probe, func(format string, args ...any) { said += fmt.Sprintf(format, args...) })
		if got != c.want || strings.Contains(said, "protocol not supported") != c.said {
			t.Errorf("%q: %s, and said %q", c.wanted, got, said)
		}
	}
}

// TestProxyModeOfAgents: what the server was told is what agents read.
func TestProxyModeOfAgents(t *testing.T) {
	one := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16")}
	got, err := factsFrom(facts{clusterCIDRs: one, serviceCIDRs: one, domain: "d", proxyMode: config.ProxyUserspace}.data())
	if err != nil || got.proxyMode != config.ProxyUserspace {
		t.Errorf("%q, %v", got.proxyMode, err)
	}
}
