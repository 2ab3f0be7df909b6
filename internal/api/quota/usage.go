package quota

import (
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	helpers "k8s.io/component-helpers/resource"
)

const (
	// classSuffix is in the names of quotas of one storage class, deviceSuffix at the end of those of one device class.
	classSuffix  = ".storageclass.storage.k8s.io/"
	deviceSuffix = ".deviceclass.resource.k8s.io/devices"
)

// countPrefix begins the names of quotas of objects.
const countPrefix = "count/"

// Usage is what an object uses of the quotas of its namespace.
func Usage(gr schema.GroupResource, obj runtime.Object, now time.Time) corev1.ResourceList {
	one := *resource.NewQuantity(1, resource.DecimalSI)
	use := corev1.ResourceList{corev1.ResourceName(countPrefix + gr.String()): one}
	switch o := obj.(type) {
	case *corev1.Pod:
		podUsage(o, use, now)
	case *resourcev1.ResourceClaim:
		deviceUsage(o, use)
	case *corev1.Service:
		use[corev1.ResourceServices] = one
		serviceUsage(o, use)
	case *corev1.PersistentVolumeClaim:
		claimUsage(o, use)
	}
	switch name := corev1.ResourceName(gr.String()); name {
	case corev1.ResourceConfigMaps, corev1.ResourceSecrets, corev1.ResourceReplicationControllers, corev1.ResourceQuotas:
		use[name] = one
	}
	return use
}

// ended says whether a pod needs nothing any more: it is through, or its time to end is over and only its node does not say so.
func ended(pod *corev1.Pod, now time.Time) bool {
	if pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		return true
	}
	return pod.DeletionTimestamp != nil && pod.DeletionGracePeriodSeconds != nil &&
		now.After(pod.DeletionTimestamp.Add(time.Duration(*pod.DeletionGracePeriodSeconds)*time.Second))
}

func podUsage(pod *corev1.Pod, use corev1.ResourceList, now time.Time) {
	if ended(pod, now) {
		return // it only counts as an object
	}
	use[corev1.ResourcePods] = *resource.NewQuantity(1, resource.DecimalSI)
	o := helpers.PodResourcesOptions{UseStatusResources: true}
	for name, n := range helpers.PodRequests(pod, o) {
		switch {
		case name == corev1.ResourceCPU, name == corev1.ResourceMemory, name == corev1.ResourceEphemeralStorage:
			use[name] = n
		case strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix):
			use[name] = n
		case !strings.Contains(string(name), "/"):
			continue
		}
		use["requests."+name] = n
	}
	for name, n := range helpers.PodLimits(pod, o) {
		switch name {
		case corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage:
			use["limits."+name] = n
		}
	}
}

func serviceUsage(svc *corev1.Service, use corev1.ResourceList) {
	ports := int64(len(svc.Spec.Ports))
	switch svc.Spec.Type {
	case corev1.ServiceTypeNodePort:
		use[corev1.ResourceServicesNodePorts] = *resource.NewQuantity(ports, resource.DecimalSI)
	case corev1.ServiceTypeLoadBalancer:
		use[corev1.ResourceServicesLoadBalancers] = *resource.NewQuantity(1, resource.DecimalSI)
		if a := svc.Spec.AllocateLoadBalancerNodePorts; a != nil && !*a {
			ports = 0
			for i := range svc.Spec.Ports {
				if svc.Spec.Ports[i].NodePort != 0 {
					ports++
				}
			}
		}
		use[corev1.ResourceServicesNodePorts] = *resource.NewQuantity(ports, resource.DecimalSI)
	}
}

func claimUsage(claim *corev1.PersistentVolumeClaim, use corev1.ResourceList) {
	one := *resource.NewQuantity(1, resource.DecimalSI)
	use[corev1.ResourcePersistentVolumeClaims] = one
	class := claim.Annotations[corev1.BetaStorageClassAnnotation]
	if class == "" && claim.Spec.StorageClassName != nil {
		class = *claim.Spec.StorageClassName
	}
	if class != "" {
		use[corev1.ResourceName(class+classSuffix)+corev1.ResourcePersistentVolumeClaims] = one
	}
	size, ok := claim.Spec.Resources.Requests[corev1.ResourceStorage]
	if !ok {
		return
	}
	// A claim that was shrunk after a failed expansion still holds what was allocated.
	if held := claim.Status.AllocatedResources[corev1.ResourceStorage]; held.Cmp(size) > 0 {
		size = held
	}
	use[corev1.ResourceRequestsStorage] = size
	if class != "" {
		use[corev1.ResourceName(class+classSuffix)+corev1.ResourceRequestsStorage] = size
	}
}

// deviceUsage counts the devices that a claim may get at most, by class (KEP-4381).
func deviceUsage(claim *resourcev1.ResourceClaim, use corev1.ResourceList) {
	amount := func(mode resourcev1.DeviceAllocationMode, count int64) int64 {
		if mode == resourcev1.DeviceAllocationModeAll {
			return resourcev1.AllocationResultsMaxSize
		}
		return count
	}
	add := func(class string, n int64) {
		if class == "" || n == 0 {
			return
		}
		name := corev1.ResourceName(class + deviceSuffix)
		sum := use[name]
		sum.Add(*resource.NewQuantity(n, resource.DecimalSI))
		use[name] = sum
	}
	for i := range claim.Spec.Devices.Requests {
		r := &claim.Spec.Devices.Requests[i]
		if r.Exactly != nil {
			add(r.Exactly.DeviceClassName, amount(r.Exactly.AllocationMode, r.Exactly.Count))
			continue
		}
		most := map[string]int64{}
		for _, sub := range r.FirstAvailable {
			most[sub.DeviceClassName] = max(most[sub.DeviceClassName], amount(sub.AllocationMode, sub.Count))
		}
		for class, n := range most {
			add(class, n)
		}
	}
}

// Matches tells whether a quota is about an object; one without scopes is about all.
func Matches(q *corev1.ResourceQuota, obj runtime.Object) bool {
	for _, r := range Scopes(q) {
		if !MatchesScope(r, obj) {
			return false
		}
	}
	return true
}

// Scopes are what a quota wants of the objects that it counts.
func Scopes(q *corev1.ResourceQuota) []corev1.ScopedResourceSelectorRequirement {
	var out []corev1.ScopedResourceSelectorRequirement
	for _, scope := range q.Spec.Scopes {
		out = append(out, corev1.ScopedResourceSelectorRequirement{ScopeName: scope, Operator: corev1.ScopeSelectorOpExists})
	}
	if q.Spec.ScopeSelector != nil {
		out = append(out, q.Spec.ScopeSelector.MatchExpressions...)
	}
	return out
}

// MatchesScope says whether an object is in a scope.
func MatchesScope(r corev1.ScopedResourceSelectorRequirement, obj runtime.Object) bool {
	switch o := obj.(type) {
	case *corev1.PersistentVolumeClaim:
		return r.ScopeName == corev1.ResourceQuotaScopeVolumeAttributesClass && matchNames(r, claimAttributesClasses(o))
	case *corev1.Pod:
		return podMatches(r, o)
	}
	return false
}

func claimAttributesClasses(claim *corev1.PersistentVolumeClaim) []string {
	var names []string
	for _, n := range []*string{claim.Spec.VolumeAttributesClassName, claim.Status.CurrentVolumeAttributesClassName} {
		if n != nil && *n != "" {
			names = append(names, *n)
		}
	}
	return names
}

// Terminating reports whether a pod counts as one that ends by itself, for the scopes Terminating and NotTerminating.
func Terminating(pod *corev1.Pod) bool {
	return pod.Spec.ActiveDeadlineSeconds != nil && *pod.Spec.ActiveDeadlineSeconds >= 0
}

func podMatches(r corev1.ScopedResourceSelectorRequirement, pod *corev1.Pod) bool {
	switch r.ScopeName {
	case corev1.ResourceQuotaScopeTerminating:
		return Terminating(pod)
	case corev1.ResourceQuotaScopeNotTerminating:
		return !Terminating(pod)
	case corev1.ResourceQuotaScopeBestEffort:
		return bestEffort(pod)
	case corev1.ResourceQuotaScopeNotBestEffort:
		return !bestEffort(pod)
	case corev1.ResourceQuotaScopePriorityClass:
		var names []string
		if pod.Spec.PriorityClassName != "" {
			names = []string{pod.Spec.PriorityClassName}
		}
		return matchNames(r, names)
	case corev1.ResourceQuotaScopeCrossNamespacePodAffinity:
		return crossNamespaceAffinity(pod)
	}
	return false
}

func matchNames(r corev1.ScopedResourceSelectorRequirement, names []string) bool {
	listed := slices.ContainsFunc(names, func(n string) bool { return slices.Contains(r.Values, n) })
	switch r.Operator {
	case corev1.ScopeSelectorOpExists:
		return len(names) > 0
	case corev1.ScopeSelectorOpDoesNotExist:
		return len(names) == 0
	case corev1.ScopeSelectorOpIn:
		return listed
	case corev1.ScopeSelectorOpNotIn:
		return !listed
	}
	return false
}

// bestEffort tells whether a pod states no cpu and no memory at all.
func bestEffort(pod *corev1.Pod) bool {
	states := func(r *corev1.ResourceRequirements) bool {
		for _, l := range []corev1.ResourceList{r.Requests, r.Limits} {
			for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
				if n, ok := l[name]; ok && n.Sign() > 0 {
					return true
				}
			}
		}
		return false
	}
	if pod.Spec.Resources != nil && states(pod.Spec.Resources) {
		return false
	}
	for _, containers := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range containers {
			if states(&containers[i].Resources) {
				return false
			}
		}
	}
	return true
}

func crossNamespaceAffinity(pod *corev1.Pod) bool {
	crosses := func(t *corev1.PodAffinityTerm) bool { return len(t.Namespaces) > 0 || t.NamespaceSelector != nil }
	among := func(required []corev1.PodAffinityTerm, preferred []corev1.WeightedPodAffinityTerm) bool {
		for i := range required {
			if crosses(&required[i]) {
				return true
			}
		}
		for i := range preferred {
			if crosses(&preferred[i].PodAffinityTerm) {
				return true
			}
		}
		return false
	}
	a := pod.Spec.Affinity
	if a == nil {
		return false
	}
	return a.PodAffinity != nil && among(a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution, a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution) ||
		a.PodAntiAffinity != nil && among(a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution, a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
}

// Resource is the resource whose objects use what a quota's name limits; false if nobody's do.
func Resource(name corev1.ResourceName) (schema.GroupResource, bool) {
	core := func(resource string) (schema.GroupResource, bool) {
		return schema.GroupResource{Resource: resource}, true
	}
	text := string(name)
	if rest, ok := strings.CutPrefix(text, countPrefix); ok {
		return schema.ParseGroupResource(rest), rest != ""
	}
	if strings.HasSuffix(text, deviceSuffix) {
		return schema.GroupResource{Group: "resource.k8s.io", Resource: "resourceclaims"}, true
	}
	if name == corev1.ResourcePersistentVolumeClaims || name == corev1.ResourceRequestsStorage || strings.Contains(text, classSuffix) {
		return core("persistentvolumeclaims")
	}
	switch name {
	case corev1.ResourceServices, corev1.ResourceServicesNodePorts, corev1.ResourceServicesLoadBalancers:
		return core("services")
	case corev1.ResourceConfigMaps, corev1.ResourceSecrets, corev1.ResourceReplicationControllers, corev1.ResourceQuotas:
		return core(text)
	case corev1.ResourcePods, corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage:
		return core("pods")
	}
	if strings.HasPrefix(text, "requests.") || strings.HasPrefix(text, "limits.") || strings.HasPrefix(text, corev1.ResourceHugePagesPrefix) {
		return core("pods")
	}
	return schema.GroupResource{}, false
}
