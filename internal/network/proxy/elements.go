package proxy

import (
	"encoding/binary"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/celox/celox/internal/network/nft"
)

// Elements of maps and sets are most of what the kernel is told: sixty thousand of them for ten thousand services. The library makes a tree of
// attributes of each; here they are written once, as the kernel reads them (linux/netfilter/nf_tables.h).

const (
	// elementsPerMessage is how many bytes of elements are in one message; the attribute that holds them can be 64 KiB long.
	elementsPerMessage = 60_000
	attributeHeader    = 4
	messageTypes       = unix.NFNL_SUBSYS_NFTABLES << 8
)

// elements are those of one set, written, in parts that fit in a message each.
type elements struct {
	parts [][]byte
}

func data(b []byte, kind uint16, value []byte) []byte {
	b, outer := nft.Begin(b, kind|unix.NLA_F_NESTED)
	b, inner := nft.Begin(b, unix.NFTA_DATA_VALUE)
	b = append(b, value...)
	return nft.End(nft.End(b, inner), outer)
}

// add writes one more element: a key, with a value or a verdict if the set is a map and it isn't to be removed.
func (e *elements) add(key, value []byte, verdict *expr.Verdict) {
	last := len(e.parts) - 1
	if last < 0 || len(e.parts[last]) > elementsPerMessage-(4*attributeHeader+len(key)+len(value)+300) { // 300 is more than any verdict takes
		size := 256
		if last >= 0 {
			size = elementsPerMessage // where there is one more there are many
		}
		e.parts = append(e.parts, make([]byte, 0, size))
		last++
	}
	b, element := nft.Begin(e.parts[last], unix.NFTA_LIST_ELEM|unix.NLA_F_NESTED)
	b = data(b, unix.NFTA_SET_ELEM_KEY, key)
	switch {
	case verdict != nil:
		var outer, inner, one int
		b, outer = nft.Begin(b, unix.NFTA_SET_ELEM_DATA|unix.NLA_F_NESTED)
		b, inner = nft.Begin(b, unix.NFTA_DATA_VERDICT|unix.NLA_F_NESTED)
		b, one = nft.Begin(b, unix.NFTA_VERDICT_CODE)
		b = nft.End(binary.BigEndian.AppendUint32(b, uint32(verdict.Kind)), one)
		if verdict.Chain != "" {
			b, one = nft.Begin(b, unix.NFTA_VERDICT_CHAIN)
			b = nft.End(append(append(b, verdict.Chain...), 0), one)
		}
		b = nft.End(nft.End(b, inner), outer)
	case value != nil:
		b = data(b, unix.NFTA_SET_ELEM_DATA, value)
	}
	e.parts[last] = nft.End(b, element)
}

// batch collects elements by set.
type batch struct {
	gone, new map[string]*elements
}

func newBatch() *batch { return &batch{gone: map[string]*elements{}, new: map[string]*elements{}} }

func in(sets map[string]*elements, set string) *elements {
	e := sets[set]
	if e == nil {
		e = &elements{}
		sets[set] = e
	}
	return e
}

func (b *batch) put(set string, key, value []byte) { in(b.new, set).add(key, value, nil) }
func (b *batch) lead(set string, key []byte, verdict *expr.Verdict) {
	in(b.new, set).add(key, nil, verdict)
}
func (b *batch) delete(set string, key []byte) { in(b.gone, set).add(key, nil, nil) }

// messages are the transaction that the batch is. What is gone goes first: an element whose value changes is both.
func (b *batch) messages(family uint8, table string) []netlink.Message {
	message := func(kind int, flags netlink.HeaderFlags, family uint8, subsystem byte) netlink.Message {
		return netlink.Message{
			Header: netlink.Header{Type: netlink.HeaderType(kind), Flags: netlink.Request | flags},
			Data:   []byte{family, unix.NFNETLINK_V0, 0, subsystem},
		}
	}
	out := []netlink.Message{message(unix.NFNL_MSG_BATCH_BEGIN, 0, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES)}
	for _, step := range []struct {
		sets  map[string]*elements
		kind  int
		flags netlink.HeaderFlags
	}{{b.gone, messageTypes | unix.NFT_MSG_DELSETELEM, 0}, {b.new, messageTypes | unix.NFT_MSG_NEWSETELEM, netlink.Create}} {
		for _, set := range slices.Sorted(maps.Keys(step.sets)) {
			for _, part := range step.sets[set].parts {
				m := message(step.kind, step.flags, family, 0)
				m.Data = slices.Grow(m.Data, len(part)+len(table)+len(set)+32)
				for kind, text := range map[uint16]string{unix.NFTA_SET_ELEM_LIST_TABLE: table, unix.NFTA_SET_ELEM_LIST_SET: set} {
					data, at := nft.Begin(m.Data, kind)
					m.Data = nft.End(append(append(data, text...), 0), at)
				}
				data, at := nft.Begin(m.Data, unix.NFTA_SET_ELEM_LIST_ELEMENTS|unix.NLA_F_NESTED)
				m.Data = nft.End(append(data, part...), at)
				out = append(out, m)
			}
		}
	}
	if len(out) == 1 {
		return nil
	}
	// Errors of any of them are answered, success of the last only.
	out[len(out)-1].Header.Flags |= netlink.Acknowledge
	return append(out, message(unix.NFNL_MSG_BATCH_END, 0, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES))
}

// send has the kernel take the elements of b, all or none.
func (r *ruleset) send(b *batch) error {
	messages := b.messages(uint8(r.family.nft), r.table.Name)
	if len(messages) == 0 {
		return nil
	}
	// The kernel answers at once; that it doesn't is an error, not a wait.
	err := r.socket.SetReadDeadline(time.Now().Add(answerTime))
	if err == nil {
		_, err = r.socket.SendMessages(messages)
	}
	if err == nil {
		_, err = r.socket.Receive()
	}
	if err != nil {
		return errors.Join(err, r.dial()) // there may be more answers in the old one
	}
	return nil
}
