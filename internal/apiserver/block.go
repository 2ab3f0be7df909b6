package apiserver

import (
	"bytes"
	"encoding/json"
	"io"
	"sync"
)

// blockSize is how much is gathered before it is written: large enough that a big answer takes few system calls, small enough
// that a thousand of them at a time take little memory.
const blockSize = 64 << 10

// blockWriter gathers small pieces into blocks. After an error of the writer below it writes nothing more. Without a
// writer it only gathers.
type blockWriter struct {
	w   io.Writer
	buf []byte
	err error
}

var blocks = sync.Pool{New: func() any { return &blockWriter{buf: make([]byte, 0, blockSize)} }}

func newBlockWriter(w io.Writer) *blockWriter {
	b := blocks.Get().(*blockWriter)
	b.w, b.buf, b.err = w, b.buf[:0], nil
	return b
}

func (b *blockWriter) release() {
	if cap(b.buf) <= 4*blockSize {
		b.w = nil
		blocks.Put(b)
	}
}

func (b *blockWriter) write(p []byte) {
	if b.w != nil && len(b.buf)+len(p) > blockSize {
		if b.flush() != nil {
			return
		}
		if len(p) >= blockSize {
			_, b.err = b.w.Write(p)
			return
		}
	}
	b.buf = append(b.buf, p...)
}

func (b *blockWriter) broken() bool { return b.err != nil }

func (b *blockWriter) keep(p []byte) { b.buf = append(b.buf, p...) }

func (b *blockWriter) flush() error {
	if b.err == nil && len(b.buf) > 0 && b.w != nil {
		_, b.err = b.w.Write(b.buf)
	}
	if b.w != nil {
		b.buf = b.buf[:0]
	}
	return b.err
}

// indent makes JSON readable; what is no JSON is left as it is.
func indent(data []byte) []byte {
	var out bytes.Buffer
	if json.Indent(&out, data, "", "  ") != nil {
		return data
	}
	return out.Bytes()
}
