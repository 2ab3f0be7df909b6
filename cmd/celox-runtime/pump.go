package main

import (
	"errors"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	pumpBufferBytes = 32 << 10
	// sinkPatience is how long an attached client may hold up a container's
	// output before it is disconnected.
	sinkPatience = 10 * time.Second
)

// pump carries one output of a container, a FIFO or the master of its terminal,
// to its log and to whoever is attached.
type pump struct {
	file *os.File // non-blocking
	log  *criLog
	line lines
	done chan struct{}

	mu    sync.Mutex
	sinks map[*sink]struct{} // guarded by mu
}

// sink is one attached client's end of a stream.
type sink struct {
	file *os.File
	gone chan struct{} // closed when the client is too slow or has left
	once sync.Once
}

func newSink(f *os.File) *sink { return &sink{file: f, gone: make(chan struct{})} }

func (s *sink) drop() { s.once.Do(func() { close(s.gone) }) }

// buffers are shared by all pumps and only held while there is data, so that a
// quiet container costs no buffer.
type buffers struct{ read, entries sync.Pool }

func newBuffers() *buffers {
	return &buffers{
		read:    sync.Pool{New: func() any { b := make([]byte, pumpBufferBytes); return &b }},
		entries: sync.Pool{New: func() any { b := make([]byte, 0, pumpBufferBytes+pumpBufferBytes/4); return &b }},
	}
}

func newPump(f *os.File, stream string, log *criLog) *pump {
	return &pump{file: f, log: log, line: lines{stream: stream}, done: make(chan struct{}), sinks: map[*sink]struct{}{}}
}

// run copies until the end of the stream, or until stop. It closes done.
func (p *pump) run(b *buffers) {
	defer close(p.done)
	raw, err := p.file.SyscallConn()
	if err != nil {
		return
	}
	for {
		var buf *[]byte
		var n int
		var rerr error
		err := raw.Read(func(fd uintptr) bool {
			buf = b.read.Get().(*[]byte)
			for {
				n, rerr = unix.Read(int(fd), *buf)
				if !errors.Is(rerr, unix.EINTR) {
					break
				}
			}
			if errors.Is(rerr, unix.EAGAIN) {
				b.read.Put(buf)
				buf = nil
				return false
			}
			return true
		})
		if buf != nil && n > 0 && rerr == nil {
			p.deliver(b, (*buf)[:n])
		}
		if buf != nil {
			b.read.Put(buf)
		}
		if err != nil || rerr != nil || n == 0 {
			// A terminal whose last slave is closed answers EIO: its end.
			p.log.write(p.line.flush(nil, time.Now()))
			return
		}
	}
}

func (p *pump) deliver(b *buffers, data []byte) {
	entries := b.entries.Get().(*[]byte)
	out := p.line.append((*entries)[:0], data, time.Now())
	p.log.write(out)
	*entries = out[:0]
	if cap(out) <= 4*pumpBufferBytes {
		b.entries.Put(entries)
	}
	p.mu.Lock()
	sinks := make([]*sink, 0, len(p.sinks))
	for s := range p.sinks {
		sinks = append(sinks, s)
	}
	p.mu.Unlock()
	for _, s := range sinks {
		_ = s.file.SetWriteDeadline(time.Now().Add(sinkPatience))
		if _, err := s.file.Write(data); err != nil {
			p.remove(s)
			s.drop()
		}
	}
}

func (p *pump) add(s *sink) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sinks[s] = struct{}{}
}

func (p *pump) remove(s *sink) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.sinks, s)
}

// stop ends run without closing the file: what was read is in the log.
func (p *pump) stop() {
	_ = p.file.SetReadDeadline(time.Unix(1, 0))
	<-p.done
}

// drain waits for the end of the stream, but no longer than patience: an
// escaped process may hold it open for ever.
func (p *pump) drain(patience time.Duration) {
	select {
	case <-p.done:
	case <-time.After(patience):
		p.stop()
	}
	_ = p.file.Close()
}
