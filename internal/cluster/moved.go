package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
)

const (
	// addressSettle is how long addresses have to stay as they are before they count: whoever changes them takes several steps.
	addressSettle = time.Second
	// addressRetry is how long a machine without a way to the server waits until it looks again.
	addressRetry = 5 * time.Second
)

// movedError says that a machine has other addresses than the node began with.
type movedError struct{ from, to []netip.Addr }

func (e *movedError) Error() string {
	return fmt.Sprintf("the addresses of this machine are %v now, and were %v", e.to, e.from)
}

// watchAddresses returns a movedError when find finds other addresses than the node has, twice within a while. A machine that has none at all for a time, as
// when its lease is renewed or a cable is out, keeps what it had.
func watchAddresses(ctx context.Context, have []netip.Addr, find func() ([]netip.Addr, error)) error {
	for {
		err := followAddresses(ctx, have, find)
		if !errors.Is(err, errMissed) {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(addressRetry):
		}
	}
}

// errMissed says that the kernel had more to tell than could be read.
var errMissed = errors.New("missed changes of addresses")

// addressNews tells of changes of this machine's addresses until stop, which waits for its end. The channel is closed when there was more to tell than could be read.
func addressNews() (news <-chan netlink.AddrUpdate, stop func(), err error) {
	updates, done := make(chan netlink.AddrUpdate, 64), make(chan struct{})
	if err := netlink.AddrSubscribeWithOptions(updates, done, netlink.AddrSubscribeOptions{ErrorCallback: func(error) {}}); err != nil {
		return nil, nil, fmt.Errorf("follow the addresses of this machine: %w", err)
	}
	return updates, func() {
		close(done)
		for range updates { // until the library has seen it
		}
	}, nil
}

func followAddresses(ctx context.Context, have []netip.Addr, find func() ([]netip.Addr, error)) error {
	news, stop, err := addressNews()
	if err != nil {
		return err
	}
	defer stop()
	var seen []netip.Addr
	timer := time.NewTimer(addressSettle)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case u, ok := <-news:
			if !ok {
				return errMissed
			}
			if a, ok := netip.AddrFromSlice(u.LinkAddress.IP); ok && a.Unmap().IsGlobalUnicast() {
				timer.Reset(addressSettle)
			}
		case <-timer.C:
			found, err := find()
			switch {
			case err != nil: // there is no way to the server, of which there may come one without another address
				seen = nil
				timer.Reset(addressRetry)
			case slices.Equal(found, have), len(found) < len(have) && !differs(found, have):
				seen = nil
			case slices.Equal(found, seen):
				return &movedError{have, found}
			default:
				seen = found
				timer.Reset(addressSettle)
			}
		}
	}
}

// differs says whether some address is another than the one of its family before; one that is missing for now does not count.
func differs(found, have []netip.Addr) bool {
	return slices.ContainsFunc(found, func(a netip.Addr) bool { return !slices.Contains(have, a) })
}

// watchAddresses says when the server's machine has other addresses than it began with. Agents, which know it by the old ones, are not helped by a server that
// starts anew by itself in the middle of something.
func (s *Server) watchAddresses(ctx context.Context) error {
	err := watchAddresses(ctx, s.nodeIPs, func() ([]netip.Addr, error) { return nodeIPs(s.cfg) })
	var moved *movedError
	if !errors.As(err, &moved) {
		return err
	}
	s.say("%v: start the server again, so that its certificate, its node and the service kubernetes follow; agents that know it by an address need --server once", moved)
	<-ctx.Done()
	return nil
}
