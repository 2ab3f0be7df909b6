package userspace

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/celox/celox/internal/network/proxy"
)

const (
	// callTime is how long an endpoint may take to answer a call before another one is tried.
	callTime = 10 * time.Second
	// silence is after how long of it a peer is asked whether it is still there.
	silence = 2 * time.Minute
	// After an error of accept, which is one of this machine's (no descriptors, no memory), there is a pause that doubles.
	firstPause, lastPause = 5 * time.Millisecond, time.Second
)

// tcpServer takes the connections of one key.
type tcpServer struct {
	d   *Datapath
	key proxy.Key
	choice
	l *net.TCPListener
}

func (s *tcpServer) stop() error { return s.l.Close() }

// set changes where new connections go. Those that are open stay where they are.
func (s *tcpServer) set(f *proxy.Frontend) { s.front.Store(f) }

// run accepts until the listener is closed.
func (s *tcpServer) run() {
	pause := firstPause
	for {
		c, err := s.l.AcceptTCP()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case errors.Is(err, unix.EINVAL): // it listens no more: somebody shut it down
			s.d.lost(s.key, s)
			return
		case err != nil:
			s.d.cfg.Log.Error("service proxy: accept", "service", s.front.Load().Service, "where", s.key, "err", err)
			select {
			case <-s.d.ctx.Done():
				return
			case <-time.After(pause):
			}
			pause = min(2*pause, lastPause)
			continue
		}
		pause = firstPause
		s.d.wg.Go(func() { s.serve(c) })
	}
}

// serve connects a client with an endpoint, until both have said all.
func (s *tcpServer) serve(c *net.TCPConn) {
	client := addrOf(c.RemoteAddr()).Addr()
	if s.key.NodePort() && !s.d.nodePortAt(addrOf(c.LocalAddr()).Addr()) {
		reset(c)
		return
	}
	endpoint := s.call(client)
	if endpoint == nil {
		reset(c)
		return
	}
	stop := context.AfterFunc(s.d.ctx, func() {
		reset(c)
		reset(endpoint)
	})
	defer stop()
	var wg sync.WaitGroup
	wg.Go(func() { carry(endpoint, c) })
	carry(c, endpoint)
	wg.Wait()
	_ = c.Close() // both ends have been told
	_ = endpoint.Close()
}

// call returns a connection to an endpoint, or nil if none answers.
func (s *tcpServer) call(client netip.Addr) *net.TCPConn {
	now := time.Now()
	for _, to := range s.endpoints(client, now) {
		conn, err := s.d.dial("tcp", to)
		if err != nil {
			s.d.cfg.Log.Debug("service proxy: endpoint", "service", s.front.Load().Service, "endpoint", to, "err", err)
			continue
		}
		s.went(client, to, now)
		if tcp, ok := conn.(*net.TCPConn); ok {
			return tcp
		}
		_ = conn.Close() // cannot be
	}
	return nil
}

// carry copies what src says until it says no more, which dst is told; the kernel moves the bytes (splice). What goes wrong on the way ends both.
func carry(dst, src *net.TCPConn) {
	_, err := io.Copy(dst, src)
	if err == nil {
		err = dst.CloseWrite()
	}
	if err != nil {
		reset(src)
		reset(dst)
	}
}

// reset ends a connection at once; the other side is told that it was not in good order.
func reset(c *net.TCPConn) {
	_ = c.SetLinger(0) // fails for one that is closed, which is as well
	_ = c.Close()
}
