package main

import (
	"io"
	"os"
	"time"

	"github.com/celox/celox/internal/runtime/holder"
)

// attach connects a client's descriptors to a running task until the task ends,
// the client leaves, or its input has ended while the task's goes on.
func (s *server) attach(c *holder.Conn, req holder.Request, files []*os.File) {
	t, err := s.task(req.ID)
	var stdio [3]*os.File
	if err == nil {
		stdio, err = assign(req.Streams, files)
	}
	if err == nil && t.snapshot().Phase != holder.PhaseRunning {
		err = holder.Errorf(holder.CodeNotRunning, "container is not running")
	}
	if err != nil {
		holder.CloseFiles(files)
		_ = c.Send(holder.Response{Error: wireError(err)})
		return
	}
	for i, f := range stdio {
		if f == nil {
			continue
		}
		if stdio[i], err = pollable(f); err != nil {
			holder.CloseFiles(stdio[:])
			_ = c.Send(holder.Response{Error: wireError(err)})
			return
		}
	}
	defer holder.CloseFiles(stdio[:])

	// The pumps' sinks; one that is too slow ends the whole attachment.
	slow, over := make(chan struct{}), make(chan struct{})
	defer close(over)
	for i, p := range t.pumps {
		if out := stdio[i+1]; out != nil {
			sink := newSink(out)
			p.add(sink)
			defer p.remove(sink)
			go func() {
				select {
				case <-sink.gone:
				case <-over:
					return
				}
				select {
				case slow <- struct{}{}:
				case <-over:
				}
			}()
		}
	}
	if c.Send(holder.Response{}) != nil {
		return
	}

	inputDone, said := make(chan struct{}), make(chan struct{})
	if stdio[0] != nil {
		go func() {
			defer close(inputDone)
			if t.feed(stdio[0]) {
				close(said)
			}
		}()
		defer func() {
			_ = stdio[0].SetDeadline(time.Unix(1, 0))
			<-inputDone
		}()
	}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		var none holder.Request
		more, _ := c.Receive(&none)
		holder.CloseFiles(more)
	}()
	select {
	case <-t.exited:
		_ = c.Send(holder.Response{})
	case <-said:
		_ = c.Send(holder.Response{})
	case <-slow:
		_ = c.Send(holder.Response{Error: holder.Errorf(holder.CodeInternal, "the attached client reads too slowly")})
	case <-gone:
	}
}

// feed copies a client's input to the task. At its end the task's own input is
// closed if it asked for only one (stdinOnce). Otherwise it reports true: the
// client has said what it had to say, and others may go on, so it is not kept to
// watch, as no container runtime does.
func (t *task) feed(in *os.File) (said bool) {
	t.mu.Lock()
	out := t.stdin
	if t.tty != nil {
		out = t.tty
	}
	once := t.st.StdinOnce
	t.mu.Unlock()
	if out == nil {
		_, _ = io.Copy(io.Discard, in)
		return false
	}
	if _, err := io.Copy(onlyWriter{out}, onlyReader{in}); err != nil {
		_, _ = io.Copy(io.Discard, onlyReader{in}) // the task no longer reads; its output goes on
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if !once || t.tty != nil {
		return true
	}
	if t.stdin != nil {
		_ = t.stdin.Close()
		t.stdin = nil
	}
	return false
}

// onlyReader and onlyWriter keep io.Copy from splice(2), which ignores
// deadlines between the two ends.
type onlyReader struct{ io.Reader }
type onlyWriter struct{ io.Writer }
