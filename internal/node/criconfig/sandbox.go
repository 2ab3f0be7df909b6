package criconfig

import (
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	resourcehelper "k8s.io/component-helpers/resource"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/celox/celox/internal/node/observed"
	"github.com/celox/celox/internal/node/sysctl"
)

// SandboxInput is what a sandbox is made of besides the pod.
type SandboxInput struct {
	Pod          *corev1.Pod
	Attempt      uint32
	Names        Names
	DNS          *runtimeapi.DNSConfig
	LogDir       string // all pods' logs
	CgroupParent string // the pod's group
	Options      Options
}

// PodLogDir is where a pod's containers log.
func PodLogDir(logDir, namespace, name string, uid types.UID) string {
	return filepath.Join(logDir, strings.Join([]string{namespace, name, string(uid)}, "_"))
}

// Sandbox makes the sandbox's configuration.
func Sandbox(in SandboxInput) (*runtimeapi.PodSandboxConfig, error) {
	pod := in.Pod
	hostname, err := SandboxHostname(pod, in.Names)
	if err != nil {
		return nil, err
	}
	labels := observed.PodLabels(pod)
	for k, v := range pod.Labels {
		if _, ok := labels[k]; !ok {
			labels[k] = v
		}
	}
	annotations := maps.Clone(pod.Annotations)
	if annotations == nil {
		annotations = map[string]string{}
	}
	ports, err := portMappings(pod)
	if err != nil {
		return nil, err
	}
	return &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: pod.Name, Namespace: pod.Namespace, Uid: string(pod.UID), Attempt: in.Attempt},
		Hostname:     hostname,
		LogDirectory: PodLogDir(in.LogDir, pod.Namespace, pod.Name, pod.UID),
		DnsConfig:    in.DNS,
		PortMappings: ports,
		Labels:       labels,
		Annotations:  annotations,
		Linux:        sandboxLinux(in),
	}, nil
}

func sandboxLinux(in SandboxInput) *runtimeapi.LinuxPodSandboxConfig {
	pod := in.Pod
	privileged := false
	for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range list {
			privileged = privileged || SecurityOf(pod, &list[i]).Privileged
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		c := corev1.Container(pod.Spec.EphemeralContainers[i].EphemeralContainerCommon)
		privileged = privileged || SecurityOf(pod, &c).Privileged
	}
	security := &runtimeapi.LinuxSandboxSecurityContext{
		NamespaceOptions: namespaces(pod, ""),
		Privileged:       privileged,
		Seccomp:          &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault},
	}
	out := &runtimeapi.LinuxPodSandboxConfig{CgroupParent: in.CgroupParent, SecurityContext: security}
	if sc := pod.Spec.SecurityContext; sc != nil {
		if sc.RunAsUser != nil {
			security.RunAsUser = &runtimeapi.Int64Value{Value: *sc.RunAsUser}
			if sc.RunAsGroup != nil {
				security.RunAsGroup = &runtimeapi.Int64Value{Value: *sc.RunAsGroup}
			}
		}
		if sc.FSGroup != nil {
			security.SupplementalGroups = append(security.SupplementalGroups, *sc.FSGroup)
		}
		security.SupplementalGroups = append(security.SupplementalGroups, sc.SupplementalGroups...)
		security.SelinuxOptions = selinux(sc.SELinuxOptions)
		if sc.SeccompProfile != nil {
			security.Seccomp = seccomp(sc.SeccompProfile, privileged, in.Options)
		}
		for _, s := range sc.Sysctls {
			if out.Sysctls == nil {
				out.Sysctls = map[string]string{}
			}
			out.Sysctls[sysctl.Name(s.Name)] = s.Value
		}
	}
	if len(pod.Spec.Overhead) > 0 {
		out.Overhead = &runtimeapi.LinuxContainerResources{
			CpuShares:          int64(shares(pod.Spec.Overhead.Cpu().MilliValue())),
			MemoryLimitInBytes: pod.Spec.Overhead.Memory().Value(),
		}
	}
	requests := resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{ExcludeOverhead: true})
	limits := resourcehelper.PodLimits(pod, resourcehelper.PodResourcesOptions{ExcludeOverhead: true})
	out.Resources = linuxResources(requests, limits)
	return out
}

func portMappings(pod *corev1.Pod) ([]*runtimeapi.PortMapping, error) {
	if pod.Spec.HostNetwork {
		return nil, nil
	}
	var out []*runtimeapi.PortMapping
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			for _, p := range list[i].Ports {
				m := &runtimeapi.PortMapping{ContainerPort: p.ContainerPort, HostPort: p.HostPort, HostIp: p.HostIP}
				switch p.Protocol {
				case corev1.ProtocolUDP:
					m.Protocol = runtimeapi.Protocol_UDP
				case corev1.ProtocolSCTP:
					m.Protocol = runtimeapi.Protocol_SCTP
				}
				if p.HostIP != "" {
					if _, err := netip.ParseAddr(p.HostIP); err != nil {
						return nil, fmt.Errorf("hostIP of port %d: %w", p.ContainerPort, err)
					}
				}
				out = append(out, m)
			}
		}
	}
	return out, nil
}
