package overlay

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func make3(t *testing.T) (lower []string, upper, work, target string) {
	t.Helper()
	root := filepath.Join(t.TempDir(), strings.Repeat("l", 100))
	for _, d := range []string{"1", "2", "u", "w", "at"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{"1/a", "2/a", "2/b"} {
		if err := os.WriteFile(filepath.Join(root, f), []byte(f), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return []string{filepath.Join(root, "1"), filepath.Join(root, "2")}, filepath.Join(root, "u"), filepath.Join(root, "w"), filepath.Join(root, "at")
}

func TestMount(t *testing.T) {
	for name, mount := range map[string]func(string, []string, string, string, uintptr) error{"public": Mount, "old": mountOld, "new": mountNew} {
		t.Run(name, func(t *testing.T) {
			lower, upper, work, at := make3(t)
			if err := mount(at, lower, upper, work, unix.MS_NODEV); err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := unix.Unmount(at, 0); err != nil {
					t.Error(err)
				}
			}()
			for f, want := range map[string]string{"a": "1/a", "b": "2/b"} {
				if b, err := os.ReadFile(filepath.Join(at, f)); err != nil || string(b) != want {
					t.Errorf("%s: %q %v", f, b, err)
				}
			}
			if err := os.WriteFile(filepath.Join(at, "c"), nil, 0o600); err != nil {
				t.Error(err)
			}
			var st unix.Statfs_t
			if err := unix.Statfs(at, &st); err != nil || st.Flags&unix.ST_NODEV == 0 {
				t.Errorf("flags %x %v", st.Flags, err)
			}
		})
	}
}

// TestMountOldManyLayers: more layers than fit into the options by name.
func TestMountOldManyLayers(t *testing.T) {
	lower, upper, work, at := make3(t)
	for len(lower) < 60 {
		dir := filepath.Join(filepath.Dir(lower[0]), fmt.Sprint("more,", len(lower), ":"))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		lower = append(lower, dir)
	}
	for _, layers := range [][]string{lower, lower[:4]} {
		if err := mountOld(at, layers, upper, work, 0); err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(filepath.Join(at, "b")); err != nil || string(b) != "2/b" {
			t.Errorf("%q %v", b, err)
		}
		mounts, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil || !strings.Contains(string(mounts), "upperdir="+upper) {
			t.Errorf("the mount table does not name the writable directory: %v", err)
		}
		if err := unix.Unmount(at, 0); err != nil {
			t.Fatal(err)
		}
	}
}

func TestReadOnly(t *testing.T) {
	lower, _, _, at := make3(t)
	for n := 1; n <= 2; n++ {
		if err := Mount(at, lower[:n], "", "", unix.MS_RDONLY|unix.MS_NOSUID); err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(filepath.Join(at, "a")); err != nil || string(b) != "1/a" {
			t.Errorf("%d: %q %v", n, b, err)
		}
		if err := os.WriteFile(filepath.Join(at, "a"), nil, 0o600); !errors.Is(err, unix.EROFS) {
			t.Errorf("%d: written: %v", n, err)
		}
		if err := unix.Unmount(at, 0); err != nil {
			t.Fatal(err)
		}
	}
}

func TestView(t *testing.T) {
	lower, _, _, _ := make3(t)
	for n, want := range map[int]string{1: "1/a", 2: "1/a"} {
		fd, err := View(lower[:n])
		if err != nil {
			t.Fatal(err)
		}
		f, err := unix.Openat(fd, "a", unix.O_RDONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 8)
		if n, err := unix.Read(f, b); err != nil || string(b[:n]) != want {
			t.Errorf("%q %v", b[:n], err)
		}
		unix.Close(f)
		unix.Close(fd)
	}
	if _, err := View(nil); err == nil {
		t.Error("a view of nothing")
	}
}

func TestErrors(t *testing.T) {
	lower, upper, work, at := make3(t)
	for _, err := range []error{
		Mount(at, nil, upper, work, 0), Mount(at, lower, upper, "", 0), Mount(at, append(lower, "/does/not/exist"), upper, work, 0),
		Mount("/does/not/exist", lower, upper, work, 0), mountOld(at, append(lower, "/does/not/exist"), upper, work, 0),
	} {
		if err == nil {
			t.Error("no error")
		}
	}
}
