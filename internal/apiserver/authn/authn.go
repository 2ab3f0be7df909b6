package authn

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"

	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/utils/clock"
)

// errInvalidToken says that a token was shown that nobody here recognizes. Its text is what a TokenReview answers.
var errInvalidToken = errors.New("invalid bearer token")

// HealthPaths are the paths that anybody may ask in a default installation.
func HealthPaths() []string { return []string{"/healthz", "/livez", "/readyz"} }

// Config says whom to trust.
type Config struct {
	// ClientCA signs client certificates. They are verified here and not in the TLS handshake (tls.RequestClientCert), so that
	// who shows a foreign one is told so with a Status.
	ClientCA *x509.Certificate
	// FrontProxyCA signs the certificates of proxies that may say in headers who the user is; FrontProxyNames are the common
	// names that they may have. Without a CA no proxy is trusted.
	FrontProxyCA    *x509.Certificate
	FrontProxyNames []string
	// ServiceAccounts checks service account tokens; nil refuses them.
	ServiceAccounts *ServiceAccounts
	// Tokens are fixed tokens (see ParseTokens).
	Tokens Tokens
	// Bootstrap are the tokens of nodes that join; nil refuses them.
	Bootstrap *BootstrapTokens
	// AnonymousPaths are the paths that may be asked without saying who one is, together with everything below them; "/" is
	// all. Elsewhere such requests are not authenticated.
	AnonymousPaths []string
	Clock          clock.PassiveClock
}

// Authenticator finds out who sent a request. It may be used from many goroutines.
type Authenticator struct {
	config Config
	roots  *x509.CertPool
	chains *generations[*x509.Certificate, []*x509.Certificate]
	certs  *generations[*x509.Certificate, *user.DefaultInfo]
}

// New returns an Authenticator.
func New(c Config) *Authenticator {
	if c.Clock == nil {
		c.Clock = clock.RealClock{}
	}
	roots := x509.NewCertPool()
	for _, ca := range []*x509.Certificate{c.ClientCA, c.FrontProxyCA} {
		if ca != nil {
			roots.AddCert(ca)
		}
	}
	return &Authenticator{
		config: c, roots: roots,
		chains: newGenerations[*x509.Certificate, []*x509.Certificate](1024),
		certs:  newGenerations[*x509.Certificate, *user.DefaultInfo](1024),
	}
}

// AuthenticateRequest tells who sent r; false means that nobody is known by what it shows, and the answer should be 401. Secrets
// that were used up are removed from r's headers.
func (a *Authenticator) AuthenticateRequest(r *http.Request) (user.Info, bool, error) {
	var foreign error
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		chain, err := a.verify(r.TLS.PeerCertificates)
		foreign = err
		if u, ok := a.frontProxy(r, chain); ok {
			return u, true, nil
		}
		if u, ok := a.certificate(chain); ok {
			return u, true, nil
		}
	}
	if token, ok := takeToken(r); ok {
		t, err := a.AuthenticateToken(r.Context(), token, nil)
		if err != nil {
			return nil, false, err
		}
		return t.User, true, nil
	}
	if foreign != nil { // whoever shows something false is not treated as one who shows nothing
		return nil, false, foreign
	}
	if a.anonymous(r.URL.Path) {
		return &user.DefaultInfo{Name: user.Anonymous, Groups: []string{user.AllUnauthenticated}}, true, nil
	}
	return nil, false, nil
}

// Authenticated is what a token stands for.
type Authenticated struct {
	User user.Info
	// Audiences are those of the asked audiences that the token is for.
	Audiences []string
}

// AuthenticateToken tells whom a token stands for. Audiences are whom it is shown to; nil is this API server.
func (a *Authenticator) AuthenticateToken(ctx context.Context, token string, audiences []string) (Authenticated, error) {
	if u, ok := a.config.Tokens.lookup(token); ok {
		if len(audiences) == 0 && a.config.ServiceAccounts != nil {
			audiences = a.config.ServiceAccounts.issuer.audiences[:1]
		}
		return Authenticated{User: u, Audiences: audiences}, nil
	}
	if u, ok, err := a.config.Bootstrap.authenticate(ctx, token); err != nil {
		return Authenticated{}, err
	} else if ok {
		if len(audiences) == 0 && a.config.ServiceAccounts != nil {
			audiences = a.config.ServiceAccounts.issuer.audiences[:1]
		}
		return Authenticated{User: u, Audiences: audiences}, nil
	}
	if a.config.ServiceAccounts == nil {
		return Authenticated{}, errInvalidToken
	}
	return a.config.ServiceAccounts.Authenticate(ctx, token, audiences)
}

func (a *Authenticator) anonymous(path string) bool {
	return slices.ContainsFunc(a.config.AnonymousPaths, func(p string) bool {
		rest, ok := strings.CutPrefix(path, p)
		return ok && (rest == "" || rest[0] == '/' || strings.HasSuffix(p, "/"))
	})
}

// verify returns the chain from a connection's client certificate up to one of the authorities. What was found is remembered: a
// signature stays good, only the time is looked at for each request, as certificates can expire while a connection stays open.
func (a *Authenticator) verify(shown []*x509.Certificate) ([]*x509.Certificate, error) {
	leaf, now := shown[0], a.config.Clock.Now()
	if chain, ok := a.chains.get(leaf); ok && !slices.ContainsFunc(chain, func(c *x509.Certificate) bool { return now.Before(c.NotBefore) || now.After(c.NotAfter) }) {
		return chain, nil
	}
	between := x509.NewCertPool()
	for _, c := range shown[1:] {
		between.AddCert(c)
	}
	chains, err := leaf.Verify(x509.VerifyOptions{Roots: a.roots, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	if err != nil {
		return nil, fmt.Errorf("verifying certificate SN=%s, SKID=%X, AKID=%X failed: %w", leaf.SerialNumber, leaf.SubjectKeyId, leaf.AuthorityKeyId, err)
	}
	a.chains.put(leaf, chains[0])
	return chains[0], nil
}

// endsIn returns the certificate at the beginning of a chain if ca signed it, by itself or through others.
func endsIn(chain []*x509.Certificate, ca *x509.Certificate) (*x509.Certificate, bool) {
	if ca == nil || len(chain) < 2 || !chain[len(chain)-1].Equal(ca) {
		return nil, false
	}
	return chain[0], true
}

// certificate reads the user from a client certificate: the common name is his name, the organizations are his groups.
func (a *Authenticator) certificate(chain []*x509.Certificate) (user.Info, bool) {
	leaf, ok := endsIn(chain, a.config.ClientCA)
	if !ok || leaf.Subject.CommonName == "" {
		return nil, false
	}
	if u, ok := a.certs.get(leaf); ok {
		return u, true
	}
	u := &user.DefaultInfo{
		Name:   leaf.Subject.CommonName,
		Groups: withAuthenticated(leaf.Subject.Organization),
		Extra:  map[string][]string{user.CredentialIDKey: {"X509SHA256=" + fingerprint(leaf)}},
	}
	a.certs.put(leaf, u)
	return u, true
}

// The headers by which a front proxy says who the user is.
const (
	remoteUser        = "X-Remote-User"
	remoteUID         = "X-Remote-Uid"
	remoteGroup       = "X-Remote-Group"
	remoteExtraPrefix = "X-Remote-Extra-"
)

// frontProxy trusts the headers of a proxy that showed a certificate of its own authority.
func (a *Authenticator) frontProxy(r *http.Request, chain []*x509.Certificate) (user.Info, bool) {
	leaf, ok := endsIn(chain, a.config.FrontProxyCA)
	if !ok || len(a.config.FrontProxyNames) > 0 && !slices.Contains(a.config.FrontProxyNames, leaf.Subject.CommonName) {
		return nil, false
	}
	name := r.Header.Get(remoteUser)
	if name == "" {
		return nil, false
	}
	u := &user.DefaultInfo{Name: name, UID: r.Header.Get(remoteUID), Groups: slices.Clone(r.Header.Values(remoteGroup))}
	if name != user.Anonymous {
		u.Groups = withAuthenticated(u.Groups)
	}
	u.Extra = takeExtra(r.Header, remoteExtraPrefix)
	for _, h := range []string{remoteUser, remoteUID, remoteGroup} {
		r.Header.Del(h)
	}
	return u, true
}

// takeExtra reads and removes the headers that begin with prefix; their names' rest is a key, percent-encoded and in lower case.
func takeExtra(h http.Header, prefix string) map[string][]string {
	var extra map[string][]string
	for name, values := range h {
		if len(name) <= len(prefix) || !strings.EqualFold(name[:len(prefix)], prefix) {
			continue
		}
		key := strings.ToLower(name[len(prefix):])
		if decoded, err := url.PathUnescape(key); err == nil {
			key = decoded
		}
		if extra == nil {
			extra = map[string][]string{}
		}
		extra[key] = append(extra[key], values...)
		delete(h, name)
	}
	return extra
}

// webSocketTokenPrefix begins a WebSocket subprotocol that carries a token, for browsers, which cannot set headers.
const webSocketTokenPrefix = "base64url.bearer.authorization.k8s.io."

// takeToken removes the bearer token from the request and returns it.
func takeToken(r *http.Request) (string, bool) {
	if h := strings.TrimSpace(r.Header.Get("Authorization")); h != "" {
		scheme, token, _ := strings.Cut(h, " ")
		if !strings.EqualFold(scheme, "bearer") {
			return "", false
		}
		// Nothing, or more than one word, is no token.
		if token == "" || strings.Contains(token, " ") {
			return "", false
		}
		r.Header.Del("Authorization")
		return token, true
	}
	if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		return "", false
	}
	return takeWebSocketToken(r.Header)
}

func takeWebSocketToken(h http.Header) (string, bool) {
	const header = "Sec-Websocket-Protocol"
	var token string
	var kept []string
	for _, line := range h[textproto.CanonicalMIMEHeaderKey(header)] {
		for p := range strings.SplitSeq(line, ",") {
			p = textproto.TrimString(p)
			encoded, ok := strings.CutPrefix(p, webSocketTokenPrefix)
			if !ok {
				kept = append(kept, p)
				continue
			}
			decoded, err := base64.RawURLEncoding.DecodeString(encoded)
			if token != "" || err != nil || len(decoded) == 0 || !utf8.Valid(decoded) {
				return "", false
			}
			token = string(decoded)
		}
	}
	// The server must choose one of the offered protocols, so a token alone cannot be answered.
	if token == "" || len(kept) == 0 {
		return "", false
	}
	h.Set(header, strings.Join(kept, ","))
	return token, true
}

// withAuthenticated adds the group of everyone who is known.
func withAuthenticated(groups []string) []string {
	if slices.Contains(groups, user.AllAuthenticated) || slices.Contains(groups, user.AllUnauthenticated) {
		return slices.Clone(groups)
	}
	return append(slices.Clone(groups), user.AllAuthenticated)
}
