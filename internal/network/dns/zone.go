package dns

import (
	"cmp"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/celox/celox/internal/client/informers"
)

const (
	// clusterTTL is for how many seconds somebody may believe an answer about the cluster.
	clusterTTL = 5
	// schemaVersion is the version of the specification that the zone follows.
	schemaVersion = "1.1.0"

	indexByService = "dns.celox.service"
	indexByAddress = "dns.celox.address"
)

// Zone answers for the cluster's domain and, in reverse, for its addresses. Its methods may be called concurrently.
type Zone struct {
	domain     string // "cluster.local."
	services   corelisters.ServiceLister
	byAddress  cache.Indexer // services
	slices     cache.Indexer // by service and by address
	synced     []cache.InformerSynced
	generation atomic.Uint64
	changed    chan struct{} // that there is a new generation; capacity 1
	kept       *Zone         // as it was in an earlier life, or nil

	mu         sync.Mutex
	namespaces map[string]int // services in each; guarded by mu
}

// NewZone registers the zone of a domain such as "cluster.local" with the informers, which the caller starts.
func NewZone(domain string, f *informers.Factory) (*Zone, error) {
	services, slices := f.Core().V1().Services(), f.Discovery().V1().EndpointSlices()
	z := &Zone{
		domain: dns.Fqdn(strings.ToLower(domain)), services: services.Lister(), byAddress: services.Informer().GetIndexer(), slices: slices.Informer().GetIndexer(),
		namespaces: map[string]int{}, changed: make(chan struct{}, 1),
	}
	if err := services.Informer().AddIndexers(cache.Indexers{indexByAddress: serviceAddresses}); err != nil {
		return nil, err
	}
	if err := slices.Informer().AddIndexers(cache.Indexers{indexByService: sliceService, indexByAddress: sliceAddresses}); err != nil {
		return nil, err
	}
	for _, w := range []struct {
		informer cache.SharedIndexInformer
		count    func(obj any, by int)
	}{{services.Informer(), z.count}, {slices.Informer(), func(any, int) {}}} {
		r, err := w.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc: func(obj any) {
				w.count(obj, 1)
				z.next()
			},
			UpdateFunc: func(any, any) { z.next() },
			DeleteFunc: func(obj any) {
				if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
					obj = gone.Obj
				}
				w.count(obj, -1)
				z.next()
			},
		})
		if err != nil {
			return nil, err
		}
		z.synced = append(z.synced, r.HasSynced)
	}
	return z, nil
}

// next ends all answers that were given so far.
func (z *Zone) next() {
	z.generation.Add(1)
	select {
	case z.changed <- struct{}{}:
	default:
	}
}

// count keeps the number of services of each namespace.
func (z *Zone) count(obj any, by int) {
	s, ok := obj.(*corev1.Service)
	if !ok {
		return
	}
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.namespaces[s.Namespace] += by; z.namespaces[s.Namespace] == 0 {
		delete(z.namespaces, s.Namespace)
	}
}

func serviceAddresses(obj any) ([]string, error) {
	s, ok := obj.(*corev1.Service)
	if !ok || s.Spec.ClusterIP == corev1.ClusterIPNone {
		return nil, nil
	}
	return s.Spec.ClusterIPs, nil
}

func sliceService(obj any) ([]string, error) {
	s, ok := obj.(*discoveryv1.EndpointSlice)
	if !ok || s.Labels[discoveryv1.LabelServiceName] == "" {
		return nil, nil
	}
	return []string{s.Namespace + "/" + s.Labels[discoveryv1.LabelServiceName]}, nil
}

func sliceAddresses(obj any) ([]string, error) {
	s, ok := obj.(*discoveryv1.EndpointSlice)
	if !ok || s.AddressType == discoveryv1.AddressTypeFQDN || s.Labels[discoveryv1.LabelServiceName] == "" {
		return nil, nil
	}
	var out []string
	for _, e := range s.Endpoints {
		out = append(out, e.Addresses...)
	}
	return out, nil
}

// ready reports whether the zone knows everything that there was at the start.
func (z *Zone) ready() bool {
	for _, s := range z.synced {
		if !s() {
			return false
		}
	}
	return true
}

// result is what a zone says of a name.
type result struct {
	rcode  int
	answer []dns.RR
	extra  []dns.RR
	// follow is the name outside of the zone that answer's last CNAME leads to.
	follow string
}

func (z *Zone) contains(name string) bool { return dns.IsSubDomain(z.domain, name) }

// lookup answers a question for a name of the zone, in lower case and with its final dot.
func (z *Zone) lookup(name string, qtype uint16) result {
	labels := dns.SplitDomainName(strings.TrimSuffix(strings.TrimSuffix(name, z.domain), "."))
	if name == z.domain {
		labels = nil
	}
	if len(labels) == 0 {
		switch qtype {
		case dns.TypeSOA:
			return result{answer: []dns.RR{z.soa()}}
		case dns.TypeNS:
			return result{answer: []dns.RR{&dns.NS{Hdr: z.header(z.domain, dns.TypeNS), Ns: "ns.dns." + z.domain}}}
		}
		return result{}
	}
	last := len(labels) - 1
	switch labels[last] {
	case "dns-version":
		if last > 0 {
			break
		}
		if qtype == dns.TypeTXT {
			return result{answer: []dns.RR{&dns.TXT{Hdr: z.header(name, dns.TypeTXT), Txt: []string{schemaVersion}}}}
		}
		return result{}
	case "svc":
		return z.service(name, labels[:last], qtype)
	case "pod":
		return z.pod(name, labels[:last], qtype)
	}
	return result{rcode: dns.RcodeNameError}
}

// pod answers for "1-2-3-4.NAMESPACE.pod": the address is in the name.
func (z *Zone) pod(name string, labels []string, qtype uint16) result {
	switch {
	case len(labels) == 0:
		return result{}
	case !z.namespace(labels[len(labels)-1]):
		return result{rcode: dns.RcodeNameError}
	case len(labels) == 1:
		return result{}
	case len(labels) > 2:
		return result{rcode: dns.RcodeNameError}
	}
	addr, err := netip.ParseAddr(strings.ReplaceAll(labels[0], "-", "."))
	if err != nil {
		if addr, err = netip.ParseAddr(strings.ReplaceAll(labels[0], "-", ":")); err != nil {
			return result{rcode: dns.RcodeNameError}
		}
	}
	return result{answer: z.addresses(name, qtype, []netip.Addr{addr})}
}

// namespace reports whether a namespace has services, which is all that the zone knows of it.
func (z *Zone) namespace(ns string) bool {
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.namespaces[ns] > 0
}

// service answers for what is below "svc".
func (z *Zone) service(name string, labels []string, qtype uint16) result {
	n := len(labels)
	if n == 0 {
		return result{}
	}
	ns := labels[n-1]
	if !z.namespace(ns) {
		return result{rcode: dns.RcodeNameError}
	}
	if n == 1 {
		return result{}
	}
	svc, err := z.services.Services(ns).Get(labels[n-2])
	if err != nil { // listers know no other error than that there is none
		return result{rcode: dns.RcodeNameError}
	}
	if svc.Spec.Type == corev1.ServiceTypeExternalName {
		if n > 2 {
			return result{rcode: dns.RcodeNameError}
		}
		return z.external(name, svc.Spec.ExternalName, qtype)
	}
	headless := svc.Spec.ClusterIP == corev1.ClusterIPNone
	switch {
	case n == 2:
		if !headless {
			return result{answer: append(z.addresses(name, qtype, clusterIPs(svc)), z.allPorts(name, svc, qtype)...)}
		}
		eps := z.endpoints(svc)
		if len(eps) == 0 {
			return result{rcode: dns.RcodeNameError}
		}
		return result{answer: append(z.addresses(name, qtype, addressesOf(eps)), z.endpointPorts(name, svc, eps, anyPort, qtype)...)}
	case n == 3 && headless:
		var named []endpoint
		for _, e := range z.endpoints(svc) {
			if e.label() == labels[0] {
				named = append(named, e)
			}
		}
		if len(named) > 0 {
			return result{answer: z.addresses(name, qtype, addressesOf(named))}
		}
		// "_tcp" alone exists if a port does.
		fallthrough
	case n == 3:
		for _, p := range svc.Spec.Ports {
			if p.Name != "" && labels[0] == "_"+protocolName(p.Protocol) {
				return result{}
			}
		}
	case n == 4:
		return z.port(name, svc, labels[0], labels[1], qtype)
	}
	return result{rcode: dns.RcodeNameError}
}

// external is the CNAME of an ExternalName service, which may lead back into the zone.
func (z *Zone) external(name, target string, qtype uint16) result {
	target = dns.Fqdn(strings.ToLower(target))
	if _, ok := dns.IsDomainName(target); !ok {
		return result{}
	}
	r := result{answer: []dns.RR{&dns.CNAME{Hdr: z.header(name, dns.TypeCNAME), Target: target}}}
	if qtype != dns.TypeCNAME {
		r.follow = target
	}
	return r
}

// port answers for "_name._protocol.SERVICE".
func (z *Zone) port(name string, svc *corev1.Service, port, protocol string, qtype uint16) result {
	wanted := func(name string, proto corev1.Protocol) bool {
		return name != "" && port == "_"+strings.ToLower(name) && protocol == "_"+protocolName(proto)
	}
	i := slices.IndexFunc(svc.Spec.Ports, func(p corev1.ServicePort) bool { return wanted(p.Name, p.Protocol) })
	if svc.Spec.ClusterIP == corev1.ClusterIPNone {
		return z.headlessPort(name, svc, wanted, i >= 0, qtype)
	}
	if i < 0 {
		return result{rcode: dns.RcodeNameError}
	}
	if qtype != dns.TypeSRV {
		return result{}
	}
	target := z.serviceName(svc)
	return result{answer: []dns.RR{z.srv(name, svc.Spec.Ports[i].Port, target)}, extra: z.both(target, clusterIPs(svc))}
}

// headlessPort answers for a port of a headless service: its slices say which there are, and may have some that the service itself doesn't name.
func (z *Zone) headlessPort(name string, svc *corev1.Service, wanted portMatch, named bool, qtype uint16) result {
	eps := slices.DeleteFunc(z.endpoints(svc), func(e endpoint) bool {
		return !slices.ContainsFunc(e.ports, func(p discoveryv1.EndpointPort) bool {
			return p.Port != nil && wanted(deref(p.Name), deref(p.Protocol))
		})
	})
	if len(eps) == 0 && (!named || qtype == dns.TypeSRV) {
		return result{rcode: dns.RcodeNameError}
	}
	if qtype != dns.TypeSRV {
		return result{}
	}
	r := result{answer: z.endpointPorts(name, svc, eps, wanted, qtype)}
	for _, e := range eps {
		r.extra = append(r.extra, z.both(e.label()+"."+z.serviceName(svc), []netip.Addr{e.addr})...)
	}
	return r
}

// portMatch tells which ports are asked for. Without a protocol a port is one of TCP.
type portMatch func(name string, protocol corev1.Protocol) bool

func anyPort(string, corev1.Protocol) bool { return true }

// allPorts are the SRV records of a service with an address that is asked for without a port.
func (z *Zone) allPorts(name string, svc *corev1.Service, qtype uint16) []dns.RR {
	if qtype != dns.TypeSRV {
		return nil
	}
	var out []dns.RR
	for _, p := range svc.Spec.Ports {
		out = append(out, z.srv(name, p.Port, z.serviceName(svc)))
	}
	return out
}

// endpointPorts are the SRV records of the ports of endpoints that are wanted.
func (z *Zone) endpointPorts(name string, svc *corev1.Service, eps []endpoint, wanted portMatch, qtype uint16) []dns.RR {
	if qtype != dns.TypeSRV {
		return nil
	}
	var out []dns.RR
	for _, e := range eps {
		for _, p := range e.ports {
			if p.Port != nil && wanted(deref(p.Name), deref(p.Protocol)) {
				out = append(out, z.srv(name, *p.Port, e.label()+"."+z.serviceName(svc)))
			}
		}
	}
	return out
}

func (z *Zone) serviceName(svc *corev1.Service) string {
	return svc.Name + "." + svc.Namespace + ".svc." + z.domain
}

// endpoint is one of a headless service.
type endpoint struct {
	addr     netip.Addr
	hostname string
	ports    []discoveryv1.EndpointPort
}

// label is its name below the service's.
func (e endpoint) label() string {
	if e.hostname != "" {
		return e.hostname
	}
	return dashed(e.addr)
}

// dashed is an address as a label.
func dashed(a netip.Addr) string {
	return strings.NewReplacer(".", "-", ":", "-").Replace(a.String())
}

// endpoints are those that are ready, in the order of their addresses. The slices of a service that publishes all say that all are.
func (z *Zone) endpoints(svc *corev1.Service) []endpoint {
	found, err := z.slices.ByIndex(indexByService, svc.Namespace+"/"+svc.Name)
	if err != nil {
		return nil
	}
	var out []endpoint
	for _, obj := range found {
		s := obj.(*discoveryv1.EndpointSlice)
		if s.AddressType == discoveryv1.AddressTypeFQDN {
			continue
		}
		for i := range s.Endpoints {
			e := &s.Endpoints[i]
			if e.Conditions.Ready != nil && !*e.Conditions.Ready {
				continue
			}
			for _, a := range e.Addresses {
				if addr, err := netip.ParseAddr(a); err == nil {
					out = append(out, endpoint{addr: addr, hostname: strings.ToLower(deref(e.Hostname)), ports: s.Ports})
				}
			}
		}
	}
	slices.SortFunc(out, func(a, b endpoint) int { return a.addr.Compare(b.addr) })
	return out
}

func addressesOf(eps []endpoint) []netip.Addr {
	var out []netip.Addr
	for _, e := range eps {
		if !slices.Contains(out, e.addr) {
			out = append(out, e.addr)
		}
	}
	return out
}

func clusterIPs(svc *corev1.Service) []netip.Addr {
	var out []netip.Addr
	for _, ip := range svc.Spec.ClusterIPs {
		if a, err := netip.ParseAddr(ip); err == nil {
			out = append(out, a)
		}
	}
	return out
}

// reverse answers a question for the name of an address, if the address is one of the cluster's.
func (z *Zone) reverse(name string, qtype uint16) (result, bool) {
	addr, ok := reverseAddress(name)
	if !ok {
		return result{}, false
	}
	var targets []string
	services, err := z.byAddress.ByIndex(indexByAddress, addr.String())
	if err != nil {
		return result{}, false
	}
	for _, obj := range services {
		targets = append(targets, z.serviceName(obj.(*corev1.Service)))
	}
	found, err := z.slices.ByIndex(indexByAddress, addr.String())
	if err != nil {
		return result{}, false
	}
	for _, obj := range found {
		s := obj.(*discoveryv1.EndpointSlice)
		svc, err := z.services.Services(s.Namespace).Get(s.Labels[discoveryv1.LabelServiceName])
		if err != nil {
			continue
		}
		for i := range s.Endpoints {
			if e := &s.Endpoints[i]; slices.Contains(e.Addresses, addr.String()) {
				label := endpoint{addr: addr, hostname: strings.ToLower(deref(e.Hostname))}.label()
				targets = append(targets, label+"."+z.serviceName(svc))
			}
		}
	}
	if len(targets) == 0 {
		return result{}, false
	}
	if qtype != dns.TypePTR {
		return result{}, true
	}
	slices.Sort(targets)
	var r result
	for _, t := range slices.Compact(targets) {
		r.answer = append(r.answer, &dns.PTR{Hdr: z.header(name, dns.TypePTR), Ptr: t})
	}
	return r, true
}

// reverseAddress is the address that a name below in-addr.arpa or ip6.arpa stands for.
func reverseAddress(name string) (netip.Addr, bool) {
	if rest, ok := strings.CutSuffix(name, ".in-addr.arpa."); ok {
		labels := strings.Split(rest, ".")
		slices.Reverse(labels)
		a, err := netip.ParseAddr(strings.Join(labels, "."))
		return a, err == nil && a.Is4()
	}
	rest, ok := strings.CutSuffix(name, ".ip6.arpa.")
	if !ok || len(rest) != 63 {
		return netip.Addr{}, false
	}
	var b [16]byte
	for i := range 32 {
		c := rest[62-2*i]
		if i < 31 && rest[62-2*i-1] != '.' {
			return netip.Addr{}, false
		}
		v, err := strconv.ParseUint(string(c), 16, 4)
		if err != nil {
			return netip.Addr{}, false
		}
		b[i/2] |= byte(v) << (4 * (1 - i%2))
	}
	return netip.AddrFrom16(b), true
}

func (z *Zone) header(name string, rrtype uint16) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: rrtype, Class: dns.ClassINET, Ttl: clusterTTL}
}

// soa is what goes with a negative answer: for how long it may be believed.
func (z *Zone) soa() *dns.SOA {
	return &dns.SOA{
		Hdr: z.header(z.domain, dns.TypeSOA), Ns: "ns.dns." + z.domain, Mbox: "hostmaster." + z.domain,
		Serial: uint32(z.generation.Load()), Refresh: 7200, Retry: 1800, Expire: 86400, Minttl: clusterTTL,
	}
}

func (z *Zone) srv(name string, port int32, target string) dns.RR {
	return &dns.SRV{Hdr: z.header(name, dns.TypeSRV), Weight: 100, Port: uint16(port), Target: target}
}

// addresses are the A or AAAA records, as asked for.
func (z *Zone) addresses(name string, qtype uint16, addrs []netip.Addr) []dns.RR {
	var out []dns.RR
	for _, a := range addrs {
		switch {
		case a.Is4() && qtype == dns.TypeA:
			out = append(out, &dns.A{Hdr: z.header(name, dns.TypeA), A: net.IP(a.AsSlice())})
		case a.Is6() && qtype == dns.TypeAAAA:
			out = append(out, &dns.AAAA{Hdr: z.header(name, dns.TypeAAAA), AAAA: net.IP(a.AsSlice())})
		}
	}
	return out
}

func (z *Zone) both(name string, addrs []netip.Addr) []dns.RR {
	return append(z.addresses(name, dns.TypeA, addrs), z.addresses(name, dns.TypeAAAA, addrs)...)
}

func protocolName(p corev1.Protocol) string {
	return strings.ToLower(string(cmp.Or(p, corev1.ProtocolTCP)))
}

func deref[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}
