package serve

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/celox/celox/internal/network/ingress/loop"
	"github.com/celox/celox/internal/network/ingress/route"
)

// upstream is an HTTP/1 connection to an endpoint. One request at a time uses it.
type upstream struct {
	net.Conn  // with TLS, if there is any
	wire      wire
	e         *endpoint
	secure    bool
	idleSince time.Time
	// deadlines that are set; they are moved only when they are far from what is wanted.
	readBy, writeBy time.Time
}

// wire is a TCP connection to an endpoint: a *socket, or a *looped.
type wire interface {
	net.Conn
	// ask writes a request and reads the first of its answer. Used says that the connection waited before: if it is not good any more the error is errStale.
	ask(out, in []byte, used bool) (n int, err error)
	// quiet says whether nothing has come that was not read, not even the end.
	quiet() bool
	// on is the loop that it belongs to; nil is none.
	on() *loop.Loop
	// drop closes it, whoever says so.
	drop()
}

// dialError says that an endpoint could not be reached, so that it has seen nothing of the request.
type dialError struct{ err error }

func (d *dialError) Error() string { return d.err.Error() }
func (d *dialError) Unwrap() error { return d.err }

func unreached(err error) bool {
	if err == nil {
		return false
	}
	var d *dialError
	return errors.As(err, &d)
}

// connect takes a connection that waits, or makes one. Look says that one that waited must be looked at: it must be good, and what a backend has sent beyond its
// last answer must not be taken for the next one. L is the loop of who asks; nil is that it has a goroutine of its own.
func (b *backend) connect(l *loop.Loop, e *endpoint, o *route.Options, fresh, look bool, now time.Time) (*upstream, error) {
	for !fresh {
		u := e.idle.get(l)
		if u == nil {
			break
		}
		if !look || u.wire.quiet() {
			return u, nil
		}
		u.close()
	}
	d := net.Dialer{Timeout: o.Connect, KeepAlive: -1}
	var c net.Conn
	var err error
	dial := func() { c, err = d.Dial("tcp", e.host) }
	if l != nil {
		l.Away(dial)
	} else {
		dial()
	}
	if err != nil {
		e.avoid(now)
		return nil, &dialError{err}
	}
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		_ = c.Close()
		return nil, &dialError{fmt.Errorf("a TCP connection is a %T", c)}
	}
	if l != nil {
		s, err := l.Adopt(tcp)
		if err != nil {
			return nil, &dialError{err}
		}
		return &upstream{Conn: s, wire: &looped{s}, e: e}, nil
	}
	s, err := newSocket(tcp)
	if err != nil {
		_ = c.Close()
		return nil, &dialError{err}
	}
	u := &upstream{Conn: s, wire: s, e: e}
	if b.Protocol.Secure() {
		t := tls.Client(s, backendTLS([]string{"http/1.1"}))
		ctx, cancel := context.WithTimeout(context.Background(), o.Connect)
		defer cancel()
		if err := t.HandshakeContext(ctx); err != nil {
			_ = c.Close()
			e.avoid(now)
			return nil, &dialError{err}
		}
		u.Conn, u.secure = t, true
	}
	return u, nil
}

// backendTLS trusts every backend: what certificates pods have is between them and their owners, and an endpoint is known by its address.
func backendTLS(protocols []string) *tls.Config {
	return &tls.Config{InsecureSkipVerify: true, NextProtos: protocols, MinVersion: tls.VersionTLS12} //nolint:gosec // as above
}

func (u *upstream) close() { _ = u.Conn.Close() } // nobody is left to be told

// release gives the connection back after an answer that left it in order.
func (u *upstream) release(now time.Time) {
	if u.e.gone.Load() {
		u.close()
		return
	}
	u.e.idle.put(u, now)
	if u.e.gone.Load() { // it went meanwhile
		u.e.idle.close()
	}
}

func (u *upstream) readWithin(d time.Duration, now time.Time) {
	if near(u.readBy, now, d) {
		return
	}
	u.readBy = now.Add(d)
	_ = u.SetReadDeadline(u.readBy) // fails only where reading does
}

func (u *upstream) writeWithin(d time.Duration, now time.Time) {
	if near(u.writeBy, now, d) {
		return
	}
	u.writeBy = now.Add(d)
	_ = u.SetWriteDeadline(u.writeBy) // as above
}

// near says whether a deadline is good enough for a wait of d from now on: moving one costs more than a tenth of precision is worth.
func near(at, now time.Time, d time.Duration) bool {
	left := at.Sub(now)
	return left > d-d/8 && left <= d
}

// dialOutside reaches servers that annotations name: not the node's own and not what is on its link.
func (s *Server) dialOutside(ctx context.Context, network, address string) (net.Conn, error) {
	d := net.Dialer{Timeout: handshakeTime, Resolver: s.cfg.Resolver, Control: func(_, address string, _ syscall.RawConn) error {
		a, err := netip.ParseAddrPort(address)
		if err == nil && route.Forbidden(a.Addr().Unmap()) {
			err = errForbidden
		}
		return err
	}}
	return d.DialContext(ctx, network, address)
}

// transports are net/http's ways to backends: for requests that came by HTTP/2, and for backends that speak it. They are made when they are needed.
type transports struct {
	server *Server
	mu     sync.Mutex
	of     map[route.Protocol]*http.Transport // guarded by mu
}

func (t *transports) get(p route.Protocol) *http.Transport {
	t.mu.Lock()
	defer t.mu.Unlock()
	if h := t.of[p]; h != nil {
		return h
	}
	if t.of == nil {
		t.of = map[route.Protocol]*http.Transport{}
	}
	h := &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := (&net.Dialer{KeepAlive: -1}).DialContext(ctx, network, address)
			if err != nil {
				return nil, &dialError{err}
			}
			return c, nil
		},
		DisableCompression: true, MaxIdleConnsPerHost: maxIdle, IdleConnTimeout: idleTime, TLSHandshakeTimeout: handshakeTime,
		MaxResponseHeaderBytes: maxHead, Protocols: &http.Protocols{},
	}
	switch p {
	case route.HTTP:
		h.Protocols.SetHTTP1(true)
	case route.HTTPS:
		h.Protocols.SetHTTP1(true)
		h.TLSClientConfig = backendTLS([]string{"http/1.1"})
	case route.H2C:
		h.Protocols.SetUnencryptedHTTP2(true)
	case route.H2:
		h.Protocols.SetHTTP2(true)
		h.TLSClientConfig = backendTLS([]string{"h2"})
	}
	t.of[p] = h
	return h
}

// forget closes connections that wait: some of their endpoints may be gone, and others may get their addresses.
func (t *transports) forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, h := range t.of {
		h.CloseIdleConnections()
	}
}

func (t *transports) close() {
	t.forget()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.of = nil
}
