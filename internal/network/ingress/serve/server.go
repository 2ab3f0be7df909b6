package serve

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/celox/celox/internal/network/ingress/loop"
	"github.com/celox/celox/internal/network/ingress/route"
)

const (
	// maxConnections is how many clients may be connected at a time. More are closed at once.
	maxConnections = 16384
	// headTime is how long a client may take for the head of a request once it has begun; waitTime is how long it may wait between requests.
	headTime, waitTime = 10 * time.Second, 75 * time.Second
	// handshakeTime bounds a TLS handshake, and the line of the PROXY protocol.
	handshakeTime = 10 * time.Second
	// drainTime is how long requests may go on when the server ends.
	drainTime = 5 * time.Second
	// maxHead is how large the head of a request or an answer may be, maxFields how many lines it may have.
	maxHead, maxFields = 64 << 10, 128
	// http2Streams is how many requests one HTTP/2 connection may have at a time.
	http2Streams = 128
	// attempts is how many endpoints one request may be sent to.
	attempts = 3
)

// Config is what New needs.
type Config struct {
	// HTTPSPort is where clients reach TLS.
	HTTPSPort int
	// Loops is how many loops carry connections without TLS, each of which may keep one of Go's processors busy; without any such connections have goroutines, too.
	Loops int
	// Trusted are the proxies in front, whose words about clients count.
	Trusted []netip.Prefix
	// ProxyProtocol says that trusted proxies begin each connection with a line about the client.
	ProxyProtocol bool
	// Resolver finds the servers that annotations name; nil is the machine's.
	Resolver *net.Resolver
	// Access is told of each request that was answered; nil is nobody. It must be quick.
	Access func(Entry)
	Log    *slog.Logger
}

// Entry is a line of an access log.
type Entry struct {
	Time                       time.Time
	Client                     string
	Method, Host, Path, Scheme string
	Code                       int
	Bytes                      int64
	Took                       time.Duration
	Ingress                    types.NamespacedName
	Endpoint                   string
}

// snapshot is a table with what belongs to it. It is never changed.
type snapshot struct {
	table   *route.Table
	targets []*target // by Route.Index
}

// target is a route with its living parts.
type target struct {
	*route.Route
	backend *backend // nil if Route.Missing
	stats   *stats
}

// Server carries requests. Its methods are safe for concurrent use.
type Server struct {
	cfg         Config
	snap        atomic.Pointer[snapshot]
	connections atomic.Int64
	vouched     vouched
	stray       stats // requests of no Ingress
	ownCert     ownCert
	transports  transports
	asking      http.Client

	mu       sync.Mutex                      // guards what follows
	backends map[route.Backend]*backend      // of the table
	stats    map[types.NamespacedName]*stats // of the table's Ingresses
}

// New makes a server that knows no host.
func New(cfg Config) *Server {
	s := &Server{
		cfg: cfg, vouched: vouched{sums: map[[sha256.Size]byte]bool{}, busy: make(chan struct{}, maxHashing)},
		backends: map[route.Backend]*backend{}, stats: map[types.NamespacedName]*stats{},
	}
	s.snap.Store(&snapshot{table: &route.Table{}})
	s.transports.server = s
	s.asking = http.Client{
		Transport:     &http.Transport{DialContext: s.dialOutside, DisableCompression: true, MaxIdleConnsPerHost: 16, IdleConnTimeout: idleTime, TLSHandshakeTimeout: handshakeTime},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return s
}

// SetTable replaces the table. Endpoints says what a backend has that was not in the last one.
func (s *Server) SetTable(t *route.Table, endpoints func(route.Backend) []netip.AddrPort) {
	s.mu.Lock()
	defer s.mu.Unlock()
	backends := map[route.Backend]*backend{}
	for b := range t.Backends() {
		if have := s.backends[b]; have != nil {
			backends[b] = have
			continue
		}
		made := &backend{Backend: b}
		made.set(endpoints(b))
		backends[b] = made
	}
	counted := map[types.NamespacedName]*stats{}
	for _, name := range t.Ingresses {
		if counted[name] = s.stats[name]; counted[name] == nil {
			counted[name] = &stats{}
		}
	}
	next := &snapshot{table: t, targets: make([]*target, len(t.Routes))}
	for i, r := range t.Routes {
		next.targets[i] = &target{Route: r, stats: counted[r.Ingress]}
		if r.Missing == "" {
			next.targets[i].backend = backends[r.Backend]
		}
	}
	old := s.backends
	s.backends, s.stats = backends, counted
	s.snap.Store(next)
	for b, o := range old {
		if backends[b] == nil {
			o.set(nil)
		}
	}
	s.transports.forget()
}

// SetEndpoints replaces the endpoints of a backend of the table.
func (s *Server) SetEndpoints(b route.Backend, addrs []netip.AddrPort) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if have := s.backends[b]; have != nil {
		have.set(addrs)
		if b.Protocol.Multiplexed() {
			s.transports.forget()
		}
	}
}

// Serve accepts connections, with and without TLS, until ctx ends; then requests have a moment to end. It closes the listeners.
func (s *Server) Serve(ctx context.Context, plain, secure net.Listener) error {
	r := &running{Server: s, conns: map[*member]bool{}, http2: newHandoff()}
	if _, ok := plain.(*net.TCPListener); ok && !s.cfg.ProxyProtocol {
		r.openLoops()
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	second := &http.Server{
		Handler: http.HandlerFunc(r.serveHTTP2), ReadHeaderTimeout: headTime, IdleTimeout: waitTime, MaxHeaderBytes: maxHead,
		HTTP2:    &http.HTTP2Config{MaxConcurrentStreams: http2Streams, SendPingTimeout: waitTime},
		ErrorLog: slog.NewLogLogger(s.cfg.Log.Handler(), slog.LevelDebug),
	}
	second.TLSConfig = &tls.Config{NextProtos: []string{"h2"}, GetCertificate: s.certificate, MinVersion: tls.VersionTLS12} // so that it serves HTTP/2
	var running sync.WaitGroup
	for _, l := range r.loops {
		running.Go(func() {
			if err := l.Run(); err != nil {
				s.cfg.Log.Error("ingress: loop", "err", err)
			}
		})
	}
	running.Go(func() {
		if err := second.Serve(r.http2); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			s.cfg.Log.Error("ingress: HTTP/2", "err", err)
		}
	})
	secureConfig := &tls.Config{
		NextProtos: []string{"h2", "http/1.1"}, GetCertificate: s.certificate, MinVersion: tls.VersionTLS12,
	}
	failed := make(chan error, 2)
	var accepting sync.WaitGroup
	accepting.Go(func() { failed <- r.accept(ctx, plain, nil) })
	accepting.Go(func() { failed <- r.accept(ctx, secure, secureConfig) })
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
		cancel()
	}
	_ = plain.Close() // what fails here is gone anyhow
	_ = secure.Close()
	accepting.Wait() // nobody comes any more
	drain, stop := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
	defer stop()
	running.Go(func() { _ = second.Shutdown(drain) }) // those that are not done in time are closed below
	r.drain(drain)
	for _, l := range r.loops {
		l.Stop()
	}
	_ = second.Close()
	_ = r.http2.Close()
	running.Wait()
	r.handlers.Wait()
	return err
}

// Close lets go of connections to backends. Serve must have returned.
func (s *Server) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range s.backends {
		b.set(nil)
	}
	s.backends = map[route.Backend]*backend{}
	s.snap.Store(&snapshot{table: &route.Table{}})
	s.transports.close()
	s.asking.CloseIdleConnections()
}

// running is a Server with listeners.
type running struct {
	*Server
	handlers sync.WaitGroup
	http2    *handoff
	loops    []*loop.Loop
	ending   atomic.Bool

	mu    sync.Mutex
	conns map[*member]bool // guarded by mu
	over  bool             // guarded by mu: all connections were closed
}

// member is a client's connection.
type member struct {
	net.Conn              // guarded by running.mu
	looped   *loop.Socket // guarded by running.mu; Conn, while it is a loop's
	state    atomic.Int32
}

// interrupt wakes who waits for a request. running.mu must be held.
func (m *member) interrupt() {
	c := m.Conn
	wake := func() {
		if m.state.Load() == waiting {
			_ = c.SetReadDeadline(time.Unix(1, 0)) // fails only where reading does
		}
	}
	if s := m.looped; s != nil {
		c = s
		s.Later(wake)
		return
	}
	wake()
}

// drop closes the connection. running.mu must be held.
func (m *member) drop() {
	if m.looped != nil {
		m.looped.CloseLater()
		return
	}
	_ = m.Close() // it may be closed already
}

// States of connections.
const (
	waiting    int32 = iota // for a request
	working                 // on one
	handedOver              // to net/http
)

func (r *running) accept(ctx context.Context, l net.Listener, secure *tls.Config) error {
	pause := time.Duration(0)
	for {
		c, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			// Too many files, most likely: those who are connected go on.
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			r.cfg.Log.Warn("ingress: accept", "err", err)
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(pause):
			}
			continue
		}
		pause = 0
		m := &member{Conn: c}
		if !r.add(m) {
			_ = c.Close() // it was told nothing yet
			continue
		}
		if tcp, ok := c.(*net.TCPConn); ok && secure == nil && r.toLoop(m, tcp) {
			continue
		}
		r.handlers.Go(func() {
			defer r.remove(m)
			r.connection(ctx, m, secure)
		})
	}
}

func (r *running) add(m *member) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ending.Load() || len(r.conns) >= maxConnections {
		return false
	}
	r.connections.Add(1)
	r.conns[m] = true
	return true
}

func (r *running) remove(m *member) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m.drop()
	delete(r.conns, m)
	r.connections.Add(-1)
}

// drain closes connections as soon as nothing is under way on them, and all when ctx ends.
func (r *running) drain(ctx context.Context) {
	r.mu.Lock()
	r.ending.Store(true)
	for m := range r.conns {
		m.interrupt()
	}
	r.mu.Unlock()
	done := make(chan struct{})
	go func() {
		r.handlers.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		r.mu.Lock()
		r.over = true
		for m := range r.conns {
			m.drop()
		}
		r.mu.Unlock()
		<-done
	}
}

// handoff is the listener by which HTTP/2 connections reach net/http.
type handoff struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newHandoff() *handoff { return &handoff{conns: make(chan net.Conn), closed: make(chan struct{})} }

// Accept implements net.Listener.
func (h *handoff) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (h *handoff) Close() error {
	h.once.Do(func() { close(h.closed) })
	return nil
}

// Addr implements net.Listener.
func (h *handoff) Addr() net.Addr { return &net.TCPAddr{} }

// give hands a connection over; false says that nobody takes it any more.
func (h *handoff) give(c net.Conn) bool {
	select {
	case h.conns <- c:
		return true
	case <-h.closed:
		return false
	}
}

var errForbidden = errors.New("the address is the node's own or of its link")

// closing is a body that must not be closed by who reads it.
type closing struct {
	io.Reader
	progress func() // called when something was read

	mu    sync.Mutex
	begun bool // guarded by mu
	over  bool // guarded by mu: there is no progress to be told any more
}

// Read implements io.Reader.
func (c *closing) Read(b []byte) (int, error) {
	c.mu.Lock()
	c.begun = true
	c.mu.Unlock()
	n, err := c.Reader.Read(b)
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.over {
		c.progress()
	}
	return n, err
}

// untouched says that nothing was read yet.
func (c *closing) untouched() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.begun
}

// answered ends the watch over the progress.
func (c *closing) answered() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
}

// Close implements io.Closer.
func (c *closing) Close() error { return nil }
