package endpoints

import (
	"fmt"
	"slices"
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
}

func TestTruncate(t *testing.T) {
	addresses := func(n int) []corev1.EndpointAddress { return make([]corev1.EndpointAddress, n) }
	type set struct{ ready, not int }
	for _, tt := range []struct {
		name      string
		in, want  []set
		truncated bool
	}{
		{"all fit", []set{{600, 0}, {300, 100}}, []set{{600, 0}, {300, 100}}, false},
		{"some are not ready", []set{{500, 100}, {400, 300}}, []set{{500, 25}, {400, 75}}, true},
		{"exactly as many are ready", []set{{600, 10}, {400, 0}, {0, 5}}, []set{{600, 0}, {400, 0}}, true},
		{"too many are ready", []set{{1500, 10}, {500, 0}, {0, 5}}, []set{{750, 0}, {250, 0}}, true},
		{"shares are rounded up", []set{{334, 0}, {334, 0}, {334, 0}}, []set{{334, 0}, {334, 0}, {332, 0}}, true},
		{"nothing is left for the last", []set{{1200, 0}, {1, 0}}, []set{{1000, 0}}, true},
	} {
		var in []corev1.EndpointSubset
		for _, s := range tt.in {
			in = append(in, corev1.EndpointSubset{Addresses: addresses(s.ready), NotReadyAddresses: addresses(s.not)})
		}
		out, truncated := truncate(in)
		var got []set
		for _, s := range out {
			got = append(got, set{len(s.Addresses), len(s.NotReadyAddresses)})
		}
		if truncated != tt.truncated || !slices.Equal(got, tt.want) {
			t.Errorf("%s: %v (%v), want %v", tt.name, got, truncated, tt.want)
		}
	}
}

func TestFamilies(t *testing.T) {
	two := pod("two", "10.0.0.1", true, 80)
	two.Status.PodIPs = append(two.Status.PodIPs, corev1.PodIP{IP: "fd00:0::1"})
	six := pod("six", "fd00::2", true, 80)
	for _, tt := range []struct {
		name string
		spec corev1.ServiceSpec
		pod  *corev1.Pod
		want string
	}{
		{"said", corev1.ServiceSpec{IPFamilies: []corev1.IPFamily{corev1.IPv6Protocol}}, two, "fd00::1"},
		{"by its address", corev1.ServiceSpec{ClusterIP: "fd01::1"}, two, "fd00::1"},
		{"by the pod's", corev1.ServiceSpec{ClusterIP: corev1.ClusterIPNone}, six, "fd00::2"},
		{"by the pod's first", corev1.ServiceSpec{}, two, "10.0.0.1"},
		{"none of it", corev1.ServiceSpec{ClusterIP: "10.43.0.1"}, six, ""},
	} {
		a, ok := addressOf(&corev1.Service{Spec: tt.spec}, tt.pod)
		if a.IP != tt.want || ok != (tt.want != "") {
			t.Errorf("%s: %q (%v), want %q", tt.name, a.IP, ok, tt.want)
		}
	}
}

func TestWhichPods(t *testing.T) {
	service := &corev1.Service{Spec: corev1.ServiceSpec{ClusterIP: corev1.ClusterIPNone}}
	for _, tt := range []struct {
		name       string
		change     func(*corev1.Pod)
		usual, all bool // is it there, and when pods that are not ready are published
	}{
		{"runs", func(*corev1.Pod) {}, true, true},
		{"terminating", func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{} }, false, true},
		{"succeeded", func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }, false, false},
		{"failed", func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }, false, false},
		{"failed and would be restarted", func(p *corev1.Pod) {
			p.Status.Phase, p.Spec.RestartPolicy, p.DeletionTimestamp = corev1.PodFailed, corev1.RestartPolicyAlways, &metav1.Time{}
		}, false, false},
	} {
		p := pod("p", "10.0.0.1", true, 80)
		tt.change(p)
		for all, want := range map[bool]bool{false: tt.usual, true: tt.all} {
			service.Spec.PublishNotReadyAddresses = all
			if got, _ := subsets(service, []*corev1.Pod{p}); (len(got) > 0) != want {
				t.Errorf("%s: there %v (with all: %v)", tt.name, len(got) > 0, all)
			}
		}
	}
}
