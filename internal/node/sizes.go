package node

import (
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"

	"github.com/celox/celox/internal/node/observed"
	"github.com/celox/celox/internal/node/status"
)

// sizes are the resources of a container that can be changed while it runs (KEP-1287).
type sizes struct {
	cpuRequestMilli, cpuLimitMilli   int64
	memoryRequestBytes, memoryLimitB int64
}

// sizesOf are the sizes that a container asks for. What it doesn't limit is limited by its pod (KEP-2837).
func sizesOf(pod *corev1.ResourceRequirements, c *corev1.ResourceRequirements) sizes {
	l := limitsOf(pod, c)
	return sizes{
		cpuRequestMilli: c.Requests.Cpu().MilliValue(), cpuLimitMilli: l.Cpu().MilliValue(),
		memoryRequestBytes: c.Requests.Memory().Value(), memoryLimitB: l.Memory().Value(),
	}
}

func limitsOf(pod *corev1.ResourceRequirements, c *corev1.ResourceRequirements) corev1.ResourceList {
	out := corev1.ResourceList{}
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		if q, ok := c.Limits[name]; ok {
			out[name] = q
		} else if pod != nil {
			if q, ok := pod.Limits[name]; ok {
				out[name] = q
			}
		}
	}
	return out
}

// givenTo is what a container gets, as it is remembered: with the pod's limits where it has none of its own.
func givenTo(pod *corev1.Pod, c *corev1.Container) corev1.ResourceRequirements {
	out := *c.Resources.DeepCopy()
	if pod.Spec.Resources == nil {
		return out
	}
	limits := limitsOf(pod.Spec.Resources, &c.Resources)
	for name, q := range limits {
		if _, ok := out.Limits[name]; !ok {
			if out.Limits == nil {
				out.Limits = corev1.ResourceList{}
			}
			out.Limits[name] = q
		}
	}
	return out
}

// resizeRestarts tells whether a running container has to be restarted to get the resources that it is to have.
func (s *situation) resizeRestarts(c *corev1.Container, running *observed.Container) bool {
	if s.Given == nil {
		return false
	}
	given, ok := s.Given(running.ID)
	if !ok {
		return false
	}
	have, want := sizesOf(nil, &given), sizesOf(s.Pod.Spec.Resources, &c.Resources)
	for _, p := range c.ResizePolicy {
		if p.RestartPolicy != corev1.RestartContainer {
			continue
		}
		switch p.ResourceName {
		case corev1.ResourceCPU:
			if have.cpuRequestMilli != want.cpuRequestMilli || have.cpuLimitMilli != want.cpuLimitMilli {
				return true
			}
		case corev1.ResourceMemory:
			if have.memoryRequestBytes != want.memoryRequestBytes || have.memoryLimitB != want.memoryLimitB {
				return true
			}
		}
	}
	return false
}

// withResourcesOf is the pod as it is now, with the resources that another version of it asks for: those that it was promised. It is the pod
// itself if they are the same.
func withResourcesOf(pod, promised *corev1.Pod) *corev1.Pod {
	if sameResources(pod, promised) {
		return pod
	}
	out := pod.DeepCopy()
	out.Spec.Resources = promised.Spec.Resources.DeepCopy()
	for i := range out.Spec.InitContainers {
		if c := findContainer(promised, out.Spec.InitContainers[i].Name); c != nil {
			out.Spec.InitContainers[i].Resources = *c.Resources.DeepCopy()
		}
	}
	for i := range out.Spec.Containers {
		if c := findContainer(promised, out.Spec.Containers[i].Name); c != nil {
			out.Spec.Containers[i].Resources = *c.Resources.DeepCopy()
		}
	}
	return out
}

// sameResources tells whether two versions of a pod ask for the same.
func sameResources(a, b *corev1.Pod) bool {
	same := func(x, y []corev1.Container) bool {
		if len(x) != len(y) {
			return false
		}
		for i := range x {
			if !apiequality.Semantic.DeepEqual(x[i].Resources, y[i].Resources) {
				return false
			}
		}
		return true
	}
	return apiequality.Semantic.DeepEqual(a.Spec.Resources, b.Spec.Resources) && same(a.Spec.Containers, b.Spec.Containers) && same(a.Spec.InitContainers, b.Spec.InitContainers)
}

// promisedBefore is the pod with what it was promised before this process began, as its status tells: its specification may ask for more by now.
func promisedBefore(pod *corev1.Pod) *corev1.Pod {
	out := pod.DeepCopy()
	changed := false
	for _, list := range [][]corev1.Container{out.Spec.InitContainers, out.Spec.Containers} {
		for i := range list {
			c := &list[i]
			st := status.FindAny(&pod.Status, c.Name)
			if st == nil || st.State.Running == nil || st.Resources == nil {
				continue
			}
			for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
				changed = adopt(&c.Resources.Requests, st.AllocatedResources, name) || changed
				changed = adopt(&c.Resources.Limits, st.Resources.Limits, name) || changed
			}
		}
	}
	if r := out.Spec.Resources; r != nil && pod.Status.Resources != nil && pod.Status.Phase == corev1.PodRunning {
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			if _, ok := r.Requests[name]; ok {
				changed = adopt(&r.Requests, pod.Status.AllocatedResources, name) || changed
			}
			if _, ok := r.Limits[name]; ok {
				changed = adopt(&r.Limits, pod.Status.Resources.Limits, name) || changed
			}
		}
	}
	if !changed {
		return pod
	}
	return out
}

// adopt makes one resource of a list what it is in another.
func adopt(to *corev1.ResourceList, from corev1.ResourceList, name corev1.ResourceName) bool {
	want, ok := from[name]
	have, had := (*to)[name]
	switch {
	case !ok && !had || ok && had && want.Cmp(have) == 0:
		return false
	case !ok:
		delete(*to, name)
	default:
		if *to == nil {
			*to = corev1.ResourceList{}
		}
		(*to)[name] = want.DeepCopy()
	}
	return true
}
