package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// inSize is how long a question over UDP may be. Plain ones have no more than maxName and a few bytes.
const inSize = 1232

// udpReader answers what arrives at one socket. Packets are taken and answered many at a time; while nothing arrives it has no buffers.
type udpReader struct {
	s    *Server
	conn *net.UDPConn
	raw  syscall.RawConn

	batch *batch // nil while it waits
	n     int    // packets in it
	errno unix.Errno

	// The functions that the socket is given, made once.
	receive, send func(fd uintptr) bool

	question question
	key      []byte
	count    tally
}

func newUDPReader(s *Server, c *net.UDPConn) (*udpReader, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("dns: %w", err)
	}
	r := &udpReader{s: s, conn: c, raw: raw, key: make([]byte, 0, maxName+8), count: tally{network: "udp"}}
	r.receive, r.send = r.tryReceive, r.trySend
	return r, nil
}

// tryReceive takes what is there; false is that the socket has to be waited for.
func (r *udpReader) tryReceive(fd uintptr) bool {
	if r.batch == nil {
		r.batch = r.s.batches.Get().(*batch)
	}
	r.n, r.errno = r.batch.receive(fd)
	if r.errno == unix.EAGAIN || r.errno == unix.EINTR {
		r.s.batches.Put(r.batch)
		r.batch = nil
		return false
	}
	return true
}

// trySend sends answers; false is that there is no room for more at the moment.
func (r *udpReader) trySend(fd uintptr) bool {
	for r.batch.sent < r.batch.filled {
		switch errno := r.batch.send(fd); errno {
		case 0, unix.EINTR:
		case unix.EAGAIN:
			return false
		default:
			r.batch.sent++ // who is gone gets nothing
		}
	}
	return true
}

// run answers until the socket is closed.
func (r *udpReader) run(ctx context.Context) error {
	for {
		if err := r.raw.Read(r.receive); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("dns: %w", err)
		}
		if r.errno != 0 {
			continue // an error of an earlier answer, such as that nobody was there any more
		}
		start := time.Now()
		r.batch.filled, r.batch.sent = 0, 0
		for i := range r.n {
			r.one(ctx, i, start)
		}
		if r.batch.filled == 0 {
			continue
		}
		if err := r.raw.Write(r.send); err != nil && !errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("dns: %w", err)
		}
		r.s.cfg.Metrics.add(&r.count, time.Since(start))
	}
}

// one answers a packet if it can do so at once, else it gives it to somebody who can.
func (r *udpReader) one(ctx context.Context, i int, now time.Time) {
	packet, from := r.batch.packet(i), r.batch.client(i)
	client := from.Addr()
	if known := r.s.known(&r.question, packet, client, r.key, now); known != nil && len(known.packet) <= min(r.question.size, cap(r.batch.room())) {
		out := known.write(r.batch.room(), packet, now)
		r.batch.answer(i, len(out))
		r.count.hit(r.question.qtype, out[3]&0xf)
		return
	}
	if !r.batch.whole(i) {
		return // no question is as long
	}
	select {
	case r.s.waiting <- struct{}{}:
	default:
		return // it will ask again
	}
	question := append([]byte(nil), packet...)
	r.s.wg.Go(func() {
		defer func() { <-r.s.waiting }()
		if answer := r.s.answer(ctx, question, client, "udp"); answer != nil {
			_, _ = r.conn.WriteToUDPAddrPort(answer, from) // who is gone gets nothing
		}
	})
}
