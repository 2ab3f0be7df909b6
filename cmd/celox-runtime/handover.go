package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/opencontainers/runc/libcontainer"
	"golang.org/x/sys/unix"

	"github.com/celox/celox/internal/runtime/holder"
)

// handoverEnv names the descriptor, in decimal, of the handoverState that the
// former program left.
const handoverEnv = "CELOX_RUNTIME_HANDOVER"

// handoverState is what a program leaves to the one that it executes: the
// numbers of the descriptors that stay open, and the children that are no
// tasks.
type handoverState struct {
	Listener int               `json:"listener"`
	Lock     int               `json:"lock"`
	Tasks    map[string]taskFD `json:"tasks"`
	Execs    []int             `json:"execs"`
}

// taskFD are the open ends of a task's stdio, -1 for none.
type taskFD struct {
	Stdin  int `json:"stdin"`
	Stdout int `json:"stdout"`
	Stderr int `json:"stderr"`
	TTY    int `json:"tty"`
}

// handover replaces this program by another one in the same process, so that
// containers keep their parent and their output its reader. It only returns if
// that failed, and then everything goes on as before.
func (s *server) handover(binary, version string) error {
	if !filepath.IsAbs(binary) {
		return holder.Errorf(holder.CodeInvalid, "the path %q of the new program is not absolute", binary)
	}
	if err := unix.Access(binary, unix.X_OK); err != nil {
		return holder.Errorf(holder.CodeInvalid, "the new program %s: %v", binary, err)
	}
	s.changing.Lock()
	defer s.changing.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()

	state := handoverState{Tasks: map[string]taskFD{}}
	var keep []int
	take := func(f interface{ Fd() uintptr }) int {
		fd := int(f.Fd())
		keep = append(keep, fd)
		return fd
	}
	listener, err := s.listener.File()
	if err != nil {
		return err
	}
	defer listener.Close()
	state.Listener, state.Lock = take(listener), take(s.lock)
	var stopped []*pump
	for id, t := range s.tasks {
		t.mu.Lock()
		fds := taskFD{-1, -1, -1, -1}
		if t.st.Phase == holder.PhaseRunning {
			for _, p := range t.pumps {
				p.stop()
				stopped = append(stopped, p)
			}
			if t.stdin != nil {
				fds.Stdin = take(t.stdin)
			}
			switch {
			case t.tty != nil:
				fds.TTY = take(t.tty)
			case len(t.pumps) == 2:
				fds.Stdout, fds.Stderr = take(t.pumps[0].file), take(t.pumps[1].file)
			}
		}
		t.mu.Unlock()
		state.Tasks[id] = fds
	}
	for pid := range s.execs {
		state.Execs = append(state.Execs, pid)
	}
	err = s.execute(binary, version, state, keep)

	// Still here: go on as before.
	for _, fd := range keep {
		unix.CloseOnExec(fd)
		_ = unix.SetNonblock(fd, true) // Fd may have made it blocking
	}
	for _, p := range stopped {
		again := newPump(p.file, p.line.stream, p.log)
		again.sinks = p.sinks
		s.replacePump(p, again)
		_ = p.file.SetReadDeadline(time.Time{})
		go again.run(s.buffers)
	}
	return fmt.Errorf("executing the new container holder %s: %w", binary, err)
}

// replacePump swaps a stopped pump of some task. s.mu is held.
func (s *server) replacePump(old, again *pump) {
	for _, t := range s.tasks {
		t.mu.Lock()
		for i := range t.pumps {
			if t.pumps[i] == old {
				t.pumps[i] = again
			}
		}
		t.mu.Unlock()
	}
}

func (s *server) execute(binary, version string, state handoverState, keep []int) error {
	memory, err := unix.MemfdCreate("celox-handover", 0)
	if err != nil {
		return os.NewSyscallError("memfd_create", err)
	}
	file := os.NewFile(uintptr(memory), "handover")
	defer file.Close()
	if err := json.NewEncoder(file).Encode(state); err != nil {
		return err
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	for _, fd := range keep {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0); err != nil {
			return os.NewSyscallError("fcntl", err)
		}
	}
	args := []string{binary, "hold", "--dir", string(s.layout), "--version", version}
	env := append(os.Environ(), handoverEnv+"="+strconv.Itoa(memory))
	return &os.PathError{Op: "exec", Path: binary, Err: unix.Exec(binary, args, env)}
}

// inheritance is a handoverState whose descriptors are ours now.
type inheritance struct {
	handoverState
	lock     *os.File
	listener *net.UnixListener
}

// takeHandover returns what the former program left, nil if there was none.
func takeHandover() (*inheritance, error) {
	text := os.Getenv(handoverEnv)
	if text == "" {
		return nil, nil
	}
	_ = os.Unsetenv(handoverEnv)
	fd, err := strconv.Atoi(text)
	if err != nil {
		return nil, fmt.Errorf("handover: malformed descriptor %q", text)
	}
	file := os.NewFile(uintptr(fd), "handover")
	defer file.Close()
	var in inheritance
	if err := json.NewDecoder(file).Decode(&in.handoverState); err != nil {
		return nil, fmt.Errorf("handover: %w", err)
	}
	in.lock = inherit(in.Lock, "lock")
	socket := inherit(in.Listener, "listener")
	defer socket.Close()
	l, err := net.FileListener(socket)
	if err != nil {
		return nil, fmt.Errorf("handover: %w", err)
	}
	unixListener, ok := l.(*net.UnixListener)
	if !ok {
		return nil, errors.New("handover: the inherited socket is not a unix socket")
	}
	in.listener = unixListener
	return &in, nil
}

// inherit wraps a descriptor that came through exec. It must not leak into
// containers.
func inherit(fd int, name string) *os.File {
	if fd < 0 {
		return nil
	}
	unix.CloseOnExec(fd)
	_ = unix.SetNonblock(fd, true)
	return os.NewFile(uintptr(fd), name)
}

// adopt takes over the tasks in the journal: with their descriptors after a
// handover, by opening their FIFOs again after a death.
func (s *server) adopt(in *inheritance) error {
	ids, err := listTasks(s.layout)
	if err != nil {
		return err
	}
	for _, id := range ids {
		st, err := readState(s.layout, id)
		if err != nil {
			s.log.Warn("dropping a task without a usable record", "id", id, "error", err)
			s.sweep(id)
			_ = os.RemoveAll(s.layout.Task(id))
			continue
		}
		s.adoptTask(st, in)
	}
	s.sweepStrays()
	if in == nil {
		return nil
	}
	s.startFailed() // the former program may have been about to clean up
	for _, pid := range in.Execs {
		p, err := openProc(pid)
		if err != nil {
			continue
		}
		s.execs[pid] = struct{}{}
		go func() {
			_ = p.await()
			p.reap()
			p.close()
			s.mu.Lock()
			delete(s.execs, pid)
			s.mu.Unlock()
		}()
	}
	return nil
}

func (s *server) adoptTask(st holder.State, in *inheritance) {
	t := newTask(s, st.ID)
	t.st = st
	s.tasks[t.id] = t
	if st.Phase == holder.PhaseExited {
		close(t.exited)
		return
	}
	_, err := os.Lstat(filepath.Join(s.layout.Libcontainer(), t.id, execFIFO))
	unstarted := st.Phase == holder.PhaseStarting || err == nil
	if !stillRuns(st, s.boot) || unstarted {
		// It ended while nobody looked, or it never began and must not now.
		s.sweep(t.id)
		t.finish(0, false)
		return
	}
	p, err := openProc(st.Pid)
	if err != nil || !stillRuns(st, s.boot) {
		t.finish(0, false)
		return
	}
	t.proc = p
	t.log, err = openCRILog(st.LogPath, t.warn)
	if err != nil {
		t.warn(err)
		t.log = &criLog{path: st.LogPath, warn: t.warn}
	}
	if !st.Pause {
		t.adoptIO(in)
	}
	for _, p := range t.pumps {
		go p.run(s.buffers)
	}
	if st.Held != 0 {
		t.work.Go(t.deliver)
	}
	go t.watch()
}

func (t *task) adoptIO(in *inheritance) {
	fds := taskFD{-1, -1, -1, -1}
	if in != nil {
		if kept, ok := in.Tasks[t.id]; ok {
			fds = kept
		}
	}
	if t.st.Terminal {
		tty := inherit(fds.TTY, "terminal")
		if tty == nil {
			var err error
			if tty, err = takeKept(t.st.KeeperPid, t.st.KeeperTicks); err != nil {
				t.warn(fmt.Errorf("getting its terminal back: %w", err))
				return
			}
		}
		t.useConsole(tty)
		return
	}
	dir := t.s.layout.Task(t.id)
	reopen := func(name string, flags int) *os.File {
		fd, err := unix.Open(filepath.Join(dir, name), flags|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			t.warn(fmt.Errorf("opening its %s again: %w", name, err))
			return nil
		}
		return os.NewFile(uintptr(fd), name)
	}
	t.stdin = inherit(fds.Stdin, "stdin")
	if t.stdin == nil && in == nil && t.st.Stdin && !t.st.StdinOnce {
		t.stdin = reopen("stdin", unix.O_RDWR)
	}
	for _, stream := range []struct {
		name string
		fd   int
	}{{"stdout", fds.Stdout}, {"stderr", fds.Stderr}} {
		f := inherit(stream.fd, stream.name)
		if f == nil {
			f = reopen(stream.name, unix.O_RDONLY)
		}
		if f != nil {
			t.pumps = append(t.pumps, newPump(f, stream.name, t.log))
		}
	}
}

// sweep kills and removes what libcontainer knows of a task, however far its
// start had come.
func (s *server) sweep(id string) {
	c, err := libcontainer.Load(s.layout.Libcontainer(), id)
	if err == nil {
		if st, serr := c.State(); serr == nil && st.InitProcessPid > 0 {
			if now, perr := holder.ReadProcStat(st.InitProcessPid); perr == nil && now.StartTicks == st.InitProcessStartTime {
				_ = c.Signal(unix.SIGKILL)
			}
		}
		if derr := c.Destroy(); derr == nil {
			return
		}
	}
	_ = os.RemoveAll(filepath.Join(s.layout.Libcontainer(), id))
}

// sweepStrays removes containers that no journal record names.
func (s *server) sweepStrays() {
	entries, err := os.ReadDir(s.layout.Libcontainer())
	if err != nil {
		return
	}
	for _, e := range entries {
		if _, ok := s.tasks[e.Name()]; !ok {
			s.sweep(e.Name())
		}
	}
}
