package proxy

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	corev1 "k8s.io/api/core/v1"

	"github.com/celox/celox/internal/network/networktest"
)

// programs makes this test binary the program that TestKilled kills.
const programs = "CELOX_TEST_PROGRAMS"

// variant is one of the states that TestKilled's program makes one after another: the first address leads to the first or second pod, the second to the
// third, and many more to nobody who answers.
func variant(n int) map[Key]*Frontend {
	all := many(600)
	all[key(corev1.ProtocolTCP, "10.43.255.1:80")] = &Frontend{Cluster: true, Endpoints: endpoints(false, n%2)}
	all[key(corev1.ProtocolTCP, "10.43.255.2:80")] = &Frontend{Cluster: true, Endpoints: endpoints(false, 2)}
	return all
}

// TestProgram is no test of its own.
func TestProgram(t *testing.T) {
	if os.Getenv(programs) == "" {
		return
	}
	d, err := NewNFTables(func() []netip.Prefix { return nil }, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for n := 0; ; n++ {
		all := variant(n)
		if err := d.Replace(all); err != nil {
			t.Fatal(err)
		}
		fmt.Println("programmed")
		for k, f := range all { // a few changes
			g := *f
			g.Endpoints = g.Endpoints[:1]
			if err := d.Update(map[Key]*Frontend{k: &g}); err != nil {
				t.Fatal(err)
			}
			if rand.IntN(20) == 0 {
				break
			}
		}
	}
}

// TestKilled kills a program at any point of its work, again and again. No packet is ever refused or goes where it must not, and whoever comes next
// begins from nothing bad.
func TestKilled(t *testing.T) {
	s := newStage(t)
	s.check(s.d.Replace(variant(0)))
	stop := make(chan struct{})
	var clients sync.WaitGroup
	var calls [2]int
	for i, want := range []map[string]bool{{"pod0": true, "pod1": true}, {"pod2": true}} {
		addr := fmt.Sprintf("10.43.255.%d:80", i+1)
		clients.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				who, _, err := s.pods[i].CallFor(time.Minute, "tcp", addr)
				if err != nil || !want[who] {
					t.Errorf("%s: %q answers, %v", addr, who, err)
					return
				}
				calls[i]++
			}
		})
	}
	for range 8 {
		s.killed()
	}
	close(stop)
	clients.Wait()
	if calls[0] == 0 || calls[1] == 0 {
		t.Errorf("there were %v calls", calls)
	}
	// The next one does not mind what it finds, and leaves nothing of it.
	s.check(s.d.Replace(map[Key]*Frontend{key(corev1.ProtocolTCP, "10.43.255.1:80"): {Cluster: true, Endpoints: endpoints(false, 2)}}))
	s.reaches(s.pods[0], "tcp", "10.43.255.1:80", "pod2")
	s.refused(s.outside, "tcp", "10.43.255.1:81")
	s.node.Must(func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		tables, err := conn.ListTables()
		if err == nil && len(tables) != 2 {
			err = fmt.Errorf("%d tables are left", len(tables))
		}
		return err
	})
}

// killed runs the program until it has programmed something, and kills it at some point after that.
func (s *stage) killed() {
	s.t.Helper()
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestProgram$", "-test.v")
	cmd.Env = append(os.Environ(), programs+"=1")
	out, err := cmd.StdoutPipe()
	s.check(err)
	s.node.Must(cmd.Start) // a child has the namespace of the thread that makes it
	lines := bufio.NewScanner(out)
	seen := false
	for !seen && lines.Scan() {
		seen = lines.Text() == "programmed"
	}
	time.Sleep(time.Duration(rand.IntN(30)) * time.Millisecond)
	s.check(cmd.Process.Signal(syscall.SIGKILL))
	_, _ = io.Copy(io.Discard, out)
	err = cmd.Wait()
	var exit *exec.ExitError
	if !seen || !errors.As(err, &exit) || exit.Exited() {
		s.t.Fatalf("the program ended by itself: %v", err)
	}
}

// TestEndpointsVanish has connections while all endpoints go: one over TCP lives on, as its endpoint does; packets over UDP are refused at once.
func TestEndpointsVanish(t *testing.T) {
	s := newStage(t)
	tcp, udp := key(corev1.ProtocolTCP, "10.43.0.1:80"), key(corev1.ProtocolUDP, "10.43.0.1:80")
	var l net.Listener
	s.pods[0].Must(func() (err error) {
		l, err = net.Listen("tcp", "10.42.0.2:9000")
		return err
	})
	defer l.Close()
	s.set(&Frontend{Cluster: true, Endpoints: []Endpoint{{Addr: netip.MustParseAddrPort("10.42.0.2:9000")}}}, tcp)
	s.set(&Frontend{Cluster: true, Endpoints: endpoints(false, 0)}, udp)
	var c net.Conn
	s.pods[1].Must(func() (err error) {
		c, err = (&net.Dialer{FallbackDelay: -1}).Dial("tcp", "10.43.0.1:80")
		return err
	})
	defer c.Close()
	e, err := l.Accept()
	s.check(err)
	defer e.Close()
	say, answer := s.pods[1].Talk("udp", "10.43.0.1:80")
	s.check(say())
	if who := answer(); who != "pod0" {
		t.Fatal(who)
	}
	s.set(&Frontend{Cluster: true}, tcp, udp)
	_, err = c.Write([]byte("x"))
	s.check(err)
	_, err = io.ReadFull(e, make([]byte, 1))
	s.check(err)
	s.refused(s.pods[1], "tcp", "10.43.0.1:80")
	s.check(say())
	if err := say(); err == nil { // the answer to the first may take a moment
		if who := answer(); who == "pod0" {
			t.Error("an endpoint that is gone answers")
		}
	} else if !errors.Is(err, syscall.ECONNREFUSED) {
		t.Error(err)
	}
	s.set(&Frontend{Cluster: true, Endpoints: endpoints(false, 1)}, udp)
	s.reaches(s.pods[0], "udp", "10.43.0.1:80", "pod1")
}

// TestSCTP sends the packet that begins an association: this kernel has no sockets of SCTP, but those of raw packets, and follows connections.
func TestSCTP(t *testing.T) {
	s := newStage(t)
	s.set(&Frontend{Cluster: true, Endpoints: endpoints(false, 0)}, key(corev1.ProtocolSCTP, "10.43.0.1:80"))
	var server *net.IPConn
	s.pods[0].Must(func() (err error) {
		server, err = net.ListenIP("ip4:132", &net.IPAddr{IP: net.IPv4(10, 42, 0, 2)})
		return err
	})
	defer server.Close()
	var client *net.IPConn
	s.pods[1].Must(func() (err error) {
		client, err = net.DialIP("ip4:132", nil, &net.IPAddr{IP: net.IPv4(10, 43, 0, 1)})
		return err
	})
	defer client.Close()
	_, err := client.Write(sctpInit(40000, 80))
	s.check(err)
	s.check(server.SetReadDeadline(time.Now().Add(time.Minute)))
	b := make([]byte, 100)
	n, from, err := server.ReadFrom(b)
	s.check(err)
	if port := binary.BigEndian.Uint16(b[2:]); n != 32 || from.String() != "10.42.1.2" || port != 8080 {
		t.Errorf("%d bytes from %v to port %d", n, from, port)
	}
	sum := binary.LittleEndian.Uint32(b[8:])
	copy(b[8:], make([]byte, 4))
	if sum != crc32.Checksum(b[:n], crc32.MakeTable(crc32.Castagnoli)) {
		t.Error("the checksum is not that of the packet as it arrived")
	}
}

// sctpInit is a packet of RFC 9260 with a chunk INIT.
func sctpInit(from, to uint16) []byte {
	b := binary.BigEndian.AppendUint16(nil, from)
	b = binary.BigEndian.AppendUint16(b, to)
	b = append(b, make([]byte, 8)...)       // no tag yet; the sum comes later
	b = append(b, 1, 0, 0, 20, 0, 0, 0, 42) // INIT, its length, the tag for what comes back
	b = append(b, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 7)
	binary.LittleEndian.PutUint32(b[8:], crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
	return b
}

// TestManyEndpoints is more than fits in a message.
func TestManyEndpoints(t *testing.T) {
	s := newStage(t)
	const n = 3000
	f := &Frontend{Cluster: true}
	for i := range n {
		f.Endpoints = append(f.Endpoints, Endpoint{Addr: netip.AddrPortFrom(netip.AddrFrom16([16]byte{0xfd, 1, 14: byte(i >> 8), 15: byte(i)}), 80)})
	}
	k := key(corev1.ProtocolTCP, "[fd43::1]:80")
	s.set(f, k)
	r := s.d.families[1]
	got, err := r.conn.GetSetElements(r.sets[mapEndpoints])
	s.check(err)
	values := map[string]bool{}
	for _, e := range got {
		values[string(e.Val)] = true
	}
	if len(got) != n || len(values) != n {
		t.Errorf("%d elements of %d endpoints", len(got), len(values))
	}
	s.set(&Frontend{Cluster: true, Endpoints: endpoints(true, 1)}, k)
	s.reaches(s.pods[0], "tcp", "[fd43::1]:80", "pod1")
	s.set(nil, k)
	s.empty()
}

// TestQuiet: news of our own work are not wanted, but nothing that others do meanwhile or later is missed.
func TestQuiet(t *testing.T) {
	m := networktest.NewMachine(t, "node")
	var d *NFTables
	var news *Tampering
	m.Must(func() (err error) {
		if d, err = NewNFTables(func() []netip.Prefix { return nil }, slog.New(slog.DiscardHandler)); err != nil {
			return err
		}
		news, err = NewTampering()
		return err
	})
	defer d.Close()
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := news.Run(t.Context()); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(wg.Wait) // after the context's end
	d.Quiet(news)
	for range 2 {
		if err := d.Replace(many(100)); err != nil {
			t.Fatal(err)
		}
		<-news.C()
		if ok, err := d.Intact(); !ok || err != nil {
			t.Fatal(ok, err)
		}
	}
	m.Must(Remove)
	for {
		<-news.C()
		if ok, err := d.Intact(); err != nil {
			t.Fatal(err)
		} else if !ok {
			return
		}
	}
}

func TestProbe(t *testing.T) {
	m := networktest.NewMachine(t, "node")
	m.Must(Probe)
	m.Must(func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		tables, err := conn.ListTables()
		if len(tables) != 0 {
			t.Errorf("left: %v", tables[0].Name)
		}
		return err
	})
}

// TestAfterAnError: what the kernel refuses is refused as a whole, and the next that it is told works.
func TestAfterAnError(t *testing.T) {
	s := newStage(t)
	a, b := key(corev1.ProtocolTCP, "10.43.0.1:80"), key(corev1.ProtocolTCP, "10.43.0.2:80")
	s.set(&Frontend{Cluster: true, Endpoints: endpoints(false, 0)}, a)
	before := maps.Clone(s.all)
	// Somebody takes an element away that the change will want to remove.
	r := s.d.families[0]
	gone := newBatch()
	gone.delete(mapFrontends, placeKey(a))
	s.check(r.send(gone))
	if err := s.d.Update(map[Key]*Frontend{a: nil, b: {Cluster: true, Endpoints: endpoints(false, 1)}}); !isMissing(err) {
		t.Fatalf("got %v", err)
	}
	s.silentOrRefused("10.43.0.2:80")
	s.check(s.d.Replace(before))
	s.reaches(s.outside, "tcp", "10.43.0.1:80", "pod0")
	s.set(&Frontend{Cluster: true, Endpoints: endpoints(false, 1)}, b)
	s.reaches(s.outside, "tcp", "10.43.0.2:80", "pod1")
}
