package tunnel

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"testing"

	"k8s.io/apiserver/pkg/authentication/user"
)

// BenchmarkIdleTunnels says what a tunnel over which nothing goes costs the server.
func BenchmarkIdleTunnels(b *testing.B) {
	const agents = 200
	for b.Loop() {
		s := newStage(b)
		numbered := 0
		s.hub.authenticate = func(*http.Request) (user.Info, bool, error) {
			numbered++ // they come one after another
			return node(fmt.Sprint(numbered)), true, nil
		}
		config := s.config().TLS()
		var conns []net.Conn
		before := used()
		for range agents {
			// As little as possible on the agent's side.
			raw, err := net.Dial("tcp", s.server.Listener.Addr().String())
			if err != nil {
				b.Fatal(err)
			}
			c := tls.Client(raw, &tls.Config{RootCAs: config.RootCAs, ServerName: "127.0.0.1", NextProtos: []string{"http/1.1"}, CurvePreferences: []tls.CurveID{tls.X25519}})
			if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", Path, protocol); err != nil {
				b.Fatal(err)
			}
			if _, err := http.ReadResponse(bufio.NewReaderSize(c, 1<<10), nil); err != nil {
				b.Fatal(err)
			}
			conns = append(conns, c)
		}
		b.ReportMetric(float64(used()-before)/agents/1024, "KiB/tunnel")
		for _, c := range conns {
			_ = c.Close()
		}
		until(b, "end of all tunnels", s.hub.Empty)
		s.server.Close()
	}
}

// used is the memory of heap and stacks.
func used() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

// BenchmarkStream passes data through a tunnel on the machine's loopback, TLS included.
func BenchmarkStream(b *testing.B) {
	s := newStage(b)
	s.reach = func(context.Context, string) (net.Conn, error) {
		here, there := net.Pipe()
		go func() {
			_, _ = io.Copy(there, endless{})
			_ = there.Close()
		}()
		return here, nil
	}
	s.agent(s.config())
	until(b, "tunnel", func() bool { return s.hub.Has("n") })
	c := s.dial(API)
	buf := make([]byte, 64<<10)
	b.SetBytes(int64(len(buf)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := io.ReadFull(c, buf); err != nil {
			b.Fatal(err)
		}
	}
	_ = c.Close()
}

// BenchmarkDial opens connections through a tunnel.
func BenchmarkDial(b *testing.B) {
	s := newStage(b)
	s.reach = func(context.Context, string) (net.Conn, error) {
		here, there := net.Pipe()
		_ = there.Close()
		return here, nil
	}
	s.agent(s.config())
	until(b, "tunnel", func() bool { return s.hub.Has("n") })
	b.ReportAllocs()
	for b.Loop() {
		c, err := s.hub.Dial(b.Context(), "n", API)
		if err != nil {
			b.Fatal(err)
		}
		_ = c.Close()
	}
}

// endless is data that never ends.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }
