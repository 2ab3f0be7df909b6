package shortcut

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

const (
	// slowPackets of each direction of a connection go through the machine at least.
	slowPackets = 8
	// refresh is after how many nanoseconds one goes there again.
	refresh = 30_000_000_000

	next = -1 // TC_ACT_UNSPEC: to others, and then to the machine
)

// Offsets in struct __sk_buff (linux/bpf.h).
const (
	skbKind, skbProtocol, skbTagged, skbLink, skbData, skbEnd = 4, 16, 20, 40, 76, 80
)

// Headers.
const (
	etherSize      = 14
	ip4Size        = 20
	ip6Size        = 40
	tcpSize        = 20
	tcpSequence    = 4
	tcpAcknowledge = 8
	tcpFlags       = 13

	flagFin, flagSyn, flagRst, flagAck = 1, 2, 4, 16
)

// A direction of a connection is known by source, destination and their ports. What follows are places on the stack.
const (
	keySize   = 36
	key       = -40 // source, destination at +16, ports at +32
	back      = -80 // the same for the other direction
	value     = -96
	valueSize = 16
)

// Its value is the sequence number of the first packet, a count and the time at which a packet went through the machine last.
const (
	valueCount, valueTime = 4, 8
	// confirmed is the first count of a connection whose first packet has been acknowledged.
	confirmed = 1
)

// A pod's value is the index of its interface and the hardware addresses of its own end and of its gateway.
const (
	podLink, podMACs = 0, 4
	podSize          = 16
)

// wire16 is a number of two bytes as it is read from a header.
func wire16(n uint16) int32 {
	return int32(binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, n)))
}

// entry calls the first program of a table, if there is one.
func entry(table int) ([]byte, error) {
	a := &assembler{labels: map[string]int{}}
	a.wide(r2, pseudoMap, uint64(table))
	a.set(r3, 0)
	a.call(callTail)
	a.set(r0, next)
	a.exit()
	return a.bytes()
}

// program decides about each packet that a pod sends. R6 is the packet, R7 first its bytes and then the other pod, R8 first their end and then the connection, R9 the
// header of TCP.
func program(pods, flows int) ([]byte, error) {
	a := &assembler{labels: map[string]int{}}
	// table prepares a call about what is on the stack.
	table := func(descriptor, offset int) {
		a.move(r2, rf)
		a.op(opAdd, r2, int32(offset))
		a.wide(r1, pseudoMap, uint64(descriptor))
	}
	find := func(descriptor, offset int) {
		table(descriptor, offset)
		a.call(callFind)
	}
	put := func(offset int) {
		table(flows, offset)
		a.move(r3, rf)
		a.op(opAdd, r3, value)
		a.set(r4, 0)
		a.call(callPut)
	}
	drop := func(offset int) {
		table(flows, offset)
		a.call(callDrop)
	}
	// fits goes on if the packet has so many bytes where they can be read.
	fits := func(n int32) {
		a.move(r1, r7)
		a.op(opAdd, r1, n)
		a.whenReg(greater, r1, r8, "machine")
	}
	// flags goes elsewhere if the packet has one of some flags.
	flags := func(bits int32, to string) {
		a.load(r1, r9, tcpFlags, single)
		a.op(opAnd, r1, bits)
		a.when(notEqual, r1, 0, to)
	}

	a.move(r6, r1)
	a.load(r1, r6, skbKind, word)
	a.when(notEqual, r1, unix.PACKET_HOST, "machine")
	a.load(r1, r6, skbTagged, word)
	a.when(notEqual, r1, 0, "machine")
	a.load(r7, r6, skbData, word)
	a.load(r8, r6, skbEnd, word)
	a.load(r1, r6, skbProtocol, word)
	a.when(equal, r1, wire16(unix.ETH_P_IP), "ip4")
	a.when(notEqual, r1, wire16(unix.ETH_P_IPV6), "machine")

	// IPv6, without extensions.
	fits(etherSize + ip6Size + tcpSize)
	a.load(r1, r7, etherSize+6, single)
	a.when(notEqual, r1, unix.IPPROTO_TCP, "machine")
	for i := 0; i < 32; i += 4 {
		a.load(r1, r7, etherSize+8+i, word)
		a.store(rf, key+i, r1, word)
	}
	a.move(r9, r7)
	a.op(opAdd, r9, etherSize+ip6Size)
	a.jump("tcp")

	// IPv4, whole and without options. Its addresses are kept as those of IPv6 that stand for them.
	a.label("ip4")
	fits(etherSize + ip4Size + tcpSize)
	a.load(r1, r7, etherSize, single)
	a.when(notEqual, r1, 0x45, "machine")
	a.load(r1, r7, etherSize+9, single)
	a.when(notEqual, r1, unix.IPPROTO_TCP, "machine")
	a.load(r1, r7, etherSize+6, half)
	a.op(opAnd, r1, wire16(0x3fff))
	a.when(notEqual, r1, 0, "machine")
	for i := range 2 {
		a.set(r1, 0)
		a.store(rf, key+16*i, r1, word)
		a.store(rf, key+16*i+4, r1, word)
		a.set(r1, int32(binary.NativeEndian.Uint32([]byte{0, 0, 0xff, 0xff})))
		a.store(rf, key+16*i+8, r1, word)
		a.load(r1, r7, etherSize+12+4*i, word)
		a.store(rf, key+16*i+12, r1, word)
	}
	a.move(r9, r7)
	a.op(opAdd, r9, etherSize+ip4Size)

	// Both pods are free, and the first is where the packet comes from.
	a.label("tcp")
	a.load(r1, r9, 0, word)
	a.store(rf, key+32, r1, word)
	find(pods, key)
	a.when(equal, r0, 0, "machine")
	a.load(r1, r0, podLink, word)
	a.load(r2, r6, skbLink, word)
	a.whenReg(notEqual, r1, r2, "machine")
	find(pods, key+16)
	a.when(equal, r0, 0, "machine")
	a.move(r7, r0)
	flags(flagSyn, "opens")
	flags(flagFin|flagRst, "ends")

	// A packet of a connection that stands.
	find(flows, key)
	a.when(equal, r0, 0, "machine")
	a.move(r8, r0)
	a.load(r1, r8, valueCount, word)
	a.when(less, r1, confirmed, "machine")
	a.when(greater, r1, confirmed+slowPackets, "counted")
	a.op(opAdd, r1, 1)
	a.store(r8, valueCount, r1, word)
	a.jump("machine")
	a.label("counted")
	a.call(callTime)
	a.load(r1, r8, valueTime, double)
	a.move(r2, r0)
	a.sub(r2, r1)
	a.wide(r3, 0, refresh)
	a.whenReg(less, r2, r3, "straight")
	a.store(r8, valueTime, r0, double)
	a.jump("machine")
	a.label("straight")
	a.move(r1, r6)
	a.set(r2, 0)
	a.move(r3, r7)
	a.op(opAdd, r3, podMACs)
	a.set(r4, 12)
	a.set(r5, 0)
	a.call(callStoreBytes)
	a.when(notEqual, r0, 0, "machine")
	a.load(r1, r7, podLink, word)
	a.set(r2, 0)
	a.call(callRedirectPeer)
	a.exit()

	// The first packet is remembered; the answer to it decides.
	a.label("opens")
	a.turn()
	a.set(r1, 0)
	a.store(rf, value+valueTime, r1, double)
	a.store(rf, value+valueCount, r1, word)
	flags(flagAck, "answers")
	a.load(r1, r9, tcpSequence, word)
	a.store(rf, value, r1, word)
	put(key)
	drop(back)
	a.jump("machine")
	a.label("answers")
	find(flows, back)
	a.when(equal, r0, 0, "ends")
	a.load(r1, r0, valueCount, word)
	a.when(notEqual, r1, 0, "ends")
	a.load(r1, r0, 0, word)
	a.fromWire(r1)
	a.increment(r1)
	a.load(r2, r9, tcpAcknowledge, word)
	a.fromWire(r2)
	a.whenReg(notEqual, r1, r2, "ends")
	a.set(r1, 0)
	a.store(rf, value, r1, word)
	a.set(r1, confirmed)
	a.store(rf, value+valueCount, r1, word)
	put(key)
	put(back)
	a.jump("machine")

	a.label("ends")
	a.turn()
	drop(key)
	drop(back)
	a.label("machine")
	a.set(r0, next)
	a.exit()
	return a.bytes()
}

// turn writes the key of the other direction.
func (a *assembler) turn() {
	copyTo := func(to, from int, s size) {
		a.load(r1, rf, from, s)
		a.store(rf, to, r1, s)
	}
	for i := 0; i < 16; i += 8 {
		copyTo(back+i, key+16+i, double)
		copyTo(back+16+i, key+i, double)
	}
	copyTo(back+32, key+34, half)
	copyTo(back+34, key+32, half)
}
