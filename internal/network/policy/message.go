package policy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/celox/celox/internal/network/nft"
)

// The messages of nf_tables (linux/netfilter/nf_tables.h), written straight into one buffer: a transaction is one write and one answer, and
// costs no allocation per element. The library that the rest of the node uses can neither say "of the reply" to the kernel in its own words (one byte), nor do without
// an answer to each message.

const (
	// socketBuffer bounds a transaction. With CAP_NET_ADMIN the kernel's limits don't hold.
	socketBuffer = 16 << 20
	// flushBytes is how long a transaction may become where it can be cut.
	flushBytes = 2 << 20
	// elementBytes is how long the elements in one message may become: the length of an attribute has 16 bits.
	elementBytes = 32 << 10
	// answerTime is within which the kernel answers, or something is wrong.
	answerTime = time.Minute

	tableMessage = unix.NFNL_SUBSYS_NFTABLES << 8
)

// socket talks to nftables. It is used by one goroutine.
type socket struct {
	fd     int
	port   uint32 // by which the kernel knows us
	seq    uint32
	answer []byte
}

// newSocket opens one in the network namespace of the calling thread.
func newSocket() (*socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("netlink: %w", err)
	}
	s := &socket{fd: fd, answer: make([]byte, 64<<10)}
	limit := unix.NsecToTimeval(answerTime.Nanoseconds())
	err = errors.Join(unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, socketBuffer),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, socketBuffer),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit))
	if err == nil {
		var own unix.Sockaddr
		if own, err = unix.Getsockname(fd); err == nil {
			if a, ok := own.(*unix.SockaddrNetlink); ok {
				s.port = a.Pid
			}
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("netlink: %w", err), unix.Close(fd))
	}
	return s, nil
}

func (s *socket) close() error { return unix.Close(s.fd) }

// batch is a transaction that is being written.
type batch struct {
	b        []byte
	family   uint8
	table    string
	messages uint32
	sets     uint32
}

// reset begins a transaction.
func (b *batch) reset() {
	b.b, b.messages, b.sets = b.b[:0], 0, 0
	b.edge(unix.NFNL_MSG_BATCH_BEGIN)
}

func (b *batch) empty() bool { return b.messages == 0 }

func (b *batch) edge(kind uint16) {
	at := b.header(kind, 0, unix.AF_UNSPEC)
	binary.BigEndian.PutUint16(b.b[len(b.b)-2:], unix.NFNL_SUBSYS_NFTABLES)
	b.finish(at)
}

// header begins a message with a struct nlmsghdr and a struct nfgenmsg.
func (b *batch) header(kind, flags uint16, family uint8) (at int) {
	at = len(b.b)
	b.b = binary.NativeEndian.AppendUint32(b.b, 0)
	b.b = binary.NativeEndian.AppendUint16(b.b, kind)
	b.b = binary.NativeEndian.AppendUint16(b.b, unix.NLM_F_REQUEST|flags)
	b.b = append(b.b, make([]byte, 8)...) // sequence and port: see send
	b.b = append(b.b, family, unix.NFNETLINK_V0, 0, 0)
	return at
}

func (b *batch) finish(at int) {
	binary.NativeEndian.PutUint32(b.b[at:], uint32(len(b.b)-at))
}

// message adds one about the table; write adds its attributes.
func (b *batch) message(kind, flags uint16, write func()) {
	at := b.header(tableMessage|kind, flags, b.family)
	b.text(1, b.table) // the table's name is attribute 1 of all of them
	write()
	b.finish(at)
	b.messages++
}

func (b *batch) open(kind uint16) (at int) {
	b.b, at = nft.Begin(b.b, kind)
	return at
}

// close ends an attribute and pads it.
func (b *batch) close(at int) { b.b = nft.End(b.b, at) }

func (b *batch) nest(kind uint16, write func()) {
	at := b.open(kind | unix.NLA_F_NESTED)
	write()
	b.close(at)
}

func (b *batch) bytes(kind uint16, v []byte) {
	at := b.open(kind)
	b.b = append(b.b, v...)
	b.close(at)
}

func (b *batch) text(kind uint16, v string) {
	at := b.open(kind)
	b.b = append(append(b.b, v...), 0)
	b.close(at)
}

func (b *batch) number(kind uint16, v uint32) {
	at := b.open(kind)
	b.b = binary.BigEndian.AppendUint32(b.b, v)
	b.close(at)
}

func (b *batch) byte(kind uint16, v uint8) {
	at := b.open(kind)
	b.b = append(b.b, v)
	b.close(at)
}

// send carries a transaction out: all of it or, with an error, nothing.
func (s *socket) send(b *batch) error {
	if b.empty() {
		return nil
	}
	b.edge(unix.NFNL_MSG_BATCH_END)
	first := s.seq + 1
	last, lastAt := uint32(0), 0
	for at := 0; at < len(b.b); {
		s.seq++
		binary.NativeEndian.PutUint32(b.b[at+8:], s.seq)
		if binary.NativeEndian.Uint16(b.b[at+4:]) != unix.NFNL_MSG_BATCH_END {
			last, lastAt = s.seq, at
		}
		at += int(binary.NativeEndian.Uint32(b.b[at:]))
	}
	// The kernel answers to what fails, and to the last message in any case.
	flags := binary.NativeEndian.Uint16(b.b[lastAt+6:])
	binary.NativeEndian.PutUint16(b.b[lastAt+6:], flags|unix.NLM_F_ACK)
	if err := unix.Sendto(s.fd, b.b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("nftables: send a transaction of %d bytes: %w", len(b.b), err)
	}
	var failed error
	for {
		n, err := s.receive()
		if err != nil {
			return err
		}
		for data := s.answer[:n]; len(data) >= unix.NLMSG_HDRLEN; {
			length := int(binary.NativeEndian.Uint32(data))
			if length < unix.NLMSG_HDRLEN || length > len(data) {
				return errors.New("nftables: an answer that is cut off")
			}
			kind, seq := binary.NativeEndian.Uint16(data[4:]), binary.NativeEndian.Uint32(data[8:])
			// What was asked before and given up is not for us.
			if kind == unix.NLMSG_ERROR && seq-first < b.messages+2 && length >= unix.NLMSG_HDRLEN+4 {
				if code := int32(binary.NativeEndian.Uint32(data[unix.NLMSG_HDRLEN:])); code != 0 && failed == nil {
					failed = fmt.Errorf("nftables: message %d of %d (%s): %w", seq-first, b.messages, describe(b.b, seq-first), unix.Errno(-code))
				}
				if seq == last {
					return failed
				}
				if seq == first && failed != nil { // the transaction as a whole; nothing else may come
					return failed
				}
			}
			data = data[min(len(data), (length+unix.NLMSG_ALIGNTO-1)&^(unix.NLMSG_ALIGNTO-1)):]
		}
	}
}

// describe names a message of a transaction.
func describe(b []byte, number uint32) string {
	for at := 0; at < len(b); number-- {
		if number == 0 {
			return fmt.Sprintf("kind %d", binary.NativeEndian.Uint16(b[at+4:])&0xff)
		}
		at += int(binary.NativeEndian.Uint32(b[at:]))
	}
	return "?"
}

func (s *socket) receive() (int, error) {
	for {
		n, _, err := unix.Recvfrom(s.fd, s.answer, 0)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return 0, fmt.Errorf("nftables: no answer: %w", err)
		}
		return n, nil
	}
}

// tables names the tables of a family.
func (s *socket) tables(family uint8) ([]string, error) {
	var out []string
	err := s.dump(tableMessage|unix.NFT_MSG_GETTABLE, family, func(message []byte) {
		if f, name := about(message); f == family {
			out = append(out, name)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("nftables: list tables: %w", err)
	}
	return out, nil
}

// dump asks for all of a kind in a family, and hands over each message that is one of them.
func (s *socket) dump(kind uint16, family uint8, each func(message []byte)) error {
	var b batch
	s.seq++
	at := b.header(kind, unix.NLM_F_DUMP, family)
	b.finish(at)
	binary.NativeEndian.PutUint32(b.b[8:], s.seq)
	if err := unix.Sendto(s.fd, b.b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	for {
		n, err := s.receive()
		if err != nil {
			return err
		}
		for data := s.answer[:n]; len(data) >= unix.NLMSG_HDRLEN; {
			length := int(binary.NativeEndian.Uint32(data))
			if length < unix.NLMSG_HDRLEN || length > len(data) {
				return errors.New("an answer that is cut off")
			}
			if binary.NativeEndian.Uint32(data[8:]) == s.seq {
				switch binary.NativeEndian.Uint16(data[4:]) {
				case unix.NLMSG_DONE:
					return nil
				case unix.NLMSG_ERROR:
					if length < unix.NLMSG_HDRLEN+4 {
						return errors.New("an answer that is cut off")
					}
					return unix.Errno(-int32(binary.NativeEndian.Uint32(data[unix.NLMSG_HDRLEN:])))
				default:
					each(data[:length])
				}
			}
			data = data[min(len(data), (length+unix.NLMSG_ALIGNTO-1)&^(unix.NLMSG_ALIGNTO-1)):]
		}
	}
}

// about is which table a message of nf_tables is about.
func about(message []byte) (family uint8, table string) {
	const header = unix.NLMSG_HDRLEN + 4
	if len(message) < header {
		return 0, ""
	}
	if name := nft.Find(message[header:], 1); len(name) > 0 {
		table = string(name[:len(name)-1])
	}
	return message[unix.NLMSG_HDRLEN], table
}
