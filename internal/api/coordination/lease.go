package coordination

import (
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/check"
	"github.com/celox/celox/internal/api/table"
)

func lease() *api.Kind {
	return &api.Kind{
		Group:      "coordination.k8s.io",
		Kind:       "Lease",
		Resource:   "leases",
		Singular:   "lease",
		Namespaced: true,
		Prefix:     "leases",
		Versions:   []api.Version{api.NewVersion[coordinationv1.Lease, coordinationv1.LeaseList]("v1")},
		Hub:        "v1",
		// Electing a holder by strategy (KEP-4355) is behind a feature gate: the fields are kept where they already are.
		PrepareForCreate: api.On(func(l *coordinationv1.Lease) { l.Spec.Strategy, l.Spec.PreferredHolder = nil, nil }),
		PrepareForUpdate: api.OnUpdate(func(l, old *coordinationv1.Lease) {
			if old.Spec.Strategy == nil && old.Spec.PreferredHolder == nil {
				l.Spec.Strategy, l.Spec.PreferredHolder = nil, nil
			}
		}),
		Validate:            api.Check(validateLease),
		ValidateUpdate:      api.CheckUpdate(func(l, _ *coordinationv1.Lease) field.ErrorList { return validateLease(l) }),
		AllowCreateOnUpdate: true,
		Columns: api.Columns(
			table.Name(),
			table.Column("Holder", table.String, coordinationv1.LeaseSpec{}.SwaggerDoc()["holderIdentity"]),
			table.AgeColumn(),
		),
		Row: api.Row(func(l *coordinationv1.Lease, now time.Time) []any {
			holder := ""
			if l.Spec.HolderIdentity != nil {
				holder = *l.Spec.HolderIdentity
			}
			return []any{l.Name, holder, table.Age(l, now)}
		}),
	}
}

func validateLease(l *coordinationv1.Lease) field.ErrorList {
	p := field.NewPath("spec")
	var errs field.ErrorList
	if d := l.Spec.LeaseDurationSeconds; d != nil && *d <= 0 {
		errs = append(errs, field.Invalid(p.Child("leaseDurationSeconds"), *d, "must be greater than 0"))
	}
	if t := l.Spec.LeaseTransitions; t != nil {
		errs = append(errs, check.NonNegative(int64(*t), p.Child("leaseTransitions"))...)
	}
	return errs
}
