package journal

import (
	"bufio"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"time"

	"github.com/celox/celox/internal/store/kv"
	"github.com/celox/celox/internal/store/kv/memory"
)

// magic begins the file and names its form.
const magic = "celox journal 1\n"

// A record is its length and its CRC-32C, four bytes each, little-endian, and so many bytes: what it is, and numbers as varints. A put has
// revision, revision of creation, version, lease, length of the key, key and value; a deletion revision and key; a lease its
// number and when it ends, in nanoseconds since 1970; a mark a revision that there has been; an end the revision after which nothing was missing.
const (
	putRecord    = 'p'
	deleteRecord = 'd'
	leaseRecord  = 'l'
	markRecord   = 'm'
	endRecord    = 'e'
)

const (
	headerBytes = 8
	// maxRecordBytes is more than the largest transaction; a length beyond it is not one.
	maxRecordBytes = memory.DefaultMaxRequestBytes + 1<<16
)

var errRecord = errors.New("not a record")

// encoder makes records in one buffer.
type encoder struct{ buf []byte }

// begin makes room for the header of a record, end fills it in.
func (e *encoder) begin(kind byte) int {
	start := len(e.buf)
	e.buf = append(e.buf, 0, 0, 0, 0, 0, 0, 0, 0, kind)
	return start
}

func (e *encoder) end(start int) {
	body := e.buf[start+headerBytes:]
	binary.LittleEndian.PutUint32(e.buf[start:], uint32(len(body)))
	binary.LittleEndian.PutUint32(e.buf[start+4:], checksum(body))
}

func (e *encoder) numbers(values ...int64) {
	for _, v := range values {
		e.buf = binary.AppendVarint(e.buf, v)
	}
}

func (e *encoder) put(item kv.KeyValue) {
	start := e.begin(putRecord)
	e.numbers(item.ModRevision, item.CreateRevision, item.Version, int64(item.Lease), int64(len(item.Key)))
	e.buf = append(e.buf, item.Key...)
	e.buf = append(e.buf, item.Value...)
	e.end(start)
}

func (e *encoder) delete(key string, revision int64) {
	start := e.begin(deleteRecord)
	e.numbers(revision)
	e.buf = append(e.buf, key...)
	e.end(start)
}

func (e *encoder) lease(id kv.LeaseID, expires time.Time) {
	start := e.begin(leaseRecord)
	e.numbers(int64(id), expires.UnixNano())
	e.end(start)
}

// revision makes a mark or an end.
func (e *encoder) revision(kind byte, revision int64) {
	start := e.begin(kind)
	e.numbers(revision)
	e.end(start)
}

func checksum(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

// content is what the records of a file come to.
type content struct {
	keys     map[string]kv.KeyValue
	leases   map[kv.LeaseID]time.Time
	revision int64 // the newest that is in the file
	ended    bool  // the last record says that there was nothing more
	torn     bool  // the file goes on after the last good record
}

// read takes records until one is not whole, which is where a crash has cut the file. It fails only where reading does, or if this is no journal at all.
func read(r io.Reader) (*content, error) {
	c := &content{keys: map[string]kv.KeyValue{}, leases: map[kv.LeaseID]time.Time{}}
	in := bufio.NewReaderSize(r, 1<<18)
	head := make([]byte, len(magic))
	if _, err := io.ReadFull(in, head); err != nil || string(head) != magic {
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, err
		}
		return nil, errors.New("not a journal")
	}
	var header [headerBytes]byte
	for {
		if _, err := io.ReadFull(in, header[:]); errors.Is(err, io.EOF) {
			return c, nil
		} else if errors.Is(err, io.ErrUnexpectedEOF) {
			break
		} else if err != nil {
			return nil, err
		}
		n := binary.LittleEndian.Uint32(header[:])
		if n == 0 || n > maxRecordBytes {
			break
		}
		body := make([]byte, n)
		if _, err := io.ReadFull(in, body); errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			break
		} else if err != nil {
			return nil, err
		}
		if checksum(body) != binary.LittleEndian.Uint32(header[4:]) || c.add(body) != nil {
			break
		}
	}
	c.torn, c.ended = true, false
	return c, nil
}

// add takes one record, whose bytes are its own from then on.
func (c *content) add(body []byte) error {
	kind, rest := body[0], body[1:]
	failed := false
	next := func() int64 {
		v, n := binary.Varint(rest)
		if n <= 0 {
			failed = true
			return 0
		}
		rest = rest[n:]
		return v
	}
	var revision int64
	switch kind {
	case putRecord:
		item := kv.KeyValue{ModRevision: next(), CreateRevision: next(), Version: next(), Lease: kv.LeaseID(next())}
		length := next()
		if failed || length < 0 || length > int64(len(rest)) {
			return errRecord
		}
		item.Key, item.Value = string(rest[:length]), rest[length:]
		c.keys[item.Key] = item
		revision = item.ModRevision
	case deleteRecord:
		revision = next()
		delete(c.keys, string(rest))
	case leaseRecord:
		id, at := kv.LeaseID(next()), next()
		if failed {
			return errRecord
		}
		c.leases[id] = time.Unix(0, at)
	case markRecord, endRecord:
		revision = next()
	default:
		return errRecord
	}
	if failed {
		return errRecord
	}
	c.revision = max(c.revision, revision)
	c.ended = kind == endRecord
	return nil
}
