package route

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"
)

func TestCleanPath(t *testing.T) {
	for raw, want := range map[string]Path{
		"/":              {"/", "/"},
		"/a/b":           {"/a/b", "/a/b"},
		"/a/b/":          {"/a/b/", "/a/b/"},
		"//a///b":        {"/a/b", "//a///b"},
		"/a/./b":         {"/a/b", "/a/b"},
		"/a/../b":        {"/b", "/b"},
		"/a/b/..":        {"/a/", "/a/"},
		"/a/b/.":         {"/a/b/", "/a/b/"},
		"/a//../b":       {"/b", "/b"},
		"/a/%2E%2e/b":    {"/b", "/b"},
		"/%61":           {"/a", "/%61"},
		"/a%2Fb":         {"/a\x00b", "/a%2Fb"},
		"/a%5Cb":         {`/a\b`, "/a%5Cb"},
		"/...":           {"/...", "/..."},
		"/.well-known/x": {"/.well-known/x", "/.well-known/x"},
		"/%C3%A4":        {"/ä", "/%C3%A4"},
		"/a;x=1/b":       {"/a;x=1/b", "/a;x=1/b"},
		"/a/../%7Eb/./c": {"/~b/c", "/%7Eb/c"},
	} {
		if got, err := CleanPath(raw); err != nil || got != want {
			t.Errorf("%q: got %q, %v, want %q", raw, got, err, want)
		}
	}
	for _, raw := range []string{"", "a", "/..", "/a/../..", "/%2e%2e", "//..", "/a%", "/a%2", "/a%zz", "/a%00", "/a%0a", "/a b", "/a\x7f", "/a#b", "/a/..%2fb", "/a/%2e%2e%2Fb", `/a/..\b`, "/a/x%2f..%2fb", "/a/..%5cb", "/a/..;/b", "/a/..;x=1/b"} {
		if got, err := CleanPath(raw); err == nil {
			t.Errorf("%q: got %q, want an error", raw, got)
		}
	}
}

// However a path is written, what is forwarded means what was matched, and cannot be understood as something above it.
func checkPath(t interface{ Errorf(string, ...any) }, raw string) {
	p, err := CleanPath(raw)
	if err != nil {
		return
	}
	if !strings.HasPrefix(p.Match, "/") || !strings.HasPrefix(p.Forward, "/") || strings.Contains(p.Match, "//") {
		t.Errorf("%q: %q", raw, p)
	}
	for e := range strings.SplitSeq(p.Match, "/") {
		if e == ".." || e == "." {
			t.Errorf("%q: %q has a step", raw, p.Match)
		}
	}
	again, err := CleanPath(p.Forward)
	if err != nil || again.Match != p.Match || again.Forward != p.Forward {
		t.Errorf("%q: forwarded as %q, which is %q, %v", raw, p.Forward, again, err)
	}
	if strings.ContainsAny(p.Forward, " \r\n\x00?#") {
		t.Errorf("%q: forwarded as %q", raw, p.Forward)
	}
}

func FuzzCleanPath(f *testing.F) {
	for _, s := range []string{"/", "/a/../b", "/%2e%2e/a", "/a%2fb", "//a//..//b", "/a/..;/b", "/a\\..\\b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) { checkPath(t, raw) })
}

func TestPathsMeanWhatTheyMatch(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		parts := rapid.SliceOfN(rapid.SampledFrom([]string{"/", "a", "..", ".", "%2e", "%2E", "%2f", "%5c", "\\", ";", "%", "%41", "b", "//", " ", "%00"}), 0, 12).Draw(t, "parts")
		checkPath(t, "/"+strings.Join(parts, ""))
	})
}

func TestCleanHost(t *testing.T) {
	for raw, want := range map[string]string{"a.example": "a.example", "A.Example:80": "a.example", "a.example.": "a.example", "[::1]:80": "[::1]", "10.0.0.1": "10.0.0.1", "a_b": "a_b"} {
		if got, err := CleanHost(raw); err != nil || got != want {
			t.Errorf("%q: got %q, %v", raw, got, err)
		}
	}
	for _, raw := range []string{"", ".", "..", ".a", "a..b", "a..", ":80", "a:b", "a:123456", "a/b", "a b", "a@b", "[::1", "[x]", "a\x00", "ä", strings.Repeat("a", 254), "a:80:80", "[::1]x"} {
		if got, err := CleanHost(raw); err == nil {
			t.Errorf("%q: got %q, want an error", raw, got)
		}
	}
}

func FuzzCleanHost(f *testing.F) {
	f.Add("a.example:80")
	f.Add("..")
	f.Fuzz(func(t *testing.T, raw string) {
		got, err := CleanHost(raw)
		if err != nil {
			return
		}
		if again, err := CleanHost(got); err != nil || again != got || strings.ContainsAny(got, " \r\n/@\"") {
			t.Errorf("%q: %q, then %q, %v", raw, got, again, err)
		}
	})
}

// ingress is an Ingress of the class celox. Rules are "host/path>service" for prefixes, with = for exact paths and ~ for neither.
func ingress(name string, age int, rules ...string) *networkingv1.Ingress {
	class := ClassName
	i := &networkingv1.Ingress{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, CreationTimestamp: metav1.NewTime(time.Unix(int64(1000-age), 0)), Annotations: map[string]string{}},
		Spec:       networkingv1.IngressSpec{IngressClassName: &class},
	}
	for _, text := range rules {
		at := strings.IndexAny(text, ">=~")
		kind := map[byte]networkingv1.PathType{'>': networkingv1.PathTypePrefix, '=': networkingv1.PathTypeExact, '~': networkingv1.PathTypeImplementationSpecific}[text[at]]
		host, path, _ := strings.Cut(text[:at], "/")
		i.Spec.Rules = append(i.Spec.Rules, networkingv1.IngressRule{Host: host, IngressRuleValue: networkingv1.IngressRuleValue{HTTP: &networkingv1.HTTPIngressRuleValue{
			Paths: []networkingv1.HTTPIngressPath{{Path: "/" + path, PathType: &kind, Backend: *to(text[at+1:])}},
		}}})
	}
	return i
}

func to(service string) *networkingv1.IngressBackend {
	return &networkingv1.IngressBackend{Service: &networkingv1.IngressServiceBackend{Name: service, Port: networkingv1.ServiceBackendPort{Number: 80}}}
}

// classes are ours and another's, with what they say of being the default ("" is nothing).
func classes(ours, others string) []*networkingv1.IngressClass {
	class := func(name, controller, isDefault string) *networkingv1.IngressClass {
		c := &networkingv1.IngressClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: networkingv1.IngressClassSpec{Controller: controller}}
		if isDefault != "" {
			c.Annotations = map[string]string{networkingv1.AnnotationIsDefaultIngressClass: isDefault}
		}
		return c
	}
	return []*networkingv1.IngressClass{class(ClassName, Controller, ours), class("other", "example.com/other", others)}
}

func compile(all ...*networkingv1.Ingress) (*Table, []Problem) {
	return Compile(Sources{
		Ingresses: all, Classes: classes("", ""),
		Service: func(namespace, name string) *corev1.Service {
			if namespace != "ns" || name == "none" {
				return nil
			}
			h2c, https := "kubernetes.io/h2c", "https"
			s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{
				{Name: "udp", Port: 80, Protocol: corev1.ProtocolUDP}, {Name: "http", Port: 80, Protocol: corev1.ProtocolTCP}, {Name: "grpc", Port: 81, AppProtocol: &h2c}, {Name: "tls", Port: 82, AppProtocol: &https},
			}}}
			if name == "external" {
				s.Spec.Type = corev1.ServiceTypeExternalName
			}
			return s
		},
		Secret: func(_, name string) *corev1.Secret {
			switch name {
			case "broken":
				return &corev1.Secret{}
			case "users":
				return &corev1.Secret{Data: map[string][]byte{"auth": []byte("# comment\nerin:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=\nplain:secret\n")}}
			case "map":
				return &corev1.Secret{Data: map[string][]byte{"erin": []byte("{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=\n")}}
			}
			return nil
		},
	})
}

func where(r *Route) string {
	if r == nil {
		return ""
	}
	return r.Backend.Service
}

func TestFind(t *testing.T) {
	fallback := ingress("fallback", 1)
	fallback.Spec.DefaultBackend = to("last")
	own := ingress("own", 2, "own.example/x>own-x")
	own.Spec.DefaultBackend = to("own-rest")
	table, problems := compile(
		ingress("a", 9, "a.example/>a", "a.example/foo>foo", "a.example/foo=exact", "a.example/foo/bar/>bar", "a.example/foo/bar=bar-exact", "a.example/slash/=slash"),
		ingress("b", 8, "*.example/>wild", "x.b.example/deep>deep"),
		ingress("c", 7, "/any>any", "/any/~same"),
		fallback, own)
	if len(problems) != 1 || problems[0].Reason != Shadowed || problems[0].Ingress.Name != "c" {
		t.Errorf("problems: %+v", problems)
	}
	for _, tt := range []struct{ host, path, want string }{
		{"a.example", "/", "a"}, {"a.example", "/foo", "exact"}, {"a.example", "/foo/", "foo"}, {"a.example", "/foobar", "a"}, {"a.example", "/foo/x/y", "foo"},
		{"a.example", "/foo/bar", "bar-exact"}, {"a.example", "/foo/bar/", "bar"}, {"a.example", "/foo/bar/x", "bar"}, {"a.example", "/Foo", "a"},
		{"a.example", "/slash/", "slash"}, {"a.example", "/slash", "a"}, {"a.example", "/foo\x00bar", "a"},
		{"z.example", "/x", "wild"}, {"example", "/x", "last"}, {"y.z.example", "/", "last"},
		{"x.b.example", "/deep/x", "deep"}, {"x.b.example", "/", "last"},
		{"else", "/any", "any"}, {"else", "/any/thing", "any"}, {"else", "/", "last"}, {"", "/any", "any"},
		{"own.example", "/x", "own-x"}, {"own.example", "/y", "own-rest"},
	} {
		if got := where(table.Find(tt.host, tt.path)); got != tt.want {
			t.Errorf("%s%q: got %q, want %q", tt.host, tt.path, got, tt.want)
		}
	}
	if got := new(Table).Find("a", "/"); got != nil {
		t.Errorf("an empty table finds %v", got)
	}
}

// The table does not depend on the order in which informers have the Ingresses.
func TestOrder(t *testing.T) {
	all := []*networkingv1.Ingress{ingress("a", 3, "h/x>one"), ingress("b", 2, "h/x>two"), ingress("c", 2, "h/x>three", "h/y>four"), ingress("d", 1, "h/y>five")}
	rapid.Check(t, func(t *rapid.T) {
		table, problems := compile(rapid.Permutation(all).Draw(t, "order")...)
		if x, y := where(table.Find("h", "/x")), where(table.Find("h", "/y")); x != "one" || y != "four" || len(problems) != 3 {
			t.Fatalf("/x is %s, /y is %s, %d problems", x, y, len(problems))
		}
	})
}

func TestOurs(t *testing.T) {
	name := func(s string) *string { return &s }
	for _, tt := range []struct {
		class        *string
		annotation   string
		ours, others string // what the classes say of being the default
		want         bool
	}{
		{name("celox"), "", "", "true", true}, {name("other"), "", "true", "", false}, {name("missing"), "", "", "", false}, {nil, "celox", "false", "true", true}, {nil, "nginx", "true", "", false},
		{name("other"), "celox", "", "", false},
		{nil, "", "", "", true}, {nil, "", "true", "", true}, {nil, "", "false", "", false}, {nil, "", "", "true", false}, {nil, "", "", "false", true},
	} {
		i := &networkingv1.Ingress{Spec: networkingv1.IngressSpec{IngressClassName: tt.class}}
		if tt.annotation != "" {
			i.Annotations = map[string]string{ClassAnnotation: tt.annotation}
		}
		if got := Ours(i, classes(tt.ours, tt.others)); got != tt.want {
			t.Errorf("%+v: got %v", tt, got)
		}
	}
}

func TestBackends(t *testing.T) {
	i := ingress("i", 1, "a/>s", "b/>none", "c/>external", "d/>s", "e/>s", "f/>s", "g/>s", "h/>s")
	paths := func(n int) *networkingv1.IngressBackend { return &i.Spec.Rules[n].HTTP.Paths[0].Backend }
	paths(3).Service.Port = networkingv1.ServiceBackendPort{Name: "grpc"}
	paths(4).Service.Port = networkingv1.ServiceBackendPort{Number: 82}
	paths(5).Service.Port = networkingv1.ServiceBackendPort{Number: 99}
	paths(6).Service.Port = networkingv1.ServiceBackendPort{Name: "udp"}
	*paths(7) = networkingv1.IngressBackend{Resource: &corev1.TypedLocalObjectReference{Kind: "Bucket", Name: "b"}}
	table, problems := compile(i)
	for host, want := range map[string]Backend{
		"a": {"ns", "s", 80, "http", HTTP}, "d": {"ns", "s", 81, "grpc", H2C}, "e": {"ns", "s", 82, "tls", HTTPS},
	} {
		if r := table.Find(host, "/"); r.Missing != "" || r.Backend != want {
			t.Errorf("%s: got %+v (%s), want %+v", host, r.Backend, r.Missing, want)
		}
	}
	for host, want := range map[string]string{"b": "no service none", "c": "ExternalName", "f": "no port 99", "g": "no port udp", "h": "only services"} {
		if r := table.Find(host, "/"); !strings.Contains(r.Missing, want) {
			t.Errorf("%s: %q", host, r.Missing)
		}
	}
	if len(problems) != 5 || len(table.Backends()) != 3 {
		t.Errorf("%d problems, backends %v", len(problems), table.Backends())
	}
}

func TestOptions(t *testing.T) {
	options := func(kv ...string) (Options, []string) {
		m := map[string]string{}
		for n := 0; n < len(kv); n += 2 {
			m[Prefix+kv[n]] = kv[n+1]
		}
		o, _, wrong := parseOptions(m)
		return o, wrong
	}
	o, wrong := options("proxy-body-size", "8m", "proxy-read-timeout", "120", "proxy-connect-timeout", "1500ms", "backend-protocol", "grpc", "rewrite-target", "/x/$2", "ssl-redirect", "false",
		"allowlist-source-range", "10.1.2.3/8, 192.0.2.1", "upstream-vhost", "inside.example", "affinity", "cookie", "session-cookie-max-age", "60")
	if len(wrong) > 0 || o.MaxBody != 8<<20 || o.Read != 2*time.Minute || o.Connect != 1500*time.Millisecond || *o.Protocol != H2C || !o.Rewrites || o.Rewrite != "/x/" || o.SSLRedirect ||
		len(o.Allow) != 2 || o.Allow[0] != netip.MustParsePrefix("10.0.0.0/8") || o.Host != "inside.example" || o.Affinity.MaxAge != 60 {
		t.Errorf("got %+v, %v", o, wrong)
	}
	// What is wrong is named, and the rest counts.
	for key, value := range map[string]string{
		"nonsense": "x", "proxy-body-size": "much", "proxy-read-timeout": "0", "proxy-send-timeout": "forever", "proxy-connect-timeout": "1000000h", "backend-protocol": "FCGI", "rewrite-target": "/$1/$2", "ssl-redirect": "maybe",
		"allowlist-source-range": "lan", "denylist-source-range": "", "upstream-vhost": "a b", "auth-type": "digest", "auth-secret": "other/secret", "auth-realm": "a\"b", "auth-url": "file:///etc/passwd",
		"auth-method": "DELETE", "auth-signin": "javascript:x", "auth-response-headers": "X-Forwarded-For", "affinity": "ip", "session-cookie-name": "x", "permanent-redirect": "//evil", "permanent-redirect-code": "200",
		"temporal-redirect": "https://a.example/\r\nX: y", "auth-secret-type": "x",
	} {
		o, wrong := options(key, value, "proxy-read-timeout-", "", "ssl-redirect-", "")
		if len(wrong) != 3 || !slices.ContainsFunc(wrong, func(w string) bool { return strings.HasPrefix(w, Prefix+key+": ") }) {
			t.Errorf("%s=%q: %v", key, value, wrong)
		}
		if o.Connect != defaultConnect || o.Redirect != "" {
			t.Errorf("%s=%q: %+v", key, value, o)
		}
	}
	// A lock that cannot be made is a closed door.
	if o, _ := options("auth-type", "digest"); o.Basic == nil || len(o.Basic.Users) > 0 {
		t.Error("without basic auth everybody comes in")
	}
	if o, _ := options("auth-url", "x"); o.External == nil || o.External.URL != nil {
		t.Error("without external auth everybody comes in")
	}
	if o, _ := options("allowlist-source-range", "x"); len(o.Allow) == 0 || o.Allow[0].Contains(netip.MustParseAddr("10.0.0.1")) {
		t.Error("without a list everybody comes in")
	}
	_, _, wrong = parseOptions(map[string]string{nginxPrefix + "rewrite-target": "/", nginxPrefix + "unknown": "x", "other": "x"})
	if len(wrong) != 1 || !strings.Contains(wrong[0], "use "+Prefix+"rewrite-target") {
		t.Errorf("annotations of nginx: %v", wrong)
	}
}

func TestRewrites(t *testing.T) {
	for _, tt := range []struct{ rule, target, path, want string }{
		{"h/api>s", "/", "/api/x", "/x"}, {"h/api>s", "/", "/api", "/"}, {"h/api>s", "/v1", "/api/x", "/v1/x"}, {"h/api>s", "/v1/", "/api/x", "/v1/x"}, {"h/>s", "/v1", "/x", "/v1/x"},
		{"h/api(/|$)(.*)~s", "/$2", "/api/x%2Fy", "/x%2Fy"}, {"h/api/(.*)~s", "/$1", "/api/x/", "/x/"}, {"h/a/b>s", "/", "//a/%62//c", "//c"},
	} {
		i := ingress("i", 1, tt.rule)
		i.Annotations[Prefix+"rewrite-target"] = tt.target
		table, problems := compile(i)
		p, err := CleanPath(tt.path)
		if err != nil || len(problems) > 0 {
			t.Fatal(err, problems)
		}
		r := table.Find("h", p.Match)
		if r == nil {
			t.Errorf("%+v: no route", tt)
			continue
		}
		if got := r.Rewritten(p); got != tt.want && got != strings.Replace(tt.want, "//", "/", 1) {
			t.Errorf("%+v: got %q", tt, got)
		}
	}
	if _, problems := compile(ingress("i", 1, "h/a[0-9]+(x)*~s")); len(problems) != 1 || problems[0].Reason != BadPath {
		t.Errorf("a pattern: %+v", problems)
	}
}

func TestSecrets(t *testing.T) {
	i := ingress("i", 1, "h/>s")
	i.Spec.TLS = []networkingv1.IngressTLS{{SecretName: "none"}, {Hosts: []string{"x"}, SecretName: "broken"}, {Hosts: []string{"y"}}}
	i.Annotations[Prefix+"auth-type"], i.Annotations[Prefix+"auth-secret"] = "basic", "users"
	if got := SecretsOf(i); !slices.Equal(got, []string{"none", "broken", "users"}) {
		t.Errorf("secrets: %v", got)
	}
	table, problems := compile(i)
	if len(problems) != 3 || len(table.Secrets) != 3 || !table.Find("h", "/").TLS {
		t.Errorf("problems %+v, secrets %v", problems, table.Secrets)
	}
	if users := table.Find("h", "/").Options.Basic.Users; len(users) != 1 || users["erin"] == "" {
		t.Errorf("users: %v", users)
	}
	i.Annotations[Prefix+"auth-secret"], i.Annotations[Prefix+"auth-secret-type"] = "map", "auth-map"
	table, _ = compile(i)
	if users := table.Find("h", "/").Options.Basic.Users; !CheckPassword(users["erin"], "secret") {
		t.Errorf("users: %v", users)
	}
}

func TestEndpoints(t *testing.T) {
	yes, no := true, false
	port := func(name string, n int32) discoveryv1.EndpointPort {
		return discoveryv1.EndpointPort{Name: &name, Port: &n}
	}
	slice := func(endpoints ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
		return &discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{port("http", 8080), port("other", 9090)}, Endpoints: endpoints}
	}
	ready := discoveryv1.Endpoint{Addresses: []string{"10.0.0.2"}}
	ready1 := discoveryv1.Endpoint{Addresses: []string{"10.0.0.1"}, Conditions: discoveryv1.EndpointConditions{Ready: &yes}}
	ending := discoveryv1.Endpoint{Addresses: []string{"10.0.0.3"}, Conditions: discoveryv1.EndpointConditions{Ready: &no, Serving: &yes, Terminating: &yes}}
	dead := discoveryv1.Endpoint{Addresses: []string{"10.0.0.4"}, Conditions: discoveryv1.EndpointConditions{Ready: &no, Serving: &no, Terminating: &yes}}
	bad := discoveryv1.Endpoint{Addresses: []string{"127.0.0.1"}}
	link := discoveryv1.Endpoint{Addresses: []string{"169.254.169.254"}}
	for name, tt := range map[string]struct {
		in   []*discoveryv1.EndpointSlice
		want string
	}{
		"ready":              {[]*discoveryv1.EndpointSlice{slice(ready, ending, dead), slice(ready1, ready)}, "[10.0.0.1:8080 10.0.0.2:8080]"},
		"only those that go": {[]*discoveryv1.EndpointSlice{slice(ending, dead)}, "[10.0.0.3:8080]"},
		"none":               {[]*discoveryv1.EndpointSlice{slice(dead, bad, link)}, "[]"},
	} {
		if got := fmt.Sprint(Endpoints(Backend{PortName: "http"}, tt.in)); got != tt.want {
			t.Errorf("%s: got %s, want %s", name, got, tt.want)
		}
	}
}

func BenchmarkFind(b *testing.B) {
	var all []*networkingv1.Ingress
	for n := range 1000 {
		all = append(all, ingress(fmt.Sprint("i", n), n, fmt.Sprintf("h%d.example/>s", n), fmt.Sprintf("h%d.example/api/v1>s", n)))
	}
	table, _ := compile(all...)
	b.ReportAllocs()
	for b.Loop() {
		p, err := CleanPath("/api/v1/things/42")
		if err != nil || table.Find("h500.example", p.Match) == nil {
			b.Fatal("not found")
		}
	}
}

func BenchmarkCompile(b *testing.B) {
	var all []*networkingv1.Ingress
	for n := range 1000 {
		all = append(all, ingress(fmt.Sprint("i", n), n, fmt.Sprintf("h%d.example/>s", n), fmt.Sprintf("h%d.example/api/v1>s", n)))
	}
	b.ReportAllocs()
	for b.Loop() {
		compile(all...)
	}
}
