package userspace

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// newsPause is how long news are gathered: who removes something mostly removes more.
const newsPause = 50 * time.Millisecond

// news has a signal when something of the node's namespace changed that the ways may be made of.
type news struct {
	conn *netlink.Conn
	c    chan struct{} // capacity 1
}

// newNews subscribes to the kernel's news of a namespace.
func newNews(ns *os.File) (*news, error) {
	var groups uint32
	for _, g := range []int{unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE} {
		groups |= 1 << (g - 1)
	}
	conn, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{Groups: groups, NetNS: int(ns.Fd())})
	if err != nil {
		return nil, fmt.Errorf("news of routes: %w", err)
	}
	return &news{conn: conn, c: make(chan struct{}, 1)}, nil
}

// run listens until ctx ends.
func (n *news) run(ctx context.Context, log *slog.Logger) {
	stop := context.AfterFunc(ctx, func() { _ = n.conn.Close() }) // which ends Receive
	defer stop()
	for {
		list, err := n.conn.Receive()
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, unix.ENOBUFS): // too much news to keep
			n.signal()
			continue
		case err != nil:
			log.Error("service proxy: routes that somebody removes are not put back any more", "err", err)
			<-ctx.Done()
			return
		}
		for _, m := range list {
			if concerns(m) {
				n.signal()
				break
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(newsPause):
		}
	}
}

func (n *news) signal() {
	select {
	case n.c <- struct{}{}:
	default:
	}
}

// concerns says whether a message may be about an interface, an address or a route of ours. Of routes those by a gateway of ours are, whoever made them; one that
// took the place of ours has another, and is known by that it replaces.
func concerns(m netlink.Message) bool {
	switch m.Header.Type {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK, unix.RTM_DELADDR:
		return true
	case unix.RTM_NEWROUTE:
		return m.Header.Flags&netlink.Replace != 0
	case unix.RTM_DELROUTE:
		return len(m.Data) < unix.SizeofRtMsg || byUs(m.Data)
	}
	return false
}

// byUs looks for our gateway in a message about a route (struct rtmsg and attributes).
func byUs(data []byte) bool {
	_, gateway := ends(data[0] == unix.AF_INET6)
	for rest := data[unix.SizeofRtMsg:]; len(rest) >= unix.SizeofRtAttr; {
		length := int(binary.NativeEndian.Uint16(rest))
		if length < unix.SizeofRtAttr || length > len(rest) {
			return false
		}
		if binary.NativeEndian.Uint16(rest[2:]) == unix.RTA_GATEWAY {
			a, ok := netip.AddrFromSlice(rest[unix.SizeofRtAttr:length])
			return ok && a == gateway.Addr()
		}
		rest = rest[min(len(rest), (length+unix.RTA_ALIGNTO-1)&^(unix.RTA_ALIGNTO-1)):]
	}
	return false
}
