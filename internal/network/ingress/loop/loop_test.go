package loop

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long something may take that certainly happens.
const patience = time.Minute

// start runs a loop until the test ends.
func start(t *testing.T) *Loop {
	t.Helper()
	l, err := New()
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- l.Run() }()
	t.Cleanup(func() {
		l.Stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return l
}

// pair is a connection's two ends.
func pair(t *testing.T) (ours, theirs *net.TCPConn) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	a, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = a.Close() // they may be closed already
		_ = b.Close()
	})
	if err := b.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return a.(*net.TCPConn), b.(*net.TCPConn)
}

// spawn has f called with a socket of a new task, and returns what tells that it has ended, and the other end.
func spawn(t *testing.T, l *Loop, f func(s *Socket)) (ended chan struct{}, peer *net.TCPConn) {
	t.Helper()
	ours, peer := pair(t)
	ended = make(chan struct{})
	if !l.Spawn(func() {
		defer close(ended)
		s, err := l.Adopt(ours)
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = s.Close() }() // it may be closed already
		f(s)
	}) {
		t.Fatal("the loop takes no task")
	}
	return ended, peer
}

// TestEcho: what many connections say arrives whole and in order, in pieces of all sizes, where reading and writing have to wait as well.
func TestEcho(t *testing.T) {
	l := start(t)
	var want bytes.Buffer
	for n := 1; n < 100_000; n = n*3 + 1 {
		want.Write(bytes.Repeat([]byte{byte(n)}, n))
	}
	var asking sync.WaitGroup
	for range 5 {
		ended, peer := spawn(t, l, func(s *Socket) {
			if _, err := io.CopyBuffer(struct{ io.Writer }{s}, struct{ io.Reader }{s}, make([]byte, 50_000)); err != nil {
				t.Error(err)
			}
			if err := s.CloseWrite(); err != nil {
				t.Error(err)
			}
		})
		if err := peer.SetReadBuffer(16 << 10); err != nil { // writes have to wait
			t.Fatal(err)
		}
		asking.Go(func() {
			for rest, n := want.Bytes(), 1; len(rest) > 0; n = n*3 + 1 {
				m, err := peer.Write(rest[:min(n, len(rest))])
				if err != nil {
					t.Error(err)
					return
				}
				rest = rest[m:]
			}
			if err := peer.CloseWrite(); err != nil {
				t.Error(err)
			}
		})
		asking.Go(func() {
			if got, err := io.ReadAll(peer); err != nil || !bytes.Equal(got, want.Bytes()) {
				t.Errorf("%d of %d bytes, %v", len(got), want.Len(), err)
			}
			<-ended
		})
	}
	asking.Wait()
}

// TestDeadlines: who waits longer than he may is told so, reading and writing, whoever set the deadline, and can go on afterwards.
func TestDeadlines(t *testing.T) {
	l := start(t)
	waits := make(chan *Socket)
	ended, peer := spawn(t, l, func(s *Socket) {
		expired := func(what string, err error) {
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%s: %v", what, err)
			}
		}
		var b [1]byte
		_ = s.SetReadDeadline(time.Now().Add(20 * time.Millisecond)) // never fails
		_, err := s.Read(b[:])
		expired("reading", err)
		expired("waiting", s.Wait())
		_ = s.SetWriteDeadline(time.Now().Add(20 * time.Millisecond)) // as above
		n, err := s.Write(make([]byte, 64<<20))
		expired("writing", err)
		if n == 0 {
			t.Error("nothing was written")
		}
		_ = s.SetDeadline(time.Now().Add(patience)) // as above
		go func() { waits <- s }()
		_, err = s.Read(b[:])
		expired("reading, and another sets the deadline", err)
		_ = s.SetDeadline(time.Time{}) // as above
		if err := s.CloseWrite(); err != nil {
			t.Error(err)
		}
		if _, err := s.Read(b[:]); err != nil || b[0] != 'x' {
			t.Errorf("got %q, %v", b, err)
		}
	})
	s := <-waits
	l.Post(func() { _ = s.SetReadDeadline(time.Unix(1, 0)) }) // as above
	if _, err := io.Copy(io.Discard, peer); err != nil {
		t.Fatal(err)
	}
	if _, err := peer.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	<-ended
}

// TestTurns: somebody who always has something to read, and somebody who waits for something else, hold up nobody.
func TestTurns(t *testing.T) {
	l := start(t)
	busy, much := spawn(t, l, func(s *Socket) {
		if _, err := io.Copy(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{s}); err != nil {
			t.Error(err)
		}
	})
	goOn := make(chan struct{})
	away, _ := spawn(t, l, func(*Socket) { l.Away(func() { <-goOn }) })
	stop := make(chan struct{})
	var writing sync.WaitGroup
	writing.Go(func() {
		for b := make([]byte, 1<<20); ; {
			select {
			case <-stop:
				_ = much.Close() // whoever reads sees it
				return
			default:
			}
			if _, err := much.Write(b); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for range 10 {
		ended, peer := spawn(t, l, func(s *Socket) {
			var b [1]byte
			if _, err := s.Read(b[:]); err != nil || b[0] != 'x' {
				t.Errorf("got %q, %v", b, err)
			}
		})
		if _, err := peer.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		<-ended
	}
	select {
	case <-busy:
		t.Error("who reads has ended")
	case <-away:
		t.Error("who is away has ended")
	default:
	}
	close(stop)
	close(goOn)
	writing.Wait()
	<-busy
	<-away
}

// TestRelease: a connection goes on in a goroutine, with what was not read and without the deadlines.
func TestRelease(t *testing.T) {
	l := start(t)
	released := make(chan net.Conn, 1)
	ended, peer := spawn(t, l, func(s *Socket) {
		_ = s.SetDeadline(time.Now().Add(time.Minute)) // never fails
		var b [1]byte
		if _, err := s.Read(b[:]); err != nil {
			t.Error(err)
		}
		c, err := s.Release()
		if err != nil {
			t.Error(err)
		}
		released <- c
		if _, err := s.Read(b[:]); !errors.Is(err, net.ErrClosed) {
			t.Errorf("afterwards: %v", err)
		}
		if s.Quiet() {
			t.Error("it is quiet afterwards")
		}
	})
	if _, err := peer.Write([]byte("abc")); err != nil {
		t.Fatal(err)
	}
	<-ended
	c := <-released
	defer func() { _ = c.Close() }() // nobody is left to be told
	if err := peer.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(c); err != nil || string(got) != "bc" {
		t.Errorf("got %q, %v", got, err)
	}
	if _, ok := c.(*net.TCPConn); !ok {
		t.Errorf("it is a %T", c)
	}
}

// TestQuiet: what has come and was not read makes a socket not quiet, and so does the end.
func TestQuiet(t *testing.T) {
	l := start(t)
	for name, speak := range map[string]func(*net.TCPConn) error{
		"bytes": func(c *net.TCPConn) error {
			_, err := c.Write([]byte("x"))
			return err
		},
		"the end": func(c *net.TCPConn) error { return c.CloseWrite() },
	} {
		quiet, speaks := make(chan struct{}), make(chan error, 1)
		ended, peer := spawn(t, l, func(s *Socket) {
			if !s.Quiet() {
				t.Error("it is not quiet from the beginning")
			}
			close(quiet)
			l.Away(func() { <-speaks })
			for end := time.Now().Add(patience); s.Quiet(); l.Away(func() { time.Sleep(time.Millisecond) }) {
				if time.Now().After(end) {
					t.Errorf("%s never come", name)
					return
				}
			}
			if err := s.Wait(); err != nil {
				t.Error(err)
			}
		})
		<-quiet
		speaks <- speak(peer)
		<-ended
	}
}

// TestStop: the loop ends after its last task, takes no other before, and closes what is open.
func TestStop(t *testing.T) {
	l, err := New()
	if err != nil {
		t.Fatal(err)
	}
	running := make(chan error, 1)
	go func() { running <- l.Run() }()
	ours, peer := pair(t)
	kept := make(chan *Socket, 1)
	if !l.Spawn(func() {
		s, err := l.Adopt(ours)
		if err != nil {
			t.Error(err)
			return
		}
		kept <- s // nobody closes it
	}) {
		t.Fatal("the loop takes no task")
	}
	open := <-kept
	waits := make(chan *Socket, 1)
	ended, _ := spawn(t, l, func(s *Socket) {
		waits <- s
		if _, err := s.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("got %v", err)
		}
	})
	s := <-waits
	l.Stop()
	if l.Spawn(func() { t.Error("a task after the end") }) {
		t.Error("the loop takes a task")
	}
	select {
	case err := <-running:
		t.Fatalf("the loop has ended before its task: %v", err)
	default:
	}
	s.CloseLater()
	<-ended
	if err := <-running; err != nil {
		t.Error(err)
	}
	if got, err := io.ReadAll(peer); err != nil || len(got) > 0 {
		t.Errorf("got %q, %v", got, err)
	}
	if l.Post(func() { t.Error("a call after the end") }) || l.Tasks() != 0 {
		t.Error("the loop is not over")
	}
	open.CloseLater() // once more does no harm
}
