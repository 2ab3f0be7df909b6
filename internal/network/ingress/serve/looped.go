package serve

import (
	"fmt"
	"net"

	"github.com/celox/celox/internal/network/ingress/loop"
)

// looped is a connection to an endpoint that belongs to a loop.
type looped struct{ *loop.Socket }

func (l *looped) on() *loop.Loop { return l.Loop() }
func (l *looped) quiet() bool    { return l.Quiet() }
func (l *looped) drop()          { l.CloseLater() }

func (l *looped) ask(out, in []byte, used bool) (int, error) {
	if used && !l.Quiet() {
		return 0, errStale
	}
	if _, err := l.Write(out); err != nil {
		return 0, err
	}
	return l.Read(in)
}

// openLoops makes the loops. Without one connections have goroutines.
func (r *running) openLoops() {
	for range r.cfg.Loops {
		l, err := loop.New()
		if err != nil {
			r.cfg.Log.Warn("ingress: a loop", "err", err)
			return
		}
		r.loops = append(r.loops, l)
	}
}

// toLoop gives a connection without TLS to the loop that has the fewest. False says that none takes it.
func (r *running) toLoop(m *member, c *net.TCPConn) bool {
	var to *loop.Loop
	for _, l := range r.loops {
		if to == nil || l.Tasks() < to.Tasks() {
			to = l
		}
	}
	if to == nil {
		return false
	}
	r.handlers.Add(1)
	if !to.Spawn(func() {
		defer r.handlers.Done()
		r.onLoop(to, m, c)
	}) {
		r.handlers.Done()
		return false
	}
	return true
}

// onLoop serves a connection on a loop, until it ends or a request comes that is none for a loop: then it goes on in a goroutine.
func (r *running) onLoop(l *loop.Loop, m *member, tcp *net.TCPConn) {
	peer := addrOf(m.RemoteAddr()).Addr()
	s, err := l.Adopt(tcp)
	if err != nil {
		r.cfg.Log.Debug("ingress: a loop cannot take a connection", "err", err)
		r.remove(m)
		return
	}
	defer func() { _ = s.Close() }() // it may be closed already
	r.mu.Lock()
	m.looped = s
	ending := r.ending.Load()
	r.mu.Unlock()
	if ending {
		r.remove(m)
		return
	}
	c := &client{running: r, conn: s, looped: s, peer: peer, text: peer.String()}
	c.rd.Conn = s
	x := c.serve(m, nil)
	if x == nil {
		r.remove(m)
		return
	}
	conn, err := s.Release()
	r.mu.Lock()
	m.looped = nil
	if err == nil {
		m.Conn = conn
		if r.over {
			m.drop()
		}
	}
	r.mu.Unlock()
	if err == nil {
		err = c.become(conn)
	}
	if err != nil {
		r.cfg.Log.Debug("ingress: a loop cannot give back a connection", "err", err)
		putExchange(x)
		r.remove(m)
		return
	}
	r.handlers.Go(func() {
		defer r.remove(m)
		c.serve(m, x)
	})
}

// become has the client go on in a goroutine.
func (c *client) become(conn net.Conn) error {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return fmt.Errorf("a TCP connection is a %T", conn)
	}
	s, err := newSocket(tcp)
	if err != nil {
		return err
	}
	next := &client{running: c.running, conn: s, peer: c.peer, text: c.text, lastHost: c.lastHost, tcp: s.raw}
	next.rd = c.rd
	next.rd.Conn = s
	*c = *next
	c.try = c.tryRead
	return nil
}

// loop is that of the client; nil is none.
func (c *client) loop() *loop.Loop {
	if c.looped == nil {
		return nil
	}
	return c.looped.Loop()
}

// whole says whether all of a request is here, and it is one that an answer follows and nothing else.
func (c *client) whole(x *exchange) bool {
	req := &x.req
	return !req.Chunked && req.Length <= int64(len(c.rd.Buffered())) && !req.Upgrades && !req.Continue
}

// prompt says whether requests for a target need nothing but a plain exchange with an endpoint.
func (t *target) prompt() bool {
	p := t.Backend.Protocol
	return t.Options.External == nil && !p.Multiplexed() && !p.Secure()
}

// leave puts the request back into the buffer. It is false, as it says that the connection must not be used any more: not here.
func (c *client) leave() bool {
	c.rd.R -= c.head
	c.leaves = true
	return false
}
