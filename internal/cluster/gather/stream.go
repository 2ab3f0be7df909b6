package gather

import (
	"context"
	"io"
	"net/http"
	"os"
	"runtime/debug"
	"time"

	"golang.org/x/net/http2"
)

// stream is one request and its answer. Its fields are guarded by the connection's mu, but for r, which is the handler's.
type stream struct {
	c        *conn
	id       uint32
	r        *http.Request
	ctx      context.Context
	cancel   context.CancelFunc
	tooLarge bool // the request's headers
	expects  bool // "100 Continue", before it sends its body

	window  int64         // what we may send
	wake    chan struct{} // holds a token when a writer may go on; made by the first who waits
	blocked bool          // it is in the connection's list
	wants   int64         // how wide the window must become for the writer to be woken; 0 is at all
	hurried bool          // the writer has waited long enough for a wider window
	limit   deadline      // of writing
	sentEnd bool
	done    bool  // the handler has returned
	err     error // why the stream was broken off

	gotEnd   bool
	body     []byte        // what nobody has read yet
	reader   chan struct{} // as wake, for the body's reader
	until    deadline      // of reading
	received int64         // what the peer may still send
	unread   int64         // what we have not yet told the peer that we took
	declared int64         // the body's length by its header, or -1
	taken    int64
}

// deadline is a time after which waiting ends; a timer wakes those who wait.
type deadline struct {
	at    time.Time
	timer *time.Timer
}

func (d *deadline) passed() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

func (d *deadline) set(at time.Time, wake func()) {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	d.at = at
	if !at.IsZero() {
		d.timer = time.AfterFunc(time.Until(at), wake)
	}
}

func poke(ch chan struct{}) {
	if ch == nil {
		return
	}
	select {
	case ch <- struct{}{}:
	default:
	}
}

// signal wakes the stream's writer.
func (s *stream) signal()     { poke(s.wake) }
func (s *stream) wakeReader() { poke(s.reader) }

// serve runs the handler.
func (s *stream) serve() {
	c := s.c
	w := &response{s: s}
	defer s.left(w)
	if s.tooLarge {
		w.WriteHeader(http.StatusRequestHeaderFieldsTooLarge)
		return
	}
	if h := c.hs.Handler; h != nil && s.r.RequestURI != "*" {
		h.ServeHTTP(w, s.r) // what net/http puts around it does nothing for us and takes half a kilobyte of each watcher's stack
		return
	}
	c.handler.ServeHTTP(w, s.r)
}

// left is deferred by what runs a handler's code: it goes on with what the handler has left to do, or ends the answer.
func (s *stream) left(w *response) {
	p := recover()
	if f := w.onward; f != nil && p == nil {
		w.onward = nil
		go func() { // a new one, not a worker's: with a small stack
			defer s.left(w)
			f()
		}()
		return
	}
	c := s.c
	defer c.handlers.Done()
	if p != nil && p != http.ErrAbortHandler { //nolint:errorlint // net/http compares it so
		c.logf("http2: panic serving %s: %v\n%s", c.remote, p, debug.Stack())
	}
	w.finish(p != nil)
}

// over ends the stream after its handler; the last frame is queued already.
func (s *stream) over(aborted bool) {
	c := s.c
	s.done = true
	s.limit.set(time.Time{}, nil)
	s.until.set(time.Time{}, nil)
	if n := int64(len(s.body)); n > 0 {
		s.body = nil
		c.took(nil, n)
	}
	if c.streams[s.id] == s {
		switch {
		case aborted:
			c.resetFrame(s.id, http2.ErrCodeInternal)
			c.close(s, errFinished)
		case !s.gotEnd:
			// Nobody will read the rest of the request (RFC 9113 section 8.1).
			c.resetFrame(s.id, http2.ErrCodeNo)
			c.close(s, errFinished)
		default:
			c.close(s, nil)
		}
	}
	s.cancel()
	c.returned()
	c.flush()
}

// broken says why nothing can be sent any more, or nil.
func (s *stream) broken() error {
	switch {
	case s.err != nil:
		return s.err
	case s.c.err != nil:
		return s.c.err
	case s.done || s.sentEnd:
		return errFinished
	}
	return nil
}

// send queues bufs as frames of data, and waits where there is no room; blk, which bufs are in, is given back at the end. It keeps no copy: bufs must not
// change until they are written. mu is held, and let go while waiting.
func (s *stream) send(bufs [][]byte, blk *block, end bool) error {
	c := s.c
	left := 0
	for _, b := range bufs {
		left += len(b)
	}
	if left == 0 && end {
		if err := s.broken(); err != nil {
			return err
		}
		c.queue.push(piece{head: frameHead(0, http2.FrameData, http2.FlagDataEndStream, s.id), used: 9})
		s.ended()
	}
	for left > 0 {
		if err := s.broken(); err != nil {
			return err
		}
		n := int(min(int64(left), frameSize, s.window, c.window))
		if n <= 0 || c.queue.bytes >= queueLimit {
			if err := s.wait(); err != nil {
				return err
			}
			continue
		}
		if wants := int64(min(left, batchSize)); s.window < wants && c.streamsBegin >= ampleWindow && !s.hurried {
			if err := s.hold(wants); err != nil {
				return err
			}
			continue
		}
		s.hurried = false
		left -= n
		var flags http2.Flags
		var last *block
		if left == 0 {
			last = blk
			if end {
				flags = http2.FlagDataEndStream
			}
		}
		bufs = s.frame(bufs, n, flags, last)
		if flags != 0 {
			s.ended()
		}
		if c.queue.bytes >= batchSize {
			c.flush()
		}
	}
	return nil
}

// frame queues a frame of data with the first n bytes of bufs, of which it returns the rest. There is room for it.
func (s *stream) frame(bufs [][]byte, n int, flags http2.Flags, blk *block) [][]byte {
	s.window -= int64(n)
	s.c.window -= int64(n)
	p := piece{head: frameHead(n, http2.FrameData, flags, s.id), used: 9}
	for n > 0 {
		k := min(n, len(bufs[0]))
		p.b = bufs[0][:k]
		if n -= k; n == 0 {
			p.blk = blk
		}
		if k < len(bufs[0]) {
			bufs[0] = bufs[0][k:]
		} else {
			bufs = bufs[1:]
		}
		if k > 0 {
			s.c.queue.push(p)
			p = piece{}
		}
	}
	return bufs
}

func (s *stream) ended() {
	s.sentEnd = true
	if s.gotEnd {
		s.c.close(s, nil)
	}
}

// wait waits until the stream may have room.
func (s *stream) wait() error {
	c := s.c
	if s.limit.passed() {
		return os.ErrDeadlineExceeded
	}
	if s.wake == nil {
		s.wake = make(chan struct{}, 1)
	}
	if !s.blocked {
		s.blocked = true
		c.blocked = append(c.blocked, s)
	}
	before := c.queue.bytes
	c.flush()
	if c.queue.bytes < before {
		return nil // it went out meanwhile
	}
	c.mu.Unlock()
	<-s.wake
	c.mu.Lock()
	return nil
}

const (
	// ampleWindow is how wide a peer's windows are, at least, for us not to send as soon as there is room for a byte. Peers widen a window again when half of
	// it has been read at the latest, many for every 4 KiB: each of these would become a record, a system call and a goroutine that wakes.
	ampleWindow = 4 * batchSize
	// holdLimit bounds the wait for peers that do otherwise.
	holdLimit = 20 * time.Millisecond
)

// hold waits for the window to become as wide as wanted, while there is room for less: most of what was sent before is still to be read by the peer.
func (s *stream) hold(wants int64) error {
	c := s.c
	if s.limit.passed() {
		return os.ErrDeadlineExceeded
	}
	if s.wake == nil {
		s.wake = make(chan struct{}, 1)
	}
	c.flush()
	if s.window >= wants || s.broken() != nil {
		return nil
	}
	s.wants = wants
	limit := time.AfterFunc(holdLimit, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		s.hurried = true
		s.signal()
	})
	c.mu.Unlock()
	<-s.wake
	limit.Stop()
	c.mu.Lock()
	s.wants = 0
	return nil
}

// requestBody is the body of a stream's request.
type requestBody stream

func (b *requestBody) Read(p []byte) (int, error) {
	s := (*stream)(b)
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.expects {
		s.expects = false
		if !s.gotEnd && s.broken() == nil {
			c.headerFrames(s, http.StatusContinue, nil, false)
			c.flush()
		}
	}
	for {
		switch {
		case len(s.body) > 0:
			n := copy(p, s.body)
			if s.body = s.body[n:]; len(s.body) == 0 {
				s.body = nil
			}
			c.took(s, int64(n))
			c.flush()
			return n, nil
		case s.gotEnd:
			return 0, io.EOF
		case s.done:
			return 0, http.ErrBodyReadAfterClose
		case s.err != nil:
			return 0, s.err
		case c.err != nil:
			return 0, c.err
		case s.until.passed():
			return 0, os.ErrDeadlineExceeded
		case len(p) == 0:
			return 0, nil
		}
		if s.reader == nil {
			s.reader = make(chan struct{}, 1)
		}
		c.mu.Unlock()
		<-s.reader
		c.mu.Lock()
	}
}

// Close is for handlers that are done with the body; what still comes is dropped when they have returned.
func (b *requestBody) Close() error { return nil }
