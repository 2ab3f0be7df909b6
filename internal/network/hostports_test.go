package network

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/google/nftables"
)

// udpName answers each packet that comes to a port with a name.
func udpName(t *testing.T, ns *os.File, addr, name string) {
	t.Helper()
	c := at(t, ns, func() (net.PacketConn, error) { return net.ListenPacket("udp", addr) })
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 16)
		for {
			_, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = c.WriteTo([]byte(name), from) // the other side asks again
		}
	}()
	t.Cleanup(func() {
		c.Close()
		<-done
	})
}

// tcpName answers each connection with a name.
func tcpName(t *testing.T, ns *os.File, addr, name string) {
	t.Helper()
	l := at(t, ns, func() (net.Listener, error) { return net.Listen("tcp", addr) })
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(c, name)
			c.Close()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
	})
}

// asks sends packets from one socket until one is answered.
func asks(t *testing.T, c net.Conn) string {
	t.Helper()
	b := make([]byte, 16)
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		if _, err := c.Write([]byte("?")); err != nil {
			continue // the refusal of the packet before
		}
		if err := c.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if n, err := c.Read(b); err == nil {
			return string(b[:n])
		}
	}
	t.Fatalf("no answer from %v", c.RemoteAddr())
	return ""
}

// TestHostPorts: one number leads to as many pods as there are addresses and protocols, and goes on to do so after somebody removed the rules.
func TestHostPorts(t *testing.T) {
	host, _ := newHost(t)
	outside, _ := newHost(t)
	wire(t, host, outside, "192.0.2.1/24", "192.0.2.9/24")
	h := handle(t, host)
	up, err := h.LinkByName("up0")
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range []string{"192.0.2.2/24", "2001:db8::1/64"} {
		if err := h.AddrAdd(up, address(netip.MustParsePrefix(a))); err != nil {
			t.Fatal(err)
		}
	}
	ho := handle(t, outside)
	down, err := ho.LinkByName("down0")
	if err != nil {
		t.Fatal(err)
	}
	if err := ho.AddrAdd(down, address(netip.MustParsePrefix("2001:db8::9/64"))); err != nil {
		t.Fatal(err)
	}
	n := start(t, host, Config{PodCIDRs: prefixes("10.99.0.0/24", "fd99::/64"), StateDir: t.TempDir(), linger: time.Millisecond})
	var pods []pod
	add := func(name string, ports ...PortMapping) pod {
		t.Helper()
		p := setUp(t, n, name, ports...)
		tcpName(t, p.ns, ":80", name)
		udpName(t, p.ns, ":80", name)
		pods = append(pods, p)
		return p
	}
	add("first", PortMapping{Protocol: "TCP", HostPort: 80, ContainerPort: 80, HostIP: "192.0.2.1"})
	add("second", PortMapping{Protocol: "TCP", HostPort: 80, ContainerPort: 80, HostIP: "192.0.2.2"})
	add("v6", PortMapping{Protocol: "TCP", HostPort: 80, ContainerPort: 80, HostIP: "2001:DB8:0::1"})
	udp := add("udp", PortMapping{Protocol: "UDP", HostPort: 80, ContainerPort: 80})
	check := func() {
		t.Helper()
		for to, want := range map[string]string{"192.0.2.1:80": "first", "192.0.2.2:80": "second", "[2001:db8::1]:80": "v6"} {
			if got, err := call(t, outside, to); err != nil || got != want {
				t.Errorf("%s: %q %v, want %q", to, got, err, want)
			}
		}
		for _, to := range []string{"192.0.2.1:80", "192.0.2.2:80", "[2001:db8::1]:80"} {
			c := at(t, outside, func() (net.Conn, error) { return net.Dial("udp", to) })
			if got := asks(t, c); got != "udp" {
				t.Errorf("UDP %s: %q", to, got)
			}
			c.Close()
		}
	}
	check()
	remove := func() {
		t.Helper()
		c, err := nftables.New(nftables.WithNetNSFd(int(host.Fd())))
		if err != nil {
			t.Fatal(err)
		}
		c.DelTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: tableName})
		if err := c.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	remove()
	extra := add("extra", PortMapping{HostPort: 81, ContainerPort: 80})
	check()
	remove()
	if err := n.Teardown(t.Context(), extra.req); err != nil {
		t.Fatal(err)
	}
	check()

	// A flow of packets that goes on is led to the pod that has the port now.
	flow := at(t, outside, func() (net.Conn, error) { return net.Dial("udp", "192.0.2.1:80") })
	defer flow.Close()
	if got := asks(t, flow); got != "udp" {
		t.Errorf("%q", got)
	}
	if err := n.Teardown(t.Context(), udp.req); err != nil {
		t.Fatal(err)
	}
	next := add("next", PortMapping{Protocol: "UDP", HostPort: 80, ContainerPort: 80})
	if got := asks(t, flow); got != "next" {
		t.Errorf("%q", got)
	}
	if slices.Equal(next.addr, udp.addr) {
		t.Error("the address was given out again at once")
	}
}

// TestIPv6Only: pods of one family, on a machine that has the other besides.
func TestIPv6Only(t *testing.T) {
	host, _ := newHost(t)
	n := start(t, host, Config{PodCIDRs: prefixes("fd99::/64"), StateDir: t.TempDir()})
	a, b := setUp(t, n, "a", PortMapping{HostPort: 8080, ContainerPort: 80}), setUp(t, n, "b")
	if len(a.addr) != 1 || !a.addr[0].Is6() {
		t.Errorf("%v", a.addr)
	}
	echo(t, a.ns, ":80")
	for _, c := range []struct {
		from     *os.File
		to, want string
	}{{b.ns, a.at(0, 80), b.addr[0].String()}, {host, a.at(0, 80), "fd99::1"}, {b.ns, "[fd99::1]:8080", b.addr[0].String()}, {a.ns, "[fd99::1]:8080", "fd99::1"}} {
		if got, err := call(t, c.from, c.to); err != nil || got != c.want {
			t.Errorf("%s: %q %v, want %q", c.to, got, err, c.want)
		}
	}
}
