package gather

import (
	"encoding/binary"
	"sync"

	"golang.org/x/net/http2"
)

const (
	// frameSize is how much data goes into a frame: the least that every peer takes.
	frameSize = 16 << 10
	// batchSize is how much is encrypted and written at a time.
	batchSize = 64 << 10
	// queueLimit is how many bytes wait for a connection at most, before its streams do.
	queueLimit = 256 << 10
	// controlLimit is how many frames that answer the peer may wait: one who asks and does not read is cut off.
	controlLimit = 10000
	// turns is how many batches a stream writes in its own time until a goroutine for it takes over.
	turns = 64
	// compactFrom is from how many written pieces on a queue that never becomes empty is moved to its beginning.
	compactFrom = 256
	// queueBegin and queueKept are how many pieces a borrowed queue has room for at first, and at most when it is given back.
	queueBegin, queueKept = 64, 1024
)

// piece is a part of what is to be written: the head of a frame, bytes, or both.
type piece struct {
	head [9]byte
	used uint8 // how much of head is used: 0 or 9
	b    []byte
	blk  *block // to be given back when b was written
}

func (p *piece) size() int { return int(p.used) + len(p.b) }

func frameHead(n int, t http2.FrameType, flags http2.Flags, stream uint32) (h [9]byte) {
	h[0], h[1], h[2] = byte(n>>16), byte(n>>8), byte(n)
	h[3], h[4] = byte(t), byte(flags)
	binary.BigEndian.PutUint32(h[5:], stream)
	return h
}

// block is where a handler's answer is gathered into a frame.
type block struct{ buf [frameSize]byte }

var (
	blocks = sync.Pool{New: func() any { return new(block) }}
	// plains are where batches are put together.
	plains = sync.Pool{New: func() any {
		b := make([]byte, 0, batchSize+frameSize+9)
		return &b
	}}
	// queues are lent to connections that have something to write.
	queues = sync.Pool{New: func() any {
		q := make([]piece, 0, queueBegin)
		return &q
	}}
)

// queue is what waits to be written to a connection. Everything is guarded by the connection's mu.
type queue struct {
	lent    *[]piece // where pieces began; nil while there are none
	pieces  []piece
	next    int // the first piece that nobody writes yet
	bytes   int // of all pieces that were not written
	control int // frames that answer the peer, since the last write
	writing bool
}

func (q *queue) push(p piece) {
	if q.lent == nil {
		q.lent = queues.Get().(*[]piece) //nolint:forcetypeassert // nothing else is in the pool
		q.pieces = *q.lent
	}
	q.pieces = append(q.pieces, p)
	q.bytes += p.size()
}

// frame queues a small frame of the connection itself.
func (c *conn) frame(t http2.FrameType, flags http2.Flags, stream uint32, payload []byte) {
	c.queue.push(piece{head: frameHead(len(payload), t, flags, stream), used: 9, b: payload})
	if c.queue.control++; c.queue.control > controlLimit {
		c.failLocked(errFlood)
	}
}

func (c *conn) resetFrame(id uint32, code http2.ErrCode) {
	c.frame(http2.FrameRSTStream, 0, id, binary.BigEndian.AppendUint32(nil, uint32(code)))
}

func (c *conn) windowFrame(id uint32, n int64) {
	c.frame(http2.FrameWindowUpdate, 0, id, binary.BigEndian.AppendUint32(nil, uint32(n)))
}

// batch is the next pieces to write, about batchSize of them.
func (c *conn) batch() []piece {
	q := &c.queue
	n, end := 0, q.next
	for end < len(q.pieces) && n < batchSize {
		n += q.pieces[end].size()
		end++
	}
	b := q.pieces[q.next:end]
	q.next = end
	return b
}

// written forgets a batch and wakes those who wait for room.
func (c *conn) written(batch []piece) {
	q := &c.queue
	for i := range batch {
		q.bytes -= batch[i].size()
		if batch[i].blk != nil {
			blocks.Put(batch[i].blk)
		}
	}
	clear(batch)
	q.control = 0
	if q.next == len(q.pieces) {
		q.giveBack()
	} else if q.next >= compactFrom && 2*q.next >= len(q.pieces) {
		n := copy(q.pieces, q.pieces[q.next:])
		clear(q.pieces[n:])
		q.pieces, q.next = q.pieces[:n], 0
	}
	if q.bytes < queueLimit/2 {
		c.unblock()
	}
}

// giveBack returns the memory of a queue whose pieces have all been written.
func (q *queue) giveBack() {
	clear(q.pieces) // also what was written from another place, before the queue grew
	if q.lent != nil && cap(q.pieces) <= queueKept {
		*q.lent = q.pieces[:0]
		queues.Put(q.lent)
	}
	q.lent, q.pieces, q.next = nil, nil, 0
}

// flush writes what is queued, unless somebody else does already. It does not wait for the peer. mu is held, and let go meanwhile.
func (c *conn) flush() {
	if c.queue.writing || c.queue.next == len(c.queue.pieces) || c.err != nil {
		return
	}
	c.queue.writing = true
	c.write(turns)
}

// write is flush by the one who is to write: at most for a number of turns, then another goroutine goes on.
func (c *conn) write(turns int) {
	for c.queue.next < len(c.queue.pieces) && c.err == nil {
		if turns == 0 {
			c.server.workers.Run(c.writeOn)
			return
		}
		turns--
		batch := c.batch()
		c.mu.Unlock()
		err := c.encrypt(batch)
		out := c.socket.take()
		n := 0
		if err == nil && out != nil {
			n, err = c.socket.tryWrite(*out)
		}
		c.mu.Lock()
		c.written(batch)
		switch {
		case err != nil:
			c.failLocked(err)
		case out != nil && n < len(*out):
			// The peer is slow: somebody has to wait for it, and it is not we. Others go on queueing up to the limit.
			c.server.workers.Run(func() { c.writeRest(out, n) })
			return
		}
		if out != nil {
			giveBack(&ciphers, out, cipherSize)
		}
	}
	c.queue.writing = false
	if c.err != nil {
		c.discard()
	}
	c.idle.Broadcast()
}

func (c *conn) writeOn() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.write(turns)
}

// writeRest waits for a slow peer to take what is left of out, and goes on with what was queued meanwhile.
func (c *conn) writeRest(out *[]byte, from int) {
	_, err := c.socket.Conn.Write((*out)[from:])
	giveBack(&ciphers, out, cipherSize)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.failLocked(err)
	}
	c.write(turns)
}

// encrypt puts pieces together and has TLS encrypt them into the socket's memory.
func (c *conn) encrypt(batch []piece) error {
	if len(batch) == 1 && batch[0].used == 0 {
		_, err := c.tls.Write(batch[0].b)
		return err
	}
	plain := plains.Get().(*[]byte) //nolint:forcetypeassert // nothing else is in the pool
	b := *plain
	for i := range batch {
		b = append(b, batch[i].head[:batch[i].used]...)
		b = append(b, batch[i].b...)
	}
	_, err := c.tls.Write(b)
	*plain = b
	giveBack(&plains, plain, batchSize+frameSize)
	return err
}

// discard drops what cannot be written any more.
func (c *conn) discard() {
	q := &c.queue
	for i := q.next; i < len(q.pieces); i++ {
		if b := q.pieces[i].blk; b != nil {
			blocks.Put(b)
		}
	}
	*q = queue{}
}
