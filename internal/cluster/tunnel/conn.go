package tunnel

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"
)

const (
	// Path is where servers take tunnels.
	Path = "/celox/tunnel"
	// API is the address that stands for a node's own API, whatever its port.
	API = "api.node:443"

	// protocol is what the connection is upgraded to.
	protocol = "celox-tunnel/1"
	// serverHeader is who the server is: a word that is new with each start. heldHeader is to which servers the agent has tunnels already.
	serverHeader, heldHeader = "Celox-Server", "Celox-Tunnels"
	// noticePath is where a server leaves a word for the agent.
	noticePath = "/notice"

	// pingEvery is how long a connection is silent until the server asks whether anybody is there; agents leave that to servers until agentPing is over.
	pingEvery, agentPing = 30 * time.Second, 75 * time.Second
	// pingWait is how long an answer to that, or a write, may take.
	pingWait = 15 * time.Second
	// streams is how many connections one tunnel carries at a time; more wait for their turn.
	streams = 256
	// window is what may be under way on one stream in each direction, in bytes: that much is held for who reads slowly.
	window = 256 << 10
	// maxNotice bounds words that pass from one side to the other, in bytes.
	maxNotice = 1 << 10
)

// plain hides everything of a connection but what net.Conn has (HTTP/2 would look for TLS that is not there), reads first what was read too much of it, and
// tells when it was closed.
type plain struct {
	net.Conn
	r      *bufio.Reader // nil when all of it was read
	closed chan struct{}
	once   sync.Once
}

func newPlain(c net.Conn, r *bufio.Reader) *plain {
	p := &plain{Conn: c, closed: make(chan struct{})}
	if r != nil && r.Buffered() > 0 {
		p.r = r
	}
	return p
}

func (p *plain) Read(b []byte) (int, error) {
	if p.r != nil {
		n, err := p.r.Read(b[:min(len(b), p.r.Buffered())])
		if p.r.Buffered() == 0 {
			p.r = nil
		}
		return n, err
	}
	return p.Conn.Read(b)
}

func (p *plain) Close() error {
	p.once.Do(func() { close(p.closed) })
	return p.Conn.Close()
}

// one is a listener that accepts one connection and ends with it.
type one struct {
	conn  *plain
	taken sync.Once
}

func (l *one) Accept() (net.Conn, error) {
	var c net.Conn
	l.taken.Do(func() { c = l.conn })
	if c != nil {
		return c, nil
	}
	<-l.conn.closed
	return nil, net.ErrClosed
}

func (l *one) Close() error   { return l.conn.Close() }
func (l *one) Addr() net.Addr { return l.conn.LocalAddr() }

// place is an address at the other end of a tunnel.
type place string

func (place) Network() string  { return "tunnel" }
func (p place) String() string { return string(p) }

// stream is a server's end of a connection through a tunnel. A deadline that passes ends it: unlike those of the kernel it cannot be taken up again.
type stream struct {
	place  place
	in     io.ReadCloser
	out    *io.PipeWriter
	cancel context.CancelFunc

	mu     sync.Mutex // guards what follows
	late   bool       // a deadline has passed
	timers [2]*time.Timer
}

func (s *stream) Read(b []byte) (int, error) {
	n, err := s.in.Read(b)
	return n, s.told(err)
}

func (s *stream) Write(b []byte) (int, error) {
	n, err := s.out.Write(b)
	return n, s.told(err)
}

func (s *stream) told(err error) error {
	if err == nil || err == io.EOF { //nolint:errorlint // the reader's own word
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.late {
		return os.ErrDeadlineExceeded
	}
	return err
}

// CloseWrite tells the other end that there is no more to read.
func (s *stream) CloseWrite() error { return s.out.Close() }

func (s *stream) Close() error {
	s.mu.Lock()
	for _, t := range s.timers {
		if t != nil {
			t.Stop()
		}
	}
	s.mu.Unlock()
	_ = s.out.CloseWithError(net.ErrClosed)
	s.cancel()
	_ = s.in.Close() // it was cancelled
	return nil
}

func (s *stream) LocalAddr() net.Addr  { return place("server") }
func (s *stream) RemoteAddr() net.Addr { return s.place }

func (s *stream) SetReadDeadline(t time.Time) error  { return s.until(0, t) }
func (s *stream) SetWriteDeadline(t time.Time) error { return s.until(1, t) }

func (s *stream) SetDeadline(t time.Time) error {
	_ = s.until(0, t) // as the next
	return s.until(1, t)
}

func (s *stream) until(i int, t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.timers[i] != nil {
		s.timers[i].Stop()
		s.timers[i] = nil
	}
	if t.IsZero() {
		return nil
	}
	s.timers[i] = time.AfterFunc(time.Until(t), func() {
		s.mu.Lock()
		s.late = true
		s.mu.Unlock()
		_ = s.out.CloseWithError(os.ErrDeadlineExceeded)
		s.cancel()
	})
	return nil
}

// protocols are those of a connection inside of a tunnel.
func protocols() *http.Protocols {
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true) // the connection below has TLS
	return p
}
