package node

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// safeSysctl says whose namespace a kernel setting belongs to, for those that a pod may change without touching its neighbours or using up
// the node (the list of Kubernetes 1.37); ok is false for all others.
func safeSysctl(name string) (namespace string, ok bool) {
	switch name {
	case "kernel.shm_rmid_forced":
		return "ipc", true
	case "net.ipv4.ip_local_port_range", "net.ipv4.tcp_syncookies", "net.ipv4.ping_group_range", "net.ipv4.ip_unprivileged_port_start",
		"net.ipv4.ip_local_reserved_ports", "net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl",
		"net.ipv4.tcp_keepalive_probes", "net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem":
		return "net", true
	}
	return "", false
}

// forbiddenSysctl refuses a pod that wants to change kernel settings which are not safe or not its own.
func forbiddenSysctl(pod *corev1.Pod) *rejection {
	if pod.Spec.SecurityContext == nil {
		return nil
	}
	for _, s := range pod.Spec.SecurityContext.Sysctls {
		name := strings.ReplaceAll(s.Name, "/", ".")
		namespace, ok := safeSysctl(name)
		switch {
		case !ok:
			return &rejection{"SysctlForbidden", fmt.Sprintf("forbidden sysctl: %q not allowlisted", name)}
		case namespace == "ipc" && pod.Spec.HostIPC, namespace == "net" && pod.Spec.HostNetwork:
			return &rejection{"SysctlForbidden", fmt.Sprintf("forbidden sysctl: %q not allowed with host %s enabled", name, namespace)}
		}
	}
	return nil
}
