package persistentvolume

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	volumehelpers "k8s.io/component-helpers/storage/volume"
)

// notice is an event to be told about an object; the zero notice is none.
type notice struct{ kind, reason, message string }

func warn(reason, format string, args ...any) notice {
	return notice{corev1.EventTypeWarning, reason, fmt.Sprintf(format, args...)}
}

func tell(reason, format string, args ...any) notice {
	return notice{corev1.EventTypeNormal, reason, fmt.Sprintf(format, args...)}
}

// claimAction is what is to be done about a claim.
type claimAction int

const (
	// claimPhase sets the phase and nothing else.
	claimPhase claimAction = iota
	// claimBind links the claim and the volume.
	claimBind
	// claimAssign gives the claim a storage class.
	claimAssign
	// claimProvision names the provisioner that should make a volume.
	claimProvision
)

// claimStep is the next step of a claim.
type claimStep struct {
	action      claimAction
	phase       corev1.PersistentVolumeClaimPhase
	volume      *corev1.PersistentVolume
	class       string // for claimAssign
	provisioner string // for claimProvision
	notice      notice
	// onlyOnChange tells the notice only if the phase was another before.
	onlyOnChange bool
}

// surroundings are what the next step of a claim depends on.
type surroundings struct {
	volume func(name string) (*corev1.PersistentVolume, bool)
	// match is bestMatch among all volumes.
	match func(claim *corev1.PersistentVolumeClaim, delayed bool) (*corev1.PersistentVolume, error)
	class func(name string) (*storagev1.StorageClass, error)
	// fallback is the default class; nil if there is none.
	fallback func() *storagev1.StorageClass
	// waiting are the names of the claim's pods that have no node yet.
	waiting func(claim *corev1.PersistentVolumeClaim) []string
}

func pending(n notice) claimStep {
	return claimStep{action: claimPhase, phase: corev1.ClaimPending, notice: n}
}

func lost(n notice) claimStep {
	return claimStep{action: claimPhase, phase: corev1.ClaimLost, notice: n, onlyOnChange: true}
}

// decideClaim says what to do next about a claim.
func decideClaim(claim *corev1.PersistentVolumeClaim, s surroundings) (claimStep, error) {
	switch {
	case isBound(claim):
		return decideBound(claim, s), nil
	case claim.Spec.VolumeName == "":
		return decideFree(claim, s)
	}
	// Somebody (perhaps this controller, before a crash) has named a volume.
	v, ok := s.volume(claim.Spec.VolumeName)
	switch {
	case !ok:
		return pending(notice{}), nil // it may come yet
	case v.Spec.ClaimRef == nil:
		if err := satisfies(v, claim); err != nil {
			return pending(warn("VolumeMismatch", "Cannot bind to requested volume %q: %s", v.Name, err)), nil
		}
		return claimStep{action: claimBind, volume: v}, nil
	case volumehelpers.IsVolumeBoundToClaim(v, claim):
		return claimStep{action: claimBind, volume: v}, nil
	case metav1.HasAnnotation(claim.ObjectMeta, volumehelpers.AnnBoundByController):
		// Only somebody who took the annotation of a completed binding away can have made this.
		return claimStep{notice: warn("FailedBinding", "volume %q already bound to a different claim.", v.Name)}, fmt.Errorf("invalid binding of claim %q to volume %q: volume already claimed by %q",
			key(claim), v.Name, v.Spec.ClaimRef.Namespace+"/"+v.Spec.ClaimRef.Name)
	}
	return pending(warn("FailedBinding", "volume %q already bound to a different claim.", v.Name)), nil
}

// decideBound is decideClaim for claims whose binding was once completed: they get no other volume, whatever happened to theirs.
func decideBound(claim *corev1.PersistentVolumeClaim, s surroundings) claimStep {
	if claim.Spec.VolumeName == "" {
		return lost(warn("ClaimLost", "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!"))
	}
	v, ok := s.volume(claim.Spec.VolumeName)
	switch {
	case !ok:
		return lost(warn("ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!"))
	case v.Spec.ClaimRef == nil || v.Spec.ClaimRef.UID == claim.UID:
		return claimStep{action: claimBind, volume: v}
	}
	return lost(warn("ClaimMisbound", "Two claims are bound to the same volume, this one is bound incorrectly"))
}

// decideFree is decideClaim for claims that ask for no volume by name.
func decideFree(claim *corev1.PersistentVolumeClaim, s surroundings) (claimStep, error) {
	name := volumehelpers.GetPersistentVolumeClaimClass(claim)
	var class *storagev1.StorageClass
	var classErr error
	if name != "" {
		class, classErr = s.class(name)
	}
	delayed := classErr == nil && delays(class)
	v, err := s.match(claim, delayed)
	if err != nil {
		return claimStep{}, err
	}
	if v != nil {
		return claimStep{action: claimBind, volume: v}, nil
	}
	if !volumehelpers.PersistentVolumeClaimHasClass(claim) {
		// The default class may have come after the claim (KEP-3333).
		if c := s.fallback(); c != nil {
			return claimStep{action: claimAssign, class: c.Name}, nil
		}
	}
	switch {
	case delayed && !volumehelpers.IsDelayBindingProvisioning(claim):
		return pending(s.delayedNotice(claim)), nil
	case name == "":
		return pending(tell("FailedBinding", "no persistent volumes available for this claim and no storage class is set")), nil
	case classErr != nil:
		return pending(warn("ProvisioningFailed", "%s", classErr)), nil
	}
	provisioner := class.Provisioner
	if driver, ok := migrated[provisioner]; ok {
		provisioner = driver
	} else if strings.HasPrefix(provisioner, "kubernetes.io/") {
		// Nobody outside may have such a name; it marks classes of volumes that somebody makes by hand.
		return pending(warn("ProvisioningFailed", "no volume plugin matched name: %s", provisioner)), nil
	}
	return claimStep{
		action: claimProvision, phase: corev1.ClaimPending, provisioner: provisioner,
		notice: tell("ExternalProvisioning", "Waiting for a volume to be created either by the external provisioner '%s' or manually by the system administrator. "+
			"If volume creation is delayed, please verify that the provisioner is running and correctly registered.", provisioner),
	}, nil
}

func (s surroundings) delayedNotice(claim *corev1.PersistentVolumeClaim) notice {
	switch pods := s.waiting(claim); len(pods) {
	case 0:
		return tell("WaitForFirstConsumer", "waiting for first consumer to be created before binding")
	case 1:
		return tell("WaitForPodScheduled", "waiting for pod %s to be scheduled", pods[0])
	default:
		return tell("WaitForPodScheduled", "waiting for pods %s to be scheduled", strings.Join(pods, ","))
	}
}
