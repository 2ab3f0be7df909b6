package serve

import (
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/celox/celox/internal/network/ingress/route"
)

// query is what decisions look at in a request, whatever protocol it came by.
type query struct {
	tls    bool
	peer   netip.Addr // who has the connection
	text   string     // peer
	method string
	host   string // of the Host header or the target
	path   string // as the client wrote it, without the query
	search string // the query with its question mark; "" is none
	header func(name string) string
	prompt bool // nothing may take long: what does is left undecided
}

// verdict is what becomes of a request.
type verdict struct {
	target *target // whose it is; nil is nobody's
	// undecided is that the query had to be prompt and the answer was not to be had promptly.
	undecided bool
	// status is not 0 for a request that is answered here.
	status   int
	location string // of a redirection
	realm    string // that a name and password are asked for
	message  string
	extra    http.Header // of the answer
	body     []byte      // of the answer, instead of the message
	given    http.Header // for the backend, from an external authentication

	path string // for the backend, without the query
	// What backends are told of the client.
	client              netip.Addr
	clientText          string
	forwardedFor, proto string
	forwardedHost       string
}

// decide finds out what becomes of a request, but for what needs to ask others.
func (s *Server) decide(q *query, snap *snapshot, v *verdict) {
	host, err := route.CleanHost(q.host)
	if err != nil && q.host != "" {
		v.status, v.message = http.StatusBadRequest, "the host is not valid"
		return
	}
	path, err := route.CleanPath(q.path)
	if err != nil {
		v.status, v.message = http.StatusBadRequest, err.Error()
		return
	}
	s.identify(q, v)
	r := snap.table.Find(host, path.Match)
	if r == nil {
		v.status, v.message = http.StatusNotFound, "no ingress is for this host and path"
		return
	}
	t := snap.targets[r.Index]
	v.target = t
	o := r.Options
	if len(o.Allow) > 0 && !within(o.Allow, v.client) || within(o.Deny, v.client) {
		v.status = http.StatusForbidden
		return
	}
	if v.proto == "http" && (o.ForceSSLRedirect || o.SSLRedirect && r.TLS) && !acme(path.Match) {
		v.status, v.location = http.StatusPermanentRedirect, "https://"+s.withHTTPSPort(host)+path.Forward+q.search
		return
	}
	if o.Basic != nil && q.prompt {
		v.undecided = true
		return
	}
	if o.Basic != nil && !s.knows(o.Basic, q.header("Authorization")) {
		v.status, v.realm = http.StatusUnauthorized, o.Basic.Realm
		return
	}
	if o.Redirect != "" {
		v.status, v.location = o.RedirectCode, o.Redirect
		return
	}
	if r.Missing != "" {
		v.status, v.message = http.StatusServiceUnavailable, "the ingress has no backend for this"
		return
	}
	v.path = r.Rewritten(path)
}

// acme says whether a path is one at which an authority looks for a proof without TLS (RFC 8555, 8.3).
func acme(path string) bool { return strings.HasPrefix(path, "/.well-known/acme-challenge/") }

func within(list []netip.Prefix, a netip.Addr) bool {
	for _, p := range list {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

func (s *Server) withHTTPSPort(host string) string {
	if s.cfg.HTTPSPort == 443 {
		return host
	}
	return host + ":" + strconv.Itoa(s.cfg.HTTPSPort)
}

// identify finds out who the client is. What the request itself says counts only if it comes from a proxy that is trusted.
func (s *Server) identify(q *query, v *verdict) {
	v.client, v.proto, v.forwardedHost = q.peer, "http", q.host
	if q.tls {
		v.proto = "https"
	}
	v.clientText, v.forwardedFor = q.text, q.text
	if len(s.cfg.Trusted) == 0 || !within(s.cfg.Trusted, q.peer) {
		return
	}
	if p := strings.ToLower(q.header("X-Forwarded-Proto")); p == "http" || p == "https" {
		v.proto = p
	}
	if h := q.header("X-Forwarded-Host"); h != "" {
		if _, err := route.CleanHost(h); err == nil {
			v.forwardedHost = h
		}
	}
	chain := q.header("X-Forwarded-For")
	if chain == "" {
		return
	}
	hops := strings.Split(chain, ",")
	valid := make([]string, 0, len(hops)+1)
	for _, hop := range hops {
		hop = strings.TrimSpace(hop)
		if a, ok := hopAddr(hop); ok {
			valid = append(valid, a.String())
		}
	}
	for i := len(valid) - 1; i >= 0; i-- {
		a := netip.MustParseAddr(valid[i])
		v.client = a
		if !within(s.cfg.Trusted, a) {
			break
		}
	}
	v.clientText = v.client.String()
	v.forwardedFor = strings.Join(append(valid, q.text), ", ")
}

// hopAddr reads an element of X-Forwarded-For, which some write with a port.
func hopAddr(text string) (netip.Addr, bool) {
	if host, _, err := net.SplitHostPort(text); err == nil {
		text = host
	}
	a, err := netip.ParseAddr(strings.Trim(text, "[]"))
	return a.Unmap().WithZone(""), err == nil
}

// cookie finds a cookie in the header.
func cookie(header, name string) string {
	for part := range strings.SplitSeq(header, ";") {
		if k, v, ok := strings.Cut(strings.TrimSpace(part), "="); ok && k == name {
			return v
		}
	}
	return ""
}

// choose picks the endpoint for a request, by its cookie if the Ingress says so. The second result is the cookie to be set.
func (t *target) choose(now time.Time, tried []*endpoint, cookies string) (*endpoint, string) {
	a := t.Options.Affinity
	if a == nil {
		return t.backend.pick(now, tried), ""
	}
	if len(tried) == 0 {
		if e := t.backend.byID(cookie(cookies, a.Cookie), now); e != nil {
			return e, ""
		}
	}
	e := t.backend.pick(now, tried)
	if e == nil {
		return nil, ""
	}
	c := a.Cookie + "=" + e.id + "; Path=" + a.Path + "; HttpOnly"
	if a.MaxAge > 0 {
		c += "; Max-Age=" + strconv.Itoa(a.MaxAge)
	}
	if a.SameSite != "" {
		c += "; SameSite=" + a.SameSite
	}
	if a.Secure || a.SameSite == "None" {
		c += "; Secure"
	}
	return e, c
}

// idempotent says whether a request may be sent a second time (RFC 9110, 9.2.2).
func idempotent(method string) bool {
	switch method {
	case "GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE":
		return true
	}
	return false
}
