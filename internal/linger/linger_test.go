package linger

import (
	"bytes"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pair is a connection's two ends, the first accepted by a listener that lingers.
func pair(t *testing.T) (server, client net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if client, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	if server, err = Listener(l).Accept(); err != nil {
		t.Fatal(err)
	}
	return server, client
}

func TestNothingIsTakenBack(t *testing.T) {
	server, client := pair(t)
	if _, err := client.Write([]byte("a ping that nobody reads")); err != nil {
		t.Fatal(err)
	}
	sent := bytes.Repeat([]byte("x"), 8<<20) // more than the kernel holds
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := server.Write(sent); err != nil {
			t.Error(err)
		}
		if err := server.Close(); err != nil {
			t.Error(err)
		}
		if err := server.Close(); err != nil {
			t.Errorf("again: %v", err)
		}
	})
	got, err := io.ReadAll(client)
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("%d bytes of %d arrived: %v", len(got), len(sent), err)
	}
	if err := client.Close(); err != nil {
		t.Error(err)
	}
	wg.Wait()
}

func TestSomebodyReads(t *testing.T) {
	server, client := pair(t)
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = io.Copy(io.Discard, server) }) // ends with the connection
	wg.Go(func() { _ = server.Close() })
	if n, err := client.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("%d bytes, %v", n, err)
	}
	_ = client.Close()
	wg.Wait()
}

func TestOneThatHasNoSides(t *testing.T) {
	a, b := net.Pipe()
	defer b.Close()
	if err := Conn(a).Close(); err != nil {
		t.Error(err)
	}
	_ = b.SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := b.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the other end: %v", err)
	}
}
