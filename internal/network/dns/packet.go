package dns

import (
	"encoding/binary"

	"github.com/miekg/dns"
)

const (
	headerSize = 12
	// plainSize is the longest answer over UDP to somebody who doesn't say that more is welcome.
	plainSize = 512
	// largestUDP is the longest answer over UDP to anybody: longer ones are in danger of being cut up on the way (DNS flag day 2020).
	largestUDP = 1232
	maxName    = 255
)

// Bits of the third and fourth byte of the header.
const (
	bitResponse         = 0x80
	bitTruncated        = 0x02
	bitRecursion        = 0x01
	maskOpcode          = 0x78
	bitChecking         = 0x10
	flagsFromQuestion   = bitRecursion
	flags2FromQuestion  = bitChecking
	questionTail        = 4 // type and class
	optHeader           = 11
	optDNSSEC           = 0x80
	compressionPointers = 0xc0
)

// question is what the short way needs to know of a packet.
type question struct {
	name   [maxName + 1]byte // on the wire, in lower case, with the final zero
	length int               // of name
	qtype  uint16
	edns   bool
	dnssec bool
	size   int // the longest answer that is welcome
}

// parse takes a plain question apart. It returns false for anything unusual, which is left to the long way.
func (q *question) parse(packet []byte) bool {
	if len(packet) < headerSize+1+questionTail || packet[2]&(bitResponse|maskOpcode) != 0 {
		return false
	}
	if binary.BigEndian.Uint16(packet[4:]) != 1 || binary.BigEndian.Uint32(packet[6:]) != 0 {
		return false
	}
	p := packet[headerSize:]
	q.length = 0
	for {
		if len(p) == 0 {
			return false
		}
		n := int(p[0])
		if n&compressionPointers != 0 || q.length+n+1 > maxName || len(p) < n+1 {
			return false
		}
		q.name[q.length] = p[0]
		for i := 1; i <= n; i++ {
			c := p[i]
			if 'A' <= c && c <= 'Z' {
				c += 'a' - 'A'
			}
			q.name[q.length+i] = c
		}
		q.length += n + 1
		p = p[n+1:]
		if n == 0 {
			break
		}
	}
	if len(p) < questionTail || binary.BigEndian.Uint16(p[2:]) != dns.ClassINET {
		return false
	}
	q.qtype = binary.BigEndian.Uint16(p)
	p = p[questionTail:]
	q.edns, q.dnssec, q.size = false, false, plainSize
	switch binary.BigEndian.Uint16(packet[10:]) {
	case 0:
		return len(p) == 0
	case 1:
		// The only additional record of a question is the one that says what its sender can do.
		if len(p) < optHeader || p[0] != 0 || binary.BigEndian.Uint16(p[1:]) != dns.TypeOPT || p[6] != 0 || len(p) != optHeader+int(binary.BigEndian.Uint16(p[9:])) {
			return false
		}
		q.edns, q.dnssec = true, p[7]&optDNSSEC != 0
		q.size = min(max(int(binary.BigEndian.Uint16(p[3:])), plainSize), largestUDP)
		return true
	}
	return false
}

// key is what an answer is remembered by.
func (q *question) key(buf []byte, inside bool) []byte {
	buf = append(buf[:0], q.name[:q.length]...)
	flags := byte(0)
	if q.edns {
		flags |= 1
	}
	if q.dnssec {
		flags |= 2
	}
	if inside {
		flags |= 4
	}
	return append(buf, byte(q.qtype>>8), byte(q.qtype), flags)
}

// fill makes a remembered answer one for this question: its identifier, its flags and the case of its name.
func fill(answer, packet []byte, nameLength int) {
	copy(answer, packet[:2])
	answer[2] = answer[2]&^flagsFromQuestion | packet[2]&flagsFromQuestion
	answer[3] = answer[3]&^flags2FromQuestion | packet[3]&flags2FromQuestion
	copy(answer[headerSize:headerSize+nameLength], packet[headerSize:])
}
