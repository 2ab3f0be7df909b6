package core

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/check"
	"github.com/celox/celox/internal/api/table"
)

func resourceQuota() *api.Kind {
	return &api.Kind{
		Kind: "ResourceQuota", Resource: "resourcequotas", Singular: "resourcequota", ShortNames: []string{"quota"}, Namespaced: true, Prefix: "resourcequotas",
		ReturnDeleted: true,
		Versions:      []api.Version{api.NewVersion[corev1.ResourceQuota, corev1.ResourceQuotaList]("v1")}, Hub: "v1",
		Subresources:             []api.Subresource{api.Status()},
		PrepareForCreate:         api.On(func(q *corev1.ResourceQuota) { q.Status = corev1.ResourceQuotaStatus{} }),
		PrepareForUpdate:         api.OnUpdate(func(q, old *corev1.ResourceQuota) { q.Status = old.Status }),
		PrepareForStatusUpdate:   api.OnUpdate(func(q, old *corev1.ResourceQuota) { q.Spec = old.Spec }),
		Validate:                 api.Check(validateResourceQuota),
		ValidateUpdate:           api.CheckUpdate(validateResourceQuotaUpdate),
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
	var errs field.ErrorList
	p := field.NewPath("spec", "hard")
	for _, name := range check.Sorted(q.Spec.Hard) {
		errs = append(errs, check.QuotaResourceName(name, p.Key(string(name)))...)
		errs = append(errs, check.ResourceQuantity(name, q.Spec.Hard[name], p.Key(string(name)))...)
	}
	return errs
}

func validateResourceQuotaUpdate(q, old *corev1.ResourceQuota) field.ErrorList {
	errs := validateResourceQuota(q)
	if !equality.Semantic.DeepEqual(q.Spec.Scopes, old.Spec.Scopes) {
		errs = append(errs, field.Invalid(field.NewPath("spec", "scopes"), q.Spec.Scopes, check.ImmutableText))
	}
	return errs
}

func limitRange() *api.Kind {
	return &api.Kind{
		Kind: "LimitRange", Resource: "limitranges", Singular: "limitrange", ShortNames: []string{"limits"}, Namespaced: true, Prefix: "limitranges",
		Versions: []api.Version{api.NewVersion[corev1.LimitRange, corev1.LimitRangeList]("v1")}, Hub: "v1",
		Default:                  api.On(defaultLimitRange),
		Validate:                 api.Check(validateLimitRange),
		AllowUnconditionalUpdate: true,
	}
}

// defaultLimitRange fills the defaults of containers: a default limit is the maximum, a default request the default limit or else the minimum.
func defaultLimitRange(l *corev1.LimitRange) {
	for i := range l.Spec.Limits {
		item := &l.Spec.Limits[i]
		if item.Type != corev1.LimitTypeContainer {
			continue
		}
		fill := func(dst *corev1.ResourceList, from corev1.ResourceList) {
			if *dst == nil {
				*dst = corev1.ResourceList{}
			}
			for name, q := range from {
				if _, ok := (*dst)[name]; !ok {
					(*dst)[name] = q.DeepCopy()
				}
			}
		}
		fill(&item.Default, item.Max)
		fill(&item.DefaultRequest, item.Default)
		fill(&item.DefaultRequest, item.Min)
	}
}

func validateLimitRange(l *corev1.LimitRange) field.ErrorList {
	var errs field.ErrorList
	seen := map[corev1.LimitType]bool{}
	for i := range l.Spec.Limits {
		item, p := &l.Spec.Limits[i], field.NewPath("spec", "limits").Index(i)
		if seen[item.Type] {
			errs = append(errs, field.Duplicate(p.Child("type"), item.Type))
		}
		seen[item.Type] = true
		names := map[corev1.ResourceName]bool{}
		for _, list := range []corev1.ResourceList{item.Max, item.Min, item.Default, item.DefaultRequest, item.MaxLimitRequestRatio} {
			for name := range list {
				names[name] = true
			}
		}
		if item.Type == corev1.LimitTypePod {
			if len(item.Default) > 0 {
				errs = append(errs, field.Forbidden(p.Child("default"), "may not be specified when `type` is 'Pod'"))
			}
			if len(item.DefaultRequest) > 0 {
				errs = append(errs, field.Forbidden(p.Child("defaultRequest"), "may not be specified when `type` is 'Pod'"))
			}
		}
		if item.Type == corev1.LimitTypePersistentVolumeClaim {
			_, min := item.Min[corev1.ResourceStorage]
			_, max := item.Max[corev1.ResourceStorage]
			if !min && !max {
				errs = append(errs, field.Required(p.Child("limits"), "either minimum or maximum storage value is required, but neither was provided"))
			}
		}
		for _, name := range check.Sorted(names) {
			errs = append(errs, validateLimit(item, name, p)...)
		}
	}
	return errs
}

// validateLimit checks one resource of an item: min <= defaultRequest <= default <= max, and a ratio that they allow.
func validateLimit(item *corev1.LimitRangeItem, name corev1.ResourceName, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	key := string(name)
	minQ, hasMin := item.Min[name]
	maxQ, hasMax := item.Max[name]
	defQ, hasDef := item.Default[name]
	reqQ, hasReq := item.DefaultRequest[name]
	ratio, hasRatio := item.MaxLimitRequestRatio[name]
	greater := func(child, what, than string, a, b interface{ String() string }) {
		errs = append(errs, field.Invalid(p.Child(child).Key(key), a, fmt.Sprintf("%s value %s is greater than %s value %s", what, a.String(), than, b.String())))
	}
	if hasMin && hasMax && minQ.Cmp(maxQ) > 0 {
		greater("min", "min", "max", &minQ, &maxQ)
	}
	if hasReq && hasMin && minQ.Cmp(reqQ) > 0 {
		greater("defaultRequest", "min", "default request", &minQ, &reqQ)
	}
	if hasReq && hasMax && reqQ.Cmp(maxQ) > 0 {
		greater("defaultRequest", "default request", "max", &reqQ, &maxQ)
	}
	if hasReq && hasDef && reqQ.Cmp(defQ) > 0 {
		greater("defaultRequest", "default request", "default limit", &reqQ, &defQ)
	}
	if hasDef && hasMin && minQ.Cmp(defQ) > 0 {
		greater("default", "min", "default", &minQ, &defQ)
	}
	if hasDef && hasMax && defQ.Cmp(maxQ) > 0 {
		greater("default", "default", "max", &defQ, &maxQ)
	}
	if hasRatio && ratio.CmpInt64(1) < 0 {
		errs = append(errs, field.Invalid(p.Child("maxLimitRequestRatio").Key(key), ratio.String(), fmt.Sprintf("ratio %s is less than 1", ratio.String())))
	}
	return errs
}
