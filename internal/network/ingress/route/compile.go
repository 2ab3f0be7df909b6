package route

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/tls"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	// ClassAnnotation named the class of an Ingress before spec.ingressClassName did.
	ClassAnnotation = "kubernetes.io/ingress.class"
	// Controller is the controller of our classes.
	Controller = "celox.io/ingress"
	// ClassName is what the class is called that every cluster gets.
	ClassName = "celox"
)

// Sources are what Compile makes a table of. Nothing of it is changed.
type Sources struct {
	Ingresses []*networkingv1.Ingress
	Classes   []*networkingv1.IngressClass
	// Service and Secret return nil for what does not exist.
	Service func(namespace, name string) *corev1.Service
	Secret  func(namespace, name string) *corev1.Secret
	// KeyPair reads a certificate; nil is KeyPair.
	KeyPair func(*corev1.Secret) (*tls.Certificate, error)
}

// KeyPair reads the certificate and key of a secret of the type kubernetes.io/tls.
func KeyPair(s *corev1.Secret) (*tls.Certificate, error) {
	pair, err := tls.X509KeyPair(s.Data[corev1.TLSCertKey], s.Data[corev1.TLSPrivateKeyKey])
	return &pair, err
}

// Reasons of problems, as the reasons of events.
const (
	BadAnnotation  = "BadAnnotation"
	BadBackend     = "BadBackend"
	BadCertificate = "BadCertificate"
	BadPath        = "BadPath"
	Shadowed       = "Shadowed"
)

// Problem is something in an Ingress that does not work.
type Problem struct {
	Ingress         *networkingv1.Ingress
	Reason, Message string
}

// Ours says whether an Ingress is for us: it names one of our classes, in its spec or in the old annotation, or it names none, and nothing says that such are for
// somebody else: another controller's class that is the default, or none of ours that may be (annotated "false").
func Ours(i *networkingv1.Ingress, classes []*networkingv1.IngressClass) bool {
	name := ""
	if i.Spec.IngressClassName != nil {
		name = *i.Spec.IngressClassName
	} else if v, ok := i.Annotations[ClassAnnotation]; ok {
		name = v
	} else {
		return oursWithoutClass(classes)
	}
	return slices.ContainsFunc(classes, func(c *networkingv1.IngressClass) bool { return c.Name == name && c.Spec.Controller == Controller })
}

func oursWithoutClass(classes []*networkingv1.IngressClass) bool {
	may := false
	for _, c := range classes {
		isDefault, said := c.Annotations[networkingv1.AnnotationIsDefaultIngressClass]
		switch {
		case c.Spec.Controller == Controller:
			may = may || !said || isDefault == "true"
		case isDefault == "true":
			return false
		}
	}
	return may
}

// SecretsOf are the secrets, of its own namespace, that an Ingress of ours refers to.
func SecretsOf(i *networkingv1.Ingress) []string {
	var out []string
	for _, t := range i.Spec.TLS {
		if t.SecretName != "" {
			out = append(out, t.SecretName)
		}
	}
	if name := i.Annotations[Prefix+"auth-secret"]; name != "" && i.Annotations[Prefix+"auth-type"] != "" && !strings.Contains(name, "/") {
		out = append(out, name)
	}
	return out
}

type compiler struct {
	in       Sources
	out      *Table
	problems []Problem
	secrets  map[types.NamespacedName]bool
	tls      map[string]bool // hosts, with their wildcards, that are to be reached by TLS
}

// Compile makes the table of all Ingresses of ours, and says what is wrong with them. Of two rules for the same the older Ingress has it.
func Compile(in Sources) (*Table, []Problem) {
	if in.KeyPair == nil {
		in.KeyPair = KeyPair
	}
	c := &compiler{in: in, secrets: map[types.NamespacedName]bool{}, tls: map[string]bool{}, out: &Table{
		hosts: map[string]*site{}, wildcards: map[string]*site{}, certificates: map[string]*tls.Certificate{}, wildcardCertificates: map[string]*tls.Certificate{},
	}}
	var ours []*networkingv1.Ingress
	for _, i := range in.Ingresses {
		if Ours(i, in.Classes) {
			ours = append(ours, i)
		}
	}
	slices.SortFunc(ours, func(a, b *networkingv1.Ingress) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	for _, i := range ours {
		c.ingress(i)
	}
	for _, r := range c.out.Routes {
		_, parent, _ := strings.Cut(r.Host, ".")
		r.TLS = c.tls[strings.ToLower(r.Host)] || c.tls["*."+strings.ToLower(parent)]
	}
	return c.out, c.problems
}

func (c *compiler) bad(i *networkingv1.Ingress, reason, format string, args ...any) {
	c.problems = append(c.problems, Problem{Ingress: i, Reason: reason, Message: fmt.Sprintf(format, args...)})
}

func (c *compiler) ingress(i *networkingv1.Ingress) {
	c.out.Ingresses = append(c.out.Ingresses, types.NamespacedName{Namespace: i.Namespace, Name: i.Name})
	options, refs, wrong := parseOptions(i.Annotations)
	for _, w := range wrong {
		c.bad(i, BadAnnotation, "%s", w)
	}
	for _, name := range SecretsOf(i) {
		if n := (types.NamespacedName{Namespace: i.Namespace, Name: name}); !c.secrets[n] {
			c.secrets[n] = true
			c.out.Secrets = append(c.out.Secrets, n)
		}
	}
	if options.Basic != nil {
		options.Basic.Users = c.users(i, refs)
	}
	var hosts []string
	for n := range i.Spec.Rules {
		rule := &i.Spec.Rules[n]
		if !slices.Contains(hosts, rule.Host) {
			hosts = append(hosts, rule.Host)
		}
		s := c.site(rule.Host)
		if rule.HTTP == nil {
			continue
		}
		for p := range rule.HTTP.Paths {
			c.path(i, s, rule.Host, &rule.HTTP.Paths[p], &options)
		}
	}
	if b := i.Spec.DefaultBackend; b != nil {
		for _, host := range hosts {
			if s := c.site(host); s.fallback == nil {
				s.fallback = c.route(i, host, "", b, &options)
			}
		}
		switch {
		case len(hosts) > 0: // it is for them only
		case c.out.fallback == nil:
			c.out.fallback = c.route(i, "", "", b, &options)
		default:
			c.bad(i, Shadowed, "the older Ingress %s has the default backend", c.out.fallback.Ingress)
		}
	}
	for n := range i.Spec.TLS {
		c.certificate(i, &i.Spec.TLS[n], hosts)
	}
}

// site finds or makes what there is for the host of a rule.
func (c *compiler) site(host string) *site {
	in, key := c.out.hosts, strings.ToLower(host)
	switch {
	case host == "":
		if c.out.any == nil {
			c.out.any = newSite()
		}
		return c.out.any
	case strings.HasPrefix(key, "*."):
		in, key = c.out.wildcards, key[2:]
	}
	if in[key] == nil {
		in[key] = newSite()
	}
	return in[key]
}

func newSite() *site { return &site{exact: map[string]*Route{}, prefix: map[string]*Route{}} }

func (c *compiler) path(i *networkingv1.Ingress, s *site, host string, p *networkingv1.HTTPIngressPath, options *Options) {
	kind := networkingv1.PathTypeImplementationSpecific
	if p.PathType != nil {
		kind = *p.PathType
	}
	text := p.Path
	if text == "" {
		text = "/"
	}
	if kind == networkingv1.PathTypeImplementationSpecific {
		text = withoutCapture(text)
	}
	clean, err := CleanPath(text)
	if err != nil || strings.ContainsAny(text, "()*^$") && kind == networkingv1.PathTypeImplementationSpecific {
		c.bad(i, BadPath, "path %q is left out: patterns are not understood but for one group at the end, as in /path(/|$)(.*)", clip(p.Path))
		return
	}
	in, key := s.prefix, strings.TrimRight(clean.Match, "/")
	if kind == networkingv1.PathTypeExact {
		in, key = s.exact, clean.Match
	}
	if old := in[key]; old != nil {
		c.bad(i, Shadowed, "%s%s: Ingress %s has it already", cmp.Or(host, "*"), p.Path, old.Ingress)
		return
	}
	r := c.route(i, host, text, &p.Backend, options)
	r.Path, r.Prefix = p.Path, key
	in[key] = r
}

// withoutCapture understands the patterns with which a prefix is cut off: what is left is the prefix.
func withoutCapture(path string) string {
	for _, suffix := range []string{"(/|$)(.*)", "/(.*)", "/?(.*)", "(.*)"} {
		if head, ok := strings.CutSuffix(path, suffix); ok {
			if head == "" {
				return "/"
			}
			return head
		}
	}
	return path
}

func (c *compiler) route(i *networkingv1.Ingress, host, path string, b *networkingv1.IngressBackend, options *Options) *Route {
	r := &Route{
		Index: len(c.out.Routes), Ingress: types.NamespacedName{Namespace: i.Namespace, Name: i.Name}, Host: host, Path: path, Options: options,
	}
	c.out.Routes = append(c.out.Routes, r)
	if r.Missing = c.backend(i, b, options, &r.Backend); r.Missing != "" {
		c.bad(i, BadBackend, "%s", r.Missing)
	}
	return r
}

// backend finds the port of a service, or says why there is none.
func (c *compiler) backend(i *networkingv1.Ingress, b *networkingv1.IngressBackend, options *Options, out *Backend) string {
	if b.Service == nil {
		kind, name := "", ""
		if b.Resource != nil {
			kind, name = b.Resource.Kind, b.Resource.Name
		}
		return fmt.Sprintf("the backend is the resource %s %s: only services can be backends", kind, name)
	}
	svc := c.in.Service(i.Namespace, b.Service.Name)
	if svc == nil {
		return fmt.Sprintf("there is no service %s", b.Service.Name)
	}
	if svc.Spec.Type == corev1.ServiceTypeExternalName {
		return fmt.Sprintf("the service %s is only a name of something outside (ExternalName)", svc.Name)
	}
	for n := range svc.Spec.Ports {
		p := &svc.Spec.Ports[n]
		if p.Protocol != corev1.ProtocolTCP && p.Protocol != "" {
			continue
		}
		if b.Service.Port.Name != "" && p.Name != b.Service.Port.Name || b.Service.Port.Name == "" && p.Port != b.Service.Port.Number {
			continue
		}
		*out = Backend{Namespace: i.Namespace, Service: svc.Name, Port: p.Port, PortName: p.Name, Protocol: protocol(p, options)}
		return ""
	}
	if b.Service.Port.Name != "" {
		return fmt.Sprintf("the service %s has no port %s over TCP", svc.Name, b.Service.Port.Name)
	}
	return fmt.Sprintf("the service %s has no port %d over TCP", svc.Name, b.Service.Port.Number)
}

func protocol(p *corev1.ServicePort, options *Options) Protocol {
	if options.Protocol != nil {
		return *options.Protocol
	}
	if p.AppProtocol != nil {
		switch *p.AppProtocol {
		case "kubernetes.io/h2c", "h2c", "grpc":
			return H2C
		case "https", "HTTPS", "kubernetes.io/wss":
			return HTTPS
		case "grpcs":
			return H2
		}
	}
	return HTTP
}

func (c *compiler) users(i *networkingv1.Ingress, refs secretsOf) map[string]string {
	if refs.basic == "" {
		c.bad(i, BadAnnotation, "%sauth-type: there is no %sauth-secret, so nobody is let in", Prefix, Prefix)
		return nil
	}
	secret := c.in.Secret(i.Namespace, refs.basic)
	if secret == nil {
		c.bad(i, BadAnnotation, "%sauth-secret: there is no secret %s, so nobody is let in", Prefix, refs.basic)
		return nil
	}
	out := map[string]string{}
	if refs.basicKeys {
		for name, hash := range secret.Data {
			out[name] = strings.TrimSpace(string(hash))
		}
	} else {
		for lines := bufio.NewScanner(bytes.NewReader(secret.Data["auth"])); lines.Scan(); {
			if name, hash, ok := strings.Cut(strings.TrimSpace(lines.Text()), ":"); ok && name != "" && name[0] != '#' {
				out[name] = hash
			}
		}
	}
	for name, hash := range out {
		if !KnownHash(hash) {
			c.bad(i, BadAnnotation, "%sauth-secret: the password of %q is hashed in a way that is not understood: use htpasswd -B, or its $apr1$ or {SHA}", Prefix, clip(name))
			delete(out, name)
		}
	}
	if len(out) == 0 {
		c.bad(i, BadAnnotation, "%sauth-secret: secret %s has no users (key auth), so nobody is let in", Prefix, refs.basic)
	}
	return out
}

// certificate takes up an entry of spec.tls. Without hosts it is for the hosts of the rules.
func (c *compiler) certificate(i *networkingv1.Ingress, t *networkingv1.IngressTLS, hosts []string) {
	names := t.Hosts
	if len(names) == 0 {
		names = hosts
	}
	for _, host := range names {
		c.tls[strings.ToLower(host)] = true // with the default certificate, too
	}
	if t.SecretName == "" {
		return
	}
	secret := c.in.Secret(i.Namespace, t.SecretName)
	if secret == nil {
		c.bad(i, BadCertificate, "there is no secret %s: the default certificate is used", t.SecretName)
		return
	}
	pair, err := c.in.KeyPair(secret)
	if err != nil {
		c.bad(i, BadCertificate, "secret %s has no usable certificate: %v", t.SecretName, err)
		return
	}
	for _, host := range names {
		host = strings.ToLower(host)
		in, key, ask := c.out.certificates, host, host
		if host == "" {
			continue
		}
		if wild, ok := strings.CutPrefix(host, "*."); ok {
			in, key, ask = c.out.wildcardCertificates, wild, "any."+wild
		}
		if err := pair.Leaf.VerifyHostname(ask); err != nil {
			c.bad(i, BadCertificate, "the certificate in secret %s is not for %s: clients will refuse it", t.SecretName, host)
		}
		if in[key] == nil {
			in[key] = pair
		}
	}
}
