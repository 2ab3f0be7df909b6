package network

import (
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/celox/celox/internal/network/dump"
)

func TestBandwidthOf(t *testing.T) {
	for _, tt := range []struct {
		in, out string
		want    Bandwidth
		err     string
	}{
		{"", "", Bandwidth{}, ""},
		{"10M", "", Bandwidth{Ingress: 10_000_000}, ""},
		{"1k", "1P", Bandwidth{Ingress: 1000, Egress: 1e15}, ""},
		{"1Mi", "", Bandwidth{Ingress: 1 << 20}, ""},
		{"999", "", Bandwidth{}, `annotation kubernetes.io/ingress-bandwidth: "999": resource is unreasonably small (< 1kbit)`},
		{"-1M", "", Bandwidth{}, "unreasonably small"},
		{"", "1001T", Bandwidth{}, `annotation kubernetes.io/egress-bandwidth: "1001T": resource is unreasonably large (> 1Pbit)`},
		{"", "10 Mbit", Bandwidth{}, `annotation kubernetes.io/egress-bandwidth: "10 Mbit": quantities must match`},
	} {
		annotations := map[string]string{"other": "x"}
		if tt.in != "" {
			annotations["kubernetes.io/ingress-bandwidth"] = tt.in
		}
		if tt.out != "" {
			annotations["kubernetes.io/egress-bandwidth"] = tt.out
		}
		got, err := BandwidthOf(annotations)
		if tt.err == "" && err != nil || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) || got != tt.want {
			t.Errorf("%q %q: %v %v", tt.in, tt.out, got, err)
		}
	}
}

func FuzzBandwidth(f *testing.F) {
	f.Add("10M", "1P")
	f.Add("1e3", "-5")
	f.Add("0.0001", "99999999999999999999999999E")
	f.Fuzz(func(t *testing.T, in, out string) {
		b, err := BandwidthOf(map[string]string{ingressAnnotation: in, egressAnnotation: out})
		for _, rate := range []uint64{b.Ingress, b.Egress} {
			if err == nil && (rate < minRate || rate > maxRate) || err != nil && rate != 0 {
				t.Fatalf("%v %v", b, err)
			}
			if err == nil {
				if q := bucket(1, rate); q.Buffer == 0 || q.Limit < 1514 || q.Rate == 0 {
					t.Fatalf("%d: %+v", rate, q)
				}
			}
		}
	})
}

// sent measures how long it takes to move bytes from one pod to a server in another, until all of them were read.
func sent(t *testing.T, from, to pod, bytes int64) (time.Duration, error) {
	var l net.Listener
	var c net.Conn
	err := within(to.ns, func() (err error) {
		l, err = net.Listen("tcp", ":0")
		return err
	})
	if err != nil {
		return 0, err
	}
	defer l.Close()
	done := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			done <- err
			return
		}
		defer c.Close()
		_, err = io.CopyN(io.Discard, c, bytes)
		done <- err
	}()
	address := netip.AddrPortFrom(to.addr[0], uint16(l.Addr().(*net.TCPAddr).Port)).String()
	err = within(from.ns, func() (err error) {
		c, err = net.DialTimeout("tcp", address, time.Minute)
		return err
	})
	if err != nil {
		l.Close()
		<-done
		return 0, err
	}
	defer c.Close()
	start := time.Now()
	if _, err := c.Write(make([]byte, bytes)); err != nil {
		return 0, err
	}
	err = <-done
	return time.Since(start), err
}

// TestLimits: a pod gets no more than it is allowed in either direction, also after a restart, and nothing of it is left in the end.
func TestLimits(t *testing.T) {
	host, _ := newHost(t)
	cfg := Config{PodCIDRs: prefixes("10.99.0.0/24"), StateDir: t.TempDir(), linger: time.Millisecond}
	n := start(t, host, cfg)
	free := setUp(t, n, "free")
	limited := func(id string, b Bandwidth) pod {
		ns, path := newNS(t)
		p := pod{ns: ns, req: SandboxRequest{ID: id, NetNSPath: path, Bandwidth: b}}
		res, err := n.Setup(t.Context(), p.req)
		if err != nil {
			t.Fatal(err)
		}
		p.addr = res.IPs
		return p
	}
	const rate = 8_000_000                               // a million bytes a second
	const bytes, least = 800_000, 500 * time.Millisecond // what is over burst and buffers takes longer than that
	slow := limited("slow", Bandwidth{Ingress: rate, Egress: rate})
	receives, sends := limited("receives", Bandwidth{Ingress: rate}), limited("sends", Bandwidth{Egress: rate})
	check := func() {
		t.Helper()
		var wg sync.WaitGroup
		for _, c := range []struct {
			what     string
			from, to pod
		}{{"to both", free, slow}, {"from both", slow, free}, {"to one that receives", free, receives}, {"from one that sends", sends, free}} {
			wg.Go(func() {
				if took, err := sent(t, c.from, c.to, bytes); err != nil || took < least {
					t.Errorf("%s: %d bytes took %v: %v", c.what, bytes, took, err)
				}
			})
		}
		wg.Wait()
	}
	check()
	// The other directions have no bounds.
	for id, want := range map[string]string{"free": "", "slow": "tbf clsact", "receives": "tbf", "sends": "clsact"} {
		l, err := handle(t, host).LinkByName(vethName(id))
		if err != nil {
			t.Fatal(err)
		}
		all, err := handle(t, host).QdiscList(l)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, q := range all {
			if q.Type() != "noqueue" {
				got = append(got, q.Type())
			}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %q, want %q", id, got, want)
		}
	}

	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	h := handle(t, host)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = ifbName("crashed")
	if err := h.LinkAdd(&netlink.Ifb{LinkAttrs: attrs}); err != nil {
		t.Fatal(err)
	}
	n = start(t, host, cfg)
	if res, err := n.Setup(t.Context(), slow.req); err != nil || res.IPs[0] != slow.addr[0] {
		t.Errorf("%v %v", res, err)
	}
	check()
	ifbs := func() (names []string) {
		links, err := dump.Whole(h.LinkList)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range links {
			if l.Type() == "ifb" {
				names = append(names, l.Attrs().Name)
			}
		}
		return names
	}
	if got := ifbs(); len(got) != 2 {
		t.Errorf("%v", got)
	}
	for _, p := range []pod{slow, receives, sends} {
		if err := n.Teardown(t.Context(), p.req); err != nil {
			t.Error(err)
		}
	}
	for end := time.Now().Add(time.Minute); len(ifbs()) > 0; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("left: %v", ifbs())
		}
	}
}
