package pki

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"io/fs"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"k8s.io/client-go/tools/clientcmd"
	clocktesting "k8s.io/utils/clock/testing"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func options() Options {
	return Options{ServerNames: []string{"box.example"}, ServerIPs: []net.IP{net.ParseIP("10.96.0.1")}, NodeName: "box"}
}

func ensure(t *testing.T, dir string, o Options) *PKI {
	t.Helper()
	p, err := Ensure(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestSecondStartChangesNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pki")
	ensure(t, dir, options())
	before := snapshot(t, dir)
	if len(before) < 20 {
		t.Fatalf("only %d files", len(before))
	}
	ensure(t, dir, options())
	for name, data := range snapshot(t, dir) {
		if before[name] != data {
			t.Errorf("%s was rewritten", name)
		}
		fi, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if fi.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", name, fi.Mode())
		}
	}
}

func snapshot(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		out[e.Name()] = string(data)
	}
	return out
}

func TestLeavesAreRenewed(t *testing.T) {
	start := time.Now()
	for _, c := range []struct {
		name    string
		change  func(*Options)
		advance time.Duration
		renewed []string
	}{
		{name: "nothing"},
		{name: "new address", change: func(o *Options) { o.ServerIPs = append(o.ServerIPs, net.ParseIP("192.0.2.7")) }, renewed: []string{"apiserver.crt", "kubelet-server.crt"}},
		{name: "new name", change: func(o *Options) { o.ServerNames = nil }, renewed: []string{"apiserver.crt"}},
		{name: "node renamed", change: func(o *Options) { o.NodeName = "other" }, renewed: []string{"node.crt", "kubelet-server.crt"}},
		{name: "soon over", advance: leafLifetime - renewBefore + time.Minute, renewed: []string{"apiserver.crt", "admin.crt", "node.crt", "scheduler.crt", "front-proxy-client.crt"}},
		{name: "not yet", advance: leafLifetime - renewBefore - time.Hour},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			ck := clocktesting.NewFakeClock(start)
			o := options()
			o.Clock = ck
			ensure(t, dir, o)
			before := snapshot(t, dir)
			if c.change != nil {
				c.change(&o)
			}
			ck.Step(c.advance)
			ensure(t, dir, o)
			after := snapshot(t, dir)
			for _, name := range c.renewed {
				if before[name] == after[name] {
					t.Errorf("%s was not renewed", name)
				}
			}
			if c.renewed == nil {
				for name := range after {
					if before[name] != after[name] {
						t.Errorf("%s was rewritten", name)
					}
				}
			}
			for _, name := range []string{"ca.crt", "ca.key", "front-proxy-ca.crt", "front-proxy-ca.key", "sa.key"} {
				if before[name] != after[name] {
					t.Errorf("%s was rewritten", name)
				}
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	start := time.Now()
	for _, c := range []struct {
		name, file, content, want string
		clock                     time.Time
	}{
		{name: "clock behind the authority", clock: start.Add(-24 * time.Hour), want: "set the clock"},
		{name: "clock never set", clock: time.Unix(0, 0), want: "set it before"},
		{name: "clock far ahead", clock: start.Add(11 * 365 * 24 * time.Hour), want: "ca.crt expired"},
		{name: "broken authority", file: "ca.crt", content: "nonsense", want: "ca.crt is damaged"},
		{name: "empty authority", file: "ca.crt", content: "", want: "ca.crt is damaged"},
		{name: "broken key", file: "ca.key", content: "-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n", want: "ca.key is damaged"},
		{name: "broken service account key", file: "sa.key", content: "x", want: "sa.key is damaged"},
		{name: "broken leaf", file: "admin.crt", content: "x", want: "admin.crt is damaged"},
		{name: "broken leaf key", file: "admin.key", content: "x", want: "admin.key are damaged"},
		{name: "lost authority key", file: "ca.key", content: "-", want: "ca.key is missing"},
		{name: "foreign authority key", file: "front-proxy-ca.key", content: "ca.key", want: "does not belong to the key"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			o := options()
			o.Clock = clocktesting.NewFakeClock(start)
			ensure(t, dir, o)
			switch path := filepath.Join(dir, c.file); {
			case c.file == "":
				o.Clock = clocktesting.NewFakeClock(c.clock)
			case c.content == "-":
				if err := os.Remove(path); err != nil {
					t.Fatal(err)
				}
			default:
				data := []byte(c.content)
				if strings.HasSuffix(c.content, ".key") {
					data = []byte(snapshot(t, dir)[c.content])
				}
				if err := os.WriteFile(path, data, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := Ensure(dir, o); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want something about %q", err, c.want)
			}
		})
	}
}

// A crash between the files of the first start leaves some of them behind; the next start completes them.
func TestHalfMadeDirectory(t *testing.T) {
	whole := t.TempDir()
	ensure(t, whole, options())
	files := snapshot(t, whole)
	for name := range files {
		if strings.HasSuffix(name, ".key") {
			continue
		}
		dir := t.TempDir()
		for n, data := range files {
			if n != name {
				if err := os.WriteFile(filepath.Join(dir, n), []byte(data), 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
		// As a start leaves it that was killed before the file had its name.
		if err := os.WriteFile(filepath.Join(dir, "."+name+".new"), []byte("-----BEGIN"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Ensure(dir, options()); err != nil {
			t.Errorf("without %s: %v", name, err)
		}
		if now := snapshot(t, dir); len(now) != len(files) {
			t.Errorf("without %s there are %d files afterwards, not %d", name, len(now), len(files))
		}
	}
}

// TestWriteFiles: where one file cannot be written none takes its place, and nothing is left beside them.
func TestWriteFiles(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "b", "full"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := writeFiles(filepath.Join(dir, "none"), []file{{"a", nil}}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("in no directory: %v", err)
	}
	if err := writeFiles(dir, []file{{"b", nil}, {"a.crt", []byte("only with b")}}); err == nil {
		t.Error("a file took the place of a directory")
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("the directory has %v, %v", entries, err)
	}
}

func TestMutualTLSAndReload(t *testing.T) {
	ck := clocktesting.NewFakeClock(time.Now())
	o := options()
	o.Clock = ck
	p := ensure(t, t.TempDir(), o)
	listener, err := tls.Listen("tcp", "127.0.0.1:0", p.ServerTLSConfig())
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{
		ErrorLog: log.New(io.Discard, "", 0),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			name := "nobody"
			if len(r.TLS.PeerCertificates) > 0 {
				name = r.TLS.PeerCertificates[0].Subject.CommonName
			}
			_, _ = io.WriteString(w, name+" "+r.TLS.NegotiatedProtocol)
		}),
	}
	served := make(chan error)
	go func() { served <- srv.Serve(listener) }()
	defer func() {
		srv.Close()
		<-served
	}()
	url := "https://" + listener.Addr().String()

	get := func(pair *Pair) (string, *x509.Certificate) {
		t.Helper()
		tr := &http.Transport{TLSClientConfig: p.ClientTLSConfig(pair), ForceAttemptHTTP2: true}
		defer tr.CloseIdleConnections()
		resp, err := (&http.Client{Transport: tr}).Get(url)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(body), resp.TLS.PeerCertificates[0]
	}
	if got, _ := get(nil); got != "nobody h2" {
		t.Errorf("without a certificate: %q", got)
	}
	if got, _ := get(p.Admin()); got != "kubernetes-admin h2" {
		t.Errorf("admin: %q", got)
	}
	_, before := get(p.Node())
	ck.Step(leafLifetime - time.Hour)
	if _, err := p.Renew(); err != nil {
		t.Fatal(err)
	}
	if got, after := get(p.Node()); got != "system:node:box h2" || after.Equal(before) {
		t.Errorf("after the renewal: %q, certificate changed: %v", got, !after.Equal(before))
	}

	// One of another cluster arrives as well, for whoever authenticates to refuse.
	if got, _ := get(ensure(t, t.TempDir(), options()).Admin()); got != "kubernetes-admin h2" {
		t.Errorf("of another cluster: %q", got)
	}
}

func TestRunRenewsInTime(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		p := ensure(t, dir, options())
		first := p.Admin().Leaf()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			p.Run(ctx, func(err error) { t.Error(err) })
		}()
		time.Sleep(leafLifetime - renewBefore + 25*time.Hour)
		if p.Admin().Leaf().Equal(first) {
			t.Error("not renewed")
		}
		cancel()
		<-done
	})
}

func TestKubeconfig(t *testing.T) {
	p := ensure(t, t.TempDir(), options())
	cert, key := p.Admin().PEM()
	data, err := Kubeconfig("https://127.0.0.1:6443", p.CACertPEM(), cert, key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := clientcmd.RESTConfigFromKubeConfig(data)
	if err != nil {
		t.Fatal(err)
	}
	if c.Host != "https://127.0.0.1:6443" || string(c.CAData) != string(p.CACertPEM()) || string(c.KeyData) != string(key) {
		t.Errorf("got %+v", c)
	}
	if _, err := Kubeconfig("https://x", nil, []byte("x"), nil); err == nil {
		t.Error("a broken certificate was accepted")
	}
}

func FuzzParsePEM(f *testing.F) {
	f.Add([]byte("-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n"))
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		if k, err := parseKey(data); err == nil && k == nil {
			t.Error("no key and no error")
		}
		if c, err := parseCertificate(data); err == nil && c == nil {
			t.Error("no certificate and no error")
		}
	})
}

func BenchmarkEnsureFirstStart(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Ensure(b.TempDir(), options()); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEnsureNextStart(b *testing.B) {
	dir := b.TempDir()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Ensure(dir, options()); err != nil {
			b.Fatal(err)
		}
	}
}
