package world

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/celox/celox/internal/network/ingress/route"
)

// service makes a service with an address, and a port of the nodes, that no other scenario has.
func (w *world) service(ns, name string, kind corev1.ServiceType) {
	w.t.Helper()
	n := int32(w.services.Add(1))
	ip := fmt.Sprintf("10.96.%d.%d", n/250, n%250+1)
	_, err := w.Client.CoreV1().Services(ns).Create(w.ctx, &corev1.Service{ObjectMeta: called(name), Spec: corev1.ServiceSpec{
		Type: kind, ClusterIP: ip, ClusterIPs: []string{ip}, IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol},
		Ports: []corev1.ServicePort{{Name: "p", Port: 1000 + n, Protocol: corev1.ProtocolTCP}},
	}}, o)
	w.must(err)
}

// subsetsOf are what somebody writes by hand, the last of them not ready.
func subsetsOf(n int) []corev1.EndpointSubset {
	s := corev1.EndpointSubset{Ports: []corev1.EndpointPort{{Name: "p", Port: 80, Protocol: corev1.ProtocolTCP}}}
	for i := range n {
		s.Addresses = append(s.Addresses, corev1.EndpointAddress{IP: fmt.Sprint("192.0.2.", 10+i)})
	}
	s.NotReadyAddresses = []corev1.EndpointAddress{{IP: "192.0.2.99"}}
	return []corev1.EndpointSubset{s}
}

// someNetwork are services that are reached at the nodes, one of which is not for long, an Ingress, and Endpoints that somebody wrote.
var someNetwork = scenario{"Network", []step{
	{0, func(w *world, ns string) {
		w.service(ns, "briefly", corev1.ServiceTypeLoadBalancer)
		w.service(ns, "balanced", corev1.ServiceTypeLoadBalancer)
		w.service(ns, "mirrored", corev1.ServiceTypeClusterIP)
		_, err := w.Client.CoreV1().Endpoints(ns).Create(w.ctx, &corev1.Endpoints{ObjectMeta: called("mirrored"), Subsets: subsetsOf(2)}, o)
		w.must(err)
		_, err = w.Client.NetworkingV1().IngressClasses().Create(w.ctx, &networkingv1.IngressClass{ObjectMeta: called("celox"), Spec: networkingv1.IngressClassSpec{Controller: route.Controller}}, o)
		if !apierrors.IsAlreadyExists(err) {
			w.must(err)
		}
		class := "celox"
		_, err = w.Client.NetworkingV1().Ingresses(ns).Create(w.ctx, &networkingv1.Ingress{ObjectMeta: called("i"), Spec: networkingv1.IngressSpec{IngressClassName: &class,
			DefaultBackend: &networkingv1.IngressBackend{Service: &networkingv1.IngressServiceBackend{Name: "balanced", Port: networkingv1.ServiceBackendPort{Name: "p"}}}}}, o)
		w.must(err)
	}},
	{40 * time.Second, func(w *world, ns string) {
		w.rewrite(ns, "mirrored", 5)
	}},
	{70 * time.Second, func(w *world, ns string) {
		w.rewrite(ns, "mirrored", 1)
		_, err := w.Client.CoreV1().Services(ns).Patch(w.ctx, "briefly", types.MergePatchType, []byte(`{"spec":{"type":"ClusterIP"}}`), metav1.PatchOptions{})
		w.must(err)
	}},
}, 3 * time.Minute, func(w *world, ns string) {
	for _, name := range []string{"briefly", "balanced", "mirrored"} {
		w.must(w.Client.CoreV1().Services(ns).Delete(w.ctx, name, removal))
	}
	w.gone(w.Client.CoreV1().Endpoints(ns).Delete(w.ctx, "mirrored", removal)) // whoever looks after those of services may be faster
	w.must(w.Client.NetworkingV1().Ingresses(ns).Delete(w.ctx, "i", removal))
}}

// rewrite gives Endpoints other addresses.
func (w *world) rewrite(ns, name string, n int) {
	w.t.Helper()
	e, err := w.Client.CoreV1().Endpoints(ns).Get(w.ctx, name, metav1.GetOptions{})
	w.must(err)
	e.Subsets = subsetsOf(n)
	_, err = w.Client.CoreV1().Endpoints(ns).Update(w.ctx, e, metav1.UpdateOptions{})
	w.must(err)
}

// network is where the services of a namespace are reached.
func (w *world) network(namespace string) (out []string) {
	w.t.Helper()
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	services, err := w.Client.CoreV1().Services(namespace).List(w.ctx, metav1.ListOptions{})
	w.must(err)
	for _, s := range services.Items {
		if s.Spec.ClusterIP == corev1.ClusterIPNone {
			continue // all scenarios may have it
		}
		var at []string
		for _, i := range s.Status.LoadBalancer.Ingress {
			at = append(at, i.IP)
		}
		say("Service %s at %v finalizers %v conditions %d", s.Name, at, s.Finalizers, len(s.Status.Conditions))
	}
	ingresses, err := w.Client.NetworkingV1().Ingresses(namespace).List(w.ctx, metav1.ListOptions{})
	w.must(err)
	for _, i := range ingresses.Items {
		var at []string
		for _, a := range i.Status.LoadBalancer.Ingress {
			at = append(at, a.IP)
		}
		say("Ingress %s at %v", i.Name, at)
	}
	written, err := w.Client.CoreV1().Endpoints(namespace).List(w.ctx, metav1.ListOptions{})
	w.must(err)
	for _, e := range written.Items {
		if e.Name != "mirrored" {
			continue
		}
		for _, s := range e.Subsets {
			say("Endpoints %s: %d and %d", e.Name, len(s.Addresses), len(s.NotReadyAddresses))
		}
	}
	addresses, err := w.Client.NetworkingV1().IPAddresses().List(w.ctx, metav1.ListOptions{})
	w.must(err)
	for _, a := range addresses.Items {
		if p := a.Spec.ParentRef; p != nil && p.Namespace == namespace {
			say("IPAddress of %s %s", p.Resource, p.Name)
		}
	}
	return out
}
