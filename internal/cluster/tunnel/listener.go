package tunnel

import (
	"context"
	"net"
	"sync"
)

// Listener accepts what a listener of the kernel accepts, and connections from this process that no firewall sees.
type Listener struct {
	net.Listener
	conns  chan accepted
	closed chan struct{}
	once   sync.Once
	err    error
	pump   sync.WaitGroup
}

type accepted struct {
	net.Conn
	err error
}

// NewListener takes l over.
func NewListener(l net.Listener) *Listener {
	n := &Listener{Listener: l, conns: make(chan accepted), closed: make(chan struct{})}
	n.pump.Go(func() {
		for {
			c, err := l.Accept()
			select {
			case n.conns <- accepted{c, err}:
			case <-n.closed:
				if err == nil {
					_ = c.Close()
				}
				return
			}
		}
	})
	return n
}

// Accept implements net.Listener.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case <-l.closed: // also if somebody dials
		return nil, net.ErrClosed
	default:
	}
	select {
	case a := <-l.conns:
		return a.Conn, a.err
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener. It may be called again.
func (l *Listener) Close() error {
	l.once.Do(func() {
		close(l.closed)
		l.err = l.Listener.Close()
		l.pump.Wait()
	})
	return l.err
}

// Dial connects from within this process.
func (l *Listener) Dial(ctx context.Context) (net.Conn, error) {
	here, there := net.Pipe()
	select {
	case l.conns <- accepted{Conn: there}:
		return here, nil
	case <-l.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}
