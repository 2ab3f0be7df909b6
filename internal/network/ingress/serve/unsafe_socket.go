package serve

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"unsafe"

	"github.com/celox/celox/internal/network/ingress/loop"
)

// socket is a TCP connection whose small reads and writes are not announced to Go's scheduler. They never wait, so there is nothing that it has to know: but when the
// kernel takes the processor away in the middle of one, it would give the rest of this processor's goroutines to another thread, and this one, when it comes back
// in the middle of a request, to the end of a queue that is looked at now and then.
//
// One goroutine at a time may read, and one may write.
type socket struct {
	*net.TCPConn
	raw syscall.RawConn

	in      []byte // what is read into
	got     int
	readErr error
	reading func(fd uintptr) bool // tryRead
	peeking func(fd uintptr)      // peek
	isQuiet bool

	out      []byte // what is still to be written
	writeErr error
	writing  func(fd uintptr) bool // tryWrite

	asking func(fd uintptr) bool // tryAsk
	step   askStep
}

// askStep is how far ask has come.
type askStep int8

const (
	askLook  askStep = iota // whether the connection is still good
	askWrite                // the request
	askFull                 // there is no room for all of it
	askRead                 // the answer
	askStale                // it was not good
)

// errStale says that a connection that waited was not good any more; nothing was sent on it.
var errStale = errors.New("the connection has ended, or the backend has said what nobody asked for")

// rawMost is how large a write may be that the scheduler is not told of: copying more takes a time in which it might want to stop the world.
const rawMost = 16 << 10

func newSocket(c *net.TCPConn) (*socket, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	s := &socket{TCPConn: c, raw: raw}
	s.reading, s.peeking, s.writing, s.asking = s.tryRead, s.peek, s.tryWrite, s.tryAsk
	return s, nil
}

// Read implements io.Reader.
func (s *socket) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	if len(b) > rawMost {
		b = b[:rawMost]
	}
	s.in, s.got, s.readErr = b, 0, nil
	err := s.raw.Read(s.reading)
	s.in = nil
	switch {
	case err != nil:
		return 0, err
	case s.readErr != nil:
		return 0, s.wrap("read", s.readErr)
	case s.got == 0:
		return 0, io.EOF
	}
	return s.got, nil
}

// tryRead reads if there is something to read; false is that there is not.
func (s *socket) tryRead(fd uintptr) bool {
	var again bool
	s.got, again, s.readErr = readNow(fd, s.in)
	return !again
}

func (s *socket) on() *loop.Loop { return nil }

func (s *socket) drop() { _ = s.Close() } // nobody is left to be told

// quiet implements wire.
func (s *socket) quiet() bool {
	s.isQuiet = false
	return s.raw.Control(s.peeking) == nil && s.isQuiet
}

func (s *socket) peek(fd uintptr) {
	var b [1]byte
	_, _, errno := syscall.RawSyscall6(syscall.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(&b)), 1, syscall.MSG_PEEK|syscall.MSG_DONTWAIT, 0, 0)
	s.isQuiet = errno == syscall.EAGAIN
}

// Write implements io.Writer.
func (s *socket) Write(b []byte) (int, error) {
	if len(b) > rawMost {
		return s.TCPConn.Write(b)
	}
	s.out, s.writeErr = b, nil
	err := s.raw.Write(s.writing)
	n := len(b) - len(s.out)
	s.out = nil
	switch {
	case err != nil:
		return n, err
	case s.writeErr != nil:
		return n, s.wrap("write", s.writeErr)
	}
	return n, nil
}

// tryWrite writes what there is room for; false is that something is left.
func (s *socket) tryWrite(fd uintptr) bool {
	for len(s.out) > 0 {
		n, _, errno := syscall.RawSyscall(syscall.SYS_WRITE, fd, uintptr(unsafe.Pointer(unsafe.SliceData(s.out))), uintptr(len(s.out)))
		switch {
		case errno == syscall.EINTR:
		case errno == syscall.EAGAIN:
			return false
		case errno != 0:
			s.writeErr = errno
			return true
		default:
			s.out = s.out[n:]
		}
	}
	return true
}

// ask implements wire. It is one wait of the reader's from before the request is written: so nobody has to look for the answer before it is announced.
func (s *socket) ask(out, in []byte, used bool) (n int, err error) {
	s.out, s.writeErr, s.in, s.got, s.readErr, s.step = out, nil, in, 0, nil, askWrite
	if used {
		s.step = askLook
	}
	err = s.raw.Read(s.asking)
	rest := s.out
	s.in, s.out = nil, nil
	switch {
	case err != nil:
		return 0, err
	case s.step == askStale:
		return 0, errStale
	case s.writeErr != nil:
		return 0, s.wrap("write", s.writeErr)
	case s.step == askFull:
		if _, err := s.Write(rest); err != nil {
			return 0, err
		}
		return s.Read(in)
	case s.readErr != nil:
		return 0, s.wrap("read", s.readErr)
	case s.got == 0:
		return 0, io.EOF
	}
	return s.got, nil
}

func (s *socket) tryAsk(fd uintptr) bool {
	if s.step == askRead {
		return s.tryRead(fd)
	}
	if s.step == askLook {
		if s.peek(fd); !s.isQuiet {
			s.step = askStale
			return true
		}
	}
	if !s.tryWrite(fd) {
		s.step = askFull
		return true
	}
	s.step = askRead
	return s.writeErr != nil // else the answer will be announced
}

// wrap gives an error the form that those of package net have.
func (s *socket) wrap(op string, err error) error {
	return &net.OpError{Op: op, Net: "tcp", Source: s.LocalAddr(), Addr: s.RemoteAddr(), Err: os.NewSyscallError(op, err)}
}

// readNow reads from a socket that never waits. Again is that there is nothing to read yet.
func readNow(fd uintptr, b []byte) (n int, again bool, err error) {
	for {
		n, _, errno := syscall.RawSyscall(syscall.SYS_READ, fd, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
		switch {
		case errno == 0:
			return int(n), false, nil
		case errno == syscall.EINTR:
		case errno == syscall.EAGAIN:
			return 0, true, nil
		default:
			return 0, false, errno
		}
	}
}
