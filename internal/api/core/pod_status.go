package core

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"

	"github.com/celox/celox/internal/api/check"
	"github.com/celox/celox/internal/api/podspec"
)

// preparePodStatus lets an update through the "status" door change the status, labels and annotations.
func preparePodStatus(p, old *corev1.Pod) {
	p.Spec = old.Spec
	p.DeletionTimestamp = nil
	// A node's view of the owners may be old; the garbage collector must not learn it from there.
	p.OwnerReferences = old.OwnerReferences
	// Of features that are off by default: CSIVolumeHealth and DRANodeAllocatableResources.
	if old.Status.VolumeHealth == nil {
		p.Status.VolumeHealth = nil
	}
	if old.Status.NodeAllocatableResourceClaimStatuses == nil {
		p.Status.NodeAllocatableResourceClaimStatuses = nil
	}
	// Writers that don't know of claims must not lose them; an empty list still clears what is a list.
	if p.Status.ResourceClaimStatuses == nil {
		p.Status.ResourceClaimStatuses = old.Status.ResourceClaimStatuses
	}
	if p.Status.ExtendedResourceClaimStatus == nil {
		p.Status.ExtendedResourceClaimStatus = old.Status.ExtendedResourceClaimStatus
	}
	if p.Status.NodeAllocatableResourceClaimStatuses == nil {
		p.Status.NodeAllocatableResourceClaimStatuses = old.Status.NodeAllocatableResourceClaimStatuses
	}
	if !tellsVolumes(&old.Status) {
		dropVolumeStatuses(&p.Status)
	}
	if p.Status.QOSClass == "" {
		p.Status.QOSClass = old.Status.QOSClass
	}
	if p.Status.ObservedGeneration == 0 {
		p.Status.ObservedGeneration = old.Status.ObservedGeneration
	}
	// Conditions may come more than once: the first of a type goes with the first before, and so on.
	before := map[corev1.PodConditionType][]int64{}
	for _, c := range old.Status.Conditions {
		before[c.Type] = append(before[c.Type], c.ObservedGeneration)
	}
	for i := range p.Status.Conditions {
		c := &p.Status.Conditions[i]
		was := before[c.Type]
		if len(was) == 0 {
			continue
		}
		before[c.Type] = was[1:]
		if c.ObservedGeneration == 0 {
			c.ObservedGeneration = was[0]
		}
	}
}

// warnPodStatus tells of addresses that are written in an unusual way.
func warnPodStatus(p, _ *corev1.Pod) []string {
	var out []string
	at := field.NewPath("status")
	for i := range p.Status.PodIPs {
		out = append(out, validation.GetWarningsForIP(at.Child("podIPs").Index(i).Child("ip"), p.Status.PodIPs[i].IP)...)
	}
	for i := range p.Status.HostIPs {
		out = append(out, validation.GetWarningsForIP(at.Child("hostIPs").Index(i).Child("ip"), p.Status.HostIPs[i].IP)...)
	}
	return out
}

func validatePodStatusUpdate(p, old *corev1.Pod) field.ErrorList {
	at := field.NewPath("status")
	errs := validatePodAnnotationsUpdate(p, old)
	errs = append(errs, validatePodConditions(p.Status.Conditions, at.Child("conditions"))...)
	if n := p.Status.NominatedNodeName; n != "" && n != old.Status.NominatedNodeName {
		errs = append(errs, check.DNSSubdomain(n, at.Child("nominatedNodeName"))...)
		if old.Spec.NodeName != "" {
			errs = append(errs, field.Forbidden(at.Child("nominatedNodeName"), "may not be set on pods that are already bound to a node"))
		}
	}
	if g := p.Status.ObservedGeneration; g < 0 {
		errs = append(errs, field.Invalid(at.Child("observedGeneration"), g, notNegative))
	}
	errs = append(errs, check.Immutable(p.Status.QOSClass, old.Status.QOSClass, at.Child("qosClass"))...)
	errs = append(errs, validateStaysTerminated(p, old, at)...)
	errs = append(errs, validateClaimStatuses(p, at.Child("resourceClaimStatuses"))...)
	errs = append(errs, validateExtendedClaim(p, at.Child("extendedResourceClaimStatus"))...)
	var ips, before []string
	for _, ip := range p.Status.PodIPs {
		ips = append(ips, ip.IP)
	}
	for _, ip := range old.Status.PodIPs {
		before = append(before, ip.IP)
	}
	errs = append(errs, validateAddresses(ips, before, check.Rendered(p.Status.PodIPs), at.Child("podIPs"))...)
	switch one, list := p.Status.PodIP, at.Child("podIPs"); {
	case (one == "") != (len(ips) == 0):
		errs = append(errs, field.Invalid(list, check.Rendered(p.Status.PodIPs), "podIP and podIPs must either both be set or both be unset"))
	case len(ips) > 0 && ips[0] != one:
		errs = append(errs, field.Invalid(list.Index(0).Child("ip"), ips[0], "must be equal to `podIP`"))
	}
	ips, before = nil, nil
	for _, ip := range p.Status.HostIPs {
		ips = append(ips, ip.IP)
	}
	for _, ip := range old.Status.HostIPs {
		before = append(before, ip.IP)
	}
	if len(ips) > 0 && p.Status.HostIP != ips[0] {
		errs = append(errs, field.Invalid(at.Child("hostIPs").Index(0).Child("ip"), ips[0], "must be equal to `hostIP`"))
	}
	errs = append(errs, validateAddresses(ips, before, check.Rendered(p.Status.HostIPs), at.Child("hostIPs"))...)
	return append(errs, validateContainerStatuses(p, at)...)
}

// notNegative is what is said of an observed generation below zero.
const notNegative = "must be a non-negative integer"

// systemConditions are those that Kubernetes itself sets; they need no check. Read-only.
var systemConditions = sets.New(corev1.PodScheduled, corev1.PodReady, corev1.PodInitialized, corev1.ContainersReady)

func validatePodConditions(list []corev1.PodCondition, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range list {
		c, at := &list[i], p.Index(i)
		if c.ObservedGeneration < 0 {
			errs = append(errs, field.Invalid(at.Child("observedGeneration"), c.ObservedGeneration, notNegative))
		}
		if !systemConditions.Has(c.Type) {
			errs = append(errs, check.QualifiedName(string(c.Type), at.Child("Type"))...)
		}
	}
	return errs
}

// validateStaysTerminated wants containers that have ended for good not to come back to life.
func validateStaysTerminated(p, old *corev1.Pod, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	list := func(name string, now, was []corev1.ContainerStatus, final func(s *corev1.ContainerStatus) bool) {
		for i := range was {
			if was[i].State.Terminated == nil || !final(&was[i]) {
				continue
			}
			for j := range now {
				if now[j].Name == was[i].Name && now[j].State.Terminated == nil {
					errs = append(errs, field.Forbidden(at.Child(name).Index(i).Child("state"), "may not be transitioned to non-terminated state"))
				}
			}
		}
	}
	list("containerStatuses", p.Status.ContainerStatuses, old.Status.ContainerStatuses, func(s *corev1.ContainerStatus) bool {
		return !mayRestart(&old.Spec, findContainer(old.Spec.Containers, s.Name), s.State.Terminated.ExitCode)
	})
	list("initContainerStatuses", p.Status.InitContainerStatuses, old.Status.InitContainerStatuses, func(s *corev1.ContainerStatus) bool {
		c := findContainer(old.Spec.InitContainers, s.Name)
		if old.Spec.RestartPolicy == corev1.RestartPolicyAlways || (c != nil && podspec.IsSidecar(c)) {
			return false
		}
		return s.State.Terminated.ExitCode == 0 || !mayRestart(&old.Spec, c, s.State.Terminated.ExitCode)
	})
	list("ephemeralContainerStatuses", p.Status.EphemeralContainerStatuses, old.Status.EphemeralContainerStatuses, func(*corev1.ContainerStatus) bool {
		return old.Spec.RestartPolicy != corev1.RestartPolicyAlways
	})
	return errs
}

func findContainer(list []corev1.Container, name string) *corev1.Container {
	for i := range list {
		if list[i].Name == name {
			return &list[i]
		}
	}
	return nil
}

// mayRestart says whether a container that ended with code is started again, by its own policy or rules or else the pod's.
func mayRestart(s *corev1.PodSpec, c *corev1.Container, code int32) bool {
	for i := range s.Containers {
		if restartsAll(&s.Containers[i]) {
			return true
		}
	}
	policy := string(s.RestartPolicy)
	if c != nil {
		for i := range c.RestartPolicyRules {
			if matchesExit(&c.RestartPolicyRules[i], code) {
				return true
			}
		}
		if c.RestartPolicy != nil {
			policy = string(*c.RestartPolicy)
		}
	}
	switch policy {
	case string(corev1.RestartPolicyAlways):
		return true
	case string(corev1.RestartPolicyOnFailure):
		return code != 0
	}
	return false
}

// restartsAll says whether the exit of c may start all containers of its pod again.
func restartsAll(c *corev1.Container) bool {
	for i := range c.RestartPolicyRules {
		if c.RestartPolicyRules[i].Action == corev1.ContainerRestartRuleActionRestartAllContainers {
			return true
		}
	}
	return false
}

func matchesExit(r *corev1.ContainerRestartRule, code int32) bool {
	if r.ExitCodes == nil {
		return false
	}
	in := false
	for _, v := range r.ExitCodes.Values {
		in = in || v == code
	}
	return in == (r.ExitCodes.Operator == corev1.ContainerRestartRuleOnExitCodesOpIn)
}

func validateClaimStatuses(p *corev1.Pod, at *field.Path) field.ErrorList {
	claims, seen := sets.New[string](), sets.New[string]()
	for i := range p.Spec.ResourceClaims {
		claims.Insert(p.Spec.ResourceClaims[i].Name)
	}
	var errs field.ErrorList
	for i := range p.Status.ResourceClaimStatuses {
		s, at := &p.Status.ResourceClaimStatuses[i], at.Index(i)
		if !claims.Has(s.Name) {
			errs = append(errs, field.Invalid(at.Child("name"), s.Name, "must match the name of an entry in `spec.resourceClaims`"))
		}
		if seen.Has(s.Name) {
			errs = append(errs, field.Duplicate(at.Child("name"), s.Name))
		}
		seen.Insert(s.Name)
		if s.ResourceClaimName != nil {
			errs = append(errs, check.DNSSubdomain(*s.ResourceClaimName, at.Child("resourceClaimName"))...)
		}
	}
	return errs
}

// validateAddresses wants at most one address of each family.
func validateAddresses(ips, old []string, shown any, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, ip := range ips {
		errs = append(errs, check.IP(ip, p.Index(i), old...)...)
	}
	if len(ips) < 2 {
		return errs
	}
	dual, err := netutils.IsDualStackIPStrings(ips)
	if err != nil {
		errs = append(errs, field.InternalError(p, fmt.Errorf("failed to check for dual stack with error:%w", err)))
	}
	if !dual || len(ips) > 2 {
		errs = append(errs, field.Invalid(p, shown, "may specify no more than one IP for each IP family"))
	}
	return errs
}
