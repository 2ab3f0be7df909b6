package journal

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/celox/celox/internal/store/kv"
	"github.com/celox/celox/internal/store/kv/kvtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t testing.TB, path string) *Engine {
	t.Helper()
	e, err := Open(Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

func do(t testing.TB, e kv.Engine, ops ...kv.Op) int64 {
	t.Helper()
	resp, err := e.Txn(t.Context(), nil, ops)
	if err != nil {
		t.Fatal(err)
	}
	return resp.Revision
}

// show is all that an engine has.
func show(t testing.TB, e kv.Engine) string {
	t.Helper()
	resp, err := e.Range(t.Context(), kv.RangeRequest{Key: "\x00", End: "\xff"})
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	for _, item := range resp.KVs {
		fmt.Fprintf(&b, "%s=%s (%d, %d, %d)\n", item.Key, item.Value, item.CreateRevision, item.ModRevision, item.Version)
	}
	return b.String()
}

func revision(t testing.TB, e kv.Engine) int64 {
	t.Helper()
	resp, err := e.Range(t.Context(), kv.RangeRequest{Key: "\x00"})
	if err != nil {
		t.Fatal(err)
	}
	return resp.Revision
}

func TestSuite(t *testing.T) {
	kvtest.Run(t, func(t *testing.T) kv.Engine {
		e, err := Open(Config{Path: filepath.Join(t.TempDir(), "j"), Begin: 1})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { e.Close() })
		return e
	})
}

func TestOrderlyEnd(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j")
	e := open(t, path)
	do(t, e, kv.Op{Key: "a", Value: []byte("1")}, kv.Op{Key: "b", Value: []byte("2")})
	do(t, e, kv.Op{Key: "a", Value: []byte("3")})
	do(t, e, kv.Op{Key: "c", Value: []byte("4")})
	at := do(t, e, kv.Op{Key: "c", Delete: true})
	want := show(t, e)
	for range 3 {
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
		e = open(t, path)
		if got := show(t, e); got != want || revision(t, e) != at {
			t.Fatalf("afterwards, at %d:\n%swant, at %d:\n%s", revision(t, e), got, at, want)
		}
	}
	// A watch that had seen everything goes on; one that had not has to list again.
	if resp := <-e.Watch(t.Context(), "", at); resp.Err == nil {
		t.Errorf("a watch from before the restart got %v", resp)
	}
	changes := e.Watch(t.Context(), "", at+1)
	next := do(t, e, kv.Op{Key: "d"})
	if resp := <-changes; resp.Err != nil || resp.Revision != next || next != at+1 {
		t.Errorf("a watch from the restart on got %v, want revision %d", resp, at+1)
	}
}

func TestCrash(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "j")
	e := open(t, path)
	states := map[string]bool{"": true}
	var last int64
	for i := range 40 {
		last = do(t, e, kv.Op{Key: fmt.Sprint("k", i%7), Value: []byte(fmt.Sprint("v", i)), Delete: i%5 == 4})
		states[show(t, e)] = true
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// Wherever the file is cut, what comes back is what was there at some time, and revisions don't go back.
	for cut := len(magic); cut < len(whole); cut++ {
		for _, tail := range [][]byte{nil, make([]byte, 100)} {
			cutFile := append(slices.Clone(whole[:cut]), tail...)
			c, err := read(bytes.NewReader(cutFile))
			if err != nil || c.ended {
				t.Fatalf("cut at %d: ended %v, %v", cut, c.ended, err)
			}
			if cut%150 != 0 { // not every one: each opening is synced
				continue
			}
			copied := filepath.Join(dir, "cut")
			if err := os.WriteFile(copied, cutFile, 0o600); err != nil {
				t.Fatal(err)
			}
			// A crash while the file was made anew has left a part of the next one, which is of no use.
			if err := os.WriteFile(filepath.Join(dir, ".cut.new"), whole[:cut/2], 0o600); err != nil {
				t.Fatal(err)
			}
			again, err := Open(Config{Path: copied})
			if err != nil {
				t.Fatalf("cut at %d: %v", cut, err)
			}
			if got := show(t, again); !states[got] {
				t.Fatalf("cut at %d there is\n%swhich never was", cut, got)
			}
			if r := revision(t, again); r < last {
				t.Fatalf("cut at %d the revision is %d, before %d", cut, r, last)
			}
			again.Close()
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 2 {
		t.Errorf("there are %v, %v; want the two journals", left, err)
	}
}

// Sleeping in a bubble of synctest, here and below, moves the engine's clock on: what happens by the clock (the pace of writing, the ends of leases) is what is looked at.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "j")
		e := open(t, path)
		defer e.Close()
		do(t, e, kv.Op{Key: "first"})
		synctest.Wait()
		do(t, e, kv.Op{Key: "second"})
		synctest.Wait()
		before := stored(t, path)
		time.Sleep(pace)
		synctest.Wait()
		if after := stored(t, path); len(before.keys) != 1 || len(after.keys) != 2 {
			t.Errorf("the file has %d keys at once and %d later, want 1 and 2", len(before.keys), len(after.keys))
		}
	})
}

func stored(t testing.TB, path string) *content {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	c, err := read(f)
	if err != nil || c.torn {
		t.Fatalf("the file is torn or not readable: %v", err)
	}
	return c
}

func TestLeases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "j")
		e := open(t, path)
		for _, ttl := range []time.Duration{time.Minute, time.Hour} {
			id, err := e.Grant(t.Context(), ttl)
			if err != nil {
				t.Fatal(err)
			}
			do(t, e, kv.Op{Key: ttl.String(), Lease: id})
		}
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Minute)
		e = open(t, path)
		synctest.Wait()
		if got := e.State(); len(got.KeyValues) != 1 || got.KeyValues[0].Key != "1h0m0s" {
			t.Errorf("after two minutes there is %v", got.KeyValues)
		}
		if id, err := e.Grant(t.Context(), time.Hour); err != nil || id == got(e, "1h0m0s") {
			t.Errorf("a new lease is %d, as one that is in use (%v)", id, err)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if got := e.State(); len(got.KeyValues) != 0 {
			t.Errorf("after an hour there is %v", got.KeyValues)
		}
		e.Close()
		e = open(t, path)
		synctest.Wait() // leases that are over go on their own
		if len(e.State().KeyValues) != 0 || len(e.State().Leases) > 1 {
			t.Errorf("after another restart there is %v", e.State())
		}
		e.Close()
	})
}

func got(e *Engine, key string) kv.LeaseID {
	for _, item := range e.State().KeyValues {
		if item.Key == key {
			return item.Lease
		}
	}
	return 0
}

func TestRewrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "j")
		e := open(t, path)
		value := make([]byte, 64<<10)
		for i := range 500 { // 32 MB have been written in the end, 640 KB are there
			do(t, e, kv.Op{Key: fmt.Sprint(i % 10), Value: value})
			time.Sleep(pace)
			if i%20 == 19 {
				if err := e.Compact(t.Context(), revision(t, e)); err != nil {
					t.Fatal(err)
				}
			}
		}
		synctest.Wait()
		info, err := os.Stat(path)
		if err != nil || info.Size() > 2*smallFile {
			t.Errorf("the file has %d bytes (%v)", info.Size(), err)
		}
		want := show(t, e)
		e.Close()
		if e = open(t, path); show(t, e) != want {
			t.Error("something else is there after a restart")
		}
		e.Close()
	})
}

func TestUnwritable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "gone", "j")
		if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		e := open(t, path)
		do(t, e, kv.Op{Key: "a"})
		time.Sleep(pace)
		synctest.Wait()
		// As a disk that is full, for as long as it is: the file that is open takes nothing, and no other can be made.
		if err := os.RemoveAll(filepath.Dir(path)); err != nil {
			t.Fatal(err)
		}
		e.file.Close()
		do(t, e, kv.Op{Key: "b"})
		time.Sleep(pace)
		do(t, e, kv.Op{Key: "c"})
		time.Sleep(pace)
		synctest.Wait()
		if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		do(t, e, kv.Op{Key: "d"})
		e.Close()
		e = open(t, path)
		synctest.Wait() // leases that are over go on their own
		if len(e.State().KeyValues) != 4 {
			t.Errorf("after a restart there is %q", show(t, e))
		}
		e.Close()
	})
}

func TestForeignFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j")
	if err := os.WriteFile(path, []byte("something else entirely"), 0o600); err != nil {
		t.Fatal(err)
	}
	e := open(t, path)
	if at, now := revision(t, e)-lostRevisions, time.Now().UnixMilli(); at > now || at < now-time.Minute.Milliseconds() {
		t.Errorf("the revision is %d, now is %d", at, now)
	}
	if aside, err := os.ReadFile(path + ".broken"); err != nil || string(aside) != "something else entirely" {
		t.Errorf("put aside was %q, %v", aside, err)
	}
}

func TestEveryState(t *testing.T) {
	dir := t.TempDir()
	n := 0
	rapid.Check(t, func(r *rapid.T) {
		n++
		path := filepath.Join(dir, fmt.Sprint(n))
		e, err := Open(Config{Path: path})
		if err != nil {
			r.Fatal(err)
		}
		for range rapid.IntRange(0, 30).Draw(r, "transactions") {
			ops := rapid.SliceOfNDistinct(rapid.Custom(func(r *rapid.T) kv.Op {
				return kv.Op{Key: rapid.StringMatching(`[a-d/]{1,3}`).Draw(r, "key"), Value: rapid.SliceOfN(rapid.Byte(), 0, 5).Draw(r, "value"), Delete: rapid.Bool().Draw(r, "delete")}
			}), 1, 3, func(o kv.Op) string { return o.Key }).Draw(r, "ops")
			if _, err := e.Txn(t.Context(), nil, ops); err != nil {
				r.Fatal(err)
			}
		}
		want := fmt.Sprint(show(t, e), revision(t, e))
		if err := e.Close(); err != nil {
			r.Fatal(err)
		}
		again, err := Open(Config{Path: path})
		if err != nil {
			r.Fatal(err)
		}
		defer again.Close()
		if got := fmt.Sprint(show(t, again), revision(t, again)); got != want {
			r.Fatalf("after a restart:\n%s\nwant:\n%s", got, want)
		}
	})
}

func FuzzRead(f *testing.F) {
	var e encoder
	e.buf = append(e.buf, magic...)
	e.revision(markRecord, 7)
	e.lease(3, time.Unix(1, 0))
	e.put(kv.KeyValue{Key: "a", Value: []byte("b"), ModRevision: 8, CreateRevision: 8, Version: 1, Lease: 3})
	e.delete("a", 9)
	e.revision(endRecord, 9)
	f.Add(e.buf)
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := read(bytes.NewReader(b))
		if err != nil {
			return
		}
		if c.ended && c.torn {
			t.Error("ended and torn")
		}
		for key, item := range c.keys {
			if key != item.Key {
				t.Errorf("%q is under %q", item.Key, key)
			}
		}
	})
}

func BenchmarkTxn(b *testing.B) {
	e := open(b, filepath.Join(b.TempDir(), "j"))
	value := make([]byte, 500)
	id, err := e.Grant(b.Context(), time.Hour)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		key := fmt.Sprint("/registry/events/default/", i)
		if _, err := e.Txn(b.Context(), []kv.Guard{{Key: key}}, []kv.Op{{Key: key, Value: value, Lease: id}}); err != nil {
			b.Fatal(err)
		}
	}
}
