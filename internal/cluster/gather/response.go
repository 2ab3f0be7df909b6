package gather

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/net/http/httpguts"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// response is the http.ResponseWriter of a stream. But for Offer and Kick it is the handler's alone.
type response struct {
	s      *stream
	header http.Header
	code   int
	length int64 // as the handler declared it, or -1
	sent   int64 // bytes of the body that were written
	blk    *block
	used   int         // of blk
	begun  bool        // the header has been queued
	onward func()      // what goes on when the handler has returned
	open   atomic.Bool // Offer may be used: the header is queued and no bytes of the handler wait
}

func (w *response) Header() http.Header {
	if w.header == nil {
		w.header = http.Header{}
	}
	return w.header
}

func (w *response) WriteHeader(code int) {
	if w.code != 0 {
		return
	}
	if code < 100 || code > 999 {
		panic(fmt.Sprintf("invalid WriteHeader code %v", code))
	}
	if code < 200 {
		c := w.s.c
		c.mu.Lock()
		defer c.mu.Unlock()
		if w.s.broken() == nil {
			c.headerFrames(w.s, code, w.Header(), false)
			c.flush()
		}
		return
	}
	w.code, w.length = code, -1
	if v := w.Header()["Content-Length"]; len(v) > 0 {
		n, err := strconv.ParseUint(v[0], 10, 63)
		if err != nil {
			delete(w.header, "Content-Length")
			return
		}
		w.length = int64(n)
	}
}

// bodiless says that the answer has no body, whatever the handler writes.
func (w *response) bodiless() bool {
	return w.s.r.Method == http.MethodHead || w.code == http.StatusNoContent || w.code == http.StatusNotModified
}

// admit counts n bytes of body.
func (w *response) admit(n int) error {
	if w.code == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if w.code == http.StatusNoContent || w.code == http.StatusNotModified {
		return http.ErrBodyNotAllowed
	}
	if w.length >= 0 && w.sent+int64(n) > w.length {
		return http.ErrContentLength
	}
	w.sent += int64(n)
	return nil
}

func (w *response) Write(p []byte) (int, error) {
	if err := w.admit(len(p)); err != nil {
		return 0, err
	}
	n := len(p)
	if w.s.r.Method == http.MethodHead || n == 0 {
		return n, nil
	}
	w.open.Store(false)
	for len(p) > 0 {
		if w.blk == nil {
			w.blk, w.used = blocks.Get().(*block), 0 //nolint:forcetypeassert // nothing else is in the pool
		}
		k := copy(w.blk.buf[w.used:], p)
		w.used += k
		p = p[k:]
		if w.used == frameSize {
			if err := w.flushBlock(false); err != nil {
				return n - len(p) - k, err
			}
		}
	}
	return n, nil
}

func (w *response) WriteString(p string) (int, error) { return w.Write([]byte(p)) }

// ReadFrom is io.ReaderFrom: io.Copy reads straight to where frames are gathered.
func (w *response) ReadFrom(r io.Reader) (n int64, err error) {
	for err == nil {
		if w.blk == nil {
			w.blk, w.used = blocks.Get().(*block), 0 //nolint:forcetypeassert // nothing else is in the pool
		}
		var k int
		if k, err = r.Read(w.blk.buf[w.used:]); k > 0 {
			if err := w.admit(k); err != nil {
				return n, err
			}
			n += int64(k)
			if w.s.r.Method == http.MethodHead {
				continue
			}
			w.open.Store(false)
			if w.used += k; w.used == frameSize {
				if err := w.flushBlock(false); err != nil {
					return n, err
				}
			}
		}
	}
	if w.blk != nil && w.used == 0 {
		blocks.Put(w.blk)
		w.blk = nil
	}
	if err == io.EOF { //nolint:errorlint // as io.Copy has it
		err = nil
	}
	return n, err
}

// WriteShared writes bufs, which nobody may ever change, without a copy.
func (w *response) WriteShared(bufs ...[]byte) error {
	n := 0
	for _, b := range bufs {
		n += len(b)
	}
	if err := w.admit(n); err != nil {
		return err
	}
	if w.s.r.Method == http.MethodHead || n == 0 {
		return nil
	}
	w.open.Store(false)
	if err := w.flushBlock(false); err != nil {
		return err
	}
	c := w.s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	w.begin(false, nil)
	return w.s.send(bufs, nil, false)
}

// flushBlock queues what was written so far.
func (w *response) flushBlock(end bool) error {
	if w.blk == nil && !end {
		return nil
	}
	c := w.s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	return w.flushBlockLocked(end)
}

func (w *response) flushBlockLocked(end bool) error {
	var bufs [][]byte
	var first []byte
	if w.blk != nil {
		first = w.blk.buf[:w.used]
		bufs = [][]byte{first}
	}
	if w.begin(end && first == nil, first) {
		return nil
	}
	blk := w.blk
	w.blk = nil
	return w.s.send(bufs, blk, end)
}

// begin queues the header, once; first is the beginning of the body. It says whether the stream has ended with it.
func (w *response) begin(end bool, first []byte) bool {
	if w.begun {
		return false
	}
	w.begun = true
	h := w.Header()
	if _, ok := h["Content-Type"]; !ok && len(first) > 0 && h.Get("Content-Encoding") == "" && !w.bodiless() {
		h["Content-Type"] = []string{http.DetectContentType(first)}
	}
	if _, ok := h["Date"]; !ok {
		h["Date"] = []string{w.s.c.server.date()}
	}
	if w.s.broken() != nil {
		return false // send will say it
	}
	w.s.c.headerFrames(w.s, w.code, h, end)
	if end {
		w.s.ended()
	}
	return end
}

// Flush sends what is buffered.
func (w *response) Flush() { _ = w.FlushError() } // http.Flusher has no way to tell

func (w *response) FlushError() error {
	if w.code == 0 {
		w.WriteHeader(http.StatusOK)
	}
	c := w.s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if w.blk != nil {
		if err := w.flushBlockLocked(false); err != nil {
			return err
		}
	}
	w.begin(false, nil)
	c.flush()
	w.open.Store(true)
	return w.s.broken()
}

// Offer queues p, which nobody may ever change, if that needs no waiting; else it does nothing and says so. It may be called by other goroutines than the
// handler's while that one has flushed and does not write. Kick sends what was queued.
func (w *response) Offer(p []byte) bool {
	if !w.open.Load() {
		return false
	}
	s := w.s
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	n := int64(len(p))
	if s.broken() != nil || n > s.window || n > c.window || c.queue.bytes+len(p) > queueLimit {
		return false
	}
	for len(p) > 0 {
		k := min(len(p), frameSize)
		s.window -= int64(k)
		c.window -= int64(k)
		c.queue.push(piece{head: frameHead(k, http2.FrameData, 0, s.id), used: 9, b: p[:k]})
		p = p[k:]
	}
	return true
}

// Continue has f go on with the answer in a goroutine of its own when the handler has returned, unless that panics. The answer ends when f returns.
func (w *response) Continue(f func()) { w.onward = f }

// Kick writes what was offered, for all streams of the connection.
func (w *response) Kick() {
	c := w.s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	c.flush()
}

// finish ends the answer when the handler has returned.
func (w *response) finish(aborted bool) {
	s := w.s
	c := s.c
	w.open.Store(false)
	if !aborted && w.code == 0 {
		w.WriteHeader(http.StatusOK)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !aborted {
		aborted = !w.complete()
	}
	if w.blk != nil {
		blocks.Put(w.blk)
		w.blk = nil
	}
	s.over(aborted)
}

// complete sends the end of the answer; false says that it cannot be a proper one.
func (w *response) complete() bool {
	s := w.s
	if w.length >= 0 && w.sent < w.length && !w.bodiless() {
		return s.broken() != nil // less than was promised
	}
	if !w.begun && w.length < 0 && !w.bodiless() && w.header.Get("Transfer-Encoding") == "" {
		w.Header()["Content-Length"] = []string{strconv.Itoa(w.used)}
	}
	trailer := w.trailer()
	if trailer == nil {
		err := w.flushBlockLocked(true)
		return err == nil || s.broken() != nil
	}
	if w.blk != nil && w.flushBlockLocked(false) != nil {
		return s.broken() != nil
	}
	w.begin(false, nil)
	if s.broken() == nil {
		s.c.headerFrames(s, 0, trailer, true)
		s.ended()
	}
	return true
}

// trailer is what the handler wants said after the body: fields that it announced in "Trailer" and those with http.TrailerPrefix.
func (w *response) trailer() http.Header {
	var t http.Header
	put := func(k string, v []string) {
		if t == nil {
			t = http.Header{}
		}
		t[k] = v
	}
	if w.bodiless() {
		return nil
	}
	for k, v := range w.header {
		if name, ok := strings.CutPrefix(k, http.TrailerPrefix); ok {
			put(http.CanonicalHeaderKey(name), v)
		}
	}
	for _, names := range w.header["Trailer"] {
		for name := range strings.SplitSeq(names, ",") {
			if k := http.CanonicalHeaderKey(strings.TrimSpace(name)); w.header[k] != nil {
				put(k, w.header[k])
			}
		}
	}
	return t
}

var errNoStream = errors.New("the stream has ended")

func (w *response) SetReadDeadline(t time.Time) error {
	s := w.s
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	if s.done {
		return errNoStream
	}
	s.until.set(t, func() {
		s.c.mu.Lock()
		defer s.c.mu.Unlock()
		s.wakeReader()
	})
	return nil
}

func (w *response) SetWriteDeadline(t time.Time) error {
	s := w.s
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	if s.done {
		return errNoStream
	}
	s.limit.set(t, func() {
		s.c.mu.Lock()
		defer s.c.mu.Unlock()
		s.signal()
	})
	return nil
}

// EnableFullDuplex does nothing: streams always are.
func (w *response) EnableFullDuplex() error { return nil }

// headerFrames queues the header of an answer, or, with no code, its trailer. mu is held.
func (c *conn) headerFrames(s *stream, code int, h http.Header, end bool) {
	c.encoded.Reset()
	if code != 0 {
		c.field(":status", statusText(code), false)
	}
	for k, vs := range h {
		if strings.HasPrefix(k, http.TrailerPrefix) {
			continue
		}
		name := lower(k)
		switch name {
		case "connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade", "":
			continue
		}
		for _, v := range vs {
			if httpguts.ValidHeaderFieldValue(v) {
				c.field(name, v, volatile(name))
			}
		}
	}
	block := bytes.Clone(c.encoded.Bytes())
	kind, first := http2.FrameHeaders, true
	for first || len(block) > 0 {
		n := min(len(block), frameSize)
		var flags http2.Flags
		if n == len(block) {
			flags |= http2.FlagHeadersEndHeaders
		}
		if first && end {
			flags |= http2.FlagHeadersEndStream
		}
		c.queue.push(piece{head: frameHead(n, kind, flags, s.id), used: 9, b: block[:n]})
		block, kind, first = block[n:], http2.FrameContinuation, false
	}
}

func (c *conn) field(name, value string, never bool) {
	// A bytes.Buffer takes everything.
	_ = c.encoder.WriteField(hpack.HeaderField{Name: name, Value: value, Sensitive: never})
}

// volatile names the fields whose values are not worth a place in the peer's table.
func volatile(name string) bool {
	switch name {
	case "audit-id", "content-length", "date", "etag", "last-modified", "retry-after", "set-cookie", "warning", "location":
		return true
	}
	return false
}

// lower is a header's name as HTTP/2 has it, or "" if it cannot be one.
func lower(k string) string {
	switch k {
	case "Audit-Id":
		return "audit-id"
	case "Cache-Control":
		return "cache-control"
	case "Content-Length":
		return "content-length"
	case "Content-Type":
		return "content-type"
	case "Date":
		return "date"
	case "X-Kubernetes-Pf-Flowschema-Uid":
		return "x-kubernetes-pf-flowschema-uid"
	case "X-Kubernetes-Pf-Prioritylevel-Uid":
		return "x-kubernetes-pf-prioritylevel-uid"
	}
	if !httpguts.ValidHeaderFieldName(k) {
		return ""
	}
	return strings.ToLower(k)
}

func statusText(code int) string {
	switch code {
	case http.StatusOK:
		return "200"
	case http.StatusCreated:
		return "201"
	}
	return strconv.Itoa(code)
}

// date is the Date header of this second, which all answers in it share.
func (s *server) date() string {
	now := time.Now()
	if d := s.today.Load(); d != nil && d.second == now.Unix() {
		return d.text
	}
	d := &date{second: now.Unix(), text: now.UTC().Format(http.TimeFormat)}
	s.today.Store(d)
	return d.text
}

type date struct {
	second int64
	text   string
}
