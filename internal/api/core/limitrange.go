package core

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/check"
	"github.com/celox/celox/internal/api/podspec"
)

func limitRange() *api.Kind {
	return &api.Kind{
		Kind: "LimitRange", Resource: "limitranges", Singular: "limitrange", ShortNames: []string{"limits"}, Namespaced: true, Prefix: "limitranges",
		Versions: []api.Version{api.NewVersion[corev1.LimitRange, corev1.LimitRangeList]("v1")}, Hub: "v1",
		Default: api.On(defaultLimitRange),
		PrepareForCreate: api.On(func(l *corev1.LimitRange) {
			if l.Name == "" {
				l.Name = string(uuid.NewUUID())
			}
		}),
		Validate:                 api.Check(validateLimitRange),
		ValidateUpdate:           api.CheckUpdate(func(l, _ *corev1.LimitRange) field.ErrorList { return validateLimitRange(l) }),
		AllowCreateOnUpdate:      true,
		AllowUnconditionalUpdate: true,
	}
}

// defaultLimitRange fills the defaults of containers: a default limit is the maximum, a default request the default limit or else the minimum.
func defaultLimitRange(l *corev1.LimitRange) {
	for i := range l.Spec.Limits {
		item := &l.Spec.Limits[i]
		for _, list := range []corev1.ResourceList{item.Max, item.Min, item.Default, item.DefaultRequest, item.MaxLimitRequestRatio} {
			podspec.RoundResources(list)
		}
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
	seen := sets.New[corev1.LimitType]()
	for i := range l.Spec.Limits {
		item, p := &l.Spec.Limits[i], field.NewPath("spec", "limits").Index(i)
		errs = append(errs, validateLimitType(item.Type, p.Child("type"))...)
		if seen.Has(item.Type) {
			errs = append(errs, field.Duplicate(p.Child("type"), item.Type))
		}
		seen.Insert(item.Type)
		names := sets.New[corev1.ResourceName]()
		note := func(list corev1.ResourceList, child string) {
			for _, name := range check.Sorted(list) {
				errs = append(errs, validateLimitResource(item.Type, name, p.Child(child).Key(string(name)))...)
				names.Insert(name)
			}
		}
		note(item.Max, "max")
		note(item.Min, "min")
		if item.Type == corev1.LimitTypePod {
			const text = "may not be specified when `type` is 'Pod'"
			if len(item.Default) > 0 {
				errs = append(errs, field.Forbidden(p.Child("default"), text))
			}
			if len(item.DefaultRequest) > 0 {
				errs = append(errs, field.Forbidden(p.Child("defaultRequest"), text))
			}
		} else {
			note(item.Default, "default")
			note(item.DefaultRequest, "defaultRequest")
		}
		if item.Type == corev1.LimitTypePersistentVolumeClaim {
			_, atLeast := item.Min[corev1.ResourceStorage]
			_, atMost := item.Max[corev1.ResourceStorage]
			if !atLeast && !atMost {
				errs = append(errs, field.Required(p.Child("limits"), "either minimum or maximum storage value is required, but neither was provided"))
			}
		}
		note(item.MaxLimitRequestRatio, "maxLimitRequestRatio")
		for _, name := range sets.List(names) {
			errs = append(errs, validateLimit(item, name, p)...)
		}
	}
	return errs
}

func validateLimitType(t corev1.LimitType, p *field.Path) field.ErrorList {
	if errs := check.QualifiedName(string(t), p); len(errs) > 0 {
		return errs
	}
	switch t {
	case corev1.LimitTypePod, corev1.LimitTypeContainer, corev1.LimitTypePersistentVolumeClaim:
		return nil
	}
	if strings.Contains(string(t), "/") {
		return nil
	}
	return field.ErrorList{field.Invalid(p, t, "must be a standard limit type or fully qualified")}
}

func validateLimitResource(t corev1.LimitType, name corev1.ResourceName, p *field.Path) field.ErrorList {
	if t == corev1.LimitTypePod || t == corev1.LimitTypeContainer {
		return check.ContainerResourceName(name, p)
	}
	return check.ResourceName(name, p)
}

// validateLimit checks one resource of an item: min <= defaultRequest <= default <= max, and a ratio that they allow. Which amount is
// shown is upstream's choice.
func validateLimit(item *corev1.LimitRangeItem, name corev1.ResourceName, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	minimum, hasMin := item.Min[name]
	maximum, hasMax := item.Max[name]
	limit, hasLimit := item.Default[name]
	request, hasRequest := item.DefaultRequest[name]
	if item.Type == corev1.LimitTypePod {
		hasLimit, hasRequest = false, false
	}
	wrong := func(child string, shown resource.Quantity, format string, args ...any) {
		errs = append(errs, field.Invalid(p.Child(child).Key(string(name)), shown, fmt.Sprintf(format, args...)))
	}
	ordered := func(child string, shown *resource.Quantity, what string, a *resource.Quantity, than string, b *resource.Quantity) {
		if a.Cmp(*b) > 0 {
			wrong(child, *shown, "%s value %s is greater than %s value %s", what, a, than, b)
		}
	}
	if hasMin && hasMax {
		ordered("min", &minimum, "min", &minimum, "max", &maximum)
	}
	if hasRequest && hasMin {
		ordered("defaultRequest", &request, "min", &minimum, "default request", &request)
	}
	if hasRequest && hasMax {
		ordered("defaultRequest", &request, "default request", &request, "max", &maximum)
	}
	if hasRequest && hasLimit {
		ordered("defaultRequest", &request, "default request", &request, "default limit", &limit)
	}
	if hasLimit && hasMin {
		ordered("default", &minimum, "min", &minimum, "default", &limit)
	}
	if hasLimit && hasMax {
		ordered("default", &maximum, "default", &limit, "max", &maximum)
	}
	if ratio, ok := item.MaxLimitRequestRatio[name]; ok {
		if ratio.CmpInt64(1) < 0 {
			wrong("maxLimitRequestRatio", ratio, "ratio %s is less than 1", &ratio)
		}
		if hasMin && hasMax {
			if r, most := quotient(ratio, minimum, maximum); r > most {
				wrong("maxLimitRequestRatio", ratio, "ratio %s is greater than max/min = %f", &ratio, most)
			}
		}
	}
	if !check.IsOvercommitAllowed(name) && hasLimit && hasRequest && limit.Cmp(request) != 0 {
		wrong("defaultRequest", request, "default value %s must equal to defaultRequest value %s in %s", &limit, &request, name)
	}
	return errs
}

// quotient returns the ratio and max/min, in thousandths where these are not too large.
func quotient(ratio, minimum, maximum resource.Quantity) (r, most float64) {
	if ratio.Value() < resource.MaxMilliValue && minimum.Value() < resource.MaxMilliValue && maximum.Value() < resource.MaxMilliValue {
		return float64(ratio.MilliValue()) / 1000, float64(maximum.MilliValue()) / float64(minimum.MilliValue())
	}
	return float64(ratio.Value()), float64(maximum.Value()) / float64(minimum.Value())
}
