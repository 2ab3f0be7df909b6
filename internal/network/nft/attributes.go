package nft

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// Begin begins an attribute (struct nlattr) at the end of b. It also returns where, for End.
func Begin(b []byte, kind uint16) (_ []byte, at int) {
	at = len(b)
	return binary.NativeEndian.AppendUint16(binary.NativeEndian.AppendUint16(b, 0), kind), at
}

// End ends the attribute that begins at a place, and pads it. What it holds begins with the message, or where that is aligned.
func End(b []byte, at int) []byte {
	binary.NativeEndian.PutUint16(b[at:], uint16(len(b)-at))
	for len(b)%unix.NLA_ALIGNTO != 0 {
		b = append(b, 0)
	}
	return b
}

// Find returns the value of the first attribute of a kind among others; nil is that there is none.
func Find(attributes []byte, kind uint16) []byte {
	for len(attributes) >= unix.NLA_HDRLEN {
		length := int(binary.NativeEndian.Uint16(attributes))
		if length < unix.NLA_HDRLEN || length > len(attributes) {
			return nil
		}
		if binary.NativeEndian.Uint16(attributes[2:])&^uint16(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER) == kind {
			return attributes[unix.NLA_HDRLEN:length]
		}
		attributes = attributes[min(len(attributes), (length+unix.NLA_ALIGNTO-1)&^(unix.NLA_ALIGNTO-1)):]
	}
	return nil
}
