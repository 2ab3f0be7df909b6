package mesh

import (
	"bytes"
	"context"
	"syscall"
	"time"

	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// podLinks begins the names of the interfaces of pods on this node, which come and go without a meaning here.
const podLinks = "clx"

// listen wakes Run when somebody changes what it relies on. A kernel that could not tell everything (ENOBUFS) is asked anew.
func (m *Mesh) listen(ctx context.Context) {
	for ctx.Err() == nil {
		if err := m.follow(ctx); err != nil && ctx.Err() == nil {
			m.log.Debug("mesh: following the kernel's routes ended", "err", err)
		}
		m.poke() // something may have been missed
		select {
		case <-ctx.Done():
		case <-time.After(retryFirst):
		}
	}
}

// follow reads the kernel's announcements until that fails or ctx ends.
func (m *Mesh) follow(ctx context.Context) error {
	s, err := nl.SubscribeAt(netns.NsHandle(m.ns.Fd()), netns.None(), unix.NETLINK_ROUTE,
		unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, s.Close) // which ends Receive
	defer func() {
		if stop() {
			s.Close()
		}
	}()
	for {
		messages, from, err := s.Receive()
		if err != nil {
			return err
		}
		if from.Pid != nl.PidKernel {
			continue
		}
		for i := range messages {
			if concerns(&messages[i]) {
				m.poke()
				break
			}
		}
	}
}

// concerns tells changes that may have to be answered.
func concerns(msg *syscall.NetlinkMessage) bool {
	switch msg.Header.Type {
	case unix.RTM_DELROUTE:
		return len(msg.Data) >= unix.SizeofRtMsg && msg.Data[5] == protocol // struct rtmsg: rtm_protocol
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		return true
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		if len(msg.Data) < unix.SizeofIfInfomsg {
			return false
		}
		attrs, err := nl.ParseRouteAttr(msg.Data[unix.SizeofIfInfomsg:])
		if err != nil {
			return true
		}
		for _, a := range attrs {
			if a.Attr.Type == unix.IFLA_IFNAME {
				return !bytes.HasPrefix(a.Value, []byte(podLinks))
			}
		}
		return true
	}
	return false
}
