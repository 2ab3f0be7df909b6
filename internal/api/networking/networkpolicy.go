package networking

import (
	"reflect"
	"time"

	corev1 "k8s.io/api/core/v1"
	extensionsv1beta1 "k8s.io/api/extensions/v1beta1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/check"
	"github.com/celox/celox/internal/api/table"
)

func networkPolicy() *api.Kind {
	return &api.Kind{
		Group:      "networking.k8s.io",
		Kind:       "NetworkPolicy",
		Resource:   "networkpolicies",
		Singular:   "networkpolicy",
		ShortNames: []string{"netpol"},
		Namespaced: true,
		Prefix:     "networkpolicies",
		Versions: []api.Version{
			api.NewVersion[networkingv1.NetworkPolicy, networkingv1.NetworkPolicyList]("v1"),
			api.Legacy[*networkingv1.NetworkPolicy, extensionsv1beta1.NetworkPolicy, extensionsv1beta1.NetworkPolicyList]("extensions", "v1beta1", nil, nil),
		},
		Hub:           "v1",
		HasGeneration: true,
		// As upstream, which takes no list for another than an empty one.
		GenerationChanged:        api.Changed(func(n, old *networkingv1.NetworkPolicy) bool { return !reflect.DeepEqual(n.Spec, old.Spec) }),
		Default:                  api.On(defaultNetworkPolicy),
		Validate:                 api.Check(func(n *networkingv1.NetworkPolicy) field.ErrorList { return validateNetworkPolicy(n, nil) }),
		ValidateUpdate:           api.CheckUpdate(validateNetworkPolicy),
		Warnings:                 api.Warn(warnNetworkPolicy),
		AllowUnconditionalUpdate: true,
		Columns: api.Columns(
			table.Name(),
			table.Column("Pod-Selector", table.String, networkingv1.NetworkPolicySpec{}.SwaggerDoc()["podSelector"]),
			table.AgeColumn(),
		),
		Row: api.Row(func(n *networkingv1.NetworkPolicy, now time.Time) []any {
			return []any{n.Name, table.Selector(&n.Spec.PodSelector), table.Age(n, now)}
		}),
	}
}

func defaultNetworkPolicy(n *networkingv1.NetworkPolicy) {
	tcp := func(ports []networkingv1.NetworkPolicyPort) {
		for i := range ports {
			if ports[i].Protocol == nil {
				p := corev1.ProtocolTCP
				ports[i].Protocol = &p
			}
		}
	}
	for i := range n.Spec.Ingress {
		tcp(n.Spec.Ingress[i].Ports)
	}
	for i := range n.Spec.Egress {
		tcp(n.Spec.Egress[i].Ports)
	}
	if len(n.Spec.PolicyTypes) == 0 {
		n.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
		if len(n.Spec.Egress) > 0 {
			n.Spec.PolicyTypes = append(n.Spec.PolicyTypes, networkingv1.PolicyTypeEgress)
		}
	}
}

// eachBlock calls f with every address block of a policy.
func eachBlock(n *networkingv1.NetworkPolicy, f func(b *networkingv1.IPBlock, p *field.Path)) {
	visit := func(peers []networkingv1.NetworkPolicyPeer, p *field.Path) {
		for i := range peers {
			if b := peers[i].IPBlock; b != nil {
				f(b, p.Index(i).Child("ipBlock"))
			}
		}
	}
	for i := range n.Spec.Ingress {
		visit(n.Spec.Ingress[i].From, field.NewPath("spec", "ingress").Index(i).Child("from"))
	}
	for i := range n.Spec.Egress {
		visit(n.Spec.Egress[i].To, field.NewPath("spec", "egress").Index(i).Child("to"))
	}
}

func validateNetworkPolicy(n, old *networkingv1.NetworkPolicy) field.ErrorList {
	var known []string
	if old != nil {
		eachBlock(old, func(b *networkingv1.IPBlock, _ *field.Path) { known = append(append(known, b.CIDR), b.Except...) })
	}
	p, s := field.NewPath("spec"), &n.Spec
	errs := check.Selector(&s.PodSelector, p.Child("podSelector"), false)
	for i := range s.Ingress {
		at := p.Child("ingress").Index(i)
		errs = append(errs, validatePolicyPorts(s.Ingress[i].Ports, at.Child("ports"))...)
		errs = append(errs, validatePeers(s.Ingress[i].From, at.Child("from"), known)...)
	}
	for i := range s.Egress {
		at := p.Child("egress").Index(i)
		errs = append(errs, validatePolicyPorts(s.Egress[i].Ports, at.Child("ports"))...)
		errs = append(errs, validatePeers(s.Egress[i].To, at.Child("to"), known)...)
	}
	types := p.Child("policyTypes")
	if len(s.PolicyTypes) > 2 {
		return append(errs, field.Invalid(types, s.PolicyTypes, "may not specify more than two policyTypes"))
	}
	for i, t := range s.PolicyTypes {
		if t != networkingv1.PolicyTypeIngress && t != networkingv1.PolicyTypeEgress {
			errs = append(errs, field.NotSupported(types.Index(i), t, []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress}))
		}
	}
	return errs
}

func validatePolicyPorts(ports []networkingv1.NetworkPolicyPort, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, port := range ports {
		at := p.Index(i)
		if proto := port.Protocol; proto != nil && *proto != corev1.ProtocolTCP && *proto != corev1.ProtocolUDP && *proto != corev1.ProtocolSCTP {
			errs = append(errs, field.NotSupported(at.Child("protocol"), *proto, []corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP}))
		}
		end := at.Child("endPort")
		switch {
		case port.Port == nil:
			if port.EndPort != nil {
				errs = append(errs, field.Invalid(end, *port.EndPort, "may not be specified when `port` is not specified"))
			}
		case port.Port.Type == intstr.Int:
			errs = append(errs, check.Port(port.Port.IntVal, at.Child("port"))...)
			if port.EndPort != nil {
				if *port.EndPort < port.Port.IntVal {
					errs = append(errs, field.Invalid(end, *port.EndPort, "must be greater than or equal to `port`"))
				}
				errs = append(errs, check.Port(*port.EndPort, end)...)
			}
		default:
			if port.EndPort != nil {
				errs = append(errs, field.Invalid(end, *port.EndPort, "may not be specified when `port` is non-numeric"))
			}
			errs = append(errs, check.Each(validation.IsValidPortName(port.Port.StrVal), at.Child("port"), port.Port.StrVal)...)
		}
	}
	return errs
}

func validatePeers(peers []networkingv1.NetworkPolicyPeer, p *field.Path, known []string) field.ErrorList {
	var errs field.ErrorList
	for i := range peers {
		peer, at := &peers[i], p.Index(i)
		n := 0
		if peer.PodSelector != nil {
			n++
			errs = append(errs, check.Selector(peer.PodSelector, at.Child("podSelector"), false)...)
		}
		if peer.NamespaceSelector != nil {
			n++
			errs = append(errs, check.Selector(peer.NamespaceSelector, at.Child("namespaceSelector"), false)...)
		}
		if peer.IPBlock != nil {
			n++
			errs = append(errs, validateBlock(peer.IPBlock, at.Child("ipBlock"), known)...)
		}
		switch {
		case n == 0:
			errs = append(errs, field.Required(at, "must specify a peer"))
		case n > 1 && peer.IPBlock != nil:
			errs = append(errs, field.Forbidden(at, "may not specify both ipBlock and another peer"))
		}
	}
	return errs
}

func validateBlock(b *networkingv1.IPBlock, p *field.Path, known []string) field.ErrorList {
	if b.CIDR == "" {
		return check.Missing(p.Child("cidr"))
	}
	errs := check.CIDR(b.CIDR, p.Child("cidr"), known...)
	_, outer, err := netutils.ParseCIDRSloppy(b.CIDR)
	if err != nil {
		return errs // which say so
	}
	for i, e := range b.Except {
		at := p.Child("except").Index(i)
		errs = append(errs, check.CIDR(e, at, known...)...)
		_, inner, err := netutils.ParseCIDRSloppy(e)
		if err != nil {
			continue
		}
		outerBits, _ := outer.Mask.Size()
		innerBits, _ := inner.Mask.Size()
		if !outer.Contains(inner.IP) || outerBits >= innerBits {
			errs = append(errs, field.Invalid(at, e, "must be a strict subset of `cidr`"))
		}
	}
	return errs
}

func warnNetworkPolicy(n, _ *networkingv1.NetworkPolicy) []string {
	var out []string
	eachBlock(n, func(b *networkingv1.IPBlock, p *field.Path) {
		out = append(out, validation.GetWarningsForCIDR(p.Child("cidr"), b.CIDR)...)
		for i, e := range b.Except {
			out = append(out, validation.GetWarningsForCIDR(p.Child("except").Index(i), e)...)
		}
	})
	return out
}
