package network

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/celox/celox/internal/network/shortcut"
)

const (
	// streamed is how much goes from one end to the other at a time, in parts of partSize.
	streamed = 64 << 20
	partSize = 256 << 10
)

// way is one from a namespace to another.
type way struct {
	name      string
	from, to  *os.File
	addr      string
	took, cpu time.Duration
}

// stream sends so many bytes on a connection of its own. Both ends wait in the kernel.
func (w *way) stream(size int) error {
	var l net.Listener
	if err := within(w.to, func() (err error) {
		l, err = net.Listen("tcp", w.addr)
		return err
	}); err != nil {
		return err
	}
	defer l.Close()
	received := make(chan error, 1)
	go func() {
		received <- func() error {
			c, err := l.Accept()
			if err != nil {
				return err
			}
			defer c.Close()
			return transfer(c, size, unix.Read)
		}()
	}()
	var c net.Conn
	if err := within(w.from, func() (err error) {
		c, err = net.DialTimeout("tcp", l.Addr().String(), time.Minute)
		return err
	}); err != nil {
		return errors.Join(err, l.Close(), <-received)
	}
	defer c.Close()
	return errors.Join(transfer(c, size, unix.Write), <-received)
}

func transfer(c net.Conn, size int, call func(int, []byte) (int, error)) error {
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		return err
	}
	var fd int
	var failed error
	if err := raw.Control(func(d uintptr) { fd, failed = int(d), unix.SetNonblock(int(d), false) }); err != nil || failed != nil {
		return errors.Join(err, failed)
	}
	buffer := make([]byte, partSize)
	for left := size; left > 0; {
		n, err := call(fd, buffer[:min(left, partSize)])
		if err == nil && n == 0 {
			return errors.New("the other end has closed it")
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		left -= max(n, 0)
	}
	return nil
}

// BenchmarkStream is how fast TCP is, in turns:
//
//   - plain: over a pair of interfaces and nothing else;
//   - bare: between two pods, by a program at the machine's ends of their pairs that hands all packets to the other pod and does nothing else. No shortcut of this kind can be
//     faster;
//   - shortcut: between two pods that no policy concerns;
//   - machine: between two pods, through the machine, with no rules but this package's.
//
// With one stream the receiver waits after each packet, and what it takes to wake it decides; four keep a machine of two threads busy.
func BenchmarkStream(b *testing.B) {
	short, err := shortcut.New()
	if err != nil {
		b.Fatal(err)
	}
	defer short.Close()
	pods := func(s Shortcut) (host *os.File, from, to pod) {
		host, _ = newHost(b)
		n := start(b, host, Config{PodCIDRs: prefixes("10.99.0.0/24"), StateDir: b.TempDir(), Shortcut: s})
		return host, setUp(b, n, "from"), setUp(b, n, "to")
	}
	_, from, to := pods(short)
	if err := short.Widen(none); err != nil {
		b.Fatal(err)
	}
	_, slowFrom, slowTo := pods(nil)
	bareHost, bareFrom, bareTo := pods(nil)
	bare(b, bareHost, bareFrom, bareTo)
	one, _ := newHost(b)
	two, _ := newHost(b)
	wire(b, one, two, "192.0.2.1/24", "192.0.2.2/24")
	for ns, name := range map[*os.File]string{one: "up0", two: "down0"} {
		h := handle(b, ns)
		l, err := h.LinkByName(name)
		if err == nil {
			err = h.LinkSetMTU(l, defaultMTU)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	for _, count := range []int{1, 4} {
		b.Run(fmt.Sprint(count), func(b *testing.B) {
			ways := []*way{
				{name: "plain", from: one, to: two, addr: "192.0.2.2:0"},
				{name: "bare", from: bareFrom.ns, to: bareTo.ns, addr: bareTo.at(0, 0)},
				{name: "shortcut", from: from.ns, to: to.ns, addr: to.at(0, 0)},
				{name: "machine", from: slowFrom.ns, to: slowTo.ns, addr: slowTo.at(0, 0)},
			}
			for b.Loop() {
				for _, w := range ways {
					begin, before := time.Now(), cpu(b)
					var wg sync.WaitGroup
					for range count {
						wg.Go(func() {
							if err := w.stream(streamed / count); err != nil {
								b.Error(w.name, err)
							}
						})
					}
					wg.Wait()
					w.took, w.cpu = w.took+time.Since(begin), w.cpu+cpu(b)-before
				}
			}
			for _, w := range ways {
				b.ReportMetric(8*streamed*float64(b.N)/w.took.Seconds()/1e9, w.name+"-Gbit/s")
				b.ReportMetric(w.cpu.Seconds()*1e3/float64(b.N), w.name+"-cpu-ms")
			}
		})
	}
}

// bare has what each of two pods sends handed to the other. They are neighbours on one wire then: nobody puts other hardware addresses into the packets.
func bare(b *testing.B, host *os.File, pods ...pod) {
	b.Helper()
	c, err := openChannel(host)
	if err != nil {
		b.Fatal(err)
	}
	defer c.close()
	for i, p := range pods {
		other := pods[1-i]
		index := func(h *netlink.Handle, name string) int {
			l, err := h.LinkByName(name)
			if err != nil {
				b.Fatal(err)
			}
			return l.Attrs().Index
		}
		h := handle(b, host)
		var at batch
		at.ask(index(h, vethName(p.req.ID)), handOver(b, index(h, vethName(other.req.ID))), func(err error) { b.Error(err) })
		if err := c.send(&at); err != nil {
			b.Fatal(err)
		}
		in, err := openChannel(p.ns)
		if err != nil {
			b.Fatal(err)
		}
		defer in.close()
		eth := index(handle(b, p.ns), podInterface)
		at = batch{}
		at.routeTo(eth, other.addr[0], p.addr[0])
		at.neighbour(eth, other.addr[0], hardwareAddr(other.addr[0]))
		if err := in.send(&at); err != nil {
			b.Fatal(err)
		}
	}
}
