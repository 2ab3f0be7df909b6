package proxy

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// Names in the tables. There is one table per family and generation; nobody else's rules are in them.
const (
	tablePrefix = "celox-services-"

	mapFrontends    = "frontends"     // address . protocol . port → number of a route
	mapNodePorts    = "node-ports"    // protocol . port → number of a route
	mapRoutes       = "routes"        // number → chain
	mapEndpoints    = "endpoints"     // address (none: a node port) . protocol . port . number → address . port
	mapAffinity     = "affinity"      // client . address . protocol . port → address . port, for a while
	mapRefused      = "refused"       // address . protocol . port → number of a fate, of packets that nobody takes
	mapRefusedPorts = "refused-ports" // the same for node ports
	mapFates        = "fates"         // number → refuse, or drop
	mapSources      = "sources"       // address . protocol . port → chain that lets only some through
	setCluster      = "cluster-ips"   // addresses on which other ports are refused
	setHairpin      = "hairpin"       // address . the same: a pod that reaches itself
	setPods         = "pods"          // ranges of this node's pods

	chainDispatch = "dispatch"
	chainRefuse   = "refuse"
	chainNobody   = "nobody"

	// markMasquerade is the bit of the packet mark that asks for masquerading, the same as kube-proxy's.
	markMasquerade = 0x4000
	// localNumbers is where the numbers of a frontend's local endpoints begin.
	localNumbers = 0x10000
)

// Numbers of fates.
const (
	fateRefuse = 1
	fateDrop   = 2
)

// Values of the kernel's that golang.org/x/sys doesn't name.
const (
	rtnLocal   = 2 // linux/rtnetlink.h
	ctStateNew = 8 // NF_CT_STATE_BIT(IP_CT_NEW)
	reg0       = unix.NFT_REG32_00
)

// family is what differs between IPv4 and IPv6.
type family struct {
	nft      nftables.TableFamily
	proto    byte // NFPROTO
	size     uint32
	src, dst uint32 // offsets in the header
	addr     nftables.SetDatatype
	reject   uint8 // "port unreachable"
	any      netip.Addr
}

var (
	ipv4 = family{
		nft: nftables.TableFamilyIPv4, proto: unix.NFPROTO_IPV4, size: 4, src: 12, dst: 16, addr: nftables.TypeIPAddr, reject: 3, any: netip.IPv4Unspecified(),
	}
	ipv6 = family{
		nft: nftables.TableFamilyIPv6, proto: unix.NFPROTO_IPV6, size: 16, src: 8, dst: 24, addr: nftables.TypeIP6Addr, reject: 4, any: netip.IPv6Unspecified(),
	}
)

// regs is how many registers an address takes.
func (f family) regs() uint32 { return f.size / 4 }

// masquerade is when a packet gets an address of the node as its source, so that the answer comes back this way.
type masquerade string

const (
	never     masquerade = "never"
	always    masquerade = "always"
	strangers masquerade = "strangers" // if it does not come from a pod of this node
)

// route is a chain that sends packets to one of count endpoints. All frontends that are alike in it share one: which endpoints they are is
// in the map.
type route struct {
	nodePort bool
	count    int
	local    bool // of the local endpoints
	mask     masquerade
	affinity time.Duration
	// split is for frontends with local endpoints for strangers: count and localCount; mask and local mean nothing.
	split      bool
	localCount int
}

func (r route) name() string {
	where := "address"
	if r.nodePort {
		where = "node"
	}
	if r.split {
		return fmt.Sprintf("%s-%d-local-%d-%d", where, r.count, r.localCount, int(r.affinity.Seconds()))
	}
	what := "all"
	if r.local {
		what = "local"
	}
	return fmt.Sprintf("%s-%d-%s-%s-%d", where, r.count, what, r.mask, int(r.affinity.Seconds()))
}

// parts are the routes that a split leads to: for pods of this node, for processes of this node, for others.
func (r route) parts() (pods, processes, others route) {
	pods = route{nodePort: r.nodePort, count: r.count, mask: never, affinity: r.affinity}
	processes = pods
	processes.mask = always
	others = route{nodePort: r.nodePort, count: r.localCount, local: true, mask: never, affinity: r.affinity}
	return pods, processes, others
}

// routeOf is the route of a frontend that has endpoints.
func routeOf(k Key, f *Frontend) route {
	r := route{nodePort: k.NodePort(), count: len(f.Endpoints), affinity: f.Affinity, mask: always}
	switch {
	case f.Cluster:
		r.mask = strangers
	case f.LocalOnly:
		r.split, r.localCount, r.mask = true, len(f.LocalEndpoints), ""
	}
	return r
}

func load(base expr.PayloadBase, offset, size, reg uint32) expr.Any {
	return &expr.Payload{DestRegister: reg, Base: base, Offset: offset, Len: size}
}

func (f family) loadSrc(reg uint32) expr.Any {
	return load(expr.PayloadBaseNetworkHeader, f.src, f.size, reg)
}
func (f family) loadDst(reg uint32) expr.Any {
	return load(expr.PayloadBaseNetworkHeader, f.dst, f.size, reg)
}

// loadPort loads protocol and port of the destination.
func loadPort(reg uint32) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg}, load(expr.PayloadBaseTransportHeader, 2, 2, reg+1)}
}

// key loads the address, or none for a node port, protocol and port.
func (f family) key(nodePort bool, reg uint32) []expr.Any {
	first := f.loadDst(reg)
	if nodePort {
		first = &expr.Immediate{Register: reg, Data: f.any.AsSlice()}
	}
	return append([]expr.Any{first}, loadPort(reg+f.regs())...)
}

func lookup(name string, reg uint32) *expr.Lookup {
	return &expr.Lookup{SourceRegister: reg, SetName: name}
}

func find(name string, reg, dst uint32) *expr.Lookup {
	return &expr.Lookup{SourceRegister: reg, SetName: name, DestRegister: dst, IsDestRegSet: true}
}

// verdicts looks a verdict up and follows it.
func verdicts(name string, reg uint32) *expr.Lookup { return find(name, reg, unix.NFT_REG_VERDICT) }

// follow looks a number up, and follows the verdict that another map has for it. Only the second, small map has verdicts: the kernel looks through all
// verdicts of a table whenever one is added.
func follow(name, verdictsOf string, reg uint32) []expr.Any {
	return []expr.Any{find(name, reg, reg), verdicts(verdictsOf, reg)}
}

func goTo(chain string) expr.Any { return &expr.Verdict{Kind: expr.VerdictGoto, Chain: chain} }

func mark() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: reg0},
		&expr.Bitwise{
			SourceRegister: reg0, DestRegister: reg0, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(^uint32(markMasquerade)), Xor: binaryutil.NativeEndian.PutUint32(markMasquerade),
		},
		&expr.Meta{Key: expr.MetaKeyMARK, Register: reg0, SourceRegister: true},
	}
}

// fromPods matches packets of this node's pods, or of others.
func (f family) fromPods(not bool) []expr.Any {
	l := lookup(setPods, reg0)
	l.Invert = not
	return []expr.Any{f.loadSrc(reg0), l}
}

// local matches packets whose source or destination is an address of this machine.
func local(src bool) []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: reg0, FlagSADDR: src, FlagDADDR: !src, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg0, Data: binaryutil.NativeEndian.PutUint32(rtnLocal)},
	}
}

// rules are the content of a route's chain.
func (f family) rules(r route) [][]expr.Any {
	if r.split {
		pods, processes, others := r.parts()
		out := [][]expr.Any{
			append(f.fromPods(false), goTo(pods.name())),
			append(local(true), goTo(processes.name())),
		}
		if r.localCount == 0 {
			return append(out, []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}})
		}
		return append(out, []expr.Any{goTo(others.name())})
	}
	var out [][]expr.Any
	switch r.mask {
	case always:
		out = append(out, mark())
	case strangers:
		out = append(out, append(f.fromPods(true), mark()...))
	case never:
	}
	a := f.regs()
	to, free := uint32(reg0), reg0+a+1 // the endpoint, and the first register behind it
	nat := &expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(f.proto), RegAddrMin: to, RegProtoMin: to + a, Specified: true}
	client := append([]expr.Any{f.loadSrc(free)}, f.key(r.nodePort, free+a)...)
	stay := &expr.Dynset{
		SrcRegKey: free, SrcRegData: to, SetName: mapAffinity, Operation: unix.NFT_DYNSET_OP_UPDATE, Timeout: r.affinity,
	}
	if r.affinity > 0 {
		known := append(append([]expr.Any{}, client...), find(mapAffinity, free, to))
		out = append(out, append(known, stay, nat))
	}
	offset := uint32(0)
	if r.local {
		offset = localNumbers
	}
	pick := append(f.key(r.nodePort, free),
		&expr.Numgen{Register: free + a + 2, Modulus: uint32(r.count), Type: unix.NFT_NG_RANDOM, Offset: offset},
		find(mapEndpoints, free, to))
	if r.affinity > 0 {
		pick = append(append(pick, client...), stay)
	}
	return append(out, append(pick, nat))
}

// sets are the maps and sets of a table, empty.
func (f family) sets(t *nftables.Table) []*nftables.Set {
	place := nftables.MustConcatSetType(f.addr, nftables.TypeInetProto, nftables.TypeInetService)
	port := nftables.MustConcatSetType(nftables.TypeInetProto, nftables.TypeInetService)
	endpoint := nftables.MustConcatSetType(f.addr, nftables.TypeInetService)
	vmap := func(name string, key nftables.SetDatatype, concatenation bool) *nftables.Set {
		return &nftables.Set{Table: t, Name: name, IsMap: true, KeyType: key, DataType: nftables.TypeVerdict, Concatenation: concatenation}
	}
	numbers := func(name string, key nftables.SetDatatype) *nftables.Set {
		return &nftables.Set{Table: t, Name: name, IsMap: true, KeyType: key, DataType: nftables.TypeInteger, Concatenation: true}
	}
	return []*nftables.Set{
		numbers(mapFrontends, place), numbers(mapRefused, place), numbers(mapNodePorts, port), numbers(mapRefusedPorts, port),
		vmap(mapSources, place, true), vmap(mapRoutes, nftables.TypeInteger, false), vmap(mapFates, nftables.TypeInteger, false),
		{
			Table: t, Name: mapEndpoints, IsMap: true, Concatenation: true, DataType: endpoint,
			KeyType: nftables.MustConcatSetType(f.addr, nftables.TypeInetProto, nftables.TypeInetService, nftables.TypeInteger),
		},
		{
			Table: t, Name: mapAffinity, IsMap: true, Concatenation: true, DataType: endpoint, HasTimeout: true, Dynamic: true, Size: 1 << 20,
			KeyType: nftables.MustConcatSetType(f.addr, f.addr, nftables.TypeInetProto, nftables.TypeInetService),
		},
		{Table: t, Name: setCluster, KeyType: f.addr},
		{Table: t, Name: setHairpin, KeyType: nftables.MustConcatSetType(f.addr, f.addr), Concatenation: true},
		{Table: t, Name: setPods, KeyType: f.addr, Interval: true},
	}
}

// fixed are the chains that every table has and that no hook calls.
func (f family) fixed() map[string][][]expr.Any {
	a := f.regs()
	loopback := &expr.Cmp{Op: expr.CmpOpNeq, Register: reg0, Data: []byte{127}}
	notLoopback := []expr.Any{load(expr.PayloadBaseNetworkHeader, f.dst, 1, reg0), loopback}
	if f.size == 16 {
		one := netip.IPv6Loopback().AsSlice()
		notLoopback = []expr.Any{f.loadDst(reg0), &expr.Cmp{Op: expr.CmpOpNeq, Register: reg0, Data: one}}
	}
	onNode := append(notLoopback, local(false)...)
	isTCP := []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg0}, &expr.Cmp{Op: expr.CmpOpEq, Register: reg0, Data: []byte{unix.IPPROTO_TCP}},
	}
	isNew := []expr.Any{
		&expr.Ct{Register: reg0, Key: expr.CtKeySTATE},
		&expr.Bitwise{SourceRegister: reg0, DestRegister: reg0, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(ctStateNew), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: reg0, Data: make([]byte, 4)},
	}
	rule := func(parts ...[]expr.Any) []expr.Any {
		var out []expr.Any
		for _, p := range parts {
			out = append(out, p...)
		}
		return out
	}
	return map[string][][]expr.Any{
		chainDispatch: {
			rule(f.key(false, reg0), follow(mapFrontends, mapRoutes, reg0)),
			rule(onNode, loadPort(reg0), follow(mapNodePorts, mapRoutes, reg0)),
		},
		chainNobody: {
			rule(isNew, f.key(false, reg0), follow(mapRefused, mapFates, reg0)),
			rule(isNew, onNode, loadPort(reg0), follow(mapRefusedPorts, mapFates, reg0)),
			// A packet that is on its way while tables take over from others may find neither's frontends. It is lost, and comes again; refused, it would not.
			rule(isNew, f.key(false, reg0), []expr.Any{find(mapFrontends, reg0, reg0), &expr.Verdict{Kind: expr.VerdictDrop}}),
			rule(isNew, onNode, loadPort(reg0), []expr.Any{find(mapNodePorts, reg0, reg0), &expr.Verdict{Kind: expr.VerdictDrop}}),
			rule([]expr.Any{f.loadDst(reg0), lookup(setCluster, reg0), goTo(chainRefuse)}),
		},
		chainRefuse: {
			rule(isTCP, []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}}),
			{&expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: f.reject}},
		},
		"post-routing-work": {
			{
				&expr.Meta{Key: expr.MetaKeyMARK, Register: reg0},
				&expr.Bitwise{SourceRegister: reg0, DestRegister: reg0, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(markMasquerade), Xor: make([]byte, 4)},
				&expr.Cmp{Op: expr.CmpOpNeq, Register: reg0, Data: make([]byte, 4)},
				&expr.Masq{FullyRandom: true},
			},
			{f.loadSrc(reg0), f.loadDst(reg0 + a), lookup(setHairpin, reg0), &expr.Masq{FullyRandom: true}},
		},
	}
}

// base is a chain that the kernel calls; it jumps to a fixed one.
type base struct {
	name     string
	kind     nftables.ChainType
	hook     *nftables.ChainHook
	priority *nftables.ChainPriority
	rules    [][]expr.Any
}

func (f family) bases() []base {
	jump := func(chain string) [][]expr.Any {
		return [][]expr.Any{{&expr.Verdict{Kind: expr.VerdictJump, Chain: chain}}}
	}
	nat, filter := nftables.ChainTypeNAT, nftables.ChainTypeFilter
	// Who may not use an address is turned away before its packets have another.
	early := nftables.ChainPriorityRef(*nftables.ChainPriorityNATDest - 10)
	return []base{
		{"pre-routing", nat, nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest, jump(chainDispatch)},
		{"output", nat, nftables.ChainHookOutput, nftables.ChainPriorityNATDest, jump(chainDispatch)},
		{"post-routing", nat, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource, jump("post-routing-work")},
		{"filter-input", filter, nftables.ChainHookInput, nftables.ChainPriorityFilter, jump(chainNobody)},
		{"filter-forward", filter, nftables.ChainHookForward, nftables.ChainPriorityFilter, jump(chainNobody)},
		{"filter-output", filter, nftables.ChainHookOutput, nftables.ChainPriorityFilter, jump(chainNobody)},
		{"sources", filter, nftables.ChainHookPrerouting, early, [][]expr.Any{append(f.key(false, reg0), verdicts(mapSources, reg0))}},
	}
}

// Elements of the maps.

func protocolNumber(p corev1.Protocol) byte {
	switch p {
	case corev1.ProtocolUDP:
		return unix.IPPROTO_UDP
	case corev1.ProtocolSCTP:
		return unix.IPPROTO_SCTP
	}
	return unix.IPPROTO_TCP
}

func protocolOf(number byte) corev1.Protocol {
	switch number {
	case unix.IPPROTO_UDP:
		return corev1.ProtocolUDP
	case unix.IPPROTO_SCTP:
		return corev1.ProtocolSCTP
	}
	return corev1.ProtocolTCP
}

// number is a number of a route or a fate as the maps have it.
func number(n uint32) []byte { return binaryutil.NativeEndian.PutUint32(n) }

func portKey(k Key) []byte {
	return []byte{protocolNumber(k.Protocol), 0, 0, 0, byte(k.Port >> 8), byte(k.Port), 0, 0}
}

func placeKey(k Key) []byte { return append(k.Addr.AsSlice(), portKey(k)...) }

func endpointKey(k Key, number uint32) []byte {
	return append(placeKey(k), binaryutil.NativeEndian.PutUint32(number)...)
}

func endpointValue(a netip.AddrPort) []byte {
	return append(a.Addr().AsSlice(), byte(a.Port()>>8), byte(a.Port()), 0, 0)
}

// rangeElements are the ends of a range in an interval set.
func rangeElements(p netip.Prefix) []nftables.SetElement {
	first := p.Masked().Addr().AsSlice()
	end := append([]byte{}, first...)
	bits := p.Bits()
	for i := bits; i < len(end)*8; i++ {
		end[i/8] |= 0x80 >> (i % 8)
	}
	for i := len(end) - 1; i >= 0; i-- { // the end is the first address behind
		if end[i]++; end[i] != 0 {
			break
		}
	}
	return []nftables.SetElement{{Key: first}, {Key: end, IntervalEnd: true}}
}
