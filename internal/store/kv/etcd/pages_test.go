package etcd

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/celox/celox/internal/store/kv"
)

func TestMappingsOf(t *testing.T) {
	maps := `00400000-02f00000 r-xp 00000000 fe:00 123                                /usr/local/bin/celox
7f0000000000-7f0280000000 r--s 00000000 fe:00 77                         /var/lib/celox/etcd/member/snap/db
7f0300000000-7f0300001000 rw-s 00000000 fe:00 77                         /var/lib/celox/etcd/member/snap/db
7f0400000000-7f0400001000 r--s 00000000 fe:00 78                         /var/lib/celox/etcd/member/snap/db.old
7f0500000000-7f0500001000 rw-p 00000000 00:00 0
broken
`
	got := mappingsOf(strings.NewReader(maps), "/var/lib/celox/etcd/member/snap/db")
	if len(got) != 1 || got[0] != [2]uintptr{0x7f0000000000, 0x7f0280000000} {
		t.Errorf("%x", got)
	}
}

// What was given back is still there, and is written to on.
func TestTrimMapped(t *testing.T) {
	dir := t.TempDir()
	e, err := Start(t.Context(), Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	value := strings.Repeat("v", 64<<10)
	write := func(from, to int) {
		t.Helper()
		for i := from; i < to; i++ {
			key := fmt.Sprintf("/registry/x/%03d", i)
			if _, err := e.Txn(t.Context(), nil, []kv.Op{{Key: key, Value: []byte(value)}}); err != nil {
				t.Fatal(err)
			}
		}
		e.server.Backend().ForceCommit()
	}
	read := func(n int) {
		t.Helper()
		resp, err := e.Range(context.Background(), kv.RangeRequest{Key: "/registry/x/", End: "/registry/x0"})
		if err != nil || len(resp.KVs) != n {
			t.Fatalf("%d keys, %v", len(resp.KVs), err)
		}
		for _, item := range resp.KVs {
			if string(item.Value) != value {
				t.Fatalf("%s has another value", item.Key)
			}
		}
	}
	write(0, 100)
	read(100)
	before := residentOf(t, filepath.Join(dir, "member", "snap", "db"))
	e.TrimMapped(1 << 60)
	if now := residentOf(t, filepath.Join(dir, "member", "snap", "db")); now < before/2 {
		t.Errorf("%d kB of %d are left, though there were few", now, before)
	}
	e.TrimMapped(0)
	if now := residentOf(t, filepath.Join(dir, "member", "snap", "db")); before < 4096 || now > before/2 {
		t.Errorf("%d kB of %d are left", now, before)
	}
	read(100)
	write(100, 120)
	read(120)
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	e.TrimMapped(0) // when it is closed there is nothing to do
}

// residentOf is how many kB of a file are mapped and looked at.
func residentOf(t *testing.T, file string) (kB int) {
	t.Helper()
	smaps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	ours := false
	for line := range strings.Lines(string(smaps)) {
		f := strings.Fields(line)
		switch {
		case len(f) >= 5 && strings.Contains(f[0], "-"):
			ours = len(f) == 6 && f[5] == file
		case ours && len(f) == 3 && f[0] == "Rss:":
			var n int
			if _, err := fmt.Sscan(f[1], &n); err != nil {
				t.Fatal(err)
			}
			kB += n
		}
	}
	return kB
}
