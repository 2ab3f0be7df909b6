package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"sync"
	"time"

	"k8s.io/utils/clock"

	"github.com/celox/celox/internal/store/kv"
)

// pendingWrite is a write of this process on its way through the engine back to the loop. Its fields after the first group are
// guarded by Store.pendMu.
type pendingWrite struct {
	delete  bool
	data    []byte
	sum     uint64
	obj     Object        // what is written, or the last state that a deletion shows
	of      int64         // the revision that a deletion's obj was made of
	applied chan struct{} // capacity 1

	taken bool // obj is in the cache now
	item  *Item
	rev   int64
}

func (s *Store) await(key string, p *pendingWrite) {
	s.pendMu.Lock()
	defer s.pendMu.Unlock()
	s.pending[key] = append(s.pending[key], p)
}

func (s *Store) forget(key string, p *pendingWrite) {
	s.pendMu.Lock()
	defer s.pendMu.Unlock()
	list := s.pending[key]
	for i, q := range list {
		if q == p {
			list = append(list[:i:i], list[i+1:]...)
			break
		}
	}
	if len(list) == 0 {
		delete(s.pending, key)
	} else {
		s.pending[key] = list
	}
}

// Mutate reads the object under key, asks f what is to become of it and writes that, guarded by the revision that f saw; when
// another writer came between, f is asked again with the newer state. It returns the new item; for a delete the last one with the
// deletion's revision as its resourceVersion; if nothing changed, the current one (nil if there is none). The object that f returns
// belongs to the store from then on and is shown to readers as it is, so it must be what decoding its encoding gives: times in whole
// seconds, nil for what the encoding does not tell from nil. When Mutate returns, the cache has the write.
func (c *Collection) Mutate(ctx context.Context, key string, f MutateFunc) (*Item, error) {
	cur := c.cached(key)
	newest := !c.s.o.Linearizable // a lone writer's cache is as new as anything acknowledged
	var inCache Object            // an object of ours that the cache took although our transaction failed
	memory := c.s.memory.get()    // given back when nobody reads it any more: not after an error
	for {
		if err := ctx.Err(); err != nil {
			return nil, engineError(err)
		}
		m, err := f(cur)
		if err == nil && m.Delete && cur == nil {
			err = c.notFound(key)
		}
		if err != nil || (m.Object == nil && !m.Delete) || (cur != nil && !m.Delete && m.Object == cur.Object) {
			if newest && err != nil {
				return nil, err
			}
			if newest {
				return cur, nil
			}
			// What f decided may come from an old state.
			fresh, ferr := c.stored(ctx, key)
			if ferr != nil {
				return nil, ferr
			}
			newest = true
			if !same(fresh, cur) {
				cur = fresh
				continue
			}
			if err != nil {
				return nil, err
			}
			return cur, nil
		}
		p := &pendingWrite{delete: m.Delete, applied: make(chan struct{}, 1)}
		if m.Delete && m.Object != nil && m.Object != cur.Object {
			p.obj, p.of = m.Object, cur.Revision
		}
		if !m.Delete {
			p.obj = m.Object
			if p.obj == inCache {
				p.obj = p.obj.DeepCopyObject().(Object)
			}
			p.obj.SetResourceVersion("")
			if *memory, err = c.res.Codec.Append((*memory)[:0], p.obj); err != nil {
				return nil, fmt.Errorf("encode %s %s: %w", c.res.GroupResource, key, err)
			}
			p.data = *memory
			c.share(p.obj, p.data)
			p.sum = maphash.Bytes(c.s.seed, p.data)
			if cur != nil && cur.sum == p.sum && newest && c.unchanged(cur, p.data) {
				c.s.giveBack(memory)
				return cur, nil
			}
		}
		item, current, err := c.write(ctx, key, cur, p, m.TTL)
		if err != nil {
			return nil, err
		}
		if item != nil {
			c.s.giveBack(memory)
			return item, nil
		}
		if p.taken && !p.delete {
			inCache = m.Object
		}
		cur, newest = current, true
	}
}

// maxReused is the largest object, in bytes, whose memory is used for others.
const maxReused = 32 << 10

// giveBack has memory used for other objects.
func (s *Store) giveBack(memory *[]byte) {
	if cap(*memory) <= maxReused {
		s.memory.put(memory)
	}
}

func same(a, b *Item) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Revision == b.Revision
}

// unchanged makes sure, after the hashes were equal, that data is what is stored as cur.
func (c *Collection) unchanged(cur *Item, data []byte) bool {
	obj := cur.Object.DeepCopyObject().(Object)
	obj.SetResourceVersion("")
	stored, err := c.res.Codec.Append(nil, obj)
	return err == nil && bytes.Equal(stored, data)
}

// write tries one guarded transaction. It returns the item that was written, or, when the guard did not hold, what is there.
func (c *Collection) write(ctx context.Context, key string, cur *Item, p *pendingWrite, ttl time.Duration) (item, current *Item, err error) {
	s, full := c.s, c.prefix+key
	guard := kv.Guard{Key: full}
	if cur != nil {
		guard.ModRevision = cur.Revision
	}
	s.await(full, p)
	defer s.forget(full, p)
	op := kv.Op{Delete: p.delete, Key: full, Value: p.data}
	var resp kv.TxnResponse
	for attempt := 0; ; attempt++ {
		if ttl > 0 && !p.delete {
			if op.Lease, err = s.leases.get(ctx, ttl); err != nil {
				return nil, nil, engineError(err)
			}
		}
		resp, err = s.engine.Txn(ctx, []kv.Guard{guard}, []kv.Op{op})
		if errors.Is(err, kv.ErrLeaseNotFound) && attempt < 3 {
			s.leases.drop(op.Lease)
			continue
		}
		break
	}
	if errors.Is(err, kv.ErrNoSpace) {
		s.full.Store(true)
	}
	if err != nil {
		return nil, nil, engineError(err)
	}
	if resp.Succeeded {
		item, err = c.settle(ctx, key, cur, p, resp.Revision)
		return item, nil, err
	}
	if len(resp.Current) == 0 {
		return nil, nil, nil
	}
	if cached := c.cached(key); cached != nil && cached.Revision == resp.Current[0].ModRevision {
		return nil, cached, nil
	}
	current, err = c.decode(key, resp.Current[0])
	if err != nil {
		return nil, nil, fmt.Errorf("decode %s: %w", full, err)
	}
	return nil, current, nil
}

// settle waits until the cache has the write that the engine acknowledged with rev.
func (c *Collection) settle(ctx context.Context, key string, cur *Item, p *pendingWrite, rev int64) (*Item, error) {
	timer := c.s.timers.Start(kv.Blind)
	defer c.s.timers.Stop(timer)
	var ended, closed <-chan struct{} // from then on
	for {
		select {
		case <-p.applied:
		case <-timer.C:
			ended, closed = ctx.Done(), c.s.ctx.Done()
			continue
		case <-ended:
			return nil, engineError(ctx.Err())
		case <-closed:
			return nil, engineError(errClosed)
		}
		c.s.pendMu.Lock()
		item, at, taken := p.item, p.rev, p.taken
		c.s.pendMu.Unlock()
		switch {
		case at < rev: // the echo of an equal write before ours
			continue
		case item != nil && item.Revision == rev:
			return item, nil
		}
		// The loop was told of a later state only (a reload): say what we wrote.
		if p.delete {
			return cur.at(rev), nil
		}
		if taken {
			return c.s.shelf.item(p.obj.DeepCopyObject().(Object), key, rev, p.sum, len(p.data)), nil
		}
		return c.s.shelf.item(p.obj, key, rev, p.sum, len(p.data)), nil
	}
}

// stored reads one object from the engine; nil if there is none.
func (c *Collection) stored(ctx context.Context, key string) (*Item, error) {
	resp, err := c.s.engine.Range(ctx, kv.RangeRequest{Key: c.prefix + key})
	if err != nil {
		return nil, engineError(err)
	}
	if len(resp.KVs) == 0 {
		return nil, nil
	}
	if cached := c.cached(key); cached != nil && cached.Revision == resp.KVs[0].ModRevision {
		return cached, nil
	}
	item, err := c.decode(key, resp.KVs[0])
	if err != nil {
		return nil, fmt.Errorf("decode %s%s: %w", c.prefix, key, err)
	}
	return item, nil
}

// The limits of one shared lease: how much longer than asked its first objects may live, and how many hang on it.
const (
	leaseReuse      = time.Minute
	leaseReuseShare = 20 // of the time asked for, one part in
	leaseMaxObjects = 1000
)

// leases shares one lease among the objects of about a minute that live equally long.
type leases struct {
	grant func(ctx context.Context, ttl time.Duration) (kv.LeaseID, error)
	clock clock.PassiveClock

	mu      sync.Mutex
	buckets map[time.Duration]*leaseBucket
}

type leaseBucket struct {
	id      kv.LeaseID
	until   time.Time // when it becomes too short for newcomers
	objects int
}

func (l *leases) get(ctx context.Context, ttl time.Duration) (kv.LeaseID, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.clock.Now()
	if b := l.buckets[ttl]; b != nil && now.Before(b.until) && b.objects < leaseMaxObjects {
		b.objects++
		return b.id, nil
	}
	for t, b := range l.buckets {
		if !now.Before(b.until) {
			delete(l.buckets, t)
		}
	}
	reuse := min(leaseReuse, ttl/leaseReuseShare)
	id, err := l.grant(ctx, ttl+reuse)
	if err != nil {
		return 0, err
	}
	l.buckets[ttl] = &leaseBucket{id: id, until: now.Add(reuse), objects: 1}
	return id, nil
}

func (l *leases) drop(id kv.LeaseID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for t, b := range l.buckets {
		if b.id == id {
			delete(l.buckets, t)
		}
	}
}
