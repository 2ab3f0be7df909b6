package ingressstatus

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/record"

	"github.com/celox/celox/internal/controller/controllertest"
	"github.com/celox/celox/internal/network/ingress/route"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func node(name, address string, ready corev1.ConditionStatus) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{
		Addresses:  []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: address}, {Type: corev1.NodeHostName, Address: name}},
		Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}},
	}}
}

func TestStatus(t *testing.T) {
	t.Parallel()
	e := controllertest.Start(t)
	events := record.NewFakeRecorder(100)
	c, err := New(Config{Client: e.Client, Informers: e.Informers, Recorder: events, HTTPPort: 80, HTTPSPort: 443})
	if err != nil {
		t.Fatal(err)
	}
	e.Run(t, c)
	ctx := context.Background()
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	nodes, ingresses := e.Client.CoreV1().Nodes(), e.Client.NetworkingV1().Ingresses("default")
	must(e.Client.NetworkingV1().IngressClasses().Create(ctx, &networkingv1.IngressClass{ObjectMeta: metav1.ObjectMeta{Name: "celox"}, Spec: networkingv1.IngressClassSpec{Controller: route.Controller}}, metav1.CreateOptions{}))
	for _, n := range []*corev1.Node{node("a", "10.0.0.1", corev1.ConditionTrue), node("b", "10.0.0.2", corev1.ConditionFalse)} {
		must(nodes.Create(ctx, n, metav1.CreateOptions{}))
	}
	add := func(name, class string) {
		t.Helper()
		must(ingresses.Create(ctx, &networkingv1.Ingress{
			ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{route.Prefix + "nonsense": "x"}},
			Spec: networkingv1.IngressSpec{IngressClassName: &class, DefaultBackend: &networkingv1.IngressBackend{Service: &networkingv1.IngressServiceBackend{
				Name: "none", Port: networkingv1.ServiceBackendPort{Number: 80},
			}}},
		}, metav1.CreateOptions{}))
	}
	add("ours", "celox")
	add("theirs", "other")
	expect := func(name, want string) {
		t.Helper()
		controllertest.Eventually(t, func() error {
			i, err := ingresses.Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			var got []string
			for _, in := range i.Status.LoadBalancer.Ingress {
				got = append(got, in.IP)
			}
			if s := strings.Join(got, " "); s != want {
				return fmt.Errorf("status of %s: %q, want %q", name, s, want)
			}
			return nil
		})
	}
	expect("ours", "10.0.0.1")
	change := func(name string, f func(*corev1.Node)) {
		t.Helper()
		controllertest.Eventually(t, func() error {
			n, err := nodes.Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			f(n)
			n, err = nodes.UpdateStatus(ctx, n, metav1.UpdateOptions{})
			if err != nil {
				return err
			}
			f(n)
			_, err = nodes.Update(ctx, n, metav1.UpdateOptions{})
			return err
		})
	}
	change("b", func(n *corev1.Node) { n.Status.Conditions[0].Status = corev1.ConditionTrue })
	expect("ours", "10.0.0.1 10.0.0.2")
	change("b", func(n *corev1.Node) {
		n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeExternalIP, Address: "192.0.2.2"})
	})
	expect("ours", "10.0.0.1 192.0.2.2")
	change("a", func(n *corev1.Node) { n.Labels = map[string]string{corev1.LabelNodeExcludeBalancers: ""} })
	expect("ours", "192.0.2.2")
	expect("theirs", "")
	// A load balancer at an address of the nodes takes the port away; one at another address, and a port of another protocol, do not.
	balance := func(name, address string, port int32, protocol corev1.Protocol) {
		t.Helper()
		s, err := e.Client.CoreV1().Services("default").Create(ctx, &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, Ports: []corev1.ServicePort{{Port: port, Protocol: protocol}}},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: address}}
		must(e.Client.CoreV1().Services("default").UpdateStatus(ctx, s, metav1.UpdateOptions{}))
	}
	balance("elsewhere", "198.51.100.1", 80, corev1.ProtocolTCP)
	balance("quic", "192.0.2.2", 80, corev1.ProtocolUDP)
	balance("secure", "192.0.2.2", 443, corev1.ProtocolTCP) // the Ingress has no TLS
	balance("front", "192.0.2.2", 80, corev1.ProtocolTCP)
	seen := map[string]bool{}
	for len(seen) < 3 {
		event := <-events.Events
		if seen[event] {
			t.Errorf("%q was told twice", event)
		}
		seen[event] = true
	}
	for _, want := range []string{"Warning BadAnnotation " + route.Prefix + "nonsense: there is no such annotation", "Warning BadBackend there is no service none",
		"Warning PortTaken port 80 of the nodes belongs to the service default/front of type LoadBalancer: requests to it do not reach this Ingress; give that service another port or type"} {
		if !seen[want] {
			t.Errorf("nobody told %q, but %v", want, seen)
		}
	}
}
