package podspec

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api/check"
)

// specValidation is one validation of one spec: what its parts need to know of each other.
type specValidation struct {
	spec    *corev1.PodSpec
	meta    *metav1.ObjectMeta
	opts    Options
	volumes map[string]*corev1.VolumeSource // the valid ones
	claims  sets.Set[string]                // names of resource claims
	all     []located
}

// grace is the pod's grace period in seconds.
func (v *specValidation) grace() int64 {
	if g := v.spec.TerminationGracePeriodSeconds; g != nil {
		return *g
	}
	return 0
}

// hostUsers says whether the pod's users are the host's.
func (v *specValidation) hostUsers() bool { return v.spec.HostUsers == nil || *v.spec.HostUsers }

// ValidatePodSpec checks spec; meta is that of the pod or template which has it. The complaints come in upstream's order.
func ValidatePodSpec(spec *corev1.PodSpec, meta *metav1.ObjectMeta, p *field.Path, opts Options) field.ErrorList {
	v := &specValidation{spec: spec, meta: meta, opts: opts, claims: sets.New[string](), all: containersOf(spec)}
	for i := range spec.ResourceClaims {
		if name := spec.ResourceClaims[i].Name; name != "" {
			v.claims.Insert(name)
		}
	}
	errs := v.validateVolumes(p.Child("volumes"))
	if _, mirror := meta.Annotations[corev1.MirrorPodAnnotationKey]; mirror && !opts.Template && len(spec.ResourceClaims) > 0 {
		errs = append(errs, field.Forbidden(field.NewPath(""), "static pods do not support resource claims"))
	} else if len(spec.ResourceClaims) > 0 {
		errs = append(errs, validateResourceClaims(spec.ResourceClaims, p.Child("resourceClaims"))...)
	}
	errs = append(errs, v.validateContainers(p.Child("containers"))...)
	if len(spec.InitContainers) > 0 {
		errs = append(errs, v.validateInitContainers(p.Child("initContainers"))...)
	}
	if len(spec.EphemeralContainers) > 0 {
		errs = append(errs, v.validateEphemeralContainers(p.Child("ephemeralContainers"))...)
	}
	if spec.Resources != nil {
		errs = append(errs, v.validatePodResources(p.Child("resources"))...)
	}
	if spec.HostNetwork {
		errs = append(errs, v.validateHostPorts(p.Child("containers"))...)
	}
	errs = append(errs, validateRestartPolicy(spec.RestartPolicy, p.Child("restartPolicy"))...)
	errs = append(errs, validateDNSPolicy(spec.DNSPolicy, p.Child("dnsPolicy"))...)
	if len(spec.NodeSelector) > 0 {
		errs = append(errs, check.Labels(spec.NodeSelector, p.Child("nodeSelector"))...)
	}
	errs = append(errs, v.validateSecurity(p.Child("securityContext"))...)
	errs = append(errs, v.validateSharing(p.Child("shareProcessNamespace"))...)
	if spec.Affinity != nil {
		errs = append(errs, v.validateAffinity(p.Child("affinity"))...)
	}
	errs = append(errs, v.validateDNSConfig(p.Child("dnsConfig"))...)
	if len(spec.ReadinessGates) > 0 {
		errs = append(errs, validateReadinessGates(spec.ReadinessGates, p.Child("readinessGates"))...)
	}
	if len(spec.SchedulingGates) > 0 {
		errs = append(errs, validateSchedulingGates(spec.SchedulingGates, p.Child("schedulingGates"))...)
	}
	if len(spec.TopologySpreadConstraints) > 0 {
		errs = append(errs, v.validateSpread(p.Child("topologySpreadConstraints"))...)
	}
	errs = append(errs, v.validateHostProcess(p)...)
	errs = append(errs, v.validateHostUsers(p)...)
	if spec.HostnameOverride != nil {
		errs = append(errs, v.validateHostnameOverride(p.Child("hostnameOverride"))...)
	}
	errs = append(errs, v.validateNames(p)...)
	if len(spec.Tolerations) > 0 {
		errs = append(errs, ValidateTolerations(spec.Tolerations, p.Child("tolerations"))...)
	}
	if len(spec.HostAliases) > 0 {
		errs = append(errs, v.validateHostAliases(p.Child("hostAliases"))...)
	}
	errs = append(errs, v.validateClasses(p)...)
	errs = append(errs, v.validateOS(p)...)
	return append(errs, v.validateFileVolumes(p)...)
}

// validateNames covers the names and the deadline of the pod.
func (v *specValidation) validateNames(p *field.Path) field.ErrorList {
	s := v.spec
	var errs field.ErrorList
	if s.ServiceAccountName != "" {
		errs = append(errs, check.DNSSubdomain(s.ServiceAccountName, p.Child("serviceAccountName"))...)
	}
	if s.NodeName != "" {
		errs = append(errs, check.DNSSubdomain(s.NodeName, p.Child("nodeName"))...)
	}
	errs = append(errs, ValidateDeadline(s.ActiveDeadlineSeconds, p.Child("activeDeadlineSeconds"))...)
	if s.Hostname != "" {
		errs = append(errs, check.DNSLabel(s.Hostname, p.Child("hostname"))...)
	}
	if s.Subdomain != "" {
		errs = append(errs, check.DNSLabel(s.Subdomain, p.Child("subdomain"))...)
	}
	return errs
}

// maxHostname is how long a Linux host name may be.
const maxHostname = 64

func (v *specValidation) validateHostnameOverride(p *field.Path) field.ErrorList {
	name := v.spec.HostnameOverride
	var errs field.ErrorList
	if v.spec.SetHostnameAsFQDN != nil && *v.spec.SetHostnameAsFQDN {
		errs = append(errs, field.Forbidden(p, "may not be specified when setHostnameAsFQDN is true"))
	}
	if v.spec.HostNetwork {
		errs = append(errs, field.Forbidden(p, "may not be specified when hostNetwork is true"))
	}
	if len(*name) > maxHostname {
		errs = append(errs, field.TooLong(p, *name, maxHostname))
	}
	return append(errs, check.DNSSubdomain(*name, p)...)
}

// ValidateDeadline wants a deadline, if there is one, to be a positive number of seconds.
func ValidateDeadline(seconds *int64, p *field.Path) field.ErrorList {
	if seconds != nil && (*seconds < 1 || *seconds > math.MaxInt32) {
		return field.ErrorList{field.Invalid(p, *seconds, validation.InclusiveRangeError(1, math.MaxInt32))}
	}
	return nil
}

// validateClasses covers what the pod says of its priority and its runtime.
func (v *specValidation) validateClasses(p *field.Path) field.ErrorList {
	s := v.spec
	var errs field.ErrorList
	if s.PriorityClassName != "" {
		errs = append(errs, check.DNSSubdomain(s.PriorityClassName, p.Child("priorityClassName"))...)
	}
	if s.RuntimeClassName != nil {
		errs = append(errs, check.DNSSubdomain(*s.RuntimeClassName, p.Child("runtimeClassName"))...)
	}
	if s.PreemptionPolicy != nil {
		errs = append(errs, validatePreemptionPolicy(*s.PreemptionPolicy, p.Child("preemptionPolicy"))...)
	}
	if s.Overhead != nil {
		errs = append(errs, v.validateOverhead(s.Overhead, p.Child("overhead"))...)
	}
	return errs
}

// ValidateOverhead checks what pods of a class cost besides their containers.
func ValidateOverhead(list corev1.ResourceList, p *field.Path) field.ErrorList {
	return (&specValidation{}).validateOverhead(list, p)
}

// validateOverhead checks the overhead as if it were the limits of a container, which is how complaints name it.
func (v *specValidation) validateOverhead(list corev1.ResourceList, p *field.Path) field.ErrorList {
	return v.validateRequirements(&corev1.ResourceRequirements{Limits: list}, p, check.ContainerResourceName)
}

func validatePreemptionPolicy(v corev1.PreemptionPolicy, p *field.Path) field.ErrorList {
	switch v {
	case corev1.PreemptLowerPriority, corev1.PreemptNever:
		return nil
	case "":
		return field.ErrorList{field.Required(p, "")}
	}
	return field.ErrorList{field.NotSupported(p, v, []corev1.PreemptionPolicy{corev1.PreemptLowerPriority, corev1.PreemptNever})}
}

func validateRestartPolicy(v corev1.RestartPolicy, p *field.Path) field.ErrorList {
	switch v {
	case corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever:
		return nil
	case "":
		return field.ErrorList{field.Required(p, "")}
	}
	return field.ErrorList{field.NotSupported(p, v, []corev1.RestartPolicy{
		corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever,
	})}
}

func validateReadinessGates(gates []corev1.PodReadinessGate, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range gates {
		errs = append(errs, check.QualifiedName(string(gates[i].ConditionType), p.Index(i).Child("conditionType"))...)
	}
	return errs
}

func validateSchedulingGates(gates []corev1.PodSchedulingGate, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := sets.New[string]()
	for i := range gates {
		name := gates[i].Name
		errs = append(errs, check.QualifiedName(name, p.Index(i))...)
		if seen.Has(name) {
			errs = append(errs, field.Duplicate(p.Index(i), name))
		}
		seen.Insert(name)
	}
	return errs
}

func validateResourceClaims(claims []corev1.PodResourceClaim, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := sets.New[string]()
	for i := range claims {
		c, at := &claims[i], p.Index(i)
		switch {
		case c.Name == "":
			errs = append(errs, field.Required(at.Child("name"), ""))
		case seen.Has(c.Name):
			errs = append(errs, field.Duplicate(at.Child("name"), c.Name))
		default:
			errs = append(errs, check.DNSLabel(c.Name, at.Child("name"))...)
			seen.Insert(c.Name)
		}
		switch name, template := c.ResourceClaimName, c.ResourceClaimTemplateName; {
		case name != nil && template != nil:
			errs = append(errs, field.Invalid(at, check.Rendered(c), "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified"))
		case name == nil && template == nil:
			errs = append(errs, field.Invalid(at, check.Rendered(c), "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"))
		}
		if c.ResourceClaimName != nil {
			errs = append(errs, check.DNSSubdomain(*c.ResourceClaimName, at.Child("resourceClaimName"))...)
		}
		if c.ResourceClaimTemplateName != nil {
			errs = append(errs, check.DNSSubdomain(*c.ResourceClaimTemplateName, at.Child("resourceClaimTemplateName"))...)
		}
	}
	return errs
}

// ValidatePodTemplateSpec checks t.
func ValidatePodTemplateSpec(t *corev1.PodTemplateSpec, p *field.Path, opts Options) field.ErrorList {
	opts.Template = true
	errs := check.Labels(t.Labels, p.Child("labels"))
	errs = append(errs, check.Annotations(t.Annotations, p.Child("annotations"))...)
	errs = append(errs, ValidatePodAnnotations(&t.ObjectMeta, &t.Spec, opts, p.Child("annotations"))...)
	errs = append(errs, ValidatePodSpec(&t.Spec, &t.ObjectMeta, p.Child("spec"), opts)...)
	if len(t.Spec.EphemeralContainers) > 0 {
		errs = append(errs, field.Forbidden(p.Child("spec", "ephemeralContainers"), "ephemeral containers not allowed in pod template"))
	}
	return errs
}

// ValidatePodAnnotations checks the annotations that mean something to Kubernetes.
func ValidatePodAnnotations(meta *metav1.ObjectMeta, spec *corev1.PodSpec, opts Options, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if v, ok := meta.Annotations[corev1.MirrorPodAnnotationKey]; ok && spec.NodeName == "" {
		errs = append(errs, field.Invalid(p.Key(corev1.MirrorPodAnnotationKey), v, "must set spec.nodeName if mirror pod annotation is set"))
	}
	if meta.Annotations[corev1.TolerationsAnnotationKey] != "" {
		errs = append(errs, validateTolerationsAnnotation(meta.Annotations[corev1.TolerationsAnnotationKey], p)...)
	}
	if !opts.AllowBadDeletionCost && !validDeletionCost(meta.Annotations) {
		errs = append(errs, field.Invalid(p.Key(corev1.PodDeletionCost), meta.Annotations[corev1.PodDeletionCost], "must be a 32bit integer"))
	}
	for _, key := range check.Keys(meta.Annotations) {
		if key == podSeccomp || strings.HasPrefix(key, containerSeccomp) {
			errs = append(errs, validateSeccompName(meta.Annotations[key], p.Child(key))...)
		}
	}
	return append(errs, validateAppArmorAnnotations(meta.Annotations, spec, p)...)
}

// validDeletionCost says whether a pod's annotation about what its deletion costs, if there is one, is a plain number.
func validDeletionCost(annotations map[string]string) bool {
	v, ok := annotations[corev1.PodDeletionCost]
	if !ok {
		return true
	}
	_, err := strconv.ParseInt(v, 10, 32)
	return err == nil && (v == "0" || v[0] == '-' || v[0] >= '1' && v[0] <= '9')
}

// validateSeccompName checks a profile as annotations named it before there was a field.
func validateSeccompName(v string, p *field.Path) field.ErrorList {
	const local = "localhost/"
	switch {
	case v == "runtime/default", v == "docker/default", v == "unconfined":
		return nil
	case strings.HasPrefix(v, local):
		return validateLocalPath(strings.TrimPrefix(v, local), p)
	}
	return field.ErrorList{field.Invalid(p, v, "must be a valid seccomp profile")}
}

// validateAppArmorAnnotations checks the annotations that named the AppArmor profiles of containers before there was a field.
func validateAppArmorAnnotations(a map[string]string, spec *corev1.PodSpec, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, key := range check.Keys(a) {
		name, ok := strings.CutPrefix(key, corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix)
		if !ok {
			continue
		}
		if !hasContainer(spec, name) {
			errs = append(errs, field.Invalid(p.Key(key), name, "container not found"))
		}
		switch v := a[key]; {
		case v == "", v == corev1.DeprecatedAppArmorBetaProfileRuntimeDefault, v == corev1.DeprecatedAppArmorBetaProfileNameUnconfined:
		case strings.HasPrefix(v, corev1.DeprecatedAppArmorBetaProfileNamePrefix):
		default:
			errs = append(errs, field.Invalid(p.Key(key), v, fmt.Sprintf("invalid AppArmor profile name: %q", v)))
		}
	}
	return errs
}

// hasContainer says whether a container of any sort has the name.
func hasContainer(spec *corev1.PodSpec, name string) bool {
	is := func(c corev1.Container) bool { return c.Name == name }
	return slices.ContainsFunc(spec.Containers, is) || slices.ContainsFunc(spec.InitContainers, is) ||
		slices.ContainsFunc(spec.EphemeralContainers, func(c corev1.EphemeralContainer) bool { return c.Name == name })
}
