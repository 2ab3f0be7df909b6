package store_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"go.uber.org/goleak"

	"github.com/celox/celox/internal/store"
	"github.com/celox/celox/internal/store/kv"
	"github.com/celox/celox/internal/store/kv/memory"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestCreateUpdateDelete(t *testing.T) {
	f := startMemory(t, store.Options{})
	ctx := t.Context()
	if _, err := f.maps.Get(ctx, "a/x", store.GetOptions{}); !apierrors.IsNotFound(err) || err.Error() != `configmaps "x" not found` {
		t.Fatalf("get of nothing: %v", err)
	}
	made := set(t, f.maps, configMap("a", "x", "1"))
	if made.Object.GetResourceVersion() != fmt.Sprint(made.Revision) || made.Revision < 2 {
		t.Fatalf("created at %d with resourceVersion %q", made.Revision, made.Object.GetResourceVersion())
	}
	got, err := f.maps.Get(ctx, "a/x", store.GetOptions{})
	if err != nil || got != made {
		t.Fatalf("get after create is another item: %v %v", got, err)
	}
	raw, err := f.engine.Range(ctx, kv.RangeRequest{Key: "/registry/configmaps/a/x"})
	if err != nil || len(raw.KVs) != 1 || !strings.HasPrefix(string(raw.KVs[0].Value), "k8s\x00") {
		t.Fatalf("stored: %v %v", raw, err)
	}
	stored, err := newCodec("ConfigMap").Decode(raw.KVs[0].Value)
	if err != nil || stored.GetResourceVersion() != "" {
		t.Fatalf("stored resourceVersion %q: %v", stored.GetResourceVersion(), err)
	}
	same := set(t, f.maps, configMap("a", "x", "1"))
	if same != made {
		t.Fatalf("a write without a change made revision %d", same.Revision)
	}
	changed := set(t, f.maps, configMap("a", "x", "2"))
	if changed.Revision <= made.Revision || made.Object.(*corev1.ConfigMap).Data["k"] != "1" {
		t.Fatal("update went wrong")
	}
	gone := remove(t, f.maps, "a/x")
	if gone.Revision <= changed.Revision || gone.Object.GetResourceVersion() != fmt.Sprint(gone.Revision) {
		t.Fatalf("deleted at %d with resourceVersion %s", gone.Revision, gone.Object.GetResourceVersion())
	}
	if gone.Object.(*corev1.ConfigMap).Data["k"] != "2" {
		t.Fatal("the deleted object is not the last state")
	}
	_, err = f.maps.Mutate(ctx, "a/x", func(*store.Item) (store.Mutation, error) { return store.Mutation{Delete: true}, nil })
	if !apierrors.IsNotFound(err) {
		t.Fatalf("delete of nothing: %v", err)
	}
	if n := f.maps.Resource().Codec.(coreCodec).decoded.Load(); n != 0 {
		t.Errorf("own writes were decoded %d times", n)
	}
}

func TestMutateRetriesOnConflict(t *testing.T) {
	f := startMemory(t, store.Options{})
	set(t, f.maps, configMap("a", "n", ""))
	const writers, rounds = 8, 25
	var calls atomic.Int64
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for range rounds {
				_, err := f.maps.Mutate(context.Background(), "a/n", func(cur *store.Item) (store.Mutation, error) {
					calls.Add(1)
					obj := cur.Object.DeepCopyObject().(*corev1.ConfigMap)
					obj.Data["k"] += "x"
					return store.Mutation{Object: obj}, nil
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	got, err := f.maps.Get(t.Context(), "a/n", store.GetOptions{})
	if err != nil || len(got.Object.(*corev1.ConfigMap).Data["k"]) != writers*rounds {
		t.Fatalf("%d of %d increments are left: %v", len(got.Object.(*corev1.ConfigMap).Data["k"]), writers*rounds, err)
	}
}

func TestMutatePassesErrorsOn(t *testing.T) {
	f := startMemory(t, store.Options{})
	want := errors.New("no")
	item, err := f.maps.Mutate(t.Context(), "a/x", func(*store.Item) (store.Mutation, error) { return store.Mutation{}, want })
	if item != nil || !errors.Is(err, want) {
		t.Fatalf("%v %v", item, err)
	}
	item, err = f.maps.Mutate(t.Context(), "a/x", func(*store.Item) (store.Mutation, error) { return store.Mutation{}, nil })
	if item != nil || err != nil {
		t.Fatalf("no-op on nothing: %v %v", item, err)
	}
}

func TestEncodedOnce(t *testing.T) {
	f := startMemory(t, store.Options{})
	item := set(t, f.maps, configMap("a", "x", "1"))
	var calls atomic.Int64
	var wg sync.WaitGroup
	for i := range 16 {
		form := store.Form{MediaType: []string{"json", "protobuf"}[i%2]}
		wg.Go(func() {
			data, err := item.Encoded(form, func(store.Object) ([]byte, error) {
				calls.Add(1)
				return []byte(form.MediaType), nil
			})
			if err != nil || string(data) != form.MediaType {
				t.Errorf("%q %v", data, err)
			}
		})
	}
	wg.Wait()
	if calls.Load() != 2 {
		t.Errorf("encoded %d times, want 2", calls.Load())
	}
	if _, err := item.Encoded(store.Form{}, func(store.Object) ([]byte, error) { return nil, errors.New("x") }); err == nil {
		t.Error("error lost")
	}
	if data, err := item.Encoded(store.Form{}, func(store.Object) ([]byte, error) { return []byte("ok"), nil }); err != nil || string(data) != "ok" {
		t.Error("error remembered")
	}
}

func TestListSelections(t *testing.T) {
	f := startMemory(t, store.Options{})
	for _, p := range []*corev1.Pod{pod("a", "x", "n1"), pod("a", "y", "n2"), pod("b", "x", "n1"), pod("ab", "z", ""), pod("a.b", "q", "n1")} {
		set(t, f.pods, p)
	}
	isX := func(o store.Object) bool { return o.GetName() == "x" }
	tests := []struct {
		o    store.ListOptions
		want string
	}{
		{store.ListOptions{}, "[a.b/q a/x a/y ab/z b/x]"},
		{store.ListOptions{Namespace: "a"}, "[a/x a/y]"},
		{store.ListOptions{Namespace: "a", Name: "y"}, "[a/y]"},
		{store.ListOptions{Namespace: "c"}, "[]"},
		{store.ListOptions{Name: "x"}, "[a/x b/x]"},
		{store.ListOptions{Filter: isX}, "[a/x b/x]"},
		{store.ListOptions{Index: "spec.nodeName", IndexValue: "n1"}, "[a.b/q a/x b/x]"},
		{store.ListOptions{Index: "spec.nodeName", IndexValue: "n1", Namespace: "a"}, "[a/x]"},
		{store.ListOptions{Index: "spec.nodeName", IndexValue: "n1", Name: "x"}, "[a/x b/x]"},
		{store.ListOptions{Index: "spec.nodeName", IndexValue: "n1", Namespace: "b", Filter: isX}, "[b/x]"},
		{store.ListOptions{Index: "spec.nodeName", IndexValue: "none"}, "[]"},
		{store.ListOptions{Match: store.NotOlderThan, Limit: 1}, "[a.b/q a/x a/y ab/z b/x]"},
	}
	for _, tc := range tests {
		l, err := f.pods.List(t.Context(), tc.o)
		if err != nil || keys(l) != tc.want {
			t.Errorf("%+v: %s, want %s (%v)", tc.o, keys(l), tc.want, err)
		}
		if l.Revision != f.store.Revision() {
			t.Errorf("list at %d, store at %d", l.Revision, f.store.Revision())
		}
		tc.o.Match, tc.o.Revision, tc.o.Limit = store.Exact, l.Revision, 0
		if l, err = f.pods.List(t.Context(), tc.o); err != nil || keys(l) != tc.want {
			t.Errorf("exact %+v: %s, want %s (%v)", tc.o, keys(l), tc.want, err)
		}
	}
}

// TestPages lists in pages while others write: the pages are one consistent list of the first page's revision, whether the ring or
// the engine remembers it.
func TestPages(t *testing.T) {
	for _, ringEvents := range []int{1000, 8} {
		t.Run(fmt.Sprint("ring ", ringEvents), func(t *testing.T) {
			f := startMemory(t, store.Options{RingEvents: ringEvents})
			for i := range 10 {
				set(t, f.maps, configMap("a", fmt.Sprintf("n%d", i), "old"))
			}
			o := store.ListOptions{Namespace: "a", Limit: 3}
			first, err := f.maps.List(t.Context(), o)
			if err != nil || first.Remaining == nil || *first.Remaining != 7 || first.Continue == "" {
				t.Fatalf("first page: %+v %v", first, err)
			}
			for i := range 10 {
				if i%2 == 0 {
					remove(t, f.maps, fmt.Sprintf("a/n%d", i))
				} else {
					set(t, f.maps, configMap("a", fmt.Sprintf("n%d", i), "new"))
				}
				set(t, f.maps, configMap("a", fmt.Sprintf("n%d-more", i), "new"))
			}
			page, all := first, first.Items
			for page.Continue != "" {
				o.Continue = page.Continue
				if page, err = f.maps.List(t.Context(), o); err != nil {
					t.Fatal(err)
				}
				if page.Revision != first.Revision {
					t.Errorf("page at %d, want %d", page.Revision, first.Revision)
				}
				all = append(all, page.Items...)
				if left := int64(10 - len(all)); page.Continue != "" && *page.Remaining != left {
					t.Errorf("remaining %d, want %d", *page.Remaining, left)
				}
			}
			if want := "[a/n0 a/n1 a/n2 a/n3 a/n4 a/n5 a/n6 a/n7 a/n8 a/n9]"; keys(store.List{Items: all}) != want {
				t.Errorf("%s", keys(store.List{Items: all}))
			}
			for _, it := range all {
				if it.Object.(*corev1.ConfigMap).Data["k"] != "old" || it.Revision > first.Revision {
					t.Errorf("%s is of revision %d", it.Key, it.Revision)
				}
			}

			if err := f.store.Compact(t.Context(), f.store.Revision()); err != nil {
				t.Fatal(err)
			}
			o.Continue = first.Continue
			_, err = f.maps.List(t.Context(), o)
			var status *apierrors.StatusError
			if !apierrors.IsResourceExpired(err) || !errors.As(err, &status) || status.ErrStatus.Continue == "" {
				t.Fatalf("continue after compaction: %v", err)
			}
			o.Continue, o.Limit = status.ErrStatus.Continue, 0
			rest, err := f.maps.List(t.Context(), o)
			if err != nil || len(rest.Items) != 12 || rest.Revision != f.store.Revision() {
				t.Fatalf("inconsistent rest: %s at %d, %v", keys(rest), rest.Revision, err)
			}
			_, err = f.maps.List(t.Context(), store.ListOptions{Match: store.Exact, Revision: first.Revision})
			if !apierrors.IsResourceExpired(err) {
				t.Fatalf("exact list after compaction: %v", err)
			}
		})
	}
}

func TestPagesWithFilter(t *testing.T) {
	f := startMemory(t, store.Options{})
	for i := range 10 {
		set(t, f.maps, configMap("a", fmt.Sprintf("n%d", i), fmt.Sprint(i%2)))
	}
	o := store.ListOptions{Limit: 2, Filter: func(o store.Object) bool { return o.(*corev1.ConfigMap).Data["k"] == "1" }}
	var got []string
	for {
		l, err := f.maps.List(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		if l.Remaining != nil {
			t.Error("remaining is not known with a filter")
		}
		got = append(got, keys(l))
		if o.Continue = l.Continue; o.Continue == "" {
			break
		}
	}
	if fmt.Sprint(got) != "[[a/n1 a/n3] [a/n5 a/n7] [a/n9]]" {
		t.Error(got)
	}
}

func TestBadContinue(t *testing.T) {
	f := startMemory(t, store.Options{})
	for token, want := range map[string]string{
		"abc": "invalid character 'i' looking for beginning of value",
		"!!!": "illegal base64 data at input byte 0",
		"e30": "server does not recognize this encoded version ",
		"eyJ2IjoibWV0YS5rOHMuaW8vdjIiLCJydiI6MSwic3RhcnQiOiJhXHUwMDAwIn0":          "server does not recognize this encoded version meta.k8s.io/v2",
		"eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MCwic3RhcnQiOiJhXHUwMDAwIn0":          "incorrect encoded start resourceVersion (version meta.k8s.io/v1)",
		"eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6NSwic3RhcnQiOiIifQ":                   "encoded start key empty (version meta.k8s.io/v1)",
		"eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6LTEsInN0YXJ0IjoiLi4vLi4veFx1MDAwMCJ9": "../../x\x00",
	} {
		_, err := f.maps.List(t.Context(), store.ListOptions{Continue: token, Limit: 1})
		if !apierrors.IsBadRequest(err) || err.Error() != "invalid continue token: continue key is not valid: "+want {
			t.Errorf("%s: %v", token, err)
		}
	}
}

// What a token says of the rest of a list is not believed where it matters.
func TestForgedRest(t *testing.T) {
	f := startMemory(t, store.Options{})
	var last int64
	for _, m := range []*corev1.ConfigMap{configMap("a", "x", "1"), configMap("a", "y", "1"), configMap("b", "x", "1")} {
		last = set(t, f.maps, m).Revision
	}
	for _, rest := range []int64{1, 2, 1 << 60} {
		token := fmt.Sprintf(`{"v":"meta.k8s.io/v1","rv":%d,"start":"x","rest":%d}`, last, rest)
		l, err := f.maps.List(t.Context(), store.ListOptions{Namespace: "a", Continue: base64.RawURLEncoding.EncodeToString([]byte(token))})
		if err != nil || fmt.Sprint(keys(l)) != "[a/x a/y]" {
			t.Errorf("%d more: %v, %v", rest, keys(l), err)
		}
	}
}

func TestFutureRevisions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine := memory.New()
		defer engine.Close()
		f := start(t, engine, store.Options{CompactionInterval: -1})
		defer f.store.Close()
		check := func(what string, err error) {
			t.Helper()
			var status *apierrors.StatusError
			if !apierrors.IsTimeout(err) || !errors.As(err, &status) {
				t.Fatalf("%s: %v", what, err)
			}
			d := status.ErrStatus.Details
			if d.RetryAfterSeconds != 1 || len(d.Causes) != 1 || d.Causes[0].Type != metav1.CauseTypeResourceVersionTooLarge || d.Causes[0].Message != "Too large resource version" {
				t.Errorf("%s: %+v", what, d)
			}
		}
		_, err := f.maps.Get(t.Context(), "a/x", store.GetOptions{MinRevision: 99})
		check("get", err)
		_, err = f.maps.List(t.Context(), store.ListOptions{Match: store.NotOlderThan, Revision: 99})
		check("list", err)
		_, err = f.maps.List(t.Context(), store.ListOptions{Match: store.Exact, Revision: 99})
		check("exact list", err)
		_, err = f.maps.Watch(t.Context(), store.WatchOptions{Revision: 99})
		var status *apierrors.StatusError
		if !apierrors.HasStatusCause(err, metav1.CauseTypeResourceVersionTooLarge) || !errors.As(err, &status) || status.ErrStatus.Details.RetryAfterSeconds != 0 {
			t.Errorf("watch: %v", err)
		}
		// A revision that comes in time is waited for.
		var wg sync.WaitGroup
		defer wg.Wait()
		wg.Go(func() {
			time.Sleep(time.Second)
			set(t, f.maps, configMap("a", "x", "1"))
		})
		l, err := f.maps.List(t.Context(), store.ListOptions{Match: store.NotOlderThan, Revision: 2})
		if err != nil || len(l.Items) != 1 {
			t.Fatalf("%s %v", keys(l), err)
		}
		wg.Go(func() {
			time.Sleep(time.Second)
			set(t, f.maps, configMap("a", "x", "2"))
			set(t, f.maps, configMap("a", "x", "3"))
		})
		w, err := f.maps.Watch(t.Context(), store.WatchOptions{Revision: 3})
		if err != nil {
			t.Fatal(err)
		}
		defer w.Stop()
		if events, err := w.Next(t.Context()); err != nil || len(events) != 1 || events[0].Revision != 4 {
			t.Errorf("a watch that was early: %v %v", events, err)
		}
	})
}

func TestTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine := memory.New()
		defer engine.Close()
		f := start(t, engine, store.Options{CompactionInterval: -1})
		defer f.store.Close()
		w, err := f.maps.Watch(t.Context(), store.WatchOptions{FromNow: true})
		if err != nil {
			t.Fatal(err)
		}
		defer w.Stop()
		for i := range 3 {
			_, err := f.maps.Mutate(t.Context(), fmt.Sprintf("a/e%d", i), func(*store.Item) (store.Mutation, error) {
				return store.Mutation{Object: configMap("a", fmt.Sprintf("e%d", i), ""), TTL: time.Hour}, nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		before := f.store.Revision()
		time.Sleep(59 * time.Minute)
		if l, _ := f.maps.List(t.Context(), store.ListOptions{}); len(l.Items) != 3 {
			t.Fatalf("too early: %s", keys(l))
		}
		time.Sleep(3 * time.Minute)
		synctest.Wait()
		if l, _ := f.maps.List(t.Context(), store.ListOptions{}); len(l.Items) != 0 {
			t.Fatalf("too late: %s", keys(l))
		}
		if got := fmt.Sprint(read(t, w, 6)); got != "[+a/e0 +a/e1 +a/e2 -a/e0 -a/e1 -a/e2]" {
			t.Error(got)
		}
		if f.store.Revision() != before+1 {
			t.Errorf("objects of one minute went in %d revisions, want one shared lease", f.store.Revision()-before)
		}
	})
}

func TestNoSpaceAndTooLarge(t *testing.T) {
	engine := memory.NewWith(memory.Config{QuotaBytes: 4000, MaxRequestBytes: 3000})
	defer engine.Close()
	f := start(t, engine, store.Options{})
	_, err := f.maps.Mutate(t.Context(), "a/x", func(*store.Item) (store.Mutation, error) {
		return store.Mutation{Object: configMap("a", "x", strings.Repeat("x", 3000))}, nil
	})
	if !apierrors.IsRequestEntityTooLargeError(err) || err.Error() != "etcdserver: request is too large" {
		t.Errorf("too large: %v", err)
	}
	set(t, f.maps, configMap("a", "x", strings.Repeat("x", 2500)))
	_, err = f.maps.Mutate(t.Context(), "a/y", func(*store.Item) (store.Mutation, error) {
		return store.Mutation{Object: configMap("a", "y", strings.Repeat("x", 2500))}, nil
	})
	var status *apierrors.StatusError
	if !errors.As(err, &status) || status.ErrStatus.Code != 500 || err.Error() != "etcdserver: mvcc: database space exceeded" {
		t.Errorf("no space: %v", err)
	}
	if _, err := f.maps.Get(t.Context(), "a/x", store.GetOptions{}); err != nil {
		t.Errorf("reads go on: %v", err)
	}
	remove(t, f.maps, "a/x")
}

// TestStartsFromWhatIsThere opens a store over an engine with content, some of it broken, and registers a resource late.
func TestStartsFromWhatIsThere(t *testing.T) {
	engine := memory.New()
	defer engine.Close()
	f := start(t, engine, store.Options{})
	made := set(t, f.maps, configMap("a", "x", "1"))
	set(t, f.pods, pod("a", "p", "n1"))
	if _, err := engine.Txn(t.Context(), nil, []kv.Op{{Key: "/registry/pods/a/broken", Value: []byte("?")}, {Key: "/other", Value: nil}}); err != nil {
		t.Fatal(err)
	}
	f.store.Close()

	s, err := store.New(t.Context(), engine, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	maps, err := s.Register(configMapResource())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	got, err := maps.Get(t.Context(), "a/x", store.GetOptions{})
	if err != nil || got.Revision != made.Revision || got.Object.GetResourceVersion() != made.Object.GetResourceVersion() {
		t.Fatalf("%+v %v", got, err)
	}
	late, err := s.Register(podResource())
	if err != nil {
		t.Fatal(err)
	}
	l, err := late.List(t.Context(), store.ListOptions{Index: "spec.nodeName", IndexValue: "n1"})
	if err != nil || keys(l) != "[a/p]" {
		t.Fatalf("%s %v", keys(l), err)
	}
	if _, err := s.Register(podResource()); err == nil {
		t.Error("registered twice")
	}
	w, err := late.Watch(t.Context(), store.WatchOptions{FromNow: true})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	set(t, late, pod("a", "q", "n1"))
	if got := fmt.Sprint(read(t, w, 1)); got != "[+a/q]" {
		t.Error(got)
	}
	s.Unregister(pods)
	if _, err := w.Next(t.Context()); err == nil {
		t.Error("the watch of an unregistered resource goes on")
	}
	if _, ok := s.Collection(pods); ok {
		t.Error("still there")
	}
}

// TestForeignWrites lets somebody else write into the engine: with Linearizable every read sees what was acknowledged to them, and a
// decision made on an old state is made again.
func TestForeignWrites(t *testing.T) {
	engine := memory.New()
	defer engine.Close()
	a := start(t, engine, store.Options{Linearizable: true})
	b := start(t, engine, store.Options{Linearizable: true})
	for i := range 100 {
		n := fmt.Sprintf("n%d", i)
		set(t, a.maps, configMap("a", n, "1"))
		if _, err := b.maps.Get(t.Context(), "a/"+n, store.GetOptions{}); err != nil {
			t.Fatal(err)
		}
		remove(t, b.maps, "a/"+n)
		if l, err := a.maps.List(t.Context(), store.ListOptions{}); err != nil || len(l.Items) != 0 {
			t.Fatalf("%s %v", keys(l), err)
		}
		_, err := a.maps.Mutate(t.Context(), "a/"+n, func(cur *store.Item) (store.Mutation, error) {
			if cur != nil {
				return store.Mutation{}, errors.New("exists")
			}
			return store.Mutation{Object: configMap("a", n, "2")}, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		remove(t, b.maps, "a/"+n)
	}
	if _, err := engine.Txn(t.Context(), nil, []kv.Op{{Key: "/elsewhere", Value: []byte("x")}}); err != nil {
		t.Fatal(err)
	}
	if l, err := a.maps.List(t.Context(), store.ListOptions{}); err != nil || l.Revision != a.store.Revision() {
		t.Fatalf("after a write elsewhere: %v", err)
	}
}
