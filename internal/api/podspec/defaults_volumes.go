package podspec

import (
	corev1 "k8s.io/api/core/v1"
)

// setVolumeDefaults fills in what a volume leaves out; a volume without a source is an empty directory.
func setVolumeDefaults(v *corev1.VolumeSource) {
	if *v == (corev1.VolumeSource{}) {
		v.EmptyDir = &corev1.EmptyDirVolumeSource{}
	}
	setLocalVolume(v)
	setDriverVolume(v)
	if e := v.Ephemeral; e != nil && e.VolumeClaimTemplate != nil {
		SetClaimSpecDefaults(&e.VolumeClaimTemplate.Spec)
	}
	if i := v.Image; i != nil && i.PullPolicy == "" {
		i.PullPolicy = pullPolicy(i.Reference)
	}
}

// setLocalVolume covers the sources that need no driver.
func setLocalVolume(v *corev1.VolumeSource) {
	if h := v.HostPath; h != nil && h.Type == nil {
		h.Type = ptr(corev1.HostPathUnset)
	}
	if s := v.Secret; s != nil {
		setMode(&s.DefaultMode)
	}
	if c := v.ConfigMap; c != nil {
		setMode(&c.DefaultMode)
	}
	if d := v.DownwardAPI; d != nil {
		setMode(&d.DefaultMode)
		setDownward(d.Items)
	}
	if p := v.Projected; p != nil {
		setMode(&p.DefaultMode)
		for i := range p.Sources {
			if d := p.Sources[i].DownwardAPI; d != nil {
				setDownward(d.Items)
			}
			if t := p.Sources[i].ServiceAccountToken; t != nil && t.ExpirationSeconds == nil {
				t.ExpirationSeconds = ptr[int64](defaultTokenExpirationSeconds)
			}
		}
	}
}

func setMode(m **int32) {
	if *m == nil {
		*m = ptr[int32](defaultFileMode)
	}
}

func setDownward(items []corev1.DownwardAPIVolumeFile) {
	for i := range items {
		setFieldRef(items[i].FieldRef)
	}
}

// setDriverVolume covers the sources that a driver of the node mounts.
func setDriverVolume(v *corev1.VolumeSource) {
	if s := v.ISCSI; s != nil {
		setString(&s.ISCSIInterface, "default")
	}
	if s := v.RBD; s != nil {
		setString(&s.RBDPool, "rbd")
		setString(&s.RadosUser, "admin")
		setString(&s.Keyring, "/etc/ceph/keyring")
	}
	if s := v.AzureDisk; s != nil {
		if s.CachingMode == nil {
			s.CachingMode = ptr(corev1.AzureDataDiskCachingReadWrite)
		}
		if s.Kind == nil {
			s.Kind = ptr(corev1.AzureSharedBlobDisk)
		}
		if s.FSType == nil {
			s.FSType = ptr("ext4")
		}
		if s.ReadOnly == nil {
			s.ReadOnly = ptr(false)
		}
	}
	if s := v.ScaleIO; s != nil {
		setString(&s.StorageMode, "ThinProvisioned")
		setString(&s.FSType, "xfs")
	}
}

func setString(s *string, v string) {
	if *s == "" {
		*s = v
	}
}

// SetClaimSpecDefaults fills in what the spec of a claim, or of a template for claims, leaves out.
func SetClaimSpecDefaults(s *corev1.PersistentVolumeClaimSpec) {
	if s.VolumeMode == nil {
		s.VolumeMode = ptr(corev1.PersistentVolumeFilesystem)
	}
	RoundResources(s.Resources.Limits)
	RoundResources(s.Resources.Requests)
}
