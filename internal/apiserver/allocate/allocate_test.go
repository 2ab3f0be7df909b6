package allocate

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"
)

func pool(t testing.TB, cidrs ...string) *Pool {
	var prefixes []netip.Prefix
	for _, c := range cidrs {
		prefixes = append(prefixes, netip.MustParsePrefix(c))
	}
	p, err := New(prefixes, PortRange{First: 30000, Last: 32767})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func service(name string, spec corev1.ServiceSpec) *corev1.Service {
	if spec.Type == "" {
		spec.Type = corev1.ServiceTypeClusterIP
	}
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "n"}, Spec: spec}
}

func ports(nodePorts ...int32) []corev1.ServicePort {
	var out []corev1.ServicePort
	for i, n := range nodePorts {
		out = append(out, corev1.ServicePort{Port: int32(80 + i), Protocol: corev1.ProtocolTCP, NodePort: n})
	}
	return out
}

func TestNew(t *testing.T) {
	for _, cidrs := range [][]string{{}, {"10.0.0.0/16", "10.1.0.0/16"}, {"10.0.0.0/31"}} {
		var prefixes []netip.Prefix
		for _, c := range cidrs {
			prefixes = append(prefixes, netip.MustParsePrefix(c))
		}
		if _, err := New(prefixes, PortRange{First: 30000, Last: 32767}); err == nil {
			t.Errorf("%v: no error", cidrs)
		}
	}
	if _, err := New([]netip.Prefix{netip.MustParsePrefix("10.0.0.0/16")}, PortRange{First: 5, Last: 4}); err == nil {
		t.Error("a backward range of ports: no error")
	}
}

func TestCompleteAndAssign(t *testing.T) {
	prefer, single, require := corev1.IPFamilyPolicyPreferDualStack, corev1.IPFamilyPolicySingleStack, corev1.IPFamilyPolicyRequireDualStack
	for _, c := range []struct {
		name  string
		dual  bool
		spec  corev1.ServiceSpec
		err   string
		check func(*corev1.Service) bool
	}{
		{name: "plain", check: func(s *corev1.Service) bool {
			return len(s.Spec.ClusterIPs) == 1 && s.Spec.ClusterIP == s.Spec.ClusterIPs[0] && *s.Spec.IPFamilyPolicy == single
		}},
		{name: "given", spec: corev1.ServiceSpec{ClusterIP: "10.96.3.4"}, check: func(s *corev1.Service) bool { return s.Spec.ClusterIP == "10.96.3.4" }},
		{name: "taken", spec: corev1.ServiceSpec{ClusterIP: "10.96.9.9"}, err: `spec.clusterIPs: Invalid value: ["10.96.9.9"]: failed to allocate IP 10.96.9.9: provided IP is already allocated`},
		{name: "outside", spec: corev1.ServiceSpec{ClusterIP: "1.2.3.4"}, err: `spec.clusterIPs: Invalid value: ["1.2.3.4"]: failed to allocate IP 1.2.3.4: the provided network does not match the current range`},
		{name: "other family", spec: corev1.ServiceSpec{ClusterIP: "fd00::1"}, err: `spec.clusterIPs[0]: Invalid value: ["fd00::1"]: IPv6 is not configured on this cluster`},
		{name: "dual on single", spec: corev1.ServiceSpec{IPFamilyPolicy: &require}, err: `spec.ipFamilyPolicy: Invalid value: "RequireDualStack": this cluster is not configured for dual-stack services`},
		{name: "two families", spec: corev1.ServiceSpec{IPFamilies: []corev1.IPFamily{"IPv4", "IPv6"}}, err: `spec.ipFamilyPolicy: Invalid value: "SingleStack": must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified`},
		{name: "prefer on single", spec: corev1.ServiceSpec{IPFamilyPolicy: &prefer}, check: func(s *corev1.Service) bool { return len(s.Spec.ClusterIPs) == 1 && len(s.Spec.IPFamilies) == 1 }},
		{name: "prefer on dual", dual: true, spec: corev1.ServiceSpec{IPFamilyPolicy: &prefer}, check: func(s *corev1.Service) bool {
			return len(s.Spec.ClusterIPs) == 2 && netip.MustParseAddr(s.Spec.ClusterIPs[1]).Is6()
		}},
		{name: "headless", spec: corev1.ServiceSpec{ClusterIP: "None", Selector: map[string]string{"a": "b"}}, check: func(s *corev1.Service) bool {
			return s.Spec.ClusterIPs[0] == "None" && len(s.Spec.IPFamilies) == 1
		}},
		{name: "headless without selector", spec: corev1.ServiceSpec{ClusterIP: "None"}, check: func(s *corev1.Service) bool {
			return len(s.Spec.IPFamilies) == 2 && *s.Spec.IPFamilyPolicy == require
		}},
		{name: "external", spec: corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "x.y"}, check: func(s *corev1.Service) bool {
			return s.Spec.ClusterIP == "" && s.Spec.IPFamilies == nil
		}},
		{name: "node port", spec: corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: ports(0, 0)}, check: func(s *corev1.Service) bool {
			a, b := s.Spec.Ports[0].NodePort, s.Spec.Ports[1].NodePort
			return a >= 30000 && b >= 30000 && a != b
		}},
		{name: "two protocols of one port", spec: corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: []corev1.ServicePort{{Port: 53, Protocol: "TCP"}, {Port: 53, Protocol: "UDP"}}}, check: func(s *corev1.Service) bool {
			return s.Spec.Ports[0].NodePort == s.Spec.Ports[1].NodePort
		}},
		{name: "node port taken", spec: corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: ports(31000)}, err: `spec.ports[0].nodePort: Invalid value: 31000: provided port is already allocated`},
		{name: "node port twice", spec: corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: ports(31001, 31001)}, err: `spec.ports[1].nodePort: Invalid value: 31001: provided port is already allocated`},
		{name: "node port outside", spec: corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: ports(80)}, err: `spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. The range of valid ports is 30000-32767`},
		{name: "health port", spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, ExternalTrafficPolicy: corev1.ServiceExternalTrafficPolicyLocal, Ports: ports(0)}, check: func(s *corev1.Service) bool {
			return s.Spec.HealthCheckNodePort != 0 && s.Spec.Ports[0].NodePort != s.Spec.HealthCheckNodePort
		}},
		{name: "balancer without node ports", spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, AllocateLoadBalancerNodePorts: new(false), Ports: ports(0)}, check: func(s *corev1.Service) bool {
			return s.Spec.Ports[0].NodePort == 0
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := pool(t, "10.96.0.0/16")
			if c.dual {
				p = pool(t, "10.96.0.0/16", "fd00::/108")
			}
			p.Take(service("other", corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, ClusterIPs: []string{"10.96.9.9"}, Ports: ports(31000)}))
			s := service("s", c.spec)
			errs := p.Complete(s, nil)
			if len(errs) == 0 {
				errs = p.Assign(s, nil)
			}
			switch {
			case c.err == "" && len(errs) > 0:
				t.Fatal(errs)
			case c.err != "" && (len(errs) != 1 || errs[0].Error() != c.err):
				t.Fatalf("got  %v\nwant %s", errs, c.err)
			case c.check != nil && !c.check(s):
				t.Fatalf("wrong: %+v", s.Spec)
			}
		})
	}
}

// TestNamesElsewhere: what a client wrote as the address of a service that is a name elsewhere was never given out, so that others may have it.
func TestNamesElsewhere(t *testing.T) {
	p := pool(t, "10.96.0.0/16")
	ext := service("x", corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "x.y", ClusterIP: "10.96.0.9", HealthCheckNodePort: 31000})
	p.Take(ext)
	s := service("s", corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, ClusterIP: "10.96.0.9", Ports: ports(0)})
	errs := p.Complete(s, nil)
	if errs = append(errs, p.Assign(s, nil)...); len(errs) > 0 {
		t.Error(errs)
	}
	p.Take(s)
	p.Drop(ext)
	again := service("t", corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, ClusterIP: "10.96.0.9", Ports: ports(0)})
	p.Complete(again, nil)
	if errs := p.Assign(again, nil); len(errs) != 1 {
		t.Errorf("given out twice: %v", errs)
	}
}

func TestUpdateKeepsAndDrops(t *testing.T) {
	p := pool(t, "10.96.0.0/16")
	old := service("s", corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: ports(0)})
	p.Complete(old, nil)
	p.Assign(old, nil)
	p.Take(old)

	bare := service("s", corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: ports(0)})
	p.Complete(bare, old)
	if bare.Spec.ClusterIP != old.Spec.ClusterIP || bare.Spec.Ports[0].NodePort != old.Spec.Ports[0].NodePort || !p.Settled(bare, old) {
		t.Errorf("an update without addresses lost them: %+v", bare.Spec)
	}
	inner := old.DeepCopy()
	inner.Spec.Type = corev1.ServiceTypeClusterIP
	p.Complete(inner, old)
	if inner.Spec.Ports[0].NodePort != 0 {
		t.Error("the node port stayed")
	}
	ext := old.DeepCopy()
	ext.Spec.Type, ext.Spec.ExternalName = corev1.ServiceTypeExternalName, "x.y"
	p.Complete(ext, old)
	if ext.Spec.ClusterIP != "" || ext.Spec.IPFamilies != nil {
		t.Errorf("addresses stayed: %+v", ext.Spec)
	}
}

// The port for health checks comes with the need for it, and stays as long.
func TestHealthPort(t *testing.T) {
	p := pool(t, "10.96.0.0/16")
	old := service("s", corev1.ServiceSpec{
		Type: corev1.ServiceTypeLoadBalancer, ExternalTrafficPolicy: corev1.ServiceExternalTrafficPolicyCluster, Ports: ports(0),
	})
	p.Complete(old, nil)
	p.Assign(old, nil)
	p.Take(old)
	local := old.DeepCopy()
	local.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	p.Complete(local, old)
	if p.Settled(local, old) {
		t.Fatal("a service that needs a port for health checks has all it needs")
	}
	if errs := p.Assign(local, old); len(errs) > 0 || local.Spec.HealthCheckNodePort == 0 {
		t.Fatalf("%v: %+v", errs, local.Spec)
	}
	p.Take(local)

	bare := local.DeepCopy()
	bare.Spec.HealthCheckNodePort = 0
	p.Complete(bare, local)
	if bare.Spec.HealthCheckNodePort != local.Spec.HealthCheckNodePort || !p.Settled(bare, local) {
		t.Errorf("an update without the port lost it: %+v", bare.Spec)
	}
	other := local.DeepCopy()
	other.Spec.HealthCheckNodePort = 32000
	p.Complete(other, local)
	const want = "spec.healthCheckNodePort: Forbidden: field is immutable"
	if errs := p.Assign(other, local); p.Settled(other, local) || len(errs) != 1 || errs[0].Error() != want {
		t.Errorf("got  %v\nwant %s", errs, want)
	}
	back := local.DeepCopy()
	back.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyCluster
	p.Complete(back, local)
	if errs := p.Assign(back, local); len(errs) > 0 || back.Spec.HealthCheckNodePort != 0 {
		t.Errorf("%v: %+v", errs, back.Spec)
	}
}

// Whatever is asked, no two services share an address or a port, and full ranges are an error, not a repeat.
func TestNothingTwice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, err := New([]netip.Prefix{netip.MustParsePrefix("10.0.0.0/27")}, PortRange{First: 30000, Last: 30020})
		if err != nil {
			t.Fatal(err)
		}
		live := map[string]*corev1.Service{}
		for i := range rapid.IntRange(1, 80).Draw(t, "steps") {
			if len(live) > 0 && rapid.Bool().Draw(t, "delete") {
				for k := range live {
					delete(live, k)
					break
				}
			}
			s := service(fmt.Sprint("s", i), corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: ports(0)})
			p.Reset()
			for _, o := range live {
				p.Take(o)
			}
			if errs := append(p.Complete(s, nil), p.Assign(s, nil)...); len(errs) > 0 {
				if len(live) < 20 {
					t.Fatalf("refused with %d services: %v", len(live), errs)
				}
				continue
			}
			for _, o := range live {
				if o.Spec.ClusterIP == s.Spec.ClusterIP || o.Spec.Ports[0].NodePort == s.Spec.Ports[0].NodePort {
					t.Fatalf("%v and %v share", o.Spec, s.Spec)
				}
			}
			if a := netip.MustParseAddr(s.Spec.ClusterIP); a == p.First() || !p.ranges[0].prefix.Contains(a) {
				t.Fatalf("address %s", a)
			}
			live[s.Name] = s
		}
	})
}

// TestFamiliesOfUpdates: a service changes the number of its families only when its policy says so.
func TestFamiliesOfUpdates(t *testing.T) {
	v4, v6 := corev1.IPv4Protocol, corev1.IPv6Protocol
	single, prefer, require := corev1.IPFamilyPolicySingleStack, corev1.IPFamilyPolicyPreferDualStack, corev1.IPFamilyPolicyRequireDualStack
	none := []string{corev1.ClusterIPNone}
	for _, c := range []struct {
		name     string
		old, now corev1.ServiceSpec
		families []corev1.IPFamily
		told     string
	}{
		{"a policy left out stays",
			corev1.ServiceSpec{ClusterIP: "None", ClusterIPs: none, IPFamilies: []corev1.IPFamily{v4}, IPFamilyPolicy: &single},
			corev1.ServiceSpec{ClusterIP: "None", ClusterIPs: none}, []corev1.IPFamily{v4}, ""},
		{"a family left out",
			corev1.ServiceSpec{ClusterIP: "None", ClusterIPs: none, IPFamilies: []corev1.IPFamily{v4, v6}, IPFamilyPolicy: &require},
			corev1.ServiceSpec{ClusterIP: "None", ClusterIPs: none, IPFamilies: []corev1.IPFamily{v6}, IPFamilyPolicy: &require}, []corev1.IPFamily{v6},
			`spec.ipFamilyPolicy: Invalid value: "RequireDualStack": must be 'SingleStack' to release the secondary IP family`},
		{"a preference is no change",
			corev1.ServiceSpec{ClusterIP: "10.0.0.1", ClusterIPs: []string{"10.0.0.1"}, IPFamilies: []corev1.IPFamily{v4}, IPFamilyPolicy: &prefer},
			corev1.ServiceSpec{ClusterIP: "10.0.0.1", ClusterIPs: []string{"10.0.0.1"}, IPFamilies: []corev1.IPFamily{v4}, IPFamilyPolicy: &prefer}, []corev1.IPFamily{v4}, ""},
		{"the secondary family goes",
			corev1.ServiceSpec{ClusterIP: "10.0.0.1", ClusterIPs: []string{"10.0.0.1", "fd00::1"}, IPFamilies: []corev1.IPFamily{v4, v6}, IPFamilyPolicy: &require},
			corev1.ServiceSpec{ClusterIP: "10.0.0.1", ClusterIPs: []string{"10.0.0.1", "fd00::1"}, IPFamilies: []corev1.IPFamily{v4, v6}, IPFamilyPolicy: &single}, []corev1.IPFamily{v4}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := pool(t, "10.0.0.0/16", "fd00::/112")
			c.old.Type, c.now.Type = corev1.ServiceTypeClusterIP, corev1.ServiceTypeClusterIP
			old, now := service("s", c.old), service("s", c.now)
			told := ""
			for _, err := range p.Complete(now, old) {
				told += err.Error()
			}
			if told != c.told || !slices.Equal(now.Spec.IPFamilies, c.families) {
				t.Errorf("got %v, %s", now.Spec.IPFamilies, told)
			}
		})
	}
}
