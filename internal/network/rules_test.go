package network

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func (r rule) String() string {
	var b strings.Builder
	add := func(ok bool, format string, args ...any) {
		if ok {
			fmt.Fprintf(&b, format+" ", args...)
		}
	}
	add(r.In != "", "in %s", r.In)
	add(r.Redirect != "", "redirects by %s", r.Redirect)
	add(r.Local, "to this machine")
	add(r.Src.IsValid(), "from %v", r.Src)
	add(r.Dst.IsValid(), "to %v", r.Dst)
	add(r.NotDst.IsValid(), "not to %v", r.NotDst)
	add(r.Translated, "translated")
	add(r.Protocol != "", "%s %d", r.Protocol, r.Port)
	b.WriteString([]string{"masquerade", "dnat", "drop", "accept", "host ports"}[r.Do])
	if r.To.IsValid() {
		fmt.Fprintf(&b, " %v", r.To)
	}
	return b.String()
}

func TestRules(t *testing.T) {
	sandboxes := []*sandbox{{ID: "a", Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.0.2/24"), netip.MustParsePrefix("fd00::2/64")}, Ports: []PortMapping{
		{Protocol: "TCP", HostPort: 80, ContainerPort: 8080}, {Protocol: "UDP", HostPort: 53, ContainerPort: 53, HostIP: "192.0.2.1"}, {Protocol: "TCP", HostPort: 1, ContainerPort: 2, HostIP: "0.0.0.0"},
	}}}
	var got []string
	for _, c := range rulesFor("br", prefixes("10.0.0.0/24", "fd00::/64"), nil, sandboxes) {
		got = append(got, c.Name)
		for _, r := range c.Rules {
			got = append(got, "  "+r.String())
		}
	}
	want := []string{
		"raw-pre-routing", "  in br to 127.0.0.0/8 drop",
		"post-routing",
		"  from 127.0.0.0/8 to 10.0.0.0/24 masquerade",
		"  from 10.0.0.2/32 to 10.0.0.2/32 translated masquerade", "  from 10.0.0.0/24 not to 10.0.0.0/24 masquerade",
		"  from fd00::2/128 to fd00::2/128 translated masquerade", "  from fd00::/64 not to fd00::/64 masquerade",
		"host-ports",
		"  to 192.0.2.1/32 UDP 53 dnat 10.0.0.2:53",
		"  TCP 1 dnat 10.0.0.2:2", "  TCP 1 dnat [fd00::2]:2",
		"  TCP 80 dnat 10.0.0.2:8080", "  TCP 80 dnat [fd00::2]:8080",
		"pre-routing", "  to this machine host ports",
		"output", "  to this machine host ports",
		"filter-output", "  redirects by br drop", "  redirects by br drop",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
