package network

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Names in nftables. The table is the only thing of ours there, and nobody else's rules are in it.
const (
	tableName      = "celox"
	chainHostPorts = "host-ports"
)

// hook is where the kernel calls a chain; none means that only other chains do.
type hook int

const (
	hookNone hook = iota
	hookRawPreRouting
	hookPreRouting
	hookOutput
	hookFilterOutput
	hookPostRouting
)

// action is what a rule does with a packet that matches.
type action int

const (
	doMasquerade action = iota
	doDNAT
	doDrop
	doAccept    // and look at no further rule of the chain
	doHostPorts // go through the chain of host ports
)

// rule matches packets by everything that is set, and acts on them.
type rule struct {
	V6         bool // the family, if one of the fields below needs it
	Src, Dst   netip.Prefix
	NotDst     netip.Prefix
	In         string // interface that the packet came in by
	Redirect   string // interface by which an ICMP message leaves that tells of a shorter way
	Local      bool   // the destination is an address of this machine
	Translated bool   // the destination was changed on the way here
	Protocol   string
	Port       uint16
	Do         action
	To         netip.AddrPort // for doDNAT
}

type chain struct {
	Name  string
	Hook  hook
	Rules []rule
}

var (
	localhost4 = netip.MustParsePrefix("127.0.0.0/8")
)

// rulesFor computes the whole table. Cluster are the ranges of all nodes.
func rulesFor(bridge string, ranges, cluster []netip.Prefix, sandboxes []*sandbox) []chain {
	post := chain{Name: "post-routing", Hook: hookPostRouting}
	raw := chain{Name: "raw-pre-routing", Hook: hookRawPreRouting}
	for _, p := range ranges {
		v6 := p.Addr().Is6()
		if !v6 {
			// Host ports on 127.0.0.1 need packets for it to be routed to the bridge (route_localnet); those that come from it are not wanted.
			raw.Rules = append(raw.Rules, rule{In: bridge, Dst: localhost4, Do: doDrop})
			post.Rules = append(post.Rules, rule{Src: localhost4, Dst: p, Do: doMasquerade})
		}
		for _, s := range sandboxes {
			for _, a := range s.Addrs {
				// A pod that reaches itself by a host port must get the answer by the same way.
				if self := netip.PrefixFrom(a.Addr(), a.Addr().BitLen()); len(s.Ports) > 0 && p.Contains(a.Addr()) {
					post.Rules = append(post.Rules, rule{V6: v6, Src: self, Dst: self, Translated: true, Do: doMasquerade})
				}
			}
		}
		for _, c := range cluster {
			if c.Addr().Is6() == v6 && c != p {
				post.Rules = append(post.Rules, rule{V6: v6, Src: p, Dst: c, Do: doAccept})
			}
		}
		post.Rules = append(post.Rules, rule{V6: v6, Src: p, NotDst: p, Do: doMasquerade})
	}
	ports := chain{Name: chainHostPorts}
	for _, s := range sandboxes {
		for _, m := range s.Ports {
			ports.Rules = append(ports.Rules, portRules(s, m)...)
		}
	}
	slices.SortStableFunc(ports.Rules, func(a, b rule) int {
		// Those for one address of the host go before those for all.
		if a.Dst.IsValid() != b.Dst.IsValid() {
			if a.Dst.IsValid() {
				return -1
			}
			return 1
		}
		return cmp.Compare(a.Port, b.Port)
	})
	return []chain{
		raw, post, ports,
		{Name: "pre-routing", Hook: hookPreRouting, Rules: []rule{{Local: true, Do: doHostPorts}}},
		{Name: "output", Hook: hookOutput, Rules: []rule{{Local: true, Do: doHostPorts}}},
		// Pods of a node are neighbours, but go by way of the gateway; the kernel would tell them of the shorter way.
		{Name: "filter-output", Hook: hookFilterOutput, Rules: []rule{{Redirect: bridge, Do: doDrop}, {V6: true, Redirect: bridge, Do: doDrop}}},
	}
}

func portRules(s *sandbox, m PortMapping) []rule {
	var out []rule
	host, _ := netip.ParseAddr(m.HostIP)
	for _, a := range s.Addrs {
		r := rule{V6: a.Addr().Is6(), Protocol: m.Protocol, Port: m.HostPort, Do: doDNAT, To: netip.AddrPortFrom(a.Addr(), m.ContainerPort)}
		if host.IsValid() && !host.IsUnspecified() {
			if host.Is6() != r.V6 {
				continue
			}
			r.Dst = netip.PrefixFrom(host, host.BitLen())
		}
		out = append(out, r)
	}
	return out
}

// normalize checks host ports and completes them; those without a port of the host are left out.
func normalize(ports []PortMapping) ([]PortMapping, error) {
	var out []PortMapping
	for _, m := range ports {
		if m.HostPort == 0 {
			continue
		}
		m.Protocol = strings.ToUpper(cmp.Or(m.Protocol, "TCP"))
		if m.Protocol != "TCP" && m.Protocol != "UDP" && m.Protocol != "SCTP" {
			return nil, fmt.Errorf("host port %d: unknown protocol %q", m.HostPort, m.Protocol)
		}
		if m.ContainerPort == 0 {
			return nil, fmt.Errorf("host port %d: no container port", m.HostPort)
		}
		if m.HostIP != "" {
			if _, err := netip.ParseAddr(m.HostIP); err != nil {
				return nil, fmt.Errorf("host port %d: %w", m.HostPort, err)
			}
		}
		out = append(out, m)
	}
	return out, nil
}

// conflict returns the pod, if any, that has a host port of those already.
func conflict(id string, ports []PortMapping, sandboxes map[string]*sandbox) error {
	for _, m := range ports {
		for _, s := range sandboxes {
			if s.ID == id {
				continue
			}
			for _, o := range s.Ports {
				if o.HostPort == m.HostPort && o.Protocol == m.Protocol && (everyAddress(o.HostIP) || everyAddress(m.HostIP) || o.HostIP == m.HostIP) {
					return fmt.Errorf("host port %d/%s is in use by pod %s", m.HostPort, m.Protocol, s.Pod)
				}
			}
		}
	}
	return nil
}

func everyAddress(ip string) bool { return ip == "" || ip == "0.0.0.0" || ip == "::" }
