package loop

import (
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// waiter is who waits for a socket, one way.
type waiter struct {
	task *task
	by   time.Time // zero is for ever
}

// Socket is a TCP connection of a loop. It is a net.Conn for the tasks of its loop; CloseLater may be called by anybody. One task at a time may use it.
type Socket struct {
	loop          *Loop
	fd            int
	local, remote net.Addr

	reader, writer waiter
	// hot says that there may be something to read; as long as it is not, the kernel would have told. Ended says that it has told all: the end is not told twice.
	hot, ended bool
	closed     bool
}

// note takes up what the kernel tells of the socket.
func (s *Socket) note(events uint32) {
	const end = unix.EPOLLRDHUP | unix.EPOLLHUP | unix.EPOLLERR
	if events&end != 0 {
		s.ended = true
	}
	if events&(unix.EPOLLIN|end) != 0 {
		s.hot = true
		s.wake(&s.reader)
	}
	if events&(unix.EPOLLOUT|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		s.wake(&s.writer)
	}
}

func (s *Socket) wake(w *waiter) {
	if t := w.task; t != nil {
		w.task = nil
		s.loop.run(t)
	}
}

// pause waits until there is a reason to try again. It may be none.
func (s *Socket) pause(w *waiter) error {
	if err := s.check(w); err != nil {
		return err
	}
	w.task = s.loop.current
	s.loop.pause()
	return s.check(w)
}

// check says whether the socket may still be used, by its deadline as well.
func (s *Socket) check(w *waiter) error {
	switch {
	case s.closed:
		return net.ErrClosed
	case !w.by.IsZero() && !s.loop.soon(w.by):
		return os.ErrDeadlineExceeded
	}
	return nil
}

// Wait waits until there may be something to read, or the end.
func (s *Socket) Wait() error {
	err := s.check(&s.reader)
	for err == nil && !s.hot {
		err = s.pause(&s.reader)
	}
	return err
}

// Read implements io.Reader.
func (s *Socket) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	s.loop.giveWay()
	for {
		if err := s.Wait(); err != nil {
			return 0, err
		}
		n, err := read(s.fd, b)
		switch {
		case err == unix.EINTR: //nolint:errorlint // the kernel's
		case err == unix.EAGAIN: //nolint:errorlint // as above
			s.hot = false
		case err != nil:
			return 0, s.wrap("read", err)
		case n == 0:
			return 0, io.EOF
		default:
			s.hot = n >= min(len(b), rawMost) || s.ended // what comes after that is told
			return n, nil
		}
	}
}

// Write implements io.Writer.
func (s *Socket) Write(b []byte) (int, error) {
	s.loop.giveWay()
	if err := s.check(&s.writer); err != nil {
		return 0, err
	}
	for done := 0; ; {
		n, err := write(s.fd, b[done:])
		done += max(n, 0)
		switch {
		case err == unix.EINTR: //nolint:errorlint // the kernel's
		case err == unix.EAGAIN, err == nil && done < len(b): //nolint:errorlint // as above
			if err != nil {
				if err := s.pause(&s.writer); err != nil {
					return done, err
				}
			}
		case err != nil:
			return done, s.wrap("write", err)
		default:
			return done, nil
		}
	}
}

// Quiet says whether nothing has come that was not read, not even the end.
func (s *Socket) Quiet() bool {
	if s.closed {
		return false
	}
	_, err := peek(s.fd)
	return err == unix.EAGAIN //nolint:errorlint // the kernel's
}

// Close implements io.Closer. Who waits gets net.ErrClosed, in the next turn.
func (s *Socket) Close() error {
	if s.closed {
		return nil
	}
	err := unix.Close(s.fd)
	s.forget()
	return err
}

// forget is that the socket is no longer the loop's.
func (s *Socket) forget() {
	s.closed = true
	delete(s.loop.sockets, int32(s.fd))
	for _, w := range []*waiter{&s.reader, &s.writer} {
		if w.task != nil {
			s.loop.again = append(s.loop.again, w.task)
			w.task = nil
		}
	}
}

// CloseLater is Close for who is not on the loop's thread.
func (s *Socket) CloseLater() {
	s.loop.Post(func() { _ = s.Close() }) // one whose loop is over is closed; nobody is left to be told of more
}

// Later has f called on the loop's thread, unless the loop is over.
func (s *Socket) Later(f func()) { s.loop.Post(f) }

// Release makes the socket a connection of package net again. It is gone for the loop, also if that fails.
func (s *Socket) Release() (net.Conn, error) {
	if s.closed {
		return nil, net.ErrClosed
	}
	err := unix.EpollCtl(s.loop.poll, unix.EPOLL_CTL_DEL, s.fd, nil)
	s.forget()
	f := os.NewFile(uintptr(s.fd), "connection")
	defer func() { _ = f.Close() }() // the connection's descriptor is another
	if err != nil {
		return nil, os.NewSyscallError("epoll_ctl", err)
	}
	return net.FileConn(f)
}

// CloseWrite tells the peer that nothing more comes.
func (s *Socket) CloseWrite() error {
	if s.closed {
		return net.ErrClosed
	}
	return os.NewSyscallError("shutdown", unix.Shutdown(s.fd, unix.SHUT_WR))
}

// Loop is whose the socket is.
func (s *Socket) Loop() *Loop { return s.loop }

// LocalAddr implements net.Conn.
func (s *Socket) LocalAddr() net.Addr { return s.local }

// RemoteAddr implements net.Conn.
func (s *Socket) RemoteAddr() net.Addr { return s.remote }

// SetDeadline implements net.Conn.
func (s *Socket) SetDeadline(t time.Time) error {
	_ = s.SetReadDeadline(t) // never fails
	return s.SetWriteDeadline(t)
}

// SetReadDeadline implements net.Conn.
func (s *Socket) SetReadDeadline(t time.Time) error {
	s.reader.set(s.loop, t)
	return nil
}

// SetWriteDeadline implements net.Conn.
func (s *Socket) SetWriteDeadline(t time.Time) error {
	s.writer.set(s.loop, t)
	return nil
}

func (w *waiter) set(l *Loop, t time.Time) {
	w.by = t
	if w.task != nil && !t.IsZero() && (l.next.IsZero() || t.Before(l.next)) {
		l.next = t // somebody else sets it for who waits
	}
}

// wrap gives an error the form that those of package net have.
func (s *Socket) wrap(op string, err error) error {
	return &net.OpError{Op: op, Net: "tcp", Source: s.local, Addr: s.remote, Err: os.NewSyscallError(op, err)}
}
