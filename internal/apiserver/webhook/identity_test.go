package webhook

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func kubeconfig(t *testing.T, users string) (*Identities, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(path, []byte("apiVersion: v1\nkind: Config\nusers:\n"+users), 0o600); err != nil {
		t.Fatal(err)
	}
	return ReadIdentities(path)
}

// pair makes a certificate that signs itself, and its key.
func pair(t *testing.T, name string) (cert, key []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), Subject: pkix.Name{CommonName: name}}
	der, err := x509.CreateCertificate(rand.Reader, c, c, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: secret})
}

func TestIdentityFor(t *testing.T) {
	ids, err := kubeconfig(t, `
- {name: a.ns.svc, user: {token: service}}
- {name: 'a.ns.svc:8443', user: {token: port}}
- {name: '*.ns.svc', user: {token: namespace}}
- {name: '*.svc', user: {token: services}}
- {name: '*', user: {token: rest}}
`)
	if err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string]string{
		"a.ns.svc:443": "service", "a.ns.svc:8443": "port", "b.ns.svc:443": "namespace", "b.other.svc:443": "services", "b.ns.svc:8443": "rest", "example.com:443": "rest",
	} {
		if got := ids.For(host); got == nil || got.config.BearerToken != want {
			t.Errorf("%s: %+v, want the token %q", host, got, want)
		}
	}
	if got := (*Identities)(nil).For("a"); got != nil {
		t.Errorf("nobody is %+v", got)
	}
}

func TestWrongIdentities(t *testing.T) {
	cert, _ := pair(t, "a")
	_, key := pair(t, "b")
	dir := t.TempDir()
	for name, data := range map[string][]byte{"cert": cert, "key": key} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, users := range map[string]string{
		"no such file":      "- {name: a, user: {client-certificate: nosuch, client-key: nosuch}}",
		"another's key":     "- {name: a, user: {client-certificate: " + dir + "/cert, client-key: " + dir + "/key}}",
		"two ways at once":  "- {name: a, user: {token: t, username: u, password: p}}",
		"not a list at all": "{}",
	} {
		if ids, err := kubeconfig(t, users); err == nil {
			t.Errorf("%s: %+v", name, ids)
		}
	}
}

// TestWhoCalls: the other side learns who the server is, and those that it is not for don't.
func TestWhoCalls(t *testing.T) {
	var name string
	var header http.Header
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header, name = r.Header.Clone(), ""
		if len(r.TLS.PeerCertificates) > 0 {
			name = r.TLS.PeerCertificates[0].Subject.CommonName
		}
		_, _ = io.WriteString(w, "{}")
	}))
	s.EnableHTTP2 = true
	s.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	bundle := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	address := s.Listener.Addr().String()

	cert, key := pair(t, "the server")
	dir := t.TempDir()
	for name, data := range map[string][]byte{"cert": cert, "key": key, "token": []byte("from a file\n")} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c := newClient(t, &fixed{})
	for _, tt := range []struct{ name, users, cert, authorization string }{
		{"nobody", "", "", ""},
		{"others", "- {name: example.com, user: {token: t}}", "", ""},
		{"a token", "- {name: '" + address + "', user: {token: t}}", "", "Bearer t"},
		{"a token in a file", "- {name: '*', user: {tokenFile: " + dir + "/token}}", "", "Bearer from a file"},
		{"a password", "- {name: '*', user: {username: u, password: p}}", "", "Basic dTpw"},
		{"a certificate", "- {name: '*', user: {client-certificate: " + dir + "/cert, client-key: " + dir + "/key}}", "the server", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			target := Target{URL: "https://" + address, CABundle: bundle}
			if tt.users != "" {
				ids, err := kubeconfig(t, tt.users)
				if err != nil {
					t.Fatal(err)
				}
				target.Identities = ids
			}
			caller, err := c.For(target)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := caller.Post(t.Context(), []byte("{}")); err != nil {
				t.Fatal(err)
			}
			if name != tt.cert || header.Get("Authorization") != tt.authorization {
				t.Errorf("came as %q with %q, want %q and %q", name, header.Get("Authorization"), tt.cert, tt.authorization)
			}
			if !strings.HasPrefix(header.Get("User-Agent"), agent) {
				t.Errorf("User-Agent %q", header.Get("User-Agent"))
			}
		})
	}
}
