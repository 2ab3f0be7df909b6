package route

import (
	"crypto/tls"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/types"
)

// Protocol is what a backend speaks.
type Protocol int8

// Protocols of backends.
const (
	HTTP  Protocol = iota
	HTTPS          // HTTP/1.1 over TLS
	H2C            // HTTP/2 without TLS; gRPC
	H2             // HTTP/2 over TLS; gRPC
)

// Secure says whether the protocol is over TLS.
func (p Protocol) Secure() bool { return p == HTTPS || p == H2 }

// Multiplexed says whether the protocol is HTTP/2.
func (p Protocol) Multiplexed() bool { return p == H2C || p == H2 }

// Backend is a port of a service.
type Backend struct {
	Namespace, Service string
	Port               int32
	PortName           string // of the service's port, as EndpointSlices call it
	Protocol           Protocol
}

// String is for people.
func (b Backend) String() string {
	return b.Namespace + "/" + b.Service + ":" + strconv.Itoa(int(b.Port))
}

// Route is where requests of a rule go. It is never changed.
type Route struct {
	// Index is the place in Table.Routes.
	Index   int
	Ingress types.NamespacedName
	Host    string // of the rule, with its wildcard; "" is every host
	Path    string // of the rule
	// Missing says why there is no backend; requests get 503 then.
	Missing string
	Backend Backend
	// Prefix is the part of the path that a rewrite takes the place of.
	Prefix string
	// TLS says that the host has a certificate of its own.
	TLS     bool
	Options *Options
}

// site is what there is for a host.
type site struct {
	exact    map[string]*Route
	prefix   map[string]*Route // without a slash at the end; "" is the root
	fallback *Route
}

// Table is what Compile makes. The zero Table knows no host.
type Table struct {
	Routes []*Route
	// Ingresses are those of ours, in the order of their age.
	Ingresses []types.NamespacedName
	// Secrets are those that the Ingresses name, whether they exist or not.
	Secrets []types.NamespacedName

	hosts     map[string]*site
	wildcards map[string]*site // by what follows "*."
	any       *site
	fallback  *Route // the cluster's default backend

	certificates         map[string]*tls.Certificate
	wildcardCertificates map[string]*tls.Certificate
}

// Backends are the different ones of all routes.
func (t *Table) Backends() map[Backend]bool {
	out := map[Backend]bool{}
	for _, r := range t.Routes {
		if r.Missing == "" {
			out[r.Backend] = true
		}
	}
	return out
}

// Find returns where a request goes; nil is nowhere. The host is one of CleanHost, the path the Match of CleanPath.
//
// The most specific host counts: its own name, then a wildcard, which stands for one label, then rules without a host. Within it an exact path comes first, then
// the longest prefix, by whole elements. What no rule of the host wants goes to the default backend of an Ingress of the host, then to the cluster's.
func (t *Table) Find(host, path string) *Route {
	s := t.hosts[host]
	if s == nil {
		if dot := strings.IndexByte(host, '.'); dot > 0 {
			s = t.wildcards[host[dot+1:]]
		}
	}
	if s == nil {
		s = t.any
	}
	if s != nil {
		if r := s.find(path); r != nil {
			return r
		}
		if s.fallback != nil {
			return s.fallback
		}
	}
	return t.fallback
}

func (s *site) find(path string) *Route {
	if r := s.exact[path]; r != nil {
		return r
	}
	if len(s.prefix) == 0 {
		return nil
	}
	if len(s.prefix) == 1 {
		if r := s.prefix[""]; r != nil {
			return r
		}
	}
	for path = strings.TrimSuffix(path, "/"); ; path = path[:strings.LastIndexByte(path, '/')] {
		if r := s.prefix[path]; r != nil {
			return r
		}
		if path == "" {
			return nil
		}
	}
}

// Certificate returns the certificate for a server name; nil is the default one.
func (t *Table) Certificate(name string) *tls.Certificate {
	if c := t.certificates[name]; c != nil {
		return c
	}
	if dot := strings.IndexByte(name, '.'); dot > 0 {
		return t.wildcardCertificates[name[dot+1:]]
	}
	return nil
}

// Rewritten is the path that the backend gets for a path of a request.
func (r *Route) Rewritten(p Path) string {
	if !r.Options.Rewrites {
		return p.Forward
	}
	rest, ok := afterElements(p.Forward, elements(r.Prefix))
	if !ok {
		return p.Forward
	}
	to := r.Options.Rewrite
	switch {
	case rest == "":
		return to
	case strings.HasSuffix(to, "/"):
		return to + strings.TrimPrefix(rest, "/")
	}
	return to + rest
}

// elements counts the elements of a path that are not empty.
func elements(path string) int {
	n := 0
	for e := range strings.SplitSeq(path, "/") {
		if e != "" {
			n++
		}
	}
	return n
}

// afterElements cuts n elements off, which may be written with escapes and doubled slashes.
func afterElements(path string, n int) (string, bool) {
	for ; n > 0; n-- {
		path = strings.TrimLeft(path, "/")
		if path == "" {
			return "", false
		}
		if i := strings.IndexByte(path, '/'); i >= 0 {
			path = path[i:]
		} else {
			path = ""
		}
	}
	return path, true
}
