package podspec

import (
	"path"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
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
		own := v.validateVolumeSource(vol, at)
		if vol.Name == "" {
			own = append(own, field.Required(at.Child("name"), ""))
		} else {
			own = append(own, check.DNSLabel(vol.Name, at.Child("name"))...)
		}
		if v.volumes[vol.Name] != nil {
			own = append(own, field.Duplicate(at.Child("name"), vol.Name))
		}
		if len(own) == 0 {
			v.volumes[vol.Name] = &vol.VolumeSource
		}
		errs = append(errs, own...)
		if vol.Ephemeral != nil && v.meta != nil && v.meta.Name != "" {
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
	set      bool
	name     string
	path     string // as complaints name it, where that isn't name
	validate func(*field.Path) field.ErrorList
}

// validateVolumeSource wants exactly one source, and that to be valid.
func (v *specValidation) validateVolumeSource(vol *corev1.Volume, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	some := false
	for _, s := range v.sources(vol) {
		if !s.set {
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
		errs = append(errs, s.validate(p.Child(at))...)
	}
	if !some {
		errs = append(errs, field.Required(p, "must specify a volume type"))
	}
	return errs
}

// sources lists all that vol may come from, in the order in which they are looked at.
func (v *specValidation) sources(vol *corev1.Volume) []source {
	s := &vol.VolumeSource
	type p = *field.Path
	type errors = field.ErrorList
	return []source{
		{set: s.EmptyDir != nil, name: "emptyDir", validate: func(p p) errors { return validateEmptyDir(s.EmptyDir, p) }},
		{set: s.HostPath != nil, name: "hostPath", validate: func(p p) errors { return ValidateHostPath(s.HostPath, p) }},
		{set: s.GitRepo != nil, name: "gitRepo", validate: func(p p) errors { return validateGitRepo(s.GitRepo, p) }},
		{set: s.GCEPersistentDisk != nil, name: "gcePersistentDisk", path: "persistentDisk", validate: func(p p) errors { return ValidateGCEDisk(s.GCEPersistentDisk, p) }},
		{set: s.AWSElasticBlockStore != nil, name: "awsElasticBlockStore", validate: func(p p) errors { return ValidateAWSDisk(s.AWSElasticBlockStore, p) }},
		{set: s.Secret != nil, name: "secret", validate: func(p p) errors { return validateSecretVolume(s.Secret, p) }},
		{set: s.NFS != nil, name: "nfs", validate: func(p p) errors { return ValidateNFS(s.NFS, p) }},
		{set: s.ISCSI != nil, name: "iscsi", validate: func(p p) errors { return validateISCSI(s.ISCSI, vol.Name, p) }},
		{set: s.Glusterfs != nil, name: "glusterfs", validate: func(p p) errors {
			return required(p, "endpoints", s.Glusterfs.EndpointsName, "path", s.Glusterfs.Path)
		}},
		{set: s.Flocker != nil, name: "flocker", validate: func(p p) errors { return ValidateFlocker(s.Flocker, p) }},
		{set: s.PersistentVolumeClaim != nil, name: "persistentVolumeClaim", validate: func(p p) errors { return required(p, "claimName", s.PersistentVolumeClaim.ClaimName) }},
		{set: s.RBD != nil, name: "rbd", validate: func(p p) errors { return validateRBD(s.RBD, p) }},
		{set: s.Cinder != nil, name: "cinder", validate: func(p p) errors { return validateCinder(s.Cinder, p) }},
		{set: s.CephFS != nil, name: "cephfs", validate: func(p p) errors { return validateMonitors(s.CephFS.Monitors, p) }},
		{set: s.Quobyte != nil, name: "quobyte", validate: func(p p) errors { return ValidateQuobyte(s.Quobyte, p) }},
		{set: s.DownwardAPI != nil, name: "downwardAPI", validate: func(p p) errors { return validateDownwardVolume(s.DownwardAPI, p) }},
		{set: s.FC != nil, name: "fc", validate: func(p p) errors { return ValidateFC(s.FC, p) }},
		{set: s.FlexVolume != nil, name: "flexVolume", validate: func(p p) errors { return ValidateFlex(s.FlexVolume.Driver, s.FlexVolume.Options, p) }},
		{set: s.ConfigMap != nil, name: "configMap", validate: func(p p) errors { return validateConfigMapVolume(s.ConfigMap, p) }},
		{set: s.AzureFile != nil, name: "azureFile", validate: func(p p) errors {
			return required(p, "secretName", s.AzureFile.SecretName, "shareName", s.AzureFile.ShareName)
		}},
		{set: s.VsphereVolume != nil, name: "vsphereVolume", validate: func(p p) errors { return required(p, "volumePath", s.VsphereVolume.VolumePath) }},
		{set: s.PhotonPersistentDisk != nil, name: "photonPersistentDisk", validate: func(p p) errors { return required(p, "pdID", s.PhotonPersistentDisk.PdID) }},
		{set: s.PortworxVolume != nil, name: "portworxVolume", validate: func(p p) errors { return required(p, "volumeID", s.PortworxVolume.VolumeID) }},
		{set: s.AzureDisk != nil, name: "azureDisk", validate: func(p p) errors { return ValidateAzureDisk(s.AzureDisk, p) }},
		{set: s.StorageOS != nil, name: "storageos", validate: func(p p) errors { return validateStorageOS(s.StorageOS, p) }},
		{set: s.Projected != nil, name: "projected", validate: func(p p) errors { return validateProjected(s.Projected, p) }},
		{set: s.ScaleIO != nil, name: "scaleIO", validate: func(p p) errors {
			return required(p, "gateway", s.ScaleIO.Gateway, "system", s.ScaleIO.System, "volumeName", s.ScaleIO.VolumeName)
		}},
		{set: s.CSI != nil, name: "csi", validate: func(p p) errors { return validateCSI(s.CSI, p) }},
		{set: s.Ephemeral != nil, name: "ephemeral", validate: func(p p) errors { return validateEphemeral(s.Ephemeral, p) }},
		{set: s.Image != nil, name: "image", validate: func(p p) errors { return validateImageVolume(s.Image, p) }},
	}
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
	some := false
	one := func(set bool, name string, f func(*field.Path)) {
		switch {
		case !set:
		case some:
			j.errs = append(j.errs, field.Forbidden(at, "may not specify more than 1 volume type per source"))
		default:
			some = true
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
		j.claim(t.Path, t.Path, p)
	})
	one(s.ClusterTrustBundle != nil, "clusterTrustBundle", func(at *field.Path) {
		add(validateTrustBundle(s.ClusterTrustBundle, at))
		j.claim(s.ClusterTrustBundle.Path, s.ClusterTrustBundle.Path, at.Child("path"))
	})
	one(s.PodCertificate != nil, "podCertificate", func(at *field.Path) {
		c := s.PodCertificate
		add(validatePodCertificate(c, at))
		for _, f := range [][2]string{
			{"credentialBundlePath", c.CredentialBundlePath}, {"keyPath", c.KeyPath}, {"certificateChainPath", c.CertificateChainPath},
		} {
			j.claim(f[1], f[1], at.Child(f[0]))
		}
	})
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
		if b.LabelSelector != nil {
			errs = append(errs, field.Invalid(p.Child("labelSelector"), b.LabelSelector, "labelSelector must be unset if name is specified"))
		}
	case bySigner:
		if *b.SignerName == "" {
			errs = append(errs, field.Required(p.Child("signerName"), "must be a valid signer name"))
		}
		errs = append(errs, check.Selector(b.LabelSelector, p.Child("labelSelector"), false)...)
	default:
		errs = append(errs, field.Required(p, "either name or signerName must be specified"))
	}
	if b.Path == "" {
		return append(errs, field.Required(p.Child("path"), ""))
	}
	return append(errs, validateFilePath(b.Path, p.Child("path"))...)
}

func validatePodCertificate(c *corev1.PodCertificateProjection, p *field.Path) field.ErrorList {
	errs := check.OneOf(c.KeyType, p.Child("keyType"), "RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519")
	domain, name, _ := strings.Cut(c.SignerName, "/")
	if domain == "" || name == "" || !strings.Contains(domain, ".") || len(validation.IsDNS1123Subdomain(domain)) > 0 {
		errs = append(errs, field.Invalid(p.Child("signerName"), c.SignerName, "must be a fully qualified domain and path of the form 'example.com/signer-name'"))
	}
	if c.CredentialBundlePath == "" && c.KeyPath == "" && c.CertificateChainPath == "" {
		errs = append(errs, field.Required(p, "specify at least one of credentialBundlePath, keyPath, and certificateChainPath"))
	}
	for _, f := range [][2]string{
		{"credentialBundlePath", c.CredentialBundlePath}, {"keyPath", c.KeyPath}, {"certificateChainPath", c.CertificateChainPath},
	} {
		if f[1] != "" {
			errs = append(errs, validateFilePath(path.Clean(f[1]), p.Child(f[0]))...)
		}
	}
	return errs
}

func validateImageVolume(i *corev1.ImageVolumeSource, p *field.Path) field.ErrorList {
	errs := required(p, "reference", i.Reference)
	return append(errs, validatePullPolicy(i.PullPolicy, p.Child("pullPolicy"))...)
}
