package loadbalancer

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/retry"
	"pgregory.net/rapid"

	"github.com/celox/celox/internal/controller/controllertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// balanced is a service whose ports are "number" or "number/protocol"; age orders services.
func balanced(name string, age int, ports ...string) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, CreationTimestamp: metav1.Unix(int64(1000-age), 0)},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}},
	}
	for _, p := range ports {
		port := corev1.ServicePort{Name: "p" + strings.ToLower(strings.ReplaceAll(p, "/", "-")), Protocol: corev1.ProtocolTCP}
		number, protocol, ok := strings.Cut(p, "/")
		if ok {
			port.Protocol = corev1.Protocol(protocol)
		}
		if _, err := fmt.Sscan(number, &port.Port); err != nil {
			panic(err)
		}
		s.Spec.Ports = append(s.Spec.Ports, port)
	}
	return s
}

func wantsAll(s *corev1.Service) bool { return s.Spec.Type == corev1.ServiceTypeLoadBalancer }

func TestWhoHasAPort(t *testing.T) {
	reserved := map[Port]string{{corev1.ProtocolTCP, 6443}: "the API"}
	nodePort := balanced("node", 5)
	nodePort.Spec.Type, nodePort.Spec.Ports = corev1.ServiceTypeNodePort, []corev1.ServicePort{{Port: 1, NodePort: 30080, Protocol: corev1.ProtocolTCP}}
	own := balanced("own", 1, "30090")
	own.Spec.Ports[0].NodePort = 30090
	six := balanced("six", 1, "80")
	six.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv6Protocol}
	for _, tc := range []struct {
		name   string
		svc    *corev1.Service
		others []*corev1.Service
		want   string
	}{
		{name: "alone", svc: balanced("a", 1, "80")},
		{name: "the older has it", svc: balanced("a", 1, "80"), others: []*corev1.Service{balanced("b", 2, "81", "80")}, want: "port 80/TCP of the nodes is that of service default/b"},
		{name: "the younger has not", svc: balanced("a", 2, "80"), others: []*corev1.Service{balanced("b", 1, "80")}},
		{name: "equally old", svc: balanced("b", 1, "80"), others: []*corev1.Service{balanced("a", 1, "80")}, want: "port 80/TCP of the nodes is that of service default/a"},
		{name: "another protocol", svc: balanced("a", 1, "80/UDP"), others: []*corev1.Service{balanced("b", 2, "80")}},
		{name: "another family", svc: six, others: []*corev1.Service{balanced("b", 2, "80")}},
		{name: "the nodes' own", svc: balanced("a", 1, "80", "6443"), want: "port 6443/TCP of the nodes is the nodes' own (the API)"},
		{name: "the nodes' own number of another protocol", svc: balanced("a", 1, "6443/UDP")},
		{
			name: "who gets none keeps none", svc: balanced("c", 1, "443"),
			others: []*corev1.Service{balanced("b", 2, "80", "443"), balanced("a", 3, "80")},
		},
		{name: "an older node port", svc: balanced("a", 1, "30080"), others: []*corev1.Service{nodePort}, want: "port 30080/TCP of the nodes is that of service default/node"},
		{name: "a younger node port", svc: balanced("a", 9, "30080"), others: []*corev1.Service{nodePort}},
		{name: "the service's own node port", svc: own},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := ""
			if r := refuse(tc.svc, tc.others, wantsAll, reserved); r != nil {
				got = r.String()
			}
			if got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

// TestPortsHaveOneOwner: no two services that are not refused want the same port, and one is refused only for a port that another has.
func TestPortsHaveOneOwner(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var all []*corev1.Service
		for i := range rapid.IntRange(1, 8).Draw(t, "services") {
			ports := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"1", "2", "3", "4", "1/UDP"}), 1, 3, rapid.ID).Draw(t, "ports")
			all = append(all, balanced(fmt.Sprint("s", i), rapid.IntRange(0, 3).Draw(t, "age"), ports...))
		}
		has := map[claim]string{}
		var refused []*corev1.Service
		for i, s := range all {
			others := slices.Delete(slices.Clone(all), i, i+1)
			if refuse(s, others, wantsAll, nil) != nil {
				refused = append(refused, s)
				continue
			}
			for _, c := range claims(s) {
				if has[c] != "" {
					t.Fatalf("%s and %s have %v", has[c], s.Name, c)
				}
				has[c] = s.Name
			}
		}
		for _, s := range refused {
			if !slices.ContainsFunc(claims(s), func(c claim) bool { return has[c] != "" }) {
				t.Fatalf("%s is refused, and nobody has its ports", s.Name)
			}
		}
	})
}

// node is one with "type=address" addresses.
func node(name string, ready bool, addresses ...string) *corev1.Node {
	status := corev1.ConditionFalse
	if ready {
		status = corev1.ConditionTrue
	}
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: status}}}}
	for _, a := range addresses {
		kind, ip, ok := strings.Cut(a, "=")
		if !ok {
			kind, ip = string(corev1.NodeInternalIP), a
		}
		n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeAddressType(kind), Address: ip})
	}
	return n
}

// endpoints are "node", "node!" for one that is not ready, or "node~" for one that serves while it ends.
func endpoints(family discoveryv1.AddressType, list ...string) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{AddressType: family}
	for _, e := range list {
		n := strings.TrimRight(e, "!~")
		ready, ends := n == e, strings.HasSuffix(e, "~")
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{NodeName: &n, Conditions: discoveryv1.EndpointConditions{Ready: &ready, Serving: new(ready || ends), Terminating: &ends}})
	}
	return s
}

func ips(in []corev1.LoadBalancerIngress) string {
	var out []string
	for _, i := range in {
		out = append(out, i.IP)
	}
	return strings.Join(out, " ")
}

func TestAddresses(t *testing.T) {
	plain := func(*corev1.Service) {}
	local := func(s *corev1.Service) { s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal }
	families := func(f ...corev1.IPFamily) func(*corev1.Service) {
		return func(s *corev1.Service) { s.Spec.IPFamilies = f }
	}
	has := func(list ...string) func(*corev1.Service) {
		return func(s *corev1.Service) {
			for _, ip := range list {
				s.Status.LoadBalancer.Ingress = append(s.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: ip})
			}
		}
	}
	excluded, tainted := node("excluded", true, "10.0.0.8"), node("tainted", true, "10.0.0.9")
	excluded.Labels = map[string]string{corev1.LabelNodeExcludeBalancers: ""}
	tainted.Spec.Taints = []corev1.Taint{{Key: toBeDeleted}}
	a, b := node("a", true, "10.0.0.2", "fd00::2"), node("b", true, "10.0.0.1", "ExternalIP=192.0.2.1", "fd00::1", "Hostname=b")
	four, six := discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6
	for _, tc := range []struct {
		name   string
		edit   func(*corev1.Service)
		nodes  []*corev1.Node
		slices []*discoveryv1.EndpointSlice
		want   string
	}{
		{name: "no nodes", edit: plain},
		{name: "those that are ready", edit: plain, nodes: []*corev1.Node{a, b, node("away", false, "10.0.0.3"), excluded, tainted}, want: "10.0.0.2 192.0.2.1"},
		{name: "both families", edit: families(corev1.IPv6Protocol, corev1.IPv4Protocol), nodes: []*corev1.Node{a, b}, want: "fd00::1 fd00::2 10.0.0.2 192.0.2.1"},
		{name: "local", edit: local, nodes: []*corev1.Node{a, b}, slices: []*discoveryv1.EndpointSlice{endpoints(four, "b!"), endpoints(four, "a", "b!"), endpoints(six, "b")}, want: "10.0.0.2"},
		{name: "local, which ends", edit: local, nodes: []*corev1.Node{a, b}, slices: []*discoveryv1.EndpointSlice{endpoints(four, "a!", "b~")}, want: "192.0.2.1"},
		{name: "local, nowhere", edit: local, nodes: []*corev1.Node{a, b}},
		{name: "nobody is ready", edit: has("10.0.0.3", "10.0.0.8", "10.0.0.77"), nodes: []*corev1.Node{node("away", false, "10.0.0.3", "10.0.0.4"), excluded}, want: "10.0.0.3"},
		{name: "nobody is ready, and nothing is there", edit: plain, nodes: []*corev1.Node{node("away", false, "10.0.0.3")}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			svc := balanced("s", 1, "80")
			tc.edit(svc)
			if got := ips(ingress(svc, tc.nodes, tc.slices)); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
	var crowd []*corev1.Node
	for i := range maxAddresses + 5 {
		crowd = append(crowd, node(fmt.Sprint(i), true, fmt.Sprintf("10.1.%d.%d", i/250, i%250)))
	}
	if got := ingress(balanced("s", 1, "80"), crowd, nil); len(got) != maxAddresses {
		t.Errorf("%d addresses", len(got))
	}
}

type env struct {
	*controllertest.Env
	t *testing.T
}

// start runs a controller until the test ends.
func (e *env) start(release bool) <-chan string {
	e.t.Helper()
	recorder := record.NewFakeRecorder(1000)
	c, err := New(Config{
		Client: e.Client, Informers: e.Informers, Recorder: recorder, Release: release, Log: slog.New(slog.DiscardHandler),
		Reserved: map[Port]string{{corev1.ProtocolTCP, 6443}: "the API"},
	})
	if err != nil {
		e.t.Fatal(err)
	}
	e.Run(e.t, c)
	return recorder.Events
}

func (e *env) must(err error) {
	e.t.Helper()
	if err != nil {
		e.t.Fatal(err)
	}
}

func (e *env) create(s *corev1.Service) {
	e.t.Helper()
	s.CreationTimestamp = metav1.Time{}
	_, err := e.Client.CoreV1().Services("default").Create(e.t.Context(), s, metav1.CreateOptions{})
	e.must(err)
}

func (e *env) edit(name string, edit func(*corev1.Service)) {
	e.t.Helper()
	e.must(retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		s, err := e.Client.CoreV1().Services("default").Get(e.t.Context(), name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		edit(s)
		_, err = e.Client.CoreV1().Services("default").Update(e.t.Context(), s, metav1.UpdateOptions{})
		return err
	}))
}

// becomes waits until a service has addresses, its finalizer (if it is marked) and what is said of its ports.
func (e *env) becomes(name, want string, marked bool, problem string) {
	e.t.Helper()
	controllertest.Eventually(e.t, func() error {
		s, err := e.Client.CoreV1().Services("default").Get(e.t.Context(), name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		said := ""
		if c := meta.FindStatusCondition(s.Status.Conditions, corev1.LoadBalancerPortsError); c != nil {
			said = c.Message
		}
		if got := ips(s.Status.LoadBalancer.Ingress); got != want || said != problem || marked != slices.Contains(s.Finalizers, finalizer) || marked != (s.Annotations[Annotation] != "") {
			return fmt.Errorf("%s has %q (%s), %v, %v; want %q (%s), %v", name, got, said, s.Finalizers, s.Annotations, want, problem, marked)
		}
		return nil
	})
}

func (e *env) gone(name string) {
	e.t.Helper()
	controllertest.Eventually(e.t, func() error {
		s, err := e.Client.CoreV1().Services("default").Get(e.t.Context(), name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("%v, %v", s, err)
	})
}

// said waits for events in their order; others may be between them.
func said(t *testing.T, events <-chan string, want ...string) {
	t.Helper()
	late := time.After(controllertest.Patience)
	for _, w := range want {
		for got := ""; !strings.Contains(got, w); {
			select {
			case got = <-events:
			case <-late:
				t.Fatalf("nobody says %q", w)
			}
		}
	}
}

func TestLifeOfALoadBalancer(t *testing.T) {
	e := &env{controllertest.Start(t), t}
	ctx := t.Context()
	for _, n := range []*corev1.Node{node("a", true, "10.0.0.1"), node("b", true, "10.0.0.2")} {
		_, err := e.Client.CoreV1().Nodes().Create(ctx, n, metav1.CreateOptions{})
		e.must(err)
	}
	events := e.start(false)
	one := balanced("one", 0, "80", "443")
	one.Spec.LoadBalancerIP = "192.0.2.9"
	e.create(one)
	e.becomes("one", "10.0.0.1 10.0.0.2", true, "")
	said(t, events, "Normal EnsuringLoadBalancer Ensuring load balancer", "Normal EnsuredLoadBalancer Ensured load balancer", "Warning LoadBalancerIPIgnored")

	// Another's class, and its ports, are nobody's here.
	other := balanced("other", 0, "80")
	other.Spec.LoadBalancerClass = new("example.com/other")
	e.create(other)
	mine := balanced("mine", 0, "81")
	mine.Spec.LoadBalancerClass = new(Class)
	e.create(mine)
	e.becomes("mine", "10.0.0.1 10.0.0.2", true, "")
	e.becomes("other", "", false, "")

	// A younger one (or, within a second, the next by name) waits for a port, and has it when it is free.
	e.create(balanced("two", 0, "443", "444"))
	e.becomes("two", "", true, "port 443/TCP of the nodes is that of service default/one")
	said(t, events, "Warning SyncLoadBalancerFailed Error syncing load balancer: port 443/TCP of the nodes is that of service default/one")
	e.edit("one", func(s *corev1.Service) { s.Spec.Ports = s.Spec.Ports[:1] })
	e.becomes("two", "10.0.0.1 10.0.0.2", true, "")
	e.create(balanced("own", 0, "6443"))
	e.becomes("own", "", true, "port 6443/TCP of the nodes is the nodes' own (the API)")
	e.edit("own", func(s *corev1.Service) { s.Spec.Ports[0].Port = 6444 })
	e.becomes("own", "10.0.0.1 10.0.0.2", true, "")

	// Nodes come and go.
	n, err := e.Client.CoreV1().Nodes().Create(ctx, node("c", true, "10.0.0.3"), metav1.CreateOptions{})
	e.must(err)
	e.becomes("one", "10.0.0.1 10.0.0.2 10.0.0.3", true, "")
	said(t, events, "Normal UpdatedLoadBalancer Updated load balancer with new hosts")
	n.Status.Conditions[0].Status = corev1.ConditionFalse
	n, err = e.Client.CoreV1().Nodes().UpdateStatus(ctx, n, metav1.UpdateOptions{})
	e.must(err)
	e.becomes("one", "10.0.0.1 10.0.0.2", true, "")
	n.Labels = map[string]string{corev1.LabelNodeExcludeBalancers: "true"}
	n.Status.Conditions[0].Status = corev1.ConditionTrue
	_, err = e.Client.CoreV1().Nodes().Update(ctx, n, metav1.UpdateOptions{})
	e.must(err)
	e.must(e.Client.CoreV1().Nodes().Delete(ctx, "b", metav1.DeleteOptions{}))
	e.becomes("one", "10.0.0.1", true, "")

	// With local traffic only, nodes follow the endpoints.
	e.edit("one", func(s *corev1.Service) { s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal })
	e.becomes("one", "", true, "")
	slice := endpoints(discoveryv1.AddressTypeIPv4, "a")
	slice.Name, slice.Labels, slice.Endpoints[0].Addresses = "one-1", map[string]string{discoveryv1.LabelServiceName: "one"}, []string{"10.42.0.1"}
	_, err = e.Client.DiscoveryV1().EndpointSlices("default").Create(ctx, slice, metav1.CreateOptions{})
	e.must(err)
	e.becomes("one", "10.0.0.1", true, "")

	// One that changes its type has nothing of it left; one that is deleted goes, and its ports are free.
	e.edit("two", func(s *corev1.Service) {
		s.Spec.Type, s.Spec.AllocateLoadBalancerNodePorts, s.Spec.ExternalTrafficPolicy = corev1.ServiceTypeClusterIP, nil, ""
		for i := range s.Spec.Ports {
			s.Spec.Ports[i].NodePort = 0
		}
	})
	e.becomes("two", "", false, "")
	said(t, events, "Normal DeletingLoadBalancer Deleting load balancer", "Normal DeletedLoadBalancer Deleted load balancer")
	e.create(balanced("waits", 0, "80"))
	e.becomes("waits", "", true, "port 80/TCP of the nodes is that of service default/one")
	e.must(e.Client.CoreV1().Services("default").Delete(ctx, "one", metav1.DeleteOptions{}))
	e.gone("one")
	e.becomes("waits", "10.0.0.1", true, "")
}

// TestRelease: who takes our place finds nothing of it, and what is others' as it was.
func TestRelease(t *testing.T) {
	e := &env{controllertest.Start(t), t}
	for _, s := range []*corev1.Service{balanced("ours", 0, "80"), balanced("theirs", 0, "80")} {
		s.Finalizers = []string{finalizer}
		if s.Name == "ours" {
			s.Annotations = map[string]string{Annotation: Class}
		}
		e.create(s)
		e.must(retry.RetryOnConflict(retry.DefaultBackoff, func() error {
			got, err := e.Client.CoreV1().Services("default").Get(t.Context(), s.Name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			got.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "10.0.0.1"}}
			_, err = e.Client.CoreV1().Services("default").UpdateStatus(t.Context(), got, metav1.UpdateOptions{})
			return err
		}))
	}
	e.start(true)
	e.becomes("ours", "", false, "")
	theirs, err := e.Client.CoreV1().Services("default").Get(t.Context(), "theirs", metav1.GetOptions{})
	e.must(err)
	if !slices.Contains(theirs.Finalizers, finalizer) || len(theirs.Status.LoadBalancer.Ingress) != 1 {
		t.Errorf("another's is %v, %v", theirs.Finalizers, theirs.Status)
	}
}
