package linger

import (
	"io"
	"net"
	"sync"
	"time"
)

// patience is how long the other side may take to read the rest and to close its end.
const patience = 5 * time.Second

// conn says goodbye before it closes.
type conn struct {
	net.Conn
	once sync.Once
	err  error
}

// Conn returns c with a Close that first ends the sending side (TCP's FIN, TLS's close_notify), then reads and drops what still comes until the
// other side has closed as well, for some seconds at most. Close may be called several times and while others read. A connection whose sides
// cannot be ended one by one is closed at once.
func Conn(c net.Conn) net.Conn { return &conn{Conn: c} }

func (c *conn) Close() error {
	c.once.Do(func() {
		half, ok := c.Conn.(interface{ CloseWrite() error })
		if !ok || half.CloseWrite() != nil {
			c.err = c.Conn.Close()
			return
		}
		// Not a deadline: those belong to who uses the connection.
		late := time.AfterFunc(patience, func() { _ = c.Conn.Close() })
		_, _ = io.Copy(io.Discard, c.Conn) // however it ends
		if late.Stop() {
			c.err = c.Conn.Close()
		}
	})
	return c.err
}

// Listener returns l with connections that linger.
func Listener(l net.Listener) net.Listener { return listener{l} }

type listener struct{ net.Listener }

func (l listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return Conn(c), nil
}
