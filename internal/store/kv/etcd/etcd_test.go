package etcd_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/celox/celox/internal/store/kv"
	"github.com/celox/celox/internal/store/kv/etcd"
	"github.com/celox/celox/internal/store/kv/kvtest"
	"github.com/celox/celox/internal/store/kv/memory"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// etcd's logger of merged messages and its client balancer's registry run for the life of the process.
		goleak.IgnoreTopFunction("go.etcd.io/etcd/pkg/v3/logutil.(*MergeLogger).outputLoop"))
}

func open(t testing.TB, cfg etcd.Config) *etcd.Engine {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	cfg.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	e, err := etcd.Start(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

func TestSuite(t *testing.T) {
	kvtest.Run(t, func(t *testing.T) kv.Engine { return open(t, etcd.Config{}) })
}

// connect reaches an embedded etcd as if it were a remote one.
func connect(t testing.TB) *etcd.Client {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	open(t, etcd.Config{Listen: socket})
	c, err := etcd.Connect(context.Background(), []string{"unix://" + socket}, nil, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestExternalSuite(t *testing.T) {
	kvtest.Run(t, func(t *testing.T) kv.Engine { return connect(t) })
}

func TestAgreesWithMemory(t *testing.T) {
	m := memory.New()
	t.Cleanup(func() { m.Close() })
	kvtest.Compare(t, m, open(t, etcd.Config{}))
}

func TestStartsAgain(t *testing.T) {
	dir := t.TempDir()
	var revision int64
	for i := range 3 {
		e := open(t, etcd.Config{Dir: dir})
		resp, err := e.Range(t.Context(), kv.RangeRequest{Key: "k", End: "l"})
		if err != nil || resp.Count != int64(i) || resp.Revision < revision {
			t.Fatalf("start %d: %+v %v", i, resp, err)
		}
		put, err := e.Txn(t.Context(), nil, []kv.Op{{Key: fmt.Sprint("k", i), Value: []byte("v")}})
		if err != nil {
			t.Fatal(err)
		}
		revision = put.Revision
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestStartsAgainAndAgain is for the election of a member that still applies its log, which made Raft panic now and then.
func TestStartsAgainAndAgain(t *testing.T) {
	dir := t.TempDir()
	for i := range 25 {
		e := open(t, etcd.Config{Dir: dir})
		for j := range 20 {
			if _, err := e.Txn(t.Context(), nil, []kv.Op{{Key: fmt.Sprint("k", j), Value: []byte(fmt.Sprint(i))}}); err != nil {
				t.Fatal(err)
			}
		}
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestBrokenOffFirstStart begins on what a member leaves that was killed before it had stored its own membership, with more and more of it
// missing, and on one that was killed right after.
// TestPages has a database keep the pages it was made with: large ones if it was made here, the kernel's if upstream's etcd made it.
func TestPages(t *testing.T) {
	dir := t.TempDir()
	db := filepath.Join(dir, "member", "snap", "db")
	pageSize := func() int {
		b, err := bolt.Open(db, 0o600, &bolt.Options{ReadOnly: true, Timeout: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		return b.Info().PageSize
	}
	put := func(key, value string) {
		e := open(t, etcd.Config{Dir: dir})
		if _, err := e.Txn(t.Context(), nil, []kv.Op{{Key: key, Value: []byte(value)}}); err != nil {
			t.Fatal(err)
		}
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
	}
	put("a", "made here")
	if got := pageSize(); got != 16<<10 {
		t.Errorf("a new database has pages of %d bytes", got)
	}

	small := filepath.Join(t.TempDir(), "db")
	from, err := bolt.Open(db, 0o600, &bolt.Options{ReadOnly: true, Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	to, err := bolt.Open(small, 0o600, &bolt.Options{PageSize: 4 << 10})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(bolt.Compact(to, from, 0), to.Close(), from.Close(), os.Rename(small, db)); err != nil {
		t.Fatal(err)
	}
	put("b", "made elsewhere")
	if got := pageSize(); got != 4<<10 {
		t.Errorf("a database of pages of 4096 bytes has pages of %d now", got)
	}
	e := open(t, etcd.Config{Dir: dir})
	for key, want := range map[string]string{"a": "made here", "b": "made elsewhere"} {
		resp, err := e.Range(t.Context(), kv.RangeRequest{Key: key})
		if err != nil || len(resp.KVs) != 1 || string(resp.KVs[0].Value) != want {
			t.Errorf("%s is %v, %v", key, resp, err)
		}
	}
}

func TestBrokenOffFirstStart(t *testing.T) {
	dir := t.TempDir()
	member := filepath.Join(dir, "member")
	walDir := filepath.Join(member, "wal")
	if err := os.MkdirAll(filepath.Join(member, "snap"), 0o700); err != nil {
		t.Fatal(err)
	}
	remains := []struct {
		name string
		make func() error
	}{
		{"no log", func() error { return nil }},
		{"empty database", func() error { return os.WriteFile(filepath.Join(member, "snap", "db"), nil, 0o600) }},
		{"torn database", func() error {
			return os.WriteFile(filepath.Join(member, "snap", "db"), make([]byte, 5000), 0o600)
		}},
		{"log without entries", func() error {
			w, err := wal.Create(zap.NewNop(), walDir, nil)
			if err != nil {
				return err
			}
			return w.Close()
		}},
	}
	for _, r := range remains {
		t.Run(r.name, func(t *testing.T) {
			if err := errors.Join(os.RemoveAll(member), os.MkdirAll(filepath.Join(member, "snap"), 0o700), r.make()); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			e, err := etcd.Start(ctx, etcd.Config{Dir: dir})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := e.Txn(ctx, nil, []kv.Op{{Key: "k"}}); err != nil {
				t.Error(err)
			}
			if err := e.Close(); err != nil {
				t.Error(err)
			}
			// What was stored is never taken for the remains of a start, also when only the log has it.
			if err := os.Remove(filepath.Join(member, "snap", "db")); err != nil {
				t.Fatal(err)
			}
			e, err = etcd.Start(ctx, etcd.Config{Dir: dir})
			if err != nil {
				t.Fatal(err)
			}
			if resp, err := e.Range(ctx, kv.RangeRequest{Key: "k"}); err != nil || resp.Count != 1 {
				t.Errorf("%+v, %v", resp, err)
			}
			if err := e.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestInUse(t *testing.T) {
	dir := t.TempDir()
	e := open(t, etcd.Config{Dir: dir})
	if _, err := etcd.Start(t.Context(), etcd.Config{Dir: dir}); !errors.Is(err, etcd.ErrInUse) || !strings.Contains(err.Error(), dir) {
		t.Fatalf("second start: %v", err)
	}
	e.Close()
	open(t, etcd.Config{Dir: dir})
}

func TestBrokenDirectory(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := etcd.Start(t.Context(), etcd.Config{Dir: file}); err == nil {
		t.Error("a file is no directory")
	}

	dir := t.TempDir()
	open(t, etcd.Config{Dir: dir}).Close()
	db := filepath.Join(dir, "member", "snap", "db")
	if err := os.WriteFile(db, []byte(strings.Repeat("garbage", 5000)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := etcd.Start(t.Context(), etcd.Config{Dir: dir}); err == nil {
		t.Error("started on a broken database")
	} else {
		t.Log(err)
	}
}

// TestOneOfMany opens the directory of a member that others have to agree with: it says so instead of waiting for them.
func TestOneOfMany(t *testing.T) {
	dir := t.TempDir()
	e := open(t, etcd.Config{Dir: dir, Listen: filepath.Join(dir, "etcd.sock")})
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{e.Endpoint()}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = client.MemberAdd(t.Context(), []string{"http://127.0.0.1:1"})
	if err := errors.Join(err, client.Close(), e.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := etcd.Start(t.Context(), etcd.Config{Dir: dir}); err == nil || !strings.Contains(err.Error(), "one of 2 members") || !strings.Contains(err.Error(), "restore") {
		t.Errorf("started as one of two: %v", err)
	}
}

// TestQuota fills the database, sees writes refused and reads and deletes go on, and makes room again.
func TestQuota(t *testing.T) {
	e := open(t, etcd.Config{QuotaBytes: 8 << 20})
	var err error
	var resp kv.TxnResponse
	// The size is that of the file, to which etcd writes once a second.
	for end := time.Now().Add(time.Minute); err == nil && time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		_, err = e.Txn(t.Context(), nil, []kv.Op{{Key: "k", Value: make([]byte, 1<<20)}})
	}
	if !errors.Is(err, kv.ErrNoSpace) {
		t.Fatalf("after a minute of 20 MiB a second: %v", err)
	}
	if r, err := e.Range(t.Context(), kv.RangeRequest{Key: "k"}); err != nil || r.Count != 1 {
		t.Fatalf("read: %v", err)
	}
	if resp, err = e.Txn(t.Context(), nil, []kv.Op{{Delete: true, Key: "k"}}); err != nil {
		t.Fatalf("delete: %v", err)
	}
	if err := e.Compact(t.Context(), resp.Revision); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(time.Minute)
	for rev := resp.Revision; ; {
		// etcd compacts in the background; a later compaction finds the room that an earlier one made.
		resp, err := e.Txn(t.Context(), nil, []kv.Op{{Key: "small"}})
		if err == nil {
			break
		}
		if !errors.Is(err, kv.ErrNoSpace) || time.Now().After(deadline) {
			t.Fatalf("write after making room: %v", err)
		}
		if resp, err = e.Txn(t.Context(), nil, []kv.Op{{Delete: true, Key: "small"}}); err != nil {
			t.Fatal(err)
		}
		if resp.Revision > rev {
			rev = resp.Revision
		}
		time.Sleep(50 * time.Millisecond)
		if err := e.Reclaim(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// TestSocket reads the embedded etcd as etcdctl would, over a socket whose path is too long for the kernel.
func TestSocket(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("long", 30))
	e := open(t, etcd.Config{Dir: dir, Listen: filepath.Join(dir, "etcd.sock")})
	if _, err := e.Txn(t.Context(), nil, []kv.Op{{Key: "/registry/pods/default/x", Value: []byte("v")}}); err != nil {
		t.Fatal(err)
	}
	short := filepath.Join(t.TempDir(), "short")
	if err := os.Symlink(dir, short); err != nil {
		t.Fatal(err)
	}
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{"unix://" + short + "/etcd.sock"}})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	resp, err := client.Get(t.Context(), "/registry", clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil || len(resp.Kvs) != 1 || string(resp.Kvs[0].Key) != "/registry/pods/default/x" {
		t.Fatalf("%v %v", resp, err)
	}
	if info, err := os.Stat(filepath.Join(dir, "etcd.sock")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode of the socket: %v %v", info.Mode(), err)
	}
}

func TestTLS(t *testing.T) {
	web := httptest.NewTLSServer(nil) // for its certificate
	defer web.Close()
	e := open(t, etcd.Config{Listen: "127.0.0.1:0", TLS: &tls.Config{Certificates: web.TLS.Certificates}})
	roots := x509.NewCertPool()
	roots.AddCert(web.Certificate())
	c, err := etcd.Connect(t.Context(), []string{e.Endpoint()}, &tls.Config{RootCAs: roots}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Txn(t.Context(), nil, []kv.Op{{Key: "k"}}); err != nil {
		t.Error(err)
	}
	if size, err := c.Size(t.Context()); err != nil || size <= 0 {
		t.Errorf("size %d: %v", size, err)
	}
	// It tries for as long as it may, and says what it knows then: on a busy machine that takes longer.
	for patience := time.Second; ; patience *= 4 {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		_, err := etcd.Connect(ctx, []string{e.Endpoint()}, &tls.Config{}, nil)
		cancel()
		if err != nil && strings.Contains(err.Error(), "certificate signed by unknown authority") {
			break
		}
		if err == nil || patience > time.Minute {
			t.Fatalf("an unknown authority: %v", err)
		}
	}
}

func TestConnectFails(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := etcd.Connect(ctx, []string{"http://127.0.0.1:1"}, nil, nil)
	if err == nil || !strings.Contains(err.Error(), "127.0.0.1:1") {
		t.Error(err)
	}
	if _, err := etcd.Connect(ctx, nil, nil, nil); err == nil {
		t.Error("no endpoints")
	}
	if _, err := etcd.Start(t.Context(), etcd.Config{Dir: t.TempDir(), Listen: "127.0.0.1:0"}); err == nil {
		t.Error("listening on TCP without TLS")
	}
}

func BenchmarkStart(b *testing.B) {
	for b.Loop() {
		e, err := etcd.Start(b.Context(), etcd.Config{Dir: b.TempDir()})
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		e.Close()
		b.StartTimer()
	}
}

// BenchmarkTxn has callers write one thing after another, all at once.
func BenchmarkTxn(b *testing.B) {
	for _, writers := range []int{1, 16, 128} {
		b.Run(fmt.Sprint(writers), func(b *testing.B) {
			e := open(b, etcd.Config{})
			value := make([]byte, 1024)
			var before, after syscall.Rusage
			if err := syscall.Getrusage(syscall.RUSAGE_SELF, &before); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			b.ResetTimer()
			var next atomic.Int64
			var wg sync.WaitGroup
			for range writers {
				wg.Go(func() {
					for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
						key := fmt.Sprint("/registry/configmaps/default/", i)
						if r, err := e.Txn(b.Context(), []kv.Guard{{Key: key}}, []kv.Op{{Key: key, Value: value}}); err != nil || !r.Succeeded {
							b.Errorf("%+v, %v", r, err)
							return
						}
					}
				})
			}
			wg.Wait()
			if err := syscall.Getrusage(syscall.RUSAGE_SELF, &after); err != nil {
				b.Fatal(err)
			}
			cpu := after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano()
			b.ReportMetric(float64(cpu)/1000/float64(b.N), "cpu-µs/op")
		})
	}
}
