package authorization

import (
	"fmt"

	authorizationv1 "k8s.io/api/authorization/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api/check"
)

// validateQuestion wants a review to ask either about a resource or about a path.
func validateQuestion(r *authorizationv1.ResourceAttributes, n *authorizationv1.NonResourceAttributes, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if r != nil && n != nil {
		errs = append(errs, field.Invalid(p.Child("nonResourceAttributes"), check.Rendered(*n), "cannot be specified in combination with resourceAttributes"))
	}
	if r == nil && n == nil {
		errs = append(errs, field.Invalid(p.Child("resourceAttributes"), nil, "exactly one of nonResourceAttributes or resourceAttributes must be specified"))
	}
	if r != nil {
		errs = append(errs, validateAttributes(r, p.Child("resourceAttributes"))...)
	}
	return errs
}

func validateAttributes(r *authorizationv1.ResourceAttributes, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	const both, none = "may not specified at the same time as requirements", "when %s is specified, requirements or rawSelector is required"
	if f := r.FieldSelector; f != nil {
		at := p.Child("fieldSelector")
		switch {
		case f.RawSelector != "" && len(f.Requirements) > 0:
			errs = append(errs, field.Invalid(at.Child("rawSelector"), f.RawSelector, both))
		case f.RawSelector == "" && len(f.Requirements) == 0:
			errs = append(errs, field.Required(at.Child("requirements"), fmt.Sprintf(none, at)))
		}
		for i, q := range f.Requirements {
			errs = append(errs, metav1validation.ValidateFieldSelectorRequirement(q, metav1validation.FieldSelectorValidationOptions{AllowUnknownOperatorInRequirement: true}, at.Child("requirements").Index(i))...)
		}
	}
	if l := r.LabelSelector; l != nil {
		at := p.Child("labelSelector")
		switch {
		case l.RawSelector != "" && len(l.Requirements) > 0:
			errs = append(errs, field.Invalid(at.Child("rawSelector"), l.RawSelector, both))
		case l.RawSelector == "" && len(l.Requirements) == 0:
			errs = append(errs, field.Required(at.Child("requirements"), fmt.Sprintf(none, at)))
		}
		for i, q := range l.Requirements {
			errs = append(errs, metav1validation.ValidateLabelSelectorRequirement(q, metav1validation.LabelSelectorValidationOptions{AllowUnknownOperatorInRequirement: true}, at.Child("requirements").Index(i))...)
		}
	}
	return errs
}

// validateSubject wants a review of somebody to say of whom.
func validateSubject(s *authorizationv1.SubjectAccessReviewSpec, p *field.Path) field.ErrorList {
	if s.User == "" && len(s.Groups) == 0 {
		return field.ErrorList{field.Invalid(p.Child("user"), s.User, "at least one of user or group must be specified")}
	}
	return nil
}

// validateNoMetadata refuses a name and the like: a review is a question, not an object. The namespace of a local one stays.
func validateNoMetadata(m metav1.ObjectMeta, local bool) field.ErrorList {
	bare := m
	if local {
		bare.Namespace = ""
	}
	bare.ManagedFields = nil
	if apiequality.Semantic.DeepEqual(metav1.ObjectMeta{}, bare) {
		return nil
	}
	text := "must be empty"
	if local {
		text = "must be empty except for namespace"
	}
	return field.ErrorList{field.Invalid(field.NewPath("metadata"), m, text)}
}
