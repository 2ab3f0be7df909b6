package memory

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/google/btree"
	"k8s.io/utils/clock"

	"github.com/celox/celox/internal/store/kv"
)

const (
	// DefaultMaxRequestBytes is etcd's own limit of one request.
	DefaultMaxRequestBytes = 3 << 19 // 1.5 MiB
	// versionOverheadBytes is what one version of a key is taken to cost besides its bytes.
	versionOverheadBytes = 64
	// btreeDegree gives nodes of about one kilobyte.
	btreeDegree = 32
)

// Config are the choices of an Engine; the zero value is good.
type Config struct {
	// Clock drives leases; nil is the real one.
	Clock clock.WithTicker
	// QuotaBytes is the size beyond which puts are refused with kv.ErrNoSpace; 0 is no limit.
	QuotaBytes int64
	// MaxRequestBytes limits the bytes of one transaction; 0 is DefaultMaxRequestBytes.
	MaxRequestBytes int64
	// Initial is what the engine begins with; nil is nothing.
	Initial *State
}

// State is what an engine holds at one revision, without its history: watches from before it are too late.
type State struct {
	KeyValues []kv.KeyValue
	// Leases are when they end. One that a key has and that isn't among them has ended: the key is left out.
	Leases   map[kv.LeaseID]time.Time
	Revision int64
}

// Engine is a kv.Engine in memory. Make it with New.
type Engine struct {
	cfg  Config
	stop context.CancelFunc
	done context.Context
	wg   sync.WaitGroup

	mu        sync.Mutex
	keys      *btree.BTreeG[*entry] // by key, with those whose newest version is a tombstone
	log       []kv.Event            // every event with a revision of at least logStart, in order
	logStart  int64                 // compacted, or less while a running watch is behind
	revision  int64
	compacted int64
	sizeBytes int64
	leases    map[kv.LeaseID]*lease
	nextLease kv.LeaseID
	watchers  map[*watcher]struct{}
	leaseWake chan struct{} // told when the next expiry may have become earlier
}

// entry is the history of one key, oldest first.
type entry struct {
	key      string
	versions []version
}

type version struct {
	rev, create, count int64
	value              []byte
	lease              kv.LeaseID
	dead               bool
}

type lease struct {
	expires time.Time
	keys    map[string]struct{}
}

// at returns the version that was the newest at rev, if the key existed then.
func (e *entry) at(rev int64) (version, bool) {
	i := sort.Search(len(e.versions), func(i int) bool { return e.versions[i].rev > rev })
	if i == 0 || e.versions[i-1].dead {
		return version{}, false
	}
	return e.versions[i-1], true
}

func (v version) keyValue(key string) kv.KeyValue {
	return kv.KeyValue{Key: key, Value: v.value, CreateRevision: v.create, ModRevision: v.rev, Version: v.count, Lease: v.lease}
}

// New makes an empty engine with real time and no quota.
func New() *Engine { return NewWith(Config{}) }

// NewWith makes an empty engine. Its revision is 1, as that of an empty etcd.
func NewWith(cfg Config) *Engine {
	if cfg.Clock == nil {
		cfg.Clock = clock.RealClock{}
	}
	if cfg.MaxRequestBytes == 0 {
		cfg.MaxRequestBytes = DefaultMaxRequestBytes
	}
	ctx, stop := context.WithCancel(context.Background())
	e := &Engine{
		cfg: cfg, stop: stop, done: ctx,
		keys:      btree.NewG(btreeDegree, func(a, b *entry) bool { return a.key < b.key }),
		revision:  1,
		logStart:  1,
		leases:    map[kv.LeaseID]*lease{},
		watchers:  map[*watcher]struct{}{},
		leaseWake: make(chan struct{}, 1),
	}
	if cfg.Initial != nil {
		e.restore(cfg.Initial)
		e.cfg.Initial = nil // its keys are the engine's now
	}
	e.wg.Add(1)
	go e.expireLeases()
	return e
}

// restore fills an empty engine. Watches may begin after the state's revision, and lists at it.
func (e *Engine) restore(s *State) {
	if s.Revision > e.revision {
		e.revision, e.compacted, e.logStart = s.Revision, s.Revision, s.Revision+1
	}
	for id, expires := range s.Leases {
		e.leases[id] = &lease{expires: expires, keys: map[string]struct{}{}}
		e.nextLease = max(e.nextLease, id)
	}
	for _, item := range s.KeyValues {
		if item.Lease != 0 {
			l := e.leases[item.Lease]
			if l == nil {
				continue
			}
			l.keys[item.Key] = struct{}{}
		}
		v := version{rev: item.ModRevision, create: item.CreateRevision, count: item.Version, value: item.Value, lease: item.Lease}
		e.keys.ReplaceOrInsert(&entry{key: item.Key, versions: []version{v}})
		e.sizeBytes += v.size(item.Key)
	}
}

// State returns what the engine holds now.
func (e *Engine) State() *State {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := &State{Revision: e.revision, Leases: make(map[kv.LeaseID]time.Time, len(e.leases)), KeyValues: make([]kv.KeyValue, 0, e.keys.Len())}
	for id, l := range e.leases {
		s.Leases[id] = l.expires
	}
	e.keys.Ascend(func(en *entry) bool {
		if v, ok := en.at(math.MaxInt64); ok {
			s.KeyValues = append(s.KeyValues, v.keyValue(en.key))
		}
		return true
	})
	return s
}

// Expires is when a lease ends; false says that there is none.
func (e *Engine) Expires(id kv.LeaseID) (time.Time, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	l := e.leases[id]
	if l == nil {
		return time.Time{}, false
	}
	return l.expires, true
}

// Close ends all watches and waits for them.
func (e *Engine) Close() error {
	e.stop()
	e.wg.Wait()
	return nil
}

func (e *Engine) check(ctx context.Context) error {
	if e.done.Err() != nil {
		return fmt.Errorf("memory engine is closed: %w", kv.ErrUnavailable)
	}
	return ctx.Err()
}

// Range answers from the asked revision. All reads are linearizable.
func (e *Engine) Range(ctx context.Context, r kv.RangeRequest) (kv.RangeResponse, error) {
	if err := e.check(ctx); err != nil {
		return kv.RangeResponse{}, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	at := r.Revision
	switch {
	case at > e.revision:
		return kv.RangeResponse{}, kv.ErrFutureRevision
	case at > 0 && at < e.compacted:
		return kv.RangeResponse{}, kv.ErrCompacted
	case at <= 0:
		at = math.MaxInt64
	}
	resp := kv.RangeResponse{Revision: e.revision}
	visit := func(en *entry) bool {
		v, ok := en.at(at)
		if !ok {
			return true
		}
		resp.Count++
		if r.CountOnly || (r.Limit > 0 && int64(len(resp.KVs)) >= r.Limit) {
			return true
		}
		item := v.keyValue(en.key)
		if r.KeysOnly {
			item.Value = nil
		}
		resp.KVs = append(resp.KVs, item)
		return true
	}
	if r.End == "" {
		if en, ok := e.keys.Get(&entry{key: r.Key}); ok {
			visit(en)
		}
	} else {
		e.keys.AscendRange(&entry{key: r.Key}, &entry{key: r.End}, visit)
	}
	resp.More = !r.CountOnly && int64(len(resp.KVs)) < resp.Count
	return resp, nil
}

// Txn applies ops atomically if all guards hold.
func (e *Engine) Txn(ctx context.Context, guards []kv.Guard, ops []kv.Op) (kv.TxnResponse, error) {
	if err := e.check(ctx); err != nil {
		return kv.TxnResponse{}, err
	}
	var bytes int64
	puts := false
	seen := make(map[string]bool, len(ops))
	for _, op := range ops {
		bytes += int64(len(op.Key) + len(op.Value))
		puts = puts || !op.Delete
		if seen[op.Key] {
			return kv.TxnResponse{}, fmt.Errorf("memory engine: key %q twice in one transaction", op.Key)
		}
		seen[op.Key] = true
	}
	if bytes > e.cfg.MaxRequestBytes {
		return kv.TxnResponse{}, kv.ErrTooLarge
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if puts && e.cfg.QuotaBytes > 0 && e.sizeBytes+bytes > e.cfg.QuotaBytes {
		return kv.TxnResponse{}, kv.ErrNoSpace
	}
	for _, op := range ops {
		if !op.Delete && op.Lease != 0 && e.leases[op.Lease] == nil {
			return kv.TxnResponse{}, fmt.Errorf("memory engine: lease %d not found: %w", op.Lease, kv.ErrLeaseNotFound)
		}
	}
	for _, g := range guards {
		var have int64
		if en, ok := e.keys.Get(&entry{key: g.Key}); ok {
			if v, ok := en.at(math.MaxInt64); ok {
				have = v.rev
			}
		}
		if have != g.ModRevision {
			return kv.TxnResponse{Revision: e.revision, Current: e.current(guards)}, nil
		}
	}
	e.apply(ops)
	return kv.TxnResponse{Succeeded: true, Revision: e.revision}, nil
}

func (e *Engine) current(guards []kv.Guard) []kv.KeyValue {
	var out []kv.KeyValue
	for _, g := range guards {
		if en, ok := e.keys.Get(&entry{key: g.Key}); ok {
			if v, ok := en.at(math.MaxInt64); ok {
				out = append(out, v.keyValue(g.Key))
			}
		}
	}
	return out
}

// apply writes ops as one revision, if they change anything. The caller holds mu.
func (e *Engine) apply(ops []kv.Op) {
	rev := e.revision + 1
	first := len(e.log)
	for _, op := range ops {
		en, ok := e.keys.Get(&entry{key: op.Key})
		var last version
		alive := false
		if ok {
			last, alive = en.at(math.MaxInt64)
		}
		if op.Delete && !alive {
			continue
		}
		if !ok {
			en = &entry{key: op.Key}
			e.keys.ReplaceOrInsert(en)
		}
		if alive && last.lease != 0 {
			if l := e.leases[last.lease]; l != nil {
				delete(l.keys, op.Key)
			}
		}
		v := version{rev: rev, create: rev, count: 1, value: bytes.Clone(op.Value), lease: op.Lease}
		ev := kv.Event{Type: kv.Put}
		if op.Delete {
			v = version{rev: rev, dead: true}
			ev = kv.Event{Type: kv.Delete, KV: kv.KeyValue{Key: op.Key, ModRevision: rev}}
		} else {
			if alive {
				v.create, v.count = last.create, last.count+1
			}
			if v.lease != 0 {
				e.leases[v.lease].keys[op.Key] = struct{}{}
			}
			ev.KV = v.keyValue(op.Key)
		}
		en.versions = append(en.versions, v)
		e.sizeBytes += v.size(op.Key)
		e.log = append(e.log, ev)
	}
	if len(e.log) == first {
		return
	}
	e.revision = rev
	for w := range e.watchers {
		w.wake()
	}
}

func (v version) size(key string) int64 {
	return int64(len(key)+len(v.value)) + versionOverheadBytes
}

// Compact forgets what only revisions before the given one need. Events of the revision itself can still be watched.
func (e *Engine) Compact(ctx context.Context, revision int64) error {
	if err := e.check(ctx); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if revision <= e.compacted {
		return kv.ErrCompacted
	}
	if revision > e.revision {
		return kv.ErrFutureRevision
	}
	e.compacted = revision
	var empty []*entry
	e.keys.Ascend(func(en *entry) bool {
		i := sort.Search(len(en.versions), func(i int) bool { return en.versions[i].rev > revision }) - 1
		if i < 0 {
			return true
		}
		if en.versions[i].dead {
			i++
		}
		if i == 0 {
			return true
		}
		for _, v := range en.versions[:i] {
			e.sizeBytes -= v.size(en.key)
		}
		en.versions = append([]version(nil), en.versions[i:]...)
		if len(en.versions) == 0 {
			empty = append(empty, en)
		}
		return true
	})
	for _, en := range empty {
		e.keys.Delete(en)
	}
	e.logStart = revision
	for w := range e.watchers {
		if w.next > revision-maxBehind {
			e.logStart = min(e.logStart, w.next)
		}
		w.wake() // one that is too far behind learns now that it is
	}
	e.log = append([]kv.Event(nil), e.log[e.logFrom(e.logStart):]...)
	return nil
}

// logFrom is the index in the log of the first event with a revision of at least rev.
func (e *Engine) logFrom(rev int64) int {
	return sort.Search(len(e.log), func(i int) bool { return e.log[i].KV.ModRevision >= rev })
}

// Size counts keys and values of all versions.
func (e *Engine) Size(ctx context.Context) (int64, error) {
	if err := e.check(ctx); err != nil {
		return 0, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.sizeBytes, nil
}

// watchBatchEvents is about how many events one response holds; a revision is never split.
const watchBatchEvents = 1000

type watcher struct {
	prefix   string
	next     int64 // the first revision not looked at yet
	bell     chan struct{}
	progress bool // guarded by Engine.mu
}

// maxBehind is how many revisions a running watch may be behind a compaction and still go on: as with etcd, whose events are on
// their way to the watch by then.
const maxBehind = 10000

func (w *watcher) wake() {
	select {
	case w.bell <- struct{}{}:
	default:
	}
}

// Watch sends the changes below prefix from the given revision on. A watcher holds no events of its own: it reads the log.
func (e *Engine) Watch(ctx context.Context, prefix string, from int64) <-chan kv.WatchResponse {
	out := make(chan kv.WatchResponse)
	w := &watcher{prefix: prefix, bell: make(chan struct{}, 1)}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.done.Err() != nil {
		close(out)
		return out
	}
	switch w.next = from; {
	case from <= 0:
		w.next = e.revision + 1
	case from < e.compacted:
		w.next = 0 // which is always too old
	}
	e.watchers[w] = struct{}{}
	e.wg.Add(1)
	go e.runWatch(ctx, w, out)
	w.wake()
	return out
}

func (e *Engine) runWatch(ctx context.Context, w *watcher, out chan<- kv.WatchResponse) {
	defer e.wg.Done()
	defer close(out)
	defer func() {
		e.mu.Lock()
		delete(e.watchers, w)
		e.mu.Unlock()
	}()
	for {
		select {
		case <-ctx.Done():
			return
		case <-e.done.Done():
			return
		case <-w.bell:
		}
		for {
			resp, ok := e.collect(w)
			if !ok {
				break
			}
			select {
			case out <- resp:
			case <-ctx.Done():
				return
			case <-e.done.Done():
				return
			}
			if resp.Err != nil {
				return
			}
		}
	}
}

// collect takes the next response for w from the log; false says that there is none now.
func (e *Engine) collect(w *watcher) (kv.WatchResponse, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if w.next < e.logStart {
		return kv.WatchResponse{Revision: e.compacted, Err: kv.ErrCompacted}, true
	}
	var events []kv.Event
	i := e.logFrom(w.next)
	for i < len(e.log) {
		ev := e.log[i]
		if rev := ev.KV.ModRevision; rev >= w.next {
			if len(events) >= watchBatchEvents {
				break
			}
			w.next = rev + 1
		}
		if strings.HasPrefix(ev.KV.Key, w.prefix) {
			events = append(events, ev)
		}
		i++
	}
	if i == len(e.log) {
		w.next = max(w.next, e.revision+1)
	}
	if len(events) > 0 {
		return kv.WatchResponse{Events: events, Revision: events[len(events)-1].KV.ModRevision}, true
	}
	if w.progress && w.next > e.revision {
		w.progress = false
		return kv.WatchResponse{Revision: e.revision}, true
	}
	return kv.WatchResponse{}, false
}

// RequestProgress asks for a progress notice on every watch.
func (e *Engine) RequestProgress(ctx context.Context) error {
	if err := e.check(ctx); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for w := range e.watchers {
		w.progress = true
		w.wake()
	}
	return nil
}

// Grant makes a lease.
func (e *Engine) Grant(ctx context.Context, ttl time.Duration) (kv.LeaseID, error) {
	if err := e.check(ctx); err != nil {
		return 0, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.nextLease++
	e.leases[e.nextLease] = &lease{expires: e.cfg.Clock.Now().Add(ttl), keys: map[string]struct{}{}}
	select {
	case e.leaseWake <- struct{}{}:
	default:
	}
	return e.nextLease, nil
}

// expireLeases sleeps until the next lease is due; without leases it sleeps for good.
func (e *Engine) expireLeases() {
	defer e.wg.Done()
	for {
		var due <-chan time.Time
		var timer clock.Timer
		if wait, ok := e.revokeDue(); ok {
			timer = e.cfg.Clock.NewTimer(wait)
			due = timer.C()
		}
		select {
		case <-e.done.Done():
		case <-due:
		case <-e.leaseWake:
		}
		if timer != nil {
			timer.Stop()
		}
		if e.done.Err() != nil {
			return
		}
	}
}

// revokeDue deletes the keys of leases that are due, each lease in one revision, and says how long until the next one is.
func (e *Engine) revokeDue() (time.Duration, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := e.cfg.Clock.Now()
	var next time.Time
	for id, l := range e.leases {
		if l.expires.After(now) {
			if next.IsZero() || l.expires.Before(next) {
				next = l.expires
			}
			continue
		}
		keys := make([]string, 0, len(l.keys))
		for k := range l.keys {
			keys = append(keys, k)
		}
		sort.Strings(keys)
		ops := make([]kv.Op, len(keys))
		for i, k := range keys {
			ops[i] = kv.Op{Delete: true, Key: k}
		}
		e.apply(ops)
		delete(e.leases, id)
	}
	if next.IsZero() {
		return 0, false
	}
	return next.Sub(now), true
}
