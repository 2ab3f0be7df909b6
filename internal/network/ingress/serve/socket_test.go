package serve

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"
)

// tcpPair is a connection's two ends.
func tcpPair(t *testing.T) (ours *socket, theirs *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	a, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = a.Close()
		_ = b.Close()
	})
	s, err := newSocket(a.(*net.TCPConn))
	if err != nil {
		t.Fatal(err)
	}
	return s, b.(*net.TCPConn)
}

// TestSocket: reads and writes of all sizes arrive whole, wait where they have to, and end as those of other connections.
func TestSocket(t *testing.T) {
	s, peer := tcpPair(t)
	if err := s.SetWriteBuffer(1); err != nil { // as small as may be: writes have to wait
		t.Fatal(err)
	}
	var want bytes.Buffer
	for n := 1; n < 300_000; n = n*3 + 1 {
		want.Write(bytes.Repeat([]byte{byte(n)}, n))
	}
	var writing sync.WaitGroup
	writing.Go(func() {
		for rest, n := want.Bytes(), 1; len(rest) > 0; n = n*3 + 1 {
			m, err := s.Write(rest[:min(n, len(rest))])
			if err != nil {
				t.Errorf("write: %v", err)
				return
			}
			rest = rest[m:]
		}
		if err := s.CloseWrite(); err != nil {
			t.Error(err)
		}
	})
	got, err := io.ReadAll(peer)
	writing.Wait()
	if err != nil || !bytes.Equal(got, want.Bytes()) {
		t.Errorf("%d of %d bytes, %v", len(got), want.Len(), err)
	}

	writing.Go(func() {
		_, _ = peer.Write(want.Bytes()) // what is read says how it went
		_ = peer.CloseWrite()
	})
	got, err = io.ReadAll(s)
	writing.Wait()
	if err != nil || !bytes.Equal(got, want.Bytes()) {
		t.Errorf("%d of %d bytes, %v", len(got), want.Len(), err)
	}
	if err := s.SetReadDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Read(make([]byte, 1)); !timedOut(err) {
		t.Errorf("after the deadline: %v", err)
	}
	_ = s.Close()
	if _, err := s.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("read of a closed one: %v", err)
	}
	if _, err := s.Write(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("write to a closed one: %v", err)
	}
}

// TestAsk: a request that does not fit at once is sent whole, and one on a connection that is not good is not sent at all.
func TestAsk(t *testing.T) {
	s, peer := tcpPair(t)
	request := bytes.Repeat([]byte("request "), rawMost/8)
	var answering sync.WaitGroup
	for round := range 4 {
		before := 0
		if round%2 == 1 { // there is no room
			if err := s.SetWriteDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
				t.Fatal(err)
			}
			n, err := s.Write(make([]byte, 64<<20))
			if !timedOut(err) {
				t.Fatalf("the peer takes everything: %v", err)
			}
			before = n
			if err := s.SetWriteDeadline(time.Time{}); err != nil {
				t.Fatal(err)
			}
		}
		answering.Go(func() {
			if _, err := io.CopyN(io.Discard, peer, int64(before)); err != nil {
				t.Error(err)
			}
			got := make([]byte, len(request))
			if _, err := io.ReadFull(peer, got); err != nil || !bytes.Equal(got, request) {
				t.Errorf("the request is another: %v", err)
			}
			_, _ = peer.Write([]byte("answer")) // what is read says how it went
		})
		in := make([]byte, 100)
		n, err := s.ask(request, in, round > 0)
		answering.Wait()
		if err != nil || string(in[:n]) != "answer" {
			t.Errorf("got %q, %v", in[:n], err)
		}
	}
	if err := s.SetReadDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.ask([]byte("x"), make([]byte, 100), true); !timedOut(err) {
		t.Errorf("without an answer: %v", err)
	}
	if err := s.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(peer, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if _, err := peer.Write([]byte("unasked")); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(patience); s.quiet(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("what the peer said never comes")
		}
	}
	if _, err := s.ask([]byte("x"), make([]byte, 100), true); !errors.Is(err, errStale) {
		t.Errorf("on a connection that is not good: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(peer); len(got) > 0 {
		t.Errorf("it was asked %q, %v", got, err)
	}
}

// Connections that wait are left when something was said on them, or they ended: whatever the request, it gets the answer that is its own.
func TestConnectionsThatWait(t *testing.T) {
	for name, spoil := range map[string]func(c net.Conn) error{
		"closed": func(c net.Conn) error { return c.Close() },
		"unasked": func(c net.Conn) error {
			_, err := c.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"))
			return err
		},
		"half": func(c net.Conn) error { return c.(*net.TCPConn).CloseWrite() },
	} {
		for _, request := range []string{"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n", "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 3\r\n\r\nabc"} {
			t.Run(name+" "+request[:4], func(t *testing.T) {
				st := newStage(t, Config{})
				l, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					t.Fatal(err)
				}
				var serving sync.WaitGroup
				conns := make(chan net.Conn, 10)
				serving.Go(func() {
					for {
						c, err := l.Accept()
						if err != nil {
							return
						}
						conns <- c
						serving.Go(func() {
							defer func() { _ = c.Close() }() // it may be closed already
							for r := bufio.NewReader(c); ; {
								req, err := http.ReadRequest(r)
								if err != nil {
									return
								}
								_, _ = io.Copy(io.Discard, req.Body)
								if _, err := io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood"); err != nil {
									return
								}
							}
						})
					}
				})
				defer serving.Wait()
				defer st.stop()
				defer func() { _ = l.Close() }()
				st.endpoints["a"] = []netip.AddrPort{netip.MustParseAddrPort(l.Addr().String())}
				st.set(ingressOf("i", nil, "a.example/>a"))
				ask := func() {
					t.Helper()
					got := st.raw(request, 1)
					if len(got) != 1 || got[0].StatusCode != 200 {
						t.Fatalf("got %+v", got)
					}
					if body, err := io.ReadAll(got[0].Body); err != nil || string(body) != "good" {
						t.Fatalf("got %q, %v", body, err)
					}
				}
				ask()
				if err := spoil(<-conns); err != nil {
					t.Fatal(err)
				}
				spoilt := func() bool {
					for b := range st.s.snap.Load().table.Backends() {
						st.s.mu.Lock()
						i := &(*st.s.backends[b].endpoints.Load())[0].idle
						st.s.mu.Unlock()
						i.mu.Lock()
						defer i.mu.Unlock()
						return len(i.conns) == 1 && !i.conns[0].wire.quiet()
					}
					return false
				}
				for end := time.Now().Add(patience); !spoilt(); time.Sleep(time.Millisecond) {
					if time.Now().After(end) {
						t.Fatal("the connection does not wait, or nothing comes on it")
					}
				}
				ask()
			})
		}
	}
}

// TestSilentBackend: the time for an answer counts on connections that waited as on new ones.
func TestSilentBackend(t *testing.T) {
	st := newStage(t, Config{})
	silent := make(chan struct{})
	st.backend("a", func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/silent") {
			<-silent
		}
	})
	st.set(ingressOf("i", map[string]string{"proxy-read-timeout": "100ms"}, "a.example/>a"))
	defer close(silent)
	for _, path := range []string{"/", "/silent", "/", "/silent"} {
		want := http.StatusOK
		if path == "/silent" {
			want = http.StatusGatewayTimeout
		}
		got := st.raw("GET "+path+" HTTP/1.1\r\nHost: a.example\r\n\r\n", 1)
		if len(got) != 1 || got[0].StatusCode != want && want != http.StatusOK {
			t.Errorf("%s: %+v, want %d", path, got, want)
		}
	}
}
