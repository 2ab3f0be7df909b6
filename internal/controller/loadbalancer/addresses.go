package loadbalancer

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

const (
	// maxAddresses of each family are given to a service, the lowest ones: its status has to stay an object of usual size in a cluster of any.
	maxAddresses = 500
	// toBeDeleted is the taint that the cluster autoscaler puts on nodes that it is about to remove.
	toBeDeleted = "ToBeDeletedByClusterAutoscaler"
)

// candidate says whether a node may stand in front of services at all, and ready whether it can now.
func candidate(n *corev1.Node) (may, ready bool) {
	if _, excluded := n.Labels[corev1.LabelNodeExcludeBalancers]; excluded || n.DeletionTimestamp != nil ||
		slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == toBeDeleted }) {
		return false, false
	}
	return true, slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

// addressesOf are a node's addresses for those outside of the cluster: the external ones, or where there is none of a family the internal ones.
func addressesOf(n *corev1.Node) map[corev1.IPFamily][]netip.Addr {
	out := map[corev1.IPFamily][]netip.Addr{}
	for _, kind := range []corev1.NodeAddressType{corev1.NodeExternalIP, corev1.NodeInternalIP} {
		found := map[corev1.IPFamily][]netip.Addr{}
		for _, a := range n.Status.Addresses {
			if a.Type != kind {
				continue
			}
			if ip, err := netip.ParseAddr(a.Address); err == nil {
				found[familyOf(ip)] = append(found[familyOf(ip)], ip)
			}
		}
		for f, list := range found {
			if len(out[f]) == 0 {
				out[f] = list
			}
		}
	}
	return out
}

func familyOf(a netip.Addr) corev1.IPFamily {
	if a.Is4() {
		return corev1.IPv4Protocol
	}
	return corev1.IPv6Protocol
}

// ingress is where a service is reached: the addresses of the nodes that are ready. If no node at all is, those that it has had stay as long as their
// nodes exist, for a cluster that has lost its head still serves. Slices matter to a service that wants its clients' addresses kept: only nodes with
// endpoints of it can do that.
func ingress(svc *corev1.Service, nodes []*corev1.Node, endpoints []*discoveryv1.EndpointSlice) []corev1.LoadBalancerIngress {
	var able, possible []*corev1.Node
	for _, n := range nodes {
		may, ready := candidate(n)
		if may {
			possible = append(possible, n)
		}
		if ready {
			able = append(able, n)
		}
	}
	headless := len(able) == 0
	has := map[string]bool{}
	if headless {
		able = possible
		for _, in := range svc.Status.LoadBalancer.Ingress {
			has[in.IP] = true
		}
	}
	local := svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal && !headless
	var out []corev1.LoadBalancerIngress
	for _, family := range svc.Spec.IPFamilies {
		var on map[string]bool
		if local {
			on = nodesWith(endpoints, family)
		}
		var all []netip.Addr
		for _, n := range able {
			if local && !on[n.Name] {
				continue
			}
			for _, a := range addressesOf(n)[family] {
				if !headless || has[a.String()] {
					all = append(all, a)
				}
			}
		}
		slices.SortFunc(all, netip.Addr.Compare)
		all = slices.Compact(all)
		for _, a := range all[:min(len(all), maxAddresses)] {
			mode := corev1.LoadBalancerIPModeVIP
			out = append(out, corev1.LoadBalancerIngress{IP: a.String(), IPMode: &mode})
		}
	}
	return out
}

// nodesWith are the nodes with endpoints of one family that are ready or, where none is, that serve while they end (KEP-1669), as the service proxy takes them.
func nodesWith(endpoints []*discoveryv1.EndpointSlice, family corev1.IPFamily) map[string]bool {
	ready, serving := map[string]bool{}, map[string]bool{}
	for _, s := range endpoints {
		if string(s.AddressType) != string(family) {
			continue
		}
		for i := range s.Endpoints {
			e := &s.Endpoints[i]
			switch c := e.Conditions; {
			case e.NodeName == nil:
			case c.Ready == nil || *c.Ready:
				ready[*e.NodeName] = true
			case c.Terminating != nil && *c.Terminating && (c.Serving == nil || *c.Serving):
				serving[*e.NodeName] = true
			}
		}
	}
	if len(ready) == 0 {
		return serving
	}
	return ready
}
