package aggregate

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/user"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
)

const (
	dialTimeout  = 10 * time.Second
	idlePerHost  = 25
	idleTimeout  = 90 * time.Second
	pingAfter    = 15 * time.Second
	pingDeadline = 10 * time.Second
	httpsPort    = 443
)

// The headers that say who asks. They are believed by who trusts the front proxy's certificate.
const (
	userHeader        = "X-Remote-User"
	uidHeader         = "X-Remote-Uid"
	groupHeader       = "X-Remote-Group"
	extraHeaderPrefix = "X-Remote-Extra-"
)

// backend is one APIService that another server serves.
type backend struct {
	a    *Aggregator
	name string
	uid  types.UID
	gv   schema.GroupVersion
	spec apiregistrationv1.APIServiceSpec
	port int32
	// plain speaks HTTP/2 where the other side does; upgrading opens connections that a stream may take over.
	plain, upgrading *http.Transport
	broken           error // why there are no transports

	available atomic.Bool
	found     atomic.Pointer[found]
	poke      chan struct{}
	ended     chan struct{}
	started   bool // guarded by Aggregator.mu
}

func newBackend(a *Aggregator, s *apiregistrationv1.APIService) *backend {
	b := &backend{
		a: a, name: s.Name, uid: s.UID, spec: *s.Spec.DeepCopy(), port: httpsPort,
		gv:   schema.GroupVersion{Group: s.Spec.Group, Version: s.Spec.Version},
		poke: make(chan struct{}, 1), ended: make(chan struct{}),
	}
	if p := s.Spec.Service.Port; p != nil {
		b.port = *p
	}
	b.available.Store(isAvailable(s))
	c := &tls.Config{
		MinVersion: tls.VersionTLS12, ServerName: s.Spec.Service.Name + "." + s.Spec.Service.Namespace + ".svc",
		InsecureSkipVerify:   s.Spec.InsecureSkipTLSVerify, //nolint:gosec // the owner of the cluster asks for it
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return a.cfg.Certificate(), nil },
	}
	if len(s.Spec.CABundle) > 0 {
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(s.Spec.CABundle) {
			b.broken = fmt.Errorf("unable to load root certificates: %w", errors.New("unable to parse bytes as PEM block"))
		}
	}
	b.plain, b.upgrading = a.transport(c, true), a.transport(c, false)
	return b
}

func (a *Aggregator) transport(c *tls.Config, h2 bool) *http.Transport {
	dial := a.cfg.Dial
	if dial == nil {
		dial = (&net.Dialer{KeepAlive: 30 * time.Second}).DialContext
	}
	t := &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			ctx, cancel := context.WithTimeout(ctx, dialTimeout)
			defer cancel()
			return dial(ctx, network, address)
		},
		TLSClientConfig:     c.Clone(),
		TLSHandshakeTimeout: dialTimeout,
		MaxIdleConnsPerHost: idlePerHost,
		IdleConnTimeout:     idleTimeout,
		DisableCompression:  true, // what the client takes is its own business
	}
	if h2 {
		t.ForceAttemptHTTP2 = true
		t.HTTP2 = &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingDeadline}
	} else {
		t.TLSClientConfig.NextProtos = []string{"http/1.1"}
		t.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
	}
	return t
}

// stop ends the checks and the connections that nobody uses.
func (b *backend) stop() {
	close(b.ended)
	b.plain.CloseIdleConnections()
	b.upgrading.CloseIdleConnections()
}

// Serve answers a request for a group version that another server has. False: it has none, and nothing was done. The request is
// authenticated and authorized.
func (a *Aggregator) Serve(w http.ResponseWriter, r *http.Request, gv schema.GroupVersion, u user.Info) bool {
	b := (*a.table.Load())[gv]
	if b == nil {
		return false
	}
	b.serve(w, r, u)
	return true
}

const unavailable = "service unavailable"

func (b *backend) serve(w http.ResponseWriter, r *http.Request, u user.Info) {
	switch {
	case !b.available.Load():
		http.Error(w, unavailable, http.StatusServiceUnavailable)
		return
	case b.broken != nil:
		http.Error(w, b.broken.Error(), http.StatusInternalServerError)
		return
	case u == nil:
		http.Error(w, "missing user", http.StatusInternalServerError)
		return
	}
	target, err := b.locate(r.Context())
	if err != nil {
		b.a.log.Debug("finding an aggregated server", "apiService", b.name, "error", err)
		http.Error(w, unavailable, http.StatusServiceUnavailable)
		return
	}
	target.Path, target.RawPath, target.RawQuery = r.URL.Path, r.URL.RawPath, r.URL.RawQuery
	transport := b.plain
	if r.Header.Get("Upgrade") != "" {
		transport = b.upgrading
	}
	p := &httputil.ReverseProxy{
		Transport: transport, FlushInterval: -1,
		Rewrite: func(p *httputil.ProxyRequest) {
			p.Out.URL, p.Out.Host = target, target.Host
			p.SetXForwarded()
			p.Out.Header.Del("Authorization")
			identify(p.Out.Header, u)
		},
		ModifyResponse: refuseRedirect,
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			code := http.StatusServiceUnavailable
			if errors.Is(err, errRedirect) {
				code = http.StatusBadGateway
			}
			http.Error(w, err.Error(), code)
		},
	}
	p.ServeHTTP(w, r)
}

var errRedirect = errors.New("the backend attempted to redirect this request, which is not permitted")

// refuseRedirect keeps an aggregated server from sending clients, who have shown this server who they are, to other places.
func refuseRedirect(r *http.Response) error {
	if r.StatusCode < 300 || r.StatusCode >= 400 || r.StatusCode == http.StatusNotModified {
		return nil
	}
	if to, err := url.Parse(r.Header.Get("Location")); err != nil || to.Host != "" {
		return errRedirect
	}
	return nil
}

// locate finds where the backend runs at the moment.
func (b *backend) locate(ctx context.Context) (*url.URL, error) {
	address, err := b.a.cfg.Resolver.ResolveEndpoint(ctx, b.spec.Service.Namespace, b.spec.Service.Name, b.port)
	if err != nil {
		return nil, err
	}
	return &url.URL{Scheme: "https", Host: address}, nil
}

// identify writes down who asks, in place of whatever a client said.
func identify(h http.Header, u user.Info) {
	for k := range h {
		if k == userHeader || k == uidHeader || k == groupHeader || strings.HasPrefix(k, extraHeaderPrefix) {
			delete(h, k)
		}
	}
	h.Set(userHeader, u.GetName())
	if uid := u.GetUID(); uid != "" {
		h.Set(uidHeader, uid)
	}
	for _, g := range u.GetGroups() {
		h.Add(groupHeader, g)
	}
	for key, values := range u.GetExtra() {
		for _, v := range values {
			h.Add(extraHeaderPrefix+escapeKey(key), v)
		}
	}
}

// escapeKey makes a key of extra information fit a header's name (RFC 9110, section 5.6.2).
func escapeKey(key string) string {
	var b strings.Builder
	for i := range len(key) {
		c := key[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("!#$&'*+-.^_`|~", c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}
