package policy

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Names in a table.
const (
	tablePrefix = "celox-policy-"

	mapIngress = "ingress"    // address of a pod of this node → chain
	mapEgress  = "egress"     // the same
	setSelf    = "self"       // address . the same: a restricted pod that talks to itself
	setPods    = "restricted" // addresses of restricted pods

	chainForward = "forward"
	chainStray   = "stray"
)

// Values of the kernel's.
const (
	reg0 = unix.NFT_REG32_00

	ctOriginal, ctReply = 0, 1    // IP_CT_DIR
	ctStray             = 1 | 64  // states of packets without a connection: invalid, untracked
	ctStanding          = 2 | 4   // states of packets of connections that were answered: established, related
	forwardPriority     = -5      // right before the chains of others that filter
	setConcat           = 0x80    // NFT_SET_CONCAT
	setDescConcat       = 2       // NFTA_SET_DESC_CONCAT
	setFieldLen         = 1       // NFTA_SET_FIELD_LEN
	setVerdict          = 1 << 30 // no number of the kernel's: see newSet
)

// Types of keys, which only those who print tables use (nftables' datatypes).
const (
	typeIPv4, typeIPv6, typeProtocol, typeService = 7, 8, 12, 13
	typeBits                                      = 6
)

// expression writes an element of a rule.
func (b *batch) expression(kind string, write func()) {
	b.nest(unix.NFTA_LIST_ELEM, func() {
		b.text(unix.NFTA_EXPR_NAME, kind)
		b.nest(unix.NFTA_EXPR_DATA, write)
	})
}

// rule adds one to a chain.
func (b *batch) rule(chain string, write func()) {
	b.message(unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_APPEND, func() {
		b.text(unix.NFTA_RULE_CHAIN, chain)
		b.nest(unix.NFTA_RULE_EXPRESSIONS, write)
	})
}

// ct loads something of the connection.
func (b *batch) ct(key uint32, reg uint32) {
	b.expression("ct", func() {
		b.number(unix.NFTA_CT_DREG, reg)
		b.number(unix.NFTA_CT_KEY, key)
	})
}

// ctOf loads something of one direction of the connection.
func (b *batch) ctOf(key uint32, direction uint8, reg uint32) {
	b.expression("ct", func() {
		b.number(unix.NFTA_CT_DREG, reg)
		b.number(unix.NFTA_CT_KEY, key)
		b.byte(unix.NFTA_CT_DIRECTION, direction)
	})
}

func (b *batch) client(reg uint32) { b.ctOf(unix.NFT_CT_SRC, ctOriginal, reg) }
func (b *batch) server(reg uint32) { b.ctOf(unix.NFT_CT_SRC, ctReply, reg) }
func (b *batch) port(reg uint32)   { b.ctOf(unix.NFT_CT_PROTO_SRC, ctReply, reg) }

func (b *batch) compare(op uint32, reg uint32, with []byte) {
	b.expression("cmp", func() {
		b.number(unix.NFTA_CMP_SREG, reg)
		b.number(unix.NFTA_CMP_OP, op)
		b.nest(unix.NFTA_CMP_DATA, func() { b.bytes(unix.NFTA_DATA_VALUE, with) })
	})
}

// anyBit goes on if a register has one of some bits.
func (b *batch) anyBit(reg, bits uint32) {
	b.expression("bitwise", func() {
		b.number(unix.NFTA_BITWISE_SREG, reg)
		b.number(unix.NFTA_BITWISE_DREG, reg)
		b.number(unix.NFTA_BITWISE_LEN, 4)
		b.nest(unix.NFTA_BITWISE_MASK, func() { b.bytes(unix.NFTA_DATA_VALUE, binary.NativeEndian.AppendUint32(nil, bits)) })
		b.nest(unix.NFTA_BITWISE_XOR, func() { b.bytes(unix.NFTA_DATA_VALUE, make([]byte, 4)) })
	})
	b.compare(unix.NFT_CMP_NEQ, reg, make([]byte, 4))
}

// packetAddress loads an address of the packet.
func (b *batch) packetAddress(offset, size, reg uint32) {
	b.expression("payload", func() {
		b.number(unix.NFTA_PAYLOAD_DREG, reg)
		b.number(unix.NFTA_PAYLOAD_BASE, unix.NFT_PAYLOAD_NETWORK_HEADER)
		b.number(unix.NFTA_PAYLOAD_OFFSET, offset)
		b.number(unix.NFTA_PAYLOAD_LEN, size)
	})
}

func (b *batch) lookup(set string, reg uint32) {
	b.expression("lookup", func() {
		b.text(unix.NFTA_LOOKUP_SET, set)
		b.number(unix.NFTA_LOOKUP_SREG, reg)
	})
}

// follow looks a verdict up and obeys it.
func (b *batch) follow(set string, reg uint32) {
	b.expression("lookup", func() {
		b.text(unix.NFTA_LOOKUP_SET, set)
		b.number(unix.NFTA_LOOKUP_SREG, reg)
		b.number(unix.NFTA_LOOKUP_DREG, unix.NFT_REG_VERDICT)
	})
}

// Codes of verdicts.
const (
	doDrop   = 0
	doAccept = 1
	doJump   = unix.NFT_JUMP
	doGoto   = unix.NFT_GOTO
	doReturn = unix.NFT_RETURN
)

// verdict ends a rule.
func (b *batch) verdict(code int32, chain string) {
	b.expression("immediate", func() {
		b.number(unix.NFTA_IMMEDIATE_DREG, unix.NFT_REG_VERDICT)
		b.nest(unix.NFTA_IMMEDIATE_DATA, func() { b.verdictData(code, chain) })
	})
}

func (b *batch) verdictData(code int32, chain string) {
	b.nest(unix.NFTA_DATA_VERDICT, func() {
		b.number(unix.NFTA_VERDICT_CODE, uint32(code))
		if chain != "" {
			b.text(unix.NFTA_VERDICT_CHAIN, chain)
		}
	})
}

func (b *batch) newTable() { b.message(unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE, func() {}) }

// deleteTable deletes a table of this family, which may be another than that of the transaction.
func (b *batch) deleteTable(table string) {
	own := b.table
	b.table = table
	b.message(unix.NFT_MSG_DELTABLE, 0, func() {})
	b.table = own
}

func (b *batch) newChain(name string) {
	b.message(unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE, func() { b.text(unix.NFTA_CHAIN_NAME, name) })
}

// hookForward makes the chain that the kernel calls for each forwarded packet.
func (b *batch) hookForward() {
	priority := int32(forwardPriority)
	b.message(unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE, func() {
		b.text(unix.NFTA_CHAIN_NAME, chainForward)
		b.nest(unix.NFTA_CHAIN_HOOK, func() {
			b.number(unix.NFTA_HOOK_HOOKNUM, unix.NF_INET_FORWARD)
			b.number(unix.NFTA_HOOK_PRIORITY, uint32(priority))
		})
		b.number(unix.NFTA_CHAIN_POLICY, doAccept)
		b.text(unix.NFTA_CHAIN_TYPE, "filter")
	})
}

func (b *batch) deleteChain(name string) {
	b.message(unix.NFT_MSG_DELCHAIN, 0, func() { b.text(unix.NFTA_CHAIN_NAME, name) })
}

// field is a part of a key.
type field struct{ kind, size uint32 }

// newSet makes a set of keys with these parts; flags may be NFT_SET_INTERVAL, or setVerdict for a map to verdicts.
func (b *batch) newSet(name string, flags uint32, fields ...field) {
	kind, size := uint32(0), uint32(0)
	for _, f := range fields {
		kind, size = kind<<typeBits|f.kind, size+(f.size+3)&^3
	}
	b.sets++
	id, isMap := b.sets, flags&setVerdict != 0
	flags &^= setVerdict
	if isMap {
		flags |= unix.NFT_SET_MAP
	}
	if len(fields) > 1 {
		flags |= setConcat
	}
	b.message(unix.NFT_MSG_NEWSET, unix.NLM_F_CREATE, func() {
		b.text(unix.NFTA_SET_NAME, name)
		b.number(unix.NFTA_SET_FLAGS, flags)
		b.number(unix.NFTA_SET_KEY_TYPE, kind)
		b.number(unix.NFTA_SET_KEY_LEN, size)
		if isMap {
			b.number(unix.NFTA_SET_DATA_TYPE, unix.NFT_DATA_VERDICT)
		}
		if len(fields) > 1 {
			b.nest(unix.NFTA_SET_DESC, func() {
				b.nest(setDescConcat, func() {
					for _, f := range fields {
						b.nest(unix.NFTA_LIST_ELEM, func() { b.number(setFieldLen, f.size) })
					}
				})
			})
		}
		b.number(unix.NFTA_SET_ID, id) // within the transaction; we name sets instead
	})
}

func (b *batch) deleteSet(name string) {
	b.message(unix.NFT_MSG_DELSET, 0, func() { b.text(unix.NFTA_SET_NAME, name) })
}

// elements adds elements to a set or deletes them, in as many messages as it takes. next writes one, and returns false if there is none.
func (b *batch) elements(set string, add bool, next func() bool) {
	kind, flags := uint16(unix.NFT_MSG_DELSETELEM), uint16(0)
	if add {
		kind, flags = unix.NFT_MSG_NEWSETELEM, unix.NLM_F_CREATE
	}
	for more := true; more; {
		start := len(b.b)
		some := false
		b.message(kind, flags, func() {
			b.text(unix.NFTA_SET_ELEM_LIST_SET, set)
			b.nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS, func() {
				for begin := len(b.b); more && len(b.b)-begin < elementBytes; {
					if more = next(); more {
						some = true
					}
				}
			})
		})
		if !some { // take the message back
			b.b = b.b[:start]
			b.messages--
		}
	}
}

// element writes one; verdict is for maps.
func (b *batch) element(flags uint32, key []byte, verdict func()) {
	b.nest(unix.NFTA_LIST_ELEM, func() {
		if flags != 0 {
			b.number(unix.NFTA_SET_ELEM_FLAGS, flags)
		}
		b.nest(unix.NFTA_SET_ELEM_KEY, func() { b.bytes(unix.NFTA_DATA_VALUE, key) })
		if verdict != nil {
			b.nest(unix.NFTA_SET_ELEM_DATA, verdict)
		}
	})
}

// appendAddr is a without an allocation.
func appendAddr(key []byte, a netip.Addr) []byte {
	if a.Is4() {
		v := a.As4()
		return append(key, v[:]...)
	}
	v := a.As16()
	return append(key, v[:]...)
}
