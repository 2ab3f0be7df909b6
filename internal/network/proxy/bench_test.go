package proxy

import (
	"log/slog"
	"net/netip"
	"strconv"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/celox/celox/internal/network/networktest"
)

// many are n services with five endpoints each.
func many(n int) map[Key]*Frontend {
	all := make(map[Key]*Frontend, n)
	for i := range n {
		f := &Frontend{Cluster: true}
		for j := range 5 {
			f.Endpoints = append(f.Endpoints, Endpoint{Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(100 + j), byte(i >> 8), byte(i)}), 8080)})
		}
		all[Key{Addr: netip.AddrFrom4([4]byte{10, 43, byte(i >> 8), byte(i)}), Protocol: corev1.ProtocolTCP, Port: 80}] = f
	}
	return all
}

func benchDatapath(b testing.TB) *NFTables {
	m := networktest.NewMachine(b, "node")
	var d *NFTables
	m.Must(func() (err error) {
		d, err = NewNFTables(func() []netip.Prefix { return nil }, slog.New(slog.DiscardHandler))
		return err
	})
	b.Cleanup(func() {
		if err := d.Close(); err != nil {
			b.Error(err)
		}
	})
	return d
}

// BenchmarkReplace is 10,000 services with 50,000 endpoints from nothing.
func BenchmarkReplace(b *testing.B) {
	d, all := benchDatapath(b), many(10_000)
	b.ReportAllocs()
	for b.Loop() {
		if err := d.Replace(all); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkUpdate is one endpoint of one of 10,000 services that becomes another.
func BenchmarkUpdate(b *testing.B) {
	d, all := benchDatapath(b), many(10_000)
	if err := d.Replace(all); err != nil {
		b.Fatal(err)
	}
	k := key(corev1.ProtocolTCP, "10.43.10.10:80")
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		f := *all[k]
		f.Endpoints = append([]Endpoint{}, f.Endpoints...)
		f.Endpoints[2].Addr = netip.AddrPortFrom(f.Endpoints[2].Addr.Addr(), uint16(9000+i%2))
		if err := d.Update(map[Key]*Frontend{k: &f}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkScale is one service of 10,000 that gets one endpoint less or more: it goes by another chain then.
func BenchmarkScale(b *testing.B) {
	d, all := benchDatapath(b), many(10_000)
	if err := d.Replace(all); err != nil {
		b.Fatal(err)
	}
	k := key(corev1.ProtocolTCP, "10.43.10.10:80")
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		f := *all[k]
		f.Endpoints = f.Endpoints[:4+i%2]
		if err := d.Update(map[Key]*Frontend{k: &f}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkState is the way from 10,000 Services and EndpointSlices to frontends.
func BenchmarkState(b *testing.B) {
	svc, slice := service(nil), slicesOf(ep(1, "here", "rs"), ep(3, "here", "rs"), ep(4, "there", "rs"), ep(5, "there", "rs"), ep(6, "there", "rs"))
	b.ReportAllocs()
	for b.Loop() {
		s, changed := newState(node{name: "here"}), change{}
		for i := range 10_000 {
			n, one := name{"ns", strconv.Itoa(i)}, *svc
			one.Spec.ClusterIPs = []string{netip.AddrFrom4([4]byte{10, 43, byte(i >> 8), byte(i)}).String()}
			s.setService(n, &one)
			s.setSlice(n, "web-1", slice)
			s.refresh(n, changed)
		}
		if len(changed) != 10_000 {
			b.Fatal(len(changed))
		}
	}
}

// BenchmarkRefresh is the same change from the slice to what has to be done.
func BenchmarkRefresh(b *testing.B) {
	s := newState(node{name: "here"})
	n := name{"ns", "web"}
	s.setService(n, service(nil))
	all := []*struct{ addr int }{{1}, {2}}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		s.setSlice(n, "web-1", slicesOf(ep(all[i%2].addr, "here", "rs"), ep(3, "here", "rs"), ep(4, "there", "rs"), ep(5, "there", "rs"), ep(6, "there", "rs")))
		s.refresh(n, change{})
	}
}
