package runtime

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"

	"github.com/celox/celox/internal/runtime/holder"
)

const (
	// maxExecSyncBytes bounds each output of ExecSync, as CRI asks for.
	maxExecSyncBytes = 16 << 20
	// drainPatience is how long output is waited for when the process has ended
	// but something it started still holds its output open.
	drainPatience = 2 * time.Second
	portTimeout   = 10 * time.Second
)

var _ streaming.Runtime = (*Streams)(nil)

// Streams runs exec, attach and port-forward requests. It is what the kubelet in
// the same process serves its own streaming requests with.
type Streams struct{ s *Service }

// Streaming returns the Streams of the service.
func (s *Service) Streaming() *Streams { return &Streams{s} }

// runningContainer finds a container that runs.
func (s *Service) runningContainer(id string) (*container, error) {
	k, err := s.findContainer(id)
	if err != nil {
		return nil, err
	}
	if !k.isRunning() {
		return nil, status.Errorf(codes.FailedPrecondition, "container %q is in %s state", k.id, k.state())
	}
	return k, nil
}

// execSpec is a process with the container's own user, environment and
// directory.
func (s *Service) execSpec(k *container, cmd []string, tty bool) (holder.ExecSpec, error) {
	if len(cmd) == 0 {
		return holder.ExecSpec{}, status.Error(codes.InvalidArgument, "exec needs a command")
	}
	rec := k.record()
	in := specInput{config: k.config, sandboxConfig: k.sandbox.config, image: rec.ImageConfig, host: s.host}
	if k.sandbox.pinned().uts {
		in.utsns = "own"
	}
	cwd := k.config.GetWorkingDir()
	if cwd == "" {
		cwd = rec.ImageConfig.WorkingDir
	}
	if cwd == "" {
		cwd = "/"
	}
	e := holder.ExecSpec{
		ID: k.id, Args: cmd, Env: environment(in), Cwd: cwd, Terminal: tty,
		UID: rec.User.UID, GID: rec.User.GID, Groups: rec.User.Groups,
	}
	if rec.DeviceEnv != nil {
		e.Env = slices.Clone(rec.DeviceEnv)
	}
	if tty && !k.config.GetTty() {
		e.Env = append(e.Env, "TERM=xterm")
	}
	return e, nil
}

// ExecSync runs a command in a container and returns its output.
func (s *Service) ExecSync(ctx context.Context, req *cri.ExecSyncRequest) (*cri.ExecSyncResponse, error) {
	return s.execSync(ctx, req.GetContainerId(), req.GetCmd(), time.Duration(req.GetTimeout())*time.Second)
}

func (s *Service) execSync(ctx context.Context, id string, cmd []string, timeout time.Duration) (*cri.ExecSyncResponse, error) {
	k, err := s.runningContainer(id)
	if err != nil {
		return nil, err
	}
	spec, err := s.execSpec(k, cmd, false)
	if err != nil {
		return nil, err
	}
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	var stdout, stderr capped
	code, err := s.execPipes(ctx, spec, nil, &stdout, &stderr)
	if err != nil {
		if ctx.Err() != nil {
			return nil, status.Errorf(codes.DeadlineExceeded, "failed to exec in container: timeout %s exceeded: %v", timeout, ctx.Err())
		}
		return nil, fmt.Errorf("failed to exec in container: %w", err)
	}
	return &cri.ExecSyncResponse{Stdout: stdout.buf.Bytes(), Stderr: stderr.buf.Bytes(), ExitCode: int32(code)}, nil
}

// capped keeps the beginning of what is written to it and takes the rest in
// silence, so that the writer is never stopped.
type capped struct{ buf bytes.Buffer }

func (c *capped) Write(p []byte) (int, error) {
	if room := maxExecSyncBytes - c.buf.Len(); room > 0 {
		c.buf.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

// execPipes runs a process and copies its stdio; each of the three may be nil.
// When ctx ends the process is killed.
func (s *Service) execPipes(ctx context.Context, spec holder.ExecSpec, in io.Reader, out, errOut io.Writer) (int, error) {
	var theirs [3]*os.File
	defer func() { holder.CloseFiles(theirs[:]) }()
	var inWrite *os.File
	var err error
	if in != nil {
		if theirs[0], inWrite, err = os.Pipe(); err != nil {
			return 0, err
		}
		defer inWrite.Close()
	}
	var outputs []*drain
	for i, w := range []io.Writer{out, errOut} {
		if w == nil {
			continue
		}
		r, theirEnd, err := os.Pipe()
		if err != nil {
			for _, d := range outputs {
				_ = d.file.Close()
			}
			return 0, err
		}
		theirs[i+1] = theirEnd
		outputs = append(outputs, &drain{file: r, to: w})
	}
	p, err := s.client.Exec(ctx, spec, theirs[0], theirs[1], theirs[2])
	holder.CloseFiles(theirs[:])
	theirs = [3]*os.File{}
	if err != nil {
		for _, d := range outputs {
			_ = d.file.Close()
		}
		return 0, err
	}
	if in != nil {
		go func() { // ends with the client's stream, which ends with the request
			_, _ = io.Copy(struct{ io.Writer }{inWrite}, in)
			_ = inWrite.Close()
		}()
	}
	return waitExec(ctx, p, outputs)
}

// waitExec waits for a process and its output.
func waitExec(ctx context.Context, p *holder.Process, outputs []*drain) (int, error) {
	var copies sync.WaitGroup
	for _, d := range outputs {
		copies.Go(d.run)
	}
	stop := context.AfterFunc(ctx, func() { _ = p.Kill(unix.SIGKILL) })
	defer stop()
	code, err := p.Wait(context.WithoutCancel(ctx))
	for _, d := range outputs {
		d.processEnded()
	}
	copies.Wait()
	if ctx.Err() != nil {
		return 0, ctx.Err()
	}
	return code, err
}

// drain copies one output until its end. Once the process has ended it gives up
// when nothing comes for a while: a child that went into the background may hold
// the output open for ever.
type drain struct {
	file  *os.File
	to    io.Writer
	ended atomic.Bool
}

func (d *drain) run() {
	defer d.file.Close()
	buf := make([]byte, 32<<10)
	for {
		if d.ended.Load() {
			_ = d.file.SetReadDeadline(time.Now().Add(drainPatience))
		}
		n, err := d.file.Read(buf)
		if n > 0 {
			if _, werr := d.to.Write(buf[:n]); werr != nil {
				// The client is gone: the process must not block for it.
				d.to = io.Discard
			}
		}
		if err != nil {
			return
		}
	}
}

func (d *drain) processEnded() {
	d.ended.Store(true)
	_ = d.file.SetReadDeadline(time.Now().Add(drainPatience))
}

// Exec runs a command in a container with the caller's streams. A command that
// fails is a utilexec.CodeExitError.
func (st *Streams) Exec(ctx context.Context, containerID string, cmd []string, in io.Reader, out, errOut io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error {
	s := st.s
	k, err := s.runningContainer(containerID)
	if err != nil {
		return err
	}
	spec, err := s.execSpec(k, cmd, tty)
	if err != nil {
		return err
	}
	var code int
	if tty {
		code, err = s.execTerminal(ctx, spec, in, out, resize)
	} else {
		code, err = s.execPipes(ctx, spec, in, writer(out), writer(errOut))
	}
	if err != nil {
		return fmt.Errorf("failed to exec in container: %w", err)
	}
	if code != 0 {
		return utilexec.CodeExitError{Err: fmt.Errorf("command terminated with exit code %d", code), Code: code}
	}
	return nil
}

// writer makes a nil WriteCloser a nil Writer.
func writer(w io.WriteCloser) io.Writer {
	if w == nil {
		return nil
	}
	return w
}

func (s *Service) execTerminal(ctx context.Context, spec holder.ExecSpec, in io.Reader, out io.Writer, resize <-chan remotecommand.TerminalSize) (int, error) {
	p, err := s.client.Exec(ctx, spec, nil, nil, nil)
	if err != nil {
		return 0, err
	}
	master, err := pollableFile(p.Console)
	if err != nil {
		return 0, err
	}
	if out == nil {
		out = io.Discard
	}
	d := &drain{file: master, to: out}
	if in != nil {
		go func() { _, _ = io.Copy(struct{ io.Writer }{master}, in) }() // as in execPipes
	}
	resizing, done := context.WithCancel(ctx)
	defer done()
	go eachSize(resizing, resize, func(w, h uint16) { _ = setWindow(master, w, h) })
	return waitExec(ctx, p, []*drain{d})
}

func eachSize(ctx context.Context, sizes <-chan remotecommand.TerminalSize, f func(w, h uint16)) {
	for {
		select {
		case <-ctx.Done():
			return
		case size, ok := <-sizes:
			if !ok {
				return
			}
			if size.Width > 0 && size.Height > 0 {
				f(size.Width, size.Height)
			}
		}
	}
}

// pollableFile turns a received descriptor into a file whose reads can be given
// up. It takes f over.
func pollableFile(f *os.File) (*os.File, error) {
	if f == nil {
		return nil, errors.New("the container has no terminal")
	}
	defer f.Close()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, err
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "terminal"), nil
}

func setWindow(f *os.File, w, h uint16) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var kerr error
	if err := raw.Control(func(fd uintptr) {
		kerr = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: h, Col: w})
	}); err != nil {
		return err
	}
	return kerr
}

// Attach connects the caller's streams to a running container until it ends or
// the caller leaves.
func (st *Streams) Attach(ctx context.Context, containerID string, in io.Reader, out, errOut io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error {
	s := st.s
	k, err := s.runningContainer(containerID)
	if err != nil {
		return err
	}
	var theirs [3]*os.File
	defer func() { holder.CloseFiles(theirs[:]) }()
	// Leaving the request: the client's input may block for ever.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if in != nil {
		r, w, err := os.Pipe()
		if err != nil {
			return err
		}
		theirs[0] = r
		defer w.Close()
		go func() {
			_, _ = io.Copy(struct{ io.Writer }{w}, in)
			_ = w.Close()
		}()
	}
	var copies sync.WaitGroup
	var outputs []*drain
	defer func() {
		holder.CloseFiles(theirs[:]) // the last ends that we hold
		theirs = [3]*os.File{}
		for _, d := range outputs {
			d.processEnded()
		}
		copies.Wait()
	}()
	for i, w := range []io.WriteCloser{out, errOut} {
		if w == nil || (tty && i == 1) {
			continue
		}
		r, theirEnd, err := os.Pipe()
		if err != nil {
			return err
		}
		theirs[i+1] = theirEnd
		d := &drain{file: r, to: w}
		outputs = append(outputs, d)
		copies.Go(d.run)
	}
	if resize != nil && k.config.GetTty() {
		go eachSize(ctx, resize, func(w, h uint16) { _ = s.client.Resize(ctx, k.id, w, h) })
	}
	err = s.client.Attach(ctx, k.id, theirs[0], theirs[1], theirs[2])
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// PortForward connects a stream to a port of a pod.
func (st *Streams) PortForward(ctx context.Context, podSandboxID string, port int32, stream io.ReadWriteCloser) error {
	defer stream.Close()
	s := st.s
	b, err := s.findSandbox(podSandboxID)
	if err != nil {
		return err
	}
	if s.sandboxState(b) != cri.PodSandboxState_SANDBOX_READY {
		return status.Errorf(codes.FailedPrecondition, "sandbox %q is not running", b.id)
	}
	if port <= 0 || port > 65535 {
		return status.Errorf(codes.InvalidArgument, "invalid port %d", port)
	}
	conn, err := s.dialPod(ctx, b, uint16(port))
	if err != nil {
		return fmt.Errorf("failed to connect to localhost:%d inside namespace %q: %w", port, b.id, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()

	// Client to pod. Its end is passed on; the answer may still come.
	go func() {
		_, _ = io.Copy(struct{ io.Writer }{conn}, stream)
		_ = conn.CloseWrite()
	}()
	_, err = io.Copy(stream, struct{ io.Reader }{conn})
	if err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("forwarding port %d: %w", port, err)
	}
	return nil
}

// dialPod connects to a port on the loopback interface of a pod. A socket
// belongs for ever to the network that it was made in, so only the dialling
// happens on a thread inside.
func (s *Service) dialPod(ctx context.Context, b *sandbox, port uint16) (*net.TCPConn, error) {
	var conn *net.TCPConn
	dial := func() error {
		var first error
		for _, ip := range []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback} {
			// With an address instead of a name the dialer stays on this thread.
			d := net.Dialer{Timeout: portTimeout, FallbackDelay: -1}
			c, err := d.DialContext(ctx, "tcp", net.JoinHostPort(ip.String(), fmt.Sprint(port)))
			if err == nil {
				tcp, ok := c.(*net.TCPConn)
				if !ok {
					_ = c.Close()
					return errors.New("not a TCP connection")
				}
				conn = tcp
				return nil
			}
			if first == nil {
				first = err
			}
		}
		return first
	}
	if !b.pinned().net {
		return conn, errors.Join(dial(), nil)
	}
	err := insideNamespace(s.dir.namespace(b.id, "net"), dial)
	return conn, err
}

// streamServer starts, once, the HTTP server that answers streaming requests of
// those who came over the CRI socket.
func (s *Service) streamServer() (streaming.Server, error) {
	s.streamMu.Lock()
	defer s.streamMu.Unlock()
	if s.stream != nil {
		return s.stream, nil
	}
	if s.ctx.Err() != nil {
		return nil, status.Error(codes.Unavailable, "the runtime is closing")
	}
	// The port must be known before the first URL is given out.
	l, err := net.Listen("tcp", s.cfg.StreamAddress)
	if err != nil {
		return nil, fmt.Errorf("streaming server: %w", err)
	}
	config := streaming.DefaultConfig
	config.Addr = l.Addr().String()
	server, err := streaming.NewServer(config, s.Streaming())
	if err != nil {
		_ = l.Close()
		return nil, err
	}
	h := newStreamListener(l, server)
	s.wg.Add(1)
	go func() {
		defer s.wg.Done()
		h.serve()
	}()
	s.stream = h
	return h, nil
}

// Exec answers with the address where a command can be run.
func (s *Service) Exec(_ context.Context, req *cri.ExecRequest) (*cri.ExecResponse, error) {
	if _, err := s.runningContainer(req.GetContainerId()); err != nil {
		return nil, err
	}
	server, err := s.streamServer()
	if err != nil {
		return nil, err
	}
	return server.GetExec(req)
}

// Attach answers with the address where a container can be attached to.
func (s *Service) Attach(_ context.Context, req *cri.AttachRequest) (*cri.AttachResponse, error) {
	if _, err := s.runningContainer(req.GetContainerId()); err != nil {
		return nil, err
	}
	server, err := s.streamServer()
	if err != nil {
		return nil, err
	}
	return server.GetAttach(req)
}

// PortForward answers with the address where ports can be forwarded.
func (s *Service) PortForward(_ context.Context, req *cri.PortForwardRequest) (*cri.PortForwardResponse, error) {
	b, err := s.findSandbox(req.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	if s.sandboxState(b) != cri.PodSandboxState_SANDBOX_READY {
		return nil, status.Errorf(codes.FailedPrecondition, "sandbox %q is not running", b.id)
	}
	server, err := s.streamServer()
	if err != nil {
		return nil, err
	}
	return server.GetPortForward(req)
}
