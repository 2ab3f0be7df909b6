package route

import (
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Prefix is what the names of our annotations begin with.
const Prefix = "ingress.celox.io/"

// nginxPrefix begins the names of annotations that many Ingresses bring along. They are not read; who has some of those that we know under our own prefix is told.
const nginxPrefix = "nginx.ingress.kubernetes.io/"

// Bounds of what annotations may ask for.
const (
	maxTimeout     = 24 * time.Hour
	maxConnect     = time.Minute
	maxRealm       = 256
	maxRanges      = 256
	maxCopied      = 32 // headers of an external authentication
	defaultConnect = 5 * time.Second
	defaultRead    = 60 * time.Second
	defaultSend    = 60 * time.Second
)

// Options are what the annotations of an Ingress ask for. They are never changed.
type Options struct {
	// Redirect sends every request elsewhere, with RedirectCode.
	Redirect     string
	RedirectCode int
	// SSLRedirect sends requests without TLS to https if the host has a certificate, ForceSSLRedirect always.
	SSLRedirect, ForceSSLRedirect bool
	// Rewrites says that Rewrite takes the place of the rule's path at the beginning of a request's.
	Rewrites bool
	Rewrite  string
	// Host is what backends get as the host instead of the client's; "" is the client's.
	Host string
	// MaxBody is how many bytes a request may have; 0 is any number.
	MaxBody int64
	// Connect, Read and Send bound the silence of a backend.
	Connect, Read, Send time.Duration
	// Protocol is what backends speak if their service does not say; nil is that the service says.
	Protocol *Protocol
	// Allow is who may come; empty is everybody. Deny is who may not.
	Allow, Deny []netip.Prefix
	Basic       *Basic
	External    *External
	Affinity    *Affinity
}

// Basic asks for names and passwords.
type Basic struct {
	Realm string
	// Users are hashes of passwords by names. It is empty if the secret is not there: then nobody comes in.
	Users map[string]string
}

// External asks another server about each request.
type External struct {
	URL     *url.URL
	Method  string   // "" is GET
	SignIn  string   // where a browser is sent that may not come in; "" is nowhere
	Headers []string // of the answer, which backends get
}

// Affinity keeps a client with one endpoint by a cookie.
type Affinity struct {
	Cookie, Path, SameSite string
	MaxAge                 int // seconds; 0 is as long as the browser runs
	Secure                 bool
}

// secretsOf are what the annotations refer to.
type secretsOf struct {
	basic     string // name of a secret
	basicKeys bool   // its keys are names of users
}

type parser struct {
	out     Options
	refs    secretsOf
	realm   string
	signIn  string
	method  string
	headers []string
	errs    []string
}

// keys are the annotations that we know, and what reads their values.
func keys() map[string]func(*parser, string) error {
	duration := func(into func(*parser) *time.Duration, most time.Duration) func(*parser, string) error {
		return func(p *parser, v string) error {
			d, err := seconds(v, most)
			if err == nil {
				*into(p) = d
			}
			return err
		}
	}
	flag := func(into func(*parser) *bool) func(*parser, string) error {
		return func(p *parser, v string) (err error) {
			b, err := strconv.ParseBool(v)
			if err != nil {
				return fmt.Errorf("use true or false")
			}
			*into(p) = b
			return nil
		}
	}
	affinity := func(set func(*Affinity, string) error) func(*parser, string) error {
		return func(p *parser, v string) error {
			if p.out.Affinity == nil {
				return fmt.Errorf("it means nothing without %saffinity: cookie", Prefix)
			}
			return set(p.out.Affinity, v)
		}
	}
	return map[string]func(*parser, string) error{
		"ssl-redirect":       flag(func(p *parser) *bool { return &p.out.SSLRedirect }),
		"force-ssl-redirect": flag(func(p *parser) *bool { return &p.out.ForceSSLRedirect }),
		"permanent-redirect": func(p *parser, v string) error { return p.redirect(v, http.StatusMovedPermanently) },
		"temporal-redirect":  func(p *parser, v string) error { return p.redirect(v, http.StatusFound) },
		"permanent-redirect-code": func(p *parser, v string) error {
			code, err := strconv.Atoi(v)
			if err != nil || !slices.Contains([]int{301, 302, 303, 307, 308}, code) {
				return fmt.Errorf("use 301, 302, 303, 307 or 308")
			}
			if p.out.Redirect == "" {
				return fmt.Errorf("it means nothing without %spermanent-redirect", Prefix)
			}
			p.out.RedirectCode = code
			return nil
		},
		"rewrite-target": func(p *parser, v string) error {
			if !strings.HasPrefix(v, "/") {
				return fmt.Errorf("use a path")
			}
			target, _ := strings.CutSuffix(v, "$1")
			target, _ = strings.CutSuffix(target, "$2")
			clean, err := CleanPath(target)
			if err != nil || clean.Forward != target || strings.ContainsAny(target, "$?#") {
				return fmt.Errorf("use a plain path; of captures only one at the end is understood, as in /$2")
			}
			p.out.Rewrites, p.out.Rewrite = true, target
			return nil
		},
		"upstream-vhost": func(p *parser, v string) error {
			if _, err := CleanHost(v); err != nil {
				return fmt.Errorf("use the name of a host")
			}
			p.out.Host = v
			return nil
		},
		"proxy-body-size":       func(p *parser, v string) (err error) { p.out.MaxBody, err = size(v); return err },
		"proxy-connect-timeout": duration(func(p *parser) *time.Duration { return &p.out.Connect }, maxConnect),
		"proxy-read-timeout":    duration(func(p *parser) *time.Duration { return &p.out.Read }, maxTimeout),
		"proxy-send-timeout":    duration(func(p *parser) *time.Duration { return &p.out.Send }, maxTimeout),
		"backend-protocol": func(p *parser, v string) error {
			proto, ok := map[string]Protocol{"HTTP": HTTP, "HTTPS": HTTPS, "GRPC": H2C, "H2C": H2C, "GRPCS": H2, "H2": H2, "AUTO_HTTP": HTTP}[strings.ToUpper(v)]
			if !ok {
				return fmt.Errorf("use HTTP, HTTPS, H2C, H2, GRPC or GRPCS")
			}
			p.out.Protocol = &proto
			return nil
		},
		"allowlist-source-range": func(p *parser, v string) (err error) { p.out.Allow, err = ranges(v); return err },
		"whitelist-source-range": func(p *parser, v string) (err error) { p.out.Allow, err = ranges(v); return err },
		"denylist-source-range":  func(p *parser, v string) (err error) { p.out.Deny, err = ranges(v); return err },
		"auth-type": func(p *parser, v string) error {
			if v != "basic" {
				return fmt.Errorf("use basic")
			}
			p.out.Basic = &Basic{}
			return nil
		},
		"auth-secret": func(p *parser, v string) error {
			if v == "" || strings.Contains(v, "/") {
				return fmt.Errorf("use the name of a secret in the namespace of the Ingress")
			}
			p.refs.basic = v
			return nil
		},
		"auth-secret-type": func(p *parser, v string) error {
			if v != "auth-file" && v != "auth-map" {
				return fmt.Errorf("use auth-file or auth-map")
			}
			p.refs.basicKeys = v == "auth-map"
			return nil
		},
		"auth-realm": func(p *parser, v string) error {
			if len(v) > maxRealm || strings.ContainsFunc(v, func(r rune) bool { return r < ' ' || r > '~' || r == '"' || r == '\\' }) {
				return fmt.Errorf("use at most %d plain characters without quotes", maxRealm)
			}
			p.realm = v
			return nil
		},
		"auth-url": func(p *parser, v string) error {
			u, err := webURL(v)
			if err != nil {
				return err
			}
			p.out.External = &External{URL: u}
			return nil
		},
		"auth-method": func(p *parser, v string) error {
			if !slices.Contains([]string{"GET", "HEAD", "POST", "PUT"}, v) {
				return fmt.Errorf("use GET, HEAD, POST or PUT")
			}
			p.method = v
			return nil
		},
		"auth-signin": func(p *parser, v string) error {
			if _, err := webURL(v); err != nil {
				return err
			}
			p.signIn = v
			return nil
		},
		"auth-response-headers": func(p *parser, v string) error {
			for name := range strings.SplitSeq(v, ",") {
				if name = strings.TrimSpace(name); name == "" {
					continue
				}
				if !httpguts.ValidHeaderFieldName(name) || Managed(name) {
					return fmt.Errorf("%q cannot be given on", name)
				}
				p.headers = append(p.headers, http.CanonicalHeaderKey(name))
			}
			if len(p.headers) > maxCopied {
				p.headers = p.headers[:maxCopied]
				return fmt.Errorf("at most %d headers are given on", maxCopied)
			}
			return nil
		},
		"affinity": func(p *parser, v string) error {
			if v != "cookie" {
				return fmt.Errorf("use cookie")
			}
			p.out.Affinity = &Affinity{Cookie: "celox-endpoint", Path: "/"}
			return nil
		},
		"session-cookie-name": affinity(func(a *Affinity, v string) error {
			if !httpguts.ValidHeaderFieldName(v) || len(v) > 64 {
				return fmt.Errorf("%q is no name of a cookie", v)
			}
			a.Cookie = v
			return nil
		}),
		"session-cookie-path": affinity(func(a *Affinity, v string) error {
			if _, err := CleanPath(v); err != nil || strings.ContainsAny(v, "; \",") {
				return fmt.Errorf("use a path")
			}
			a.Path = v
			return nil
		}),
		"session-cookie-max-age": affinity(func(a *Affinity, v string) (err error) {
			n, err := strconv.Atoi(v)
			if err != nil || n < 0 {
				return fmt.Errorf("use a number of seconds")
			}
			a.MaxAge = n
			return nil
		}),
		"session-cookie-samesite": affinity(func(a *Affinity, v string) error {
			if v != "None" && v != "Lax" && v != "Strict" {
				return fmt.Errorf("use None, Lax or Strict")
			}
			a.SameSite = v
			return nil
		}),
		"session-cookie-secure": affinity(func(a *Affinity, v string) error {
			b, err := strconv.ParseBool(v)
			if err != nil {
				return fmt.Errorf("use true or false")
			}
			a.Secure = b
			return nil
		}),
	}
}

// parseOptions reads annotations. The errors name them; the others count.
func parseOptions(annotations map[string]string) (Options, secretsOf, []string) {
	p := &parser{out: Options{
		SSLRedirect: true, Connect: defaultConnect, Read: defaultRead, Send: defaultSend,
	}}
	var known map[string]func(*parser, string) error
	for _, key := range slices.Sorted(maps.Keys(annotations)) {
		if name, ok := strings.CutPrefix(key, nginxPrefix); ok {
			if known == nil {
				known = keys()
			}
			if known[name] != nil && annotations[Prefix+name] == "" {
				p.errs = append(p.errs, fmt.Sprintf("%s is not read: use %s%s", key, Prefix, name))
			}
			continue
		}
		name, ok := strings.CutPrefix(key, Prefix)
		if !ok {
			continue
		}
		if known == nil {
			known = keys()
		}
		read := known[name]
		if read == nil {
			p.errs = append(p.errs, fmt.Sprintf("%s: there is no such annotation", key))
			continue
		}
		// Sorted, "affinity" comes before "session-cookie-", and "permanent-redirect" before its code.
		if err := read(p, strings.TrimSpace(annotations[key])); err != nil {
			p.errs = append(p.errs, fmt.Sprintf("%s: %q: %v", key, clip(annotations[key]), err))
			// Who asks for a lock that cannot be made gets a closed door, not an open one.
			switch name {
			case "auth-type", "auth-secret":
				p.out.Basic = &Basic{}
			case "auth-url":
				p.out.External = &External{}
			case "allowlist-source-range", "whitelist-source-range":
				p.out.Allow = []netip.Prefix{{}}
			}
		}
	}
	if b := p.out.Basic; b != nil {
		b.Realm = p.realm
		if b.Realm == "" {
			b.Realm = "Authentication Required"
		}
	}
	if e := p.out.External; e != nil {
		e.Method, e.SignIn, e.Headers = p.method, p.signIn, p.headers
	}
	return p.out, p.refs, p.errs
}

func (p *parser) redirect(v string, code int) error {
	if _, err := webURL(v); err != nil {
		return err
	}
	p.out.Redirect, p.out.RedirectCode = v, code
	return nil
}

// clip keeps values in messages short.
func clip(v string) string {
	const most = 100
	if len(v) > most {
		return v[:most] + "..."
	}
	return v
}

func webURL(v string) (*url.URL, error) {
	u, err := url.Parse(v)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil ||
		strings.ContainsFunc(v, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == '<' || r == '>' }) {
		return nil, fmt.Errorf("use a URL like https://example.com/path")
	}
	return u, nil
}

// seconds is a number of seconds, or a duration with its unit.
func seconds(v string, most time.Duration) (time.Duration, error) {
	d, err := time.ParseDuration(v)
	if n, e := strconv.Atoi(v); e == nil {
		d, err = time.Duration(min(n, int(most/time.Second)+1))*time.Second, nil
	}
	if err != nil || d <= 0 || d > most {
		return 0, fmt.Errorf("use a time between 1s and %s", most)
	}
	return d, nil
}

// size is a number of bytes: a quantity, or with the units of nginx (k, m, g).
func size(v string) (int64, error) {
	if n := len(v); n > 1 {
		if i := strings.IndexByte("kmg", v[n-1]|0x20); i >= 0 {
			v = v[:n-1] + []string{"Ki", "Mi", "Gi"}[i]
		}
	}
	q, err := resource.ParseQuantity(v)
	if err != nil || q.Sign() < 0 {
		return 0, fmt.Errorf("use a size like 8m; 0 is without bounds")
	}
	return q.Value(), nil
}

func ranges(v string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for text := range strings.SplitSeq(v, ",") {
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		p, err := netip.ParsePrefix(text)
		if a, e := netip.ParseAddr(text); e == nil {
			p, err = netip.PrefixFrom(a, a.BitLen()), nil
		}
		if err != nil {
			return nil, fmt.Errorf("%q is no network like 10.0.0.0/8", clip(text))
		}
		out = append(out, p.Masked())
	}
	if len(out) == 0 || len(out) > maxRanges {
		return nil, fmt.Errorf("use 1 to %d networks", maxRanges)
	}
	return out, nil
}

// Managed says whether a header is the ingress's own business: no client, no backend and no annotation sets it past us.
func Managed(name string) bool {
	switch http.CanonicalHeaderKey(strings.ReplaceAll(name, "_", "-")) {
	case "Connection", "Content-Length", "Expect", "Forwarded", "Host", "Keep-Alive", "Proxy", "Proxy-Authenticate", "Proxy-Authorization", "Proxy-Connection", "Te", "Trailer",
		"Transfer-Encoding", "Upgrade", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Port", "X-Forwarded-Proto", "X-Real-Ip":
		return true
	}
	return false
}
