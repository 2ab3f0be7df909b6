package core

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/check"
	"github.com/celox/celox/internal/api/table"
)

// defaultAffinitySeconds is how long a client stays with its endpoint when the service says nothing; maxAffinitySeconds bounds it.
const (
	defaultAffinitySeconds = 10800
	maxAffinitySeconds     = 86400
)

func service() *api.Kind {
	spec := corev1.ServiceSpec{}.SwaggerDoc()
	return &api.Kind{
		Kind: "Service", Resource: "services", Singular: "service", ShortNames: []string{"svc"}, Categories: []string{"all"}, Namespaced: true,
		ReturnDeleted: true,
		Prefix:        "services/specs",
		Versions:      []api.Version{api.NewVersion[corev1.Service, corev1.ServiceList]("v1")}, Hub: "v1",
		Subresources:             []api.Subresource{options("proxy", "ServiceProxyOptions", proxyVerbs()...), api.Status()},
		PrepareForCreate:         api.On(func(s *corev1.Service) { s.Status = corev1.ServiceStatus{} }),
		PrepareForUpdate:         api.OnUpdate(func(s, old *corev1.Service) { s.Status = old.Status }),
		PrepareForStatusUpdate:   api.OnUpdate(func(s, old *corev1.Service) { s.Spec = old.Spec }),
		Default:                  api.On(defaultService),
		ValidateName:             apivalidation.NameIsDNS1035Label,
		Validate:                 api.Check(validateService),
		ValidateUpdate:           api.CheckUpdate(validateServiceUpdate),
		AllowUnconditionalUpdate: true,
		FieldNames:               []string{"spec.clusterIP", "spec.type"},
		Fields: func(obj api.Object) fields.Set {
			s := obj.(*corev1.Service)
			return fields.Set{"spec.clusterIP": s.Spec.ClusterIP, "spec.type": string(s.Spec.Type)}
		},
		Columns: api.Columns(table.Name(),
			table.Column("Type", table.String, spec["type"]),
			table.Column("Cluster-IP", table.String, spec["clusterIP"]),
			table.Column("External-IP", table.String, spec["externalIPs"]),
			table.Column("Port(s)", table.String, spec["ports"]),
			table.AgeColumn(),
			table.Wide("Selector", table.String, spec["selector"])),
		Row: api.Row(serviceRow),
	}
}

func defaultService(s *corev1.Service) {
	spec := &s.Spec
	if spec.SessionAffinity == "" {
		spec.SessionAffinity = corev1.ServiceAffinityNone
	}
	if spec.SessionAffinity == corev1.ServiceAffinityNone {
		spec.SessionAffinityConfig = nil
	}
	if spec.SessionAffinity == corev1.ServiceAffinityClientIP {
		if spec.SessionAffinityConfig == nil || spec.SessionAffinityConfig.ClientIP == nil || spec.SessionAffinityConfig.ClientIP.TimeoutSeconds == nil {
			timeout := int32(defaultAffinitySeconds)
			spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: &timeout}}
		}
	}
	if spec.Type == "" {
		spec.Type = corev1.ServiceTypeClusterIP
	}
	for i := range spec.Ports {
		p := &spec.Ports[i]
		if p.Protocol == "" {
			p.Protocol = corev1.ProtocolTCP
		}
		if p.TargetPort == intstr.FromInt32(0) || p.TargetPort == intstr.FromString("") {
			p.TargetPort = intstr.FromInt32(p.Port)
		}
	}
	external := spec.Type == corev1.ServiceTypeNodePort || spec.Type == corev1.ServiceTypeLoadBalancer ||
		spec.Type == corev1.ServiceTypeClusterIP && len(spec.ExternalIPs) > 0
	if external && spec.ExternalTrafficPolicy == "" {
		spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyCluster
	}
	if spec.InternalTrafficPolicy == nil && spec.Type != corev1.ServiceTypeExternalName {
		policy := corev1.ServiceInternalTrafficPolicyCluster
		spec.InternalTrafficPolicy = &policy
	}
	if spec.Type == corev1.ServiceTypeLoadBalancer {
		if spec.AllocateLoadBalancerNodePorts == nil {
			yes := true
			spec.AllocateLoadBalancerNodePorts = &yes
		}
		for i := range s.Status.LoadBalancer.Ingress {
			if in := &s.Status.LoadBalancer.Ingress[i]; in.IP != "" && in.IPMode == nil {
				mode := corev1.LoadBalancerIPModeVIP
				in.IPMode = &mode
			}
		}
	}
	// clusterIP and clusterIPs[0] are the same thing under an old and a new name.
	if spec.ClusterIP != "" && len(spec.ClusterIPs) == 0 {
		spec.ClusterIPs = []string{spec.ClusterIP}
	}
}

func validateService(s *corev1.Service) field.ErrorList {
	return append(validateServiceSpec(s, nil), validateClusterIPs(s)...)
}

func validateServiceSpec(s, old *corev1.Service) field.ErrorList {
	var errs field.ErrorList
	p := field.NewPath("spec")
	spec := &s.Spec
	headless := spec.ClusterIP == corev1.ClusterIPNone
	if len(spec.Ports) == 0 && !headless && spec.Type != corev1.ServiceTypeExternalName {
		errs = append(errs, field.Required(p.Child("ports"), ""))
	}
	switch spec.Type {
	case corev1.ServiceTypeLoadBalancer:
		for i := range spec.Ports {
			if spec.Ports[i].Port == 10250 {
				errs = append(errs, field.Invalid(p.Child("ports").Index(i), spec.Ports[i].Port, "may not expose port 10250 externally since it is used by kubelet"))
			}
		}
		if headless {
			errs = append(errs, field.Invalid(p.Child("clusterIPs").Index(0), spec.ClusterIP, "may not be set to 'None' for LoadBalancer services"))
		}
	case corev1.ServiceTypeNodePort:
		if headless {
			errs = append(errs, field.Invalid(p.Child("clusterIPs").Index(0), spec.ClusterIP, "may not be set to 'None' for NodePort services"))
		}
	case corev1.ServiceTypeExternalName:
		if len(spec.ClusterIPs) > 0 {
			errs = append(errs, field.Forbidden(p.Child("clusterIPs"), "may not be set for ExternalName services"))
		}
		if spec.ExternalName == "" {
			errs = append(errs, field.Required(p.Child("externalName"), ""))
		} else {
			// Such names are relative to the cluster's domain unless they end in a dot.
			errs = append(errs, check.DNSSubdomain(strings.TrimSuffix(spec.ExternalName, "."), p.Child("externalName"))...)
		}
	case corev1.ServiceTypeClusterIP:
	}
	names := map[string]bool{}
	for i := range spec.Ports {
		errs = append(errs, validateServicePort(&spec.Ports[i], len(spec.Ports) > 1, headless, names, p.Child("ports").Index(i))...)
	}
	errs = append(errs, check.Labels(spec.Selector, p.Child("selector"))...)
	switch {
	case spec.SessionAffinity == "":
		errs = append(errs, field.Required(p.Child("sessionAffinity"), ""))
	default:
		errs = append(errs, check.OneOf(spec.SessionAffinity, p.Child("sessionAffinity"), corev1.ServiceAffinityClientIP, corev1.ServiceAffinityNone)...)
	}
	if spec.SessionAffinity == corev1.ServiceAffinityClientIP {
		seconds := p.Child("sessionAffinityConfig", "clientIP", "timeoutSeconds")
		if c := spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil {
			if v := *c.ClientIP.TimeoutSeconds; v <= 0 || v > maxAffinitySeconds {
				errs = append(errs, field.Invalid(seconds, v, fmt.Sprintf("must be greater than 0 and less than or equal to %d", maxAffinitySeconds)))
			}
		}
	}
	for i, ip := range spec.ExternalIPs {
		at := p.Child("externalIPs").Index(i)
		var before []string
		if old != nil {
			before = old.Spec.ExternalIPs
		}
		if more := check.IP(ip, at, before...); len(more) > 0 {
			errs = append(errs, more...)
		} else {
			errs = append(errs, notSpecialIP(ip, at)...)
		}
	}
	errs = append(errs, check.OneOf(spec.Type, p.Child("type"), corev1.ServiceTypeClusterIP, corev1.ServiceTypeExternalName, corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeNodePort)...)
	errs = append(errs, validateServicePortPairs(s, p)...)
	errs = append(errs, validateLoadBalancerFields(s, p)...)
	errs = append(errs, validateTrafficPolicies(s, p)...)
	return errs
}

func validateServicePort(sp *corev1.ServicePort, named, headless bool, names map[string]bool, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	switch {
	case named && sp.Name == "":
		errs = append(errs, field.Required(p.Child("name"), ""))
	case sp.Name != "":
		errs = append(errs, check.DNSLabel(sp.Name, p.Child("name"))...)
		if names[sp.Name] {
			errs = append(errs, field.Duplicate(p.Child("name"), sp.Name))
		}
		names[sp.Name] = true
	}
	errs = append(errs, check.Port(sp.Port, p.Child("port"))...)
	if sp.Protocol == "" {
		errs = append(errs, field.Required(p.Child("protocol"), ""))
	} else {
		errs = append(errs, check.OneOf(sp.Protocol, p.Child("protocol"), corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)...)
	}
	errs = append(errs, check.PortOrName(sp.TargetPort, p.Child("targetPort"))...)
	if sp.AppProtocol != nil {
		errs = append(errs, check.QualifiedName(*sp.AppProtocol, p.Child("appProtocol"))...)
	}
	return errs
}

// validateServicePortPairs refuses ports and node ports that stand twice, and node ports where there are none.
func validateServicePortPairs(s *corev1.Service, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	type key struct {
		protocol corev1.Protocol
		port     int32
	}
	ports, nodePorts := map[key]bool{}, map[key]bool{}
	external := s.Spec.Type == corev1.ServiceTypeNodePort || s.Spec.Type == corev1.ServiceTypeLoadBalancer
	for i, sp := range s.Spec.Ports {
		at := p.Child("ports").Index(i)
		if sp.NodePort != 0 {
			if !external {
				errs = append(errs, field.Forbidden(at.Child("nodePort"), "may not be used when `type` is 'ClusterIP'"))
			}
			k := key{sp.Protocol, sp.NodePort}
			if nodePorts[k] {
				errs = append(errs, field.Duplicate(at.Child("nodePort"), sp.NodePort))
			}
			nodePorts[k] = true
		}
		k := key{sp.Protocol, sp.Port}
		if ports[k] {
			errs = append(errs, field.Duplicate(at, struct {
				Name        string
				Protocol    corev1.Protocol
				AppProtocol *string
				Port        int32
				TargetPort  int32
				NodePort    int32
			}{Protocol: sp.Protocol, Port: sp.Port}))
		}
		ports[k] = true
	}
	return errs
}

func validateLoadBalancerFields(s *corev1.Service, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	lb := s.Spec.Type == corev1.ServiceTypeLoadBalancer
	if ranges := s.Spec.LoadBalancerSourceRanges; len(ranges) > 0 {
		at := p.Child("LoadBalancerSourceRanges")
		if !lb {
			errs = append(errs, field.Forbidden(at, "may only be used when `type` is 'LoadBalancer'"))
		}
		for i, r := range ranges {
			errs = append(errs, check.CIDR(strings.TrimSpace(r), at.Index(i))...)
		}
	}
	if s.Spec.AllocateLoadBalancerNodePorts != nil && !lb {
		errs = append(errs, field.Forbidden(p.Child("allocateLoadBalancerNodePorts"), "may only be used when `type` is 'LoadBalancer'"))
	}
	if lb && s.Spec.AllocateLoadBalancerNodePorts == nil {
		errs = append(errs, field.Required(p.Child("allocateLoadBalancerNodePorts"), ""))
	}
	if s.Spec.LoadBalancerClass != nil {
		if !lb {
			errs = append(errs, field.Forbidden(p.Child("loadBalancerClass"), "may only be used when `type` is 'LoadBalancer'"))
		}
		errs = append(errs, check.QualifiedName(*s.Spec.LoadBalancerClass, p.Child("loadBalancerClass"))...)
	}
	return errs
}

func validateTrafficPolicies(s *corev1.Service, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	spec := &s.Spec
	external := spec.Type == corev1.ServiceTypeNodePort || spec.Type == corev1.ServiceTypeLoadBalancer ||
		spec.Type == corev1.ServiceTypeClusterIP && len(spec.ExternalIPs) > 0
	switch policy := p.Child("externalTrafficPolicy"); {
	case external && spec.ExternalTrafficPolicy == "":
		errs = append(errs, field.Required(policy, ""))
	case external:
		errs = append(errs, check.OneOf(spec.ExternalTrafficPolicy, policy, corev1.ServiceExternalTrafficPolicyCluster, corev1.ServiceExternalTrafficPolicyLocal)...)
	case spec.ExternalTrafficPolicy != "":
		errs = append(errs, field.Invalid(policy, spec.ExternalTrafficPolicy, "may only be set for externally-accessible services"))
	}
	if spec.HealthCheckNodePort < 0 {
		errs = append(errs, field.Invalid(p.Child("healthCheckNodePort"), spec.HealthCheckNodePort, "must be greater than or equal to 0"))
	}
	if spec.HealthCheckNodePort > 0 && !(spec.Type == corev1.ServiceTypeLoadBalancer && spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal) {
		errs = append(errs, field.Invalid(p.Child("healthCheckNodePort"), spec.HealthCheckNodePort, "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"))
	}
	if spec.InternalTrafficPolicy != nil {
		errs = append(errs, check.OneOf(*spec.InternalTrafficPolicy, p.Child("internalTrafficPolicy"), corev1.ServiceInternalTrafficPolicyCluster, corev1.ServiceInternalTrafficPolicyLocal)...)
	} else if spec.Type != corev1.ServiceTypeExternalName {
		errs = append(errs, field.Required(p.Child("internalTrafficPolicy"), ""))
	}
	if spec.TrafficDistribution != nil {
		errs = append(errs, check.OneOf(*spec.TrafficDistribution, p.Child("trafficDistribution"), corev1.ServiceTrafficDistributionPreferClose,
			corev1.ServiceTrafficDistributionPreferSameZone, corev1.ServiceTrafficDistributionPreferSameNode)...)
	}
	return errs
}

// validateClusterIPs checks what of the addresses can be checked without knowing which are free.
func validateClusterIPs(s *corev1.Service) field.ErrorList {
	var errs field.ErrorList
	p := field.NewPath("spec", "clusterIPs")
	spec := &s.Spec
	if spec.Type == corev1.ServiceTypeExternalName {
		return nil
	}
	if len(spec.ClusterIPs) > 0 && spec.ClusterIPs[0] != spec.ClusterIP {
		errs = append(errs, field.Invalid(p, spec.ClusterIPs, "first value must match `clusterIP`"))
	}
	for i, ip := range spec.ClusterIPs {
		if ip == corev1.ClusterIPNone {
			if len(spec.ClusterIPs) > 1 {
				errs = append(errs, field.Invalid(p, spec.ClusterIPs, "'None' must be the first and only value"))
			}
			continue
		}
		if ip != "" {
			errs = append(errs, check.IP(ip, p.Index(i))...)
		}
	}
	if len(spec.ClusterIPs) > 2 {
		errs = append(errs, field.Invalid(p, spec.ClusterIPs, "may only hold up to 2 values"))
	}
	return errs
}

func validateServiceUpdate(s, old *corev1.Service) field.ErrorList {
	var errs field.ErrorList
	// The first address stays for as long as the service needs one.
	if needsIP(old) && needsIP(s) && old.Spec.ClusterIP != "" && s.Spec.ClusterIP != old.Spec.ClusterIP {
		errs = append(errs, field.Invalid(field.NewPath("spec", "clusterIPs").Index(0), first(s.Spec.ClusterIPs), "may not change once set"))
	}
	if old.Spec.LoadBalancerClass != nil && old.Spec.Type == corev1.ServiceTypeLoadBalancer && s.Spec.Type == corev1.ServiceTypeLoadBalancer {
		errs = append(errs, check.Immutable(s.Spec.LoadBalancerClass, old.Spec.LoadBalancerClass, field.NewPath("spec", "loadBalancerClass"))...)
	}
	return append(append(errs, validateServiceSpec(s, old)...), validateClusterIPs(s)...)
}

func needsIP(s *corev1.Service) bool { return s.Spec.Type != corev1.ServiceTypeExternalName }

func first(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}

// notSpecialIP refuses addresses that cannot be those of a pod or of a way into the cluster.
func notSpecialIP(ip string, p *field.Path) field.ErrorList {
	a, err := netip.ParseAddr(ip)
	switch {
	case err != nil:
		return nil // said already
	case a.IsUnspecified():
		return field.ErrorList{field.Invalid(p, ip, fmt.Sprintf("may not be unspecified (%v)", ip))}
	case a.IsLoopback():
		return field.ErrorList{field.Invalid(p, ip, "may not be in the loopback range (127.0.0.0/8, ::1/128)")}
	case a.IsLinkLocalUnicast():
		return field.ErrorList{field.Invalid(p, ip, "may not be in the link-local range (169.254.0.0/16, fe80::/10)")}
	case a.IsLinkLocalMulticast():
		return field.ErrorList{field.Invalid(p, ip, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)")}
	}
	return nil
}

func serviceRow(s *corev1.Service, now time.Time) []any {
	ip := table.OrNone(s.Spec.ClusterIP)
	if len(s.Spec.ClusterIPs) > 0 {
		ip = table.OrNone(s.Spec.ClusterIPs[0])
	}
	var ports []string
	for _, sp := range s.Spec.Ports {
		if sp.NodePort > 0 {
			ports = append(ports, fmt.Sprintf("%d:%d/%s", sp.Port, sp.NodePort, sp.Protocol))
		} else {
			ports = append(ports, fmt.Sprintf("%d/%s", sp.Port, sp.Protocol))
		}
	}
	return []any{
		s.Name, string(s.Spec.Type), ip, externalIPs(s), table.OrNone(strings.Join(ports, ",")), table.Age(s, now), table.Labels(s.Spec.Selector),
	}
}

func externalIPs(s *corev1.Service) string {
	switch s.Spec.Type {
	case corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort:
		return table.OrNone(strings.Join(s.Spec.ExternalIPs, ","))
	case corev1.ServiceTypeExternalName:
		return s.Spec.ExternalName
	case corev1.ServiceTypeLoadBalancer:
		var ips []string
		for _, in := range s.Status.LoadBalancer.Ingress {
			if in.IP != "" {
				ips = append(ips, in.IP)
			} else if in.Hostname != "" {
				ips = append(ips, in.Hostname)
			}
		}
		ips = append(ips, s.Spec.ExternalIPs...)
		if len(ips) == 0 {
			return "<pending>"
		}
		return strings.Join(ips, ",")
	}
	return "<unknown>"
}
