package gather

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"

	"golang.org/x/net/http2"
)

// Listen returns l with connections for HTTP2.
func Listen(l net.Listener) net.Listener { return listener{l} }

type listener struct{ net.Listener }

func (l listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &socket{Conn: c}, nil
}

// HTTP2 has srv speak HTTP/2 over TLS on the connections of a listener from Listen. It is called once, before srv serves, and when srv is otherwise complete.
func HTTP2(srv *http.Server) error {
	h2 := &http2.Server{}
	if err := http2.ConfigureServer(srv, h2); err != nil {
		return fmt.Errorf("HTTP/2: %w", err)
	}
	plain := srv.TLSNextProto[http2.NextProtoTLS]
	srv.TLSNextProto[http2.NextProtoTLS] = func(hs *http.Server, t *tls.Conn, h http.Handler) {
		s, ok := t.NetConn().(*socket)
		if !ok {
			plain(hs, t, h)
			return
		}
		o := &http2.ServeConnOpts{Handler: h, BaseConfig: hs} //nolint:staticcheck // see below
		if b, ok := h.(interface{ BaseContext() context.Context }); ok {
			o.Context = b.BaseContext()
		}
		c := newConn(t, s)
		defer func() { _ = c.Close() }() // mostly it is closed already
		h2.ServeConn(c, o)               //nolint:staticcheck // net/http itself serves HTTP/2 on nothing but a *tls.Conn
	}
	return nil
}
