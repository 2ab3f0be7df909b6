package core

import (
	"fmt"
	"net"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"

	"github.com/celox/celox/internal/api/check"
)

// kubeletPort must not be reachable from outside by way of a service.
const kubeletPort = 10250

const (
	onlyForBalancers = "may only be used when `type` is 'LoadBalancer'"
	notExternalName  = "may not be set for ExternalName services"
	notOnceSet       = "may not change once set"
)

func validateService(s, old *corev1.Service) field.ErrorList {
	var errs field.ErrorList
	p, spec := field.NewPath("spec"), &s.Spec
	mode, hasMode := s.Annotations[corev1.AnnotationTopologyMode]
	hints, hasHints := s.Annotations[corev1.DeprecatedAnnotationTopologyAwareHints]
	if hasMode && hasHints && mode != hints {
		errs = append(errs, field.Invalid(field.NewPath("metadata", "annotations").Key(corev1.AnnotationTopologyMode), mode,
			fmt.Sprintf("must match annotations[%s] when both are specified", corev1.DeprecatedAnnotationTopologyAwareHints)))
	}
	if len(spec.Ports) == 0 && !headless(s) && spec.Type != corev1.ServiceTypeExternalName {
		errs = append(errs, field.Required(p.Child("ports"), ""))
	}
	errs = append(errs, validateServiceType(s, p)...)
	names := sets.New[string]()
	for i := range spec.Ports {
		errs = append(errs, validateServicePort(&spec.Ports[i], len(spec.Ports) > 1, names, p.Child("ports").Index(i))...)
	}
	errs = append(errs, check.Labels(spec.Selector, p.Child("selector"))...)
	errs = append(errs, validateAffinity(spec, p)...)
	errs = append(errs, ValidateServiceAddresses(s, old)...)
	var before []string
	if old != nil {
		before = old.Spec.ExternalIPs
	}
	for i, ip := range spec.ExternalIPs {
		at := p.Child("externalIPs").Index(i)
		if more := check.IP(ip, at, before...); len(more) > 0 {
			errs = append(errs, more...)
		} else {
			errs = append(errs, notSpecialIP(ip, at)...)
		}
	}
	errs = append(errs, check.Enum(spec.Type, p.Child("type"), corev1.ServiceTypeClusterIP, corev1.ServiceTypeExternalName, corev1.ServiceTypeLoadBalancer,
		corev1.ServiceTypeNodePort)...)
	errs = append(errs, validatePortPairs(s, p.Child("ports"))...)
	errs = append(errs, validateSourceRanges(s, old, p)...)
	errs = append(errs, validateBalancerFields(s, p)...)
	return append(errs, validateTrafficPolicies(s, p)...)
}

// validateServiceType checks what only services of one type may or must have.
func validateServiceType(s *corev1.Service, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	spec := &s.Spec
	switch spec.Type {
	case corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeNodePort:
		if spec.Type == corev1.ServiceTypeLoadBalancer {
			for i := range spec.Ports {
				if spec.Ports[i].Port == kubeletPort {
					errs = append(errs, field.Invalid(p.Child("ports").Index(i), spec.Ports[i].Port,
						fmt.Sprintf("may not expose port %v externally since it is used by kubelet", kubeletPort)))
				}
			}
		}
		if headless(s) {
			errs = append(errs, field.Invalid(p.Child("clusterIPs").Index(0), corev1.ClusterIPNone, fmt.Sprintf("may not be set to 'None' for %s services", spec.Type)))
		}
	case corev1.ServiceTypeExternalName:
		if len(spec.ClusterIPs) > 0 {
			errs = append(errs, field.Forbidden(p.Child("clusterIPs"), notExternalName))
		}
		if len(spec.IPFamilies) > 0 {
			errs = append(errs, field.Forbidden(p.Child("ipFamilies"), notExternalName))
		}
		if spec.IPFamilyPolicy != nil {
			errs = append(errs, field.Forbidden(p.Child("ipFamilyPolicy"), notExternalName))
		}
		// Such names are relative to the cluster's domain unless they end in a dot.
		if name := strings.TrimSuffix(spec.ExternalName, "."); name == "" {
			errs = append(errs, field.Required(p.Child("externalName"), ""))
		} else {
			errs = append(errs, check.DNSSubdomain(name, p.Child("externalName"))...)
		}
	case corev1.ServiceTypeClusterIP:
	}
	return errs
}

func validateServicePort(sp *corev1.ServicePort, named bool, names sets.Set[string], p *field.Path) field.ErrorList {
	var errs field.ErrorList
	switch {
	case sp.Name != "":
		errs = append(errs, check.DNSLabel(sp.Name, p.Child("name"))...)
		if names.Has(sp.Name) {
			errs = append(errs, field.Duplicate(p.Child("name"), sp.Name))
		}
		names.Insert(sp.Name)
	case named:
		errs = append(errs, field.Required(p.Child("name"), ""))
	}
	errs = append(errs, check.Port(sp.Port, p.Child("port"))...)
	errs = append(errs, check.Enum(sp.Protocol, p.Child("protocol"), corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)...)
	errs = append(errs, check.PortOrName(sp.TargetPort, p.Child("targetPort"))...)
	if sp.AppProtocol != nil {
		errs = append(errs, check.QualifiedName(*sp.AppProtocol, p.Child("appProtocol"))...)
	}
	return errs
}

func validateAffinity(spec *corev1.ServiceSpec, p *field.Path) field.ErrorList {
	errs := check.Enum(spec.SessionAffinity, p.Child("sessionAffinity"), corev1.ServiceAffinityClientIP, corev1.ServiceAffinityNone)
	at, c := p.Child("sessionAffinityConfig"), spec.SessionAffinityConfig
	switch spec.SessionAffinity {
	case corev1.ServiceAffinityClientIP:
		const when = "when session affinity type is ClientIP"
		switch {
		case c == nil:
			errs = append(errs, field.Required(at, when))
		case c.ClientIP == nil:
			errs = append(errs, field.Required(at.Child("clientIP"), when))
		case c.ClientIP.TimeoutSeconds == nil:
			errs = append(errs, field.Required(at.Child("clientIP", "timeoutSeconds"), when))
		default:
			// The text says less, but the bound itself is allowed.
			if v := *c.ClientIP.TimeoutSeconds; v <= 0 || v > maxAffinitySeconds {
				errs = append(errs, field.Invalid(at.Child("clientIP", "timeoutSeconds"), v, fmt.Sprintf("must be greater than 0 and less than %d", maxAffinitySeconds)))
			}
		}
	case corev1.ServiceAffinityNone:
		if c != nil {
			errs = append(errs, field.Forbidden(at, "must not be set when session affinity is None"))
		}
	}
	return errs
}

// ValidateServiceAddresses checks the cluster IPs, their families and the policy for these, of themselves and against each other (KEP-563). It is
// asked before addresses are given, and again with everything else.
func ValidateServiceAddresses(s, old *corev1.Service) field.ErrorList {
	spec := &s.Spec
	if spec.Type == corev1.ServiceTypeExternalName {
		return nil
	}
	var errs field.ErrorList
	p := field.NewPath("spec")
	at := p.Child("clusterIPs")
	switch {
	case spec.ClusterIP == "" && len(spec.ClusterIPs) > 0:
		errs = append(errs, field.Invalid(at, spec.ClusterIPs, "must be empty when `clusterIP` is not specified"))
	case spec.ClusterIP != "" && len(spec.ClusterIPs) == 0:
		errs = append(errs, field.Required(at, ""))
	case spec.ClusterIP != "" && spec.ClusterIPs[0] != spec.ClusterIP:
		errs = append(errs, field.Invalid(at, spec.ClusterIPs, "first value must match `clusterIP`"))
	}
	seen := sets.New[corev1.IPFamily]()
	for i, f := range spec.IPFamilies {
		errs = append(errs, check.OneOf(f, p.Child("ipFamilies").Index(i), corev1.IPv4Protocol, corev1.IPv6Protocol)...)
		if seen.Has(f) {
			errs = append(errs, field.Duplicate(p.Child("ipFamilies").Index(i), f))
		}
		seen.Insert(f)
	}
	if v := spec.IPFamilyPolicy; v != nil {
		errs = append(errs, check.OneOf(*v, p.Child("ipFamilyPolicy"), corev1.IPFamilyPolicySingleStack, corev1.IPFamilyPolicyPreferDualStack,
			corev1.IPFamilyPolicyRequireDualStack)...)
	}
	var before []string
	if old != nil {
		before = old.Spec.ClusterIPs
	}
	bad := false
	for i, ip := range spec.ClusterIPs {
		var own field.ErrorList
		if i == 0 && ip == corev1.ClusterIPNone {
			if len(spec.ClusterIPs) > 1 {
				own = field.ErrorList{field.Invalid(at, spec.ClusterIPs, "'None' must be the first and only value")}
			}
		} else {
			own = check.IP(ip, at.Index(i), before...)
		}
		bad = bad || len(own) > 0
		errs = append(errs, own...)
	}
	if len(spec.ClusterIPs) > 2 {
		errs = append(errs, field.Invalid(at, spec.ClusterIPs, "may only hold up to 2 values"))
	}
	if bad {
		return errs // more complaints would be about what is no address
	}
	if len(spec.ClusterIPs) > 1 {
		switch dual, err := netutils.IsDualStackIPStrings(spec.ClusterIPs); {
		case err != nil:
			errs = append(errs, field.InternalError(at, fmt.Errorf("failed to check for dual stack with error:%w", err)))
		case !dual:
			errs = append(errs, field.Invalid(at, spec.ClusterIPs, "may specify no more than one IP for each IP family"))
		}
	}
	if headless(s) {
		return errs
	}
	for i, ip := range spec.ClusterIPs {
		if i >= len(spec.IPFamilies) {
			break
		}
		if f := spec.IPFamilies[i]; f == corev1.IPv4Protocol && netutils.IsIPv6String(ip) || f == corev1.IPv6Protocol && !netutils.IsIPv6String(ip) {
			errs = append(errs, field.Invalid(at.Index(i), ip, fmt.Sprintf("expected an %s value as indicated by `ipFamilies[%d]`", f, i)))
		}
	}
	return errs
}

// validatePortPairs refuses ports that stand twice, and node ports where there are none. Where there are, the allocator finds those that
// stand twice.
func validatePortPairs(s *corev1.Service, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	type key struct {
		protocol corev1.Protocol
		port     int32
	}
	if s.Spec.Type == corev1.ServiceTypeClusterIP {
		for i := range s.Spec.Ports {
			if s.Spec.Ports[i].NodePort != 0 {
				errs = append(errs, field.Forbidden(p.Index(i).Child("nodePort"), "may not be used when `type` is 'ClusterIP'"))
			}
		}
	}
	nodePorts, ports := sets.New[key](), sets.New[key]()
	for i, sp := range s.Spec.Ports {
		if k := (key{sp.Protocol, sp.NodePort}); sp.NodePort != 0 {
			if nodePorts.Has(k) && s.Spec.Type != corev1.ServiceTypeNodePort && !balanced(s) {
				errs = append(errs, field.Duplicate(p.Index(i).Child("nodePort"), sp.NodePort))
			}
			nodePorts.Insert(k)
		}
	}
	for i, sp := range s.Spec.Ports {
		k := key{sp.Protocol, sp.Port}
		if ports.Has(k) {
			errs = append(errs, field.Duplicate(p.Index(i), check.Rendered(&corev1.ServicePort{Protocol: sp.Protocol, Port: sp.Port})))
		}
		ports.Insert(k)
	}
	return errs
}

// validateSourceRanges checks who may reach a load balancer, which once was an annotation.
func validateSourceRanges(s, old *corev1.Service, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	var before []string
	at, ranges := p.Child("LoadBalancerSourceRanges"), s.Spec.LoadBalancerSourceRanges
	if len(ranges) > 0 {
		if !balanced(s) {
			errs = append(errs, field.Forbidden(at, onlyForBalancers))
		}
		if old != nil {
			before = old.Spec.LoadBalancerSourceRanges
		}
		for i, r := range ranges {
			errs = append(errs, check.CIDR(strings.TrimSpace(r), at.Index(i), before...)...) // spaces were allowed in the annotation
		}
		return errs
	}
	text, ok := s.Annotations[corev1.AnnotationLoadBalancerSourceRangesKey]
	if !ok {
		return nil
	}
	at = field.NewPath("metadata", "annotations").Key(corev1.AnnotationLoadBalancerSourceRangesKey)
	if !balanced(s) {
		errs = append(errs, field.Forbidden(at, onlyForBalancers))
	}
	if old != nil && old.Annotations[corev1.AnnotationLoadBalancerSourceRangesKey] == text || strings.TrimSpace(text) == "" {
		return errs
	}
	for r := range strings.SplitSeq(strings.TrimSpace(text), ",") {
		errs = append(errs, check.CIDR(strings.TrimSpace(r), at)...)
	}
	return errs
}

func validateBalancerFields(s *corev1.Service, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	at := p.Child("allocateLoadBalancerNodePorts")
	switch given := s.Spec.AllocateLoadBalancerNodePorts != nil; {
	case given && !balanced(s):
		errs = append(errs, field.Forbidden(at, onlyForBalancers))
	case !given && balanced(s):
		errs = append(errs, field.Required(at, ""))
	}
	return append(errs, validateBalancerClass(s, p)...)
}

func validateBalancerClass(s *corev1.Service, p *field.Path) field.ErrorList {
	at := p.Child("loadBalancerClass")
	switch {
	case s.Spec.LoadBalancerClass == nil:
		return nil
	case !balanced(s):
		return field.ErrorList{field.Forbidden(at, onlyForBalancers)}
	}
	return check.QualifiedName(*s.Spec.LoadBalancerClass, at)
}

func validateTrafficPolicies(s *corev1.Service, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	spec := &s.Spec
	switch at := p.Child("externalTrafficPolicy"); {
	case outside(s):
		errs = append(errs, check.Enum(spec.ExternalTrafficPolicy, at, corev1.ServiceExternalTrafficPolicyCluster, corev1.ServiceExternalTrafficPolicyLocal)...)
	case spec.ExternalTrafficPolicy != "":
		errs = append(errs, field.Invalid(at, spec.ExternalTrafficPolicy, "may only be set for externally-accessible services"))
	}
	// Where it may be set, the allocator checks it, or gives one.
	if spec.HealthCheckNodePort != 0 && !(balanced(s) && spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal) {
		errs = append(errs, field.Invalid(p.Child("healthCheckNodePort"), spec.HealthCheckNodePort, "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"))
	}
	switch at := p.Child("internalTrafficPolicy"); {
	case spec.InternalTrafficPolicy != nil:
		errs = append(errs, check.OneOf(*spec.InternalTrafficPolicy, at, corev1.ServiceInternalTrafficPolicyCluster, corev1.ServiceInternalTrafficPolicyLocal)...)
	case inside(s):
		errs = append(errs, field.Required(at, ""))
	}
	if d := spec.TrafficDistribution; d != nil {
		switch *d {
		case corev1.ServiceTrafficDistributionPreferClose, corev1.ServiceTrafficDistributionPreferSameZone, corev1.ServiceTrafficDistributionPreferSameNode:
		default:
			errs = append(errs, field.NotSupported(p.Child("trafficDistribution"), *d, []string{corev1.ServiceTrafficDistributionPreferClose,
				corev1.ServiceTrafficDistributionPreferSameZone, corev1.ServiceTrafficDistributionPreferSameNode}))
		}
	}
	return errs
}

func validateServiceUpdate(s, old *corev1.Service) field.ErrorList {
	var errs field.ErrorList
	if s.Spec.Type != corev1.ServiceTypeExternalName && old.Spec.Type != corev1.ServiceTypeExternalName && !(headless(s) && headless(old)) {
		errs = append(errs, validateClusterIPsUpdate(s, old)...)
		errs = append(errs, validateFamiliesUpdate(s, old)...)
	}
	p := field.NewPath("spec")
	if balanced(s) && balanced(old) && !equality.Semantic.DeepEqual(s.Spec.LoadBalancerClass, old.Spec.LoadBalancerClass) {
		errs = append(errs, field.Invalid(p.Child("loadBalancerClass"), s.Spec.LoadBalancerClass, notOnceSet))
	}
	errs = append(errs, validateBalancerClass(s, p)...)
	return append(errs, validateService(s, old)...)
}

// validateClusterIPsUpdate keeps the first address for as long as the service needs one; a second one may come and go.
func validateClusterIPsUpdate(s, old *corev1.Service) field.ErrorList {
	var errs field.ErrorList
	at, now, was := field.NewPath("spec", "clusterIPs"), s.Spec.ClusterIPs, old.Spec.ClusterIPs
	changed := func(i int) { errs = append(errs, field.Invalid(at.Index(i), now, notOnceSet)) }
	if len(now) == len(was) {
		for i := range was {
			if was[i] != now[i] {
				changed(i)
			}
		}
		return errs
	}
	if len(now) == 0 {
		return field.ErrorList{field.Invalid(at.Index(0), now, "primary clusterIP can not be unset")}
	}
	if len(was) > 0 && was[0] != now[0] {
		changed(0)
	}
	if len(now) == 1 && len(was) > 1 && !singleStack(s) {
		errs = append(errs, field.Invalid(field.NewPath("spec", "ipFamilyPolicy"), s.Spec.IPFamilyPolicy, "must be set to 'SingleStack' when releasing the secondary clusterIP"))
	}
	return errs
}

// validateFamiliesUpdate keeps the first family likewise. Upstream shows the addresses where it means the families.
func validateFamiliesUpdate(s, old *corev1.Service) field.ErrorList {
	var errs field.ErrorList
	at, now, was := field.NewPath("spec", "ipFamilies"), s.Spec.IPFamilies, old.Spec.IPFamilies
	if len(now) == len(was) {
		for i := range was {
			if was[i] != now[i] {
				errs = append(errs, field.Invalid(at.Index(0), now, notOnceSet))
			}
		}
		return errs
	}
	if len(now) == 0 {
		return field.ErrorList{field.Invalid(at.Index(0), now, "primary ipFamily can not be unset")}
	}
	if len(was) > 0 && was[0] != now[0] {
		errs = append(errs, field.Invalid(at.Index(0), s.Spec.ClusterIPs, notOnceSet))
	}
	if len(now) == 1 && len(was) > 1 && !singleStack(s) {
		errs = append(errs, field.Invalid(field.NewPath("spec", "ipFamilyPolicy"), s.Spec.IPFamilyPolicy, "must be set to 'SingleStack' when releasing the secondary ipFamily"))
	}
	return errs
}

func singleStack(s *corev1.Service) bool {
	return s.Spec.IPFamilyPolicy != nil && *s.Spec.IPFamilyPolicy == corev1.IPFamilyPolicySingleStack
}

// validateServiceStatus checks what a load balancer's controller reports.
func validateServiceStatus(s, old *corev1.Service) field.ErrorList {
	var errs field.ErrorList
	p, points := field.NewPath("status", "loadBalancer", "ingress"), s.Status.LoadBalancer.Ingress
	if len(points) > 0 && !balanced(s) {
		return field.ErrorList{field.Forbidden(p, "may only be used when `spec.type` is 'LoadBalancer'")}
	}
	var before []string
	for _, in := range old.Status.LoadBalancer.Ingress {
		if in.IP != "" {
			before = append(before, in.IP)
		}
	}
	for i := range points {
		in, at := &points[i], p.Index(i)
		if in.IP != "" {
			errs = append(errs, check.IP(in.IP, at.Child("ip"), before...)...)
		}
		switch mode := at.Child("ipMode"); {
		case in.IPMode == nil && in.IP != "":
			errs = append(errs, field.Required(mode, "must be specified when `ip` is set"))
		case in.IPMode != nil && in.IP == "":
			errs = append(errs, field.Forbidden(mode, "may not be specified when `ip` is not set"))
		case in.IPMode != nil:
			errs = append(errs, check.OneOf(*in.IPMode, mode, corev1.LoadBalancerIPModeVIP, corev1.LoadBalancerIPModeProxy)...)
		}
		if in.Hostname != "" {
			errs = append(errs, check.Each(validation.IsDNS1123Subdomain(in.Hostname), at.Child("hostname"), in.Hostname)...)
			if netutils.ParseIPSloppy(in.Hostname) != nil {
				errs = append(errs, field.Invalid(at.Child("hostname"), in.Hostname, "must be a DNS name, not an IP address"))
			}
		}
	}
	return errs
}

// notSpecialIP refuses addresses that cannot be those of a pod or of a way into the cluster.
func notSpecialIP(text string, p *field.Path) field.ErrorList {
	var ip net.IP = netutils.ParseIPSloppy(text)
	if ip == nil {
		return field.ErrorList{field.Invalid(p, text, "must be a valid IP address")}
	}
	var errs field.ErrorList
	for _, special := range []struct {
		is   bool
		text string
	}{
		{ip.IsUnspecified(), fmt.Sprintf("may not be unspecified (%v)", text)},
		{ip.IsLoopback(), "may not be in the loopback range (127.0.0.0/8, ::1/128)"},
		{ip.IsLinkLocalUnicast(), "may not be in the link-local range (169.254.0.0/16, fe80::/10)"},
		{ip.IsLinkLocalMulticast(), "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"},
	} {
		if special.is {
			errs = append(errs, field.Invalid(p, text, special.text))
		}
	}
	return errs
}
