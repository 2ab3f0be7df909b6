package serve

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/celox/celox/internal/network/ingress/http1"
	"github.com/celox/celox/internal/network/ingress/loop"
)

// client is a connection of a client that speaks HTTP/1.
type client struct {
	*running
	conn   net.Conn // with TLS, if there is any
	secure bool
	peer   netip.Addr
	text   string // peer
	rd     http1.Reader
	// While the client waits, no buffer is held: what comes first is read by tryRead, or, where that is not possible, into first.
	tcp    syscall.RawConn
	try    func(fd uintptr) bool
	got    *exchange
	first  [1]byte
	unread bool // the client still sends what nobody reads
	// looped is conn while it is a loop's; leaves says that the request that is in the buffer is none for a loop. Head is how long its head is.
	looped *loop.Socket
	leaves bool
	head   int
	// deadlines that are set, as in upstream
	readBy, writeBy time.Time
	// lastHost saves making a string of it for each request.
	lastHost string
}

// exchange is what one request needs. They are used again.
type exchange struct {
	in   []byte // the client's head and what came with it
	out  []byte // what is sent: the request, then the head of the answer
	back []byte // the answer
	req  http1.Head
	resp http1.Head
	body http1.Body
	q    query
	v    verdict

	header   func(string) string // req.Get
	received int64               // of the body
}

const (
	inSize, backSize = 8 << 10, 16 << 10
	// bodyTime bounds the silence of a client in the middle of a body, and of one that reads.
	bodyTime = 60 * time.Second
	// lingerTime and lingerBytes bound what is read of a client that was refused, so that it can read why.
	lingerTime, lingerBytes = 2 * time.Second, 256 << 10
)

// pools of buffers and exchanges.
type pools struct {
	exchanges, buffers sync.Pool
}

var shared = pools{
	exchanges: sync.Pool{New: func() any {
		x := &exchange{in: make([]byte, inSize), out: make([]byte, 0, inSize), back: make([]byte, backSize)}
		x.header = x.req.Get
		return x
	}},
	buffers: sync.Pool{New: func() any {
		b := make([]byte, 2*backSize)
		return &b
	}},
}

func getBuffer() *[]byte {
	b, _ := shared.buffers.Get().(*[]byte)
	return b
}

func putBuffer(b *[]byte) { shared.buffers.Put(b) }

func getExchange() *exchange {
	x, _ := shared.exchanges.Get().(*exchange)
	return x
}

func putExchange(x *exchange) {
	x.v, x.q = verdict{}, query{}
	if len(x.in) > inSize {
		x.in = make([]byte, inSize)
	}
	if cap(x.out) > 4*inSize {
		x.out = make([]byte, 0, inSize)
	}
	if len(x.back) > backSize {
		x.back = make([]byte, backSize)
	}
	shared.exchanges.Put(x)
}

// tracked tells when a connection is closed, by whoever has it.
type tracked struct {
	net.Conn
	once   sync.Once
	closed chan struct{}
}

// Close implements io.Closer.
func (t *tracked) Close() error {
	err := t.Conn.Close()
	t.once.Do(func() { close(t.closed) })
	return err
}

// connection serves a connection until it ends.
func (r *running) connection(ctx context.Context, member *member, secure *tls.Config) {
	raw := member.Conn
	peer := addrOf(raw.RemoteAddr()).Addr()
	if tcp, ok := raw.(*net.TCPConn); ok {
		s, err := newSocket(tcp)
		if err != nil {
			return
		}
		raw = s
	}
	conn := raw
	if r.cfg.ProxyProtocol && within(r.cfg.Trusted, peer) {
		_ = raw.SetReadDeadline(time.Now().Add(handshakeTime)) // fails only where reading does
		told, rest, err := readProxyLine(raw)
		if err != nil {
			r.cfg.Log.Debug("ingress: PROXY protocol", "peer", peer, "err", err)
			return
		}
		if told.IsValid() {
			peer = told
		}
		if len(rest) > 0 {
			conn = &replay{Conn: raw, rest: rest}
		}
	}
	c := &client{running: r, conn: conn, peer: peer, text: peer.String()}
	if secure != nil {
		t := &tracked{Conn: conn, closed: make(chan struct{})}
		conn := tls.Server(t, secure)
		shake, cancel := context.WithTimeout(ctx, handshakeTime)
		err := conn.HandshakeContext(shake)
		cancel()
		if err != nil {
			r.cfg.Log.Debug("ingress: TLS", "peer", peer, "err", err)
			return
		}
		if conn.ConnectionState().NegotiatedProtocol == "h2" {
			member.state.Store(handedOver)
			_ = raw.SetReadDeadline(time.Time{})
			if r.http2.give(conn) {
				<-t.closed
			}
			return
		}
		c.conn, c.secure = conn, true
	} else if s, ok := conn.(*socket); ok {
		c.tcp, c.try = s.raw, c.tryRead
	}
	c.rd.Conn = c.conn
	c.serve(member, nil)
}

// replay gives what was read too much before the rest.
type replay struct {
	net.Conn
	rest []byte
}

// Read implements io.Reader.
func (r *replay) Read(b []byte) (int, error) {
	if len(r.rest) > 0 {
		n := copy(b, r.rest)
		r.rest = r.rest[n:]
		return n, nil
	}
	return r.Conn.Read(b)
}

// serve answers requests one after another. X is nil, or has one in its buffer. It returns an exchange if this one is none for a loop.
func (c *client) serve(m *member, x *exchange) *exchange {
	defer func() {
		if x != nil {
			putExchange(x)
		}
	}()
	for {
		if x == nil || c.rd.R == c.rd.W {
			if x != nil {
				putExchange(x)
			}
			m.state.Store(waiting)
			if c.ending.Load() {
				x = nil
				return nil
			}
			c.readWithin(waitTime, time.Now())
			if x = c.await(); x == nil {
				return nil
			}
		}
		m.state.Store(working)
		start := time.Now()
		keep := c.request(x, start)
		if c.leaves {
			left := x
			x = nil
			return left
		}
		if !keep || c.ending.Load() {
			if c.unread {
				c.linger()
			}
			return nil
		}
	}
}

// await waits for the first bytes of a request, without a buffer until they are there. It returns nil when the connection is over.
func (c *client) await() *exchange {
	if c.looped != nil {
		if c.looped.Wait() != nil {
			return nil
		}
		x := getExchange()
		n, err := c.conn.Read(x.in)
		if err != nil {
			putExchange(x)
			return nil
		}
		c.rd.Buf, c.rd.R, c.rd.W = x.in, 0, n
		return x
	}
	if c.tcp == nil {
		if n, err := c.conn.Read(c.first[:]); n == 0 || err != nil {
			return nil
		}
		x := getExchange()
		x.in[0] = c.first[0]
		c.rd.Buf, c.rd.R, c.rd.W = x.in, 0, 1
		return x
	}
	if err := c.tcp.Read(c.try); err != nil || c.got == nil {
		return nil
	}
	x := c.got
	c.got = nil
	c.rd.Buf, c.rd.R = x.in, 0 // W was set by tryRead
	return x
}

// tryRead reads if there is something to read; false is that there is not.
func (c *client) tryRead(fd uintptr) bool {
	x := getExchange()
	n, again, err := readNow(fd, x.in)
	if again || err != nil || n == 0 {
		putExchange(x)
		return !again
	}
	c.got, c.rd.W = x, n
	return true
}

// linger reads a bit of what the client still sends: a connection that is closed with unread bytes takes the answer with it.
func (c *client) linger() {
	closer, ok := c.conn.(interface{ CloseWrite() error })
	if !ok || closer.CloseWrite() != nil {
		return
	}
	_ = c.conn.SetReadDeadline(time.Now().Add(lingerTime)) // fails only where reading does
	_, _ = io.CopyN(io.Discard, c.conn, lingerBytes)       // whatever ends it
}

func (c *client) readWithin(d time.Duration, now time.Time) {
	if near(c.readBy, now, d) {
		return
	}
	c.readBy = now.Add(d)
	_ = c.conn.SetReadDeadline(c.readBy) // fails only where reading does
}

func (c *client) writeWithin(d time.Duration, now time.Time) {
	if near(c.writeBy, now, d) {
		return
	}
	c.writeBy = now.Add(d)
	_ = c.conn.SetWriteDeadline(c.writeBy) // fails only where writing does
}

// readHead reads the head of a request into x.req. It returns how the request is refused, 0 if it is not.
func (c *client) readHead(x *exchange, start time.Time) (code int, err error) {
	for c.rd.R < c.rd.W && (c.rd.Buf[c.rd.R] == '\r' || c.rd.Buf[c.rd.R] == '\n') {
		c.rd.R++ // empty lines before a request (RFC 9112, 2.2)
	}
	seen, slow := 0, false
	for {
		b := c.rd.Buffered()
		if n := http1.End(b, seen); n > 0 {
			c.rd.R += n
			c.head = n
			err := x.req.ParseRequest(b[:n], maxFields)
			switch {
			case err == nil:
				return 0, nil
			case errors.Is(err, http1.ErrTooMany):
				return http.StatusRequestHeaderFieldsTooLarge, err
			case errors.Is(err, http1.ErrVersion):
				return http.StatusHTTPVersionNotSupported, err
			case errors.Is(err, http1.ErrCoding):
				return http.StatusNotImplemented, err
			}
			return http.StatusBadRequest, err
		}
		seen = len(b)
		if seen >= maxHead {
			return http.StatusRequestHeaderFieldsTooLarge, http1.ErrTooMany
		}
		if c.rd.W == len(c.rd.Buf) && c.rd.R == 0 {
			x.in = append(make([]byte, 0, 2*len(x.in)), x.in...)[:2*len(x.in)]
			c.rd.Buf = x.in
		}
		if !slow { // all of the head has to come within this time, however slowly
			slow = true
			c.readBy = start.Add(headTime)
			_ = c.conn.SetReadDeadline(c.readBy) // fails only where reading does
		}
		if err := c.rd.Fill(); err != nil {
			if timedOut(err) && seen > 0 {
				return http.StatusRequestTimeout, err
			}
			return -1, err
		}
	}
}

// request answers one request. False says that the connection must not be used any more.
func (c *client) request(x *exchange, start time.Time) bool {
	code, err := c.readHead(x, start)
	if code != 0 {
		if code > 0 {
			c.unread = true
			x.q = query{text: c.text}
			x.v = verdict{status: code, message: err.Error(), clientText: c.text}
			x.req.Minor = 1
			c.refuse(x, false)
			c.done(&x.q, &x.v, nil, code, 0, start)
		}
		return false
	}
	if !c.understand(x) {
		x.v = verdict{status: http.StatusBadRequest, message: "the target is not valid", clientText: c.text}
		c.unread = true
		c.refuse(x, false)
		c.done(&x.q, &x.v, nil, x.v.status, 0, start)
		return false
	}
	req, v := &x.req, &x.v
	framing := http1.None
	switch {
	case req.Chunked:
		framing = http1.Chunks
	case req.Length > 0:
		framing = http1.Sized
	}
	x.body.Begin(framing, req.Length, true)
	*v = verdict{}
	x.received = 0
	if c.looped != nil {
		if !c.whole(x) {
			return c.leave()
		}
		x.q.prompt = true
	}
	c.decide(&x.q, c.snap.Load(), v)
	if x.q.prompt && (v.undecided || v.status == 0 && !v.target.prompt()) {
		return c.leave()
	}
	if v.status == 0 && v.target.Options.MaxBody > 0 && req.Length > v.target.Options.MaxBody {
		v.status = http.StatusRequestEntityTooLarge
	}
	if v.status == 0 && v.target.Options.External != nil {
		ctx, cancel := context.WithTimeout(context.Background(), v.target.Options.Read)
		c.askFirst(ctx, &x.q, v)
		cancel()
	}
	reusable := req.Reusable()
	if v.status != 0 {
		// A body that nobody wants is read over if it is here already, else the connection ends.
		// Who makes mistakes in one request is not trusted to tell where the next begins.
		keep := c.skip(x) && reusable && v.status != http.StatusBadRequest
		c.refuse(x, keep)
		c.done(&x.q, v, nil, v.status, 0, start)
		c.unread = !x.body.Done()
		return keep
	}
	var result outcome
	if v.target.Backend.Protocol.Multiplexed() {
		result = c.translate(x, reusable)
	} else {
		result = c.exchange(x, reusable, start)
	}
	c.done(&x.q, v, result.e, result.code, result.bytes, start)
	c.unread = !x.body.Done()
	return result.keep && x.body.Done()
}

// outcome is how an exchange ended.
type outcome struct {
	e     *endpoint
	code  int
	bytes int64
	keep  bool // the client's connection is good for another request
}

// understand takes the target apart.
func (c *client) understand(x *exchange) bool {
	q, target := &x.q, x.req.Target
	host := x.req.HostValue
	if target[0] != '/' {
		// Of the other forms only that of proxies is for us (RFC 9112, 3.2.2): its host counts.
		scheme, rest, found := bytes.Cut(target, []byte("://"))
		if !found || !bytes.EqualFold(scheme, []byte("http")) && !bytes.EqualFold(scheme, []byte("https")) {
			return false
		}
		if i := bytes.IndexAny(rest, "/?"); i >= 0 {
			host, target = rest[:i], rest[i:]
		} else {
			host, target = rest, nil
		}
		if len(target) == 0 || target[0] == '?' {
			target = append([]byte{'/'}, target...)
		}
		if len(host) == 0 {
			return false
		}
	}
	if string(host) != c.lastHost {
		c.lastHost = string(host)
	}
	*q = query{tls: c.secure, peer: c.peer, text: c.text, host: c.lastHost, header: x.header, method: methodName(x.req.Method)}
	if i := bytes.IndexByte(target, '?'); i >= 0 {
		q.path, q.search = string(target[:i]), string(target[i:])
	} else {
		q.path = string(target)
	}
	return q.method != http.MethodConnect
}

// methodName saves making strings of the usual ones.
func methodName(b []byte) string {
	for _, m := range [...]string{"GET", "POST", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS"} {
		if string(b) == m {
			return m
		}
	}
	return string(b)
}

// skip reads over a body that is in the buffer already, and says whether it was whole.
func (c *client) skip(x *exchange) bool {
	for !x.body.Done() {
		if p, err := x.body.Waiting(&c.rd); err != nil || p == nil && !x.body.Done() {
			return false
		}
	}
	return true
}

// refuse answers a request here.
func (c *client) refuse(x *exchange, keep bool) {
	v := &x.v
	text := v.body
	kind := ""
	if text == nil {
		text, kind = []byte(v.text()), "Content-Type: text/plain; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\n"
	}
	out := append(x.out[:0], "HTTP/1.1 "...)
	out = strconv.AppendInt(out, int64(v.status), 10)
	out = append(out, ' ')
	out = append(out, http.StatusText(v.status)...)
	out = append(out, "\r\n"...)
	out = append(out, kind...)
	for name, values := range v.extra {
		for _, value := range values {
			out = appendField(out, name, oneLine(value))
		}
	}
	if v.location != "" {
		out = appendField(out, "Location", oneLine(v.location))
	}
	if v.realm != "" {
		out = appendField(out, "WWW-Authenticate", `Basic realm="`+v.realm+`"`)
	}
	out = appendField(out, "Content-Length", strconv.Itoa(len(text)))
	out = c.appendConnection(out, x, keep)
	out = append(out, "\r\n"...)
	if x.q.method != http.MethodHead {
		out = append(out, text...)
	}
	x.out = out
	c.writeWithin(bodyTime, time.Now())
	_, _ = c.conn.Write(out) // who does not listen has his reasons
}

// oneLine keeps others' text from becoming lines of a head.
func oneLine(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) {
		return ""
	}
	return s
}

func appendField(out []byte, name, value string) []byte {
	out = append(out, name...)
	out = append(out, ": "...)
	out = append(out, value...)
	return append(out, "\r\n"...)
}

func (c *client) appendConnection(out []byte, x *exchange, keep bool) []byte {
	switch {
	case !keep:
		return append(out, "Connection: close\r\n"...)
	case x.req.Minor == 0:
		return append(out, "Connection: keep-alive\r\n"...)
	}
	return out
}
