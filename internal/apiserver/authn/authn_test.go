package authn

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/celox/celox/internal/apiserver/lookup/lookuptest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func meta(namespace, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: namespace, Name: name}
}

func ecKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

type fixture struct {
	store *lookuptest.Store
	clock *clocktesting.FakeClock
	sas   *ServiceAccounts
	auth  *Authenticator
	sa    *corev1.ServiceAccount
	pod   *corev1.Pod
	node  *corev1.Node
}

func setup(t testing.TB) *fixture {
	t.Helper()
	f := &fixture{
		store: lookuptest.New(t), clock: clocktesting.NewFakeClock(time.Unix(1_800_000_000, 0)),
		sa:   &corev1.ServiceAccount{ObjectMeta: meta("a", "default")},
		node: &corev1.Node{ObjectMeta: meta("", "n1")},
		pod:  &corev1.Pod{ObjectMeta: meta("a", "p"), Spec: corev1.PodSpec{ServiceAccountName: "default", NodeName: "n1"}},
	}
	f.store.Put(f.sa, f.node, f.pod, &corev1.ServiceAccount{ObjectMeta: meta("a", "other")})
	issuer, err := NewIssuer("", nil, ecKey(t))
	if err != nil {
		t.Fatal(err)
	}
	f.sas = NewServiceAccounts(issuer, f.store.Objects, f.clock)
	f.auth = New(Config{ServiceAccounts: f.sas, AnonymousPaths: HealthPaths(), Clock: f.clock})
	return f
}

func (f *fixture) token(t testing.TB, account string, spec authenticationv1.TokenRequestSpec) *authenticationv1.TokenRequest {
	t.Helper()
	tr, err := f.sas.Request(t.Context(), "a", account, &authenticationv1.TokenRequest{Spec: spec})
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

func TestBoundToken(t *testing.T) {
	f := setup(t)
	tr := f.token(t, "default", authenticationv1.TokenRequestSpec{BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: "p"}})
	if !reflect.DeepEqual(tr.Spec.Audiences, []string{DefaultAudience}) || *tr.Spec.ExpirationSeconds != 3600 || tr.Name != "default" || tr.Namespace != "a" {
		t.Errorf("got %+v", tr)
	}
	if want := f.clock.Now().Add(time.Hour); !tr.Status.ExpirationTimestamp.Time.Equal(want) {
		t.Errorf("expires %v, want %v", tr.Status.ExpirationTimestamp, want)
	}
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(tr.Status.Token, ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	var said map[string]any
	if err := json.Unmarshal(payload, &said); err != nil {
		t.Fatal(err)
	}
	delete(said, "jti")
	want := map[string]any{
		"iss": DefaultIssuer, "sub": "system:serviceaccount:a:default", "aud": []any{DefaultAudience},
		"iat": 1.8e9, "nbf": 1.8e9, "exp": 1.8e9 + 3600,
		"kubernetes.io": map[string]any{
			"namespace": "a", "serviceaccount": map[string]any{"name": "default", "uid": string(f.sa.UID)},
			"pod":  map[string]any{"name": "p", "uid": string(f.pod.UID)},
			"node": map[string]any{"name": "n1", "uid": string(f.node.UID)},
		},
	}
	if !reflect.DeepEqual(said, want) {
		t.Errorf("got  %v\nwant %v", said, want)
	}

	r := httptest.NewRequest(http.MethodGet, "/api", nil)
	r.Header.Set("Authorization", "Bearer "+tr.Status.Token)
	u, ok, err := f.auth.AuthenticateRequest(r)
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	if u.GetName() != "system:serviceaccount:a:default" || u.GetUID() != string(f.sa.UID) ||
		!reflect.DeepEqual(u.GetGroups(), []string{"system:serviceaccounts", "system:serviceaccounts:a", "system:authenticated"}) ||
		u.GetExtra()[extraPodName][0] != "p" || u.GetExtra()[extraNodeName][0] != "n1" || !strings.HasPrefix(u.GetExtra()[user.CredentialIDKey][0], "JTI=") {
		t.Errorf("got %+v", u)
	}
	if r.Header.Get("Authorization") != "" {
		t.Error("the token stays in the request")
	}
}

func TestTokensEnd(t *testing.T) {
	podRef := &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: "p"}
	for _, c := range []struct {
		name string
		ref  *authenticationv1.BoundObjectReference
		end  func(*fixture)
		want string // "": still good
	}{
		{"nothing happens", podRef, func(*fixture) {}, ""},
		{"time", nil, func(f *fixture) { f.clock.Step(time.Hour + time.Second) }, "service account token has expired"},
		{"clock far back", nil, func(f *fixture) { f.clock.Step(-2 * time.Minute) }, "service account token is not valid yet"},
		{"account gone", nil, func(f *fixture) { f.store.Delete(f.sa) }, errBinding.Error()},
		{"account made anew", nil, func(f *fixture) {
			f.store.Put(&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "default", UID: "new"}})
		}, errBinding.Error()},
		{"pod gone", podRef, func(f *fixture) { f.store.Delete(f.pod) }, errBinding.Error()},
		{"pod gone, not bound", nil, func(f *fixture) { f.store.Delete(f.pod) }, ""},
		{"pod ending", podRef, func(f *fixture) { f.deletePod(0) }, ""},
		{"pod ending for long", podRef, func(f *fixture) { f.deletePod(2 * time.Minute) }, errBinding.Error()},
		{"pod's node gone", podRef, func(f *fixture) { f.store.Delete(f.node) }, ""},
		{"node gone", &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Node", Name: "n1"}, func(f *fixture) { f.store.Delete(f.node) }, errBinding.Error()},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := setup(t)
			token := f.token(t, "default", authenticationv1.TokenRequestSpec{BoundObjectRef: c.ref}).Status.Token
			if _, err := f.auth.AuthenticateToken(t.Context(), token, nil); err != nil {
				t.Fatal(err)
			}
			c.end(f)
			_, err := f.auth.AuthenticateToken(t.Context(), token, nil)
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func (f *fixture) deletePod(ago time.Duration) {
	p := f.pod.DeepCopy()
	p.DeletionTimestamp = &metav1.Time{Time: f.clock.Now().Add(-ago)}
	f.store.Put(p)
}

func TestTokenRequestErrors(t *testing.T) {
	f := setup(t)
	ref := func(kind, name string) *authenticationv1.BoundObjectReference {
		return &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: kind, Name: name}
	}
	seconds := func(n int64) authenticationv1.TokenRequestSpec {
		return authenticationv1.TokenRequestSpec{ExpirationSeconds: &n}
	}
	wrongUID := ref("Pod", "p")
	wrongUID.UID = "wrong"
	for _, c := range []struct {
		name, account, metaName string
		spec                    authenticationv1.TokenRequestSpec
		want                    string
	}{
		{"short", "default", "", seconds(599), `TokenRequest.authentication.k8s.io "" is invalid: spec.expirationSeconds: Invalid value: 599: may not specify a duration less than 10 minutes`},
		{"long", "default", "", seconds(4294967297), `TokenRequest.authentication.k8s.io "" is invalid: spec.expirationSeconds: Invalid value: 4294967297: may not specify a duration larger than 2^32 seconds`},
		{"no account", "nope", "", seconds(600), `serviceaccounts "nope" not found`},
		{"another name", "default", "other", seconds(600), `TokenRequest.authentication.k8s.io "default" is invalid: metadata.name: Invalid value: "other": must match the service account name if specified`},
		{"another name than that of no account", "nope", "other", seconds(600), `TokenRequest.authentication.k8s.io "nope" is invalid: metadata.name: Invalid value: "other": must match the service account name if specified`},
		{"no pod in a version that there is not", "default", "", authenticationv1.TokenRequestSpec{BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v2", Kind: "Pod", Name: "nope"}}, `pods "nope" not found`},
		{"no pod", "default", "", authenticationv1.TokenRequestSpec{BoundObjectRef: ref("Pod", "nope")}, `pods "nope" not found`},
		{"no secret", "default", "", authenticationv1.TokenRequestSpec{BoundObjectRef: ref("Secret", "nope")}, `secrets "nope" not found`},
		{"another pod", "default", "", authenticationv1.TokenRequestSpec{BoundObjectRef: wrongUID}, `Operation cannot be fulfilled on Pod "p": the UID in the bound object reference (wrong) does not match the UID in record. The object might have been deleted and then recreated`},
		{"another kind", "default", "", authenticationv1.TokenRequestSpec{BoundObjectRef: ref("ConfigMap", "p")}, `cannot bind token to object of type /v1, Kind=ConfigMap`},
		{"another account's pod", "other", "", authenticationv1.TokenRequestSpec{BoundObjectRef: ref("Pod", "p")}, `cannot bind token for serviceaccount "other" to pod running with different serviceaccount name.`},
	} {
		_, err := f.sas.Request(t.Context(), "a", c.account, &authenticationv1.TokenRequest{ObjectMeta: meta("", c.metaName), Spec: c.spec})
		if err == nil || err.Error() != c.want {
			t.Errorf("%s: got %v, want %s", c.name, err, c.want)
		}
	}
}

// Programs that never read their token again get one that lives longer than they asked for.
func TestExtendedToken(t *testing.T) {
	f := setup(t)
	n := int64(askedByOldClients)
	tr := f.token(t, "default", authenticationv1.TokenRequestSpec{ExpirationSeconds: &n, BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: "p"}})
	if want := f.clock.Now().Add(time.Duration(n) * time.Second); !tr.Status.ExpirationTimestamp.Time.Equal(want) {
		t.Errorf("expires %v, want %v", tr.Status.ExpirationTimestamp, want)
	}
	f.clock.Step(100 * 24 * time.Hour)
	if _, err := f.auth.AuthenticateToken(t.Context(), tr.Status.Token, nil); err != nil {
		t.Error(err)
	}
}

func TestAudiences(t *testing.T) {
	f := setup(t)
	token := f.token(t, "default", authenticationv1.TokenRequestSpec{}).Status.Token
	_, goodFor, err := f.auth.ReviewToken(t.Context(), token, nil)
	if err != nil || !reflect.DeepEqual(goodFor, []string{DefaultAudience}) {
		t.Errorf("got %v, %v", goodFor, err)
	}
	_, _, err = f.auth.ReviewToken(t.Context(), token, []string{"elsewhere"})
	if want := `[invalid bearer token, token audiences ["https://kubernetes.default.svc"] is invalid for the target audiences ["elsewhere"]]`; err == nil || err.Error() != want {
		t.Errorf("got %v", err)
	}
	vault := f.token(t, "default", authenticationv1.TokenRequestSpec{Audiences: []string{"vault"}}).Status.Token
	if _, err := f.auth.AuthenticateToken(t.Context(), vault, nil); err == nil {
		t.Error("a token for somebody else was accepted")
	}
	if _, goodFor, err := f.auth.ReviewToken(t.Context(), vault, []string{"x", "vault"}); err != nil || !reflect.DeepEqual(goodFor, []string{"vault"}) {
		t.Errorf("got %v, %v", goodFor, err)
	}
	if _, _, err := f.auth.ReviewToken(t.Context(), "nonsense", nil); err == nil || err.Error() != "invalid bearer token" {
		t.Errorf("got %v", err)
	}
}

func TestLegacyToken(t *testing.T) {
	f := setup(t)
	secret := &corev1.Secret{ObjectMeta: meta("a", "s")}
	token, err := f.sas.LegacyToken(f.sa, secret)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.auth.AuthenticateToken(t.Context(), token, nil); err == nil {
		t.Error("accepted without its secret")
	}
	secret.Data = map[string][]byte{"token": []byte(token)}
	f.store.Put(secret)
	a, err := f.auth.AuthenticateToken(t.Context(), token, nil)
	if err != nil || a.User.GetName() != "system:serviceaccount:a:default" {
		t.Errorf("got %+v, %v", a, err)
	}
	f.store.Delete(secret)
	if _, err := f.auth.AuthenticateToken(t.Context(), token, nil); err == nil {
		t.Error("accepted after its secret went")
	}
}

func TestForeignTokens(t *testing.T) {
	f := setup(t)
	good := f.token(t, "default", authenticationv1.TokenRequestSpec{}).Status.Token
	other := setup(t)
	parts := strings.Split(good, ".")
	none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`))
	for name, token := range map[string]string{
		"another cluster's": other.token(t, "default", authenticationv1.TokenRequestSpec{}).Status.Token,
		"no signature":      parts[0] + "." + parts[1] + ".",
		"unsigned":          none + "." + parts[1] + ".",
		"changed":           parts[0] + "." + base64.RawURLEncoding.EncodeToString([]byte(`{"iss":"`+DefaultIssuer+`"}`)) + "." + parts[2],
		"huge":              strings.Repeat("a", maxTokenBytes+1),
		"empty":             "",
	} {
		if _, err := f.auth.AuthenticateToken(t.Context(), token, nil); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestDocuments(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	issuer, err := NewIssuer("https://i", []string{"x"}, ecKey(t), rsaKey.Public())
	if err != nil {
		t.Fatal(err)
	}
	keys, err := issuer.Keys()
	if err != nil {
		t.Fatal(err)
	}
	var set struct{ Keys []map[string]string }
	if err := json.Unmarshal(keys, &set); err != nil {
		t.Fatal(err)
	}
	if len(set.Keys) != 2 || set.Keys[0]["alg"] != "ES256" || set.Keys[0]["use"] != "sig" || set.Keys[1]["kty"] != "RSA" || set.Keys[0]["d"] != "" {
		t.Errorf("got %s", keys)
	}
	doc, err := issuer.Discovery("https://1.2.3.4:6443")
	if want := `{"issuer":"https://i","jwks_uri":"https://1.2.3.4:6443/openid/v1/jwks","response_types_supported":["id_token"],"subject_types_supported":["public"],"id_token_signing_alg_values_supported":["ES256","RS256"]}`; err != nil || string(doc) != want {
		t.Errorf("got %s, %v", doc, err)
	}
	handler, err := issuer.KeysHandler()
	if err != nil {
		t.Fatal(err)
	}
	for accept, code := range map[string]int{"": 200, "*/*": 200, "text/html, application/*;q=0.5": 200, "application/jwk-set+json": 200, "application/json": 406} {
		r, w := httptest.NewRequest(http.MethodGet, KeysPath, nil), httptest.NewRecorder()
		if accept != "" {
			r.Header.Set("Accept", accept)
		}
		handler.ServeHTTP(w, r)
		if w.Code != code {
			t.Errorf("Accept %q: got %d %s", accept, w.Code, w.Body)
		}
	}
	// A token of the older key is still good.
	old, err := NewIssuer("https://i", []string{"x"}, rsaKey)
	if err != nil {
		t.Fatal(err)
	}
	token, err := old.sign(claims{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := issuer.parse(token); err == nil {
		t.Error("a token without an issuer was accepted")
	}
	c := claims{}
	c.Issuer = "https://i"
	if token, err = old.sign(c); err != nil {
		t.Fatal(err)
	}
	if _, err := issuer.parse(token); err != nil {
		t.Error(err)
	}
}

func certificate(t *testing.T, cn string, orgs []string, parent *x509.Certificate, parentKey *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key := ecKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: cn, Organization: orgs},
		NotBefore: time.Unix(1_800_000_000, 0).Add(-time.Hour), NotAfter: time.Unix(1_800_000_000, 0).Add(time.Hour),
		IsCA: parent == nil, BasicConstraintsValid: true,
	}
	if parent == nil {
		parent, parentKey = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c, key
}

func TestCertificatesAndProxies(t *testing.T) {
	clock := clocktesting.NewFakeClock(time.Unix(1_800_000_000, 0))
	ca, caKey := certificate(t, "ca", nil, nil, nil)
	proxyCA, proxyKey := certificate(t, "proxy-ca", nil, nil, nil)
	admin, _ := certificate(t, "kubernetes-admin", []string{"system:masters"}, ca, caKey)
	nobody, _ := certificate(t, "", []string{"system:masters"}, ca, caKey)
	proxy, _ := certificate(t, "front-proxy-client", []string{"system:masters"}, proxyCA, proxyKey)
	stranger, _ := certificate(t, "stranger", []string{"system:masters"}, proxyCA, proxyKey)
	foreignCA, foreignKey := certificate(t, "ca", nil, nil, nil)
	foreign, _ := certificate(t, "kubernetes-admin", []string{"system:masters"}, foreignCA, foreignKey)
	a := New(Config{ClientCA: ca, FrontProxyCA: proxyCA, FrontProxyNames: []string{"front-proxy-client"}, AnonymousPaths: []string{"/"}, Clock: clock})
	authenticate := func(leaf *x509.Certificate, refused bool, h http.Header) (user.Info, *http.Request) {
		t.Helper()
		r := httptest.NewRequest(http.MethodGet, "/api", nil)
		if h != nil {
			r.Header = h
		}
		r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}}
		u, ok, err := a.AuthenticateRequest(r)
		if (err != nil) != refused {
			t.Errorf("%s: %v", leaf.Subject.CommonName, err)
		}
		if !ok {
			return nil, r
		}
		return u, r
	}
	headers := func() http.Header {
		return http.Header{remoteUser: {"dave"}, remoteGroup: {"devs"}, "X-Remote-Extra-Acme%2fx": {"1"}}
	}
	u, _ := authenticate(admin, false, headers())
	if u == nil || u.GetName() != "kubernetes-admin" || !reflect.DeepEqual(u.GetGroups(), []string{"system:masters", "system:authenticated"}) {
		t.Errorf("admin: got %+v", u)
	}
	if u, _ := authenticate(nobody, false, nil); u == nil || u.GetName() != user.Anonymous {
		t.Errorf("a certificate without a name: got %+v", u)
	}
	u, r := authenticate(proxy, false, headers())
	if u == nil || u.GetName() != "dave" || !reflect.DeepEqual(u.GetGroups(), []string{"devs", "system:authenticated"}) || u.GetExtra()["acme/x"][0] != "1" || len(r.Header) != 0 {
		t.Errorf("proxy: got %+v, headers %v", u, r.Header)
	}
	// The front proxy's authority makes nobody a user by itself.
	if u, _ := authenticate(proxy, false, nil); u == nil || u.GetName() != user.Anonymous {
		t.Errorf("proxy without headers: got %+v", u)
	}
	if u, _ := authenticate(stranger, false, headers()); u == nil || u.GetName() != user.Anonymous {
		t.Errorf("stranger: got %+v", u)
	}
	if u, _ := authenticate(foreign, true, headers()); u != nil {
		t.Errorf("signed by nobody we know: got %+v", u)
	}
	clock.Step(2 * time.Hour)
	if u, _ := authenticate(admin, true, nil); u != nil {
		t.Errorf("expired: got %+v", u)
	}
}

func TestAnonymous(t *testing.T) {
	for path, want := range map[string]bool{
		"/healthz": true, "/livez": true, "/readyz": true, "/readyz/ping": true, "/healthzz": false, "/version": false, "/api": false, "/": false,
	} {
		a := New(Config{AnonymousPaths: HealthPaths()})
		u, ok, err := a.AuthenticateRequest(httptest.NewRequest(http.MethodGet, path, nil))
		if err != nil || ok != want || ok && u.GetName() != user.Anonymous {
			t.Errorf("%s: got %v %v %v", path, u, ok, err)
		}
	}
	if _, ok, _ := New(Config{AnonymousPaths: []string{"/"}}).AuthenticateRequest(httptest.NewRequest(http.MethodGet, "/api", nil)); !ok {
		t.Error("/ is not everything")
	}
	// A wrong token is not the same as none.
	r := httptest.NewRequest(http.MethodGet, "/healthz", nil)
	r.Header.Set("Authorization", "Bearer x")
	if _, ok, err := New(Config{AnonymousPaths: HealthPaths()}).AuthenticateRequest(r); ok || err == nil {
		t.Error("a wrong token was taken for none")
	}
}

func TestTokenFileAndWebSocket(t *testing.T) {
	tokens, err := ParseTokens(strings.NewReader("secret,dave,1,\"devs,ops\"\nother,erin,2\n"))
	if err != nil {
		t.Fatal(err)
	}
	a := New(Config{Tokens: tokens})
	r := httptest.NewRequest(http.MethodGet, "/api", nil)
	r.Header.Set("Upgrade", "websocket")
	r.Header.Set("Sec-Websocket-Protocol", webSocketTokenPrefix+base64.RawURLEncoding.EncodeToString([]byte("secret"))+", v5.channel.k8s.io")
	u, ok, err := a.AuthenticateRequest(r)
	if err != nil || !ok || u.GetName() != "dave" || !reflect.DeepEqual(u.GetGroups(), []string{"devs", "ops", "system:authenticated"}) {
		t.Errorf("got %+v %v %v", u, ok, err)
	}
	if got := r.Header.Get("Sec-Websocket-Protocol"); got != "v5.channel.k8s.io" {
		t.Errorf("protocols left: %q", got)
	}
	for _, bad := range []string{"x\n", "secret,dave\n", ",dave,1\n", "a,b,c\na,d,e\n", "\"x"} {
		if _, err := ParseTokens(strings.NewReader(bad)); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func TestGenerationsAreBounded(t *testing.T) {
	g := newGenerations[int, int](10)
	for i := range 1000 {
		g.put(i, i)
		if _, ok := g.get(0); !ok && i < 4 {
			t.Fatal("forgot too early")
		}
	}
	if n := len(g.young) + len(g.old); n > 10 {
		t.Errorf("%d entries", n)
	}
}

func FuzzToken(f *testing.F) {
	x := setup(f)
	f.Add(x.token(f, "default", authenticationv1.TokenRequestSpec{}).Status.Token)
	f.Add("a.b.c")
	f.Add("..")
	f.Add("{}")
	f.Fuzz(func(t *testing.T, token string) {
		if a, err := x.auth.AuthenticateToken(context.Background(), token, nil); err == nil && a.User == nil {
			t.Error("nobody and no error")
		}
	})
}

func FuzzTokenFile(f *testing.F) {
	f.Add("secret,dave,1,\"devs,ops\"\n")
	f.Add("\"")
	f.Fuzz(func(t *testing.T, data string) {
		if _, err := ParseTokens(strings.NewReader(data)); err != nil && err.Error() == "" {
			t.Error("an error without words")
		}
	})
}

func BenchmarkBoundToken(b *testing.B) {
	f := setup(b)
	token := f.token(b, "default", authenticationv1.TokenRequestSpec{BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: "p"}}).Status.Token
	ctx := b.Context()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := f.auth.AuthenticateToken(ctx, token, nil); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkIssue(b *testing.B) {
	f := setup(b)
	b.ReportAllocs()
	for b.Loop() {
		f.token(b, "default", authenticationv1.TokenRequestSpec{})
	}
}
