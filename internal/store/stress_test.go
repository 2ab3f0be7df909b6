package store_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/celox/celox/internal/store"
	"github.com/celox/celox/internal/store/kv"
	"github.com/celox/celox/internal/store/kv/etcd"
	"github.com/celox/celox/internal/store/kv/memory"
)

// engines makes an empty engine of each kind.
func engines(t testing.TB) map[string]func() kv.Engine {
	return map[string]func() kv.Engine{
		"memory": func() kv.Engine {
			e := memory.New()
			t.Cleanup(func() { e.Close() })
			return e
		},
		"etcd": func() kv.Engine {
			e, err := etcd.Start(context.Background(), etcd.Config{Dir: t.TempDir()})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { e.Close() })
			return e
		},
	}
}

// replica is what a client knows that lists and watches.
type replica struct {
	name  string
	c     *store.Collection
	list  store.ListOptions
	watch store.WatchOptions
	slow  bool
	sink  bool // reads through Deliver, and takes only some of what it is given

	state   map[string]int64
	at      int64
	expired int

	taken, sent int   // calls of the sink
	failed      error // of the sink
}

// Take is of store.Sink: a client that can take more at one time than at another.
func (r *replica) Take(events []store.Event) int {
	n := min(len(events), rand.IntN(4))
	for _, e := range events[:n] {
		if err := r.apply(e); err != nil && r.failed == nil {
			r.failed = err
		}
	}
	r.taken += min(n, 1)
	return n
}

// Sent is of store.Sink.
func (r *replica) Sent() { r.sent++ }

func (r *replica) relist(ctx context.Context) error {
	r.state = map[string]int64{}
	l, err := r.c.List(ctx, r.list)
	if err != nil {
		return err
	}
	for _, it := range l.Items {
		r.state[it.Key] = it.Revision
	}
	r.at = l.Revision
	return nil
}

// differs says in what the state is not that of a list.
func (r *replica) differs(l store.List) string {
	if len(l.Items) != len(r.state) {
		return fmt.Sprintf("%d objects, want %d", len(r.state), len(l.Items))
	}
	for _, it := range l.Items {
		if r.state[it.Key] != it.Revision {
			return fmt.Sprintf("%s at %d, want %d", it.Key, r.state[it.Key], it.Revision)
		}
	}
	return ""
}

// follow keeps the state until it is that of a list, once end says that it cannot change any more, and complains of every event that
// cannot be.
func (r *replica) follow(ctx context.Context, end func() bool) error {
	if err := r.relist(ctx); err != nil {
		return err
	}
	for {
		o := r.watch
		o.Revision, o.FromNow = r.at, r.at == 0
		w, err := r.c.Watch(ctx, o)
		for err == nil {
			var events []store.Event
			next, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
			if r.sink {
				events, err = w.Deliver(next, r)
			} else {
				events, err = w.Next(next)
			}
			cancel()
			if r.failed != nil {
				w.Stop()
				return fmt.Errorf("%s: %w", r.name, r.failed)
			}
			if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
				err = nil
			}
			for _, e := range events {
				if err := r.apply(e); err != nil {
					w.Stop()
					return fmt.Errorf("%s: %w", r.name, err)
				}
			}
			if r.slow {
				time.Sleep(time.Duration(rand.IntN(3)) * time.Millisecond)
			}
			if err == nil && len(events) == 0 && end() {
				var want store.List // what is missing may be late
				if want, err = r.c.List(ctx, r.list); err == nil && r.differs(want) == "" {
					w.Stop()
					return nil
				}
			}
			if rand.IntN(50) == 0 { // the connection breaks now and then
				w.Stop()
				break
			}
		}
		if err == nil {
			continue
		}
		if w != nil {
			w.Stop()
		}
		if !apierrors.IsResourceExpired(err) {
			return fmt.Errorf("%s: %w", r.name, err)
		}
		r.expired++
		if err := r.relist(ctx); err != nil {
			return err
		}
	}
}

func (r *replica) apply(e store.Event) error {
	if e.Type == store.Bookmark {
		return nil
	}
	if e.Revision < r.at {
		return fmt.Errorf("%s: back in time, %d after %d", show(e), e.Revision, r.at)
	}
	if got := e.Item.Object.GetResourceVersion(); got != fmt.Sprint(e.Revision) {
		return fmt.Errorf("%s: resourceVersion %s at %d", show(e), got, e.Revision)
	}
	r.at = e.Revision
	_, known := r.state[e.Item.Key]
	if known != (e.Type != store.Added) {
		return fmt.Errorf("%s at %d: known before: %v", show(e), e.Revision, known)
	}
	if e.Type == store.Deleted {
		delete(r.state, e.Item.Key)
	} else {
		r.state[e.Item.Key] = e.Item.Revision
	}
	return nil
}

// TestReplicas lets writers write at random and readers of all sorts keep replicas, whose state must in the end be that of a list:
// no event lost, none twice, none out of order, also for those who are slow, who come back, and who see through a filter.
func TestReplicas(t *testing.T) {
	for name, open := range engines(t) {
		t.Run(name, func(t *testing.T) {
			f := start(t, open(), store.Options{RingEvents: 64})
			filter := func(o store.Object) bool { return o.(*corev1.Pod).Labels["in"] == "yes" }
			other := func(o store.Object) bool { return o.(*corev1.Pod).Labels["in"] != "yes" }
			replicas := []*replica{
				{name: "all"},
				{name: "slow", slow: true},
				{name: "namespace", list: store.ListOptions{Namespace: "a"}, watch: store.WatchOptions{Namespace: "a"}},
				{name: "one", list: store.ListOptions{Namespace: "a", Name: "p1"}, watch: store.WatchOptions{Namespace: "a", Name: "p1"}},
				{name: "filter", list: store.ListOptions{Filter: filter}, watch: store.WatchOptions{Filter: filter}},
				{name: "slow filter", slow: true, list: store.ListOptions{Filter: filter, Namespace: "b"}, watch: store.WatchOptions{Filter: filter, Namespace: "b"}},
				{name: "index", list: store.ListOptions{Index: "spec.nodeName", IndexValue: "n1"}, watch: store.WatchOptions{Index: "spec.nodeName", IndexValue: "n1", Bookmarks: true}},
				{name: "sink", sink: true},
				{name: "slow sink", sink: true, slow: true, list: store.ListOptions{Namespace: "a"}, watch: store.WatchOptions{Namespace: "a", Bookmarks: true}},
				{name: "sink and filter", sink: true, list: store.ListOptions{Filter: filter}, watch: store.WatchOptions{Filter: filter}},
				{name: "named filter", sink: true, list: store.ListOptions{Filter: filter}, watch: store.WatchOptions{Filter: filter, FilterName: "f"}},
				{name: "named filter and index", sink: true, list: store.ListOptions{Index: "spec.nodeName", IndexValue: "n1", Filter: filter},
					watch: store.WatchOptions{Index: "spec.nodeName", IndexValue: "n1", Filter: filter, FilterName: "f"}},
				{name: "named filter in a namespace", sink: true, list: store.ListOptions{Filter: filter, Namespace: "b"},
					watch: store.WatchOptions{Filter: filter, FilterName: "f", Namespace: "b"}},
				{name: "another named filter", sink: true, list: store.ListOptions{Filter: other}, watch: store.WatchOptions{Filter: other, FilterName: "g"}},
				{name: "sink and one", sink: true, list: store.ListOptions{Namespace: "a", Name: "p1"}, watch: store.WatchOptions{Namespace: "a", Name: "p1"}},
				{name: "index and filter", list: store.ListOptions{Index: "spec.nodeName", IndexValue: "n1", Filter: filter}, watch: store.WatchOptions{Index: "spec.nodeName", IndexValue: "n1", Filter: filter}},
			}
			var written atomic.Bool
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
			defer cancel()
			var readers, writers sync.WaitGroup
			for _, r := range replicas {
				r.c = f.pods
				readers.Go(func() {
					if err := r.follow(ctx, written.Load); err != nil {
						t.Error(err)
					}
				})
			}
			for range 4 {
				writers.Go(func() {
					for range 400 {
						if err := randomWrite(ctx, f.pods); err != nil {
							t.Error(err)
							return
						}
					}
				})
			}
			writers.Wait()
			written.Store(true)
			readers.Wait()
			for _, namespace := range []string{"", "a", "b"} {
				all, err := f.pods.List(ctx, store.ListOptions{Namespace: namespace})
				if err != nil {
					t.Fatal(err)
				}
				page, err := f.pods.List(ctx, store.ListOptions{Namespace: namespace, Limit: 1})
				rest := int64(0)
				if page.Remaining != nil {
					rest = *page.Remaining
				}
				if err != nil || len(page.Items)+int(rest) != len(all.Items) {
					t.Errorf("namespace %q: %d of a page and %d that follow are not %d, %v", namespace, len(page.Items), rest, len(all.Items), err)
				}
			}
			for _, r := range replicas {
				want, err := f.pods.List(ctx, r.list)
				if err != nil {
					t.Fatal(err)
				}
				if how := r.differs(want); how != "" {
					t.Errorf("%s: %s", r.name, how)
				}
				if r.sink != (r.taken > 0) || r.taken != r.sent {
					t.Errorf("%s: took %d times, was told to send %d times", r.name, r.taken, r.sent)
				}
				t.Logf("%s: %d objects, expired %d times, sink took %d times", r.name, len(r.state), r.expired, r.taken)
			}
		})
	}
}

func randomWrite(ctx context.Context, c *store.Collection) error {
	key := []string{"a", "b"}[rand.IntN(2)] + fmt.Sprint("/p", rand.IntN(5))
	p := pod(key[:1], key[2:], fmt.Sprint("n", rand.IntN(2)))
	p.Labels = map[string]string{"in": []string{"yes", "no"}[rand.IntN(2)], "r": fmt.Sprint(rand.Int64())}
	remove := rand.IntN(4) == 0
	item, err := c.Mutate(ctx, key, func(cur *store.Item) (store.Mutation, error) {
		if remove {
			return store.Mutation{Delete: cur != nil}, nil
		}
		return store.Mutation{Object: p}, nil
	})
	if err != nil {
		return err
	}
	got, err := c.Get(ctx, key, store.GetOptions{})
	switch {
	case item == nil:
	case apierrors.IsNotFound(err): // ours, or deleted since
	case err != nil:
		return err
	case got.Revision < item.Revision:
		return fmt.Errorf("after writing %d to %s one reads %d", item.Revision, key, got.Revision)
	}
	return nil
}

// TestWritesSurviveRestart closes and opens store and engine between writes.
func TestWritesSurviveRestart(t *testing.T) {
	dir := t.TempDir()
	acknowledged := map[string]string{}
	var revision int64
	for round := range 3 {
		engine, err := etcd.Start(t.Context(), etcd.Config{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		f := start(t, engine, store.Options{})
		if f.store.Revision() < revision {
			t.Errorf("revision %d after %d", f.store.Revision(), revision)
		}
		l, err := f.maps.List(t.Context(), store.ListOptions{})
		if err != nil || len(l.Items) != len(acknowledged) {
			t.Fatalf("%d objects, want %d: %v", len(l.Items), len(acknowledged), err)
		}
		for _, it := range l.Items {
			if acknowledged[it.Key] != it.Object.GetResourceVersion() {
				t.Errorf("%s at %s, want %s", it.Key, it.Object.GetResourceVersion(), acknowledged[it.Key])
			}
		}
		for i := range 20 {
			n := fmt.Sprintf("n%d", i+round*10)
			acknowledged["a/"+n] = set(t, f.maps, configMap("a", n, fmt.Sprint(round))).Object.GetResourceVersion()
		}
		revision = f.store.Revision()
		f.store.Close()
		if err := engine.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestCompaction keeps history for at least an interval and does not write when there is little to forget.
func TestCompaction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine := memory.New()
		defer engine.Close()
		f := start(t, engine, store.Options{CompactionInterval: time.Minute, CompactionRevisions: 10})
		defer f.store.Close()
		first := set(t, f.maps, configMap("a", "x", "0")).Revision
		set(t, f.maps, configMap("a", "y", "0"))
		page := func(token string) (store.List, error) {
			return f.maps.List(t.Context(), store.ListOptions{Limit: 1, Continue: token})
		}
		begin, err := page("")
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Second)
		if _, err := page(begin.Continue); err != nil {
			t.Errorf("a token that is not yet old: %v", err)
		}
		time.Sleep(20 * time.Second)
		var status apierrors.APIStatus
		if _, err := page(begin.Continue); !apierrors.IsResourceExpired(err) || !errors.As(err, &status) || status.Status().Continue == "" {
			t.Errorf("a token that is old, although nothing has changed: %v", err)
		} else if rest, err := page(status.Status().Continue); err != nil || len(rest.Items) != 1 {
			t.Errorf("the rest: %v, %v", rest.Items, err)
		}
		for i := range 5 {
			set(t, f.maps, configMap("a", "x", fmt.Sprint("few", i)))
		}
		exact := func(rev int64) error {
			_, err := f.maps.List(t.Context(), store.ListOptions{Match: store.Exact, Revision: rev})
			return err
		}
		if err := exact(first); err != nil {
			t.Errorf("the past: %v", err)
		}
		time.Sleep(10*time.Minute + time.Second)
		if err := exact(first); !apierrors.IsResourceExpired(err) {
			t.Errorf("a list of ten minutes ago: %v", err)
		}
		if w, err := f.maps.Watch(t.Context(), store.WatchOptions{Revision: first}); err != nil {
			t.Errorf("few revisions are worth no compaction: %v", err)
		} else {
			w.Stop()
		}
		first = f.store.Revision()
		for i := range 20 {
			set(t, f.maps, configMap("a", "x", fmt.Sprint("many", i)))
		}
		before := f.store.Revision()
		time.Sleep(time.Minute)
		if err := exact(first); err != nil {
			t.Errorf("history of less than an interval is kept: %v", err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if err := exact(first); !apierrors.IsResourceExpired(err) {
			t.Errorf("history of more than an interval: %v", err)
		}
		if err := exact(before); err != nil {
			t.Errorf("the present: %v", err)
		}
	})
}
