package core

import (
	"fmt"
	"path"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api/check"
	"github.com/celox/celox/internal/api/podspec"
)

const inInline = "in the context of inline volumes"

// ValidateInlineVolume checks the volume that an attachment describes itself, where others name an object. It can be of CSI only,
// and has nothing that a claim would look for.
func ValidateInlineVolume(spec *corev1.PersistentVolumeSpec, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	forbid := func(set bool, name string) {
		if set {
			errs = append(errs, field.Forbidden(p.Child(name), "may not be specified "+inInline))
		}
	}
	forbid(spec.ClaimRef != nil, "claimRef")
	forbid(len(spec.Capacity) > 0, "capacity")
	if spec.CSI == nil {
		errs = append(errs, field.Required(p.Child("csi"), "has to be specified "+inInline))
	}
	if len(spec.AccessModes) == 0 {
		errs = append(errs, field.Required(p.Child("accessModes"), ""))
	}
	errs = append(errs, validateAccessModes(spec.AccessModes, p.Child("accessModes"))...)
	if r := spec.PersistentVolumeReclaimPolicy; r != "" && r != corev1.PersistentVolumeReclaimRetain {
		errs = append(errs, field.Forbidden(p.Child("persistentVolumeReclaimPolicy"), "may only be "+string(corev1.PersistentVolumeReclaimRetain)+" "+inInline))
	}
	forbid(spec.NodeAffinity != nil, "nodeAffinity")
	errs = append(errs, validateVolumeSources(&corev1.PersistentVolume{Spec: *spec}, p)...)
	errs = append(errs, validateRecycledRoot(spec, p)...)
	forbid(spec.StorageClassName != "", "storageClassName")
	if m := spec.VolumeMode; m != nil && *m != corev1.PersistentVolumeFilesystem {
		errs = append(errs, field.Forbidden(p.Child("volumeMode"), "may not specify volumeMode other than "+string(corev1.PersistentVolumeFilesystem)+" "+inInline))
	}
	return errs // upstream doesn't look at the class of attributes here
}

// validateVolume checks a volume; old is nil when it is new.
func validateVolume(v, old *corev1.PersistentVolume) field.ErrorList {
	var errs field.ErrorList
	p, spec := field.NewPath("spec"), &v.Spec
	if len(spec.AccessModes) == 0 {
		errs = append(errs, field.Required(p.Child("accessModes"), ""))
	}
	if len(spec.Capacity) == 0 {
		errs = append(errs, field.Required(p.Child("capacity"), ""))
	}
	errs = append(errs, validateAccessModes(spec.AccessModes, p.Child("accessModes"))...)
	if _, ok := spec.Capacity[corev1.ResourceStorage]; !ok || len(spec.Capacity) > 1 {
		errs = append(errs, field.NotSupported(p.Child("capacity"), spec.Capacity, []corev1.ResourceName{corev1.ResourceStorage}))
	}
	for _, name := range check.Sorted(spec.Capacity) {
		at := p.Child("capacity").Key(string(name))
		errs = append(errs, validateBasicQuantity(spec.Capacity[name], at)...)
		errs = append(errs, check.PositiveQuantity(spec.Capacity[name], at)...)
	}
	if spec.PersistentVolumeReclaimPolicy != "" {
		errs = append(errs, check.OneOf(spec.PersistentVolumeReclaimPolicy, p.Child("persistentVolumeReclaimPolicy"),
			corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeReclaimRecycle, corev1.PersistentVolumeReclaimRetain)...)
	}
	if a := spec.NodeAffinity; a != nil {
		at := p.Child("nodeAffinity", "required")
		if a.Required != nil {
			bad := old != nil && old.Spec.NodeAffinity != nil && podspec.HasBadValues(old.Spec.NodeAffinity.Required)
			errs = append(errs, podspec.ValidateNodeSelector(a.Required, bad, at)...)
		} else {
			errs = append(errs, field.Required(at, "must specify required node constraints"))
		}
	}
	errs = append(errs, validateVolumeSources(v, p)...)
	errs = append(errs, validateRecycledRoot(spec, p)...)
	if spec.StorageClassName != "" {
		errs = append(errs, check.DNSSubdomain(spec.StorageClassName, p.Child("storageClassName"))...)
	}
	if spec.VolumeMode != nil {
		errs = append(errs, check.OneOf(*spec.VolumeMode, p.Child("volumeMode"), corev1.PersistentVolumeBlock, corev1.PersistentVolumeFilesystem)...)
	}
	return append(errs, validateAttributesClassName(spec, p)...)
}

// validateRecycledRoot refuses to have the root of a node wiped.
func validateRecycledRoot(spec *corev1.PersistentVolumeSpec, p *field.Path) field.ErrorList {
	if h := spec.HostPath; h != nil && path.Clean(h.Path) == "/" && spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRecycle {
		return field.ErrorList{field.Forbidden(p.Child("persistentVolumeReclaimPolicy"), "may not be 'recycle' for a hostPath mount of '/'")}
	}
	return nil
}

func validateAttributesClassName(spec *corev1.PersistentVolumeSpec, p *field.Path) field.ErrorList {
	name, at := spec.VolumeAttributesClassName, p.Child("volumeAttributesClassName")
	if name == nil {
		return nil
	}
	var errs field.ErrorList
	if *name == "" {
		errs = append(errs, field.Required(at, "an empty string is disallowed"))
	} else {
		errs = append(errs, check.DNSSubdomain(*name, at)...)
	}
	if spec.CSI == nil {
		errs = append(errs, field.Required(p.Child("csi"), "has to be specified when using volumeAttributesClassName"))
	}
	return errs
}

// validateBasicQuantity wants an amount that isn't negative. What is shown is the rounded value.
func validateBasicQuantity(q resource.Quantity, p *field.Path) field.ErrorList {
	if q.Sign() < 0 {
		return field.ErrorList{field.Invalid(p, q.Value(), "must be a valid resource quantity")}
	}
	return nil
}

func validateAccessModes(modes []corev1.PersistentVolumeAccessMode, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	alone, others := false, false
	for _, m := range modes {
		errs = append(errs, check.OneOf(m, p, corev1.ReadOnlyMany, corev1.ReadWriteMany, corev1.ReadWriteOnce, corev1.ReadWriteOncePod)...)
		switch m {
		case corev1.ReadWriteOncePod:
			alone = true
		case corev1.ReadOnlyMany, corev1.ReadWriteMany, corev1.ReadWriteOnce:
			others = true
		}
	}
	if alone && others {
		errs = append(errs, field.Forbidden(p, "may not use ReadWriteOncePod with other access modes"))
	}
	return errs
}

// validateVolumeSources wants exactly one source, and that to be valid.
func validateVolumeSources(v *corev1.PersistentVolume, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	s := &v.Spec.PersistentVolumeSource
	some := false
	one := func(set bool, name, shown string, validate func(*field.Path) field.ErrorList) {
		switch {
		case !set:
		case some && name != "flexVolume": // which upstream takes beside another one
			errs = append(errs, field.Forbidden(p.Child(name), "may not specify more than 1 volume type"))
		default:
			some = true
			errs = append(errs, validate(p.Child(shown))...)
		}
	}
	type at = *field.Path
	type list = field.ErrorList
	one(s.HostPath != nil, "hostPath", "hostPath", func(p at) list { return podspec.ValidateHostPath(s.HostPath, p) })
	one(s.GCEPersistentDisk != nil, "gcePersistentDisk", "persistentDisk", func(p at) list { return podspec.ValidateGCEDisk(s.GCEPersistentDisk, p) })
	one(s.AWSElasticBlockStore != nil, "awsElasticBlockStore", "awsElasticBlockStore", func(p at) list { return podspec.ValidateAWSDisk(s.AWSElasticBlockStore, p) })
	one(s.Glusterfs != nil, "glusterfs", "glusterfs", func(p at) list { return validateGlusterVolume(s.Glusterfs, p) })
	one(s.Flocker != nil, "flocker", "flocker", func(p at) list { return podspec.ValidateFlocker(s.Flocker, p) })
	one(s.NFS != nil, "nfs", "nfs", func(p at) list { return podspec.ValidateNFS(s.NFS, p) })
	one(s.RBD != nil, "rbd", "rbd", func(p at) list {
		return append(needMonitors(s.RBD.CephMonitors, p), need(p, "image", s.RBD.RBDImage)...)
	})
	one(s.Quobyte != nil, "quobyte", "quobyte", func(p at) list { return podspec.ValidateQuobyte(s.Quobyte, p) })
	one(s.CephFS != nil, "cephFS", "cephfs", func(p at) list { return needMonitors(s.CephFS.Monitors, p) })
	one(s.ISCSI != nil, "iscsi", "iscsi", func(p at) list { return validateISCSIVolume(s.ISCSI, v.Name, p) })
	one(s.Cinder != nil, "cinder", "cinder", func(p at) list {
		errs := need(p, "volumeID", s.Cinder.VolumeID)
		if r := s.Cinder.SecretRef; r != nil {
			errs = append(errs, need(p.Child("secretRef"), "name", r.Name, "namespace", r.Namespace)...)
		}
		return errs
	})
	one(s.FC != nil, "fc", "fc", func(p at) list { return podspec.ValidateFC(s.FC, p) })
	one(s.FlexVolume != nil, "flexVolume", "flexVolume", func(p at) list { return podspec.ValidateFlex(s.FlexVolume.Driver, s.FlexVolume.Options, p) })
	one(s.AzureFile != nil, "azureFile", "azureFile", func(p at) list {
		errs := need(p, "secretName", s.AzureFile.SecretName, "shareName", s.AzureFile.ShareName)
		if ns := s.AzureFile.SecretNamespace; ns != nil {
			errs = append(errs, need(p, "secretNamespace", *ns)...)
		}
		return errs
	})
	one(s.VsphereVolume != nil, "vsphereVolume", "vsphereVolume", func(p at) list { return need(p, "volumePath", s.VsphereVolume.VolumePath) })
	one(s.PhotonPersistentDisk != nil, "photonPersistentDisk", "photonPersistentDisk", func(p at) list { return need(p, "pdID", s.PhotonPersistentDisk.PdID) })
	one(s.PortworxVolume != nil, "portworxVolume", "portworxVolume", func(p at) list { return need(p, "volumeID", s.PortworxVolume.VolumeID) })
	one(s.AzureDisk != nil, "azureDisk", "azureDisk", func(p at) list { return podspec.ValidateAzureDisk(s.AzureDisk, p) })
	one(s.ScaleIO != nil, "scaleIO", "scaleIO", func(p at) list {
		return need(p, "gateway", s.ScaleIO.Gateway, "system", s.ScaleIO.System, "volumeName", s.ScaleIO.VolumeName)
	})
	one(s.Local != nil, "local", "local", func(at at) list {
		errs := podspec.ValidateNodePath(s.Local.Path, at.Child("path"))
		if v.Spec.NodeAffinity == nil {
			errs = append(errs, field.Required(p.Child("nodeAffinity"), "Local volume requires node affinity"))
		}
		return errs
	})
	one(s.StorageOS != nil, "storageos", "storageos", func(p at) list { return validateStorageOSVolume(s.StorageOS, p) })
	one(s.CSI != nil, "csi", "csi", func(p at) list { return validateCSIVolume(s.CSI, p) })
	if !some {
		errs = append(errs, field.Required(p, "must specify a volume type"))
	}
	return errs
}

// need wants values not to be empty; they come as name, value, name, value.
func need(p *field.Path, pairs ...string) field.ErrorList {
	var errs field.ErrorList
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] == "" {
			errs = append(errs, field.Required(p.Child(pairs[i]), ""))
		}
	}
	return errs
}

func needMonitors(list []string, p *field.Path) field.ErrorList {
	if len(list) == 0 {
		return field.ErrorList{field.Required(p.Child("monitors"), "")}
	}
	return nil
}

func validateGlusterVolume(g *corev1.GlusterfsPersistentVolumeSource, p *field.Path) field.ErrorList {
	errs := need(p, "endpoints", g.EndpointsName, "path", g.Path)
	if g.EndpointsNamespace == nil {
		return errs
	}
	at := p.Child("endpointsNamespace")
	if *g.EndpointsNamespace == "" {
		return append(errs, field.Invalid(at, "", "if the endpointnamespace is set, it must be a valid namespace name"))
	}
	return append(errs, check.Each(apivalidation.ValidateNamespaceName(*g.EndpointsNamespace, false), at, *g.EndpointsNamespace)...)
}

// maxISCSIName is how long the name of an iSCSI session may get.
const maxISCSIName = 64

func validateISCSIVolume(s *corev1.ISCSIPersistentVolumeSource, volume string, p *field.Path) field.ErrorList {
	errs := need(p, "targetPortal", s.TargetPortal)
	if s.InitiatorName != nil && len(volume+":"+s.TargetPortal) > maxISCSIName {
		errs = append(errs, field.Invalid(p.Child("targetportal"), s.TargetPortal,
			"Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified."))
	}
	errs = append(errs, podspec.ValidateISCSITarget(s.IQN, s.Lun, false, p)...)
	if (s.DiscoveryCHAPAuth || s.SessionCHAPAuth) && s.SecretRef == nil {
		errs = append(errs, field.Required(p.Child("secretRef"), ""))
	}
	if s.SecretRef != nil {
		errs = append(errs, need(p.Child("secretRef"), "name", s.SecretRef.Name)...)
	}
	if s.InitiatorName != nil {
		errs = append(errs, podspec.ValidateISCSIName(*s.InitiatorName, false, p.Child("initiatorname"))...)
	}
	return errs
}

func validateStorageOSVolume(s *corev1.StorageOSPersistentVolumeSource, p *field.Path) field.ErrorList {
	errs := need(p, "volumeName", s.VolumeName)
	if s.VolumeName != "" {
		errs = append(errs, check.DNSLabel(s.VolumeName, p.Child("volumeName"))...)
	}
	if s.VolumeNamespace != "" {
		errs = append(errs, check.DNSLabel(s.VolumeNamespace, p.Child("volumeNamespace"))...)
	}
	if r := s.SecretRef; r != nil {
		errs = append(errs, need(p.Child("secretRef"), "name", r.Name, "namespace", r.Namespace)...)
	}
	return errs
}

func validateCSIVolume(c *corev1.CSIPersistentVolumeSource, p *field.Path) field.ErrorList {
	errs := podspec.ValidateCSIDriverName(c.Driver, p.Child("driver"))
	errs = append(errs, need(p, "volumeHandle", c.VolumeHandle)...)
	for _, r := range []struct {
		name string
		ref  *corev1.SecretReference
	}{
		{"controllerPublishSecretRef", c.ControllerPublishSecretRef}, {"controllerExpandSecretRef", c.ControllerExpandSecretRef},
		{"nodePublishSecretRef", c.NodePublishSecretRef}, {"nodeExpandSecretRef", c.NodeExpandSecretRef},
	} {
		if r.ref == nil {
			continue
		}
		at := p.Child(r.name)
		if r.ref.Name == "" {
			errs = append(errs, field.Required(at.Child("name"), ""))
		} else {
			errs = append(errs, check.DNSSubdomain(r.ref.Name, at.Child("name"))...)
		}
		if r.ref.Namespace == "" {
			errs = append(errs, field.Required(at.Child("namespace"), ""))
		} else {
			errs = append(errs, check.DNSLabel(r.ref.Namespace, at.Child("namespace"))...)
		}
	}
	return errs
}

// validateMountOptions refuses the old annotation with mount options on volumes of a kind that never read it.
func validateMountOptions(v *corev1.PersistentVolume) field.ErrorList {
	s := &v.Spec.PersistentVolumeSource
	if _, ok := v.Annotations[corev1.MountOptionAnnotation]; !ok || s.GCEPersistentDisk != nil || s.AWSElasticBlockStore != nil || s.Glusterfs != nil ||
		s.NFS != nil || s.RBD != nil || s.Quobyte != nil || s.ISCSI != nil || s.Cinder != nil || s.CephFS != nil || s.AzureFile != nil ||
		s.VsphereVolume != nil || s.AzureDisk != nil || s.PhotonPersistentDisk != nil {
		return nil
	}
	return field.ErrorList{field.Forbidden(field.NewPath("metadata", "annotations", corev1.MountOptionAnnotation), "may not specify mount options for this volume type")}
}

func validatePersistentVolumeUpdate(v, old *corev1.PersistentVolume) field.ErrorList {
	errs := check.Twice(append(validateVolume(v, old), validateMountOptions(v)...))
	now, was := &v.Spec.PersistentVolumeSource, &old.Spec.PersistentVolumeSource
	if now.CSI != nil && was.CSI != nil && was.CSI.ControllerExpandSecretRef == nil && now.CSI.ControllerExpandSecretRef != nil {
		// This secret may be added later (KEP-1432).
		now = now.DeepCopy()
		now.CSI.ControllerExpandSecretRef = nil
	}
	if !equality.Semantic.DeepEqual(now, was) {
		errs = append(errs, field.Forbidden(field.NewPath("spec", "persistentvolumesource"),
			fmt.Sprintf("spec.persistentvolumesource is immutable after creation\n%v", diff.Diff(check.Rendered(was), check.Rendered(now)))))
	}
	errs = append(errs, check.Immutable(v.Spec.VolumeMode, old.Spec.VolumeMode, field.NewPath("volumeMode"))...)
	if old.Spec.NodeAffinity != nil && !equality.Semantic.DeepEqual(renewed(v.Spec.NodeAffinity, old.Spec.NodeAffinity), v.Spec.NodeAffinity) {
		errs = append(errs, field.Invalid(field.NewPath("nodeAffinity"), check.Rendered(v.Spec.NodeAffinity), check.ImmutableText+", except for updating from beta label to GA"))
	}
	if old.Spec.VolumeAttributesClassName != nil && v.Spec.VolumeAttributesClassName == nil {
		errs = append(errs, field.Forbidden(field.NewPath("spec", "volumeAttributesClassName"), "update from non-nil value to nil is forbidden"))
	}
	return errs
}

// renewed is old with those labels renamed that now names by their newer names: that much may change.
func renewed(now, old *corev1.VolumeNodeAffinity) *corev1.VolumeNodeAffinity {
	if now == nil || now.Required == nil || old.Required == nil || len(now.Required.NodeSelectorTerms) != len(old.Required.NodeSelectorTerms) {
		return old
	}
	out := old.DeepCopy()
	for i := range out.Required.NodeSelectorTerms {
		was, is := out.Required.NodeSelectorTerms[i].MatchExpressions, now.Required.NodeSelectorTerms[i].MatchExpressions
		for j := range was {
			if j < len(is) && newName(was[j].Key) == is[j].Key {
				was[j].Key = is[j].Key
			}
		}
	}
	return out
}

// newName is what a label of nodes is called since v1.17; nothing if it has its name still.
func newName(label string) string {
	switch label {
	case corev1.LabelFailureDomainBetaZone:
		return corev1.LabelTopologyZone
	case corev1.LabelFailureDomainBetaRegion:
		return corev1.LabelTopologyRegion
	case corev1.LabelInstanceType:
		return corev1.LabelInstanceTypeStable
	case "beta.kubernetes.io/os":
		return corev1.LabelOSStable
	case "beta.kubernetes.io/arch":
		return corev1.LabelArchStable
	}
	return ""
}
