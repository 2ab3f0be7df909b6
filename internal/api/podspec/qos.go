package podspec

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// QOSClass tells how a pod fares when its node runs short: Guaranteed if everything has limits and requests them all,
// BestEffort if nothing has either, and Burstable otherwise. CPU and memory count; where the pod has resources of its own
// (KEP-2837), they alone do.
func QOSClass(spec *corev1.PodSpec) corev1.PodQOSClass {
	requests, limits := corev1.ResourceList{}, corev1.ResourceList{}
	guaranteed := true
	if r := spec.Resources; r != nil && (holdsPodLevel(r.Limits) || holdsPodLevel(r.Requests)) {
		guaranteed = add(limits, r.Limits) == qosResources
		add(requests, r.Requests)
	} else {
		for _, list := range [][]corev1.Container{spec.Containers, spec.InitContainers} {
			for i := range list {
				add(requests, list[i].Resources.Requests)
				if add(limits, list[i].Resources.Limits) != qosResources {
					guaranteed = false
				}
			}
		}
	}
	switch {
	case len(requests) == 0 && len(limits) == 0:
		return corev1.PodQOSBestEffort
	case !guaranteed || len(requests) != len(limits):
		return corev1.PodQOSBurstable
	}
	for name, q := range requests {
		if limit, ok := limits[name]; !ok || limit.Cmp(q) != 0 {
			return corev1.PodQOSBurstable
		}
	}
	return corev1.PodQOSGuaranteed
}

// holdsPodLevel says whether there is an amount of something that a pod itself can ask for.
func holdsPodLevel(list corev1.ResourceList) bool {
	for name := range list {
		if name == corev1.ResourceCPU || name == corev1.ResourceMemory || strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix) {
			return true
		}
	}
	return false
}

// qosResources is how many resources count.
const qosResources = 2

// add sums up what counts of list, and returns how many resources that were.
func add(sum, list corev1.ResourceList) int {
	n := 0
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		q, ok := list[name]
		if !ok || q.Sign() <= 0 {
			continue
		}
		n++
		total, ok := sum[name]
		if !ok {
			total = resource.Quantity{}
		}
		total.Add(q)
		sum[name] = total
	}
	return n
}
