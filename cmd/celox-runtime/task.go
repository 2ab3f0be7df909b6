package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/opencontainers/runc/libcontainer"
	"golang.org/x/sys/unix"

	"github.com/celox/celox/internal/runtime/holder"
)

const (
	// drainPatience is how long the exit of a task waits for the rest of its
	// output.
	drainPatience = 2 * time.Second
	execFIFO      = "exec.fifo" // of libcontainer: there until the program runs
)

// task is one container (or pause process) that the server holds.
type task struct {
	id     string
	s      *server
	ended  chan struct{} // closed under mu when the first process has ended
	exited chan struct{} // closed when st is final and in the journal
	// work is what goes on beside a running task; none begins after ended.
	work sync.WaitGroup

	mu sync.Mutex
	// st is the journal record; guarded by mu.
	st holder.State
	// proc watches the first process; nil before it runs. The rest are the
	// open ends of its stdio. All guarded by mu, fixed once the task runs.
	proc  *proc
	log   *criLog
	pumps []*pump
	stdin *os.File // write end; nil without stdin or once it was closed
	tty   *os.File // master; also the file of the only pump
}

func newTask(s *server, id string) *task {
	return &task{id: id, s: s, ended: make(chan struct{}), exited: make(chan struct{})}
}

// end says that the first process has ended, and waits for the work on it.
func (t *task) end() {
	t.mu.Lock()
	close(t.ended)
	t.mu.Unlock()
	t.work.Wait()
}

func (t *task) snapshot() holder.State {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.st
}

// start runs a new task.
func (s *server) start(spec *holder.Task) (holder.Response, error) {
	if spec == nil || !validID(spec.ID) {
		return holder.Response{}, holder.Errorf(holder.CodeInvalid, "start needs a task with a valid id")
	}
	s.changing.RLock()
	defer s.changing.RUnlock()
	t := newTask(s, spec.ID)
	t.st = holder.State{
		ID: spec.ID, Phase: holder.PhaseStarting, BootID: s.boot, LogPath: spec.LogPath,
		Stdin: spec.Stdin, StdinOnce: spec.StdinOnce, Pause: spec.Pause,
	}
	s.mu.Lock()
	_, exists := s.tasks[t.id]
	if exists || s.stopping {
		s.mu.Unlock()
		if exists {
			return holder.Response{}, holder.Errorf(holder.CodeExists, "task %q exists already", t.id)
		}
		return holder.Response{}, holder.Errorf(holder.CodeInternal, "the container holder is shutting down")
	}
	s.tasks[t.id] = t
	s.mu.Unlock()

	s.starting <- struct{}{}
	end := s.starts.begin()
	var err error
	if spec.Pause {
		err = t.runPause(spec)
	} else {
		err = t.run(spec)
	}
	end()
	<-s.starting
	if err != nil {
		s.startFailed()
		t.end()
		t.closeIO()
		_ = os.RemoveAll(s.layout.Task(t.id))
		s.mu.Lock()
		delete(s.tasks, t.id)
		s.mu.Unlock()
		close(t.exited)
		return holder.Response{}, err
	}
	st := t.snapshot()
	s.publish(st)
	go t.watch()
	return holder.Response{State: &st, Pid: st.Pid}, nil
}

// run makes the container and lets its program begin. On an error nothing is
// left but the task's directory.
func (t *task) run(spec *holder.Task) (err error) {
	s := t.s
	config, err := s.containerConfig(spec)
	if err != nil {
		return err
	}
	t.st.Terminal = spec.Spec.Process.Terminal
	t.st.Cgroup = spec.Spec.Linux.CgroupsPath
	t.st.SharedPID = !config.Namespaces.IsPrivate("NEWPID")

	if err := os.Mkdir(s.layout.Task(t.id), 0o711); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	if err := writeState(s.layout, t.st); err != nil {
		return err
	}
	if spec.Spec.Hooks != nil {
		if err := bundle(config, spec.Spec, s.layout.Task(t.id)); err != nil {
			return err
		}
	}
	process := initProcess(spec.Spec.Process)
	child, err := t.openIO(process)
	defer holder.CloseFiles(child)
	if err != nil {
		return err
	}
	var console *os.File
	if t.st.Terminal {
		var theirs *os.File
		if console, theirs, err = socketPair(); err != nil {
			return err
		}
		defer console.Close()
		defer theirs.Close()
		process.ConsoleSocket = theirs
	}

	container, err := libcontainer.Create(s.layout.Libcontainer(), t.id, config)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = container.Signal(unix.SIGKILL)
			if pid, perr := process.Pid(); perr == nil && pid > 0 {
				_, _ = process.Wait()
			}
			_ = container.Destroy()
		}
	}()
	if err := container.Start(process); err != nil {
		return startError(err)
	}
	if console != nil {
		if err := t.takeConsole(console); err != nil {
			return err
		}
	}
	pid, err := process.Pid()
	if err != nil {
		return err
	}
	if err := t.running(pid); err != nil {
		return err
	}
	if err := container.Exec(); err != nil {
		t.proc.close()
		return startError(err)
	}
	for _, p := range t.pumps {
		go p.run(s.buffers)
	}
	return nil
}

// running records that the process pid is the task's.
func (t *task) running(pid int) error {
	stat, err := holder.ReadProcStat(pid)
	if err != nil {
		return err
	}
	p, err := openProc(pid)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.proc = p
	t.st.Pid, t.st.StartTicks = pid, stat.StartTicks
	t.st.Phase = holder.PhaseRunning
	t.st.StartedAt = time.Now()
	if err := writeState(t.s.layout, t.st); err != nil {
		p.close()
		return err
	}
	return nil
}

// openIO opens our ends of the task's stdio and gives the container's ends to
// process; those are returned, to be closed once the process has them.
func (t *task) openIO(process *libcontainer.Process) (child []*os.File, err error) {
	if t.log, err = openCRILog(t.st.LogPath, t.warn); err != nil {
		return nil, err
	}
	if t.st.Terminal {
		return nil, nil
	}
	open := func(path string, flags int) (*os.File, error) {
		// Not os.OpenFile: it would make the container's end non-blocking.
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, &os.PathError{Op: "open", Path: path, Err: err}
		}
		return os.NewFile(uintptr(fd), path), nil
	}
	give := func(path string, flags int) (*os.File, error) {
		f, err := open(path, flags)
		if err == nil {
			child = append(child, f)
		}
		return f, err
	}
	dir := t.s.layout.Task(t.id)
	if t.st.Stdin {
		path := filepath.Join(dir, "stdin")
		if err := unix.Mkfifo(path, 0o600); err != nil {
			return child, &os.PathError{Op: "mkfifo", Path: path, Err: err}
		}
		if t.stdin, err = open(path, unix.O_RDWR|unix.O_NONBLOCK); err != nil {
			return child, err
		}
		flags := unix.O_RDWR // never sees the end of its input, even without us
		if t.st.StdinOnce {
			flags = unix.O_RDONLY
		}
		f, err := give(path, flags)
		if err != nil {
			return child, err
		}
		process.Stdin = f
	} else {
		f, err := give(os.DevNull, unix.O_RDONLY)
		if err != nil {
			return child, err
		}
		process.Stdin = f
	}
	for _, stream := range []string{"stdout", "stderr"} {
		path := filepath.Join(dir, stream)
		if err := unix.Mkfifo(path, 0o600); err != nil {
			return child, &os.PathError{Op: "mkfifo", Path: path, Err: err}
		}
		// Open for reading as well: a write never fails for want of a reader.
		theirs, err := give(path, unix.O_RDWR)
		if err != nil {
			return child, err
		}
		ours, err := open(path, unix.O_RDONLY|unix.O_NONBLOCK)
		if err != nil {
			return child, err
		}
		t.pumps = append(t.pumps, newPump(ours, stream, t.log))
		if stream == "stdout" {
			process.Stdout = theirs
		} else {
			process.Stderr = theirs
		}
	}
	return child, nil
}

func (t *task) takeConsole(socket *os.File) error {
	master, err := receiveConsole(socket)
	if err != nil {
		return err
	}
	t.useConsole(master)
	t.st.KeeperPid, t.st.KeeperTicks, err = startKeeper(master)
	return err
}

func (t *task) useConsole(master *os.File) {
	t.tty = master
	t.pumps = append(t.pumps, newPump(master, "stdout", t.log))
}

func (t *task) closeIO() {
	endKeeper(t.st.KeeperPid, t.st.KeeperTicks)
	for _, p := range t.pumps {
		_ = p.file.Close()
	}
	if t.stdin != nil {
		_ = t.stdin.Close()
	}
	if t.log != nil {
		t.log.close()
	}
}

func (t *task) warn(err error) { t.s.log.Warn("task", "id", t.id, "error", err) }

// watch waits for the end of the task and records it.
func (t *task) watch() {
	if err := t.proc.await(); err != nil {
		t.warn(fmt.Errorf("watching its process: %w", err))
	}
	t.end()
	t.s.changing.RLock()
	defer t.s.changing.RUnlock()
	code, known := t.proc.reap()
	t.proc.close()
	t.finish(code, known)
}

// finish cleans up behind an ended task: what is left of it dies, its output is
// read to the end, its cgroup goes, and then the state becomes final.
func (t *task) finish(code int, known bool) {
	st := t.snapshot()
	st.FinishedAt = time.Now()
	st.ExitCode, st.Phase, st.Held = code, holder.PhaseExited, 0
	if !known {
		st.ExitCode, st.Reason = 255, holder.ReasonUnknown
	}
	if st.SharedPID || st.Pause {
		killAll(st.Cgroup)
	}
	if st.ExitCode != 0 && oomKills(st.Cgroup) > 0 {
		st.Reason = holder.ReasonOOMKilled
	}
	t.s.destroyContainer(t.id, st)
	endKeeper(st.KeeperPid, st.KeeperTicks)
	for _, p := range t.pumps {
		p.drain(drainPatience)
	}
	t.mu.Lock()
	if t.stdin != nil {
		_ = t.stdin.Close()
		t.stdin = nil
	}
	t.st = st
	t.mu.Unlock()
	if t.log != nil {
		t.log.close()
	}
	for _, fifo := range []string{"stdin", "stdout", "stderr"} {
		_ = os.Remove(filepath.Join(t.s.layout.Task(t.id), fifo))
	}
	if err := writeState(t.s.layout, st); err != nil {
		t.warn(err)
	}
	close(t.exited)
	t.s.publish(st)
}

// destroyContainer removes the cgroup and libcontainer's own state.
func (s *server) destroyContainer(id string, st holder.State) {
	if st.Pause {
		removePauseCgroup(st.Cgroup)
		return
	}
	c, err := libcontainer.Load(s.layout.Libcontainer(), id)
	if err != nil {
		_ = os.RemoveAll(filepath.Join(s.layout.Libcontainer(), id))
		return
	}
	if err := c.Destroy(); err != nil {
		s.log.Warn("cleaning up after a task", "id", id, "error", err)
	}
}

// remove forgets an ended task.
func (s *server) remove(id string) error {
	s.changing.RLock()
	defer s.changing.RUnlock()
	s.mu.Lock()
	t, ok := s.tasks[id]
	s.mu.Unlock()
	if !ok {
		return nil
	}
	select {
	case <-t.exited:
	default:
		return holder.Errorf(holder.CodeInvalid, "task %q has not ended", id)
	}
	s.mu.Lock()
	delete(s.tasks, id)
	s.mu.Unlock()
	return os.RemoveAll(s.layout.Task(id))
}

// kill signals the first process, or all of them.
func (t *task) kill(sig unix.Signal, all bool) error {
	hold := holdable(sig)
	if hold { // it may change the journal
		t.s.changing.RLock()
		defer t.s.changing.RUnlock()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.st.Phase != holder.PhaseRunning {
		return holder.Errorf(holder.CodeNotRunning, "task %q is not running", t.id)
	}
	select {
	case <-t.ended:
		return holder.Errorf(holder.CodeNotRunning, "task %q has ended", t.id)
	default:
	}
	var err error
	if hold {
		err = t.send(sig)
	} else {
		err = t.proc.signal(sig)
	}
	if errors.Is(err, unix.ESRCH) {
		err = holder.Errorf(holder.CodeNotRunning, "task %q has ended", t.id)
	}
	if all && sig == unix.SIGKILL && t.st.SharedPID {
		cgroup := t.st.Cgroup
		t.work.Go(func() { killAll(cgroup) })
	}
	return err
}

func (t *task) resize(width, height uint16) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.tty == nil || t.st.Phase != holder.PhaseRunning {
		return holder.Errorf(holder.CodeInvalid, "task %q has no terminal", t.id)
	}
	return setWindow(t.tty, width, height)
}

func (t *task) reopenLog() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.st.Phase != holder.PhaseRunning || t.log == nil {
		return holder.Errorf(holder.CodeNotRunning, "task %q is not running", t.id)
	}
	return t.log.reopen()
}

// update changes the limits of a running container.
func (s *server) update(t *task, req holder.Request) error {
	if req.Resources == nil {
		return holder.Errorf(holder.CodeInvalid, "update needs resources")
	}
	s.changing.RLock()
	defer s.changing.RUnlock()
	if t.snapshot().Phase != holder.PhaseRunning {
		return holder.Errorf(holder.CodeNotRunning, "task %q is not running", t.id)
	}
	c, err := libcontainer.Load(s.layout.Libcontainer(), t.id)
	if err != nil {
		return err
	}
	config := c.Config()
	resources := *config.Cgroups.Resources
	updateResources(&resources, req.Resources)
	resources.SkipDevices = true // device rules stay as they are
	cgroup := *config.Cgroups
	cgroup.Resources = &resources
	config.Cgroups = &cgroup
	return c.Set(config)
}
