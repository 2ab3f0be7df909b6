package criconfig

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/celox/celox/internal/node/env"
	"github.com/celox/celox/internal/node/observed"
)

func testPod() *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "ns", UID: "u"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c"}}}}
}

func TestDNS(t *testing.T) {
	host, err := ParseResolver(strings.NewReader("# comment\nnameserver 192.0.2.1\nnameserver bad\nsearch example.org. corp\noptions timeout:2 rotate\n"))
	if err != nil {
		t.Fatal(err)
	}
	two := "2"
	tests := []struct {
		name string
		edit func(*corev1.PodSpec)
		want string
	}{
		{"cluster first", func(s *corev1.PodSpec) { s.DNSPolicy = corev1.DNSClusterFirst },
			"[10.96.0.10] [ns.svc.cluster.local svc.cluster.local cluster.local example.org corp] [ndots:5]"},
		{"cluster first in the host's network", func(s *corev1.PodSpec) { s.DNSPolicy = corev1.DNSClusterFirst; s.HostNetwork = true },
			"[192.0.2.1] [example.org corp] [timeout:2 rotate]"},
		{"with host net", func(s *corev1.PodSpec) { s.DNSPolicy = corev1.DNSClusterFirstWithHostNet; s.HostNetwork = true },
			"[10.96.0.10] [ns.svc.cluster.local svc.cluster.local cluster.local example.org corp] [ndots:5]"},
		{"default", func(s *corev1.PodSpec) { s.DNSPolicy = corev1.DNSDefault }, "[192.0.2.1] [example.org corp] [timeout:2 rotate]"},
		{"none", func(s *corev1.PodSpec) {
			s.DNSPolicy = corev1.DNSNone
			s.DNSConfig = &corev1.PodDNSConfig{Nameservers: []string{"1.1.1.1"}, Searches: []string{"x"}, Options: []corev1.PodDNSConfigOption{{Name: "ndots", Value: &two}}}
		}, "[1.1.1.1] [x] [ndots:2]"},
		{"merged", func(s *corev1.PodSpec) {
			s.DNSPolicy = corev1.DNSClusterFirst
			s.DNSConfig = &corev1.PodDNSConfig{Nameservers: []string{"1.1.1.1", "10.96.0.10"}, Searches: []string{"x"}, Options: []corev1.PodDNSConfigOption{{Name: "ndots", Value: &two}, {Name: "edns0"}}}
		}, "[10.96.0.10 1.1.1.1] [ns.svc.cluster.local svc.cluster.local cluster.local example.org corp x] [ndots:2 edns0]"},
	}
	for _, tt := range tests {
		pod := testPod()
		tt.edit(&pod.Spec)
		d := DNS(pod, []string{"10.96.0.10"}, "cluster.local", host)
		if got := fmt.Sprint(d.Servers, d.Searches, d.Options); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}

func FuzzParseResolver(f *testing.F) {
	for _, s := range []string{"nameserver 1.1.1.1\n", "search", "options a;b", "domain x\n#"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseResolver(strings.NewReader(s))
		if err != nil {
			return
		}
		for _, x := range append(r.Servers, r.Searches...) {
			if x == "" && len(r.Servers) > 0 && x == r.Servers[0] || strings.ContainsAny(x, " \n\t#") {
				t.Errorf("%q came out of %q", x, s)
			}
		}
	})
}

func TestNamesAndHosts(t *testing.T) {
	pod := testPod()
	pod.Spec.Hostname, pod.Spec.Subdomain = "h", "sub"
	pod.Spec.HostAliases = []corev1.HostAlias{{IP: "1.2.3.4", Hostnames: []string{"a", "b"}}}
	n := NamesOf(pod, "cluster.local", "node")
	if n.FQDN() != "h.sub.ns.svc.cluster.local" {
		t.Errorf("%+v", n)
	}
	text := string(HostsFile(pod, []string{"10.0.0.1"}, n, nil))
	for _, want := range []string{"# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n", "\n10.0.0.1\th.sub.ns.svc.cluster.local\th\n", "\n# Entries added by HostAliases.\n1.2.3.4\ta\tb\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing in %q", want, text)
		}
	}
	long := testPod()
	long.Name = strings.Repeat("a", 62) + "-" + strings.Repeat("b", 20)
	if got := NamesOf(long, "cluster.local", "node").Hostname; got != strings.Repeat("a", 62) {
		t.Errorf("hostname %q", got)
	}
	long.Spec.HostNetwork = true
	if got := NamesOf(long, "cluster.local", "node").Hostname; got != "node" {
		t.Errorf("hostname %q", got)
	}
}

func TestSandbox(t *testing.T) {
	yes := true
	pod := testPod()
	pod.Labels = map[string]string{"app": "web"}
	pod.Spec.ShareProcessNamespace = &yes
	pod.Spec.SecurityContext = &corev1.PodSecurityContext{Sysctls: []corev1.Sysctl{{Name: "net/ipv4/ip_forward", Value: "1"}}}
	pod.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: 8080, Protocol: corev1.ProtocolTCP}, {ContainerPort: 53, Protocol: corev1.ProtocolUDP}}
	pod.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{Privileged: &yes}
	s, err := Sandbox(SandboxInput{Pod: pod, Attempt: 2, Names: NamesOf(pod, "cluster.local", "node"), LogDir: "/log", CgroupParent: "/x/kubepods/podu"})
	if err != nil {
		t.Fatal(err)
	}
	if s.LogDirectory != "/log/ns_web_u" || s.Hostname != "web" || s.Metadata.Attempt != 2 || s.Labels[observed.LabelPodUID] != "u" || s.Labels["app"] != "web" {
		t.Errorf("%v", s)
	}
	if len(s.PortMappings) != 2 || s.PortMappings[0].HostPort != 8080 || s.PortMappings[1].Protocol != runtimeapi.Protocol_UDP {
		t.Errorf("%v", s.PortMappings)
	}
	l := s.Linux
	if l.CgroupParent != "/x/kubepods/podu" || !l.SecurityContext.Privileged || l.SecurityContext.NamespaceOptions.Pid != runtimeapi.NamespaceMode_POD || l.Sysctls["net.ipv4.ip_forward"] != "1" {
		t.Errorf("%v", l)
	}
}

func TestContainer(t *testing.T) {
	no, uid := false, int64(1000)
	pod := testPod()
	c := &pod.Spec.Containers[0]
	c.Command, c.Args = []string{"run", "$(A)"}, []string{"$$(A)", "$(NOPE)"}
	c.Image = "img"
	stop := corev1.Signal("SIGUSR1")
	c.Lifecycle = &corev1.Lifecycle{StopSignal: &stop}
	c.Resources = corev1.ResourceRequirements{
		Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("250m"), corev1.ResourceMemory: resource.MustParse("1Gi")},
		Limits:   corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("500m"), corev1.ResourceMemory: resource.MustParse("2Gi")},
	}
	c.SecurityContext = &corev1.SecurityContext{AllowPrivilegeEscalation: &no, Capabilities: &corev1.Capabilities{Add: []corev1.Capability{"NET_ADMIN"}, Drop: []corev1.Capability{"ALL"}}}
	got, err := Container(ContainerInput{Pod: pod, Container: c, RestartCount: 3, ImageRef: "sha256:1", ImageUID: &uid, Env: []env.Var{{Name: "A", Value: "1"}}, MemoryBytes: 10 << 30})
	if err != nil {
		t.Fatal(err)
	}
	if strings.Join(got.Command, " ") != "run 1" || strings.Join(got.Args, " ") != "$(A) $(NOPE)" {
		t.Errorf("command %q %q", got.Command, got.Args)
	}
	if got.LogPath != "c/3.log" || got.Annotations[observed.AnnotationRestartCount] != "3" || got.Image.UserSpecifiedImage != "img" || got.StopSignal != runtimeapi.Signal_SIGNAL_SIGUSR1 {
		t.Errorf("%v", got)
	}
	r := got.Linux.Resources
	if r.CpuShares != 256 || r.CpuQuota != 50000 || r.CpuPeriod != 100000 || r.MemoryLimitInBytes != 2<<30 || r.OomScoreAdj != 900 {
		t.Errorf("%v", r)
	}
	s := got.Linux.SecurityContext
	if s.RunAsUser.Value != 1000 || !s.NoNewPrivs || s.Capabilities.AddCapabilities[0] != "NET_ADMIN" || s.Seccomp.ProfileType != runtimeapi.SecurityProfile_RuntimeDefault ||
		s.NamespaceOptions.Pid != runtimeapi.NamespaceMode_CONTAINER || len(s.MaskedPaths) == 0 {
		t.Errorf("%v", s)
	}
}

func TestVerifyNonRoot(t *testing.T) {
	yes, zero, one := true, int64(0), int64(1)
	tests := []struct {
		name    string
		runAs   *int64
		uid     *int64
		user    string
		message string
	}{
		{"told root", &zero, nil, "", `container's runAsUser breaks non-root policy (pod: "web_ns(u)", container: c)`},
		{"told other", &one, &zero, "", ""},
		{"image root", nil, &zero, "", `container has runAsNonRoot and image will run as root (pod: "web_ns(u)", container: c)`},
		{"image says nothing", nil, nil, "", `container has runAsNonRoot and image will run as root (pod: "web_ns(u)", container: c)`},
		{"image names", nil, nil, "nginx", `container has runAsNonRoot and image has non-numeric user (nginx), cannot verify user is non-root (pod: "web_ns(u)", container: c)`},
		{"image other", nil, &one, "", ""},
	}
	for _, tt := range tests {
		pod := testPod()
		pod.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsNonRoot: &yes, RunAsUser: tt.runAs}
		err := SecurityOf(pod, &pod.Spec.Containers[0]).VerifyNonRoot(pod, "c", tt.uid, tt.user)
		got := ""
		if err != nil {
			got = err.Error()
		}
		if got != tt.message {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.message)
		}
	}
}

func TestOOMScore(t *testing.T) {
	pod := testPod()
	c := &pod.Spec.Containers[0]
	if got := OOMScore(pod, c, 1<<30); got != 1000 {
		t.Errorf("best effort: %d", got)
	}
	c.Resources.Requests = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("1Gi")}
	for memory, want := range map[int64]int64{4 << 30: 750, 1 << 30: 3, 1 << 50: 999} {
		if got := OOMScore(pod, c, memory); got != want {
			t.Errorf("burstable of %d: %d, want %d", memory, got, want)
		}
	}
	c.Resources.Requests[corev1.ResourceCPU] = resource.MustParse("1")
	c.Resources.Limits = c.Resources.Requests
	if got := OOMScore(pod, c, 1<<30); got != -997 {
		t.Errorf("guaranteed: %d", got)
	}
}
