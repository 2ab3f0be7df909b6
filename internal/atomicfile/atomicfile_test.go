package atomicfile

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func expect(t *testing.T, path, content string, mode fs.FileMode) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil || string(got) != content {
		t.Errorf("%s has %q, %v; want %q", path, got, err, content)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != mode {
		t.Errorf("%s: mode %v, %v; want %v", path, info.Mode(), err, mode)
	}
}

func TestWrite(t *testing.T) {
	for _, sync := range []Sync{Unsynced, Synced, Durable} {
		t.Run(fmt.Sprint(sync), func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "file")
			for _, tc := range []struct {
				content string
				mode    fs.FileMode
			}{{"first", 0o600}, {"the second, longer", 0o644}, {"", 0o640}, {"last", 0o755}} {
				if err := Write(path, []byte(tc.content), tc.mode, sync); err != nil {
					t.Fatal(err)
				}
				expect(t, path, tc.content, tc.mode)
			}
			if got := names(t, dir); !slices.Equal(got, []string{"file"}) {
				t.Errorf("the directory has %v", got)
			}
		})
	}
}

// The mode is what was asked for, whatever the process takes from new files. The umask is the process's: no other test runs at the same time.
func TestModeIgnoresUmask(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	if err := Write(path, []byte("x"), 0o664, Unsynced); err != nil {
		t.Fatal(err)
	}
	expect(t, path, "x", 0o664)
}

// At each point at which a writer can be killed, readers have the old content whole, and the next writer is not disturbed by what is left.
func TestKilled(t *testing.T) {
	for _, tc := range []struct {
		name    string
		killed  func(path string) error
		content string // that readers find
	}{
		{"after the file was begun", func(path string) error { return leave(path, "", 0o600) }, "old"},
		{"while it was written", func(path string) error { return leave(path, "ne", 0o600) }, "old"},
		{"before it had its name", func(path string) error { return leave(path, "new, and much longer than what comes next", 0o644) }, "old"},
		{"with its name", func(path string) error { return Write(path, []byte("new"), 0o600, Unsynced) }, "new"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "file")
			if err := Write(path, []byte("old"), 0o600, Synced); err != nil {
				t.Fatal(err)
			}
			if err := tc.killed(path); err != nil {
				t.Fatal(err)
			}
			expect(t, path, tc.content, 0o600)
			for _, n := range names(t, dir) {
				if Leftover(n) == (n == "file") {
					t.Errorf("Leftover(%q) is %v", n, Leftover(n))
				}
			}
			if err := Write(path, []byte("next"), 0o600, Synced); err != nil {
				t.Fatal(err)
			}
			expect(t, path, "next", 0o600)
			if got := names(t, dir); !slices.Equal(got, []string{"file"}) {
				t.Errorf("the directory has %v", got)
			}
		})
	}
}

// leave makes what a killed writer leaves.
func leave(path, content string, mode fs.FileMode) error {
	return errors.Join(os.WriteFile(unfinished(path), []byte(content), mode), os.Chmod(unfinished(path), mode))
}

// A writer that gives up leaves nothing, and the old file as it was.
func TestGivenUp(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	if err := Write(path, []byte("old"), 0o600, Unsynced); err != nil {
		t.Fatal(err)
	}
	f, err := Create(path, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("new"); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	expect(t, path, "old", 0o600)
	if got := names(t, dir); !slices.Equal(got, []string{"file"}) {
		t.Errorf("the directory has %v", got)
	}
}

// A file may be written to after it has its name, as journals are.
func TestPlacedGoesOn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	f, err := Create(path, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []func() error{
		func() error { _, err := f.WriteString("a"); return err },
		func() error { return f.Place(Durable) },
		func() error { _, err := f.WriteString("b"); return err },
		func() error { return Write(filepath.Join(filepath.Dir(path), "other"), nil, 0o600, Unsynced) },
		f.Close,
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	expect(t, path, "ab", 0o600)
}

func TestRefused(t *testing.T) {
	for _, tc := range []struct {
		name string
		path func(dir string) (string, error)
		want error
	}{
		{"no directory", func(dir string) (string, error) { return filepath.Join(dir, "none", "file"), nil }, fs.ErrNotExist},
		{"a file for a directory", func(dir string) (string, error) {
			return filepath.Join(dir, "file", "file"), os.WriteFile(filepath.Join(dir, "file"), nil, 0o600)
		}, unix.ENOTDIR},
		{"a directory in its place", func(dir string) (string, error) {
			return filepath.Join(dir, "d"), os.MkdirAll(filepath.Join(dir, "d", "e"), 0o700)
		}, unix.EEXIST},
		{"a link for the unfinished file", func(dir string) (string, error) { // nobody leads us to another file
			path := filepath.Join(dir, "file")
			return path, os.Symlink(filepath.Join(dir, "other"), unfinished(path))
		}, unix.ELOOP},
		{"no name", func(dir string) (string, error) {
			return filepath.Join(dir, string(bytes.Repeat([]byte("n"), 300))), nil
		}, unix.ENAMETOOLONG},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			path, err := tc.path(dir)
			if err != nil {
				t.Fatal(err)
			}
			before := names(t, dir)
			if err := Write(path, []byte("x"), 0o600, Durable); !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
			if after := names(t, dir); !slices.Equal(before, after) {
				t.Errorf("the directory had %v, has %v", before, after)
			}
		})
	}
}

// In a directory that cannot be written to, the old file stays. Root may write anywhere but on a read-only file system.
func TestReadOnlyDirectory(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	if err := Write(path, []byte("old"), 0o600, Unsynced); err != nil {
		t.Fatal(err)
	}
	want := error(fs.ErrPermission)
	if os.Geteuid() == 0 {
		want = unix.EROFS
		if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
			t.Skipf("mount: %v", err)
		}
		defer unix.Unmount(dir, unix.MNT_DETACH) //nolint:errcheck // the directory is removed
		if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
			t.Fatal(err)
		}
	} else if err := os.Chmod(dir, 0o500); err != nil {
		t.Fatal(err)
	}
	if err := Write(path, []byte("new"), 0o600, Synced); !errors.Is(err, want) {
		t.Errorf("got %v, want %v", err, want)
	}
	expect(t, path, "old", 0o600)
	if err := os.Chmod(dir, 0o700); err != nil && !errors.Is(err, unix.EROFS) {
		t.Error(err)
	}
}

// Whoever reads while many write finds one content whole, and nothing is left beside the file.
func TestConcurrent(t *testing.T) {
	const writers, times = 8, 50
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	content := func(n int) []byte { return bytes.Repeat([]byte{byte('a' + n)}, 5000*(n+1)) }
	if err := Write(path, content(0), 0o600, Unsynced); err != nil {
		t.Fatal(err)
	}
	var writing, reading sync.WaitGroup
	stop := make(chan struct{})
	reading.Go(func() {
		for {
			got, err := os.ReadFile(path)
			if err != nil {
				t.Error(err)
				return
			}
			if len(got) == 0 || !bytes.Equal(got, content(int(got[0]-'a'))) {
				t.Errorf("a reader found %d bytes of a mixture", len(got))
				return
			}
			select {
			case <-stop:
				return
			default:
			}
		}
	})
	for n := range writers {
		writing.Go(func() {
			for i := range times {
				if i%10 == 9 { // some give up
					f, err := Create(path, 0o600)
					if err == nil {
						_, err = f.WriteString("never seen")
						err = errors.Join(err, f.Close())
					}
					if err != nil {
						t.Error(err)
					}
					continue
				}
				if err := Write(path, content(n), 0o600, Unsynced); err != nil {
					t.Error(err)
				}
			}
		})
	}
	writing.Wait()
	close(stop)
	reading.Wait()
	if got := names(t, dir); !slices.Equal(got, []string{"file"}) {
		t.Errorf("the directory has %v", got)
	}
}

// Files of one directory have nothing to do with each other: a writer of one doesn't wait for that of another.
func TestNeighbours(t *testing.T) {
	dir := t.TempDir()
	slow, err := Create(filepath.Join(dir, "slow"), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if err := Write(filepath.Join(dir, "fast"), []byte("x"), 0o600, Unsynced); err != nil {
		t.Error(err)
	}
	if err := errors.Join(slow.Place(Unsynced), slow.Close()); err != nil {
		t.Error(err)
	}
	if got := names(t, dir); !slices.Equal(got, []string{"fast", "slow"}) {
		t.Errorf("the directory has %v", got)
	}
}

func BenchmarkWrite(b *testing.B) {
	path := filepath.Join(b.TempDir(), "file")
	data := make([]byte, 1000)
	for b.Loop() {
		if err := Write(path, data, 0o600, Unsynced); err != nil {
			b.Fatal(err)
		}
	}
}
