package core

import (
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/podspec"
	"github.com/celox/celox/internal/api/table"
)

func persistentVolume() *api.Kind {
	spec, status := corev1.PersistentVolumeSpec{}.SwaggerDoc(), corev1.PersistentVolumeStatus{}.SwaggerDoc()
	return &api.Kind{
		Kind: "PersistentVolume", Resource: "persistentvolumes", Singular: "persistentvolume", ShortNames: []string{"pv"}, Prefix: "persistentvolumes",
		Versions: []api.Version{api.NewVersion[corev1.PersistentVolume, corev1.PersistentVolumeList]("v1")}, Hub: "v1",
		Subresources: []api.Subresource{api.Status()},
		PrepareForCreate: api.On(func(v *corev1.PersistentVolume) {
			// A volume is created in its first phase.
			v.Status = corev1.PersistentVolumeStatus{Phase: corev1.VolumePending, LastPhaseTransitionTime: v.CreationTimestamp.DeepCopy()}
		}),
		PrepareForUpdate:       api.OnUpdate(func(v, old *corev1.PersistentVolume) { v.Status = old.Status }),
		PrepareForStatusUpdate: api.OnUpdate(prepareVolumeStatus),
		Default:                api.On(defaultPersistentVolume),
		Validate: api.Check(func(v *corev1.PersistentVolume) field.ErrorList {
			return append(validateVolume(v, nil), validateMountOptions(v)...)
		}),
		ValidateUpdate:           api.CheckUpdate(validatePersistentVolumeUpdate),
		Warnings:                 api.Warn(warnPersistentVolume),
		AllowUnconditionalUpdate: true,
		ReturnDeleted:            true,
		Columns: api.Columns(table.Name(),
			table.Column("Capacity", table.String, spec["capacity"]),
			table.Column("Access Modes", table.String, spec["accessModes"]),
			table.Column("Reclaim Policy", table.String, spec["persistentVolumeReclaimPolicy"]),
			table.Column("Status", table.String, status["phase"]),
			table.Column("Claim", table.String, spec["claimRef"]),
			table.Column("StorageClass", table.String, "StorageClass of the pv"),
			table.Column("VolumeAttributesClass", table.String, "VolumeAttributesClass of the pv"),
			table.Column("Reason", table.String, status["reason"]),
			table.AgeColumn(),
			table.Wide("VolumeMode", table.String, spec["volumeMode"])),
		Row: api.Row(func(v *corev1.PersistentVolume, now time.Time) []any {
			claim := ""
			if r := v.Spec.ClaimRef; r != nil {
				claim = r.Namespace + "/" + r.Name
			}
			phase := string(v.Status.Phase)
			if v.DeletionTimestamp != nil {
				phase = "Terminating"
			}
			return []any{
				v.Name, quantity(v.Spec.Capacity, corev1.ResourceStorage), accessModes(v.Spec.AccessModes), string(v.Spec.PersistentVolumeReclaimPolicy), phase,
				claim, classOf(v.Annotations, &v.Spec.StorageClassName), orUnset(v.Spec.VolumeAttributesClassName), v.Status.Reason, table.Age(v, now), volumeMode(v.Spec.VolumeMode),
			}
		}),
	}
}

// prepareVolumeStatus notes when the phase changed, unless the client says when (KEP-3762).
func prepareVolumeStatus(v, old *corev1.PersistentVolume) {
	v.Spec = old.Spec
	now, was := &v.Status, &old.Status
	switch {
	case now.Phase == was.Phase && now.LastPhaseTransitionTime == nil:
		now.LastPhaseTransitionTime = was.LastPhaseTransitionTime
	case now.Phase != was.Phase && (now.LastPhaseTransitionTime == nil || now.LastPhaseTransitionTime.Equal(was.LastPhaseTransitionTime)):
		now.LastPhaseTransitionTime = new(metav1.Now().Rfc3339Copy()) // as it is stored: a client that sends it back has not changed it
	}
}

func orUnset(s *string) string {
	if s == nil {
		return table.Unset
	}
	return *s
}

// classOf is the storage class that an object asks for, which once was an annotation.
func classOf(annotations map[string]string, name *string) string {
	if class, ok := annotations[corev1.BetaStorageClassAnnotation]; ok {
		return class
	}
	if name == nil {
		return ""
	}
	return *name
}

func volumeMode(m *corev1.PersistentVolumeMode) string {
	if m == nil {
		return table.Unset
	}
	return string(*m)
}

func quantity(list corev1.ResourceList, name corev1.ResourceName) string {
	q := list[name]
	return q.String()
}

// accessModes are the short forms of the modes, each once, in a fixed order.
func accessModes(modes []corev1.PersistentVolumeAccessMode) string {
	var out []string
	for _, m := range []struct {
		mode  corev1.PersistentVolumeAccessMode
		short string
	}{{corev1.ReadWriteOnce, "RWO"}, {corev1.ReadOnlyMany, "ROX"}, {corev1.ReadWriteMany, "RWX"}, {corev1.ReadWriteOncePod, "RWOP"}} {
		for _, have := range modes {
			if have == m.mode {
				out = append(out, m.short)
				break
			}
		}
	}
	return strings.Join(out, ",")
}

func defaultPersistentVolume(v *corev1.PersistentVolume) {
	if v.Status.Phase == "" {
		v.Status.Phase = corev1.VolumePending
	}
	if v.Spec.PersistentVolumeReclaimPolicy == "" {
		v.Spec.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimRetain
	}
	if v.Spec.VolumeMode == nil {
		v.Spec.VolumeMode = new(corev1.PersistentVolumeFilesystem)
	}
	podspec.RoundResources(v.Spec.Capacity)
	DefaultVolumeSource(&v.Spec.PersistentVolumeSource)
}

// DefaultVolumeSource fills in what a volume's source leaves out.
func DefaultVolumeSource(s *corev1.PersistentVolumeSource) {
	if h := s.HostPath; h != nil && h.Type == nil {
		h.Type = new(corev1.HostPathUnset)
	}
	orElse := func(v *string, otherwise string) {
		if *v == "" {
			*v = otherwise
		}
	}
	if i := s.ISCSI; i != nil {
		orElse(&i.ISCSIInterface, "default")
	}
	if r := s.RBD; r != nil {
		orElse(&r.RBDPool, "rbd")
		orElse(&r.RadosUser, "admin")
		orElse(&r.Keyring, "/etc/ceph/keyring")
	}
	if i := s.ScaleIO; i != nil {
		orElse(&i.StorageMode, "ThinProvisioned")
		orElse(&i.FSType, "xfs")
	}
	if d := s.AzureDisk; d != nil {
		if d.CachingMode == nil {
			d.CachingMode = new(corev1.AzureDataDiskCachingReadWrite)
		}
		if d.Kind == nil {
			d.Kind = new(corev1.AzureSharedBlobDisk)
		}
		if d.FSType == nil {
			d.FSType = new("ext4")
		}
		if d.ReadOnly == nil {
			d.ReadOnly = new(false)
		}
	}
}

func warnPersistentVolume(v, _ *corev1.PersistentVolume) []string {
	var out []string
	warn := func(p *field.Path, text string) { out = append(out, p.String()+": "+text) }
	annotations, spec := field.NewPath("metadata", "annotations"), field.NewPath("spec")
	if _, ok := v.Annotations[corev1.BetaStorageClassAnnotation]; ok {
		warn(annotations.Key(corev1.BetaStorageClassAnnotation), oldClassText)
	}
	if _, ok := v.Annotations[corev1.MountOptionAnnotation]; ok {
		warn(annotations.Key(corev1.MountOptionAnnotation), `deprecated since v1.31; use "mountOptions" attribute instead`)
	}
	if v.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRecycle {
		warn(spec.Child("persistentVolumeReclaimPolicy"), "The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.")
	}
	if a := v.Spec.NodeAffinity; a != nil && a.Required != nil {
		out = append(out, podspec.NodeSelectorWarnings(a.Required, spec.Child("nodeAffinity", "required"))...)
	}
	for _, gone := range []struct {
		set        bool
		name, text string
	}{
		{v.Spec.PhotonPersistentDisk != nil, "photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"},
		{v.Spec.ScaleIO != nil, "scaleIO", "deprecated in v1.16, non-functional in v1.22+"},
		{v.Spec.StorageOS != nil, "storageOS", "deprecated in v1.22, non-functional in v1.25+"},
		{v.Spec.Glusterfs != nil, "glusterfs", "deprecated in v1.25, non-functional in v1.26+"},
		{v.Spec.CephFS != nil, "cephfs", "deprecated in v1.28, non-functional in v1.31+"},
		{v.Spec.RBD != nil, "rbd", "deprecated in v1.28, non-functional in v1.31+"},
	} {
		if gone.set {
			warn(spec.Child(gone.name), gone.text)
		}
	}
	return out
}
