package dns

import (
	"encoding/binary"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

// maxAnswers is how many answers a generation of the cache holds; there are two, so that what is asked for often stays.
const maxAnswers = 10_000

// answers remembers packets.
type answers struct {
	mu       sync.RWMutex
	now, old map[string]*remembered // guarded by mu
}

// remembered is an answer. The bytes are never modified.
type remembered struct {
	packet     []byte
	nameLength int
	// until is when it ends, and begin when its times to live were true. An answer about the cluster ends with its generation instead.
	begin, until time.Time
	inZone       bool
	generation   uint64
	upstream     uint64 // the generation of other name servers
	ttls         []int  // offsets of times to live
	// rotate says that the answers from offset on are of equal size and may be in any order.
	first, size, count int
	next               atomic.Uint32
}

func newAnswers() *answers {
	return &answers{now: map[string]*remembered{}, old: map[string]*remembered{}}
}

func (a *answers) get(key []byte) *remembered {
	a.mu.RLock()
	r, ok := a.now[string(key)]
	if !ok {
		r = a.old[string(key)]
	}
	a.mu.RUnlock()
	if r != nil && !ok {
		a.put(string(key), r)
	}
	return r
}

func (a *answers) put(key string, r *remembered) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.now) >= maxAnswers {
		a.old, a.now = a.now, map[string]*remembered{}
	}
	a.now[key] = r
}

// remember prepares a packet that was just made from m.
func remember(packet []byte, m *dns.Msg) *remembered {
	r := &remembered{packet: packet}
	off, ok := skipName(packet, headerSize)
	if !ok || len(m.Question) != 1 {
		return nil
	}
	r.nameLength = off - headerSize
	off += questionTail
	same := len(m.Answer) > 1
	for i := range len(m.Answer) + len(m.Ns) + len(m.Extra) {
		start := off
		if off, ok = skipName(packet, off); !ok || off+10 > len(packet) {
			return nil
		}
		rrtype := binary.BigEndian.Uint16(packet[off:])
		if rrtype != dns.TypeOPT {
			r.ttls = append(r.ttls, off+4)
		}
		off += 10 + int(binary.BigEndian.Uint16(packet[off+8:]))
		if off > len(packet) {
			return nil
		}
		if i >= len(m.Answer) {
			continue
		}
		if i == 0 {
			r.first, r.size = start, off-start
		}
		same = same && off-start == r.size && (rrtype == dns.TypeA || rrtype == dns.TypeAAAA)
	}
	if same {
		r.count = len(m.Answer)
	}
	return r
}

// skipName returns where the name that begins at off ends.
func skipName(packet []byte, off int) (int, bool) {
	for off < len(packet) {
		n := int(packet[off])
		switch {
		case n == 0:
			return off + 1, true
		case n&compressionPointers == compressionPointers:
			return off + 2, off+2 <= len(packet)
		}
		off += n + 1
	}
	return 0, false
}

// write appends the answer to a question to buf.
func (r *remembered) write(buf, packet []byte, now time.Time) []byte {
	start := len(buf)
	buf = append(buf, r.packet...)
	out := buf[start:]
	fill(out, packet, r.nameLength)
	if r.count > 1 {
		by := int(r.next.Add(1)) % r.count * r.size
		block, from := out[r.first:r.first+r.count*r.size], r.packet[r.first:r.first+r.count*r.size]
		copy(block[copy(block, from[by:]):], from[:by])
	}
	if age := uint32(now.Sub(r.begin) / time.Second); !r.until.IsZero() && age > 0 {
		for _, off := range r.ttls {
			ttl := binary.BigEndian.Uint32(r.packet[off:])
			binary.BigEndian.PutUint32(out[off:], ttl-min(age, ttl))
		}
	}
	return buf
}
