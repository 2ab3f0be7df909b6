package serve

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// deadAddress is one that nobody listens on.
func deadAddress(t *testing.T) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return netip.MustParseAddrPort(l.Addr().String())
}

// What cannot be reached costs no request while something else can, and is left alone for a while.
func TestRetry(t *testing.T) {
	both(t, func(t *testing.T, h2 bool) {
		st := newStage(t, Config{})
		st.backend("a", hello("a"))
		st.endpoints["a"] = append(st.endpoints["a"], deadAddress(t), deadAddress(t))
		st.set(ingressOf("i", nil, "a.example/>a"), ingressOf("j", nil, "b.example/>b"))
		c := st.client(h2)
		for i := range 40 {
			method, body := "GET", io.Reader(nil)
			if i%2 == 0 {
				method, body = "POST", strings.NewReader("hello")
			}
			if code, text, _ := get(t, c, request(t, method, "https://a.example/", body)); code != 200 || text != "a /" {
				t.Fatalf("%s %d: got %d %q", method, i, code, text)
			}
		}
		st.move("a", deadAddress(t))
		if code, _, _ := get(t, c, request(t, "GET", "https://a.example/", nil)); code != 502 {
			t.Errorf("with nobody there: %d", code)
		}
		st.move("a")
		if code, _, _ := get(t, c, request(t, "GET", "https://a.example/", nil)); code != 503 {
			t.Errorf("without endpoints: %d", code)
		}
	})
}

// Endpoints come and go all the time, as in a rollout, and no request fails.
func TestRollout(t *testing.T) {
	both(t, func(t *testing.T, h2 bool) {
		st := newStage(t, Config{})
		type process struct {
			*httptest.Server
			at netip.AddrPort
		}
		start := func() process {
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body) // what comes
				_, _ = io.WriteString(w, "ok")
			}))
			return process{s, addrOfServer(t, s)}
		}
		var living []process
		addrs := func() (out []netip.AddrPort) {
			for _, p := range living {
				out = append(out, p.at)
			}
			return out
		}
		for range 3 {
			living = append(living, start())
		}
		st.endpoints["a"] = addrs()
		st.set(ingressOf("i", nil, "a.example/>a"))
		ctx, cancel := context.WithCancel(t.Context())
		var clients sync.WaitGroup
		var sent atomic.Int64
		for worker := range 4 {
			clients.Go(func() {
				c := st.client(h2)
				for i := 0; ctx.Err() == nil; i++ {
					method, body := "GET", io.Reader(nil)
					if (i+worker)%3 == 0 {
						method, body = "PUT", strings.NewReader("hello")
					}
					req, err := http.NewRequest(method, "https://a.example/", body)
					if err != nil {
						t.Error(err)
						return
					}
					resp, err := c.Do(req)
					if err != nil {
						t.Error(err)
						return
					}
					text, err := io.ReadAll(resp.Body)
					_ = resp.Body.Close()
					if err != nil || resp.StatusCode != 200 || string(text) != "ok" {
						t.Errorf("%s: %d %q %v", method, resp.StatusCode, text, err)
						return
					}
					sent.Add(1)
				}
			})
		}
		for range 15 {
			next, gone := start(), living[0]
			living = append(living[1:], next)
			seen := sent.Load()
			if len(living)%2 == 0 {
				gone.Close() // it dies before anybody knows
			}
			st.move("a", addrs()...)
			gone.Close() // which waits for requests, but not for connections
			for sent.Load() < seen+20 && !t.Failed() {
				time.Sleep(time.Millisecond) // there is no one event for so many requests
			}
		}
		cancel()
		clients.Wait()
		for _, p := range living {
			p.Close()
		}
	})
}

// The server ends: who has a request gets its answer, nobody a broken one.
func TestDrain(t *testing.T) {
	both(t, func(t *testing.T, h2 bool) {
		st := newStage(t, Config{})
		begun, end := make(chan struct{}), make(chan struct{})
		st.backend("a", func(w http.ResponseWriter, r *http.Request) {
			close(begun)
			<-end
			_, _ = io.WriteString(w, "done")
		})
		st.set(ingressOf("i", nil, "a.example/>a"))
		answer := make(chan string, 1)
		c := st.client(h2)
		go func() {
			resp, err := c.Get("https://a.example/")
			if err != nil {
				answer <- err.Error()
				return
			}
			defer func() { _ = resp.Body.Close() }()
			body, err := io.ReadAll(resp.Body)
			answer <- fmt.Sprint(string(body), err)
		}()
		<-begun
		stopped := make(chan struct{})
		go func() {
			st.stop()
			close(stopped)
		}()
		for st.listening() {
			time.Sleep(time.Millisecond) // nobody tells when a port is closed
		}
		close(end)
		if got := <-answer; got != "done<nil>" {
			t.Errorf("got %q", got)
		}
		<-stopped
	})
}

func (st *stage) listening() bool {
	c, err := net.Dial("tcp", st.plain)
	if err != nil {
		return false
	}
	_ = c.Close()
	return true
}
