package persistentvolume

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	volumehelpers "k8s.io/component-helpers/storage/volume"
)

// volumeAction is what is to be done about a volume.
type volumeAction int

const (
	// volumePhase sets the phase and nothing else.
	volumePhase volumeAction = iota
	// volumeReclaim sets the phase Released (unless it is Failed) and does what the reclaim policy says.
	volumeReclaim
	// volumeFinish has the claim looked at: it completes the link.
	volumeFinish
	// volumeUnbind takes back a link that the claim did not come to use.
	volumeUnbind
	// volumeMismatch tells both that they do not fit.
	volumeMismatch
)

// volumeStep is the next step of a volume.
type volumeStep struct {
	action volumeAction
	phase  corev1.PersistentVolumePhase
}

// decideVolume says what to do next about a volume; claim is the one that it names with the right uid, nil if that does not exist.
func decideVolume(v *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) volumeStep {
	switch {
	case v.Spec.ClaimRef == nil:
		return volumeStep{action: volumePhase, phase: corev1.VolumeAvailable}
	case v.Spec.ClaimRef.UID == "":
		return volumeStep{action: volumePhase, phase: corev1.VolumeAvailable} // meant for a claim that may not be there yet
	case claim == nil:
		return volumeStep{action: volumeReclaim}
	case claim.Spec.VolumeName == v.Name:
		return volumeStep{action: volumePhase, phase: corev1.VolumeBound}
	case claim.Spec.VolumeName == "":
		if volumehelpers.CheckVolumeModeMismatches(&claim.Spec, &v.Spec) {
			return volumeStep{action: volumeMismatch}
		}
		return volumeStep{action: volumeFinish}
	case metav1.HasAnnotation(v.ObjectMeta, volumehelpers.AnnDynamicallyProvisioned) && v.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete:
		return volumeStep{action: volumeReclaim} // made for the claim, which got another
	}
	return volumeStep{action: volumeUnbind}
}

// unbound returns a copy of a volume without its link to a claim. A link that a user made keeps the claim's name.
func unbound(v *corev1.PersistentVolume) *corev1.PersistentVolume {
	v = v.DeepCopy()
	if metav1.HasAnnotation(v.ObjectMeta, volumehelpers.AnnBoundByController) {
		v.Spec.ClaimRef = nil
		delete(v.Annotations, volumehelpers.AnnBoundByController)
		if len(v.Annotations) == 0 {
			v.Annotations = nil
		}
	} else {
		v.Spec.ClaimRef.UID = ""
	}
	return v
}
