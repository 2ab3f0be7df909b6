package route

import (
	"net/netip"
	"slices"

	discoveryv1 "k8s.io/api/discovery/v1"
)

// Endpoints are where a backend is served, sorted, each once: those that are ready, or, if none is, those that serve although they are about to end (KEP-1669).
// Addresses of the machine itself and of its link are left out: an Ingress must not reach what only the node may.
func Endpoints(b Backend, all []*discoveryv1.EndpointSlice) []netip.AddrPort {
	var ready, ending []netip.AddrPort
	for _, s := range all {
		if s.AddressType == discoveryv1.AddressTypeFQDN {
			continue
		}
		for _, p := range s.Ports {
			name := ""
			if p.Name != nil {
				name = *p.Name
			}
			if p.Port == nil || name != b.PortName {
				continue
			}
			for i := range s.Endpoints {
				e := &s.Endpoints[i]
				into := &ready
				if !isTrue(e.Conditions.Ready, true) {
					if !isTrue(e.Conditions.Serving, false) || !isTrue(e.Conditions.Terminating, false) {
						continue
					}
					into = &ending
				}
				for _, text := range e.Addresses {
					a, err := netip.ParseAddr(text)
					if a = a.Unmap(); err != nil || Forbidden(a) {
						continue
					}
					*into = append(*into, netip.AddrPortFrom(a, uint16(*p.Port)))
				}
			}
		}
	}
	if len(ready) == 0 {
		ready = ending
	}
	slices.SortFunc(ready, netip.AddrPort.Compare)
	return slices.Compact(ready)
}

func isTrue(b *bool, unset bool) bool {
	if b == nil {
		return unset
	}
	return *b
}

// Forbidden says whether an address is one that requests must not be led to.
func Forbidden(a netip.Addr) bool {
	return !a.IsValid() || a.IsLoopback() || a.IsUnspecified() || a.IsMulticast() || a.IsLinkLocalUnicast() || a.Zone() != ""
}
