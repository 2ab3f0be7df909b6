package cni

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/celox/celox/internal/network/networktest"
)

// TestUnseen: which packets of pods pass the node's rules follows from how the pods are connected.
func TestUnseen(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		make func(node, pod *networktest.Machine) error
		want string
	}{
		{"nothing", func(*networktest.Machine, *networktest.Machine) error { return nil }, "interface eth0"},
		{"routed", func(node, pod *networktest.Machine) error { return pair(pod, "v0") }, ""},
		{"bridged", func(node, pod *networktest.Machine) error {
			attrs := netlink.NewLinkAttrs()
			attrs.Name = "br0"
			if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
				return err
			}
			if err := pair(pod, "v0"); err != nil {
				return err
			}
			bridge, err := netlink.LinkByName("br0")
			if err != nil {
				return err
			}
			port, err := netlink.LinkByName("v0")
			if err != nil {
				return err
			}
			return netlink.LinkSetMaster(port, bridge)
		}, "by what the bridge asks"},
		{"on the wire itself", func(node, pod *networktest.Machine) error {
			attrs := netlink.NewLinkAttrs()
			attrs.Name = "wire"
			if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "far"}); err != nil {
				return err
			}
			wire, err := netlink.LinkByName("wire")
			if err != nil {
				return err
			}
			attrs = netlink.NewLinkAttrs()
			attrs.Name, attrs.ParentIndex, attrs.Namespace = interfaceName, wire.Attrs().Index, netlink.NsFd(int(pod.NS.Fd()))
			return netlink.LinkAdd(&netlink.Macvlan{LinkAttrs: attrs, Mode: netlink.MACVLAN_MODE_BRIDGE})
		}, "of the type macvlan"},
		{"elsewhere", func(node, pod *networktest.Machine) error {
			attrs := netlink.NewLinkAttrs()
			attrs.Name, attrs.Namespace = interfaceName, netlink.NsFd(int(pod.NS.Fd()))
			v := netlink.NewVeth(attrs)
			v.PeerName, v.PeerNamespace = "far", netlink.NsFd(int(networktest.NewMachine(t, "third").NS.Fd()))
			return netlink.LinkAdd(v)
		}, "is not on the node"},
	} {
		t.Run(c.name, func(t *testing.T) {
			node, pod := networktest.NewMachine(t, "node"), networktest.NewMachine(t, "pod")
			node.Must(func() error {
				if err := c.make(node, pod); err != nil {
					return err
				}
				err := (&Network{}).Unseen(fmt.Sprintf("/proc/self/fd/%d", pod.NS.Fd()))
				want := c.want
				if want == "by what the bridge asks" {
					if want = ""; asked("br0", bridgeCalls) != nil {
						want = "br0"
					}
				}
				if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
					t.Errorf("got %v, want %q", err, want)
				}
				return nil
			})
		})
	}
	if err := (&Network{}).Unseen(filepath.Join(t.TempDir(), "gone")); err != nil {
		t.Errorf("one that is gone: %v", err)
	}
}

// pair connects a pod.
func pair(pod *networktest.Machine, name string) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	v := netlink.NewVeth(attrs)
	v.PeerName, v.PeerNamespace = interfaceName, netlink.NsFd(int(pod.NS.Fd()))
	return netlink.LinkAdd(v)
}

func TestAsked(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ four, six, want string }{{"1", "1", ""}, {"0", "1", "bridge-nf-call-iptables to 1"}, {"1", "0", "bridge-nf-call-ip6tables to 1"}, {"", "", "needs br_netfilter"}} {
		calls := filepath.Join(t.TempDir(), "call-")
		for name, text := range map[string]string{"iptables": c.four, "ip6tables": c.six} {
			if text == "" {
				continue
			}
			if err := os.WriteFile(calls+name, []byte(text+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := asked("br0", calls); (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}
