package serve

import (
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"
)

var errProxyLine = errors.New("the connection does not begin with a line of the PROXY protocol")

// proxySignature begins version 2 of the PROXY protocol.
const proxySignature = "\r\n\r\n\x00\r\nQUIT\n"

// maxProxyLine is how long a line of version 1 can be, maxProxyBlock the part of version 2 that follows its first 16 bytes.
const maxProxyLine, maxProxyBlock = 107, 4096

// readProxyLine reads who the client is from the beginning of a connection. The address is not valid if the proxy speaks for itself. Rest is what was read beyond.
func readProxyLine(r io.Reader) (client netip.Addr, rest []byte, err error) {
	buf := make([]byte, 0, maxProxyLine)
	more := func(want int) error {
		for len(buf) < want {
			if cap(buf) < want {
				buf = append(make([]byte, 0, want), buf...)
			}
			n, err := r.Read(buf[len(buf):want])
			buf = buf[:len(buf)+n]
			if err != nil && len(buf) < want {
				return err
			}
		}
		return nil
	}
	if err := more(16); err != nil {
		return client, nil, err
	}
	if string(buf[:12]) == proxySignature {
		n := int(binary.BigEndian.Uint16(buf[14:16]))
		if buf[12]>>4 != 2 || n > maxProxyBlock {
			return client, nil, errProxyLine
		}
		if err := more(16 + n); err != nil {
			return client, nil, err
		}
		block := buf[16:]
		switch {
		case buf[12]&0xf == 0: // LOCAL
		case buf[13]>>4 == 1 && n >= 12:
			client, _ = netip.AddrFromSlice(block[:4])
		case buf[13]>>4 == 2 && n >= 36:
			client, _ = netip.AddrFromSlice(block[:16])
		}
		return client.Unmap(), nil, nil
	}
	if string(buf[:6]) != "PROXY " {
		return client, nil, errProxyLine
	}
	for {
		if i := strings.IndexByte(string(buf), '\n'); i >= 0 {
			line, ok := strings.CutSuffix(string(buf[:i]), "\r")
			words := strings.Split(line, " ")
			if !ok || len(words) < 2 {
				return client, nil, errProxyLine
			}
			if words[1] != "UNKNOWN" {
				if len(words) != 6 || words[1] != "TCP4" && words[1] != "TCP6" {
					return client, nil, errProxyLine
				}
				if client, err = netip.ParseAddr(words[2]); err != nil || client.Zone() != "" {
					return netip.Addr{}, nil, errProxyLine
				}
			}
			return client.Unmap(), buf[i+1:], nil
		}
		if len(buf) >= maxProxyLine {
			return client, nil, errProxyLine
		}
		if err := more(len(buf) + 1); err != nil {
			return client, nil, err
		}
	}
}

// quiet notes when something was said last in a tunnel.
type quiet struct{ at atomic.Int64 }

func newQuiet() *quiet {
	q := &quiet{}
	q.note()
	return q
}

func (q *quiet) note() { q.at.Store(time.Now().UnixNano()) }

func (q *quiet) within(d time.Duration) bool { return time.Since(time.Unix(0, q.at.Load())) < d }
