package criconfig

import (
	"fmt"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// maskedPaths and readonlyPaths are the parts of /proc and /sys that a container normally does not see or change
// (procMount: Default).
var (
	maskedPaths = []string{
		"/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
		"/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap",
	}
	readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

// Security is a container's effective security context: the pod's, overridden by the container's.
type Security struct {
	RunAsUser, RunAsGroup *int64
	RunAsNonRoot          *bool
	Privileged            bool
	container             *corev1.SecurityContext
	pod                   *corev1.PodSecurityContext
}

// SecurityOf merges the pod's and the container's security contexts.
func SecurityOf(pod *corev1.Pod, c *corev1.Container) Security {
	s := Security{container: c.SecurityContext, pod: pod.Spec.SecurityContext}
	if s.container == nil {
		s.container = &corev1.SecurityContext{}
	}
	if s.pod == nil {
		s.pod = &corev1.PodSecurityContext{}
	}
	s.RunAsUser, s.RunAsGroup, s.RunAsNonRoot = s.pod.RunAsUser, s.pod.RunAsGroup, s.pod.RunAsNonRoot
	if s.container.RunAsUser != nil {
		s.RunAsUser = s.container.RunAsUser
	}
	if s.container.RunAsGroup != nil {
		s.RunAsGroup = s.container.RunAsGroup
	}
	if s.container.RunAsNonRoot != nil {
		s.RunAsNonRoot = s.container.RunAsNonRoot
	}
	s.Privileged = s.container.Privileged != nil && *s.container.Privileged
	return s
}

// VerifyNonRoot refuses what runAsNonRoot forbids. uid and user are the image's; uid nil if it has none.
func (s Security) VerifyNonRoot(pod *corev1.Pod, container string, uid *int64, user string) error {
	if s.RunAsNonRoot == nil || !*s.RunAsNonRoot {
		return nil
	}
	where := fmt.Sprintf("(pod: %q, container: %s)", Describe(pod), container)
	switch {
	case s.RunAsUser != nil && *s.RunAsUser == 0:
		return fmt.Errorf("container's runAsUser breaks non-root policy %s", where)
	case s.RunAsUser != nil:
		return nil
	case uid != nil && *uid == 0, uid == nil && user == "":
		return fmt.Errorf("container has runAsNonRoot and image will run as root %s", where)
	case uid == nil:
		return fmt.Errorf("container has runAsNonRoot and image has non-numeric user (%s), cannot verify user is non-root %s", user, where)
	}
	return nil
}

// Describe is how messages name a pod: name_namespace(uid).
func Describe(pod *corev1.Pod) string {
	return fmt.Sprintf("%s_%s(%s)", pod.Name, pod.Namespace, pod.UID)
}

// Options are the node's own choices in security.
type Options struct {
	SeccompDir string // where localhost seccomp profiles live
}

// container is the CRI form. uid and user are the image's.
func (s Security) linux(pod *corev1.Pod, o Options, namespaces *runtimeapi.NamespaceOption, uid *int64, user string, groups []int64) *runtimeapi.LinuxContainerSecurityContext {
	c := s.container
	out := &runtimeapi.LinuxContainerSecurityContext{
		Privileged:       s.Privileged,
		NamespaceOptions: namespaces,
		ReadonlyRootfs:   c.ReadOnlyRootFilesystem != nil && *c.ReadOnlyRootFilesystem,
		NoNewPrivs:       s.noNewPrivileges(),
	}
	switch {
	case s.RunAsUser != nil:
		out.RunAsUser = &runtimeapi.Int64Value{Value: *s.RunAsUser}
	case uid != nil:
		out.RunAsUser = &runtimeapi.Int64Value{Value: *uid}
	default:
		out.RunAsUsername = user
	}
	if s.RunAsGroup != nil && (out.RunAsUser != nil || out.RunAsUsername != "") {
		out.RunAsGroup = &runtimeapi.Int64Value{Value: *s.RunAsGroup}
	} else if s.RunAsGroup != nil {
		out.RunAsUser = &runtimeapi.Int64Value{Value: 0}
		out.RunAsGroup = &runtimeapi.Int64Value{Value: *s.RunAsGroup}
	}
	if s.pod.FSGroup != nil {
		out.SupplementalGroups = append(out.SupplementalGroups, *s.pod.FSGroup)
	}
	out.SupplementalGroups = append(out.SupplementalGroups, s.pod.SupplementalGroups...)
	out.SupplementalGroups = append(out.SupplementalGroups, groups...)
	if p := s.pod.SupplementalGroupsPolicy; p != nil && *p == corev1.SupplementalGroupsPolicyStrict {
		out.SupplementalGroupsPolicy = runtimeapi.SupplementalGroupsPolicy_Strict
	}
	if caps := c.Capabilities; caps != nil {
		out.Capabilities = &runtimeapi.Capability{}
		for _, n := range caps.Add {
			out.Capabilities.AddCapabilities = append(out.Capabilities.AddCapabilities, string(n))
		}
		for _, n := range caps.Drop {
			out.Capabilities.DropCapabilities = append(out.Capabilities.DropCapabilities, string(n))
		}
	}
	se := s.pod.SELinuxOptions
	if c.SELinuxOptions != nil {
		se = c.SELinuxOptions
	}
	out.SelinuxOptions = selinux(se)
	profile := s.pod.SeccompProfile
	if c.SeccompProfile != nil {
		profile = c.SeccompProfile
	}
	out.Seccomp = seccomp(profile, s.Privileged, o)
	armor := s.pod.AppArmorProfile
	if c.AppArmorProfile != nil {
		armor = c.AppArmorProfile
	}
	out.Apparmor = apparmor(armor)
	if c.ProcMount == nil || *c.ProcMount != corev1.UnmaskedProcMount {
		out.MaskedPaths, out.ReadonlyPaths = maskedPaths, readonlyPaths
	}
	return out
}

func (s Security) noNewPrivileges() bool {
	return s.container.AllowPrivilegeEscalation != nil && !*s.container.AllowPrivilegeEscalation
}

func selinux(o *corev1.SELinuxOptions) *runtimeapi.SELinuxOption {
	if o == nil {
		return nil
	}
	return &runtimeapi.SELinuxOption{User: o.User, Role: o.Role, Type: o.Type, Level: o.Level}
}

// seccomp chooses RuntimeDefault where the pod says nothing: secure by default.
func seccomp(p *corev1.SeccompProfile, privileged bool, o Options) *runtimeapi.SecurityProfile {
	if p == nil {
		if privileged {
			return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}
		}
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
	}
	switch p.Type {
	case corev1.SeccompProfileTypeUnconfined:
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}
	case corev1.SeccompProfileTypeLocalhost:
		ref := ""
		if p.LocalhostProfile != nil {
			ref = filepath.Join(o.SeccompDir, filepath.Clean("/"+*p.LocalhostProfile))
		}
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: ref}
	}
	return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
}

func apparmor(p *corev1.AppArmorProfile) *runtimeapi.SecurityProfile {
	if p == nil {
		return nil
	}
	switch p.Type {
	case corev1.AppArmorProfileTypeUnconfined:
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}
	case corev1.AppArmorProfileTypeLocalhost:
		ref := ""
		if p.LocalhostProfile != nil {
			ref = strings.TrimSpace(*p.LocalhostProfile)
		}
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: ref}
	}
	return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
}

// namespaces are the namespaces of the pod's sandbox and containers. target is the id of the container whose processes an
// ephemeral container wants to see, or "".
func namespaces(pod *corev1.Pod, target string) *runtimeapi.NamespaceOption {
	o := &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER}
	if pod.Spec.HostNetwork {
		o.Network = runtimeapi.NamespaceMode_NODE
	}
	if pod.Spec.HostIPC {
		o.Ipc = runtimeapi.NamespaceMode_NODE
	}
	switch {
	case pod.Spec.HostPID:
		o.Pid = runtimeapi.NamespaceMode_NODE
	case pod.Spec.ShareProcessNamespace != nil && *pod.Spec.ShareProcessNamespace:
		o.Pid = runtimeapi.NamespaceMode_POD
	case target != "":
		o.Pid, o.TargetId = runtimeapi.NamespaceMode_TARGET, target
	}
	return o
}
