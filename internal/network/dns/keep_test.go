package dns

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/miekg/dns"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/celox/celox/internal/client/informers"
)

// withoutAPI is a server whose informers never hear of anything.
func withoutAPI(t *testing.T, path string) *Server {
	t.Helper()
	z, err := NewZone("cluster.local", informers.New(fake.NewClientset()))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := z.Keep(path, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	s, err := New(Config{Zone: z, Log: slog.New(slog.DiscardHandler), Exchange: (&internet{}).exchange})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestKeeps: what a zone knew, one without an API knows again, in all kinds of answers.
func TestKeeps(t *testing.T) {
	path := filepath.Join(t.TempDir(), "names")
	s, api := newServer(t, &internet{}, cluster()...)
	k, err := s.cfg.Zone.Keep(path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if got := show(ask(t, withoutAPI(t, path), stranger, "web.ns.svc.cluster.local.", dns.TypeA)); got != "SERVFAIL" {
		t.Errorf("without a file: %s", got)
	}
	if _, err := api.CoreV1().Services("ns").Create(t.Context(), service("ns", "late", "10.43.0.99", nil), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the new service", func() bool {
		return show(ask(t, s, stranger, "late.ns.svc.cluster.local.", dns.TypeA)) == "A 10.43.0.99"
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx) }()
	cancel()
	if err := <-done; err != nil { // the last write is at the end
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		k.write() // it ended before the informers were asked
	}
	again := withoutAPI(t, path)
	for _, q := range []struct {
		name  string
		qtype uint16
	}{
		{"late.ns.svc.cluster.local.", dns.TypeA}, {"web.ns.svc.cluster.local.", dns.TypeAAAA}, {"web.ns.svc.cluster.local.", dns.TypeSRV}, {"_http._tcp.web.ns.svc.cluster.local.", dns.TypeSRV},
		{"db.ns.svc.cluster.local.", dns.TypeA}, {"db-0.db.ns.svc.cluster.local.", dns.TypeA}, {"_http._tcp.db.ns.svc.cluster.local.", dns.TypeSRV}, {"none.ns.svc.cluster.local.", dns.TypeA},
		{"alias.ns.svc.cluster.local.", dns.TypeA}, {"2.0.43.10.in-addr.arpa.", dns.TypePTR}, {"2.0.42.10.in-addr.arpa.", dns.TypePTR}, {"10-1-2-3.ns.pod.cluster.local.", dns.TypeA},
		{"nobody.ns.svc.cluster.local.", dns.TypeA}, {"x.nowhere.svc.cluster.local.", dns.TypeA},
	} {
		want, got := show(ask(t, s, stranger, q.name, q.qtype)), show(ask(t, again, stranger, q.name, q.qtype))
		if want != got || want == "SERVFAIL" {
			t.Errorf("%s %s: it was %s and is %s", q.name, dns.TypeToString[q.qtype], want, got)
		}
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i, bad := range [][]byte{nil, []byte(keepMagic), data[:len(data)-1], bytes.Replace(data, []byte("late"), []byte("fate"), 1), append(data, 0)} {
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if got := show(ask(t, withoutAPI(t, path), stranger, "web.ns.svc.cluster.local.", dns.TypeA)); got != "SERVFAIL" {
			t.Errorf("damage %d: %s", i, got)
		}
	}
}

// FuzzRestore: whatever the file has, it is a zone or an error.
func FuzzRestore(f *testing.F) {
	s, _ := newServer(f, &internet{}, cluster()...)
	data, err := s.cfg.Zone.save()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(keepMagic))
	f.Fuzz(func(t *testing.T, data []byte) {
		z, err := restore("cluster.local.", data)
		if err == nil {
			z.lookup("web.ns.svc.cluster.local.", dns.TypeA)
		}
	})
}
