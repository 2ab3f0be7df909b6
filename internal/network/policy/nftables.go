package policy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// family is what differs between IPv4 and IPv6.
type family struct {
	number   uint8 // NFPROTO
	size     uint32
	src, dst uint32 // offsets in the header
	kind     uint32 // of keys
}

var (
	ipv4 = family{number: unix.NFPROTO_IPV4, size: 4, src: 12, dst: 16, kind: typeIPv4}
	ipv6 = family{number: unix.NFPROTO_IPV6, size: 16, src: 8, dst: 24, kind: typeIPv6}
)

// NFTables is the datapath in the kernel. It is used by one goroutine.
type NFTables struct {
	socket   *socket
	families [2]*ruleset
}

// NewNFTables returns the datapath of the network namespace that the calling thread is in. Nothing is changed yet.
func NewNFTables() (*NFTables, error) {
	s, err := newSocket()
	if err != nil {
		return nil, err
	}
	return &NFTables{socket: s, families: [2]*ruleset{newRuleset(ipv4, s), newRuleset(ipv6, s)}}, nil
}

// Close leaves the rules as they are, so that they hold without us.
func (d *NFTables) Close() error { return d.socket.close() }

// Port is by which messages of the kernel name this datapath as who made a change.
func (d *NFTables) Port() uint32 { return d.socket.port }

// Replace holds the kernel to want, whatever there is. What is in force stays so until then.
func (d *NFTables) Replace(want *Desired) error {
	for _, r := range d.families {
		if err := r.replace(want); err != nil {
			return err
		}
	}
	return nil
}

// Update holds the kernel to want, which differs from what was asked for last in no more than dirty. It is one transaction per family. After an
// error only Replace helps.
func (d *NFTables) Update(want *Desired, dirty *Dirty) error {
	for _, r := range d.families {
		if err := r.update(want, dirty); err != nil {
			return err
		}
	}
	return nil
}

// Stands implements Datapath.
func (d *NFTables) Stands(want *Desired) (bool, error) {
	for _, r := range d.families {
		if !r.needed(want) {
			continue
		}
		all, err := r.socket.tables(r.number)
		if err != nil {
			return false, err
		}
		if !slices.ContainsFunc(all, func(t string) bool { return strings.HasPrefix(t, tablePrefix) }) {
			return false, nil
		}
	}
	return true, nil
}

// Probe says why this kernel cannot have rules, or nil.
func (d *NFTables) Probe() error {
	_, err := d.socket.tables(ipv4.number)
	return err
}

// Remove takes all tables of this package away.
func Remove() error {
	d, err := NewNFTables()
	if err != nil {
		if errors.Is(err, unix.EPROTONOSUPPORT) {
			return nil
		}
		return err
	}
	if d.Probe() != nil { // a kernel without nf_tables has none of them
		return d.Close()
	}
	return errors.Join(d.Replace(newDesired()), d.Close())
}

// None is the datapath of a kernel that cannot have rules. It does nothing.
type None struct{}

// Replace implements Datapath.
func (None) Replace(*Desired) error { return nil }

// Update implements Datapath.
func (None) Update(*Desired, *Dirty) error { return nil }

// Stands implements Datapath.
func (None) Stands(*Desired) (bool, error) { return true, nil }

// Close implements Datapath.
func (None) Close() error { return nil }

// ruleset is the table of one family, and what is in it.
type ruleset struct {
	family
	socket *socket
	batch  batch
	key    []byte

	generation int
	placed     bool // the table is there
	sets       map[string]map[Element]struct{}
	chains     map[string]bool // true: it goes on in another
	pods       map[netip.Addr]Restriction
}

func newRuleset(f family, s *socket) *ruleset {
	return &ruleset{family: f, socket: s, batch: batch{family: f.number}}
}

// mine says whether an address is of this family.
func (r *ruleset) mine(a netip.Addr) bool { return a.Is4() == (r.size == 4) }

func (r *ruleset) needed(want *Desired) bool {
	for a := range want.Pods {
		if r.mine(a) {
			return true
		}
	}
	return false
}

// replace builds a table beside those that there are and swaps.
func (r *ruleset) replace(want *Desired) error {
	r.placed = false
	all, err := r.socket.tables(r.number)
	if err != nil {
		return err
	}
	var old []string
	for _, t := range all {
		if strings.HasPrefix(t, tablePrefix) {
			old = append(old, t)
		}
	}
	b := &r.batch
	b.reset()
	needed := r.needed(want)
	if needed {
		if err := r.build(want, old); err != nil {
			return err
		}
	}
	for _, t := range old {
		b.deleteTable(t)
	}
	if err := r.socket.send(b); err != nil {
		return err
	}
	r.placed = needed
	return nil
}

// build writes a whole table. Only what is left in the batch at its end makes the kernel ask it.
func (r *ruleset) build(want *Desired, old []string) error {
	taken := func(n string) bool {
		for _, t := range old {
			if t == n {
				return true
			}
		}
		return false
	}
	for r.generation++; taken(fmt.Sprint(tablePrefix, r.generation)); {
		r.generation++
	}
	r.sets, r.chains, r.pods = map[string]map[Element]struct{}{}, map[string]bool{}, map[netip.Addr]Restriction{}
	b := &r.batch
	b.table = fmt.Sprint(tablePrefix, r.generation)
	b.newTable()
	r.fixed()
	for n, set := range want.Sets {
		r.makeSet(n, set)
		if err := r.cut(); err != nil {
			return err
		}
	}
	for n, c := range want.Chains {
		r.makeChain(n, c)
		if err := r.cut(); err != nil {
			return err
		}
	}
	pods := make([]netip.Addr, 0, len(want.Pods))
	for a := range want.Pods {
		pods = append(pods, a)
	}
	r.restrict(pods, want)
	if err := r.cut(); err != nil {
		return err
	}
	r.entry()
	return nil
}

// cut sends what there is if it is a lot. Nothing of it is in force.
func (r *ruleset) cut() error {
	if len(r.batch.b) < flushBytes {
		return nil
	}
	err := r.socket.send(&r.batch)
	r.batch.reset()
	return err
}

// update changes the table by what is dirty.
func (r *ruleset) update(want *Desired, dirty *Dirty) error {
	if !r.placed || !r.needed(want) {
		if !r.placed && !r.needed(want) {
			return nil
		}
		return r.replace(want)
	}
	r.placed = false // until it has gone well
	b := &r.batch
	b.reset()
	for n := range dirty.Sets {
		if set := want.Sets[n]; set != nil && r.sets[n] == nil {
			r.makeSet(n, set)
		}
	}
	for n := range dirty.Chains {
		if c := want.Chains[n]; c != nil {
			if _, there := r.chains[n]; !there {
				r.makeChain(n, c)
			}
		}
	}
	for n, elements := range dirty.Sets {
		if set := want.Sets[n]; set != nil {
			r.changeSet(n, set, elements)
		}
	}
	pods := make([]netip.Addr, 0, len(dirty.Pods))
	for a := range dirty.Pods {
		pods = append(pods, a)
	}
	r.restrict(pods, want)
	for n := range dirty.Chains {
		rest, there := r.chains[n]
		if want.Chains[n] != nil || !there {
			continue
		}
		b.deleteChain(n)
		if rest {
			b.deleteChain(restOf(n))
		}
		delete(r.chains, n)
	}
	for n := range dirty.Sets {
		if want.Sets[n] == nil && r.sets[n] != nil {
			b.deleteSet(n)
			delete(r.sets, n)
		}
	}
	if len(b.b) > socketBuffer/2 { // more than a transaction may be
		return r.replace(want)
	}
	if err := r.socket.send(b); err != nil {
		return err
	}
	r.placed = true
	return nil
}

// address is what the field of an address is.
func (r *ruleset) address() field { return field{r.kind, r.size} }

// fixed makes what every table has.
func (r *ruleset) fixed() {
	b := &r.batch
	b.newSet(mapIngress, setVerdict, r.address())
	b.newSet(mapEgress, setVerdict, r.address())
	b.newSet(setSelf, 0, r.address(), r.address())
	b.newSet(setPods, 0, r.address())
	b.newChain(chainStray)
	for _, offset := range []uint32{r.src, r.dst} {
		b.rule(chainStray, func() {
			b.packetAddress(offset, r.size, reg0)
			b.lookup(setPods, reg0)
			b.verdict(doDrop, "")
		})
	}
}

// entry makes the kernel ask the table.
func (r *ruleset) entry() {
	b := &r.batch
	b.hookForward()
	b.rule(chainForward, func() {
		b.ct(unix.NFT_CT_STATE, reg0)
		b.anyBit(reg0, ctStray)
		b.verdict(doGoto, chainStray)
	})
	b.rule(chainForward, func() {
		b.client(reg0)
		b.server(reg0 + r.size/4)
		b.lookup(setSelf, reg0)
		b.verdict(doAccept, "")
	})
	b.rule(chainForward, func() {
		b.client(reg0)
		b.follow(mapEgress, reg0)
	})
	b.rule(chainForward, func() {
		b.server(reg0)
		b.follow(mapIngress, reg0)
	})
}

// makeSet makes a set with all that is in it.
func (r *ruleset) makeSet(n string, set *Set) {
	has := map[Element]struct{}{}
	r.sets[n] = has
	for e := range set.Elements {
		if r.mine(e.Addr) {
			has[e] = struct{}{}
		}
	}
	b := &r.batch
	switch set.Kind {
	case Pods:
		b.newSet(n, 0, r.address())
	case Ports:
		b.newSet(n, 0, r.address(), field{typeProtocol, 1}, field{typeService, 2})
	case Networks:
		b.newSet(n, unix.NFT_SET_INTERVAL, r.address())
	}
	list := make([]Element, 0, len(has))
	for e := range has {
		list = append(list, e)
	}
	r.write(n, set.Kind, true, list)
}

func (r *ruleset) changeSet(n string, set *Set, dirty map[Element]struct{}) {
	has := r.sets[n]
	var gone, fresh []Element
	for e := range dirty {
		if !r.mine(e.Addr) {
			continue
		}
		_, is := has[e]
		_, should := set.Elements[e]
		switch {
		case is && !should:
			gone = append(gone, e)
			delete(has, e)
		case should && !is:
			fresh = append(fresh, e)
			has[e] = struct{}{}
		}
	}
	r.write(n, set.Kind, false, gone)
	r.write(n, set.Kind, true, fresh)
}

// write adds elements to a set, or deletes them.
func (r *ruleset) write(set string, kind SetKind, add bool, list []Element) {
	b := &r.batch
	b.elements(set, add, func() bool {
		if len(list) == 0 {
			return false
		}
		e := list[0]
		list = list[1:]
		r.key = appendAddr(r.key[:0], e.Addr)
		if kind == Ports {
			r.key = append(r.key, e.Protocol, 0, 0, 0, byte(e.Port>>8), byte(e.Port), 0, 0)
		}
		b.element(0, r.key, nil)
		if kind == Networks {
			if end := e.Last.Next(); end.IsValid() {
				b.element(unix.NFT_SET_ELEM_INTERVAL_END, appendAddr(r.key[:0], end), nil)
			}
		}
		return true
	})
}

// restrict leads packets of pods to their chains, or not any more.
func (r *ruleset) restrict(pods []netip.Addr, want *Desired) {
	var in, out [2][]netip.Addr // which leave the map of a direction, and which come
	var goneAll, freshAll []netip.Addr
	for _, a := range pods {
		if !r.mine(a) {
			continue
		}
		is, placed := r.pods[a]
		should, wanted := want.Pods[a]
		for d := range is {
			if is[d] == should[d] {
				continue
			}
			if is[d] != "" {
				out[d] = append(out[d], a)
			}
			if should[d] != "" {
				in[d] = append(in[d], a)
			}
		}
		switch {
		case wanted && !placed:
			freshAll = append(freshAll, a)
		case placed && !wanted:
			goneAll = append(goneAll, a)
		}
		if r.pods[a] = should; !wanted {
			delete(r.pods, a)
		}
	}
	for d, m := range [2]string{mapIngress, mapEgress} {
		r.writeVerdicts(m, false, out[d], d, want)
		r.writeVerdicts(m, true, in[d], d, want)
	}
	for _, set := range []string{setPods, setSelf} {
		r.writePods(set, false, goneAll)
		r.writePods(set, true, freshAll)
	}
}

func (r *ruleset) writeVerdicts(set string, add bool, list []netip.Addr, d int, want *Desired) {
	b := &r.batch
	b.elements(set, add, func() bool {
		if len(list) == 0 {
			return false
		}
		a := list[0]
		list = list[1:]
		var verdict func()
		if add {
			verdict = func() {
				if chain := want.Pods[a][d]; chain == closed {
					b.verdictData(doDrop, "")
				} else {
					b.verdictData(doJump, chain)
				}
			}
		}
		r.key = appendAddr(r.key[:0], a)
		b.element(0, r.key, verdict)
		return true
	})
}

func (r *ruleset) writePods(set string, add bool, list []netip.Addr) {
	b := &r.batch
	b.elements(set, add, func() bool {
		if len(list) == 0 {
			return false
		}
		r.key = appendAddr(r.key[:0], list[0])
		if set == setSelf {
			r.key = appendAddr(r.key, list[0])
		}
		list = list[1:]
		b.element(0, r.key, nil)
		return true
	})
}

func restOf(chain string) string { return chain + "-rest" }

// makeChain makes a chain with its rules.
func (r *ruleset) makeChain(n string, c *Chain) {
	b := &r.batch
	b.newChain(n)
	rest, passes := n, false
	for _, x := range c.Admin {
		passes = passes || x.Verdict == Pass
	}
	if passes = passes && (c.Isolated || len(c.Rest) > 0); passes {
		rest = restOf(n)
		b.newChain(rest)
	}
	r.chains[n] = passes
	for i := range c.Admin {
		r.rule(n, c.Direction, &c.Admin[i], rest)
	}
	if passes {
		b.rule(n, func() { b.verdict(doGoto, rest) })
	}
	for i := range c.Rest {
		r.rule(rest, c.Direction, &c.Rest[i], rest)
	}
	if c.Isolated {
		b.rule(rest, func() { b.verdict(doDrop, "") })
	}
}

// rule adds one to a chain; rest is the chain of the next tier, or the same if there is none to go to.
func (r *ruleset) rule(chain string, d Direction, x *Rule, rest string) {
	b := &r.batch
	b.rule(chain, func() {
		if x.Protocol != 0 {
			b.ct(unix.NFT_CT_PROTOCOL, reg0)
			b.compare(unix.NFT_CMP_EQ, reg0, []byte{x.Protocol})
			if x.First != 0 || x.Last != anyPort {
				b.port(reg0)
				if x.First == x.Last {
					b.compare(unix.NFT_CMP_EQ, reg0, binary.BigEndian.AppendUint16(nil, x.First))
				} else {
					b.compare(unix.NFT_CMP_GTE, reg0, binary.BigEndian.AppendUint16(nil, x.First))
					b.compare(unix.NFT_CMP_LTE, reg0, binary.BigEndian.AppendUint16(nil, x.Last))
				}
			}
		}
		if x.Standing {
			b.ct(unix.NFT_CT_STATE, reg0)
			b.anyBit(reg0, ctStanding)
		}
		if x.Set != "" {
			if d == Ingress {
				b.client(reg0)
			} else {
				b.server(reg0)
			}
			if strings.HasPrefix(x.Set, "ports-") {
				b.ct(unix.NFT_CT_PROTOCOL, reg0+r.size/4)
				b.port(reg0 + r.size/4 + 1)
			}
			b.lookup(x.Set, reg0)
		}
		switch {
		case x.Verdict == Deny:
			b.verdict(doDrop, "")
		case x.Verdict == Pass && rest != chain:
			b.verdict(doGoto, rest)
		default:
			b.verdict(doReturn, "")
		}
	})
}

// TracksSCTP says whether the kernel knows ports of SCTP connections.
func TracksSCTP() bool {
	_, err := os.Stat("/proc/sys/net/netfilter/nf_conntrack_sctp_timeout_established")
	return err == nil
}
