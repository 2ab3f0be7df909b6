package store

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"path"
	"strings"
	"time"

	"github.com/google/btree"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/celox/celox/internal/store/kv"
)

// CheckContinue says what is wrong with a continue token, as List does.
func CheckContinue(token string) error {
	if _, err := decodeContinue(token); err != nil {
		return badContinue(err)
	}
	return nil
}

// List returns a part of the collection as it was at one revision, in key order.
//
// A limit is ignored when any revision will do (NotOlderThan 0), as upstream does. With a continue token Match and Revision are
// ignored: the token says where the list stands.
func (c *Collection) List(ctx context.Context, o ListOptions) (List, error) {
	span := c.span(o)
	if o.Continue != "" {
		token, err := decodeContinue(o.Continue)
		if err != nil {
			return List{}, badContinue(err)
		}
		span.from = span.prefix + token.Start
		if token.Revision > 0 && c.tooOld(token) {
			return List{}, c.listExpired(o)
		}
		if token.Revision > 0 {
			return c.listAt(ctx, o, span, token.Revision, token.rest())
		}
		o.Match = MostRecent // an inconsistent token goes on with what is there now
	}
	switch o.Match {
	case Exact:
		return c.listAt(ctx, o, span, o.Revision, -1)
	case NotOlderThan:
		if o.Revision == 0 {
			if o.Continue == "" {
				o.Limit = 0
			}
		} else if err := c.s.waitFor(ctx, o.Revision); err != nil {
			return List{}, err
		}
	default:
		if err := c.s.readIndex(ctx); err != nil {
			return List{}, err
		}
	}
	if o.Index != "" {
		if _, ok := c.indexes[o.Index]; ok && o.Name == "" {
			items, rev := c.indexedItems(o.Index, o.IndexValue)
			return c.collect(sliceWalker(items), len(items), o, span, rev, -1), nil
		}
	}
	if span.only != "" {
		c.mu.RLock()
		item, _ := c.tree.Get(&Item{Key: span.only})
		rev := c.revisionLocked()
		c.mu.RUnlock()
		var items []*Item
		if item != nil {
			items = []*Item{item}
		}
		return c.collect(sliceWalker(items), len(items), o, span, rev, -1), nil
	}
	view, rev, total := c.snapshot(o, span)
	return c.collect(treeWalker(view), view.Len(), o, span, rev, total), nil
}

// span is the range of keys that a list covers: those with the prefix, from a key on. If only is set, it is that one key.
type span struct {
	prefix, from, only string
}

func (c *Collection) span(o ListOptions) span {
	var s span
	if c.res.Namespaced && o.Namespace != "" {
		s.prefix = o.Namespace + "/"
		if o.Name != "" {
			s.only = s.prefix + o.Name
		}
	} else if !c.res.Namespaced && o.Name != "" {
		s.only = o.Name
	}
	s.from = s.prefix
	if s.only != "" {
		s.from = s.only
	}
	return s
}

// before says whether keys of the span may still follow after key, which is not in it.
func (s span) before(key string) bool { return key < s.from || key < s.only }

func (s span) holds(key string) bool {
	if s.only != "" {
		return key == s.only && key >= s.from
	}
	return strings.HasPrefix(key, s.prefix) && key >= s.from
}

// walker calls each with the items of a list from a key on, in order, until each says stop.
type walker func(from string, each func(*Item) bool)

func treeWalker(t *btree.BTreeG[*Item]) walker {
	return func(from string, each func(*Item) bool) { t.AscendGreaterOrEqual(&Item{Key: from}, each) }
}

func sliceWalker(items []*Item) walker {
	return func(_ string, each func(*Item) bool) {
		for _, it := range items {
			if !each(it) {
				return
			}
		}
	}
}

// selective says that a list leaves objects out other than by namespace.
func (o *ListOptions) selective() bool { return o.Filter != nil || o.Index != "" || o.Name != "" }

// collect takes a page. size is how many items there may be, total how many there are from the beginning of the page on, or -1 if nobody knows.
func (c *Collection) collect(walk walker, size int, o ListOptions, s span, rev, total int64) List {
	l := List{Revision: rev}
	selective := o.Filter != nil || o.Index != "" || (o.Name != "" && s.only == "")
	if total >= 0 && !selective && o.Limit <= 0 && o.Continue == "" { // what a token says of the rest may be forged
		// All that there are from here on, and it is known how many: no key needs to be looked at.
		l.Items = make([]*Item, 0, total)
		walk(s.from, func(it *Item) bool {
			if int64(len(l.Items)) < total {
				l.Items = append(l.Items, it)
			}
			return int64(len(l.Items)) < total
		})
		return l
	}
	if s.prefix == "" && s.only == "" && !selective {
		if o.Limit > 0 {
			size = min(size, int(min(o.Limit, math.MaxInt32)))
		}
		l.Items = make([]*Item, 0, size)
	}
	last, full := "", false
	var rest int64
	walk(s.from, func(it *Item) bool {
		if !s.holds(it.Key) {
			return s.before(it.Key)
		}
		if full {
			rest++
			return !selective
		}
		if (o.Name == "" || s.only != "" || name(it.Key) == o.Name) && (o.Filter == nil || o.Filter(it.Object)) {
			l.Items = append(l.Items, it)
			full = o.Limit > 0 && int64(len(l.Items)) >= o.Limit
			last = it.Key
			if full && total >= 0 && !selective {
				rest = max(0, total-int64(len(l.Items)))
				return false
			}
		}
		return true
	})
	if rest > 0 {
		token := continueToken{Revision: rev, At: c.s.o.Clock.Now().Unix(), Start: last[len(s.prefix):] + "\x00"}
		if !selective {
			l.Remaining = &rest
			token.Rest = rest
		}
		l.Continue = encodeContinue(token)
	}
	return l
}

// listAt lists at exactly one revision: from memory if nothing has changed since or if the ring can undo what has, else from the
// engine's history. total is how many objects there are from the beginning of the page on, or -1.
func (c *Collection) listAt(ctx context.Context, o ListOptions, s span, rev, total int64) (List, error) {
	if err := c.s.waitFor(ctx, rev); err != nil {
		return List{}, err
	}
	if rev < c.s.expired.Load() {
		return List{}, c.listExpired(o)
	}
	if view, ok := c.viewAt(rev); ok {
		if o.Index != "" {
			o.Filter = c.indexFilter(o)
		}
		return c.collect(treeWalker(view), view.Len(), o, s, rev, total), nil
	}
	list, err := c.listFromEngine(ctx, o, s, rev)
	if errors.Is(err, kv.ErrCompacted) {
		return List{}, c.listExpired(o)
	}
	if err != nil {
		return List{}, engineError(err)
	}
	return list, nil
}

// indexFilter is the filter of o with the index as a part of it, for walks that do not go along the index.
func (c *Collection) indexFilter(o ListOptions) func(Object) bool {
	f := c.res.Indexes[o.Index]
	return func(obj Object) bool {
		return (f == nil || contains(f(obj), o.IndexValue)) && (o.Filter == nil || o.Filter(obj))
	}
}

// listExpired is a 410. One who was in the middle of a list gets a token to go on with, at the price of consistency.
func (c *Collection) listExpired(o ListOptions) error {
	if o.Continue == "" {
		return apierrors.NewResourceExpired("The resourceVersion for the provided list is too old.")
	}
	err := apierrors.NewResourceExpired(continueExpired)
	if token, terr := decodeContinue(o.Continue); terr == nil {
		err.ErrStatus.Continue = encodeContinue(continueToken{Revision: -1, Start: token.Start})
	}
	return err
}

// viewAt returns the state at rev, made from the current one by undoing the changes since.
func (c *Collection) viewAt(rev int64) (*btree.BTreeG[*Item], bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if rev >= c.rev {
		return c.freezeLocked(), true
	}
	c.main.mu.Lock()
	defer c.main.mu.Unlock()
	if rev < c.main.low {
		return nil, false
	}
	view := c.freezeLocked().Clone()
	r := &c.main.r
	for pos := r.tail; pos > r.head; {
		pos--
		ch := r.get(pos)
		if ch.rev <= rev {
			break
		}
		if ch.prev != nil {
			view.ReplaceOrInsert(ch.prev)
		} else {
			view.Delete(ch.cur)
		}
	}
	return view, true
}

// listFromEngine reads and decodes a page of an old revision.
func (c *Collection) listFromEngine(ctx context.Context, o ListOptions, s span, rev int64) (List, error) {
	if o.Index != "" {
		o.Filter = c.indexFilter(o)
	}
	var items []*Item
	key, end := c.prefix+s.from, prefixEnd(c.prefix+s.prefix)
	if s.only != "" {
		key, end = c.prefix+max(s.only, s.from), c.prefix+s.only+"\x00"
	}
	matched := int64(0)
	for {
		resp, err := c.s.engine.Range(ctx, kv.RangeRequest{Key: key, End: end, Limit: loadPage, Revision: rev})
		if err != nil {
			return List{}, err
		}
		for _, item := range resp.KVs {
			it, err := c.decode(item.Key[len(c.prefix):], item)
			if err != nil {
				return List{}, fmt.Errorf("decode %s at revision %d: %w", item.Key, rev, err)
			}
			items = append(items, it)
			if o.Filter == nil || o.Filter(it.Object) {
				matched++
			}
		}
		if !resp.More || len(resp.KVs) == 0 {
			return c.collect(sliceWalker(items), len(items), o, s, rev, -1), nil
		}
		if o.Limit > 0 && matched > o.Limit {
			l := c.collect(sliceWalker(items), len(items), o, s, rev, -1)
			if l.Remaining != nil {
				rest := resp.Count - int64(len(resp.KVs)) + *l.Remaining
				l.Remaining = &rest
			}
			return l, nil
		}
		key = resp.KVs[len(resp.KVs)-1].Key + "\x00"
	}
}

// continueVersion is the version of upstream's continue tokens, which ours can be exchanged for.
const continueVersion = "meta.k8s.io/v1"

// continueToken says where a list goes on: at Revision (negative: the newest), from Start, relative to the list's prefix. Rest, which upstream does not have
// and does not look at, is how many objects follow, if that is known.
type continueToken struct {
	Version  string `json:"v"`
	Revision int64  `json:"rv"`
	Start    string `json:"start"`
	Rest     int64  `json:"rest,omitempty"`
	// At is when the token was given, in seconds since the epoch, also ours alone.
	At int64 `json:"at,omitempty"`
}

// tooOld says whether a token has expired by age. Upstream's do when their revision is compacted, after one or two intervals; here nothing may have been written
// since, and clients count on the end all the same.
func (c *Collection) tooOld(t continueToken) bool {
	age := c.s.o.Clock.Since(time.Unix(t.At, 0))
	return t.At > 0 && c.s.o.CompactionInterval > 0 && age > c.s.o.CompactionInterval
}

// rest is how many objects follow, or -1. One who forges it is told what he said.
func (t *continueToken) rest() int64 {
	if t.Rest <= 0 {
		return -1
	}
	return t.Rest
}

func encodeContinue(t continueToken) string {
	t.Version = continueVersion
	data, err := json.Marshal(t)
	if err != nil { // strings and numbers always encode
		panic(err)
	}
	return base64.RawURLEncoding.EncodeToString(data)
}

// decodeContinue reads a token, which comes from outside; its messages are upstream's.
func decodeContinue(s string) (continueToken, error) {
	var t continueToken
	data, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		return t, fmt.Errorf("continue key is not valid: %w", err)
	}
	if err := json.Unmarshal(data, &t); err != nil {
		return t, fmt.Errorf("continue key is not valid: %w", err)
	}
	switch {
	case t.Version != continueVersion:
		return t, fmt.Errorf("continue key is not valid: server does not recognize this encoded version %v", t.Version)
	case t.Revision == 0:
		return t, fmt.Errorf("continue key is not valid: incorrect encoded start resourceVersion (version %s)", continueVersion)
	case t.Start == "":
		return t, fmt.Errorf("continue key is not valid: encoded start key empty (version %s)", continueVersion)
	}
	// A start outside the list's prefix would read what the list's permission does not cover.
	key := t.Start
	if !strings.HasPrefix(key, "/") {
		key = "/" + key
	}
	if path.Clean(key) != key {
		return t, fmt.Errorf("continue key is not valid: %s", t.Start)
	}
	t.Start = key[1:]
	return t, nil
}
