package node

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"

	"github.com/celox/celox/internal/node/sysctl"
)

func TestAdmissible(t *testing.T) {
	list := func(cpu, memory string) corev1.ResourceList {
		return corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory)}
	}
	others := map[types.UID]corev1.ResourceList{"1": list("1500m", "1Gi")}
	node := &corev1.Node{}
	node.Labels = map[string]string{"disk": "ssd"}
	node.Spec.Taints = []corev1.Taint{{Key: "gone", Effect: corev1.TaintEffectNoExecute}}
	node.Status.Allocatable = corev1.ResourceList{"example.com/gpu": resource.MustParse("2")} // somebody wrote it there
	tolerant := []corev1.Toleration{{Operator: corev1.TolerationOpExists}}
	sysctls := func(names ...string) *corev1.PodSecurityContext {
		c := &corev1.PodSecurityContext{}
		for _, name := range names {
			c.Sysctls = append(c.Sysctls, corev1.Sysctl{Name: name, Value: "1"})
		}
		return c
	}
	tests := []struct {
		name     string
		requests corev1.ResourceList
		spec     corev1.PodSpec
		maxPods  int
		reason   string
		message  string
	}{
		{"fits", list("500m", "1Gi"), corev1.PodSpec{Tolerations: tolerant, NodeSelector: map[string]string{"disk": "ssd"}}, 10, "", ""},
		{"cpu", list("600m", "1Gi"), corev1.PodSpec{Tolerations: tolerant}, 10, "OutOfcpu", "Node didn't have enough resource: cpu, requested: 600, used: 1500, capacity: 2000"},
		{"memory", list("100m", "4Gi"), corev1.PodSpec{Tolerations: tolerant}, 10, "OutOfmemory", "Node didn't have enough resource: memory, requested: 4294967296, used: 1073741824, capacity: 4294967296"},
		{"pods", nil, corev1.PodSpec{Tolerations: tolerant}, 1, "OutOfpods", "Node didn't have enough resource: pods, requested: 1, used: 1, capacity: 1"},
		{"selector", nil, corev1.PodSpec{Tolerations: tolerant, NodeSelector: map[string]string{"disk": "hdd"}}, 10, "NodeAffinity", "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"},
		{"taint", nil, corev1.PodSpec{}, 10, "TaintToleration", "Predicate TaintToleration failed: node(s) had untolerated taint {gone: }"},
		{"device", corev1.ResourceList{"example.com/gpu": resource.MustParse("1")}, corev1.PodSpec{Tolerations: tolerant}, 10, "", ""},
		{"too many devices", corev1.ResourceList{"example.com/gpu": resource.MustParse("3")}, corev1.PodSpec{Tolerations: tolerant}, 10, "OutOfexample.com/gpu", "Node didn't have enough resource: example.com/gpu, requested: 3, used: 0, capacity: 2"},
		{"the cluster's", corev1.ResourceList{"example.com/license": resource.MustParse("3")}, corev1.PodSpec{Tolerations: tolerant}, 10, "", ""},
		{"huge pages", corev1.ResourceList{"hugepages-2Mi": resource.MustParse("2Mi")}, corev1.PodSpec{Tolerations: tolerant}, 10, "OutOfhugepages-2Mi", "Node didn't have enough resource: hugepages-2Mi, requested: 2097152, used: 0, capacity: 0"},
		{"os", nil, corev1.PodSpec{OS: &corev1.PodOS{Name: corev1.Windows}}, 10, "PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS"},
		{"safe sysctls", nil, corev1.PodSpec{Tolerations: tolerant, SecurityContext: sysctls("kernel.shm_rmid_forced", "net/ipv4/tcp_rmem")}, 10, "", ""},
		{"sysctl", nil, corev1.PodSpec{SecurityContext: sysctls("kernel.shm_rmid_forced", "kernel/msgmax")}, 10, "SysctlForbidden", `forbidden sysctl: "kernel.msgmax" not allowlisted`},
		{"an allowed sysctl", nil, corev1.PodSpec{Tolerations: tolerant, SecurityContext: sysctls("net.core.somaxconn", "kernel/shmmax")}, 10, "", ""},
		{"an allowed sysctl of the host", nil, corev1.PodSpec{HostIPC: true, SecurityContext: sysctls("kernel.shmmax")}, 10, "SysctlForbidden", `forbidden sysctl: "kernel.shmmax" not allowed with host ipc enabled`},
		{"sysctl of the host", nil, corev1.PodSpec{HostNetwork: true, SecurityContext: sysctls("net.ipv4.tcp_syncookies")}, 10, "SysctlForbidden", `forbidden sysctl: "net.ipv4.tcp_syncookies" not allowed with host net enabled`},
	}
	allowed, err := sysctl.Parse([]string{"net.core.*", "kernel.shmmax"})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := admissible(&corev1.Pod{Spec: tt.spec}, tt.requests, others, list("2", "4Gi"), node, tt.maxPods, allowed)
			if r == nil {
				r = &rejection{}
			}
			if r.reason != tt.reason || r.message != tt.message {
				t.Errorf("got %+v", r)
			}
		})
	}
}

func TestPortsTaken(t *testing.T) {
	pod := func(ports ...corev1.ContainerPort) *corev1.Pod {
		always := corev1.ContainerRestartPolicyAlways
		return &corev1.Pod{Spec: corev1.PodSpec{
			InitContainers: []corev1.Container{{Ports: []corev1.ContainerPort{{HostPort: 1}}}, {RestartPolicy: &always, Ports: ports}},
			Containers:     []corev1.Container{{Ports: []corev1.ContainerPort{{ContainerPort: 80}}}},
		}}
	}
	others := map[types.UID][]hostPort{"1": hostPorts(pod(corev1.ContainerPort{HostPort: 53}, corev1.ContainerPort{HostPort: 80, HostIP: "127.0.0.1"}))}
	for name, tt := range map[string]struct {
		port  corev1.ContainerPort
		taken bool
	}{
		"same":             {corev1.ContainerPort{HostPort: 53, Protocol: corev1.ProtocolTCP}, true},
		"other protocol":   {corev1.ContainerPort{HostPort: 53, Protocol: corev1.ProtocolUDP}, false},
		"one of all":       {corev1.ContainerPort{HostPort: 53, HostIP: "127.0.0.2"}, true},
		"another address":  {corev1.ContainerPort{HostPort: 80, HostIP: "127.0.0.2"}, false},
		"all addresses":    {corev1.ContainerPort{HostPort: 80, HostIP: "0.0.0.0"}, true},
		"an init's is not": {corev1.ContainerPort{HostPort: 1}, false},
	} {
		if r := portsTaken(hostPorts(pod(tt.port)), others); (r != nil) != tt.taken {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

// TestDevicesInsteadOfResources: an extended resource for which the scheduler got a claim needn't be on the node.
func TestDevicesInsteadOfResources(t *testing.T) {
	const name = "deviceclass.resource.kubernetes.io/gpu"
	requests := corev1.ResourceList{name: resource.MustParse("1")}
	pod := &corev1.Pod{}
	if r := admissible(pod, requests, nil, corev1.ResourceList{}, &corev1.Node{}, 10, sysctl.Allowed{}); r == nil || r.reason != "OutOf"+name {
		t.Errorf("got %+v", r)
	}
	pod.Status.ExtendedResourceClaimStatus = &corev1.PodExtendedResourceClaimStatus{RequestMappings: []corev1.ContainerExtendedResourceRequest{{ResourceName: name}}}
	if r := admissible(pod, requests, nil, corev1.ResourceList{}, &corev1.Node{}, 10, sysctl.Allowed{}); r != nil {
		t.Errorf("got %+v", r)
	}
}
