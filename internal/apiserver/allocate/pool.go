package allocate

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
)

// PortRange is a range of ports, both ends included.
type PortRange struct{ First, Last int32 }

func (r PortRange) holds(p int32) bool { return p >= r.First && p <= r.Last }

// Pool is the addresses and ports that there are, and who has them: the services that are stored (Take, Drop), those that are about to be
// (Claim) and, for addresses, others. To give something away costs the same whatever the number of services. It is not safe for concurrent use.
type Pool struct {
	// ranges are those of the configuration, the primary family first; more are of ServiceCIDR objects.
	ranges []addressRange
	more   []*addressRange
	ports  PortRange
	// cursors are where the search in each of more begins; they outlive Reset.
	cursors map[netip.Prefix]netip.Addr

	addresses map[netip.Addr]string // who has an address, by service key
	taken     map[int32]string      // who has a port
	// claims are what services have that are about to be written; draft is what Assign has given so far.
	claims claims
	draft  draft
	// others says who else has an address; nil is nobody.
	others func(netip.Addr) string
	// cursors are where the next search begins, so that a freed address or port is not given away again at once.
	portCursor int32
}

type addressRange struct {
	prefix netip.Prefix
	family corev1.IPFamily
	// first is the "kubernetes" service's, last the highest that may be given.
	first, last netip.Addr
	// dynamic is where addresses that nobody asked for begin: those below are left to people who choose (KEP-3070).
	dynamic netip.Addr
	cursor  netip.Addr
	// extra is a range of a ServiceCIDR object; its first address is nobody's in particular.
	extra bool
}

// New makes a pool of one or two ranges of different families, the primary one first.
func New(cidrs []netip.Prefix, ports PortRange) (*Pool, error) {
	if len(cidrs) == 0 || len(cidrs) > 2 {
		return nil, errors.New("one service CIDR is needed, or two of different families")
	}
	if ports.First < 1 || ports.Last > 65535 || ports.First > ports.Last {
		return nil, fmt.Errorf("the node port range %d-%d is no range of ports", ports.First, ports.Last)
	}
	p := &Pool{ports: ports, cursors: map[netip.Prefix]netip.Addr{}}
	for _, c := range cidrs {
		if c.Addr().BitLen()-c.Bits() < 2 {
			return nil, fmt.Errorf("the service CIDR %s is too small", c)
		}
		r := rangeOf(c.Masked())
		if len(p.ranges) == 1 && p.ranges[0].family == r.family {
			return nil, errors.New("two service CIDRs must be of different families")
		}
		p.ranges = append(p.ranges, r)
	}
	p.portCursor = ports.First + p.staticPorts()
	p.claims = claims{map[netip.Addr]want{}, map[int32]want{}}
	p.Reset()
	return p, nil
}

// rangeOf divides a network of four addresses at least.
func rangeOf(c netip.Prefix) addressRange {
	size := c.Addr().BitLen() - c.Bits()
	r := addressRange{prefix: c, family: corev1.IPv4Protocol, first: c.Addr().Next()}
	if c.Addr().Is6() {
		r.family = corev1.IPv6Protocol
	}
	hosts := uint64(1) << min(size, 20)
	r.last = add(c.Addr(), hosts-1)
	if r.family == corev1.IPv4Protocol && size <= 20 {
		r.last = r.last.Prev() // the broadcast address
	}
	r.dynamic = add(c.Addr(), min(max(16, hosts/16), 256, hosts/2))
	r.cursor = r.dynamic
	return r
}

// Extend lets addresses come from a stored ServiceCIDR as well, unless it is being deleted or is one of the configuration.
func (p *Pool) Extend(c *networkingv1.ServiceCIDR) {
	if c.DeletionTimestamp != nil {
		return
	}
	for _, text := range c.Spec.CIDRs {
		n, err := netip.ParsePrefix(text)
		if err != nil || n.Addr().BitLen()-n.Bits() < 2 {
			continue
		}
		n = n.Masked()
		known := func(r addressRange) bool { return r.prefix == n }
		if slices.ContainsFunc(p.ranges, known) || slices.ContainsFunc(p.more, func(r *addressRange) bool { return known(*r) }) {
			continue
		}
		r := rangeOf(n)
		if at, ok := p.cursors[n]; ok {
			r.cursor = at
		}
		r.extra = true
		p.more = append(p.more, &r)
	}
}

// ManagedBy is the value of the label networkingv1.LabelManagedBy of the IPAddresses that follow from services.
const ManagedBy = "ipallocator.k8s.io"

// OwnerOf says who an IPAddress that somebody made keeps its address for: the service that it refers to, or something else. Those that
// follow from services say nothing that the services don't, and may be a moment late: they keep it for "".
func OwnerOf(ip *networkingv1.IPAddress) string {
	if ip.Labels[networkingv1.LabelManagedBy] == ManagedBy {
		return ""
	}
	if r := ip.Spec.ParentRef; r != nil && r.Group == "" && r.Resource == "services" {
		return r.Namespace + "/" + r.Name
	}
	return "IPAddress " + ip.Name
}

// Others lets f say who has an address besides services.
func (p *Pool) Others(f func(netip.Addr) string) { p.others = f }

// staticPorts is how many ports at the beginning of the range are left to people who choose (KEP-3668).
func (p *Pool) staticPorts() int32 {
	size := p.ports.Last - p.ports.First + 1
	if size < 16 {
		return 0
	}
	return min(max(16, size/32), 128)
}

func add(a netip.Addr, n uint64) netip.Addr {
	b := a.As16()
	for i := 15; i >= 0 && n > 0; i-- {
		n += uint64(b[i])
		b[i] = byte(n)
		n >>= 8
	}
	out := netip.AddrFrom16(b)
	if a.Is4() {
		return out.Unmap()
	}
	return out
}

// First is the address of the "kubernetes" service.
func (p *Pool) First() netip.Addr { return p.ranges[0].first }

// Reset forgets what stored services have.
func (p *Pool) Reset() {
	p.addresses = map[netip.Addr]string{}
	p.taken = map[int32]string{}
}

// Shrink forgets the ranges that Extend added.
func (p *Pool) Shrink() { p.more = nil }

// Take notes what a stored service has.
func (p *Pool) Take(s *corev1.Service) {
	key := s.Namespace + "/" + s.Name
	has(s, func(a netip.Addr) { p.addresses[a] = key }, func(n int32) { p.taken[n] = key })
}

// Drop forgets what a stored service had.
func (p *Pool) Drop(s *corev1.Service) {
	key := s.Namespace + "/" + s.Name
	has(s, func(a netip.Addr) {
		if p.addresses[a] == key {
			delete(p.addresses, a)
		}
	}, func(n int32) {
		if p.taken[n] == key {
			delete(p.taken, n)
		}
	})
}

// has names what a service has, once or more often. What else stands in a service that is a name elsewhere was never given out.
func has(s *corev1.Service, address func(netip.Addr), port func(int32)) {
	if external(s) {
		return
	}
	for _, ip := range clusterIPs(s) {
		if a, err := netip.ParseAddr(ip); err == nil {
			address(a)
		}
	}
	// What stands there in a service of another type was never given out.
	for i := 0; usesPorts(s) && i < len(s.Spec.Ports); i++ {
		if n := s.Spec.Ports[i].NodePort; n != 0 {
			port(n)
		}
	}
	if n := s.Spec.HealthCheckNodePort; n != 0 {
		port(n)
	}
}

// draft is what one service is being given.
type draft struct {
	key       string
	addresses map[netip.Addr]bool
	ports     map[int32]bool
}

// claims count who wants what; one service may be written twice at a time.
type claims struct {
	addresses map[netip.Addr]want
	ports     map[int32]want
}

type want struct {
	key   string
	times int
}

// Claim keeps what a service has for it, until the function that is returned is called.
func (p *Pool) Claim(s *corev1.Service) (end func()) {
	key := s.Namespace + "/" + s.Name
	var addresses []netip.Addr
	var ports []int32
	has(s, func(a netip.Addr) {
		addresses = append(addresses, a)
		p.claims.addresses[a] = want{key, p.claims.addresses[a].times + 1}
	}, func(n int32) {
		ports = append(ports, n)
		p.claims.ports[n] = want{key, p.claims.ports[n].times + 1}
	})
	return func() {
		for _, a := range addresses {
			if w := p.claims.addresses[a]; w.times > 1 {
				p.claims.addresses[a] = want{w.key, w.times - 1}
			} else {
				delete(p.claims.addresses, a)
			}
		}
		for _, n := range ports {
			if w := p.claims.ports[n]; w.times > 1 {
				p.claims.ports[n] = want{w.key, w.times - 1}
			} else {
				delete(p.claims.ports, n)
			}
		}
	}
}

// Claimed says how many addresses and ports are kept by claims.
func (p *Pool) Claimed() int { return len(p.claims.addresses) + len(p.claims.ports) }

// owner is who has an address, "" if nobody has.
func (p *Pool) owner(a netip.Addr) string {
	if p.draft.addresses[a] {
		return p.draft.key
	}
	if w, ok := p.claims.addresses[a]; ok {
		return w.key
	}
	if o := p.addresses[a]; o != "" || p.others == nil {
		return o
	}
	return p.others(a)
}

// portOwner is who has a port, "" if nobody has.
func (p *Pool) portOwner(n int32) string {
	if p.draft.ports[n] {
		return p.draft.key
	}
	if w, ok := p.claims.ports[n]; ok {
		return w.key
	}
	return p.taken[n]
}

func clusterIPs(s *corev1.Service) []string {
	if len(s.Spec.ClusterIPs) > 0 {
		return s.Spec.ClusterIPs
	}
	if s.Spec.ClusterIP != "" {
		return []string{s.Spec.ClusterIP}
	}
	return nil
}

func (p *Pool) rangeOf(f corev1.IPFamily) *addressRange {
	for i := range p.ranges {
		if p.ranges[i].family == f {
			return &p.ranges[i]
		}
	}
	return nil
}

// nextAddress finds a free address of a family.
func (p *Pool) nextAddress(r *addressRange) (netip.Addr, bool) {
	find := func(from, to netip.Addr) (netip.Addr, bool) {
		for a := from; a.Compare(to) <= 0; a = a.Next() {
			if (r.extra || a != r.first) && p.owner(a) == "" {
				p.draft.addresses[a] = true
				return a, true
			}
		}
		return netip.Addr{}, false
	}
	a, ok := find(r.cursor, r.last)
	if !ok {
		a, ok = find(r.dynamic, r.last)
	}
	if !ok {
		a, ok = find(r.first, r.dynamic)
	}
	if ok {
		if r.cursor = a.Next(); r.cursor.Compare(r.last) > 0 || r.cursor.Compare(r.dynamic) < 0 {
			r.cursor = r.dynamic
		}
		if r.extra {
			p.cursors[r.prefix] = r.cursor
		}
	}
	return a, ok
}

// next finds a free address of a family in any of its ranges.
func (p *Pool) next(f corev1.IPFamily) (netip.Addr, bool) {
	if a, ok := p.nextAddress(p.rangeOf(f)); ok {
		return a, true
	}
	for _, r := range p.more {
		if r.family == f {
			if a, ok := p.nextAddress(r); ok {
				return a, true
			}
		}
	}
	return netip.Addr{}, false
}

// holds says whether an address may be asked for: it is in a range, and not its network's own.
func (p *Pool) holds(f corev1.IPFamily, a netip.Addr) bool {
	in := func(r *addressRange) bool { return r.family == f && r.prefix.Contains(a) && a != r.prefix.Addr() }
	for i := range p.ranges {
		if in(&p.ranges[i]) {
			return true
		}
	}
	return slices.ContainsFunc(p.more, in)
}

// nextPort finds a free port.
func (p *Pool) nextPort() (int32, bool) {
	find := func(from, to int32) (int32, bool) {
		for n := from; n <= to; n++ {
			if p.portOwner(n) == "" {
				p.draft.ports[n] = true
				return n, true
			}
		}
		return 0, false
	}
	dynamic := p.ports.First + p.staticPorts()
	n, ok := find(p.portCursor, p.ports.Last)
	if !ok {
		n, ok = find(dynamic, p.ports.Last)
	}
	if !ok {
		n, ok = find(p.ports.First, dynamic)
	}
	if ok {
		if p.portCursor = n + 1; p.portCursor > p.ports.Last || p.portCursor < dynamic {
			p.portCursor = dynamic
		}
	}
	return n, ok
}
