package loadbalancer

import (
	"cmp"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// Port is one of a node's, for all of its addresses.
type Port struct {
	Protocol corev1.Protocol
	Number   int32
}

func (p Port) String() string { return fmt.Sprintf("%d/%s", p.Number, p.Protocol) }

// claim is a port of one family of addresses.
type claim struct {
	Port
	family corev1.IPFamily
}

// claims are the ports that a service wants at the nodes' addresses.
func claims(svc *corev1.Service) []claim {
	return claimed(svc, func(p corev1.ServicePort) int32 { return p.Port })
}

// nodePorts are those that a service has on all addresses of the nodes anyway.
func nodePorts(svc *corev1.Service) []claim {
	return claimed(svc, func(p corev1.ServicePort) int32 { return p.NodePort })
}

func claimed(svc *corev1.Service, number func(corev1.ServicePort) int32) []claim {
	var out []claim
	for _, f := range svc.Spec.IPFamilies {
		for _, p := range svc.Spec.Ports {
			if n := number(p); n != 0 {
				out = append(out, claim{Port{cmp.Or(p.Protocol, corev1.ProtocolTCP), n}, f})
			}
		}
	}
	return out
}

// refusal is why a service doesn't get the ports that it wants.
type refusal struct {
	Port
	owner string
}

func (r refusal) String() string { return fmt.Sprintf("port %s of the nodes is %s", r.Port, r.owner) }

// refuse says why svc does not get its ports, nil if it does. Others are the services that claim one of them, or one that those claim, and so on; reserved
// ports are the nodes' own, with what they are for. The older of two services has a port; one that gets none of its ports keeps none from others.
func refuse(svc *corev1.Service, others []*corev1.Service, wants func(*corev1.Service) bool, reserved map[Port]string) *refusal {
	all := append(slices.Clone(others), svc)
	slices.SortFunc(all, older)
	owners := map[claim]*corev1.Service{}
	for _, s := range all {
		var why *refusal
		if wants(s) {
			want := claims(s)
			for _, c := range want {
				use, own := reserved[c.Port]
				switch o := owners[c]; {
				case own:
					why = &refusal{c.Port, "the nodes' own (" + use + ")"}
				case o != nil && o != s:
					why = &refusal{c.Port, "that of service " + o.Namespace + "/" + o.Name}
				}
				if why != nil {
					break
				}
			}
			if why == nil {
				for _, c := range want {
					owners[c] = s
				}
			}
		}
		for _, c := range nodePorts(s) {
			if owners[c] == nil {
				owners[c] = s
			}
		}
		if s == svc {
			return why
		}
	}
	return nil
}

// older orders services as the service proxy does that has to choose between two.
func older(a, b *corev1.Service) int {
	return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}
