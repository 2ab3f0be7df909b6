package cgroup

import (
	"math"
	"path"

	corev1 "k8s.io/api/core/v1"
	resourcehelper "k8s.io/component-helpers/resource"
)

// The shares that the kernel allows and the period that quotas are given per.
const (
	minShares  = 2
	maxShares  = 262144
	periodUS   = 100000
	minQuotaUS = 1000
	kubepods   = "kubepods"
)

func log2(x float64) float64 { return math.Log2(x) }

func ceilPow10(e float64) uint64 { return uint64(math.Ceil(math.Pow(10, e))) }

// Shares turns milli-CPUs into v1 shares.
func Shares(milli int64) uint64 {
	if milli <= 0 {
		return minShares
	}
	return uint64(min(max(milli*1024/1000, minShares), maxShares))
}

// Quota turns a limit in milli-CPUs into microseconds per period of 100 ms; 0 is no limit.
func Quota(milli int64) (quotaUS int64, period uint64) {
	if milli <= 0 {
		return 0, periodUS
	}
	return max(milli*periodUS/1000, minQuotaUS), periodUS
}

// PodGroup is the group of a pod of this class.
func PodGroup(root string, class corev1.PodQOSClass, uid string) string {
	name := "pod" + uid
	switch class {
	case corev1.PodQOSBurstable:
		return path.Join(root, kubepods, "burstable", name)
	case corev1.PodQOSBestEffort:
		return path.Join(root, kubepods, "besteffort", name)
	}
	return path.Join(root, kubepods, name)
}

// PodLimits are the limits of a pod's group: shares for what it asks for, quota and memory if every container is limited.
func PodLimits(pod *corev1.Pod, class corev1.PodQOSClass, maxPIDs int64) Limits {
	requests := resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{})
	limits := resourcehelper.PodLimits(pod, resourcehelper.PodResourcesOptions{})
	cpuLimited, memoryLimited := true, true
	if pod.Spec.Resources == nil || len(pod.Spec.Resources.Limits) == 0 {
		for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
			for i := range list {
				l := list[i].Resources.Limits
				if q, ok := l[corev1.ResourceCPU]; !ok || q.IsZero() {
					cpuLimited = false
				}
				if q, ok := l[corev1.ResourceMemory]; !ok || q.IsZero() {
					memoryLimited = false
				}
			}
		}
	} else {
		_, cpuLimited = pod.Spec.Resources.Limits[corev1.ResourceCPU]
		_, memoryLimited = pod.Spec.Resources.Limits[corev1.ResourceMemory]
	}
	out := Limits{CPUShares: Shares(requests.Cpu().MilliValue()), PIDs: maxPIDs}
	if class == corev1.PodQOSBestEffort {
		out.CPUShares = minShares
	}
	if cpuLimited && class != corev1.PodQOSBestEffort {
		out.CPUQuotaUS, out.CPUPeriodUS = Quota(limits.Cpu().MilliValue())
	}
	if memoryLimited && class != corev1.PodQOSBestEffort {
		out.MemoryBytes = limits.Memory().Value()
	}
	return out
}

// Groups are the node's own groups for pods of each class, to be made at start.
func (t *Tree) Groups() []string {
	return []string{
		path.Join(t.root, kubepods),
		path.Join(t.root, kubepods, "burstable"),
		path.Join(t.root, kubepods, "besteffort"),
	}
}
