package statefulset

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/ptr"
)

// ordinalOf reads the ordinal of a pod's name; false if the name is not one of the set's.
func ordinalOf(set *appsv1.StatefulSet, pod string) (int, bool) {
	text, ok := strings.CutPrefix(pod, set.Name+"-")
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseInt(text, 10, 32)
	if err != nil || n < 0 || strconv.Itoa(int(n)) != text {
		return 0, false
	}
	return int(n), true
}

func podName(set *appsv1.StatefulSet, ordinal int) string {
	return set.Name + "-" + strconv.Itoa(ordinal)
}

// first is the lowest ordinal of a set.
func first(set *appsv1.StatefulSet) int {
	if set.Spec.Ordinals == nil {
		return 0
	}
	return int(set.Spec.Ordinals.Start)
}

func replicas(set *appsv1.StatefulSet) int { return int(ptr.Deref(set.Spec.Replicas, 1)) }

// claimName is the name of the claim that a template makes for a pod.
func claimName(template, pod string) string { return template + "-" + pod }

// podFor makes the pod of an ordinal from the template of a revision.
func podFor(set *appsv1.StatefulSet, t *corev1.PodTemplateSpec, revision string, ordinal int) *corev1.Pod {
	t = t.DeepCopy()
	p := &corev1.Pod{Spec: t.Spec}
	p.Name, p.Namespace = podName(set, ordinal), set.Namespace
	p.Annotations, p.Finalizers, p.Labels = t.Annotations, t.Finalizers, map[string]string{}
	maps.Copy(p.Labels, t.Labels)
	p.Labels[appsv1.ControllerRevisionHashLabelKey] = revision
	p.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(set, kind)}
	identify(set, p, ordinal)
	return p
}

// identify gives a pod what makes it the one of its ordinal.
func identify(set *appsv1.StatefulSet, p *corev1.Pod, ordinal int) {
	if p.Labels == nil {
		p.Labels = map[string]string{}
	}
	p.Labels[appsv1.StatefulSetPodNameLabel] = p.Name
	p.Labels[appsv1.PodIndexLabel] = strconv.Itoa(ordinal)
	p.Spec.Hostname, p.Spec.Subdomain = p.Name, set.Spec.ServiceName
	for i := range set.Spec.VolumeClaimTemplates {
		name := set.Spec.VolumeClaimTemplates[i].Name
		v := corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claimName(name, p.Name)}}}
		at := slices.IndexFunc(p.Spec.Volumes, func(o corev1.Volume) bool { return o.Name == name })
		if at < 0 {
			p.Spec.Volumes = append(p.Spec.Volumes, v)
		} else {
			p.Spec.Volumes[at] = v
		}
	}
}

// isIdentified says that a pod carries the labels of its ordinal.
func isIdentified(p *corev1.Pod, ordinal int) bool {
	return p.Labels[appsv1.StatefulSetPodNameLabel] == p.Name && p.Labels[appsv1.PodIndexLabel] == strconv.Itoa(ordinal)
}

// claimsOf makes the claims of an ordinal.
func claimsOf(set *appsv1.StatefulSet, ordinal int) []*corev1.PersistentVolumeClaim {
	var claims []*corev1.PersistentVolumeClaim
	for i := range set.Spec.VolumeClaimTemplates {
		c := set.Spec.VolumeClaimTemplates[i].DeepCopy()
		c.Name, c.Namespace = claimName(c.Name, podName(set, ordinal)), set.Namespace
		if set.Spec.Selector != nil {
			labels := map[string]string{}
			maps.Copy(labels, c.Labels)
			maps.Copy(labels, set.Spec.Selector.MatchLabels)
			c.Labels = labels
		}
		c.Status = corev1.PersistentVolumeClaimStatus{}
		claims = append(claims, c)
	}
	return claims
}

// ownersOf says who should own the claims of an ordinal by the retention policy (KEP-1847): the set, if they are to go with it; the pod, if they
// are to go because the set shrank below it. What others own stays; where one of them is the controller the policy does not apply, and conflict says so.
// Pod is nil when there is none.
func ownersOf(set *appsv1.StatefulSet, claim *corev1.PersistentVolumeClaim, pod *corev1.Pod, condemned bool) (owners []metav1.OwnerReference, conflict bool) {
	policy := retention(set)
	for _, r := range claim.OwnerReferences {
		if isRef(r, kind, set.Name) || pod != nil && isRef(r, podKind, pod.Name) {
			continue // of now, or of a namesake before
		}
		owners = append(owners, r)
		conflict = conflict || ptr.Deref(r.Controller, false)
	}
	switch {
	case conflict:
	case condemned && policy.WhenScaled == appsv1.DeletePersistentVolumeClaimRetentionPolicyType && pod != nil:
		owners = append(owners, *metav1.NewControllerRef(pod, podKind))
	case policy.WhenDeleted == appsv1.DeletePersistentVolumeClaimRetentionPolicyType && (!condemned || policy.WhenScaled != appsv1.DeletePersistentVolumeClaimRetentionPolicyType):
		owners = append(owners, *metav1.NewControllerRef(set, kind))
	}
	return owners, conflict
}

var podKind = corev1.SchemeGroupVersion.WithKind("Pod")

func isRef(r metav1.OwnerReference, of schema.GroupVersionKind, name string) bool {
	return r.Kind == of.Kind && r.APIVersion == of.GroupVersion().String() && r.Name == name
}

// retention is a set's policy for its claims; unset is to keep them.
func retention(set *appsv1.StatefulSet) appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy {
	return ptr.Deref(set.Spec.PersistentVolumeClaimRetentionPolicy, appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{})
}

// isLeft says that a claim is about to go with a pod that is gone, of the same name as the one that is to be made.
func isLeft(claim *corev1.PersistentVolumeClaim, pod string) bool {
	return claim.DeletionTimestamp != nil || slices.ContainsFunc(claim.OwnerReferences, func(r metav1.OwnerReference) bool { return isRef(r, podKind, pod) })
}
