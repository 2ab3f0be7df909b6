package join

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io/fs"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestTokens(t *testing.T) {
	hash := strings.Repeat("0a", 32)
	made, err := NewToken(hash)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, text, apart, want string }{
		{"whole", made.String(), "", ""},
		{"as printed, with an end of line", made.String() + "\n", "", ""},
		{"the hash apart", made.Bearer(), hash, ""},
		{"the hash as kubeadm has it", made.Bearer(), "sha256:" + hash, ""},
		{"the same twice", made.String(), hash, ""},
		{"two clusters", made.String(), strings.Repeat("0b", 32), "and the hash of the authority another"},
		{"no cluster", made.Bearer(), "", "does not say which cluster"},
		{"no hash", made.Bearer(), "sha256:xyz", "is no hash"},
		{"half", "abcdef", "", "is not complete"},
		{"capitals", "ABCDEF.0123456789abcdef." + hash, "", "is not complete"},
		{"nothing", "", "", "is not complete"},
	} {
		got, err := ParseToken(c.text, c.apart)
		switch {
		case c.want == "" && (err != nil || got != made):
			t.Errorf("%s: %v, %v", c.name, got, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
	other, err := NewToken(hash)
	if err != nil || other.ID == made.ID && other.Secret == made.Secret {
		t.Errorf("two tokens are alike: %v, %v", other, err)
	}
}

func FuzzParseToken(f *testing.F) {
	f.Add("abcdef.0123456789abcdef."+strings.Repeat("00", 32), "")
	f.Add("abcdef.0123456789abcdef", "sha256:"+strings.Repeat("00", 32))
	f.Fuzz(func(t *testing.T, text, hash string) {
		got, err := ParseToken(text, hash)
		if err != nil {
			return
		}
		if again, err := ParseToken(got.String(), ""); err != nil || again != got {
			t.Errorf("%q is read as %v, and that as %v, %v", text, got, again, err)
		}
	})
}

func TestServerURL(t *testing.T) {
	for text, want := range map[string]string{
		"https://10.0.0.1:7443": "https://10.0.0.1:7443", "https://10.0.0.1": "https://10.0.0.1:6443", "api.example": "https://api.example:6443",
		"https://[fd00::1]": "https://[fd00::1]:6443", "https://h:1/": "https://h:1", "http://h:1": "", "": "", "https://h/path": "", "https://u@h": "",
	} {
		got, err := ServerURL(text)
		if (err == nil) != (want != "") || err == nil && got.String() != want {
			t.Errorf("%q: %v, %v, want %q", text, got, err, want)
		}
	}
}

// authority signs certificates for tests.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotBefore: time.Now().Add(-1000 * time.Hour), NotAfter: time.Now().Add(10000 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{t, cert, key}
}

// issue makes a certificate and its key, both in PEM.
func (a *authority) issue(change func(*x509.Certificate)) (certPEM, keyPEM []byte) {
	a.t.Helper()
	key, keyPEM, err := newKey()
	if err != nil {
		a.t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "system:node:n", Organization: []string{"system:nodes"}},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	change(c)
	der, err := x509.CreateCertificate(rand.Reader, c, a.cert, key.Public(), a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), keyPEM
}

// serve answers TLS connections with a certificate of a and, unless it is alone, a itself.
func (a *authority) serve(alone bool, change func(*x509.Certificate)) *url.URL {
	a.t.Helper()
	certPEM, keyPEM := a.issue(change)
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		a.t.Fatal(err)
	}
	if !alone {
		cert.Certificate = append(cert.Certificate, a.cert.Raw)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12})
	if err != nil {
		a.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.(*tls.Conn).Handshake() // the other side says what was wrong
			_ = c.Close()
		}
	}()
	a.t.Cleanup(func() {
		if err := l.Close(); err != nil {
			a.t.Error(err)
		}
		<-done
	})
	return &url.URL{Scheme: "https", Host: l.Addr().String()}
}

func TestDiscover(t *testing.T) {
	a := newAuthority(t)
	good := func(*x509.Certificate) {}
	now := time.Now()
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := plain.Close(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name    string
		server  *url.URL
		hash    string
		want    string
		passing bool
	}{
		{name: "good", server: a.serve(false, good), hash: Hash(a.cert)},
		{name: "another cluster", server: newAuthority(t).serve(false, good), hash: Hash(a.cert), want: "is not the one that the token is for"},
		{name: "an authority that is not shown", server: a.serve(true, good), hash: Hash(a.cert), want: "is not the one that the token is for"},
		{name: "expired", server: a.serve(false, func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Minute); c.NotBefore = now.Add(-time.Hour) }), hash: Hash(a.cert), want: "the clocks differ"},
		{name: "not good yet", server: a.serve(false, func(c *x509.Certificate) { c.NotBefore = now.Add(time.Hour); c.NotAfter = now.Add(2 * time.Hour) }), hash: Hash(a.cert), want: "is not good yet"},
		{name: "for another name", server: a.serve(false, func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(192, 0, 2, 1)} }), hash: Hash(a.cert), want: "--tls-san 127.0.0.1"},
		{name: "nobody there", server: &url.URL{Scheme: "https", Host: plain.Addr().String()}, hash: Hash(a.cert), want: "refuses connections", passing: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, err := Discover(t.Context(), c.server, c.hash, now)
			if c.want == "" {
				if got, herr := HashPEM(d.CA); err != nil || herr != nil || got != c.hash || !d.Local.Equal(net.IPv4(127, 0, 0, 1)) {
					t.Errorf("got %+v, %v, %v", d, err, herr)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.want) || errors.Is(err, ErrUnreachable) != c.passing {
				t.Errorf("got %v (passing: %t), want %q", err, errors.Is(err, ErrUnreachable), c.want)
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Discover(ctx, a.serve(false, good), Hash(a.cert), now); !errors.Is(err, context.Canceled) {
		t.Errorf("after the end: %v", err)
	}
}

// A leaf that has the wanted hash is no authority: who holds only a node's key must not be taken for the cluster.
func TestLeafIsNoAuthority(t *testing.T) {
	a := newAuthority(t)
	server := a.serve(false, func(*x509.Certificate) {})
	conn, err := tls.Dial("tcp", server.Host, &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	leaf := conn.ConnectionState().PeerCertificates[0]
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Discover(t.Context(), server, Hash(leaf), time.Now()); err == nil || !strings.Contains(err.Error(), "is not the one") {
		t.Errorf("got %v", err)
	}
}

func TestIdentityIsKept(t *testing.T) {
	a := newAuthority(t)
	dir := filepath.Join(t.TempDir(), "agent")
	if _, err := Load(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("before there is one: %v", err)
	}
	cert, key := a.issue(func(*x509.Certificate) {})
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
	made, err := Create(dir, "https://10.0.0.1:6443", ca, cert, key)
	if err != nil {
		t.Fatal(err)
	}
	if made.Serving() != nil || made.NodeName() != "n" {
		t.Errorf("serving %v, name %q", made.Serving(), made.NodeName())
	}
	cert, key = a.issue(func(*x509.Certificate) {})
	if err := errors.Join(made.set(servingName, cert, key), made.SetServer("https://10.0.0.2:6443")); err != nil {
		t.Fatal(err)
	}
	got, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got.Server != "https://10.0.0.2:6443" || got.NodeName() != "n" || got.Serving() == nil || string(got.CA) != string(ca) {
		t.Errorf("got %+v", got)
	}
	if since, expired := got.ClientExpired(time.Now()); expired {
		t.Errorf("expired since %v", since)
	}
	if _, expired := got.ClientExpired(time.Now().Add(2 * time.Hour)); !expired {
		t.Error("does not expire")
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		fi, err := e.Info()
		if err != nil || fi.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", e.Name(), fi.Mode(), err)
		}
	}
	for _, name := range []string{"client.pem", "serving.pem", "ca.crt"} {
		path := filepath.Join(dir, name)
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("nonsense"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), name+" is damaged") {
			t.Errorf("%s is damaged: %v", name, err)
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// An agent that knows several servers uses one that answers, whatever its address, and keeps what it has learned.
func TestAnotherServer(t *testing.T) {
	a := newAuthority(t)
	named := func(c *x509.Certificate) { c.IPAddresses, c.DNSNames = nil, []string{serverName} }
	first, second := a.serve(false, named), a.serve(false, named)
	stranger := a.serve(false, func(c *x509.Certificate) { c.DNSNames = []string{"other"} })
	dir := filepath.Join(t.TempDir(), "agent")
	cert, key := a.issue(func(*x509.Certificate) {})
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
	// Nobody listens where the node was told that the server is.
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead := free.Addr().String()
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Create(dir, "https://"+dead, ca, cert, key); err != nil {
		t.Fatal(err)
	}
	learn := func(servers ...string) *Identity {
		t.Helper()
		i, err := Load(dir)
		if err == nil {
			err = i.Learn(servers)
		}
		if err == nil {
			i, err = Load(dir)
		}
		if err != nil {
			t.Fatal(err)
		}
		return i
	}
	ask := func(i *Identity) error {
		config, reconnect := i.Config("test")
		defer reconnect()
		resp, err := config.Transport.RoundTrip(&http.Request{Method: http.MethodGet, URL: &url.URL{Scheme: "https", Host: dead, Path: "/"}, Header: http.Header{}})
		if err == nil {
			err = resp.Body.Close()
		}
		return err
	}
	if err := ask(learn(stranger.Host)); err == nil || !strings.Contains(err.Error(), serverName) {
		t.Errorf("a server with another name: %v", err)
	}
	i := learn(first.Host, second.Host)
	if err := ask(i); errors.Is(err, syscall.ECONNREFUSED) || i.answered != first.Host { // it does not speak HTTP
		t.Errorf("it reached %q: %v", i.answered, err)
	}
	if got := i.ways(); !slices.Equal(got, []string{first.Host, dead, second.Host}) {
		t.Errorf("it goes on with %v", got)
	}
	if err := ask(learn(dead)); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("nobody there: %v", err)
	}
	// No news is no reason to forget.
	if got := learn().ways(); !slices.Equal(got, []string{dead}) {
		t.Errorf("it knows %v", got)
	}
	for _, list := range []string{"", "https://a,", "https://a,ftp://b"} {
		if _, err := ServerURLs(list); err == nil {
			t.Errorf("%q is a list of servers", list)
		}
	}
}
