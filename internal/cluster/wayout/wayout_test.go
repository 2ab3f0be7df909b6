package wayout

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// echo answers each line with itself.
func echo(t *testing.T) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
	})
	return l.Addr().String()
}

// proxy is a server that connects whoever knows the password.
type proxy struct {
	user string // "name:password", or nobody in particular
	mu   sync.Mutex
	to   []string // guarded by mu
}

func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.to = append(p.to, r.Host)
	p.mu.Unlock()
	if r.Method != http.MethodConnect {
		http.Error(w, "CONNECT only", http.StatusMethodNotAllowed)
		return
	}
	if p.user != "" && r.Header.Get("Proxy-Authorization") != "Basic "+base64.StdEncoding.EncodeToString([]byte(p.user)) {
		http.Error(w, "who are you?", http.StatusProxyAuthRequired)
		return
	}
	far, err := net.Dial("tcp", r.Host)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer far.Close()
	near, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer near.Close()
	_, _ = io.WriteString(near, "HTTP/1.1 200 Connection established\r\n\r\n")
	var wg sync.WaitGroup
	wg.Go(func() {
		_, _ = io.Copy(far, rw)
		_ = far.(*net.TCPConn).CloseWrite()
	})
	_, _ = io.Copy(near, far)
	_ = near.Close()
	wg.Wait()
}

func fixed(text string) func(*url.URL) (*url.URL, error) {
	return func(*url.URL) (*url.URL, error) { return url.Parse(text) }
}

func says(t *testing.T, d *Dialer, address string) {
	t.Helper()
	conn, err := d.DialContext(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "hello\n"); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(conn).ReadString('\n'); err != nil || line != "hello\n" {
		t.Fatalf("%q, %v", line, err)
	}
}

func TestThroughProxy(t *testing.T) {
	to := echo(t)
	for _, secure := range []bool{false, true} {
		p := &proxy{user: "me:a secret"}
		s := httptest.NewUnstartedServer(p)
		if secure {
			s.StartTLS()
		} else {
			s.Start()
		}
		at, err := url.Parse(s.URL)
		if err != nil {
			t.Fatal(err)
		}
		at.User = url.UserPassword("me", "a secret")
		d := &Dialer{Proxy: fixed(at.String()), Timeout: time.Minute}
		if secure {
			pool := x509.NewCertPool()
			pool.AddCert(s.Certificate())
			d.TLS = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
		}
		says(t, d, to)
		if len(p.to) != 1 || p.to[0] != to {
			t.Errorf("the proxy was asked for %q", p.to)
		}
		at.User = url.UserPassword("me", "a wrong secret")
		d.Proxy = fixed(at.String())
		_, err = d.DialContext(t.Context(), "tcp", to)
		var of *ProxyError
		if !errors.As(err, &of) || !strings.Contains(err.Error(), "407") || strings.Contains(err.Error(), "wrong secret") {
			t.Errorf("with a wrong password: %v", err)
		}
		s.Close()
	}
}

func TestStraight(t *testing.T) {
	says(t, &Dialer{Proxy: func(*url.URL) (*url.URL, error) { return nil, nil }}, echo(t))
	says(t, &Dialer{}, echo(t)) // the environment's proxies are not for this machine itself
}

func TestTroubleWithTheProxy(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := closed.Addr().String()
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	p := httptest.NewServer(&proxy{})
	defer p.Close()
	web := httptest.NewServer(http.NotFoundHandler())
	defer web.Close()
	for _, c := range []struct{ what, proxy, to, want string }{
		{"nobody there", "http://" + nobody, "192.0.2.1:6443", "refused"},
		{"it reaches nobody", p.URL, nobody, "502"},
		{"it is no proxy", web.URL, "192.0.2.1:6443", "404"},
		{"another kind", "socks5://127.0.0.1:1080", "192.0.2.1:6443", "not supported"},
	} {
		_, err := (&Dialer{Proxy: fixed(c.proxy), Timeout: time.Minute}).DialContext(t.Context(), "tcp", c.to)
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "HTTPS_PROXY") {
			t.Errorf("%s: %v", c.what, err)
		}
		if errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%s: it seems as if the server refused: %v", c.what, err)
		}
	}
	// One that says nothing.
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := (&Dialer{Proxy: fixed("http://" + silent.Addr().String())}).DialContext(ctx, "tcp", "192.0.2.1:6443"); err == nil || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("a silent proxy: %v", err)
	}
}

// FuzzAnswer: whatever a proxy says, the dialer neither hangs nor takes it for a connection unless it is a 200 and nothing more.
func FuzzAnswer(f *testing.F) {
	for _, s := range []string{"HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.0 200\r\n\r\n", "HTTP/1.1 407 Who\r\nContent-Length: 5\r\n\r\nhello", "HTTP/1.1 200 OK\r\n\r\nmore", "", "x", "HTTP/1.1 200 OK\r\nA: b"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, answer []byte) {
		near, far := net.Pipe()
		var wg sync.WaitGroup
		wg.Go(func() {
			_, _ = http.ReadRequest(bufio.NewReader(far))
			_, _ = far.Write(answer)
			_ = far.Close()
		})
		err := connect(near, nil, "192.0.2.1:6443")
		_ = near.Close()
		wg.Wait()
		if err == nil && (!strings.HasPrefix(string(answer), "HTTP/") || !strings.Contains(string(answer), "200")) {
			t.Errorf("%q is a connection", answer)
		}
	})
}
