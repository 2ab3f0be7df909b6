package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/celox/celox/internal/runtime/holder"
)

const (
	// lockPatience is how long a new holder waits for a dying one.
	lockPatience = 3 * time.Second
	lockRetry    = 10 * time.Millisecond
	// idleExit is how long a holder without tasks and without a client lives.
	idleExit = 3 * time.Second
	// trimDelay after the last request, memory is given back to the system.
	trimDelay    = 5 * time.Second
	startsPerCPU = 2
	// eventBacklog is how many states a slow subscriber may be behind.
	eventBacklog = 4096
)

// server holds the tasks of one runtime directory.
type server struct {
	layout  holder.Layout
	version string
	boot    string
	log     *slog.Logger
	limits  limits
	buffers *buffers

	// starting bounds how many containers are made at once: each is a further
	// copy of this program for a while.
	starting chan struct{}
	// failed has an element when a start failed, for reap; done is closed when serve
	// ends.
	failed, done chan struct{}
	starts       starts

	saidOOM     atomic.Bool
	saidSeccomp atomic.Bool

	listener *net.UnixListener
	lock     *os.File

	// changing is held for reading by everything that changes a task, and for
	// writing by a handover, which must find nothing under way.
	changing sync.RWMutex

	mu       sync.Mutex
	tasks    map[string]*task           // guarded by mu
	watchers map[chan holder.State]bool // guarded by mu
	execs    map[int]struct{}           // pids of exec processes; guarded by mu
	conns    int                        // guarded by mu
	idle     *time.Timer                // guarded by mu
	trim     *time.Timer                // guarded by mu
	stopping bool                       // guarded by mu
}

// newServer takes the runtime directory over: from our own former program, or
// from a holder that is gone.
func newServer(layout holder.Layout, version string, log *slog.Logger) (*server, error) {
	s := &server{
		layout:   layout,
		version:  version,
		boot:     bootID(),
		log:      log,
		limits:   findLimits(),
		buffers:  newBuffers(),
		starting: make(chan struct{}, startsPerCPU*runtime.NumCPU()),
		tasks:    map[string]*task{},
		watchers: map[chan holder.State]bool{},
		execs:    map[int]struct{}{},
		failed:   make(chan struct{}, 1),
		done:     make(chan struct{}),
	}
	inherited, err := takeHandover()
	if err != nil {
		return nil, err
	}
	if inherited != nil {
		s.lock, s.listener = inherited.lock, inherited.listener
	} else if s.lock, err = acquireLock(layout.Lock()); err != nil {
		return nil, err
	}
	for _, dir := range []string{layout.Tasks(), layout.Libcontainer()} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return nil, err
		}
	}
	if err := s.adopt(inherited); err != nil {
		return nil, err
	}
	if s.listener == nil {
		if s.listener, err = holder.Listen(layout.Socket()); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func acquireLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(lockPatience); ; {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) || time.Now().After(deadline) {
			_ = f.Close()
			return nil, fmt.Errorf("another container holder has %s: %w", path, err)
		}
		time.Sleep(lockRetry)
	}
}

// serve accepts connections until the holder is shut down or idle.
func (s *server) serve() error {
	var work sync.WaitGroup
	work.Go(s.reap)
	defer work.Wait()
	defer close(s.done)
	s.mu.Lock()
	s.idle = time.AfterFunc(idleExit, s.exitIfIdle)
	s.trim = time.AfterFunc(trimDelay, trimMemory)
	s.mu.Unlock()
	for {
		c, err := s.listener.AcceptUnix()
		if err != nil {
			s.mu.Lock()
			stopping := s.stopping
			s.mu.Unlock()
			if stopping {
				return nil
			}
			if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) {
				time.Sleep(lockRetry)
				continue
			}
			return err
		}
		s.mu.Lock()
		s.conns++
		s.idle.Stop()
		s.mu.Unlock()
		go func() {
			s.handle(holder.NewConn(c))
			s.mu.Lock()
			s.conns--
			s.rearm()
			s.mu.Unlock()
		}()
	}
}

// rearm starts the clocks that run while nothing happens. s.mu is held.
func (s *server) rearm() {
	if s.idle == nil || s.stopping {
		return
	}
	s.trim.Reset(trimDelay)
	if s.conns == 0 && len(s.tasks) == 0 {
		s.idle.Reset(idleExit)
	}
}

func (s *server) exitIfIdle() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conns == 0 && len(s.tasks) == 0 && !s.stopping {
		s.stop()
	}
}

// stop ends serve. s.mu is held.
func (s *server) stop() {
	s.stopping = true
	_ = os.Remove(s.layout.Socket())
	_ = s.listener.Close()
}

// handle serves one connection.
func (s *server) handle(c *holder.Conn) {
	defer c.Close()
	for {
		var req holder.Request
		files, err := c.Receive(&req)
		if err != nil {
			holder.CloseFiles(files)
			if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) && !errors.Is(err, syscall.ECONNRESET) {
				s.log.Warn("malformed request", "error", err)
			}
			return
		}
		switch req.Op {
		case holder.OpExec:
			s.exec(c, req, files)
			return
		case holder.OpAttach:
			s.attach(c, req, files)
			return
		case holder.OpEvents:
			holder.CloseFiles(files)
			s.events(c)
			return
		case holder.OpShutdown:
			holder.CloseFiles(files)
			s.shutdown(c)
			return
		}
		holder.CloseFiles(files)
		resp, err := s.serveOne(req)
		if err != nil {
			resp = holder.Response{Error: wireError(err)}
		}
		if c.Send(resp) != nil {
			return
		}
	}
}

func (s *server) serveOne(req holder.Request) (holder.Response, error) {
	switch req.Op {
	case holder.OpHello:
		return holder.Response{Protocol: holder.Protocol, Version: s.version, Pid: os.Getpid()}, nil
	case holder.OpStart:
		return s.start(req.Task)
	case holder.OpUpgrade:
		return holder.Response{}, s.handover(req.Binary, req.Version)
	case holder.OpDelete:
		return holder.Response{}, s.remove(req.ID)
	}
	t, err := s.task(req.ID)
	if err != nil {
		return holder.Response{}, err
	}
	switch req.Op {
	case holder.OpKill:
		return holder.Response{}, t.kill(unix.Signal(req.Signal), req.All)
	case holder.OpResize:
		return holder.Response{}, t.resize(req.Width, req.Height)
	case holder.OpReopenLog:
		return holder.Response{}, t.reopenLog()
	case holder.OpUpdate:
		return holder.Response{}, s.update(t, req)
	}
	return holder.Response{}, holder.Errorf(holder.CodeInvalid, "unknown operation %q", req.Op)
}

func wireError(err error) *holder.Error {
	var e *holder.Error
	if errors.As(err, &e) {
		return e
	}
	return holder.Errorf(holder.CodeInternal, "%s", err.Error())
}

func (s *server) task(id string) (*task, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, ok := s.tasks[id]
	if !ok {
		return nil, holder.Errorf(holder.CodeNotFound, "task %q not found", id)
	}
	return t, nil
}

// events streams the state of every task, as it is and as it changes.
func (s *server) events(c *holder.Conn) {
	ch := make(chan holder.State, eventBacklog)
	s.mu.Lock()
	states := make([]holder.State, 0, len(s.tasks))
	for _, t := range s.tasks {
		states = append(states, t.snapshot())
	}
	s.watchers[ch] = true
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.watchers, ch)
		s.mu.Unlock()
	}()

	gone := make(chan struct{})
	go func() {
		defer close(gone)
		var none holder.Request
		files, _ := c.Receive(&none) // returns when the client leaves
		holder.CloseFiles(files)
	}()
	err := c.Send(holder.Response{Snapshot: true, States: states})
	for err == nil {
		select {
		case <-gone:
			return
		case st, ok := <-ch:
			if !ok {
				return // too slow: it comes again and gets a snapshot
			}
			err = c.Send(holder.Response{States: []holder.State{st}})
		}
	}
}

// publish tells all subscribers. It never blocks.
func (s *server) publish(st holder.State) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for ch := range s.watchers {
		select {
		case ch <- st:
		default:
			delete(s.watchers, ch)
			close(ch)
		}
	}
}

// shutdown kills every task and ends the program. The client knows that it is
// done when its connection breaks.
func (s *server) shutdown(c *holder.Conn) {
	s.mu.Lock()
	s.stopping = true
	s.mu.Unlock()
	s.changing.Lock() // what was starting has started, and nothing starts after it
	s.mu.Lock()
	tasks := make([]*task, 0, len(s.tasks))
	for _, t := range s.tasks {
		tasks = append(tasks, t)
	}
	s.mu.Unlock()
	s.changing.Unlock()
	for _, t := range tasks {
		_ = t.kill(unix.SIGKILL, true)
	}
	for _, t := range tasks {
		<-t.exited
	}
	_ = os.RemoveAll(s.layout.Libcontainer())
	_ = os.RemoveAll(s.layout.Tasks())
	s.mu.Lock()
	s.stop()
	s.mu.Unlock()
	_ = c.Close()
}
