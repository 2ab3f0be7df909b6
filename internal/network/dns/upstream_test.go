package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"golang.org/x/sys/unix"
)

// patience is how long the tests wait for what happens by itself.
const patience = time.Minute

func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !f(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// listen opens sockets at one address of loopback and serves there until the test ends.
func listen(t testing.TB, s *Server, sockets int) string {
	t.Helper()
	shared := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		return errors.Join(c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) }), err)
	}}
	var l net.Listener
	where := "127.0.0.1:0"
	eventually(t, "a port that is free for TCP", func() (free bool) { // and then for UDP: each socket may share it
		var err error
		if l, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
		where = l.Addr().String()
		c, err := net.ListenPacket("udp", where)
		if err == nil {
			err = c.Close()
		}
		if err != nil {
			l.Close()
		}
		return err == nil
	})
	var udp []*net.UDPConn
	for range sockets {
		c, err := shared.ListenPacket(t.Context(), "udp", where)
		if err != nil {
			t.Fatal(err)
		}
		udp = append(udp, c.(*net.UDPConn))
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, udp, []net.Listener{l}) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return where
}

// TestOtherServers: what those before said is forgotten, and those of stub domains stay.
func TestOtherServers(t *testing.T) {
	asked := make(chan string, 100)
	s, _ := newServer(t, &internet{}, cluster()...)
	s.resolver.forward.exchange = func(_ context.Context, _ string, m *dns.Msg, server string) (*dns.Msg, error) {
		asked <- server
		r := new(dns.Msg).SetReply(m)
		r.Answer = []dns.RR{&dns.TXT{Hdr: dns.RR_Header{Name: m.Question[0].Name, Rrtype: dns.TypeTXT, Class: dns.ClassINET, Ttl: 100}, Txt: []string{server}}}
		return r, nil
	}
	for range 3 {
		if got := show(ask(t, s, stranger, "a.example.", dns.TypeTXT)); got != `TXT "192.0.2.53:53"` {
			t.Error(got)
		}
	}
	if err := s.SetUpstream([]string{"192.0.2.77:5353"}, []string{"Other.Example"}); err != nil {
		t.Fatal(err)
	}
	if got := show(ask(t, s, stranger, "a.example.", dns.TypeTXT)); got != `TXT "192.0.2.77:5353"` {
		t.Error(got)
	}
	if got := show(ask(t, s, stranger, "b.stub.", dns.TypeTXT)); got != `TXT "192.0.2.54:5353"` {
		t.Error(got)
	}
	if got := show(ask(t, s, podClient, "x.ns.svc.cluster.local.", dns.TypeTXT)); !strings.HasPrefix(got, "CNAME x.other.example.") {
		t.Error(got)
	}
	if err := s.SetUpstream([]string{"nobody"}, nil); err == nil {
		t.Error("a name as a name server")
	}
	if got := show(ask(t, s, stranger, "c.example.", dns.TypeTXT)); got != `TXT "192.0.2.77:5353"` {
		t.Error(got)
	}
}

// TestOneQuestion: those who ask the same at the same time cause one question.
func TestOneQuestion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked, release := 0, make(chan struct{})
		f, err := newForwarder([]string{"192.0.2.53"}, nil, func(_ context.Context, _ string, m *dns.Msg, _ string) (*dns.Msg, error) {
			asked++ // by one goroutine, or the race detector says so
			<-release
			return new(dns.Msg).SetReply(m), nil
		})
		if err != nil {
			t.Fatal(err)
		}
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() {
				if m, err := f.ask(t.Context(), "a.example.", dns.TypeA, false); err != nil || m.Question[0].Name != "a.example." {
					t.Errorf("%v, %v", m, err)
				}
			})
		}
		synctest.Wait()
		close(release)
		all.Wait()
		if asked != 1 {
			t.Errorf("%d questions", asked)
		}
	})
}

// TestLoop: a name server that asks us is not asked, and others are.
func TestLoop(t *testing.T) {
	said := &words{}
	s, _ := newServer(t, &internet{})
	s.cfg.Log = slog.New(slog.NewTextHandler(said, nil))
	s.resolver.forward.exchange = func(ctx context.Context, network string, m *dns.Msg, server string) (*dns.Msg, error) {
		if !strings.HasPrefix(server, "127.0.0.1:") {
			return nil, errors.New("out of reach")
		}
		return exchange(ctx, network, m, server)
	}
	where := listen(t, s, 1)
	good := &dns.Server{Net: "udp", Addr: "127.0.0.1:0", Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		r := new(dns.Msg).SetReply(q)
		if q.Question[0].Qtype == dns.TypeA {
			r.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1}, A: net.IPv4(192, 0, 2, 7)}}
		}
		_ = w.WriteMsg(r)
	})}
	started := make(chan struct{})
	good.NotifyStartedFunc = func() { close(started) }
	done := make(chan error, 1)
	go func() { done <- good.ListenAndServe() }()
	<-started
	t.Cleanup(func() {
		if err := errors.Join(good.Shutdown(), <-done); err != nil {
			t.Error(err)
		}
	})
	other := good.PacketConn.LocalAddr().String()
	if err := s.SetUpstream([]string{where, other}, nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a word of the loop", func() bool { return strings.Contains(said.String(), "server="+where) })
	if strings.Contains(said.String(), "server="+other) {
		t.Error(said.String())
	}
	m, err := dns.Exchange(new(dns.Msg).SetQuestion("a.example.", dns.TypeA), where)
	if err != nil || len(m.Answer) != 1 {
		t.Errorf("%v, %v", m, err)
	}
	if n := s.resolver.forward.order([]string{where, other}); !slices.Equal(n, []string{other}) {
		t.Error(n)
	}
}

// words is a log.
type words struct {
	mu   sync.Mutex
	text strings.Builder // guarded by mu
}

func (w *words) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.Write(b)
}

func (w *words) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.String()
}

func count(c prometheus.Counter) int {
	var m dto.Metric
	if err := c.Write(&m); err != nil {
		return -1
	}
	return int(m.GetCounter().GetValue())
}

// TestManyAtOnce: more questions than a batch has, through several sockets, the short way and the long one; each gets its own answer. All are counted.
func TestManyAtOnce(t *testing.T) {
	s, _ := newServer(t, &internet{}, cluster()...)
	reg := prometheus.NewRegistry()
	s.cfg.Metrics = NewMetrics(reg)
	where := listen(t, s, 2)
	names := map[string]string{
		"web.ns.svc.cluster.local.": "A 10.43.0.2", "www.example.com.": "A 93.184.216.34", "db.ns.svc.cluster.local.": "A 10.42.0.2; A 10.42.0.3", "none.example.com.": "NXDOMAIN",
	}
	const rounds, clients, each = 5, 4, 12
	var all sync.WaitGroup
	for range clients {
		all.Go(func() {
			c, err := net.Dial("udp", where)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			wanted := map[uint16]string{}
			id := uint16(0)
			buf := make([]byte, 4096)
			for range rounds {
				for name, want := range names {
					for range each {
						q := new(dns.Msg).SetQuestion(name, dns.TypeA)
						id++
						q.Id, wanted[id] = id, want
						b, err := q.Pack()
						if err != nil {
							t.Error(err)
							return
						}
						if _, err := c.Write(b); err != nil {
							t.Error(err)
							return
						}
					}
				}
				if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
					t.Error(err)
				}
				for len(wanted) > 0 { // no more are under way than there is room for in the kernel
					n, err := c.Read(buf)
					if err != nil {
						t.Errorf("%v; %d have no answer", err, len(wanted))
						return
					}
					m := new(dns.Msg)
					if err := m.Unpack(buf[:n]); err != nil {
						t.Error(err)
						return
					}
					if got := show(m); got != wanted[m.Id] {
						t.Errorf("%v: got %s, want %s", m.Question, got, wanted[m.Id])
					}
					delete(wanted, m.Id)
				}
			}
		})
	}
	all.Wait()
	const asked = rounds * clients * each * 4
	eventually(t, "all to be counted", func() bool {
		hits, misses := count(s.cfg.Metrics.hits), count(s.cfg.Metrics.misses)
		return hits+misses >= asked && count(s.cfg.Metrics.requests["udp"][0]) == asked &&
			count(s.cfg.Metrics.responses[dns.RcodeNameError]) == rounds*clients*each
	})
	if _, err := reg.Gather(); err != nil {
		t.Error(err)
	}
}

// TestBothFamilies: clients of either are known by their addresses, on sockets of either.
func TestBothFamilies(t *testing.T) {
	s, _ := newServer(t, &internet{}, cluster()...)
	s.cfg.Clients = pods{netip.MustParseAddr("127.0.0.1"): "ns", netip.IPv6Loopback(): "ns"}
	var udp []*net.UDPConn
	for _, a := range []string{"127.0.0.1:0", "[::1]:0", "[::]:0"} {
		c, err := net.ListenPacket("udp", a)
		if err != nil {
			t.Fatal(err)
		}
		udp = append(udp, c.(*net.UDPConn))
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, udp, nil) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	port := func(i int) int { return udp[i].LocalAddr().(*net.UDPAddr).Port }
	for _, where := range []string{
		udp[0].LocalAddr().String(), udp[1].LocalAddr().String(), fmt.Sprintf("127.0.0.1:%d", port(2)), fmt.Sprintf("[::1]:%d", port(2)),
	} {
		for range 2 { // the long way and the short one
			m, err := dns.Exchange(new(dns.Msg).SetQuestion("kubernetes.default.ns.svc.cluster.local.", dns.TypeA), where)
			if err != nil {
				t.Fatal(err)
			}
			if got := show(m); got != "A 10.43.0.1; CNAME kubernetes.default.svc.cluster.local." {
				t.Errorf("%s: %s", where, got)
			}
		}
	}
}

// TestWatchFile changes a file in every way that there is.
func TestWatchFile(t *testing.T) {
	dir := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	etc, run := filepath.Join(dir, "etc"), filepath.Join(dir, "run", "resolve")
	must(os.MkdirAll(etc, 0o755))
	path := filepath.Join(etc, "resolv.conf")
	ctx, cancel := context.WithCancel(t.Context())
	seen := make(chan string, 1000)
	done := make(chan error, 1)
	go func() {
		done <- WatchFile(ctx, path, func() {
			b, err := os.ReadFile(path)
			if err != nil {
				b = []byte("none")
			}
			seen <- string(b)
		})
	}()
	sees := func(want string) {
		t.Helper()
		late := time.After(patience)
		for {
			select {
			case got := <-seen:
				if got == want {
					return
				}
			case <-late:
				t.Fatalf("nobody saw %q", want)
			}
		}
	}
	write := func(path, content string) {
		t.Helper()
		must(os.WriteFile(path, []byte(content), 0o644))
	}
	replace := func(path, content string) {
		t.Helper()
		write(path+".new", content)
		must(os.Rename(path+".new", path))
	}
	link := func(to string) {
		t.Helper()
		must(os.Symlink(to, path+".new"))
		must(os.Rename(path+".new", path))
	}
	sees("none")
	write(path, "written")
	sees("written")
	write(path, "again")
	sees("again")
	replace(path, "replaced")
	sees("replaced")
	link("../run/resolve/stub.conf") // which does not exist, nor its directories
	sees("none")
	must(os.MkdirAll(run, 0o755))
	write(filepath.Join(run, "stub.conf"), "linked")
	sees("linked")
	replace(filepath.Join(run, "stub.conf"), "behind the link")
	sees("behind the link")
	must(os.RemoveAll(filepath.Join(dir, "run")))
	sees("none")
	must(os.MkdirAll(run, 0o755))
	replace(filepath.Join(run, "stub.conf"), "there again")
	sees("there again")
	must(os.Remove(path))
	write(path, "a file")
	sees("a file")
	cancel()
	must(<-done)
}

// BenchmarkUDP is a question and its answer through the kernel, both ends counted, 32 under way.
func BenchmarkUDP(b *testing.B) {
	s, _ := newServer(b, &internet{}, cluster()...)
	s.cfg.Metrics = NewMetrics(prometheus.NewRegistry())
	c, err := net.Dial("udp", listen(b, s, 1))
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	packet, err := new(dns.Msg).SetQuestion("web.ns.svc.cluster.local.", dns.TypeA).Pack()
	if err != nil {
		b.Fatal(err)
	}
	answer := make([]byte, 512)
	const window = 32
	for range 2 * window { // the first ones go the long way
		if _, err := c.Write(packet); err != nil {
			b.Fatal(err)
		}
		if _, err := c.Read(answer); err != nil {
			b.Fatal(err)
		}
	}
	open := 0
	b.ReportAllocs()
	for b.Loop() {
		for ; open < window; open++ {
			if _, err := c.Write(packet); err != nil {
				b.Fatal(err)
			}
		}
		if _, err := c.Read(answer); err != nil {
			b.Fatal(err)
		}
		open--
	}
}
