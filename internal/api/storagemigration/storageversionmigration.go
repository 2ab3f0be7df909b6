package storagemigration

import (
	"fmt"
	"strconv"
	"time"

	storagemigrationv1 "k8s.io/api/storagemigration/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/check"
	"github.com/celox/celox/internal/api/table"
)

func storageVersionMigration() *api.Kind {
	return &api.Kind{
		Group:         "storagemigration.k8s.io",
		Kind:          "StorageVersionMigration",
		Resource:      "storageversionmigrations",
		Singular:      "storageversionmigration",
		Prefix:        "storageversionmigrations",
		Versions:      []api.Version{api.NewVersion[storagemigrationv1.StorageVersionMigration, storagemigrationv1.StorageVersionMigrationList]("v1")},
		Hub:           "v1",
		Subresources:  []api.Subresource{api.Status()},
		HasGeneration: true,
		Resets:        map[string][]string{"": {"status"}, "status": {"metadata", "spec"}},
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
			if apiequality.Semantic.DeepEqual(m.Spec, old.Spec) {
				return nil
			}
			return field.ErrorList{field.Invalid(field.NewPath("spec"), check.Rendered(m.Spec), check.ImmutableText)}
		}),
		ValidateStatusUpdate: api.CheckUpdate(validateMigrationStatus),
		Columns: api.Columns(
			table.Name(),
			table.Column("Resource", table.String, storagemigrationv1.StorageVersionMigrationSpec{}.SwaggerDoc()["resource"]),
			table.AgeColumn(),
		),
		Row: api.Row(func(m *storagemigrationv1.StorageVersionMigration, now time.Time) []any {
			return []any{m.Name, nameOf(m.Spec.Resource), table.Age(m, now)}
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
	if m.Spec.Resource.Resource == "" {
		errs = append(errs, field.Required(p.Child("resource"), ""))
	} else {
		errs = append(errs, check.DNSLabel(m.Spec.Resource.Resource, p.Child("resource"))...)
	}
	if g := m.Spec.Resource.Group; g != "" {
		errs = append(errs, check.DNSSubdomain(g, p.Child("group"))...)
	}
	return errs
}

// validateMigrationStatus lets a migration end once, in one way, and lets nobody move the version up to which it writes.
func validateMigrationStatus(m, old *storagemigrationv1.StorageVersionMigration) field.ErrorList {
	p, s := field.NewPath("status"), &m.Status
	var errs field.ErrorList
	version, conditions := p.Child("resourceVersion"), p.Child("conditions")
	if v := s.ResourceVersion; v != "" {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil {
			errs = append(errs, field.Invalid(version, v, fmt.Sprintf("failed to parse resource version %q: %v", v, err)))
		}
		errs = append(errs, check.NonNegative(n, version)...)
	}
	errs = append(errs, metav1validation.ValidateConditions(s.Conditions, conditions)...)
	if was := old.Status.ResourceVersion; was != "" && was != s.ResourceVersion {
		errs = append(errs, field.Invalid(version, s.ResourceVersion, "resourceVersion cannot be updated"))
	}
	is := func(m *storagemigrationv1.StorageVersionMigration, t storagemigrationv1.MigrationConditionType) bool {
		return meta.IsStatusConditionTrue(m.Status.Conditions, string(t))
	}
	for _, rule := range []struct {
		broken bool
		text   string
	}{
		{is(m, storagemigrationv1.MigrationSucceeded) && is(m, storagemigrationv1.MigrationFailed), "Both success and failed conditions cannot be true at the same time"},
		{is(m, storagemigrationv1.MigrationSucceeded) && is(m, storagemigrationv1.MigrationRunning), "Running condition cannot be true when success condition is true"},
		{is(m, storagemigrationv1.MigrationFailed) && is(m, storagemigrationv1.MigrationRunning), "Running condition cannot be true when failed condition is true"},
		{is(old, storagemigrationv1.MigrationSucceeded) && !is(m, storagemigrationv1.MigrationSucceeded), "Success condition cannot be set to false once it is true"},
		{is(old, storagemigrationv1.MigrationFailed) && !is(m, storagemigrationv1.MigrationFailed), "Failed condition cannot be set to false once it is true"},
	} {
		if rule.broken {
			errs = append(errs, field.Invalid(conditions, check.Rendered(s.Conditions), rule.text))
		}
	}
	return errs
}
