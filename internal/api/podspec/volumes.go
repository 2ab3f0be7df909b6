package podspec

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api/check"
)

// validateVolumes checks the volumes and notes the valid ones, to which mounts may refer.
func (v *specValidation) validateVolumes(p *field.Path) field.ErrorList {
	var errs field.ErrorList
	v.volumes = make(map[string]*corev1.VolumeSource, len(v.spec.Volumes))
	made := sets.New[string]() // claims that are made for the pod
	for i := range v.spec.Volumes {
		vol, at := &v.spec.Volumes[i], p.Index(i)
		own := validateVolumeSource(vol, at)
		if vol.Ephemeral != nil && vol.Name != "" && !v.opts.Template && v.meta != nil && v.meta.Name != "" {
			name := v.meta.Name + "-" + vol.Name
			for _, text := range check.IsDNS1123Subdomain(name) {
				own = append(own, field.Invalid(at.Child("name"), vol.Name, fmt.Sprintf("PVC name %q: %s", name, text)))
			}
		}
		if vol.Name == "" {
			own = append(own, field.Required(at.Child("name"), ""))
		} else {
			own = append(own, dnsLabel(vol.Name, at, "name")...)
		}
		if v.volumes[vol.Name] != nil {
			own = append(own, field.Duplicate(at.Child("name"), vol.Name))
		}
		if len(own) == 0 {
			v.volumes[vol.Name] = &vol.VolumeSource
		}
		errs = append(errs, own...)
		if vol.Ephemeral != nil && !v.opts.Template && v.meta != nil && v.meta.Name != "" {
			made.Insert(v.meta.Name + "-" + vol.Name)
		}
	}
	for i := range v.spec.Volumes {
		if c := v.spec.Volumes[i].PersistentVolumeClaim; c != nil && made.Has(c.ClaimName) {
			errs = append(errs, field.Invalid(p.Index(i).Child("persistentVolumeClaim", "claimName"), c.ClaimName,
				"must not reference a PVC that gets created for an ephemeral volume"))
		}
	}
	return errs
}

// source is one of the many that a volume can come from.
type source struct {
	set      func(*corev1.VolumeSource) bool
	name     string
	path     string // as complaints name it, where that isn't name
	validate func(*corev1.Volume, *field.Path) field.ErrorList
}

// validateVolumeSource wants exactly one source, and that to be valid.
func validateVolumeSource(vol *corev1.Volume, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	some := false
	for i := range sources {
		s := &sources[i]
		if !s.set(&vol.VolumeSource) {
			continue
		}
		if some {
			errs = append(errs, field.Forbidden(p.Child(s.name), "may not specify more than 1 volume type"))
			continue
		}
		some = true
		at := s.name
		if s.path != "" {
			at = s.path
		}
		errs = append(errs, s.validate(vol, p.Child(at))...)
		if i := vol.ISCSI; s.name == "iscsi" && i.InitiatorName != nil && len(vol.Name)+1+len(i.TargetPortal) > maxISCSIName {
			errs = append(errs, field.Invalid(p.Child("name"), vol.Name,
				"Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified."))
		}
	}
	if !some {
		errs = append(errs, field.Required(p, "must specify a volume type"))
	}
	return errs
}

// sources lists all that a volume may come from, in the order in which they are looked at.
var sources = [...]source{
	{set: func(s *corev1.VolumeSource) bool { return s.EmptyDir != nil }, name: "emptyDir", validate: func(vol *corev1.Volume, p *field.Path) field.ErrorList { return validateEmptyDir(vol.EmptyDir, p) }},
	{set: func(s *corev1.VolumeSource) bool { return s.HostPath != nil }, name: "hostPath", validate: func(vol *corev1.Volume, p *field.Path) field.ErrorList { return ValidateHostPath(vol.HostPath, p) }},
	{set: func(s *corev1.VolumeSource) bool { return s.GitRepo != nil }, name: "gitRepo", validate: func(vol *corev1.Volume, p *field.Path) field.ErrorList { return validateGitRepo(vol.GitRepo, p) }},
	{set: func(s *corev1.VolumeSource) bool { return s.GCEPersistentDisk != nil }, name: "gcePersistentDisk", path: "persistentDisk", validate: func(vol *corev1.Volume, p *field.Path) field.ErrorList {
		return ValidateGCEDisk(vol.GCEPersistentDisk, p)
	}},
	{set: func(s *corev1.VolumeSource) bool { return s.AWSElasticBlockStore != nil }, name: "awsElasticBlockStore", validate: func(vol *corev1.Volume, p *field.Path) field.ErrorList {
		return ValidateAWSDisk(vol.AWSElasticBlockStore, p)
	}},
	{set: func(s *corev1.VolumeSource) bool { return s.Secret != nil }, name: "secret", validate: func(vol *corev1.Volume, p *field.Path) field.ErrorList { return validateSecretVolume(vol.Secret, p) }},
	{set: func(s *corev1.VolumeSource) bool { return s.NFS != nil }, name: "nfs", validate: func(vol *corev1.Volume, p *field.Path) field.ErrorList { return ValidateNFS(vol.NFS, p) }},
	{set: func(s *corev1.VolumeSource) bool { return s.ISCSI != nil }, name: "iscsi", validate: func(vol *corev1.Volume, p *field.Path) field.ErrorList { return validateISCSI(vol.ISCSI, p) }},
	{set: func(s *corev1.VolumeSource) bool { return s.Glusterfs != nil }, name: "glusterfs", validate: func(vol *corev1.Volume, p *field.Path) field.ErrorList {
		return required(p, "endpoints", vol.Glusterfs.EndpointsName, "path", vol.Glusterfs.Path)
	}},
	{set: func(s *corev1.VolumeSource) bool { return s.Flocker != nil }, name: "flocker", validate: func(vol *corev1.Volume, p *field.Path) field.ErrorList { return ValidateFlocker(vol.Flocker, p) }},
	{set: func(s *corev1.VolumeSource) bool { return s.PersistentVolumeClaim != nil }, name: "persistentVolumeClaim", validate: func(vol *corev1.Volume, p *field.Path) field.ErrorList {
		return required(p, "claimName", vol.PersistentVolumeClaim.ClaimName)
	}},
	{set: func(s *corev1.VolumeSource) bool { return s.RBD != nil }, name: "rbd", validate: func(vol *corev1.Volume, p *field.Path) field.ErrorList { return validateRBD(vol.RBD, p) }},
	{set: func(s *corev1.VolumeSource) bool { return s.Cinder != nil }, name: "cinder", validate: func(vol *corev1.Volume, p *field.Path) field.ErrorList { return validateCinder(vol.Cinder, p) }},
	{set: func(s *corev1.VolumeSource) bool { return s.CephFS != nil }, name: "cephFS", path: "cephfs", validate: func(vol *corev1.Volume, p *field.Path) field.ErrorList {
		return validateMonitors(vol.CephFS.Monitors, p)
	}},
	{set: func(s *corev1.VolumeSource) bool { return s.Quobyte != nil }, name: "quobyte", validate: func(vol *corev1.Volume, p *field.Path) field.ErrorList { return ValidateQuobyte(vol.Quobyte, p) }},
	{set: func(s *corev1.VolumeSource) bool { return s.DownwardAPI != nil }, name: "downwarAPI", path: "downwardAPI", validate: func(vol *corev1.Volume, p *field.Path) field.ErrorList {
		return validateDownwardVolume(vol.DownwardAPI, p)
	}},
	{set: func(s *corev1.VolumeSource) bool { return s.FC != nil }, name: "fc", validate: func(vol *corev1.Volume, p *field.Path) field.ErrorList { return ValidateFC(vol.FC, p) }},
	{set: func(s *corev1.VolumeSource) bool { return s.FlexVolume != nil }, name: "flexVolume", validate: func(vol *corev1.Volume, p *field.Path) field.ErrorList {
		return ValidateFlex(vol.FlexVolume.Driver, vol.FlexVolume.Options, p)
	}},
	{set: func(s *corev1.VolumeSource) bool { return s.ConfigMap != nil }, name: "configMap", validate: func(vol *corev1.Volume, p *field.Path) field.ErrorList {
		return validateConfigMapVolume(vol.ConfigMap, p)
	}},
	{set: func(s *corev1.VolumeSource) bool { return s.AzureFile != nil }, name: "azureFile", validate: func(vol *corev1.Volume, p *field.Path) field.ErrorList {
		return required(p, "secretName", vol.AzureFile.SecretName, "shareName", vol.AzureFile.ShareName)
	}},
	{set: func(s *corev1.VolumeSource) bool { return s.VsphereVolume != nil }, name: "vsphereVolume", validate: func(vol *corev1.Volume, p *field.Path) field.ErrorList {
		return required(p, "volumePath", vol.VsphereVolume.VolumePath)
	}},
	{set: func(s *corev1.VolumeSource) bool { return s.PhotonPersistentDisk != nil }, name: "photonPersistentDisk", validate: func(vol *corev1.Volume, p *field.Path) field.ErrorList {
		return required(p, "pdID", vol.PhotonPersistentDisk.PdID)
	}},
	{set: func(s *corev1.VolumeSource) bool { return s.PortworxVolume != nil }, name: "portworxVolume", validate: func(vol *corev1.Volume, p *field.Path) field.ErrorList {
		return required(p, "volumeID", vol.PortworxVolume.VolumeID)
	}},
	{set: func(s *corev1.VolumeSource) bool { return s.AzureDisk != nil }, name: "azureDisk", validate: func(vol *corev1.Volume, p *field.Path) field.ErrorList { return ValidateAzureDisk(vol.AzureDisk, p) }},
	{set: func(s *corev1.VolumeSource) bool { return s.StorageOS != nil }, name: "storageos", validate: func(vol *corev1.Volume, p *field.Path) field.ErrorList { return validateStorageOS(vol.StorageOS, p) }},
	{set: func(s *corev1.VolumeSource) bool { return s.Projected != nil }, name: "projected", validate: func(vol *corev1.Volume, p *field.Path) field.ErrorList { return validateProjected(vol.Projected, p) }},
	{set: func(s *corev1.VolumeSource) bool { return s.ScaleIO != nil }, name: "scaleIO", validate: func(vol *corev1.Volume, p *field.Path) field.ErrorList {
		return required(p, "gateway", vol.ScaleIO.Gateway, "system", vol.ScaleIO.System, "volumeName", vol.ScaleIO.VolumeName)
	}},
	{set: func(s *corev1.VolumeSource) bool { return s.CSI != nil }, name: "csi", validate: func(vol *corev1.Volume, p *field.Path) field.ErrorList { return validateCSI(vol.CSI, p) }},
	{set: func(s *corev1.VolumeSource) bool { return s.Ephemeral != nil }, name: "ephemeral", validate: func(vol *corev1.Volume, p *field.Path) field.ErrorList { return validateEphemeral(vol.Ephemeral, p) }},
	{set: func(s *corev1.VolumeSource) bool { return s.Image != nil }, name: "image", validate: func(vol *corev1.Volume, p *field.Path) field.ErrorList { return validateImageVolume(vol.Image, p) }},
}

// required wants values not to be empty; they come as name, value, name, value.
func required(p *field.Path, pairs ...string) field.ErrorList {
	var errs field.ErrorList
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] == "" {
			errs = append(errs, field.Required(p.Child(pairs[i]), ""))
		}
	}
	return errs
}

func validateEmptyDir(e *corev1.EmptyDirVolumeSource, p *field.Path) field.ErrorList {
	if e.SizeLimit != nil && e.SizeLimit.Sign() < 0 {
		return field.ErrorList{field.Forbidden(p.Child("sizeLimit"), "SizeLimit field must be a valid resource quantity")}
	}
	return nil
}

// ValidateHostPath checks a path of the node.
func ValidateHostPath(h *corev1.HostPathVolumeSource, p *field.Path) field.ErrorList {
	if h.Path == "" {
		return field.ErrorList{field.Required(p.Child("path"), "")}
	}
	errs := ValidateNodePath(h.Path, p.Child("path"))
	if h.Type != nil {
		errs = append(errs, check.OneOf(*h.Type, p.Child("type"), corev1.HostPathUnset, corev1.HostPathDirectoryOrCreate, corev1.HostPathDirectory,
			corev1.HostPathFileOrCreate, corev1.HostPathFile, corev1.HostPathSocket, corev1.HostPathCharDev, corev1.HostPathBlockDev)...)
	}
	return errs
}

// ValidateNodePath wants a path that does not climb up.
func ValidateNodePath(path string, p *field.Path) field.ErrorList {
	if path == "" {
		return field.ErrorList{field.Required(p, "")}
	}
	return validateNoBacksteps(path, p)
}

func validateGitRepo(g *corev1.GitRepoVolumeSource, p *field.Path) field.ErrorList {
	errs := required(p, "repository", g.Repository)
	return append(errs, validateLocalPath(g.Directory, p.Child("directory"))...)
}

func validateMode(m *int32, p *field.Path) field.ErrorList {
	if m != nil && (*m < 0 || *m > 0o777) {
		return field.ErrorList{field.Invalid(p, *m, "must be a number between 0 and 0777 (octal), both inclusive")}
	}
	return nil
}

func validateSecretVolume(s *corev1.SecretVolumeSource, p *field.Path) field.ErrorList {
	errs := required(p, "secretName", s.SecretName)
	errs = append(errs, validateMode(s.DefaultMode, p.Child("defaultMode"))...)
	return append(errs, validateKeyPaths(s.Items, p.Child("items"))...)
}

func validateConfigMapVolume(c *corev1.ConfigMapVolumeSource, p *field.Path) field.ErrorList {
	errs := required(p, "name", c.Name)
	errs = append(errs, validateMode(c.DefaultMode, p.Child("defaultMode"))...)
	return append(errs, validateKeyPaths(c.Items, p.Child("items"))...)
}

func validateKeyPaths(items []corev1.KeyToPath, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range items {
		k, at := &items[i], p.Index(i)
		errs = append(errs, required(at, "key", k.Key, "path", k.Path)...)
		errs = append(errs, validateFilePath(k.Path, at.Child("path"))...)
		errs = append(errs, validateMode(k.Mode, at.Child("mode"))...)
	}
	return errs
}

func validateDownwardVolume(d *corev1.DownwardAPIVolumeSource, p *field.Path) field.ErrorList {
	errs := validateMode(d.DefaultMode, p.Child("defaultMode"))
	for i := range d.Items {
		errs = append(errs, validateDownwardFile(&d.Items[i], p)...)
	}
	return errs
}

// validateDownwardFile checks a file with a field of the pod in it; complaints do not say which file.
func validateDownwardFile(f *corev1.DownwardAPIVolumeFile, p *field.Path) field.ErrorList {
	errs := required(p, "path", f.Path)
	errs = append(errs, validateFilePath(f.Path, p.Child("path"))...)
	switch {
	case f.FieldRef != nil:
		errs = append(errs, validateFieldRef(f.FieldRef, fileFields, p.Child("fieldRef"))...)
		if f.ResourceFieldRef != nil {
			errs = append(errs, field.Invalid(p, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously"))
		}
	case f.ResourceFieldRef != nil:
		errs = append(errs, validateResourceFieldRef(f.ResourceFieldRef, true, p.Child("resourceFieldRef"))...)
	default:
		errs = append(errs, field.Required(p, "one of fieldRef and resourceFieldRef is required"))
	}
	return append(errs, validateMode(f.Mode, p.Child("mode"))...)
}

// Limits of the life of a token that is mounted, in seconds.
const (
	minTokenSeconds = 10 * 60
	maxTokenSeconds = 1 << 32
)

// projection is a file of a projected volume, as long as nobody else has its path.
type projection struct {
	paths sets.Set[string]
	errs  field.ErrorList
}

// claim notes that a file lies at a path. Upstream shows the name of the source, or nothing, in the complaint.
func (j *projection) claim(file, shown string, p *field.Path) {
	if file == "" {
		return
	}
	if j.paths.Has(file) {
		j.errs = append(j.errs, field.Invalid(p, shown, "conflicting duplicate paths"))
	}
	j.paths.Insert(file)
}

func validateProjected(v *corev1.ProjectedVolumeSource, p *field.Path) field.ErrorList {
	errs := validateMode(v.DefaultMode, p.Child("defaultMode"))
	j := &projection{paths: sets.New[string]()}
	for i := range v.Sources {
		j.validate(&v.Sources[i], p, p.Child("sources").Index(i))
	}
	return append(errs, j.errs...)
}

// validate checks one source at its path; p is the volume's.
func (j *projection) validate(s *corev1.VolumeProjection, p, at *field.Path) {
	n := 0
	one := func(set bool, name string, f func(*field.Path)) {
		if set {
			n++
			f(at.Child(name))
		}
	}
	add := func(errs field.ErrorList) { j.errs = append(j.errs, errs...) }
	one(s.Secret != nil, "secret", func(at *field.Path) {
		add(required(at, "name", s.Secret.Name))
		j.files(s.Secret.Items, s.Secret.Name, p, at)
	})
	one(s.ConfigMap != nil, "configMap", func(at *field.Path) {
		add(required(at, "name", s.ConfigMap.Name))
		j.files(s.ConfigMap.Items, s.ConfigMap.Name, p, at)
	})
	one(s.DownwardAPI != nil, "downwardAPI", func(at *field.Path) {
		for i := range s.DownwardAPI.Items {
			f := &s.DownwardAPI.Items[i]
			add(validateDownwardFile(f, at))
			j.claim(f.Path, f.Path, p)
		}
	})
	one(s.ServiceAccountToken != nil, "serviceAccountToken", func(at *field.Path) {
		t := s.ServiceAccountToken
		if e := t.ExpirationSeconds; e != nil {
			switch {
			case *e < minTokenSeconds:
				add(field.ErrorList{field.Invalid(at.Child("expirationSeconds"), *e, "may not specify a duration less than 10 minutes")})
			case *e > maxTokenSeconds:
				add(field.ErrorList{field.Invalid(at.Child("expirationSeconds"), *e, "may not specify a duration larger than 2^32 seconds")})
			}
		}
		if t.Path == "" {
			add(field.ErrorList{field.Required(p.Child("path"), "")})
		} else {
			add(validateFilePath(t.Path, p.Child("path")))
		}
	})
	one(s.ClusterTrustBundle != nil, "clusterTrustBundle", func(at *field.Path) {
		add(validateTrustBundle(s.ClusterTrustBundle, at))
		j.claim(s.ClusterTrustBundle.Path, s.ClusterTrustBundle.Path, p)
	})
	one(s.PodCertificate != nil, "podCertificate", func(at *field.Path) {
		c := s.PodCertificate
		add(validatePodCertificate(c, at))
		for _, f := range [][2]string{
			{"credentialBundlePath", c.CredentialBundlePath}, {"keyPath", c.KeyPath}, {"certificateChainPath", c.CertificateChainPath},
		} {
			j.claim(f[1], f[1], p)
		}
	})
	if n > 1 {
		add(field.ErrorList{field.Forbidden(at, "may not specify more than 1 volume type per source")})
	}
}

func (j *projection) files(items []corev1.KeyToPath, name string, p, at *field.Path) {
	for i := range items {
		j.errs = append(j.errs, validateKeyPaths(items[i:i+1], at.Child("items"))...)
		j.claim(items[i].Path, name, p)
	}
}

func validateTrustBundle(b *corev1.ClusterTrustBundleProjection, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	byName, bySigner := b.Name != nil, b.SignerName != nil
	switch {
	case byName && bySigner:
		errs = append(errs, field.Invalid(p, check.Rendered(b), "only one of name and signerName may be used"))
	case byName:
		if *b.Name == "" {
			errs = append(errs, field.Required(p.Child("name"), "must be a valid object name"))
		}
		signer := ""
		if at := strings.LastIndexByte(*b.Name, ':'); at >= 0 {
			signer = strings.ReplaceAll((*b.Name)[:at], ":", "/")
		}
		for _, text := range check.TrustBundleName(*b.Name, signer) {
			errs = append(errs, field.Invalid(p.Child("name"), *b.Name, "not a valid clustertrustbundlename: "+text))
		}
		if b.LabelSelector != nil {
			errs = append(errs, field.Invalid(p.Child("labelSelector"), b.LabelSelector, "labelSelector must be unset if name is specified"))
		}
	case bySigner:
		if *b.SignerName == "" {
			errs = append(errs, field.Required(p.Child("signerName"), "must be a valid signer name"))
		}
		errs = append(errs, check.SignerName(*b.SignerName, p.Child("signerName"))...)
		errs = append(errs, check.Selector(b.LabelSelector, p.Child("labelSelector"), false)...)
	default:
		errs = append(errs, field.Required(p, "either name or signerName must be specified"))
	}
	if b.Path == "" {
		errs = append(errs, field.Required(p.Child("path"), ""))
	}
	return append(errs, validateFilePath(b.Path, p.Child("path"))...)
}

// The life that a pod's certificate may be asked to have, in seconds.
const (
	minCertificateSeconds    int32 = 3600
	maxCertificateSeconds    int32 = 91 * 86400
	maxOwnCertificateSeconds int32 = 86400 // of the project's own signers
)

func validatePodCertificate(c *corev1.PodCertificateProjection, p *field.Path) field.ErrorList {
	errs := check.SignerName(c.SignerName, p.Child("signerName"))
	errs = append(errs, check.UserAnnotations(c.UserAnnotations, p.Child("userAnnotations"))...)
	if types := []string{"RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"}; !slices.Contains(types, c.KeyType) {
		errs = append(errs, field.NotSupported(p.Child("keyType"), c.KeyType, types))
	}
	if n := c.MaxExpirationSeconds; n != nil {
		most := maxCertificateSeconds
		if check.OwnSigner(c.SignerName) {
			most = maxOwnCertificateSeconds
		}
		switch at := p.Child("maxExpirationSeconds"); {
		case *n < minCertificateSeconds:
			errs = append(errs, field.Invalid(at, *n, fmt.Sprintf("if provided, maxExpirationSeconds must be >= %d", minCertificateSeconds)))
		case *n > most:
			errs = append(errs, field.Invalid(at, *n, fmt.Sprintf("if provided, maxExpirationSeconds must be <= %d", most)))
		}
	}
	some := false
	for _, f := range [][2]string{
		{"credentialBundlePath", c.CredentialBundlePath}, {"keyPath", c.KeyPath}, {"certificateChainPath", c.CertificateChainPath},
	} {
		if f[1] != "" {
			some = true
			errs = append(errs, validateFilePath(f[1], p.Child(f[0]))...)
		}
	}
	if !some {
		errs = append(errs, field.Required(p, "specify at least one of credentialBundlePath, keyPath, and certificateChainPath"))
	}
	return errs
}

func validateImageVolume(i *corev1.ImageVolumeSource, p *field.Path) field.ErrorList {
	errs := required(p, "reference", i.Reference)
	return append(errs, validatePullPolicy(i.PullPolicy, p.Child("pullPolicy"))...)
}
