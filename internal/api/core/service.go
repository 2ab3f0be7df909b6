package core

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"

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
		Prefix:   "services/specs",
		Versions: []api.Version{api.NewVersion[corev1.Service, corev1.ServiceList]("v1")}, Hub: "v1",
		Subresources:             []api.Subresource{options("proxy", "ServiceProxyOptions", proxyVerbs()...), api.Status()},
		PrepareForCreate:         api.On(func(s *corev1.Service) { s.Status = corev1.ServiceStatus{} }),
		PrepareForUpdate:         api.OnUpdate(prepareServiceUpdate),
		PrepareForStatusUpdate:   api.OnUpdate(func(s, old *corev1.Service) { s.Spec = old.Spec }),
		Default:                  api.On(defaultService),
		Stored:                   api.On(storedService),
		ValidateName:             check.NameIsDNSLabel, // KEP-5311; once it had to begin with a letter
		Validate:                 api.Check(func(s *corev1.Service) field.ErrorList { return validateService(s, nil) }),
		ValidateUpdate:           api.CheckUpdate(validateServiceUpdate),
		ValidateStatusUpdate:     api.CheckUpdate(validateServiceStatus),
		Warnings:                 api.Warn(warnService),
		StatusWarnings:           api.Warn(warnBalancer),
		AllowCreateOnUpdate:      true,
		AllowUnconditionalUpdate: true,
		ReturnDeleted:            true,
		// A name elsewhere has no traffic inside of the cluster to have a policy for.
		Canonicalize: api.On(func(s *corev1.Service) {
			if s.Spec.Type == corev1.ServiceTypeExternalName {
				s.Spec.InternalTrafficPolicy = nil
			}
		}),
		FieldNames: []string{"spec.clusterIP", "spec.type"},
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

// prepareServiceUpdate keeps the status but for that of a load balancer, which a service of another type no longer has.
func prepareServiceUpdate(s, old *corev1.Service) {
	s.Status = old.Status
	if s.Spec.Type != corev1.ServiceTypeLoadBalancer {
		s.Status.LoadBalancer = corev1.LoadBalancerStatus{}
	}
}

// storedService gives a service that was stored before there were two families (v1.20) its address and family in the fields for several.
func storedService(s *corev1.Service) {
	spec := &s.Spec
	if spec.ClusterIP == "" || spec.Type == corev1.ServiceTypeExternalName {
		return
	}
	if len(spec.ClusterIPs) == 0 {
		spec.ClusterIPs = []string{spec.ClusterIP}
	}
	if len(spec.IPFamilies) == 0 {
		spec.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol}
		if netutils.IsIPv6String(spec.ClusterIP) {
			spec.IPFamilies[0] = corev1.IPv6Protocol
		}
	}
	if spec.IPFamilyPolicy == nil {
		spec.IPFamilyPolicy = new(corev1.IPFamilyPolicySingleStack)
	}
}

// defaultService fills in what does not depend on the cluster. Addresses, their families and node ports are given later, when
// it is known which are free.
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
	if outside(s) && spec.ExternalTrafficPolicy == "" {
		spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyCluster
	}
	if spec.InternalTrafficPolicy == nil && inside(s) {
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
}

// outside says whether traffic from outside the cluster may come in, so that a policy for it means something.
func outside(s *corev1.Service) bool {
	switch s.Spec.Type {
	case corev1.ServiceTypeNodePort, corev1.ServiceTypeLoadBalancer:
		return true
	case corev1.ServiceTypeClusterIP:
		return len(s.Spec.ExternalIPs) > 0
	}
	return false
}

// inside says whether a service has a policy for traffic from inside the cluster.
func inside(s *corev1.Service) bool {
	switch s.Spec.Type {
	case corev1.ServiceTypeNodePort, corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeClusterIP:
		return true
	}
	return false
}

func headless(s *corev1.Service) bool {
	return len(s.Spec.ClusterIPs) == 1 && s.Spec.ClusterIPs[0] == corev1.ClusterIPNone ||
		len(s.Spec.ClusterIPs) == 0 && s.Spec.ClusterIP == corev1.ClusterIPNone
}

func balanced(s *corev1.Service) bool { return s.Spec.Type == corev1.ServiceTypeLoadBalancer }

// warnBalancer tells of a load balancer's addresses that are written in an unusual way.
func warnBalancer(s, _ *corev1.Service) []string {
	var out []string
	for i, in := range s.Status.LoadBalancer.Ingress {
		if in.IP != "" {
			out = append(out, validation.GetWarningsForIP(field.NewPath("status", "loadBalancer", "ingress").Index(i), in.IP)...)
		}
	}
	return out
}

func warnService(s, _ *corev1.Service) []string {
	var out []string
	spec := field.NewPath("spec")
	if _, ok := s.Annotations[corev1.DeprecatedAnnotationTopologyAwareHints]; ok {
		out = append(out, fmt.Sprintf("annotation %s is deprecated, please use %s instead", corev1.DeprecatedAnnotationTopologyAwareHints, corev1.AnnotationTopologyMode))
	}
	if s.Spec.ClusterIP != "" && !headless(s) {
		for i, ip := range s.Spec.ClusterIPs {
			out = append(out, validation.GetWarningsForIP(spec.Child("clusterIPs").Index(i), ip)...)
		}
	}
	if headless(s) {
		for _, f := range []struct {
			set  bool
			name string
		}{
			{s.Spec.LoadBalancerIP != "", "loadBalancerIP"}, {len(s.Spec.ExternalIPs) > 0, "externalIPs"},
			{s.Spec.SessionAffinity != corev1.ServiceAffinityNone, "SessionAffinity"},
		} {
			if f.set {
				out = append(out, "spec."+f.name+" is ignored for headless services")
			}
		}
	}
	for i, ip := range s.Spec.ExternalIPs {
		out = append(out, validation.GetWarningsForIP(spec.Child("externalIPs").Index(i), ip)...)
	}
	if len(s.Spec.ExternalIPs) > 0 && !headless(s) && s.Spec.Type != corev1.ServiceTypeExternalName {
		out = append(out, "spec.externalIPs is deprecated and may no longer be implemented in some clusters")
	}
	if ip := s.Spec.LoadBalancerIP; ip != "" && len(validation.IsValidIPForLegacyField(spec, ip, false, nil)) == 0 {
		out = append(out, validation.GetWarningsForIP(spec.Child("loadBalancerIP"), ip)...)
	}
	for i, cidr := range s.Spec.LoadBalancerSourceRanges {
		out = append(out, validation.GetWarningsForCIDR(spec.Child("loadBalancerSourceRanges").Index(i), strings.TrimSpace(cidr))...)
	}
	if s.Spec.Type == corev1.ServiceTypeExternalName && len(s.Spec.ExternalIPs) > 0 {
		out = append(out, fmt.Sprintf("spec.externalIPs is ignored when spec.type is %q", corev1.ServiceTypeExternalName))
	}
	if s.Spec.Type != corev1.ServiceTypeExternalName && s.Spec.ExternalName != "" {
		out = append(out, fmt.Sprintf("spec.externalName is ignored when spec.type is not %q", corev1.ServiceTypeExternalName))
	}
	if d := s.Spec.TrafficDistribution; d != nil && *d == corev1.ServiceTrafficDistributionPreferClose {
		out = append(out, fmt.Sprintf("spec.trafficDistribution: %q is deprecated; use %q", *d, corev1.ServiceTrafficDistributionPreferSameZone))
	}
	return out
}

func serviceRow(s *corev1.Service, now time.Time) []any {
	ip := table.None
	if len(s.Spec.ClusterIPs) > 0 {
		ip = s.Spec.ClusterIPs[0]
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
		var points []string
		for _, in := range s.Status.LoadBalancer.Ingress {
			if in.IP != "" {
				points = append(points, in.IP)
			} else if in.Hostname != "" {
				points = append(points, in.Hostname)
			}
		}
		slices.Sort(points)
		points = append(slices.Compact(points), s.Spec.ExternalIPs...)
		if len(points) == 0 {
			return "<pending>"
		}
		return strings.Join(points, ",")
	}
	return table.Unknown
}
