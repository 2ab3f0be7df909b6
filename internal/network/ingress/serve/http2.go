package serve

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/celox/celox/internal/network/ingress/route"
)

// serveHTTP2 answers a request that came by HTTP/2.
func (r *running) serveHTTP2(w http.ResponseWriter, req *http.Request) {
	start := time.Now()
	snap := r.snap.Load()
	var v verdict
	q := query{
		tls: req.TLS != nil, method: req.Method, host: req.Host, path: req.URL.EscapedPath(), header: func(name string) string { return strings.Join(req.Header.Values(name), ", ") },
	}
	if raw, search, found := strings.Cut(req.RequestURI, "?"); strings.HasPrefix(raw, "/") {
		if q.path = raw; found {
			q.search = "?" + search
		}
	}
	if a, err := netip.ParseAddrPort(req.RemoteAddr); err == nil {
		q.peer = a.Addr().Unmap().WithZone("")
		q.text = q.peer.String()
	}
	count := &counted{ResponseWriter: w}
	r.decide(&q, snap, &v)
	var e *endpoint
	if v.status == 0 && v.target.Options.External != nil {
		r.askFirst(req.Context(), &q, &v)
	}
	if v.status != 0 {
		answer(count, &v)
	} else {
		e = r.forward(count, req, &q, &v)
	}
	r.done(&q, &v, e, count.code, count.bytes, start)
}

// done counts and logs an answer.
func (s *Server) done(q *query, v *verdict, e *endpoint, code int, bytes int64, start time.Time) {
	now := time.Now()
	counts := &s.stray
	if v.target != nil {
		counts = v.target.stats
	}
	counts.done(code, now.Sub(start))
	if s.cfg.Access == nil {
		return
	}
	entry := Entry{Time: start, Client: v.clientText, Method: q.method, Host: q.host, Path: q.path, Scheme: v.proto, Code: code, Bytes: bytes, Took: now.Sub(start)}
	if v.target != nil {
		entry.Ingress = v.target.Ingress
	}
	if e != nil {
		entry.Endpoint = e.host
	}
	s.cfg.Access(entry)
}

// counted notes what was answered.
type counted struct {
	http.ResponseWriter
	code  int
	bytes int64
}

// Unwrap is for http.ResponseController.
func (c *counted) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// WriteHeader implements http.ResponseWriter.
func (c *counted) WriteHeader(code int) {
	if code >= 200 || code == http.StatusSwitchingProtocols {
		c.code = code
	}
	c.ResponseWriter.WriteHeader(code)
}

// Write implements http.ResponseWriter.
func (c *counted) Write(b []byte) (int, error) {
	n, err := c.ResponseWriter.Write(b)
	c.bytes += int64(n)
	return n, err
}

// answer answers a request here.
func answer(w http.ResponseWriter, v *verdict) {
	h := w.Header()
	for name, values := range v.extra {
		h[name] = values
	}
	if v.location != "" {
		h.Set("Location", v.location)
	}
	if v.realm != "" {
		h.Set("WWW-Authenticate", `Basic realm="`+v.realm+`"`)
	}
	body := v.body
	if body == nil {
		h.Set("Content-Type", "text/plain; charset=utf-8")
		h.Set("X-Content-Type-Options", "nosniff")
		body = []byte(v.text())
	}
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(v.status)
	_, _ = w.Write(body) // who does not listen has his reasons
}

// text is what is said with a status.
func (v *verdict) text() string {
	text := strconv.Itoa(v.status) + " " + http.StatusText(v.status)
	if v.message != "" {
		text += ": " + v.message
	}
	return text + "\n"
}

// forward sends a request to an endpoint and its answer back.
func (s *Server) forward(w http.ResponseWriter, req *http.Request, q *query, v *verdict) *endpoint {
	o := v.target.Options
	if o.MaxBody > 0 {
		if req.ContentLength > o.MaxBody {
			v.status = http.StatusRequestEntityTooLarge
			answer(w, v)
			return nil
		}
		req.Body = http.MaxBytesReader(w, req.Body, o.MaxBody)
	}
	resp, e, set, err := s.roundTrip(w, req, q, v)
	if err != nil {
		v.status, v.message = http.StatusBadGateway, "the backend does not answer"
		var tooLarge *http.MaxBytesError
		switch {
		case errors.Is(err, errNoEndpoint):
			v.status, v.message = http.StatusServiceUnavailable, "the backend has no endpoints"
		case errors.As(err, &tooLarge):
			v.status, v.message = http.StatusRequestEntityTooLarge, ""
		case timedOut(err):
			v.status, v.message = http.StatusGatewayTimeout, "the backend takes too long"
		}
		s.cfg.Log.Debug("ingress: no answer", "ingress", v.target.Ingress, "backend", v.target.Backend, "err", err)
		answer(w, v)
		return e
	}
	defer func() {
		_ = resp.Body.Close()
		e.active.Add(-1)
	}()
	h := w.Header()
	stripHops(resp.Header)
	for name, values := range resp.Header {
		h[name] = values
	}
	if set != "" {
		h.Add("Set-Cookie", set)
	}
	for name := range resp.Trailer {
		h.Add("Trailer", name)
	}
	w.WriteHeader(resp.StatusCode)
	if err := copyBody(w, resp, o.Read); err != nil {
		if req.Context().Err() == nil {
			s.cfg.Log.Debug("ingress: the answer broke off", "ingress", v.target.Ingress, "err", err)
		}
		panic(http.ErrAbortHandler) // the client must not take it for whole
	}
	for name, values := range resp.Trailer {
		h[http.TrailerPrefix+name] = values
	}
	return e
}

func timedOut(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout() || errors.Is(err, context.DeadlineExceeded)
}

// copyBody gives a body on; at once, if it is one whose length nobody said. Idle bounds the silence of the backend.
func copyBody(w http.ResponseWriter, resp *http.Response, idle time.Duration) error {
	flush := http.NewResponseController(w)
	if resp.ContentLength < 0 {
		_ = flush.Flush() // who cannot be flushed cannot be helped
	}
	buf := getBuffer()
	defer putBuffer(buf)
	silence := time.AfterFunc(idle, func() { _ = resp.Body.Close() })
	defer silence.Stop()
	for {
		n, err := resp.Body.Read(*buf)
		if n > 0 {
			silence.Reset(idle)
			if _, werr := w.Write((*buf)[:n]); werr != nil {
				return werr
			}
			if resp.ContentLength < 0 {
				_ = flush.Flush() // as above
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

var errNoEndpoint = errors.New("the backend has no endpoints")

// roundTrip asks an endpoint, or another one if that is safe. The endpoint of the answer counts the request as under way until the caller says otherwise.
func (s *Server) roundTrip(w http.ResponseWriter, req *http.Request, q *query, v *verdict) (*http.Response, *endpoint, string, error) {
	t, o := v.target, v.target.Options
	body := &closing{Reader: req.Body}
	// What is small is read first, so that it can be sent again.
	var small []byte
	if req.ContentLength > 0 && req.ContentLength <= inSize {
		small = make([]byte, req.ContentLength)
		stream := http.NewResponseController(w)
		_ = stream.SetReadDeadline(time.Now().Add(bodyTime)) // HTTP/2 can; the other reader has a bound of its own
		if _, err := io.ReadFull(req.Body, small); err != nil {
			return nil, nil, "", err
		}
		_ = stream.SetReadDeadline(time.Time{})
	}
	again := req.Body == nil || req.Body == http.NoBody || req.ContentLength == 0 || small != nil
	var tried []*endpoint
	var last error
	for len(tried) < attempts {
		now := time.Now()
		e, set := t.choose(now, tried, q.header("Cookie"))
		if e == nil {
			return nil, nil, "", errNoEndpoint
		}
		if len(tried) > 0 {
			t.stats.retries.Add(1)
		}
		ctx, cancel := context.WithCancelCause(req.Context())
		out := req.WithContext(ctx)
		out.Header = req.Header.Clone()
		s.outgoing(out, q, v, e)
		switch {
		case small != nil:
			out.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(small)), nil }
			out.Body, _ = out.GetBody() // never fails
		case again:
			out.Body, out.ContentLength = nil, 0
		default:
			out.Body = body
		}
		e.active.Add(1)
		silence := time.AfterFunc(o.Connect+o.Read, func() { cancel(context.DeadlineExceeded) })
		body.progress = func() { silence.Reset(o.Read) }
		resp, err := s.transports.get(t.Backend.Protocol).RoundTrip(out)
		if err == nil || !body.untouched() {
			body.answered()
		}
		if err == nil && silence.Stop() {
			resp.Body = &released{ReadCloser: resp.Body, cancel: cancel}
			return resp, e, set, nil
		}
		silence.Stop()
		if err == nil {
			_ = resp.Body.Close()
			err = context.DeadlineExceeded
		} else if errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
			err = context.DeadlineExceeded
		}
		cancel(nil)
		e.active.Add(-1)
		last = err
		tried = append(tried, e)
		var unreached *dialError
		switch {
		case req.Context().Err() != nil:
			return nil, e, "", err
		case errors.As(err, &unreached) && body.untouched():
			e.avoid(now)
		case timedOut(err), !again, !idempotent(req.Method):
			return nil, e, "", err
		}
	}
	return nil, nil, "", last
}

// released ends the request with its body.
type released struct {
	io.ReadCloser
	cancel context.CancelCauseFunc
}

// Close implements io.Closer.
func (r *released) Close() error {
	err := r.ReadCloser.Close()
	r.cancel(nil)
	return err
}

// outgoing makes a client's request one for a backend.
func (s *Server) outgoing(out *http.Request, q *query, v *verdict, e *endpoint) {
	h := out.Header
	stripHops(h)
	for name := range h {
		if route.Managed(name) {
			delete(h, name)
		}
	}
	if v.target.Backend.Protocol.Multiplexed() {
		h["Te"] = []string{"trailers"} // gRPC wants it
	}
	h["X-Real-Ip"] = []string{v.clientText}
	h["X-Forwarded-For"] = []string{v.forwardedFor}
	h["X-Forwarded-Host"] = []string{v.forwardedHost}
	h["X-Forwarded-Port"] = []string{s.portOf(v.proto, v.forwardedHost)}
	h["X-Forwarded-Proto"] = []string{v.proto}
	h["Forwarded"] = []string{v.forwarded()}
	for name, values := range v.given {
		h[name] = values
	}
	if _, ok := h["User-Agent"]; !ok {
		h["User-Agent"] = nil // not Go's
	}
	scheme := "http"
	if v.target.Backend.Protocol.Secure() {
		scheme = "https"
	}
	decoded, _ := url.PathUnescape(v.path) // it was understood before
	out.URL = &url.URL{Scheme: scheme, Host: e.host, Path: decoded, RawPath: v.path, RawQuery: strings.TrimPrefix(q.search, "?"), ForceQuery: q.search == "?"}
	out.RequestURI = ""
	out.Host = q.host
	if host := v.target.Options.Host; host != "" {
		out.Host = host
	}
	out.Close = false
}

// forwarded is the client in the words of RFC 7239.
func (v *verdict) forwarded() string {
	b := make([]byte, 0, 96)
	return string(v.appendForwarded(b))
}

func (v *verdict) appendForwarded(b []byte) []byte {
	b = append(b, "for="...)
	if v.client.Is6() {
		b = append(b, `"[`...)
		b = append(b, v.clientText...)
		b = append(b, `]"`...)
	} else {
		b = append(b, v.clientText...)
	}
	b = append(b, `;host="`...)
	b = append(b, v.forwardedHost...) // has passed CleanHost: there is nothing to quote
	b = append(b, `";proto=`...)
	return append(b, v.proto...)
}

// portOf is the port that the client thinks it speaks to.
func (s *Server) portOf(proto, host string) string {
	if i := strings.LastIndexByte(host, ':'); i >= 0 && !strings.HasSuffix(host, "]") {
		return host[i+1:]
	}
	if proto == "https" {
		return "443"
	}
	return "80"
}

// stripHops removes what is only for the next hop (RFC 9110, 7.6.1).
func stripHops(h http.Header) {
	for _, line := range h["Connection"] {
		for name := range strings.SplitSeq(line, ",") {
			if name = strings.TrimSpace(name); httpguts.ValidHeaderFieldName(name) {
				h.Del(name)
			}
		}
	}
	for _, name := range []string{"Connection", "Keep-Alive", "Proxy-Connection", "Proxy-Authenticate", "Proxy-Authorization", "Te", "Trailer", "Transfer-Encoding", "Upgrade"} {
		delete(h, name)
	}
}

// askFirst asks the server that auth-url names.
func (s *Server) askFirst(ctx context.Context, q *query, v *verdict) {
	x := v.target.Options.External
	if x.URL == nil {
		v.status, v.message = http.StatusServiceUnavailable, "who decides about access is not known"
		return
	}
	method := x.Method
	if method == "" {
		method = http.MethodGet
	}
	ctx, cancel := context.WithTimeout(ctx, v.target.Options.Read)
	defer cancel()
	ask, err := http.NewRequestWithContext(ctx, method, x.URL.String(), nil)
	if err != nil {
		v.status = http.StatusInternalServerError
		return
	}
	for _, name := range []string{"Authorization", "Cookie", "User-Agent", "Accept"} {
		if value := q.header(name); value != "" {
			if name == "Cookie" {
				value = strings.ReplaceAll(value, ", ", "; ")
			}
			ask.Header.Set(name, value)
		}
	}
	original := v.proto + "://" + v.forwardedHost + q.path + q.search
	for name, value := range map[string]string{
		"X-Original-Url": original, "X-Original-Method": q.method, "X-Forwarded-Method": q.method, "X-Forwarded-Uri": q.path + q.search,
		"X-Real-Ip": v.clientText, "X-Forwarded-For": v.forwardedFor, "X-Forwarded-Host": v.forwardedHost, "X-Forwarded-Proto": v.proto, "X-Auth-Request-Redirect": q.path + q.search,
	} {
		ask.Header.Set(name, value)
	}
	resp, err := s.asking.Do(ask)
	if err != nil {
		s.cfg.Log.Debug("ingress: external authentication", "ingress", v.target.Ingress, "err", err)
		v.status, v.message = http.StatusServiceUnavailable, "who decides about access does not answer"
		return
	}
	defer func() { _ = resp.Body.Close() }() // it was read as far as it is wanted
	switch {
	case resp.StatusCode >= 200 && resp.StatusCode < 300:
		v.given = http.Header{}
		for _, name := range x.Headers {
			v.given[name] = resp.Header.Values(name) // also nothing: what the client itself says must not stand
		}
		_, _ = io.CopyN(io.Discard, resp.Body, maxHead) // so that the connection can be used again
	case resp.StatusCode == http.StatusUnauthorized && x.SignIn != "":
		glue := "?"
		if strings.Contains(x.SignIn, "?") {
			glue = "&"
		}
		v.status, v.location = http.StatusFound, x.SignIn+glue+"rd="+url.QueryEscape(original)
	case resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden:
		v.status = resp.StatusCode
		v.extra = http.Header{}
		for _, name := range []string{"Www-Authenticate", "Set-Cookie", "Content-Type"} {
			if values := resp.Header.Values(name); len(values) > 0 {
				v.extra[name] = values
			}
		}
		v.body, _ = io.ReadAll(io.LimitReader(resp.Body, maxHead)) // what came is what there is
	case resp.StatusCode >= 300 && resp.StatusCode < 400 && resp.Header.Get("Location") != "":
		v.status, v.location = resp.StatusCode, resp.Header.Get("Location")
	default:
		v.status, v.message = http.StatusServiceUnavailable, "who decides about access does not know"
	}
}

// addrOf is the address of a connection's other end.
func addrOf(a net.Addr) netip.AddrPort {
	if t, ok := a.(*net.TCPAddr); ok {
		p := t.AddrPort()
		return netip.AddrPortFrom(p.Addr().Unmap().WithZone(""), p.Port())
	}
	return netip.AddrPort{}
}
