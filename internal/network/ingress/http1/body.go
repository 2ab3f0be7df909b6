package http1

import (
	"bytes"
	"io"
)

// Reader is a buffer over a connection. The caller gives it the buffer, and may take it away when nothing is Buffered.
type Reader struct {
	Conn io.Reader
	Buf  []byte
	R, W int // what was read and is not used yet is Buf[R:W]
}

// Buffered is what was read and is not used yet.
func (r *Reader) Buffered() []byte { return r.Buf[r.R:r.W] }

// Fill reads more, once. What is buffered may move.
func (r *Reader) Fill() error {
	if r.R == r.W {
		r.R, r.W = 0, 0
	} else if r.W == len(r.Buf) {
		if r.R == 0 {
			return errNotAllRoom
		}
		r.W = copy(r.Buf, r.Buf[r.R:r.W])
		r.R = 0
	}
	n, err := r.Conn.Read(r.Buf[r.W:])
	r.W += n
	if n > 0 {
		return nil
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

// Framing is how a body ends.
type Framing int8

// Framings.
const (
	None Framing = iota
	Sized
	Chunks
	UntilClose
)

type chunkState int8

const (
	chunkSize chunkState = iota
	chunkData
	chunkEnd
	trailer
	finished
)

const (
	// maxChunkLine bounds a chunk's size with its extensions, maxTrailer all trailer fields.
	maxChunkLine = 256
	maxTrailer   = 8 << 10
)

// Body reads a body piece by piece. It is set up with Begin.
type Body struct {
	framing Framing
	left    int64 // of the body or the chunk
	state   chunkState
	trailed int
	strict  bool
}

// Begin sets up for a body. Strict is for those of requests: lines end as they have to.
func (b *Body) Begin(f Framing, length int64, strict bool) {
	*b = Body{framing: f, left: length, strict: strict}
	if f == None || f == Sized && length == 0 {
		b.state = finished
	}
}

// Done says that the body has been read to its end.
func (b *Body) Done() bool { return b.state == finished }

// Next returns the next piece of the body, a part of r's buffer, which is good until r is used again. After the last one it returns io.EOF; a body that breaks
// off is io.ErrUnexpectedEOF.
func (b *Body) Next(r *Reader) ([]byte, error) {
	for {
		if b.state == finished {
			return nil, io.EOF
		}
		if r.R == r.W {
			if err := r.Fill(); err != nil {
				return nil, b.broken(err)
			}
		}
		switch b.framing {
		case Sized:
			p := b.take(r)
			if b.left == 0 {
				b.state = finished
			}
			return p, nil
		case UntilClose:
			p := r.Buffered()
			r.R = r.W
			return p, nil
		}
		if b.state == chunkData {
			p := b.take(r)
			if b.left == 0 {
				b.state = chunkEnd
			}
			return p, nil
		}
		if err := b.line(r); err != nil {
			return nil, err
		}
	}
}

// Waiting returns the next piece if it is in the buffer already, else nil.
func (b *Body) Waiting(r *Reader) ([]byte, error) {
	for b.state != finished && r.R < r.W {
		switch {
		case b.framing != Chunks, b.state == chunkData:
			return b.Next(r)
		case bytes.IndexByte(r.Buffered(), '\n') < 0:
			return nil, nil
		}
		if err := b.line(r); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

func (b *Body) take(r *Reader) []byte {
	n := int(min(int64(r.W-r.R), b.left))
	p := r.Buf[r.R : r.R+n]
	r.R += n
	b.left -= int64(n)
	return p
}

func (b *Body) broken(err error) error {
	if err != io.EOF { //nolint:errorlint // connections return it as it is
		return err
	}
	if b.framing == UntilClose {
		b.state = finished
		return io.EOF
	}
	return io.ErrUnexpectedEOF
}

// line uses up one line between chunks.
func (b *Body) line(r *Reader) error {
	most := maxChunkLine
	if b.state == trailer {
		most = maxTrailer - b.trailed
	}
	var at int
	for {
		if at = bytes.IndexByte(r.Buffered(), '\n'); at >= 0 {
			break
		}
		if r.W-r.R >= most {
			return b.tooLong()
		}
		if err := r.Fill(); err != nil {
			if err == errNotAllRoom { //nolint:errorlint // it is ours
				return b.tooLong()
			}
			return b.broken(err)
		}
	}
	if at >= most {
		return b.tooLong()
	}
	text := r.Buf[r.R : r.R+at]
	r.R += at + 1
	if n := len(text); n > 0 && text[n-1] == '\r' {
		text = text[:n-1]
	} else if b.strict {
		return ErrBareLF
	}
	switch b.state {
	case chunkSize:
		n, err := chunkLength(text)
		if err != nil {
			return err
		}
		b.left, b.state = n, chunkData
		if n == 0 {
			b.state = trailer
		}
	case chunkEnd:
		if len(text) != 0 {
			return ErrChunk
		}
		b.state = chunkSize
	case trailer: // proxies may leave trailers out (RFC 9110, 6.5.1)
		if len(text) == 0 {
			b.state = finished
			return nil
		}
		b.trailed += at + 1
		if colon := bytes.IndexByte(text, ':'); colon <= 0 || !token(text[:colon]) || !clean(text[colon+1:]) {
			return ErrField
		}
	}
	return nil
}

func (b *Body) tooLong() error {
	if b.state == trailer {
		return ErrTrailer
	}
	return ErrChunk
}

// chunkLength reads the size of a chunk. Extensions are left out.
func chunkLength(text []byte) (int64, error) {
	if i := bytes.IndexByte(text, ';'); i >= 0 {
		if !clean(text[i:]) {
			return 0, ErrChunk
		}
		text = trim(text[:i])
	}
	if len(text) == 0 || len(text) > 15 {
		return 0, ErrChunk
	}
	var n int64
	for _, c := range text {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c|0x20 && c|0x20 <= 'f':
			c = c | 0x20 - 'a' + 10
		default:
			return 0, ErrChunk
		}
		n = n<<4 | int64(c)
	}
	return n, nil
}

// AppendChunk appends a chunk with data to out.
func AppendChunk(out, data []byte) []byte {
	if len(data) == 0 {
		return out // it would be the end
	}
	const digits = "0123456789abcdef"
	var size [16]byte
	i := len(size)
	for n := len(data); n > 0; n >>= 4 {
		i--
		size[i] = digits[n&15]
	}
	out = append(out, size[i:]...)
	out = append(out, crlf...)
	out = append(out, data...)
	return append(out, crlf...)
}
