package status

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// QOSClass is the pod's class of service: Guaranteed if every container limits CPU and memory and asks for as much as it
// limits, BestEffort if nothing asks for or limits either, else Burstable.
func QOSClass(pod *corev1.Pod) corev1.PodQOSClass {
	if r := pod.Spec.Resources; r != nil && len(r.Requests)+len(r.Limits) > 0 {
		return classOf([]corev1.ResourceRequirements{*r})
	}
	var all []corev1.ResourceRequirements
	for i := range pod.Spec.InitContainers {
		all = append(all, pod.Spec.InitContainers[i].Resources)
	}
	for i := range pod.Spec.Containers {
		all = append(all, pod.Spec.Containers[i].Resources)
	}
	return classOf(all)
}

func classOf(all []corev1.ResourceRequirements) corev1.PodQOSClass {
	any, guaranteed := false, true
	requests, limits := map[corev1.ResourceName]resource.Quantity{}, map[corev1.ResourceName]resource.Quantity{}
	add := func(sum map[corev1.ResourceName]resource.Quantity, list corev1.ResourceList, name corev1.ResourceName) bool {
		q, ok := list[name]
		if !ok || q.IsZero() {
			return false
		}
		s := sum[name]
		s.Add(q)
		sum[name] = s
		return true
	}
	for _, r := range all {
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			if add(requests, r.Requests, name) {
				any = true
			}
			if add(limits, r.Limits, name) {
				any = true
			} else {
				guaranteed = false
			}
		}
	}
	if !any {
		return corev1.PodQOSBestEffort
	}
	if guaranteed && len(requests) == len(limits) {
		for name, limit := range limits {
			if request := requests[name]; request.Cmp(limit) != 0 {
				guaranteed = false
			}
		}
	} else {
		guaranteed = false
	}
	if guaranteed {
		return corev1.PodQOSGuaranteed
	}
	return corev1.PodQOSBurstable
}
