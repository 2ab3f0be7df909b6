package gather

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log"
	"math"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

const (
	// closeTimeout bounds how long a connection that ends waits for a peer which does not read, and one that begins for the preface.
	closeTimeout = 5 * time.Second
	// firstWindow is what a connection and a stream may send before they hear of more (RFC 9113 section 6.9.2).
	firstWindow = 65535
	maxWindow   = math.MaxInt32
	// streamWindow and connWindow are how much of requests' bodies we hold that nobody has read.
	streamWindow = 1 << 20
	connWindow   = 4 << 20
	// settingsLimit is how many settings one frame of a sane peer has.
	settingsLimit = 64
	// tableSize is that of the header compression's tables.
	tableSize = 4096
)

var (
	errFlood    = errors.New("the peer asks for more than it reads")
	errGone     = errors.New("the peer has closed the connection")
	errReset    = errors.New("the peer has reset the stream")
	errFinished = errors.New("the handler has returned")
)

// conn is one HTTP/2 connection. One goroutine reads it (serve); everyone writes to it (queue.go).
type conn struct {
	server  *server
	hs      *http.Server
	tls     *tls.Conn
	socket  *socket
	handler http.Handler
	ctx     context.Context
	cancel  context.CancelFunc
	state   tls.ConnectionState
	remote  string

	framer    *http2.Framer // for reading only
	settled   bool          // the peer's first settings have come; of serve
	increment [4]byte       // of the window update that is being read; of serve
	handlers  sync.WaitGroup

	mu      sync.Mutex
	idle    sync.Cond          // with mu: signalled when a writer is done
	streams map[uint32]*stream // guarded by mu, as is all that follows
	newest  uint32             // the highest stream the peer has opened
	running int                // handlers
	waiting []*stream          // streams whose handlers wait for others to return
	queue   queue
	blocked []*stream // those who wait for room in the queue or the connection's window

	window       int64 // what we may send
	streamsBegin int64 // what a new stream may send

	received int64 // what the peer may still send
	unread   int64 // what we have not yet told the peer that we took

	encoder *hpack.Encoder
	encoded bytes.Buffer

	leaving bool // GOAWAY was sent
	idling  *time.Timer
	err     error // why the connection is over
}

func newConn(ctx context.Context, s *server, hs *http.Server, t *tls.Conn, sock *socket, h http.Handler) *conn {
	c := &conn{
		server: s, hs: hs, tls: t, socket: sock, handler: h, state: t.ConnectionState(), remote: t.RemoteAddr().String(),
		streams: map[uint32]*stream{}, window: firstWindow, streamsBegin: firstWindow, received: connWindow,
	}
	c.ctx, c.cancel = context.WithCancel(ctx)
	c.idle.L = &c.mu
	c.encoder = hpack.NewEncoder(&c.encoded)
	c.framer = http2.NewFramer(nil, t)
	c.framer.SetReuseFrames()
	c.framer.SetMaxReadFrameSize(frameSize)
	c.framer.MaxHeaderListSize = c.headerLimit()
	c.framer.ReadMetaHeaders = hpack.NewDecoder(tableSize, nil)
	sock.begin()
	return c
}

// headerLimit is how many bytes of headers a request may have.
func (c *conn) headerLimit() uint32 {
	if n := c.hs.MaxHeaderBytes; n > 0 && n < 1<<30 {
		return uint32(n)
	}
	return http.DefaultMaxHeaderBytes
}

// serve reads until the connection is over, and then waits for the handlers.
func (c *conn) serve() {
	err := c.preface()
	for err == nil {
		err = c.readFrame()
	}
	c.end(err)
	c.handlers.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.queue.writing {
		c.idle.Wait()
	}
}

func (c *conn) preface() error {
	_ = c.tls.SetReadDeadline(time.Now().Add(closeTimeout)) // a connection that is closed already
	c.mu.Lock()
	settings := make([]byte, 0, 24)
	for _, s := range [...]http2.Setting{
		{ID: http2.SettingMaxConcurrentStreams, Val: uint32(c.server.streams)},
		{ID: http2.SettingInitialWindowSize, Val: streamWindow},
		{ID: http2.SettingMaxHeaderListSize, Val: c.headerLimit()},
	} {
		settings = binary.BigEndian.AppendUint16(settings, uint16(s.ID))
		settings = binary.BigEndian.AppendUint32(settings, s.Val)
	}
	c.frame(http2.FrameSettings, 0, 0, settings)
	c.windowFrame(0, connWindow-firstWindow)
	c.flush()
	c.mu.Unlock()
	var hello [len(http2.ClientPreface)]byte
	if _, err := io.ReadFull(c.tls, hello[:]); err != nil {
		return err
	}
	if string(hello[:]) != http2.ClientPreface {
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	return nil
}

// readFrame reads and obeys one frame. An error ends the connection.
func (c *conn) readFrame() error {
	head, err := c.framer.ReadFrameHeader()
	if err == nil && head.Type == http2.FrameWindowUpdate && head.Length == uint32(len(c.increment)) && c.settled {
		return c.judge(c.windowUpdate(head.StreamID)) // most of what the peers of watches say
	}
	var f http2.Frame
	if err == nil {
		f, err = c.framer.ReadFrameForHeader(head)
	}
	if errors.Is(err, http2.ErrFrameTooLarge) {
		return http2.ConnectionError(http2.ErrCodeFrameSize)
	}
	if err != nil {
		return c.judge(err)
	}
	if !c.settled {
		if s, ok := f.(*http2.SettingsFrame); !ok || s.IsAck() {
			return http2.ConnectionError(http2.ErrCodeProtocol)
		}
		c.settled = true
		_ = c.tls.SetReadDeadline(time.Time{}) // a connection that is closed already
		c.mu.Lock()
		c.rest()
		c.mu.Unlock()
	}
	switch f := f.(type) {
	case *http2.MetaHeadersFrame:
		err = c.headers(f)
	case *http2.DataFrame:
		err = c.data(f)
	case *http2.SettingsFrame:
		err = c.settings(f)
	case *http2.PingFrame:
		err = c.ping(f)
	case *http2.RSTStreamFrame:
		err = c.reset(f)
	case *http2.PriorityFrame:
		if f.StreamDep == f.StreamID {
			err = streamError(f.StreamID, http2.ErrCodeProtocol)
		}
	case *http2.PushPromiseFrame:
		err = http2.ConnectionError(http2.ErrCodeProtocol)
	case *http2.GoAwayFrame: // the peer makes no more requests; it closes when it has its answers
	}
	return c.judge(err)
}

// judge returns what ends the connection, and ends the stream for what concerns that alone.
func (c *conn) judge(err error) error {
	if err == nil {
		return nil
	}
	var se http2.StreamError
	if errors.As(err, &se) {
		return c.streamError(se)
	}
	return err
}

func streamError(id uint32, code http2.ErrCode) http2.StreamError {
	return http2.StreamError{StreamID: id, Code: code}
}

// streamError resets a stream for what the peer did to it.
func (c *conn) streamError(se http2.StreamError) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if se.StreamID > c.newest {
		c.newest = se.StreamID // a request that was none
	}
	c.resetFrame(se.StreamID, se.Code)
	if s := c.streams[se.StreamID]; s != nil {
		c.close(s, se)
	}
	c.flush()
	return nil
}

func (c *conn) settings(f *http2.SettingsFrame) error {
	if f.IsAck() {
		return nil
	}
	if f.NumSettings() > settingsLimit {
		return http2.ConnectionError(http2.ErrCodeEnhanceYourCalm)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	err := f.ForeachSetting(func(s http2.Setting) error {
		if err := s.Valid(); err != nil {
			return err
		}
		switch s.ID {
		case http2.SettingInitialWindowSize:
			grown := int64(s.Val) - c.streamsBegin
			c.streamsBegin = int64(s.Val)
			for _, st := range c.streams {
				if st.window += grown; st.window > maxWindow {
					return http2.ConnectionError(http2.ErrCodeFlowControl)
				}
				st.signal()
			}
		case http2.SettingHeaderTableSize:
			c.encoder.SetMaxDynamicTableSize(min(s.Val, tableSize))
		}
		return nil
	})
	if err != nil {
		return err
	}
	c.frame(http2.FrameSettings, http2.FlagSettingsAck, 0, nil)
	c.flush()
	return nil
}

// windowUpdate reads the rest of a frame that widens a window: the framer would put each on the heap.
func (c *conn) windowUpdate(id uint32) error {
	if _, err := io.ReadFull(c.tls, c.increment[:]); err != nil {
		return err
	}
	n := int64(binary.BigEndian.Uint32(c.increment[:]) & maxWindow)
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case id == 0 && n == 0:
		return http2.ConnectionError(http2.ErrCodeProtocol)
	case id == 0:
		if c.window += n; c.window > maxWindow {
			return http2.ConnectionError(http2.ErrCodeFlowControl)
		}
		c.unblock()
		return nil
	case n == 0:
		return streamError(id, http2.ErrCodeProtocol)
	case id > c.newest:
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	if s := c.streams[id]; s != nil {
		if s.window += n; s.window > maxWindow {
			return streamError(id, http2.ErrCodeFlowControl)
		}
		if s.window >= s.wants {
			s.signal()
		}
	}
	return nil
}

func (c *conn) ping(f *http2.PingFrame) error {
	if f.IsAck() {
		return nil
	}
	data := f.Data
	c.mu.Lock()
	defer c.mu.Unlock()
	c.frame(http2.FramePing, http2.FlagPingAck, 0, data[:])
	c.flush()
	return nil
}

func (c *conn) reset(f *http2.RSTStreamFrame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.StreamID > c.newest {
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	if s := c.streams[f.StreamID]; s != nil {
		c.close(s, errReset)
	}
	return nil
}

// data takes a part of a request's body.
func (c *conn) data(f *http2.DataFrame) error {
	size := int64(f.Length) // the padding counts
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.StreamID > c.newest {
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	if c.received -= size; c.received < 0 {
		return http2.ConnectionError(http2.ErrCodeFlowControl)
	}
	s := c.streams[f.StreamID]
	if s == nil || s.gotEnd {
		c.took(nil, size)
		c.flush()
		return streamError(f.StreamID, http2.ErrCodeStreamClosed)
	}
	if s.received -= size; s.received < 0 {
		c.took(nil, size)
		return streamError(f.StreamID, http2.ErrCodeFlowControl)
	}
	data := f.Data()
	s.taken += int64(len(data))
	if s.declared >= 0 && (s.taken > s.declared || f.StreamEnded() && s.taken != s.declared) {
		c.took(nil, size)
		return streamError(f.StreamID, http2.ErrCodeProtocol)
	}
	if s.done { // the handler does not want it
		c.took(nil, size)
	} else {
		s.body = append(s.body, data...)
		if pad := size - int64(len(data)); pad > 0 {
			c.took(s, pad)
		}
	}
	if f.StreamEnded() {
		c.gotEnd(s)
	}
	s.wakeReader()
	c.flush()
	return nil
}

// took tells the peer, from time to time, that n bytes of bodies have been taken, s's among them if it is not nil.
func (c *conn) took(s *stream, n int64) {
	if c.unread += n; c.unread >= connWindow/4 {
		c.windowFrame(0, c.unread)
		c.received += c.unread
		c.unread = 0
	}
	if s == nil || s.gotEnd || s.err != nil {
		return
	}
	if s.unread += n; s.unread >= streamWindow/4 {
		c.windowFrame(s.id, s.unread)
		s.received += s.unread
		s.unread = 0
	}
}

func (c *conn) gotEnd(s *stream) {
	s.gotEnd = true
	if s.sentEnd {
		c.close(s, nil)
	}
}

// close ends a stream; err is nil when both sides have said all.
func (c *conn) close(s *stream, err error) {
	if c.streams[s.id] != s {
		return
	}
	delete(c.streams, s.id)
	if err != nil && s.err == nil {
		s.err = err
	}
	if n := int64(len(s.body)); n > 0 && err != nil {
		s.body = nil
		c.took(nil, n)
	}
	s.cancel()
	s.signal()
	s.wakeReader()
	c.rest()
}

// rest is called when there may be no streams left: a connection that is leaving ends, others do when they have been idle for long.
func (c *conn) rest() {
	if len(c.streams) > 0 || c.err != nil {
		return
	}
	if c.leaving {
		c.linger()
		return
	}
	if c.hs.IdleTimeout <= 0 {
		return
	}
	if c.idling == nil {
		c.idling = time.AfterFunc(c.hs.IdleTimeout, func() {
			c.mu.Lock()
			none := len(c.streams) == 0
			c.mu.Unlock()
			if none {
				c.goAway()
			}
		})
		return
	}
	c.idling.Reset(c.hs.IdleTimeout)
}

// linger gives the peer, who knows that it is over, a moment to read and close.
func (c *conn) linger() {
	_ = c.tls.SetReadDeadline(time.Now().Add(time.Second)) // a connection that is closed already
}

// goAway asks the peer to make no more requests, and ends the connection when it has its answers.
func (c *conn) goAway() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leave(http2.ErrCodeNo)
	c.rest()
}

func (c *conn) leave(code http2.ErrCode) {
	if c.leaving && code == http2.ErrCodeNo {
		return
	}
	c.leaving = true
	p := binary.BigEndian.AppendUint32(nil, c.newest)
	c.frame(http2.FrameGoAway, 0, 0, binary.BigEndian.AppendUint32(p, uint32(code)))
	c.flush()
}

// end is the end of reading: whatever the peer did wrong it is told, what is queued is written if it takes it soon, and all streams end.
func (c *conn) end(err error) {
	c.mu.Lock()
	var ce http2.ConnectionError
	if errors.As(err, &ce) {
		c.leave(http2.ErrCode(ce))
	}
	over := errGone
	if c.err == nil && (errors.As(err, &ce) || c.leaving) {
		// Let the peer hear it.
		_ = c.socket.SetWriteDeadline(time.Now().Add(closeTimeout)) // a connection that is closed already
		for c.queue.writing {
			c.idle.Wait()
		}
		over = fmt.Errorf("the connection has ended: %w", err)
	}
	c.failLocked(over)
	c.mu.Unlock()
}

// failLocked ends the connection: nothing more is written or read.
func (c *conn) failLocked(err error) {
	if c.err != nil {
		return
	}
	c.err = err
	if c.idling != nil {
		c.idling.Stop()
	}
	for _, s := range c.streams {
		c.close(s, err)
	}
	for _, s := range c.waiting {
		s.cancel()
	}
	c.waiting = nil
	c.unblock()
	c.cancel()
	if !c.queue.writing {
		c.discard()
	}
	// In another goroutine's name nothing can wait for here: closing a socket does not.
	if e := c.socket.Conn.Close(); e != nil && !errors.Is(e, net.ErrClosed) {
		c.logf("http2: closing a connection from %s: %v", c.remote, e)
	}
}

// unblock wakes all streams that wait for room.
func (c *conn) unblock() {
	for _, s := range c.blocked {
		s.blocked = false
		s.signal()
	}
	clear(c.blocked)
	c.blocked = c.blocked[:0]
}

func (c *conn) logf(format string, args ...any) {
	if l := c.hs.ErrorLog; l != nil {
		l.Printf(format, args...)
		return
	}
	log.Printf(format, args...)
}
