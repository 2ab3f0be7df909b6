package serve

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/celox/celox/internal/network/ingress/http1"
)

var errSwitch = errors.New("the backend changed the protocol, which nobody asked for")

// tunnel carries bytes both ways after an answer of 101 (RFC 9110, 7.8), until one side ends or both are silent for as long as the Ingress allows.
func (c *client) tunnel(u *upstream, x *exchange, back *http1.Reader, upgrade bool) (outcome, bool, error) {
	defer u.close()
	if !upgrade {
		return outcome{}, false, errSwitch
	}
	out := append(x.out[:0], "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n"...)
	names := x.resp.Names()
	for i := range x.resp.Fields {
		f := &x.resp.Fields[i]
		if f.Kind == http1.Upgrade || f.Kind == http1.Other && !(names && x.resp.Named(f.Name)) {
			out = append(out, f.Name...)
			out = append(out, ": "...)
			out = append(out, f.Value...)
			out = append(out, "\r\n"...)
		}
	}
	out = append(append(out, "\r\n"...), back.Buffered()...)
	x.out = out
	r := outcome{code: http.StatusSwitchingProtocols}
	c.writeWithin(bodyTime, time.Now())
	if _, err := c.conn.Write(out); err != nil {
		return r, false, err
	}
	if early := c.rd.Buffered(); len(early) > 0 {
		if _, err := u.Write(early); err != nil {
			return r, false, err
		}
		c.rd.R = c.rd.W
	}
	idle := x.v.target.Options.Read
	last := newQuiet()
	done := make(chan int64, 1)
	go func() {
		done <- carry(u.Conn, c.conn, idle, last)
	}()
	r.bytes = carry(c.conn, u.Conn, idle, last)
	u.close()
	_ = c.conn.SetReadDeadline(time.Unix(1, 0)) // wakes the other way
	<-done
	return r, false, nil
}

// carry copies one way until it ends, or both ways have been silent. Where one ends, the other side is told.
func carry(to, from net.Conn, idle time.Duration, last *quiet) (total int64) {
	buf := getBuffer()
	defer putBuffer(buf)
	for {
		_ = from.SetReadDeadline(time.Now().Add(idle)) // fails only where reading does
		n, err := from.Read(*buf)
		if n > 0 {
			last.note()
			_ = to.SetWriteDeadline(time.Now().Add(bodyTime)) // fails only where writing does
			w, werr := to.Write((*buf)[:n])
			total += int64(w)
			if werr != nil {
				return total
			}
		}
		if err == nil || timedOut(err) && last.within(idle) {
			continue
		}
		if half, ok := to.(interface{ CloseWrite() error }); ok && errors.Is(err, io.EOF) {
			_ = half.CloseWrite() // the other way may go on
		}
		return total
	}
}

// translate sends a request to a backend that speaks HTTP/2.
func (c *client) translate(x *exchange, reusable bool) outcome {
	header := http.Header{}
	for i := range x.req.Fields {
		if f := &x.req.Fields[i]; f.Kind == http1.Other || f.Kind == http1.Connection {
			header.Add(string(f.Name), string(f.Value))
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	req := (&http.Request{Method: x.q.method, Header: header, URL: &url.URL{}, ProtoMajor: 1, ProtoMinor: 1, ContentLength: max(x.req.Length, 0)}).WithContext(ctx)
	w := &answerer{c: c, x: x, header: http.Header{}, keep: reusable}
	if !x.body.Done() {
		if x.req.Chunked {
			req.ContentLength = -1
		}
		req.Body = &bodyReader{c: c, x: x}
		w.keep = false // who reads the body may do so beyond the answer
	}
	e, ok := c.forwardGuarded(w, req, x)
	if !ok {
		return outcome{e: e, code: w.code, bytes: w.bytes}
	}
	if w.code == 0 {
		w.WriteHeader(http.StatusOK)
	}
	return outcome{e: e, code: w.code, bytes: w.bytes, keep: w.finish()}
}

// forwardGuarded is forward, whose way to break off is a panic.
func (c *client) forwardGuarded(w *answerer, req *http.Request, x *exchange) (e *endpoint, ok bool) {
	defer func() {
		if p := recover(); p != nil && p != http.ErrAbortHandler { //nolint:errorlint // it is that value
			panic(p)
		}
	}()
	return c.forward(w, req, &x.q, &x.v), true
}

// bodyReader is the body of a request for net/http.
type bodyReader struct {
	c    *client
	x    *exchange
	rest []byte
	err  error
}

// Read implements io.Reader.
func (b *bodyReader) Read(p []byte) (int, error) {
	if len(b.rest) == 0 && b.err == nil {
		if b.x.req.Continue {
			b.x.req.Continue = false
			_, _ = b.c.conn.Write([]byte("HTTP/1.1 100 Continue\r\n\r\n")) // reading says if it is gone
		}
		b.c.readWithin(bodyTime, time.Now())
		b.rest, b.err = b.x.body.Next(&b.c.rd)
	}
	if len(b.rest) > 0 {
		n := copy(p, b.rest)
		b.rest = b.rest[n:]
		return n, nil
	}
	return 0, b.err
}

// Close implements io.Closer.
func (b *bodyReader) Close() error { return nil }

// answerer is a http.ResponseWriter over a client's connection.
type answerer struct {
	c       *client
	x       *exchange
	header  http.Header
	code    int
	bytes   int64
	keep    bool
	chunked bool
	none    bool // there is no body
	failed  bool
}

// Header implements http.ResponseWriter.
func (a *answerer) Header() http.Header { return a.header }

// WriteHeader implements http.ResponseWriter.
func (a *answerer) WriteHeader(code int) {
	if code < 200 || a.code != 0 {
		return
	}
	a.code = code
	a.none = a.x.q.method == http.MethodHead || code == http.StatusNoContent || code == http.StatusNotModified
	_, sized := a.header["Content-Length"]
	a.chunked = !sized && !a.none && a.x.req.Minor > 0
	if !sized && !a.none && !a.chunked {
		a.keep = false
	}
	out := append(a.x.out[:0], "HTTP/1.1 "...)
	out = strconv.AppendInt(out, int64(code), 10)
	out = append(append(append(out, ' '), http.StatusText(code)...), "\r\n"...)
	for name, values := range a.header {
		if name == "Trailer" || strings.HasPrefix(name, http.TrailerPrefix) {
			continue
		}
		for _, value := range values {
			out = appendField(out, name, oneLine(value))
		}
	}
	if a.chunked {
		out = append(out, "Transfer-Encoding: chunked\r\n"...)
	}
	out = a.c.appendConnection(out, a.x, a.keep)
	a.x.out = append(out, "\r\n"...)
}

// Write implements http.ResponseWriter.
func (a *answerer) Write(b []byte) (int, error) {
	if a.code == 0 {
		a.WriteHeader(http.StatusOK)
	}
	if a.none {
		return len(b), nil
	}
	a.bytes += int64(len(b))
	if a.chunked {
		a.x.out = http1.AppendChunk(a.x.out, b)
	} else {
		a.x.out = append(a.x.out, b...)
	}
	return len(b), a.send()
}

// FlushError is for http.ResponseController.
func (a *answerer) FlushError() error { return a.send() }

func (a *answerer) send() error {
	if len(a.x.out) == 0 {
		return nil
	}
	a.c.writeWithin(bodyTime, time.Now())
	_, err := a.c.conn.Write(a.x.out)
	a.x.out = a.x.out[:0]
	a.failed = a.failed || err != nil
	return err
}

// finish ends the answer, and says whether the connection can be used again.
func (a *answerer) finish() bool {
	if a.chunked {
		a.x.out = append(a.x.out, "0\r\n\r\n"...)
	}
	return a.send() == nil && a.keep && !a.failed
}
