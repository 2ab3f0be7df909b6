package proxy

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/celox/celox/internal/client/informers"
	"github.com/celox/celox/internal/network/networktest"
)

// TestObjects goes the whole way, from Services and EndpointSlices to packets.
func TestObjects(t *testing.T) {
	s := newStage(t)
	here := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "here", Labels: map[string]string{corev1.LabelTopologyZone: "a"}}}
	api := fake.NewClientset(here)
	f := informers.New(api)
	p, err := New(Config{NodeName: "here", Informers: f, Datapath: &borrowed{s.d}, Log: slog.New(slog.DiscardHandler)})
	s.check(err)
	ctx, cancel := context.WithCancel(t.Context())
	f.StartWithContext(ctx)
	done := make(chan error)
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		s.check(<-done)
		f.Shutdown()
	})
	<-p.Working()

	// pod is an endpoint of a slice: a pod, with conditions as in ep, and hints.
	pod := func(i int, v6 bool, conditions string, hints ...string) discoveryv1.Endpoint {
		e := ep(0, "here", conditions, hints...)
		e.Addresses = []string{endpoints(v6, i)[0].Addr.Addr().String()}
		return e
	}
	slice := func(name string, family discoveryv1.AddressType, endpoints ...discoveryv1.Endpoint) {
		t.Helper()
		es := slicesOf(endpoints...)
		es.Name, es.AddressType = name, family
		slices := api.DiscoveryV1().EndpointSlices("ns")
		if _, err := slices.Create(ctx, es, metav1.CreateOptions{}); err != nil {
			_, err = slices.Update(ctx, es, metav1.UpdateOptions{})
			s.check(err)
		}
	}
	_, err = api.CoreV1().Services("ns").Create(ctx, service(func(svc *corev1.Service) {
		svc.Spec.ClusterIPs = []string{"10.43.0.7", "fd43::7"}
		svc.Spec.ClusterIP = svc.Spec.ClusterIPs[0]
		svc.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}
		svc.Spec.Type, svc.Spec.Ports[0].NodePort = corev1.ServiceTypeNodePort, 30007
	}), metav1.CreateOptions{})
	s.check(err)
	addrs4, addrs6 := []string{"10.43.0.7:80", "192.168.7.1:30007"}, []string{"[fd43::7]:80", "[fd07::1]:30007"}

	// Both families, each with its own endpoints.
	slice("v4", discoveryv1.AddressTypeIPv4, pod(0, false, "rs"))
	slice("v6", discoveryv1.AddressTypeIPv6, pod(1, true, "rs"))
	for _, addr := range addrs4 {
		s.until(s.outside, addr, "pod0")
	}
	for _, addr := range addrs6 {
		s.until(s.outside, addr, "pod1")
	}
	for _, c := range []struct {
		what      string
		endpoints []discoveryv1.Endpoint
		want      []string
	}{
		// What publishNotReadyAddresses makes of a pod that isn't: the controller of slices says that it is ready (and doesn't serve).
		{"published though not ready", []discoveryv1.Endpoint{pod(2, false, "r")}, []string{"pod2"}},
		{"terminating, and no other", []discoveryv1.Endpoint{pod(1, false, "st"), pod(2, false, "t")}, []string{"pod1"}},
		{"ready, and one that terminates", []discoveryv1.Endpoint{pod(1, false, "st"), pod(0, false, "rs")}, []string{"pod0"}},
		{"hints for zones", []discoveryv1.Endpoint{pod(0, false, "rs", "zone:b"), pod(1, false, "rs", "zone:a"), pod(2, false, "rs", "zone:a")}, []string{"pod1", "pod2"}},
		{"hints for nodes", []discoveryv1.Endpoint{pod(0, false, "rs", "zone:a", "there"), pod(1, false, "rs", "zone:a", "here")}, []string{"pod1"}},
		{"hints for others only", []discoveryv1.Endpoint{pod(0, false, "rs", "zone:b"), pod(1, false, "rs", "zone:c")}, []string{"pod0", "pod1"}},
	} {
		slice("v4", discoveryv1.AddressTypeIPv4, c.endpoints...)
		for _, addr := range addrs4 {
			t.Log(c.what, addr)
			s.until(s.outside, addr, c.want...)
		}
	}
	for _, addr := range addrs6 { // as it was
		s.until(s.outside, addr, "pod1")
	}
	s.check(api.CoreV1().Services("ns").Delete(ctx, "web", metav1.DeleteOptions{}))
	s.eventually("the service to go", func() error {
		for _, addr := range slices.Concat(addrs4[:1], addrs6[:1]) {
			if who, _, err := s.outside.CallFor(300*time.Millisecond, "tcp", addr); err == nil {
				return fmt.Errorf("%s: %s answers", addr, who)
			}
		}
		return nil
	})
}

// borrowed is a datapath that somebody else closes.
type borrowed struct{ *NFTables }

func (b *borrowed) Close() error { return nil }

func (s *stage) eventually(what string, f func() error) {
	s.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("waiting for %s: %v", what, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// until waits until want, all of them and nobody else, answer twenty calls.
func (s *stage) until(from *networktest.Machine, addr string, want ...string) {
	s.t.Helper()
	s.eventually(strings.Join(want, " and "), func() error {
		seen := map[string]bool{}
		for range 20 {
			who, _, err := from.CallFor(10*time.Second, "tcp", addr)
			if err != nil {
				return err
			}
			if seen[who] = true; !slices.Contains(want, who) {
				return fmt.Errorf("%s answers", who)
			}
		}
		if len(seen) != len(want) {
			return fmt.Errorf("only %v answer", seen)
		}
		return nil
	})
}
