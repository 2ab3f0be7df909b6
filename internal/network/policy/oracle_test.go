package policy

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// The oracle: what the API's words mean, by the words.

func matches(s *metav1.LabelSelector, l map[string]string) bool {
	sel, err := metav1.LabelSelectorAsSelector(s)
	return err == nil && sel.Matches(labels.Set(l))
}

// at is the pod that has an address.
func (w *world) at(a netip.Addr) *corev1.Pod {
	for n, p := range w.pods {
		if !slices.Contains(addrsOf(n), a) || p.Status.Phase == corev1.PodSucceeded {
			continue
		}
		if w.local[n] != nil || len(p.Status.PodIPs) > 0 {
			return p
		}
	}
	return nil
}

func (w *world) localAt(a netip.Addr) *corev1.Pod {
	for n, p := range w.local {
		if slices.Contains(addrsOf(n), a) {
			return p
		}
	}
	return nil
}

// selectsPeer reports whether a peer of a policy in a namespace is the address.
func (w *world) selectsPeer(namespace string, p networkingv1.NetworkPolicyPeer, a netip.Addr) bool {
	if b := p.IPBlock; b != nil {
		in := netip.MustParsePrefix(b.CIDR).Contains(a)
		for _, e := range b.Except {
			in = in && !netip.MustParsePrefix(e).Contains(a)
		}
		return in
	}
	pod := w.at(a)
	if pod == nil {
		return false
	}
	if p.NamespaceSelector == nil {
		if pod.Namespace != namespace {
			return false
		}
	} else if l, there := w.namespaces[pod.Namespace]; !there || !matches(p.NamespaceSelector, l) {
		return false
	}
	return p.PodSelector == nil || matches(p.PodSelector, pod.Labels)
}

// hasPort reports whether a port of a policy is that of a pod, which may be nil.
func hasPort(p networkingv1.NetworkPolicyPort, server *corev1.Pod, protocol uint8, port uint16) bool {
	want := corev1.ProtocolTCP
	if p.Protocol != nil {
		want = *p.Protocol
	}
	if protocolNumber(want) != protocol {
		return false
	}
	switch {
	case p.Port == nil:
		return true
	case p.Port.Type == intstr.Int:
		last := p.Port.IntVal
		if p.EndPort != nil {
			last = *p.EndPort
		}
		return int32(port) >= p.Port.IntVal && int32(port) <= last
	case server == nil:
		return false
	}
	for _, c := range server.Spec.Containers {
		for _, has := range c.Ports {
			if has.Name == p.Port.StrVal && has.Protocol == want && has.ContainerPort == int32(port) {
				return true
			}
		}
	}
	return false
}

// node is what there is of nodes.
var node = &pod{labels: labels.Set{"x": "1"}, addrs: []netip.Addr{outside[0], outside[2]}}

func (w *world) selectsClusterPeer(p *ClusterPeer, a netip.Addr) bool {
	for _, n := range p.Networks {
		if netip.MustParsePrefix(n).Contains(a) {
			return true
		}
	}
	for _, n := range p.DomainNames {
		n = strings.ToLower(strings.TrimSuffix(n, "."))
		for domain, r := range w.resolved {
			rest, wild := strings.CutPrefix(n, "*")
			if slices.Contains(r.has, a) && (domain == n || wild && strings.HasSuffix(domain, rest)) {
				return true
			}
		}
	}
	if p.Nodes != nil {
		return slices.Contains(node.addrs, a) && matches(p.Nodes, node.labels)
	}
	pod := w.at(a)
	if pod == nil {
		return false
	}
	l, there := w.namespaces[pod.Namespace]
	if p.Namespaces != nil {
		return there && matches(p.Namespaces, l)
	}
	return p.Pods != nil && there && matches(&p.Pods.NamespaceSelector, l) && matches(&p.Pods.PodSelector, pod.Labels)
}

func hasProtocol(p *ClusterProtocol, server *corev1.Pod, protocol uint8, port uint16) bool {
	if p.DestinationNamedPort != "" {
		if server != nil {
			for _, c := range server.Spec.Containers {
				for _, has := range c.Ports {
					if has.Name == p.DestinationNamedPort && protocolNumber(has.Protocol) == protocol && has.ContainerPort == int32(port) {
						return true
					}
				}
			}
		}
		return false
	}
	ports := map[uint8]*ClusterPorts{6: p.TCP, 17: p.UDP, 132: p.SCTP}[protocol]
	if ports == nil {
		return false
	}
	d := ports.DestinationPort
	return d == nil || d.Number == int32(port) || d.Range != nil && int32(port) >= d.Range.Start && int32(port) <= d.Range.End
}

// tier asks the policies of a tier; Pass is that none of them decides.
func (w *world) tier(tier string, d Direction, of *corev1.Pod, peer, server netip.Addr, protocol uint8, port uint16) Verdict {
	at := of
	if d == Egress {
		at = w.at(server)
	}
	l, there := w.namespaces[of.Namespace]
	for priority := range int32(3) {
		for _, n := range slices.Sorted(maps.Keys(w.cluster)) {
			p := w.cluster[n].Spec
			if p.Priority != priority || p.Tier != tier {
				continue
			}
			if s := p.Subject.Pods; s != nil {
				if there && !matches(&s.NamespaceSelector, l) || !matches(&s.PodSelector, of.Labels) {
					continue
				}
			} else if there && !matches(p.Subject.Namespaces, l) {
				continue
			}
			rules := p.Ingress
			if d == Egress {
				rules = p.Egress
			}
			for _, r := range rules {
				matched := slices.ContainsFunc(slices.Concat(r.From, r.To), func(x ClusterPeer) bool {
					named := at
					if d == Egress && (x.Networks != nil || x.Nodes != nil || x.DomainNames != nil) {
						named = nil
					}
					return w.selectsClusterPeer(&x, peer) && (len(r.Protocols) == 0 || slices.ContainsFunc(r.Protocols, func(y ClusterProtocol) bool { return hasProtocol(&y, named, protocol, port) }))
				})
				if matched {
					return map[string]Verdict{"Accept": Allow, "Deny": Deny, "Pass": Pass}[r.Action]
				}
			}
		}
	}
	return Pass
}

// permits is one direction of a pod of this node.
func (w *world) permits(d Direction, of *corev1.Pod, peer, server netip.Addr, protocol uint8, port uint16) bool {
	if v := w.tier("Admin", d, of, peer, server, protocol, port); v != Pass {
		return v == Allow
	}
	isolated, at := false, of
	if d == Egress {
		at = w.at(server)
	}
	for _, p := range w.policies {
		if p.Namespace != of.Namespace || !matches(&p.Spec.PodSelector, of.Labels) {
			continue
		}
		types := p.Spec.PolicyTypes
		if types == nil {
			if types = []networkingv1.PolicyType{"Ingress"}; len(p.Spec.Egress) > 0 {
				types = append(types, "Egress")
			}
		}
		if !slices.Contains(types, map[Direction]networkingv1.PolicyType{Ingress: "Ingress", Egress: "Egress"}[d]) {
			continue
		}
		isolated = true
		check := func(peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort) bool {
			port := func(of *corev1.Pod) bool {
				return len(ports) == 0 || slices.ContainsFunc(ports, func(x networkingv1.NetworkPolicyPort) bool { return hasPort(x, of, protocol, port) })
			}
			return len(peers) == 0 && port(at) || slices.ContainsFunc(peers, func(x networkingv1.NetworkPolicyPeer) bool {
				if x.IPBlock != nil && d == Egress { // it says nothing of pods, so it names no ports of them
					return w.selectsPeer(p.Namespace, x, peer) && port(nil)
				}
				return w.selectsPeer(p.Namespace, x, peer) && port(at)
			})
		}
		if d == Ingress && slices.ContainsFunc(p.Spec.Ingress, func(r networkingv1.NetworkPolicyIngressRule) bool { return check(r.From, r.Ports) }) ||
			d == Egress && slices.ContainsFunc(p.Spec.Egress, func(r networkingv1.NetworkPolicyEgressRule) bool { return check(r.To, r.Ports) }) {
			return true
		}
	}
	return !isolated && w.tier("Baseline", d, of, peer, server, protocol, port) != Deny
}

func (w *world) allowed(client, server netip.Addr, protocol uint8, port uint16) bool {
	if client == server {
		return true
	}
	if p := w.localAt(client); p != nil && !w.permits(Egress, p, server, server, protocol, port) {
		return false
	}
	p := w.localAt(server)
	return p == nil || w.permits(Ingress, p, client, server, protocol, port)
}
