package gather

import (
	"context"
	"net/http"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"

	"golang.org/x/net/http2"
)

// waitingLimit is how many times more requests than may run at a time wait for their turn: those that a peer makes and resets at once count until their
// handlers have returned.
const waitingLimit = 4

// headers begins a stream, or ends the body of one with its trailer, which nobody here reads.
func (c *conn) headers(f *http2.MetaHeadersFrame) error {
	id := f.StreamID
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.streams[id]; s != nil {
		switch {
		case s.gotEnd:
			return streamError(id, http2.ErrCodeStreamClosed)
		case !f.StreamEnded() || len(f.PseudoFields()) > 0:
			return streamError(id, http2.ErrCodeProtocol)
		case s.declared >= 0 && s.taken != s.declared:
			return streamError(id, http2.ErrCodeProtocol)
		}
		c.gotEnd(s)
		s.wakeReader()
		return nil
	}
	if id%2 == 0 {
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	if id <= c.newest {
		return http2.ConnectionError(http2.ErrCodeStreamClosed)
	}
	if f.HasPriority() && f.Priority.StreamDep == id {
		return streamError(id, http2.ErrCodeProtocol)
	}
	c.newest = id
	if c.leaving || len(c.streams) >= c.server.streams {
		return streamError(id, http2.ErrCodeRefusedStream)
	}
	if c.idling != nil {
		c.idling.Stop()
	}
	s := &stream{c: c, id: id, window: c.streamsBegin, received: streamWindow, declared: -1, gotEnd: f.StreamEnded()}
	s.ctx, s.cancel = context.WithCancel(c.ctx)
	if err := s.request(f); err != nil {
		s.cancel()
		return err
	}
	c.streams[id] = s
	switch {
	case c.running < c.server.streams:
		c.start(s)
	case len(c.waiting) >= waitingLimit*c.server.streams:
		return http2.ConnectionError(http2.ErrCodeEnhanceYourCalm)
	default:
		c.waiting = append(c.waiting, s)
	}
	return nil
}

func (c *conn) start(s *stream) {
	c.running++
	c.handlers.Add(1)
	c.server.workers.Run(s.serve)
}

// returned begins what waited for a handler to return.
func (c *conn) returned() {
	c.running--
	for len(c.waiting) > 0 && c.running < c.server.streams {
		s := c.waiting[0]
		c.waiting = c.waiting[1:]
		if c.streams[s.id] == s {
			c.start(s)
		}
	}
}

// request makes the http.Request of a stream.
func (s *stream) request(f *http2.MetaHeadersFrame) error {
	malformed := streamError(s.id, http2.ErrCodeProtocol)
	if f.Truncated {
		s.tooLarge = true
	}
	method, path, scheme, authority := f.PseudoValue("method"), f.PseudoValue("path"), f.PseudoValue("scheme"), f.PseudoValue("authority")
	if method == http.MethodConnect {
		if path != "" || scheme != "" || authority == "" {
			return malformed
		}
	} else if method == "" || path == "" || scheme != "https" && scheme != "http" {
		return malformed
	}
	fields := f.RegularFields()
	values := make([]string, len(fields))
	header := make(http.Header, len(fields))
	for i := range fields {
		name, value := fields[i].Name, fields[i].Value
		switch name {
		case "connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade":
			return malformed // RFC 9113 section 8.2.2
		case "te":
			if value != "trailers" {
				return malformed
			}
		case "cookie": // may come in crumbs, section 8.2.3
			if old := header["Cookie"]; len(old) > 0 {
				old[0] += "; " + value
				continue
			}
		}
		key := canonical(name)
		if old := header[key]; old != nil {
			header[key] = append(old, value)
			continue
		}
		values[i] = value
		header[key] = values[i : i+1 : i+1]
	}
	if authority == "" {
		authority = header.Get("Host")
	}
	delete(header, "Host")
	var target *url.URL
	uri := path
	if method == http.MethodConnect {
		target, uri = &url.URL{Host: authority}, authority
	} else {
		if path[0] != '/' && (path != "*" || method != http.MethodOptions) {
			return malformed
		}
		var err error
		if target, err = url.ParseRequestURI(path); err != nil {
			return malformed
		}
	}
	r := &http.Request{
		Method: method, URL: target, RequestURI: uri, Host: authority, Header: header, Body: http.NoBody,
		Proto: "HTTP/2.0", ProtoMajor: 2, TLS: &s.c.state, RemoteAddr: s.c.remote,
	}
	if lengths := header["Content-Length"]; len(lengths) > 0 {
		n, err := strconv.ParseUint(textproto.TrimString(lengths[0]), 10, 63)
		if err != nil || len(lengths) > 1 || s.gotEnd && n != 0 {
			return malformed
		}
		r.ContentLength, s.declared = int64(n), int64(n)
	} else if !s.gotEnd {
		r.ContentLength = -1
	}
	if !s.gotEnd {
		s.expects = strings.EqualFold(header.Get("Expect"), "100-continue")
		r.Body = (*requestBody)(s)
	}
	if s.expects {
		delete(header, "Expect")
	}
	s.r = r.WithContext(s.ctx)
	return nil
}

// canonical is a name as net/http's headers have it; those that our clients send are ready.
func canonical(name string) string {
	switch name {
	case "accept":
		return "Accept"
	case "accept-encoding":
		return "Accept-Encoding"
	case "audit-id":
		return "Audit-Id"
	case "authorization":
		return "Authorization"
	case "content-length":
		return "Content-Length"
	case "content-type":
		return "Content-Type"
	case "cookie":
		return "Cookie"
	case "kubectl-command":
		return "Kubectl-Command"
	case "kubectl-session":
		return "Kubectl-Session"
	case "user-agent":
		return "User-Agent"
	}
	return http.CanonicalHeaderKey(name)
}
