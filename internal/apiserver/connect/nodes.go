package connect

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/celox/celox/internal/apiserver/request"
	"github.com/celox/celox/internal/linger"
)

// Node is the way to the API of a node.
type Node struct {
	// Handler serves it in this process. The context of its requests says who asks (request.UserFrom).
	Handler http.Handler
	// URL is where it is otherwise, e.g. https://192.0.2.1:10250.
	URL string
}

// Nodes finds the way to the API of a node; an unknown one is a NotFound error.
type Nodes interface {
	Locate(ctx context.Context, name string) (Node, error)
}

// defaultNodePort is where a node's API is when its status doesn't say.
const defaultNodePort = 10250

// Remote finds nodes by the addresses in their status, those inside the cluster first.
type Remote struct {
	// Objects finds nodes.
	Objects interface {
		Node(ctx context.Context, name string) (*corev1.Node, error)
	}
}

// Locate returns the URL of a node's API.
func (n Remote) Locate(ctx context.Context, name string) (Node, error) {
	node, err := n.Objects.Node(ctx, name)
	if err != nil {
		return Node{}, err
	}
	port := int(node.Status.DaemonEndpoints.KubeletEndpoint.Port)
	if port == 0 {
		port = defaultNodePort
	}
	host, err := addressOf(node)
	if err != nil {
		return Node{}, err
	}
	return Node{URL: "https://" + net.JoinHostPort(host, strconv.Itoa(port))}, nil
}

func addressOf(node *corev1.Node) (string, error) {
	for _, t := range []corev1.NodeAddressType{corev1.NodeInternalIP, corev1.NodeHostName, corev1.NodeInternalDNS, corev1.NodeExternalDNS, corev1.NodeExternalIP} {
		for _, a := range node.Status.Addresses {
			if a.Type == t && a.Address != "" {
				return a.Address, nil
			}
		}
	}
	return "", &apierrors.StatusError{ErrStatus: metav1.Status{ // clients know these words, which come without a reason
		Status: metav1.StatusFailure, Code: http.StatusInternalServerError,
		Message: fmt.Sprintf("no preferred addresses found; known addresses: %v", node.Status.Addresses),
	}}
}

// self is how this server shows itself to a node in the same process.
func self() user.Info {
	return &user.DefaultInfo{Name: "kube-apiserver-kubelet-client", Groups: []string{user.SystemPrivilegedGroup, user.AllAuthenticated}}
}

// way is how to speak HTTP/1.1 to somebody.
type way struct {
	base      *url.URL
	transport *http.Transport
	// dial opens one connection.
	dial func(ctx context.Context) (net.Conn, error)
}

// wayTo finds the way to a node.
func (c *Connector) wayTo(ctx context.Context, name string) (way, error) {
	node, err := c.nodes.Locate(ctx, name)
	if err != nil {
		return way{}, err
	}
	if node.Handler != nil {
		dial := func(context.Context) (net.Conn, error) { return dialHandler(node.Handler, self()), nil }
		return way{
			base: &url.URL{Scheme: "http", Host: name, Path: "/"},
			// Such a connection costs nothing, so none is kept.
			transport: &http.Transport{
				DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
				DisableKeepAlives: true, DisableCompression: true,
			},
			dial: dial,
		}, nil
	}
	base, err := url.Parse(node.URL)
	if err != nil || base.Host == "" {
		return way{}, apierrors.NewInternalError(fmt.Errorf("node %q is said to be at %q, which is no URL", name, node.URL))
	}
	if base.Path == "" {
		base.Path = "/" // or joined paths would be relative
	}
	// Connections are kept by the node's name: two nodes behind address translation may have one address.
	base.Host = net.JoinHostPort(name, portOf(base))
	return way{base: base, transport: c.remote, dial: func(ctx context.Context) (net.Conn, error) { return c.dialNode(ctx, "tcp", base.Host) }}, nil
}

func portOf(u *url.URL) string {
	if p := u.Port(); p != "" {
		return p
	}
	if u.Scheme == "http" {
		return "80"
	}
	return "443"
}

// dialNode connects to the API of the node that is the host of address.
func (c *Connector) dialNode(ctx context.Context, _, address string) (net.Conn, error) {
	name, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	node, err := c.nodes.Locate(ctx, name)
	if err != nil {
		return nil, err
	}
	at, err := url.Parse(node.URL)
	if err != nil {
		return nil, err
	}
	return c.dialer.DialNode(ctx, name, net.JoinHostPort(at.Hostname(), portOf(at)), func(ctx context.Context, conn net.Conn) (net.Conn, error) {
		if at.Scheme != "https" {
			return conn, nil
		}
		config := c.nodeTLS.Clone()
		config.ServerName = at.Hostname()
		secure := tls.Client(conn, config)
		ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
		defer cancel()
		if err := secure.HandshakeContext(ctx); err != nil {
			return nil, errors.Join(err, conn.Close())
		}
		return secure, nil
	})
}

// dialPod connects to a pod.
func (c *Connector) dialPod(ctx context.Context, network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	return c.dialer.DialPod(ctx, network, address)
}

// dialHandler opens a connection to h, which serves one connection and ends with it. Closing waits until h has returned.
func dialHandler(h http.Handler, u user.Info) net.Conn {
	client, server := net.Pipe()
	l := &oneConn{conns: make(chan net.Conn, 1), closed: make(chan struct{})}
	l.conns <- server
	c := &handlerConn{Conn: client, listener: l, served: make(chan struct{}), ended: make(chan struct{}), done: make(chan struct{})}
	c.server = &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			c.entered.Store(true)
			defer c.doneOnce.Do(func() { close(c.done) })
			h.ServeHTTP(w, r)
		}),
		BaseContext: func(net.Listener) context.Context { return request.WithUser(context.Background(), u) },
		ConnState: func(_ net.Conn, s http.ConnState) {
			if s == http.StateClosed || s == http.StateHijacked {
				c.endedOnce.Do(func() { close(c.ended) })
			}
		},
	}
	c.server.SetKeepAlivesEnabled(false)
	go func() {
		defer close(c.served)
		// Serve ends with the listener, which is how it is told to.
		_ = c.server.Serve(l)
	}()
	return c
}

// handlerConn is the client's end of a connection to a handler.
type handlerConn struct {
	net.Conn
	server   *http.Server
	listener *oneConn
	entered  atomic.Bool
	closing  sync.Once

	served              chan struct{} // Serve has returned
	ended               chan struct{} // the server has let go of the connection
	done                chan struct{} // the handler has returned
	endedOnce, doneOnce sync.Once
}

// Close ends the connection and waits for the handler.
func (c *handlerConn) Close() error {
	err := c.Conn.Close()
	c.closing.Do(func() {
		_ = c.listener.Close()
		<-c.served
		_ = c.server.Close()
		<-c.ended
		if c.entered.Load() {
			<-c.done
		}
	})
	return err
}

// oneConn is a listener to which somebody connects once.
type oneConn struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *oneConn) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	default:
	}
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *oneConn) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (*oneConn) Addr() net.Addr { return pipeAddr{} }

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "pipe" }

// hijackWriter gives a ResponseWriter the methods that libraries look for, wherever they are below it.
type hijackWriter struct{ http.ResponseWriter }

func hijackable(w http.ResponseWriter) http.ResponseWriter { return hijackWriter{w} }

// Hijack takes over the connection. Closed, it waits for the client, which may have sent a ping that nobody will read any more.
func (w hijackWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	return linger.Conn(c), rw, nil
}

// Flush sends what is buffered.
func (w hijackWriter) Flush() {
	// What cannot be flushed comes later.
	_ = http.NewResponseController(w.ResponseWriter).Flush()
}

// Unwrap returns what is below.
func (w hijackWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// bufferedConn reads first what was read too much of a connection, and may be closed twice: libraries close in their own time.
type bufferedConn struct {
	net.Conn
	r     *bufio.Reader
	close func() error
}

func (c *bufferedConn) Read(p []byte) (int, error) { return c.r.Read(p) }

func (c *bufferedConn) Close() error { return c.close() }

// upgrade opens a connection of w and asks to speak SPDY on it with one of protocols. If the other side does not want to, its
// answer is returned instead of a connection.
func (w way) upgrade(ctx context.Context, location *url.URL, protocols ...string) (net.Conn, *http.Response, error) {
	conn, err := w.dial(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("error dialing backend: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, location.String(), nil)
	if err != nil {
		return nil, nil, errors.Join(err, conn.Close())
	}
	r.Header.Set("Connection", "Upgrade")
	r.Header.Set("Upgrade", "SPDY/3.1")
	r.Header["X-Stream-Protocol-Version"] = protocols
	if err := r.Write(conn); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("error dialing backend: %w", err), conn.Close())
	}
	br := bufio.NewReader(conn)
	resp, err := http.ReadResponse(br, r)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("error dialing backend: %w", err), conn.Close())
	}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		var once sync.Once
		return &bufferedConn{Conn: conn, r: br, close: func() (err error) {
			once.Do(func() { err = conn.Close() })
			return err
		}}, resp, nil
	}
	resp.Body = closeBoth{resp.Body, conn}
	return nil, resp, nil
}

// closeBoth closes the connection with the body.
type closeBoth struct {
	io.ReadCloser
	conn net.Conn
}

func (c closeBoth) Close() error { return errors.Join(c.ReadCloser.Close(), c.conn.Close()) }
