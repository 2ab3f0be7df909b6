package endpointslicemirroring

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	sliceutil "k8s.io/endpointslice/util"
	netutils "k8s.io/utils/net"
)

const (
	// managedBy marks the slices that this controller owns, with upstream's name so that an upstream cluster's slices are kept.
	managedBy = "endpointslicemirroring-controller.k8s.io"
	// leaderElection is the annotation of Endpoints that are no endpoints but a lock.
	leaderElection = "control-plane.alpha.kubernetes.io/leader"
	// maxAddresses of a subset are mirrored, which is also what a slice holds at most.
	maxAddresses = 1000
)

// place is what the endpoints of one slice have in common.
type place struct {
	family discoveryv1.AddressType
	ports  sliceutil.PortMapKey
}

// content is what a slice is to hold.
type content struct {
	ports     []discoveryv1.EndpointPort
	endpoints []discoveryv1.Endpoint
	seen      map[identity]bool
}

// identity is what no two endpoints of a slice have in common.
type identity struct{ ip, hostname, namespace, name string }

func identityOf(a *corev1.EndpointAddress, ip string) identity {
	id := identity{ip: ip, hostname: a.Hostname}
	if a.TargetRef != nil {
		id.namespace, id.name = a.TargetRef.Namespace, a.TargetRef.Name
	}
	return id
}

// mirrored is what Endpoints look like as slices.
type mirrored struct {
	slices map[place]*content
	// invalid addresses are none, skipped ones were too many.
	invalid, skipped int
}

// wanted says whether Endpoints are to be mirrored, as far as they say so themselves.
func wanted(e *corev1.Endpoints) bool {
	_, lock := e.Annotations[leaderElection]
	return !lock && e.Labels[discoveryv1.LabelSkipMirror] != "true"
}

// mirror computes the slices of Endpoints.
func mirror(e *corev1.Endpoints) mirrored {
	out := mirrored{slices: map[place]*content{}}
	subsets := repack(e.Subsets)
	for i := range subsets {
		s := &subsets[i]
		ports := portsOf(s.Ports)
		key := sliceutil.NewPortMapKey(slices.Clone(ports)) // which sorts them
		added := 0
		for _, list := range []struct {
			addresses []corev1.EndpointAddress
			ready     bool
		}{{s.Addresses, true}, {s.NotReadyAddresses, false}} {
			for j := range list.addresses {
				a := &list.addresses[j]
				family, ip := familyOf(a.IP)
				if ip == "" {
					out.invalid++
					continue
				}
				c := out.slices[place{family, key}]
				if c == nil {
					c = &content{ports: ports, seen: map[identity]bool{}}
					out.slices[place{family, key}] = c
				}
				switch {
				case c.seen[identityOf(a, ip)]:
				case added == maxAddresses || len(c.endpoints) == maxAddresses:
					out.skipped++
				default:
					c.seen[identityOf(a, ip)] = true
					c.endpoints = append(c.endpoints, endpointOf(a, ip, list.ready))
					added++
				}
			}
		}
	}
	return out
}

// familyOf returns an address as it is usually written, and its family; "" is none. Old objects may have other forms: zeros in front, IPv4 within IPv6.
func familyOf(ip string) (discoveryv1.AddressType, string) {
	a := netutils.ParseIPSloppy(ip)
	switch {
	case a == nil:
		return "", ""
	case a.To4() != nil:
		return discoveryv1.AddressTypeIPv4, a.String()
	}
	return discoveryv1.AddressTypeIPv6, a.String()
}

func endpointOf(a *corev1.EndpointAddress, ip string, ready bool) discoveryv1.Endpoint {
	out := discoveryv1.Endpoint{
		Addresses: []string{ip}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}, TargetRef: a.TargetRef.DeepCopy(),
	}
	if a.NodeName != nil {
		out.NodeName = new(*a.NodeName)
	}
	if a.Hostname != "" {
		out.Hostname = new(a.Hostname)
	}
	return out
}

func portsOf(ports []corev1.EndpointPort) []discoveryv1.EndpointPort {
	out := []discoveryv1.EndpointPort{}
	for _, p := range ports {
		port := discoveryv1.EndpointPort{Name: new(p.Name), Port: new(p.Port), Protocol: new(p.Protocol)}
		if p.AppProtocol != nil {
			port.AppProtocol = new(*p.AppProtocol)
		}
		out = append(out, port)
	}
	return out
}

// labelsOf are those of a slice: the Endpoints' own, the service and who manages it.
func labelsOf(e *corev1.Endpoints) map[string]string {
	out := map[string]string{}
	for k, v := range e.Labels {
		out[k] = v
	}
	out[discoveryv1.LabelServiceName], out[discoveryv1.LabelManagedBy] = e.Name, managedBy
	return out
}

// annotationsOf are those of a slice: all but the ones that tell about the Endpoints object itself.
func annotationsOf(e *corev1.Endpoints) map[string]string {
	out := map[string]string{}
	for k, v := range e.Annotations {
		if k != corev1.LastAppliedConfigAnnotation && k != corev1.EndpointsLastChangeTriggerTime {
			out[k] = v
		}
	}
	return out
}

// sliceOf is a new slice.
func sliceOf(e *corev1.Endpoints, at place, c *content) *discoveryv1.EndpointSlice {
	return &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: e.Namespace, GenerateName: generateName(e.Name), Labels: labelsOf(e), Annotations: annotationsOf(e),
			OwnerReferences: []metav1.OwnerReference{*ownerOf(e)},
		},
		AddressType: at.family, Ports: c.ports, Endpoints: c.endpoints,
	}
}

func ownerOf(e *corev1.Endpoints) *metav1.OwnerReference {
	return metav1.NewControllerRef(e, corev1.SchemeGroupVersion.WithKind("Endpoints"))
}

// generateName is the beginning of a slice's name. A service's name is short enough for the hyphen and what follows it.
func generateName(service string) string { return service + "-" }
