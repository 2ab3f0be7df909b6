package network

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Values of the kernel's that golang.org/x/sys doesn't name.
const (
	ipsDstNAT = 1 << 5 // linux/netfilter/nf_conntrack_common.h
	rtnLocal  = 2      // linux/rtnetlink.h

	icmpRedirect   = 5   // RFC 792
	icmpv6Router   = 134 // RFC 4861, an advertisement
	icmpv6Redirect = 137 // RFC 4861
)

// reg0 is the first of the registers of 4 bytes. What is compared begins there.
const reg0 = unix.NFT_REG32_00

// elementsPerMessage keeps messages below the 64 KiB that an attribute may have.
const elementsPerMessage = 256

// rulesWork asks the kernel for the tables that there are, which it can only tell if it can have some.
func rulesWork() error {
	c, err := nftables.New()
	if err == nil {
		_, err = c.ListTables()
	}
	return err
}

// sets are all sets and maps of the table, by their names.
func sets(table *nftables.Table) map[string]*nftables.Set {
	out := map[string]*nftables.Set{}
	id := uint32(0)
	for _, v6 := range []bool{false, true} {
		addr := nftables.TypeIPAddr
		if v6 {
			addr = nftables.TypeIP6Addr
		}
		to := nftables.MustConcatSetType(addr, nftables.TypeInetService)
		for _, s := range []*nftables.Set{
			{Name: nameOf(mapPorts, v6), IsMap: true, KeyType: nftables.MustConcatSetType(nftables.TypeInetProto, nftables.TypeInetService), DataType: to},
			{Name: nameOf(mapPortsAt, v6), IsMap: true, KeyType: nftables.MustConcatSetType(addr, nftables.TypeInetProto, nftables.TypeInetService), DataType: to},
			{Name: nameOf(setSelf, v6), KeyType: nftables.MustConcatSetType(addr, addr)},
		} {
			id++
			s.Table, s.Concatenation, s.ID = table, true, id // within the transaction; the library would count in a variable that is nobody's
			out[s.Name] = s
		}
	}
	return out
}

func nameOf(p place, v6 bool) string {
	if v6 {
		return string(p) + "-6"
	}
	return string(p) + "-4"
}

// encode is an element as the kernel has it: each part begins at a multiple of 4 bytes.
func encode(e element) nftables.SetElement {
	var out nftables.SetElement
	port := func(n uint16) []byte { return append(binaryutil.BigEndian.PutUint16(n), 0, 0) }
	if e.In != mapPorts {
		out.Key = append(out.Key, e.Addr.AsSlice()...)
	}
	if e.In == setSelf {
		out.Key = append(out.Key, e.Addr.AsSlice()...)
		return out
	}
	out.Key = append(append(out.Key, protocols()[e.Protocol], 0, 0, 0), port(e.Port)...)
	out.Val = append(e.Pod.AsSlice(), port(e.To)...)
	return out
}

func protocols() map[string]byte {
	return map[string]byte{"TCP": unix.IPPROTO_TCP, "UDP": unix.IPPROTO_UDP, "SCTP": unix.IPPROTO_SCTP}
}

// bySet sorts elements by the names of their sets.
func bySet(elements []element) map[string][]nftables.SetElement {
	out := map[string][]nftables.SetElement{}
	for _, e := range elements {
		name := nameOf(e.In, e.Addr.Is6())
		out[name] = append(out[name], encode(e))
	}
	return out
}

// applyRules makes chains and elements the whole content of the table in one transaction, or removes the table if there are none.
func applyRules(ns *os.File, chains []chain, elements []element) error {
	c, err := nftables.New(nftables.WithNetNSFd(int(ns.Fd())))
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	table := &nftables.Table{Family: nftables.TableFamilyINet, Name: tableName}
	c.AddTable(table) // or there is nothing to remove
	c.DelTable(table)
	if len(chains) > 0 {
		c.AddTable(table)
		for _, s := range sets(table) {
			if err := c.AddSet(s, nil); err != nil {
				return fmt.Errorf("nftables: set %s: %w", s.Name, err)
			}
		}
		if err := addElements(c, sets(table), elements); err != nil {
			return err
		}
	}
	for _, ch := range chains {
		c.AddChain(nftChain(table, ch))
	}
	for _, ch := range chains {
		for _, r := range ch.Rules {
			c.AddRule(&nftables.Rule{Table: table, Chain: &nftables.Chain{Name: ch.Name, Table: table}, Exprs: expressions(r)})
		}
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	return nil
}

func addElements(c *nftables.Conn, to map[string]*nftables.Set, elements []element) error {
	for name, list := range bySet(elements) {
		for part := range slices.Chunk(list, elementsPerMessage) {
			if err := c.SetAddElements(to[name], part); err != nil {
				return fmt.Errorf("nftables: set %s: %w", name, err)
			}
		}
	}
	return nil
}

// changeElements adds elements to the table that is there, or removes them from it.
func changeElements(ns *os.File, add bool, elements []element) error {
	c, err := nftables.New(nftables.WithNetNSFd(int(ns.Fd())))
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	all := sets(&nftables.Table{Family: nftables.TableFamilyINet, Name: tableName})
	if add {
		if err := addElements(c, all, elements); err != nil {
			return err
		}
	} else {
		for name, list := range bySet(elements) {
			if err := c.SetDeleteElements(all[name], list); err != nil {
				return fmt.Errorf("nftables: set %s: %w", name, err)
			}
		}
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	return nil
}

func nftChain(table *nftables.Table, c chain) *nftables.Chain {
	out := &nftables.Chain{Name: c.Name, Table: table}
	accept := nftables.ChainPolicyAccept
	if c.Hook != hookNone {
		out.Type, out.Policy = nftables.ChainTypeNAT, &accept
	}
	switch c.Hook {
	case hookRawPreRouting:
		out.Type, out.Hooknum, out.Priority = nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityRaw
	case hookPreRouting:
		out.Hooknum, out.Priority = nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest
	case hookOutput:
		out.Hooknum, out.Priority = nftables.ChainHookOutput, nftables.ChainPriorityNATDest
	case hookFilterOutput:
		out.Type, out.Hooknum, out.Priority = nftables.ChainTypeFilter, nftables.ChainHookOutput, nftables.ChainPriorityFilter
	case hookPostRouting:
		out.Hooknum, out.Priority = nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource
	}
	return out
}

// expressions is a rule in the kernel's language. Register 1 holds what is compared.
func expressions(r rule) []expr.Any {
	var e []expr.Any
	equal := func(data []byte) { e = append(e, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: data}) }
	family := byte(unix.NFPROTO_IPV4)
	if r.V6 {
		family = unix.NFPROTO_IPV6
	}
	if r.Src.IsValid() || r.Dst.IsValid() || r.NotDst.IsValid() || r.Find != "" {
		e = append(e, &expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1})
		equal([]byte{family})
	}
	for _, name := range []struct {
		key  expr.MetaKey
		name string
	}{{expr.MetaKeyIIFNAME, r.In}, {expr.MetaKeyOIFNAME, r.Out}} {
		if name.name == "" {
			continue
		}
		e = append(e, &expr.Meta{Key: name.key, Register: 1})
		if begin, ok := strings.CutSuffix(name.name, "*"); ok {
			equal([]byte(begin))
		} else {
			equal(append([]byte(name.name), make([]byte, unix.IFNAMSIZ-len(name.name))...))
		}
	}
	if r.Forged {
		e = append(e, &expr.Fib{Register: 1, FlagSADDR: true, FlagIIF: true, ResultOIF: true})
		equal(make([]byte, 4))
	}
	if r.ICMP != 0 {
		protocol := byte(unix.IPPROTO_ICMP)
		if r.V6 {
			protocol = unix.IPPROTO_ICMPV6
		}
		e = append(e, &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1})
		equal([]byte{protocol})
		e = append(e, &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1})
		equal([]byte{r.ICMP})
	}
	if r.Local {
		e = append(e, &expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true})
		equal(binaryutil.NativeEndian.PutUint32(rtnLocal))
	}
	if r.Src.IsValid() {
		e = append(e, matchAddress(r.Src, 12, 8, expr.CmpOpEq)...)
	}
	if r.Dst.IsValid() {
		e = append(e, matchAddress(r.Dst, 16, 24, expr.CmpOpEq)...)
	}
	if r.NotDst.IsValid() {
		e = append(e, matchAddress(r.NotDst, 16, 24, expr.CmpOpNeq)...)
	}
	if r.Translated {
		e = append(e, &expr.Ct{Register: 1, Key: expr.CtKeySTATUS},
			&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(ipsDstNAT), Xor: make([]byte, 4)},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)})
	}
	if r.Find != "" {
		e = append(e, find(r.Find, r.V6)...)
	}
	switch r.Do {
	case doMasquerade:
		e = append(e, &expr.Masq{})
	case doDrop:
		e = append(e, &expr.Verdict{Kind: expr.VerdictDrop})
	case doAccept:
		e = append(e, &expr.Verdict{Kind: expr.VerdictAccept})
	case doHostPorts:
		e = append(e, &expr.Verdict{Kind: expr.VerdictJump, Chain: chainHostPorts})
	case doFromPods:
		e = append(e, &expr.Verdict{Kind: expr.VerdictJump, Chain: chainFromPods})
	case doTranslate:
		e = append(e, &expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(family), RegAddrMin: reg0, RegProtoMin: reg0 + registers(r.V6), Specified: true})
	}
	return e
}

// registers is how many an address takes.
func registers(v6 bool) uint32 {
	if v6 {
		return 4
	}
	return 1
}

// find looks a packet up. What a map has for it is in the registers from the first on.
func find(p place, v6 bool) []expr.Any {
	src, dst, size := uint32(12), uint32(16), 4*registers(v6)
	if v6 {
		src, dst = 8, 24
	}
	load := func(offset, register uint32) expr.Any {
		return &expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size}
	}
	lookup := &expr.Lookup{SourceRegister: reg0, SetName: nameOf(p, v6)}
	if p == setSelf {
		return []expr.Any{load(src, reg0), load(dst, reg0+registers(v6)), lookup}
	}
	var e []expr.Any
	next := uint32(reg0)
	if p == mapPortsAt {
		e = append(e, load(dst, next))
		next += registers(v6)
	}
	lookup.DestRegister, lookup.IsDestRegSet = reg0, true
	return append(e,
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: next},
		&expr.Payload{DestRegister: next + 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		lookup)
}

// matchAddress compares an address of the network header, which is at offset v4 or v6, with a range.
func matchAddress(p netip.Prefix, v4, v6 uint32, op expr.CmpOp) []expr.Any {
	b := p.Masked().Addr().AsSlice()
	offset := v4
	if p.Addr().Is6() {
		offset = v6
	}
	n := uint32(len(b))
	e := []expr.Any{&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: n}}
	if p.Bits() < len(b)*8 {
		mask := bytes.Repeat([]byte{0xff}, len(b))
		for i := p.Bits(); i < len(b)*8; i++ {
			mask[i/8] &^= 0x80 >> (i % 8)
		}
		e = append(e, &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: n, Mask: mask, Xor: make([]byte, n)})
	}
	return append(e, &expr.Cmp{Op: op, Register: 1, Data: b})
}
