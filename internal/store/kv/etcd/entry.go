package etcd

import (
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/celox/celox/internal/store/kv"
)

// The numbers of etcd's fields (raft_internal.proto, rpc.proto), which are in logs on disk and so never change.
const (
	internalHeader = 100 // InternalRaftRequest.header
	internalTxn    = 6   // InternalRaftRequest.txn
	headerID       = 1   // RequestHeader.ID

	txnCompare = 1 // TxnRequest
	txnSuccess = 2
	txnFailure = 3

	compareTarget      = 2 // Compare
	compareKey         = 3
	compareModRevision = 6
	targetMod          = 2 // Compare.MOD; Compare.EQUAL is 0

	opRange       = 1 // RequestOp
	opPut         = 2
	opDeleteRange = 3

	rangeKey = 1 // RangeRequest, DeleteRangeRequest

	putKey   = 1 // PutRequest
	putValue = 2
	putLease = 3
)

// appendEntry appends what request(guards, ops) is as an entry of Raft's log, for one guard and one op: the encoding of an InternalRaftRequest, which the library makes of four
// times as many pieces of memory.
func appendEntry(b []byte, id uint64, guard kv.Guard, op kv.Op) []byte {
	bytesField := func(n int) int { return 1 + protowire.SizeBytes(n) } // all inner fields have numbers below 16, which take a byte
	// From the inside out, the sizes.
	compare := 2 + bytesField(len(guard.Key)) + 1 + protowire.SizeVarint(uint64(guard.ModRevision))
	read := bytesField(len(guard.Key))
	var write int
	kind := protowire.Number(opDeleteRange)
	if op.Delete {
		write = bytesField(len(op.Key))
	} else {
		kind = opPut
		write = bytesField(len(op.Key))
		if len(op.Value) > 0 {
			write += bytesField(len(op.Value))
		}
		if op.Lease != 0 {
			write += 1 + protowire.SizeVarint(uint64(op.Lease))
		}
	}
	txn := bytesField(compare) + bytesField(bytesField(write)) + bytesField(bytesField(read))

	message := func(n protowire.Number, size int) {
		b = protowire.AppendTag(b, n, protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(size))
	}
	number := func(n protowire.Number, v uint64) {
		b = protowire.AppendTag(b, n, protowire.VarintType)
		b = protowire.AppendVarint(b, v)
	}
	text := func(n protowire.Number, s string) {
		b = protowire.AppendTag(b, n, protowire.BytesType)
		b = protowire.AppendString(b, s)
	}
	message(internalTxn, txn)
	message(txnCompare, compare)
	number(compareTarget, targetMod)
	text(compareKey, guard.Key)
	number(compareModRevision, uint64(guard.ModRevision))
	message(txnSuccess, bytesField(write))
	message(kind, write)
	text(putKey, op.Key)
	if !op.Delete {
		if len(op.Value) > 0 {
			b = protowire.AppendTag(b, putValue, protowire.BytesType)
			b = protowire.AppendBytes(b, op.Value)
		}
		if op.Lease != 0 {
			number(putLease, uint64(op.Lease))
		}
	}
	message(txnFailure, bytesField(read))
	message(opRange, read)
	text(rangeKey, guard.Key)
	message(internalHeader, 1+protowire.SizeVarint(id))
	number(headerID, id)
	return b
}
