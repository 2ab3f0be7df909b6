package connect

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/celox/celox/internal/apiserver/request"
)

const (
	dialTimeout, handshakeTimeout = 30 * time.Second, 10 * time.Second
	// headerTimeout is how long a node may take until it begins to answer.
	headerTimeout = 2 * time.Minute
)

// Objects finds what requests are about. A missing object is a NotFound error of the API.
type Objects interface {
	Pod(ctx context.Context, namespace, name string) (*corev1.Pod, error)
	Service(ctx context.Context, namespace, name string) (*corev1.Service, error)
	Node(ctx context.Context, name string) (*corev1.Node, error)
	EndpointSlices(ctx context.Context, namespace, service string) ([]*discoveryv1.EndpointSlice, error)
}

// Config is what a Connector needs.
type Config struct {
	Objects Objects
	// Nodes says how to reach the API of a node.
	Nodes Nodes
	// NodeTLS is how this server shows itself to nodes that are not in this process.
	NodeTLS *tls.Config
	// Dialer opens connections; nil opens them straight.
	Dialer Dialer
	// Authorizer, if set, is asked once more when a stream is opened with a GET, which WebSockets must use: opening one needs
	// the right to "create" it.
	Authorizer request.Authorizer
}

// Connector serves streams. It may be used from many goroutines.
type Connector struct {
	objects    Objects
	nodes      Nodes
	authorizer request.Authorizer
	dialer     Dialer
	nodeTLS    *tls.Config
	// remote reaches nodes by their names, pods reaches pods and direct other ports of nodes, whose certificates nobody can know.
	remote, pods, direct *http.Transport
}

// Dialer opens connections to machines and pods of the cluster.
type Dialer interface {
	// DialNode connects to the API of a node, which is at address. Prepare makes a connection ready to be used, and fails if it leads to somebody else.
	DialNode(ctx context.Context, node, address string, prepare Prepare) (net.Conn, error)
	// DialPod connects to the address of a pod.
	DialPod(ctx context.Context, network, address string) (net.Conn, error)
}

// Prepare makes a connection ready, or closes it.
type Prepare = func(ctx context.Context, c net.Conn) (net.Conn, error)

// straight is the Dialer for networks in which everybody reaches everybody.
type straight struct{ net.Dialer }

// DialNode implements Dialer.
func (d *straight) DialNode(ctx context.Context, _, address string, prepare Prepare) (net.Conn, error) {
	c, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	return prepare(ctx, c)
}

// DialPod implements Dialer.
func (d *straight) DialPod(ctx context.Context, network, address string) (net.Conn, error) {
	return d.DialContext(ctx, network, address)
}

// New returns a Connector.
func New(c Config) *Connector {
	nodeTLS := c.NodeTLS
	if nodeTLS == nil {
		nodeTLS = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	nodeTLS = nodeTLS.Clone()
	nodeTLS.NextProtos = []string{"http/1.1"} // a stream takes over its connection
	plain := &straight{net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}}
	k := &Connector{objects: c.Objects, nodes: c.Nodes, authorizer: c.Authorizer, dialer: c.Dialer, nodeTLS: nodeTLS}
	if k.dialer == nil {
		k.dialer = plain
	}
	k.remote = transport(k.dialNode, nodeTLS)
	k.remote.DialTLSContext = k.dialNode
	k.pods = transport(k.dialPod, &tls.Config{InsecureSkipVerify: true})
	k.direct = transport(plain.DialContext, &tls.Config{InsecureSkipVerify: true})
	return k
}

type dial = func(ctx context.Context, network, address string) (net.Conn, error)

func transport(d dial, c *tls.Config) *http.Transport {
	return &http.Transport{
		DialContext:           d,
		TLSClientConfig:       c,
		TLSHandshakeTimeout:   handshakeTimeout,
		ResponseHeaderTimeout: headerTimeout,
		IdleConnTimeout:       90 * time.Second,
		MaxIdleConnsPerHost:   25,
		TLSNextProto:          map[string]func(string, *tls.Conn) http.RoundTripper{}, // no HTTP/2
		DisableCompression:    true,
	}
}

// Close ends connections that nobody uses.
func (c *Connector) Close() {
	c.remote.CloseIdleConnections()
	c.pods.CloseIdleConnections()
	c.direct.CloseIdleConnections()
}

// Connect serves one request. An error is an API error, and nothing has been answered yet.
func (c *Connector) Connect(w http.ResponseWriter, r *http.Request, info request.Info) error {
	err := c.connect(hijackable(w), r, &info)
	if err == nil || errors.As(err, new(apierrors.APIStatus)) {
		return err
	}
	return apierrors.NewInternalError(err)
}

func (c *Connector) connect(w http.ResponseWriter, r *http.Request, info *request.Info) error {
	switch info.Resource + "/" + info.Subresource {
	case "pods/log":
		return c.log(w, r, info)
	case "pods/exec":
		return c.command(w, r, info, "exec")
	case "pods/attach":
		return c.command(w, r, info, "attach")
	case "pods/portforward":
		return c.portForward(w, r, info)
	case "pods/proxy":
		return c.proxyPod(w, r, info)
	case "services/proxy":
		return c.proxyService(w, r, info)
	case "nodes/proxy":
		return c.proxyNode(w, r, info)
	}
	return apierrors.NewNotFound(schema.GroupResource{Group: info.Group, Resource: info.Resource}, info.Name)
}

// mayOpen asks for the right to create a stream that is opened with a GET.
func (c *Connector) mayOpen(ctx context.Context, info *request.Info) error {
	if c.authorizer == nil || info.Verb != "get" {
		return nil
	}
	u, ok := request.UserFrom(ctx)
	if !ok {
		return nil // a part of this process
	}
	a := request.AttributesOf(u, info)
	a.Verb = "create"
	d, reason, err := c.authorizer.Authorize(ctx, a)
	if err != nil {
		return err
	}
	if d == request.Allow {
		return nil
	}
	text := fmt.Sprintf("User %q cannot create resource %q in API group %q in the namespace %q", u.GetName(), a.Resource+"/"+a.Subresource, a.Group, a.Namespace)
	if reason != "" {
		text += ": " + reason
	}
	return apierrors.NewForbidden(schema.GroupResource{Group: a.Group, Resource: a.Resource}, a.Name, errors.New(text))
}
