package networking

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/validation/path"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/check"
	"github.com/celox/celox/internal/api/table"
)

// classAnnotation named the class of an ingress before spec.ingressClassName did.
const classAnnotation = "kubernetes.io/ingress.class"

func ingress() *api.Kind {
	return &api.Kind{
		Group:                    "networking.k8s.io",
		Kind:                     "Ingress",
		Resource:                 "ingresses",
		Singular:                 "ingress",
		ShortNames:               []string{"ing"},
		Namespaced:               true,
		Prefix:                   "ingress",
		Versions:                 append([]api.Version{api.NewVersion[networkingv1.Ingress, networkingv1.IngressList]("v1")}, legacyIngress()...),
		Hub:                      "v1",
		Subresources:             []api.Subresource{api.Status()},
		HasGeneration:            true,
		PrepareForCreate:         api.On(func(i *networkingv1.Ingress) { i.Status = networkingv1.IngressStatus{} }),
		PrepareForUpdate:         api.OnUpdate(func(i, old *networkingv1.Ingress) { i.Status = old.Status }),
		PrepareForStatusUpdate:   api.OnUpdate(func(i, old *networkingv1.Ingress) { i.Spec = old.Spec }),
		Validate:                 api.Check(validateNewIngress),
		ValidateUpdate:           api.CheckUpdate(validateIngress),
		ValidateStatusUpdate:     api.CheckUpdate(validateIngressStatus),
		Warnings:                 api.Warn(warnIngress),
		StatusWarnings:           api.Warn(warnIngressStatus),
		AllowUnconditionalUpdate: true,
		Columns: api.Columns(
			table.Name(),
			table.Column("Class", table.String, "The name of the IngressClass resource that should be used for additional configuration"),
			table.Column("Hosts", table.String, "Hosts that incoming requests are matched against before the ingress rule"),
			table.Column("Address", table.String, "Address is a list containing ingress points for the load-balancer"),
			table.Column("Ports", table.String, "Ports of TLS configurations that open"),
			table.AgeColumn(),
		),
		Row: api.Row(func(i *networkingv1.Ingress, now time.Time) []any {
			class, ports := table.None, "80"
			if c := i.Spec.IngressClassName; c != nil {
				class = *c
			}
			if len(i.Spec.TLS) > 0 {
				ports = "80, 443"
			}
			return []any{i.Name, class, hosts(i.Spec.Rules), addresses(i.Status.LoadBalancer), ports, table.Age(i, now)}
		}),
	}
}

// hosts shows the first three hosts of the rules, "*" for none.
func hosts(rules []networkingv1.IngressRule) string {
	const few = 3
	var list []string
	for _, r := range rules {
		if r.Host != "" {
			list = append(list, r.Host)
		}
	}
	switch {
	case len(list) == 0:
		return "*"
	case len(list) > few:
		return fmt.Sprintf("%s + %d more...", strings.Join(list[:few], ","), len(list)-few)
	}
	return strings.Join(list, ",")
}

func addresses(s networkingv1.IngressLoadBalancerStatus) string {
	var list []string
	for _, i := range s.Ingress {
		switch {
		case i.IP != "":
			list = append(list, i.IP)
		case i.Hostname != "":
			list = append(list, i.Hostname)
		}
	}
	slices.Sort(list)
	return strings.Join(slices.Compact(list), ",")
}

func validateNewIngress(i *networkingv1.Ingress) field.ErrorList {
	errs := validateIngress(i, nil)
	if v, ok := i.Annotations[classAnnotation]; ok && i.Spec.IngressClassName != nil && v != *i.Spec.IngressClassName {
		errs = append(errs, field.Invalid(field.NewPath("annotations").Child(classAnnotation), v, "must match `ingressClassName` when both are specified"))
	}
	return errs
}

// validateIngress checks an ingress; old is nil on create. Names of secrets that an older server took badly formed do not stand in
// the way of other changes.
func validateIngress(i, old *networkingv1.Ingress) field.ErrorList {
	p, s := field.NewPath("spec"), &i.Spec
	var errs field.ErrorList
	if len(s.Rules) == 0 && s.DefaultBackend == nil {
		errs = append(errs, field.Invalid(p, s.Rules, "either `defaultBackend` or `rules` must be specified"))
	}
	if s.DefaultBackend != nil {
		errs = append(errs, validateBackend(s.DefaultBackend, p.Child("defaultBackend"))...)
	}
	for n := range s.Rules {
		errs = append(errs, validateIngressRule(&s.Rules[n], p.Child("rules").Index(n))...)
	}
	for n := range s.TLS {
		t, at := &s.TLS[n], p.Child("tls").Index(n)
		for j, h := range t.Hosts {
			errs = append(errs, validateHost(h, at.Child("hosts").Index(j))...)
		}
		if t.SecretName != "" && !hadBadSecret(old) {
			errs = append(errs, check.DNSSubdomain(t.SecretName, at.Child("secretName"))...)
		}
	}
	if c := s.IngressClassName; c != nil {
		errs = append(errs, check.DNSSubdomain(*c, p.Child("ingressClassName"))...)
	}
	return errs
}

// hadBadSecret says whether a stored ingress names a secret that can have no such name.
func hadBadSecret(i *networkingv1.Ingress) bool {
	return i != nil && slices.ContainsFunc(i.Spec.TLS, func(t networkingv1.IngressTLS) bool {
		return t.SecretName != "" && len(validation.IsDNS1123Subdomain(t.SecretName)) > 0
	})
}

func validateHost(h string, p *field.Path) field.ErrorList {
	if strings.Contains(h, "*") {
		return check.Each(validation.IsWildcardDNS1123Subdomain(h), p, h)
	}
	return check.DNSSubdomain(h, p)
}

func validateIngressRule(r *networkingv1.IngressRule, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if r.Host != "" {
		if netutils.ParseIPSloppy(r.Host) != nil {
			errs = append(errs, field.Invalid(p.Child("host"), r.Host, "must be a DNS name, not an IP address"))
		}
		errs = append(errs, validateHost(r.Host, p.Child("host"))...)
	}
	if r.HTTP == nil {
		return errs
	}
	paths := p.Child("http", "paths")
	if len(r.HTTP.Paths) == 0 {
		errs = append(errs, field.Required(paths, ""))
	}
	for i := range r.HTTP.Paths {
		errs = append(errs, validateHTTPPath(&r.HTTP.Paths[i], paths.Index(i))...)
	}
	return errs
}

func validateHTTPPath(h *networkingv1.HTTPIngressPath, p *field.Path) field.ErrorList {
	if h.PathType == nil {
		return field.ErrorList{field.Required(p.Child("pathType"), "pathType must be specified")}
	}
	var errs field.ErrorList
	at := p.Child("path")
	switch t := *h.PathType; t {
	case networkingv1.PathTypeExact, networkingv1.PathTypePrefix:
		if !strings.HasPrefix(h.Path, "/") {
			errs = append(errs, field.Invalid(at, h.Path, "must be an absolute path"))
		}
		for _, bad := range [...]string{"//", "/./", "/../", "%2f", "%2F"} {
			if strings.Contains(h.Path, bad) {
				errs = append(errs, field.Invalid(at, h.Path, "must not contain '"+bad+"'"))
			}
		}
		for _, bad := range [...]string{"/..", "/."} {
			if strings.HasSuffix(h.Path, bad) {
				errs = append(errs, field.Invalid(at, h.Path, "cannot end with '"+bad+"'"))
			}
		}
	case networkingv1.PathTypeImplementationSpecific:
		if h.Path != "" && !strings.HasPrefix(h.Path, "/") {
			errs = append(errs, field.Invalid(at, h.Path, "must be an absolute path"))
		}
	default:
		errs = append(errs, check.OneOf(t, p.Child("pathType"), networkingv1.PathTypeExact, networkingv1.PathTypeImplementationSpecific, networkingv1.PathTypePrefix)...)
	}
	return append(errs, validateBackend(&h.Backend, p.Child("backend"))...)
}

func validateBackend(b *networkingv1.IngressBackend, p *field.Path) field.ErrorList {
	switch {
	case b.Resource != nil && b.Service != nil:
		return field.ErrorList{field.Invalid(p, "", "cannot set both resource and service backends")}
	case b.Resource != nil:
		return validateReference(b.Resource, p.Child("resource"))
	case b.Service == nil:
		return field.ErrorList{field.Invalid(p, "", "resource or service backend is required")}
	}
	var errs field.ErrorList
	s, at := b.Service, p.Child("service")
	if s.Name == "" {
		errs = append(errs, field.Required(at.Child("name"), ""))
	} else {
		errs = append(errs, check.DNSLabel(s.Name, at.Child("name"))...)
	}
	switch {
	case s.Port.Name != "" && s.Port.Number != 0:
		errs = append(errs, field.Invalid(p, "", "cannot set both port name & port number"))
	case s.Port.Name != "":
		errs = append(errs, check.Each(validation.IsValidPortName(s.Port.Name), at.Child("port", "name"), s.Port.Name)...)
	case s.Port.Number != 0:
		errs = append(errs, check.Port(s.Port.Number, at.Child("port", "number"))...)
	default:
		errs = append(errs, field.Required(p, "port name or number is required"))
	}
	return errs
}

// validateReference checks what names an object of any kind in the same namespace.
func validateReference(r *corev1.TypedLocalObjectReference, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if r.APIGroup != nil {
		errs = append(errs, check.DNSSubdomain(*r.APIGroup, p.Child("apiGroup"))...)
	}
	errs = append(errs, validateSegment(r.Kind, p.Child("kind"))...)
	return append(errs, validateSegment(r.Name, p.Child("name"))...)
}

// validateSegment wants a value that can be a part of a path.
func validateSegment(v string, p *field.Path) field.ErrorList {
	if v == "" {
		return field.ErrorList{field.Required(p, "")}
	}
	return check.Each(path.IsValidPathSegmentName(v), p, v)
}

func validateIngressStatus(i, old *networkingv1.Ingress) field.ErrorList {
	var known []string
	for _, e := range old.Status.LoadBalancer.Ingress {
		known = append(known, e.IP)
	}
	var errs field.ErrorList
	for n, e := range i.Status.LoadBalancer.Ingress {
		p := field.NewPath("status", "loadBalancer", "ingress").Index(n)
		if e.IP != "" {
			errs = append(errs, check.IP(e.IP, p.Child("ip"), known...)...)
		}
		if e.Hostname != "" {
			errs = append(errs, check.DNSSubdomain(e.Hostname, p.Child("hostname"))...)
			if netutils.ParseIPSloppy(e.Hostname) != nil {
				errs = append(errs, field.Invalid(p.Child("hostname"), e.Hostname, "must be a DNS name, not an IP address"))
			}
		}
	}
	return errs
}

// warnIngressStatus tells of addresses that are written in an unusual way.
func warnIngressStatus(o, _ *networkingv1.Ingress) []string {
	var out []string
	for i, in := range o.Status.LoadBalancer.Ingress {
		if in.IP != "" {
			out = append(out, validation.GetWarningsForIP(field.NewPath("status", "loadBalancer", "ingress").Index(i), in.IP)...)
		}
	}
	return out
}

func warnIngress(i, old *networkingv1.Ingress) []string {
	if _, ok := i.Annotations[classAnnotation]; ok && old == nil {
		return []string{fmt.Sprintf("annotation %q is deprecated, please use 'spec.ingressClassName' instead", classAnnotation)}
	}
	return nil
}
