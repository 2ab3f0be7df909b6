package coordination

import (
	"strings"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	"k8s.io/apimachinery/pkg/util/validation"
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
		// Electing a holder by strategy (KEP-4355) is behind a feature gate: each field is kept where it already is.
		PrepareForCreate: api.On(func(l *coordinationv1.Lease) { l.Spec.Strategy, l.Spec.PreferredHolder = nil, nil }),
		PrepareForUpdate: api.OnUpdate(func(l, old *coordinationv1.Lease) {
			if old.Spec.Strategy == nil {
				l.Spec.Strategy = nil
			}
			if old.Spec.PreferredHolder == nil {
				l.Spec.PreferredHolder = nil
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
	strategy := l.Spec.Strategy
	if strategy != nil {
		errs = append(errs, validateStrategy(*strategy, p.Child("strategy", "strategy"))...)
	}
	if h := l.Spec.PreferredHolder; h != nil && *h != "" && (strategy == nil || *strategy == "") {
		errs = append(errs, field.Forbidden(p.Child("preferredHolder"), "may only be specified if `strategy` is defined"))
	}
	return errs
}

// validateStrategy wants one of Kubernetes' own names, or somebody's name with a slash in it.
func validateStrategy(s coordinationv1.CoordinatedLeaseStrategy, p *field.Path) field.ErrorList {
	if strings.Contains(string(s), "/") {
		return check.Each(validation.IsQualifiedName(string(s)), p, s)
	}
	return check.OneOf(s, p, coordinationv1.OldestEmulationVersion)
}
