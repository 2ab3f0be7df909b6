package node

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"github.com/celox/celox/internal/node/sysctl"
)

// forbiddenSysctl refuses a pod that wants to change kernel settings which it may not, or which are not its own.
func forbiddenSysctl(pod *corev1.Pod, allowed sysctl.Allowed) *rejection {
	if pod.Spec.SecurityContext == nil {
		return nil
	}
	for _, s := range pod.Spec.SecurityContext.Sysctls {
		namespace, ok := allowed.Namespace(s.Name)
		switch {
		case !ok:
			return &rejection{"SysctlForbidden", fmt.Sprintf("forbidden sysctl: %q not allowlisted", sysctl.Name(s.Name))}
		case namespace == sysctl.IPC && pod.Spec.HostIPC, namespace == sysctl.Net && pod.Spec.HostNetwork:
			return &rejection{"SysctlForbidden", fmt.Sprintf("forbidden sysctl: %q not allowed with host %s enabled", sysctl.Name(s.Name), namespace)}
		}
	}
	return nil
}
