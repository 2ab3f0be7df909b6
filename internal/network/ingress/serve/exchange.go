package serve

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/celox/celox/internal/network/ingress/http1"
)

// sentTime is how long an answer waits for who sends the rest of the request: nearly always that is done, and is just about to say so.
const sentTime = 10 * time.Millisecond

var (
	errTooLarge = errors.New("the body is too large")
	errClient   = errors.New("the client broke off")
)

// exchange sends a request to an endpoint over HTTP/1 and gives its answer back.
func (c *client) exchange(x *exchange, reusable bool, start time.Time) outcome {
	t := x.v.target
	o := t.Options
	upgrade := x.req.Upgrades && tunnelled(x.req.UpgradeTo) && x.body.Done()
	c.appendRequest(x, upgrade)
	// What is here of the body goes with the head.
	whole, err := c.appendWaiting(x)
	if err != nil {
		return c.fail(x, outcome{}, http.StatusBadRequest, err)
	}
	again := idempotent(x.q.method) && whole
	atOnce := whole && len(x.out) <= rawMost && !t.backend.Protocol.Secure() // one step writes the request, and looks at the connection before
	var tried [attempts]*endpoint
	var last error
	for n := 0; n < attempts; n++ {
		now := start
		if n > 0 {
			now = time.Now()
		}
		e, set := t.choose(now, tried[:n], x.cookies(t))
		if e == nil {
			return c.fail(x, outcome{}, http.StatusServiceUnavailable, errNoEndpoint)
		}
		if n > 0 {
			t.stats.retries.Add(1)
		}
		tried[n] = e
		var result outcome
		var retry bool
		for err = errStale; errors.Is(err, errStale); { // as often as there are connections that waited
			var u *upstream
			u, err = t.backend.connect(c.loop(), e, o, n > 0, !atOnce && (!again || !t.backend.Protocol.Secure()), now)
			if err != nil {
				break
			}
			e.active.Add(1)
			result, retry, err = c.over(u, x, set, reusable, upgrade, whole, atOnce, now)
			e.active.Add(-1)
		}
		if unreached(err) {
			last = err
			continue // it has seen nothing
		}
		result.e = e
		if err == nil {
			return result
		}
		last = err
		if !retry || !again {
			return c.failed(x, result, last)
		}
	}
	return c.failed(x, outcome{e: tried[attempts-1]}, last)
}

// tunnelled says whether a protocol may be changed to. HTTP itself is none: within a tunnel nobody would look at requests any more.
func tunnelled(protocol []byte) bool {
	return len(protocol) > 0 && !bytes.ContainsAny(protocol, ", \t") && !bytes.EqualFold(protocol[:min(2, len(protocol))], []byte("h2")) &&
		!bytes.EqualFold(protocol[:min(4, len(protocol))], []byte("http"))
}

// failed answers for a backend that did not.
func (c *client) failed(x *exchange, r outcome, err error) outcome {
	code := http.StatusBadGateway
	switch {
	case r.code != 0:
		c.cfg.Log.Debug("ingress: the answer broke off", "ingress", x.v.target.Ingress, "err", err)
		r.keep = false
		return r
	case errors.Is(err, errTooLarge):
		code = http.StatusRequestEntityTooLarge
	case errors.Is(err, errClient):
		code = http.StatusBadRequest
		if timedOut(err) {
			code = http.StatusRequestTimeout
		}
	case timedOut(err):
		code = http.StatusGatewayTimeout
	}
	return c.fail(x, r, code, err)
}

func (c *client) fail(x *exchange, r outcome, code int, err error) outcome {
	c.cfg.Log.Debug("ingress: no answer", "ingress", x.v.target.Ingress, "backend", x.v.target.Backend, "err", err)
	v := &x.v
	v.status = code
	switch {
	case errors.Is(err, errNoEndpoint):
		v.message = "the backend has no endpoints"
	case code == http.StatusGatewayTimeout:
		v.message = "the backend takes too long"
	case code == http.StatusBadGateway:
		v.message = "the backend does not answer"
	}
	r.code = code
	r.keep = x.body.Done() && x.req.Reusable()
	c.refuse(x, r.keep)
	return r
}

// cookies are those of the request, if the choice of the endpoint depends on them.
func (x *exchange) cookies(t *target) string {
	if t.Options.Affinity == nil {
		return ""
	}
	return x.req.Get("Cookie")
}

// appendRequest makes the head of the request for the backend in x.out.
func (c *client) appendRequest(x *exchange, upgrade bool) {
	req, v := &x.req, &x.v
	out := append(x.out[:0], req.Method...)
	out = append(out, ' ')
	out = append(out, v.path...)
	out = append(out, x.q.search...)
	out = append(out, " HTTP/1.1\r\nHost: "...)
	if host := v.target.Options.Host; host != "" {
		out = append(out, host...)
	} else {
		out = append(out, x.q.host...)
	}
	out = append(out, "\r\n"...)
	names := req.Names()
	for i := range req.Fields {
		f := &req.Fields[i]
		if f.Kind != http1.Other || names && req.Named(f.Name) {
			continue
		}
		if len(v.given) > 0 {
			if _, ok := v.given[http.CanonicalHeaderKey(string(f.Name))]; ok {
				continue
			}
		}
		out = append(out, f.Name...)
		out = append(out, ": "...)
		out = append(out, f.Value...)
		out = append(out, "\r\n"...)
	}
	for name, values := range v.given {
		for _, value := range values {
			out = appendField(out, name, oneLine(value))
		}
	}
	out = append(out, "X-Real-IP: "...)
	out = append(out, v.clientText...)
	out = append(out, "\r\nX-Forwarded-For: "...)
	out = append(out, v.forwardedFor...)
	out = append(out, "\r\nX-Forwarded-Host: "...)
	out = append(out, v.forwardedHost...)
	out = append(out, "\r\nX-Forwarded-Port: "...)
	out = append(out, c.portOf(v.proto, v.forwardedHost)...)
	out = append(out, "\r\nX-Forwarded-Proto: "...)
	out = append(out, v.proto...)
	out = append(out, "\r\nForwarded: "...)
	out = v.appendForwarded(out)
	out = append(out, "\r\n"...)
	switch {
	case req.Chunked:
		out = append(out, "Transfer-Encoding: chunked\r\n"...)
	case req.Length >= 0:
		out = append(out, "Content-Length: "...)
		out = strconv.AppendInt(out, req.Length, 10)
		out = append(out, "\r\n"...)
	}
	if upgrade {
		out = append(out, "Connection: Upgrade\r\nUpgrade: "...)
		out = append(out, req.UpgradeTo...)
		out = append(out, "\r\n"...)
	}
	x.out = append(out, "\r\n"...)
}

// appendWaiting appends what is in the buffer of the body, and says whether that is all of it.
func (c *client) appendWaiting(x *exchange) (bool, error) {
	most := x.v.target.Options.MaxBody
	for !x.body.Done() {
		p, err := x.body.Waiting(&c.rd)
		if err != nil {
			return false, err
		}
		if p == nil {
			break
		}
		if x.received += int64(len(p)); most > 0 && x.received > most {
			return false, errTooLarge
		}
		if x.req.Chunked {
			x.out = http1.AppendChunk(x.out, p)
		} else {
			x.out = append(x.out, p...)
		}
	}
	if x.body.Done() && x.req.Chunked {
		x.out = append(x.out, "0\r\n\r\n"...)
	}
	return x.body.Done(), nil
}

// over does the exchange over one connection. Retry says that the backend has certainly not answered, so that an idempotent request may be sent again.
func (c *client) over(u *upstream, x *exchange, set string, reusable, upgrade, whole, atOnce bool, now time.Time) (r outcome, retry bool, err error) {
	o := x.v.target.Options
	u.writeWithin(o.Send, now)
	back := http1.Reader{Conn: u, Buf: x.back}
	if atOnce {
		u.readWithin(o.Read, now)
		back.W, err = u.wire.ask(x.out, x.back, !u.idleSince.IsZero())
		if err != nil {
			u.close()
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return outcome{}, !timedOut(err), err
		}
	} else if _, err := u.Write(x.out); err != nil {
		u.close()
		return outcome{}, true, err
	}
	var sent chan error
	if !whole {
		if x.req.Continue {
			c.writeWithin(bodyTime, now)
			if _, err := c.conn.Write([]byte("HTTP/1.1 100 Continue\r\n\r\n")); err != nil {
				u.close()
				return outcome{}, false, errors.Join(errClient, err)
			}
		}
		sent = make(chan error, 1)
		u.readBy = time.Time{}
		_ = u.SetReadDeadline(u.readBy) // the backend's time begins when it has everything
		go func() { sent <- c.sendBody(u, x) }()
	}
	if sent == nil && !atOnce {
		u.readWithin(o.Read, now)
	}
	err = c.answerHead(u, x, &back)
	if err != nil {
		u.close()
		if sent != nil {
			_ = c.conn.SetReadDeadline(time.Unix(1, 0)) // wakes who reads the body
			c.readBy = time.Time{}
			if cause := <-sent; errors.Is(cause, errTooLarge) || errors.Is(cause, errClient) && !timedOut(err) {
				err = cause
			}
		}
		return outcome{}, !timedOut(err), err
	}
	if x.resp.Code == http.StatusSwitchingProtocols {
		return c.tunnel(u, x, &back, upgrade)
	}
	r, err = c.giveBack(u, x, &back, set, reusable, &sent)
	return r, false, err
}

// sendBody sends what is left of a body.
func (c *client) sendBody(u *upstream, x *exchange) (err error) {
	o := x.v.target.Options
	defer func() {
		if err != nil && (errors.Is(err, errClient) || errors.Is(err, errTooLarge)) {
			u.close() // the backend must not take it for whole, and who waits for its answer need not
		}
	}()
	var chunk []byte
	for {
		c.readWithin(bodyTime, time.Now())
		p, err := x.body.Next(&c.rd)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return errors.Join(errClient, err)
		}
		if x.received += int64(len(p)); o.MaxBody > 0 && x.received > o.MaxBody {
			return errTooLarge
		}
		if x.req.Chunked {
			chunk = http1.AppendChunk(chunk[:0], p)
			p = chunk
		}
		u.writeWithin(o.Send, time.Now())
		if _, err := u.Write(p); err != nil {
			return err
		}
	}
	if x.req.Chunked {
		if _, err := u.Write([]byte("0\r\n\r\n")); err != nil {
			return err
		}
	}
	return u.SetReadDeadline(time.Now().Add(o.Read))
}

// answerHead reads the head of the answer. Interim answers but 101 are left out.
func (c *client) answerHead(u *upstream, x *exchange, back *http1.Reader) error {
	for interim := 0; interim < 8; {
		seen := 0
		for {
			b := back.Buffered()
			n := http1.End(b, seen)
			if n > 0 {
				if err := x.resp.ParseResponse(b[:n], 2*maxFields); err != nil {
					return err
				}
				back.R += n
				break
			}
			if seen = len(b); seen >= maxHead {
				return http1.ErrTooMany
			}
			if back.W == len(back.Buf) && back.R == 0 {
				x.back = append(make([]byte, 0, 2*len(x.back)), x.back...)[:2*len(x.back)]
				back.Buf = x.back
			}
			if err := back.Fill(); err != nil {
				if errors.Is(err, io.EOF) {
					err = io.ErrUnexpectedEOF
				}
				return err
			}
		}
		if x.resp.Code >= 200 || x.resp.Code == http.StatusSwitchingProtocols {
			return nil
		}
		interim++
	}
	return http1.ErrLine
}

// giveBack sends the answer to the client.
func (c *client) giveBack(u *upstream, x *exchange, back *http1.Reader, set string, keep bool, sent *chan error) (outcome, error) {
	resp := &x.resp
	r := outcome{code: resp.Code}
	var body http1.Body
	framing, length := http1.UntilClose, int64(0)
	switch {
	case x.q.method == http.MethodHead, resp.Code == http.StatusNoContent, resp.Code == http.StatusNotModified:
		framing = http1.None
	case resp.Chunked:
		framing = http1.Chunks
	case resp.Length >= 0:
		framing, length = http1.Sized, resp.Length
	}
	body.Begin(framing, length, false)
	chunked := framing == http1.Chunks || framing == http1.UntilClose
	if chunked && x.req.Minor == 0 {
		chunked, keep = false, false // its end is that of the connection
	}
	if *sent != nil {
		// The body must be sent by the time that the answer ends. If it is not, who sends it has the client's connection still.
		select {
		case err := <-*sent:
			*sent = nil
			keep = keep && err == nil
		case <-time.After(sentTime):
			keep = false
		}
	}
	now := time.Now()
	c.appendAnswer(x, set, keep, chunked, framing)
	idle := x.v.target.Options.Read
	finished := false
	var err error
	for !finished {
		// All that is here goes in one write with the head, or with what came before.
		for len(x.out) < 4*backSize {
			p, perr := body.Waiting(back)
			if perr != nil {
				err = perr
				break
			}
			if p == nil {
				break
			}
			r.bytes += int64(len(p))
			if chunked {
				x.out = http1.AppendChunk(x.out, p)
			} else {
				x.out = append(x.out, p...)
			}
		}
		finished = body.Done()
		if finished && chunked {
			x.out = append(x.out, "0\r\n\r\n"...)
		}
		if len(x.out) > 0 {
			c.writeWithin(bodyTime, now)
			if _, werr := c.conn.Write(x.out); werr != nil && err == nil {
				err = werr
			}
			x.out = x.out[:0]
		}
		if finished || err != nil {
			break
		}
		now = time.Now()
		u.readWithin(idle, now)
		if !chunked && framing != http1.Chunks {
			n, cerr := c.copyRest(u, &body, back, &now, idle)
			r.bytes += n
			if err = cerr; err == nil {
				finished = true
			}
			break
		}
		if err = back.Fill(); err != nil {
			if framing == http1.UntilClose && errors.Is(err, io.EOF) {
				err = nil
				finished = true
				if chunked {
					_, err = c.conn.Write([]byte("0\r\n\r\n"))
				}
			}
			break
		}
	}
	if *sent != nil {
		_ = c.conn.SetReadDeadline(time.Unix(1, 0)) // wakes who reads the body
		u.close()
		<-*sent
		*sent = nil
		r.keep = false
		return r, err
	}
	if err != nil {
		u.close()
		return r, err
	}
	if resp.Reusable() && framing != http1.UntilClose && back.R == back.W && x.body.Done() {
		u.release(now)
	} else {
		u.close()
	}
	r.keep = keep
	return r, nil
}

// copyRest gives on what is left of a body whose bytes are the same on both sides.
func (c *client) copyRest(u *upstream, body *http1.Body, back *http1.Reader, now *time.Time, idle time.Duration) (int64, error) {
	buf := getBuffer()
	defer putBuffer(buf)
	own := back.Buf
	back.Buf, back.R, back.W = *buf, 0, 0 // nothing is buffered
	defer func() { back.Buf, back.R, back.W = own, 0, back.W-back.R }()
	var total int64
	for {
		u.readWithin(idle, *now)
		p, err := body.Next(back)
		if errors.Is(err, io.EOF) {
			return total, nil
		}
		if err != nil {
			return total, err
		}
		*now = time.Now()
		c.writeWithin(bodyTime, *now)
		n, err := c.conn.Write(p)
		total += int64(n)
		if err != nil {
			return total, err
		}
	}
}

// appendAnswer makes the head of the answer in x.out.
func (c *client) appendAnswer(x *exchange, set string, keep, chunked bool, framing http1.Framing) {
	resp := &x.resp
	out := append(x.out[:0], "HTTP/1.1 "...)
	out = strconv.AppendInt(out, int64(resp.Code), 10)
	out = append(out, ' ')
	out = append(out, resp.Reason...)
	out = append(out, "\r\n"...)
	names := resp.Names()
	for i := range resp.Fields {
		f := &resp.Fields[i]
		switch f.Kind {
		case http1.Other, http1.Managed, http1.Alias, http1.Host, http1.Expect:
		default:
			continue
		}
		if names && resp.Named(f.Name) {
			continue
		}
		out = append(out, f.Name...)
		out = append(out, ": "...)
		out = append(out, f.Value...)
		out = append(out, "\r\n"...)
	}
	if set != "" {
		out = appendField(out, "Set-Cookie", set)
	}
	switch {
	case chunked:
		out = append(out, "Transfer-Encoding: chunked\r\n"...)
	case framing == http1.Sized, framing == http1.None && resp.Length >= 0 && resp.Code != http.StatusNoContent:
		out = append(out, "Content-Length: "...)
		out = strconv.AppendInt(out, resp.Length, 10)
		out = append(out, "\r\n"...)
	}
	out = c.appendConnection(out, x, keep)
	x.out = append(out, "\r\n"...)
}
