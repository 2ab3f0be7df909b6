package serve

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// both runs a test for clients of HTTP/1 and of HTTP/2.
func both(t *testing.T, f func(t *testing.T, h2 bool)) {
	for _, h2 := range []bool{false, true} {
		t.Run(map[bool]string{false: "HTTP/1", true: "HTTP/2"}[h2], func(t *testing.T) { f(t, h2) })
	}
}

func TestAnnotations(t *testing.T) {
	both(t, func(t *testing.T, h2 bool) {
		st := newStage(t, Config{HTTPSPort: 8443})
		st.backend("a", hello("a"))
		tlsHost := ingressOf("tls", nil, "tls.example/>a")
		tlsHost.Spec.TLS = []networkingv1.IngressTLS{{Hosts: []string{"tls.example"}}}
		noRedirect := ingressOf("plain", map[string]string{"ssl-redirect": "false"}, "plain.example/>a")
		noRedirect.Spec.TLS = []networkingv1.IngressTLS{{Hosts: []string{"plain.example"}}}
		resource := ingressOf("resource", nil, "resource.example/>a")
		resource.Spec.Rules[0].HTTP.Paths[0].Backend = networkingv1.IngressBackend{Resource: &corev1.TypedLocalObjectReference{Kind: "Bucket", Name: "b"}}
		st.set(tlsHost, noRedirect, resource,
			ingressOf("force", map[string]string{"force-ssl-redirect": "true"}, "force.example/>a"),
			ingressOf("moved", map[string]string{"permanent-redirect": "https://new.example/x"}, "moved.example/>a"),
			ingressOf("moved8", map[string]string{"permanent-redirect": "https://new.example/x", "permanent-redirect-code": "308"}, "moved8.example/>a"),
			ingressOf("away", map[string]string{"temporal-redirect": "https://away.example/"}, "away.example/>a"),
			ingressOf("rewrite", map[string]string{"rewrite-target": "/"}, "rewrite.example/api>a"),
			ingressOf("rewrite2", map[string]string{"rewrite-target": "/v2"}, "rewrite2.example/api/v1>a"),
			ingressOf("denied", map[string]string{"denylist-source-range": "127.0.0.0/8"}, "denied.example/>a"),
			ingressOf("others", map[string]string{"allowlist-source-range": "192.0.2.0/24"}, "others.example/>a"),
			ingressOf("allowed", map[string]string{"allowlist-source-range": "192.0.2.0/24, 127.0.0.1"}, "allowed.example/>a"),
			ingressOf("broken", map[string]string{"allowlist-source-range": "lan"}, "broken.example/>a"),
			ingressOf("small", map[string]string{"proxy-body-size": "10"}, "small.example/>a"),
			ingressOf("gone", nil, "gone.example/>nobody"),
		)
		c := st.client(h2)
		for _, tt := range []struct {
			url      string
			body     int
			code     int
			want     string
			location string
		}{
			{"http://tls.example/x?y", 0, 308, "", "https://tls.example:8443/x?y"},
			{"http://tls.example/.well-known/acme-challenge/t", 0, 200, "a /.well-known/acme-challenge/t", ""},
			{"https://tls.example/x", 0, 200, "a /x", ""},
			{"http://plain.example/x", 0, 200, "a /x", ""},
			{"http://force.example/x", 0, 308, "", "https://force.example:8443/x"},
			{"https://moved.example/y", 0, 301, "", "https://new.example/x"},
			{"https://moved8.example/y", 0, 308, "", "https://new.example/x"},
			{"https://away.example/y", 0, 302, "", "https://away.example/"},
			{"https://rewrite.example/api/x?y", 0, 200, "a /x?y", ""},
			{"https://rewrite.example/api", 0, 200, "a /", ""},
			{"https://rewrite2.example/api/v1/x", 0, 200, "a /v2/x", ""},
			{"https://rewrite2.example/api//%761/x", 0, 200, "a /v2/x", ""},
			{"https://denied.example/", 0, 403, "", ""},
			{"https://others.example/", 0, 403, "", ""},
			{"https://allowed.example/", 0, 200, "a /", ""},
			{"https://broken.example/", 0, 403, "", ""},
			{"https://small.example/", 10, 200, "a /", ""},
			{"https://small.example/", 11, 413, "", ""},
			{"https://resource.example/", 0, 503, "", ""},
			{"https://gone.example/", 0, 503, "", ""},
			{"https://unknown.example/", 0, 404, "", ""},
		} {
			var body io.Reader
			method := "GET"
			if tt.body > 0 {
				method, body = "POST", strings.NewReader(strings.Repeat("x", tt.body))
			}
			code, text, h := get(t, c, request(t, method, tt.url, body))
			if code != tt.code || tt.want != "" && text != tt.want || h.Get("Location") != tt.location {
				t.Errorf("%s: got %d %q %q, want %d %q %q", tt.url, code, text, h.Get("Location"), tt.code, tt.want, tt.location)
			}
		}
		// The same in chunks, whose length nobody says beforehand.
		code, _, _ := get(t, c, request(t, "POST", "https://small.example/", io.MultiReader(strings.NewReader("12345"), strings.NewReader("67890x"))))
		if code != 413 && code != 502 { // a backend may have answered before
			t.Errorf("a large body in chunks: %d", code)
		}
	})
}

func TestBasicAuth(t *testing.T) {
	hash, err := bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	both(t, func(t *testing.T, h2 bool) {
		st := newStage(t, Config{})
		st.backend("a", hello("a"))
		st.secrets["users"] = &corev1.Secret{Data: map[string][]byte{"auth": []byte("erin:" + string(hash) + "\nfay:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=\ngus:$apr1$salt$VEpBc9VHGUKwI9.yg13Iu0\n")}}
		st.set(ingressOf("i", map[string]string{"auth-type": "basic", "auth-secret": "users", "auth-realm": "Here"}, "a.example/>a"),
			ingressOf("j", map[string]string{"auth-type": "basic", "auth-secret": "nowhere"}, "b.example/>a"))
		c := st.client(h2)
		for _, tt := range []struct {
			host, name, password string
			code                 int
		}{
			{"a.example", "", "", 401}, {"a.example", "erin", "secret", 200}, {"a.example", "erin", "secret", 200}, {"a.example", "erin", "wrong", 401},
			{"a.example", "nobody", "secret", 401}, {"a.example", "fay", "secret", 200}, {"a.example", "fay", "Secret", 401}, {"a.example", "gus", "secret", 200}, {"a.example", "gus", "Secret", 401}, {"b.example", "erin", "secret", 401},
		} {
			req := request(t, "GET", "https://"+tt.host+"/", nil)
			if tt.name != "" {
				req.SetBasicAuth(tt.name, tt.password)
			}
			code, _, h := get(t, c, req)
			if code != tt.code || code == 401 && tt.host == "a.example" && h.Get("Www-Authenticate") != `Basic realm="Here"` {
				t.Errorf("%+v: got %d %v", tt, code, h)
			}
		}
	})
}

// askHere lets the server's questions about access go to loopback, which annotations must not reach.
func (st *stage) askHere() {
	st.s.asking.Transport = &http.Transport{DisableKeepAlives: true}
}

func TestExternalAuth(t *testing.T) {
	asked := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.Header.Get("Authorization") {
		case "Bearer good":
			w.Header().Set("X-User", "erin "+r.Header.Get("X-Original-Url")+" "+r.Header.Get("X-Original-Method"))
		case "Bearer known":
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprint(w, "not you")
		default:
			w.Header().Set("WWW-Authenticate", "Bearer")
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	defer asked.Close()
	both(t, func(t *testing.T, h2 bool) {
		st := newStage(t, Config{})
		st.askHere()
		st.backend("a", func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, r.Header["X-User"], len(r.Header["X-Group"]))
		})
		st.set(ingressOf("i", map[string]string{"auth-url": asked.URL + "/check", "auth-response-headers": "X-User, X-Group"}, "a.example/>a"),
			ingressOf("j", map[string]string{"auth-url": asked.URL, "auth-signin": "https://login.example/?app=1"}, "b.example/>a"),
			ingressOf("k", map[string]string{"auth-url": "nowhere"}, "c.example/>a"))
		c := st.client(h2)
		for _, tt := range []struct {
			url, token string
			code       int
			body       string
			location   string
		}{
			{"https://a.example/x?y", "Bearer good", 200, "[erin https://a.example/x?y GET] 0", ""},
			{"https://a.example/x", "Bearer known", 403, "not you", ""},
			{"https://a.example/x", "", 401, "", ""},
			{"https://b.example/x", "", 302, "", "https://login.example/?app=1&rd=https%3A%2F%2Fb.example%2Fx"},
			{"https://c.example/x", "Bearer good", 503, "", ""},
		} {
			req := request(t, "GET", tt.url, nil)
			req.Header.Set("X-User", "root")
			req.Header.Set("X-Group", "wheel")
			if tt.token != "" {
				req.Header.Set("Authorization", tt.token)
			}
			code, body, h := get(t, c, req)
			if code != tt.code || tt.body != "" && body != tt.body || h.Get("Location") != tt.location {
				t.Errorf("%+v: got %d %q %v", tt, code, body, h)
			}
		}
	})
	// What annotations name must not be the node itself.
	st := newStage(t, Config{})
	st.backend("a", hello("a"))
	st.set(ingressOf("i", map[string]string{"auth-url": asked.URL}, "a.example/>a"))
	req := request(t, "GET", "http://a.example/", nil)
	req.Header.Set("Authorization", "Bearer good")
	if code, _, _ := get(t, st.client(false), req); code != 503 {
		t.Errorf("a server on loopback was asked: %d", code)
	}
}

func TestAffinity(t *testing.T) {
	both(t, func(t *testing.T, h2 bool) {
		st := newStage(t, Config{})
		for i := range 5 {
			st.backend("a", hello(strconv.Itoa(i)))
		}
		st.set(ingressOf("i", map[string]string{"affinity": "cookie", "session-cookie-name": "where", "session-cookie-max-age": "60", "session-cookie-samesite": "Lax"}, "a.example/>a"))
		c := st.client(h2)
		_, first, h := get(t, c, request(t, "GET", "https://a.example/", nil))
		set := h.Get("Set-Cookie")
		if !strings.HasPrefix(set, "where=") || !strings.HasSuffix(set, "; Path=/; HttpOnly; Max-Age=60; SameSite=Lax") {
			t.Fatalf("the cookie is %q", set)
		}
		value, _, _ := strings.Cut(set, ";")
		for range 20 {
			req := request(t, "GET", "https://a.example/", nil)
			req.Header.Set("Cookie", "other=1; "+value)
			_, body, h := get(t, c, req)
			if body != first || h.Get("Set-Cookie") != "" {
				t.Fatalf("got %q after %q, cookie %q", body, first, h.Get("Set-Cookie"))
			}
		}
		// The endpoint goes: another one takes over, and says so.
		n, err := strconv.Atoi(first[:1])
		if err != nil {
			t.Fatal(err)
		}
		st.move("a", append(append([]netip.AddrPort{}, st.endpoints["a"][:n]...), st.endpoints["a"][n+1:]...)...)
		req := request(t, "GET", "https://a.example/", nil)
		req.Header.Set("Cookie", value)
		if code, body, h := get(t, c, req); code != 200 || body == first || h.Get("Set-Cookie") == "" {
			t.Errorf("got %d %q, cookie %q", code, body, h.Get("Set-Cookie"))
		}
	})
}

// certificateFor makes a certificate and its key in PEM.
func certificateFor(t *testing.T, names ...string) map[string][]byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	about := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: names[0]}, DNSNames: names, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, about, about, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	pk, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return map[string][]byte{
		corev1.TLSCertKey:       pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		corev1.TLSPrivateKeyKey: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pk}),
	}
}

func TestCertificates(t *testing.T) {
	st := newStage(t, Config{})
	st.backend("a", hello("a"))
	secret := func(name string, names ...string) {
		st.secrets[name] = &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: certificateFor(t, names...)}
	}
	secret("one", "a.example")
	secret("wild", "*.wild.example")
	i := ingressOf("i", nil, "a.example/>a", "*.wild.example/>a")
	i.Spec.TLS = []networkingv1.IngressTLS{{Hosts: []string{"a.example"}, SecretName: "one"}, {Hosts: []string{"*.wild.example"}, SecretName: "wild"}, {Hosts: []string{"c.example"}, SecretName: "none"}}
	problems := st.set(i)
	if len(problems) != 1 || !strings.Contains(problems[0].Message, "there is no secret none") {
		t.Errorf("problems: %+v", problems)
	}
	serial := func(name string) (string, string) {
		t.Helper()
		c, err := tls.Dial("tcp", st.secure, &tls.Config{ServerName: name, InsecureSkipVerify: true, NextProtos: []string{"h2", "http/1.1"}})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		leaf := c.ConnectionState().PeerCertificates[0]
		if c.ConnectionState().NegotiatedProtocol != "h2" {
			t.Errorf("%s: no HTTP/2", name)
		}
		return leaf.Subject.CommonName, leaf.SerialNumber.String()
	}
	for name, want := range map[string]string{
		"a.example": "a.example", "A.Example": "a.example", "x.wild.example": "*.wild.example", "x.y.wild.example": "celox ingress default certificate", "c.example": "celox ingress default certificate", "": "celox ingress default certificate",
	} {
		if got, _ := serial(name); got != want {
			t.Errorf("%q: got %q, want %q", name, got, want)
		}
	}
	_, before := serial("a.example")
	secret("one", "a.example")
	st.set(i)
	if _, after := serial("a.example"); after == before {
		t.Error("the certificate is still the old one")
	}
}

// Backends that speak HTTP/2 without TLS, as gRPC does, for clients of both versions: bodies both ways, trailers, codes.
func TestHTTP2Backends(t *testing.T) {
	both(t, func(t *testing.T, h2 bool) {
		st := newStage(t, Config{})
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			w.Header().Set("Trailer", "Grpc-Status")
			w.Header().Set("X-Seen", fmt.Sprint(r.ProtoMajor, " ", r.Method, " ", r.RequestURI, " ", r.Host, " ", r.Header.Get("Te"), " ", err))
			if r.URL.Path == "/sized" {
				w.Header().Set("Content-Length", strconv.Itoa(len(body)))
			}
			_, _ = w.Write(body) // the test looks at it
			w.Header().Set("Grpc-Status", "0")
		}))
		s.Config.Protocols = &http.Protocols{}
		s.Config.Protocols.SetUnencryptedHTTP2(true)
		s.Start()
		defer s.Close()
		st.endpoints["proto-h2c"] = []netip.AddrPort{addrOfServer(t, s)}
		st.set(ingressOf("i", nil, "a.example/>proto-h2c"))
		c := st.client(h2)
		big := strings.Repeat("0123456789", 30_000)
		for _, path := range []string{"/grpc", "/sized"} {
			for _, text := range []string{"", "hello", big} {
				resp, err := c.Do(request(t, "POST", "https://a.example"+path, strings.NewReader(text)))
				if err != nil {
					t.Fatal(err)
				}
				body, err := io.ReadAll(resp.Body)
				_ = resp.Body.Close()
				if err != nil || string(body) != text || resp.Header.Get("X-Seen") != "2 POST "+path+" a.example trailers <nil>" {
					t.Errorf("got %d bytes of %d, %q, %v", len(body), len(text), resp.Header.Get("X-Seen"), err)
				}
				if h2 && resp.Trailer.Get("Grpc-Status") != "0" {
					t.Errorf("trailers: %v", resp.Trailer)
				}
			}
		}
	})
}

func TestTLSBackends(t *testing.T) {
	both(t, func(t *testing.T, h2 bool) {
		st := newStage(t, Config{})
		s := httptest.NewTLSServer(hello("tls"))
		defer s.Close()
		st.endpoints["proto-https"] = []netip.AddrPort{addrOfServer(t, s)}
		st.set(ingressOf("i", nil, "a.example/>proto-https"))
		c := st.client(h2)
		for range 3 {
			if code, body, _ := get(t, c, request(t, "GET", "https://a.example/x", nil)); code != 200 || body != "tls /x" {
				t.Errorf("got %d %q", code, body)
			}
		}
	})
}

// A connection that is upgraded carries bytes both ways, and each side may end its way.
func TestUpgrade(t *testing.T) {
	st := newStage(t, Config{})
	st.backend("a", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "echo" || r.Header.Get("Connection") != "Upgrade" {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer func() { _ = c.Close() }()
		_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\nready ")
		_ = rw.Flush()
		_, _ = io.Copy(c, rw) // until the client ends its way
		_, _ = io.WriteString(c, " bye")
	})
	st.set(ingressOf("i", nil, "a.example/>a"))
	for _, secure := range []bool{false, true} {
		var c net.Conn
		var err error
		if secure {
			c, err = tls.Dial("tcp", st.secure, &tls.Config{ServerName: "a.example", InsecureSkipVerify: true})
		} else {
			c, err = net.Dial("tcp", st.plain)
		}
		if err != nil {
			t.Fatal(err)
		}
		// What comes right after the request belongs to the tunnel already.
		if _, err := io.WriteString(c, "GET /ws HTTP/1.1\r\nHost: a.example\r\nConnection: keep-alive, Upgrade\r\nUpgrade: echo\r\n\r\nearly "); err != nil {
			t.Fatal(err)
		}
		r := bufio.NewReader(c)
		resp, err := http.ReadResponse(r, nil)
		if err != nil || resp.StatusCode != 101 || resp.Header.Get("Upgrade") != "echo" {
			t.Fatalf("got %v, %v", resp, err)
		}
		if _, err := io.WriteString(c, "late"); err != nil {
			t.Fatal(err)
		}
		if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		all, err := io.ReadAll(r)
		if string(all) != "ready early late bye" {
			t.Errorf("got %q, %v", all, err)
		}
		_ = c.Close()
	}
}

// HTTP/2 within a tunnel would bypass every rule: such an upgrade is left out, and so is what belongs to it.
func TestUpgradeToHTTP(t *testing.T) {
	st := newStage(t, Config{})
	st.backend("a", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.Header["Upgrade"], r.Header["Connection"], r.Header["Http2-Settings"], r.Header["Proxy"])
	})
	st.set(ingressOf("i", nil, "a.example/>a"))
	for _, protocol := range []string{"h2c", "H2C", "websocket, h2c", "HTTP/2.0"} {
		got := st.raw("GET / HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\nProxy: http://evil\r\nUpgrade: "+protocol+"\r\n\r\n", 1)
		if len(got) != 1 {
			t.Fatalf("%s: no answer", protocol)
		}
		if body, err := io.ReadAll(got[0].Body); err != nil || string(body) != "[] [] [] []" {
			t.Errorf("%s: the backend saw %s, %v", protocol, body, err)
		}
	}
}

// An answer that is made bit by bit arrives bit by bit.
func TestStreams(t *testing.T) {
	both(t, func(t *testing.T, h2 bool) {
		st := newStage(t, Config{})
		next := make(chan struct{})
		st.backend("a", func(w http.ResponseWriter, r *http.Request) {
			for i := range 3 {
				fmt.Fprintf(w, "data: %d\n", i)
				_ = http.NewResponseController(w).Flush()
				<-next
			}
		})
		st.set(ingressOf("i", nil, "a.example/>a"))
		resp, err := st.client(h2).Do(request(t, "GET", "https://a.example/", nil))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		lines := bufio.NewScanner(resp.Body)
		for i := range 3 {
			if !lines.Scan() || lines.Text() != fmt.Sprint("data: ", i) {
				t.Fatalf("got %q, %v", lines.Text(), lines.Err())
			}
			next <- struct{}{}
		}
		if lines.Scan() {
			t.Errorf("then %q", lines.Text())
		}
	})
}

// A client that waits for 100 before its body gets it.
func TestContinue(t *testing.T) {
	st := newStage(t, Config{})
	st.backend("a", echo)
	st.set(ingressOf("i", nil, "a.example/>a"))
	c, err := net.Dial("tcp", st.plain)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if _, err := io.WriteString(c, "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(c)
	if line, err := r.ReadString('\n'); err != nil || line != "HTTP/1.1 100 Continue\r\n" {
		t.Fatalf("got %q, %v", line, err)
	}
	if _, err := r.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, "hello"); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	if body, err := io.ReadAll(resp.Body); err != nil || !strings.Contains(string(body), "body=5:hello") {
		t.Errorf("got %q, %v", body, err)
	}
}
