package allocate

import (
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api/check"
	"github.com/celox/celox/internal/api/core"
)

func headless(s *corev1.Service) bool {
	return s.Spec.ClusterIP == corev1.ClusterIPNone || len(s.Spec.ClusterIPs) > 0 && s.Spec.ClusterIPs[0] == corev1.ClusterIPNone
}

func external(s *corev1.Service) bool { return s.Spec.Type == corev1.ServiceTypeExternalName }

// addressed says whether a service has a cluster IP, if only "None".
func addressed(s *corev1.Service) bool { return !external(s) }

func needsAddress(s *corev1.Service) bool { return !external(s) && !headless(s) }

// usesPorts says whether the ports of a service have node ports at all; givesPorts whether those without one get one.
func usesPorts(s *corev1.Service) bool {
	return s.Spec.Type == corev1.ServiceTypeNodePort || s.Spec.Type == corev1.ServiceTypeLoadBalancer
}

func givesPorts(s *corev1.Service) bool {
	return s.Spec.Type == corev1.ServiceTypeNodePort ||
		s.Spec.Type == corev1.ServiceTypeLoadBalancer && (s.Spec.AllocateLoadBalancerNodePorts == nil || *s.Spec.AllocateLoadBalancerNodePorts)
}

func needsHealthPort(s *corev1.Service) bool {
	return s.Spec.Type == corev1.ServiceTypeLoadBalancer && s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

func balanced(s *corev1.Service) bool { return s.Spec.Type == corev1.ServiceTypeLoadBalancer }

// hasOutside says whether traffic from outside the cluster may come in, so that a policy for it means something.
func hasOutside(s *corev1.Service) bool {
	return usesPorts(s) || s.Spec.Type == corev1.ServiceTypeClusterIP && len(s.Spec.ExternalIPs) > 0
}

func sameWord[T ~string](a, b *T) bool { return a != nil && b != nil && *a == *b }

// Complete fills in what follows from the old service (nil on create) and from the families that the cluster has, before the
// service is validated. What can't be right either way is left for validation to complain about.
func (p *Pool) Complete(s, old *corev1.Service) field.ErrorList {
	if old != nil {
		carry(s, old)
	}
	keepInStep(s, old)
	if old != nil {
		dropUnused(s, old)
	}
	if external(s) {
		return nil
	}
	if errs := core.ValidateServiceAddresses(s, old); len(errs) > 0 {
		return errs // nothing can be made of them
	}
	return p.families(s, old)
}

// keepInStep keeps clusterIP and clusterIPs, two names of one thing, together when a client that knows only one changes it.
func keepInStep(s, old *corev1.Service) {
	if old == nil {
		if s.Spec.ClusterIP != "" && len(s.Spec.ClusterIPs) == 0 {
			s.Spec.ClusterIPs = []string{s.Spec.ClusterIP}
		}
		return
	}
	sameOne := s.Spec.ClusterIP == old.Spec.ClusterIP
	sameAll := slices.Equal(s.Spec.ClusterIPs, old.Spec.ClusterIPs)
	switch {
	case !sameOne && sameAll:
		if s.Spec.ClusterIP == "" {
			s.Spec.ClusterIPs = nil
		} else {
			s.Spec.ClusterIPs = []string{s.Spec.ClusterIP} // and refused if there may be none
		}
	case external(s) && len(s.Spec.ClusterIPs) == 0:
		s.Spec.ClusterIP = "" // which means nothing there, and would be refused when somebody writes back what they read
	}
}

// carry keeps what the client left out of an update and the server once gave.
func carry(s, old *corev1.Service) {
	if addressed(old) && addressed(s) {
		if s.Spec.ClusterIP == "" {
			s.Spec.ClusterIP = old.Spec.ClusterIP
		}
		if len(s.Spec.ClusterIPs) == 0 {
			s.Spec.ClusterIPs = slices.Clone(old.Spec.ClusterIPs)
		}
	}
	if usesPorts(old) && usesPorts(s) {
		used := map[int32]bool{}
		for i := range s.Spec.Ports {
			used[s.Spec.Ports[i].NodePort] = true
		}
		for i := range s.Spec.Ports {
			q := &s.Spec.Ports[i]
			if q.NodePort != 0 || s.Spec.Type == corev1.ServiceTypeLoadBalancer && !givesPorts(s) {
				continue
			}
			for j := range old.Spec.Ports {
				o := &old.Spec.Ports[j]
				if o.Port == q.Port && o.Protocol == q.Protocol && !used[o.NodePort] {
					q.NodePort = o.NodePort
				}
			}
		}
	}
	if needsHealthPort(old) && needsHealthPort(s) && s.Spec.HealthCheckNodePort == 0 {
		s.Spec.HealthCheckNodePort = old.Spec.HealthCheckNodePort
	}
}

// dropUnused takes away what belonged to the old type and the client merely repeated.
func dropUnused(s, old *corev1.Service) {
	if addressed(old) && external(s) && s.Spec.ClusterIP == old.Spec.ClusterIP && slices.Equal(s.Spec.ClusterIPs, old.Spec.ClusterIPs) {
		s.Spec.ClusterIP, s.Spec.ClusterIPs = "", nil
		s.Spec.IPFamilies, s.Spec.IPFamilyPolicy = nil, nil
	}
	if external(s) && !external(old) {
		if slices.Equal(s.Spec.IPFamilies, old.Spec.IPFamilies) {
			s.Spec.IPFamilies = nil
		}
		if p, q := s.Spec.IPFamilyPolicy, old.Spec.IPFamilyPolicy; p != nil && q != nil && *p == *q {
			s.Spec.IPFamilyPolicy = nil
		}
	}
	if external(s) && sameWord(s.Spec.InternalTrafficPolicy, old.Spec.InternalTrafficPolicy) {
		s.Spec.InternalTrafficPolicy = nil
	}
	if hasOutside(old) && !hasOutside(s) && s.Spec.ExternalTrafficPolicy == old.Spec.ExternalTrafficPolicy {
		s.Spec.ExternalTrafficPolicy = ""
	}
	if balanced(old) && !balanced(s) {
		if a, b := s.Spec.AllocateLoadBalancerNodePorts, old.Spec.AllocateLoadBalancerNodePorts; a != nil && b != nil && *a == *b {
			s.Spec.AllocateLoadBalancerNodePorts = nil
		}
		if sameWord(s.Spec.LoadBalancerClass, old.Spec.LoadBalancerClass) {
			s.Spec.LoadBalancerClass = nil
		}
	}
	if usesPorts(old) && !usesPorts(s) {
		for i := range s.Spec.Ports {
			n := s.Spec.Ports[i].NodePort
			if n != 0 && slices.ContainsFunc(old.Spec.Ports, func(o corev1.ServicePort) bool { return o.NodePort == n }) {
				s.Spec.Ports[i].NodePort = 0
			}
		}
	}
	if needsHealthPort(old) && !needsHealthPort(s) && s.Spec.HealthCheckNodePort == old.Spec.HealthCheckNodePort {
		s.Spec.HealthCheckNodePort = 0
	}
}

func (p *Pool) families(s, old *corev1.Service) field.ErrorList {
	spec := field.NewPath("spec")
	for _, ip := range s.Spec.ClusterIPs {
		if _, err := netip.ParseAddr(ip); ip != corev1.ClusterIPNone && err != nil {
			return nil
		}
	}
	for i, f := range s.Spec.IPFamilies {
		if f != corev1.IPv4Protocol && f != corev1.IPv6Protocol || slices.Contains(s.Spec.IPFamilies[:i], f) {
			return nil
		}
	}
	policy := s.Spec.IPFamilyPolicy
	if policy != nil && *policy != corev1.IPFamilyPolicySingleStack && *policy != corev1.IPFamilyPolicyPreferDualStack && *policy != corev1.IPFamilyPolicyRequireDualStack {
		return nil
	}
	if prefersAsBefore(s, old) {
		return nil // what the cluster came to have or lost since is no reason for a change
	}
	if policy == nil {
		switch {
		case old != nil && old.Spec.IPFamilyPolicy != nil:
			policy = new(*old.Spec.IPFamilyPolicy)
		case headless(s) && len(s.Spec.Selector) == 0:
			policy = new(corev1.IPFamilyPolicyRequireDualStack)
		default:
			policy = new(corev1.IPFamilyPolicySingleStack)
		}
		s.Spec.IPFamilyPolicy = policy
	}
	var errs field.ErrorList
	at := spec.Child("ipFamilyPolicy")
	if old != nil {
		errs = append(errs, release(s, old, at)...)
	}
	if *policy == corev1.IPFamilyPolicySingleStack {
		if len(s.Spec.ClusterIPs) == 2 {
			errs = append(errs, field.Invalid(at, *policy, "must be 'RequireDualStack' or 'PreferDualStack' when multiple cluster IPs are specified"))
		}
		if len(s.Spec.IPFamilies) == 2 {
			errs = append(errs, field.Invalid(at, *policy, "must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified"))
		}
	}
	for i, ip := range s.Spec.ClusterIPs {
		if ip == corev1.ClusterIPNone || i < len(s.Spec.IPFamilies) {
			continue
		}
		f := familyOf(ip)
		if p.rangeOf(f) == nil {
			errs = append(errs, field.Invalid(spec.Child("clusterIPs").Index(i), s.Spec.ClusterIPs, fmt.Sprintf("%s is not configured on this cluster", f)))
		} else if !slices.Contains(s.Spec.IPFamilies, f) {
			s.Spec.IPFamilies = append(s.Spec.IPFamilies, f)
		} else {
			return errs // two of a family: validation says so
		}
	}
	if len(errs) > 0 {
		return errs
	}
	if headless(s) && len(s.Spec.Selector) == 0 {
		// Endpoints that somebody else keeps may be of any family, whatever the cluster has.
		if len(s.Spec.IPFamilies) == 0 {
			s.Spec.IPFamilies = []corev1.IPFamily{p.ranges[0].family}
		}
		if len(s.Spec.IPFamilies) < 2 && *policy != corev1.IPFamilyPolicySingleStack {
			s.Spec.IPFamilies = append(s.Spec.IPFamilies, other(s.Spec.IPFamilies[0]))
		}
		return nil
	}
	if *policy == corev1.IPFamilyPolicyRequireDualStack && len(p.ranges) < 2 {
		errs = append(errs, field.Invalid(at, *policy, "this cluster is not configured for dual-stack services"))
	}
	for i, f := range s.Spec.IPFamilies {
		if p.rangeOf(f) == nil {
			errs = append(errs, field.Invalid(spec.Child("ipFamilies").Index(i), f, "not configured on this cluster"))
		}
	}
	// A family that contradicts a given address is validation's to tell.
	for i, ip := range s.Spec.ClusterIPs {
		if i < len(s.Spec.IPFamilies) && ip != corev1.ClusterIPNone && familyOf(ip) != s.Spec.IPFamilies[i] {
			return nil
		}
	}
	if len(errs) > 0 {
		return errs
	}
	if len(s.Spec.IPFamilies) == 0 {
		s.Spec.IPFamilies = []corev1.IPFamily{p.ranges[0].family}
	}
	if *policy != corev1.IPFamilyPolicySingleStack && len(s.Spec.IPFamilies) < 2 && len(p.ranges) == 2 {
		s.Spec.IPFamilies = append(s.Spec.IPFamilies, other(s.Spec.IPFamilies[0]))
	}
	return nil
}

// prefersAsBefore says whether a service that would like two families is left by an update as it is.
func prefersAsBefore(s, old *corev1.Service) bool {
	prefers := func(s *corev1.Service, otherwise bool) bool {
		p := s.Spec.IPFamilyPolicy
		return p == nil && otherwise || p != nil && *p == corev1.IPFamilyPolicyPreferDualStack
	}
	return old != nil && s.Spec.Type == old.Spec.Type && prefers(s, false) && prefers(old, true) &&
		slices.Equal(s.Spec.ClusterIPs, old.Spec.ClusterIPs) && slices.Equal(s.Spec.IPFamilies, old.Spec.IPFamilies)
}

// release takes the secondary family from a service that is to have one, if its client left it. No other policy allows to leave it out.
func release(s, old *corev1.Service, p *field.Path) field.ErrorList {
	if *s.Spec.IPFamilyPolicy == corev1.IPFamilyPolicySingleStack {
		if len(s.Spec.ClusterIPs) > 1 && slices.Equal(s.Spec.ClusterIPs, old.Spec.ClusterIPs) {
			s.Spec.ClusterIPs = s.Spec.ClusterIPs[:1]
		}
		if len(s.Spec.IPFamilies) > 1 && slices.Equal(s.Spec.IPFamilies, old.Spec.IPFamilies) {
			s.Spec.IPFamilies = s.Spec.IPFamilies[:1]
		}
		return nil
	}
	var errs field.ErrorList
	if n := len(s.Spec.ClusterIPs); n > 0 && n < len(old.Spec.ClusterIPs) {
		errs = append(errs, field.Invalid(p, *s.Spec.IPFamilyPolicy, "must be 'SingleStack' to release the secondary cluster IP"))
	}
	if n := len(s.Spec.IPFamilies); n > 0 && n < len(old.Spec.IPFamilies) {
		errs = append(errs, field.Invalid(p, *s.Spec.IPFamilyPolicy, "must be 'SingleStack' to release the secondary IP family"))
	}
	return errs
}

func familyOf(ip string) corev1.IPFamily {
	if a, err := netip.ParseAddr(ip); err == nil && a.Is6() && !a.Is4In6() {
		return corev1.IPv6Protocol
	}
	return corev1.IPv4Protocol
}

func other(f corev1.IPFamily) corev1.IPFamily {
	if f == corev1.IPv4Protocol {
		return corev1.IPv6Protocol
	}
	return corev1.IPv4Protocol
}

// Settled says whether an update needs nothing that old does not have already.
func (p *Pool) Settled(s, old *corev1.Service) bool {
	if old == nil || s.Spec.Type != old.Spec.Type || s.Spec.HealthCheckNodePort != old.Spec.HealthCheckNodePort ||
		needsHealthPort(s) && s.Spec.HealthCheckNodePort == 0 ||
		!slices.Equal(s.Spec.ClusterIPs, old.Spec.ClusterIPs) || !slices.Equal(s.Spec.IPFamilies, old.Spec.IPFamilies) || len(s.Spec.Ports) != len(old.Spec.Ports) {
		return false
	}
	for i := range s.Spec.Ports {
		if s.Spec.Ports[i].NodePort != old.Spec.Ports[i].NodePort || givesPorts(s) && s.Spec.Ports[i].NodePort == 0 {
			return false
		}
	}
	return !needsAddress(s) || len(s.Spec.ClusterIPs) == len(s.Spec.IPFamilies)
}

// Assign gives a service the addresses and ports that it asks for or lacks. The pool must know all services that exist,
// with Take; the old state of this one (nil on create) does not stand in its own way. The service need not be valid: what makes no
// sense is left for validation to complain about.
func (p *Pool) Assign(s, old *corev1.Service) field.ErrorList {
	key := s.Namespace + "/" + s.Name
	if old == nil {
		key += " (new)" // what one of the name that exists already has is not this one's
	}
	p.draft = draft{key, map[netip.Addr]bool{}, map[int32]bool{}}
	defer func() { p.draft = draft{} }()
	if errs := p.assignAddresses(s, old, key); len(errs) > 0 {
		return errs
	}
	if errs := p.assignPorts(s, key); len(errs) > 0 || !needsHealthPort(s) {
		return errs
	}
	return p.assignHealthPort(s, old, key)
}

func (p *Pool) assignAddresses(s, old *corev1.Service, key string) field.ErrorList {
	if headless(s) {
		s.Spec.ClusterIP, s.Spec.ClusterIPs = corev1.ClusterIPNone, []string{corev1.ClusterIPNone}
		return nil
	}
	if external(s) {
		return nil
	}
	at := field.NewPath("spec", "clusterIPs")
	asked := s.Spec.ClusterIPs
	var got []string
	for i, f := range s.Spec.IPFamilies {
		r := p.rangeOf(f)
		if r == nil {
			return nil // no family that there is
		}
		if i < len(asked) && asked[i] != "" {
			if old != nil && i < len(old.Spec.ClusterIPs) && asked[i] != old.Spec.ClusterIPs[i] {
				return nil // it may not change: validation says so
			}
			a, err := netip.ParseAddr(asked[i])
			switch owner := p.owner(a); {
			case err != nil:
				return nil // no address
			case owner == key:
			case !p.holds(f, a):
				return field.ErrorList{field.Invalid(at, asked, fmt.Sprintf("failed to allocate IP %s: the provided network does not match the current range", asked[i]))}
			case owner != "":
				return field.ErrorList{field.Invalid(at, asked, fmt.Sprintf("failed to allocate IP %s: provided IP is already allocated", asked[i]))}
			}
			p.draft.addresses[a] = true
			got = append(got, asked[i])
			continue
		}
		a, ok := p.next(f)
		if ok && s.Name == "" {
			// The object of the address names its owner, and there upstream notices that it has no name.
			return field.ErrorList{field.Invalid(at, []string{""}, fmt.Sprintf("failed to allocate IP: IPAddress.networking.k8s.io %q is invalid: spec.parentRef.name: Required value", a))}
		}
		if !ok {
			return field.ErrorList{field.InternalError(at, fmt.Errorf("failed to allocate a serviceIP: range is full"))}
		}
		got = append(got, a.String())
	}
	if len(got) > 0 {
		s.Spec.ClusterIPs, s.Spec.ClusterIP = got, got[0]
	}
	return nil
}

func (p *Pool) assignPorts(s *corev1.Service, key string) field.ErrorList {
	ports := field.NewPath("spec", "ports")
	if usesPorts(s) {
		mine := map[int32]map[corev1.Protocol]bool{} // node ports of this service by protocol
		byPort := map[int32]int32{}                  // service port to node port: two protocols of one port share it
		for i := range s.Spec.Ports {
			q := &s.Spec.Ports[i]
			if q.NodePort == 0 {
				continue
			}
			at := ports.Index(i).Child("nodePort")
			owner := p.portOwner(q.NodePort)
			switch {
			case owner != key && !p.ports.holds(q.NodePort):
				return field.ErrorList{field.Invalid(at, q.NodePort, fmt.Sprintf("provided port is not in the valid range. The range of valid ports is %d-%d", p.ports.First, p.ports.Last))}
			case owner != "" && owner != key, mine[q.NodePort][q.Protocol]:
				return field.ErrorList{field.Invalid(at, q.NodePort, "provided port is already allocated")}
			}
			p.draft.ports[q.NodePort] = true
			if mine[q.NodePort] == nil {
				mine[q.NodePort] = map[corev1.Protocol]bool{}
			}
			mine[q.NodePort][q.Protocol] = true
			byPort[q.Port] = q.NodePort
		}
		for i := range s.Spec.Ports {
			q := &s.Spec.Ports[i]
			if q.NodePort != 0 || !givesPorts(s) {
				continue
			}
			if n := byPort[q.Port]; n != 0 && !mine[n][q.Protocol] {
				q.NodePort = n
				mine[n][q.Protocol] = true
				continue
			}
			n, ok := p.nextPort()
			if !ok {
				return field.ErrorList{field.InternalError(ports.Index(i).Child("nodePort"), fmt.Errorf("failed to allocate a nodePort: range is full"))}
			}
			q.NodePort = n
			byPort[q.Port] = n
			mine[n] = map[corev1.Protocol]bool{q.Protocol: true}
		}
	}
	return nil
}

// assignHealthPort gives the port on which nodes tell a load balancer whether they have endpoints. Once given it stays.
func (p *Pool) assignHealthPort(s, old *corev1.Service, key string) field.ErrorList {
	at := field.NewPath("spec", "healthCheckNodePort")
	if old != nil && needsHealthPort(old) && s.Spec.HealthCheckNodePort != old.Spec.HealthCheckNodePort {
		errs := field.ErrorList{field.Forbidden(at, "field is immutable")}
		return append(errs, check.Port(s.Spec.HealthCheckNodePort, at)...)
	}
	if n := s.Spec.HealthCheckNodePort; n != 0 {
		switch owner := p.portOwner(n); {
		case owner != key && !p.ports.holds(n):
			return field.ErrorList{field.Invalid(at, n, fmt.Sprintf("provided port is not in the valid range. The range of valid ports is %d-%d", p.ports.First, p.ports.Last))}
		case owner != "" && owner != key:
			return field.ErrorList{field.Invalid(at, n, "provided port is already allocated")}
		}
		p.draft.ports[n] = true
		return nil
	}
	n, ok := p.nextPort()
	if !ok {
		return field.ErrorList{field.InternalError(at, fmt.Errorf("failed to allocate a HealthCheck NodePort: range is full"))}
	}
	s.Spec.HealthCheckNodePort = n
	return nil
}
