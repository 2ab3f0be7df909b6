package persistentvolume

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	volumehelpers "k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"
)

// Annotations that make a class the default one.
const (
	defaultClass     = "storageclass.kubernetes.io/is-default-class"
	defaultClassBeta = "storageclass.beta.kubernetes.io/is-default-class"
)

// bestMatch returns the volume that the claim should get: one that is meant for it already, else the smallest that is free and satisfies it. Volumes
// with fewer access modes than others are preferred to smaller ones, so that what can do more stays for claims that need it. With delayed only those
// that are meant for the claim count; nil says that there is none.
func bestMatch(claim *corev1.PersistentVolumeClaim, candidates []*corev1.PersistentVolume, delayed bool) (*corev1.PersistentVolume, error) {
	var meant []*corev1.PersistentVolume
	byModes := map[int][]*corev1.PersistentVolume{}
	for _, v := range candidates {
		switch {
		case !volumehelpers.CheckAccessModes(claim, v):
		case v.Spec.ClaimRef != nil:
			meant = append(meant, v)
		case !delayed:
			n := distinct(v.Spec.AccessModes)
			byModes[n] = append(byModes[n], v)
		}
	}
	// One that names the claim is taken whatever others there are.
	groups := [][]*corev1.PersistentVolume{meant}
	for _, n := range slices.Sorted(maps.Keys(byModes)) {
		groups = append(groups, byModes[n])
	}
	for _, group := range groups {
		v, err := volumehelpers.FindMatchingVolume(claim, group, nil, nil, delayed, true)
		if err != nil {
			return nil, fmt.Errorf("error finding PV for claim %q: %w", key(claim), err)
		}
		if v != nil {
			return v, nil
		}
	}
	return nil, nil
}

func distinct(modes []corev1.PersistentVolumeAccessMode) int {
	seen := map[corev1.PersistentVolumeAccessMode]bool{}
	for _, m := range modes {
		seen[m] = true
	}
	return len(seen)
}

// satisfies returns why a volume that a claim asks for by name will not do; nil if it will.
func satisfies(v *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) error {
	want, have := claim.Spec.Resources.Requests[corev1.ResourceStorage], v.Spec.Capacity[corev1.ResourceStorage]
	switch {
	case v.DeletionTimestamp != nil:
		return fmt.Errorf("the volume is marked for deletion %q", v.Name)
	case have.Cmp(want) < 0:
		return errors.New("requested PV is too small")
	case ptr.Deref(claim.Spec.VolumeAttributesClassName, "") != ptr.Deref(v.Spec.VolumeAttributesClassName, ""):
		return errors.New("volumeAttributesClassName does not match")
	case volumehelpers.GetPersistentVolumeClass(v) != volumehelpers.GetPersistentVolumeClaimClass(claim):
		return errors.New("storageClassName does not match")
	case volumehelpers.CheckVolumeModeMismatches(&claim.Spec, &v.Spec):
		return errors.New("incompatible volumeMode")
	case !volumehelpers.CheckAccessModes(claim, v):
		return errors.New("incompatible accessMode")
	}
	return nil
}

// newestDefault is the class for claims that name none: of several the newest, and of those the first by name. Nil if there is none.
func newestDefault(classes []*storagev1.StorageClass) *storagev1.StorageClass {
	var defaults []*storagev1.StorageClass
	for _, c := range classes {
		if c.Annotations[defaultClass] == "true" || c.Annotations[defaultClassBeta] == "true" {
			defaults = append(defaults, c)
		}
	}
	if len(defaults) == 0 {
		return nil
	}
	return slices.MinFunc(defaults, func(a, b *storagev1.StorageClass) int {
		return cmp.Or(b.CreationTimestamp.Compare(a.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
}

// delays says that claims of the class are bound when there is a pod that uses them.
func delays(c *storagev1.StorageClass) bool {
	return c != nil && c.VolumeBindingMode != nil && *c.VolumeBindingMode == storagev1.VolumeBindingWaitForFirstConsumer
}

// isBound says that a claim has been through its binding.
func isBound(claim *corev1.PersistentVolumeClaim) bool {
	return metav1.HasAnnotation(claim.ObjectMeta, volumehelpers.AnnBindCompleted)
}

func key(obj metav1.Object) string { return obj.GetNamespace() + "/" + obj.GetName() }
