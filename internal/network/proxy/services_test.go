package proxy

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// service is one with a cluster address and a port "http", changed by edit.
func service(edit func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web"},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, ClusterIP: "10.0.0.1", ClusterIPs: []string{"10.0.0.1"}, IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol},
			Ports: []corev1.ServicePort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80}},
		},
	}
	if edit != nil {
		edit(s)
	}
	return s
}

// ep is an endpoint "10.1.0.N" on a node, with conditions: r(eady), s(erving), t(erminating); "-" is none.
func ep(n int, node, conditions string, hints ...string) discoveryv1.Endpoint {
	e := discoveryv1.Endpoint{Addresses: []string{fmt.Sprintf("10.1.0.%d", n)}, NodeName: &node}
	has := func(c string) *bool {
		b := strings.Contains(conditions, c)
		return &b
	}
	if conditions != "" {
		e.Conditions = discoveryv1.EndpointConditions{Ready: has("r"), Serving: has("s"), Terminating: has("t")}
	}
	for _, h := range hints {
		if e.Hints == nil {
			e.Hints = &discoveryv1.EndpointHints{}
		}
		if zone, ok := strings.CutPrefix(h, "zone:"); ok {
			e.Hints.ForZones = append(e.Hints.ForZones, discoveryv1.ForZone{Name: zone})
		} else {
			e.Hints.ForNodes = append(e.Hints.ForNodes, discoveryv1.ForNode{Name: h})
		}
	}
	return e
}

func slicesOf(endpoints ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
	port, name, proto := int32(8080), "http", corev1.ProtocolTCP
	return &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "ns", Name: "web-1", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
		AddressType: discoveryv1.AddressTypeIPv4, Endpoints: endpoints,
		Ports: []discoveryv1.EndpointPort{{Name: &name, Port: &port, Protocol: &proto}},
	}
}

// show is what a service became, one line a key.
func show(all change) string {
	var lines []string
	for _, k := range slices.SortedFunc(maps.Keys(all), func(a, b Key) int { return strings.Compare(a.String(), b.String()) }) {
		f := all[k]
		if f == nil {
			lines = append(lines, k.String()+" gone")
			continue
		}
		line := k.String() + " →"
		for _, e := range f.Endpoints {
			line += " " + strings.TrimPrefix(strings.TrimSuffix(e.Addr.String(), ":8080"), "10.1.0.")
		}
		if f.LocalOnly {
			line += " local:"
			for _, e := range f.LocalEndpoints {
				line += " " + strings.TrimPrefix(strings.TrimSuffix(e.Addr.String(), ":8080"), "10.1.0.")
			}
		}
		if f.Drop {
			line += " drop"
		}
		if f.Affinity > 0 {
			line += " " + f.Affinity.String()
		}
		if len(f.Sources) > 0 {
			line += fmt.Sprint(" ", f.Sources)
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n")
}

func TestFrontends(t *testing.T) {
	local := corev1.ServiceInternalTrafficPolicyLocal
	proxied := corev1.LoadBalancerIPModeProxy
	two := slicesOf(ep(1, "here", "rs"), ep(2, "there", "rs"))
	for _, c := range []struct {
		name  string
		edit  func(*corev1.Service)
		slice *discoveryv1.EndpointSlice
		want  string
	}{
		{"cluster address", nil, two, "TCP 10.0.0.1:80 → 1 2"},
		{"no endpoints", nil, nil, "TCP 10.0.0.1:80 →"},
		{"no conditions is ready", nil, slicesOf(ep(1, "here", "")), "TCP 10.0.0.1:80 → 1"},
		{"not ready", nil, slicesOf(ep(1, "here", "-"), ep(2, "here", "rs")), "TCP 10.0.0.1:80 → 2"},
		{"those that terminate wait for nobody", nil, slicesOf(ep(1, "here", "st"), ep(2, "here", "rs")), "TCP 10.0.0.1:80 → 2"},
		{"only those that terminate", nil, slicesOf(ep(1, "here", "st"), ep(2, "here", "t")), "TCP 10.0.0.1:80 → 1"},
		{"headless", func(s *corev1.Service) { s.Spec.ClusterIP, s.Spec.ClusterIPs = "None", []string{"None"} }, two, ""},
		{"external name", func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeExternalName }, two, ""},
		{"another proxy's", func(s *corev1.Service) { s.Labels = map[string]string{labelProxyName: "other"} }, two, ""},
		{"another proxy's without a name", func(s *corev1.Service) { s.Labels = map[string]string{labelProxyName: ""} }, two, ""},
		{"a slice for names only", nil, labelled(two, labelHeadless), "TCP 10.0.0.1:80 →"},
		{"another port name", func(s *corev1.Service) { s.Spec.Ports[0].Name = "https" }, two, "TCP 10.0.0.1:80 →"},
		{"affinity", func(s *corev1.Service) { s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP }, two, "TCP 10.0.0.1:80 → 1 2 3h0m0s"},
		{"local inside", func(s *corev1.Service) { s.Spec.InternalTrafficPolicy = &local }, two, "TCP 10.0.0.1:80 → 1"},
		{"none local inside", func(s *corev1.Service) { s.Spec.InternalTrafficPolicy = &local }, slicesOf(ep(2, "there", "rs")), "TCP 10.0.0.1:80 → drop"},
		{"none at all inside", func(s *corev1.Service) { s.Spec.InternalTrafficPolicy = &local }, nil, "TCP 10.0.0.1:80 →"},
		{
			"node port and external address",
			func(s *corev1.Service) {
				s.Spec.Type, s.Spec.Ports[0].NodePort, s.Spec.ExternalIPs = corev1.ServiceTypeNodePort, 30000, []string{"1.2.3.4", "fd00::1"}
			},
			two, "TCP 0.0.0.0:30000 → 1 2\nTCP 1.2.3.4:80 → 1 2\nTCP 10.0.0.1:80 → 1 2",
		},
		{
			"balancer with local endpoints and sources",
			func(s *corev1.Service) {
				s.Spec.Type, s.Spec.Ports[0].NodePort, s.Spec.ExternalTrafficPolicy = corev1.ServiceTypeLoadBalancer, 30000, corev1.ServiceExternalTrafficPolicyLocal
				s.Spec.LoadBalancerSourceRanges = []string{" 9.9.9.0/24"}
				s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "5.5.5.5"}, {IP: "6.6.6.6", IPMode: &proxied}, {Hostname: "h"}}
			},
			two, "TCP 0.0.0.0:30000 → 1 2 local: 1\nTCP 10.0.0.1:80 → 1 2\nTCP 5.5.5.5:80 → 1 2 local: 1 [9.9.9.0/24]",
		},
		{
			"sources of the other family let nobody in",
			func(s *corev1.Service) {
				s.Spec.Type, s.Spec.LoadBalancerSourceRanges = corev1.ServiceTypeLoadBalancer, []string{"fd00::/8"}
				s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "5.5.5.5"}}
			},
			two, "TCP 10.0.0.1:80 → 1 2\nTCP 5.5.5.5:80 → 1 2 [0.0.0.0/32]",
		},
		{"zone hints", nil, slicesOf(ep(1, "x", "rs", "zone:a"), ep(2, "x", "rs", "zone:b")), "TCP 10.0.0.1:80 → 1"},
		{"one without a hint", nil, slicesOf(ep(1, "x", "rs", "zone:a"), ep(2, "x", "rs")), "TCP 10.0.0.1:80 → 1 2"},
		{"no hint for us", nil, slicesOf(ep(1, "x", "rs", "zone:c"), ep(2, "x", "rs", "zone:b")), "TCP 10.0.0.1:80 → 1 2"},
		{"node hints go first", nil, slicesOf(ep(1, "x", "rs", "zone:a", "there"), ep(2, "x", "rs", "zone:b", "here")), "TCP 10.0.0.1:80 → 2"},
		{
			"two families",
			func(s *corev1.Service) {
				s.Spec.ClusterIPs, s.Spec.IPFamilies = []string{"10.0.0.1", "fd00::1"}, []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}
			},
			two, "TCP 10.0.0.1:80 → 1 2\nTCP [fd00::1]:80 →",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newState(node{name: "here", zone: "a"})
			n := name{"ns", "web"}
			s.setService(n, service(c.edit))
			if c.slice != nil {
				s.setSlice(n, "web-1", c.slice)
			}
			got := change{}
			s.refresh(n, got)
			if show(got) != c.want {
				t.Errorf("got:\n%s\nwant:\n%s", show(got), c.want)
			}
			again := change{}
			s.refresh(n, again)
			for k, f := range again {
				if got[k] != f {
					t.Errorf("%v changed without a change", k)
				}
			}
			s.setService(n, nil)
			gone := change{}
			s.refresh(n, gone)
			if len(gone) != len(got) || len(s.claims)+len(s.owners) != 0 {
				t.Errorf("of %d keys %d went; %v %v are left", len(got), len(gone), s.claims, s.owners)
			}
		})
	}
}

// TestContested: two services name one external address; the older has it, until it goes.
func TestContested(t *testing.T) {
	s := newState(node{name: "here"})
	old, young := name{"ns", "old"}, name{"a", "young"}
	for i, n := range []name{young, old} {
		s.setService(n, service(func(svc *corev1.Service) {
			svc.Namespace, svc.Name = n.namespace, n.name
			svc.CreationTimestamp = metav1.NewTime(time.Unix(int64(100-i), 0))
			svc.Spec.ClusterIPs, svc.Spec.ExternalIPs = nil, []string{"1.1.1.1"}
		}))
		s.refresh(n, change{})
	}
	k := key(corev1.ProtocolTCP, "1.1.1.1:80")
	if got := s.all()[k].Service; got != old.String() {
		t.Errorf("%s has it", got)
	}
	s.setService(old, nil)
	changed := change{}
	s.refresh(old, changed)
	if f := changed[k]; f == nil || f.Service != young.String() {
		t.Errorf("then: %+v", f)
	}
}

func TestHealthChecks(t *testing.T) {
	s := newState(node{name: "here"})
	n := name{"ns", "web"}
	s.setService(n, service(func(svc *corev1.Service) {
		svc.Spec.Type, svc.Spec.HealthCheckNodePort = corev1.ServiceTypeLoadBalancer, 31000
	}))
	s.setSlice(n, "web-1", slicesOf(ep(1, "here", "rs"), ep(2, "there", "rs"), ep(3, "here", "-")))
	if got := s.healthChecks(); len(got) != 1 || got[31000].local != 1 {
		t.Errorf("%v", got)
	}
	for _, svc := range []*corev1.Service{service(nil), nil} {
		if s.setService(n, svc); len(s.healthChecks()) != 0 {
			t.Errorf("%v", s.healthChecks())
		}
	}
}

func labelled(es *discoveryv1.EndpointSlice, label string) *discoveryv1.EndpointSlice {
	es = es.DeepCopy()
	metav1.SetMetaDataLabel(&es.ObjectMeta, label, "")
	return es
}
