package podspec

import (
	"reflect"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api/check"
)

// validateEphemeral checks a volume whose claim lives and dies with the pod.
func validateEphemeral(e *corev1.EphemeralVolumeSource, p *field.Path) field.ErrorList {
	at := p.Child("volumeClaimTemplate")
	if e.VolumeClaimTemplate == nil {
		return field.ErrorList{field.Required(at, "")}
	}
	errs := templateMeta(&e.VolumeClaimTemplate.ObjectMeta, at.Child("metadata"))
	return append(errs, ValidateClaimSpec(&e.VolumeClaimTemplate.Spec, nil, at.Child("spec"))...)
}

// templateMeta checks the metadata of a template for claims: labels and annotations, all else is the pod's to say.
func templateMeta(m *metav1.ObjectMeta, p *field.Path) field.ErrorList {
	errs := check.Annotations(m.Annotations, p.Child("annotations"))
	errs = append(errs, check.Labels(m.Labels, p.Child("labels"))...)
	fields := reflect.ValueOf(m).Elem()
	for i := range fields.NumField() {
		name := fields.Type().Field(i).Name
		if name != "Labels" && name != "Annotations" && !fields.Field(i).IsZero() {
			errs = append(errs, field.Forbidden(p.Child(lowerFirst(name)), "cannot be set"))
		}
	}
	return errs
}

// ValidateClaimSpec checks the spec of a claim for storage, or of a template for claims. old is what a claim said before, nil for a new
// one: what was accepted once isn't refused later.
func ValidateClaimSpec(s, old *corev1.PersistentVolumeClaimSpec, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	modes := p.Child("accessModes")
	if len(s.AccessModes) == 0 {
		errs = append(errs, field.Required(modes, "at least 1 access mode is required"))
	}
	bad := old != nil && len(check.Selector(old.Selector, nil, false)) > 0
	errs = append(errs, check.Selector(s.Selector, p.Child("selector"), bad)...)
	alone, others := false, false
	for _, m := range s.AccessModes {
		switch m {
		case corev1.ReadWriteOncePod:
			alone = true
		case corev1.ReadOnlyMany, corev1.ReadWriteMany, corev1.ReadWriteOnce:
			others = true
		default:
			errs = append(errs, check.OneOf(m, modes, corev1.ReadOnlyMany, corev1.ReadWriteMany, corev1.ReadWriteOnce, corev1.ReadWriteOncePod)...)
		}
	}
	if alone && others {
		errs = append(errs, field.Forbidden(modes, "may not use ReadWriteOncePod with other access modes"))
	}
	storage := p.Child("resources").Key(string(corev1.ResourceStorage))
	if q, ok := s.Resources.Requests[corev1.ResourceStorage]; !ok {
		errs = append(errs, field.Required(storage, ""))
	} else if bad := check.PositiveQuantity(q, storage); len(bad) > 0 {
		errs = append(errs, bad...)
	} else {
		errs = append(errs, check.ResourceQuantity(corev1.ResourceStorage, q, storage)...)
	}
	if c := s.StorageClassName; c != nil && *c != "" {
		errs = append(errs, check.DNSSubdomain(*c, p.Child("storageClassName"))...)
	}
	if m := s.VolumeMode; m != nil {
		errs = append(errs, check.OneOf(*m, p.Child("volumeMode"), corev1.PersistentVolumeBlock, corev1.PersistentVolumeFilesystem)...)
	}
	group := old != nil && (old.DataSource != nil && old.DataSource.APIGroup != nil || old.DataSourceRef != nil && old.DataSourceRef.APIGroup != nil)
	return append(errs, validateDataSources(s, group, p)...)
}

// validateDataSources checks what the volume is filled with in the beginning (KEP-1495). With anyGroup, the groups need no check.
func validateDataSources(s *corev1.PersistentVolumeClaimSpec, anyGroup bool, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if d := s.DataSource; d != nil {
		at := p.Child("dataSource")
		errs = append(errs, required(at, "name", d.Name, "kind", d.Kind)...)
		errs = append(errs, validateSourceGroup(d.APIGroup, d.Kind, anyGroup, at)...)
	}
	if r := s.DataSourceRef; r != nil {
		at := p.Child("dataSourceRef")
		errs = append(errs, required(at, "name", r.Name, "kind", r.Kind)...)
		errs = append(errs, validateSourceGroup(r.APIGroup, r.Kind, anyGroup, at)...)
		if r.Namespace != nil && *r.Namespace != "" {
			errs = append(errs, check.DNSLabel(*r.Namespace, at.Child("namespace"))...)
			if s.DataSource != nil {
				errs = append(errs, field.Invalid(p, p.Child("dataSource"), "may not be specified when dataSourceRef.namespace is specified"))
			}
		}
	}
	if d, r := s.DataSource, s.DataSourceRef; d != nil && r != nil && (r.Namespace == nil || *r.Namespace == "") &&
		(d.Name != r.Name || d.Kind != r.Kind || !equality.Semantic.DeepEqual(d.APIGroup, r.APIGroup)) {
		errs = append(errs, field.Invalid(p, p.Child("dataSource"), "must match dataSourceRef"))
	}
	if name := s.VolumeAttributesClassName; name != nil && *name != "" {
		errs = append(errs, check.DNSSubdomain(*name, p.Child("volumeAttributesClassName"))...)
	}
	return errs
}

func validateSourceGroup(group *string, kind string, anyGroup bool, p *field.Path) field.ErrorList {
	g := ""
	if group != nil {
		g = *group
	}
	if g == "" && kind != "PersistentVolumeClaim" {
		return field.ErrorList{field.Invalid(p, kind, "must be 'PersistentVolumeClaim' when referencing the default apiGroup")}
	}
	if g != "" && !anyGroup {
		return check.DNSSubdomain(g, p.Child("apiGroup"))
	}
	return nil
}
