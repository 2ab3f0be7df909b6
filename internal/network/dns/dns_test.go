package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/celox/celox/internal/client/informers"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func service(ns, name, ip string, edit func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, ClusterIP: ip, ClusterIPs: []string{ip},
			Ports: []corev1.ServicePort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80}, {Name: "dns", Protocol: corev1.ProtocolUDP, Port: 53}},
		},
	}
	if edit != nil {
		edit(s)
	}
	return s
}

// slice has endpoints "address[=hostname][!]", the last sign for one that is not ready.
func slice(ns, svc, name string, endpoints ...string) *discoveryv1.EndpointSlice {
	port, portName := int32(8080), "http"
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: ns, Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: svc}},
		AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Name: &portName, Port: &port}},
	}
	for _, e := range endpoints {
		e, waiting := strings.CutSuffix(e, "!")
		addr, hostname, _ := strings.Cut(e, "=")
		ready := !waiting
		ep := discoveryv1.Endpoint{Addresses: []string{addr}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}}
		if hostname != "" {
			ep.Hostname = &hostname
		}
		if strings.Contains(addr, ":") {
			s.AddressType = discoveryv1.AddressTypeIPv6
		}
		s.Endpoints = append(s.Endpoints, ep)
	}
	return s
}

func headless(s *corev1.Service) { s.Spec.ClusterIP, s.Spec.ClusterIPs = "None", []string{"None"} }

// cluster is what most tests ask about.
func cluster() []runtime.Object {
	return []runtime.Object{
		service("default", "kubernetes", "10.43.0.1", nil),
		service("ns", "web", "10.43.0.2", func(s *corev1.Service) { s.Spec.ClusterIPs = append(s.Spec.ClusterIPs, "fd43::2") }),
		slice("ns", "web", "web-1", "10.42.0.9"),
		service("ns", "db", "", headless),
		slice("ns", "db", "db-4", "10.42.0.2=db-0", "10.42.0.3", "10.42.0.4!"),
		slice("ns", "db", "db-6", "fd42::2=db-0"),
		service("ns", "own", "", func(s *corev1.Service) {
			headless(s)
			s.Spec.Ports = nil
		}),
		portNamed(slice("ns", "own", "own-1", "10.42.0.21"), "http"),
		portNamed(slice("ns", "own", "own-2", "10.42.0.22"), "https"),
		service("ns", "none", "", headless),
		service("ns", "away", "", func(s *corev1.Service) {
			s.Spec.Type, s.Spec.ExternalName, s.Spec.ClusterIPs = corev1.ServiceTypeExternalName, "Www.Example.com", nil
		}),
		service("ns", "alias", "", func(s *corev1.Service) {
			s.Spec.Type, s.Spec.ExternalName, s.Spec.ClusterIPs = corev1.ServiceTypeExternalName, "web.ns.svc.cluster.local", nil
		}),
		service("ns", "circle", "", func(s *corev1.Service) {
			s.Spec.Type, s.Spec.ExternalName, s.Spec.ClusterIPs = corev1.ServiceTypeExternalName, "circle.ns.svc.cluster.local", nil
		}),
	}
}

// internet answers for example.com and counts what it is asked.
type internet struct {
	asked atomic.Int32
	mu    sync.Mutex
	fail  map[string]error // by server
}

func (i *internet) exchange(_ context.Context, network string, m *dns.Msg, server string) (*dns.Msg, error) {
	i.asked.Add(1)
	i.mu.Lock()
	err := i.fail[server]
	i.mu.Unlock()
	if err != nil {
		return nil, err
	}
	r := new(dns.Msg)
	r.SetReply(m)
	q := m.Question[0]
	header := dns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: dns.ClassINET, Ttl: 100}
	switch {
	case q.Name == "www.example.com." && q.Qtype == dns.TypeA:
		r.Answer = []dns.RR{&dns.A{Hdr: header, A: net.IPv4(93, 184, 216, 34)}}
	case q.Name == "www.example.com.":
	case q.Name == "long.example.com." && network == "udp":
		r.Truncated = true
	case q.Name == "long.example.com.":
		for n := range 100 {
			r.Answer = append(r.Answer, &dns.A{Hdr: header, A: net.IPv4(10, 0, 0, byte(n))})
		}
	case q.Name == "corp.stub.":
		r.Answer = []dns.RR{&dns.TXT{Hdr: header, Txt: []string{server}}}
	case q.Name == "host.corp.example.":
		r.Answer = []dns.RR{&dns.A{Hdr: header, A: net.IPv4(1, 1, 1, 1)}}
	default:
		r.Rcode = dns.RcodeNameError
		r.Ns = []dns.RR{&dns.SOA{Hdr: dns.RR_Header{Name: "com.", Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: 60}, Ns: "a.", Mbox: "b.", Minttl: 20}}
	}
	return r, nil
}

// pods are clients by address.
type pods map[netip.Addr]string

func (p pods) Namespace(a netip.Addr) (string, bool) {
	ns, ok := p[a]
	return ns, ok
}

var (
	podClient = netip.MustParseAddr("10.42.0.77")
	stranger  = netip.MustParseAddr("192.0.2.1")
)

func newServer(t testing.TB, web *internet, objects ...runtime.Object) (*Server, *fake.Clientset) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	api := fake.NewClientset(objects...)
	f := informers.New(api)
	z, err := NewZone("cluster.local", f)
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(Config{
		Zone: z, Upstream: []string{"192.0.2.53"}, StubDomains: map[string][]string{"stub": {"192.0.2.54:5353"}}, Search: []string{"corp.example"},
		Clients: pods{podClient: "ns"}, Exchange: web.exchange, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	f.StartWithContext(ctx)
	f.WaitForCacheSync(ctx)
	for !z.ready() {
		time.Sleep(time.Millisecond)
	}
	t.Cleanup(func() {
		cancel()
		f.Shutdown()
	})
	return s, api
}

// ask asks over both ways and makes sure that they agree but for the order of addresses.
func ask(t testing.TB, s *Server, client netip.Addr, name string, qtype uint16) *dns.Msg {
	t.Helper()
	q := new(dns.Msg)
	q.SetQuestion(name, qtype)
	packet, err := q.Pack()
	if err != nil {
		t.Fatal(err)
	}
	long := new(dns.Msg)
	if err := long.Unpack(s.find(t.Context(), packet, client, "udp")); err != nil {
		t.Fatal(err)
	}
	var parsed question
	if r := s.known(&parsed, packet, client, nil, time.Now()); r != nil {
		short := new(dns.Msg)
		if err := short.Unpack(r.write(nil, packet, time.Now())); err != nil {
			t.Fatal(err)
		}
		if a, b := show(long), show(short); a != b {
			t.Errorf("%s: the long way:\n%s\nthe short way:\n%s", name, a, b)
		}
	}
	if long.Id != q.Id || !long.Response {
		t.Errorf("%s: not an answer to it: %v", name, long)
	}
	return long
}

// show is an answer in short: the code, if there is no answer, and the records without what they have in common.
func show(m *dns.Msg) string {
	var out []string
	for _, rr := range m.Answer {
		f := strings.Fields(rr.String())
		out = append(out, strings.Join(f[3:], " "))
	}
	slices.Sort(out)
	if len(out) == 0 || m.Rcode != dns.RcodeSuccess {
		out = append(out, dns.RcodeToString[m.Rcode])
	}
	if m.Truncated {
		out = append(out, "truncated")
	}
	return strings.Join(out, "; ")
}

func TestNames(t *testing.T) {
	s, _ := newServer(t, &internet{}, cluster()...)
	const a, aaaa, srv, ptr, txt, cname = dns.TypeA, dns.TypeAAAA, dns.TypeSRV, dns.TypePTR, dns.TypeTXT, dns.TypeCNAME
	for _, c := range []struct {
		name  string
		qtype uint16
		want  string
	}{
		{"kubernetes.default.svc.cluster.local.", a, "A 10.43.0.1"},
		{"Kubernetes.DEFAULT.svc.cluster.local.", a, "A 10.43.0.1"},
		{"kubernetes.default.svc.cluster.local.", aaaa, "NOERROR"},
		{"kubernetes.default.svc.cluster.local.", txt, "NOERROR"},
		{"web.ns.svc.cluster.local.", a, "A 10.43.0.2"},
		{"web.ns.svc.cluster.local.", aaaa, "AAAA fd43::2"},
		{"db.ns.svc.cluster.local.", a, "A 10.42.0.2; A 10.42.0.3"},
		{"db.ns.svc.cluster.local.", aaaa, "AAAA fd42::2"},
		{"db-0.db.ns.svc.cluster.local.", a, "A 10.42.0.2"},
		{"db-0.db.ns.svc.cluster.local.", aaaa, "AAAA fd42::2"},
		{"10-42-0-3.db.ns.svc.cluster.local.", a, "A 10.42.0.3"},
		{"10-42-0-4.db.ns.svc.cluster.local.", a, "NXDOMAIN"},
		{"10-42-0-9.web.ns.svc.cluster.local.", a, "NXDOMAIN"},
		{"none.ns.svc.cluster.local.", a, "NXDOMAIN"},
		{"_http._tcp.web.ns.svc.cluster.local.", srv, "SRV 0 100 80 web.ns.svc.cluster.local."},
		{"_http._tcp.web.ns.svc.cluster.local.", a, "NOERROR"},
		{"_dns._udp.web.ns.svc.cluster.local.", srv, "SRV 0 100 53 web.ns.svc.cluster.local."},
		{"_http._udp.web.ns.svc.cluster.local.", srv, "NXDOMAIN"},
		{"_tcp.web.ns.svc.cluster.local.", srv, "NOERROR"},
		{"_http._tcp.db.ns.svc.cluster.local.", srv, "SRV 0 100 8080 10-42-0-3.db.ns.svc.cluster.local.; SRV 0 100 8080 db-0.db.ns.svc.cluster.local.; SRV 0 100 8080 db-0.db.ns.svc.cluster.local."},
		{"_http._tcp.own.ns.svc.cluster.local.", srv, "SRV 0 100 8080 10-42-0-21.own.ns.svc.cluster.local."},
		{"_https._tcp.own.ns.svc.cluster.local.", srv, "SRV 0 100 8080 10-42-0-22.own.ns.svc.cluster.local."},
		{"_https._tcp.own.ns.svc.cluster.local.", a, "NOERROR"},
		{"_https._udp.own.ns.svc.cluster.local.", srv, "NXDOMAIN"},
		{"away.ns.svc.cluster.local.", a, "A 93.184.216.34; CNAME www.example.com."},
		{"away.ns.svc.cluster.local.", cname, "CNAME www.example.com."},
		{"alias.ns.svc.cluster.local.", a, "A 10.43.0.2; CNAME web.ns.svc.cluster.local."},
		{"circle.ns.svc.cluster.local.", a, strings.Repeat("CNAME circle.ns.svc.cluster.local.; ", 8) + "SERVFAIL"},
		{"1-2-3-4.ns.pod.cluster.local.", a, "A 1.2.3.4"},
		{"fd42--1.ns.pod.cluster.local.", aaaa, "AAAA fd42::1"},
		{"fd42--1.ns.pod.cluster.local.", a, "NOERROR"},
		{"what.ns.pod.cluster.local.", a, "NXDOMAIN"},
		{"1-2-3-4.nons.pod.cluster.local.", a, "NXDOMAIN"},
		{"1.0.43.10.in-addr.arpa.", ptr, "PTR kubernetes.default.svc.cluster.local."},
		{"2.0.42.10.in-addr.arpa.", ptr, "PTR db-0.db.ns.svc.cluster.local."},
		{"9.0.42.10.in-addr.arpa.", ptr, "PTR 10-42-0-9.web.ns.svc.cluster.local."},
		{"2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.2.4.d.f.ip6.arpa.", ptr, "PTR db-0.db.ns.svc.cluster.local."},
		{"1.1.1.1.in-addr.arpa.", ptr, "NXDOMAIN"},
		{"dns-version.cluster.local.", txt, `TXT "1.1.0"`},
		{"svc.cluster.local.", a, "NOERROR"},
		{"ns.svc.cluster.local.", a, "NOERROR"},
		{"nons.svc.cluster.local.", a, "NXDOMAIN"},
		{"nope.ns.svc.cluster.local.", a, "NXDOMAIN"},
		{"a.b.c.d.web.ns.svc.cluster.local.", a, "NXDOMAIN"},
		{"nope.cluster.local.", a, "NXDOMAIN"},
		{"www.example.com.", a, "A 93.184.216.34"},
		{"nope.example.com.", a, "NXDOMAIN"},
		{"long.example.com.", a, "truncated"},
		{"corp.stub.", txt, `TXT "192.0.2.54:5353"`},
	} {
		t.Run(fmt.Sprint(c.name, dns.TypeToString[c.qtype]), func(t *testing.T) {
			got := show(ask(t, s, stranger, c.name, c.qtype))
			if c.want == "truncated" {
				if !strings.HasSuffix(got, c.want) {
					t.Errorf("got %s", got)
				}
			} else if got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
			if again := show(ask(t, s, stranger, c.name, c.qtype)); again != got {
				t.Errorf("again: %s", again)
			}
		})
	}
}

// TestSearchPath: a pod's first question is answered as its last would be.
func TestSearchPath(t *testing.T) {
	web := &internet{}
	s, _ := newServer(t, web, cluster()...)
	for _, c := range []struct{ name, want string }{
		{"web.ns.svc.cluster.local.", "A 10.43.0.2"},
		{"kubernetes.default.ns.svc.cluster.local.", "A 10.43.0.1; CNAME kubernetes.default.svc.cluster.local."},
		{"web.ns.svc.ns.svc.cluster.local.", "A 10.43.0.2; CNAME web.ns.svc.cluster.local."},
		{"www.example.com.ns.svc.cluster.local.", "A 93.184.216.34; CNAME www.example.com."},
		{"host.ns.svc.cluster.local.", "A 1.1.1.1; CNAME host.corp.example."},
		{"nope.example.com.ns.svc.cluster.local.", "NXDOMAIN"},
	} {
		if got := show(ask(t, s, podClient, c.name, dns.TypeA)); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
		if got := show(ask(t, s, stranger, c.name, dns.TypeA)); got != c.want && got != "NXDOMAIN" {
			t.Errorf("%s: a stranger hears %s", c.name, got)
		}
		if got := show(ask(t, s, podClient, c.name, dns.TypeA)); got != c.want {
			t.Errorf("%s: later %s, want %s", c.name, got, c.want)
		}
	}
	web.mu.Lock()
	web.fail = map[string]error{"192.0.2.53:53": errors.New("no way")}
	web.mu.Unlock()
	if got := show(ask(t, s, podClient, "new.example.com.ns.svc.cluster.local.", dns.TypeA)); got != "NXDOMAIN" {
		t.Errorf("without other servers: %s", got)
	}
	if got := show(ask(t, s, podClient, "new.example.com.", dns.TypeA)); got != "SERVFAIL" {
		t.Errorf("without other servers: %s", got)
	}
}

// TestChanges: what changes in the API is answered at once, however often it was asked before.
func TestChanges(t *testing.T) {
	s, api := newServer(t, &internet{}, cluster()...)
	until := func(name, want string) {
		t.Helper()
		var got string
		for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(time.Millisecond) {
			if got = show(ask(t, s, podClient, name, dns.TypeA)); got == want {
				return
			}
		}
		t.Fatalf("%s: %s, want %s", name, got, want)
	}
	until("db.ns.svc.cluster.local.", "A 10.42.0.2; A 10.42.0.3")
	if _, err := api.DiscoveryV1().EndpointSlices("ns").Update(t.Context(), slice("ns", "db", "db-4", "10.42.0.8"), metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	until("db.ns.svc.cluster.local.", "A 10.42.0.8")
	until("late.ns.svc.cluster.local.", "NXDOMAIN")
	if _, err := api.CoreV1().Services("ns").Create(t.Context(), service("ns", "late", "10.43.0.99", nil), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	until("late.ns.svc.cluster.local.", "A 10.43.0.99")
	if err := api.CoreV1().Services("default").Delete(t.Context(), "kubernetes", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	until("default.svc.cluster.local.", "NXDOMAIN")
}

// TestRemembers: other servers are asked once, and others of them if one fails.
func TestRemembers(t *testing.T) {
	web := &internet{}
	s, _ := newServer(t, web)
	for range 5 {
		q := new(dns.Msg)
		q.SetQuestion("wWw.Example.com.", dns.TypeA)
		packet, err := q.Pack()
		if err != nil {
			t.Fatal(err)
		}
		var parsed question
		answer := []byte(nil)
		if r := s.known(&parsed, packet, stranger, nil, time.Now().Add(10*time.Second)); r != nil {
			answer = r.write(nil, packet, time.Now().Add(10*time.Second))
		} else {
			answer = s.find(t.Context(), packet, stranger, "udp")
		}
		m := new(dns.Msg)
		if err := m.Unpack(answer); err != nil {
			t.Fatal(err)
		}
		if m.Question[0].Name != "wWw.Example.com." || len(m.Answer) != 1 {
			t.Errorf("%v", m)
		}
		if ttl := m.Answer[0].Header().Ttl; ttl != 100 && ttl > 90 {
			t.Errorf("after ten seconds %d of 100", ttl)
		}
	}
	if n := web.asked.Load(); n != 1 {
		t.Errorf("asked %d times", n)
	}
	q := new(dns.Msg)
	q.SetQuestion("www.example.com.", dns.TypeA)
	packet, _ := q.Pack()
	var parsed question
	if r := s.known(&parsed, packet, stranger, nil, time.Now().Add(101*time.Second)); r != nil {
		t.Error("believed for longer than it says")
	}
}

// TestOrder: the addresses of a headless service take turns.
func TestOrder(t *testing.T) {
	s, _ := newServer(t, &internet{}, cluster()...)
	ask(t, s, stranger, "db.ns.svc.cluster.local.", dns.TypeA)
	q := new(dns.Msg)
	q.SetQuestion("db.ns.svc.cluster.local.", dns.TypeA)
	packet, _ := q.Pack()
	first := map[string]int{}
	for range 10 {
		var parsed question
		r := s.known(&parsed, packet, stranger, nil, time.Now())
		m := new(dns.Msg)
		if err := m.Unpack(r.write(nil, packet, time.Now())); err != nil {
			t.Fatal(err)
		}
		first[m.Answer[0].(*dns.A).A.String()]++
	}
	if len(first) != 2 || first["10.42.0.2"] != 5 {
		t.Errorf("%v", first)
	}
}

func TestBadConfig(t *testing.T) {
	for _, c := range []Config{{Upstream: []string{"dns.example"}}, {StubDomains: map[string][]string{"a": {"1.2.3"}}}} {
		if _, err := New(c); err == nil {
			t.Errorf("%+v is accepted", c)
		}
	}
}

// TestNetwork asks over sockets, as resolvers do.
func TestNetwork(t *testing.T) {
	s, _ := newServer(t, &internet{}, cluster()...)
	udp, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.Serve(ctx, []*net.UDPConn{udp}, []net.Listener{tcp}) }()
	for network, server := range map[string]string{"udp": udp.LocalAddr().String(), "tcp": tcp.Addr().String()} {
		c := &dns.Client{Net: network, Timeout: time.Minute}
		for _, want := range []string{"A 10.43.0.2", "A 10.43.0.2"} {
			q := new(dns.Msg)
			q.SetQuestion("web.ns.svc.cluster.local.", dns.TypeA)
			m, _, err := c.Exchange(q, server)
			if err != nil || show(m) != want {
				t.Errorf("%s: %v %v", network, m, err)
			}
		}
		// A long answer: over UDP as much as the client takes.
		q := new(dns.Msg)
		q.SetQuestion("long.example.com.", dns.TypeA)
		q.SetEdns0(4096, false)
		m, _, err := c.Exchange(q, server)
		if err != nil || m.Truncated != (network == "udp") || (network == "tcp" && len(m.Answer) != 100) {
			t.Errorf("%s: %v %v", network, m, err)
		}
		for _, odd := range []func(*dns.Msg){
			func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate },
			func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeAXFR },
			func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS },
		} {
			q := new(dns.Msg)
			q.SetQuestion("web.ns.svc.cluster.local.", dns.TypeA)
			odd(q)
			if m, _, err := c.Exchange(q, server); err != nil || m.Rcode == dns.RcodeSuccess {
				t.Errorf("%s: %v %v", network, m, err)
			}
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// FuzzPacket: whatever arrives, what is answered is an answer to it, and both ways agree.
func FuzzPacket(f *testing.F) {
	s, _ := newServer(f, &internet{}, cluster()...)
	for _, name := range []string{"web.ns.svc.cluster.local.", "db.ns.svc.cluster.local.", "www.example.com.", "1.0.43.10.in-addr.arpa.", "."} {
		q := new(dns.Msg)
		q.SetQuestion(name, dns.TypeA)
		b, _ := q.Pack()
		f.Add(b)
		q.SetEdns0(1232, true)
		b, _ = q.Pack()
		f.Add(b)
	}
	f.Add([]byte{0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 12, 0, 1, 0, 1})
	f.Fuzz(func(t *testing.T, packet []byte) {
		answer := s.find(t.Context(), packet, podClient, "udp")
		var q question
		if r := s.known(&q, packet, podClient, nil, time.Now()); r != nil {
			short := r.write(nil, packet, time.Now())
			a, b := new(dns.Msg), new(dns.Msg)
			if err := errors.Join(a.Unpack(answer), b.Unpack(short)); err != nil {
				t.Fatalf("%v: % x", err, packet)
			}
			if show(a) != show(b) || a.Id != b.Id || a.Question[0] != b.Question[0] {
				t.Fatalf("the long way:\n%v\nthe short way:\n%v", a, b)
			}
		}
		if answer == nil {
			return
		}
		if answer[0] != packet[0] || answer[1] != packet[1] || answer[2]&bitResponse == 0 {
			t.Fatalf("% x is no answer to % x", answer, packet)
		}
	})
}

func BenchmarkShortWay(b *testing.B) {
	s, _ := newServer(b, &internet{}, cluster()...)
	q := new(dns.Msg)
	q.SetQuestion("web.ns.svc.cluster.local.", dns.TypeA)
	packet, _ := q.Pack()
	s.find(b.Context(), packet, podClient, "udp")
	var parsed question
	key, out := make([]byte, 0, 300), make([]byte, 0, 512)
	b.ReportAllocs()
	for b.Loop() {
		now := time.Now()
		r := s.known(&parsed, packet, podClient, key, now)
		out = r.write(out[:0], packet, now)
	}
}

func BenchmarkLongWay(b *testing.B) {
	s, _ := newServer(b, &internet{}, cluster()...)
	q := new(dns.Msg)
	q.SetQuestion("db.ns.svc.cluster.local.", dns.TypeA)
	packet, _ := q.Pack()
	b.ReportAllocs()
	for b.Loop() {
		s.find(b.Context(), packet, stranger, "udp")
	}
}

func portNamed(s *discoveryv1.EndpointSlice, name string) *discoveryv1.EndpointSlice {
	s.Ports[0].Name = &name
	return s
}
