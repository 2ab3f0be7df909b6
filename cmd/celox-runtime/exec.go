package main

import (
	"os"

	"github.com/opencontainers/runc/libcontainer"
	"golang.org/x/sys/unix"

	"github.com/celox/celox/internal/runtime/holder"
)

// exec runs a further process in a task. The descriptors of the client become
// the process's own stdio, or its terminal goes to the client: either way the
// data does not pass through here.
func (s *server) exec(c *holder.Conn, req holder.Request, files []*os.File) {
	p, console, err := s.startExec(req, files)
	holder.CloseFiles(files)
	if err != nil {
		_ = c.Send(holder.Response{Error: wireError(err)})
		return
	}
	var pass []*os.File
	if console != nil {
		pass = append(pass, console)
	}
	_ = c.Send(holder.Response{Pid: p.pid}, pass...)
	holder.CloseFiles(pass)

	go func() {
		for {
			var more holder.Request
			files, err := c.Receive(&more)
			holder.CloseFiles(files)
			if err != nil {
				return // the client left, or the connection is done with
			}
			if more.Op == holder.OpKill {
				_ = p.signal(unix.Signal(more.Signal))
			}
		}
	}()

	_ = p.await()
	s.changing.RLock()
	code, known := p.reap()
	s.mu.Lock()
	delete(s.execs, p.pid)
	s.mu.Unlock()
	s.changing.RUnlock()
	p.close()
	if !known {
		_ = c.Send(holder.Response{Error: holder.Errorf(holder.CodeInternal, "the exit code of the process is lost")})
		return
	}
	_ = c.Send(holder.Response{ExitCode: code})
}

func (s *server) startExec(req holder.Request, files []*os.File) (_ *proc, _ *os.File, err error) {
	if req.Exec == nil || len(req.Exec.Args) == 0 {
		return nil, nil, holder.Errorf(holder.CodeInvalid, "exec needs a command")
	}
	t, err := s.task(req.ID)
	if err != nil {
		return nil, nil, err
	}
	s.changing.RLock()
	defer s.changing.RUnlock()
	if st := t.snapshot(); st.Phase != holder.PhaseRunning || st.Pause {
		return nil, nil, holder.Errorf(holder.CodeNotRunning, "container is not running")
	}
	container, err := libcontainer.Load(s.layout.Libcontainer(), t.id)
	if err != nil {
		return nil, nil, err
	}
	process := execProcess(req.Exec)
	var socket *os.File
	if req.Exec.Terminal {
		ours, theirs, err := socketPair()
		if err != nil {
			return nil, nil, err
		}
		defer ours.Close()
		defer theirs.Close()
		socket, process.ConsoleSocket = ours, theirs
	} else {
		stdio, err := assign(req.Streams, files)
		if err != nil {
			return nil, nil, err
		}
		null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
		if err != nil {
			return nil, nil, err
		}
		defer null.Close()
		for i, f := range stdio {
			if f == nil {
				stdio[i] = null
				continue
			}
			// Ordinary programs do not expect EAGAIN from their output.
			if err := unix.SetNonblock(int(f.Fd()), false); err != nil {
				return nil, nil, err
			}
		}
		process.Stdin, process.Stdout, process.Stderr = stdio[0], stdio[1], stdio[2]
	}
	s.starting <- struct{}{}
	end := s.starts.begin()
	defer end()
	err = container.Start(process)
	<-s.starting
	if err != nil {
		s.startFailed()
		return nil, nil, startError(err)
	}
	pid, err := process.Pid()
	if err != nil {
		return nil, nil, err
	}
	p, err := openProc(pid)
	if err != nil {
		_ = process.Signal(unix.SIGKILL)
		_, _ = process.Wait()
		return nil, nil, err
	}
	s.mu.Lock()
	s.execs[pid] = struct{}{}
	s.mu.Unlock()
	if socket == nil {
		return p, nil, nil
	}
	console, err := receiveConsole(socket)
	if err != nil {
		_ = p.signal(unix.SIGKILL)
		_ = p.await()
		p.reap()
		p.close()
		s.mu.Lock()
		delete(s.execs, pid)
		s.mu.Unlock()
		return nil, nil, err
	}
	return p, console, nil
}

// assign sorts the descriptors of a message into stdin, stdout and stderr.
func assign(streams holder.Streams, files []*os.File) ([3]*os.File, error) {
	var stdio [3]*os.File
	next := 0
	for i, there := range []bool{streams.In, streams.Out, streams.Err} {
		if !there {
			continue
		}
		if next >= len(files) {
			return stdio, holder.Errorf(holder.CodeInvalid, "a stream is announced but its descriptor is missing")
		}
		stdio[i] = files[next]
		next++
	}
	return stdio, nil
}
