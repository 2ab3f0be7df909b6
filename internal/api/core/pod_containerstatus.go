package core

import (
	"fmt"
	"math"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api/check"
)

// claimPrefix begins the name of a resource that comes from a claim, where its health is told: claim:NAME or claim:NAME/REQUEST.
const claimPrefix = "claim:"

// statusLists are the lists of container statuses of a pod.
func statusLists(s *corev1.PodStatus) [][]corev1.ContainerStatus {
	return [][]corev1.ContainerStatus{s.ContainerStatuses, s.InitContainerStatuses, s.EphemeralContainerStatuses}
}

// tellsVolumes says whether a status tells of the state of mounted volumes, which is of the feature ImageVolumeWithDigest: off by default.
func tellsVolumes(s *corev1.PodStatus) bool {
	for _, list := range statusLists(s) {
		for i := range list {
			for j := range list[i].VolumeMounts {
				if list[i].VolumeMounts[j].VolumeStatus != nil {
					return true
				}
			}
		}
	}
	return false
}

func dropVolumeStatuses(s *corev1.PodStatus) {
	for _, list := range statusLists(s) {
		for i := range list {
			for j := range list[i].VolumeMounts {
				list[i].VolumeMounts[j].VolumeStatus = nil
			}
		}
	}
}

// validateContainerStatuses checks what a node tells of the users that containers run as and of the devices that they have.
func validateContainerStatuses(p *corev1.Pod, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	windows := p.Spec.OS != nil && p.Spec.OS.Name == corev1.Windows
	lists, names := statusLists(&p.Status), []string{"containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"}
	for i, list := range lists {
		for j := range list {
			if list[j].User != nil && list[j].User.Linux != nil {
				errs = append(errs, validateContainerUser(list[j].User.Linux, windows, at.Child(names[i]).Index(j).Child("user", "linux"))...)
			}
		}
	}
	for i, containers := range [][]corev1.Container{p.Spec.Containers, p.Spec.InitContainers} {
		for j := range lists[i] {
			s := &lists[i][j]
			c := findContainer(containers, s.Name) // a status of another container is left alone
			for k := range s.AllocatedResourcesStatus {
				r, at := &s.AllocatedResourcesStatus[k], at.Child(names[i]).Index(j).Child("allocatedResourcesStatus").Index(k)
				if c != nil {
					errs = append(errs, validateHealthOf(string(r.Name), c, &p.Status, at.Child("name"))...)
				}
				errs = append(errs, validateHealth(r.Resources, at.Child("resources"))...)
			}
		}
	}
	for j := range lists[2] {
		if len(lists[2][j].AllocatedResourcesStatus) > 0 {
			errs = append(errs, field.Forbidden(at.Child(names[2]).Index(j).Child("allocatedResourcesStatus"), "must not be specified in container status"))
		}
	}
	return errs
}

func validateContainerUser(u *corev1.LinuxContainerUser, windows bool, p *field.Path) field.ErrorList {
	if windows {
		return field.ErrorList{field.Forbidden(p, "cannot be set for a windows pod")}
	}
	var errs field.ErrorList
	if u.UID < 0 || u.UID > math.MaxUint32 {
		errs = append(errs, field.Invalid(p.Child("uid"), u.UID, fmt.Sprintf("must be between 0 and %d, inclusive", int64(math.MaxUint32))))
	}
	errs = append(errs, check.Each(validation.IsValidGroupID(u.GID), p.Child("gid"), u.GID)...)
	for i, g := range u.SupplementalGroups {
		errs = append(errs, check.Each(validation.IsValidGroupID(g), p.Child("supplementalGroups").Index(i), g)...)
	}
	return errs
}

// validateHealthOf wants the resource whose health is told to be one that the container asks for.
func validateHealthOf(name string, c *corev1.Container, s *corev1.PodStatus, p *field.Path) field.ErrorList {
	ref, claim := strings.CutPrefix(name, claimPrefix)
	if !claim {
		if _, ok := c.Resources.Requests[corev1.ResourceName(name)]; ok {
			return nil
		}
		return field.ErrorList{field.Invalid(p, name, "must match one of the container's resource requests")}
	}
	for _, r := range c.Resources.Claims {
		if own := r.Name; ref == own && r.Request == "" || r.Request != "" && ref == own+"/"+r.Request {
			return nil
		}
	}
	if e := s.ExtendedResourceClaimStatus; e != nil {
		for _, m := range e.RequestMappings {
			q := c.Resources.Requests[corev1.ResourceName(m.ResourceName)]
			if m.ContainerName == c.Name && m.RequestName != "" && e.ResourceClaimName != "" && ref == e.ResourceClaimName+"/"+m.RequestName && !q.IsZero() {
				return nil
			}
		}
	}
	return field.ErrorList{field.Invalid(p, name,
		"must match one of the container's resource claims as 'claim:<claimName>/<requestName>' when container.resources.claims[*].request is set or 'claim:<claimName>' when it is empty")}
}

func validateHealth(list []corev1.ResourceHealth, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := sets.New[corev1.ResourceID]()
	for i := range list {
		r, at := &list[i], p.Index(i)
		errs = append(errs, check.OneOf(r.Health, at.Child("health"), corev1.ResourceHealthStatusHealthy, corev1.ResourceHealthStatusUnhealthy, corev1.ResourceHealthStatusUnknown)...)
		if m := r.Message; m != nil && *m == "" {
			errs = append(errs, field.Required(at.Child("message"), "must be non-empty if specified"))
		} else if m != nil && len(*m) > corev1.ResourceHealthMessageMaxLength {
			errs = append(errs, field.TooLong(at.Child("message"), *m, corev1.ResourceHealthMessageMaxLength))
		}
		if seen.Has(r.ResourceID) {
			errs = append(errs, field.Duplicate(at.Child("resourceID"), r.ResourceID))
		}
		seen.Insert(r.ResourceID)
	}
	return errs
}

// validateExtendedClaim checks which claim gives a pod the devices that it asked for as plain resources (KEP-5004).
func validateExtendedClaim(p *corev1.Pod, at *field.Path) field.ErrorList {
	s := p.Status.ExtendedResourceClaimStatus
	if s == nil {
		return nil
	}
	var errs field.ErrorList
	list := at.Child("requestMappings")
	if len(s.RequestMappings) == 0 {
		errs = append(errs, field.Required(list, "at least one request mapping is required"))
	}
	seen := sets.New[corev1.ContainerExtendedResourceRequest]()
	for i, m := range s.RequestMappings {
		here := list.Index(i)
		c := findContainer(p.Spec.Containers, m.ContainerName)
		if c == nil {
			c = findContainer(p.Spec.InitContainers, m.ContainerName)
		}
		if c == nil {
			errs = append(errs, field.Invalid(here.Child("containerName"), m.ContainerName, "must match the name of an entry in spec.initContainers.name or spec.containers.name"))
		} else if _, ok := c.Resources.Requests[corev1.ResourceName(m.ResourceName)]; !ok {
			errs = append(errs, field.Invalid(here.Child("resourceName"), m.ResourceName,
				"must match the extended resource name of an entry in spec.initContainers.resources.requests or spec.containers.resources.requests"))
		}
		errs = append(errs, check.DNSLabel(m.RequestName, at.Child("requestName"))...)
		if seen.Has(m) {
			errs = append(errs, field.Duplicate(here.Child("containerName"), m.ContainerName), field.Duplicate(here.Child("resourceName"), m.ResourceName),
				field.Duplicate(here.Child("requestName"), m.RequestName))
		}
		seen.Insert(m)
	}
	if s.ResourceClaimName == "" {
		return append(errs, field.Required(at.Child("resourceClaimName"), ""))
	}
	return append(errs, check.DNSSubdomain(s.ResourceClaimName, at.Child("resourceClaimName"))...)
}
