package networktest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"
)

// answerTime is how long a client waits. What never answers costs it; a busy machine may need much of it.
const answerTime = 5 * time.Second

// Echo answers on a port, over TCP and UDP, with the machine's name and the address that it was called from, as "name address".
func (m *Machine) Echo(port int) {
	m.t.Helper()
	addr := fmt.Sprintf(":%d", port)
	var l net.Listener
	var p net.PacketConn
	m.Must(func() (err error) {
		if l, err = net.Listen("tcp", addr); err != nil {
			return err
		}
		p, err = net.ListenPacket("udp", addr)
		return err
	})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = fmt.Fprintf(c, "%s %s", m.Name, host(c.RemoteAddr()))
			c.Close()
		}
	})
	wg.Go(func() {
		b := make([]byte, 100)
		for {
			_, from, err := p.ReadFrom(b)
			if err != nil {
				if errors.Is(err, net.ErrClosed) {
					return
				}
				continue
			}
			_, _ = p.WriteTo([]byte(m.Name+" "+host(from)), from)
		}
	})
	m.t.Cleanup(func() {
		l.Close()
		p.Close()
		wg.Wait()
	})
}

func host(a net.Addr) string {
	h, _, err := net.SplitHostPort(a.String())
	if err != nil {
		return err.Error()
	}
	return strings.TrimPrefix(h, "::ffff:")
}

// Call calls an Echo over "tcp" or "udp" and returns who answered and which address it saw.
func (m *Machine) Call(network, addr string) (who, from string, err error) {
	return m.CallFor(answerTime, network, addr)
}

// CallFor is Call with a patience of its own.
func (m *Machine) CallFor(patience time.Duration, network, addr string) (who, from string, err error) {
	err = m.Do(func() error {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		// A dialer's goroutines would be in other namespaces: one address, no fallback, no resolver.
		c, err := (&net.Dialer{FallbackDelay: -1}).DialContext(ctx, network, addr)
		if err != nil {
			return err
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
			return err
		}
		if network == "udp" {
			if _, err := c.Write([]byte("hello")); err != nil {
				return err
			}
		}
		b := make([]byte, 200)
		n, err := c.Read(b)
		who, from, _ = strings.Cut(string(b[:n]), " ")
		return err
	})
	return who, from, err
}

// Talk opens one connection to an Echo over UDP. say sends on it; answer returns who answered.
func (m *Machine) Talk(network, addr string) (say func() error, answer func() string) {
	m.t.Helper()
	var c net.Conn
	m.Must(func() (err error) {
		c, err = (&net.Dialer{FallbackDelay: -1}).Dial(network, addr)
		return err
	})
	m.t.Cleanup(func() { c.Close() })
	say = func() error {
		_, err := c.Write([]byte("hello"))
		return err
	}
	return say, func() string {
		b := make([]byte, 200)
		if err := c.SetReadDeadline(time.Now().Add(answerTime)); err != nil {
			return err.Error()
		}
		n, err := c.Read(b)
		if err != nil {
			return err.Error()
		}
		who, _, _ := strings.Cut(string(b[:n]), " ")
		return who
	}
}
