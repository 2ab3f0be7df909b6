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
	p.GenerateName = set.Name + "-" // of no effect beside a name, but upstream's pods carry it, and tools take the set's name from it
	p.Annotations, p.Finalizers, p.Labels = t.Annotations, t.Finalizers, map[string]string{}
	maps.Copy(p.Labels, t.Labels)
	p.Labels[appsv1.ControllerRevisionHashLabelKey] = revision
	p.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(set, kind)}
	identify(set, p, ordinal)
	return p
}

// identify gives a new pod what makes it the one of its ordinal.
func identify(set *appsv1.StatefulSet, p *corev1.Pod, ordinal int) {
	label(p, ordinal)
	p.Spec.Hostname, p.Spec.Subdomain = p.Name, set.Spec.ServiceName
	mount(set, p, ordinal)
}

// label gives a pod the labels of its ordinal.
func label(p *corev1.Pod, ordinal int) {
	if p.Labels == nil {
		p.Labels = map[string]string{}
	}
	p.Labels[appsv1.StatefulSetPodNameLabel] = p.Name
	p.Labels[appsv1.PodIndexLabel] = strconv.Itoa(ordinal)
}

// isLabelled says that a pod carries its name. Its index is not looked at: pods from before that label was invented are as good.
func isLabelled(p *corev1.Pod) bool { return p.Labels[appsv1.StatefulSetPodNameLabel] == p.Name }

// mount gives a pod the volumes of its claims, before its others, in place of those that have their names.
func mount(set *appsv1.StatefulSet, p *corev1.Pod, ordinal int) {
	var volumes []corev1.Volume
	named := map[string]bool{}
	for i := range set.Spec.VolumeClaimTemplates {
		name := set.Spec.VolumeClaimTemplates[i].Name
		if named[name] {
			continue
		}
		named[name] = true
		volumes = append(volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claimName(name, podName(set, ordinal))},
		}})
	}
	p.Spec.Volumes = append(volumes, slices.DeleteFunc(slices.Clone(p.Spec.Volumes), func(v corev1.Volume) bool { return named[v.Name] })...)
}

// isMounted says that a pod has the volumes of its claims.
func isMounted(set *appsv1.StatefulSet, p *corev1.Pod, ordinal int) bool {
	for i := range set.Spec.VolumeClaimTemplates {
		name := set.Spec.VolumeClaimTemplates[i].Name
		if !slices.ContainsFunc(p.Spec.Volumes, func(v corev1.Volume) bool {
			return v.Name == name && v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ClaimName == claimName(name, podName(set, ordinal))
		}) {
			return false
		}
	}
	return true
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
// A claim that a namesake of the set or the pod owned is left as it is: it is about to go. Pod is nil when there is none.
func ownersOf(set *appsv1.StatefulSet, claim *corev1.PersistentVolumeClaim, pod *corev1.Pod, condemned bool) (owners []metav1.OwnerReference, conflict bool) {
	policy := retention(set)
	for _, r := range claim.OwnerReferences {
		switch {
		case isRef(r, kind, set.Name):
			if r.UID != set.UID {
				return claim.OwnerReferences, true
			}
		case pod != nil && isRef(r, podKind, pod.Name):
			if r.UID != pod.UID {
				return claim.OwnerReferences, true
			}
		default:
			owners = append(owners, r)
			conflict = conflict || ptr.Deref(r.Controller, false)
		}
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

// keepAll is the policy that leaves claims alone.
var keepAll = appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{
	WhenDeleted: appsv1.RetainPersistentVolumeClaimRetentionPolicyType, WhenScaled: appsv1.RetainPersistentVolumeClaimRetentionPolicyType,
}

// retention is a set's policy for its claims; unset is to keep them.
func retention(set *appsv1.StatefulSet) appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy {
	return ptr.Deref(set.Spec.PersistentVolumeClaimRetentionPolicy, keepAll)
}

// isLeft says that a claim is about to go with a pod that is gone, of the same name as the one that is to be made.
func isLeft(claim *corev1.PersistentVolumeClaim, pod string) bool {
	return slices.ContainsFunc(claim.OwnerReferences, func(r metav1.OwnerReference) bool { return isRef(r, podKind, pod) })
}
