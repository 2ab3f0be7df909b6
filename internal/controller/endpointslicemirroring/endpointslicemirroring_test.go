package endpointslicemirroring

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/retry"
	"k8s.io/utils/clock"

	"github.com/celox/celox/internal/controller/controllertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func addresses(ips ...string) []corev1.EndpointAddress {
	var out []corev1.EndpointAddress
	for _, ip := range ips {
		out = append(out, corev1.EndpointAddress{IP: ip})
	}
	return out
}

func ports(numbers ...int32) []corev1.EndpointPort {
	var out []corev1.EndpointPort
	for _, n := range numbers {
		out = append(out, corev1.EndpointPort{Name: fmt.Sprint("p", n), Port: n, Protocol: corev1.ProtocolTCP})
	}
	return out
}

func many(n int) []corev1.EndpointAddress {
	var out []corev1.EndpointAddress
	for i := range n {
		out = append(out, corev1.EndpointAddress{IP: fmt.Sprintf("10.1.%d.%d", i/250, i%250+1)})
	}
	return out
}

// show is slices as text: family, ports, addresses with ! behind those that are not ready.
func show(m mirrored) []string {
	var out []string
	for at, c := range m.slices {
		out = append(out, shown(at.family, c.ports, c.endpoints))
	}
	slices.Sort(out)
	return out
}

func shown(family discoveryv1.AddressType, ports []discoveryv1.EndpointPort, endpoints []discoveryv1.Endpoint) string {
	var b strings.Builder
	fmt.Fprint(&b, family)
	for _, p := range ports {
		fmt.Fprintf(&b, " %s/%d", *p.Name, *p.Port)
	}
	b.WriteString(":")
	if len(endpoints) > 9 {
		fmt.Fprintf(&b, " %d endpoints", len(endpoints))
		return b.String()
	}
	for _, e := range endpoints {
		fmt.Fprintf(&b, " %s", e.Addresses[0])
		if !*e.Conditions.Ready {
			b.WriteString("!")
		}
		if e.Hostname != nil {
			fmt.Fprintf(&b, "=%s", *e.Hostname)
		}
		if e.NodeName != nil {
			fmt.Fprintf(&b, "@%s", *e.NodeName)
		}
		if e.TargetRef != nil {
			fmt.Fprintf(&b, "(%s)", e.TargetRef.Name)
		}
	}
	return b.String()
}

func TestMirror(t *testing.T) {
	node := "n1"
	for _, tc := range []struct {
		name             string
		subsets          []corev1.EndpointSubset
		want             []string
		invalid, skipped int
	}{
		{name: "nothing"},
		{
			name:    "one",
			subsets: []corev1.EndpointSubset{{Addresses: addresses("10.0.0.1", "10.0.0.2"), NotReadyAddresses: addresses("10.0.0.3"), Ports: ports(80)}},
			want:    []string{"IPv4 p80/80: 10.0.0.1 10.0.0.2 10.0.0.3!"},
		},
		{
			name: "all of an address",
			subsets: []corev1.EndpointSubset{{Addresses: []corev1.EndpointAddress{{
				IP: "10.0.0.1", Hostname: "a", NodeName: &node, TargetRef: &corev1.ObjectReference{Kind: "Pod", Name: "pod"},
			}}, Ports: ports(80)}},
			want: []string{"IPv4 p80/80: 10.0.0.1=a@n1(pod)"},
		},
		{
			name:    "both families",
			subsets: []corev1.EndpointSubset{{Addresses: addresses("10.0.0.1", "fd00::1"), NotReadyAddresses: addresses("fd00::2"), Ports: ports(80, 81)}},
			want:    []string{"IPv4 p80/80 p81/81: 10.0.0.1", "IPv6 p80/80 p81/81: fd00::1 fd00::2!"},
		},
		{
			name: "subsets of equal and of other ports",
			subsets: []corev1.EndpointSubset{
				{Addresses: addresses("10.0.0.1"), Ports: ports(80, 81)}, {Addresses: addresses("10.0.0.2"), NotReadyAddresses: addresses("10.0.0.1"), Ports: ports(81, 80)},
				{Addresses: addresses("10.0.0.1"), Ports: ports(82)},
			},
			want: []string{"IPv4 p80/80 p81/81: 10.0.0.2 10.0.0.1!", "IPv4 p82/82: 10.0.0.1"},
		},
		{
			name: "ports that lead to the same endpoints",
			subsets: []corev1.EndpointSubset{
				{Addresses: addresses("10.0.0.1", "10.0.0.2"), Ports: ports(80)}, {Addresses: addresses("10.0.0.2", "10.0.0.1"), Ports: ports(81)},
				{Addresses: addresses("10.0.0.1"), NotReadyAddresses: addresses("10.0.0.2"), Ports: ports(82)},
			},
			want: []string{"IPv4 p80/80 p81/81: 10.0.0.1 10.0.0.2", "IPv4 p82/82: 10.0.0.1 10.0.0.2!"},
		},
		{
			name: "an endpoint is what was first said of it",
			subsets: []corev1.EndpointSubset{
				{Addresses: []corev1.EndpointAddress{{IP: "10.0.0.1", Hostname: "a", NodeName: &node}}, Ports: ports(80)},
				{Addresses: []corev1.EndpointAddress{{IP: "10.0.0.1"}, {IP: "10.0.0.2"}}, Ports: ports(81)},
			},
			want: []string{"IPv4 p80/80: 10.0.0.1=a@n1", "IPv4 p81/81: 10.0.0.1=a@n1 10.0.0.2"},
		},
		{
			name: "two behind the same address and port",
			subsets: []corev1.EndpointSubset{{Addresses: []corev1.EndpointAddress{
				{IP: "10.0.0.1", TargetRef: &corev1.ObjectReference{Kind: "Pod", Name: "a", UID: "a"}}, {IP: "10.0.0.1", TargetRef: &corev1.ObjectReference{Kind: "Pod", Name: "b", UID: "b"}},
			}, Ports: ports(80)}},
			want: []string{"IPv4 p80/80: 10.0.0.1(a) 10.0.0.1(b)"},
		},
		{
			name: "others behind the same address",
			subsets: []corev1.EndpointSubset{
				{Addresses: []corev1.EndpointAddress{{IP: "10.0.0.1", Hostname: "a", TargetRef: &corev1.ObjectReference{Kind: "Pod", Name: "a", UID: "a"}}}, Ports: ports(80)},
				{Addresses: []corev1.EndpointAddress{{IP: "10.0.0.1", Hostname: "b", TargetRef: &corev1.ObjectReference{Kind: "Pod", Name: "b", UID: "b"}}}, Ports: ports(81)},
			},
			want: []string{"IPv4 p80/80: 10.0.0.1=a(a)", "IPv4 p81/81: 10.0.0.1=b(b)"},
		},
		{
			name:    "no ports",
			subsets: []corev1.EndpointSubset{{Addresses: addresses("10.0.0.1")}},
			want:    []string{"IPv4: 10.0.0.1"},
		},
		{
			name:    "no address, and one written in three ways",
			subsets: []corev1.EndpointSubset{{Addresses: addresses("a.b.c.d", "::ffff:10.0.0.1", "010.0.0.1", "10.0.0.1"), Ports: ports(80)}},
			want:    []string{"IPv4 p80/80: 10.0.0.1"}, invalid: 1,
		},
		{
			name:    "too many, of which those that are ready go first",
			subsets: []corev1.EndpointSubset{{Addresses: many(999), NotReadyAddresses: addresses("10.0.0.1", "10.0.0.2"), Ports: ports(80)}},
			want:    []string{"IPv4 p80/80: 1000 endpoints"}, skipped: 1,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := mirror(&corev1.Endpoints{Subsets: tc.subsets})
			if s := show(got); !slices.Equal(s, tc.want) || got.invalid != tc.invalid || got.skipped != tc.skipped {
				t.Errorf("got %q, %d invalid, %d skipped; want %q, %d, %d", s, got.invalid, got.skipped, tc.want, tc.invalid, tc.skipped)
			}
		})
	}
}

// env is an API with the controller.
type env struct {
	*controllertest.Env
	t        *testing.T
	recorder *record.FakeRecorder
}

func start(t *testing.T) *env {
	e := &env{controllertest.Start(t), t, record.NewFakeRecorder(1000)}
	c, err := New(e.Client, e.Informers, e.recorder, clock.RealClock{}, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		t.Fatal(err)
	}
	e.Run(t, c)
	return e
}

func (e *env) must(err error) {
	e.t.Helper()
	if err != nil {
		e.t.Fatal(err)
	}
}

func (e *env) service(name string, selector map[string]string) {
	e.t.Helper()
	_, err := e.Client.CoreV1().Services("default").Create(e.t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{Selector: selector, Ports: []corev1.ServicePort{{Port: 80}}},
	}, metav1.CreateOptions{})
	e.must(err)
}

func (e *env) endpoints(name string, edit func(*corev1.Endpoints)) {
	e.t.Helper()
	obj := &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Name: name}, Subsets: []corev1.EndpointSubset{{Addresses: addresses("10.0.0.1"), Ports: ports(80)}}}
	edit(obj)
	_, err := e.Client.CoreV1().Endpoints("default").Create(e.t.Context(), obj, metav1.CreateOptions{})
	e.must(err)
}

func (e *env) change(name string, edit func(*corev1.Endpoints)) {
	e.t.Helper()
	e.must(retry.RetryOnConflict(retry.DefaultRetry, func() error {
		obj, err := e.Client.CoreV1().Endpoints("default").Get(e.t.Context(), name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		edit(obj)
		_, err = e.Client.CoreV1().Endpoints("default").Update(e.t.Context(), obj, metav1.UpdateOptions{})
		return err
	}))
}

// list is the slices of a service that this controller owns.
func (e *env) list(service string) ([]discoveryv1.EndpointSlice, error) {
	got, err := e.Client.DiscoveryV1().EndpointSlices("default").List(e.t.Context(), metav1.ListOptions{
		LabelSelector: discoveryv1.LabelServiceName + "=" + service + "," + discoveryv1.LabelManagedBy + "=" + managedBy,
	})
	if err != nil {
		return nil, err
	}
	return got.Items, nil
}

// become waits until the slices of a service are as wanted.
func (e *env) become(service string, want ...string) {
	e.t.Helper()
	controllertest.Eventually(e.t, func() error {
		items, err := e.list(service)
		if err != nil {
			return err
		}
		var got []string
		for _, s := range items {
			got = append(got, shown(s.AddressType, s.Ports, s.Endpoints))
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			return fmt.Errorf("slices of %s: %q, want %q", service, got, want)
		}
		return nil
	})
}

func nothing(*corev1.Endpoints) {}

func TestLifeOfAMirror(t *testing.T) {
	e := start(t)
	ctx := t.Context()
	e.endpoints("a", func(ep *corev1.Endpoints) {
		ep.Labels = map[string]string{"color": "red"}
		ep.Annotations = map[string]string{"say": "so", corev1.LastAppliedConfigAnnotation: "{}"}
	})
	e.service("a", nil)
	e.become("a", "IPv4 p80/80: 10.0.0.1")
	items, err := e.list("a")
	e.must(err)
	s := items[0]
	owner, err := e.Client.CoreV1().Endpoints("default").Get(ctx, "a", metav1.GetOptions{})
	e.must(err)
	if o := metav1.GetControllerOf(&s); o == nil || o.Kind != "Endpoints" || o.UID != owner.UID || s.Labels["color"] != "red" || len(s.Annotations) != 1 || s.Annotations["say"] != "so" || !strings.HasPrefix(s.Name, "a-") {
		t.Errorf("the slice is %+v", s.ObjectMeta)
	}

	// It follows, in the same object as long as one is left of its family.
	e.change("a", func(ep *corev1.Endpoints) {
		ep.Subsets = append(ep.Subsets, corev1.EndpointSubset{NotReadyAddresses: addresses("10.0.0.2", "fd00::2"), Ports: ports(81)})
	})
	e.become("a", "IPv4 p80/80: 10.0.0.1", "IPv4 p81/81: 10.0.0.2!", "IPv6 p81/81: fd00::2!")
	e.change("a", func(ep *corev1.Endpoints) {
		ep.Labels = map[string]string{"color": "blue"}
		ep.Subsets = ep.Subsets[:1]
		ep.Subsets[0].Ports = ports(82)
	})
	e.become("a", "IPv4 p82/82: 10.0.0.1")
	controllertest.Eventually(t, func() error {
		items, err := e.list("a")
		if err == nil && (len(items) != 1 || items[0].Labels["color"] != "blue") {
			err = fmt.Errorf("slices %+v", items)
		}
		return err
	})

	// What somebody does to a mirror is undone.
	items, err = e.list("a")
	e.must(err)
	e.must(e.Client.DiscoveryV1().EndpointSlices("default").Delete(ctx, items[0].Name, metav1.DeleteOptions{}))
	e.become("a", "IPv4 p82/82: 10.0.0.1")
	items, err = e.list("a")
	e.must(err)
	wrong := items[0].DeepCopy()
	wrong.Endpoints[0].Addresses[0] = "10.9.9.9"
	_, err = e.Client.DiscoveryV1().EndpointSlices("default").Update(ctx, wrong, metav1.UpdateOptions{})
	e.must(err)
	e.become("a", "IPv4 p82/82: 10.0.0.1")

	// A slice of somebody else stays.
	_, err = e.Client.DiscoveryV1().EndpointSlices("default").Create(ctx, &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: "other", Labels: map[string]string{discoveryv1.LabelServiceName: "a", discoveryv1.LabelManagedBy: "me"}},
		AddressType: discoveryv1.AddressTypeIPv4,
	}, metav1.CreateOptions{})
	e.must(err)
	// It ends with its Endpoints.
	e.must(e.Client.CoreV1().Endpoints("default").Delete(ctx, "a", metav1.DeleteOptions{}))
	e.become("a")
	if _, err := e.Client.DiscoveryV1().EndpointSlices("default").Get(ctx, "other", metav1.GetOptions{}); err != nil {
		t.Error(err)
	}
}

func TestWhatIsNotMirrored(t *testing.T) {
	e := start(t)
	ctx := t.Context()
	for _, name := range []string{"skip", "lock", "unskipped"} {
		e.service(name, nil)
	}
	e.service("selects", map[string]string{"app": "x"})
	e.endpoints("skip", func(ep *corev1.Endpoints) { ep.Labels = map[string]string{discoveryv1.LabelSkipMirror: "true"} })
	e.endpoints("lock", func(ep *corev1.Endpoints) { ep.Annotations = map[string]string{leaderElection: "{}"} })
	e.endpoints("selects", nothing)
	e.endpoints("nobody", nothing)
	e.endpoints("unskipped", func(ep *corev1.Endpoints) { ep.Labels = map[string]string{discoveryv1.LabelSkipMirror: "false"} })
	e.become("unskipped", "IPv4 p80/80: 10.0.0.1")
	for _, name := range []string{"skip", "lock", "selects", "nobody"} {
		e.become(name)
	}
	// Each becomes one that is, and one that is not again.
	e.change("skip", func(ep *corev1.Endpoints) { ep.Labels = nil })
	e.become("skip", "IPv4 p80/80: 10.0.0.1")
	e.change("skip", func(ep *corev1.Endpoints) { ep.Labels = map[string]string{discoveryv1.LabelSkipMirror: "true"} })
	e.become("skip")
	e.service("nobody", nil)
	e.become("nobody", "IPv4 p80/80: 10.0.0.1")
	e.must(e.Client.CoreV1().Services("default").Delete(ctx, "nobody", metav1.DeleteOptions{}))
	e.become("nobody")
	selector := func(s map[string]string) {
		e.must(retry.RetryOnConflict(retry.DefaultRetry, func() error {
			svc, err := e.Client.CoreV1().Services("default").Get(ctx, "selects", metav1.GetOptions{})
			if err != nil {
				return err
			}
			svc.Spec.Selector = s
			_, err = e.Client.CoreV1().Services("default").Update(ctx, svc, metav1.UpdateOptions{})
			return err
		}))
	}
	selector(nil)
	e.become("selects", "IPv4 p80/80: 10.0.0.1")
	selector(map[string]string{"app": "x"})
	e.become("selects")
}

func TestTooManyAreSaid(t *testing.T) {
	e := start(t)
	e.service("a", nil)
	e.endpoints("a", func(ep *corev1.Endpoints) { ep.Subsets[0].Addresses = many(1005) })
	e.become("a", "IPv4 p80/80: 1000 endpoints")
	if said := <-e.recorder.Events; !strings.Contains(said, "Warning TooManyAddressesToMirror A max of 1000 addresses can be mirrored to EndpointSlices per Endpoints subset. 5 addresses were skipped") {
		t.Error(said)
	}
}
