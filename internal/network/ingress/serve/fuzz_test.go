package serve

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/celox/celox/internal/network/ingress/loop"
	"github.com/celox/celox/internal/network/ingress/route"
)

// fuzzServer is a server whose only host, a.example, leads to an address.
func fuzzServer(to netip.AddrPort) *Server {
	s := New(Config{HTTPSPort: 443, Loops: 2, Log: slog.New(slog.DiscardHandler)})
	table, _ := route.Compile(route.Sources{
		Ingresses: []*networkingv1.Ingress{ingressOf("i", map[string]string{"proxy-connect-timeout": "5"}, "a.example/>a")},
		Classes:   []*networkingv1.IngressClass{{ObjectMeta: metav1.ObjectMeta{Name: route.ClassName}, Spec: networkingv1.IngressClassSpec{Controller: route.Controller}}},
		Service: func(_, name string) *corev1.Service {
			return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}
		},
	})
	s.SetTable(table, func(route.Backend) []netip.AddrPort { return []netip.AddrPort{to} })
	return s
}

// from is a connection that comes from an address.
type from struct {
	net.Conn
	addr netip.Addr
}

func (f from) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(netip.AddrPortFrom(f.addr, 1)) }

// carries has a server answer what a client at an address sends over a connection to l, in a goroutine or on a loop. It returns all that comes back.
func carries(t *testing.T, s *Server, l net.Listener, on *loop.Loop, client netip.Addr, text []byte) []byte {
	ours, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	r := &running{Server: s, conns: map[*member]bool{}, http2: newHandoff()}
	var both sync.WaitGroup
	m := &member{Conn: from{theirs, client}}
	both.Go(func() {
		if on == nil {
			r.connection(t.Context(), m, nil)
			_ = theirs.Close() // nobody has it any more
			return
		}
		tcp, ok := theirs.(*net.TCPConn)
		if !ok {
			t.Errorf("a TCP connection is a %T", theirs)
		}
		served := make(chan struct{})
		on.Spawn(func() {
			defer close(served)
			r.onLoop(on, m, tcp)
		})
		<-served
		r.handlers.Wait() // it may go on in a goroutine
	})
	both.Go(func() {
		_, _ = ours.Write(text) // whatever is read of it
		if tcp, ok := ours.(*net.TCPConn); ok {
			_ = tcp.CloseWrite()
		}
	})
	var back bytes.Buffer
	_, _ = io.Copy(&back, ours) // until the end
	both.Wait()
	_ = ours.Close()
	return back.Bytes()
}

// aLoop is a loop that runs until the test ends.
func aLoop(f *testing.F) *loop.Loop {
	l, err := loop.New()
	if err != nil {
		f.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- l.Run() }()
	f.Cleanup(func() {
		l.Stop()
		if err := <-ended; err != nil {
			f.Error(err)
		}
	})
	return l
}

func listen(f *testing.F) net.Listener {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.Fatal(err)
	}
	return l
}

// Whatever a client sends, a backend gets nothing but requests that we made: each has the client's address, which nobody can guess here, just once.
func FuzzSmuggling(f *testing.F) {
	const head = " HTTP/1.1\r\nHost: a.example\r\n"
	const inner = "GET /inner" + head + "\r\n"
	for _, s := range []string{
		"GET /" + head + "\r\nGET /2" + head + "\r\n",
		fmt.Sprintf("POST /%sContent-Length: %d\r\n\r\n%s", head, len(inner), inner), fmt.Sprintf("POST /%sTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", head, len(inner), inner),
		"POST /" + head + "Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX-Real-IP: ::1\r\nA: b\r\n\r\nGET /2" + head + "\r\n",
		"POST /" + head + "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\nGET /2" + head + "\r\n",
		"POST /" + head + "Transfer-Encoding:\tchunked\r\n\r\n0\r\n\r\n", "POST /" + head + "Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n", "POST /" + head + "Transfer_Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
		"POST /" + head + "Content-Length: 5\r\n\r\nGET /GET /2" + head + "\r\n", "POST /" + head + "Content_Length: 5\r\nContent-Length: 0\r\n\r\nGET /2" + head + "\r\n",
		"GET http://a.example/x?y" + head + "\r\n", "GET HTTP://a.example" + head + "\r\n", "GET http://a.example?GET%20/" + head + "\r\n", "CONNECT a.example:80" + head + "\r\n", "OPTIONS *" + head + "\r\n",
		"GET /" + head + "X: a\r\n b\r\n\r\n", "GET /" + head + "Connection: Host, X-Real-IP, Content-Length\r\nContent-Length: 1\r\n\r\na", "GET /" + head + "Expect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
		"POST /" + head + "Transfer-Encoding: chunked\r\n\r\n1;a=\"\r\n\"\r\na\r\n0\r\n\r\n", "GET /" + head + strings.Repeat("X: y\r\n", 100) + "\r\n", "GET /" + head + "Upgrade: h2c\r\nConnection: Upgrade\r\n\r\nPRI * HTTP/2.0\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	var mu sync.Mutex
	var wrong []string
	given := map[string]bool{}
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // who breaks off has said enough
		mu.Lock()
		defer mu.Unlock()
		if got := r.Header["X-Real-Ip"]; len(got) != 1 || !given[got[0]] {
			wrong = append(wrong, r.Method+" "+r.RequestURI+" of "+strings.Join(got, "|"))
		}
	}))
	defer backend.Close()
	to := netip.MustParseAddrPort(backend.Listener.Addr().String())
	l, looping := listen(f), aLoop(f)
	defer func() { _ = l.Close() }()
	f.Fuzz(func(t *testing.T, text []byte) {
		var nonce [16]byte
		if _, err := rand.Read(nonce[:]); err != nil {
			t.Fatal(err)
		}
		nonce[0] = 0x20
		client := netip.AddrFrom16(nonce)
		mu.Lock()
		given[client.String()] = true
		mu.Unlock()
		for _, on := range []*loop.Loop{nil, looping} {
			s := fuzzServer(to)
			carries(t, s, l, on, client, text)
			s.Close()
		}
		mu.Lock()
		defer mu.Unlock()
		if len(wrong) > 0 {
			t.Fatalf("%q: the backend was asked %q by nobody", text, wrong)
		}
	})
}

// Whatever a backend answers, a client gets no more answers than it sent requests, each of them whole or the last.
func FuzzAnswers(f *testing.F) {
	for _, s := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nA: b\r\n\r\n",
		"HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 204 No\r\n\r\n", "HTTP/1.1 304 Not\r\nContent-Length: 5\r\n\r\nhello", "HTTP/1.0 200 OK\n\nhello", "HTTP/1.1 101 x\r\nUpgrade: a\r\nConnection: upgrade\r\n\r\nx",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n", "HTTP/1.1 204 No\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: Content-Length\r\n\r\nx",
	} {
		f.Add([]byte(s))
	}
	l, clients, looping := listen(f), listen(f), aLoop(f)
	defer func() { _ = clients.Close() }()
	var mu sync.Mutex
	var answer []byte
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer func() { _ = c.Close() }() // it was told what there is to tell
				if _, err := http.ReadRequest(bufio.NewReader(c)); err != nil {
					return
				}
				mu.Lock()
				text := answer
				mu.Unlock()
				_, _ = c.Write(text) // what arrives is looked at
			})
		}
	})
	defer serving.Wait()
	defer func() { _ = l.Close() }()
	to := netip.MustParseAddrPort(l.Addr().String())
	f.Fuzz(func(t *testing.T, text []byte) {
		mu.Lock()
		answer = text
		mu.Unlock()
		s := fuzzServer(to)
		defer s.Close()
		for i, method := range []string{"GET", "HEAD", "GET", "HEAD"} {
			on := looping
			if i < 2 {
				on = nil
			}
			back := bufio.NewReader(bytes.NewReader(carries(t, s, clients, on, netip.MustParseAddr("192.0.2.1"), []byte(method+" / HTTP/1.1\r\nHost: a.example\r\n\r\n"))))
			resp, err := http.ReadResponse(back, &http.Request{Method: method})
			if err != nil {
				t.Fatalf("%s: %q comes as something that is no answer: %v", method, text, err)
			}
			if _, err := io.Copy(io.Discard, resp.Body); err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Fatalf("%s: %q comes as %+v: %v", method, text, resp, err)
			}
			if rest, err := io.ReadAll(back); err != nil || len(rest) > 0 {
				t.Fatalf("%s: %q comes as more than one answer: %q, %v", method, text, rest, err)
			}
		}
	})
}
