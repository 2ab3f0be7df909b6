package network

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// ifbPrefix begins the name of the devices through which what pods send is slowed down: the kernel shapes only what leaves by an interface.
	ifbPrefix = "cli"
	// What may come at once: as much as a packet of the kernel's largest size, or as fits in burstTime.
	minBurst  = 64 << 10 // bytes
	maxBurst  = 256 << 20
	burstTime = 0.005 // seconds
	// maxBurstTime bounds it for the slowest rates; the kernel counts it in 32 bits of 64 ns.
	maxBurstTime = 200 // seconds
	// latency is how long a packet may wait for its turn before it is dropped.
	latency = 0.025 // seconds
)

// ifbName is what the device of a sandbox is called that slows down what it sends.
func ifbName(id string) string { return ifbPrefix + vethName(id)[len(vethPrefix):] }

// isLimit says whether an interface is such a device.
func isLimit(l netlink.Link) bool {
	return l.Type() == "ifb" && strings.HasPrefix(l.Attrs().Name, ifbPrefix)
}

// bucket is a token bucket for a rate in bits a second.
func bucket(link int, bits uint64) *netlink.Tbf {
	rate := float64(bits) / 8
	burst := min(max(rate*burstTime, minBurst), maxBurst, rate*maxBurstTime)
	return &netlink.Tbf{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: link, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
		Rate:       uint64(rate), Buffer: max(netlink.Xmittime(uint64(rate), uint32(burst)), 1), Limit: uint32(min(burst+rate*latency, math.MaxUint32)),
	}
}

// limit slows a sandbox down, whose interface on the host is given: what it receives where it leaves the host, what it sends by way of a device of its own.
func limit(h *netlink.Handle, id string, host, mtu int, b Bandwidth) error {
	if b.Ingress > 0 {
		if err := h.QdiscReplace(bucket(host, b.Ingress)); err != nil {
			return fmt.Errorf("limit what the pod receives: %w", err)
		}
	}
	if b.Egress == 0 {
		return nil
	}
	if err := limitEgress(h, ifbName(id), host, mtu, b.Egress); err != nil {
		return fmt.Errorf("limit what the pod sends: %w", err)
	}
	return nil
}

func limitEgress(h *netlink.Handle, name string, host, mtu int, bits uint64) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.Flags = name, mtu, unix.IFF_UP
	if err := h.LinkAdd(&netlink.Ifb{LinkAttrs: attrs}); err != nil && !errors.Is(err, unix.EEXIST) {
		if errors.Is(err, unix.EOPNOTSUPP) {
			return fmt.Errorf("the kernel has no ifb devices: %w", err)
		}
		return fmt.Errorf("add interface %s: %w", name, err)
	}
	ifb, err := h.LinkByName(name)
	if err != nil {
		return fmt.Errorf("interface %s: %w", name, err)
	}
	if err := cmp.Or(h.LinkSetUp(ifb), h.QdiscReplace(bucket(ifb.Attrs().Index, bits))); err != nil {
		return fmt.Errorf("interface %s: %w", name, err)
	}
	if err := classify(h, host); err != nil {
		return err
	}
	all := &netlink.U32{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: host, Parent: netlink.HANDLE_MIN_INGRESS, Priority: 1, Protocol: unix.ETH_P_ALL},
		RedirIndex:  ifb.Attrs().Index,
		ClassId:     netlink.MakeHandle(1, 1),
	}
	if err := h.FilterAdd(all); err != nil {
		return fmt.Errorf("send it through %s: %w", name, err)
	}
	return nil
}

// classify lets what comes by an interface be looked at.
func classify(h *netlink.Handle, link int) error {
	hook := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: link, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}}
	if err := h.QdiscAdd(hook); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("clsact: %w", err)
	}
	return nil
}
