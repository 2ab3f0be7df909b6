package core

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/check"
	"github.com/celox/celox/internal/api/podspec"
	"github.com/celox/celox/internal/api/table"
)

func resourceQuota() *api.Kind {
	return &api.Kind{
		Kind: "ResourceQuota", Resource: "resourcequotas", Singular: "resourcequota", ShortNames: []string{"quota"}, Namespaced: true, Prefix: "resourcequotas",
		ReturnDeleted: true,
		Versions:      []api.Version{api.NewVersion[corev1.ResourceQuota, corev1.ResourceQuotaList]("v1")}, Hub: "v1",
		Subresources:           []api.Subresource{api.Status()},
		PrepareForCreate:       api.On(func(q *corev1.ResourceQuota) { q.Status = corev1.ResourceQuotaStatus{} }),
		PrepareForUpdate:       api.OnUpdate(func(q, old *corev1.ResourceQuota) { q.Status = old.Status }),
		PrepareForStatusUpdate: api.OnUpdate(func(q, old *corev1.ResourceQuota) { q.Spec = old.Spec }),
		Default: api.On(func(q *corev1.ResourceQuota) {
			podspec.RoundResources(q.Spec.Hard)
			podspec.RoundResources(q.Status.Hard)
			podspec.RoundResources(q.Status.Used)
		}),
		Validate:                 api.Check(validateResourceQuota),
		ValidateUpdate:           api.CheckUpdate(validateResourceQuotaUpdate),
		ValidateStatusUpdate:     api.CheckUpdate(func(q, _ *corev1.ResourceQuota) field.ErrorList { return validateQuotaStatus(q) }),
		AllowUnconditionalUpdate: true,
		Columns: api.Columns(table.Name(),
			table.Column("Request", table.String, "Request represents a minimum amount of cpu/memory that a container may consume."),
			table.Column("Limit", table.String, "Limits control the maximum amount of cpu/memory that a container may use independent of contention on the node."),
			table.AgeColumn()),
		Row: api.Row(func(q *corev1.ResourceQuota, now time.Time) []any {
			var requests, limits []string
			for _, name := range check.Sorted(q.Status.Hard) {
				hard, used := q.Status.Hard[name], q.Status.Used[name]
				cell := fmt.Sprintf("%s: %s/%s", name, used.String(), hard.String())
				if strings.HasPrefix(string(name), "limits.") {
					limits = append(limits, cell)
				} else {
					requests = append(requests, cell)
				}
			}
			return []any{q.Name, strings.Join(requests, ", "), strings.Join(limits, ", "), table.Age(q, now)}
		}),
	}
}

func validateResourceQuota(q *corev1.ResourceQuota) field.ErrorList {
	return append(validateQuotaSpec(&q.Spec, field.NewPath("spec")), validateQuotaStatus(q)...)
}

func validateQuotaSpec(s *corev1.ResourceQuotaSpec, p *field.Path) field.ErrorList {
	errs := validateQuotaList(s.Hard, p.Child("hard"))
	errs = append(errs, validateQuotaScopes(s, p.Child("scopes"))...)
	return append(errs, validateScopeSelector(s, p.Child("scopeSelector", "matchExpressions"))...)
}

func validateQuotaStatus(q *corev1.ResourceQuota) field.ErrorList {
	p := field.NewPath("status")
	return append(validateQuotaList(q.Status.Hard, p.Child("hard")), validateQuotaList(q.Status.Used, p.Child("used"))...)
}

func validateQuotaList(list corev1.ResourceList, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, name := range check.Sorted(list) {
		errs = append(errs, check.QuotaResourceName(name, p.Key(string(name)))...)
		errs = append(errs, check.ResourceQuantity(name, list[name], p.Key(string(name)))...)
	}
	return errs
}

const (
	unknownScope = "unsupported scope"
	wrongScope   = "unsupported scope applied to resource"
)

func validateQuotaScopes(s *corev1.ResourceQuotaSpec, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	wrong := func(text string) { errs = append(errs, field.Invalid(p, s.Scopes, text)) }
	for _, scope := range s.Scopes {
		if !isScope(scope) {
			wrong(unknownScope)
		}
		for _, name := range check.Sorted(s.Hard) {
			if check.IsQuotaResource(name) && !scopeFits(scope, name) {
				wrong(wrongScope)
			}
		}
	}
	for range contradictions(sets.New(s.Scopes...)) {
		wrong("conflicting scopes")
	}
	return errs
}

// validateScopeSelector checks scopes with values. Upstream's complaints name the list, not the place in it.
func validateScopeSelector(s *corev1.ResourceQuotaSpec, p *field.Path) field.ErrorList {
	if s.ScopeSelector == nil {
		return nil
	}
	var errs field.ErrorList
	seen := sets.New[corev1.ResourceQuotaScope]()
	for _, r := range s.ScopeSelector.MatchExpressions {
		if !isScope(r.ScopeName) {
			errs = append(errs, field.Invalid(p.Child("scopeName"), r.ScopeName, unknownScope))
		}
		for _, name := range check.Sorted(s.Hard) {
			if check.IsQuotaResource(name) && !scopeFits(r.ScopeName, name) {
				errs = append(errs, field.Invalid(p, check.Rendered(s.ScopeSelector), wrongScope))
			}
		}
		operator := p.Child("operator")
		switch r.ScopeName {
		case corev1.ResourceQuotaScopeBestEffort, corev1.ResourceQuotaScopeNotBestEffort, corev1.ResourceQuotaScopeTerminating,
			corev1.ResourceQuotaScopeNotTerminating, corev1.ResourceQuotaScopeCrossNamespacePodAffinity:
			if r.Operator != corev1.ScopeSelectorOpExists {
				errs = append(errs, field.Invalid(operator, r.Operator, "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, "+
					"ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity"))
			}
		}
		switch values := p.Child("values"); r.Operator {
		case corev1.ScopeSelectorOpIn, corev1.ScopeSelectorOpNotIn:
			if len(r.Values) == 0 {
				errs = append(errs, field.Required(values, "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector"))
			}
		case corev1.ScopeSelectorOpExists, corev1.ScopeSelectorOpDoesNotExist:
			if len(r.Values) > 0 {
				errs = append(errs, field.Invalid(values, r.Values, "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector"))
			}
		default:
			errs = append(errs, field.Invalid(operator, r.Operator, "not a valid selector operator"))
		}
		seen.Insert(r.ScopeName)
	}
	for range contradictions(seen) {
		errs = append(errs, field.Invalid(p, s.Scopes, "conflicting scopes"))
	}
	return errs
}

// contradictions counts the pairs of scopes that have nothing in common.
func contradictions(scopes sets.Set[corev1.ResourceQuotaScope]) int {
	n := 0
	for _, pair := range [][2]corev1.ResourceQuotaScope{
		{corev1.ResourceQuotaScopeBestEffort, corev1.ResourceQuotaScopeNotBestEffort}, {corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating},
	} {
		if scopes.HasAll(pair[:]...) {
			n++
		}
	}
	return n
}

func isScope(s corev1.ResourceQuotaScope) bool {
	switch s {
	case corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating, corev1.ResourceQuotaScopeBestEffort, corev1.ResourceQuotaScopeNotBestEffort,
		corev1.ResourceQuotaScopePriorityClass, corev1.ResourceQuotaScopeCrossNamespacePodAffinity, corev1.ResourceQuotaScopeVolumeAttributesClass:
		return true
	}
	return false
}

// scopeFits says whether what a scope chooses has the resource at all.
func scopeFits(s corev1.ResourceQuotaScope, name corev1.ResourceName) bool {
	switch s {
	case corev1.ResourceQuotaScopeBestEffort:
		return name == corev1.ResourcePods
	case corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating, corev1.ResourceQuotaScopeNotBestEffort,
		corev1.ResourceQuotaScopePriorityClass, corev1.ResourceQuotaScopeCrossNamespacePodAffinity:
		switch name {
		case corev1.ResourcePods, corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory,
			corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory:
			return true
		}
		return false
	case corev1.ResourceQuotaScopeVolumeAttributesClass:
		return name == corev1.ResourcePersistentVolumeClaims || name == corev1.ResourceRequestsStorage
	}
	return true
}

func validateResourceQuotaUpdate(q, old *corev1.ResourceQuota) field.ErrorList {
	errs := validateQuotaSpec(&q.Spec, field.NewPath("spec"))
	if !sets.New(q.Spec.Scopes...).Equal(sets.New(old.Spec.Scopes...)) {
		errs = append(errs, field.Invalid(field.NewPath("spec", "scopes"), q.Spec.Scopes, check.ImmutableText))
	}
	return errs
}
