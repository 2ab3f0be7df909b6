package endpointslicemirroring

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

// endpoint is an address of which is known what is behind it.
type endpoint struct {
	ip  string
	uid types.UID
}

// door is a port as a value; hasPort is false for the one of subsets that have no ports.
type door struct {
	hasPort, hasProtocol bool
	name, appProtocol    string
	port                 int32
	protocol             corev1.Protocol
}

// repack says the same with the fewest subsets: ports that lead to the same endpoints are in one, and an endpoint is in all of them as it was first
// described. What one list says isn't ready is not, whatever others say.
func repack(subsets []corev1.EndpointSubset) []corev1.EndpointSubset {
	var described []*corev1.EndpointAddress // endpoints, in their order
	known := map[endpoint]int{}
	var doors []door // in their order
	ports := map[door]corev1.EndpointPort{}
	ready := map[door]map[int]bool{} // for each door the endpoints behind it
	add := func(d door, a *corev1.EndpointAddress, isReady bool) {
		key := endpoint{ip: a.IP}
		if a.TargetRef != nil {
			key.uid = a.TargetRef.UID
		}
		i, ok := known[key]
		if !ok {
			i = len(described)
			known[key], described = i, append(described, a)
		}
		if was, ok := ready[d][i]; !ok || was {
			ready[d][i] = isReady
		}
	}
	for i := range subsets {
		s := &subsets[i]
		through := []door{{}}
		if len(s.Ports) > 0 {
			through = nil
		}
		for _, p := range s.Ports {
			d := door{
				hasPort: true, hasProtocol: p.AppProtocol != nil, name: p.Name, appProtocol: ptr.Deref(p.AppProtocol, ""), port: p.Port, protocol: p.Protocol,
			}
			through, ports[d] = append(through, d), p
		}
		for _, d := range through {
			if ready[d] == nil {
				ready[d] = map[int]bool{}
				doors = append(doors, d)
			}
			for j := range s.Addresses {
				add(d, &s.Addresses[j], true)
			}
			for j := range s.NotReadyAddresses {
				add(d, &s.NotReadyAddresses[j], false)
			}
		}
	}
	var out []corev1.EndpointSubset
	places := map[string]int{} // of the subset for a set of endpoints
	for _, d := range doors {
		behind := make([]int, 0, len(ready[d]))
		for i := range ready[d] {
			behind = append(behind, i)
		}
		slices.SortFunc(behind, cmp.Compare)
		var set strings.Builder
		for _, i := range behind {
			fmt.Fprintf(&set, "%d %t ", i, ready[d][i])
		}
		at, ok := places[set.String()]
		if !ok {
			at = len(out)
			places[set.String()], out = at, append(out, corev1.EndpointSubset{})
			for _, i := range behind {
				list := &out[at].NotReadyAddresses
				if ready[d][i] {
					list = &out[at].Addresses
				}
				*list = append(*list, *described[i])
			}
		}
		if d.hasPort {
			out[at].Ports = append(out[at].Ports, ports[d])
		}
	}
	return out
}
