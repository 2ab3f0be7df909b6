package proxy

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// Labels by which others take a service over, or a slice. They count whatever their values are.
const (
	labelProxyName = "service.kubernetes.io/service-proxy-name"
	labelHeadless  = "service.kubernetes.io/headless"
)

func has(labels map[string]string, name string) bool {
	_, ok := labels[name]
	return ok
}

// name is the namespace and name of a service.
type name struct{ namespace, name string }

func (n name) String() string { return n.namespace + "/" + n.name }

// node is what matters of the node that the proxy works for.
type node struct {
	name, zone string
}

// slice is what an EndpointSlice says, ready for use.
type slice struct {
	v6    bool
	ports []discoveryv1.EndpointPort
	items []candidate
}

// candidate is an endpoint with what decides whether it is taken.
type candidate struct {
	addr               netip.Addr
	local              bool
	ready              bool
	serving            bool // and terminating
	zones, nodes       []string
	hasZones, hasNodes bool
}

// state is what the API says. It has no lock: one goroutine uses it.
type state struct {
	node     node
	services map[name]*corev1.Service
	slices   map[name]map[string]*slice
	checked  map[name]*corev1.Service // those with a health check node port, which are few

	// claims are the frontends of each service; more than one may claim a key, and then the oldest has it.
	claims map[name]map[Key]*Frontend
	owners map[Key][]name // sorted by age
}

func newState(n node) *state {
	return &state{
		node: n, services: map[name]*corev1.Service{}, slices: map[name]map[string]*slice{},
		checked: map[name]*corev1.Service{}, claims: map[name]map[Key]*Frontend{}, owners: map[Key][]name{},
	}
}

// setService takes a service, or nil for one that is gone.
func (s *state) setService(n name, svc *corev1.Service) {
	delete(s.checked, n)
	if svc == nil {
		delete(s.services, n)
		return
	}
	s.services[n] = svc
	if svc.Spec.HealthCheckNodePort != 0 && svc.Spec.Type == corev1.ServiceTypeLoadBalancer && !has(svc.Labels, labelProxyName) {
		s.checked[n] = svc
	}
}

// setSlice takes a slice of a service, or nil for one that is gone.
func (s *state) setSlice(n name, sliceName string, es *discoveryv1.EndpointSlice) {
	if es == nil || es.AddressType == discoveryv1.AddressTypeFQDN || has(es.Labels, labelHeadless) {
		delete(s.slices[n], sliceName)
		if len(s.slices[n]) == 0 {
			delete(s.slices, n)
		}
		return
	}
	if s.slices[n] == nil {
		s.slices[n] = map[string]*slice{}
	}
	s.slices[n][sliceName] = s.parse(es)
}

func (s *state) parse(es *discoveryv1.EndpointSlice) *slice {
	out := &slice{v6: es.AddressType == discoveryv1.AddressTypeIPv6, ports: es.Ports}
	for i := range es.Endpoints {
		ep := &es.Endpoints[i]
		if len(ep.Addresses) == 0 {
			continue
		}
		addr, err := netip.ParseAddr(ep.Addresses[0])
		if err != nil || addr.Is6() != out.v6 {
			continue // the API refuses it
		}
		c := candidate{addr: addr, local: ep.NodeName != nil && *ep.NodeName == s.node.name}
		terminating := ep.Conditions.Terminating != nil && *ep.Conditions.Terminating
		c.ready = ep.Conditions.Ready == nil || *ep.Conditions.Ready
		c.serving = terminating && (ep.Conditions.Serving == nil || *ep.Conditions.Serving)
		if ep.Hints != nil {
			for _, z := range ep.Hints.ForZones {
				c.hasZones, c.zones = true, append(c.zones, z.Name)
			}
			for _, n := range ep.Hints.ForNodes {
				c.hasNodes, c.nodes = true, append(c.nodes, n.Name)
			}
		}
		out.items = append(out.items, c)
	}
	return out
}

// change is what a key leads to from now on; nil is nowhere.
type change map[Key]*Frontend

// refresh computes a service again and adds to out what changed by it.
func (s *state) refresh(n name, out change) {
	before, after := s.claims[n], s.frontends(n)
	if len(after) == 0 {
		delete(s.claims, n)
	} else {
		s.claims[n] = after
	}
	for k := range before {
		if after[k] == nil {
			s.owners[k] = slices.DeleteFunc(s.owners[k], func(o name) bool { return o == n })
			if len(s.owners[k]) == 0 {
				delete(s.owners, k)
			}
			s.settle(k, out)
		}
	}
	for k, f := range after {
		old := before[k]
		if old != nil && old.equal(f) {
			after[k] = old
			continue
		}
		if old == nil {
			s.owners[k] = append(s.owners[k], n)
			slices.SortFunc(s.owners[k], s.older)
		}
		s.settle(k, out)
	}
}

// settle says who has a key now.
func (s *state) settle(k Key, out change) {
	out[k] = nil
	if o := s.owners[k]; len(o) > 0 {
		out[k] = s.claims[o[0]][k]
	}
}

func (s *state) older(a, b name) int {
	x, y := s.services[a], s.services[b]
	if x != nil && y != nil && !x.CreationTimestamp.Equal(&y.CreationTimestamp) {
		return x.CreationTimestamp.Compare(y.CreationTimestamp.Time)
	}
	return cmp.Or(cmp.Compare(a.namespace, b.namespace), cmp.Compare(a.name, b.name))
}

// all is every key with what it leads to.
func (s *state) all() change {
	out := change{}
	for k := range s.owners {
		s.settle(k, out)
	}
	return out
}

// frontends computes the keys of one service.
func (s *state) frontends(n name) map[Key]*Frontend {
	svc := s.services[n]
	if svc == nil || svc.Spec.Type == corev1.ServiceTypeExternalName || svc.Spec.ClusterIP == corev1.ClusterIPNone || svc.Spec.ClusterIP == "" || has(svc.Labels, labelProxyName) {
		return nil
	}
	out := map[Key]*Frontend{}
	affinity := time.Duration(0)
	if svc.Spec.SessionAffinity == corev1.ServiceAffinityClientIP {
		affinity = time.Duration(corev1.DefaultClientIPServiceAffinitySeconds) * time.Second
		if c := svc.Spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil {
			affinity = time.Duration(*c.ClientIP.TimeoutSeconds) * time.Second
		}
	}
	internalLocal := svc.Spec.InternalTrafficPolicy != nil && *svc.Spec.InternalTrafficPolicy == corev1.ServiceInternalTrafficPolicyLocal
	externalLocal := svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
	for _, p := range svc.Spec.Ports {
		for _, v6 := range []bool{false, true} {
			if !slices.ContainsFunc(svc.Spec.IPFamilies, func(f corev1.IPFamily) bool { return (f == corev1.IPv6Protocol) == v6 }) {
				continue
			}
			everybody, local := s.endpoints(n, p, v6)
			key := func(addr string, port int32) (Key, bool) {
				a, err := netip.ParseAddr(addr)
				return Key{Addr: a, Protocol: cmp.Or(p.Protocol, corev1.ProtocolTCP), Port: uint16(port)}, err == nil && a.Is6() == v6
			}
			inside := &Frontend{Service: n.String(), Cluster: true, Endpoints: everybody, Affinity: affinity}
			if internalLocal {
				inside.Endpoints, inside.Drop = local, len(local) == 0 && len(everybody) > 0
			}
			for _, ip := range svc.Spec.ClusterIPs {
				if k, ok := key(ip, p.Port); ok {
					out[k] = inside
				}
			}
			outside := &Frontend{Service: n.String(), Endpoints: everybody, Affinity: affinity}
			if externalLocal {
				outside.LocalOnly, outside.LocalEndpoints = true, local
			}
			for _, ip := range svc.Spec.ExternalIPs {
				if k, ok := key(ip, p.Port); ok {
					out[k] = outside
				}
			}
			if p.NodePort != 0 {
				everywhere := "0.0.0.0"
				if v6 {
					everywhere = "::"
				}
				if k, ok := key(everywhere, p.NodePort); ok {
					out[k] = outside
				}
			}
			balanced := outside
			if sources := sourceRanges(svc, v6); len(sources) > 0 {
				limited := *outside
				limited.Sources = sources
				balanced = &limited
			}
			for _, in := range svc.Status.LoadBalancer.Ingress {
				if in.IPMode != nil && *in.IPMode == corev1.LoadBalancerIPModeProxy {
					continue // the balancer wants to see its packets itself
				}
				if k, ok := key(in.IP, p.Port); ok && svc.Spec.Type == corev1.ServiceTypeLoadBalancer {
					out[k] = balanced
				}
			}
		}
	}
	return out
}

// sourceRanges are those of one family. A service that allows only the other family's allows none of this one, which a range of nothing says.
func sourceRanges(svc *corev1.Service, v6 bool) []netip.Prefix {
	var out []netip.Prefix
	any := false
	for _, r := range svc.Spec.LoadBalancerSourceRanges {
		p, err := netip.ParsePrefix(strings.TrimSpace(r))
		if err != nil {
			continue
		}
		any = true
		if p.Addr().Is6() == v6 {
			out = append(out, p.Masked())
		}
	}
	if any && len(out) == 0 {
		nothing := netip.PrefixFrom(netip.IPv4Unspecified(), 32)
		if v6 {
			nothing = netip.PrefixFrom(netip.IPv6Unspecified(), 128)
		}
		out = append(out, nothing)
	}
	return out
}

// endpoints are those of one port: for everybody, by topology if the hints allow, and those of this node. Where none is ready, those that
// terminate but still serve are taken (KEP-1669).
func (s *state) endpoints(n name, p corev1.ServicePort, v6 bool) (everybody, local []Endpoint) {
	var all []place
	for _, sl := range s.slices[n] {
		if sl.v6 != v6 {
			continue
		}
		for i := range sl.ports {
			ep := &sl.ports[i]
			if ep.Port == nil || deref(ep.Name) != p.Name || cmp.Or(deref(ep.Protocol), corev1.ProtocolTCP) != cmp.Or(p.Protocol, corev1.ProtocolTCP) {
				continue
			}
			all = slices.Grow(all, len(sl.items))
			for j := range sl.items {
				all = append(all, place{netip.AddrPortFrom(sl.items[j].addr, uint16(*ep.Port)), &sl.items[j]})
			}
		}
	}
	// An endpoint may be in two slices while it is moved from one to the other: one that is ready goes first.
	slices.SortFunc(all, func(a, b place) int {
		if c := a.at.Compare(b.at); c != 0 || a.ready == b.ready {
			return c
		}
		if a.ready {
			return -1
		}
		return 1
	})
	all = slices.CompactFunc(all, func(a, b place) bool { return a.at == b.at })
	near := s.topology(all)
	everybody = those(all, func(c *candidate) bool { return c.ready && near(c) })
	if len(everybody) == 0 {
		everybody = those(all, func(c *candidate) bool { return c.serving })
	}
	local = those(all, func(c *candidate) bool { return c.ready && c.local })
	if len(local) == 0 {
		local = those(all, func(c *candidate) bool { return c.serving && c.local })
	}
	return everybody, local
}

// place is an endpoint's port.
type place struct {
	at netip.AddrPort
	*candidate
}

func those(all []place, keep func(*candidate) bool) []Endpoint {
	n := 0
	for _, c := range all {
		if keep(c.candidate) {
			n++
		}
	}
	if n == 0 {
		return nil
	}
	out := make([]Endpoint, 0, n)
	for _, c := range all {
		if keep(c.candidate) {
			out = append(out, Endpoint{Addr: c.at, Local: c.local})
		}
	}
	return out
}

// topology says which endpoints are near. Hints count only if every ready endpoint has one and one is for this node or zone, so that a
// half-done change of them never leaves nobody.
func (s *state) topology(all []place) func(*candidate) bool {
	nodes, zones, forNode, forZone := true, s.node.zone != "", false, false
	for _, c := range all {
		if !c.ready {
			continue
		}
		nodes, zones = nodes && c.hasNodes, zones && c.hasZones
		forNode = forNode || slices.Contains(c.nodes, s.node.name)
		forZone = forZone || slices.Contains(c.zones, s.node.zone)
	}
	switch {
	case nodes && forNode:
		return func(c *candidate) bool { return slices.Contains(c.nodes, s.node.name) }
	case zones && forZone:
		return func(c *candidate) bool { return slices.Contains(c.zones, s.node.zone) }
	}
	return func(*candidate) bool { return true }
}

// healthChecks are the ports on which load balancers ask whether this node has endpoints of a service, with how many it has.
func (s *state) healthChecks() map[uint16]healthCheck {
	out := map[uint16]healthCheck{}
	for n, svc := range s.checked {
		c := healthCheck{service: n}
		for _, sl := range s.slices[n] {
			for _, item := range sl.items {
				if item.ready && item.local {
					c.local++
				}
			}
		}
		out[uint16(svc.Spec.HealthCheckNodePort)] = c
	}
	return out
}

func deref[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}

func (k Key) String() string {
	return string(k.Protocol) + " " + netip.AddrPortFrom(k.Addr, k.Port).String()
}

func portName(p uint16) string { return strconv.Itoa(int(p)) }
