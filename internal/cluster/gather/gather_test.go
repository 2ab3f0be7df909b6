package gather

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve serves h over TLS until the test ends, and returns a client and the server's address.
func serve(t *testing.T, h http.Handler) (*http.Client, string, *http.Server) {
	t.Helper()
	// httptest has a certificate that its own client trusts.
	donor := httptest.NewUnstartedServer(h)
	donor.EnableHTTP2 = true
	donor.StartTLS()
	config, client := donor.TLS.Clone(), donor.Client()
	t.Cleanup(donor.Close)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: h, TLSConfig: config, ReadHeaderTimeout: closeTimeout}
	if err := HTTP2(srv); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- srv.ServeTLS(Listen(l), "", "") }()
	t.Cleanup(func() {
		client.CloseIdleConnections()
		_ = srv.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("serving ended with %v", err)
		}
	})
	return client, "https://" + l.Addr().String(), srv
}

func get(ctx context.Context, c *http.Client, url string) (*http.Response, []byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, nil, err
	}
	resp, err := c.Do(r)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	return resp, b, err
}

func TestServesBothProtocols(t *testing.T) {
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	client, url, _ := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS == nil || r.RemoteAddr == "" {
			t.Error("the handler does not see whom it serves")
		}
		_, _ = w.Write(big)
	}))
	h1 := client.Transport.(*http.Transport).Clone()
	h1.Protocols = new(http.Protocols)
	h1.Protocols.SetHTTP1(true)
	h1.TLSClientConfig.NextProtos = nil
	defer h1.CloseIdleConnections()
	for major, c := range map[int]*http.Client{1: {Transport: h1}, 2: client} {
		resp, body, err := get(t.Context(), c, url)
		if err != nil {
			t.Fatalf("HTTP/%d: %v", major, err)
		}
		if resp.ProtoMajor != major || !bytes.Equal(body, big) {
			t.Errorf("HTTP/%d: answered in %s, %d bytes of %d", major, resp.Proto, len(body), len(big))
		}
	}
}

// Streams of one connection each get what is theirs, in order.
func TestStreams(t *testing.T) {
	const streams, events = 50, 100
	client, url, _ := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		for i := range events {
			_, _ = fmt.Fprintf(w, "%s %d\n", r.URL.Path, i)
			_ = rc.Flush()
		}
	}))
	var wg sync.WaitGroup
	for s := range streams {
		wg.Go(func() {
			_, body, err := get(t.Context(), client, fmt.Sprintf("%s/%d", url, s))
			var want bytes.Buffer
			for i := range events {
				_, _ = fmt.Fprintf(&want, "/%d %d\n", s, i)
			}
			if err != nil || !bytes.Equal(body, want.Bytes()) {
				t.Errorf("stream %d: %v, %d bytes", s, err, len(body))
			}
		})
	}
	wg.Wait()
}

// Shutting down lets requests that are under way finish, with all of their answers.
func TestShutdown(t *testing.T) {
	began, finish := make(chan struct{}), make(chan struct{})
	client, url, srv := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(began)
		<-finish
		_, _ = io.WriteString(w, "all of it")
	}))
	down := make(chan error, 1)
	go func() {
		<-began
		srv.RegisterOnShutdown(func() { close(finish) })
		down <- srv.Shutdown(context.WithoutCancel(t.Context()))
	}()
	_, body, err := get(t.Context(), client, url)
	if err != nil || string(body) != "all of it" {
		t.Errorf("got %q, %v", body, err)
	}
	client.CloseIdleConnections()
	if err := <-down; err != nil {
		t.Error(err)
	}
}

// pair returns both ends of a TLS connection over a pipe, which has no buffer: a peer that does not read blocks its writer.
func pair(t *testing.T) (*conn, *tls.Conn) {
	t.Helper()
	donor := httptest.NewTLSServer(nil)
	defer donor.Close()
	a, b := net.Pipe()
	s := &socket{Conn: a}
	server := tls.Server(s, donor.TLS.Clone())
	client := tls.Client(b, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // a pipe in a test
	shaken := make(chan error, 1)
	go func() { shaken <- client.HandshakeContext(t.Context()) }()
	if err := server.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	// The session tickets may still be on their way: the client reads them with what comes next.
	if err := <-shaken; err != nil {
		t.Fatal(err)
	}
	return newConn(server, s), client
}

// What was written before Close arrives.
func TestCloseFlushes(t *testing.T) {
	c, peer := pair(t)
	for range 10 {
		if _, err := c.Write([]byte("0123456789")); err != nil {
			t.Fatal(err)
		}
	}
	read := make(chan []byte, 1)
	go func() {
		b, _ := io.ReadAll(peer)
		read <- b
		_ = peer.Close()
	}()
	_ = c.Close()
	if b := <-read; len(b) != 100 {
		t.Errorf("%d bytes of 100 arrived", len(b))
	}
	if _, err := c.Write([]byte("x")); err == nil {
		t.Error("a closed connection can be written")
	}
}

// A peer that does not read holds its writers up, and one that goes away ends them.
func TestSlowPeer(t *testing.T) {
	c, peer := pair(t)
	wrote := make(chan error, 1)
	var n int
	go func() {
		p := make([]byte, 4<<10)
		for {
			if _, err := c.Write(p); err != nil {
				wrote <- err
				return
			}
			n += len(p)
		}
	}()
	if _, err := io.ReadFull(peer, make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	_ = peer.NetConn().Close()
	if err := <-wrote; err == nil {
		t.Error("no error")
	}
	if n > 1<<20+4*limit {
		t.Errorf("%d bytes were taken for a peer that reads 1 MiB", n)
	}
	_ = c.Close()
}
