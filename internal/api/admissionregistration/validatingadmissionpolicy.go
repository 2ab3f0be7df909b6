package admissionregistration

import (
	"fmt"
	"strings"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/check"
	"github.com/celox/celox/internal/api/table"
)

// maxAuditAnnotations limits the annotations that a policy adds to audit events.
const maxAuditAnnotations = 20

func validatingAdmissionPolicy() *api.Kind {
	return &api.Kind{
		Group:         "admissionregistration.k8s.io",
		Kind:          "ValidatingAdmissionPolicy",
		Resource:      "validatingadmissionpolicies",
		Singular:      "validatingadmissionpolicy",
		Categories:    []string{"api-extensions"},
		Prefix:        "validatingadmissionpolicies",
		Versions:      []api.Version{api.NewVersion[admissionregistrationv1.ValidatingAdmissionPolicy, admissionregistrationv1.ValidatingAdmissionPolicyList]("v1")},
		Hub:           "v1",
		Subresources:  []api.Subresource{api.Status()},
		HasGeneration: true,
		PrepareForCreate: api.On(func(p *admissionregistrationv1.ValidatingAdmissionPolicy) {
			p.Status = admissionregistrationv1.ValidatingAdmissionPolicyStatus{}
		}),
		PrepareForUpdate: api.OnUpdate(func(p, old *admissionregistrationv1.ValidatingAdmissionPolicy) { p.Status = old.Status }),
		PrepareForStatusUpdate: api.OnUpdate(func(p, old *admissionregistrationv1.ValidatingAdmissionPolicy) {
			p.Spec = old.Spec
			metav1.ResetObjectMetaForStatus(&p.ObjectMeta, &old.ObjectMeta)
		}),
		Default: api.On(func(p *admissionregistrationv1.ValidatingAdmissionPolicy) {
			set(&p.Spec.FailurePolicy, admissionregistrationv1.Fail)
			defaultMatch(p.Spec.MatchConstraints)
		}),
		Validate: api.Check(validateValidatingPolicy),
		ValidateUpdate: api.CheckUpdate(func(p, _ *admissionregistrationv1.ValidatingAdmissionPolicy) field.ErrorList {
			return validateValidatingPolicy(p)
		}),
		Columns: api.Columns(
			table.Name(),
			table.Column("Validations", table.Integer, "Validations indicates the number of validation rules defined in this configuration"),
			table.Column("ParamKind", table.String, "ParamKind specifies the kind of resources used to parameterize this policy"),
			table.AgeColumn(),
		),
		Row: api.Row(func(p *admissionregistrationv1.ValidatingAdmissionPolicy, now time.Time) []any {
			return []any{p.Name, int64(len(p.Spec.Validations)), paramKind(p.Spec.ParamKind), table.Age(p, now)}
		}),
	}
}

func validateValidatingPolicy(o *admissionregistrationv1.ValidatingAdmissionPolicy) field.ErrorList {
	p, s := field.NewPath("spec"), &o.Spec
	errs := validateFailurePolicy(s.FailurePolicy, p.Child("failurePolicy"))
	errs = append(errs, validateParamKind(s.ParamKind, p.Child("paramKind"))...)
	errs = append(errs, validateConstraints(s.MatchConstraints, p.Child("matchConstraints"))...)
	errs = append(errs, validateMatchConditions(s.MatchConditions, p.Child("matchConditions"))...)
	errs = append(errs, validateVariables(s.Variables, p.Child("variables"))...)
	validations, annotations := p.Child("validations"), p.Child("auditAnnotations")
	if len(s.Validations) == 0 && len(s.AuditAnnotations) == 0 {
		const one = "validations or auditAnnotations must contain at least one item"
		return append(errs, field.Required(validations, one), field.Required(annotations, one))
	}
	for i := range s.Validations {
		errs = append(errs, validateValidation(&s.Validations[i], validations.Index(i))...)
	}
	if n := len(s.AuditAnnotations); n > maxAuditAnnotations {
		errs = append(errs, field.TooMany(annotations, n, maxAuditAnnotations))
	}
	keys := map[string]bool{}
	for i, a := range s.AuditAnnotations {
		at := annotations.Index(i)
		errs = append(errs, check.QualifiedName(o.Name+"/"+a.Key, at.Child("key"))...)
		if strings.TrimSpace(a.ValueExpression) == "" {
			errs = append(errs, field.Required(at.Child("valueExpression"), "valueExpression is not specified"))
		}
		if keys[a.Key] {
			errs = append(errs, field.Duplicate(at.Child("key"), a.Key))
		}
		keys[a.Key] = true
	}
	return errs
}

func validateValidation(v *admissionregistrationv1.Validation, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if strings.TrimSpace(v.Expression) == "" {
		errs = append(errs, field.Required(p.Child("expression"), "expression is not specified"))
	}
	message := p.Child("message")
	if trimmed := strings.TrimSpace(v.Message); v.Message != "" && trimmed == "" {
		errs = append(errs, field.Invalid(message, v.Message, "message must be non-empty if specified"))
	} else if strings.Contains(trimmed, "\n") {
		errs = append(errs, field.Invalid(message, v.Message, "must not contain line breaks"))
	} else if strings.Contains(v.Expression, "\n") && trimmed == "" {
		errs = append(errs, field.Required(message, "message must be specified if expression contains line breaks"))
	}
	if v.Reason != nil {
		switch r := *v.Reason; r {
		case metav1.StatusReasonUnauthorized, metav1.StatusReasonForbidden, metav1.StatusReasonInvalid, metav1.StatusReasonRequestEntityTooLarge:
		default:
			errs = append(errs, field.NotSupported(p.Child("reason"), r, []metav1.StatusReason{
				metav1.StatusReasonForbidden, metav1.StatusReasonInvalid, metav1.StatusReasonRequestEntityTooLarge,
			}))
		}
	}
	if v.MessageExpression != "" && strings.TrimSpace(v.MessageExpression) == "" {
		errs = append(errs, field.Invalid(p.Child("messageExpression"), v.MessageExpression, "must be non-empty if specified"))
	}
	return errs
}

// validateActions checks what a binding does about a violation.
func validateActions(list []admissionregistrationv1.ValidationAction, p *field.Path) field.ErrorList {
	if len(list) == 0 {
		return field.ErrorList{field.Required(p, "at least one validation action is required")}
	}
	var errs field.ErrorList
	seen := map[admissionregistrationv1.ValidationAction]bool{}
	for i, a := range list {
		errs = append(errs, check.OneOf(a, p.Index(i), admissionregistrationv1.Audit, admissionregistrationv1.Deny, admissionregistrationv1.Warn)...)
		if seen[a] {
			errs = append(errs, field.Duplicate(p.Index(i), a))
		}
		seen[a] = true
	}
	if seen[admissionregistrationv1.Deny] && seen[admissionregistrationv1.Warn] {
		errs = append(errs, field.Invalid(p, list, fmt.Sprintf("must not contain both %s and %s (repeating the same validation failure information in the API response and headers serves no purpose)",
			admissionregistrationv1.Deny, admissionregistrationv1.Warn)))
	}
	return errs
}
