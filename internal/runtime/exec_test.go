package runtime

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	criclient "k8s.io/cri-client/pkg"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"
)

func TestExecSync(t *testing.T) {
	f := newFixture(t)
	ctx := context.Background()
	sandbox, _ := f.sandbox("exec", nil)
	id := f.run(sandbox, "c", func(c *cri.ContainerConfig) {
		c.Envs = []*cri.KeyValue{{Key: "MINE", Value: []byte("yes")}}
		c.WorkingDir = "/var"
	}, "sleep", "1000")
	out, errOut, err := f.s.Runtime().ExecSync(ctx, id, []string{"sh", "-c", "echo $FROM $MINE; pwd; echo e >&2"}, time.Minute)
	if err != nil || string(out) != "image yes\n/var\n" || string(errOut) != "e\n" {
		t.Errorf("%q, %q, %v", out, errOut, err)
	}
	_, _, err = f.s.Runtime().ExecSync(ctx, id, []string{"sh", "-c", "exit 9"}, 0)
	var exit utilexec.ExitError
	if !errors.As(err, &exit) || exit.ExitStatus() != 9 {
		t.Errorf("exit code: %v", err)
	}
	_, _, err = f.s.Runtime().ExecSync(ctx, id, []string{"sleep", "100"}, 50*time.Millisecond)
	if !errors.Is(err, criclient.ErrCommandTimedOut) {
		t.Errorf("timeout: %v", err)
	}
	_, _, err = f.s.Runtime().ExecSync(ctx, id, []string{"nope"}, 0)
	if err == nil || !strings.Contains(err.Error(), `exec: "nope": executable file not found in $PATH`) {
		t.Errorf("missing command: %v", err)
	}
	out, _, err = f.s.Runtime().ExecSync(ctx, id, []string{"sh", "-c", "yes | head -c 20000000"}, time.Minute)
	if err != nil || len(out) != maxExecSyncBytes {
		t.Errorf("%d bytes, %v", len(out), err)
	}
	if out, _, err := f.s.Runtime().ExecSync(ctx, id, []string{"sh", "-c", "sleep 1000 & echo back"}, time.Minute); err != nil || string(out) != "back\n" {
		t.Errorf("with a background child: %q, %v", out, err)
	}
}

type closeBuffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *closeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}
func (b *closeBuffer) Close() error { return nil }

func TestStreamingExecAndAttach(t *testing.T) {
	f := newFixture(t)
	ctx := context.Background()
	sandbox, _ := f.sandbox("stream", nil)
	id := f.run(sandbox, "c", func(c *cri.ContainerConfig) { c.Stdin, c.StdinOnce = true, true }, "sh", "-c", "cat; echo done >&2")
	var out, errOut closeBuffer
	err := f.s.Streaming().Exec(ctx, id, []string{"sh", "-c", "cat; exit 4"}, strings.NewReader("in\n"), &out, &errOut, false, nil)
	var exit utilexec.ExitError
	if !errors.As(err, &exit) || exit.ExitStatus() != 4 || out.String() != "in\n" {
		t.Errorf("exec: %q, %v", out.String(), err)
	}
	out.Reset()
	sizes := make(chan remotecommand.TerminalSize, 1)
	sizes <- remotecommand.TerminalSize{Width: 90, Height: 30}
	inR, inW := io.Pipe()
	go func() { _, _ = inW.Write([]byte("x\n")) }()
	err = f.s.Streaming().Exec(ctx, id, []string{"sh", "-c", "while [ \"$(stty size)\" != '30 90' ]; do sleep 0.02; done; read v; echo got-$v"}, inR, &out, nil, true, sizes)
	if err != nil || !strings.Contains(out.String(), "got-x\r\n") {
		t.Errorf("terminal: %q, %v", out.String(), err)
	}
	_ = inW.Close()
	out.Reset()
	if err := f.s.Streaming().Attach(ctx, id, strings.NewReader("attached\n"), &out, &errOut, false, nil); err != nil {
		t.Errorf("attach: %v", err)
	}
	f.exited(id)
	if out.String() != "attached\n" || errOut.String() != "done\n" {
		t.Errorf("attach: %q %q", out.String(), errOut.String())
	}
	if got := f.output(id); !strings.Contains(got, "attached\n") {
		t.Errorf("log %q", got)
	}
}

// TestExecWithDevices: what devices put into the environment of a container, a command that is run in it later has too.
func TestExecWithDevices(t *testing.T) {
	f := newFixture(t)
	sandbox, _ := f.sandbox("devices", nil)
	id := f.run(sandbox, "c", nil, "sleep", "3600")
	k, err := f.s.runningContainer(id)
	if err != nil {
		t.Fatal(err)
	}
	k.mu.Lock()
	k.rec.DeviceEnv = []string{"PATH=/bin", "TOY=yes"}
	k.mu.Unlock()
	spec, err := f.s.execSpec(k, []string{"env"}, true)
	if err != nil || !slices.Equal(spec.Env, []string{"PATH=/bin", "TOY=yes", "TERM=xterm"}) {
		t.Errorf("%v, %v", spec.Env, err)
	}
}

// TestAttachInTurn: where the input of a container outlives its clients, each is let go when it has said what it had to say, and the container goes on.
func TestAttachInTurn(t *testing.T) {
	f := newFixture(t)
	sandbox, _ := f.sandbox("turns", nil)
	id := f.run(sandbox, "c", func(c *cri.ContainerConfig) { c.Stdin = true }, "sh", "-c", "read a; read b; echo $a-$b")
	for _, said := range []string{"one\n", "two\n"} {
		var out, errOut closeBuffer
		if err := f.s.Streaming().Attach(t.Context(), id, strings.NewReader(said), &out, &errOut, false, nil); err != nil {
			t.Errorf("attach: %v", err)
		}
	}
	f.exited(id)
	if got := f.output(id); !strings.Contains(got, "one-two\n") {
		t.Errorf("log %q", got)
	}
}

func TestPortForward(t *testing.T) {
	f := newFixture(t)
	sandbox, _ := f.sandbox("ports", nil)
	f.run(sandbox, "c", nil, "nc", "-ll", "-p", "9000", "-e", "cat")
	var conn net.Conn
	for range 6000 {
		ours, theirs := net.Pipe()
		done := make(chan error, 1)
		go func() { done <- f.s.Streaming().PortForward(context.Background(), sandbox, 9000, theirs) }()
		go func() { _, _ = ours.Write([]byte("ping")) }()
		buf := make([]byte, 4)
		if _, err := io.ReadFull(ours, buf); err == nil {
			if string(buf) != "ping" {
				t.Errorf("echo %q", buf)
			}
			conn = ours
			_ = ours.Close()
			<-done
			break
		}
		_ = ours.Close()
		<-done
		time.Sleep(10 * time.Millisecond)
	}
	if conn == nil {
		t.Fatal("nothing answers")
	}
	err := f.s.Streaming().PortForward(context.Background(), sandbox, 9999, nopStream{})
	if err == nil || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("closed port: %v", err)
	}
}

type nopStream struct{}

func (nopStream) Read([]byte) (int, error)    { return 0, io.EOF }
func (nopStream) Write(p []byte) (int, error) { return len(p), nil }
func (nopStream) Close() error                { return nil }
