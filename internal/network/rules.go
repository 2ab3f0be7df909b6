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
	chainFromPods  = "from-pods"
)

// podLinks matches the host's ends of all pods.
const podLinks = vethPrefix + "*"

// place names a set or map of the table; there is one for each family.
type place string

const (
	// mapPorts leads from protocol and port to a pod's address and port, mapPortsAt from one address of the host, protocol and port.
	mapPorts   place = "ports"
	mapPortsAt place = "ports-at"
	// setSelf has the addresses of pods with host ports, twice: packets of theirs to themselves.
	setSelf place = "self"
)

// element is something in a set or map. A host port that comes or goes is a few of them, whatever others there are.
type element struct {
	In       place
	Addr     netip.Addr // the host's for mapPortsAt, the pod's for the others: its family is that of the place
	Protocol string
	Port     uint16
	To       uint16 // the pod's port
	Pod      netip.Addr
}

func (e element) String() string {
	switch e.In {
	case mapPorts:
		return fmt.Sprintf("%s: %s %d to %v", e.In, e.Protocol, e.Port, netip.AddrPortFrom(e.Pod, e.To))
	case mapPortsAt:
		return fmt.Sprintf("%s: %v %s %d to %v", e.In, e.Addr, e.Protocol, e.Port, netip.AddrPortFrom(e.Pod, e.To))
	}
	return fmt.Sprintf("%s: %v", e.In, e.Addr)
}

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
	doTranslate         // to what is found in a map
	doDrop
	doAccept    // and look at no further rule of the chain
	doHostPorts // go through the chain of host ports
	doFromPods  // go through the chain of what pods may not send
)

// rule matches packets by everything that is set, and acts on them.
type rule struct {
	V6         bool // the family, if one of the fields below needs it
	Src, Dst   netip.Prefix
	NotDst     netip.Prefix
	In, Out    string // interface that the packet came in by, or leaves by; all that begin alike if it ends with "*"
	Forged     bool   // the machine has no route to the source by the interface that the packet came in by
	ICMP       byte   // type of an ICMP message
	Local      bool   // the destination is an address of this machine
	Translated bool   // the destination was changed on the way here
	Find       place  // what is looked up: for the map to find where, or for the set to match
	Do         action
}

type chain struct {
	Name  string
	Hook  hook
	Rules []rule
}

var (
	localhost4 = netip.MustParsePrefix("127.0.0.0/8")
)

// rulesFor computes all rules. Cluster are the ranges of all nodes. What depends on single sandboxes is in sets and maps, see elementsOf.
func rulesFor(ranges, cluster []netip.Prefix) []chain {
	post := chain{Name: "post-routing", Hook: hookPostRouting}
	for _, v6 := range []bool{false, true} {
		// A pod that reaches itself by a host port must get the answer by the same way.
		post.Rules = append(post.Rules, rule{V6: v6, Find: setSelf, Translated: true, Do: doMasquerade})
	}
	from := chain{Name: chainFromPods, Rules: []rule{
		// Each pod is alone on its wire, and its own addresses are all that is routed there. So nobody can take another's.
		{Forged: true, Do: doDrop},
		// The machine may look for its own router on other wires.
		{V6: true, ICMP: icmpv6Router, Do: doDrop}, {V6: true, ICMP: icmpv6Redirect, Do: doDrop},
		// Host ports on 127.0.0.1 need packets of it to be routed to pods (route_localnet); those that come for it are not wanted.
		{Dst: localhost4, Do: doDrop},
	}}
	for _, p := range ranges {
		v6 := p.Addr().Is6()
		if !v6 {
			post.Rules = append(post.Rules, rule{Src: localhost4, Dst: p, Do: doMasquerade})
		}
		for _, c := range cluster {
			if c.Addr().Is6() == v6 && c != p {
				post.Rules = append(post.Rules, rule{V6: v6, Src: p, Dst: c, Do: doAccept})
			}
		}
		post.Rules = append(post.Rules, rule{V6: v6, Src: p, NotDst: p, Do: doMasquerade})
	}
	ports := chain{Name: chainHostPorts}
	for _, v6 := range []bool{false, true} {
		// Those for one address of the host go before those for all.
		ports.Rules = append(ports.Rules, rule{V6: v6, Find: mapPortsAt, Do: doTranslate}, rule{V6: v6, Find: mapPorts, Do: doTranslate})
	}
	return []chain{
		from, post, ports,
		{Name: "raw-pre-routing", Hook: hookRawPreRouting, Rules: []rule{{In: podLinks, Do: doFromPods}}},
		{Name: "pre-routing", Hook: hookPreRouting, Rules: []rule{{Local: true, Do: doHostPorts}}},
		{Name: "output", Hook: hookOutput, Rules: []rule{{Local: true, Do: doHostPorts}}},
		// A pod reaches itself by way of the gateway; the kernel would tell it of the shorter way.
		{Name: "filter-output", Hook: hookFilterOutput, Rules: []rule{{Out: podLinks, ICMP: icmpRedirect, Do: doDrop}, {V6: true, Out: podLinks, ICMP: icmpv6Redirect, Do: doDrop}}},
	}
}

// elementsOf are what a sandbox with host ports has in sets and maps.
func elementsOf(s *sandbox) []element {
	if len(s.Ports) == 0 {
		return nil
	}
	var out []element
	for _, a := range s.Addrs {
		out = append(out, element{In: setSelf, Addr: a.Addr()})
		for _, m := range s.Ports {
			e := element{In: mapPorts, Addr: a.Addr(), Protocol: m.Protocol, Port: m.HostPort, To: m.ContainerPort, Pod: a.Addr()}
			if host, err := netip.ParseAddr(m.HostIP); err == nil && !host.IsUnspecified() {
				if host = host.Unmap(); host.Is6() != a.Addr().Is6() {
					continue
				}
				e.In, e.Addr = mapPortsAt, host
			}
			out = append(out, e)
		}
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
		// Of two containers that want the same the first has it.
		if !slices.ContainsFunc(out, func(o PortMapping) bool {
			return o.HostPort == m.HostPort && o.Protocol == m.Protocol && sameAddress(o.HostIP, m.HostIP)
		}) {
			out = append(out, m)
		}
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
				if o.HostPort == m.HostPort && o.Protocol == m.Protocol && (everyAddress(o.HostIP) || everyAddress(m.HostIP) || sameAddress(o.HostIP, m.HostIP)) {
					return fmt.Errorf("host port %d/%s is in use by pod %s", m.HostPort, m.Protocol, s.Pod)
				}
			}
		}
	}
	return nil
}

// sameAddress says whether two texts are the same address of the host, or both all addresses.
func sameAddress(a, b string) bool {
	if everyAddress(a) || everyAddress(b) {
		return everyAddress(a) && everyAddress(b)
	}
	x, err := netip.ParseAddr(a)
	y, err2 := netip.ParseAddr(b)
	return err == nil && err2 == nil && x.Unmap() == y.Unmap()
}

func everyAddress(ip string) bool { return ip == "" || ip == "0.0.0.0" || ip == "::" }
