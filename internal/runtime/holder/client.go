package holder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

const (
	spawnTimeout   = 15 * time.Second
	upgradeTimeout = 15 * time.Second
	// reconnectDelay is the pause after a lost event stream: long enough not to
	// spin when the holder dies at once each time.
	reconnectDelay = 50 * time.Millisecond
	maxLogBytes    = 1 << 20
)

// Options of a Client.
type Options struct {
	// Layout is the runtime directory; it must exist.
	Layout Layout
	// Binary is the path of the celox-runtime executable.
	Binary string
	// Version names the content of Binary. A living holder of another version
	// is asked to replace itself by Binary.
	Version string
	Log     *slog.Logger
}

// Client talks to the holder of one runtime directory and keeps one alive. Its
// methods may be called concurrently.
type Client struct {
	o Options

	spawning sync.Mutex // held while a holder is looked for or started

	mu      sync.Mutex
	closed  bool
	pidfd   *os.File // of the holder that this process started; guarded by mu
	reapers sync.WaitGroup
}

// Open connects to the living holder, upgrades it if it is another version, or
// starts one.
func Open(ctx context.Context, o Options) (*Client, error) {
	c := &Client{o: o}
	if err := c.ensure(ctx); err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

// Close lets go of the holder, which goes on living.
func (c *Client) Close() error {
	c.mu.Lock()
	c.closed = true
	if c.pidfd != nil {
		_ = c.pidfd.SetDeadline(time.Unix(1, 0))
	}
	c.mu.Unlock()
	c.reapers.Wait()
	return nil
}

// ensure returns when a holder of our version answers.
func (c *Client) ensure(ctx context.Context) error {
	c.spawning.Lock()
	defer c.spawning.Unlock()

	hello, err := c.hello(ctx)
	if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, os.ErrNotExist) {
		if err = c.spawn(ctx); err != nil {
			return err
		}
		hello, err = c.hello(ctx)
	}
	if err != nil {
		return fmt.Errorf("container holder: %w", err)
	}
	if hello.Protocol == Protocol && hello.Version == c.o.Version {
		return nil
	}
	return c.upgrade(ctx, hello)
}

func (c *Client) hello(ctx context.Context) (Response, error) {
	conn, err := Dial(c.o.Layout.Socket())
	if err != nil {
		return Response{}, err
	}
	return roundTrip(ctx, NewConn(conn), Request{Op: OpHello})
}

func (c *Client) upgrade(ctx context.Context, old Response) error {
	c.o.Log.Info("upgrading the container holder in place", "pid", old.Pid, "from", old.Version, "to", c.o.Version)
	conn, err := Dial(c.o.Layout.Socket())
	if err != nil {
		return fmt.Errorf("container holder: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, upgradeTimeout)
	defer cancel()
	_, err = roundTrip(ctx, NewConn(conn), Request{Op: OpUpgrade, Binary: c.o.Binary, Version: c.o.Version})
	var refused *Error
	if errors.As(err, &refused) {
		return fmt.Errorf("upgrading the container holder: %w", err)
	}
	// Its listening socket stays open across the exec: the connection simply
	// waits until the new program accepts.
	hello, err := c.hello(ctx)
	if err != nil {
		return fmt.Errorf("container holder after its upgrade: %w", err)
	}
	if hello.Version != c.o.Version || hello.Protocol != Protocol {
		return fmt.Errorf("container holder speaks version %q (protocol %d) after its upgrade to %q", hello.Version, hello.Protocol, c.o.Version)
	}
	return nil
}

// spawn starts a holder in a session of its own and waits until it listens.
func (c *Client) spawn(ctx context.Context) error {
	log, err := openLog(c.o.Layout.Log())
	if err != nil {
		return err
	}
	defer log.Close()
	ready, readyChild, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ready.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		_ = readyChild.Close()
		return err
	}
	defer null.Close()

	pidfd := -1
	cmd := exec.Command(c.o.Binary, "hold", "--dir", string(c.o.Layout), "--version", c.o.Version)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = null, log, log
	cmd.ExtraFiles = []*os.File{readyChild}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, PidFD: &pidfd}
	err = cmd.Start()
	_ = readyChild.Close()
	if err != nil {
		return fmt.Errorf("starting the container holder: %w", err)
	}
	pid := cmd.Process.Pid
	_ = cmd.Process.Release()
	c.reapLater(pid, pidfd)

	ctx, cancel := context.WithTimeout(ctx, spawnTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = ready.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	answer, err := io.ReadAll(io.LimitReader(ready, 4096))
	if ctx.Err() != nil {
		return fmt.Errorf("the container holder (pid %d) did not become ready: %w", pid, ctx.Err())
	}
	if err != nil {
		return err
	}
	if text := strings.TrimSpace(string(answer)); text != "ready" {
		if text == "" {
			text = "it exited; see " + c.o.Layout.Log()
		}
		return fmt.Errorf("starting the container holder: %s", text)
	}
	c.o.Log.Debug("container holder started", "pid", pid)
	return nil
}

func openLog(path string) (*os.File, error) {
	flags := os.O_CREATE | os.O_WRONLY | os.O_APPEND
	if st, err := os.Stat(path); err == nil && st.Size() > maxLogBytes {
		flags |= os.O_TRUNC
	}
	return os.OpenFile(path, flags, 0o600)
}

// reapLater waits for our child so that it never stays a zombie while celox
// lives. The wait is on a pidfd so that Close can end it.
func (c *Client) reapLater(pid, pidfd int) {
	if pidfd < 0 {
		return
	}
	_ = unix.SetNonblock(pidfd, true)
	file := os.NewFile(uintptr(pidfd), "pidfd")
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		_ = file.Close()
		return
	}
	if c.pidfd != nil {
		_ = c.pidfd.SetDeadline(time.Unix(1, 0))
	}
	c.pidfd = file
	c.reapers.Add(1)
	c.mu.Unlock()
	go func() {
		defer c.reapers.Done()
		defer file.Close()
		raw, err := file.SyscallConn()
		if err != nil {
			return
		}
		_ = raw.Read(func(uintptr) bool {
			var ws unix.WaitStatus
			got, err := unix.Wait4(pid, &ws, unix.WNOHANG, nil)
			return got == pid || (err != nil && !errors.Is(err, unix.EINTR))
		})
	}()
}

// call sends one request to the holder, starting a new one when it is gone, and
// returns its answer.
func (c *Client) call(ctx context.Context, req Request) (Response, error) {
	conn, err := c.dial(ctx)
	if err != nil {
		return Response{}, err
	}
	return roundTrip(ctx, conn, req)
}

func (c *Client) dial(ctx context.Context) (*Conn, error) {
	conn, err := Dial(c.o.Layout.Socket())
	if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, os.ErrNotExist) {
		if err := c.ensure(ctx); err != nil {
			return nil, err
		}
		conn, err = Dial(c.o.Layout.Socket())
	}
	if err != nil {
		return nil, fmt.Errorf("container holder: %w", err)
	}
	return NewConn(conn), nil
}

// roundTrip uses a connection up.
func roundTrip(ctx context.Context, conn *Conn, req Request) (Response, error) {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	if err := conn.Send(req); err != nil {
		return Response{}, callError(ctx, req.Op, err)
	}
	var resp Response
	files, err := conn.Receive(&resp)
	CloseFiles(files)
	if err != nil {
		return Response{}, callError(ctx, req.Op, err)
	}
	if resp.Error != nil {
		return Response{}, resp.Error
	}
	return resp, nil
}

func callError(ctx context.Context, op string, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("container holder: %s: %w", op, context.Cause(ctx))
	}
	return fmt.Errorf("container holder: %s: %w", op, err)
}

// Start runs a task. It returns when the task's own program runs.
func (c *Client) Start(ctx context.Context, task Task) (State, error) {
	resp, err := c.call(ctx, Request{Op: OpStart, ID: task.ID, Task: &task})
	if err != nil {
		return State{}, err
	}
	if resp.State == nil {
		return State{}, errors.New("container holder: start answered without a state")
	}
	return *resp.State, nil
}

// Kill signals the first process of a task, or with all every process of it.
func (c *Client) Kill(ctx context.Context, id string, signal syscall.Signal, all bool) error {
	_, err := c.call(ctx, Request{Op: OpKill, ID: id, Signal: int(signal), All: all})
	return err
}

// Resize sets the size of a task's terminal.
func (c *Client) Resize(ctx context.Context, id string, width, height uint16) error {
	_, err := c.call(ctx, Request{Op: OpResize, ID: id, Width: width, Height: height})
	return err
}

// Update changes the resource limits of a running task.
func (c *Client) Update(ctx context.Context, id string, res *specs.LinuxResources) error {
	_, err := c.call(ctx, Request{Op: OpUpdate, ID: id, Resources: res})
	return err
}

// ReopenLog makes the holder open the task's log file again, after a rotation.
func (c *Client) ReopenLog(ctx context.Context, id string) error {
	_, err := c.call(ctx, Request{Op: OpReopenLog, ID: id})
	return err
}

// Delete forgets an ended task. It is no error if there is none.
func (c *Client) Delete(ctx context.Context, id string) error {
	_, err := c.call(ctx, Request{Op: OpDelete, ID: id})
	return err
}

// shutdown asks the holder of a runtime directory, if one lives, to kill every
// task and to exit, and waits until it has.
func shutdown(ctx context.Context, layout Layout) error {
	conn, err := Dial(layout.Socket())
	if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("container holder: %w", err)
	}
	cn := NewConn(conn)
	defer cn.Close()
	stop := context.AfterFunc(ctx, func() { _ = cn.Close() })
	defer stop()
	// One that is ending by itself just now may hang up at any moment.
	over := func(err error) bool {
		return errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
	}
	if err := cn.Send(Request{Op: OpShutdown}); err != nil {
		if over(err) {
			return nil
		}
		return callError(ctx, OpShutdown, err)
	}
	for {
		var resp Response
		files, err := cn.Receive(&resp)
		CloseFiles(files)
		if err == nil && resp.Error != nil {
			return resp.Error
		}
		if over(err) {
			return nil
		}
		if err != nil {
			return callError(ctx, OpShutdown, err)
		}
	}
}

// Watch calls f with the state of every task, first as it is and then whenever
// it changes, until ctx ends; snapshot is true for the states of a (new)
// connection. When the holder dies a new one is started. f must not block long.
func (c *Client) Watch(ctx context.Context, f func(states []State, snapshot bool)) {
	for ctx.Err() == nil {
		err := c.watchOnce(ctx, f)
		if ctx.Err() != nil {
			return
		}
		c.o.Log.Warn("lost the container holder; connecting again", "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(reconnectDelay):
		}
	}
}

func (c *Client) watchOnce(ctx context.Context, f func([]State, bool)) error {
	conn, err := c.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	if err := conn.Send(Request{Op: OpEvents}); err != nil {
		return err
	}
	for {
		var resp Response
		files, err := conn.Receive(&resp)
		CloseFiles(files)
		if err != nil {
			return err
		}
		if resp.Error != nil {
			return resp.Error
		}
		f(resp.States, resp.Snapshot)
	}
}

// Process is a further process in a task, begun by Exec.
type Process struct {
	// Pid is its process id on the host.
	Pid int
	// Console is the master of its terminal, nil without one. The caller owns
	// it.
	Console *os.File

	conn *Conn
}

// Exec starts a process in a running task. Without a terminal, stdin, stdout
// and stderr become the process's own (nil: /dev/null), so that the holder is
// not in the way of the data; with one they must be nil and Console is used.
func (c *Client) Exec(ctx context.Context, spec ExecSpec, stdin, stdout, stderr *os.File) (*Process, error) {
	conn, err := c.dial(ctx)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	req := Request{Op: OpExec, ID: spec.ID, Exec: &spec}
	resp, files, err := exchange(ctx, conn, req, stdin, stdout, stderr)
	if err != nil {
		return nil, err
	}
	p := &Process{Pid: resp.Pid, conn: conn}
	if len(files) > 0 {
		p.Console = files[0]
		CloseFiles(files[1:])
	}
	return p, nil
}

// exchange sends a request with streams and receives the first answer; on an
// error the connection is closed.
func exchange(ctx context.Context, conn *Conn, req Request, stdin, stdout, stderr *os.File) (Response, []*os.File, error) {
	req.Streams = Streams{In: stdin != nil, Out: stdout != nil, Err: stderr != nil}
	var pass []*os.File
	for _, f := range []*os.File{stdin, stdout, stderr} {
		if f != nil {
			pass = append(pass, f)
		}
	}
	if err := conn.Send(req, pass...); err != nil {
		_ = conn.Close()
		return Response{}, nil, callError(ctx, req.Op, err)
	}
	var resp Response
	files, err := conn.Receive(&resp)
	if err == nil && resp.Error != nil {
		err = resp.Error
	} else if err != nil {
		err = callError(ctx, req.Op, err)
	}
	if err != nil {
		CloseFiles(files)
		_ = conn.Close()
		return Response{}, nil, err
	}
	return resp, files, nil
}

// Wait blocks until the process ended, or ctx (the process then goes on), and
// returns its exit code.
func (p *Process) Wait(ctx context.Context) (int, error) {
	stop := context.AfterFunc(ctx, func() { _ = p.conn.Close() })
	defer stop()
	defer p.conn.Close()
	var resp Response
	files, err := p.conn.Receive(&resp)
	CloseFiles(files)
	if err != nil {
		return 0, callError(ctx, OpExec, err)
	}
	if resp.Error != nil {
		return 0, resp.Error
	}
	return resp.ExitCode, nil
}

// Resize sets the size of the process's terminal.
func (p *Process) Resize(width, height uint16) error {
	return p.conn.Send(Request{Op: OpResize, Width: width, Height: height})
}

// Kill sends a signal to the process.
func (p *Process) Kill(signal syscall.Signal) error {
	return p.conn.Send(Request{Op: OpKill, Signal: int(signal)})
}

// Attach connects to the streams of a running task: stdin is read, and output
// is written to stdout and stderr (a terminal only has stdout); each may be
// nil. It returns when the task ended, or ctx. The files stay the caller's.
func (c *Client) Attach(ctx context.Context, id string, stdin, stdout, stderr *os.File) error {
	conn, err := c.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	_, files, err := exchange(ctx, conn, Request{Op: OpAttach, ID: id}, stdin, stdout, stderr)
	CloseFiles(files)
	if err != nil {
		return err
	}
	var resp Response
	files, err = conn.Receive(&resp)
	CloseFiles(files)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil && !errors.Is(err, net.ErrClosed):
		return callError(ctx, OpAttach, err)
	case resp.Error != nil:
		return resp.Error
	}
	return nil
}
