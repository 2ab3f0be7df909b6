package images

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"

	"os"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
)

// Patience with registries.
const (
	dialTimeout   = 30 * time.Second
	tlsTimeout    = 15 * time.Second
	headerTimeout = 2 * time.Minute
)

// registries knows how each registry is reached.
type registries struct {
	cfg Registries
	// strict verifies certificates, lax doesn't; byCA are those with certificates of their own.
	strict, lax *http.Transport
	byCA        map[string]*http.Transport
}

func newRegistries(cfg Registries) (*registries, error) {
	r := &registries{cfg: cfg, byCA: map[string]*http.Transport{}}
	all, err := pool(nil, cfg.CAFiles["*"])
	if err != nil {
		return nil, err
	}
	r.strict = newTransport(&tls.Config{RootCAs: all, MinVersion: tls.VersionTLS12})
	r.lax = newTransport(&tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}) // for hosts that the configuration calls insecure
	for host, file := range cfg.CAFiles {
		if host == "*" {
			continue
		}
		p, err := pool(all, file)
		if err != nil {
			return nil, err
		}
		r.byCA[host] = newTransport(&tls.Config{RootCAs: p, MinVersion: tls.VersionTLS12})
	}
	for registry, mirrors := range cfg.Mirrors {
		for _, m := range mirrors {
			if _, err := parseEndpoint(m, Reference{Path: "x"}); err != nil {
				return nil, errorf(KindInvalid, "mirror %q of registry %q: %w", m, registry, err)
			}
		}
	}
	return r, nil
}

// pool returns the certificates of base, or the system's, and those of file; nil is the system's.
func pool(base *x509.CertPool, file string) (*x509.CertPool, error) {
	if file == "" {
		return base, nil
	}
	if base != nil {
		base = base.Clone()
	} else if sys, err := x509.SystemCertPool(); err == nil {
		base = sys
	} else {
		base = x509.NewCertPool()
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("certificates of a registry: %w", err)
	}
	if !base.AppendCertsFromPEM(pem) {
		return nil, errorf(KindInvalid, "certificates of a registry: %s has no PEM certificate", file)
	}
	return base, nil
}

func newTransport(c *tls.Config) *http.Transport {
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}).DialContext,
		TLSClientConfig:       c,
		ForceAttemptHTTP2:     true,
		TLSHandshakeTimeout:   tlsTimeout,
		ResponseHeaderTimeout: headerTimeout,
		IdleConnTimeout:       30 * time.Second,
		MaxIdleConnsPerHost:   8,
	}
}

func (r *registries) close() {
	r.strict.CloseIdleConnections()
	r.lax.CloseIdleConnections()
	for _, t := range r.byCA {
		t.CloseIdleConnections()
	}
}

// loopback says whether host ("name", "name:port") is this machine.
func loopback(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.Trim(host, "[]")
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.IsLoopback()
}

func (r *registries) insecure(host string) bool {
	h, _, err := net.SplitHostPort(host)
	return slices.Contains(r.cfg.Insecure, host) || err == nil && slices.Contains(r.cfg.Insecure, h)
}

// errPlain keeps go-containerregistry, which would try any private address over plain HTTP, to what the configuration allows.
var errPlain = errors.New("plain HTTP is only used on loopback, for mirrors given as http:// and for registries that the configuration calls insecure")

// roundTripper reaches an endpoint and whatever it redirects to.
type roundTripper struct {
	r *registries
	// mirror is the host that is told, by the parameter ns, for which registry it stands in.
	mirror, ns string
	// plain says that whoever configured the mirror wrote http:// before it.
	plain bool
}

func (t roundTripper) RoundTrip(req *http.Request) (*http.Response, error) {
	host := req.URL.Host
	toMirror := t.mirror != "" && host == t.mirror
	if req.URL.Scheme == "http" && !loopback(host) && !t.r.insecure(host) && !(toMirror && t.plain) {
		return nil, errPlain
	}
	if toMirror {
		req = req.Clone(req.Context())
		q := req.URL.Query()
		q.Set("ns", t.ns)
		req.URL.RawQuery = q.Encode()
	}
	if tr := t.r.byCA[host]; tr != nil {
		return tr.RoundTrip(req)
	}
	if tr := t.r.byCA[req.URL.Hostname()]; tr != nil {
		return tr.RoundTrip(req)
	}
	if t.r.insecure(host) {
		return t.r.lax.RoundTrip(req)
	}
	return t.r.strict.RoundTrip(req)
}

// endpoint is one place to get an image from.
type endpoint struct {
	ref  name.Reference
	host string
	// plain says that the mirror is configured with http://.
	plain bool
	// origin says that it is the registry that the reference names, not a mirror of it.
	origin bool
}

// endpoints are the mirrors of a reference's registry, then the registry itself.
func (r *registries) endpoints(ref Reference) ([]endpoint, error) {
	mirrors, ok := r.cfg.Mirrors[ref.Domain]
	if !ok {
		mirrors = r.cfg.Mirrors["*"]
	}
	var out []endpoint
	for _, m := range mirrors {
		e, err := parseEndpoint(m, ref)
		if err != nil {
			return nil, &Error{Kind: KindInvalid, Err: err}
		}
		out = append(out, e)
	}
	var opts []name.Option
	if r.insecure(ref.Domain) {
		opts = append(opts, name.Insecure)
	}
	origin, err := parse(ref.Domain, ref.Path, ref, opts)
	if err != nil {
		return nil, &Error{Kind: KindInvalid, Err: err}
	}
	return append(out, endpoint{ref: origin, host: origin.Context().RegistryStr(), origin: true}), nil
}

func parseEndpoint(mirror string, ref Reference) (endpoint, error) {
	var opts []name.Option
	host := strings.TrimPrefix(mirror, "https://")
	h, plain := strings.CutPrefix(mirror, "http://")
	if plain {
		host, opts = h, append(opts, name.Insecure)
	}
	host, prefix, _ := strings.Cut(strings.TrimSuffix(host, "/"), "/")
	if host == "" {
		return endpoint{}, errors.New("want host[:port][/prefix]")
	}
	p := ref.Path
	if prefix = strings.TrimPrefix(strings.TrimPrefix(prefix, "v2/"), "/"); prefix != "" && prefix != "v2" {
		p = prefix + "/" + p
	}
	n, err := parse(host, p, ref, opts)
	if err != nil {
		return endpoint{}, err
	}
	return endpoint{ref: n, host: host, plain: plain}, nil
}

func parse(host, path string, ref Reference, opts []name.Option) (name.Reference, error) {
	repo, err := name.NewRepository(host+"/"+path, append(opts, name.StrictValidation)...)
	if err != nil {
		return nil, err
	}
	if ref.Digest != "" {
		return repo.Digest(ref.Digest), nil
	}
	return repo.Tag(ref.Tag), nil
}

// login returns the credentials for an endpoint. Those for a registry are not sent to its mirrors.
func (a *Auth) login(e endpoint) (authn.Authenticator, error) {
	if a == nil || *a == (Auth{}) {
		return authn.Anonymous, nil
	}
	if a.ServerAddress != "" {
		host := strings.TrimPrefix(strings.TrimPrefix(a.ServerAddress, "https://"), "http://")
		host, _, _ = strings.Cut(host, "/")
		if host == "docker.io" || host == "registry-1.docker.io" {
			host = name.DefaultRegistry
		}
		if host != e.host {
			return authn.Anonymous, nil
		}
	} else if !e.origin {
		return authn.Anonymous, nil
	}
	c := authn.AuthConfig{Username: a.Username, Password: a.Password, IdentityToken: a.IdentityToken, RegistryToken: a.RegistryToken}
	if c.Username == "" && a.Auth != "" {
		b, err := base64.StdEncoding.DecodeString(a.Auth)
		if err != nil {
			return nil, errorf(KindInvalid, "the login is not base64: %w", err)
		}
		user, password, ok := strings.Cut(strings.TrimRight(string(b), "\x00"), ":")
		if !ok {
			return nil, errorf(KindInvalid, "the login is not of the form username:password")
		}
		c.Username, c.Password = user, password
	}
	return authn.FromConfig(c), nil
}
