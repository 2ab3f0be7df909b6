package cluster

import (
	"context"
	"net/netip"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/celox/celox/internal/store"
)

// unstarted is an informer whose store has objects.
func unstarted(t *testing.T, kind store.Object, objects ...any) cache.SharedIndexInformer {
	t.Helper()
	i := cache.NewSharedIndexInformer(&cache.ListWatch{}, kind, 0, cache.Indexers{})
	for _, o := range objects {
		if err := i.GetStore().Add(o); err != nil {
			t.Fatal(err)
		}
	}
	return i
}

func podAt(name, ip string, spec corev1.PodSpec) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, Spec: spec}
	if ip != "" {
		p.Status = corev1.PodStatus{Phase: corev1.PodRunning, PodIPs: []corev1.PodIP{{IP: ip}}}
	}
	return p
}

// Through its tunnel a node lets the server to its own pods, and nowhere else.
func TestWhereTunnelsLead(t *testing.T) {
	pods := unstarted(t, &corev1.Pod{},
		podAt("plugged", "172.30.0.7", corev1.PodSpec{}),
		podAt("host", "192.0.2.1", corev1.PodSpec{
			HostNetwork: true, Containers: []corev1.Container{{Ports: []corev1.ContainerPort{{ContainerPort: 9443}}}},
			InitContainers: []corev1.Container{{Ports: []corev1.ContainerPort{{ContainerPort: 9444}}}},
		}))
	node := &nodeNetwork{ranges: []netip.Prefix{netip.MustParsePrefix("10.42.1.0/24"), netip.MustParsePrefix("fd42:1::/64")}}
	built := &tunnels{h: &host{pods: pods, addrs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, network: node}}
	plugins := &tunnels{h: &host{pods: pods, network: &nodeNetwork{external: true, cluster: []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16")}}}}
	for _, c := range []struct {
		at             string
		built, plugins bool
	}{
		{"10.42.1.9:80", true, false},
		{"[::ffff:10.42.1.9]:80", true, false},
		{"[fd42:1::9]:80", true, false},
		{"10.42.2.9:80", false, false}, // of another node
		{"10.42.1.0:80", false, false},
		{"10.42.1.1:22", false, false}, // the node itself, as its pods see it
		{"[fd42:1::1]:22", false, false},
		{"172.30.0.7:8080", true, true},
		{"172.30.0.8:8080", false, false},
		{"192.0.2.1:9443", true, false},
		{"192.0.2.1:9444", true, false},
		{"192.0.2.1:22", false, false},
		{"127.0.0.1:9443", false, false},
		{"[::1]:10250", false, false},
		{"169.254.169.254:80", false, false},
	} {
		at := netip.MustParseAddrPort(c.at)
		if got := built.allowed(at); got != c.built {
			t.Errorf("%s: %v, want %v", at, got, c.built)
		}
		if got := plugins.allowed(at); got != c.plugins {
			t.Errorf("%s with plugins: %v, want %v", at, got, c.plugins)
		}
	}
	for _, address := range []string{"", "localhost:22", "10.42.1.9", "10.42.1.9:http", "10.42.1.9:80:80", "10.42.2.9:80"} {
		if c, err := built.reach(t.Context(), address); err == nil {
			_ = c.Close()
			t.Errorf("%q is reached", address)
		}
	}
}

func TestServersOfAgents(t *testing.T) {
	port, other := int32(6443), int32(7443)
	slice := func(namespace, service, name string, port *int32, addresses ...string) *discoveryv1.EndpointSlice {
		return &discoveryv1.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: service}},
			Ports:      []discoveryv1.EndpointPort{{Port: port}}, Endpoints: []discoveryv1.Endpoint{{Addresses: addresses}},
		}
	}
	tn := newTunnels(nil, nil)
	tn.learn = func([]string) error { return nil }
	from := unstarted(t, &discoveryv1.EndpointSlice{}, slice("default", "other", "x", &port, "192.0.2.9"), slice("ns", "kubernetes", "y", &port, "192.0.2.8"))
	got, changed := tn.known()
	if len(got) > 0 {
		t.Errorf("before anything is known: %v", got)
	}
	tn.follow(from)
	select {
	case <-changed:
		t.Error("other services' endpoints are news")
	default:
	}
	for _, s := range []*discoveryv1.EndpointSlice{
		slice("default", "kubernetes", "one", &port, "192.0.2.2"), slice("default", "kubernetes", "two", &other, "fd00::1"), slice("default", "kubernetes", "three", &port, "192.0.2.2"),
		slice("default", "kubernetes", "four", nil, "192.0.2.3"),
	} {
		if err := from.GetStore().Add(s); err != nil {
			t.Fatal(err)
		}
	}
	tn.follow(from)
	select {
	case <-changed:
	default:
		t.Error("nobody is told of servers")
	}
	got, changed = tn.known()
	if want := []string{"192.0.2.2:6443", "[fd00::1]:7443"}; !slices.Equal(got, want) {
		t.Errorf("servers are %v, want %v", got, want)
	}
	tn.follow(from)
	select {
	case <-changed:
		t.Error("what has not changed is news")
	default:
	}
}

// listed is a collection that can be listed.
type listed struct {
	store.Reader
	objects []store.Object
}

func (l listed) List(context.Context, store.ListOptions) (store.List, error) {
	var out store.List
	for _, o := range l.objects {
		out.Items = append(out.Items, &store.Item{Object: o})
	}
	return out, nil
}

func TestNodeOfAddress(t *testing.T) {
	node := func(name, address string, pods ...string) *corev1.Node {
		return &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{PodCIDRs: pods},
			Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: name}, {Type: corev1.NodeInternalIP, Address: address}}},
		}
	}
	nodes := listed{objects: []store.Object{
		node("a", "192.0.2.1", "10.42.1.0/24", "fd42:1::/64"), node("b", "192.0.2.2", "10.42.2.0/24"),
		node("home", "192.168.0.5", "10.42.3.0/24"), node("office", "192.168.0.5", "10.42.4.0/24"),
	}}
	gone := podAt("gone", "10.42.1.7", corev1.PodSpec{NodeName: "a"})
	gone.Status.Phase = corev1.PodSucceeded
	pods := listed{objects: []store.Object{gone, podAt("there", "10.42.1.7", corev1.PodSpec{NodeName: "b"}), podAt("new", "", corev1.PodSpec{})}}
	for _, c := range []struct {
		address         string
		want, elsewhere string
		own             bool
	}{
		{"10.42.1.7:80", "a", "b", false},
		{"[::ffff:10.42.1.7]:80", "a", "b", false},
		{"[fd42:1::7]:80", "a", "", false},
		{"10.42.4.7:80", "office", "", false},
		{"192.0.2.2:9443", "b", "b", true},
		{"192.168.0.5:9443", "", "", false}, // two nodes
		{"10.43.0.1:443", "", "", false},
		{"example.com:443", "", "", false},
	} {
		for _, elsewhere := range []bool{false, true} {
			p := &passages{nodes: nodes, pods: pods, elsewhere: elsewhere}
			want := c.want
			if elsewhere {
				want = c.elsewhere
			}
			got, own, err := p.nodeOf(t.Context(), c.address)
			if err != nil || got != want || own != c.own {
				t.Errorf("%s (plugins: %v): %q, %v, %v, want %q, %v", c.address, elsewhere, got, own, err, want, c.own)
			}
		}
	}
}
