package cgroup

import (
	"math"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
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

// PodLimits are the limits of a pod's group: shares for what it asks for, quota and memory if every container is limited, and of
// huge pages what it asks for of each size (of those in pageSizes), or none.
func PodLimits(pod *corev1.Pod, class corev1.PodQOSClass, maxPIDs int64, pageSizes []string) Limits {
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
	out.HugePages = HugePages(requests, pageSizes)
	return out
}

// HugePages picks the huge pages out of a list of resources, as limits for every size of the machine: what isn't asked for is not to be had.
func HugePages(list corev1.ResourceList, pageSizes []string) map[string]int64 {
	if len(pageSizes) == 0 {
		return nil
	}
	out := make(map[string]int64, len(pageSizes))
	for _, size := range pageSizes {
		out[size] = 0
	}
	for name, q := range list {
		text, ok := strings.CutPrefix(string(name), corev1.ResourceHugePagesPrefix)
		if !ok {
			continue
		}
		size, err := resource.ParseQuantity(text)
		if err != nil {
			continue // not of a form that the API lets through
		}
		if key := PageSize(size.Value()); slices.Contains(pageSizes, key) {
			out[key] = q.Value()
		}
	}
	return out
}

// NodeLimits are the limits of the group that holds all pods: what the machine has without what is reserved for the system, so that pods
// together leave that alone.
func NodeLimits(capacity, reserved corev1.ResourceList, maxPIDs int64, pageSizes []string) Limits {
	left := func(name corev1.ResourceName) resource.Quantity {
		q := capacity[name]
		q.Sub(reserved[name])
		return q
	}
	cpu, memory := left(corev1.ResourceCPU), left(corev1.ResourceMemory)
	return Limits{
		CPUShares: Shares(cpu.MilliValue()), MemoryBytes: max(memory.Value(), 0), PIDs: maxPIDs,
		HugePages: HugePages(capacity, pageSizes),
	}
}

// PodsGroup is the group of all pods.
func (t *Tree) PodsGroup() string { return path.Join(t.root, kubepods) }

// ClassGroup is the group of the pods of a class.
func (t *Tree) ClassGroup(class corev1.PodQOSClass) string {
	return path.Dir(PodGroup(t.root, class, ""))
}
