package podspec

import (
	"fmt"
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api/check"
)

// maxProfilePath is how long the path of an AppArmor profile may be: PATH_MAX without its final zero.
const maxProfilePath = 4095

// validateSecurity checks the pod's security context.
func (v *specValidation) validateSecurity(p *field.Path) field.ErrorList {
	s := v.spec.SecurityContext
	var errs field.ErrorList
	if s == nil {
		s = &corev1.PodSecurityContext{}
	}
	if s.FSGroup != nil {
		errs = append(errs, check.Each(validation.IsValidGroupID(*s.FSGroup), p.Child("fsGroup"), *s.FSGroup)...)
	}
	errs = append(errs, validateUser(s.RunAsUser, s.RunAsGroup, p)...)
	for i, g := range s.SupplementalGroups {
		errs = append(errs, check.Each(validation.IsValidGroupID(g), p.Child("supplementalGroups").Index(i), g)...)
	}
	errs = append(errs, v.validateSysctls(s.Sysctls, p.Child("sysctls"))...)
	if s.FSGroupChangePolicy != nil {
		errs = append(errs, check.OneOf(*s.FSGroupChangePolicy, p.Child("fsGroupChangePolicy"), corev1.FSGroupChangeOnRootMismatch, corev1.FSGroupChangeAlways)...)
	}
	errs = append(errs, validateSeccomp(s.SeccompProfile, p.Child("seccompProfile"))...)
	errs = append(errs, validateWindowsOptions(s.WindowsOptions, p.Child("windowsOptions"))...)
	errs = append(errs, validateAppArmor(s.AppArmorProfile, p.Child("appArmorProfile"))...)
	if s.SupplementalGroupsPolicy != nil {
		errs = append(errs, check.OneOf(*s.SupplementalGroupsPolicy, p.Child("supplementalGroupsPolicy"),
			corev1.SupplementalGroupsPolicyMerge, corev1.SupplementalGroupsPolicyStrict)...)
	}
	if s.SELinuxChangePolicy != nil {
		errs = append(errs, check.OneOf(*s.SELinuxChangePolicy, p.Child("seLinuxChangePolicy"),
			corev1.SELinuxChangePolicyMountOption, corev1.SELinuxChangePolicyRecursive)...)
	}
	return errs
}

// validateSharing refuses processes that are the pod's own and the host's at once.
func (v *specValidation) validateSharing(p *field.Path) field.ErrorList {
	share := v.spec.ShareProcessNamespace
	if share != nil && *share && v.spec.HostPID {
		return field.ErrorList{field.Invalid(p, *share, "ShareProcessNamespace and HostPID cannot both be enabled")}
	}
	return nil
}

func validateUser(user, group *int64, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if user != nil {
		errs = append(errs, check.Each(validation.IsValidUserID(*user), p.Child("runAsUser"), *user)...)
	}
	if group != nil {
		errs = append(errs, check.Each(validation.IsValidGroupID(*group), p.Child("runAsGroup"), *group)...)
	}
	return errs
}

// What a sysctl may be called. The pattern is a part of the message.
const (
	sysctlPattern   = `^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$`
	maxSysctlLength = 253
)

var sysctlRegexp = regexp.MustCompile(sysctlPattern) // read-only

// normalSysctl writes a name with dots, as it is compared: "net/ipv4/conf/eth0.1/x" is net.ipv4.conf.eth0/1.x.
func normalSysctl(name string) string {
	slash := strings.IndexByte(name, '/')
	if dot := strings.IndexByte(name, '.'); slash < 0 || (dot >= 0 && dot < slash) {
		return name
	}
	return strings.Map(func(r rune) rune {
		switch r {
		case '.':
			return '/'
		case '/':
			return '.'
		}
		return r
	}, name)
}

// hostNamespaceOf returns the field of the pod by which a sysctl would be the host's, "" if it is the pod's own.
func hostNamespaceOf(sysctl string, s *corev1.PodSpec) string {
	name := normalSysctl(sysctl)
	switch {
	case strings.HasPrefix(name, "net."):
		if s.HostNetwork {
			return "hostNetwork"
		}
	case strings.HasPrefix(name, "kernel.shm"), strings.HasPrefix(name, "kernel.msg"), name == "kernel.sem", strings.HasPrefix(name, "fs.mqueue."):
		if s.HostIPC {
			return "hostIPC"
		}
	}
	return ""
}

func (v *specValidation) validateSysctls(list []corev1.Sysctl, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := sets.New[string]()
	for i := range list {
		name, at := list[i].Name, p.Index(i).Child("name")
		switch {
		case name == "":
			errs = append(errs, field.Required(at, ""))
		case len(name) > maxSysctlLength || !sysctlRegexp.MatchString(name):
			errs = append(errs, field.Invalid(at, name, fmt.Sprintf("must have at most %d characters and match regex %s", maxSysctlLength, sysctlPattern)))
		case seen.Has(normalSysctl(name)):
			errs = append(errs, field.Duplicate(at, name))
		}
		if f := hostNamespaceOf(name, v.spec); f != "" && !v.opts.AllowHostSysctls {
			errs = append(errs, field.Invalid(at, name, "may not be specified when '"+f+"' is true"))
		}
		seen.Insert(normalSysctl(name))
	}
	return errs
}

func validateSeccomp(s *corev1.SeccompProfile, p *field.Path) field.ErrorList {
	if s == nil {
		return nil
	}
	var errs field.ErrorList
	if s.Type == "" {
		errs = append(errs, field.Required(p.Child("type"), "type is required when seccompProfile is set"))
	} else {
		errs = append(errs, check.OneOf(s.Type, p.Child("type"), corev1.SeccompProfileTypeLocalhost, corev1.SeccompProfileTypeRuntimeDefault, corev1.SeccompProfileTypeUnconfined)...)
	}
	local := p.Child("localhostProfile")
	switch {
	case s.Type == corev1.SeccompProfileTypeLocalhost && s.LocalhostProfile == nil:
		errs = append(errs, field.Required(local, "must be set when seccomp type is Localhost"))
	case s.Type == corev1.SeccompProfileTypeLocalhost:
		errs = append(errs, validateLocalPath(*s.LocalhostProfile, local)...)
	case s.LocalhostProfile != nil:
		errs = append(errs, field.Invalid(local, check.Rendered(s), "can only be set when seccomp type is Localhost"))
	}
	return errs
}

func validateAppArmor(a *corev1.AppArmorProfile, p *field.Path) field.ErrorList {
	if a == nil {
		return nil
	}
	local := p.Child("localhostProfile")
	const missing = "must be set when AppArmor type is Localhost"
	switch a.Type {
	case corev1.AppArmorProfileTypeLocalhost:
		if a.LocalhostProfile == nil {
			return field.ErrorList{field.Required(local, missing)}
		}
		name := *a.LocalhostProfile
		var errs field.ErrorList
		if strings.TrimSpace(name) != name {
			errs = append(errs, field.Invalid(local, name, "must not be padded with whitespace"))
		} else if name == "" {
			errs = append(errs, field.Required(local, missing))
		}
		if len(name) > maxProfilePath {
			errs = append(errs, field.TooLong(local, name, maxProfilePath))
		}
		return errs
	case corev1.AppArmorProfileTypeRuntimeDefault, corev1.AppArmorProfileTypeUnconfined:
		if a.LocalhostProfile != nil {
			return field.ErrorList{field.Invalid(local, a.LocalhostProfile, "can only be set when AppArmor type is Localhost")}
		}
		return nil
	case "":
		return field.ErrorList{field.Required(p.Child("type"), "type is required when appArmorProfile is set")}
	}
	return check.OneOf(a.Type, p.Child("type"), corev1.AppArmorProfileTypeLocalhost, corev1.AppArmorProfileTypeRuntimeDefault, corev1.AppArmorProfileTypeUnconfined)
}

// validateContainerSecurity checks a container's security context.
func (v *specValidation) validateContainerSecurity(s *corev1.SecurityContext, p *field.Path) field.ErrorList {
	errs := validateUser(s.RunAsUser, s.RunAsGroup, p)
	if s.ProcMount != nil {
		errs = append(errs, check.OneOf(*s.ProcMount, p.Child("procMount"), corev1.DefaultProcMount, corev1.UnmaskedProcMount)...)
		if *s.ProcMount == corev1.UnmaskedProcMount && v.hostUsers() {
			errs = append(errs, field.Invalid(p.Child("procMount"), *s.ProcMount, "`hostUsers` must be false to use `Unmasked`"))
		}
	}
	errs = append(errs, validateSeccomp(s.SeccompProfile, p.Child("seccompProfile"))...)
	if s.AllowPrivilegeEscalation != nil && !*s.AllowPrivilegeEscalation {
		if s.Privileged != nil && *s.Privileged {
			errs = append(errs, field.Invalid(p, check.Rendered(s), "cannot set `allowPrivilegeEscalation` to false and `privileged` to true"))
		}
		if s.Capabilities != nil {
			for _, c := range s.Capabilities.Add {
				if c == "CAP_SYS_ADMIN" {
					errs = append(errs, field.Invalid(p, check.Rendered(s), "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN"))
				}
			}
		}
	}
	errs = append(errs, validateWindowsOptions(s.WindowsOptions, p.Child("windowsOptions"))...)
	return append(errs, validateAppArmor(s.AppArmorProfile, p.Child("appArmorProfile"))...)
}

const ownUsersText = "when `hostUsers` is false"

// validateHostUsers wants a pod with its own users (KEP-127) to stay out of the host's other namespaces, and without block devices, whose
// owners nobody maps.
func (v *specValidation) validateHostUsers(p *field.Path) field.ErrorList {
	if v.hostUsers() {
		return nil
	}
	var errs field.ErrorList
	for _, f := range []struct {
		set  bool
		name string
	}{{v.spec.HostNetwork, "hostNetwork"}, {v.spec.HostPID, "HostPID"}, {v.spec.HostIPC, "HostIPC"}} {
		if f.set {
			errs = append(errs, field.Forbidden(p.Child(f.name), ownUsersText))
		}
	}
	if v.opts.AllowDevicesOfOwnUsers {
		return errs
	}
	for _, c := range v.all {
		if len(c.VolumeDevices) > 0 {
			errs = append(errs, field.Forbidden(c.path(p).Child("volumeDevices"), ownUsersText))
		}
	}
	return errs
}
