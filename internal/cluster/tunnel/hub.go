package tunnel

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/apiserver/pkg/authentication/user"
)

// nodeUser begins the names of nodes.
const nodeUser = "system:node:"

// ErrNone says that a node has no tunnel to this server.
var ErrNone = errors.New("the node has no tunnel to this server")

// RefusedError is what an agent says about a connection that it could not, or would not, open. Its word is better than what others see from afar.
type RefusedError struct{ Node, Text string }

func (e *RefusedError) Error() string { return fmt.Sprintf("node %s: %s", e.Node, e.Text) }

// Hub is the server's end of the tunnels of all nodes. It may be used from many goroutines.
type Hub struct {
	authenticate func(*http.Request) (user.Info, bool, error)
	log          *slog.Logger
	id           string

	mu      sync.Mutex // guards what follows
	tunnels map[string]*tunnel
	closed  bool
	serving sync.WaitGroup
}

type tunnel struct {
	conn *http.ClientConn
	// end says that the tunnel is to end, or has ended.
	end     chan struct{}
	endOnce sync.Once
}

func (t *tunnel) stop() { t.endOnce.Do(func() { close(t.end) }) }

// NewHub returns a Hub without tunnels. Authenticate says who sent a request.
func NewHub(authenticate func(*http.Request) (user.Info, bool, error), log *slog.Logger) *Hub {
	return &Hub{authenticate: authenticate, log: log, id: rand.Text(), tunnels: map[string]*tunnel{}}
}

// ServeHTTP takes the tunnel of a node: only of the node itself. It returns when the tunnel has ended: when the other side is gone, another of the same node takes
// its place, the certificate that it was opened with expires, or the request's context ends.
func (h *Hub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	u, ok, err := h.authenticate(r)
	if err != nil || !ok {
		http.Error(w, "a tunnel needs the certificate of a node", http.StatusUnauthorized)
		return
	}
	node, ok := strings.CutPrefix(u.GetName(), nodeUser)
	if !ok || node == "" || !slices.Contains(u.GetGroups(), user.NodesGroup) {
		http.Error(w, fmt.Sprintf("%s is no node: only nodes have tunnels", u.GetName()), http.StatusForbidden)
		return
	}
	w.Header().Set(serverHeader, h.id)
	if slices.Contains(strings.Split(r.Header.Get(heldHeader), ","), h.id) {
		http.Error(w, "there is a tunnel already", http.StatusConflict)
		return
	}
	if r.ProtoMajor != 1 || r.Header.Get("Upgrade") != protocol {
		w.Header().Set("Upgrade", protocol)
		http.Error(w, "a tunnel is an upgrade to "+protocol, http.StatusUpgradeRequired)
		return
	}
	ctx := r.Context()
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, r.TLS.PeerCertificates[0].NotAfter)
		defer cancel()
	}
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer conn.Close()
	fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n%s: %s\r\n\r\n", protocol, serverHeader, h.id)
	if err := rw.Flush(); err != nil {
		return // the agent tries again
	}
	if err := h.serve(ctx, node, newPlain(conn, rw.Reader)); err != nil {
		h.log.Info("tunnel", "node", node, "err", err)
	}
}

func (h *Hub) serve(ctx context.Context, node string, conn net.Conn) error {
	transport := &http.Transport{
		Protocols: protocols(), DisableCompression: true,
		DialContext: func(context.Context, string, string) (net.Conn, error) { return conn, nil },
		// The window of the whole connection is larger than that of all streams by itself.
		HTTP2: &http.HTTP2Config{
			SendPingTimeout: pingEvery, PingTimeout: pingWait, WriteByteTimeout: pingWait, MaxReceiveBufferPerStream: window, StrictMaxConcurrentRequests: true,
		},
	}
	link, err := transport.NewClientConn(ctx, "http", API)
	if err != nil {
		return err
	}
	defer link.Close()
	t := &tunnel{conn: link, end: make(chan struct{})}
	if !h.add(node, t) {
		return nil
	}
	defer h.remove(node, t)
	link.SetStateHook(func(c *http.ClientConn) {
		if c.Err() != nil {
			t.stop()
		}
	})
	h.log.Debug("a tunnel begins", "node", node, "from", conn.RemoteAddr())
	defer h.log.Debug("a tunnel ends", "node", node)
	select {
	case <-ctx.Done():
	case <-t.end:
	}
	return nil
}

// add puts a tunnel in the place of the node's last one. False: there are to be no more.
func (h *Hub) add(node string, t *tunnel) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return false
	}
	h.serving.Add(1)
	if old := h.tunnels[node]; old != nil {
		old.stop()
	}
	h.tunnels[node] = t
	return true
}

func (h *Hub) remove(node string, t *tunnel) {
	defer h.serving.Done()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.tunnels[node] == t {
		delete(h.tunnels, node)
	}
}

// Close ends all tunnels and waits for their handlers.
func (h *Hub) Close() error {
	h.mu.Lock()
	h.closed = true
	for _, t := range h.tunnels {
		t.stop()
	}
	h.mu.Unlock()
	h.serving.Wait()
	return nil
}

// Empty tells whether no node has a tunnel at the moment.
func (h *Hub) Empty() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.tunnels) == 0
}

// Has tells whether a node has a tunnel at the moment.
func (h *Hub) Has(node string) bool { return h.find(node) != nil }

func (h *Hub) find(node string) *http.ClientConn {
	h.mu.Lock()
	defer h.mu.Unlock()
	if t := h.tunnels[node]; t != nil {
		return t.conn
	}
	return nil
}

// Dial connects to address (host and port, or API) by way of a node. It may wait for its turn until ctx ends. ErrNone says that there is no tunnel, a RefusedError is
// the node's own answer; with any other error the tunnel is broken.
func (h *Hub) Dial(ctx context.Context, node, address string) (net.Conn, error) {
	link := h.find(node)
	if link == nil {
		return nil, ErrNone
	}
	// Not ctx: the connection outlives the dialling.
	own, cancel := context.WithCancel(context.Background())
	stop := context.AfterFunc(ctx, cancel)
	in, out := io.Pipe()
	r := (&http.Request{
		Method: http.MethodConnect, URL: &url.URL{Scheme: "http", Host: address}, Host: address, Header: http.Header{}, Body: in, ContentLength: -1,
	}).WithContext(own)
	resp, err := link.RoundTrip(r)
	inTime := stop()
	if err != nil {
		cancel()
		if !inTime {
			return nil, fmt.Errorf("the tunnel of node %s: %w", node, context.Cause(ctx))
		}
		return nil, fmt.Errorf("the tunnel of node %s: %w", node, err)
	}
	s := &stream{place: place(address), in: resp.Body, out: out, cancel: cancel}
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, maxNotice)) // what there is of it
		_ = s.Close()
		return nil, &RefusedError{Node: node, Text: strings.TrimSpace(string(text))}
	}
	if !inTime {
		_ = s.Close()
		return nil, fmt.Errorf("the tunnel of node %s: %w", node, context.Cause(ctx))
	}
	return s, nil
}

// tellTimeout is how long a word to an agent may take.
const tellTimeout = 10 * time.Second

// Tell leaves a word for the agent of a node, which says it to the person who looks after that machine.
func (h *Hub) Tell(ctx context.Context, node, word string) error {
	link := h.find(node)
	if link == nil {
		return ErrNone
	}
	ctx, cancel := context.WithTimeout(ctx, tellTimeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+API+noticePath, strings.NewReader(word[:min(len(word), maxNotice)]))
	if err != nil {
		return err
	}
	resp, err := link.RoundTrip(r)
	if err != nil {
		return fmt.Errorf("the tunnel of node %s: %w", node, err)
	}
	return resp.Body.Close()
}
