package proxy

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Tampering signals when somebody in this network namespace, perhaps we ourselves, removed a table, a chain or a rule. Its Run must be called.
type Tampering struct {
	conn *netlink.Conn
	c    chan struct{} // capacity 1
}

// NewTampering subscribes to the kernel's news of nftables.
func NewTampering() (*Tampering, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{Groups: 1 << (unix.NFNLGRP_NFTABLES - 1)})
	if err != nil {
		return nil, fmt.Errorf("nftables: %w", err)
	}
	return &Tampering{conn: conn, c: make(chan struct{}, 1)}, nil
}

// Close ends the subscription of one whose Run is never called.
func (t *Tampering) Close() error { return t.conn.Close() }

// C has one signal for any number of removals.
func (t *Tampering) C() <-chan struct{} { return t.c }

// Run listens until ctx ends.
func (t *Tampering) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = t.conn.Close() }) // which ends Receive
	defer stop()
	for {
		news, err := t.conn.Receive()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS): // too much news to keep: some may have been of removals
			t.signal()
			continue
		case err != nil:
			return fmt.Errorf("nftables: %w", err)
		}
		for _, m := range news {
			switch m.Header.Type & 0xff {
			case unix.NFT_MSG_DELTABLE, unix.NFT_MSG_DELCHAIN, unix.NFT_MSG_DELRULE:
				t.signal()
			}
		}
	}
}

// rest has the kernel keep its news to itself.
func (t *Tampering) rest() error {
	if err := t.conn.LeaveGroup(unix.NFNLGRP_NFTABLES); err != nil && !isClosed(err) {
		return fmt.Errorf("nftables: %w", err)
	}
	return nil
}

// resume is the end of rest. What happened meanwhile is worth a look.
func (t *Tampering) resume() error {
	err := t.conn.JoinGroup(unix.NFNLGRP_NFTABLES)
	t.signal()
	if err != nil && !isClosed(err) {
		return fmt.Errorf("nftables: %w", err)
	}
	return nil
}

// isClosed is so at our end, which may come before the proxy's.
func isClosed(err error) bool { return errors.Is(err, os.ErrClosed) || errors.Is(err, unix.EBADF) }

func (t *Tampering) signal() {
	select {
	case t.c <- struct{}{}:
	default:
	}
}
