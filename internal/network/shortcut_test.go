package network

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/celox/celox/internal/network/shortcut"
)

// lastingEcho gives back what it gets, on connections that last.
func lastingEcho(t *testing.T, ns *os.File, addr string) {
	t.Helper()
	l := at(t, ns, func() (net.Listener, error) { return net.Listen("tcp", addr) })
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer context.AfterFunc(ctx, func() { c.Close() })()
				_, _ = io.Copy(c, c)
				c.Close()
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		cancel()
		wg.Wait()
	})
}

// talk is a connection from a port, or any for 0, to an address.
func talk(t *testing.T, ns *os.File, port int, to string) net.Conn {
	t.Helper()
	c := at(t, ns, func() (net.Conn, error) {
		d := net.Dialer{Timeout: time.Minute, FallbackDelay: -1, Control: reuse}
		if port != 0 {
			d.LocalAddr = &net.TCPAddr{Port: port}
		}
		return d.Dial("tcp", to)
	})
	t.Cleanup(func() { c.Close() })
	return c
}

// exchange sends and gets back so many parts of 1000 bytes, one after another.
func exchange(c net.Conn, parts int, patience time.Duration) error {
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	for i := range parts {
		out, in := bytes.Repeat([]byte{byte(i + 1)}, 1000), make([]byte, 1000)
		if _, err := c.Write(out); err != nil {
			return err
		}
		if _, err := io.ReadFull(c, in); err != nil {
			return err
		}
		if !bytes.Equal(in, out) {
			return fmt.Errorf("part %d came back as another", i)
		}
	}
	return nil
}

func none(netip.Addr) bool { return false }

func only(which ...netip.Addr) func(netip.Addr) bool {
	return func(a netip.Addr) bool { return slices.Contains(which, a) }
}

// stage are three pods with a shortcut that nobody is on yet.
type stage struct {
	t       *testing.T
	host    *os.File
	s       *shortcut.Shortcut
	n       *Network
	a, b, c pod
}

func newStage(t *testing.T) *stage {
	t.Helper()
	s, err := shortcut.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	host, _ := newHost(t)
	n := start(t, host, Config{PodCIDRs: prefixes("10.99.0.0/24", "fd99::/64"), StateDir: t.TempDir(), Shortcut: s})
	return &stage{t, host, s, n, setUp(t, n, "a"), setUp(t, n, "b"), setUp(t, n, "c")}
}

func (s *stage) widen(restricted func(netip.Addr) bool) {
	s.t.Helper()
	if err := s.s.Widen(restricted); err != nil {
		s.t.Fatal(err)
	}
}

func (s *stage) narrow(restricted func(netip.Addr) bool) {
	s.t.Helper()
	if err := s.s.Narrow(restricted); err != nil {
		s.t.Fatal(err)
	}
}

// passed is how many bytes the machine has sent to a pod itself.
func (s *stage) passed(p pod) uint64 {
	s.t.Helper()
	l, err := handle(s.t, s.host).LinkByName(vethName(p.req.ID))
	if err != nil {
		s.t.Fatal(err)
	}
	return l.Attrs().Statistics.TxBytes
}

// goes says whether most of what is exchanged between a and b takes the shortcut.
func (s *stage) goes(what string, c net.Conn, straight bool) {
	s.t.Helper()
	const parts = 100
	toA, toB := s.passed(s.a), s.passed(s.b)
	if err := exchange(c, parts, time.Minute); err != nil {
		s.t.Fatalf("%s: %v", what, err)
	}
	toA, toB = s.passed(s.a)-toA, s.passed(s.b)-toB
	if straight != (toA < parts*500) || straight != (toB < parts*500) {
		s.t.Errorf("%s: the machine carried %d and %d bytes of %d", what, toA, toB, parts*1000)
	}
}

func TestShortcut(t *testing.T) {
	s := newStage(t)
	lastingEcho(t, s.b.ns, ":80")
	for i := range s.b.addr {
		c := talk(t, s.a.ns, 0, s.b.at(i, 80))
		s.goes("nobody is free", c, false)
		s.widen(only(s.b.addr...))
		s.goes("the server is restricted", talk(t, s.a.ns, 0, s.b.at(i, 80)), false)
		s.widen(none)
		s.goes("opened before", c, false)
		c = talk(t, s.a.ns, 0, s.b.at(i, 80))
		s.goes("free", c, true)
		for _, restricted := range [][]netip.Addr{s.a.addr, s.b.addr, s.b.addr[1:]} {
			s.narrow(only(restricted...))
			s.goes("restricted again", c, false)
			s.widen(none)
			s.goes("free again", c, true)
		}
		s.narrow(only(append(s.a.addr, s.b.addr...)...))
	}
	// It ends with the pod, and with the process.
	s.widen(none)
	c := talk(t, s.a.ns, 0, s.b.at(0, 80))
	s.goes("free", c, true)
	if err := s.s.Unplug("b"); err != nil {
		t.Fatal(err)
	}
	s.goes("unplugged", c, false)
	s.a, s.b = s.b, s.c
	lastingEcho(t, s.b.ns, ":80")
	if err := s.n.finish(s.n.sandboxes["b"], at(t, s.host, func() (int, error) {
		l, err := net.InterfaceByName(vethName("b"))
		if err != nil {
			return 0, err
		}
		return l.Index, nil
	}), hardwareAddr(netip.MustParseAddr("10.99.0.1"))); err != nil {
		t.Fatal(err)
	}
	s.widen(none)
	c = talk(t, s.a.ns, 0, s.b.at(0, 80))
	s.goes("plugged again", c, true)
	if err := s.s.Close(); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); ; { // the kernel does it a little later
		before := s.passed(s.b)
		if err := exchange(c, 10, time.Minute); err != nil {
			t.Fatal(err)
		}
		if s.passed(s.b)-before > 10_000 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the shortcut is still taken")
		}
	}
}

// TestShortcutLimits: pods with limits of their rate are not on it.
func TestShortcutLimits(t *testing.T) {
	s := newStage(t)
	ns, path := newNS(t)
	res, err := s.n.Setup(t.Context(), SandboxRequest{ID: "limited", NetNSPath: path, Bandwidth: Bandwidth{Ingress: 1e9}})
	if err != nil {
		t.Fatal(err)
	}
	s.b = pod{ns: ns, req: SandboxRequest{ID: "limited"}, addr: res.IPs}
	lastingEcho(t, ns, ":80")
	s.widen(none)
	s.goes("limited", talk(t, s.a.ns, 0, s.b.at(0, 80)), false)
}

// TestShortcutRules: rules act on the next packet of a connection that has gone past them, and see whose it is.
func TestShortcutRules(t *testing.T) {
	s := newStage(t)
	lastingEcho(t, s.b.ns, ":80")
	s.widen(none)
	conn, err := nftables.New(nftables.WithNetNSFd(int(s.host.Fd())))
	if err != nil {
		t.Fatal(err)
	}
	table := &nftables.Table{Family: nftables.TableFamilyINet, Name: "wall"}
	wall := func(rule ...expr.Any) {
		conn.AddTable(table)
		conn.DelTable(table)
		if rule != nil {
			conn.AddTable(table)
			chain := conn.AddChain(&nftables.Chain{Table: table, Name: "forward", Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter})
			conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: rule})
		}
		if err := conn.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	const established = 2 // linux/netfilter/nf_conntrack_common.h
	drop := &expr.Verdict{Kind: expr.VerdictDrop}
	for i := range s.a.addr {
		c := talk(t, s.a.ns, 0, s.b.at(i, 80))
		s.goes("free", c, true)
		if err := exchange(c, 5000, time.Minute); err != nil { // more than any window
			t.Fatal(err)
		}
		s.narrow(only(s.b.addr...))
		wall(&expr.Ct{Register: 1, Key: expr.CtKeySTATE}, &expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: binary.NativeEndian.AppendUint32(nil, established)}, drop)
		s.goes("restricted, and known to be established", c, false)
		wall(drop)
		if err := exchange(c, 1, 300*time.Millisecond); err == nil {
			t.Error("a packet got past the rules")
		}
		wall()
		s.widen(none)
	}
}

// TestShortcutTranslation: what is translated goes through the machine, also if the addresses and ports of one end are those of a connection that is not.
func TestShortcutTranslation(t *testing.T) {
	s := newStage(t)
	lastingEcho(t, s.b.ns, ":80")
	const service = "192.0.2.80"
	conn, err := nftables.New(nftables.WithNetNSFd(int(s.host.Fd())))
	if err != nil {
		t.Fatal(err)
	}
	table := &nftables.Table{Family: nftables.TableFamilyIPv4, Name: "services"}
	conn.AddTable(table)
	chain := conn.AddChain(&nftables.Chain{Table: table, Name: "dispatch", Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityNATDest})
	to := s.b.addr[0].As4()
	conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: net.ParseIP(service).To4()},
		&expr.Immediate{Register: 1, Data: to[:]},
		&expr.Immediate{Register: 2, Data: binary.BigEndian.AppendUint16(nil, 80)},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1, RegProtoMin: 2},
	}})
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	s.widen(none)
	s.goes("by a service", talk(t, s.a.ns, 0, service+":80"), false)
	// One port of the client's for both, whichever is first: the machine gives the second another.
	for i, first := range []string{service + ":80", s.b.at(0, 80)} {
		second := []string{s.b.at(0, 80), service + ":80"}[i]
		port := 20000 + i
		one := talk(t, s.a.ns, port, first)
		s.goes("first, "+first, one, first != service+":80")
		two := talk(t, s.a.ns, port, second)
		for range 3 {
			for _, c := range []net.Conn{one, two} {
				if err := exchange(c, 20, time.Minute); err != nil {
					t.Errorf("%v to %v: %v", c.LocalAddr(), c.RemoteAddr(), err)
				}
			}
		}
		s.goes("second, "+second, two, false)
		// And a connection that comes after one that ended has its own.
		one.Close()
		two.Close()
	}
	direct := talk(t, s.a.ns, 21000, s.b.at(0, 80))
	s.goes("directly", direct, true)
	if err := direct.(*net.TCPConn).SetLinger(0); err != nil {
		t.Fatal(err)
	}
	direct.Close()
	s.goes("the same port for a service", talk(t, s.a.ns, 21000, service+":80"), false)
}

// TestShortcutFrames: it opens no way to forge.
func TestShortcutFrames(t *testing.T) {
	s := newStage(t)
	s.widen(none)
	lastingEcho(t, s.b.ns, ":81")
	c := talk(t, s.a.ns, 0, s.b.at(0, 81))
	s.goes("free", c, true)
	// The third pod writes packets of the connection, which it cannot have opened.
	evil, to := newTap(t, s.c.ns, podInterface), newTap(t, s.b.ns, podInterface)
	gateway := func() net.HardwareAddr {
		l, err := handle(t, s.host).LinkByName(vethName("c"))
		if err != nil {
			t.Fatal(err)
		}
		return l.Attrs().HardwareAddr
	}()
	segment := func(from netip.AddrPort, text string) []byte {
		head := make([]byte, 20)
		binary.BigEndian.PutUint16(head, from.Port())
		binary.BigEndian.PutUint16(head[2:], 81)
		head[12], head[13] = 5<<4, 0x10
		kind, b := packet(from.Addr(), s.b.addr[0], unix.IPPROTO_TCP, append(head, text...), 16)
		return ethernet(gateway, evil.mac, kind, b)
	}
	local := netip.MustParseAddrPort(c.LocalAddr().String())
	for range 20 {
		evil.send(segment(local, "<forged>"))
	}
	to.arrives(evil, "honest", func(text string) []byte { return segment(netip.AddrPortFrom(s.c.addr[0], 999), text) })
	if to.has([]byte("<forged>")) {
		t.Error("a forged packet arrives")
	}
	s.goes("still free", c, true)
	tryFrames(t, s.host, s.c, s.b, s.a)
}

// reuse lets a port be used for several connections.
func reuse(_, _ string, c syscall.RawConn) error {
	var failed error
	err := c.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) })
	if err != nil {
		return err
	}
	return failed
}
