package tunnel

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

const (
	// openTimeout is how long it may take to open a tunnel, reachTimeout how long to reach what a stream leads to.
	openTimeout, reachTimeout = 15 * time.Second, 10 * time.Second
	// copyBuffer is what is passed on at a time, in bytes.
	copyBuffer = 16 << 10
)

// ErrForbidden says that a tunnel does not lead there.
var ErrForbidden = errors.New("the tunnel of a node leads to its own API and its own pods only")

// AgentConfig is what an Agent needs.
type AgentConfig struct {
	// Server is where the agent's API server is (host and port). Servers says where there are others that it knows of; the channel is closed at the next change.
	Server  string
	Servers func() ([]string, <-chan struct{})
	// Dial connects to a server, over TCP or by way of something else.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// TLS is how the node shows itself and whom it believes. It is asked for at each connection; the server's name is filled in.
	TLS func() *tls.Config
	// Reach opens what a server asks for: API, or the address of something on this node. ErrForbidden refuses.
	Reach func(ctx context.Context, address string) (net.Conn, error)
	// Notice gets the words of servers.
	Notice func(server, word string)
	// Say gets what the person who looks after the machine should know.
	Say func(format string, args ...any)
	Log *slog.Logger
}

// Agent keeps a tunnel to every server.
type Agent struct {
	cfg   AgentConfig
	retry time.Duration // how long it waits before it tries again the first time

	mu   sync.Mutex               // guards what follows
	held map[string]chan struct{} // servers that there are tunnels to, by who they are; closed when the tunnel ends
}

// NewAgent returns an Agent. Nothing is opened yet.
func NewAgent(cfg AgentConfig) *Agent {
	return &Agent{cfg: cfg, retry: retry, held: map[string]chan struct{}{}}
}

// errHeld says that there is a tunnel to that server already, by another of its addresses.
type errHeld struct{ ended <-chan struct{} }

func (errHeld) Error() string { return "there is a tunnel already" }

// once opens a tunnel to a server and serves it until it or ctx ends. opened is called in between.
func (a *Agent) once(ctx context.Context, server string, opened func()) error {
	conn, id, err := a.open(ctx, server)
	if err != nil {
		return err
	}
	defer conn.Close()
	ended := make(chan struct{})
	a.mu.Lock()
	a.held[id] = ended // if two addresses of one server were tried at once, the server lets go of the other tunnel
	a.mu.Unlock()
	defer func() {
		a.mu.Lock()
		if a.held[id] == ended {
			delete(a.held, id)
		}
		a.mu.Unlock()
		close(ended)
	}()
	opened()
	return a.serve(ctx, server, conn)
}

// open dials and asks for the upgrade.
func (a *Agent) open(ctx context.Context, server string) (_ *plain, id string, err error) {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	config := a.cfg.TLS().Clone()
	config.NextProtos = []string{"http/1.1"}
	if config.ServerName == "" {
		host, _, err := net.SplitHostPort(server)
		if err != nil {
			return nil, "", err
		}
		config.ServerName = host
	}
	under, err := a.cfg.Dial(ctx, "tcp", server)
	if err != nil {
		return nil, "", err
	}
	conn := tls.Client(under, config)
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer func() {
		if !stop() && err == nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			_ = conn.Close()
		}
	}()
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, "", err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+server+Path, nil)
	if err != nil {
		return nil, "", err
	}
	r.Header.Set("Connection", "Upgrade")
	r.Header.Set("Upgrade", protocol)
	r.Header.Set(heldHeader, a.servers())
	if err := r.Write(conn); err != nil {
		return nil, "", err
	}
	br := bufio.NewReader(conn)
	resp, err := http.ReadResponse(br, r)
	if err != nil {
		return nil, "", err
	}
	id = resp.Header.Get(serverHeader)
	if resp.StatusCode != http.StatusSwitchingProtocols {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, maxNotice)) // what there is of it
		_ = resp.Body.Close()
		if resp.StatusCode == http.StatusConflict && id != "" {
			return nil, "", errHeld{a.ended(id)}
		}
		return nil, "", fmt.Errorf("%s: %s", resp.Status, strings.TrimSpace(string(text)))
	}
	if resp.Header.Get("Upgrade") != protocol || id == "" {
		return nil, "", errors.New("the other side does not know what a tunnel is")
	}
	return newPlain(conn, br), id, nil
}

// ended is closed when the tunnel to a server has ended.
func (a *Agent) ended(id string) <-chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c := a.held[id]; c != nil {
		return c
	}
	c := make(chan struct{}) // it has by now
	close(c)
	return c
}

// servers lists those that there are tunnels to.
func (a *Agent) servers() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	ids := make([]string, 0, len(a.held))
	for id := range a.held {
		ids = append(ids, id)
	}
	return strings.Join(ids, ",")
}

// serve serves the streams of a connection until it or ctx ends, and all of them have ended.
func (a *Agent) serve(ctx context.Context, server string, conn *plain) error {
	var handlers sync.WaitGroup
	srv := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			handlers.Add(1)
			defer handlers.Done()
			a.handle(server, w, r)
		}),
		Protocols: protocols(),
		// A connection's window for all streams: one that nobody reads must not take what others need.
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: streams, MaxReceiveBufferPerStream: window, MaxReceiveBufferPerConnection: streams * window,
			SendPingTimeout: agentPing, PingTimeout: pingWait, WriteByteTimeout: pingWait,
		},
		BaseContext: func(net.Listener) context.Context { return ctx },
		ErrorLog:    slog.NewLogLogger(a.cfg.Log.Handler(), slog.LevelDebug),
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	err := srv.Serve(&one{conn: conn}) // returns when the connection was closed
	_ = srv.Close()
	handlers.Wait()
	if ctx.Err() != nil {
		return nil
	}
	if errors.Is(err, net.ErrClosed) || errors.Is(err, http.ErrServerClosed) {
		return errors.New("it was closed")
	}
	return err
}

// handle serves one stream.
func (a *Agent) handle(server string, w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Method == http.MethodPost && r.URL.Path == noticePath:
		if word, err := io.ReadAll(io.LimitReader(r.Body, maxNotice)); err == nil {
			a.cfg.Notice(server, string(word))
		}
	case r.Method == http.MethodConnect:
		a.connect(w, r)
	default:
		http.Error(w, "a tunnel knows no "+r.Method, http.StatusMethodNotAllowed)
	}
}

func (a *Agent) connect(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), reachTimeout)
	conn, err := a.cfg.Reach(ctx, r.Host)
	cancel()
	if err != nil {
		code := http.StatusBadGateway
		if errors.Is(err, ErrForbidden) {
			code = http.StatusForbidden
		}
		http.Error(w, err.Error(), code)
		return
	}
	defer conn.Close()
	control := http.NewResponseController(w)
	w.WriteHeader(http.StatusOK)
	if err := control.Flush(); err != nil {
		return // the server is gone
	}
	defer context.AfterFunc(r.Context(), func() { _ = conn.Close() })()
	var to sync.WaitGroup
	to.Go(func() {
		_, err := io.CopyBuffer(onlyWriter{conn}, r.Body, make([]byte, copyBuffer))
		if c, ok := conn.(interface{ CloseWrite() error }); ok && err == nil {
			_ = c.CloseWrite() // the other direction goes on
			return
		}
		_ = conn.Close()
	})
	_, _ = io.CopyBuffer(flushing{w, control}, onlyReader{conn}, make([]byte, copyBuffer)) // how a stream ends is its users' business
	_ = conn.Close()
	_ = r.Body.Close()
	to.Wait()
}

// onlyReader and onlyWriter keep io.CopyBuffer from looking for shortcuts, which take larger buffers.
type (
	onlyReader struct{ io.Reader }
	onlyWriter struct{ io.Writer }
)

// flushing sends at once what is written.
type flushing struct {
	w       io.Writer
	control *http.ResponseController
}

func (f flushing) Write(b []byte) (int, error) {
	n, err := f.w.Write(b)
	if err == nil {
		err = f.control.Flush()
	}
	return n, err
}
