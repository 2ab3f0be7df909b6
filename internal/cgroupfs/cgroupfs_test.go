package cgroupfs

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// unified is where version 2 is mounted: on machines of version 1, as "unified", it has these files too.
func unified(t *testing.T) string {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 2 && f[2] == "cgroup2" {
			return f[1]
		}
	}
	t.Fatal("no cgroup v2 is mounted, not even without controllers")
	return ""
}

func TestKillAndAwait(t *testing.T) {
	dir := filepath.Join(unified(t), "celox-test-cgroupfs-"+strconv.Itoa(os.Getpid()))
	below := filepath.Join(dir, "below")
	if err := os.MkdirAll(below, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, d := range []string{below, dir} {
			if err := os.Remove(d); err != nil {
				t.Error(err)
			}
		}
	})
	if got := AwaitEmpty(dir, time.Minute); got != Empty {
		t.Errorf("a new group: %v", got)
	}
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	if err := os.WriteFile(filepath.Join(below, "cgroup.procs"), []byte(strconv.Itoa(cmd.Process.Pid)), 0); err != nil {
		t.Fatal(err)
	}
	if got := AwaitEmpty(dir, time.Millisecond); got != Populated {
		t.Errorf("a group with a process: %v", got)
	}
	if err := Kill(dir); err != nil {
		t.Fatal(err)
	}
	if got := AwaitEmpty(dir, time.Minute); got != Empty {
		t.Errorf("after the kill: %v", got)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("the process lived on")
	}
	if got := AwaitEmpty(filepath.Join(dir, "none"), time.Minute); got != Unknown {
		t.Errorf("a group that isn't: %v", got)
	}
	if err := Kill(filepath.Join(dir, "none")); err == nil {
		t.Error("killed what isn't")
	}
}
