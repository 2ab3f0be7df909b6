package gather

import (
	"bytes"
	"context"
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
func serve(t testing.TB, h http.Handler) (*http.Client, string, *http.Server) {
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
