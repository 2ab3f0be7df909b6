package wireguard

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

const (
	// Name is what the device is called.
	Name = "celox-wg"
	// DefaultPort is WireGuard's usual UDP port.
	DefaultPort = 51820
	// overhead is what encryption adds to a packet: an IP header, UDP, and WireGuard's own 32 bytes.
	overhead4, overhead6 = 60, 80
)

// ErrNotSupported is what Open returns where the kernel cannot do it.
var ErrNotSupported = errors.New("this kernel has no WireGuard")

// Peer is a far end.
type Peer struct {
	Key      Key
	Endpoint netip.AddrPort
	// Allowed are the networks whose packets go to it, and that its packets may be from.
	Allowed []netip.Prefix
}

// Config is what a device should be like.
type Config struct {
	Port  uint16
	Peers []Peer
	// Underlay is the smallest MTU of the interfaces that encrypted packets leave by.
	Underlay int
}

// client is what is asked of the kernel, by generic netlink.
type client interface {
	Device(name string) (*wgtypes.Device, error)
	ConfigureDevice(name string, cfg wgtypes.Config) error
	Close() error
}

// Device is this machine's end of the encrypted tunnel. Its methods are for one goroutine at a time.
type Device struct {
	key  PrivateKey
	h    *netlink.Handle
	c    client
	link func(attrs netlink.LinkAttrs) netlink.Link
}

// Open makes the device in the calling thread's network namespace, or takes over the one of an earlier process.
func Open(key PrivateKey) (*Device, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("wireguard: netlink: %w", err)
	}
	d := &Device{key: key, h: h, link: func(attrs netlink.LinkAttrs) netlink.Link { return &netlink.Wireguard{LinkAttrs: attrs} }}
	if _, err := d.ensure(); err != nil { // which has the kernel load its module
		h.Close()
		return nil, err
	}
	c, err := wgctrl.New()
	if err != nil {
		h.Close()
		return nil, fmt.Errorf("wireguard: generic netlink: %w", err)
	}
	d.c = c
	return d, nil
}

// Close ends the work with the device, which stays.
func (d *Device) Close() error {
	d.h.Close()
	return d.c.Close()
}

// ensure makes the device if it is not there.
func (d *Device) ensure() (netlink.Link, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = Name
	wanted := d.link(attrs)
	link, err := d.h.LinkByName(Name)
	if err == nil && link.Type() == wanted.Type() {
		return link, nil
	}
	var missing netlink.LinkNotFoundError
	if err == nil {
		err = d.h.LinkDel(link)
	}
	if err != nil && !errors.As(err, &missing) {
		return nil, fmt.Errorf("wireguard: device %s: %w", Name, err)
	}
	err = d.h.LinkAdd(wanted)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil, fmt.Errorf("%w (module wireguard)", ErrNotSupported)
	}
	if err == nil {
		link, err = d.h.LinkByName(Name)
	}
	if err != nil {
		return nil, fmt.Errorf("wireguard: add device %s: %w", Name, err)
	}
	return link, nil
}

// Apply makes the device be as wanted, and up, and returns its index. Addresses are the caller's business. What is right already is not touched: sessions go on.
func (d *Device) Apply(cfg Config) (int, error) {
	link, err := d.ensure()
	if err != nil {
		return 0, err
	}
	have, err := d.c.Device(Name)
	if err != nil {
		return 0, fmt.Errorf("wireguard: read device %s: %w", Name, err)
	}
	if change, needed := difference(d.key, have, cfg); needed {
		if err := d.c.ConfigureDevice(Name, change); err != nil {
			if errors.Is(err, unix.EADDRINUSE) {
				return 0, fmt.Errorf("wireguard: UDP port %d is taken by another program: stop it, or give another --wireguard-port", cfg.Port)
			}
			return 0, fmt.Errorf("wireguard: configure device %s: %w", Name, err)
		}
	}
	if mtu := cfg.Underlay - overhead(cfg.Peers); link.Attrs().MTU != mtu && cfg.Underlay > 0 {
		if err := d.h.LinkSetMTU(link, mtu); err != nil {
			return 0, fmt.Errorf("wireguard: set MTU %d: %w", mtu, err)
		}
	}
	if link.Attrs().Flags&net.FlagUp == 0 {
		if err := d.h.LinkSetUp(link); err != nil {
			if errors.Is(err, unix.EADDRINUSE) {
				return 0, fmt.Errorf("wireguard: UDP port %d is taken by another program: stop it, or give another --wireguard-port", cfg.Port)
			}
			return 0, fmt.Errorf("wireguard: set up: %w", err)
		}
	}
	return link.Attrs().Index, nil
}

// overhead is that of the worst way.
func overhead(peers []Peer) int {
	if slices.ContainsFunc(peers, func(p Peer) bool { return p.Endpoint.Addr().Is6() }) {
		return overhead6
	}
	return overhead4
}

// difference is what has to be told to a device, and whether anything has.
func difference(key PrivateKey, have *wgtypes.Device, cfg Config) (wgtypes.Config, bool) {
	var out wgtypes.Config
	needed := false
	if have.PrivateKey != key.k {
		out.PrivateKey, needed = &key.k, true
	}
	if port := int(cfg.Port); have.ListenPort != port {
		out.ListenPort, needed = &port, true
	}
	there := map[wgtypes.Key]*wgtypes.Peer{}
	for i := range have.Peers {
		there[have.Peers[i].PublicKey] = &have.Peers[i]
	}
	// Those that go first: a network belongs to one peer, and one that a new key takes over from an old one must not be lost with that.
	wanted := map[wgtypes.Key]bool{}
	for _, p := range cfg.Peers {
		wanted[wgtypes.Key(p.Key)] = true
	}
	for i := range have.Peers {
		if k := have.Peers[i].PublicKey; !wanted[k] {
			out.Peers, needed = append(out.Peers, wgtypes.PeerConfig{PublicKey: k, Remove: true}), true
		}
	}
	for _, p := range cfg.Peers {
		is := there[wgtypes.Key(p.Key)]
		if is != nil && sameEndpoint(is.Endpoint, p.Endpoint) && sameNetworks(is.AllowedIPs, p.Allowed) {
			continue
		}
		c := wgtypes.PeerConfig{PublicKey: wgtypes.Key(p.Key), Endpoint: net.UDPAddrFromAddrPort(p.Endpoint), ReplaceAllowedIPs: true}
		for _, n := range p.Allowed {
			c.AllowedIPs = append(c.AllowedIPs, net.IPNet{IP: n.Masked().Addr().AsSlice(), Mask: net.CIDRMask(n.Bits(), n.Addr().BitLen())})
		}
		out.Peers, needed = append(out.Peers, c), true
	}
	return out, needed
}

func sameEndpoint(have *net.UDPAddr, want netip.AddrPort) bool {
	return have != nil && have.AddrPort().Port() == want.Port() && have.AddrPort().Addr().Unmap() == want.Addr()
}

func sameNetworks(have []net.IPNet, want []netip.Prefix) bool {
	if len(have) != len(want) {
		return false
	}
	for _, n := range have {
		a, _ := netip.AddrFromSlice(n.IP)
		ones, _ := n.Mask.Size()
		if !slices.Contains(want, netip.PrefixFrom(a.Unmap(), ones)) {
			return false
		}
	}
	return true
}

// Remove removes the device, if there is one, in the namespace of h.
func Remove(h *netlink.Handle) error {
	link, err := h.LinkByName(Name)
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		return nil
	}
	if err == nil {
		err = h.LinkDel(link)
	}
	if err != nil {
		return fmt.Errorf("wireguard: remove device %s: %w", Name, err)
	}
	return nil
}
