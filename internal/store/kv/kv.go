package kv

import (
	"context"
	"errors"
	"time"
)

// Errors that callers are meant to act on. Engines wrap them; ask with errors.Is.
var (
	// ErrCompacted says that the asked revision was compacted away.
	ErrCompacted = errors.New("kv: the requested revision has been compacted")
	// ErrFutureRevision says that the asked revision does not exist yet.
	ErrFutureRevision = errors.New("kv: the requested revision is in the future")
	// ErrNoSpace says that the engine refuses writes because its size quota is used up. Reads go on.
	ErrNoSpace = errors.New("kv: database space exceeded")
	// ErrTooLarge says that one request exceeds the engine's size limit.
	ErrTooLarge = errors.New("kv: request is too large")
	// ErrLeaseNotFound says that the lease of a put does not exist (any more).
	ErrLeaseNotFound = errors.New("kv: lease not found")
	// ErrUnavailable says that the engine cannot answer now (no leader, closing, network); trying again may help.
	ErrUnavailable = errors.New("kv: engine unavailable")
)

// KeyValue is one key at one revision. The value must not be modified.
type KeyValue struct {
	Key            string
	Value          []byte
	CreateRevision int64
	ModRevision    int64
	Version        int64
	Lease          LeaseID
}

// LeaseID names a lease; 0 is none.
type LeaseID int64

// RangeRequest asks for the keys in [Key, End); an empty End asks for Key alone.
type RangeRequest struct {
	Key, End string
	Limit    int64 // 0: no limit
	Revision int64 // 0: the newest
	// Serializable allows an answer from local state that may be stale; otherwise the read is linearizable.
	Serializable bool
	CountOnly    bool
	KeysOnly     bool
}

// RangeResponse answers a RangeRequest, in key order.
type RangeResponse struct {
	KVs      []KeyValue
	Count    int64 // keys in the range, whatever the limit
	More     bool
	Revision int64 // the store's revision at the time of the read
}

// Op is one write of a transaction: a put, or with Delete set a deletion of one key.
type Op struct {
	Delete bool
	Key    string
	Value  []byte
	Lease  LeaseID
}

// Guard holds when Key's modification revision is ModRevision; 0 means that the key does not exist.
type Guard struct {
	Key         string
	ModRevision int64
}

// TxnResponse tells whether the guards held. When they did not, Current holds the guarded keys that exist, as they are.
type TxnResponse struct {
	Succeeded bool
	Revision  int64
	Current   []KeyValue
}

// EventType says what happened to a key.
type EventType int8

// The event types.
const (
	Put EventType = iota
	Delete
)

// Event is one change. For Delete, KV holds the key and, as ModRevision, the revision of the deletion.
type Event struct {
	Type EventType
	KV   KeyValue
}

// WatchResponse is a batch of events: all events of one revision are in one batch. Without events it is a progress
// notice: everything up to Revision has been delivered. A response with Err set is the last one.
type WatchResponse struct {
	Events   []Event
	Revision int64
	Err      error
}

// Engine is a multi-version key-value store. All methods may be called from many goroutines.
type Engine interface {
	Range(ctx context.Context, r RangeRequest) (RangeResponse, error)
	// Txn applies ops atomically if all guards hold. The values of ops belong to the caller again when it has returned without an error.
	Txn(ctx context.Context, guards []Guard, ops []Op) (TxnResponse, error)
	// Watch sends all changes below prefix with a revision of at least from (0: from now on), in order, until ctx ends;
	// then the channel is closed. A compacted from is reported as ErrCompacted in the first response.
	Watch(ctx context.Context, prefix string, from int64) <-chan WatchResponse
	// RequestProgress asks that every watch of this engine soon sends a progress notice.
	RequestProgress(ctx context.Context) error
	// Compact forgets the history before revision.
	Compact(ctx context.Context, revision int64) error
	// Grant makes a lease; its keys vanish ttl after.
	Grant(ctx context.Context, ttl time.Duration) (LeaseID, error)
	// Size is the size of the database in bytes.
	Size(ctx context.Context) (int64, error)
	// Close ends the engine and waits for what it started.
	Close() error
}
