package nft

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// News signals when somebody changed what is of interest in the tables of a network namespace. Its Run must be called.
type News struct {
	conn  *netlink.Conn
	about func(netlink.Message) bool
	c     chan struct{} // capacity 1
}

// NewNews subscribes to the kernel's news of nftables in the network namespace of the calling thread. about says which are of interest. buffer is how many
// bytes of them may wait; 0 is the kernel's own size.
func NewNews(buffer int, about func(netlink.Message) bool) (*News, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{Groups: 1 << (unix.NFNLGRP_NFTABLES - 1)})
	if err != nil {
		return nil, fmt.Errorf("nftables: %w", err)
	}
	if buffer > 0 {
		if err := conn.SetReadBuffer(buffer); err != nil {
			return nil, errors.Join(fmt.Errorf("nftables: %w", err), conn.Close())
		}
	}
	return &News{conn: conn, about: about, c: make(chan struct{}, 1)}, nil
}

// Close ends the subscription of one whose Run is never called.
func (n *News) Close() error { return n.conn.Close() }

// C has one signal for any number of changes.
func (n *News) C() <-chan struct{} { return n.c }

// Run listens until ctx ends.
func (n *News) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = n.conn.Close() }) // which ends Receive
	defer stop()
	for {
		news, err := n.conn.Receive()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS): // too much news to keep: some may have been of interest
			n.signal()
			continue
		case err != nil:
			return fmt.Errorf("nftables: %w", err)
		}
		for _, m := range news {
			if n.about(m) {
				n.signal()
			}
		}
	}
}

// Rest has the kernel keep its news to itself.
func (n *News) Rest() error {
	if err := n.conn.LeaveGroup(unix.NFNLGRP_NFTABLES); err != nil && !isClosed(err) {
		return fmt.Errorf("nftables: %w", err)
	}
	return nil
}

// Resume is the end of Rest. What happened meanwhile is worth a look.
func (n *News) Resume() error {
	err := n.conn.JoinGroup(unix.NFNLGRP_NFTABLES)
	n.signal()
	if err != nil && !isClosed(err) {
		return fmt.Errorf("nftables: %w", err)
	}
	return nil
}

// isClosed is so when Run has ended, which may come before the end of who rests.
func isClosed(err error) bool { return errors.Is(err, os.ErrClosed) || errors.Is(err, unix.EBADF) }

func (n *News) signal() {
	select {
	case n.c <- struct{}{}:
	default:
	}
}
