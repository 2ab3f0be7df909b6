package check

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Texts of complaints that several kinds use.
const (
	NegativeText           = "must be greater than or equal to 0"
	PositiveText           = "must be greater than zero"
	ImmutableText          = "field is immutable"
	NotIntegerText         = "must be an integer"
	LabelsMismatchText     = "`selector` does not match template `labels`"
	UpdateForbiddenPattern = "updates to %s are forbidden."
)

// NonNegative wants v >= 0.
func NonNegative(v int64, p *field.Path) field.ErrorList {
	if v < 0 {
		return field.ErrorList{field.Invalid(p, v, NegativeText).WithOrigin("minimum")}
	}
	return nil
}

// Positive wants v > 0.
func Positive(v int64, p *field.Path) field.ErrorList {
	if v <= 0 {
		return field.ErrorList{field.Invalid(p, v, PositiveText)}
	}
	return nil
}

// NonNegativeQuantity wants q >= 0.
func NonNegativeQuantity(q resource.Quantity, p *field.Path) field.ErrorList {
	if q.Sign() < 0 {
		return field.ErrorList{field.Invalid(p, q.String(), NegativeText)}
	}
	return nil
}

// PositiveQuantity wants q > 0.
func PositiveQuantity(q resource.Quantity, p *field.Path) field.ErrorList {
	if q.Sign() <= 0 {
		return field.ErrorList{field.Invalid(p, q.String(), PositiveText)}
	}
	return nil
}

// Immutable wants now to be semantically equal to before.
func Immutable(now, before any, p *field.Path) field.ErrorList {
	if !apiequality.Semantic.DeepEqual(now, before) {
		return field.ErrorList{field.Invalid(p, now, ImmutableText).WithOrigin("immutable")}
	}
	return nil
}

// Enum wants v to be one of allowed, and to be present.
func Enum[T ~string](v T, p *field.Path, allowed ...T) field.ErrorList {
	if v == "" {
		return field.ErrorList{field.Required(p, "")}
	}
	return OneOf(v, p, allowed...)
}

// OneOf wants v to be one of allowed; the complaint lists them sorted.
func OneOf[T ~string](v T, p *field.Path, allowed ...T) field.ErrorList {
	if slices.Contains(allowed, v) {
		return nil
	}
	sorted := slices.Clone(allowed)
	slices.Sort(sorted)
	return field.ErrorList{field.NotSupported(p, v, sorted)}
}

// Each turns texts into Invalid complaints about v.
func Each(texts []string, p *field.Path, v any) field.ErrorList {
	var errs field.ErrorList
	for _, t := range texts {
		errs = append(errs, field.Invalid(p, v, t))
	}
	return errs
}

// DNSLabel wants an RFC 1123 label.
func DNSLabel(v string, p *field.Path) field.ErrorList {
	if texts := IsDNS1123Label(v); texts != nil {
		return Each(texts, p, v)
	}
	return nil
}

// DNSSubdomain wants an RFC 1123 subdomain.
func DNSSubdomain(v string, p *field.Path) field.ErrorList {
	if texts := IsDNS1123Subdomain(v); texts != nil {
		return Each(texts, p, v)
	}
	return nil
}

// QualifiedName wants the form of label keys: an optional DNS prefix and a name.
func QualifiedName(v string, p *field.Path) field.ErrorList {
	if texts := IsQualifiedName(v); texts != nil {
		return Each(texts, p, v)
	}
	return nil
}

// Labels checks keys and values of a label set, like metadata.labels or spec.nodeSelector.
func Labels(set map[string]string, p *field.Path) field.ErrorList {
	for key, value := range set {
		if IsQualifiedName(key) != nil || IsValidLabelValue(value) != nil {
			return metav1validation.ValidateLabels(set, p)
		}
	}
	return nil
}

// LabelName checks a label's key.
func LabelName(key string, p *field.Path) field.ErrorList {
	if IsQualifiedName(key) == nil {
		return nil
	}
	return metav1validation.ValidateLabelName(key, p)
}

// Annotations checks keys and the total size of annotations.
func Annotations(set map[string]string, p *field.Path) field.ErrorList {
	return apivalidation.ValidateAnnotations(set, p)
}

// UserAnnotations checks annotations that users give along for somebody else: each key names whose it is.
func UserAnnotations(set map[string]string, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, key := range Keys(set) {
		errs = append(errs, validation.IsDomainPrefixedKey(p, strings.ToLower(key))...)
	}
	if apivalidation.ValidateAnnotationsSize(set) != nil {
		errs = append(errs, field.TooLong(p, "", apivalidation.TotalAnnotationSizeLimitB))
	}
	return errs
}

// FinalizerDomain demands a domain of a finalizer that is not the system's own.
func FinalizerDomain(f string, p *field.Path) field.ErrorList {
	switch f {
	case "kubernetes", metav1.FinalizerOrphanDependents, metav1.FinalizerDeleteDependents:
		return nil
	}
	if strings.Contains(f, "/") {
		return nil
	}
	return field.ErrorList{field.Invalid(p, f, "name is neither a standard finalizer name nor is it fully qualified")}
}

// Selector checks a label selector. Old objects may keep values that are no label values (allowBadValues).
func Selector(s *metav1.LabelSelector, p *field.Path, allowBadValues bool) field.ErrorList {
	return metav1validation.ValidateLabelSelector(s, metav1validation.LabelSelectorValidationOptions{AllowInvalidLabelValueInSelector: allowBadValues}, p)
}

// Twice repeats complaints: upstream checks the new form of some kinds, and then all of it once more together with the change, and
// clients see both.
func Twice(errs field.ErrorList) field.ErrorList { return append(errs, errs...) }

// Port wants a port number.
func Port(v int32, p *field.Path) field.ErrorList {
	return Each(validation.IsValidPortNum(int(v)), p, v)
}

// PortOrName wants a port number or the name of a port.
func PortOrName(v intstr.IntOrString, p *field.Path) field.ErrorList {
	switch v.Type {
	case intstr.Int:
		return Each(validation.IsValidPortNum(v.IntValue()), p, v.IntValue())
	case intstr.String:
		return Each(validation.IsValidPortName(v.StrVal), p, v.StrVal)
	}
	return field.ErrorList{field.InternalError(p, fmt.Errorf("unknown type: %v", v.Type))}
}

// IntOrPercent wants a non-negative integer or a percentage.
func IntOrPercent(v intstr.IntOrString, p *field.Path) field.ErrorList {
	switch v.Type {
	case intstr.String:
		return Each(validation.IsValidPercent(v.StrVal), p, v)
	case intstr.Int:
		return NonNegative(int64(v.IntValue()), p)
	}
	return field.ErrorList{field.Invalid(p, v, "must be an integer or percentage (e.g '5%%')")}
}

// PercentAtMost100 wants a percentage, if v is one, not to exceed 100%.
func PercentAtMost100(v intstr.IntOrString, p *field.Path) field.ErrorList {
	if n, ok := Percent(v); ok && n > 100 {
		return field.ErrorList{field.Invalid(p, v, "must not be greater than 100%")}
	}
	return nil
}

// Percent returns the number of a percentage such as "25%"; false for anything else.
func Percent(v intstr.IntOrString) (int, bool) {
	if v.Type != intstr.String || len(validation.IsValidPercent(v.StrVal)) > 0 {
		return 0, false
	}
	n, err := intstr.GetScaledValueFromIntOrPercent(&v, 100, false)
	return n, err == nil
}

// Keys returns the keys of a map in order, so that complaints about its values have a fixed one.
func Keys[K cmp.Ordered, V any](m map[K]V) []K {
	return slices.Sorted(maps.Keys(m))
}
