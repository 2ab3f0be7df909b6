package network

import (
	"fmt"
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
	add(r.Out != "", "out %s", r.Out)
	add(r.ICMP != 0 && !r.V6, "ICMP %d", r.ICMP)
	add(r.ICMP != 0 && r.V6, "ICMPv6 %d", r.ICMP)
	add(r.Forged, "forged")
	add(r.Local, "to this machine")
	add(r.Src.IsValid(), "from %v", r.Src)
	add(r.Dst.IsValid(), "to %v", r.Dst)
	add(r.NotDst.IsValid(), "not to %v", r.NotDst)
	add(r.Translated, "translated")
	add(r.Find != "", "in %s", nameOf(r.Find, r.V6))
	b.WriteString([]string{"masquerade", "translate", "drop", "accept", "host ports", "from pods"}[r.Do])
	return b.String()
}

func TestRules(t *testing.T) {
	var got []string
	for _, c := range rulesFor(prefixes("10.0.0.0/24", "fd00::/64"), prefixes("10.0.0.0/16")) {
		got = append(got, c.Name)
		for _, r := range c.Rules {
			got = append(got, "  "+r.String())
		}
	}
	want := []string{
		"from-pods", "  forged drop", "  ICMPv6 134 drop", "  ICMPv6 137 drop", "  to 127.0.0.0/8 drop",
		"post-routing",
		"  translated in self-4 masquerade", "  translated in self-6 masquerade",
		"  from 127.0.0.0/8 to 10.0.0.0/24 masquerade",
		"  from 10.0.0.0/24 to 10.0.0.0/16 accept", "  from 10.0.0.0/24 not to 10.0.0.0/24 masquerade",
		"  from fd00::/64 not to fd00::/64 masquerade",
		"host-ports",
		"  in ports-at-4 translate", "  in ports-4 translate",
		"  in ports-at-6 translate", "  in ports-6 translate",
		"raw-pre-routing", "  in clx* from pods",
		"pre-routing", "  to this machine host ports",
		"output", "  to this machine host ports",
		"filter-output", "  out clx* ICMP 5 drop", "  out clx* ICMPv6 137 drop",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestElements(t *testing.T) {
	ports, err := normalize([]PortMapping{
		{Protocol: "TCP", HostPort: 80, ContainerPort: 8080}, {Protocol: "udp", HostPort: 53, ContainerPort: 53, HostIP: "192.0.2.1"},
		{HostPort: 1, ContainerPort: 2, HostIP: "0.0.0.0"}, {HostPort: 1, ContainerPort: 3, HostIP: "::"}, {ContainerPort: 9},
		{Protocol: "SCTP", HostPort: 80, ContainerPort: 8080, HostIP: "2001:db8::1"}, {Protocol: "SCTP", HostPort: 80, ContainerPort: 1, HostIP: "2001:DB8:0::1"},
	})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range elementsOf(&sandbox{Addrs: prefixes("10.0.0.2/24", "fd00::2/64"), Ports: ports}) {
		got = append(got, e.String())
	}
	want := []string{
		"self: 10.0.0.2", "ports: TCP 80 to 10.0.0.2:8080", "ports-at: 192.0.2.1 UDP 53 to 10.0.0.2:53", "ports: TCP 1 to 10.0.0.2:2",
		"self: fd00::2", "ports: TCP 80 to [fd00::2]:8080", "ports: TCP 1 to [fd00::2]:2", "ports-at: 2001:db8::1 SCTP 80 to [fd00::2]:8080",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if e := elementsOf(&sandbox{Addrs: prefixes("10.0.0.2/24")}); e != nil {
		t.Errorf("%v", e)
	}
}
