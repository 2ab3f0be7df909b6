package network

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"

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
	icmpv6Redirect = 137 // RFC 4861
)

// applyRules makes the chains the whole content of the table in one transaction, or removes the table if there are none.
func applyRules(ns *os.File, chains []chain) error {
	c, err := nftables.New(nftables.WithNetNSFd(int(ns.Fd())))
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	table := &nftables.Table{Family: nftables.TableFamilyINet, Name: tableName}
	c.AddTable(table) // or there is nothing to remove
	c.DelTable(table)
	if len(chains) > 0 {
		c.AddTable(table)
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
	if r.Src.IsValid() || r.Dst.IsValid() || r.NotDst.IsValid() || r.To.IsValid() {
		e = append(e, &expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1})
		equal([]byte{family})
	}
	if r.In != "" {
		e = append(e, &expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1})
		equal(append([]byte(r.In), make([]byte, unix.IFNAMSIZ-len(r.In))...))
	}
	if r.Redirect != "" {
		protocol, message := byte(unix.IPPROTO_ICMP), byte(icmpRedirect)
		if r.V6 {
			protocol, message = unix.IPPROTO_ICMPV6, icmpv6Redirect
		}
		e = append(e, &expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1})
		equal(append([]byte(r.Redirect), make([]byte, unix.IFNAMSIZ-len(r.Redirect))...))
		e = append(e, &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1})
		equal([]byte{protocol})
		e = append(e, &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1})
		equal([]byte{message})
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
	if r.Protocol != "" {
		e = append(e, &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1})
		equal([]byte{map[string]byte{"TCP": unix.IPPROTO_TCP, "UDP": unix.IPPROTO_UDP, "SCTP": unix.IPPROTO_SCTP}[r.Protocol]})
		e = append(e, &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2})
		equal(binaryutil.BigEndian.PutUint16(r.Port))
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
	case doDNAT:
		e = append(e,
			&expr.Immediate{Register: 1, Data: r.To.Addr().AsSlice()},
			&expr.Immediate{Register: 2, Data: binaryutil.BigEndian.PutUint16(r.To.Port())},
			&expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(family), RegAddrMin: 1, RegProtoMin: 2, Specified: true})
	}
	return e
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
