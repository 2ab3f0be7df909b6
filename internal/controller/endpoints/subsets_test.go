package endpoints

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

func pod(name, ip string, ready bool, port int32) *corev1.Pod {
	status := corev1.ConditionFalse
	if ready {
		status = corev1.ConditionTrue
	}
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "n", UID: types.UID(name)},
		Spec: corev1.PodSpec{NodeName: "node", Containers: []corev1.Container{{
			Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: port, Protocol: corev1.ProtocolTCP}},
		}}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: status}}},
	}
	if ip != "" {
		p.Status.PodIP, p.Status.PodIPs = ip, []corev1.PodIP{{IP: ip}}
	}
	return p
}

func show(sets []corev1.EndpointSubset) string {
	out := ""
	for _, s := range sets {
		for _, p := range s.Ports {
			out += fmt.Sprintf("%s=%d ", p.Name, p.Port)
		}
		for _, a := range s.Addresses {
			out += a.IP + " "
		}
		for _, a := range s.NotReadyAddresses {
			out += "!" + a.IP + " "
		}
		out += ";"
	}
	return out
}

func TestSubsets(t *testing.T) {
	service := func(change func(*corev1.Service)) *corev1.Service {
		s := &corev1.Service{Spec: corev1.ServiceSpec{
			ClusterIP: "10.43.0.9", Ports: []corev1.ServicePort{{Name: "web", Port: 80, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromString("http"), AppProtocol: ptr.To("h2c")}},
		}}
		if change != nil {
			change(s)
		}
		return s
	}
	pods := []*corev1.Pod{pod("b", "10.0.0.2", true, 8080), pod("a", "10.0.0.1", true, 8080), pod("c", "10.0.0.3", false, 8080), pod("d", "10.0.0.4", true, 9090), pod("e", "", true, 8080)}
	tests := []struct {
		name    string
		service *corev1.Service
		want    string
	}{
		{"by port, sorted", service(nil), "web=8080 10.0.0.1 10.0.0.2 !10.0.0.3 ;web=9090 10.0.0.4 ;"},
		{"publish not ready", service(func(s *corev1.Service) { s.Spec.PublishNotReadyAddresses = true }), "web=8080 10.0.0.1 10.0.0.2 10.0.0.3 ;web=9090 10.0.0.4 ;"},
		{"a port that nobody has", service(func(s *corev1.Service) { s.Spec.Ports[0].TargetPort = intstr.FromString("no") }), ""},
		{"headless without ports", service(func(s *corev1.Service) { s.Spec.ClusterIP, s.Spec.Ports = "None", nil }), "10.0.0.1 10.0.0.2 10.0.0.4 !10.0.0.3 ;"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, truncated := subsets(tt.service, pods)
			if show(got) != tt.want || truncated {
				t.Errorf("got %q (%v), want %q", show(got), truncated, tt.want)
			}
		})
	}
	var many []*corev1.Pod
	for i := range maxAddresses + 50 {
		many = append(many, pod(fmt.Sprint(i), fmt.Sprintf("10.1.%d.%d", i/250, i%250), i%20 != 0, 8080))
	}
	got, truncated := subsets(service(nil), many)
	if !truncated || len(got[0].Addresses)+len(got[0].NotReadyAddresses) != maxAddresses || len(got[0].Addresses) < 997 {
		t.Errorf("truncated %v to %d ready and %d not ready", truncated, len(got[0].Addresses), len(got[0].NotReadyAddresses))
	}
}
