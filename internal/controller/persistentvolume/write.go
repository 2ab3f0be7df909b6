package persistentvolume

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	volumehelpers "k8s.io/component-helpers/storage/volume"
)

// cacheTTL is how long an own write is remembered that no informer confirms.
const cacheTTL = time.Minute

// object is what events are told about.
type object interface {
	runtime.Object
	metav1.Object
}

func (c *Controller) tell(obj object, n notice) {
	if n == (notice{}) || !c.told.isNews(string(obj.GetUID()), n) {
		return
	}
	c.recorder.Event(obj, n.kind, n.reason, n.message)
}

// reconcileClaim takes the next step of one claim.
func (c *Controller) reconcileClaim(ctx context.Context, key string) error {
	claim, ok := c.claim(key)
	if !ok {
		return nil // what named it is told of its end by the informer
	}
	if m := markedClaim(claim); m != claim {
		var err error
		if claim, err = c.updateClaim(ctx, m); err != nil {
			return err
		}
	}
	step, err := decideClaim(claim, c.surroundings())
	if err != nil {
		if step.notice.message != "" {
			c.tell(claim, step.notice)
		}
		return err
	}
	switch step.action {
	case claimBind:
		if err := c.bind(ctx, step.volume, claim); err != nil {
			c.operations.failed(provisionOperation, key)
			return err
		}
		c.operations.end(provisionOperation, key)
		return nil
	case claimAssign:
		claim = claim.DeepCopy()
		claim.Spec.StorageClassName = &step.class
		c.assigned.Inc()
		_, err := c.updateClaim(ctx, claim)
		if err != nil {
			c.unassigned.Inc()
		}
		return err // the change comes back
	case claimProvision:
		c.operations.begin(provisionOperation, key, step.provisioner)
		if claim.Annotations[volumehelpers.AnnStorageProvisioner] != step.provisioner || claim.Annotations[volumehelpers.AnnBetaStorageProvisioner] != step.provisioner {
			claim = claim.DeepCopy()
			metav1.SetMetaDataAnnotation(&claim.ObjectMeta, volumehelpers.AnnStorageProvisioner, step.provisioner)
			metav1.SetMetaDataAnnotation(&claim.ObjectMeta, volumehelpers.AnnBetaStorageProvisioner, step.provisioner)
			if claim, err = c.updateClaim(ctx, claim); err != nil {
				c.operations.failed(provisionOperation, key)
				return err
			}
		}
	}
	changed := claim.Status.Phase != step.phase
	if claim, err = c.setClaimStatus(ctx, claim, step.phase, nil); err != nil {
		return err
	}
	if changed || !step.onlyOnChange {
		c.tell(claim, step.notice)
	}
	return nil
}

// reconcileVolume takes the next step of one volume.
func (c *Controller) reconcileVolume(ctx context.Context, name string) error {
	v, ok := c.volume(name)
	if !ok {
		return nil
	}
	if m := marked(v); m != v {
		var err error
		if v, err = c.updateVolume(ctx, m); err != nil {
			return err
		}
	}
	claim, err := c.claimNamedBy(ctx, v)
	if err != nil {
		return err
	}
	switch step := decideVolume(v, claim); step.action {
	case volumeReclaim:
		return c.reclaim(ctx, v)
	case volumeFinish:
		c.claimLoop.Add(key(claim))
		return nil
	case volumeUnbind:
		return c.unbind(ctx, v)
	case volumeMismatch:
		c.tell(v, warn("VolumeMismatch", "Cannot bind PersistentVolume to requested PersistentVolumeClaim %q due to incompatible volumeMode.", claim.Name))
		c.tell(claim, warn("VolumeMismatch", "Cannot bind PersistentVolume %q to requested PersistentVolumeClaim due to incompatible volumeMode.", v.Name))
		return nil
	default:
		_, err := c.setVolumePhase(ctx, v, step.phase, "")
		return err
	}
}

// claimNamedBy is the claim that a volume names; nil if there is none with that uid. That a claim is gone is believed to nobody but the API server,
// for then the volume's data may go.
func (c *Controller) claimNamedBy(ctx context.Context, v *corev1.PersistentVolume) (*corev1.PersistentVolumeClaim, error) {
	ref := v.Spec.ClaimRef
	if ref == nil || ref.UID == "" {
		return nil, nil
	}
	claim, ok := c.claim(ref.Namespace + "/" + ref.Name)
	if ok && claim.UID == ref.UID {
		return claim, nil
	}
	if v.Status.Phase == corev1.VolumeReleased || v.Status.Phase == corev1.VolumeFailed {
		return nil, nil // known already
	}
	claim, err := c.client.CoreV1().PersistentVolumeClaims(ref.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || err == nil && claim.UID != ref.UID {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("get claim %s/%s: %w", ref.Namespace, ref.Name, err)
	}
	return claim, nil
}

// bind writes the four parts of a link that are not there yet: the volume's end and phase, then the claim's end and phase.
func (c *Controller) bind(ctx context.Context, v *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) error {
	linked, changed, err := volumehelpers.GetBindVolumeToClaim(v, claim)
	if err != nil {
		return fmt.Errorf("bind volume %s to claim %s: %w", v.Name, key(claim), err)
	}
	if changed {
		if v, err = c.updateVolume(ctx, linked); err != nil {
			return err
		}
	}
	if v, err = c.setVolumePhase(ctx, v, corev1.VolumeBound, ""); err != nil {
		return err
	}
	if claim.Spec.VolumeName != v.Name || !isBound(claim) {
		claim = claim.DeepCopy()
		if claim.Spec.VolumeName != v.Name {
			claim.Spec.VolumeName = v.Name
			metav1.SetMetaDataAnnotation(&claim.ObjectMeta, volumehelpers.AnnBoundByController, "yes")
		}
		metav1.SetMetaDataAnnotation(&claim.ObjectMeta, volumehelpers.AnnBindCompleted, "yes")
		if claim, err = c.updateClaim(ctx, claim); err != nil {
			return err
		}
	}
	claim, err = c.setClaimStatus(ctx, claim, corev1.ClaimBound, v)
	if err == nil {
		c.told.forget(string(claim.UID))
	}
	return err
}

// unbind takes a volume's link back and makes it available.
func (c *Controller) unbind(ctx context.Context, v *corev1.PersistentVolume) error {
	v, err := c.updateVolume(ctx, unbound(v))
	if err != nil {
		return err
	}
	_, err = c.setVolumePhase(ctx, v, corev1.VolumeAvailable, "")
	return err
}

// setClaimStatus brings a claim's phase to what it should be, and what it has of its volume; v is nil when it has none.
func (c *Controller) setClaimStatus(ctx context.Context, claim *corev1.PersistentVolumeClaim, phase corev1.PersistentVolumeClaimPhase, v *corev1.PersistentVolume) (*corev1.PersistentVolumeClaim, error) {
	want := claim.DeepCopy()
	s := &want.Status
	changed := s.Phase != phase
	becoming := phase == corev1.ClaimBound && s.Phase != corev1.ClaimBound
	s.Phase = phase
	if v == nil {
		changed = changed || len(s.AccessModes) > 0 || len(s.Capacity) > 0 || s.CurrentVolumeAttributesClassName != nil
		s.AccessModes, s.Capacity, s.CurrentVolumeAttributesClassName = nil, nil, nil
	} else {
		if !slices.Equal(s.AccessModes, v.Spec.AccessModes) {
			s.AccessModes, changed = slices.Clone(v.Spec.AccessModes), true
		}
		// Once it is bound, the size and the attributes are the business of whoever changes them.
		if becoming {
			size, ok := v.Spec.Capacity[corev1.ResourceStorage]
			if !ok {
				return nil, fmt.Errorf("PersistentVolume %q is without a storage capacity", v.Name)
			}
			if s.Capacity == nil {
				s.Capacity = corev1.ResourceList{}
			}
			s.Capacity[corev1.ResourceStorage] = size
			s.CurrentVolumeAttributesClassName = v.Spec.VolumeAttributesClassName
		}
	}
	if !changed {
		return claim, nil
	}
	got, err := c.client.CoreV1().PersistentVolumeClaims(want.Namespace).UpdateStatus(ctx, want, metav1.UpdateOptions{})
	if err != nil {
		return nil, fmt.Errorf("update status of claim %s: %w", key(want), err)
	}
	c.newClaims.Mutation(got)
	return got, nil
}

func (c *Controller) setVolumePhase(ctx context.Context, v *corev1.PersistentVolume, phase corev1.PersistentVolumePhase, message string) (*corev1.PersistentVolume, error) {
	if v.Status.Phase == phase {
		return v, nil
	}
	v = v.DeepCopy()
	v.Status.Phase, v.Status.Message = phase, message
	got, err := c.client.CoreV1().PersistentVolumes().UpdateStatus(ctx, v, metav1.UpdateOptions{})
	if err != nil {
		return nil, fmt.Errorf("update status of volume %s: %w", v.Name, err)
	}
	c.newVolumes.Mutation(got)
	return got, nil
}

func (c *Controller) updateClaim(ctx context.Context, claim *corev1.PersistentVolumeClaim) (*corev1.PersistentVolumeClaim, error) {
	got, err := c.client.CoreV1().PersistentVolumeClaims(claim.Namespace).Update(ctx, claim, metav1.UpdateOptions{})
	if err != nil {
		return nil, fmt.Errorf("update claim %s: %w", key(claim), err)
	}
	c.newClaims.Mutation(got)
	return got, nil
}

func (c *Controller) updateVolume(ctx context.Context, v *corev1.PersistentVolume) (*corev1.PersistentVolume, error) {
	got, err := c.client.CoreV1().PersistentVolumes().Update(ctx, v, metav1.UpdateOptions{})
	if err != nil {
		return nil, fmt.Errorf("update volume %s: %w", v.Name, err)
	}
	c.newVolumes.Mutation(got)
	return got, nil
}
