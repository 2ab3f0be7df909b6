package core

import (
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/check"
	"github.com/celox/celox/internal/api/table"
)

func persistentVolume() *api.Kind {
	spec, status := corev1.PersistentVolumeSpec{}.SwaggerDoc(), corev1.PersistentVolumeStatus{}.SwaggerDoc()
	return &api.Kind{
		Kind: "PersistentVolume", Resource: "persistentvolumes", Singular: "persistentvolume", ShortNames: []string{"pv"}, Prefix: "persistentvolumes",
		ReturnDeleted: true,
		Versions:      []api.Version{api.NewVersion[corev1.PersistentVolume, corev1.PersistentVolumeList]("v1")}, Hub: "v1",
		Subresources: []api.Subresource{api.Status()},
		PrepareForCreate: api.On(func(v *corev1.PersistentVolume) {
			v.Status = corev1.PersistentVolumeStatus{Phase: corev1.VolumePending}
		}),
		PrepareForUpdate:         api.OnUpdate(func(v, old *corev1.PersistentVolume) { v.Status = old.Status }),
		PrepareForStatusUpdate:   api.OnUpdate(func(v, old *corev1.PersistentVolume) { v.Spec = old.Spec }),
		Default:                  api.On(defaultPersistentVolume),
		Validate:                 api.Check(validatePersistentVolume),
		ValidateUpdate:           api.CheckUpdate(validatePersistentVolumeUpdate),
		AllowUnconditionalUpdate: true,
		FieldNames:               []string{"name"},
		Fields:                   func(obj api.Object) fields.Set { return fields.Set{"name": obj.GetName()} },
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
				claim, v.Spec.StorageClassName, orUnset(v.Spec.VolumeAttributesClassName), v.Status.Reason, table.Age(v, now), volumeMode(v.Spec.VolumeMode),
			}
		}),
	}
}

func orUnset(s *string) string {
	if s == nil {
		return "<unset>"
	}
	return *s
}

func volumeMode(m *corev1.PersistentVolumeMode) string {
	if m == nil {
		return "<unset>"
	}
	return string(*m)
}

func quantity(list corev1.ResourceList, name corev1.ResourceName) string {
	q, ok := list[name]
	if !ok {
		return ""
	}
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
		mode := corev1.PersistentVolumeFilesystem
		v.Spec.VolumeMode = &mode
	}
	if h := v.Spec.HostPath; h != nil && h.Type == nil {
		none := corev1.HostPathUnset
		h.Type = &none
	}
}

func validatePersistentVolume(v *corev1.PersistentVolume) field.ErrorList {
	var errs field.ErrorList
	p := field.NewPath("spec")
	if len(v.Spec.AccessModes) == 0 {
		errs = append(errs, field.Required(p.Child("accessModes"), ""))
	}
	errs = append(errs, validateAccessModes(v.Spec.AccessModes, p.Child("accessModes"))...)
	if len(v.Spec.Capacity) == 0 {
		errs = append(errs, field.Required(p.Child("capacity"), ""))
	} else if _, ok := v.Spec.Capacity[corev1.ResourceStorage]; !ok || len(v.Spec.Capacity) > 1 {
		errs = append(errs, field.NotSupported(p.Child("capacity"), v.Spec.Capacity, []string{string(corev1.ResourceStorage)}))
	}
	for _, name := range check.Sorted(v.Spec.Capacity) {
		errs = append(errs, check.PositiveQuantity(v.Spec.Capacity[name], p.Child("capacity").Key(string(name)))...)
	}
	if v.Spec.PersistentVolumeReclaimPolicy != "" {
		errs = append(errs, check.OneOf(v.Spec.PersistentVolumeReclaimPolicy, p.Child("persistentVolumeReclaimPolicy"),
			corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeReclaimRecycle, corev1.PersistentVolumeReclaimRetain)...)
	}
	if equality.Semantic.DeepEqual(v.Spec.PersistentVolumeSource, corev1.PersistentVolumeSource{}) {
		errs = append(errs, field.Required(p, "must specify a volume type"))
	}
	if v.Spec.StorageClassName != "" {
		errs = append(errs, check.DNSSubdomain(v.Spec.StorageClassName, p.Child("storageClassName"))...)
	}
	if v.Spec.VolumeMode != nil {
		errs = append(errs, check.OneOf(*v.Spec.VolumeMode, p.Child("volumeMode"), corev1.PersistentVolumeBlock, corev1.PersistentVolumeFilesystem)...)
	}
	return errs
}

func validateAccessModes(modes []corev1.PersistentVolumeAccessMode, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	oncePod := false
	for _, m := range modes {
		errs = append(errs, check.OneOf(m, p, corev1.ReadOnlyMany, corev1.ReadWriteMany, corev1.ReadWriteOnce, corev1.ReadWriteOncePod)...)
		oncePod = oncePod || m == corev1.ReadWriteOncePod
	}
	if oncePod && len(modes) > 1 {
		errs = append(errs, field.Forbidden(p, "may not use ReadWriteOncePod with other access modes"))
	}
	return errs
}

func validatePersistentVolumeUpdate(v, old *corev1.PersistentVolume) field.ErrorList {
	errs := validatePersistentVolume(v)
	if !equality.Semantic.DeepEqual(v.Spec.PersistentVolumeSource, old.Spec.PersistentVolumeSource) {
		errs = append(errs, field.Forbidden(field.NewPath("spec", "persistentvolumesource"), "spec.persistentvolumesource is immutable after creation"))
	}
	return append(errs, check.Immutable(v.Spec.VolumeMode, old.Spec.VolumeMode, field.NewPath("spec", "volumeMode"))...)
}

func persistentVolumeClaim() *api.Kind {
	spec, status := corev1.PersistentVolumeClaimSpec{}.SwaggerDoc(), corev1.PersistentVolumeClaimStatus{}.SwaggerDoc()
	return &api.Kind{
		Kind: "PersistentVolumeClaim", Resource: "persistentvolumeclaims", Singular: "persistentvolumeclaim", ShortNames: []string{"pvc"}, Namespaced: true,
		ReturnDeleted: true,
		Prefix:        "persistentvolumeclaims",
		Versions:      []api.Version{api.NewVersion[corev1.PersistentVolumeClaim, corev1.PersistentVolumeClaimList]("v1")}, Hub: "v1",
		Subresources: []api.Subresource{api.Status()},
		PrepareForCreate: api.On(func(c *corev1.PersistentVolumeClaim) {
			c.Status = corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimPending}
		}),
		PrepareForUpdate:         api.OnUpdate(func(c, old *corev1.PersistentVolumeClaim) { c.Status = old.Status }),
		PrepareForStatusUpdate:   api.OnUpdate(func(c, old *corev1.PersistentVolumeClaim) { c.Spec = old.Spec }),
		Default:                  api.On(defaultPersistentVolumeClaim),
		Validate:                 api.Check(validatePersistentVolumeClaim),
		ValidateUpdate:           api.CheckUpdate(validatePersistentVolumeClaimUpdate),
		AllowUnconditionalUpdate: true,
		FieldNames:               []string{"name"},
		Fields:                   func(obj api.Object) fields.Set { return fields.Set{"name": obj.GetName()} },
		Columns: api.Columns(table.Name(),
			table.Column("Status", table.String, status["phase"]),
			table.Column("Volume", table.String, spec["volumeName"]),
			table.Column("Capacity", table.String, status["capacity"]),
			table.Column("Access Modes", table.String, status["accessModes"]),
			table.Column("StorageClass", table.String, "StorageClass of the pvc"),
			table.Column("VolumeAttributesClass", table.String, "VolumeAttributesClass of the pvc"),
			table.AgeColumn(),
			table.Wide("VolumeMode", table.String, spec["volumeMode"])),
		Row: api.Row(func(c *corev1.PersistentVolumeClaim, now time.Time) []any {
			phase, capacity, modes := string(c.Status.Phase), "", ""
			if c.DeletionTimestamp != nil {
				phase = "Terminating"
			}
			if c.Spec.VolumeName != "" {
				capacity, modes = quantity(c.Status.Capacity, corev1.ResourceStorage), accessModes(c.Status.AccessModes)
			}
			class := c.Annotations[corev1.BetaStorageClassAnnotation]
			if class == "" && c.Spec.StorageClassName != nil {
				class = *c.Spec.StorageClassName
			}
			return []any{
				c.Name, phase, c.Spec.VolumeName, capacity, modes, class, orUnset(c.Spec.VolumeAttributesClassName), table.Age(c, now), volumeMode(c.Spec.VolumeMode),
			}
		}),
	}
}

func defaultPersistentVolumeClaim(c *corev1.PersistentVolumeClaim) {
	if c.Status.Phase == "" {
		c.Status.Phase = corev1.ClaimPending
	}
	if c.Spec.VolumeMode == nil {
		mode := corev1.PersistentVolumeFilesystem
		c.Spec.VolumeMode = &mode
	}
	// dataSource and dataSourceRef are the same thing under an old and a new name, while both stay in the claim's namespace.
	if s, r := c.Spec.DataSource, c.Spec.DataSourceRef; s != nil && r == nil {
		c.Spec.DataSourceRef = &corev1.TypedObjectReference{APIGroup: s.APIGroup, Kind: s.Kind, Name: s.Name}
	} else if s == nil && r != nil && (r.Namespace == nil || *r.Namespace == "") {
		c.Spec.DataSource = &corev1.TypedLocalObjectReference{APIGroup: r.APIGroup, Kind: r.Kind, Name: r.Name}
	}
}

func validatePersistentVolumeClaim(c *corev1.PersistentVolumeClaim) field.ErrorList {
	var errs field.ErrorList
	p := field.NewPath("spec")
	errs = append(errs, check.Selector(c.Spec.Selector, p.Child("selector"), false)...)
	if len(c.Spec.AccessModes) == 0 {
		errs = append(errs, field.Required(p.Child("accessModes"), "at least 1 access mode is required"))
	}
	errs = append(errs, validateAccessModes(c.Spec.AccessModes, p.Child("accessModes"))...)
	storage := p.Child("resources").Key(string(corev1.ResourceStorage))
	if q, ok := c.Spec.Resources.Requests[corev1.ResourceStorage]; !ok {
		errs = append(errs, field.Required(storage, ""))
	} else {
		errs = append(errs, check.PositiveQuantity(q, storage)...)
	}
	if name := c.Spec.StorageClassName; name != nil && *name != "" {
		errs = append(errs, check.DNSSubdomain(*name, p.Child("storageClassName"))...)
	}
	if c.Spec.VolumeMode != nil {
		errs = append(errs, check.OneOf(*c.Spec.VolumeMode, p.Child("volumeMode"), corev1.PersistentVolumeBlock, corev1.PersistentVolumeFilesystem)...)
	}
	return errs
}

func validatePersistentVolumeClaimUpdate(c, old *corev1.PersistentVolumeClaim) field.ErrorList {
	errs := validatePersistentVolumeClaim(c)
	// What may change: the volume once it is bound, the size upwards, the attributes class.
	may := c.DeepCopy()
	if old.Spec.VolumeName == "" {
		may.Spec.VolumeName = old.Spec.VolumeName
	}
	if old.Status.Phase == corev1.ClaimBound {
		may.Spec.Resources.Requests = old.Spec.Resources.Requests
	}
	may.Spec.VolumeAttributesClassName = old.Spec.VolumeAttributesClassName
	if old.Spec.StorageClassName == nil && c.Spec.StorageClassName != nil {
		may.Spec.StorageClassName = nil // a default that is set later
	}
	if !equality.Semantic.DeepEqual(may.Spec, old.Spec) {
		errs = append(errs, field.Forbidden(field.NewPath("spec"),
			"spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims"))
	}
	return errs
}
