package tunnel

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"k8s.io/apiserver/pkg/authentication/user"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// stage is a server with a hub, and an agent.
type stage struct {
	t      testing.TB
	hub    *Hub
	server *httptest.Server
	// who the agent is to the server.
	who  user.Info
	said chan string
	// reach is where streams lead.
	reach func(ctx context.Context, address string) (net.Conn, error)
}

func node(name string) user.Info {
	return &user.DefaultInfo{Name: "system:node:" + name, Groups: []string{user.NodesGroup, user.AllAuthenticated}}
}

// patience bounds waiting. It is no measurement.
const patience = time.Minute

func newStage(t testing.TB) *stage {
	t.Helper()
	s := &stage{t: t, who: node("n"), said: make(chan string, 100)}
	s.reach = func(ctx context.Context, address string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", address)
	}
	s.hub = NewHub(func(*http.Request) (user.Info, bool, error) { return s.who, s.who != nil, nil }, slog.New(slog.DiscardHandler))
	s.server = s.listen()
	return s
}

func (s *stage) listen() *httptest.Server {
	server := httptest.NewUnstartedServer(s.hub)
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // agents that end in the middle of a handshake
	server.StartTLS()
	s.t.Cleanup(func() {
		if err := s.hub.Close(); err != nil {
			s.t.Error(err)
		}
		server.Close()
	})
	return server
}

func (s *stage) config() AgentConfig {
	return AgentConfig{
		Dial:    (&net.Dialer{KeepAlive: -1}).DialContext,
		Server:  s.server.Listener.Addr().String(),
		Servers: func() ([]string, <-chan struct{}) { return nil, nil },
		TLS: func() *tls.Config {
			return s.server.Client().Transport.(*http.Transport).TLSClientConfig
		},
		Reach:  func(ctx context.Context, address string) (net.Conn, error) { return s.reach(ctx, address) },
		Notice: func(_, word string) { s.said <- "server: " + word },
		Say:    func(format string, args ...any) { s.said <- fmt.Sprintf(format, args...) },
		Log:    slog.New(slog.DiscardHandler),
	}
}

// agent runs an agent until the test or stop ends it.
func (s *stage) agent(cfg AgentConfig) (stop func()) {
	s.t.Helper()
	ctx, cancel := context.WithCancel(s.t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		a := NewAgent(cfg)
		a.retry = 10 * time.Millisecond
		if err := a.Run(ctx); err != nil {
			s.t.Error(err)
		}
	}()
	stop = func() {
		cancel()
		select {
		case <-done:
		case <-time.After(patience):
			s.t.Error("the agent does not end")
		}
	}
	s.t.Cleanup(stop)
	return stop
}

// until waits for something to be so.
func until(t testing.TB, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !is(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("in the end no %s", what)
		}
	}
}

func (s *stage) hears(words string) {
	s.t.Helper()
	for {
		select {
		case got := <-s.said:
			if strings.Contains(got, words) {
				return
			}
		case <-time.After(patience):
			s.t.Fatalf("nobody says %q", words)
		}
	}
}

// serve accepts connections at an address and gives each to f.
func serve(t *testing.T, f func(c net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer c.Close()
				f(c)
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		all.Wait()
	})
	return l.Addr().String()
}

func echo(t *testing.T) string {
	return serve(t, func(c net.Conn) {
		_, _ = io.Copy(c, c)
		_ = c.(*net.TCPConn).CloseWrite()
	})
}

func (s *stage) dial(address string) net.Conn {
	s.t.Helper()
	c, err := s.hub.Dial(s.t.Context(), "n", address)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = c.Close() })
	return c
}

// exchange sends something on a connection to an echo, and expects it back.
func exchange(t *testing.T, c net.Conn, size int) {
	t.Helper()
	if err := exchanged(c, size); err != nil {
		t.Fatal(err)
	}
}

func exchanged(c net.Conn, size int) error {
	want := bytes.Repeat([]byte("celox"), size/5)
	sent := make(chan error, 1)
	go func() {
		_, err := c.Write(want)
		sent <- err
	}()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil {
		_ = c.Close()
		return errors.Join(err, <-sent)
	}
	if err := <-sent; err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		return errors.New("what comes back is not what was sent")
	}
	return nil
}

func TestStreams(t *testing.T) {
	s := newStage(t)
	if _, err := s.hub.Dial(t.Context(), "n", API); !errors.Is(err, ErrNone) {
		t.Errorf("before there is a tunnel: %v", err)
	}
	s.agent(s.config())
	until(t, "tunnel", func() bool { return s.hub.Has("n") })
	if s.hub.Has("other") || s.hub.Empty() {
		t.Error("the tunnel is not that of its node alone")
	}
	address := echo(t)

	t.Run("both ways", func(t *testing.T) {
		var all sync.WaitGroup
		for range 10 {
			c := s.dial(address)
			all.Go(func() {
				if err := exchanged(c, 4*window); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
	})
	t.Run("what was said last arrives", func(t *testing.T) {
		c := s.dial(address)
		if _, err := c.Write([]byte("last words")); err != nil {
			t.Fatal(err)
		}
		if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(c); err != nil || string(got) != "last words" {
			t.Errorf("%q, %v", got, err)
		}
	})
	t.Run("an end on this side ends the other", func(t *testing.T) {
		ended := make(chan error, 1)
		c := s.dial(serve(t, func(c net.Conn) {
			_, err := io.Copy(io.Discard, c)
			ended <- err
		}))
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		select {
		case <-ended:
		case <-time.After(patience):
			t.Fatal("it goes on")
		}
	})
	t.Run("an end on the other side ends this one", func(t *testing.T) {
		c := s.dial(serve(t, func(c net.Conn) { _, _ = c.Write([]byte("bye")) }))
		if got, err := io.ReadAll(c); err != nil || string(got) != "bye" {
			t.Errorf("%q, %v", got, err)
		}
	})
	t.Run("a deadline", func(t *testing.T) {
		c := s.dial(address)
		if err := c.SetDeadline(time.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
		exchange(t, c, 100)
		if err := c.SetReadDeadline(time.Now().Add(time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		var late net.Error
		if _, err := c.Read(make([]byte, 1)); !errors.As(err, &late) || !late.Timeout() {
			t.Errorf("got %v", err)
		}
	})
	t.Run("what the agent refuses", func(t *testing.T) {
		s.reach = func(_ context.Context, address string) (net.Conn, error) {
			return nil, fmt.Errorf("%w: not %s", ErrForbidden, address)
		}
		_, err := s.hub.Dial(t.Context(), "n", "192.0.2.1:80")
		var refused *RefusedError
		if !errors.As(err, &refused) || !strings.Contains(err.Error(), "not 192.0.2.1:80") {
			t.Errorf("got %v", err)
		}
		s.reach = func(context.Context, string) (net.Conn, error) { return nil, errors.New("connection refused") }
		if _, err = s.hub.Dial(t.Context(), "n", API); !errors.As(err, &refused) || err.Error() != "node n: connection refused" {
			t.Errorf("got %v", err)
		}
	})
	t.Run("who does not want to wait", func(t *testing.T) {
		s.reach = func(ctx context.Context, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(10*time.Millisecond, cancel)
		if _, err := s.hub.Dial(ctx, "n", API); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a word", func(t *testing.T) {
		if err := s.hub.Tell(t.Context(), "n", "it is closed"); err != nil {
			t.Fatal(err)
		}
		s.hears("server: it is closed")
		if err := s.hub.Tell(t.Context(), "other", "x"); !errors.Is(err, ErrNone) {
			t.Errorf("got %v", err)
		}
	})
}

// Connections that nobody reads, in either direction, hold up nobody else.
func TestSlowReaders(t *testing.T) {
	s := newStage(t)
	s.agent(s.config())
	until(t, "tunnel", func() bool { return s.hub.Has("n") })
	free := make(chan struct{})
	defer close(free)
	// One end never stops to write, and reads nothing.
	floods := serve(t, func(c net.Conn) {
		data := make([]byte, 64<<10)
		for {
			if _, err := c.Write(data); err != nil {
				return
			}
		}
	})
	sleeps := serve(t, func(c net.Conn) { <-free })
	var writers sync.WaitGroup
	var open []net.Conn
	for range 20 {
		open = append(open, s.dial(floods)) // and nobody reads
		c := s.dial(sleeps)
		open = append(open, c)
		writers.Go(func() {
			data := make([]byte, 64<<10)
			for {
				if _, err := c.Write(data); err != nil {
					return
				}
			}
		})
	}
	address := echo(t)
	for range 3 {
		exchange(t, s.dial(address), 8*window)
	}
	for _, c := range open {
		_ = c.Close()
	}
	writers.Wait()
}

// More connections than a tunnel carries wait for their turn.
func TestManyStreams(t *testing.T) {
	s := newStage(t)
	s.reach = func(context.Context, string) (net.Conn, error) {
		here, there := net.Pipe()
		go func() {
			defer there.Close()
			_, _ = io.Copy(there, there)
		}()
		return here, nil
	}
	s.agent(s.config())
	until(t, "tunnel", func() bool { return s.hub.Has("n") })
	var open []net.Conn
	for range streams {
		open = append(open, s.dial(API))
	}
	got := make(chan error, 1)
	go func() {
		c, err := s.hub.Dial(t.Context(), "n", API)
		if err == nil {
			err = errors.Join(exchanged(c, 100), c.Close())
		}
		got <- err
	}()
	select {
	case err := <-got:
		t.Errorf("one too many: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	_ = open[0].Close()
	select {
	case err := <-got:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Error("its turn does not come")
	}
}

func TestWhoMayOpen(t *testing.T) {
	for _, c := range []struct {
		name string
		who  user.Info
		want int
	}{
		{"nobody", nil, http.StatusUnauthorized},
		{"an administrator", &user.DefaultInfo{Name: "admin", Groups: []string{user.SystemPrivilegedGroup}}, http.StatusForbidden},
		{"a node's name without its group", &user.DefaultInfo{Name: "system:node:n"}, http.StatusForbidden},
		{"a node without a name", node(""), http.StatusForbidden},
		{"a node", node("n"), http.StatusUpgradeRequired}, // an upgrade was not asked for
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStage(t)
			s.who = c.who
			resp, err := s.server.Client().Get(s.server.URL + Path)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			if resp.StatusCode != c.want {
				t.Errorf("got %s, want %d", resp.Status, c.want)
			}
			if !s.hub.Empty() {
				t.Error("there is a tunnel")
			}
			s.server.Client().CloseIdleConnections()
		})
	}
}

// One server by several addresses gets one tunnel, and another when that has ended; another server gets its own.
func TestSeveralAddresses(t *testing.T) {
	s := newStage(t)
	other := newStage(t)
	again := s.listen() // another address of the same server
	cfg := s.config()
	cfg.Servers = func() ([]string, <-chan struct{}) {
		return []string{again.Listener.Addr().String(), other.server.Listener.Addr().String(), cfg.Server}, nil
	}
	s.agent(cfg)
	until(t, "tunnels to both servers", func() bool { return s.hub.Has("n") && other.hub.Has("n") })
	// The server may have changed its mind when both addresses came at once.
	address := echo(t)
	until(t, "way", func() bool {
		c, err := s.hub.Dial(t.Context(), "n", address)
		if err != nil {
			return false
		}
		defer c.Close()
		return exchanged(c, 100) == nil
	})
	// Whichever address it is by: the other takes over.
	first := s.hub.find("n")
	_ = first.Close()
	until(t, "another tunnel", func() bool { now := s.hub.find("n"); return now != nil && now != first })
}

func TestServersComeAndGo(t *testing.T) {
	s, other := newStage(t), newStage(t)
	var mu sync.Mutex
	var servers []string
	changed := make(chan struct{})
	set := func(list ...string) {
		mu.Lock()
		defer mu.Unlock()
		servers = list
		close(changed)
		changed = make(chan struct{})
	}
	cfg := s.config()
	cfg.Servers = func() ([]string, <-chan struct{}) {
		mu.Lock()
		defer mu.Unlock()
		return servers, changed
	}
	s.agent(cfg)
	until(t, "tunnel", func() bool { return s.hub.Has("n") })
	set(other.server.Listener.Addr().String())
	until(t, "tunnel to a new server", func() bool { return other.hub.Has("n") })
	set()
	until(t, "end of that tunnel", func() bool { return !other.hub.Has("n") })
	exchange(t, s.dial(echo(t)), 100)
}

func TestReconnects(t *testing.T) {
	s := newStage(t)
	cfg := s.config()
	answer := s.server.Listener.Addr().String()
	// Nobody is there at first.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg.Server = l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	s.agent(cfg)
	s.hears("no tunnel to the server at " + cfg.Server)
	// Then somebody is, who can be cut off.
	if l, err = net.Listen("tcp", cfg.Server); err != nil {
		t.Skipf("the port is taken by somebody else: %v", err)
	}
	var mu sync.Mutex
	var between []net.Conn
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			d, err := net.Dial("tcp", answer)
			if err != nil {
				_ = c.Close()
				continue
			}
			mu.Lock()
			between = append(between, c, d)
			mu.Unlock()
			pass := func(to, from net.Conn) {
				_, _ = io.Copy(to, from)
				_ = to.Close()
			}
			all.Go(func() { pass(c, d) })
			all.Go(func() { pass(d, c) })
		}
	})
	cut := func() {
		mu.Lock()
		defer mu.Unlock()
		for _, c := range between {
			_ = c.Close()
		}
		between = nil
	}
	t.Cleanup(func() {
		_ = l.Close()
		cut()
		all.Wait()
	})
	s.hears("is back")
	until(t, "tunnel", func() bool { return s.hub.Has("n") })
	c := s.dial(echo(t))
	exchange(t, c, 100)
	first := s.hub.find("n")
	cut()
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("a connection goes on without its tunnel")
	}
	until(t, "another tunnel", func() bool { now := s.hub.find("n"); return now != nil && now != first })
	exchange(t, s.dial(echo(t)), 100)
}

// An agent that starts anew takes the place of what is left of it.
func TestReplaced(t *testing.T) {
	s := newStage(t)
	first := NewAgent(s.config())
	ended := make(chan error, 1)
	go func() { ended <- first.once(t.Context(), s.server.Listener.Addr().String(), func() {}) }()
	until(t, "tunnel", func() bool { return s.hub.Has("n") })
	was := s.hub.find("n")
	s.agent(s.config())
	until(t, "another tunnel", func() bool { now := s.hub.find("n"); return now != nil && now != was })
	select {
	case err := <-ended:
		if err == nil {
			t.Error("the old one ends without a word")
		}
	case <-time.After(patience):
		t.Error("the old one goes on")
	}
	exchange(t, s.dial(echo(t)), 100)
}

// What is no server with tunnels is told as such.
func TestNoTunnelThere(t *testing.T) {
	s := newStage(t)
	plain := httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(plain.Close)
	cfg := s.config()
	cfg.Server = plain.Listener.Addr().String()
	cfg.TLS = func() *tls.Config { return plain.Client().Transport.(*http.Transport).TLSClientConfig }
	s.agent(cfg)
	s.hears("404 Not Found")
}

func TestListener(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := NewListener(inner)
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.RemoteAddr) })}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	for want, dial := range map[string]func(ctx context.Context, _, _ string) (net.Conn, error){
		"127.0.0.1:": nil,
		"pipe":       func(ctx context.Context, _, _ string) (net.Conn, error) { return l.Dial(ctx) },
	} {
		client := &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
		resp, err := client.Get("http://" + inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil || !strings.HasPrefix(string(got), want) {
			t.Errorf("got %q, %v, want %q", got, err, want)
		}
	}
	if err := srv.Close(); err != nil {
		t.Error(err)
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		t.Error(err)
	}
	if _, err := l.Dial(t.Context()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after the end: %v", err)
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after the end: %v", err)
	}
}
