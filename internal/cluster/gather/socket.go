package gather

import (
	"net"
	"sync"
	"syscall"
)

// Listen returns l with connections for HTTP2.
func Listen(l net.Listener) net.Listener { return listener{l} }

type listener struct{ net.Listener }

func (l listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	s := &socket{Conn: c}
	if sc, ok := c.(syscall.Conn); ok {
		if raw, err := sc.SyscallConn(); err == nil {
			s.raw = raw
		}
	}
	return s, nil
}

// cipherSize holds what becomes of a batch once it is encrypted.
const cipherSize = batchSize + 2*frameSize

// ciphers are lent to sockets that have something to write: those that are idle hold none.
var ciphers = sync.Pool{New: func() any {
	b := make([]byte, 0, cipherSize)
	return &b
}}

func giveBack(pool *sync.Pool, b *[]byte, size int) {
	if cap(*b) <= 2*size {
		*b = (*b)[:0]
		pool.Put(b)
	}
}

// socket is a connection below TLS. Once it gathers, what TLS writes is kept until it is taken.
type socket struct {
	net.Conn
	raw syscall.RawConn // nil: there is no way to write without waiting

	mu     sync.Mutex
	gather bool    // guarded by mu
	kept   *[]byte // guarded by mu
}

func (s *socket) Write(p []byte) (int, error) {
	s.mu.Lock()
	if !s.gather {
		s.mu.Unlock()
		return s.Conn.Write(p)
	}
	defer s.mu.Unlock()
	if s.kept == nil {
		s.kept = ciphers.Get().(*[]byte) //nolint:forcetypeassert // nothing else is in the pool
	}
	*s.kept = append(*s.kept, p...)
	return len(p), nil
}

// begin has the socket keep what is written from now on.
func (s *socket) begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gather = true
}

// take returns what was kept, or nil. One at a time may take and write it.
func (s *socket) take() *[]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.kept
	s.kept = nil
	return b
}

// tryWrite writes as much of b as the kernel takes at once.
func (s *socket) tryWrite(b []byte) (n int, err error) {
	if s.raw == nil || len(b) == 0 {
		return 0, nil
	}
	var werr error
	err = s.raw.Write(func(fd uintptr) bool {
		for {
			n, werr = syscall.Write(int(fd), b)
			if werr != syscall.EINTR { //nolint:errorlint // an errno
				return true // also with EAGAIN: we do not wait here
			}
		}
	})
	if err != nil {
		return 0, err
	}
	if n < 0 {
		n = 0
	}
	if werr == syscall.EAGAIN { //nolint:errorlint // an errno
		werr = nil
	}
	return n, werr
}
