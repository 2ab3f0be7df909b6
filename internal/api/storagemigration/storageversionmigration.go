package storagemigration

import (
	"strings"
	"time"

	storagemigrationv1 "k8s.io/api/storagemigration/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/check"
	"github.com/celox/celox/internal/api/table"
)

func storageVersionMigration() *api.Kind {
	return &api.Kind{
		Group:        "storagemigration.k8s.io",
		Kind:         "StorageVersionMigration",
		Resource:     "storageversionmigrations",
		Singular:     "storageversionmigration",
		Prefix:       "storageversionmigrations",
		Versions:     []api.Version{api.NewVersion[storagemigrationv1.StorageVersionMigration, storagemigrationv1.StorageVersionMigrationList]("v1")},
		Hub:          "v1",
		Subresources: []api.Subresource{api.Status()},
		Resets:       map[string][]string{"": {"status"}, "status": {"metadata", "spec"}},
		PrepareForCreate: api.On(func(m *storagemigrationv1.StorageVersionMigration) {
			m.Status = storagemigrationv1.StorageVersionMigrationStatus{}
		}),
		PrepareForUpdate: api.OnUpdate(func(m, old *storagemigrationv1.StorageVersionMigration) { m.Status = old.Status }),
		PrepareForStatusUpdate: api.OnUpdate(func(m, old *storagemigrationv1.StorageVersionMigration) {
			m.Spec = old.Spec
			metav1.ResetObjectMetaForStatus(&m.ObjectMeta, &old.ObjectMeta)
		}),
		Validate: api.Check(validateMigration),
		ValidateUpdate: api.CheckUpdate(func(m, old *storagemigrationv1.StorageVersionMigration) field.ErrorList {
			errs := validateMigration(m)
			if !apiequality.Semantic.DeepEqual(m.Spec, old.Spec) {
				errs = append(errs, field.Invalid(field.NewPath("spec"), check.Rendered(m.Spec), check.ImmutableText))
			}
			return errs
		}),
		ValidateStatusUpdate: api.CheckUpdate(validateMigrationStatus),
		Columns: api.Columns(
			table.Column("Name", table.String, table.Name().Description),
			table.Column("Resource", table.String, "GroupResource to migrate"),
			table.Column("Status", table.String, "Status of the migration"),
		),
		Row: api.Row(func(m *storagemigrationv1.StorageVersionMigration, _ time.Time) []any {
			status := "Unknown"
			for _, c := range m.Status.Conditions {
				switch known := storagemigrationv1.MigrationConditionType(c.Type); known {
				case storagemigrationv1.MigrationRunning, storagemigrationv1.MigrationFailed, storagemigrationv1.MigrationSucceeded:
					if c.Status == metav1.ConditionTrue {
						status = c.Type
					}
				}
			}
			return []any{m.Name, nameOf(m.Spec.Resource), status}
		}),
	}
}

// nameOf writes a resource as kubectl does: "deployments.apps".
func nameOf(r metav1.GroupResource) string {
	if r.Group == "" {
		return r.Resource
	}
	return r.Resource + "." + r.Group
}

func validateMigration(m *storagemigrationv1.StorageVersionMigration) field.ErrorList {
	p := field.NewPath("spec", "resource")
	var errs field.ErrorList
	if r := m.Spec.Resource.Resource; r == "" {
		errs = append(errs, field.Required(p.Child("resource"), "resource is required to be set"))
	} else if told := validation.IsDNS1035Label(r); len(told) > 0 {
		errs = append(errs, field.Invalid(p.Child("resource"), r, strings.Join(told, ",")))
	}
	if g := m.Spec.Resource.Group; g != "" {
		if told := validation.IsDNS1123Subdomain(g); len(told) > 0 {
			errs = append(errs, field.Invalid(p.Child("group"), g, strings.Join(told, ",")))
		}
	}
	return errs
}

// validateMigrationStatus lets a migration end once, in one way, and lets nobody move the version up to which it writes.
func validateMigrationStatus(m, old *storagemigrationv1.StorageVersionMigration) field.ErrorList {
	p, s := field.NewPath("status"), &m.Status
	var errs field.ErrorList
	version, conditions := p.Child("resourceVersion"), p.Child("conditions")
	if v := s.ResourceVersion; v != "" {
		if _, err := resourceversion.CompareResourceVersion(v, v); err != nil {
			errs = append(errs, field.Invalid(version, v, err.Error()))
		}
	}
	errs = append(errs, metav1validation.ValidateConditions(s.Conditions, conditions)...)
	if was := old.Status.ResourceVersion; was != "" && was != s.ResourceVersion {
		errs = append(errs, field.Invalid(version, s.ResourceVersion, check.ImmutableText))
	}
	is := func(m *storagemigrationv1.StorageVersionMigration, t storagemigrationv1.MigrationConditionType) bool {
		return meta.IsStatusConditionTrue(m.Status.Conditions, string(t))
	}
	for _, rule := range []struct {
		broken bool
		text   string
	}{
		{is(m, storagemigrationv1.MigrationSucceeded) && is(m, storagemigrationv1.MigrationFailed), "Both success and failed conditions cannot be true at the same time"},
		{is(old, storagemigrationv1.MigrationSucceeded) && !is(m, storagemigrationv1.MigrationSucceeded), "Success condition cannot be set to false once it is true"},
		{is(old, storagemigrationv1.MigrationFailed) && !is(m, storagemigrationv1.MigrationFailed), "Failed condition cannot be set to false once it is true"},
	} {
		if rule.broken {
			errs = append(errs, field.Invalid(conditions, check.Rendered(s.Conditions), rule.text))
		}
	}
	return errs
}
