package store_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/celox/celox/internal/store"
	"github.com/celox/celox/internal/store/kv"
	"github.com/celox/celox/internal/store/kv/memory"
)

func TestWatchStarts(t *testing.T) {
	f := startMemory(t, store.Options{})
	set(t, f.maps, configMap("a", "x", "1"))
	rev := set(t, f.maps, configMap("b", "x", "1")).Revision
	set(t, f.maps, configMap("a", "x", "2"))
	remove(t, f.maps, "b/x")
	tests := []struct {
		name string
		o    store.WatchOptions
		want []string
	}{
		{"from a revision", store.WatchOptions{Revision: rev}, []string{"~a/x", "-b/x", "+a/end"}},
		{"one namespace", store.WatchOptions{Revision: rev, Namespace: "a"}, []string{"~a/x", "+a/end"}},
		{"one object", store.WatchOptions{Revision: rev, Namespace: "b", Name: "x"}, []string{"-b/x"}},
		{"any state", store.WatchOptions{}, []string{"+a/x", "+a/end"}},
		{"any state with bookmarks", store.WatchOptions{Bookmarks: true}, []string{"+a/x", "+a/end"}},
		{"initial events", store.WatchOptions{SendInitial: true, Bookmarks: true, Revision: rev}, []string{"+a/x", "initial", "+a/end"}},
		{"initial events of none", store.WatchOptions{SendInitial: true, Bookmarks: true, Namespace: "a", Name: "end"}, []string{"initial", "+a/end"}},
		{"now", store.WatchOptions{FromNow: true}, []string{"+a/end"}},
	}
	var watchers []*store.Watcher
	for _, tc := range tests {
		w, err := f.maps.Watch(t.Context(), tc.o)
		if err != nil {
			t.Fatal(err)
		}
		defer w.Stop()
		watchers = append(watchers, w)
	}
	set(t, f.maps, configMap("a", "end", ""))
	for i, tc := range tests {
		if got := read(t, watchers[i], len(tc.want)); fmt.Sprint(got) != fmt.Sprint(tc.want) {
			t.Errorf("%s: %v, want %v", tc.name, got, tc.want)
		}
	}
}

// TestLastStateOfADeletion: who deletes may say what the last state looks like, but only of the state that he saw.
func TestLastStateOfADeletion(t *testing.T) {
	f := startMemory(t, store.Options{})
	w, err := f.maps.Watch(t.Context(), store.WatchOptions{FromNow: true})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	last := func(name string, between func()) store.Event {
		t.Helper()
		set(t, f.maps, configMap("a", name, "1"))
		asked := 0
		item, err := f.maps.Mutate(t.Context(), "a/"+name, func(cur *store.Item) (store.Mutation, error) {
			if asked++; asked == 1 && between != nil {
				between()
			}
			if cur == nil {
				return store.Mutation{}, nil
			}
			obj := cur.Object.DeepCopyObject().(*corev1.ConfigMap)
			obj.Data["k"] += " gone"
			return store.Mutation{Delete: true, Object: obj}, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		for {
			events, err := w.Next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range events {
				if e.Type != store.Deleted {
					continue
				}
				if item != nil && (item.Revision != e.Revision || item.Object.GetResourceVersion() != e.Item.Object.GetResourceVersion()) {
					t.Errorf("%s: %v was answered, %v is shown", name, item.Object, e.Item.Object)
				}
				return e
			}
		}
	}
	shown := func(e store.Event) string { return e.Item.Object.(*corev1.ConfigMap).Data["k"] }
	if got := shown(last("x", nil)); got != "1 gone" {
		t.Errorf("shown as %q", got)
	}
	if got := shown(last("y", func() { set(t, f.maps, configMap("a", "y", "2")) })); got != "2 gone" {
		t.Errorf("after another writer it is shown as %q", got)
	}
	if got := shown(last("z", func() { remove(t, f.maps, "a/z") })); got != "1" {
		t.Errorf("deleted by another it is shown as %q", got)
	}
}

func TestWatchFilterTransitions(t *testing.T) {
	f := startMemory(t, store.Options{})
	w, err := f.maps.Watch(t.Context(), store.WatchOptions{FromNow: true, Filter: func(o store.Object) bool {
		return o.(*corev1.ConfigMap).Data["k"] == "in"
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	set(t, f.maps, configMap("a", "x", "out"))
	set(t, f.maps, configMap("a", "x", "in"))
	set(t, f.maps, configMap("a", "y", "in"))
	obj := configMap("a", "x", "in")
	obj.Labels = map[string]string{"l": "1"}
	set(t, f.maps, obj)
	left := set(t, f.maps, configMap("a", "x", "out"))
	remove(t, f.maps, "a/x")
	remove(t, f.maps, "a/y")
	var events []store.Event
	for len(events) < 5 {
		more, err := w.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		events = append(events, more...)
	}
	var got []string
	for _, e := range events {
		got = append(got, show(e))
		if e.Item.Object.GetResourceVersion() != fmt.Sprint(e.Revision) {
			t.Errorf("%s: resourceVersion %s at %d", show(e), e.Item.Object.GetResourceVersion(), e.Revision)
		}
	}
	if fmt.Sprint(got) != "[+a/x +a/y ~a/x -a/x -a/y]" {
		t.Fatal(got)
	}
	if e := events[3]; e.Revision != left.Revision || e.Item.Object.(*corev1.ConfigMap).Data["k"] != "in" {
		t.Error("an object that leaves the filter is shown as it last was in it, at the revision that it left at")
	}
}

// taker takes all that it is given.
type taker struct{ got []string }

func (k *taker) Take(events []store.Event) int {
	for _, e := range events {
		k.got = append(k.got, show(e))
	}
	return len(events)
}

func (*taker) Sent() {}

// Of the watchers with the same filter one is asked.
func TestNamedFilters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := startMemory(t, store.Options{})
		var asked atomic.Int32
		takers := make([]taker, 20)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for i := range takers {
			want := []string{"in", "out"}[i%2]
			w, err := f.maps.Watch(ctx, store.WatchOptions{FromNow: true, FilterName: want, Filter: func(o store.Object) bool {
				asked.Add(1)
				return o.(*corev1.ConfigMap).Data["k"] == want
			}})
			if err != nil {
				t.Fatal(err)
			}
			wg.Go(func() {
				defer w.Stop()
				if events, err := w.Deliver(ctx, &takers[i]); ctx.Err() == nil {
					t.Errorf("watcher %d was woken: %v, %v", i, events, err)
				}
			})
		}
		synctest.Wait()
		for _, k := range []string{"in", "out", "in"} {
			set(t, f.maps, configMap("a", "x", k))
			synctest.Wait()
		}
		cancel()
		wg.Wait()
		for i := range takers {
			if want := []string{"[+a/x -a/x +a/x]", "[+a/x -a/x]"}[i%2]; fmt.Sprint(takers[i].got) != want {
				t.Errorf("watcher %d: %v, want %s", i, takers[i].got, want)
			}
		}
		if n := asked.Load(); n != 2*5 {
			t.Errorf("filters were asked %d times, want once for each of two and the five states that changes were from and to", n)
		}
	})
}

func TestWatchIndex(t *testing.T) {
	f := startMemory(t, store.Options{})
	set(t, f.pods, pod("a", "old", "n1"))
	o := store.WatchOptions{Index: "spec.nodeName", IndexValue: "n1", SendInitial: true, Bookmarks: true}
	w, err := f.pods.Watch(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	rev := f.store.Revision()
	set(t, f.pods, pod("a", "other", "n2"))
	set(t, f.pods, pod("a", "p", ""))
	set(t, f.pods, pod("a", "p", "n1"))
	set(t, f.pods, pod("b", "q", "n1"))
	set(t, f.pods, pod("a", "p", "n3"))
	remove(t, f.pods, "a/old")
	want := []string{"+a/old", "initial", "+a/p", "+b/q", "-a/p", "-a/old"}
	if got := read(t, w, len(want)); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%v, want %v", got, want)
	}
	late, err := f.pods.Watch(t.Context(), store.WatchOptions{Index: "spec.nodeName", IndexValue: "n1", Revision: rev, Namespace: "a"})
	if err != nil {
		t.Fatal(err)
	}
	defer late.Stop()
	if got := read(t, late, 3); fmt.Sprint(got) != "[+a/p -a/p -a/old]" {
		t.Error(got)
	}
	if _, err := f.pods.Watch(t.Context(), store.WatchOptions{Index: "no"}); err == nil {
		t.Error("an unknown index is accepted")
	}
}

func TestSlowWatcherExpires(t *testing.T) {
	f := startMemory(t, store.Options{RingEvents: 16})
	for _, o := range []store.WatchOptions{{FromNow: true}, {FromNow: true, Namespace: "a"}} {
		w, err := f.maps.Watch(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		defer w.Stop()
		for i := range 17 {
			set(t, f.maps, configMap("a", "x", fmt.Sprint(i, o.Namespace)))
		}
		if _, err := w.Next(t.Context()); !apierrors.IsResourceExpired(err) {
			t.Fatalf("%+v: %v", o, err)
		}
	}
}

// TestWatchFromEngineHistory watches from revisions that only the engine remembers: as all clients do after a restart.
func TestWatchFromEngineHistory(t *testing.T) {
	engine := memory.New()
	defer engine.Close()
	f := start(t, engine, store.Options{})
	set(t, f.maps, configMap("a", "x", "1"))
	set(t, f.maps, configMap("a", "y", "1"))
	rev := f.store.Revision()
	set(t, f.maps, configMap("a", "x", "2"))
	remove(t, f.maps, "a/y")
	set(t, f.maps, configMap("b", "z", "1"))
	f.store.Close()

	f = start(t, engine, store.Options{})
	w, err := f.maps.Watch(t.Context(), store.WatchOptions{Revision: rev, Filter: func(o store.Object) bool {
		return o.GetName() != "x" || o.(*corev1.ConfigMap).Data["k"] == "1"
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	set(t, f.maps, configMap("c", "end", ""))
	if got := fmt.Sprint(read(t, w, 4)); got != "[-a/x -a/y +b/z +c/end]" {
		t.Error(got)
	}
	again, err := f.maps.Watch(t.Context(), store.WatchOptions{Revision: rev, Namespace: "a"})
	if err != nil {
		t.Fatal(err)
	}
	defer again.Stop()
	if got := fmt.Sprint(read(t, again, 2)); got != "[~a/x -a/y]" {
		t.Error(got)
	}
	old, err := f.maps.List(t.Context(), store.ListOptions{Match: store.Exact, Revision: rev})
	if err != nil || keys(old) != "[a/x a/y]" {
		t.Errorf("%s %v", keys(old), err)
	}
	f.store.Close()

	if err := engine.Compact(t.Context(), rev+2); err != nil {
		t.Fatal(err)
	}
	f = start(t, engine, store.Options{})
	if _, err := f.maps.Watch(t.Context(), store.WatchOptions{Revision: rev}); !apierrors.IsResourceExpired(err) {
		t.Errorf("watch from a compacted revision: %v", err)
	}
	// From the compaction's own revision on nothing is missing.
	last, err := f.maps.Watch(t.Context(), store.WatchOptions{Revision: rev + 2})
	if err != nil {
		t.Fatal(err)
	}
	defer last.Stop()
	if got := fmt.Sprint(read(t, last, 2)); got != "[+b/z +c/end]" {
		t.Error(got)
	}
}

func TestBookmarks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine := memory.New()
		defer engine.Close()
		f := start(t, engine, store.Options{CompactionInterval: -1})
		defer f.store.Close()
		w, err := f.maps.Watch(t.Context(), store.WatchOptions{FromNow: true, Bookmarks: true, Namespace: "a"})
		if err != nil {
			t.Fatal(err)
		}
		defer w.Stop()
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if events, err := w.Next(ctx); err == nil {
			t.Fatalf("nothing happened, and yet: %v", show(events[0]))
		}
		rev := set(t, f.pods, pod("a", "p", "")).Revision
		events, err := w.Next(t.Context())
		if err != nil || len(events) != 1 || events[0].Type != store.Bookmark || events[0].Revision != rev || events[0].Initial {
			t.Fatalf("%+v %v", events, err)
		}
		// One who will be gone soon is told in time.
		rev = set(t, f.pods, pod("a", "p", "n")).Revision
		soon, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		began := time.Now()
		events, err = w.Next(soon)
		if err != nil || len(events) != 1 || events[0].Type != store.Bookmark || events[0].Revision != rev || time.Since(began) != 28*time.Second {
			t.Fatalf("%+v %v after %s", events, err, time.Since(began))
		}
	})
}

func TestStopAndClose(t *testing.T) {
	f := startMemory(t, store.Options{})
	stopped, err := f.maps.Watch(t.Context(), store.WatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	closed, err := f.maps.Watch(t.Context(), store.WatchOptions{Namespace: "a"})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for _, w := range []*store.Watcher{stopped, closed} {
		wg.Go(func() {
			if events, err := w.Next(context.Background()); err == nil {
				t.Errorf("%v", events)
			}
		})
	}
	stopped.Stop()
	stopped.Stop()
	f.store.Close()
	wg.Wait()
	closed.Stop()
	if _, err := f.maps.Watch(t.Context(), store.WatchOptions{}); err == nil {
		t.Error("watch on a closed store")
	}
	if _, err := f.maps.Mutate(t.Context(), "a/x", func(*store.Item) (store.Mutation, error) {
		return store.Mutation{Object: configMap("a", "x", "")}, nil
	}); err == nil {
		t.Error("write through a closed store")
	}
}

// cutEngine is an engine whose watches can be cut, and which can be swapped for another.
type cutEngine struct {
	kv.Engine
	mu   sync.Mutex
	cut  context.CancelFunc
	hold chan struct{} // not nil: new watches wait
	held chan struct{} // closed when one does
}

func (e *cutEngine) Watch(ctx context.Context, prefix string, from int64) <-chan kv.WatchResponse {
	e.mu.Lock()
	hold := e.hold
	ctx, cancel := context.WithCancel(ctx)
	e.cut = cancel
	e.mu.Unlock()
	if hold != nil {
		close(e.held)
		select {
		case <-hold:
		case <-ctx.Done():
		}
	}
	return e.Engine.Watch(ctx, prefix, from)
}

// lose cuts the watch and returns when the store waits for a new one, which it gets with resume.
func (e *cutEngine) lose() (resume func()) {
	e.mu.Lock()
	hold, held := make(chan struct{}), make(chan struct{})
	e.hold, e.held = hold, held
	e.cut()
	e.mu.Unlock()
	<-held
	return func() {
		e.mu.Lock()
		e.hold = nil
		e.mu.Unlock()
		close(hold)
	}
}

// TestLostWatch cuts the store's watch, changes the engine behind its back, with and without compacting that away, and looks whether
// watchers hear of all of it in an order that makes sense.
func TestLostWatch(t *testing.T) {
	for _, compact := range []bool{false, true} {
		t.Run(fmt.Sprint("compact ", compact), func(t *testing.T) {
			memoryEngine := memory.New()
			defer memoryEngine.Close()
			other := start(t, memoryEngine, store.Options{Linearizable: true})
			engine := &cutEngine{Engine: memoryEngine}
			f := start(t, engine, store.Options{})
			for _, n := range []string{"deleted", "changed", "remade", "same"} {
				set(t, f.maps, configMap("a", n, "1"))
			}
			w, err := f.maps.Watch(t.Context(), store.WatchOptions{FromNow: true})
			if err != nil {
				t.Fatal(err)
			}
			defer w.Stop()
			resume := engine.lose()
			remove(t, other.maps, "a/deleted")
			set(t, other.maps, configMap("a", "changed", "2"))
			remove(t, other.maps, "a/remade")
			set(t, other.maps, configMap("a", "remade", "2"))
			set(t, other.maps, configMap("a", "new", "1"))
			set(t, other.maps, configMap("a", "passing", "1"))
			remove(t, other.maps, "a/passing")
			if compact {
				if err := memoryEngine.Compact(t.Context(), other.store.Revision()); err != nil {
					t.Fatal(err)
				}
			}
			resume()
			set(t, f.maps, configMap("b", "end", ""))
			want := "[-a/deleted ~a/changed -a/remade +a/remade +a/new +a/passing -a/passing +b/end]"
			n := 8
			if compact {
				want, n = "[~a/changed -a/remade +a/remade +a/new -a/deleted +b/end]", 6
			}
			var got []string
			var last int64
			for len(got) < n {
				events, err := w.Next(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				for _, e := range events {
					if e.Revision < last {
						t.Errorf("%s went back in time: %d after %d", show(e), e.Revision, last)
					}
					last = e.Revision
					got = append(got, show(e))
				}
			}
			if fmt.Sprint(got) != want {
				t.Errorf("%v, want %v", got, want)
			}
			l, err := f.maps.List(t.Context(), store.ListOptions{Namespace: "a"})
			if err != nil || keys(l) != "[a/changed a/new a/remade a/same]" {
				t.Errorf("%s %v", keys(l), err)
			}
		})
	}
}

// TestRestoredEngine replaces the engine by an older state, as a restored backup does.
func TestRestoredEngine(t *testing.T) {
	before, after := memory.New(), memory.New()
	defer before.Close()
	defer after.Close()
	old := start(t, after, store.Options{})
	set(t, old.maps, configMap("a", "x", "restored"))
	old.store.Close()

	engine := &swapEngine{Engine: before}
	f := start(t, engine, store.Options{})
	for i := range 10 {
		set(t, f.maps, configMap("a", "x", fmt.Sprint(i)))
	}
	set(t, f.maps, configMap("a", "y", ""))
	w, err := f.maps.Watch(t.Context(), store.WatchOptions{FromNow: true})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	engine.swap(after)
	before.Close()
	if _, err := w.Next(t.Context()); !apierrors.IsResourceExpired(err) {
		t.Fatalf("a watcher goes on although time went back: %v", err)
	}
	w, err = f.maps.Watch(t.Context(), store.WatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	if got := read(t, w, 1); got[0] != "+a/x" {
		t.Error(got)
	}
	got, err := f.maps.Get(t.Context(), "a/x", store.GetOptions{})
	if err != nil || got.Object.(*corev1.ConfigMap).Data["k"] != "restored" {
		t.Errorf("%+v %v", got, err)
	}
	set(t, f.maps, configMap("a", "x", "on it goes"))
}

type swapEngine struct {
	mu sync.Mutex
	kv.Engine
}

func (e *swapEngine) swap(to kv.Engine) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.Engine = to
}

func (e *swapEngine) now() kv.Engine {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.Engine
}

func (e *swapEngine) Range(ctx context.Context, r kv.RangeRequest) (kv.RangeResponse, error) {
	return e.now().Range(ctx, r)
}

func (e *swapEngine) Txn(ctx context.Context, g []kv.Guard, o []kv.Op) (kv.TxnResponse, error) {
	return e.now().Txn(ctx, g, o)
}

func (e *swapEngine) Watch(ctx context.Context, prefix string, from int64) <-chan kv.WatchResponse {
	return e.now().Watch(ctx, prefix, from)
}

func (e *swapEngine) RequestProgress(ctx context.Context) error { return e.now().RequestProgress(ctx) }
