package network

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/celox/celox/internal/network/dump"
)

// listenPause is how long to wait before listening again to a kernel that had more to tell than we took.
const listenPause = time.Second

// routeMTU is the MTU of the interface that the default route leaves by, and its index; both are 0 if there is no such route.
func routeMTU(h *netlink.Handle) (mtu, index int) {
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := dump.Whole(func() ([]netlink.Route, error) {
			return h.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
		})
		if err != nil {
			continue
		}
		for _, r := range routes {
			if r.Dst != nil {
				if ones, _ := r.Dst.Mask.Size(); ones != 0 {
					continue
				}
			}
			if l, err := h.LinkByIndex(r.LinkIndex); err == nil && l.Attrs().MTU > 0 {
				return l.Attrs().MTU, r.LinkIndex
			}
		}
	}
	return 0, 0
}

// followMTU keeps the pods' interfaces at the MTU of the machine's way out, until ctx ends.
func (n *Network) followMTU(ctx context.Context) {
	for ctx.Err() == nil {
		if err := n.listenMTU(ctx); err != nil && ctx.Err() == nil {
			n.cfg.Log.Debug("pod network: following the MTU ended", "err", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(listenPause):
		}
	}
}

func (n *Network) listenMTU(ctx context.Context) error {
	s, err := nl.SubscribeAt(netns.NsHandle(n.ns.Fd()), netns.None(), unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, s.Close) // which ends Receive
	defer func() {
		if stop() {
			s.Close()
		}
	}()
	index := n.checkMTU(ctx)
	for {
		messages, from, err := s.Receive()
		if err != nil {
			return err
		}
		if from.Pid != nl.PidKernel {
			continue
		}
		for i := range messages {
			if concernsMTU(&messages[i], index) {
				index = n.checkMTU(ctx)
				break
			}
		}
	}
}

// concernsMTU tells news of the interface with an index, or of a default route. Pods that come and go make many others, so nothing else is looked at.
func concernsMTU(msg *syscall.NetlinkMessage, index int) bool {
	switch msg.Header.Type {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		return len(msg.Data) >= unix.SizeofIfInfomsg && int(binary.NativeEndian.Uint32(msg.Data[4:8])) == index // struct ifinfomsg: ifi_index
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		return len(msg.Data) >= unix.SizeofRtMsg && msg.Data[1] == 0 // struct rtmsg: rtm_dst_len
	}
	return false
}

// checkMTU takes up the MTU of the default route, if it is another, and returns the index of its interface. Without such a route everything stays as it is.
func (n *Network) checkMTU(ctx context.Context) int {
	mtu, index := routeMTU(n.h)
	n.mu.Lock()
	if mtu == 0 || mtu == n.mtu || n.closed {
		n.mu.Unlock()
		return index
	}
	n.cfg.Log.Info("pod network: another MTU", "old", n.mtu, "new", mtu)
	n.mtu = mtu
	err := n.ensure()
	ids := make([]string, 0, len(n.sandboxes))
	for id := range n.sandboxes {
		ids = append(ids, id)
	}
	n.mu.Unlock()
	for _, id := range ids {
		err = errors.Join(err, n.resize(ctx, id))
	}
	if err != nil && ctx.Err() == nil {
		n.cfg.Log.Warn("pod network: change the MTU", "new", mtu, "err", err)
	}
	return index
}

// resize gives both ends of a sandbox's pair the MTU of now.
func (n *Network) resize(ctx context.Context, id string) error {
	release, err := n.acquire(ctx, id)
	if err != nil {
		return err
	}
	defer release()
	n.mu.Lock()
	s, mtu := n.sandboxes[id], n.mtu
	n.mu.Unlock()
	if s == nil {
		return nil
	}
	pod, err := os.Open(s.NetNS)
	if err != nil {
		return nil //nolint:nilerr // it is going
	}
	defer pod.Close()
	in, err := handleAt(pod)
	if err != nil {
		return nil //nolint:nilerr // the same
	}
	defer in.Close()
	for _, end := range []struct {
		h    *netlink.Handle
		name string
	}{{n.h, vethName(id)}, {in, podInterface}} {
		var missing netlink.LinkNotFoundError
		l, err := end.h.LinkByName(end.name)
		if err == nil {
			err = end.h.LinkSetMTU(l, mtu)
		}
		if err != nil && !errors.As(err, &missing) {
			return fmt.Errorf("interface %s of pod %s: %w", end.name, s.Pod, err)
		}
	}
	return nil
}
