package gather

import (
	"crypto/tls"
	"net"
	"runtime"
	"sync"
	"time"
)

const (
	// limit is how many bytes wait for a connection at most, before its writers do.
	limit = 64 << 10
	// closeTimeout bounds how long a connection that is closed waits for a peer which does not read.
	closeTimeout = 5 * time.Second
)

// buffers are lent to connections that have something to write: those that are idle hold none.
var buffers = sync.Pool{New: func() any {
	b := make([]byte, 0, limit+limit/2)
	return &b
}}

func giveBack(b *[]byte) {
	if cap(*b) <= 2*limit {
		*b = (*b)[:0]
		buffers.Put(b)
	}
}

// socket is a connection below TLS. While it is corked, what is written is kept back.
type socket struct {
	net.Conn

	mu   sync.Mutex
	kept *[]byte // guarded by mu; not nil while corked
}

func (s *socket) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.kept == nil {
		return s.Conn.Write(p)
	}
	*s.kept = append(*s.kept, p...)
	return len(p), nil
}

func (s *socket) cork() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kept = buffers.Get().(*[]byte) //nolint:forcetypeassert // nothing else is in the pool
}

// uncork writes what was kept back.
func (s *socket) uncork() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.kept
	s.kept = nil
	defer giveBack(b)
	if len(*b) == 0 {
		return nil
	}
	_, err := s.Conn.Write(*b)
	return err
}

// conn is a connection above TLS. Write returns at once, unless too much is waiting; an error of writing is that of a later Write, and ends reading.
type conn struct {
	*tls.Conn
	socket *socket
	wake   chan struct{} // holds a token when there may be something to write
	quit   chan struct{}
	done   chan struct{}

	mu      sync.Mutex
	space   sync.Cond // with mu: signalled when pending was taken
	pending *[]byte   // guarded by mu
	err     error     // guarded by mu

	closing sync.Once
}

func newConn(t *tls.Conn, s *socket) *conn {
	c := &conn{Conn: t, socket: s, wake: make(chan struct{}, 1), quit: make(chan struct{}), done: make(chan struct{})}
	c.space.L = &c.mu
	go c.run()
	return c
}

func (c *conn) Write(p []byte) (int, error) {
	c.mu.Lock()
	for c.err == nil && c.pending != nil && len(*c.pending) >= limit {
		c.space.Wait()
	}
	if err := c.err; err != nil {
		c.mu.Unlock()
		return 0, err
	}
	first := c.pending == nil
	if first {
		c.pending = buffers.Get().(*[]byte) //nolint:forcetypeassert // nothing else is in the pool
	}
	*c.pending = append(*c.pending, p...)
	c.mu.Unlock()
	if first {
		select {
		case c.wake <- struct{}{}:
		default:
		}
	}
	return len(p), nil
}

// run writes what is waiting until the connection is closed, and then the rest.
func (c *conn) run() {
	defer close(c.done)
	for {
		select {
		case <-c.wake:
			runtime.Gosched() // those who can run now may have something to add
			c.flush()
		case <-c.quit:
			c.flush()
			c.fail(net.ErrClosed)
			return
		}
	}
}

func (c *conn) flush() {
	c.mu.Lock()
	b := c.pending
	c.pending = nil
	c.mu.Unlock()
	if b == nil {
		return
	}
	c.space.Broadcast()
	c.socket.cork()
	_, err := c.Conn.Write(*b)
	if e := c.socket.uncork(); err == nil {
		err = e
	}
	giveBack(b)
	if err != nil {
		c.fail(err)
		_ = c.socket.Close() // so that the reader learns of it
	}
}

func (c *conn) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = err
	}
	c.space.Broadcast()
}

// Close writes what is waiting, if the peer takes it soon, and closes the connection.
func (c *conn) Close() error {
	c.closing.Do(func() {
		_ = c.SetWriteDeadline(time.Now().Add(closeTimeout)) // a connection that is closed already
		close(c.quit)
	})
	<-c.done
	return c.Conn.Close()
}
