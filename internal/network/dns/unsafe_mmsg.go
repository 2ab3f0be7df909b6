package dns

import (
	"encoding/binary"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// batchSize is how many packets cross into the kernel at once.
const batchSize = 32

// batch is room for packets that came and for what answers them, with the kernel's descriptions of both. It is used by one goroutine at a time. The
// descriptions point into the same batch, which lives on the heap and is never copied.
type batch struct {
	packets [batchSize][inSize]byte
	answers [batchSize][largestUDP]byte
	from    [batchSize]unix.RawSockaddrInet6 // large enough for IPv4 as well
	in, out [batchSize]unix.Mmsghdr
	inVec   [batchSize]unix.Iovec
	outVec  [batchSize]unix.Iovec
	filled  int // answers
	sent    int // of these
}

func newBatch() *batch {
	b := &batch{}
	for i := range b.in {
		b.inVec[i].Base = &b.packets[i][0]
		b.inVec[i].SetLen(inSize)
		b.in[i].Hdr.Name, b.in[i].Hdr.Iov = (*byte)(unsafe.Pointer(&b.from[i])), &b.inVec[i]
		b.in[i].Hdr.SetIovlen(1)
		b.out[i].Hdr.Iov = &b.outVec[i]
		b.out[i].Hdr.SetIovlen(1)
	}
	return b
}

// receive takes packets that are there, without waiting.
func (b *batch) receive(fd uintptr) (int, unix.Errno) {
	for i := range b.in {
		b.in[i].Hdr.Namelen = uint32(unsafe.Sizeof(b.from[i]))
	}
	n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&b.in)), batchSize, unix.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}

// packet is the i'th that came.
func (b *batch) packet(i int) []byte { return b.packets[i][:b.in[i].Len] }

// whole says whether the i'th packet was not longer than there was room.
func (b *batch) whole(i int) bool { return b.in[i].Hdr.Flags&unix.MSG_TRUNC == 0 }

// client is who sent the i'th packet.
func (b *batch) client(i int) netip.AddrPort {
	if b.from[i].Family == unix.AF_INET {
		a := (*unix.RawSockaddrInet4)(unsafe.Pointer(&b.from[i]))
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), bigEndian(&a.Port))
	}
	a := &b.from[i]
	return netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), bigEndian(&a.Port))
}

// bigEndian reads a port as the kernel has it, in the network's order.
func bigEndian(port *uint16) uint16 {
	return binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(port))[:])
}

// room is where the next answer can be written.
func (b *batch) room() []byte { return b.answers[b.filled][:0] }

// answer adds what was written to room as an answer to the i'th packet.
func (b *batch) answer(i, length int) {
	b.outVec[b.filled].Base = &b.answers[b.filled][0]
	b.outVec[b.filled].SetLen(length)
	b.out[b.filled].Hdr.Name, b.out[b.filled].Hdr.Namelen = b.in[i].Hdr.Name, b.in[i].Hdr.Namelen
	b.filled++
}

// send sends answers that were not sent yet, without waiting.
func (b *batch) send(fd uintptr) unix.Errno {
	n, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&b.out[b.sent])), uintptr(b.filled-b.sent), unix.MSG_DONTWAIT, 0, 0)
	if errno == 0 {
		b.sent += int(n)
	}
	return errno
}
