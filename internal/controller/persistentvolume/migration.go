package persistentvolume

import (
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	volumehelpers "k8s.io/component-helpers/storage/volume"
)

// migrated are the CSI drivers that took the place of provisioners which were once compiled into the control plane (KEP-625).
var migrated = map[string]string{
	"kubernetes.io/aws-ebs":         "ebs.csi.aws.com",
	"kubernetes.io/azure-disk":      "disk.csi.azure.com",
	"kubernetes.io/azure-file":      "file.csi.azure.com",
	"kubernetes.io/cinder":          "cinder.csi.openstack.org",
	"kubernetes.io/gce-pd":          "pd.csi.storage.gke.io",
	"kubernetes.io/portworx-volume": "pxd.portworx.com",
	"kubernetes.io/vsphere-volume":  "csi.vsphere.vmware.com",
}

// migratedTo is what the annotations of a volume or a claim should say of the driver that took its provisioner's place, which is how that driver
// learns that it has to provide for it: nil if they say it. The provisioner is in the first of the given keys that is there.
func migratedTo(annotations map[string]string, keys ...string) map[string]string {
	i := slices.IndexFunc(keys, func(k string) bool { _, ok := annotations[k]; return ok })
	if i < 0 {
		return nil // made by hand
	}
	driver := migrated[annotations[keys[i]]]
	if annotations[volumehelpers.AnnMigratedTo] == driver {
		return nil
	}
	annotations = maps.Clone(annotations)
	if driver == "" {
		delete(annotations, volumehelpers.AnnMigratedTo)
	} else {
		annotations[volumehelpers.AnnMigratedTo] = driver
	}
	return annotations
}

// marked returns a volume with the marks of its migration: the driver's name, and no finalizer of the plugin that there was once, which would never
// be taken off. It is the same volume if it has them.
func marked(v *corev1.PersistentVolume) *corev1.PersistentVolume {
	annotations := migratedTo(v.Annotations, volumehelpers.AnnDynamicallyProvisioned)
	_, moved := migrated[v.Annotations[volumehelpers.AnnDynamicallyProvisioned]]
	held := moved && slices.Contains(v.Finalizers, volumehelpers.PVDeletionInTreeProtectionFinalizer)
	if annotations == nil && !held {
		return v
	}
	v = v.DeepCopy()
	if annotations != nil {
		v.Annotations = annotations
	}
	if held {
		v.Finalizers = slices.DeleteFunc(v.Finalizers, func(f string) bool { return f == volumehelpers.PVDeletionInTreeProtectionFinalizer })
	}
	return v
}

// markedClaim is marked for claims.
func markedClaim(claim *corev1.PersistentVolumeClaim) *corev1.PersistentVolumeClaim {
	annotations := migratedTo(claim.Annotations, volumehelpers.AnnStorageProvisioner, volumehelpers.AnnBetaStorageProvisioner)
	if annotations == nil {
		return claim
	}
	claim = claim.DeepCopy()
	claim.Annotations = annotations
	return claim
}

// noDeleter says why nobody here deletes what is behind a volume; "" if somebody does. There is one who deletes directories of a host, and one who only
// empties directories of an NFS server.
func noDeleter(v *corev1.PersistentVolume) string {
	const none, unable = "no volume plugin matched", "no deletable volume plugin matched"
	plugin := pluginOf(v)
	if by := v.Annotations[volumehelpers.AnnDynamicallyProvisioned]; strings.HasPrefix(by, "kubernetes.io/") {
		switch by {
		case "kubernetes.io/host-path":
			if by == plugin {
				return ""
			}
			return none
		case "kubernetes.io/nfs":
			return unable
		}
		return none + " name: " + by
	}
	prefix := "error getting deleter volume plugin for volume \"" + v.Name + "\": "
	switch plugin {
	case "kubernetes.io/host-path":
		return ""
	case "kubernetes.io/nfs":
		return prefix + unable
	}
	return prefix + none
}
