package status

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"

	"github.com/celox/celox/internal/node/observed"
)

// The least that the kernel can be told: below it, what was asked for is shown.
const (
	minShares     = 2
	minLimitMilli = 10
)

// fillResources shows what the container was promised, and what it is given now (KEP-1287).
func (in *Input) fillResources(out *corev1.ContainerStatus, c *corev1.Container, latest *observed.Container) {
	if latest == nil && out.ContainerID == "" {
		return
	}
	out.AllocatedResources = c.Resources.Requests.DeepCopy()
	out.Resources = c.Resources.DeepCopy()
	if latest == nil || !latest.Running() {
		return // what has ended says what it was promised, also when the runtime has forgotten it
	}
	if given, ok := in.Given[latest.ID]; ok {
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			if _, ok := out.Resources.Requests[name]; ok {
				out.Resources.Requests = take(out.Resources.Requests, given.Requests, name)
			}
			if _, ok := out.Resources.Limits[name]; ok {
				out.Resources.Limits = take(out.Resources.Limits, given.Limits, name)
			}
		}
		return
	}
	if l := latest.Resources.GetLinux(); l != nil && out.Resources.Limits != nil {
		if want, ok := out.Resources.Limits[corev1.ResourceMemory]; ok && l.MemoryLimitInBytes > 0 && want.Value() != l.MemoryLimitInBytes {
			out.Resources.Limits[corev1.ResourceMemory] = *resource.NewQuantity(l.MemoryLimitInBytes, resource.BinarySI)
		}
		if want, ok := out.Resources.Limits[corev1.ResourceCPU]; ok && l.CpuQuota > 0 && l.CpuPeriod > 0 {
			have := (l.CpuQuota*1000 + l.CpuPeriod - 1) / l.CpuPeriod
			if max(want.MilliValue(), minLimitMilli) != have {
				out.Resources.Limits[corev1.ResourceCPU] = *resource.NewMilliQuantity(have, resource.DecimalSI)
			}
		}
	}
}

// fillDevices shows which devices the container has by its claims and of device plugins, and how they are. Of a pod that is over the last that was known stays: it may say why.
func (in *Input) fillDevices(out *corev1.ContainerStatus, c *corev1.Container, old *corev1.ContainerStatus) {
	claims, known := in.Devices[c.Name]
	plugged, pluggedKnown := in.Plugged[c.Name]
	if old != nil {
		for _, r := range old.AllocatedResourcesStatus {
			if strings.HasPrefix(string(r.Name), "claim:") {
				if !known && len(c.Resources.Claims) > 0 {
					claims = append(claims, r)
				}
			} else if _, asked := c.Resources.Limits[r.Name]; asked && !pluggedKnown {
				plugged = append(plugged, r)
			}
		}
	}
	if len(claims)+len(plugged) > 0 {
		out.AllocatedResourcesStatus = slices.Concat(claims, plugged)
	}
}

// take puts one resource of a list into another, or takes it out of there.
func take(to, from corev1.ResourceList, name corev1.ResourceName) corev1.ResourceList {
	q, ok := from[name]
	if !ok {
		delete(to, name)
		return to
	}
	if to == nil {
		to = corev1.ResourceList{}
	}
	to[name] = q.DeepCopy()
	return to
}

// fillPodResources shows what the pod as a whole was promised, and, while it runs, what its group in the kernel is given: weight for CPU
// time always, limits only when all of it is limited.
func (in *Input) fillPodResources(out *corev1.PodStatus) {
	pod := in.Pod
	requests := resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{})
	limits := resourcehelper.PodLimits(pod, resourcehelper.PodResourcesOptions{})
	out.AllocatedResources = requests
	r := pod.Spec.Resources.DeepCopy()
	if r == nil {
		r = &corev1.ResourceRequirements{}
	}
	out.Resources = r
	if out.Phase != corev1.PodRunning {
		r.Requests, r.Limits = requests.DeepCopy(), limits
		return
	}
	if q := requests.Cpu(); q.MilliValue() > minShares {
		r.Requests = take(r.Requests, requests, corev1.ResourceCPU)
	}
	if _, ok := r.Requests[corev1.ResourceMemory]; !ok {
		if _, ok := requests[corev1.ResourceMemory]; ok {
			r.Requests = take(r.Requests, requests, corev1.ResourceMemory)
		}
	}
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		if _, ok := r.Limits[name]; !ok && allLimited(&pod.Spec, name) {
			r.Limits = take(r.Limits, limits, name)
		}
	}
}

func allLimited(spec *corev1.PodSpec, name corev1.ResourceName) bool {
	if spec.Resources != nil && len(spec.Resources.Limits) > 0 {
		return false // the pod's own say
	}
	for _, list := range [][]corev1.Container{spec.Containers, spec.InitContainers} {
		for i := range list {
			if q, ok := list[i].Resources.Limits[name]; !ok || q.IsZero() {
				return false
			}
		}
	}
	return true
}
