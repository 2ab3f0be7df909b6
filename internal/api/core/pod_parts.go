package core

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/check"
	"github.com/celox/celox/internal/api/podspec"
)

// keepPod makes p the stored pod with but the identity and managed fields of what the client sent, and returns what it sent.
func keepPod(p, old *corev1.Pod) *corev1.Pod {
	sent := *p
	old.DeepCopyInto(p)
	p.Name, p.Namespace, p.UID, p.ResourceVersion, p.ManagedFields = sent.Name, sent.Namespace, sent.UID, sent.ResourceVersion, sent.ManagedFields
	p.GenerateName, p.DeletionGracePeriodSeconds = sent.GenerateName, sent.DeletionGracePeriodSeconds
	return &sent
}

// PreparePodEphemeralContainers lets an update through the "ephemeralcontainers" door change nothing but those (KEP-277).
func PreparePodEphemeralContainers(obj, old api.Object) {
	p, was := obj.(*corev1.Pod), old.(*corev1.Pod)
	p.Spec.EphemeralContainers = keepPod(p, was).Spec.EphemeralContainers
	podspec.DropDisabled(&p.Spec, &was.Spec)
}

// ValidatePodEphemeralContainersUpdate checks such an update: containers may only be added.
func ValidatePodEphemeralContainersUpdate(obj, old api.Object) field.ErrorList {
	p, was := obj.(*corev1.Pod), old.(*corev1.Pod)
	errs := validatePod(p, podspec.OptionsForPod(was))
	errs = append(errs, validatePodAnnotationsUpdate(p, was)...)
	if _, mirror := was.Annotations[corev1.MirrorPodAnnotationKey]; mirror {
		return field.ErrorList{field.Forbidden(field.NewPath(""), "static pods do not support ephemeral containers")}
	}
	at := field.NewPath("spec", "ephemeralContainers")
	now := map[string]*corev1.EphemeralContainer{}
	for i := range p.Spec.EphemeralContainers {
		now[p.Spec.EphemeralContainers[i].Name] = &p.Spec.EphemeralContainers[i]
	}
	for i := range was.Spec.EphemeralContainers {
		before := &was.Spec.EphemeralContainers[i]
		switch c := now[before.Name]; {
		case c == nil:
			errs = append(errs, field.Forbidden(at, fmt.Sprintf("existing ephemeral containers %q may not be removed\n", before.Name)))
		case !equality.Semantic.DeepEqual(before, c):
			errs = append(errs, field.Forbidden(at, fmt.Sprintf("existing ephemeral containers %q may not be changed\n%v", before.Name,
				diff.Diff(check.Rendered(before), check.Rendered(c)))))
		}
	}
	return errs
}

// PreparePodResize lets an update through the "resize" door change nothing but resources and resize policies (KEP-1287).
func PreparePodResize(obj, old api.Object) {
	p, was := obj.(*corev1.Pod), old.(*corev1.Pod)
	sent := keepPod(p, was)
	p.Spec.Containers = takeResources(p.Spec.Containers, sent.Spec.Containers)
	p.Spec.InitContainers = takeResources(p.Spec.InitContainers, sent.Spec.InitContainers)
	p.Spec.Resources = sent.Spec.Resources
	keepPodLevelResources(p, was)
	podspec.SetPodLevelResources(p)
	podspec.DropDisabled(&p.Spec, &was.Spec)
}

// takeResources returns list with the resources that were sent. Other containers than there are, or in another order, are left as sent: they are refused.
func takeResources(list, sent []corev1.Container) []corev1.Container {
	if !slices.EqualFunc(list, sent, func(a, b corev1.Container) bool { return a.Name == b.Name }) {
		return sent
	}
	for i := range list {
		list[i].Resources, list[i].ResizePolicy = sent[i].Resources, sent[i].ResizePolicy
	}
	return list
}

// sameContainers wants those of a pod to be what they were, in their order.
func sameContainers(list, old []corev1.Container, p *field.Path, what string) field.ErrorList {
	if len(list) != len(old) {
		return field.ErrorList{field.Forbidden(p, what+" may not be added or removed on resize")}
	}
	var errs field.ErrorList
	for i := range list {
		if list[i].Name != old[i].Name {
			errs = append(errs, field.Forbidden(p.Index(i).Child("name"), what+" may not be renamed or reordered on resize"))
		}
	}
	return errs
}

// ValidatePodResize checks such an update: processor and memory may change within the pod's class of service.
func ValidatePodResize(obj, old api.Object) field.ErrorList {
	p, was := obj.(*corev1.Pod), old.(*corev1.Pod)
	spec := field.NewPath("spec")
	errs := validatePod(p, podspec.OptionsForPod(was))
	errs = append(errs, validatePodAnnotationsUpdate(p, was)...)
	if _, mirror := was.Annotations[corev1.MirrorPodAnnotationKey]; mirror {
		return field.ErrorList{field.Forbidden(field.NewPath(""), "static pods cannot be resized")}
	}
	if was.Spec.OS != nil && was.Spec.OS.Name == corev1.Windows {
		return field.ErrorList{field.Forbidden(field.NewPath(""), "windows pods cannot be resized")}
	}
	if podQOS(was) != podspec.QOSClass(&p.Spec) {
		errs = append(errs, field.Invalid(spec, p.Status.QOSClass, "Pod QOS Class may not change as a result of resizing"))
	}
	if !resizable(was) {
		errs = append(errs, field.Forbidden(spec, "Pod running on node without support for resize"))
	}
	may := p.Spec.DeepCopy()
	errs = append(errs, resizePodLevel(may, &was.Spec, spec)...)
	if others := append(sameContainers(p.Spec.Containers, was.Spec.Containers, spec.Child("containers"), "containers"),
		sameContainers(p.Spec.InitContainers, was.Spec.InitContainers, spec.Child("initContainers"), "initContainers")...); len(others) > 0 {
		return append(errs, others...) // the rest compares containers by their places
	}
	for i := range may.InitContainers {
		errs = append(errs, validateRemoved(&may.InitContainers[i].Resources, &was.Spec.InitContainers[i].Resources, "", spec.Child("initContainers").Index(i).Child("resources"))...)
	}
	for i := range may.Containers {
		errs = append(errs, validateRemoved(&may.Containers[i].Resources, &was.Spec.Containers[i].Resources, "", spec.Child("containers").Index(i).Child("resources"))...)
	}
	for i := range may.Containers {
		c, before := &may.Containers[i], &was.Spec.Containers[i]
		putBackResources(&c.Resources, &before.Resources)
		if !equality.Semantic.DeepEqual(*c, *before) {
			errs = append(errs, field.Forbidden(spec, "only cpu and memory resources are mutable"))
		}
	}
	for i := range may.InitContainers {
		c, before, at := &may.InitContainers[i], &was.Spec.InitContainers[i], spec.Child("initContainers").Index(i)
		changed := !equality.Semantic.DeepEqual(*c, *before)
		putBackResources(&c.Resources, &before.Resources)
		if !equality.Semantic.DeepEqual(*c, *before) {
			errs = append(errs, field.Forbidden(at, "only cpu and memory resources for init or sidecar containers are mutable"))
		}
		// One that would have to begin again for it must not: what comes after it may have begun.
		if changed && !podspec.IsSidecar(c) && slices.ContainsFunc(c.ResizePolicy, func(p corev1.ContainerResizePolicy) bool { return p.RestartPolicy == corev1.RestartContainer }) {
			errs = append(errs, field.Forbidden(at, "non-sidecar init containers with a resize policy of RestartContainer cannot be resized"))
		}
	}
	if len(errs) == 0 && !equality.Semantic.DeepEqual(*may, was.Spec) {
		errs = append(errs, field.Forbidden(spec, "only cpu and memory resources are mutable"))
	}
	return errs
}

// resizePodLevel checks what changes of a pod's own resources, and puts back in may the amounts that may change.
func resizePodLevel(may, old *corev1.PodSpec, p *field.Path) field.ErrorList {
	some := func(r *corev1.ResourceRequirements) bool { return r != nil && len(r.Requests)+len(r.Limits) > 0 }
	if !some(may.Resources) && !some(old.Resources) {
		return nil
	}
	was := old.Resources
	if was == nil {
		was = &corev1.ResourceRequirements{}
	} else if may.Resources == nil {
		return field.ErrorList{field.Forbidden(p.Child("resources"), "pod-level resources cannot be removed")}
	}
	errs := validateRemoved(may.Resources, was, "pod-level ", p.Child("resources"))
	putBackResources(may.Resources, was)
	if !equality.Semantic.DeepEqual(may.Resources, was) {
		errs = append(errs, field.Forbidden(p, "only cpu and memory resources are mutable at pod-level"))
	} else if old.Resources == nil {
		may.Resources = nil // they were given for the first time
	}
	return errs
}

// resizable says whether the pod's node tells how large its containers are.
func resizable(p *corev1.Pod) bool {
	for i := range p.Status.ContainerStatuses {
		if s := &p.Status.ContainerStatuses[i]; s.State.Running != nil && s.Resources == nil {
			return false
		}
	}
	return true
}

// validateRemoved wants nothing to be taken away.
func validateRemoved(r, old *corev1.ResourceRequirements, whose string, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if removed(r.Requests, old.Requests) {
		errs = append(errs, field.Forbidden(p.Child("requests"), whose+"resource requests cannot be removed"))
	}
	if removed(r.Limits, old.Limits) {
		errs = append(errs, field.Forbidden(p.Child("limits"), whose+"resource limits cannot be removed"))
	}
	return errs
}

func removed(list, old corev1.ResourceList) bool {
	for name := range old {
		if _, ok := list[name]; !ok {
			return true
		}
	}
	return false
}

// putBackResources puts back the amounts that may change.
func putBackResources(r, old *corev1.ResourceRequirements) {
	r.Requests, r.Limits = putBack(r.Requests, old.Requests), putBack(r.Limits, old.Limits)
}

func putBack(list, old corev1.ResourceList) corev1.ResourceList {
	out := corev1.ResourceList{}
	for name, q := range list {
		out[name] = q
	}
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		if q, ok := old[name]; ok {
			out[name] = q
		} else {
			delete(out, name)
		}
	}
	return out
}
