package client

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"pgregory.net/rapid"

	"github.com/celox/celox/internal/store"
	"github.com/celox/celox/internal/store/kv/memory"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// jsonMaps stores config maps as JSON.
type jsonMaps struct{}

func (jsonMaps) Append(to []byte, obj store.Object) ([]byte, error) {
	data, err := json.Marshal(obj)
	return append(to, data...), err
}

func (jsonMaps) Decode(data []byte) (store.Object, error) {
	m := &corev1.ConfigMap{}
	return m, json.Unmarshal(data, m)
}

// configMaps is a store of config maps. Whoever reads through it can be cut off.
type configMaps struct {
	*store.Collection

	mu     sync.Mutex
	closed chan struct{} // not nil while nobody can list; guarded by mu
	open   []*store.Watcher
}

func newConfigMaps(t interface{ Fatal(...any) }, o store.Options) (m *configMaps, end func()) {
	engine := memory.New()
	st, err := store.New(context.Background(), engine, o)
	if err != nil {
		t.Fatal(err)
	}
	col, err := st.Register(store.Resource{GroupResource: schema.GroupResource{Resource: "configmaps"}, Prefix: "configmaps", Namespaced: true, Codec: jsonMaps{}})
	if err == nil {
		err = st.Start(context.Background())
	}
	if err != nil {
		t.Fatal(err)
	}
	return &configMaps{Collection: col}, func() {
		if err := st.Close(); err != nil {
			t.Fatal(err)
		}
		if err := engine.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func (m *configMaps) List(ctx context.Context, o store.ListOptions) (store.List, error) {
	m.mu.Lock()
	closed := m.closed
	m.mu.Unlock()
	if closed != nil {
		select {
		case <-closed:
		case <-ctx.Done():
			return store.List{}, ctx.Err()
		}
	}
	return m.Collection.List(ctx, o)
}

func (m *configMaps) Watch(ctx context.Context, o store.WatchOptions) (*store.Watcher, error) {
	w, err := m.Collection.Watch(ctx, o)
	if err == nil {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.open = append(m.open, w)
	}
	return w, err
}

// cut ends the watches; until mend nobody can list.
func (m *configMaps) cut() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed == nil {
		m.closed = make(chan struct{})
	}
	for _, w := range m.open {
		w.Stop()
	}
	m.open = nil
}

func (m *configMaps) mend() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed != nil {
		close(m.closed)
		m.closed = nil
	}
}

func (m *configMaps) source() Source {
	return Source{GroupResource: schema.GroupResource{Resource: "configmaps"}, Example: &corev1.ConfigMap{}, Reader: m}
}

// put writes value under key, or with "" removes the object.
func (m *configMaps) put(t interface{ Fatal(...any) }, key, value string) {
	_, err := m.Mutate(context.Background(), key, func(cur *store.Item) (store.Mutation, error) {
		switch {
		case value == "" && cur == nil:
			return store.Mutation{}, nil
		case value == "":
			return store.Mutation{Delete: true}, nil
		}
		namespace, name, _ := strings.Cut(key, "/")
		return store.Mutation{Object: &corev1.ConfigMap{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}, ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Data: map[string]string{"k": value},
		}}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// follower is a handler that knows what it has been told, and complains of what cannot be.
type follower struct {
	pause func(calls int) time.Duration // nil is none

	mu       sync.Mutex
	calls    int
	inside   bool
	objects  map[string]*corev1.ConfigMap
	versions map[string]int64 // of all that there ever were
	initial  int
	wrong    []string
}

func newFollower() *follower {
	return &follower{objects: map[string]*corev1.ConfigMap{}, versions: map[string]int64{}}
}

func (f *follower) told(what string, obj any, check func(key string, m *corev1.ConfigMap) string) {
	f.mu.Lock()
	if f.inside {
		f.wrong = append(f.wrong, what+" during another call")
	}
	f.inside = true
	f.calls++
	calls := f.calls
	f.mu.Unlock()
	if f.pause != nil {
		if d := f.pause(calls); d > 0 {
			time.Sleep(d)
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.inside = false
	unknown, vanished := obj.(cache.DeletedFinalStateUnknown)
	if vanished {
		obj = unknown.Obj
	}
	m := obj.(*corev1.ConfigMap)
	key := m.Namespace + "/" + m.Name
	if vanished && unknown.Key != key {
		f.wrong = append(f.wrong, fmt.Sprintf("%q vanished as %q", key, unknown.Key))
	}
	if complaint := check(key, m); complaint != "" {
		f.wrong = append(f.wrong, fmt.Sprintf("%s %s at %s: %s", what, key, m.ResourceVersion, complaint))
	}
	rev, err := strconv.ParseInt(m.ResourceVersion, 10, 64)
	if err != nil || !vanished && rev <= f.versions[key] {
		f.wrong = append(f.wrong, fmt.Sprintf("%s %s at %s after %d", what, key, m.ResourceVersion, f.versions[key]))
	}
	f.versions[key] = rev
}

// state is what the follower has seen.
func (f *follower) state() (calls, objects, initial int, wrong []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls, len(f.objects), f.initial, slices.Clone(f.wrong)
}

func (f *follower) OnAdd(obj any, initial bool) {
	f.told("add", obj, func(key string, m *corev1.ConfigMap) string {
		if initial {
			f.initial++
		}
		if f.objects[key] != nil {
			return "is there already"
		}
		f.objects[key] = m
		return ""
	})
}

func (f *follower) OnUpdate(old, obj any) {
	f.told("update", obj, func(key string, m *corev1.ConfigMap) string {
		was := f.objects[key]
		f.objects[key] = m
		if was == nil || was != old {
			return "from another state than the last"
		}
		return ""
	})
}

func (f *follower) OnDelete(obj any) {
	f.told("delete", obj, func(key string, m *corev1.ConfigMap) string {
		was := f.objects[key]
		delete(f.objects, key)
		if was == nil || was.Data["k"] != m.Data["k"] {
			return "was not there so"
		}
		return ""
	})
}

// TestSharedAgainstModel: whatever is written, however slow handlers are, whenever they come and go and whenever the watch is cut off, all see a possible history, and in
// the end what there is.
func TestSharedAgainstModel(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		c := &chance{rapid.SliceOfN(rapid.IntRange(0, 1<<20), 10, 200).Draw(r, "what happens")}
		var wrong []string
		synctest.Test(t, func(t *testing.T) { wrong = sharedAgainstModel(t, c) })
		for _, complaint := range wrong {
			r.Error(complaint)
		}
	})
}

// chance makes decisions that were drawn before: in a bubble nothing can be drawn.
type chance struct{ numbers []int }

// of is a number from low to high.
func (c *chance) of(low, high int) int {
	if len(c.numbers) == 0 {
		return low
	}
	n := c.numbers[0]
	c.numbers = c.numbers[1:]
	return low + n%(high-low+1)
}

func sharedAgainstModel(t *testing.T, c *chance) (wrong []string) {
	complain := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	m, end := newConfigMaps(t, store.Options{})
	defer end()
	s := newShared(m.source())
	byValue := cache.Indexers{"value": func(obj any) ([]string, error) {
		v := obj.(*corev1.ConfigMap).Data["k"]
		return []string{v, "all"}, nil
	}}
	if err := s.AddIndexers(byValue); err != nil {
		t.Fatal(err)
	}
	type registered struct {
		*follower
		r cache.ResourceEventHandlerRegistration
	}
	var all, removed []registered
	join := func() {
		f := newFollower()
		if every := c.of(0, 4); every > 0 {
			long := time.Duration(c.of(1, 300)) * time.Millisecond
			f.pause = func(calls int) time.Duration {
				if calls%every != 0 {
					return 0
				}
				return long
			}
		}
		r, err := s.AddEventHandler(f)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, registered{f, r})
	}
	keys := []string{"a/x", "a/y", "b/x", "b/y", "c/z"}
	write := func() {
		value := ""
		if c.of(0, 3) > 0 {
			value = fmt.Sprint(c.of(1, 3))
		}
		m.put(t, keys[c.of(0, len(keys)-1)], value)
	}
	for range c.of(0, 3) {
		join()
	}
	for range c.of(0, 5) {
		write()
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { s.RunWithContext(ctx) })
	for range c.of(0, 40) {
		switch c.of(0, 11) {
		case 0:
			join()
		case 1:
			if n := len(all); n > 0 {
				i := c.of(0, n-1)
				if err := s.RemoveEventHandler(all[i].r); err != nil {
					t.Fatal(err)
				}
				removed = append(removed, all[i])
				all = slices.Delete(all, i, i+1)
			}
		case 2:
			m.cut()
		case 3:
			m.mend()
		case 4:
			time.Sleep(time.Duration(c.of(1, 200)) * time.Millisecond)
		case 5:
			synctest.Wait()
		default:
			write()
		}
	}
	m.mend()
	time.Sleep(time.Hour) // of nobody's
	synctest.Wait()
	got, err := m.Collection.List(ctx, store.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	now := map[string]string{}
	values := map[string]int{"all": len(got.Items)}
	for _, it := range got.Items {
		v := it.Object.(*corev1.ConfigMap).Data["k"]
		now[it.Key] = v
		values[v]++
		if obj, ok, err := s.GetIndexer().GetByKey(it.Key); err != nil || !ok || obj != it.Object {
			complain("the index has %v of %s: %v", obj, it.Key, err)
		}
	}
	if n := len(s.GetStore().List()); n != len(now) {
		complain("the index has %d objects of %d", n, len(now))
	}
	for _, v := range []string{"1", "2", "3", "all"} {
		if found, err := s.GetIndexer().ByIndex("value", v); err != nil || len(found) != values[v] {
			complain("%d objects with %q in the index, of %d: %v", len(found), v, values[v], err)
		}
	}
	for _, namespace := range []string{"a", "b", "c", "d"} {
		want := 0
		for key := range now {
			if strings.HasPrefix(key, namespace+"/") {
				want++
			}
		}
		found, err := corelisters.NewConfigMapLister(s.GetIndexer()).ConfigMaps(namespace).List(labels.Everything())
		if err != nil || len(found) != want {
			complain("%d objects in %s, of %d: %v", len(found), namespace, want, err)
		}
	}
	check := func(f *follower) {
		f.mu.Lock()
		defer f.mu.Unlock()
		for _, complaint := range f.wrong {
			complain("%s", complaint)
		}
	}
	for _, f := range all {
		check(f.follower)
		if !f.r.HasSynced() {
			complain("a handler has not been told that it has seen everything")
		}
		if len(f.objects) != len(now) {
			complain("a handler knows %d objects of %d", len(f.objects), len(now))
		}
		for key, v := range now {
			if o := f.objects[key]; o == nil || o.Data["k"] != v {
				complain("a handler knows %v of %s, which is %s", o, key, v)
			}
		}
	}
	for _, f := range removed {
		check(f.follower)
		if err := cache.ShutDownEventHandler(s, f.r); err != nil {
			complain("%v", err)
		}
	}
	cancel()
	running.Wait()
	if _, err := s.AddEventHandler(newFollower()); err == nil || !s.IsStopped() {
		complain("a handler joined what has stopped")
	}
	for _, f := range all {
		if err := cache.ShutDownEventHandler(s, f.r); err != nil {
			complain("%v", err)
		}
	}
	return wrong
}

// TestSharedStuck: a handler that never returns holds up nobody, and hears of everything once it does.
func TestSharedStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, end := newConfigMaps(t, store.Options{})
		defer end()
		s := newShared(m.source())
		release := make(chan struct{})
		stuck, free := newFollower(), newFollower()
		stuck.pause = func(int) time.Duration {
			<-release
			return 0
		}
		for _, f := range []*follower{stuck, free} {
			if _, err := s.AddEventHandler(f); err != nil {
				t.Fatal(err)
			}
		}
		m.put(t, "a/first", "1")
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { s.RunWithContext(ctx) })
		time.Sleep(time.Minute)
		for i := range 20 {
			m.put(t, fmt.Sprint("a/", i%3), fmt.Sprint(i))
			synctest.Wait() // no time passes any more: the stuck one is on its own
			if calls, _, _, _ := free.state(); calls != i+2 {
				t.Errorf("%d changes were told of %d", calls, i+2)
			}
		}
		close(release)
		synctest.Wait()
		calls, _, _, wrong := stuck.state()
		if _, _, _, more := free.state(); calls != 21 || len(wrong)+len(more) > 0 {
			t.Errorf("the one that was stuck has heard of %d changes; %q %q", calls, wrong, more)
		}
		m.put(t, "a/last", "1")
		synctest.Wait()
		calls, _, _, _ = stuck.state()
		if others, _, _, _ := free.state(); calls != 22 || others != 22 {
			t.Errorf("%d and %d calls", calls, others)
		}
		cancel()
		running.Wait()
	})
}

// TestSharedEndsWhileStuck: the informer waits for a handler that is being called, and for no time.
func TestSharedEndsWhileStuck(t *testing.T) {
	for _, after := range []time.Duration{time.Millisecond, time.Minute} { // with its driver, and with another one
		synctest.Test(t, func(t *testing.T) {
			m, end := newConfigMaps(t, store.Options{})
			defer end()
			s := newShared(m.source())
			f := newFollower()
			f.pause = func(int) time.Duration { return time.Hour }
			if _, err := s.AddEventHandler(f); err != nil {
				t.Fatal(err)
			}
			m.put(t, "a/x", "1")
			m.put(t, "a/y", "1")
			ctx, cancel := context.WithCancel(t.Context())
			var running sync.WaitGroup
			running.Go(func() { s.RunWithContext(ctx) })
			time.Sleep(after)
			cancel()
			running.Wait()
			if f.calls != 1 || f.inside {
				t.Errorf("%d calls, in one: %v", f.calls, f.inside)
			}
		})
	}
}

// TestSharedSynced: a registration is synced when its handler has been called with all that there was, not before; also one that comes late.
func TestSharedSynced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, end := newConfigMaps(t, store.Options{})
		defer end()
		for i := range 5 {
			m.put(t, fmt.Sprint("a/", i), "1")
		}
		s := newShared(m.source())
		join := func() (*follower, cache.ResourceEventHandlerRegistration) {
			f := newFollower()
			f.pause = func(int) time.Duration { return time.Second }
			r, err := s.AddEventHandler(f)
			if err != nil {
				t.Fatal(err)
			}
			return f, r
		}
		early, first := join()
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		if s.HasSynced() || first.HasSynced() {
			t.Error("synced before it runs")
		}
		running.Go(func() { s.RunWithContext(ctx) })
		<-s.HasSyncedChecker().Done()
		late, second := join()
		if first.HasSynced() || second.HasSynced() {
			t.Error("synced before a handler was called")
		}
		<-first.HasSyncedChecker().Done()
		<-second.HasSyncedChecker().Done()
		for _, f := range []*follower{early, late} {
			if _, objects, initial, _ := f.state(); objects != 5 || initial != 5 {
				t.Errorf("%d objects, of which %d at first", objects, initial)
			}
		}
		m.put(t, "a/new", "1")
		time.Sleep(time.Minute)
		for _, f := range []*follower{early, late} {
			if _, objects, initial, _ := f.state(); objects != 6 || initial != 5 {
				t.Errorf("%d objects, of which %d at first", objects, initial)
			}
		}
		if got, err := strconv.Atoi(s.LastSyncResourceVersion()); err != nil || got < 6 {
			t.Errorf("version %q", s.LastSyncResourceVersion())
		}
		cancel()
		running.Wait()
	})
}

// TestSharedRemovesItself: a handler may remove itself, and then is not called again.
func TestSharedRemovesItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, end := newConfigMaps(t, store.Options{})
		defer end()
		s := newShared(m.source())
		calls := 0
		var r cache.ResourceEventHandlerRegistration
		var err error
		r, err = s.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: func(any) {
			calls++
			if err := s.RemoveEventHandler(r); err != nil {
				t.Error(err)
			}
		}})
		if err != nil {
			t.Fatal(err)
		}
		m.put(t, "a/x", "1")
		m.put(t, "a/y", "1")
		stop := make(chan struct{})
		var running sync.WaitGroup
		running.Go(func() { s.Run(stop) })
		if err := cache.ShutDownEventHandler(s, r); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if calls > 1 {
			t.Errorf("%d calls", calls)
		}
		if err := s.RemoveEventHandler(r); err != nil {
			t.Errorf("removed twice: %v", err)
		}
		close(stop)
		running.Wait()
	})
}

// TestSharedTransform: what a transform makes of objects is what is kept and told.
func TestSharedTransform(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, end := newConfigMaps(t, store.Options{})
		defer end()
		s := newShared(m.source())
		err := s.SetTransform(func(obj any) (any, error) {
			short := obj.(*corev1.ConfigMap).DeepCopy()
			short.Data = nil
			return short, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		f := newFollower()
		if _, err := s.AddEventHandler(f); err != nil {
			t.Fatal(err)
		}
		m.put(t, "a/x", "1")
		m.put(t, "a/y", "1")
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { s.RunWithContext(ctx) })
		synctest.Wait()
		m.put(t, "a/x", "")
		m.cut()
		m.put(t, "a/y", "")
		m.mend()
		synctest.Wait()
		if calls, objects, _, wrong := f.state(); objects != 0 || calls != 4 || len(wrong) > 0 {
			t.Errorf("%d objects after %d calls; %q", objects, calls, wrong)
		}
		if s.SetTransform(nil) == nil {
			t.Error("a transform was changed while the informer runs")
		}
		cancel()
		running.Wait()
	})
}

// BenchmarkShared is one change of an object that 15 handlers follow.
func BenchmarkShared(b *testing.B) {
	m, end := newConfigMaps(b, store.Options{})
	defer end()
	s := newShared(m.source())
	told := make(chan struct{}, 1)
	nobody := cache.ResourceEventHandlerFuncs{UpdateFunc: func(any, any) {}}
	for range 14 {
		if _, err := s.AddEventHandler(nobody); err != nil {
			b.Fatal(err)
		}
	}
	if _, err := s.AddEventHandler(cache.ResourceEventHandlerFuncs{UpdateFunc: func(any, any) { told <- struct{}{} }}); err != nil {
		b.Fatal(err)
	}
	m.put(b, "a/x", "first")
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { s.RunWithContext(ctx) })
	<-s.HasSyncedChecker().Done()
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		m.put(b, "a/x", fmt.Sprint(i))
		<-told
	}
	cancel()
	running.Wait()
}
