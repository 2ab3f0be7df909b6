package webhook

import (
	"bytes"
	"container/list"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/transport"
)

const (
	// DefaultLimit is how many bytes an answer has at most where a Target says nothing.
	DefaultLimit = 3 << 20
	// longest is how long a call takes at most, whatever its context says.
	longest = 30 * time.Second
	// kept is how many transports are kept; the one that was not used for the longest time goes first.
	kept = 200
	// idlePerEndpoint and idleTimeout bound the connections that wait for the next call.
	idlePerEndpoint = 25
	idleTimeout     = 90 * time.Second
	// pingAfter and pingWait find out that an endpoint is gone without a word: a connection that was silent for so long is asked.
	pingAfter = 15 * time.Second
	pingWait  = 10 * time.Second
	// told is how much of an answer that makes no sense is shown, in bytes.
	told = 2048
	// agent is what upstream's API server calls itself towards webhooks; some filter by it.
	agent = "kube-apiserver-admission"
)

// Service is a webhook that runs in the cluster.
type Service struct {
	Namespace, Name string
	// Path is the path of the URL, "" for none.
	Path string
	// Port is a port of the service; 0 is 443.
	Port int32
}

// Target says where to call: exactly one of URL and Service is set.
type Target struct {
	URL     string
	Service *Service
	// CABundle holds the certificates (PEM) that the other side's must come from; empty is the machine's own trust store.
	CABundle []byte
	// Limit is how many bytes an answer has at most; 0 is DefaultLimit.
	Limit int64
	// Identities say who the server is towards the target; nil is nobody.
	Identities *Identities
}

// Resolver finds an address (host and port) behind a port of a service. Its errors are shown to users.
type Resolver interface {
	ResolveEndpoint(ctx context.Context, namespace, name string, port int32) (address string, err error)
}

// Client makes calls. It may be used from many goroutines.
type Client struct {
	resolver Resolver
	dial     func(ctx context.Context, network, address string) (net.Conn, error) // to services

	mu     sync.Mutex
	byKey  map[key]*list.Element // guarded by mu; the values are *entry
	recent *list.List            // guarded by mu; the entry used last comes first
	closed bool                  // guarded by mu
}

// key names a transport: what decides whom it trusts and where it goes.
type key struct {
	service  bool
	host     string
	bundle   [sha256.Size]byte
	identity *Identity
}

type entry struct {
	key  key
	http *http.Transport
	rt   http.RoundTripper
}

// New returns a Client that finds services through r. Close frees its connections.
func New(r Resolver) *Client {
	return &Client{resolver: r, dial: straight, byKey: map[key]*list.Element{}, recent: list.New()}
}

// Dial changes how the addresses that the Resolver finds are connected to. It is called before the first call.
func (c *Client) Dial(dial func(ctx context.Context, network, address string) (net.Conn, error)) {
	c.dial = dial
}

func straight(ctx context.Context, network, address string) (net.Conn, error) {
	return (&net.Dialer{Timeout: longest, KeepAlive: longest}).DialContext(ctx, network, address)
}

// Close closes idle connections; those in use are closed when their call is done.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for e := c.recent.Front(); e != nil; e = e.Next() {
		e.Value.(*entry).http.CloseIdleConnections()
	}
	return nil
}

// Caller calls one target.
type Caller struct {
	client http.Client
	url    string
	limit  int64
}

// For returns a Caller for t, or says what is wrong with t.
func (c *Client) For(t Target) (*Caller, error) {
	k := key{bundle: sha256.Sum256(t.CABundle)}
	caller := &Caller{limit: t.Limit}
	if caller.limit <= 0 {
		caller.limit = DefaultLimit
	}
	var server, host string
	switch {
	case t.Service != nil:
		port := t.Service.Port
		if port == 0 {
			port = 443
		}
		server = t.Service.Name + "." + t.Service.Namespace + ".svc"
		host = net.JoinHostPort(server, strconv.Itoa(int(port)))
		k.service, k.host = true, host
		path := t.Service.Path
		if !strings.HasPrefix(path, "/") {
			path = "/" + path
		}
		caller.url = "https://" + host + path
	case t.URL != "":
		u, err := url.Parse(t.URL)
		if err != nil {
			//lint:ignore ST1005 clients know these words
			return nil, fmt.Errorf("Unparsable URL: %v", err)
		}
		if u.Host == "" || u.Scheme != "https" {
			return nil, fmt.Errorf("%q is no https URL", t.URL)
		}
		if u.Path == "" {
			u.Path = "/"
		}
		k.host, caller.url = u.Host, u.String()
	default:
		return nil, errors.New("webhook configuration must have either service or URL")
	}
	k.identity = t.Identities.For(withPort(k.host))
	rt, err := c.transport(k, t, server)
	if err != nil {
		return nil, err
	}
	caller.client = http.Client{Transport: rt, Timeout: longest, CheckRedirect: func(*http.Request, []*http.Request) error {
		// Whoever answers for the webhook must not send the API server anywhere else (CVE-2020-8561).
		return http.ErrUseLastResponse
	}}
	return caller, nil
}

// withPort adds the port of HTTPS to a host that names none.
func withPort(host string) string {
	if _, _, err := net.SplitHostPort(host); err == nil {
		return host
	}
	return net.JoinHostPort(strings.Trim(host, "[]"), "443")
}

// transport finds or makes the transport of a destination.
func (c *Client) transport(k key, t Target, server string) (http.RoundTripper, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, errors.New("the server is shutting down")
	}
	if e, ok := c.byKey[k]; ok {
		c.recent.MoveToFront(e)
		return e.Value.(*entry).rt, nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: server}
	if len(t.CABundle) > 0 {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(t.CABundle) {
			return nil, fmt.Errorf("unable to load root certificates: %w", errors.New("unable to parse bytes as PEM block"))
		}
	}
	if k.identity != nil {
		own, err := transport.TLSConfigFor(k.identity.config)
		if err != nil {
			return nil, err
		}
		if own != nil {
			config.Certificates, config.GetClientCertificate = own.Certificates, own.GetClientCertificate
		}
	}
	e := &entry{key: k, http: &http.Transport{
		TLSClientConfig:     config,
		ForceAttemptHTTP2:   true,
		HTTP2:               &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingWait},
		TLSHandshakeTimeout: 10 * time.Second,
		MaxIdleConnsPerHost: idlePerEndpoint,
		IdleConnTimeout:     idleTimeout,
		DialContext:         straight,
	}}
	e.rt = e.http
	if t.Service != nil {
		e.http.DialContext = c.dial
		e.rt = &resolving{to: e.http, resolver: c.resolver, service: Service{Namespace: t.Service.Namespace, Name: t.Service.Name, Port: t.Service.Port}}
	} else {
		e.http.Proxy = http.ProxyFromEnvironment
	}
	if k.identity != nil {
		rt, err := k.identity.wrap(e.rt)
		if err != nil {
			return nil, err
		}
		e.rt = rt
	}
	c.byKey[k] = c.recent.PushFront(e)
	for c.recent.Len() > kept {
		last := c.recent.Back()
		old := last.Value.(*entry)
		c.recent.Remove(last)
		delete(c.byKey, old.key)
		old.http.CloseIdleConnections()
	}
	return e.rt, nil
}

// resolving sends each request to an endpoint of a service. The URL that errors show stays the service's.
type resolving struct {
	to       http.RoundTripper
	resolver Resolver
	service  Service
}

func (r *resolving) RoundTrip(req *http.Request) (*http.Response, error) {
	port := r.service.Port
	if port == 0 {
		port = 443
	}
	address, err := r.resolver.ResolveEndpoint(req.Context(), r.service.Namespace, r.service.Name, port)
	if err != nil {
		return nil, err
	}
	out := req.Clone(req.Context())
	out.Host, out.URL.Host = req.URL.Host, address
	return r.to.RoundTrip(out)
}

// Post sends a body and returns the answer's. Where ctx has a deadline, the other side is told in the query how much time it has.
// An answer that is no success is a StatusError, made from the Status in it if there is one.
func (c *Caller) Post(ctx context.Context, body []byte) ([]byte, error) {
	target := c.url
	if deadline, ok := ctx.Deadline(); ok {
		if left := time.Until(deadline); left > 0 {
			if whole := left.Truncate(time.Second); whole != left {
				left = whole + time.Second
			}
			separator := "?"
			if strings.Contains(target, "?") {
				separator = "&"
			}
			target += separator + "timeout=" + left.String()
		}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json, */*")
	req.Header.Set("User-Agent", agent)
	resp, err := c.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }() // it was read to its end, or is not wanted
	data, err := io.ReadAll(io.LimitReader(resp.Body, c.limit+1))
	if err != nil {
		return nil, fmt.Errorf("unexpected error when reading response body. Please retry. Original error: %w", err)
	}
	if int64(len(data)) > c.limit {
		return nil, fmt.Errorf("the answer is longer than %d bytes", c.limit)
	}
	if resp.StatusCode < http.StatusOK || resp.StatusCode > http.StatusPartialContent {
		return nil, failed(resp, data)
	}
	if len(data) == 0 {
		return nil, fmt.Errorf("0-length response with status code: %d and content type: %s", resp.StatusCode, resp.Header.Get("Content-Type"))
	}
	return data, nil
}

// failed makes an error of an answer that is none: of the Status that it holds, or else of its code and text.
func failed(resp *http.Response, data []byte) error {
	var s metav1.Status
	if err := json.Unmarshal(data, &s); err == nil && s.Kind == "Status" && s.Status != metav1.StatusSuccess {
		return &apierrors.StatusError{ErrStatus: s}
	}
	message := "unknown"
	if strings.HasPrefix(resp.Header.Get("Content-Type"), "text/") {
		message = strings.TrimSpace(string(data[:min(len(data), told)]))
	}
	retry, err := strconv.Atoi(resp.Header.Get("Retry-After"))
	if err != nil {
		retry = 0
	}
	return apierrors.NewGenericServerResponse(resp.StatusCode, http.MethodPost, schema.GroupResource{}, "", message, retry, true)
}
