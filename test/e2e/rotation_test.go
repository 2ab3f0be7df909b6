package e2e

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/celox/celox/test/e2e/machine"
)

// TestLogRotation lets a container write many times the size at which its log is rotated: who follows it and who reads it afterwards see every line.
func TestLogRotation(t *testing.T) {
	t.Parallel()
	const bursts, perBurst, maxBytes = 5, 4000, 64 << 10
	config := filepath.Join(t.TempDir(), "celox.yaml")
	if err := os.WriteFile(config, []byte("container-log-max-size: 64Ki\ncontainer-log-max-files: 100\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	m, c := startMachine(t, "--config", config)
	host := m.Dir(t)
	giveBusybox(t, m)
	// It waits for a file before each burst, and ends when there is nothing to wait for any more.
	script := fmt.Sprintf(`trap 'exit 0' TERM; n=0; b=0
while [ ! -e /host/end ]; do
  if [ -e /host/$b ]; then b=$((b+1)); to=$((n+%d)); while [ $n -lt $to ]; do echo line $n of some more than a few words; n=$((n+1)); done; else sleep 0.05; fi
done; echo end`, perBurst)
	p := shellPod("chatty", script, host)
	p.Spec.RestartPolicy = "Never"
	p = runPod(t, c, p)
	dir := filepath.Join(m.DataDir, "log", "pods", "default_chatty_"+string(p.UID), "c")
	files := func() []string {
		names, err := filepath.Glob(filepath.Join(dir, "*"))
		if err != nil {
			t.Fatal(err)
		}
		for i := range names {
			names[i] = filepath.Base(names[i])
		}
		return slices.DeleteFunc(names, func(name string) bool { return strings.HasSuffix(name, ".tmp") }) // it is just being compressed
	}
	u := &user{t: t, m: m, ns: "default", command: []string{mustBinary(t), "kubectl"}}
	follow := u.start("logs", "-f", "chatty")
	out, err := follow.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := m.NS.Start(follow); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(2*patience, func() { _ = follow.Process.Kill() })
	defer timer.Stop()
	followed := make(chan error, 1)
	go func() { followed <- numbered(bufio.NewScanner(out), bursts*perBurst) }()

	for b := range bursts {
		touch(t, filepath.Join(host, fmt.Sprint(b)))
		machine.Wait(t, "the log to be rotated", func(context.Context) error {
			if got := files(); len(got) < b+2 {
				return fmt.Errorf("the files are %q", got)
			}
			return nil
		})
	}
	touch(t, filepath.Join(host, "end"))
	if how := waitEnd(t, c, p); how.ExitCode != 0 {
		t.Errorf("the container ended: %+v", how)
	}
	if err := <-followed; err != nil {
		t.Errorf("who follows the log: %v", err)
	}
	if err := follow.Wait(); err != nil {
		t.Error(err)
	}
	read := u.kubectl("logs", "chatty")
	if err := numbered(bufio.NewScanner(strings.NewReader(read)), bursts*perBurst); err != nil {
		t.Errorf("who reads the log: %v", err)
	}
	// Of a tail that begins in an older file, too.
	tail := u.kubectl("logs", "chatty", fmt.Sprintf("--tail=%d", 2*perBurst))
	if lines := strings.SplitAfter(read, "\n"); tail != strings.Join(lines[len(lines)-1-2*perBurst:], "") {
		t.Errorf("the tail has %d lines, want the last %d", strings.Count(tail, "\n"), 2*perBurst)
	}
	compressed := 0
	for _, name := range files() {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(name, ".gz") {
			compressed++
		} else if name != "0.log" && (info.Size() < maxBytes || !strings.HasPrefix(name, "0.log.20")) {
			t.Errorf("%s has %d bytes", name, info.Size())
		}
	}
	if compressed < bursts-1 {
		t.Errorf("the files are %q", files())
	}

	// Only so many files are kept. The flag wins over the file.
	if err := m.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	c = startOn(t, m, "--config", config, "--container-log-max-files", "3")
	q := shellPod("endless", "trap 'exit 0' TERM; while true; do echo $(seq 1 300); sleep 0.002; done", "")
	q = runPod(t, c, q)
	dir = filepath.Join(m.DataDir, "log", "pods", "default_endless_"+string(q.UID), "c")
	first := ""
	machine.Wait(t, "the oldest file to be removed", func(context.Context) error {
		got := files()
		if len(got) > 1 && first == "" {
			first, _, _ = strings.Cut(got[1], ".gz")
		}
		if len(got) != 3 || strings.HasPrefix(got[1], first) {
			return fmt.Errorf("the first that was rotated is %q, the files are %q", first, got)
		}
		return nil
	})
}

func mustBinary(t *testing.T) string {
	t.Helper()
	bin, err := machine.Binary()
	if err != nil {
		t.Fatal(err)
	}
	return bin
}

// numbered reads lines that count from 0 to n, and one that says that this is the end.
func numbered(lines *bufio.Scanner, n int) error {
	for i := 0; lines.Scan(); i++ {
		want := fmt.Sprintf("line %d of some more than a few words", i)
		if i == n {
			want = "end"
		}
		if lines.Text() != want {
			return fmt.Errorf("there is %q where %q should be", lines.Text(), want)
		}
		if i == n {
			if lines.Scan() {
				return fmt.Errorf("%q after the end", lines.Text())
			}
			return nil
		}
	}
	return fmt.Errorf("it stopped before the end: %v", lines.Err())
}
