package holder_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/celox/celox/internal/runtime/holder"
	"github.com/celox/celox/internal/runtime/holdertest"
)

func TestMain(m *testing.M) {
	code := holdertest.Main(m)
	if code == 0 {
		if err := goleak.Find(); err != nil {
			os.Stderr.WriteString(err.Error() + "\n")
			code = 1
		}
	}
	os.Exit(code)
}

// fixture is one holder with its client and a cgroup.
type fixture struct {
	t      testing.TB
	layout holder.Layout
	cgroup string
	rootfs string
	client *holder.Client

	mu     sync.Mutex
	states map[string]holder.State
	moved  chan struct{} // replaced and closed at each change
	cancel context.CancelFunc
	done   chan struct{}
}

func newFixture(t testing.TB) *fixture {
	t.Helper()
	f := &fixture{t: t, rootfs: holdertest.Rootfs(t), cgroup: holdertest.Cgroup(t), layout: holder.Layout(holdertest.Dir(t))}
	f.open(holdertest.Binary(t), "v1")
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		f.close()
		if err := holder.Destroy(ctx, f.layout); err != nil {
			t.Error(err)
		}
	})
	return f
}

func (f *fixture) open(binary, version string) {
	f.t.Helper()
	client, err := holder.Open(context.Background(), holder.Options{
		Layout: f.layout, Binary: binary, Version: version, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		f.t.Fatal(err)
	}
	f.client = client
	f.states, f.moved, f.done = map[string]holder.State{}, make(chan struct{}), make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	f.cancel = cancel
	go func() {
		defer close(f.done)
		client.Watch(ctx, func(states []holder.State, snapshot bool) {
			f.mu.Lock()
			defer f.mu.Unlock()
			for _, st := range states {
				f.states[st.ID] = st
			}
			close(f.moved)
			f.moved = make(chan struct{})
		})
	}()
}

func (f *fixture) close() {
	f.cancel()
	<-f.done
	if err := f.client.Close(); err != nil {
		f.t.Error(err)
	}
}

// until waits for a state of the task that ok accepts.
func (f *fixture) until(id string, ok func(holder.State) bool) holder.State {
	f.t.Helper()
	deadline := time.After(time.Minute)
	for {
		f.mu.Lock()
		st, moved := f.states[id], f.moved
		f.mu.Unlock()
		if st.ID != "" && ok(st) {
			return st
		}
		select {
		case <-moved:
		case <-deadline:
			f.t.Fatalf("task %s is %+v", id, st)
		}
	}
}

func (f *fixture) exited(id string) holder.State {
	f.t.Helper()
	return f.until(id, func(st holder.State) bool { return st.Phase == holder.PhaseExited })
}

func (f *fixture) spec(id string, args ...string) *specs.Spec {
	deny := specs.LinuxDeviceCgroup{Allow: false, Access: "rwm"}
	return &specs.Spec{
		Version: specs.Version,
		Root:    &specs.Root{Path: f.rootfs},
		Process: &specs.Process{
			Args: args, Env: []string{"PATH=/bin"}, Cwd: "/",
			Capabilities: &specs.LinuxCapabilities{},
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		},
		Linux: &specs.Linux{
			CgroupsPath: f.cgroup + "/" + id,
			Resources:   &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{deny}},
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.IPCNamespace},
				{Type: specs.UTSNamespace}, {Type: specs.NetworkNamespace},
			},
		},
	}
}

func (f *fixture) logPath(id string) string { return filepath.Join(f.rootfs, id+".log") }

func (f *fixture) start(id string, change func(*holder.Task), args ...string) holder.State {
	f.t.Helper()
	task := holder.Task{ID: id, Spec: f.spec(id, args...), LogPath: f.logPath(id), DefaultSeccomp: true}
	if change != nil {
		change(&task)
	}
	st, err := f.client.Start(context.Background(), task)
	if err != nil {
		f.t.Fatalf("start %s: %v", id, err)
	}
	return st
}

// output returns the messages of a task's log, stream by stream.
func (f *fixture) output(id, stream string) string {
	f.t.Helper()
	data, err := os.ReadFile(f.logPath(id))
	if err != nil {
		f.t.Fatal(err)
	}
	var out strings.Builder
	for line := range strings.Lines(string(data)) {
		parts := strings.SplitN(line, " ", 4)
		if len(parts) != 4 {
			f.t.Fatalf("malformed log line %q", line)
		}
		if _, err := time.Parse(time.RFC3339Nano, parts[0]); err != nil {
			f.t.Fatal(err)
		}
		if parts[1] != stream {
			continue
		}
		if parts[2] == "P" {
			parts[3] = strings.TrimSuffix(parts[3], "\n")
		}
		out.WriteString(parts[3])
	}
	return out.String()
}

func TestExitCodesAndLogs(t *testing.T) {
	f := newFixture(t)
	long := strings.Repeat("x", 40_000)
	tests := []struct {
		id, script     string
		code           int
		stdout, stderr string
	}{
		{"ok", "echo hello; echo oops >&2", 0, "hello\n", "oops\n"},
		{"seven", "exit 7", 7, "", ""},
		{"noeol", "printf abc", 0, "abc", ""},
		{"long", "echo " + long, 0, long + "\n", ""},
		{"reopened", "echo again > /dev/stdout", 0, "again\n", ""},
	}
	for _, tt := range tests {
		f.start(tt.id, nil, "sh", "-c", tt.script)
	}
	for _, tt := range tests {
		st := f.exited(tt.id)
		if st.ExitCode != tt.code || st.Reason != "" {
			t.Errorf("%s: exit code %d (%s), want %d", tt.id, st.ExitCode, st.Reason, tt.code)
		}
		if got := f.output(tt.id, "stdout"); got != tt.stdout {
			t.Errorf("%s: stdout %.80q, want %.80q", tt.id, got, tt.stdout)
		}
		if got := f.output(tt.id, "stderr"); got != tt.stderr {
			t.Errorf("%s: stderr %q, want %q", tt.id, got, tt.stderr)
		}
		if err := f.client.Delete(context.Background(), tt.id); err != nil {
			t.Error(err)
		}
	}
}

func TestSignals(t *testing.T) {
	f := newFixture(t)
	f.start("term", nil, "sh", "-c", "trap 'exit 3' TERM; while :; do sleep 0.05; done")
	f.start("kill", nil, "sleep", "1000")
	if err := f.client.Kill(context.Background(), "term", unix.SIGTERM, false); err != nil {
		t.Fatal(err)
	}
	if err := f.client.Kill(context.Background(), "kill", unix.SIGKILL, true); err != nil {
		t.Fatal(err)
	}
	if st := f.exited("kill"); st.ExitCode != 137 {
		t.Errorf("exit code %d, want 137", st.ExitCode)
	}
	if st := f.exited("term"); st.ExitCode != 3 {
		t.Errorf("exit code %d, want 3", st.ExitCode)
	}
	err := f.client.Kill(context.Background(), "kill", unix.SIGKILL, false)
	if !holder.HasCode(err, holder.CodeNotRunning) {
		t.Errorf("signal to a dead task: %v", err)
	}
	err = f.client.Kill(context.Background(), "nobody", unix.SIGKILL, false)
	if !holder.HasCode(err, holder.CodeNotFound) {
		t.Errorf("signal to nobody: %v", err)
	}
}

// lateTrap can only take a TERM after a while: until then the kernel would drop it.
const lateTrap = "sleep 0.3; trap 'exit 3' TERM; while :; do sleep 0.05; done"

func TestSignalIsHeldUntilItCanBeTaken(t *testing.T) {
	f := newFixture(t)
	ctx := context.Background()
	term := func(id string) {
		t.Helper()
		if err := f.client.Kill(ctx, id, unix.SIGTERM, false); err != nil {
			t.Fatal(err)
		}
	}
	f.start("late", nil, "sh", "-c", lateTrap)
	term("late")
	term("late")
	f.start("never", nil, "sleep", "1000")
	term("never")
	f.start("any", func(task *holder.Task) { task.Spec.Linux.Namespaces = task.Spec.Linux.Namespaces[1:] }, "sleep", "1000")
	term("any") // no init of a process namespace: it ends by TERM as soon as it is a program, whatever libcontainer's init would do
	if st := f.exited("any"); st.ExitCode != 143 {
		t.Errorf("exit code %d, want 143", st.ExitCode)
	}
	if st := f.exited("late"); st.ExitCode != 3 {
		t.Errorf("exit code %d, want 3", st.ExitCode)
	}
	if err := f.client.Kill(ctx, "never", unix.SIGKILL, true); err != nil {
		t.Fatal(err)
	}
	if st := f.exited("never"); st.ExitCode != 137 || st.Held != 0 {
		t.Errorf("exit code %d, held %x", st.ExitCode, st.Held)
	}

	f.start("upgrade", nil, "sh", "-c", lateTrap)
	term("upgrade")
	f.close()
	f.open(holdertest.Second(t), "v2")
	if st := f.exited("upgrade"); st.ExitCode != 3 {
		t.Errorf("exit code %d after an upgrade, want 3", st.ExitCode)
	}
	f.start("killed", nil, "sh", "-c", lateTrap)
	term("killed")
	old := f.holderPid()
	if err := syscall.Kill(old, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	f.successor(old)
	if st := f.exited("killed"); st.ExitCode != 3 && st.Reason != holder.ReasonUnknown {
		t.Errorf("exit code %d, reason %q after the holder was killed", st.ExitCode, st.Reason)
	}
}

func TestStartFailureLeavesNothing(t *testing.T) {
	f := newFixture(t)
	_, err := f.client.Start(context.Background(), holder.Task{ID: "bad", Spec: f.spec("bad", "no-such-program"), DefaultSeccomp: true})
	if err == nil || err.Error() != `exec: "no-such-program": executable file not found in $PATH` {
		t.Fatalf("error %q", err)
	}
	f.start("bad", nil, "true") // the id is free again
	f.exited("bad")
	if left, _ := os.ReadDir(f.layout.Libcontainer()); len(left) > 0 {
		t.Errorf("left in libcontainer's directory: %v", left)
	}
	if _, err := os.Stat("/sys/fs/cgroup/memory" + f.cgroup + "/bad"); err == nil {
		t.Error("the cgroup of an ended task is left")
	}
}

func TestOOMKilled(t *testing.T) {
	f := newFixture(t)
	limit := int64(8 << 20)
	f.start("oom", func(task *holder.Task) {
		task.Spec.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &limit}
		task.Spec.Mounts = append(task.Spec.Mounts, specs.Mount{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs"})
	}, "sh", "-c", "dd if=/dev/zero of=/tmp/big bs=1M count=64")
	if st := f.exited("oom"); st.Reason != holder.ReasonOOMKilled || st.ExitCode != 137 {
		t.Errorf("exit code %d, reason %q", st.ExitCode, st.Reason)
	}
}

func readAll(t testing.TB, f *os.File) string {
	t.Helper()
	var out strings.Builder
	buf := make([]byte, 4096)
	for {
		n, err := f.Read(buf)
		out.Write(buf[:n])
		if err != nil {
			return out.String()
		}
	}
}

func pipe(t testing.TB) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	return r, w
}

func TestExec(t *testing.T) {
	f := newFixture(t)
	f.start("c", nil, "sleep", "1000")
	ctx := context.Background()

	t.Run("pipes", func(t *testing.T) {
		inR, inW := pipe(t)
		outR, outW := pipe(t)
		errR, errW := pipe(t)
		p, err := f.client.Exec(ctx, holder.ExecSpec{ID: "c", Args: []string{"sh", "-c", "cat; echo bad >&2; exit 5"}, Env: []string{"PATH=/bin"}, Cwd: "/"}, inR, outW, errW)
		if err != nil {
			t.Fatal(err)
		}
		inR.Close()
		outW.Close()
		errW.Close()
		inW.WriteString("through")
		inW.Close()
		if got := readAll(t, outR); got != "through" {
			t.Errorf("stdout %q", got)
		}
		if got := readAll(t, errR); got != "bad\n" {
			t.Errorf("stderr %q", got)
		}
		code, err := p.Wait(ctx)
		if err != nil || code != 5 {
			t.Errorf("exit code %d, %v", code, err)
		}
	})
	t.Run("terminal", func(t *testing.T) {
		p, err := f.client.Exec(ctx, holder.ExecSpec{ID: "c", Args: []string{"sh", "-c", "stty size; tty"}, Env: []string{"PATH=/bin"}, Cwd: "/", Terminal: true, Width: 100, Height: 40}, nil, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		out := readAll(t, p.Console)
		p.Console.Close()
		if code, err := p.Wait(ctx); err != nil || code != 0 {
			t.Errorf("exit code %d, %v", code, err)
		}
		if !strings.HasPrefix(out, "40 100\r\n/dev/") {
			t.Errorf("terminal says %q", out)
		}
	})
	t.Run("missing", func(t *testing.T) {
		_, err := f.client.Exec(ctx, holder.ExecSpec{ID: "c", Args: []string{"nope"}, Env: []string{"PATH=/bin"}, Cwd: "/"}, nil, nil, nil)
		if err == nil || !strings.Contains(err.Error(), `exec: "nope": executable file not found in $PATH`) {
			t.Errorf("error %v", err)
		}
	})
	t.Run("kill", func(t *testing.T) {
		p, err := f.client.Exec(ctx, holder.ExecSpec{ID: "c", Args: []string{"sleep", "1000"}, Env: []string{"PATH=/bin"}, Cwd: "/"}, nil, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Kill(unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if code, err := p.Wait(ctx); err != nil || code != 137 {
			t.Errorf("exit code %d, %v", code, err)
		}
	})
}

// An exec that comes while its container ends fails half-way. What it leaves must not keep the container from ending, nor stay.
func TestExecIntoAnEndingContainer(t *testing.T) {
	f := newFixture(t)
	ctx := context.Background()
	for i := range 8 {
		id := "c" + itoa(i)
		f.start(id, nil, "sleep", "1000")
		var execs sync.WaitGroup
		for range 4 {
			execs.Go(func() {
				if p, err := f.client.Exec(ctx, holder.ExecSpec{ID: id, Args: []string{"true"}, Env: []string{"PATH=/bin"}, Cwd: "/"}, nil, nil, nil); err == nil {
					_, _ = p.Wait(ctx) // its end or that of the container: both are right
				}
			})
		}
		time.Sleep(time.Duration(i) * 4 * time.Millisecond) // another moment each time
		if err := f.client.Kill(ctx, id, unix.SIGKILL, true); err != nil {
			t.Fatal(err)
		}
		execs.Wait()
		f.exited(id)
	}
	var left []string
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		left = nil
		files, _ := filepath.Glob("/proc/" + itoa(f.holderPid()) + "/task/*/children")
		for _, file := range files {
			data, _ := os.ReadFile(file)
			left = append(left, strings.Fields(string(data))...)
		}
		if len(left) == 0 {
			return
		}
	}
	t.Errorf("children of the holder are left: %v", left)
}

func TestAttach(t *testing.T) {
	f := newFixture(t)
	ctx := context.Background()
	for _, terminal := range []bool{false, true} {
		id := map[bool]string{false: "plain", true: "terminal"}[terminal]
		t.Run(id, func(t *testing.T) {
			f.start(id, func(task *holder.Task) {
				task.Stdin, task.StdinOnce = true, true
				task.Spec.Process.Terminal = terminal
			}, "sh", "-c", "read line; echo got $line")
			inR, inW := pipe(t)
			outR, outW := pipe(t)
			done := make(chan error, 1)
			go func() { done <- f.client.Attach(ctx, id, inR, outW, nil) }()
			inW.WriteString("it\n")
			if err := <-done; err != nil {
				t.Error(err)
			}
			outW.Close()
			inR.Close()
			if got := readAll(t, outR); !strings.Contains(got, "got it") {
				t.Errorf("attached output %q", got)
			}
			f.exited(id)
		})
	}
	t.Run("end of input", func(t *testing.T) {
		f.start("eof", func(task *holder.Task) { task.Stdin, task.StdinOnce = true, true }, "cat")
		inR, inW := pipe(t)
		done := make(chan error, 1)
		go func() { done <- f.client.Attach(ctx, "eof", inR, nil, nil) }()
		inW.WriteString("last words")
		inW.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
		inR.Close()
		f.exited("eof")
		if got := f.output("eof", "stdout"); got != "last words" {
			t.Errorf("log %q", got)
		}
	})
	t.Run("client leaves", func(t *testing.T) {
		f.start("stays", func(task *holder.Task) { task.Stdin = true }, "cat")
		leave, cancel := context.WithCancel(ctx)
		inR, _ := pipe(t)
		done := make(chan error, 1)
		go func() { done <- f.client.Attach(leave, "stays", inR, nil, nil) }()
		cancel()
		<-done
		if err := f.client.Kill(ctx, "stays", syscall.SIGKILL, true); err != nil {
			t.Error(err)
		}
		f.exited("stays")
	})
}

func TestLogRotation(t *testing.T) {
	f := newFixture(t)
	ctx := context.Background()
	f.start("rot", func(task *holder.Task) { task.Stdin = true }, "cat")
	say := func(text string, file string) {
		t.Helper()
		inR, inW := pipe(t)
		outR, outW := pipe(t)
		leave, cancel := context.WithCancel(ctx)
		done := make(chan error, 1)
		go func() { done <- f.client.Attach(leave, "rot", inR, outW, nil) }()
		inW.WriteString(text + "\n")
		buf := make([]byte, 100)
		n, err := outR.Read(buf) // it has passed the log by now
		if err != nil || string(buf[:n]) != text+"\n" {
			t.Errorf("echo %q, %v", buf[:n], err)
		}
		cancel()
		<-done
		data, _ := os.ReadFile(file)
		if !strings.Contains(string(data), text) {
			t.Errorf("%s lacks %q: %q", file, text, data)
		}
	}
	path := f.logPath("rot")
	say("first", path)
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	say("second", path+".1")
	if err := f.client.ReopenLog(ctx, "rot"); err != nil {
		t.Fatal(err)
	}
	say("third", path)
	if err := f.client.Kill(ctx, "rot", syscall.SIGKILL, true); err != nil {
		t.Fatal(err)
	}
	f.exited("rot")
}

// ticker writes numbered lines: a gap or a repetition in its log is a bug.
const ticker = "i=0; while [ $i -lt 400 ]; do i=$((i+1)); echo line $i; sleep 0.005; done; exit 4"

func (f *fixture) checkTicker(id string) {
	f.t.Helper()
	lines := strings.Fields(strings.ReplaceAll(f.output(id, "stdout"), "line ", ""))
	if len(lines) != 400 {
		f.t.Errorf("%d lines, want 400", len(lines))
	}
}

func (f *fixture) holderPid() int {
	f.t.Helper()
	pid, err := f.hello()
	if err != nil {
		f.t.Fatal(err)
	}
	return pid
}

func (f *fixture) hello() (int, error) {
	conn, err := holder.Dial(f.layout.Socket())
	if err != nil {
		return 0, err
	}
	c := holder.NewConn(conn)
	defer c.Close()
	var resp holder.Response
	if err := c.Send(holder.Request{Op: holder.OpHello}); err != nil {
		return 0, err
	}
	_, err = c.Receive(&resp)
	return resp.Pid, err
}

// successor waits for a holder other than old.
func (f *fixture) successor(old int) {
	f.t.Helper()
	for range 12000 {
		if pid, err := f.hello(); err == nil && pid != old {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	f.t.Fatal("no new holder comes")
}

func TestUpgradeInPlace(t *testing.T) {
	f := newFixture(t)
	ctx := context.Background()
	f.start("tick", nil, "sh", "-c", ticker)
	f.start("tty", func(task *holder.Task) {
		task.Stdin, task.Spec.Process.Terminal = true, true
	}, "sh", "-c", "read line; echo got $line")
	f.start("once", func(task *holder.Task) { task.Stdin, task.StdinOnce = true, true }, "cat")
	pid := f.holderPid()
	f.close()
	f.open(holdertest.Second(t), "v2")
	if got := f.holderPid(); got != pid {
		t.Errorf("the holder has pid %d after the upgrade, %d before", got, pid)
	}
	inR, inW := pipe(t)
	outR, outW := pipe(t)
	done := make(chan error, 1)
	go func() { done <- f.client.Attach(ctx, "tty", inR, outW, nil) }()
	inW.WriteString("it\n")
	if err := <-done; err != nil {
		t.Error(err)
	}
	outW.Close()
	if got := readAll(t, outR); !strings.Contains(got, "got it") {
		t.Errorf("attached output %q", got)
	}
	onceR, onceW := pipe(t)
	go func() { done <- f.client.Attach(ctx, "once", onceR, nil, nil) }()
	onceW.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if st := f.exited("once"); st.ExitCode != 0 {
		t.Errorf("exit code %d", st.ExitCode)
	}
	f.start("new", nil, "true")
	f.exited("new")
	if st := f.exited("tick"); st.ExitCode != 4 || st.Reason != "" {
		t.Errorf("exit code %d, reason %q", st.ExitCode, st.Reason)
	}
	f.checkTicker("tick")
}

func TestUpgradeThatFails(t *testing.T) {
	f := newFixture(t)
	f.start("tick", nil, "sh", "-c", ticker)
	conn, err := holder.Dial(f.layout.Socket())
	if err != nil {
		t.Fatal(err)
	}
	c := holder.NewConn(conn)
	defer c.Close()
	garbage := filepath.Join(t.TempDir(), "garbage")
	if err := os.WriteFile(garbage, []byte("\x7fELF no program"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := c.Send(holder.Request{Op: holder.OpUpgrade, Binary: garbage, Version: "v2"}); err != nil {
		t.Fatal(err)
	}
	var resp holder.Response
	if _, err := c.Receive(&resp); err != nil || resp.Error == nil {
		t.Fatalf("answer %+v, %v", resp, err)
	}
	if st := f.exited("tick"); st.ExitCode != 4 {
		t.Errorf("exit code %d", st.ExitCode)
	}
	f.checkTicker("tick")
}

func TestHolderKilled(t *testing.T) {
	f := newFixture(t)
	ctx := context.Background()
	f.start("tick", nil, "sh", "-c", ticker)
	f.start("sleeper", nil, "sleep", "1000")
	f.start("tty", func(task *holder.Task) {
		task.Stdin, task.Spec.Process.Terminal = true, true
	}, "sh", "-c", "read line; echo got $line; exit 2")
	before := f.until("sleeper", func(st holder.State) bool { return st.Phase == holder.PhaseRunning })
	old := f.holderPid()
	if err := syscall.Kill(old, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	f.successor(old) // started by the watcher; it has adopted all
	p := waitExec(t, f, "sleeper", "echo alive")
	if p != "alive\n" {
		t.Errorf("exec in an adopted container says %q", p)
	}
	if err := f.client.Kill(ctx, "sleeper", syscall.SIGKILL, true); err != nil {
		t.Fatal(err)
	}
	st := f.exited("sleeper")
	if st.Pid != before.Pid {
		t.Errorf("pid %d, was %d", st.Pid, before.Pid)
	}
	if st.ExitCode != 137 && st.Reason != holder.ReasonUnknown {
		t.Errorf("exit code %d, reason %q", st.ExitCode, st.Reason)
	}
	inR, inW := pipe(t)
	outR, outW := pipe(t)
	inW.WriteString("it\n")
	if err := f.client.Attach(ctx, "tty", inR, outW, nil); err != nil {
		t.Error(err)
	}
	outW.Close()
	if got := readAll(t, outR); !strings.Contains(got, "got it") {
		t.Errorf("attached to the terminal after the holder was killed: %q", got)
	}
	if st := f.exited("tty"); st.ExitCode != 2 && st.Reason != holder.ReasonUnknown {
		t.Errorf("exit code %d, reason %q", st.ExitCode, st.Reason)
	}
	if st := f.exited("tick"); st.ExitCode != 4 && st.Reason != holder.ReasonUnknown {
		t.Errorf("exit code %d, reason %q", st.ExitCode, st.Reason)
	}
	f.checkTicker("tick")
}

func waitExec(t testing.TB, f *fixture, id, script string) string {
	t.Helper()
	outR, outW := pipe(t)
	p, err := f.client.Exec(context.Background(), holder.ExecSpec{ID: id, Args: []string{"sh", "-c", script}, Env: []string{"PATH=/bin"}, Cwd: "/"}, nil, outW, nil)
	if err != nil {
		t.Fatal(err)
	}
	outW.Close()
	out := readAll(t, outR)
	if _, err := p.Wait(context.Background()); err != nil {
		t.Error(err)
	}
	return out
}

func TestSharedProcessNamespace(t *testing.T) {
	f := newFixture(t)
	ctx := context.Background()
	st, err := f.client.Start(ctx, holder.Task{ID: "pause", Pause: true, PauseCgroup: f.cgroup + "/pause"})
	if err != nil {
		t.Fatal(err)
	}
	ns := "/proc/" + itoa(st.Pid) + "/ns/pid"
	f.start("a", func(task *holder.Task) { task.Spec.Linux.Namespaces[0].Path = ns }, "sh", "-c", "sleep 1000 & sleep 1000")
	f.start("b", func(task *holder.Task) { task.Spec.Linux.Namespaces[0].Path = ns }, "sh", "-c", "ps -o pid,args; ls /proc/1/root 2>&1")
	f.exited("b")
	out := f.output("b", "stdout")
	if !strings.Contains(out, "1 celox-pause") || !strings.Contains(out, "sleep 1000") {
		t.Errorf("the other container sees %q", out)
	}
	if !strings.Contains(out, "Permission denied") {
		t.Errorf("a container can look into the init of the namespace: %q", out)
	}
	if err := f.client.Kill(ctx, "a", syscall.SIGKILL, true); err != nil {
		t.Fatal(err)
	}
	f.exited("a")
	if left := waitPids(f.cgroup + "/a"); left != "" {
		t.Errorf("processes are left: %s", left)
	}
	if err := f.client.Kill(ctx, "pause", syscall.SIGKILL, true); err != nil {
		t.Fatal(err)
	}
	f.exited("pause")
}

func waitPids(cgroup string) string {
	data, err := os.ReadFile("/sys/fs/cgroup/pids" + cgroup + "/cgroup.procs")
	if err != nil {
		return ""
	}
	return string(data)
}

func itoa(n int) string { return strconv.Itoa(n) }

func TestUpdate(t *testing.T) {
	f := newFixture(t)
	f.start("u", nil, "sleep", "1000")
	shares, limit := uint64(512), int64(64<<20)
	if err := f.client.Update(context.Background(), "u", &specs.LinuxResources{
		CPU: &specs.LinuxCPU{Shares: &shares}, Memory: &specs.LinuxMemory{Limit: &limit},
	}); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{"cpu": "512", "memory": "67108864"} {
		path := map[string]string{"cpu": "/sys/fs/cgroup/cpu" + f.cgroup + "/u/cpu.shares", "memory": "/sys/fs/cgroup/memory" + f.cgroup + "/u/memory.limit_in_bytes"}[file]
		data, err := os.ReadFile(path)
		if err != nil {
			path = map[string]string{"cpu": "/sys/fs/cgroup" + f.cgroup + "/u/cpu.weight", "memory": "/sys/fs/cgroup" + f.cgroup + "/u/memory.max"}[file]
			if data, err = os.ReadFile(path); err != nil {
				t.Fatal(err)
			}
			if file == "cpu" {
				continue // the unified hierarchy has its own scale
			}
		}
		if got := strings.TrimSpace(string(data)); got != want {
			t.Errorf("%s is %s, want %s", path, got, want)
		}
	}
	if err := f.client.Kill(context.Background(), "u", syscall.SIGKILL, true); err != nil {
		t.Fatal(err)
	}
	f.exited("u")
}

func BenchmarkStartStop(b *testing.B) {
	f := newFixture(b)
	b.ReportAllocs()
	for b.Loop() {
		f.start("b", nil, "sleep", "1000")
		if err := f.client.Kill(context.Background(), "b", syscall.SIGKILL, true); err != nil {
			b.Fatal(err)
		}
		f.exited("b")
		if err := f.client.Delete(context.Background(), "b"); err != nil {
			b.Fatal(err)
		}
		f.mu.Lock()
		delete(f.states, "b")
		f.mu.Unlock()
	}
}

func BenchmarkExec(b *testing.B) {
	f := newFixture(b)
	f.start("e", nil, "sleep", "1000")
	b.ReportAllocs()
	for b.Loop() {
		p, err := f.client.Exec(context.Background(), holder.ExecSpec{ID: "e", Args: []string{"true"}, Env: []string{"PATH=/bin"}, Cwd: "/"}, nil, nil, nil)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := p.Wait(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
}
