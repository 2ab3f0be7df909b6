package kvtest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/celox/celox/internal/store/kv"
)

// Run runs the suite. open makes an empty engine and closes it when its test ends.
func Run(t *testing.T, open func(t *testing.T) kv.Engine) {
	for _, tc := range []struct {
		name string
		test func(*testing.T, kv.Engine)
	}{
		{"empty", testEmpty},
		{"put and delete", testPutDelete},
		{"guards", testGuards},
		{"one revision per transaction", testTxn},
		{"values are the writer's again", testValues},
		{"range", testRange},
		{"old revisions", testOldRevisions},
		{"compaction", testCompaction},
		{"delete at the compaction revision", testDeleteAtCompaction},
		{"watch", testWatch},
		{"watch replays history", testWatchReplay},
		{"watch from the future", testWatchFuture},
		{"watch from a compacted revision", testWatchCompacted},
		{"watch many", testWatchMany},
		{"progress", testProgress},
		{"progress never runs ahead of events", testProgressOrder},
		{"concurrent increments", testIncrements},
		{"lease", testLease},
		{"too large", testTooLarge},
		{"cancelled", testCancelled},
		{"close", testClose},
	} {
		t.Run(tc.name, func(t *testing.T) { tc.test(t, open(t)) })
	}
}

// patience is how long something may take that should come soon.
const patience = 20 * time.Second

func context20(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func put(t testing.TB, e kv.Engine, key, value string) int64 {
	t.Helper()
	return txn(t, e, nil, kv.Op{Key: key, Value: []byte(value)}).Revision
}

func del(t testing.TB, e kv.Engine, key string) int64 {
	t.Helper()
	return txn(t, e, nil, kv.Op{Delete: true, Key: key}).Revision
}

func txn(t testing.TB, e kv.Engine, guards []kv.Guard, ops ...kv.Op) kv.TxnResponse {
	t.Helper()
	resp, err := e.Txn(context20(t), guards, ops)
	if err != nil {
		t.Fatalf("txn: %v", err)
	}
	return resp
}

func get(t testing.TB, e kv.Engine, r kv.RangeRequest) kv.RangeResponse {
	t.Helper()
	resp, err := e.Range(context20(t), r)
	if err != nil {
		t.Fatalf("range %+v: %v", r, err)
	}
	return resp
}

func show(kvs []kv.KeyValue) string {
	var out []string
	for _, item := range kvs {
		out = append(out, fmt.Sprintf("%s=%s", item.Key, item.Value))
	}
	return strings.Join(out, " ")
}

func equal[T comparable](t testing.TB, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

// collect reads n events of a watch.
func collect(t testing.TB, ch <-chan kv.WatchResponse, n int) []kv.Event {
	t.Helper()
	var out []kv.Event
	deadline := time.After(patience)
	for len(out) < n {
		select {
		case resp, ok := <-ch:
			if !ok {
				t.Fatalf("the watch ended after %d of %d events", len(out), n)
			}
			if resp.Err != nil {
				t.Fatalf("watch: %v", resp.Err)
			}
			if len(resp.Events) > 0 {
				equal(t, "revision of a response", resp.Revision, resp.Events[len(resp.Events)-1].KV.ModRevision)
			}
			out = append(out, resp.Events...)
		case <-deadline:
			t.Fatalf("%d of %d events came", len(out), n)
		}
	}
	return out
}

func showEvents(events []kv.Event) string {
	var out []string
	for _, ev := range events {
		sign := "+"
		if ev.Type == kv.Delete {
			sign = "-"
		}
		out = append(out, fmt.Sprintf("%s%s=%s@%d", sign, ev.KV.Key, ev.KV.Value, ev.KV.ModRevision))
	}
	return strings.Join(out, " ")
}

func testEmpty(t *testing.T, e kv.Engine) {
	resp := get(t, e, kv.RangeRequest{Key: "a", End: "z"})
	equal(t, "count", resp.Count, 0)
	equal(t, "revision", resp.Revision, 1)
	size, err := e.Size(context20(t))
	if err != nil || size < 0 {
		t.Errorf("size %d: %v", size, err)
	}
}

func testPutDelete(t *testing.T, e kv.Engine) {
	r1 := put(t, e, "k", "1")
	r2 := put(t, e, "k", "2")
	equal(t, "second revision", r2, r1+1)
	item := get(t, e, kv.RangeRequest{Key: "k"}).KVs[0]
	equal(t, "value", string(item.Value), "2")
	equal(t, "create revision", item.CreateRevision, r1)
	equal(t, "mod revision", item.ModRevision, r2)
	equal(t, "version", item.Version, 2)
	r3 := del(t, e, "k")
	equal(t, "delete revision", r3, r2+1)
	equal(t, "deleted again", del(t, e, "k"), r3)
	equal(t, "left", len(get(t, e, kv.RangeRequest{Key: "k"}).KVs), 0)
	r4 := put(t, e, "k", "3")
	item = get(t, e, kv.RangeRequest{Key: "k"}).KVs[0]
	equal(t, "create revision after delete", item.CreateRevision, r4)
	equal(t, "version after delete", item.Version, 1)
}

func testGuards(t *testing.T, e kv.Engine) {
	create := []kv.Guard{{Key: "k"}}
	first := txn(t, e, create, kv.Op{Key: "k", Value: []byte("1")})
	equal(t, "create", first.Succeeded, true)
	again := txn(t, e, create, kv.Op{Key: "k", Value: []byte("2")})
	equal(t, "create again", again.Succeeded, false)
	equal(t, "current", show(again.Current), "k=1")
	equal(t, "current revision", again.Current[0].ModRevision, first.Revision)
	equal(t, "a failed transaction makes no revision", again.Revision, first.Revision)
	update := txn(t, e, []kv.Guard{{Key: "k", ModRevision: first.Revision}}, kv.Op{Key: "k", Value: []byte("3")})
	equal(t, "update", update.Succeeded, true)
	stale := txn(t, e, []kv.Guard{{Key: "k", ModRevision: first.Revision}}, kv.Op{Delete: true, Key: "k"})
	equal(t, "stale delete", stale.Succeeded, false)
	two := txn(t, e, []kv.Guard{{Key: "k", ModRevision: update.Revision}, {Key: "other", ModRevision: 7}}, kv.Op{Key: "x", Value: nil})
	equal(t, "two guards", two.Succeeded, false)
	equal(t, "two guards, current", show(two.Current), "k=3")
	gone := txn(t, e, []kv.Guard{{Key: "k", ModRevision: update.Revision}}, kv.Op{Delete: true, Key: "k"})
	equal(t, "delete", gone.Succeeded, true)
	missing := txn(t, e, []kv.Guard{{Key: "k", ModRevision: update.Revision}}, kv.Op{Key: "k", Value: []byte("4")})
	equal(t, "update of nothing", missing.Succeeded, false)
	equal(t, "update of nothing, current", len(missing.Current), 0)
}

func testTxn(t *testing.T, e kv.Engine) {
	put(t, e, "gone", "")
	ctx, cancel := context.WithCancel(context20(t))
	defer cancel()
	ch := e.Watch(ctx, "", 2)
	collect(t, ch, 1)
	resp := txn(t, e, nil, kv.Op{Key: "b", Value: []byte("1")}, kv.Op{Key: "a", Value: []byte("2")}, kv.Op{Delete: true, Key: "gone"})
	equal(t, "revision", resp.Revision, 3)
	select {
	case r := <-ch:
		equal(t, "events of one revision are in one response", len(r.Events), 3)
		for _, ev := range r.Events {
			equal(t, "revision of "+ev.KV.Key, ev.KV.ModRevision, 3)
		}
	case <-time.After(patience):
		t.Fatal("no events")
	}
	if _, err := e.Txn(context20(t), nil, []kv.Op{{Key: "x"}, {Key: "x"}}); err == nil {
		t.Error("two puts of one key in a transaction are accepted")
	}
}

// testValues writes over the values of transactions that have returned, from many goroutines, of which some fail.
func testValues(t *testing.T, e kv.Engine) {
	watched := e.Watch(context20(t), "", 2)
	const writers, each = 8, 50
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			value := make([]byte, 0, 64)
			for i := range each {
				key := fmt.Sprintf("k-%d-%d", w, i)
				value = append(value[:0], key...)
				guards := []kv.Guard{{Key: key}}
				for _, holds := range []bool{true, false} {
					if resp, err := e.Txn(t.Context(), guards, []kv.Op{{Key: key, Value: value}}); err != nil || resp.Succeeded != holds {
						t.Errorf("%s: %v %v", key, resp.Succeeded, err)
					}
					value = append(value[:0], "another value than that which was written"...)
				}
			}
		})
	}
	wg.Wait()
	for _, item := range get(t, e, kv.RangeRequest{Key: "k", End: "l"}).KVs {
		equal(t, "value", string(item.Value), item.Key)
	}
	for _, ev := range collect(t, watched, writers*each) {
		equal(t, "value of an event", string(ev.KV.Value), ev.KV.Key)
	}
}

func testRange(t *testing.T, e kv.Engine) {
	for _, k := range []string{"b/2", "a/1", "b/1", "c", "b/3", "b0"} {
		put(t, e, k, strings.ToUpper(k))
	}
	tests := []struct {
		r     kv.RangeRequest
		want  string
		count int64
		more  bool
	}{
		{kv.RangeRequest{Key: "b/1"}, "b/1=B/1", 1, false},
		{kv.RangeRequest{Key: "b"}, "", 0, false},
		{kv.RangeRequest{Key: "b/", End: "b0"}, "b/1=B/1 b/2=B/2 b/3=B/3", 3, false},
		{kv.RangeRequest{Key: "b/", End: "b0", Limit: 2}, "b/1=B/1 b/2=B/2", 3, true},
		{kv.RangeRequest{Key: "b/", End: "b0", Limit: 3}, "b/1=B/1 b/2=B/2 b/3=B/3", 3, false},
		{kv.RangeRequest{Key: "b/2\x00", End: "b0", Limit: 2}, "b/3=B/3", 1, false},
		{kv.RangeRequest{Key: "b/", End: "b0", KeysOnly: true}, "b/1= b/2= b/3=", 3, false},
		{kv.RangeRequest{Key: "b/", End: "b0", CountOnly: true}, "", 3, false},
		{kv.RangeRequest{Key: "a", End: "z", Serializable: true}, "a/1=A/1 b/1=B/1 b/2=B/2 b/3=B/3 b0=B0 c=C", 6, false},
		{kv.RangeRequest{Key: "z", End: "a"}, "", 0, false},
	}
	for _, tc := range tests {
		resp := get(t, e, tc.r)
		what := fmt.Sprintf("%+v", tc.r)
		equal(t, what, show(resp.KVs), tc.want)
		equal(t, what+" count", resp.Count, tc.count)
		equal(t, what+" more", resp.More, tc.more)
		equal(t, what+" revision", resp.Revision, 7)
	}
}

func testOldRevisions(t *testing.T, e kv.Engine) {
	put(t, e, "a", "1")
	r := put(t, e, "b", "1")
	put(t, e, "a", "2")
	del(t, e, "b")
	put(t, e, "c", "1")
	resp := get(t, e, kv.RangeRequest{Key: "a", End: "z", Revision: r})
	equal(t, "old state", show(resp.KVs), "a=1 b=1")
	equal(t, "revision of the answer", resp.Revision, 6)
	equal(t, "before", show(get(t, e, kv.RangeRequest{Key: "a", End: "z", Revision: r - 1}).KVs), "a=1")
	equal(t, "newest", show(get(t, e, kv.RangeRequest{Key: "a", End: "z", Revision: 6}).KVs), "a=2 c=1")
	if _, err := e.Range(context20(t), kv.RangeRequest{Key: "a", Revision: 7}); !errors.Is(err, kv.ErrFutureRevision) {
		t.Errorf("future revision: %v", err)
	}
}

func testCompaction(t *testing.T, e kv.Engine) {
	put(t, e, "a", "1")
	put(t, e, "b", "1")
	r := put(t, e, "a", "2")
	put(t, e, "a", "3")
	if err := e.Compact(context20(t), r); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Range(context20(t), kv.RangeRequest{Key: "a", Revision: r - 1}); !errors.Is(err, kv.ErrCompacted) {
		t.Errorf("compacted revision: %v", err)
	}
	equal(t, "at the compaction", show(get(t, e, kv.RangeRequest{Key: "a", End: "z", Revision: r}).KVs), "a=2 b=1")
	equal(t, "newest", show(get(t, e, kv.RangeRequest{Key: "a", End: "z"}).KVs), "a=3 b=1")
	if err := e.Compact(context20(t), r); !errors.Is(err, kv.ErrCompacted) {
		t.Errorf("compacted again: %v", err)
	}
	if err := e.Compact(context20(t), r+5); !errors.Is(err, kv.ErrFutureRevision) {
		t.Errorf("compaction in the future: %v", err)
	}
}

// testDeleteAtCompaction: a deletion whose revision is the compaction's must still reach a watch that begins there.
func testDeleteAtCompaction(t *testing.T, e kv.Engine) {
	put(t, e, "a", "1")
	r := del(t, e, "a")
	put(t, e, "b", "1")
	if err := e.Compact(context20(t), r); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context20(t))
	defer cancel()
	equal(t, "events", showEvents(collect(t, e.Watch(ctx, "", r), 2)), fmt.Sprintf("-a=@%d +b=1@%d", r, r+1))
}

func testWatch(t *testing.T, e kv.Engine) {
	put(t, e, "w/before", "")
	ctx, cancel := context.WithCancel(context20(t))
	defer cancel()
	ch := e.Watch(ctx, "w/", 3)
	put(t, e, "w/a", "1")
	put(t, e, "x", "not ours")
	put(t, e, "w/a", "2")
	del(t, e, "w/a")
	del(t, e, "w/a")
	events := collect(t, ch, 3)
	equal(t, "events", showEvents(events), "+w/a=1@3 +w/a=2@5 -w/a=@6")
	equal(t, "create revision", events[1].KV.CreateRevision, 3)
	equal(t, "version", events[1].KV.Version, 2)
	cancel()
	for range ch {
	}
}

func testWatchReplay(t *testing.T, e kv.Engine) {
	for i := range 50 {
		put(t, e, "k", fmt.Sprint(i))
	}
	ctx, cancel := context.WithCancel(context20(t))
	defer cancel()
	ch := e.Watch(ctx, "k", 12)
	put(t, e, "k", "new")
	events := collect(t, ch, 41)
	for i, ev := range events {
		equal(t, "revision", ev.KV.ModRevision, int64(12+i))
	}
	equal(t, "last", string(events[40].KV.Value), "new")
}

func testWatchFuture(t *testing.T, e kv.Engine) {
	ctx, cancel := context.WithCancel(context20(t))
	defer cancel()
	ch := e.Watch(ctx, "k", 4)
	for i := 2; i < 6; i++ {
		put(t, e, "k", fmt.Sprint(i))
	}
	equal(t, "events", showEvents(collect(t, ch, 2)), "+k=4@4 +k=5@5")
}

func testWatchCompacted(t *testing.T, e kv.Engine) {
	for i := range 5 {
		put(t, e, "k", fmt.Sprint(i))
	}
	if err := e.Compact(context20(t), 4); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context20(t))
	defer cancel()
	ch := e.Watch(ctx, "k", 3)
	resp := <-ch
	if !errors.Is(resp.Err, kv.ErrCompacted) {
		t.Fatalf("%+v", resp)
	}
	if _, ok := <-ch; ok {
		t.Error("more after the error")
	}
}

func testWatchMany(t *testing.T, e kv.Engine) {
	const watches, writes = 10, 200
	ctx, cancel := context.WithCancel(context20(t))
	defer cancel()
	var chans []<-chan kv.WatchResponse
	for range watches {
		chans = append(chans, e.Watch(ctx, "k/", 2))
	}
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range writes / 4 {
				if _, err := e.Txn(ctx, nil, []kv.Op{{Key: fmt.Sprintf("k/%d", w), Value: []byte(fmt.Sprint(i))}}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for _, ch := range chans {
		for i, ev := range collect(t, ch, writes) {
			equal(t, "revision", ev.KV.ModRevision, int64(i+2))
		}
	}
	wg.Wait()
}

func testProgress(t *testing.T, e kv.Engine) {
	ctx, cancel := context.WithCancel(context20(t))
	defer cancel()
	put(t, e, "k", "")
	ch := e.Watch(ctx, "k", 2)
	collect(t, ch, 1)
	for _, write := range []bool{false, true} {
		var want int64 = 2
		if write {
			want = put(t, e, "elsewhere", "")
		}
		if err := e.RequestProgress(ctx); err != nil {
			t.Fatal(err)
		}
		again := time.NewTicker(50 * time.Millisecond)
		defer again.Stop()
		for reached := int64(0); reached < want; {
			select {
			case resp, ok := <-ch:
				if !ok || resp.Err != nil || len(resp.Events) > 0 {
					t.Fatalf("%+v", resp)
				}
				reached = resp.Revision
			case <-again.C:
				if err := e.RequestProgress(ctx); err != nil {
					t.Fatal(err)
				}
			case <-ctx.Done():
				t.Fatal("no notice")
			}
		}
	}
}

// testProgressOrder: a notice of a revision comes after all events up to it.
func testProgressOrder(t *testing.T, e kv.Engine) {
	ctx, cancel := context.WithCancel(context20(t))
	defer cancel()
	ch := e.Watch(ctx, "k", 2)
	const writes = 200
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range writes {
			if _, err := e.Txn(ctx, nil, []kv.Op{{Key: "k", Value: []byte(fmt.Sprint(i))}}); err != nil {
				t.Error(err)
			}
			if i%10 == 0 {
				if err := e.RequestProgress(ctx); err != nil {
					t.Error(err)
				}
			}
		}
	})
	var told int64
	for n := 0; n < writes; {
		resp, ok := <-ch
		if !ok || resp.Err != nil {
			t.Fatalf("%+v", resp)
		}
		for _, ev := range resp.Events {
			if ev.KV.ModRevision <= told {
				t.Fatalf("an event of revision %d after %d was said to be complete", ev.KV.ModRevision, told)
			}
			n++
		}
		told = max(told, resp.Revision)
	}
	wg.Wait()
}

func testIncrements(t *testing.T, e kv.Engine) {
	const writers, rounds = 8, 20
	var wg sync.WaitGroup
	ctx := context20(t)
	for range writers {
		wg.Go(func() {
			for range rounds {
				var cur kv.KeyValue
				for {
					next := string(cur.Value) + "x"
					resp, err := e.Txn(ctx, []kv.Guard{{Key: "n", ModRevision: cur.ModRevision}}, []kv.Op{{Key: "n", Value: []byte(next)}})
					if err != nil {
						t.Error(err)
						return
					}
					if resp.Succeeded {
						break
					}
					cur = resp.Current[0]
				}
			}
		})
	}
	wg.Wait()
	equal(t, "increments", len(get(t, e, kv.RangeRequest{Key: "n"}).KVs[0].Value), writers*rounds)
}

func testLease(t *testing.T, e kv.Engine) {
	ctx := context20(t)
	id, err := e.Grant(ctx, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	ch := e.Watch(ctx, "l/", 2)
	txn(t, e, nil, kv.Op{Key: "l/b", Lease: id}, kv.Op{Key: "l/a", Lease: id}, kv.Op{Key: "l/kept", Lease: id})
	equal(t, "lease", get(t, e, kv.RangeRequest{Key: "l/a"}).KVs[0].Lease, id)
	put(t, e, "l/kept", "without a lease now")
	equal(t, "events", showEvents(collect(t, ch, 6)),
		"+l/b=@2 +l/a=@2 +l/kept=@2 +l/kept=without a lease now@3 -l/a=@4 -l/b=@4")
	if _, err := e.Txn(ctx, nil, []kv.Op{{Key: "x", Lease: 4711}}); !errors.Is(err, kv.ErrLeaseNotFound) {
		t.Errorf("unknown lease: %v", err)
	}
}

func testTooLarge(t *testing.T, e kv.Engine) {
	if _, err := e.Txn(context20(t), nil, []kv.Op{{Key: "k", Value: make([]byte, 2<<20)}}); !errors.Is(err, kv.ErrTooLarge) {
		t.Errorf("%v", err)
	}
	put(t, e, "k", strings.Repeat("x", 1<<20))
}

func testCancelled(t *testing.T, e kv.Engine) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := e.Txn(ctx, nil, []kv.Op{{Key: "k"}}); !errors.Is(err, context.Canceled) {
		t.Errorf("txn: %v", err)
	}
	for resp := range e.Watch(ctx, "k", 0) {
		if resp.Err == nil {
			t.Errorf("%+v", resp)
		}
	}
}

func testClose(t *testing.T, e kv.Engine) {
	ch := e.Watch(context20(t), "k", 0)
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	for resp := range ch {
		if resp.Err == nil {
			t.Errorf("%+v", resp)
		}
	}
	if _, err := e.Txn(context20(t), nil, []kv.Op{{Key: "k"}}); err == nil {
		t.Error("a write after Close")
	}
	if _, ok := <-e.Watch(context20(t), "k", 0); ok {
		t.Error("a watch after Close")
	}
}
