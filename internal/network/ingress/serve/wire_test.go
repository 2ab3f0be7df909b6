package serve

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"log/slog"
	"net/netip"

	"github.com/celox/celox/internal/network/ingress/route"
)

// seen is what a backend saw of a request.
func echo(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	fmt.Fprintf(w, "%s %s host=%s len=%d te=%v body=%d:%.20s err=%v", r.Method, r.RequestURI, r.Host, r.ContentLength, r.TransferEncoding, len(body), body, err)
}

// What is ambiguous or malformed is refused, the connection ends, and nothing of it reaches a backend.
func TestMalformedRequests(t *testing.T) {
	st := newStage(t, Config{})
	var reached atomic.Int32
	st.backend("a", func(w http.ResponseWriter, r *http.Request) {
		reached.Add(1)
		echo(w, r)
	})
	st.set(ingressOf("i", nil, "a.example/>a"))
	for name, tt := range map[string]struct {
		text string
		code int
	}{
		"length and chunks":             {"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
		"chunks and length":             {"POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 400},
		"two lengths":                   {"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello", 400},
		"list of lengths":               {"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5, 5\r\n\r\nhello", 400},
		"signed length":                 {"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: +5\r\n\r\nhello", 400},
		"hex length":                    {"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 0x5\r\n\r\nhello", 400},
		"huge length":                   {"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 99999999999999999999\r\n\r\n", 400},
		"other coding":                  {"POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501},
		"hidden coding":                 {"POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 501},
		"two codings":                   {"POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
		"coding in 1.0":                 {"POST / HTTP/1.0\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
		"space before the colon":        {"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length : 5\r\n\r\nhello", 400},
		"folded":                        {"GET / HTTP/1.1\r\nHost: a.example\r\nX: a\r\n b\r\n\r\n", 400},
		"folded first":                  {"GET / HTTP/1.1\r\n Host: a.example\r\n\r\n", 400},
		"bare line feeds":               {"GET / HTTP/1.1\nHost: a.example\n\n", 400},
		"one bare line feed":            {"GET / HTTP/1.1\r\nHost: a.example\nX: y\r\n\r\n", 400},
		"bare carriage return":          {"GET / HTTP/1.1\r\nHost: a.example\r\nX: a\rTransfer-Encoding: chunked\r\n\r\n", 400},
		"zero byte":                     {"GET / HTTP/1.1\r\nHost: a.example\r\nX: a\x00b\r\n\r\n", 400},
		"no name":                       {"GET / HTTP/1.1\r\nHost: a.example\r\n: x\r\n\r\n", 400},
		"no colon":                      {"GET / HTTP/1.1\r\nHost: a.example\r\nX\r\n\r\n", 400},
		"no host":                       {"GET / HTTP/1.1\r\nX: y\r\n\r\n", 400},
		"two hosts":                     {"GET / HTTP/1.1\r\nHost: a.example\r\nHost: b.example\r\n\r\n", 400},
		"host with a path":              {"GET / HTTP/1.1\r\nHost: a.example/x\r\n\r\n", 400},
		"two spaces":                    {"GET  / HTTP/1.1\r\nHost: a.example\r\n\r\n", 400},
		"space in the target":           {"GET /a b HTTP/1.1\r\nHost: a.example\r\n\r\n", 400},
		"no version":                    {"GET /\r\nHost: a.example\r\n\r\n", 400},
		"version 2":                     {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505},
		"version 1.2":                   {"GET / HTTP/1.2\r\nHost: a.example\r\n\r\n", 505},
		"malformed method":              {"GE(T / HTTP/1.1\r\nHost: a.example\r\n\r\n", 400},
		"connect":                       {"CONNECT a.example:80 HTTP/1.1\r\nHost: a.example\r\n\r\n", 400},
		"asterisk":                      {"OPTIONS * HTTP/1.1\r\nHost: a.example\r\n\r\n", 400},
		"relative target":               {"GET a HTTP/1.1\r\nHost: a.example\r\n\r\n", 400},
		"above the root":                {"GET /../x HTTP/1.1\r\nHost: a.example\r\n\r\n", 400},
		"escaped above the root":        {"GET /%2e%2e/x HTTP/1.1\r\nHost: a.example\r\n\r\n", 400},
		"step behind an escaped slash":  {"GET /a/..%2fb HTTP/1.1\r\nHost: a.example\r\n\r\n", 400},
		"step behind a backslash":       {"GET /a/..%5cb HTTP/1.1\r\nHost: a.example\r\n\r\n", 400},
		"broken escape":                 {"GET /a%2 HTTP/1.1\r\nHost: a.example\r\n\r\n", 400},
		"escaped zero":                  {"GET /a%00 HTTP/1.1\r\nHost: a.example\r\n\r\n", 400},
		"fragment":                      {"GET /a#b HTTP/1.1\r\nHost: a.example\r\n\r\n", 400},
		"unknown expectation":           {"GET / HTTP/1.1\r\nHost: a.example\r\nExpect: something\r\n\r\n", 400},
		"many fields":                   {"GET / HTTP/1.1\r\nHost: a.example\r\n" + strings.Repeat("X: y\r\n", maxFields+1) + "\r\n", 431},
		"a long head":                   {"GET / HTTP/1.1\r\nHost: a.example\r\nX: " + strings.Repeat("y", maxHead) + "\r\n\r\n", 431},
		"a chunk without a size":        {"POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", 400},
		"a negative chunk":              {"POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n", 400},
		"a chunk that ends late":        {"POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n", 400},
		"a chunk with a bare line feed": {"POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n1\na\r\n0\r\n\r\n", 400},
	} {
		t.Run(name, func(t *testing.T) {
			got := st.raw(tt.text+"GET /smuggled HTTP/1.1\r\nHost: a.example\r\n\r\n", 2)
			if len(got) != 1 || got[0].StatusCode != tt.code {
				t.Fatalf("got %d answers, %+v, want one of %d", len(got), got, tt.code)
			}
		})
	}
	if n := reached.Load(); n != 0 {
		t.Errorf("%d requests reached the backend", n)
	}
}

// What is well formed arrives as it was, and several requests on one connection stay apart.
func TestMessages(t *testing.T) {
	st := newStage(t, Config{})
	st.backend("a", echo)
	st.set(ingressOf("i", nil, "a.example/>a"))
	big := strings.Repeat("0123456789", 20_000)
	chunked := func(parts ...string) string {
		var b strings.Builder
		for _, p := range parts {
			fmt.Fprintf(&b, "%x;name=value\r\n%s\r\n", len(p), p)
		}
		return b.String() + "0\r\nX-Trailer: x\r\n\r\n"
	}
	const host = "Host: a.example\r\n"
	for name, tt := range map[string]struct {
		text string
		want []string
	}{
		"two at once":           {"GET /1 HTTP/1.1\r\n" + host + "\r\nGET /2?x HTTP/1.1\r\n" + host + "\r\n", []string{"GET /1 host=a.example len=0", "GET /2?x host=a.example len=0"}},
		"empty lines before":    {"\r\n\r\nGET /1 HTTP/1.1\r\n" + host + "\r\n", []string{"GET /1 "}},
		"a body":                {"POST /1 HTTP/1.1\r\n" + host + "Content-Length: 5\r\n\r\nhelloGET /2 HTTP/1.1\r\n" + host + "\r\n", []string{"POST /1 host=a.example len=5 te=[] body=5:hello", "GET /2 "}},
		"a large body":          {"POST /1 HTTP/1.1\r\n" + host + "Content-Length: 200000\r\n\r\n" + big + "GET /2 HTTP/1.1\r\n" + host + "\r\n", []string{"POST /1 host=a.example len=200000 te=[] body=200000:01234", "GET /2 "}},
		"chunks":                {"POST /1 HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n" + chunked("hel", "lo") + "GET /2 HTTP/1.1\r\n" + host + "\r\n", []string{"POST /1 host=a.example len=-1 te=[chunked] body=5:hello", "GET /2 "}},
		"large chunks":          {"POST /1 HTTP/1.1\r\n" + host + "Transfer-Encoding: Chunked\r\n\r\n" + chunked(big, big) + "GET /2 HTTP/1.1\r\n" + host + "\r\n", []string{"POST /1 host=a.example len=-1 te=[chunked] body=400000:01234", "GET /2 "}},
		"a proxy's target":      {"GET http://a.example/1?y HTTP/1.1\r\nHost: other\r\n\r\n", []string{"GET /1?y host=a.example"}},
		"a target without path": {"GET http://a.example?y HTTP/1.1\r\nHost: other\r\n\r\n", []string{"GET /?y host=a.example"}},
		"host with a port":      {"GET /1 HTTP/1.1\r\nHost: A.Example:8080\r\n\r\n", []string{"GET /1 host=A.Example:8080"}},
		"a word of its own":     {"BREW /1 HTTP/1.1\r\n" + host + "\r\n", []string{"BREW /1"}},
	} {
		t.Run(name, func(t *testing.T) {
			got := st.raw(tt.text, len(tt.want))
			if len(got) != len(tt.want) {
				t.Fatalf("%d answers", len(got))
			}
			for i, resp := range got {
				body, err := io.ReadAll(resp.Body)
				if err != nil || resp.StatusCode != 200 || !strings.HasPrefix(string(body), tt.want[i]) || !strings.HasSuffix(string(body), "err=<nil>") {
					t.Errorf("answer %d: %d %q, want %q", i, resp.StatusCode, body, tt.want[i])
				}
			}
		})
	}
}

// Old clients: without a word the connection ends, and nobody sends them chunks.
func TestHTTP10(t *testing.T) {
	st := newStage(t, Config{})
	st.backend("a", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/stream" {
			_ = http.NewResponseController(w).Flush()
		}
		echo(w, r)
	})
	st.set(ingressOf("i", nil, "a.example/>a"))
	got := st.raw("GET /1 HTTP/1.0\r\nHost: a.example\r\nConnection: keep-alive\r\n\r\nGET /2 HTTP/1.0\r\nHost: a.example\r\n\r\nGET /3 HTTP/1.0\r\n\r\n", 3)
	if len(got) != 2 || got[0].Close || !got[1].Close {
		t.Errorf("%d answers: %v", len(got), got)
	}
	got = st.raw("GET /stream HTTP/1.0\r\nHost: a.example\r\nConnection: keep-alive\r\n\r\n", 2)
	if len(got) != 1 || len(got[0].TransferEncoding) > 0 || !got[0].Close {
		t.Errorf("%d answers: %+v", len(got), got)
	}
	body, err := io.ReadAll(got[0].Body)
	if err != nil || !strings.HasPrefix(string(body), "GET /stream") {
		t.Errorf("%q, %v", body, err)
	}
}

// Backends that are not careful, and what clients get of it.
func TestAnswers(t *testing.T) {
	for name, tt := range map[string]struct {
		answer string
		method string
		code   int
		body   string
	}{
		"plain":                     {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "GET", 200, "hello"},
		"line feeds":                {"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello", "GET", 200, "hello"},
		"until the end":             {"HTTP/1.1 200 OK\r\n\r\nhello", "GET", 200, "hello"},
		"old":                       {"HTTP/1.0 200 OK\r\n\r\nhello", "GET", 200, "hello"},
		"chunks":                    {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n", "GET", 200, "hello"},
		"no reason":                 {"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", "GET", 200, ""},
		"interim":                   {"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "GET", 200, "ok"},
		"head":                      {"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n", "HEAD", 200, ""},
		"not modified":              {"HTTP/1.1 304 Not Modified\r\nContent-Length: 500\r\n\r\n", "GET", 304, ""},
		"no content":                {"HTTP/1.1 204 No Content\r\n\r\n", "GET", 204, ""},
		"length and chunks":         {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "GET", 502, ""},
		"two lengths":               {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!", "GET", 502, ""},
		"no answer":                 {"", "GET", 502, ""},
		"no HTTP":                   {"SSH-2.0-OpenSSH\r\n", "GET", 502, ""},
		"a switch nobody asked for": {"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", "GET", 502, ""},
	} {
		t.Run(name, func(t *testing.T) {
			st := newStage(t, Config{})
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			var serving sync.WaitGroup
			serving.Go(func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
						_, _ = io.WriteString(c, tt.answer) // the test looks at what arrives
					}
					_ = c.Close()
				}
			})
			defer serving.Wait()
			defer func() { _ = l.Close() }()
			st.endpoints["a"] = []netip.AddrPort{netip.MustParseAddrPort(l.Addr().String())}
			st.set(ingressOf("i", nil, "a.example/>a"))
			code, body, _ := get(t, st.client(false), request(t, tt.method, "http://a.example/", nil))
			if code != tt.code || code < 500 && body != tt.body {
				t.Errorf("got %d %q, want %d %q", code, body, tt.code, tt.body)
			}
		})
	}
}

// An answer that breaks off must not look whole.
func TestBrokenAnswer(t *testing.T) {
	for _, answer := range []string{"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"} {
		for _, h2 := range []bool{false, true} {
			st := newStage(t, Config{})
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			var serving sync.WaitGroup
			serving.Go(func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
						_, _ = io.WriteString(c, answer) // as above
					}
					_ = c.Close()
				}
			})
			st.endpoints["a"] = []netip.AddrPort{netip.MustParseAddrPort(l.Addr().String())}
			st.set(ingressOf("i", nil, "a.example/>a"))
			resp, err := st.client(h2).Do(request(t, "GET", "https://a.example/", nil))
			if err == nil {
				_, err = io.ReadAll(resp.Body)
				_ = resp.Body.Close()
			}
			if err == nil {
				t.Errorf("%q arrived as whole (HTTP/2: %v)", answer, h2)
			}
			_ = l.Close()
			serving.Wait()
		}
	}
}

// Headers that are only for the next hop stay behind, and nobody can say who the client is but us.
func TestHeaders(t *testing.T) {
	st := newStage(t, Config{})
	var mu sync.Mutex
	var got http.Header
	st.backend("a", func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		got = r.Header.Clone()
		mu.Unlock()
		h := w.Header()
		h.Set("Connection", "X-Private, keep-alive")
		h.Set("X-Private", "1")
		h.Set("Proxy-Authenticate", "Basic")
		h.Set("X-Public", "1")
	})
	st.set(ingressOf("i", nil, "a.example/>a"))
	for _, h2 := range []bool{false, true} {
		req := request(t, "GET", "https://a.example/", nil)
		for k, v := range map[string]string{
			"X-Forwarded-For": "6.6.6.6", "X-Forwarded-Proto": "gopher", "X-Forwarded-Host": "evil", "X-Real-Ip": "6.6.6.6", "Forwarded": "for=6.6.6.6", "X_Forwarded_For": "6.6.6.6",
			"X-Kept": "1", "Proxy-Authorization": "Basic eDp5", "Keep-Alive": "x",
		} {
			req.Header[k] = []string{v}
		}
		if !h2 {
			req.Header.Set("Connection", "X-Gone, X-Real-IP")
			req.Header.Set("X-Gone", "1")
			req.Header.Set("Te", "trailers")
			req.Header.Del("Keep-Alive")
		} else {
			req.Header.Del("Keep-Alive") // not sent by HTTP/2
		}
		code, _, answer := get(t, st.client(h2), req)
		if code != 200 || answer.Get("X-Private") != "" || answer.Get("Proxy-Authenticate") != "" || answer.Get("X-Public") != "1" {
			t.Errorf("HTTP/2 %v: %d %v", h2, code, answer)
		}
		mu.Lock()
		for k, want := range map[string]string{
			"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "a.example", "X-Forwarded-Port": "443", "X-Real-Ip": "127.0.0.1",
			"Forwarded": `for=127.0.0.1;host="a.example";proto=https`, "X-Kept": "1", "X_forwarded_for": "", "X_Forwarded_For": "", "X-Gone": "", "Te": "", "Proxy-Authorization": "", "Connection": "",
		} {
			if have := strings.Join(got[k], "|"); have != want {
				t.Errorf("HTTP/2 %v: %s is %q, want %q", h2, k, have, want)
			}
		}
		mu.Unlock()
	}
}

// Who is configured as a proxy in front may say who the client is, also by the PROXY protocol.
func TestTrustedProxies(t *testing.T) {
	st := newStage(t, Config{Trusted: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("10.0.0.0/8")}, ProxyProtocol: true})
	st.backend("a", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.Header.Get("X-Forwarded-For"), " ", r.Header.Get("X-Real-Ip"), " ", r.Header.Get("X-Forwarded-Proto"), " ", r.Header.Get("X-Forwarded-Host"))
	})
	st.set(ingressOf("i", nil, "a.example/>a"))
	v2 := "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x05\x7f\x00\x00\x01\x10\x00\x00\x50"
	get := "GET / HTTP/1.1\r\nHost: a.example\r\n"
	for text, want := range map[string]string{
		"PROXY TCP4 192.0.2.1 127.0.0.1 5000 80\r\n" + get + "\r\n": "192.0.2.1 192.0.2.1 http a.example",
		"PROXY UNKNOWN\r\n" + get + "\r\n":                          "127.0.0.1 127.0.0.1 http a.example",
		v2 + get + "\r\n":                                           "192.0.2.5 192.0.2.5 http a.example",
		"PROXY UNKNOWN\r\n" + get + "X-Forwarded-For: 6.6.6.6, 198.51.100.7, 10.1.1.1\r\nX-Forwarded-Proto: HTTPS\r\nX-Forwarded-Host: b.example\r\n\r\n": "6.6.6.6, 198.51.100.7, 10.1.1.1, 127.0.0.1 198.51.100.7 https b.example",
		"PROXY TCP4 192.0.2.1 127.0.0.1 5000 80\r\n" + get + "X-Forwarded-For: 6.6.6.6\r\n\r\n":                                                           "192.0.2.1 192.0.2.1 http a.example",
	} {
		got := st.raw(text, 1)
		if len(got) != 1 {
			t.Errorf("%q: no answer", text)
			continue
		}
		if body, err := io.ReadAll(got[0].Body); err != nil || string(body) != want {
			t.Errorf("%q: got %q, want %q (%v)", text, body, want, err)
		}
	}
	for _, text := range []string{get + "\r\n", "PROXY TCP4 x y 1 2\r\n" + get + "\r\n", "PROXY " + strings.Repeat("x", 200)} {
		if got := st.raw(text, 1); len(got) != 0 {
			t.Errorf("%q: got an answer", text)
		}
	}
}

// pipes is a listener of connections that are not on any network, for tests with time of their own.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { p.once.Do(func() { close(p.closed) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

// A client that sends its head slowly, or waits for nothing, does not hold its connection for long.
func TestSlowClients(t *testing.T) {
	for name, tt := range map[string]struct {
		text  string
		every time.Duration
		most  time.Duration
		want  string
	}{
		"nothing":     {"", 0, waitTime, ""},
		"a slow head": {"GET / HTTP/1.1\r\nHost: a.example\r\nX-Slow: " + strings.Repeat("x", 100), time.Second, headTime + time.Second, "HTTP/1.1 408 "},
		"half a head": {"GET / HT", 0, headTime + time.Second, "HTTP/1.1 408 "},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := New(Config{HTTPSPort: 443, Log: slog.New(slog.DiscardHandler)})
				plain, secure := &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}, &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error, 1)
				go func() { done <- s.Serve(ctx, plain, secure) }()
				ours, theirs := net.Pipe()
				plain.conns <- theirs
				begin := time.Now()
				var writing sync.WaitGroup
				defer writing.Wait()
				writing.Go(func() {
					if tt.every == 0 {
						_, _ = io.WriteString(ours, tt.text) // what is read says how it went
						return
					}
					for i := range len(tt.text) {
						if _, err := io.WriteString(ours, tt.text[i:i+1]); err != nil {
							return
						}
						time.Sleep(tt.every)
					}
				})
				var answer bytes.Buffer
				_, _ = io.Copy(&answer, ours) // until the end
				if took := time.Since(begin); took > tt.most {
					t.Errorf("the connection was held for %s", took)
				}
				if !strings.HasPrefix(answer.String(), tt.want) {
					t.Errorf("got %q", answer.String())
				}
				_ = ours.Close()
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
				s.Close()
				synctest.Wait()
			})
		})
	}
}

func FuzzRequests(f *testing.F) {
	f.Add([]byte("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"))
	f.Add([]byte("POST /x HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		// Nothing that a client sends may make the decision panic; no backend is needed for that.
		s := New(Config{HTTPSPort: 443, Log: slog.New(slog.DiscardHandler)})
		table, _ := route.Compile(route.Sources{})
		s.SetTable(table, func(route.Backend) []netip.AddrPort { return nil })
		ours, theirs := net.Pipe()
		r := &running{Server: s, conns: map[*member]bool{}, http2: newHandoff()}
		m := &member{Conn: theirs}
		done := make(chan struct{})
		go func() {
			defer close(done)
			r.connection(t.Context(), m, nil)
			_ = theirs.Close()
		}()
		go func() {
			_, _ = ours.Write(text) // whatever is read of it
			_ = ours.Close()
		}()
		_, _ = io.Copy(io.Discard, ours) // until the end
		<-done
		s.Close()
	})
}
