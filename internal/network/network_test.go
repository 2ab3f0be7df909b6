package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/celox/celox/internal/network/dump"
)

type pod struct {
	ns   *os.File
	req  SandboxRequest
	addr []netip.Addr
}

func (p pod) at(i, port int) string {
	return netip.AddrPortFrom(p.addr[i], uint16(port)).String()
}

func setUp(t testing.TB, n *Network, id string, ports ...PortMapping) pod {
	t.Helper()
	ns, path := newNS(t)
	p := pod{ns: ns, req: SandboxRequest{ID: id, Namespace: "default", Name: id, NetNSPath: path, PortMappings: ports}}
	res, err := n.Setup(t.Context(), p.req)
	if err != nil {
		t.Fatal(err)
	}
	p.addr = res.IPs
	return p
}

func TestConnectivity(t *testing.T) {
	host, _ := newHost(t)
	outside, _ := newHost(t)
	wire(t, host, outside, "192.0.2.1/24", "192.0.2.2/24")
	wire6 := handle(t, outside)
	l, err := wire6.LinkByName("down0")
	if err != nil {
		t.Fatal(err)
	}
	if err := wire6.AddrAdd(l, address(netip.MustParsePrefix("2001:db8::2/64"))); err != nil {
		t.Fatal(err)
	}
	hh := handle(t, host)
	up, err := hh.LinkByName("up0")
	if err != nil {
		t.Fatal(err)
	}
	if err := hh.AddrAdd(up, address(netip.MustParsePrefix("2001:db8::1/64"))); err != nil {
		t.Fatal(err)
	}
	if err := hh.RouteAdd(&netlink.Route{LinkIndex: up.Attrs().Index, Gw: net.IP{192, 0, 2, 2}}); err != nil {
		t.Fatal(err)
	}
	n := start(t, host, Config{PodCIDRs: prefixes("10.99.0.0/24", "fd99::/64"), StateDir: t.TempDir()})
	if n.MTU() != 1400 {
		t.Errorf("MTU %d", n.MTU())
	}
	if err := n.Ready(); err != nil {
		t.Error(err)
	}
	a := setUp(t, n, "a", PortMapping{Protocol: "TCP", ContainerPort: 80, HostPort: 8080}, PortMapping{ContainerPort: 80, HostPort: 8081, HostIP: "192.0.2.1"}, PortMapping{ContainerPort: 80})
	b := setUp(t, n, "b")
	if a.addr[0].String() != "10.99.0.2" || a.addr[1].String() != "fd99::2" || b.addr[0].String() != "10.99.0.3" {
		t.Errorf("%v %v", a.addr, b.addr)
	}
	echo(t, a.ns, ":80")
	echo(t, host, ":90")
	echo(t, outside, ":100")
	for _, c := range []struct {
		what string
		from *os.File
		to   string
		want string
	}{
		{"pod to pod", b.ns, a.at(0, 80), "10.99.0.3"},
		{"pod to pod, IPv6", b.ns, a.at(1, 80), "fd99::3"},
		{"host to pod", host, a.at(0, 80), "10.99.0.1"},
		{"host to pod, IPv6", host, a.at(1, 80), "fd99::1"},
		{"pod to itself", a.ns, "127.0.0.1:80", "127.0.0.1"},
		{"pod to its gateway", b.ns, "10.99.0.1:90", "10.99.0.3"},
		{"pod to the host's other address", b.ns, "192.0.2.1:90", "10.99.0.3"},
		{"pod to outside is masqueraded", b.ns, "192.0.2.2:100", "192.0.2.1"},
		{"pod to outside is masqueraded, IPv6", b.ns, "[2001:db8::2]:100", "2001:db8::1"},
		{"outside to a host port", outside, "192.0.2.1:8080", "192.0.2.2"},
		{"outside to a host port of one address", outside, "192.0.2.1:8081", "192.0.2.2"},
		{"outside to a host port, IPv6", outside, "[2001:db8::1]:8080", "2001:db8::2"},
		{"host to its own port", host, "192.0.2.1:8080", "192.0.2.1"},
		{"host to its own port on loopback", host, "127.0.0.1:8080", "192.0.2.1"},
		{"pod to another's host port", b.ns, "192.0.2.1:8080", "10.99.0.3"},
		{"pod to its own host port", a.ns, "192.0.2.1:8080", "192.0.2.1"},
	} {
		if got, err := call(t, c.from, c.to); err != nil || got != c.want {
			t.Errorf("%s: %q %v, want %q", c.what, got, err, c.want)
		}
	}
	if got, err := call(t, host, "10.99.0.1:8081"); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("a host port of another address: %q %v", got, err)
	}

	// The port goes with the pod.
	if err := n.Teardown(t.Context(), a.req); err != nil {
		t.Fatal(err)
	}
	if got, err := call(t, outside, "192.0.2.1:8080"); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("a host port of a pod that is gone: %q %v", got, err)
	}
}

func TestIdempotence(t *testing.T) {
	host, _ := newHost(t)
	dir := t.TempDir()
	n := start(t, host, Config{PodCIDRs: prefixes("10.99.0.0/24"), StateDir: dir})
	a := setUp(t, n, "a")
	for range 2 {
		res, err := n.Setup(t.Context(), a.req)
		if err != nil || !slices.Equal(res.IPs, a.addr) {
			t.Errorf("again: %v %v", res, err)
		}
	}
	// A crash in the middle: remembered, but half made.
	in := handle(t, a.ns)
	eth, err := in.LinkByName(podInterface)
	if err != nil {
		t.Fatal(err)
	}
	if err := in.LinkSetDown(eth); err != nil {
		t.Fatal(err)
	}
	if res, err := n.Setup(t.Context(), a.req); err != nil || !slices.Equal(res.IPs, a.addr) {
		t.Errorf("repaired: %v %v", res, err)
	}
	if eth, err = in.LinkByName(podInterface); err != nil || eth.Attrs().Flags&net.FlagUp == 0 || eth.Attrs().HardwareAddr.String() != "0a:ce:0a:63:00:02" {
		t.Errorf("%v %v", eth, err)
	}
	for range 2 {
		if err := n.Teardown(t.Context(), a.req); err != nil {
			t.Error(err)
		}
	}
	if err := n.Teardown(t.Context(), SandboxRequest{ID: "never"}); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("%v %v", left, err)
	}
	for _, id := range []string{"", "../x", ".x", "a/b"} {
		if _, err := n.Setup(t.Context(), SandboxRequest{ID: id}); err == nil {
			t.Errorf("id %q is accepted", id)
		}
	}
}

func TestFailureLeavesNothing(t *testing.T) {
	host, _ := newHost(t)
	dir := t.TempDir()
	n := start(t, host, Config{PodCIDRs: prefixes("10.99.0.0/30"), StateDir: dir})
	file := filepath.Join(t.TempDir(), "x")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{file: "invalid argument", file + "x": "no such file"} {
		if _, err := n.Setup(t.Context(), SandboxRequest{ID: "a", Namespace: "ns", Name: "p", NetNSPath: path}); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "pod ns/p") {
			t.Errorf("%v", err)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("%v %v", left, err)
	}
	a := setUp(t, n, "a", PortMapping{ContainerPort: 1, HostPort: 80})
	_, path := newNS(t)
	for _, tt := range []struct {
		ports []PortMapping
		want  string
	}{
		{nil, "no free address in pod range 10.99.0.0/30: all 1 are in use"},
		{[]PortMapping{{HostPort: 80, ContainerPort: 2, HostIP: "1.2.3.4"}}, "host port 80/TCP is in use by pod default/a"},
		{[]PortMapping{{HostPort: 81, ContainerPort: 2, Protocol: "x"}}, `unknown protocol "X"`},
		{[]PortMapping{{HostPort: 81}}, "no container port"},
		{[]PortMapping{{HostPort: 81, ContainerPort: 2, HostIP: "x"}}, "unable to parse IP"},
	} {
		if _, err := n.Setup(t.Context(), SandboxRequest{ID: "b", NetNSPath: path, PortMappings: tt.ports}); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("got %v, want %q", err, tt.want)
		}
	}
	if err := n.Teardown(t.Context(), a.req); err != nil {
		t.Fatal(err)
	}
	if b := setUp(t, n, "b"); !slices.Equal(b.addr, a.addr) {
		t.Errorf("%v", b.addr)
	}
}

// TestReuse: an address that moves to another pod at once is reachable at once, though everybody remembers it and the first pod's namespace lives on.
func TestReuse(t *testing.T) {
	host, _ := newHost(t)
	n := start(t, host, Config{PodCIDRs: prefixes("10.99.0.0/29"), StateDir: t.TempDir()})
	client := setUp(t, n, "client")
	for i := range 12 {
		p := setUp(t, n, fmt.Sprint("p", i))
		echo(t, p.ns, ":80")
		if got, err := call(t, client.ns, p.at(0, 80)); err != nil || got != client.addr[0].String() {
			t.Fatalf("pod %d at %v: %q %v", i, p.addr, got, err)
		}
		if err := n.Teardown(t.Context(), p.req); err != nil {
			t.Fatal(err)
		}
		if i%2 == 0 {
			unpin(t, p.ns, p.req.NetNSPath)
		}
	}
	// Those that linger are cut off in the end.
	h := handle(t, host)
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		links, err := dump.Whole(h.LinkList)
		if err != nil {
			t.Fatal(err)
		}
		left := 0
		for _, l := range links {
			if strings.HasPrefix(l.Attrs().Name, vethPrefix) {
				left++
			}
		}
		if left == 1 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d interfaces are left", left)
		}
	}
}

func TestRestart(t *testing.T) {
	host, _ := newHost(t)
	cfg := Config{PodCIDRs: prefixes("10.99.0.0/24"), StateDir: t.TempDir()}
	n := start(t, host, cfg)
	a, gone := setUp(t, n, "a", PortMapping{ContainerPort: 80, HostPort: 8080}), setUp(t, n, "gone")
	echo(t, a.ns, ":80")
	unpin(t, gone.ns, gone.req.NetNSPath)
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Setup(t.Context(), a.req); err == nil {
		t.Error("closed, but works")
	}
	for _, f := range []string{"torn.json", ".b.json.new"} {
		if err := os.WriteFile(filepath.Join(cfg.StateDir, f), []byte(`{"id":"to`), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	n = start(t, host, cfg)
	if left, err := os.ReadDir(cfg.StateDir); err != nil || len(left) != 1 || left[0].Name() != "a.json" {
		t.Errorf("%v %v", left, err)
	}
	if res, err := n.Setup(t.Context(), a.req); err != nil || !slices.Equal(res.IPs, a.addr) {
		t.Errorf("%v %v", res, err)
	}
	if got, err := call(t, host, "127.0.0.1:8080"); err != nil || got != "10.99.0.1" {
		t.Errorf("host port after a restart: %q %v", got, err)
	}
	if b := setUp(t, n, "b"); b.addr[0] == a.addr[0] {
		t.Error("one address twice")
	}

	// Another range: who has an old address keeps it and is reached, new ones get new ones.
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	cfg.PodCIDRs = prefixes("10.98.0.0/24")
	n = start(t, host, cfg)
	c := setUp(t, n, "c")
	if c.addr[0].String() != "10.98.0.2" {
		t.Errorf("%v", c.addr)
	}
	if got, err := call(t, c.ns, a.at(0, 80)); err != nil || got != "10.99.0.1" && got != c.addr[0].String() {
		t.Errorf("to a pod of the old range: %q %v", got, err)
	}
	for _, id := range []string{"a", "b"} {
		if err := n.Teardown(t.Context(), SandboxRequest{ID: id}); err != nil {
			t.Fatal(err)
		}
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	n = start(t, host, cfg)
	h := handle(t, host)
	br, err := h.LinkByName(DefaultBridge)
	if err != nil {
		t.Fatal(err)
	}
	addrs, err := h.AddrList(br, netlink.FAMILY_V4)
	if err != nil || len(addrs) != 1 || addrs[0].IP.String() != "10.98.0.1" {
		t.Errorf("%v %v", addrs, err)
	}
	_ = n
}

func TestBridgeComesBack(t *testing.T) {
	host, _ := newHost(t)
	n := start(t, host, Config{PodCIDRs: prefixes("10.99.0.0/24"), StateDir: t.TempDir(), MTU: 1300})
	h := handle(t, host)
	if err := removeLink(h, DefaultBridge); err != nil {
		t.Fatal(err)
	}
	if err := n.Ready(); err == nil {
		t.Error("ready without a bridge")
	}
	a := setUp(t, n, "a")
	echo(t, a.ns, ":80")
	if _, err := call(t, host, a.at(0, 80)); err != nil {
		t.Error(err)
	}
	if err := n.Ready(); err != nil {
		t.Error(err)
	}
	if eth, err := handle(t, a.ns).LinkByName(podInterface); err != nil || eth.Attrs().MTU != 1300 {
		t.Errorf("%v %v", eth, err)
	}
}

func TestParallel(t *testing.T) {
	host, _ := newHost(t)
	n := start(t, host, Config{PodCIDRs: prefixes("10.99.0.0/24"), StateDir: t.TempDir()})
	var wg sync.WaitGroup
	var mu sync.Mutex
	seen := map[netip.Addr]int{}
	for i := range 20 {
		_, path := newNS(t)
		for range 2 { // each twice
			wg.Go(func() {
				res, err := n.Setup(t.Context(), SandboxRequest{ID: fmt.Sprint("p", i), NetNSPath: path})
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				seen[res.IPs[0]]++
				mu.Unlock()
			})
		}
	}
	wg.Wait()
	for a, c := range seen {
		if c != 2 {
			t.Errorf("%v was given out %d times", a, c)
		}
	}
	if len(seen) != 20 {
		t.Errorf("%d addresses", len(seen))
	}
}

func TestReset(t *testing.T) {
	host, _ := newHost(t)
	cfg := Config{PodCIDRs: prefixes("10.99.0.0/24"), StateDir: filepath.Join(t.TempDir(), "state")}
	n := start(t, host, cfg)
	setUp(t, n, "a")
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	// Somebody else's.
	other := &nftables.Table{Family: nftables.TableFamilyINet, Name: "other"}
	c, err := nftables.New(nftables.WithNetNSFd(int(host.Fd())))
	if err != nil {
		t.Fatal(err)
	}
	c.AddTable(other)
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := within(host, func() error { return Reset(t.Context(), cfg) }); err != nil {
			t.Fatal(err)
		}
		links, err := dump.Whole(handle(t, host).LinkList)
		if err != nil || len(links) != 1 {
			t.Errorf("left: %v %v", links, err)
		}
		tables, err := c.ListTables()
		if err != nil || len(tables) != 1 || tables[0].Name != "other" {
			t.Errorf("left: %v %v", tables, err)
		}
		if _, err := os.Stat(cfg.StateDir); !os.IsNotExist(err) {
			t.Errorf("left: %v", err)
		}
	}
}

func TestBadConfig(t *testing.T) {
	host, _ := newHost(t)
	for want, cfg := range map[string]Config{
		"no pod range":             {},
		"not the first address":    {PodCIDRs: prefixes("10.0.0.1/24")},
		"too small":                {PodCIDRs: prefixes("10.0.0.0/31")},
		"second range":             {PodCIDRs: prefixes("10.0.0.0/24", "10.1.0.0/24")},
		"longer than":              {Bridge: "a-name-that-is-too-long", PodCIDRs: prefixes("10.0.0.0/24")},
		"interface of type device": {Bridge: "lo", PodCIDRs: prefixes("10.0.0.0/24")},
	} {
		cfg.StateDir = t.TempDir()
		err := within(host, func() error {
			_, err := New(cfg)
			return err
		})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}
