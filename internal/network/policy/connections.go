package policy

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/celox/celox/internal/network/nft"
)

// Values of the kernel's (linux/netfilter/nfnetlink_conntrack.h).
const (
	conntrackGet = unix.NFNL_SUBSYS_CTNETLINK<<8 | 1 // IPCTNL_MSG_CT_GET

	conntrackReply    = 2 // CTA_TUPLE_REPLY
	conntrackIP       = 1 // CTA_TUPLE_IP
	conntrackIPv4From = 1 // CTA_IP_V4_SRC
	conntrackIPv6From = 3 // CTA_IP_V6_SRC
)

// Connections are those that the kernel knows in one network namespace. It implements [Standing]. It is used by one goroutine.
type Connections struct{ socket *socket }

// NewConnections returns those of the network namespace that the calling thread is in.
func NewConnections() (*Connections, error) {
	s, err := newSocket()
	if err != nil {
		return nil, err
	}
	return &Connections{s}, nil
}

// Close ends the use of it.
func (c *Connections) Close() error { return c.socket.close() }

// Standing implements [Standing]: it looks for connections whose server has one of the addresses.
func (c *Connections) Standing(asked map[netip.Addr]bool) error {
	four, six := false, false
	for a := range asked {
		four, six = four || a.Is4(), six || a.Is6()
	}
	var errs []error
	for family, wanted := range map[uint8]bool{unix.AF_INET: four, unix.AF_INET6: six} {
		if !wanted {
			continue
		}
		if err := c.socket.dump(conntrackGet, family, func(message []byte) {
			if a := serverOf(message); a.IsValid() {
				if _, is := asked[a]; is {
					asked[a] = true
				}
			}
		}); err != nil {
			errs = append(errs, fmt.Errorf("list connections: %w", err))
		}
	}
	return errors.Join(errs...)
}

// serverOf is who sends the replies of a connection, in a message about it.
func serverOf(message []byte) netip.Addr {
	const header = unix.NLMSG_HDRLEN + 4
	if len(message) < header {
		return netip.Addr{}
	}
	tuple := nft.Find(message[header:], conntrackReply)
	ip := nft.Find(tuple, conntrackIP)
	if a, ok := netip.AddrFromSlice(nft.Find(ip, conntrackIPv4From)); ok && a.Is4() {
		return a
	}
	a, _ := netip.AddrFromSlice(nft.Find(ip, conntrackIPv6From))
	return a
}
