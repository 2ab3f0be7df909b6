package wireguard

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
	"pgregory.net/rapid"
)

// fake is a device as the kernel has it.
type fake struct {
	device  wgtypes.Device
	changes int
	err     error
}

func (f *fake) Device(string) (*wgtypes.Device, error) {
	d := f.device
	d.Peers = slices.Clone(d.Peers)
	return &d, f.err
}

func (f *fake) ConfigureDevice(_ string, c wgtypes.Config) error {
	f.changes++
	if c.PrivateKey != nil {
		f.device.PrivateKey = *c.PrivateKey
	}
	if c.ListenPort != nil {
		f.device.ListenPort = *c.ListenPort
	}
	for _, p := range c.Peers {
		// A network belongs to one peer: who is given it takes it from others.
		for i := range f.device.Peers {
			o := &f.device.Peers[i]
			o.AllowedIPs = slices.DeleteFunc(slices.Clone(o.AllowedIPs), func(n net.IPNet) bool {
				return slices.ContainsFunc(p.AllowedIPs, func(m net.IPNet) bool { return m.String() == n.String() })
			})
		}
		f.device.Peers = slices.DeleteFunc(f.device.Peers, func(o wgtypes.Peer) bool { return o.PublicKey == p.PublicKey })
		if !p.Remove {
			f.device.Peers = append(f.device.Peers, wgtypes.Peer{PublicKey: p.PublicKey, Endpoint: p.Endpoint, AllowedIPs: p.AllowedIPs})
		}
	}
	return nil
}

func (f *fake) Close() error { return nil }

// Whatever a device is like: after one change it is as wanted, and another pass changes nothing.
func TestDifference(t *testing.T) {
	secret, _, err := LoadKey(filepath.Join(t.TempDir(), "key"))
	if err != nil {
		t.Fatal(err)
	}
	draw := func(t *rapid.T, label string) Config {
		cfg := Config{Port: uint16(rapid.IntRange(1, 3).Draw(t, label+" port"))}
		keys := rapid.Permutation([]byte{1, 2, 3, 4, 5}).Draw(t, label+" keys")
		for n := range rapid.IntRange(0, 4).Draw(t, label+" nodes") {
			p := Peer{Key: Key{keys[n]}, Endpoint: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(rapid.IntRange(1, 3).Draw(t, label+" address"))}), 51820)}
			p.Allowed = []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 42, byte(n), 0}), 24)}
			if rapid.Bool().Draw(t, label+" dual") {
				p.Allowed = append(p.Allowed, netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 0x42, 15: byte(n)}), 128))
			}
			cfg.Peers = append(cfg.Peers, p)
		}
		return cfg
	}
	rapid.Check(t, func(t *rapid.T) {
		f := &fake{}
		for range 3 {
			cfg := draw(t, "config")
			d, _ := f.Device(Name)
			if change, needed := difference(secret, d, cfg); needed {
				_ = f.ConfigureDevice(Name, change)
			}
			if d, _ = f.Device(Name); d.PrivateKey != secret.k || d.ListenPort != int(cfg.Port) || len(d.Peers) != len(cfg.Peers) {
				t.Fatalf("the device is %+v, want %+v", d, cfg)
			}
			for _, p := range cfg.Peers {
				at := slices.IndexFunc(d.Peers, func(o wgtypes.Peer) bool { return o.PublicKey == wgtypes.Key(p.Key) })
				if at < 0 || !sameEndpoint(d.Peers[at].Endpoint, p.Endpoint) || !sameNetworks(d.Peers[at].AllowedIPs, p.Allowed) {
					t.Fatalf("the device has %+v, want %+v", d.Peers, p)
				}
			}
			if change, needed := difference(secret, d, cfg); needed {
				t.Fatalf("a second pass changes %+v", change)
			}
		}
	})
}

func TestKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "below", "key")
	first, made, err := LoadKey(path)
	if err != nil || !made {
		t.Fatal(made, err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file is %v, %v", info.Mode(), err)
	}
	if strings.Contains(first.String(), first.k.String()) {
		t.Error("a key tells its secret")
	}
	again, made, err := LoadKey(path)
	if err != nil || made || again != first {
		t.Errorf("another key: %v, %v", made, err)
	}
	parsed, err := ParseKey(first.Public().String())
	if err != nil || parsed != first.Public() {
		t.Errorf("%v, %v", parsed, err)
	}
	for _, damaged := range []string{"", "no key", strings.Repeat("A", 43) + "="} {
		if err := os.WriteFile(path, []byte(damaged), 0o644); err != nil {
			t.Fatal(err)
		}
		if next, made, err := LoadKey(path); err != nil || !made || next == first {
			t.Errorf("with %q in the file: %v, %v", damaged, made, err)
		}
		if _, err := ParseKey(damaged); err == nil {
			t.Errorf("%q is a key", damaged)
		}
	}
	if (Key{}).String() != "" {
		t.Error("no key has a text")
	}
}

func FuzzParseKey(f *testing.F) {
	f.Add("")
	f.Add("QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=")
	f.Fuzz(func(t *testing.T, text string) {
		if k, err := ParseKey(text); err == nil && k.IsZero() {
			t.Error("a key of zeros")
		}
	})
}

// The kernel's part, with a device of another kind in the place of the encrypted one.
func TestApply(t *testing.T) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine, and the namespace with it
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Errorf("this test makes network namespaces: run it as root: %v", err)
			return
		}
		apply(t)
	}()
	<-done
}

func apply(t *testing.T) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		t.Error(err)
		return
	}
	f := &fake{}
	d := &Device{h: h, c: f, link: func(attrs netlink.LinkAttrs) netlink.Link { return &netlink.Bridge{LinkAttrs: attrs} }}
	defer d.Close()
	cfg := Config{Port: 51820, Underlay: 1500, Peers: []Peer{{Key: Key{1}, Endpoint: netip.MustParseAddrPort("10.0.0.1:51820"), Allowed: []netip.Prefix{netip.MustParsePrefix("10.42.1.0/24")}}}}
	expect := func(what string, mtu, changes int) {
		t.Helper()
		index, err := d.Apply(cfg)
		if err != nil {
			t.Errorf("%s: %v", what, err)
			return
		}
		l, err := netlink.LinkByIndex(index)
		if err != nil || l.Attrs().MTU != mtu || l.Attrs().Flags&net.FlagUp == 0 || f.changes != changes {
			t.Errorf("%s: the device is %+v, %v, after %d changes", what, l, err, f.changes)
		}
	}
	expect("the first pass", 1440, 1)
	expect("nothing to do", 1440, 1)
	cfg.Peers[0].Endpoint = netip.MustParseAddrPort("[fd01::1]:51820")
	expect("a far end with IPv6", 1420, 2)
	if err := Remove(h); err != nil {
		t.Error(err)
	}
	expect("somebody removed it", 1420, 2)
	f.err = errors.New("broken")
	if _, err := d.Apply(cfg); !errors.Is(err, f.err) {
		t.Errorf("got %v", err)
	}
	if err := errors.Join(Remove(h), Remove(h)); err != nil {
		t.Error(err)
	}
	// A kernel that does not know the kind of device says so.
	d.link = func(attrs netlink.LinkAttrs) netlink.Link {
		return &netlink.GenericLink{LinkAttrs: attrs, LinkType: "no-such-kind"}
	}
	if _, err := d.ensure(); !errors.Is(err, ErrNotSupported) {
		t.Errorf("got %v", err)
	}
}
