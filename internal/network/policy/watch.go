package policy

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Watch signals when somebody else changed a table of ours, in whatever way. Its Run must be called.
type Watch struct {
	conn *netlink.Conn
	own  uint32
	c    chan struct{} // capacity 1
}

// NewWatch subscribes to the kernel's news of nftables in the network namespace of the calling thread. Changes by own, a datapath's Port, are not news.
func NewWatch(own uint32) (*Watch, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{Groups: 1 << (unix.NFNLGRP_NFTABLES - 1)})
	if err != nil {
		return nil, fmt.Errorf("nftables: %w", err)
	}
	if err := conn.SetReadBuffer(socketBuffer); err != nil {
		return nil, errors.Join(fmt.Errorf("nftables: %w", err), conn.Close())
	}
	return &Watch{conn: conn, own: own, c: make(chan struct{}, 1)}, nil
}

// Close ends the subscription of one whose Run is never called.
func (w *Watch) Close() error { return w.conn.Close() }

// C has one signal for any number of changes.
func (w *Watch) C() <-chan struct{} { return w.c }

// Run listens until ctx ends.
func (w *Watch) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = w.conn.Close() }) // which ends Receive
	defer stop()
	for {
		news, err := w.conn.Receive()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS): // too much news to keep: some may have been of ours
			w.signal()
			continue
		case err != nil:
			return fmt.Errorf("nftables: %w", err)
		}
		for _, m := range news {
			if m.Header.PID != w.own && foreign(m) {
				w.signal()
			}
		}
	}
}

// foreign says whether a change is of a table of ours.
func foreign(m netlink.Message) bool {
	if m.Header.Type>>8 != unix.NFNL_SUBSYS_NFTABLES || m.Header.Type&0xff == unix.NFT_MSG_NEWGEN {
		return false
	}
	_, table := about(append(make([]byte, unix.NLMSG_HDRLEN), m.Data...))
	return strings.HasPrefix(table, tablePrefix)
}

func (w *Watch) signal() {
	select {
	case w.c <- struct{}{}:
	default:
	}
}
