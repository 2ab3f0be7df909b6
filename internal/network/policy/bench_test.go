package policy

import (
	"fmt"
	"net/netip"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/celox/celox/internal/network/networktest"
)

// benchNode is a node with 1,000 pods of its own, of 10,000 in the cluster, that a policy selects and lets be reached by all of them on a port.
func benchNode(b *testing.B) (*NFTables, *state) {
	m := networktest.NewMachine(b, "node")
	var d *NFTables
	m.Must(func() (err error) {
		d, err = NewNFTables()
		return err
	})
	b.Cleanup(func() {
		if err := d.Close(); err != nil {
			b.Error(err)
		}
	})
	s := newState()
	s.setNamespace("default", true, map[string]string{"kubernetes.io/metadata.name": "default"})
	for i := range 10_000 {
		n := name{"default", fmt.Sprint("pod", i)}
		addrs := []netip.Addr{netip.AddrFrom4([4]byte{10, 42, byte(i >> 8), byte(i)})}
		s.setPod(n, &pod{labels: map[string]string{"app": "web", "tier": fmt.Sprint(i % 10)}, addrs: addrs})
		if i < 1000 {
			s.attach(n.name, n, addrs)
		}
	}
	benchPolicy(b, s, 80)
	s.settle()
	if err := d.Replace(s.desired); err != nil {
		b.Fatal(err)
	}
	return d, s
}

func benchPolicy(b *testing.B, s *state, port int32) {
	number := intstr.FromInt32(port)
	p, err := parse(&networkingv1.NetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"},
		Spec: networkingv1.NetworkPolicySpec{
			PodSelector: selects("web"), PolicyTypes: []networkingv1.PolicyType{"Ingress", "Egress"},
			Ingress: []networkingv1.NetworkPolicyIngressRule{{From: from("web"), Ports: []networkingv1.NetworkPolicyPort{{Port: &number}}}},
			Egress:  []networkingv1.NetworkPolicyEgressRule{{}},
		},
	})
	if err != nil {
		b.Fatal(err)
	}
	s.setPolicy(name{"default", "web"}, p)
}

// BenchmarkPolicyChange is a policy that selects 1,000 pods of the node and gets another port, from the object to the kernel.
func BenchmarkPolicyChange(b *testing.B) {
	d, s := benchNode(b)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		benchPolicy(b, s, int32(81+i%2))
		if err := d.Update(s.desired, s.settle()); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkPolicyComes is a first policy for 1,000 pods of the node, with 10,000 peers, and its end.
func BenchmarkPolicyComes(b *testing.B) {
	d, s := benchNode(b)
	b.ReportAllocs()
	for b.Loop() {
		s.setPolicy(name{"default", "web"}, nil)
		if err := d.Update(s.desired, s.settle()); err != nil {
			b.Fatal(err)
		}
		benchPolicy(b, s, 80)
		if err := d.Update(s.desired, s.settle()); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkPeer is a pod of another node that comes, and goes.
func BenchmarkPeer(b *testing.B) {
	d, s := benchNode(b)
	far := &pod{labels: map[string]string{"app": "web"}, addrs: []netip.Addr{netip.MustParseAddr("10.99.0.1")}}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if p := far; i%2 == 0 {
			s.setPod(name{"default", "far"}, p)
		} else {
			s.setPod(name{"default", "far"}, nil)
		}
		if err := d.Update(s.desired, s.settle()); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkReplace makes all of it from nothing.
func BenchmarkReplace(b *testing.B) {
	d, s := benchNode(b)
	b.ReportAllocs()
	for b.Loop() {
		if err := d.Replace(s.desired); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkAttach is a sandbox of the node that comes, and goes.
func BenchmarkAttach(b *testing.B) {
	d, s := benchNode(b)
	n := name{"default", "new"}
	addrs := []netip.Addr{netip.MustParseAddr("10.99.0.2")}
	s.setPod(n, &pod{labels: map[string]string{"app": "web"}})
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if i%2 == 0 {
			s.attach("new", n, addrs)
		} else {
			s.detach("new")
		}
		if err := d.Update(s.desired, s.settle()); err != nil {
			b.Fatal(err)
		}
	}
}
