package store

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/clock"

	"github.com/celox/celox/internal/store/kv"
	"github.com/celox/celox/internal/workers"
)

const (
	defaultPrefix             = "/registry/"
	defaultCompactionInterval = 5 * time.Minute
	defaultRingEvents         = 16384
	// freshRevisionTimeout is how long a request waits for a revision that is not there yet.
	freshRevisionTimeout = 3 * time.Second
	// bookmarkInterval is how often a watcher without events is told how far it is.
	bookmarkInterval = time.Minute
	// lastBookmark is how long before its reader's deadline a watcher is told how far it is, so that the next watch begins there.
	lastBookmark = 2 * time.Second
	// loadPage is how many keys are read from the engine at once.
	loadPage = 2000
)

// Options are the choices of a Store; the zero value is good for a lone server with an embedded engine.
type Options struct {
	// Prefix is the part of the key space that the store looks at; "" is "/registry/".
	Prefix string
	// Logger is told of what no caller hears of: undecodable values, a lost watch. Nil is silent.
	Logger *slog.Logger
	// Clock is the source of time; nil is the real one.
	Clock clock.WithTicker
	// Linearizable says that others write to the same engine (several servers, external etcd): reads that must be the newest
	// then take a read index from the engine first.
	Linearizable bool
	// CompactionInterval is how long history is kept at least; 0 is 5 minutes, negative is never compact.
	CompactionInterval time.Duration
	// CompactionRevisions is how many revisions must have passed to make a compaction worth a write; 0 is 1000.
	CompactionRevisions int64
	// RingEvents limits the events that each collection remembers for watchers; 0 is 16384.
	RingEvents int
}

// Store is all collections over one engine. Its methods may be called from many goroutines.
type Store struct {
	o      Options
	engine kv.Engine
	log    *slog.Logger
	seed   maphash.Seed

	ctx    context.Context // ends with Close
	stop   context.CancelFunc
	wg     sync.WaitGroup
	pool   workers.Pool // which delivers
	timers kv.Timers
	probes pool[Item]   // what trees are asked with: it would be made anew for each question
	memory pool[[]byte] // what objects are encoded in for a write

	unknown atomic.Pointer[func(key string)] // of OnUnknown

	// revision is what every collection has reached. Only the loop moves it.
	revision atomic.Int64
	// compacted is the revision of the last compaction that this store made.
	compacted atomic.Int64
	// expired is the revision before which lists have expired: as upstream's they do so after a compaction interval, also when there was too little to
	// compact.
	expired atomic.Int64
	// full says that the engine refused a write for want of space since housekeep last looked.
	full atomic.Bool

	mu          sync.RWMutex
	collections map[string]*Collection // by prefix below Options.Prefix
	resources   map[schema.GroupResource]*Collection
	started     bool
	loads       chan loadRequest

	waitMu  sync.Mutex
	waiters map[*waiter]struct{}

	pendMu  sync.Mutex
	pending map[string][]*pendingWrite // by engine key

	leases leases
	shelf  *shelf // of the encodings of all items
}

type waiter struct {
	rev  int64
	done chan struct{}
}

type loadRequest struct {
	c    *Collection
	done chan error
}

// New makes a store over engine; Register resources, then Start it. The store ends with Close or with ctx.
func New(ctx context.Context, engine kv.Engine, o Options) (*Store, error) {
	if engine == nil {
		return nil, errors.New("store: no engine")
	}
	if o.Prefix == "" {
		o.Prefix = defaultPrefix
	}
	if !strings.HasSuffix(o.Prefix, "/") {
		return nil, fmt.Errorf("store: prefix %q does not end with a slash", o.Prefix)
	}
	if o.Clock == nil {
		o.Clock = clock.RealClock{}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.CompactionInterval == 0 {
		o.CompactionInterval = defaultCompactionInterval
	}
	if o.CompactionRevisions <= 0 {
		o.CompactionRevisions = 1000
	}
	if o.RingEvents <= 0 {
		o.RingEvents = defaultRingEvents
	}
	s := &Store{
		o: o, engine: engine, log: o.Logger, seed: maphash.MakeSeed(),
		collections: map[string]*Collection{},
		resources:   map[schema.GroupResource]*Collection{},
		loads:       make(chan loadRequest),
		waiters:     map[*waiter]struct{}{},
		pending:     map[string][]*pendingWrite{},
		shelf:       newShelf(o.Clock.Now),
	}
	s.ctx, s.stop = context.WithCancel(ctx)
	s.leases = leases{grant: engine.Grant, clock: o.Clock, buckets: map[time.Duration]*leaseBucket{}}
	return s, nil
}

// Register adds a resource. Before Start it costs nothing; after Start it reads the resource's objects and returns when its
// collection can be used.
func (s *Store) Register(r Resource) (*Collection, error) {
	prefix := strings.Trim(r.Prefix, "/")
	if prefix == "" || r.Codec == nil {
		return nil, fmt.Errorf("store: resource %s lacks a prefix or a codec", r.GroupResource)
	}
	c := newCollection(s, r)
	s.mu.Lock()
	if s.resources[r.GroupResource] != nil || s.collections[prefix] != nil {
		s.mu.Unlock()
		return nil, fmt.Errorf("store: resource %s or prefix %q is registered already", r.GroupResource, prefix)
	}
	s.collections[prefix] = c
	s.resources[r.GroupResource] = c
	started := s.started
	s.mu.Unlock()
	if !started {
		return c, nil
	}
	req := loadRequest{c: c, done: make(chan error, 1)}
	var err error
	select {
	case s.loads <- req:
		err = <-req.done
	case <-s.ctx.Done():
		err = errClosed
	}
	if err != nil {
		s.Unregister(r.GroupResource)
		return nil, fmt.Errorf("store: load %s: %w", r.GroupResource, err)
	}
	return c, nil
}

// Adopt has a collection of another store found here as well, by its resource. It lives by its own store's revisions, and ends with that store. As upstream's
// --etcd-servers-overrides it puts a resource into an engine of its own.
func (s *Store) Adopt(c *Collection) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.resources[c.res.GroupResource] != nil {
		return fmt.Errorf("store: resource %s is registered already", c.res.GroupResource)
	}
	s.resources[c.res.GroupResource] = c
	return nil
}

// Unregister forgets a resource; what is in the engine stays. Its watchers end with ErrUnregistered.
func (s *Store) Unregister(gr schema.GroupResource) {
	s.mu.Lock()
	c := s.resources[gr]
	if c != nil {
		delete(s.resources, gr)
		delete(s.collections, strings.Trim(c.res.Prefix, "/"))
	}
	s.mu.Unlock()
	if c != nil {
		c.end(ErrUnregistered)
	}
}

// OnUnknown has f told of the keys (below Options.Prefix) of events that belong to no registered resource. It is called by the loop
// that applies events, and must not wait.
func (s *Store) OnUnknown(f func(key string)) { s.unknown.Store(&f) }

// Stored says whether the engine has anything below a prefix ("example.com/things"), registered or not.
func (s *Store) Stored(ctx context.Context, prefix string) (bool, error) {
	key := s.o.Prefix + strings.Trim(prefix, "/") + "/"
	resp, err := s.engine.Range(ctx, kv.RangeRequest{Key: key, End: prefixEnd(key), Limit: 1})
	if err != nil {
		return false, engineError(err)
	}
	return len(resp.KVs) > 0, nil
}

// Collection returns the collection of a resource.
func (s *Store) Collection(gr schema.GroupResource) (*Collection, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	c, ok := s.resources[gr]
	return c, ok
}

// Revision is the revision that every collection has reached.
func (s *Store) Revision() int64 { return s.revision.Load() }

// Start reads everything and begins to watch the engine. It is called once.
func (s *Store) Start(ctx context.Context) error {
	s.mu.Lock()
	if s.started {
		s.mu.Unlock()
		return errors.New("store: started already")
	}
	s.started = true
	all := s.allLocked()
	s.mu.Unlock()
	rev, err := s.load(ctx, all)
	if err != nil {
		return fmt.Errorf("store: load: %w", err)
	}
	s.publish(rev)
	s.wg.Add(2)
	go s.run()
	go s.housekeep(rev)
	return nil
}

func (s *Store) allLocked() []*Collection {
	all := make([]*Collection, 0, len(s.collections))
	for _, c := range s.collections {
		all = append(all, c)
	}
	return all
}

func (s *Store) all() []*Collection {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.allLocked()
}

// Close ends the watch and all watchers, and waits for what the store started. The engine stays open: it belongs to who made it.
func (s *Store) Close() error {
	s.stop()
	s.wg.Wait()
	s.pool.Close()
	for _, c := range s.all() {
		c.end(errClosed)
	}
	return nil
}

// find returns the collection of an engine key and the item key within it.
func (s *Store) find(key string) (*Collection, string) {
	if !strings.HasPrefix(key, s.o.Prefix) {
		return nil, ""
	}
	rest := key[len(s.o.Prefix):]
	s.mu.RLock()
	defer s.mu.RUnlock()
	for i := 0; i < len(rest); i++ {
		if rest[i] == '/' {
			if c := s.collections[rest[:i]]; c != nil {
				return c, rest[i+1:]
			}
		}
	}
	return nil, ""
}

// prefixEnd is the first key after all keys with the prefix.
func prefixEnd(prefix string) string {
	b := []byte(prefix)
	for i := len(b) - 1; i >= 0; i-- {
		if b[i] < 0xff {
			b[i]++
			return string(b[:i+1])
		}
	}
	return "\x00"
}

// scan reads [key, end) page by page at one revision (0: the newest) and returns that revision.
func (s *Store) scan(ctx context.Context, key, end string, rev int64, each func(kv.KeyValue)) (int64, error) {
	for {
		resp, err := s.engine.Range(ctx, kv.RangeRequest{Key: key, End: end, Limit: loadPage, Revision: rev})
		if err != nil {
			return 0, err
		}
		if rev == 0 {
			rev = resp.Revision
		}
		for _, item := range resp.KVs {
			each(item)
		}
		if !resp.More || len(resp.KVs) == 0 {
			return rev, nil
		}
		key = resp.KVs[len(resp.KVs)-1].Key + "\x00"
	}
}

// load fills empty collections with what the engine has, at one revision.
func (s *Store) load(ctx context.Context, cs []*Collection) (int64, error) {
	trees := make(map[*Collection][]*Item, len(cs))
	for _, c := range cs {
		trees[c] = nil
	}
	take := func(c *Collection, key string, item kv.KeyValue) {
		if it, err := c.decode(key, item); err != nil {
			s.log.Error("store: a stored object cannot be read and is left out", "key", item.Key, "revision", item.ModRevision, "error", err)
		} else {
			trees[c] = append(trees[c], it)
		}
	}
	var rev int64
	var err error
	if len(cs) == 1 {
		c := cs[0]
		rev, err = s.scan(ctx, c.prefix, prefixEnd(c.prefix), 0, func(item kv.KeyValue) { take(c, item.Key[len(c.prefix):], item) })
	} else {
		rev, err = s.scan(ctx, s.o.Prefix, prefixEnd(s.o.Prefix), 0, func(item kv.KeyValue) {
			if c, key := s.find(item.Key); c != nil {
				take(c, key, item)
			}
		})
	}
	if err != nil {
		return 0, err
	}
	for c, items := range trees {
		c.fill(items, rev)
	}
	return rev, nil
}

// fill sets the content of an empty collection.
func (c *Collection) fill(items []*Item, rev int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fillLocked(items, rev)
}

func (c *Collection) fillLocked(items []*Item, rev int64) {
	for _, it := range items {
		c.put(&change{rev: it.Revision, key: it.Key, cur: it})
	}
	c.rev, c.loaded, c.view = rev, true, nil
	c.main.mu.Lock()
	c.main.low = rev
	c.main.mu.Unlock()
}

// decode makes an item of what is stored.
func (c *Collection) decode(key string, item kv.KeyValue) (*Item, error) {
	obj, err := c.res.Codec.Decode(item.Value)
	if err != nil {
		return nil, err
	}
	c.share(obj, item.Value)
	return c.s.shelf.item(obj, key, item.ModRevision, maphash.Bytes(c.s.seed, item.Value), len(item.Value)), nil
}

// publish says that all collections have reached rev.
func (s *Store) publish(rev int64) {
	if rev <= s.revision.Load() {
		return
	}
	s.revision.Store(rev)
	s.waitMu.Lock()
	defer s.waitMu.Unlock()
	for w := range s.waiters {
		if w.rev <= rev {
			close(w.done)
			delete(s.waiters, w)
		}
	}
}

// waitFor returns when the store has reached rev, or a Timeout of the API when that takes too long.
func (s *Store) waitFor(ctx context.Context, rev int64) error {
	if s.revision.Load() >= rev {
		return nil
	}
	w := &waiter{rev: rev, done: make(chan struct{})}
	s.waitMu.Lock()
	if s.revision.Load() >= rev {
		s.waitMu.Unlock()
		return nil
	}
	s.waiters[w] = struct{}{}
	s.waitMu.Unlock()
	defer func() {
		s.waitMu.Lock()
		delete(s.waiters, w)
		s.waitMu.Unlock()
	}()
	// Revisions move without events for us when others write outside our prefix; only a progress notice tells.
	if err := s.engine.RequestProgress(ctx); err != nil && ctx.Err() != nil {
		return engineError(err)
	}
	timer := s.o.Clock.NewTimer(freshRevisionTimeout)
	defer timer.Stop()
	select {
	case <-w.done:
		return nil
	case <-timer.C():
		return futureRevision(rev, s.revision.Load())
	case <-ctx.Done():
		return engineError(ctx.Err())
	case <-s.ctx.Done():
		return engineError(errClosed)
	}
}

// readIndex returns when the cache has everything that was acknowledged before the call. With a single writer the cache is never
// behind what that writer acknowledged.
func (s *Store) readIndex(ctx context.Context) error {
	if !s.o.Linearizable {
		return nil
	}
	resp, err := s.engine.Range(ctx, kv.RangeRequest{Key: s.o.Prefix, CountOnly: true})
	if err != nil {
		return engineError(err)
	}
	return s.waitFor(ctx, resp.Revision)
}

// housekeep compacts the engine's history and lets the rings forget. It writes only when enough has happened. It is called at revision before.
func (s *Store) housekeep(before int64) {
	defer s.wg.Done()
	if s.o.CompactionInterval < 0 {
		return
	}
	ticker := s.o.Clock.NewTicker(s.o.CompactionInterval)
	defer ticker.Stop()
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-ticker.C():
		}
		now := s.o.Clock.Now()
		for _, c := range s.all() {
			c.trim(now.Add(-s.o.CompactionInterval).UnixNano())
		}
		s.shelf.trim(now.Add(-s.o.CompactionInterval))
		// What was the newest revision one interval ago is now old enough.
		target := before
		before = s.Revision()
		s.expired.Store(target)
		// An engine that is full is compacted however little has happened: deletions have made room.
		if full := s.full.Swap(false); !full && target-s.compacted.Load() < s.o.CompactionRevisions {
			continue
		}
		if err := s.Compact(s.ctx, target); err != nil && s.ctx.Err() == nil {
			s.log.Warn("store: compaction failed", "revision", target, "error", err)
		}
	}
}

// Compact forgets the history before rev: lists and watches from older revisions then expire.
func (s *Store) Compact(ctx context.Context, rev int64) error {
	if err := s.engine.Compact(ctx, rev); err != nil && !errors.Is(err, kv.ErrCompacted) {
		return fmt.Errorf("compact at %d: %w", rev, err)
	}
	for {
		old := s.compacted.Load()
		if s.expired.Load() < rev {
			s.expired.Store(rev)
		}
		if old >= rev || s.compacted.CompareAndSwap(old, rev) {
			return nil
		}
	}
}

func sortChanges(changes []*change) {
	sort.SliceStable(changes, func(i, j int) bool { return changes[i].rev < changes[j].rev })
}
