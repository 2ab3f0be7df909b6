package gather

import (
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"

	"github.com/celox/celox/internal/workers"
)

const (
	protocol = "h2"
	// defaultStreams is how many requests one connection makes at a time, if the server does not say.
	defaultStreams = 250
)

// HTTP2 has srv speak HTTP/2 over TLS on the connections of a listener from Listen. It is called once, before srv serves, and when srv is otherwise
// complete. Of srv it uses the handler, TLSConfig, IdleTimeout, MaxHeaderBytes, ErrorLog and HTTP2.MaxConcurrentStreams.
func HTTP2(srv *http.Server) error {
	if srv.TLSConfig == nil {
		return errors.New("HTTP/2: the server has no TLS configuration")
	}
	// RFC 9113 section 9.2: at least TLS 1.2; serve looks at the cipher suite.
	srv.TLSConfig.MinVersion = max(srv.TLSConfig.MinVersion, tls.VersionTLS12)
	if !slices.Contains(srv.TLSConfig.NextProtos, protocol) {
		srv.TLSConfig.NextProtos = append([]string{protocol}, srv.TLSConfig.NextProtos...)
	}
	if !slices.Contains(srv.TLSConfig.NextProtos, "http/1.1") {
		srv.TLSConfig.NextProtos = append(srv.TLSConfig.NextProtos, "http/1.1")
	}
	// Records of full size from the beginning: what we have to say is either short or long, and never read while it is incomplete.
	srv.TLSConfig.DynamicRecordSizingDisabled = true
	s := &server{conns: map[*conn]struct{}{}, streams: defaultStreams}
	if srv.HTTP2 != nil && srv.HTTP2.MaxConcurrentStreams > 0 {
		s.streams = srv.HTTP2.MaxConcurrentStreams
	}
	if srv.TLSNextProto == nil {
		srv.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){}
	}
	// Serves one connection, after its handshake, until it ends and all of its handlers have returned. What begins a connection is elsewhere: this goroutine
	// reads until then, and how deep its stack is decides whether it can shrink again after the handshake.
	srv.TLSNextProto[protocol] = func(hs *http.Server, t *tls.Conn, h http.Handler) {
		if c := s.begin(hs, t, h); c != nil {
			c.serve()
			s.forget(c)
		}
	}
	srv.RegisterOnShutdown(s.shutdown)
	return nil
}

// server is what the connections of one http.Server share.
type server struct {
	streams int
	workers workers.Pool
	today   atomic.Pointer[date]

	mu       sync.Mutex
	conns    map[*conn]struct{} // guarded by mu
	stopping bool               // guarded by mu
}

// begin makes the connection; nil if it cannot be served.
//
//go:noinline
func (s *server) begin(hs *http.Server, t *tls.Conn, h http.Handler) *conn {
	sock, ok := t.NetConn().(*socket)
	if !ok {
		_ = t.Close() // it did not come from Listen
		return nil
	}
	if !secure(t.ConnectionState()) {
		refuse(t, http2.ErrCodeInadequateSecurity)
		return nil
	}
	ctx := context.Background()
	if b, ok := h.(interface{ BaseContext() context.Context }); ok {
		ctx = b.BaseContext()
	}
	c := newConn(ctx, s, hs, t, sock, h)
	s.mu.Lock()
	s.conns[c] = struct{}{}
	stopping := s.stopping
	s.mu.Unlock()
	if stopping {
		c.goAway()
	}
	return c
}

// forget is the end of a connection.
func (s *server) forget(c *conn) {
	s.mu.Lock()
	delete(s.conns, c)
	last := len(s.conns) == 0
	s.mu.Unlock()
	if last {
		s.workers.Rest()
	}
}

// secure says whether HTTP/2 may be spoken: with TLS 1.2, only with suites that are not on the list of RFC 9113, appendix A, which has all
// without an ephemeral key exchange and authenticated encryption.
func secure(t tls.ConnectionState) bool {
	if t.Version >= tls.VersionTLS13 {
		return true
	}
	switch t.CipherSuite {
	case tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
		tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256:
		return t.Version >= tls.VersionTLS12
	}
	return false
}

// refuse ends a connection that nothing has been said on.
func refuse(t *tls.Conn, code http2.ErrCode) {
	_ = t.SetWriteDeadline(time.Now().Add(closeTimeout)) // a connection that is closed already
	_ = http2.NewFramer(t, nil).WriteGoAway(0, code, nil)
	_ = t.Close()
}

// shutdown tells all peers to make no more requests; connections end when those under way have.
func (s *server) shutdown() {
	s.mu.Lock()
	s.stopping = true
	conns := make([]*conn, 0, len(s.conns))
	for c := range s.conns {
		conns = append(conns, c)
	}
	s.mu.Unlock()
	for _, c := range conns {
		c.goAway()
	}
}
