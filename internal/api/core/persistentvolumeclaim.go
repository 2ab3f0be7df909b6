package core

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/check"
	"github.com/celox/celox/internal/api/podspec"
	"github.com/celox/celox/internal/api/table"
)

// oldClassText is the warning about naming a storage class in an annotation.
const oldClassText = `deprecated since v1.8; use "storageClassName" attribute instead`

func persistentVolumeClaim() *api.Kind {
	spec, status := corev1.PersistentVolumeClaimSpec{}.SwaggerDoc(), corev1.PersistentVolumeClaimStatus{}.SwaggerDoc()
	return &api.Kind{
		Kind: "PersistentVolumeClaim", Resource: "persistentvolumeclaims", Singular: "persistentvolumeclaim", ShortNames: []string{"pvc"}, Namespaced: true,
		Prefix:   "persistentvolumeclaims",
		Versions: []api.Version{api.NewVersion[corev1.PersistentVolumeClaim, corev1.PersistentVolumeClaimList]("v1")}, Hub: "v1",
		Subresources: []api.Subresource{api.Status()},
		PrepareForCreate: api.On(func(c *corev1.PersistentVolumeClaim) {
			c.Status = corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimPending}
			prepareDataSources(&c.Spec, nil)
		}),
		PrepareForUpdate: api.OnUpdate(func(c, old *corev1.PersistentVolumeClaim) {
			c.Status = old.Status
			prepareDataSources(&c.Spec, &old.Spec)
		}),
		PrepareForStatusUpdate: api.OnUpdate(func(c, old *corev1.PersistentVolumeClaim) {
			c.Spec = old.Spec
			if old.Status.HealthStatus == nil {
				c.Status.HealthStatus = nil // of the feature CSIVolumeHealth, which is off by default
			}
		}),
		Default: api.On(func(c *corev1.PersistentVolumeClaim) {
			if c.Status.Phase == "" {
				c.Status.Phase = corev1.ClaimPending
			}
			podspec.RoundResources(c.Status.Capacity)
			podspec.RoundResources(c.Status.AllocatedResources)
			podspec.SetClaimSpecDefaults(&c.Spec)
		}),
		Validate: api.Check(func(c *corev1.PersistentVolumeClaim) field.ErrorList {
			return podspec.ValidateClaimSpec(&c.Spec, nil, field.NewPath("spec"))
		}),
		ValidateUpdate:       api.CheckUpdate(validateClaimUpdate),
		ValidateStatusUpdate: api.CheckUpdate(validateClaimStatus),
		Warnings: api.Warn(func(c, _ *corev1.PersistentVolumeClaim) []string {
			var out []string
			if _, ok := c.Annotations[corev1.BetaStorageClassAnnotation]; ok {
				out = append(out, field.NewPath("metadata", "annotations").Key(corev1.BetaStorageClassAnnotation).String()+": "+oldClassText)
			}
			return append(out, podspec.ClaimWarnings(&c.Spec, field.NewPath("spec"))...)
		}),
		AllowUnconditionalUpdate: true,
		ReturnDeleted:            true,
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
			return []any{
				c.Name, phase, c.Spec.VolumeName, capacity, modes, classOf(c.Annotations, c.Spec.StorageClassName), orUnset(c.Spec.VolumeAttributesClassName),
				table.Age(c, now), volumeMode(c.Spec.VolumeMode),
			}
		}),
	}
}

// prepareDataSources makes dataSource and dataSourceRef, the old and the new name of what a volume is filled with in the beginning, agree
// (KEP-1495). A dataSource that is neither a claim nor a snapshot was ignored before there was a dataSourceRef, and alone it still is. Sources in
// other namespaces are off by default (KEP-3294).
func prepareDataSources(s, old *corev1.PersistentVolumeClaimSpec) {
	if r := s.DataSourceRef; r != nil && r.Namespace != nil && *r.Namespace != "" && (old == nil || old.DataSourceRef == nil) {
		s.DataSourceRef = nil
	}
	if s.DataSourceRef == nil && (old == nil || old.DataSource == nil && old.DataSourceRef == nil) && !claimOrSnapshot(s.DataSource) {
		s.DataSource = nil
	}
	switch d, r := s.DataSource, s.DataSourceRef; {
	case r != nil && r.Namespace != nil && *r.Namespace != "":
	case d != nil && r == nil:
		s.DataSourceRef = &corev1.TypedObjectReference{APIGroup: d.APIGroup, Kind: d.Kind, Name: d.Name}
	case d == nil && r != nil:
		s.DataSource = &corev1.TypedLocalObjectReference{APIGroup: r.APIGroup, Kind: r.Kind, Name: r.Name}
	}
}

func claimOrSnapshot(d *corev1.TypedLocalObjectReference) bool {
	if d == nil {
		return false
	}
	group := ""
	if d.APIGroup != nil {
		group = *d.APIGroup
	}
	return group == "" && d.Kind == "PersistentVolumeClaim" || group == "snapshot.storage.k8s.io" && d.Kind == "VolumeSnapshot"
}

// validateClaimUpdate lets a claim be bound once, grow, and change its attributes class; all else of the spec stays.
func validateClaimUpdate(c, old *corev1.PersistentVolumeClaim) field.ErrorList {
	errs := check.Twice(podspec.ValidateClaimSpec(&c.Spec, &old.Spec, field.NewPath("spec")))
	may, was := c.Spec.DeepCopy(), old.Spec.DeepCopy()
	if was.VolumeName == "" {
		was.VolumeName = may.VolumeName
	}
	before, annotated := old.Annotations[corev1.BetaStorageClassAnnotation]
	now, still := c.Annotations[corev1.BetaStorageClassAnnotation]
	// A class may come later, as a default (KEP-3333), and from the annotation into the field.
	named := was.StorageClassName == nil && may.StorageClassName != nil && (!annotated || *may.StorageClassName == before)
	if now != before && !(annotated && named && !still) {
		errs = append(errs, field.Invalid(field.NewPath("metadata", "annotations", corev1.BetaStorageClassAnnotation), now, check.ImmutableText))
	}
	if named {
		may.StorageClassName = nil
	}
	size, wasSize := c.Spec.Resources.Requests[corev1.ResourceStorage], old.Spec.Resources.Requests[corev1.ResourceStorage]
	if c.Status.Phase == corev1.ClaimBound {
		if may.Resources.Requests != nil {
			may.Resources.Requests[corev1.ResourceStorage] = wasSize
		}
		may.VolumeAttributesClassName = was.VolumeAttributesClassName
	}
	if !equality.Semantic.DeepEqual(may, was) {
		errs = append(errs, field.Forbidden(field.NewPath("spec"),
			fmt.Sprintf("spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n%v", diff.Diff(check.Rendered(was), check.Rendered(may)))))
	}
	// A size that turned out to be too much may be taken back, but not below what is there (KEP-1790).
	have := old.Status.Capacity[corev1.ResourceStorage]
	if size.Cmp(wasSize) < 0 && size.Cmp(have) <= 0 {
		errs = append(errs, field.Forbidden(field.NewPath("spec", "resources", "requests", "storage"), "field can not be less than status.capacity"))
	}
	errs = append(errs, check.Immutable(c.Spec.VolumeMode, old.Spec.VolumeMode, field.NewPath("volumeMode"))...)
	return append(errs, validateAttributesClassUpdate(c, old)...)
}

// validateAttributesClassUpdate keeps a class that was once applied: there is nothing to go back to (KEP-3751).
func validateAttributesClassUpdate(c, old *corev1.PersistentVolumeClaim) field.ErrorList {
	now, was := c.Spec.VolumeAttributesClassName, old.Spec.VolumeAttributesClassName
	if old.Status.CurrentVolumeAttributesClassName == nil || equality.Semantic.DeepEqual(now, was) {
		return nil
	}
	p := field.NewPath("spec", "volumeAttributesClassName")
	switch {
	case now == nil:
		return field.ErrorList{field.Forbidden(p, "update to nil is forbidden when status.currentVolumeAttributesClassName is not nil")}
	case *now == "":
		return field.ErrorList{field.Forbidden(p, "update to empty string is forbidden when status.currentVolumeAttributesClassName is not nil")}
	}
	return nil
}

func validateClaimStatus(c, _ *corev1.PersistentVolumeClaim) field.ErrorList {
	var errs field.ErrorList
	p, s := field.NewPath("status"), &c.Status
	if len(c.Spec.AccessModes) == 0 {
		errs = append(errs, field.Required(field.NewPath("Spec", "accessModes"), ""))
	}
	for _, name := range check.Sorted(s.Capacity) {
		errs = append(errs, validateBasicQuantity(s.Capacity[name], p.Child("capacity").Key(string(name)))...)
	}
	at := p.Child("allocatedResourceStatuses")
	for _, name := range check.Sorted(s.AllocatedResourceStatuses) {
		errs = append(errs, validateClaimResource(string(name), at)...)
		// What is shown is the resource, not its status.
		if bad := check.OneOf(s.AllocatedResourceStatuses[name], at, corev1.PersistentVolumeClaimControllerResizeInProgress,
			corev1.PersistentVolumeClaimControllerResizeInfeasible, corev1.PersistentVolumeClaimNodeResizePending,
			corev1.PersistentVolumeClaimNodeResizeInProgress, corev1.PersistentVolumeClaimNodeResizeInfeasible); len(bad) > 0 {
			bad[0].BadValue = name
			errs = append(errs, bad...)
		}
	}
	at = p.Child("allocatedResources")
	for _, name := range check.Sorted(s.AllocatedResources) {
		q := s.AllocatedResources[name]
		if bad := validateClaimResource(string(name), at); len(bad) > 0 {
			errs = append(errs, bad...)
		} else if bad := validateBasicQuantity(q, at.Key(string(name))); len(bad) > 0 {
			errs = append(errs, bad...)
		} else {
			errs = append(errs, validateClaimAmount(q, at.Key(string(name)))...)
		}
	}
	return errs
}

func validateClaimAmount(q resource.Quantity, p *field.Path) field.ErrorList {
	return check.ResourceQuantity(corev1.ResourceStorage, q, p)
}

// validateClaimResource wants storage, or something of a driver's own domain.
func validateClaimResource(name string, p *field.Path) field.ErrorList {
	errs := check.Each(validation.IsQualifiedName(name), p, name)
	if len(errs) > 0 {
		return errs
	}
	if name != string(corev1.ResourceStorage) && (!strings.Contains(name, "/") || strings.Contains(name, corev1.ResourceDefaultNamespacePrefix)) {
		errs = append(errs, field.NotSupported(p, name, []string{string(corev1.ResourceStorage)}))
	}
	return errs
}
