package podspec

import (
	"fmt"
	"reflect"
	"unicode"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api/check"
)

// validateCommon checks what containers of all three sorts have in common.
func (v *specValidation) validateCommon(c *corev1.Container, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if c.Name == "" {
		errs = append(errs, field.Required(p.Child("name"), ""))
	} else {
		errs = append(errs, dnsLabel(c.Name, p, "name")...)
	}
	if c.Image == "" {
		errs = append(errs, field.Required(p.Child("image"), ""))
	}
	switch c.TerminationMessagePolicy {
	case corev1.TerminationMessageReadFile, corev1.TerminationMessageFallbackToLogsOnError:
	case "":
		errs = append(errs, field.Required(p.Child("terminationMessagePolicy"), ""))
	default:
		errs = append(errs, field.NotSupported(p.Child("terminationMessagePolicy"), c.TerminationMessagePolicy, []corev1.TerminationMessagePolicy{
			corev1.TerminationMessageReadFile, corev1.TerminationMessageFallbackToLogsOnError,
		}))
	}
	if len(c.Ports) > 0 {
		errs = append(errs, validatePorts(c.Ports, p.Child("ports"))...)
	}
	if len(c.Env) > 0 {
		errs = append(errs, validateEnv(c.Env, p.Child("env"))...)
	}
	if len(c.EnvFrom) > 0 {
		errs = append(errs, validateEnvFrom(c.EnvFrom, p.Child("envFrom"))...)
	}
	if len(c.VolumeMounts) > 0 {
		errs = append(errs, v.validateMounts(c, p.Child("volumeMounts"))...)
	}
	if len(c.VolumeDevices) > 0 {
		errs = append(errs, v.validateDevices(c, p.Child("volumeDevices"))...)
	}
	errs = append(errs, validatePullPolicy(c.ImagePullPolicy, p.Child("imagePullPolicy"))...)
	if r := &c.Resources; len(r.Limits) > 0 || len(r.Requests) > 0 || len(r.Claims) > 0 {
		errs = append(errs, v.validateRequirements(r, p.Child("resources"), check.ContainerResourceName)...)
	}
	if len(c.ResizePolicy) > 0 {
		errs = append(errs, v.validateResizePolicy(c.ResizePolicy, p.Child("resizePolicy"))...)
	}
	if c.SecurityContext != nil {
		errs = append(errs, v.validateContainerSecurity(c.SecurityContext, p.Child("securityContext"))...)
	}
	return errs
}

// dnsLabel wants the field of that name to be an RFC 1123 label.
func dnsLabel(v string, p *field.Path, name string) field.ErrorList {
	if texts := check.IsDNS1123Label(v); texts != nil {
		return check.Each(texts, p.Child(name), v)
	}
	return nil
}

func validatePullPolicy(v corev1.PullPolicy, p *field.Path) field.ErrorList {
	return check.Enum(v, p, corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever)
}

// validateContainers checks the regular containers.
func (v *specValidation) validateContainers(p *field.Path) field.ErrorList {
	list := v.spec.Containers
	if len(list) == 0 {
		return field.ErrorList{field.Required(p, "")}
	}
	var errs field.ErrorList
	seen := sets.New[string]()
	for i := range list {
		c, at := &list[i], p.Index(i)
		errs = append(errs, v.validateCommon(c, at)...)
		if seen.Has(c.Name) {
			errs = append(errs, field.Duplicate(at.Child("name"), c.Name))
		} else if c.Name != "" {
			seen.Insert(c.Name)
		}
		errs = append(errs, v.validateLife(c, at)...)
		errs = append(errs, v.validateContainerRestart(c, at)...)
	}
	return append(errs, validatePortConflicts(list, p)...)
}

// validateLife checks hooks and probes.
func (v *specValidation) validateLife(c *corev1.Container, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if c.Lifecycle != nil {
		errs = v.validateLifecycle(c.Lifecycle, p.Child("lifecycle"))
	}
	if c.LivenessProbe != nil {
		errs = append(errs, validateLiveness(c.LivenessProbe, p.Child("livenessProbe"))...)
	}
	if c.ReadinessProbe != nil {
		errs = append(errs, validateReadiness(c.ReadinessProbe, p.Child("readinessProbe"))...)
	}
	if c.StartupProbe != nil {
		errs = append(errs, validateLiveness(c.StartupProbe, p.Child("startupProbe"))...)
	}
	return errs
}

// validateInitContainers checks the init containers, among which those that are always restarted are sidecars (KEP-753).
func (v *specValidation) validateInitContainers(p *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := sets.New[string]()
	for i := range v.spec.Containers {
		seen.Insert(v.spec.Containers[i].Name)
	}
	for i := range v.spec.InitContainers {
		c, at := &v.spec.InitContainers[i], p.Index(i)
		errs = append(errs, v.validateCommon(c, at)...)
		restart := v.validateContainerRestart(c, at)
		if c.RestartPolicy == nil && len(restart) > 1 {
			restart = restart[:1] // rules are not looked at where there is no policy
		}
		errs = append(errs, restart...)
		if seen.Has(c.Name) {
			errs = append(errs, field.Duplicate(at.Child("name"), c.Name))
		} else if c.Name != "" {
			seen.Insert(c.Name)
		}
		errs = append(errs, validatePortConflicts([]corev1.Container{*c}, p)...)
		if IsSidecar(c) {
			errs = append(errs, v.validateLife(c, at)...)
		} else {
			errs = append(errs, forbidLife(c, at)...)
			if !v.opts.AllowInitRestartOnResize {
				errs = append(errs, forbidRestartOnResize(c, at)...)
			}
		}
	}
	return errs
}

// IsSidecar says whether an init container is one that keeps running beside the regular ones (KEP-753).
func IsSidecar(c *corev1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}

func forbidLife(c *corev1.Container, p *field.Path) field.ErrorList {
	const text = "may not be set for init containers without restartPolicy=Always"
	var errs field.ErrorList
	for _, f := range []struct {
		set  bool
		name string
	}{
		{c.Lifecycle != nil, "lifecycle"},
		{c.LivenessProbe != nil, "livenessProbe"},
		{c.ReadinessProbe != nil, "readinessProbe"},
		{c.StartupProbe != nil, "startupProbe"},
	} {
		if f.set {
			errs = append(errs, field.Forbidden(p.Child(f.name), text))
		}
	}
	return errs
}

// forbidRestartOnResize wants a container that only prepares the pod to grow while it runs: beginning it again would do its work twice.
func forbidRestartOnResize(c *corev1.Container, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, r := range c.ResizePolicy {
		if r.RestartPolicy == corev1.RestartContainer {
			errs = append(errs, field.Invalid(p.Child("resizePolicy").Index(i).Child("restartPolicy"), r.RestartPolicy, "must not be set to 'RestartContainer' for non-sidecar initContainers"))
		}
	}
	return errs
}

// Limits of the rules by which a container's exit decides about its restart (KEP-5307).
const (
	maxRestartRules     = 20
	maxRestartExitCodes = 255
)

// validateContainerRestart checks a container's own restart policy and its rules.
func (v *specValidation) validateContainerRestart(c *corev1.Container, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if c.RestartPolicy != nil {
		errs = append(errs, check.OneOf(*c.RestartPolicy, p.Child("restartPolicy"), corev1.ContainerRestartPolicyAlways,
			corev1.ContainerRestartPolicyNever, corev1.ContainerRestartPolicyOnFailure)...)
	}
	if len(c.RestartPolicyRules) == 0 {
		return errs
	}
	rules := p.Child("restartPolicyRules")
	if c.RestartPolicy == nil {
		errs = append(errs, field.Required(p.Child("restartPolicy"), "must specify restartPolicy when restart rules are used"))
	}
	if len(c.RestartPolicyRules) > maxRestartRules {
		errs = append(errs, field.TooMany(rules, len(c.RestartPolicyRules), maxRestartRules))
	}
	for i := range c.RestartPolicyRules {
		errs = append(errs, validateRestartRule(&c.RestartPolicyRules[i], rules.Index(i))...)
	}
	return errs
}

func validateRestartRule(r *corev1.ContainerRestartRule, p *field.Path) field.ErrorList {
	errs := check.OneOf(r.Action, p.Child("action"), corev1.ContainerRestartRuleActionRestart, corev1.ContainerRestartRuleActionRestartAllContainers)
	codes := p.Child("exitCodes")
	if r.ExitCodes == nil {
		return append(errs, field.Required(codes, "must be specified"))
	}
	errs = append(errs, check.OneOf(r.ExitCodes.Operator, codes.Child("operator"),
		corev1.ContainerRestartRuleOnExitCodesOpIn, corev1.ContainerRestartRuleOnExitCodesOpNotIn)...)
	if n := len(r.ExitCodes.Values); n > maxRestartExitCodes {
		errs = append(errs, field.TooMany(codes.Child("values"), n, maxRestartExitCodes))
	}
	return errs
}

// ephemeralFields are what ephemeral containers may have: they come and go and nobody may rely on them (KEP-277).
var ephemeralFields = sets.New("Name", "Image", "Command", "Args", "WorkingDir", "EnvFrom", "Env", "VolumeMounts", "VolumeDevices",
	"TerminationMessagePath", "TerminationMessagePolicy", "ImagePullPolicy", "SecurityContext", "Stdin", "StdinOnce", "TTY") // read-only

// validateEphemeralContainers checks the containers that were added for debugging.
func (v *specValidation) validateEphemeralContainers(p *field.Path) field.ErrorList {
	const text = "cannot be set for an Ephemeral Container"
	if len(v.spec.EphemeralContainers) == 0 {
		return nil
	}
	var errs field.ErrorList
	targets := sets.New[string]()
	for _, list := range [][]corev1.Container{v.spec.Containers, v.spec.InitContainers} {
		for i := range list {
			targets.Insert(list[i].Name)
		}
	}
	seen := targets.Clone()
	for i := range v.spec.EphemeralContainers {
		e, at := &v.spec.EphemeralContainers[i], p.Index(i)
		c := corev1.Container(e.EphemeralContainerCommon)
		errs = append(errs, v.validateCommon(&c, at)...)
		if seen.Has(c.Name) {
			errs = append(errs, field.Duplicate(at.Child("name"), c.Name))
		}
		seen.Insert(c.Name)
		if e.TargetContainerName != "" && !targets.Has(e.TargetContainerName) {
			errs = append(errs, field.NotFound(at.Child("targetContainerName"), e.TargetContainerName))
		}
		fields := reflect.ValueOf(e.EphemeralContainerCommon)
		for j := range fields.NumField() {
			name := fields.Type().Field(j).Name
			if !ephemeralFields.Has(name) && !fields.Field(j).IsZero() {
				errs = append(errs, field.Forbidden(at.Child(lowerFirst(name)), text))
			}
		}
		for j := range e.VolumeMounts {
			m := at.Child("volumeMounts").Index(j)
			if e.VolumeMounts[j].SubPath != "" {
				errs = append(errs, field.Forbidden(m.Child("subPath"), text))
			}
			if e.VolumeMounts[j].SubPathExpr != "" {
				errs = append(errs, field.Forbidden(m.Child("subPathExpr"), text))
			}
		}
	}
	return errs
}

func lowerFirst(s string) string {
	r := []rune(s)
	r[0] = unicode.ToLower(r[0])
	return string(r)
}

func validatePorts(ports []corev1.ContainerPort, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := sets.New[string]()
	for i := range ports {
		c, at := &ports[i], p.Index(i)
		if c.Name != "" {
			if texts := validation.IsValidPortName(c.Name); len(texts) > 0 {
				errs = append(errs, check.Each(texts, at.Child("name"), c.Name)...)
			} else if seen.Has(c.Name) {
				errs = append(errs, field.Duplicate(at.Child("name"), c.Name))
			}
			seen.Insert(c.Name)
		}
		if c.ContainerPort == 0 {
			errs = append(errs, field.Required(at.Child("containerPort"), ""))
		} else {
			errs = append(errs, check.Port(c.ContainerPort, at.Child("containerPort"))...)
		}
		if c.HostPort != 0 {
			errs = append(errs, check.Port(c.HostPort, at.Child("hostPort"))...)
		}
		errs = append(errs, check.Enum(c.Protocol, at.Child("protocol"), corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)...)
	}
	return errs
}

// validatePortConflicts wants containers that run at the same time not to take the same port of the host.
func validatePortConflicts(list []corev1.Container, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := sets.New[string]()
	for i := range list {
		for j := range list[i].Ports {
			c := &list[i].Ports[j]
			if c.HostPort == 0 {
				continue
			}
			key := fmt.Sprintf("%s/%s/%d", c.Protocol, c.HostIP, c.HostPort)
			if seen.Has(key) {
				errs = append(errs, field.Duplicate(p.Index(i).Child("ports").Index(j).Child("hostPort"), key))
			}
			seen.Insert(key)
		}
	}
	return errs
}

// validateHostPorts wants the ports of a pod in the host's network to be the host's. In a template they may be left out.
func (v *specValidation) validateHostPorts(p *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range v.spec.Containers {
		for j, c := range v.spec.Containers[i].Ports {
			if c.HostPort == c.ContainerPort || (v.opts.Template && c.HostPort == 0) {
				continue
			}
			errs = append(errs, field.Invalid(p.Index(i).Child("ports").Index(j).Child("hostPort"), c.HostPort,
				"must match `containerPort` when `hostNetwork` is true"))
		}
	}
	return errs
}
