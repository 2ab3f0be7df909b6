package podspec

import (
	"encoding/json"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api/check"
)

func (v *specValidation) validateAffinity(p *field.Path) field.ErrorList {
	a := v.spec.Affinity
	var errs field.ErrorList
	if n := a.NodeAffinity; n != nil {
		at := p.Child("nodeAffinity")
		if r := n.RequiredDuringSchedulingIgnoredDuringExecution; r != nil {
			errs = append(errs, ValidateNodeSelector(r, v.opts.AllowBadAffinityValues, at.Child("requiredDuringSchedulingIgnoredDuringExecution"))...)
		}
		for i := range n.PreferredDuringSchedulingIgnoredDuringExecution {
			t, at := &n.PreferredDuringSchedulingIgnoredDuringExecution[i], at.Child("preferredDuringSchedulingIgnoredDuringExecution").Index(i)
			errs = append(errs, validateWeight(t.Weight, at)...)
			errs = append(errs, validateNodeTerm(&t.Preference, true, at.Child("preference"))...)
		}
	}
	if o := a.PodAffinity; o != nil {
		errs = append(errs, v.validatePodTerms(o.RequiredDuringSchedulingIgnoredDuringExecution, o.PreferredDuringSchedulingIgnoredDuringExecution, p.Child("podAffinity"))...)
	}
	if o := a.PodAntiAffinity; o != nil {
		errs = append(errs, v.validatePodTerms(o.RequiredDuringSchedulingIgnoredDuringExecution, o.PreferredDuringSchedulingIgnoredDuringExecution, p.Child("podAntiAffinity"))...)
	}
	return errs
}

func validateWeight(w int32, p *field.Path) field.ErrorList {
	if w < 1 || w > 100 {
		return field.ErrorList{field.Invalid(p.Child("weight"), w, "must be in the range 1-100")}
	}
	return nil
}

// ValidateNodeSelector checks which nodes are selected. Old objects may have values that are no label values.
func ValidateNodeSelector(s *corev1.NodeSelector, allowBadValues bool, p *field.Path) field.ErrorList {
	at := p.Child("nodeSelectorTerms")
	if len(s.NodeSelectorTerms) == 0 {
		return field.ErrorList{field.Required(at, "must have at least one node selector term")}
	}
	var errs field.ErrorList
	for i := range s.NodeSelectorTerms {
		errs = append(errs, validateNodeTerm(&s.NodeSelectorTerms[i], allowBadValues, at.Index(i))...)
	}
	return errs
}

func validateNodeTerm(t *corev1.NodeSelectorTerm, allowBadValues bool, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range t.MatchExpressions {
		errs = append(errs, validateNodeExpression(&t.MatchExpressions[i], allowBadValues, p.Child("matchExpressions").Index(i))...)
	}
	for i := range t.MatchFields {
		errs = append(errs, validateNodeField(&t.MatchFields[i], p.Child("matchFields").Index(i))...)
	}
	return errs
}

func validateNodeExpression(r *corev1.NodeSelectorRequirement, allowBadValues bool, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	values := p.Child("values")
	switch r.Operator {
	case corev1.NodeSelectorOpIn, corev1.NodeSelectorOpNotIn:
		if len(r.Values) == 0 {
			errs = append(errs, field.Required(values, "must be specified when `operator` is 'In' or 'NotIn'"))
		}
	case corev1.NodeSelectorOpExists, corev1.NodeSelectorOpDoesNotExist:
		if len(r.Values) > 0 {
			errs = append(errs, field.Forbidden(values, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"))
		}
	case corev1.NodeSelectorOpGt, corev1.NodeSelectorOpLt:
		if len(r.Values) != 1 {
			errs = append(errs, field.Required(values, "must be specified single value when `operator` is 'Lt' or 'Gt'"))
		}
	default:
		errs = append(errs, field.Invalid(p.Child("operator"), r.Operator, "not a valid selector operator"))
	}
	errs = append(errs, check.LabelName(r.Key, p.Child("key"))...)
	if !allowBadValues {
		for i, value := range r.Values {
			errs = append(errs, check.Each(check.IsValidLabelValue(value), values.Index(i), value)...)
		}
	}
	return errs
}

// validateNodeField checks a selection of nodes by a field; only the name can be selected.
func validateNodeField(r *corev1.NodeSelectorRequirement, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	values := p.Child("values")
	switch r.Operator {
	case corev1.NodeSelectorOpIn, corev1.NodeSelectorOpNotIn:
		if len(r.Values) != 1 {
			errs = append(errs, field.Required(values, "must be only one value when `operator` is 'In' or 'NotIn' for node field selector"))
		}
	default:
		errs = append(errs, field.Invalid(p.Child("operator"), r.Operator, "not a valid selector operator"))
	}
	if r.Key != metav1.ObjectNameField {
		return append(errs, field.Invalid(p.Child("key"), r.Key, "not a valid field selector key"))
	}
	for i, value := range r.Values {
		errs = append(errs, check.DNSSubdomain(value, values.Index(i))...)
	}
	return errs
}

func (v *specValidation) validatePodTerms(required []corev1.PodAffinityTerm, preferred []corev1.WeightedPodAffinityTerm, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range required {
		errs = append(errs, v.validatePodTerm(&required[i], p.Child("requiredDuringSchedulingIgnoredDuringExecution").Index(i))...)
	}
	for i := range preferred {
		at := p.Child("preferredDuringSchedulingIgnoredDuringExecution").Index(i)
		errs = append(errs, validateWeight(preferred[i].Weight, at)...)
		errs = append(errs, v.validatePodTerm(&preferred[i].PodAffinityTerm, at.Child("podAffinityTerm"))...)
	}
	return errs
}

func (v *specValidation) validatePodTerm(t *corev1.PodAffinityTerm, p *field.Path) field.ErrorList {
	errs := check.Selector(t.LabelSelector, p.Child("labelSelector"), v.opts.AllowBadSelectors)
	errs = append(errs, check.Selector(t.NamespaceSelector, p.Child("namespaceSelector"), v.opts.AllowBadSelectors)...)
	for _, name := range t.Namespaces {
		errs = append(errs, check.DNSLabel(name, p.Child("namespace"))...)
	}
	errs = append(errs, validateLabelKeys(t.MatchLabelKeys, t.LabelSelector, p.Child("matchLabelKeys"))...)
	errs = append(errs, validateLabelKeys(t.MismatchLabelKeys, t.LabelSelector, p.Child("mismatchLabelKeys"))...)
	mismatch := sets.New(t.MismatchLabelKeys...)
	for i, key := range t.MatchLabelKeys {
		if mismatch.Has(key) {
			errs = append(errs, field.Invalid(p.Child("matchLabelKeys").Index(i), key, "exists in both matchLabelKeys and mismatchLabelKeys"))
		}
	}
	if t.TopologyKey == "" {
		errs = append(errs, field.Required(p.Child("topologyKey"), "can not be empty"))
	}
	return append(errs, check.LabelName(t.TopologyKey, p.Child("topologyKey"))...)
}

// validateLabelKeys checks keys whose values are taken from the pod itself (KEP-3633).
func validateLabelKeys(keys []string, selector *metav1.LabelSelector, p *field.Path) field.ErrorList {
	if len(keys) == 0 {
		return nil
	}
	if selector == nil {
		return field.ErrorList{field.Forbidden(p, "must not be specified when labelSelector is not set")}
	}
	var errs field.ErrorList
	for i, key := range keys {
		errs = append(errs, check.LabelName(key, p.Index(i))...)
	}
	return errs
}

// ValidateTolerations checks which taints are tolerated.
func ValidateTolerations(list []corev1.Toleration, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range list {
		t, at := &list[i], p.Index(i)
		if t.Key != "" {
			errs = append(errs, check.LabelName(t.Key, at.Child("key"))...)
		} else if t.Operator != corev1.TolerationOpExists {
			errs = append(errs, field.Invalid(at.Child("operator"), t.Operator,
				`operator must be Exists when `+"`key`"+` is empty, which means "match all values and all keys"`))
		}
		if t.TolerationSeconds != nil && t.Effect != corev1.TaintEffectNoExecute {
			errs = append(errs, field.Invalid(at.Child("effect"), t.Effect, "effect must be 'NoExecute' when `tolerationSeconds` is set"))
		}
		errs = append(errs, validateTolerationValue(t, at.Child("operator"))...)
		if t.Effect != "" {
			errs = append(errs, ValidateTaintEffect(t.Effect, at.Child("effect"))...)
		}
	}
	return errs
}

// validateTolerationValue checks the value by the operator. Comparing values as numbers (KEP-5471) isn't offered yet, though
// the message about it names those operators.
func validateTolerationValue(t *corev1.Toleration, p *field.Path) field.ErrorList {
	plain := []corev1.TolerationOperator{corev1.TolerationOpEqual, corev1.TolerationOpExists}
	switch t.Operator {
	case corev1.TolerationOpEqual, "":
		if texts := check.IsValidLabelValue(t.Value); len(texts) > 0 {
			return field.ErrorList{field.Invalid(p, t.Value, strings.Join(texts, ";"))}
		}
		return nil
	case corev1.TolerationOpExists:
		if t.Value != "" {
			return field.ErrorList{field.Invalid(p, t.Value, "value must be empty when `operator` is 'Exists'")}
		}
		return nil
	case corev1.TolerationOpLt, corev1.TolerationOpGt:
		return field.ErrorList{field.NotSupported(p, t.Operator, append(plain, corev1.TolerationOpLt, corev1.TolerationOpGt))}
	}
	return field.ErrorList{field.NotSupported(p, t.Operator, plain)}
}

// ValidateTaintEffect wants one of the three effects.
func ValidateTaintEffect(e corev1.TaintEffect, p *field.Path) field.ErrorList {
	switch e {
	case corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute:
		return nil
	}
	return field.ErrorList{field.NotSupported(p, e, []corev1.TaintEffect{
		corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute,
	})}
}

// validateTolerationsAnnotation checks tolerations in the annotation that held them before there was a field.
func validateTolerationsAnnotation(text string, p *field.Path) field.ErrorList {
	var list []corev1.Toleration
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		return field.ErrorList{field.Invalid(p, corev1.TolerationsAnnotationKey, err.Error())}
	}
	return ValidateTolerations(list, p.Child(corev1.TolerationsAnnotationKey))
}
