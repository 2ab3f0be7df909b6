package policy

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// name of a namespaced object.
type name struct{ namespace, name string }

// pod is what policies see of a pod.
type pod struct {
	labels labels.Set
	addrs  []netip.Addr
	ports  []namedPort
}

type namedPort struct {
	name     string
	protocol uint8
	port     uint16
}

func (p *pod) equal(o *pod) bool {
	return p == o || p != nil && o != nil && maps.Equal(p.labels, o.labels) && slices.Equal(p.addrs, o.addrs) && slices.Equal(p.ports, o.ports)
}

// podOf returns nil for a pod that policies don't see: one that is over, or has the host's network and so is the node.
func podOf(in *corev1.Pod) *pod {
	if in.Spec.HostNetwork || in.Status.Phase == corev1.PodSucceeded || in.Status.Phase == corev1.PodFailed {
		return nil
	}
	p := &pod{labels: in.Labels}
	for _, ip := range in.Status.PodIPs {
		if a, err := netip.ParseAddr(ip.IP); err == nil {
			p.addrs = append(p.addrs, a.Unmap())
		}
	}
	add := func(c *corev1.Container) {
		for _, port := range c.Ports {
			if port.Name != "" {
				p.ports = append(p.ports, namedPort{port.Name, protocolNumber(port.Protocol), uint16(port.ContainerPort)})
			}
		}
	}
	for i := range in.Spec.InitContainers {
		if c := &in.Spec.InitContainers[i]; c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			add(c)
		}
	}
	for i := range in.Spec.Containers {
		add(&in.Spec.Containers[i])
	}
	return p
}

func protocolNumber(p corev1.Protocol) uint8 {
	switch p {
	case corev1.ProtocolUDP:
		return unix.IPPROTO_UDP
	case corev1.ProtocolSCTP:
		return unix.IPPROTO_SCTP
	}
	return unix.IPPROTO_TCP
}

// tier orders policies.
type tier int

const (
	admin tier = iota
	namespaced
	baseline
)

// policy is a NetworkPolicy or a ClusterNetworkPolicy.
type policy struct {
	tier     tier
	priority int32
	subject  selector
	// concerns says which directions the policy is about. For a NetworkPolicy these are isolated.
	concerns [2]bool
	rules    [2][]rule
	sctp     bool // it needs the kernel to know SCTP

	id         uint64 // given by the compiler
	namesPorts bool   // of pods that it selects, for ingress
}

// rule of a policy.
type rule struct {
	verdict Verdict
	anybody bool
	peers   []selector
	nets    []Element // ranges, sorted and apart
	domains []string  // as newDomains takes them, sorted
	// Without portSpecific all protocols and ports match.
	portSpecific bool
	ports        []ports
	named        []namedPort // by name and protocol (0: any)
}

// ports are a protocol and a range.
type ports struct {
	protocol    uint8
	first, last uint16
}

// selector selects pods. It is the same as another if key is.
type selector struct {
	namespace  string          // if namespaces is nil
	namespaces labels.Selector // by the labels of the namespace
	pods       labels.Selector
	key        string
}

func newSelector(namespace string, namespaces, pods labels.Selector) selector {
	s := selector{namespace: namespace, namespaces: namespaces, pods: pods}
	if namespaces == nil {
		s.key = "in " + namespace + ": " + pods.String()
	} else {
		s.key = "where " + namespaces.String() + ": " + pods.String()
	}
	return s
}

// everyPod selects all pods of the cluster.
func everyPod() selector { return newSelector("", labels.Everything(), labels.Everything()) }

// parse reads a NetworkPolicy. An error says what cannot be enforced; the policy that comes with it allows nothing by that part.
func parse(in *networkingv1.NetworkPolicy) (*policy, error) {
	var errs []error
	p := &policy{tier: namespaced}
	pods, err := metav1.LabelSelectorAsSelector(&in.Spec.PodSelector)
	if err != nil {
		errs = append(errs, fmt.Errorf("podSelector: %w", err))
		pods = labels.Everything() // rather too many than too few are isolated
	}
	p.subject = newSelector(in.Namespace, nil, pods)
	for _, t := range in.Spec.PolicyTypes {
		switch t {
		case networkingv1.PolicyTypeIngress:
			p.concerns[Ingress] = true
		case networkingv1.PolicyTypeEgress:
			p.concerns[Egress] = true
		default:
			errs = append(errs, fmt.Errorf("policy type %q is not known", t))
		}
	}
	if len(in.Spec.PolicyTypes) == 0 { // the API sets it; this is its default
		p.concerns = [2]bool{Ingress: true, Egress: len(in.Spec.Egress) > 0}
	}
	for i, r := range in.Spec.Ingress {
		out, err := parseRule(in.Namespace, r.From, r.Ports)
		if err != nil {
			errs = append(errs, fmt.Errorf("ingress rule %d: %w", i, err))
		}
		p.rules[Ingress] = append(p.rules[Ingress], out)
	}
	for i, r := range in.Spec.Egress {
		out, err := parseRule(in.Namespace, r.To, r.Ports)
		if err != nil {
			errs = append(errs, fmt.Errorf("egress rule %d: %w", i, err))
		}
		p.rules[Egress] = append(p.rules[Egress], out)
	}
	p.noteSCTP()
	return p, errors.Join(errs...)
}

func (p *policy) noteSCTP() {
	for _, rules := range p.rules {
		for _, r := range rules {
			p.sctp = p.sctp || slices.ContainsFunc(r.ports, func(x ports) bool { return x.protocol == unix.IPPROTO_SCTP }) ||
				slices.ContainsFunc(r.named, func(x namedPort) bool { return x.protocol == unix.IPPROTO_SCTP })
		}
	}
}

func parseRule(namespace string, peers []networkingv1.NetworkPolicyPeer, portList []networkingv1.NetworkPolicyPort) (rule, error) {
	r := rule{verdict: Allow, anybody: len(peers) == 0, portSpecific: len(portList) > 0}
	var errs []error
	for i, peer := range peers {
		if err := r.addPeer(namespace, peer); err != nil {
			errs = append(errs, fmt.Errorf("peer %d: %w", i, err))
		}
	}
	r.nets = merge(r.nets)
	for i, port := range portList {
		if err := r.addPort(port); err != nil {
			errs = append(errs, fmt.Errorf("port %d: %w", i, err))
		}
	}
	r.ports = mergePorts(r.ports)
	return r, errors.Join(errs...)
}

func (r *rule) addPeer(namespace string, peer networkingv1.NetworkPolicyPeer) error {
	if b := peer.IPBlock; b != nil {
		nets, err := block(b.CIDR, b.Except)
		r.nets = append(r.nets, nets...)
		return err
	}
	if peer.PodSelector == nil && peer.NamespaceSelector == nil {
		return errors.New("nothing is selected")
	}
	pods, namespaces := labels.Everything(), labels.Selector(nil)
	var err error
	if peer.PodSelector != nil {
		if pods, err = metav1.LabelSelectorAsSelector(peer.PodSelector); err != nil {
			return fmt.Errorf("podSelector: %w", err)
		}
	}
	if peer.NamespaceSelector != nil {
		if namespaces, err = metav1.LabelSelectorAsSelector(peer.NamespaceSelector); err != nil {
			return fmt.Errorf("namespaceSelector: %w", err)
		}
		namespace = ""
	}
	r.peers = append(r.peers, newSelector(namespace, namespaces, pods))
	return nil
}

func (r *rule) addPort(p networkingv1.NetworkPolicyPort) error {
	protocol := uint8(unix.IPPROTO_TCP)
	if p.Protocol != nil {
		switch *p.Protocol {
		case corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP:
			protocol = protocolNumber(*p.Protocol)
		default:
			return fmt.Errorf("protocol %q is not known", *p.Protocol)
		}
	}
	switch {
	case p.Port == nil:
		r.ports = append(r.ports, ports{protocol, 0, anyPort})
	case p.Port.Type == intstr.String:
		r.named = append(r.named, namedPort{name: p.Port.StrVal, protocol: protocol})
	default:
		first, last := p.Port.IntVal, p.Port.IntVal
		if p.EndPort != nil {
			last = *p.EndPort
		}
		if first < 0 || last > anyPort || last < first {
			return fmt.Errorf("there are no ports %d to %d", first, last)
		}
		r.ports = append(r.ports, ports{protocol, uint16(first), uint16(last)})
	}
	return nil
}

// block is a network without some parts of it.
func block(cidr string, except []string) ([]Element, error) {
	p, err := netip.ParsePrefix(cidr)
	if err != nil {
		return nil, err
	}
	var holes []Element
	for _, e := range except {
		h, err := netip.ParsePrefix(e)
		if err != nil {
			return nil, err // and so nothing of the block
		}
		if h.Addr().Unmap().Is4() == p.Addr().Unmap().Is4() {
			holes = append(holes, span(h))
		}
	}
	whole := span(p)
	var out []Element
	next := whole.Addr
	for _, h := range merge(holes) {
		if h.Last.Less(next) || whole.Last.Less(h.Addr) {
			continue
		}
		if next.Less(h.Addr) {
			out = append(out, Element{Addr: next, Last: h.Addr.Prev()})
		}
		if next = h.Last.Next(); !next.IsValid() {
			return out, nil
		}
	}
	if !whole.Last.Less(next) {
		out = append(out, Element{Addr: next, Last: whole.Last})
	}
	return out, nil
}

// span is a network from its first to its last address.
func span(p netip.Prefix) Element {
	p = p.Masked()
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	last, _ := netip.AddrFromSlice(b)
	return Element{Addr: p.Addr(), Last: last}
}

// merge sorts ranges and joins those that touch.
func merge(in []Element) []Element {
	in = slices.Clone(in)
	slices.SortFunc(in, func(a, b Element) int { return cmp.Or(a.Addr.Compare(b.Addr), a.Last.Compare(b.Last)) })
	var out []Element
	for _, e := range in {
		if n := len(out); n > 0 && out[n-1].Addr.BitLen() == e.Addr.BitLen() {
			l := &out[n-1]
			if next := l.Last.Next(); !next.IsValid() || !next.Less(e.Addr) {
				if l.Last.Less(e.Last) {
					l.Last = e.Last
				}
				continue
			}
		}
		out = append(out, e)
	}
	return out
}

// mergePorts sorts ranges and joins those that touch.
func mergePorts(in []ports) []ports {
	in = slices.Clone(in)
	slices.SortFunc(in, func(a, b ports) int {
		return cmp.Or(cmp.Compare(a.protocol, b.protocol), cmp.Compare(a.first, b.first), cmp.Compare(a.last, b.last))
	})
	var out []ports
	for _, p := range in {
		if n := len(out); n > 0 && out[n-1].protocol == p.protocol && int(p.first) <= int(out[n-1].last)+1 {
			out[n-1].last = max(out[n-1].last, p.last)
			continue
		}
		out = append(out, p)
	}
	return out
}

// Trim is a cache.TransformFunc that keeps of a pod what policies look at.
func Trim(obj any) (any, error) {
	p, ok := obj.(*corev1.Pod)
	if !ok {
		return obj, nil
	}
	out := &corev1.Pod{TypeMeta: p.TypeMeta, Status: corev1.PodStatus{Phase: p.Status.Phase, PodIPs: p.Status.PodIPs}}
	out.Namespace, out.Name, out.UID, out.ResourceVersion, out.Labels = p.Namespace, p.Name, p.UID, p.ResourceVersion, p.Labels
	out.Spec.NodeName, out.Spec.HostNetwork = p.Spec.NodeName, p.Spec.HostNetwork
	keep := func(in []corev1.Container) (list []corev1.Container) {
		for i := range in {
			if len(in[i].Ports) > 0 {
				list = append(list, corev1.Container{Name: in[i].Name, Ports: in[i].Ports, RestartPolicy: in[i].RestartPolicy})
			}
		}
		return list
	}
	out.Spec.InitContainers, out.Spec.Containers = keep(p.Spec.InitContainers), keep(p.Spec.Containers)
	return out, nil
}
