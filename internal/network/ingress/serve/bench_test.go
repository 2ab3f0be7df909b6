package serve

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
)

// answering is a backend that answers everything with the same few bytes, as soon as it has read something.
func answering(l net.Listener, running *sync.WaitGroup) {
	answer := []byte("HTTP/1.1 200 OK\r\nServer: bench\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello")
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		running.Go(func() {
			defer func() { _ = c.Close() }() // nobody is left to be told
			for buf := make([]byte, 4096); ; {
				if _, err := c.Read(buf); err != nil {
					return
				}
				if _, err := c.Write(answer); err != nil {
					return
				}
			}
		})
	}
}

// BenchmarkSmallAnswer is a request over a connection that stays, through the ingress to a backend over another, and back.
func BenchmarkSmallAnswer(b *testing.B) {
	var listeners []net.Listener
	for range 3 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		listeners = append(listeners, l)
	}
	var running sync.WaitGroup
	running.Go(func() { answering(listeners[0], &running) })
	s := fuzzServer(netip.MustParseAddrPort(listeners[0].Addr().String()))
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := s.Serve(ctx, listeners[1], listeners[2]); err != nil {
			b.Error(err)
		}
	})
	defer func() {
		cancel()
		serving.Wait()
		s.Close()
		_ = listeners[0].Close()
		running.Wait()
	}()
	c, err := net.Dial("tcp", listeners[1].Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = c.Close() }() // before the server waits for it
	request, buf := []byte("GET /api/v1/things HTTP/1.1\r\nHost: a.example\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n"), make([]byte, 4096)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Write(request); err != nil {
			b.Fatal(err)
		}
		for n := 0; !bytes.HasSuffix(buf[:n], []byte("hello")); {
			m, err := c.Read(buf[n:])
			if err != nil && err != io.EOF {
				b.Fatal(err)
			}
			n += m
		}
	}
}
