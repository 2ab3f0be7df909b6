package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"strings"
	"time"

	"github.com/celox/celox/internal/store/kv"
)

// The longest and the shortest pause between attempts to reach an engine that does not answer.
const (
	retryMin = 50 * time.Millisecond
	retryMax = 2 * time.Second
)

// run follows the engine: it is the only one that changes the collections, so that they change in the order of revisions.
func (s *Store) run() {
	defer s.wg.Done()
	pause := retryMin
	for s.ctx.Err() == nil {
		began := s.Revision()
		err := s.follow()
		if s.ctx.Err() != nil {
			return
		}
		if s.Revision() > began {
			pause = retryMin
		}
		s.log.Warn("store: the watch of the engine ended and begins again", "revision", s.Revision(), "error", err)
		if errors.Is(err, kv.ErrCompacted) || errors.Is(err, errBackInTime) {
			if err = s.reload(); err == nil {
				continue
			}
			s.log.Error("store: reload failed", "error", err)
		}
		timer := s.o.Clock.NewTimer(pause)
		select {
		case <-s.ctx.Done():
		case <-timer.C():
		}
		timer.Stop()
		pause = min(2*pause, retryMax)
	}
}

var (
	errWatchEnded = errors.New("the watch ended")
	errBackInTime = errors.New("the engine's revision is lower than what was seen")
)

// follow watches from where the store stands until the watch fails.
func (s *Store) follow() error {
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	// An engine that was restored from a backup would never send a revision that we are waiting for: look before.
	resp, err := s.engine.Range(ctx, kv.RangeRequest{Key: s.o.Prefix, CountOnly: true})
	if err != nil {
		return err
	}
	if resp.Revision < s.Revision() {
		return fmt.Errorf("%w: %d, before %d", errBackInTime, resp.Revision, s.Revision())
	}
	events := s.engine.Watch(ctx, s.o.Prefix, s.Revision()+1)
	for {
		select {
		case <-s.ctx.Done():
			return s.ctx.Err()
		case req := <-s.loads:
			_, err := s.load(s.ctx, []*Collection{req.c})
			req.done <- err
		case resp, ok := <-events:
			switch {
			case !ok:
				return errWatchEnded
			case resp.Err != nil:
				return resp.Err
			}
			s.handle(resp)
		}
	}
}

// handle applies one batch. The engine never splits a revision.
func (s *Store) handle(resp kv.WatchResponse) {
	if len(resp.Events) == 1 { // nearly always
		ch, c, writes := s.changeOf(resp.Events[0])
		if c != nil {
			c.apply([]*change{ch})
		}
		s.publish(resp.Revision)
		s.acknowledge(writes, ch)
		return
	}
	type ack struct {
		writes []*pendingWrite
		ch     *change
	}
	var acks []ack
	var order []*Collection
	byCollection := map[*Collection][]*change{}
	for _, ev := range resp.Events {
		ch, c, writes := s.changeOf(ev)
		if len(writes) > 0 {
			acks = append(acks, ack{writes, ch})
		}
		if c == nil {
			continue
		}
		if byCollection[c] == nil {
			order = append(order, c)
		}
		byCollection[c] = append(byCollection[c], ch)
	}
	for _, c := range order {
		c.apply(byCollection[c])
	}
	s.publish(resp.Revision)
	for _, a := range acks {
		s.acknowledge(a.writes, a.ch)
	}
}

// changeOf turns an event into a change of its collection, nil if nobody has registered it. If the event is the echo of a
// write of this process, the object that was written is taken instead of decoding its bytes again.
func (s *Store) changeOf(ev kv.Event) (*change, *Collection, []*pendingWrite) {
	c, key := s.find(ev.KV.Key)
	ch := &change{rev: ev.KV.ModRevision, key: key, at: s.o.Clock.Now().UnixNano()}
	if c == nil {
		if f := s.unknown.Load(); f != nil && ev.Type != kv.Delete && strings.HasPrefix(ev.KV.Key, s.o.Prefix) {
			(*f)(ev.KV.Key[len(s.o.Prefix):])
		}
		return ch, nil, s.orphaned(ev.KV.Key)
	}
	var obj Object
	var sum uint64
	var writes []*pendingWrite
	s.pendMu.Lock()
	for _, p := range s.pending[ev.KV.Key] {
		if p.delete != (ev.Type == kv.Delete) || !bytes.Equal(p.data, ev.KV.Value) {
			continue
		}
		writes = append(writes, p)
		if obj == nil && !p.taken && p.obj != nil {
			obj, sum = p.obj, p.sum
			ch.lastOf = p.of
			p.taken = true
		}
	}
	s.pendMu.Unlock()
	if ev.Type == kv.Delete {
		ch.shown = obj
		return ch, c, writes
	}
	if obj != nil {
		ch.cur = s.shelf.item(obj, key, ch.rev, sum, len(ev.KV.Value))
		return ch, c, writes
	}
	obj, err := c.res.Codec.Decode(ev.KV.Value)
	if err != nil {
		// What cannot be read is as good as gone: readers must not go on seeing what is no longer stored.
		s.log.Error("store: a stored object cannot be read and is left out", "key", ev.KV.Key, "revision", ch.rev, "error", err)
		return ch, c, writes
	}
	c.share(obj, ev.KV.Value)
	ch.cur = s.shelf.item(obj, key, ch.rev, maphash.Bytes(s.seed, ev.KV.Value), len(ev.KV.Value))
	return ch, c, writes
}

// orphaned finds the writers that wait for a key whose collection was unregistered meanwhile; nearly always there are none.
func (s *Store) orphaned(key string) []*pendingWrite {
	s.pendMu.Lock()
	defer s.pendMu.Unlock()
	return append([]*pendingWrite(nil), s.pending[key]...)
}

// acknowledge hands the applied change to the writers that wait for it.
func (s *Store) acknowledge(writes []*pendingWrite, ch *change) {
	if len(writes) == 0 {
		return
	}
	item := ch.cur
	if item == nil && ch.prev != nil {
		item = ch.gone()
	}
	s.pendMu.Lock()
	defer s.pendMu.Unlock()
	for _, p := range writes {
		p.item, p.rev = item, ch.rev
		select {
		case p.applied <- struct{}{}:
		default:
		}
	}
}

// reload compares what the engine has now with what is in memory and applies the difference as if it had been watched: when
// the history in between was compacted away, the deletes in it must not be lost. If the engine went back in time, nothing that
// watchers saw is certain any more, so all of them expire.
func (s *Store) reload() error {
	type found struct {
		c    *Collection
		key  string
		item kv.KeyValue
	}
	var now []found
	rev, err := s.scan(s.ctx, s.o.Prefix, prefixEnd(s.o.Prefix), 0, func(item kv.KeyValue) {
		if c, key := s.find(item.Key); c != nil {
			now = append(now, found{c, key, item})
		}
	})
	if err != nil {
		return err
	}
	back := rev < s.Revision()
	seen := map[*Collection]map[string]kv.KeyValue{}
	for _, c := range s.all() {
		seen[c] = map[string]kv.KeyValue{}
	}
	for _, f := range now {
		if seen[f.c] != nil {
			seen[f.c][f.key] = f.item
		}
	}
	if back {
		s.revision.Store(rev)
		s.compacted.Store(0)
		s.expired.Store(0)
		for c, keys := range seen {
			c.restore(keys, rev)
		}
		return nil
	}
	for c, keys := range seen {
		c.apply(s.difference(c, keys, rev))
	}
	s.publish(rev)
	s.wakeAll(rev)
	return nil
}

// difference makes the changes that lead from what is in memory to keys.
func (s *Store) difference(c *Collection, keys map[string]kv.KeyValue, rev int64) []*change {
	at := s.o.Clock.Now().UnixNano()
	var changes []*change
	view, _, _ := c.snapshot(ListOptions{}, span{})
	view.Ascend(func(it *Item) bool {
		if now, ok := keys[it.Key]; !ok {
			changes = append(changes, &change{rev: rev, key: it.Key, at: at})
		} else if now.CreateRevision > it.Revision {
			// It was deleted and made again in between.
			changes = append(changes, &change{rev: now.CreateRevision - 1, key: it.Key, at: at})
		}
		return true
	})
	for key, now := range keys {
		if old := c.cached(key); old != nil && old.Revision == now.ModRevision {
			continue
		}
		item, err := c.decode(key, now)
		if err != nil {
			s.log.Error("store: a stored object cannot be read and is left out", "key", now.Key, "revision", now.ModRevision, "error", err)
			changes = append(changes, &change{rev: rev, key: key, at: at})
			continue
		}
		changes = append(changes, &change{rev: now.ModRevision, key: key, cur: item, at: at})
	}
	sortChanges(changes)
	return changes
}

// wakeAll lets every waiting writer look at the cache: the events that they wait for may have been compacted away.
func (s *Store) wakeAll(rev int64) {
	s.pendMu.Lock()
	defer s.pendMu.Unlock()
	for _, ps := range s.pending {
		for _, p := range ps {
			p.rev = rev
			select {
			case p.applied <- struct{}{}:
			default:
			}
		}
	}
}

// restore replaces the content of the collection and expires its watchers.
func (c *Collection) restore(keys map[string]kv.KeyValue, rev int64) {
	items := make([]*Item, 0, len(keys))
	for key, stored := range keys {
		it, err := c.decode(key, stored)
		if err != nil {
			c.s.log.Error("store: a stored object cannot be read and is left out", "key", stored.Key, "revision", stored.ModRevision, "error", err)
			continue
		}
		items = append(items, it)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	expired := watchExpired(c.rev, rev)
	c.main.end(expired)
	for _, t := range c.topics {
		t.end(expired)
	}
	c.tree.Clear(false)
	clear(c.inNamespace)
	for n := range c.indexes {
		c.indexes[n] = map[string]map[string]*Item{}
	}
	c.topics = map[topicID]*topic{}
	c.main = newTopic(topicID{}, rev, c.s.o.RingEvents, &c.s.pool)
	c.fillLocked(items, rev)
}
