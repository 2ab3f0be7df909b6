package endpoints

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	sliceutil "k8s.io/endpointslice/util"
	"k8s.io/utils/ptr"
)

// maxAddresses is how many addresses an Endpoints object holds; what is beyond is left to EndpointSlices.
const maxAddresses = 1000

// subsets groups the addresses of a service's pods by the ports that they serve, in a canonical order. It also says whether
// addresses were left out, not ready ones first.
func subsets(service *corev1.Service, pods []*corev1.Pod) ([]corev1.EndpointSubset, bool) {
	groups := map[string]*corev1.EndpointSubset{}
	for _, pod := range pods {
		address, ok := addressOf(service, pod)
		if !ok {
			continue
		}
		ports, ok := portsOf(service, pod)
		if !ok {
			continue
		}
		key := portsKey(ports)
		g := groups[key]
		if g == nil {
			g = &corev1.EndpointSubset{Ports: ports}
			groups[key] = g
		}
		if service.Spec.PublishNotReadyAddresses || sliceutil.IsPodReady(pod) {
			g.Addresses = append(g.Addresses, address)
		} else {
			g.NotReadyAddresses = append(g.NotReadyAddresses, address)
		}
	}
	var out []corev1.EndpointSubset
	for _, key := range slices.Sorted(maps.Keys(groups)) {
		g := groups[key]
		byIP := func(a, b corev1.EndpointAddress) int {
			uid := func(x corev1.EndpointAddress) string {
				if x.TargetRef == nil {
					return ""
				}
				return string(x.TargetRef.UID)
			}
			return cmp.Or(cmp.Compare(a.IP, b.IP), cmp.Compare(uid(a), uid(b)))
		}
		slices.SortFunc(g.Addresses, byIP)
		slices.SortFunc(g.NotReadyAddresses, byIP)
		out = append(out, *g)
	}
	return truncate(out)
}

func portsKey(ports []corev1.EndpointPort) string {
	var b strings.Builder
	for _, p := range ports {
		fmt.Fprintf(&b, "%s/%d/%s/%s ", p.Name, p.Port, p.Protocol, ptr.Deref(p.AppProtocol, ""))
	}
	return b.String()
}

// addressOf returns the pod's address in the service's first family; false when it has none or has no place in the endpoints.
func addressOf(service *corev1.Service, pod *corev1.Pod) (corev1.EndpointAddress, bool) {
	if !sliceutil.ShouldPodBeInEndpoints(pod, service.Spec.PublishNotReadyAddresses) {
		return corev1.EndpointAddress{}, false
	}
	v6 := wantsIPv6(service, pod)
	for _, ip := range pod.Status.PodIPs {
		addr, err := netip.ParseAddr(ip.IP)
		if err != nil || addr.Is6() != v6 {
			continue
		}
		a := corev1.EndpointAddress{
			IP: addr.String(), NodeName: ptr.To(pod.Spec.NodeName),
			TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
		}
		if sliceutil.ShouldSetHostname(pod, service) {
			a.Hostname = pod.Spec.Hostname
		}
		return a, true
	}
	return corev1.EndpointAddress{}, false
}

// wantsIPv6 tells the first family of a service; one that does not say it has that of its address, and one without an address that of the pod.
func wantsIPv6(service *corev1.Service, pod *corev1.Pod) bool {
	if len(service.Spec.IPFamilies) > 0 {
		return service.Spec.IPFamilies[0] == corev1.IPv6Protocol
	}
	ip := service.Spec.ClusterIP
	if ip == "" || ip == corev1.ClusterIPNone {
		ip = pod.Status.PodIP
	}
	addr, err := netip.ParseAddr(ip)
	return err == nil && addr.Is6()
}

// portsOf resolves the service's ports on a pod; ports whose name the pod does not have are left out. A pod without any is no
// endpoint, except of a headless service that has no ports itself.
func portsOf(service *corev1.Service, pod *corev1.Pod) ([]corev1.EndpointPort, bool) {
	if len(service.Spec.Ports) == 0 {
		return nil, service.Spec.ClusterIP == corev1.ClusterIPNone
	}
	var ports []corev1.EndpointPort
	for i := range service.Spec.Ports {
		sp := &service.Spec.Ports[i]
		if n, ok := podPort(pod, sp); ok {
			ports = append(ports, corev1.EndpointPort{Name: sp.Name, Port: n, Protocol: sp.Protocol, AppProtocol: sp.AppProtocol})
		}
	}
	slices.SortFunc(ports, func(a, b corev1.EndpointPort) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), cmp.Compare(a.Port, b.Port), strings.Compare(string(a.Protocol), string(b.Protocol)))
	})
	return ports, len(ports) > 0
}

func podPort(pod *corev1.Pod, sp *corev1.ServicePort) (int32, bool) {
	if sp.TargetPort.Type == intstr.Int {
		return sp.TargetPort.IntVal, true
	}
	sidecar := func(c *corev1.Container) bool {
		return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
	}
	find := func(c *corev1.Container) (int32, bool) {
		for _, p := range c.Ports {
			if p.Name == sp.TargetPort.StrVal && p.Protocol == sp.Protocol {
				return p.ContainerPort, true
			}
		}
		return 0, false
	}
	for i := range pod.Spec.Containers {
		if n, ok := find(&pod.Spec.Containers[i]); ok {
			return n, true
		}
	}
	for i := range pod.Spec.InitContainers {
		if c := &pod.Spec.InitContainers[i]; sidecar(c) {
			if n, ok := find(c); ok {
				return n, true
			}
		}
	}
	return 0, false
}

// truncate leaves maxAddresses. Those that are not ready are left out first; those that are to be cut are cut in every subset in the same proportion.
func truncate(in []corev1.EndpointSubset) ([]corev1.EndpointSubset, bool) {
	var ready, notReady int
	for i := range in {
		ready += len(in[i].Addresses)
		notReady += len(in[i].NotReadyAddresses)
	}
	switch {
	case ready+notReady <= maxAddresses:
		return in, false
	case ready > maxAddresses:
		for i := range in {
			in[i].NotReadyAddresses = nil
		}
		cut(in, ready, maxAddresses, func(s *corev1.EndpointSubset) *[]corev1.EndpointAddress { return &s.Addresses })
	default:
		cut(in, notReady, maxAddresses-ready, func(s *corev1.EndpointSubset) *[]corev1.EndpointAddress { return &s.NotReadyAddresses })
	}
	return slices.DeleteFunc(in, func(s corev1.EndpointSubset) bool { return len(s.Addresses)+len(s.NotReadyAddresses) == 0 }), true
}

// cut leaves room of all addresses of one sort; shares are rounded up, so that the last subsets may get less than theirs.
func cut(in []corev1.EndpointSubset, all, room int, of func(*corev1.EndpointSubset) *[]corev1.EndpointAddress) {
	left := room
	for i := range in {
		addresses := of(&in[i])
		share := (len(*addresses)*room + all - 1) / all
		*addresses = (*addresses)[:min(share, left)]
		left -= len(*addresses)
	}
}
