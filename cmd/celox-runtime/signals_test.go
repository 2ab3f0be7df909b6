package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestTakes(t *testing.T) {
	const term = "0000000000004000"
	status := func(nspid, blocked, ignored, caught string) []byte {
		return []byte("Name:\tNSpid: 7\nNSpid:\t" + nspid + "\nSigPnd:\t" + term + "\nSigBlk:\t" + blocked + "\nSigIgn:\t" + ignored + "\nSigCgt:\t" + caught + "\n")
	}
	const none, other = "0000000000000000", "fffffffffffbbfff"
	for _, tt := range []struct {
		name string
		data []byte
		want bool
	}{
		{"an init that does not ask for it", status("12 1", none, none, other), false},
		{"an init that handles it", status("12 1", none, none, term), true},
		{"an init that blocks it", status("12 1", term, none, none), true},
		{"an init that ignores it", status("12 1", none, term, none), true},
		{"no init", status("12 2", none, none, none), true},
		{"in our namespace", status("12", none, none, none), true},
		{"malformed", status("12 1", none, none, "x"), true},
		{"nothing", nil, true},
	} {
		if got := takes(tt.data, unix.SIGTERM); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
	if !canTake(os.Getpid(), unix.SIGTERM) {
		t.Error("this process cannot take a signal")
	}
}

func FuzzTakes(f *testing.F) {
	data, err := os.ReadFile("/proc/self/status")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data, 15)
	f.Add([]byte("NSpid:\t1\nSigCgt:\n"), 64)
	f.Fuzz(func(_ *testing.T, data []byte, sig int) {
		if s := unix.Signal(sig); holdable(s) {
			takes(data, s)
		}
	})
}

// child starts a program of a name and kills it; nobody waits for it.
func child(t *testing.T, name string) int {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	data, err := os.ReadFile("/bin/sleep")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	p, err := openProc(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	if err := p.await(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Wait() })
	return cmd.Process.Pid
}

func TestStrays(t *testing.T) {
	helper, first, task := child(t, helperName), child(t, "runc:[0:PARENT]"), child(t, "program")
	all := &starts{}
	end := all.begin()
	r := &strays{starts: all, known: func(pid int) bool { return pid == task }}
	there := func(pid int) bool {
		_, err := os.Stat("/proc/" + strconv.Itoa(pid))
		return err == nil
	}
	now := time.Now()
	if !r.sweep(now) {
		t.Error("nothing more to do, though somebody might wait for a dead child")
	}
	if there(helper) || !there(first) || !there(task) {
		t.Errorf("after a sweep: helper %v, first %v, task %v", there(helper), there(first), there(task))
	}
	if !r.sweep(now.Add(strayAge-1)) || !there(first) {
		t.Error("a child was taken from the start that may want it")
	}
	all.begin() // comes too late to be its parent
	end()
	if r.sweep(now) {
		t.Error("more to do")
	}
	if there(first) || !there(task) {
		t.Errorf("when nobody waits: first %v, task %v", there(first), there(task))
	}
	late := child(t, "runc:[2:INIT]")
	if !r.sweep(now) || r.sweep(now.Add(strayAge)) || there(late) {
		t.Errorf("beside a start that hangs: %v", there(late))
	}
}
