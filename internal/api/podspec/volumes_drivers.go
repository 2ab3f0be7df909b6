package podspec

import (
	"net"
	"path"
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api/check"
)

// maxPartition is the highest number of a partition or a logical unit.
const maxPartition = 255

func validatePartition(n int32, p *field.Path) field.ErrorList {
	if n < 0 || n > maxPartition {
		return field.ErrorList{field.Invalid(p, n, validation.InclusiveRangeError(1, maxPartition))}
	}
	return nil
}

// ValidateGCEDisk checks a disk of Google's cloud.
func ValidateGCEDisk(d *corev1.GCEPersistentDiskVolumeSource, p *field.Path) field.ErrorList {
	return append(required(p, "pdName", d.PDName), validatePartition(d.Partition, p.Child("partition"))...)
}

// ValidateAWSDisk checks a disk of Amazon's cloud.
func ValidateAWSDisk(d *corev1.AWSElasticBlockStoreVolumeSource, p *field.Path) field.ErrorList {
	return append(required(p, "volumeID", d.VolumeID), validatePartition(d.Partition, p.Child("partition"))...)
}

// ValidateNFS checks a network file system.
func ValidateNFS(n *corev1.NFSVolumeSource, p *field.Path) field.ErrorList {
	errs := required(p, "server", n.Server, "path", n.Path)
	if !path.IsAbs(n.Path) {
		errs = append(errs, field.Invalid(p.Child("path"), n.Path, "must be an absolute path"))
	}
	return errs
}

// How the names of iSCSI targets look (RFC 3720). Read-only.
var (
	iqnRegexp = regexp.MustCompile(`iqn\.\d{4}-\d{2}\.([[:alnum:]-.]+)(:[^,;*&$|\s]+)$`)
	euiRegexp = regexp.MustCompile(`^eui.[[:alnum:]]{16}$`)
	naaRegexp = regexp.MustCompile(`^naa.[[:alnum:]]{32}$`)
)

// maxISCSIName is how long the name of a session may get.
const maxISCSIName = 64

func validateISCSI(s *corev1.ISCSIVolumeSource, p *field.Path) field.ErrorList {
	errs := required(p, "targetPortal", s.TargetPortal)
	errs = append(errs, ValidateISCSITarget(s.IQN, s.Lun, true, p)...)
	if (s.DiscoveryCHAPAuth || s.SessionCHAPAuth) && s.SecretRef == nil {
		errs = append(errs, field.Required(p.Child("secretRef"), ""))
	}
	if s.InitiatorName != nil {
		errs = append(errs, ValidateISCSIName(*s.InitiatorName, true, p.Child("initiatorname"))...)
	}
	return errs
}

// ValidateISCSITarget checks the name of an iSCSI target and the number of its unit.
func ValidateISCSITarget(iqn string, lun int32, hint bool, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if iqn == "" {
		errs = append(errs, field.Required(p.Child("iqn"), ""))
	} else {
		errs = append(errs, ValidateISCSIName(iqn, hint, p.Child("iqn"))...)
	}
	if lun < 0 || lun > maxPartition {
		errs = append(errs, field.Invalid(p.Child("lun"), lun, validation.InclusiveRangeError(0, maxPartition)))
	}
	return errs
}

// ValidateISCSIName checks the name of an iSCSI target or initiator. With hint, the complaint tells how names begin.
func ValidateISCSIName(name string, hint bool, p *field.Path) field.ErrorList {
	for _, f := range []struct {
		prefix string
		form   *regexp.Regexp
	}{{"iqn", iqnRegexp}, {"eui", euiRegexp}, {"naa", naaRegexp}} {
		if !strings.HasPrefix(name, f.prefix) {
			continue
		}
		if f.form.MatchString(name) {
			return nil
		}
		return field.ErrorList{field.Invalid(p, name, "must be valid format")}
	}
	text := "must be valid format"
	if hint {
		text += " starting with iqn, eui, or naa"
	}
	return field.ErrorList{field.Invalid(p, name, text)}
}

// ValidateFlocker checks a dataset of Flocker.
func ValidateFlocker(f *corev1.FlockerVolumeSource, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	switch {
	case f.DatasetName == "" && f.DatasetUUID == "":
		errs = append(errs, field.Required(p, "one of datasetName and datasetUUID is required"))
	case f.DatasetName != "" && f.DatasetUUID != "":
		errs = append(errs, field.Invalid(p, "resource", "datasetName and datasetUUID can not be specified simultaneously"))
	}
	if strings.Contains(f.DatasetName, "/") {
		errs = append(errs, field.Invalid(p.Child("datasetName"), f.DatasetName, "must not contain '/'"))
	}
	return errs
}

func validateMonitors(list []string, p *field.Path) field.ErrorList {
	if len(list) == 0 {
		return field.ErrorList{field.Required(p.Child("monitors"), "")}
	}
	return nil
}

func validateRBD(s *corev1.RBDVolumeSource, p *field.Path) field.ErrorList {
	return append(validateMonitors(s.CephMonitors, p), required(p, "image", s.RBDImage)...)
}

func validateCinder(s *corev1.CinderVolumeSource, p *field.Path) field.ErrorList {
	errs := required(p, "volumeID", s.VolumeID)
	if s.SecretRef != nil {
		errs = append(errs, required(p.Child("secretRef"), "name", s.SecretRef.Name)...)
	}
	return errs
}

// ValidateQuobyte checks a volume of Quobyte.
func ValidateQuobyte(q *corev1.QuobyteVolumeSource, p *field.Path) field.ErrorList {
	const form = "must be a host:port pair or multiple pairs separated by commas"
	const maxTenant = 64
	var errs field.ErrorList
	if q.Registry == "" {
		errs = append(errs, field.Required(p.Child("registry"), form))
	} else if len(q.Tenant) > maxTenant {
		errs = append(errs, field.Required(p.Child("tenant"), "must be a UUID and may not exceed a length of 64 characters"))
	} else {
		for pair := range strings.SplitSeq(q.Registry, ",") {
			if _, _, err := net.SplitHostPort(pair); err != nil {
				errs = append(errs, field.Invalid(p.Child("registry"), q.Registry, form))
			}
		}
	}
	return append(errs, required(p, "volume", q.Volume)...)
}

// ValidateFC checks a Fibre Channel volume.
func ValidateFC(f *corev1.FCVolumeSource, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	switch {
	case len(f.TargetWWNs) == 0 && len(f.WWIDs) == 0:
		errs = append(errs, field.Required(p.Child("targetWWNs"), "must specify either targetWWNs or wwids, but not both"))
	case len(f.TargetWWNs) > 0 && len(f.WWIDs) > 0:
		errs = append(errs, field.Invalid(p.Child("targetWWNs"), f.TargetWWNs, "targetWWNs and wwids can not be specified simultaneously"))
	}
	switch {
	case len(f.TargetWWNs) == 0:
	case f.Lun == nil:
		errs = append(errs, field.Required(p.Child("lun"), "lun is required if targetWWNs is specified"))
	case *f.Lun < 0 || *f.Lun > maxPartition:
		errs = append(errs, field.Invalid(p.Child("lun"), f.Lun, validation.InclusiveRangeError(0, maxPartition)))
	}
	return errs
}

// ValidateFlex checks the driver of a FlexVolume and the options for it.
func ValidateFlex(driver string, options map[string]string, p *field.Path) field.ErrorList {
	errs := required(p, "driver", driver)
	for _, key := range sets.List(sets.KeySet(options)) {
		namespace, _, _ := strings.Cut(strings.ToLower(key), "/")
		if strings.HasSuffix("."+namespace, ".kubernetes.io") || strings.HasSuffix("."+namespace, ".k8s.io") {
			errs = append(errs, field.Invalid(p.Child("options").Key(key), key, "kubernetes.io and k8s.io namespaces are reserved"))
		}
	}
	return errs
}

// ValidateAzureDisk checks a disk of Microsoft's cloud.
func ValidateAzureDisk(d *corev1.AzureDiskVolumeSource, p *field.Path) field.ErrorList {
	errs := required(p, "diskName", d.DiskName, "diskURI", d.DataDiskURI)
	if d.CachingMode != nil {
		errs = append(errs, check.OneOf(*d.CachingMode, p.Child("cachingMode"), corev1.AzureDataDiskCachingNone, corev1.AzureDataDiskCachingReadOnly, corev1.AzureDataDiskCachingReadWrite)...)
	}
	if d.Kind == nil {
		return errs
	}
	errs = append(errs, check.OneOf(*d.Kind, p.Child("kind"), corev1.AzureSharedBlobDisk, corev1.AzureDedicatedBlobDisk, corev1.AzureManagedDisk)...)
	managed := *d.Kind == corev1.AzureManagedDisk
	switch {
	case managed && !strings.HasPrefix(d.DataDiskURI, "/"):
		errs = append(errs, field.NotSupported(p.Child("diskURI"), d.DataDiskURI,
			[]string{"/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}"}))
	case !managed && !strings.HasPrefix(d.DataDiskURI, "https://") && !strings.HasPrefix(d.DataDiskURI, "http://"):
		errs = append(errs, field.NotSupported(p.Child("diskURI"), d.DataDiskURI,
			[]string{"https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd"}))
	}
	return errs
}

func validateStorageOS(s *corev1.StorageOSVolumeSource, p *field.Path) field.ErrorList {
	errs := required(p, "volumeName", s.VolumeName)
	if s.VolumeName != "" {
		errs = append(errs, check.DNSLabel(s.VolumeName, p.Child("volumeName"))...)
	}
	if s.VolumeNamespace != "" {
		errs = append(errs, check.DNSLabel(s.VolumeNamespace, p.Child("volumeNamespace"))...)
	}
	if s.SecretRef != nil {
		errs = append(errs, required(p.Child("secretRef"), "name", s.SecretRef.Name)...)
	}
	return errs
}

// maxCSIDriverName is how long the name of a CSI driver may be, which is a part of paths.
const maxCSIDriverName = 63

// ValidateCSIDriverName checks the name of a CSI driver.
func ValidateCSIDriverName(name string, p *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(p, "")}
	}
	var errs field.ErrorList
	if len(name) > maxCSIDriverName {
		errs = append(errs, field.TooLong(p, name, maxCSIDriverName))
	}
	return append(errs, check.Each(validation.IsDNS1123Subdomain(strings.ToLower(name)), p, name)...)
}

func validateCSI(c *corev1.CSIVolumeSource, p *field.Path) field.ErrorList {
	errs := ValidateCSIDriverName(c.Driver, p.Child("driver"))
	if ref := c.NodePublishSecretRef; ref != nil {
		at := p.Child("nodePublishSecretRef", "name")
		if ref.Name == "" {
			errs = append(errs, field.Required(at, ""))
		} else {
			errs = append(errs, check.DNSSubdomain(ref.Name, p.Child("name"))...) // where upstream says it is
		}
	}
	return errs
}
