package podspec

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/component-helpers/resource"

	"github.com/celox/celox/internal/api/check"
)

// indivisible says whether list has huge pages that are no whole number of pages.
func indivisible(list corev1.ResourceList) bool {
	for name, q := range list {
		if check.IsHugePages(name) && len(check.HugePagesQuantity(name, q, nil)) > 0 {
			return true
		}
	}
	return false
}

// validateRequirements checks requests and limits; name says which resources there may be.
func (v *specValidation) validateRequirements(r *corev1.ResourceRequirements, p *field.Path, name func(corev1.ResourceName, *field.Path) field.ErrorList) field.ErrorList {
	var errs field.ErrorList
	limits, requests := p.Child("limits"), p.Child("requests")
	pages, compute := false, false
	one := func(n corev1.ResourceName, list corev1.ResourceList, p *field.Path) {
		q := list[n]
		errs = append(errs, name(n, p)...)
		errs = append(errs, check.ResourceQuantity(n, q, p)...)
	}
	note := func(n corev1.ResourceName, list corev1.ResourceList, p *field.Path) {
		if check.IsHugePages(n) {
			pages = true
			if !v.opts.AllowIndivisibleHugePages {
				errs = append(errs, check.HugePagesQuantity(n, list[n], p)...)
			}
		}
		compute = compute || n == corev1.ResourceCPU || n == corev1.ResourceMemory
	}
	for _, n := range check.Sorted(r.Limits) {
		one(n, r.Limits, limits.Key(string(n)))
		note(n, r.Limits, limits.Key(string(n)))
	}
	for _, n := range check.Sorted(r.Requests) {
		one(n, r.Requests, requests.Key(string(n)))
		q := r.Requests[n]
		limit, limited := r.Limits[n]
		switch {
		case limited && !check.IsOvercommitAllowed(n) && q.Cmp(limit) != 0:
			errs = append(errs, field.Invalid(requests, q.String(), fmt.Sprintf("must be equal to %s limit of %s", n, limit.String())))
		case limited && q.Cmp(limit) > 0:
			errs = append(errs, field.Invalid(requests, q.String(), fmt.Sprintf("must be less than or equal to %s limit of %s", n, limit.String())))
		case !limited && !check.IsOvercommitAllowed(n):
			errs = append(errs, field.Required(limits, "Limit must be set for non overcommitable resources"))
		}
		note(n, r.Requests, requests.Key(string(n)))
	}
	if pages && !compute {
		errs = append(errs, field.Forbidden(p, "HugePages require cpu or memory"))
	}
	return append(errs, v.validateClaimNames(r.Claims, p.Child("claims"))...)
}

// validateClaimNames checks which of the pod's resource claims, or which requests in them, a container uses.
func (v *specValidation) validateClaimNames(claims []corev1.ResourceClaim, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	used := map[string]sets.Set[string]{} // requests by claim; "" is the whole claim
	for i, c := range claims {
		at := p.Index(i)
		if c.Name == "" {
			errs = append(errs, field.Required(at, ""))
			continue
		}
		before := used[c.Name]
		switch {
		case before.Has(""):
			errs = append(errs, field.Duplicate(at, c.Name))
		case c.Request != "":
			errs = append(errs, check.DNSLabel(c.Request, at.Child("request"))...)
			if before.Has(c.Request) {
				errs = append(errs, field.Duplicate(at, c.Name+"/"+c.Request))
			}
		case before.Len() > 0:
			errs = append(errs, field.Duplicate(at, c.Name))
		}
		if before == nil {
			used[c.Name] = sets.New(c.Request)
		} else {
			before.Insert(c.Request)
		}
		if !v.claims.Has(c.Name) {
			err := field.NotFound(at, c.Name)
			err.Detail = "must be one of the names in pod.spec.resourceClaims"
			if v.claims.Len() == 0 {
				err.Detail += " which is empty"
			} else {
				err.Detail += ": " + strings.Join(sets.List(v.claims), ", ")
			}
			errs = append(errs, err)
		}
	}
	return errs
}

// podResourceName wants a resource that a pod as a whole can have (KEP-2837).
func podResourceName(n corev1.ResourceName, p *field.Path) field.ErrorList {
	errs := check.ResourceName(n, p)
	if len(errs) > 0 {
		return errs
	}
	if !resource.IsSupportedPodLevelResource(n) {
		return field.ErrorList{field.NotSupported(p, n, sets.List(resource.SupportedPodLevelResources()))}
	}
	return nil
}

// validatePodResources checks the pod's own resources, also against those of its containers.
func (v *specValidation) validatePodResources(p *field.Path) field.ErrorList {
	r := v.spec.Resources
	if v.spec.OS != nil && v.spec.OS.Name == corev1.Windows {
		return field.ErrorList{field.Forbidden(p, "may not be set for a windows pod")}
	}
	var errs field.ErrorList
	if r.Claims != nil {
		errs = append(errs, field.Forbidden(p.Child("claims"), "claims may not be set for Resources at pod-level"))
	}
	errs = append(errs, v.validateRequirements(r, p, podResourceName)...)
	pod := &corev1.Pod{Spec: *v.spec}
	requests := resource.AggregateContainerRequests(pod, resource.PodResourcesOptions{})
	for _, n := range check.Sorted(requests) {
		sum := requests[n]
		if own, ok := r.Requests[n]; ok && sum.Cmp(own) > 0 {
			errs = append(errs, field.Invalid(p.Child("requests").Key(string(n)), own.String(), "must be greater than or equal to aggregate container requests of "+sum.String()))
		}
	}
	limits := resource.AggregateContainerLimits(pod, resource.PodResourcesOptions{})
	for _, n := range check.Sorted(limits) {
		sum := limits[n]
		if own, ok := r.Limits[n]; ok && check.IsHugePages(n) && sum.Cmp(own) > 0 {
			errs = append(errs, field.Invalid(p.Child("limits").Key(string(n)), own.String(), "must be greater than or equal to aggregate container limits of "+sum.String()))
		}
	}
	for i := range v.spec.Containers {
		list := v.spec.Containers[i].Resources.Limits
		for _, n := range check.Sorted(list) {
			q := list[n]
			if own, ok := r.Limits[n]; ok && resource.IsSupportedPodLevelResource(n) && q.Cmp(own) > 0 {
				at := p.Child("containers").Index(i).Key(string(n)).Child("limits")
				errs = append(errs, field.Invalid(at, q.String(), "must be less than or equal to pod limits of "+own.String()))
			}
		}
	}
	return errs
}

// validateResizePolicy checks what a change of resources does to a container (KEP-1287).
func (v *specValidation) validateResizePolicy(list []corev1.ContainerResizePolicy, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := sets.New[corev1.ResourceName]()
	for i := range list {
		r := &list[i]
		if seen.Has(r.ResourceName) {
			errs = append(errs, field.Duplicate(p.Index(i), r.ResourceName))
		}
		seen.Insert(r.ResourceName)
		errs = append(errs, check.Enum(r.ResourceName, p, corev1.ResourceCPU, corev1.ResourceMemory)...)
		errs = append(errs, check.Enum(r.RestartPolicy, p, corev1.NotRequired, corev1.RestartContainer)...)
		if v.spec.RestartPolicy == corev1.RestartPolicyNever && r.RestartPolicy != corev1.NotRequired {
			errs = append(errs, field.Invalid(p, r.RestartPolicy, "must be 'NotRequired' when pod `restartPolicy` is 'Never'"))
		}
	}
	return errs
}
