package gather

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// A body goes there and back whole, also when it is larger than every window.
func TestEcho(t *testing.T) {
	client, url, _ := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(w, r.Body); err != nil {
			t.Error(err)
		}
	}))
	want := make([]byte, connWindow+12345)
	_, _ = rand.Read(want)
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, bytes.NewReader(want))
			if err != nil {
				t.Error(err)
				return
			}
			resp, err := client.Do(r)
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = resp.Body.Close() }()
			got, err := io.ReadAll(resp.Body)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d of %d bytes, %v", len(got), len(want), err)
			}
		})
	}
	wg.Wait()
}

// What the answers' heads say, for each way of answering.
func TestAnswers(t *testing.T) {
	big := strings.Repeat("x", 3*frameSize)
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/nothing":
		case "/none":
			w.WriteHeader(http.StatusNoContent)
		case "/small":
			_, _ = io.WriteString(w, "small")
		case "/big":
			_, _ = io.WriteString(w, big)
		case "/shared":
			w.Header()["Content-Type"] = []string{"text/plain"}
			err := w.(interface{ WriteShared(bufs ...[]byte) error }).WriteShared([]byte("one "), nil, []byte(big), []byte(" two"))
			if err != nil {
				t.Error(err)
			}
		case "/copied":
			n, err := io.Copy(w, io.MultiReader(strings.NewReader("one "), strings.NewReader(big), strings.NewReader(" two")))
			if n != int64(len(big)+8) || err != nil {
				t.Errorf("copied %d bytes: %v", n, err)
			}
		case "/copiedNothing":
			w.WriteHeader(http.StatusNoContent)
			if _, err := io.Copy(w, strings.NewReader("")); err != nil {
				t.Error(err)
			}
		case "/onward":
			_, _ = io.WriteString(w, "one ")
			goOn := w.(interface{ Continue(f func()) })
			goOn.Continue(func() {
				if r.Context().Err() != nil {
					t.Error("the request is over when its handler has returned")
				}
				_, _ = io.WriteString(w, "two ")
				goOn.Continue(func() { _, _ = io.WriteString(w, "three") })
			})
		case "/onwardPanic":
			w.(interface{ Continue(f func()) }).Continue(func() { panic(http.ErrAbortHandler) })
		case "/panicBefore":
			w.(interface{ Continue(f func()) }).Continue(func() { t.Error("called after a panic") })
			panic(http.ErrAbortHandler)
		case "/declared":
			w.Header().Set("Content-Length", "5")
			if _, err := io.WriteString(w, "small and more"); !errors.Is(err, http.ErrContentLength) {
				t.Errorf("more than declared: %v", err)
			}
			_, _ = io.WriteString(w, "small")
		case "/trailer":
			w.Header().Set("Trailer", "Announced")
			_, _ = io.WriteString(w, "body")
			w.Header().Set("Announced", "a")
			w.Header().Set(http.TrailerPrefix+"Other", "o")
		case "/panic":
			panic("on purpose")
		case "/unread":
			w.WriteHeader(http.StatusTeapot)
		case "/names":
			w.Header()["Connection"] = []string{"close"}
			w.Header()["X-Odd"] = []string{"bad\nvalue", "good"}
		}
	})
	client, url, srv := serve(t, handler)
	srv.ErrorLog = log.New(io.Discard, "", 0)
	for _, tt := range []struct {
		path, method string
		code         int
		length       int64
		body         string
		fails        bool
	}{
		{path: "/nothing", code: 200},
		{path: "/none", code: 204},
		{path: "/small", code: 200, length: 5, body: "small"},
		{path: "/small", method: http.MethodHead, code: 200, length: -1},
		{path: "/big", code: 200, length: -1, body: big},
		{path: "/shared", code: 200, length: -1, body: "one " + big + " two"},
		{path: "/copied", code: 200, length: -1, body: "one " + big + " two"},
		{path: "/copied", method: http.MethodHead, code: 200, length: -1},
		{path: "/copiedNothing", code: 204},
		{path: "/onward", code: 200, length: 13, body: "one two three"},
		{path: "/onwardPanic", fails: true},
		{path: "/panicBefore", fails: true},
		{path: "/declared", code: 200, length: 5, body: "small"},
		{path: "/trailer", code: 200, length: 4, body: "body"},
		{path: "/panic", fails: true},
		{path: "/unread", method: http.MethodPost, code: 418},
		{path: "/names", code: 200},
	} {
		var body io.Reader
		if tt.method == http.MethodPost {
			body = strings.NewReader(big)
		}
		r, err := http.NewRequestWithContext(t.Context(), tt.method, url+tt.path, body)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(r)
		if (err != nil) != tt.fails {
			t.Fatalf("%s: %v", tt.path, err)
		}
		if err != nil {
			continue
		}
		got, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil || string(got) != tt.body || resp.StatusCode != tt.code || resp.ContentLength != tt.length && tt.method != http.MethodHead {
			t.Errorf("%s: %d, length %d, %d bytes, %v", tt.path, resp.StatusCode, resp.ContentLength, len(got), err)
		}
		switch tt.path {
		case "/trailer":
			if resp.Trailer.Get("Announced") != "a" || resp.Trailer.Get("Other") != "o" {
				t.Errorf("trailer %v", resp.Trailer)
			}
		case "/names":
			if resp.Header["Connection"] != nil || fmt.Sprint(resp.Header["X-Odd"]) != "[good]" {
				t.Errorf("header %v", resp.Header)
			}
		}
	}
}

// offerer is what a handler's writer can do beside net/http's own.
type offerer interface {
	Offer(p []byte) bool
	Kick()
}

// Offered bytes arrive in order on all streams; a stream that has no room refuses and goes on where its handler writes again.
func TestOffer(t *testing.T) {
	const streams, events = 16, 600
	event := func(i int) []byte { return fmt.Appendf(nil, "%06d %s\n", i, strings.Repeat("e", i*37%5000)) }
	shared := make([][]byte, events)
	var all bytes.Buffer
	for i := range shared {
		shared[i] = event(i)
		all.Write(shared[i])
	}
	var ready sync.WaitGroup
	ready.Add(streams)
	var refused atomic.Int64
	client, url, _ := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		rc := http.NewResponseController(w)
		_ = rc.Flush()
		ready.Done()
		ready.Wait()
		o := w.(offerer)
		offered := make(chan int)
		from := 0
		for from < events {
			go func(i int) { // another goroutine than the handler's
				for i < events && o.Offer(shared[i]) {
					i++
				}
				o.Kick()
				offered <- i
			}(from)
			if from = <-offered; from < events {
				refused.Add(1)
				_, _ = w.Write(shared[from])
				_ = rc.Flush()
				from++
			}
		}
	}))
	var wg sync.WaitGroup
	for s := range streams {
		wg.Go(func() {
			_, body, err := get(t.Context(), client, url)
			if err != nil || !bytes.Equal(body, all.Bytes()) {
				t.Errorf("stream %d: %v, %d of %d bytes", s, err, len(body), all.Len())
			}
		})
	}
	wg.Wait()
	if refused.Load() == 0 {
		t.Error("nothing was ever refused: the queue has no bound")
	}
}

// rawPeer is a peer that does only what it is told to.
type rawPeer struct {
	*tls.Conn
	*http2.Framer
	enc  *hpack.Encoder
	head bytes.Buffer
}

func dialRaw(t *testing.T, client *http.Client, url string, settings ...http2.Setting) *rawPeer {
	t.Helper()
	config := client.Transport.(*http.Transport).TLSClientConfig.Clone()
	config.NextProtos = []string{"h2"}
	d := tls.Dialer{Config: config}
	c, err := d.DialContext(t.Context(), "tcp", strings.TrimPrefix(url, "https://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	p := &rawPeer{Conn: c.(*tls.Conn), Framer: http2.NewFramer(c, c)}
	p.enc = hpack.NewEncoder(&p.head)
	p.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if _, err := io.WriteString(c, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	if err := p.WriteSettings(settings...); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *rawPeer) get(t *testing.T, id uint32, path string) {
	t.Helper()
	p.head.Reset()
	for _, f := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", "example"}, {":path", path}} {
		_ = p.enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
	}
	if err := p.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: p.head.Bytes(), EndStream: true, EndHeaders: true}); err != nil {
		t.Fatal(err)
	}
}

// next reads until a frame that want accepts.
func (p *rawPeer) next(t *testing.T, want func(http2.Frame) bool) http2.Frame {
	t.Helper()
	_ = p.SetReadDeadline(time.Now().Add(time.Minute))
	for {
		f, err := p.ReadFrame()
		if err != nil {
			t.Fatalf("waiting for a frame: %v", err)
		}
		if want(f) {
			return f
		}
	}
}

// A stream whose peer gives it no window waits without hindering others, and ends when the peer resets it or goes away.
func TestNoWindow(t *testing.T) {
	ended := make(chan error, 2)
	client, url, _ := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/quick" {
			w.WriteHeader(http.StatusAccepted)
			return
		}
		var err error
		for err == nil {
			_, err = w.Write(make([]byte, 4<<10))
		}
		<-r.Context().Done()
		ended <- err
	}))
	p := dialRaw(t, client, url, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 10})
	p.get(t, 1, "/stuck")
	p.get(t, 3, "/stuck")
	p.get(t, 5, "/quick")
	quick, first := false, 0
	p.next(t, func(f http2.Frame) bool {
		switch f := f.(type) {
		case *http2.MetaHeadersFrame:
			quick = quick || f.StreamID == 5 && f.PseudoValue("status") == "202" && f.StreamEnded()
		case *http2.DataFrame:
			first += int(f.Length)
		}
		return quick && first == 20 // what the two that are stuck may send
	})
	// A little more window is a little more data.
	if err := p.WriteWindowUpdate(1, 7); err != nil {
		t.Fatal(err)
	}
	p.next(t, func(f http2.Frame) bool { d, ok := f.(*http2.DataFrame); return ok && d.StreamID == 1 && d.Length == 7 })
	if err := p.WriteRSTStream(1, http2.ErrCodeCancel); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, errReset) {
		t.Errorf("after a reset: %v", err)
	}
	_ = p.Close()
	if err := <-ended; err == nil {
		t.Error("no error when the peer has gone")
	}
}

// A peer with wide windows that widens one by a few bytes only gets these, and one that goes on widening it gets the rest.
func TestScantWindow(t *testing.T) {
	const first, body = 4 * batchSize, 6 * batchSize
	client, url, _ := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if _, err := w.Write(make([]byte, body)); err != nil {
			t.Error(err)
		}
	}))
	p := dialRaw(t, client, url, http2.Setting{ID: http2.SettingInitialWindowSize, Val: first})
	if err := p.WriteWindowUpdate(0, 1<<30); err != nil {
		t.Fatal(err)
	}
	p.get(t, 1, "/")
	got, ended := 0, false
	until := func(enough func() bool) {
		for !enough() {
			p.next(t, func(f http2.Frame) bool {
				d, ok := f.(*http2.DataFrame)
				if ok {
					got += int(d.Length)
					ended = d.StreamEnded()
				}
				return ok
			})
		}
	}
	until(func() bool { return got == first })
	if err := p.WriteWindowUpdate(1, 100); err != nil {
		t.Fatal(err)
	}
	until(func() bool { return got == first+100 })
	for range 2*batchSize/4096 + 1 {
		if err := p.WriteWindowUpdate(1, 4096); err != nil {
			t.Fatal(err)
		}
	}
	until(func() bool { return ended })
	if got != body {
		t.Errorf("%d bytes of %d", got, body)
	}
	p.AllowIllegalWrites = true
	if err := p.WriteWindowUpdate(0, 0); err != nil {
		t.Fatal(err)
	}
	end := p.next(t, func(f http2.Frame) bool { _, ok := f.(*http2.GoAwayFrame); return ok }).(*http2.GoAwayFrame)
	if end.ErrCode != http2.ErrCodeProtocol {
		t.Errorf("a window that widens by nothing ends the connection with %v", end.ErrCode)
	}
}

// A peer that does not read its socket holds its own streams up after a bounded number of bytes.
func TestSlowPeer(t *testing.T) {
	var written atomic.Int64
	stuck := make(chan struct{})
	client, url, _ := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(time.Second))
		for {
			n, err := w.Write(make([]byte, 64<<10))
			written.Add(int64(n))
			if err != nil {
				if !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("ended by %v", err)
				}
				close(stuck)
				return
			}
		}
	}))
	p := dialRaw(t, client, url, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 30})
	if err := p.WriteWindowUpdate(0, 1<<30); err != nil {
		t.Fatal(err)
	}
	p.get(t, 1, "/")
	<-stuck
	if n := written.Load(); n > 64<<20 {
		t.Errorf("%d bytes were taken for a peer that reads nothing", n)
	}
}

// Requests that are made and reset at once run no more handlers than are allowed, and then end the connection.
func TestResetFlood(t *testing.T) {
	release := make(chan struct{})
	var running, most atomic.Int64
	client, url, _ := serve(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		most.Store(max(most.Load(), running.Add(1)))
		<-release
		running.Add(-1)
	}))
	p := dialRaw(t, client, url)
	go func() { // the server may close while we write
		for id := uint32(1); ; id += 2 {
			p.head.Reset()
			for _, f := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", "example"}, {":path", "/"}} {
				_ = p.enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
			}
			if p.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: p.head.Bytes(), EndStream: true, EndHeaders: true}) != nil ||
				p.WriteRSTStream(id, http2.ErrCodeCancel) != nil {
				return
			}
		}
	}()
	f := p.next(t, func(f http2.Frame) bool { _, ok := f.(*http2.GoAwayFrame); return ok }).(*http2.GoAwayFrame)
	if f.ErrCode != http2.ErrCodeEnhanceYourCalm {
		t.Errorf("GOAWAY with %v", f.ErrCode)
	}
	close(release)
	if n := most.Load(); n > defaultStreams {
		t.Errorf("%d handlers at a time", n)
	}
}

// A connection that has been idle for long is closed, politely.
func TestIdle(t *testing.T) {
	client, url, srv := serve(t, http.NotFoundHandler())
	srv.IdleTimeout = time.Second // enough for us to have said all that we say
	p := dialRaw(t, client, url)
	f := p.next(t, func(f http2.Frame) bool { _, ok := f.(*http2.GoAwayFrame); return ok }).(*http2.GoAwayFrame)
	if f.ErrCode != http2.ErrCodeNo {
		t.Errorf("GOAWAY with %v", f.ErrCode)
	}
}

// The contexts of handlers end with their requests, and a request's body can be given a deadline.
func TestContextAndDeadline(t *testing.T) {
	seen := make(chan error, 2)
	client, url, _ := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(10 * time.Millisecond))
			_, err := io.ReadAll(r.Body)
			seen <- err
			return
		}
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		seen <- r.Context().Err()
	}))
	ctx, cancel := context.WithCancel(t.Context())
	r, _ := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	resp, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	_ = resp.Body.Close()
	if err := <-seen; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	body, w := io.Pipe()
	r, _ = http.NewRequestWithContext(t.Context(), http.MethodPost, url, body)
	resp, err = client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	_ = w.Close()
	if err := <-seen; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error(err)
	}
}

func BenchmarkGet(b *testing.B) {
	body := bytes.Repeat([]byte("x"), 1500)
	client, url, _ := serve(b, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header()["Content-Type"] = []string{"application/json"}
		_, _ = w.Write(body)
	}))
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, _, err := get(b.Context(), client, url); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkBig is an answer of 5,000 pieces of 2.5 KB that are shared, and what the client does to read it.
func BenchmarkBig(b *testing.B) {
	piece := bytes.Repeat([]byte("x"), 2500)
	client, url, _ := serve(b, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header()["Content-Type"] = []string{"application/json"}
		out := w.(interface{ WriteShared(bufs ...[]byte) error })
		bufs := make([][]byte, 50)
		for range 100 {
			for i := range bufs {
				bufs[i] = piece
			}
			if out.WriteShared(bufs...) != nil {
				return
			}
		}
	}))
	b.ReportAllocs()
	b.SetBytes(5000 * 2500)
	for b.Loop() {
		resp, err := client.Get(url)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			b.Fatal(err)
		}
		_ = resp.Body.Close()
	}
}

// discardPeer reads whatever comes on n streams of one connection.
func discardPeer(b *testing.B, client *http.Client, url string, n int) *rawPeer {
	b.Helper()
	config := client.Transport.(*http.Transport).TLSClientConfig.Clone()
	config.NextProtos = []string{"h2"}
	c, err := (&tls.Dialer{Config: config}).DialContext(b.Context(), "tcp", strings.TrimPrefix(url, "https://"))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = c.Close() })
	p := &rawPeer{Conn: c.(*tls.Conn), Framer: http2.NewFramer(c, c)}
	p.enc = hpack.NewEncoder(&p.head)
	if _, err := io.WriteString(c, http2.ClientPreface); err != nil {
		b.Fatal(err)
	}
	if err := p.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1<<31 - 1}); err != nil {
		b.Fatal(err)
	}
	if err := p.WriteWindowUpdate(0, 1<<31-1-firstWindow); err != nil {
		b.Fatal(err)
	}
	for i := range n {
		p.head.Reset()
		for _, f := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", "example"}, {":path", "/"}} {
			_ = p.enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
		}
		if err := p.WriteHeaders(http2.HeadersFrameParam{StreamID: uint32(2*i + 1), BlockFragment: p.head.Bytes(), EndStream: true, EndHeaders: true}); err != nil {
			b.Fatal(err)
		}
	}
	return p
}

// BenchmarkOffer is an event of 1.3 KB for 200 streams on 16 connections, and what their peers do to read it.
func BenchmarkOffer(b *testing.B) {
	const conns, streams = 16, 13
	var mu sync.Mutex
	var open []offerer
	var ready sync.WaitGroup
	ready.Add(conns * streams)
	client, url, _ := serve(b, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).Flush()
		mu.Lock()
		open = append(open, w.(offerer))
		mu.Unlock()
		ready.Done()
		<-r.Context().Done()
	}))
	var read atomic.Int64
	for range conns {
		p := discardPeer(b, client, url, streams)
		go func() {
			buf := make([]byte, 32<<10)
			for {
				n, err := p.Read(buf)
				read.Add(int64(n))
				if err != nil {
					return
				}
			}
		}()
	}
	ready.Wait()
	event := bytes.Repeat([]byte("e"), 1300)
	b.ReportAllocs()
	b.ResetTimer()
	sent := read.Load()
	for b.Loop() {
		for _, o := range open {
			if !o.Offer(event) {
				b.Fatal("refused")
			}
		}
		for _, o := range open {
			o.Kick()
		}
		for sent += int64(len(open)) * int64(len(event)+9); read.Load() < sent; {
			runtime.Gosched()
		}
	}
}
