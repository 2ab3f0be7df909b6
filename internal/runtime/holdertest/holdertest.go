package holdertest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	busybox = "/bin/busybox"
	// patience is how long what was told to end may take on a busy machine.
	patience = time.Minute
)

// Binary builds celox-runtime once per test process and returns its path.
func Binary(t testing.TB) string {
	t.Helper()
	built.once.Do(func() {
		noteSources()
		built.dir, built.err = os.MkdirTemp("", "celox-runtime")
		if built.err != nil {
			return
		}
		cmd := exec.Command("go", "build", "-tags", "netgo,osusergo,seccomp", "-ldflags", "-s -w -extldflags -static",
			"-o", filepath.Join(built.dir, "celox-runtime"), "github.com/celox/celox/cmd/celox-runtime")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			built.err = fmt.Errorf("building celox-runtime (it needs the packages gcc, libc6-dev, libseccomp-dev and pkg-config): %w\n%s", err, out)
		}
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return filepath.Join(built.dir, "celox-runtime")
}

// noteSources looks at the sources of the program, so that a cached test result
// is not taken for true after they have changed.
func noteSources() {
	dir, err := os.Getwd()
	for ; err == nil && dir != "/"; dir = filepath.Dir(dir) {
		sources := filepath.Join(dir, "cmd", "celox-runtime")
		entries, rerr := os.ReadDir(sources)
		if rerr != nil {
			continue
		}
		for _, e := range entries {
			_, _ = os.Stat(filepath.Join(sources, e.Name()))
		}
		return
	}
}

// Second returns another copy of the program, as an upgrade would bring.
func Second(t testing.TB) string {
	t.Helper()
	data, err := os.ReadFile(Binary(t))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "celox-runtime")
	if err := os.WriteFile(path, data, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// Main runs the tests and removes the program behind them; it fails if they
// leave mounts, cgroups or processes.
func Main(m *testing.M) int {
	code := m.Run()
	if built.dir != "" {
		_ = os.RemoveAll(built.dir)
	}
	problems := leaks()
	for deadline := time.Now().Add(patience); len(problems) > 0 && time.Now().Before(deadline); problems = leaks() {
		time.Sleep(10 * time.Millisecond) // a holder says that it is done right before it ends
	}
	for _, problem := range problems {
		fmt.Fprintln(os.Stderr, "left behind:", problem)
		code = 1
	}
	return code
}

var built struct { // one build per test process
	once sync.Once
	dir  string
	err  error
}

// NeedRoot fails the test when it cannot make containers.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("containers need root: run these tests as root")
	}
	if _, err := os.Stat(busybox); err != nil {
		t.Fatalf("%s is missing: install the package busybox-static", busybox)
	}
}

// Rootfs makes a root file system in which every busybox command works.
func Rootfs(t testing.TB) string {
	t.Helper()
	NeedRoot(t)
	dir := t.TempDir()
	if err := FillRootfs(dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

// FillRootfs is Rootfs for a directory that exists.
func FillRootfs(dir string) error {
	for _, d := range []string{"bin", "dev", "etc", "proc", "sys", "tmp", "root", "home/app", "var"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	if err := os.Chmod(filepath.Join(dir, "tmp"), 0o1777); err != nil {
		return err
	}
	data, err := os.ReadFile(busybox)
	if err != nil {
		return fmt.Errorf("%w: install the package busybox-static", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "bin/busybox"), data, 0o755); err != nil {
		return err
	}
	for _, name := range strings.Fields(`sh cat echo sleep ls id env true false kill stat grep dd head tail yes hostname
mount pwd touch mkdir rm wc tr seq stty tty ps date nc test printf sync readlink unshare ip ifconfig`) {
		if err := os.Symlink("busybox", filepath.Join(dir, "bin", name)); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	files := map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000:app:/home/app:/bin/sh\n",
		"etc/group":  "root:x:0:\napp:x:1000:\nextra:x:2000:app\n",
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// dirPrefix tells the directories of this process from those of other tests,
// which run at the same time.
func dirPrefix() string { return fmt.Sprintf("cxr%d-", os.Getpid()) }

// Dir is a directory with a short name, for the runtime directory of a holder.
func Dir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", dirPrefix())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = unix.Unmount(dir, unix.MNT_DETACH)
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// CgroupPrefix begins the name of every cgroup that tests make.
const CgroupPrefix = "celox-test-"

// Cgroup names a cgroup of the test's own and removes it in the end.
func Cgroup(t testing.TB) string {
	t.Helper()
	name := fmt.Sprintf("/%s%d-%d", CgroupPrefix, os.Getpid(), time.Now().UnixNano())
	t.Cleanup(func() {
		for _, dir := range cgroupDirs(name[1:]) {
			if err := removeTree(dir); err != nil {
				t.Error(err)
			}
		}
	})
	return name
}

func cgroupDirs(name string) []string {
	dirs, _ := filepath.Glob("/sys/fs/cgroup/*/" + name)
	more, _ := filepath.Glob("/sys/fs/cgroup/" + name)
	return append(dirs, more...)
}

func removeTree(dir string) error {
	var all []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			all = append(all, path)
		}
		return nil
	})
	deadline := time.Now().Add(patience)
	for i := len(all) - 1; i >= 0; i-- {
		rerr := unix.Rmdir(all[i])
		for ; rerr == unix.EBUSY && time.Now().Before(deadline); rerr = unix.Rmdir(all[i]) {
			time.Sleep(5 * time.Millisecond) // the kernel lets go of dead processes a little later
		}
		if rerr != nil && rerr != unix.ENOENT {
			err = fmt.Errorf("removing cgroup %s: %w", all[i], rerr)
		}
	}
	return err
}

func leaks() []string {
	var out []string
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		out = append(out, err.Error())
	}
	for line := range strings.Lines(string(mounts)) {
		if fields := strings.Fields(line); len(fields) > 4 && strings.Contains(fields[4], "/"+dirPrefix()) {
			out = append(out, "mount "+fields[4])
		}
	}
	for _, dir := range cgroupDirs(fmt.Sprintf("%s%d-*", CgroupPrefix, os.Getpid())) {
		out = append(out, "cgroup "+dir)
	}
	if built.dir == "" {
		return out
	}
	pids, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		out = append(out, err.Error())
	}
	for _, p := range pids {
		if exe, err := os.Readlink(p + "/exe"); err == nil && strings.HasPrefix(exe, built.dir) {
			out = append(out, "process "+p+" ("+exe+")")
		}
	}
	return out
}
