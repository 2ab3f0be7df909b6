package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
)

// ClusterGroupVersion is where ClusterNetworkPolicy is served.
const ClusterGroupVersion = "policy.networking.k8s.io/v1alpha2"

// ClusterNetworkPolicy is the kind of policies of the cluster (KEP-2091), as far as a node reads it. A field that it doesn't know makes a peer or a
// protocol without any field: see parseCluster.
type ClusterNetworkPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              ClusterNetworkPolicySpec   `json:"spec"`
	Status            ClusterNetworkPolicyStatus `json:"status,omitzero"`
}

// ClusterNetworkPolicySpec is what a policy says.
type ClusterNetworkPolicySpec struct {
	Tier     string        `json:"tier"` // Admin or Baseline
	Priority int32         `json:"priority"`
	Subject  ClusterPeer   `json:"subject"` // namespaces or pods
	Ingress  []ClusterRule `json:"ingress,omitempty"`
	Egress   []ClusterRule `json:"egress,omitempty"`
}

// ClusterRule is a rule of either direction.
type ClusterRule struct {
	Name      string            `json:"name,omitempty"`
	Action    string            `json:"action"` // Accept, Deny or Pass
	From      []ClusterPeer     `json:"from,omitempty"`
	To        []ClusterPeer     `json:"to,omitempty"`
	Protocols []ClusterProtocol `json:"protocols,omitempty"`
}

// ClusterPeer is a subject or a peer; one field is set.
type ClusterPeer struct {
	Namespaces  *metav1.LabelSelector `json:"namespaces,omitempty"`
	Pods        *NamespacedPods       `json:"pods,omitempty"`
	Nodes       *metav1.LabelSelector `json:"nodes,omitempty"`
	Networks    []string              `json:"networks,omitempty"`
	DomainNames []string              `json:"domainNames,omitempty"`
}

// NamespacedPods selects pods in some namespaces.
type NamespacedPods struct {
	NamespaceSelector metav1.LabelSelector `json:"namespaceSelector"`
	PodSelector       metav1.LabelSelector `json:"podSelector"`
}

// ClusterProtocol is a protocol, perhaps with a port, or a port's name; one field is set.
type ClusterProtocol struct {
	TCP                  *ClusterPorts `json:"tcp,omitempty"`
	UDP                  *ClusterPorts `json:"udp,omitempty"`
	SCTP                 *ClusterPorts `json:"sctp,omitempty"`
	DestinationNamedPort string        `json:"destinationNamedPort,omitempty"`
}

// ClusterPorts are ports of a protocol; without DestinationPort all.
type ClusterPorts struct {
	DestinationPort *struct {
		Number int32 `json:"number,omitempty"`
		Range  *struct {
			Start int32 `json:"start"`
			End   int32 `json:"end"`
		} `json:"range,omitempty"`
	} `json:"destinationPort,omitempty"`
}

// DeepCopyObject implements runtime.Object.
func (p *ClusterNetworkPolicy) DeepCopyObject() runtime.Object {
	out := &ClusterNetworkPolicy{}
	data, err := json.Marshal(p)
	if err == nil {
		err = json.Unmarshal(data, out)
	}
	if err != nil {
		panic(fmt.Sprintf("what came from JSON does not go there: %v", err))
	}
	return out
}

// clusterPolicyList is a list of them.
type clusterPolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata"`
	Items           []ClusterNetworkPolicy `json:"items"`
}

// DeepCopyObject implements runtime.Object.
func (l *clusterPolicyList) DeepCopyObject() runtime.Object {
	out := &clusterPolicyList{TypeMeta: l.TypeMeta, ListMeta: *l.ListMeta.DeepCopy()}
	for i := range l.Items {
		if c, ok := l.Items[i].DeepCopyObject().(*ClusterNetworkPolicy); ok {
			out.Items = append(out.Items, *c)
		}
	}
	return out
}

// nodes is the namespace in which nodes are for the compiler. It has no labels, and no namespace of the API can have the name.
const nodes = "(nodes)"

// parseCluster reads a ClusterNetworkPolicy. An error says what cannot be enforced. What a node cannot read does not open anything: a rule that accepts by it matches
// nothing, one that denies or passes denies everything, as the API demands. names says whether addresses of domain names become known.
func parseCluster(in *ClusterNetworkPolicy, names bool) (*policy, error) {
	var errs []error
	p := &policy{priority: in.Spec.Priority, concerns: [2]bool{true, true}}
	switch in.Spec.Tier {
	case "Admin":
		p.tier = admin
	case "Baseline":
		p.tier = baseline
	default:
		errs = append(errs, fmt.Errorf("tier %q is not known: it is taken for Admin", in.Spec.Tier))
	}
	subject, err := in.Spec.Subject.selector()
	if err != nil || subject.namespaces == nil {
		return nil, errors.Join(append(errs, fmt.Errorf("subject: %w", errors.Join(err, errNoPods)))...)
	}
	p.subject = subject
	for d, rules := range [2][]ClusterRule{Ingress: in.Spec.Ingress, Egress: in.Spec.Egress} {
		for i := range rules {
			r, err := rules[i].parse(Direction(d), names)
			if err != nil {
				errs = append(errs, fmt.Errorf("%v rule %d: %w", Direction(d), i, err))
			}
			p.rules[d] = append(p.rules[d], r)
		}
	}
	p.noteSCTP()
	return p, errors.Join(errs...)
}

var (
	errNoPods    = errors.New("no pods are selected")
	errNoPeer    = errors.New("the peer is of a kind that this version does not know")
	errNoDNS     = errors.New("domainNames need the cluster's DNS on every node, which is left out (--disable=dns)")
	errNoDomains = errors.New("domainNames are for egress rules with the action Accept")
)

// selector is that of a peer which selects pods or nodes.
func (p *ClusterPeer) selector() (selector, error) {
	switch {
	case p.Namespaces != nil:
		s, err := metav1.LabelSelectorAsSelector(p.Namespaces)
		if err != nil {
			return selector{}, err
		}
		return newSelector("", s, labels.Everything()), nil
	case p.Pods != nil:
		ns, err := metav1.LabelSelectorAsSelector(&p.Pods.NamespaceSelector)
		pods, err2 := metav1.LabelSelectorAsSelector(&p.Pods.PodSelector)
		if err := errors.Join(err, err2); err != nil {
			return selector{}, err
		}
		return newSelector("", ns, pods), nil
	case p.Nodes != nil:
		s, err := metav1.LabelSelectorAsSelector(p.Nodes)
		if err != nil {
			return selector{}, err
		}
		return newSelector(nodes, nil, s), nil
	}
	return selector{}, errNoPeer
}

func (r *ClusterRule) parse(d Direction, names bool) (rule, error) {
	var out rule
	var errs []error
	switch r.Action {
	case "Accept":
		out.verdict = Allow
	case "Deny":
		out.verdict = Deny
	case "Pass":
		out.verdict = Pass
	default:
		out.verdict = Deny
		errs = append(errs, fmt.Errorf("action %q is not known", r.Action))
	}
	list := r.From
	if d == Egress {
		list = r.To
	}
	for i := range list {
		var err error
		switch {
		case len(list[i].DomainNames) == 0:
			err = out.addClusterPeer(&list[i])
		case d != Egress || out.verdict != Allow:
			err = errNoDomains
		case !names:
			err = errNoDNS
		default:
			err = out.addDomains(list[i].DomainNames)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("peer %d: %w", i, err))
		}
	}
	slices.Sort(out.domains)
	out.domains = slices.Compact(out.domains)
	out.nets = merge(out.nets)
	out.portSpecific = len(r.Protocols) > 0
	for i := range r.Protocols {
		if err := out.addProtocol(&r.Protocols[i]); err != nil {
			errs = append(errs, fmt.Errorf("protocol %d: %w", i, err))
		}
	}
	out.ports = mergePorts(out.ports)
	err := errors.Join(errs...)
	if err != nil && out.verdict != Allow {
		return rule{verdict: Deny, anybody: true}, err
	}
	return out, err
}

func (r *rule) addClusterPeer(p *ClusterPeer) error {
	if len(p.Networks) == 0 {
		s, err := p.selector()
		if err == nil {
			r.peers = append(r.peers, s)
		}
		return err
	}
	var errs []error
	for _, n := range p.Networks {
		nets, err := block(n, nil)
		r.nets = append(r.nets, nets...)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (r *rule) addDomains(list []string) error {
	var errs []error
	for _, text := range list {
		n, err := parseDomain(text)
		if errs = append(errs, err); err == nil {
			r.domains = append(r.domains, n)
		}
	}
	return errors.Join(errs...)
}

func (r *rule) addProtocol(p *ClusterProtocol) error {
	protocol, of := uint8(unix.IPPROTO_TCP), p.TCP
	switch {
	case p.DestinationNamedPort != "":
		r.named = append(r.named, namedPort{name: p.DestinationNamedPort})
		return nil
	case p.TCP != nil:
	case p.UDP != nil:
		protocol, of = unix.IPPROTO_UDP, p.UDP
	case p.SCTP != nil:
		protocol, of = unix.IPPROTO_SCTP, p.SCTP
	default:
		return errors.New("it is of a kind that this version does not know")
	}
	first, last := int32(0), int32(anyPort)
	if port := of.DestinationPort; port != nil {
		switch {
		case port.Number != 0:
			first, last = port.Number, port.Number
		case port.Range != nil:
			first, last = port.Range.Start, port.Range.End
		default:
			return errors.New("the port is of a kind that this version does not know")
		}
	}
	if first < 0 || last > anyPort || last < first {
		return fmt.Errorf("there are no ports %d to %d", first, last)
	}
	r.ports = append(r.ports, ports{protocol, uint16(first), uint16(last)})
	return nil
}
