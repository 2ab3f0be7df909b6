package podspec

import (
	"fmt"
	"regexp"
	"strings"
	"unicode"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api/check"
)

// Limits of Windows' user names and credential specifications.
const (
	maxCredentialSpec  = 64 * 1024
	maxWindowsUser     = 104
	maxWindowsDNSName  = 255
	forbiddenUserRunes = `"/\:;|=,+*?<>@[]`
)

// How a domain may be written, with or without dots. Read-only.
var (
	netBIOSRegexp   = regexp.MustCompile(`^[^\\/:\*\?"<>|\.][^\\/:\*\?"<>|]{0,14}$`)
	dnsDomainRegexp = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?(\.[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?)*$`)
)

func validateWindowsOptions(w *corev1.WindowsSecurityContextOptions, p *field.Path) field.ErrorList {
	if w == nil {
		return nil
	}
	var errs field.ErrorList
	if w.GMSACredentialSpecName != nil {
		errs = append(errs, check.DNSSubdomain(*w.GMSACredentialSpecName, p.Child("gmsaCredentialSpecName"))...)
	}
	if w.GMSACredentialSpec != nil {
		at, n := p.Child("gmsaCredentialSpec"), len(*w.GMSACredentialSpec)
		switch {
		case n == 0:
			errs = append(errs, field.Invalid(at, *w.GMSACredentialSpec, "gmsaCredentialSpec cannot be an empty string"))
		case n > maxCredentialSpec:
			errs = append(errs, field.Invalid(at, *w.GMSACredentialSpec, fmt.Sprintf("gmsaCredentialSpec size must be under %d KiB", maxCredentialSpec/1024)))
		}
	}
	if w.RunAsUserName != nil {
		errs = append(errs, validateWindowsUser(*w.RunAsUserName, p.Child("runAsUserName"))...)
	}
	return errs
}

// validateWindowsUser wants USER or DOMAIN\USER.
func validateWindowsUser(name string, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	bad := func(text string) { errs = append(errs, field.Invalid(p, name, text)) }
	switch {
	case name == "":
		bad("runAsUserName cannot be an empty string")
		return errs
	case strings.ContainsFunc(name, unicode.IsControl):
		bad("runAsUserName cannot contain control characters")
		return errs
	}
	parts := strings.Split(name, `\`)
	if len(parts) > 2 {
		bad("runAsUserName cannot contain more than one backslash")
		return errs
	}
	user := parts[len(parts)-1]
	if len(parts) == 2 {
		domain := parts[0]
		if len(domain) > maxWindowsDNSName {
			bad(fmt.Sprintf("runAsUserName's Domain length must be under %d characters", maxWindowsDNSName+1))
		}
		if !netBIOSRegexp.MatchString(domain) && !dnsDomainRegexp.MatchString(domain) {
			bad("runAsUserName's Domain doesn't match the NetBios nor the DNS format")
		}
	}
	switch {
	case user == "":
		bad("runAsUserName's User cannot be empty")
	case len(user) > maxWindowsUser:
		bad(fmt.Sprintf("runAsUserName's User length must not be longer than %d characters", maxWindowsUser))
	}
	if user != "" && strings.Trim(user, " .") == "" {
		bad("runAsUserName's User cannot contain only periods or spaces")
	}
	if strings.ContainsAny(user, forbiddenUserRunes) {
		bad("runAsUserName's User cannot contain the following characters: " + forbiddenUserRunes)
	}
	return errs
}

// hostProcess is what options say of running in the host itself; nil is nothing.
func hostProcess(w *corev1.WindowsSecurityContextOptions) *bool {
	if w == nil {
		return nil
	}
	return w.HostProcess
}

// located is a container with the list and the place in it where it is.
type located struct {
	*corev1.Container
	list string
	i    int
}

// path is where the container is; p is the path of the pod's spec. Paths are made when there is something to complain of: most pods are good.
func (l located) path(p *field.Path) *field.Path { return p.Child(l.list).Index(l.i) }

// containersOf lists the containers of the three sorts.
func containersOf(s *corev1.PodSpec) []located {
	out := make([]located, 0, len(s.InitContainers)+len(s.Containers)+len(s.EphemeralContainers))
	for i := range s.InitContainers {
		out = append(out, located{&s.InitContainers[i], "initContainers", i})
	}
	for i := range s.Containers {
		out = append(out, located{&s.Containers[i], "containers", i})
	}
	for i := range s.EphemeralContainers {
		c := corev1.Container(s.EphemeralContainers[i].EphemeralContainerCommon)
		out = append(out, located{&c, "ephemeralContainers", i})
	}
	return out
}

// validateHostProcess wants the containers of a Windows pod to run in the host either all or not at all (KEP-1981).
func (v *specValidation) validateHostProcess(p *field.Path) field.ErrorList {
	var pod *bool
	if v.spec.SecurityContext != nil {
		pod = hostProcess(v.spec.SecurityContext.WindowsOptions)
	}
	var errs field.ErrorList
	in, out := false, false
	for _, c := range v.all {
		var own *bool
		if c.SecurityContext != nil {
			own = hostProcess(c.SecurityContext.WindowsOptions)
		}
		if pod != nil && own != nil && *pod != *own {
			errs = append(errs, field.Invalid(c.path(p).Child("securityContext", "windowsOptions", "hostProcess"), *own,
				fmt.Sprintf("pod hostProcess value must be identical if both are specified, was %v", *pod)))
		}
		switch {
		case own != nil && *own, own == nil && pod != nil && *pod:
			in = true
		default:
			out = true
		}
	}
	if !in {
		return errs
	}
	if out {
		errs = append(errs, field.Invalid(p, "", "If pod contains any hostProcess containers then all containers must be HostProcess containers"))
	}
	if !v.spec.HostNetwork {
		errs = append(errs, field.Invalid(p.Child("hostNetwork"), false, "hostNetwork must be true if pod contains any hostProcess containers"))
	}
	return errs
}

// validateOS checks the operating system and that nothing is asked of it that it doesn't have (KEP-2802).
func (v *specValidation) validateOS(p *field.Path) field.ErrorList {
	if v.spec.OS == nil {
		return nil
	}
	switch name := v.spec.OS.Name; name {
	case corev1.Linux:
		return v.validateLinux(p)
	case corev1.Windows:
		return v.validateWindows(p)
	case "":
		return field.ErrorList{field.Required(p.Child("os", "name"), "")}
	default:
		return check.OneOf(name, p.Child("os"), corev1.Linux, corev1.Windows)
	}
}

func (v *specValidation) validateLinux(p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if s := v.spec.SecurityContext; s != nil && s.WindowsOptions != nil {
		errs = append(errs, field.Forbidden(p.Child("securityContext", "windowsOptions"), "windows options cannot be set for a linux pod"))
	}
	for _, c := range v.all {
		if c.SecurityContext != nil && c.SecurityContext.WindowsOptions != nil {
			errs = append(errs, field.Forbidden(c.path(p).Child("securityContext", "windowsOptions"), "windows options cannot be set for a linux pod"))
		}
	}
	return errs
}

func (v *specValidation) validateWindows(p *field.Path) field.ErrorList {
	var errs field.ErrorList
	forbid := func(set bool, p *field.Path) {
		if set {
			errs = append(errs, field.Forbidden(p, "cannot be set for a windows pod"))
		}
	}
	s := v.spec.SecurityContext
	if s == nil {
		s = &corev1.PodSecurityContext{}
	}
	at := p.Child("securityContext")
	forbid(s.AppArmorProfile != nil, at.Child("appArmorProfile"))
	forbid(s.SELinuxOptions != nil, at.Child("seLinuxOptions"))
	forbid(s.SeccompProfile != nil, at.Child("seccompProfile"))
	forbid(s.FSGroup != nil, at.Child("fsGroup"))
	forbid(s.FSGroupChangePolicy != nil, at.Child("fsGroupChangePolicy"))
	forbid(len(s.Sysctls) > 0, at.Child("sysctls"))
	forbid(s.RunAsUser != nil, at.Child("runAsUser"))
	forbid(s.RunAsGroup != nil, at.Child("runAsGroup"))
	forbid(s.SupplementalGroups != nil, at.Child("supplementalGroups"))
	forbid(s.SupplementalGroupsPolicy != nil, at.Child("supplementalGroupsPolicy"))
	forbid(s.SELinuxChangePolicy != nil, at.Child("seLinuxChangePolicy"))
	forbid(v.spec.HostUsers != nil, p.Child("hostUsers"))
	forbid(v.spec.HostPID, p.Child("hostPID"))
	forbid(v.spec.HostIPC, p.Child("hostIPC"))
	forbid(v.spec.ShareProcessNamespace != nil, p.Child("shareProcessNamespace"))
	for _, c := range v.all {
		s := c.SecurityContext
		if s == nil {
			continue
		}
		at := c.path(p).Child("securityContext")
		forbid(s.AppArmorProfile != nil, at.Child("appArmorProfile"))
		forbid(s.SELinuxOptions != nil, at.Child("seLinuxOptions"))
		forbid(s.SeccompProfile != nil, at.Child("seccompProfile"))
		forbid(s.Capabilities != nil, at.Child("capabilities"))
		forbid(s.ReadOnlyRootFilesystem != nil, at.Child("readOnlyRootFilesystem"))
		forbid(s.Privileged != nil, at.Child("privileged"))
		forbid(s.AllowPrivilegeEscalation != nil, at.Child("allowPrivilegeEscalation"))
		forbid(s.ProcMount != nil, at.Child("procMount"))
		forbid(s.RunAsUser != nil, at.Child("runAsUser"))
		forbid(s.RunAsGroup != nil, at.Child("runAsGroup"))
	}
	return errs
}
