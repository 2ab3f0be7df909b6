package holder

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func connPair(t testing.TB) (a, b *Conn) {
	t.Helper()
	path := filepath.Join(t.TempDir(), strings.Repeat("deep/", 30))
	if err := os.MkdirAll(path, 0o755); err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(path, "socket") // longer than sockaddr_un
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	accepted := make(chan *net.UnixConn, 1)
	go func() {
		c, _ := l.AcceptUnix()
		accepted <- c
	}()
	c, err := Dial(path)
	if err != nil {
		t.Fatal(err)
	}
	a, b = NewConn(c), NewConn(<-accepted)
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

func TestMessagesAndDescriptors(t *testing.T) {
	a, b := connPair(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	big := Request{Op: OpStart, ID: strings.Repeat("x", 300_000)}
	sent := make(chan error, 1)
	go func() {
		err := a.Send(Request{Op: OpExec, Streams: Streams{Out: true}}, w)
		w.Close()
		if err == nil {
			err = a.Send(big)
		}
		sent <- err
	}()
	var got Request
	files, err := b.Receive(&got)
	if err != nil || got.Op != OpExec || len(files) != 1 || got.Streams.count() != 1 {
		t.Fatalf("%+v, %d files, %v", got, len(files), err)
	}
	files[0].WriteString("hi")
	files[0].Close()
	if text, err := io.ReadAll(r); err != nil || string(text) != "hi" {
		t.Errorf("through the descriptor: %q, %v", text, err)
	}
	got = Request{}
	if files, err := b.Receive(&got); err != nil || len(files) != 0 || got.ID != big.ID {
		t.Errorf("second message: %d bytes, %d files, %v", len(got.ID), len(files), err)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
	a.Close()
	if _, err := b.Receive(&got); !errors.Is(err, io.EOF) {
		t.Errorf("after the end: %v", err)
	}
}

func TestOversizedMessageIsRefused(t *testing.T) {
	if _, err := encode(Request{ID: strings.Repeat("x", MaxMessageBytes)}); err == nil {
		t.Error("an oversized message was encoded")
	}
	var header [4]byte
	binary.BigEndian.PutUint32(header[:], MaxMessageBytes+1)
	if err := decode(header, strings.NewReader(""), &Request{}); err == nil {
		t.Error("an oversized message was decoded")
	}
}

func FuzzDecode(f *testing.F) {
	for _, m := range []any{Request{Op: OpHello}, Request{Op: OpStart, Task: &Task{ID: "a", Stdin: true}}, Response{States: []State{{ID: "b", Phase: PhaseRunning}}}} {
		frame, err := encode(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(frame)
	}
	f.Add([]byte{0, 0, 0, 2, '{', '}'})
	f.Add([]byte{255, 255, 255, 255})
	f.Add([]byte{0, 0, 0, 9, '{'})
	f.Fuzz(func(t *testing.T, frame []byte) {
		if len(frame) < 4 {
			return
		}
		var req Request
		if err := decode([4]byte(frame[:4]), bytes.NewReader(frame[4:]), &req); err != nil {
			return
		}
		again, err := encode(req)
		if err != nil {
			t.Fatal(err)
		}
		var second Request
		if err := decode([4]byte(again[:4]), bytes.NewReader(again[4:]), &second); err != nil {
			t.Fatalf("what was encoded does not decode: %v", err)
		}
		if second.Op != req.Op || second.ID != req.ID {
			t.Errorf("%+v became %+v", req, second)
		}
	})
}

func TestProcStat(t *testing.T) {
	own, err := ReadProcStat(os.Getpid())
	if err != nil || own.StartTicks == 0 || own.StartCode == 0 || own.Parent != os.Getppid() || !strings.HasPrefix(filepath.Base(os.Args[0]), own.Name) {
		t.Fatalf("%+v, %v", own, err)
	}
}

func FuzzProcStat(f *testing.F) {
	data, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte("1 (a) b) Z 1 2"))
	f.Add([]byte(""))
	f.Fuzz(func(_ *testing.T, data []byte) { _, _ = parseProcStat(data) })
}

// TestShutdownOfOneThatEnds: a holder that hangs up, before it is asked to end or while it is, has ended.
func TestShutdownOfOneThatEnds(t *testing.T) {
	layout := Layout(t.TempDir())
	l, err := Listen(layout.Socket())
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.AcceptUnix()
			if err != nil {
				return
			}
			c.Close()
		}
	})
	for range 300 {
		if err := shutdown(t.Context(), layout); err != nil {
			t.Error(err)
			break
		}
	}
	l.Close()
	wg.Wait()
	if err := shutdown(t.Context(), layout); err != nil {
		t.Error(err)
	}
}
