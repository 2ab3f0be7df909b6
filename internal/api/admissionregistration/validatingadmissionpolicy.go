package admissionregistration

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/cel-go/cel"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/client-go/util/jsonpath"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/admissionregistration/expression"
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
		Resets:        map[string][]string{"": {"status"}, "status": {"metadata", "spec"}},
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
		Validate: api.Check(func(p *admissionregistrationv1.ValidatingAdmissionPolicy) field.ErrorList {
			return validateValidatingPolicy(p, nil)
		}),
		ValidateUpdate: api.CheckUpdate(func(p, old *admissionregistrationv1.ValidatingAdmissionPolicy) field.ErrorList {
			return validateValidatingPolicy(p, &old.Spec)
		}),
		ValidateStatusUpdate: api.CheckUpdate(func(p, _ *admissionregistrationv1.ValidatingAdmissionPolicy) field.ErrorList {
			return validatePolicyStatus(&p.Status, field.NewPath("status"))
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

func validateValidatingPolicy(o *admissionregistrationv1.ValidatingAdmissionPolicy, old *admissionregistrationv1.ValidatingAdmissionPolicySpec) field.ErrorList {
	p, s := field.NewPath("spec"), &o.Spec
	var stored map[string]bool
	if old != nil {
		stored = expressionsOf(old)
	}
	c := newChecker(s.ParamKind != nil, len(s.Variables) > 0, stored)
	errs := validateFailurePolicy(s.FailurePolicy, p.Child("failurePolicy"))
	errs = append(errs, validateParamKind(s.ParamKind, p.Child("paramKind"))...)
	errs = append(errs, validateConstraints(s.MatchConstraints, p.Child("matchConstraints"))...)
	if old == nil || !slices.Equal(s.MatchConditions, old.MatchConditions) || !apiequality.Semantic.DeepEqual(s.ParamKind, old.ParamKind) {
		errs = append(errs, validateMatchConditions(s.MatchConditions, c, p.Child("matchConditions"))...)
	}
	errs = append(errs, validateVariables(s.Variables, c, p.Child("variables"))...)
	validations, annotations := p.Child("validations"), p.Child("auditAnnotations")
	if len(s.Validations) == 0 && len(s.AuditAnnotations) == 0 {
		const one = "validations or auditAnnotations must contain at least one item"
		return append(errs, field.Required(validations, one), field.Required(annotations, one))
	}
	for i := range s.Validations {
		errs = append(errs, validateValidation(&s.Validations[i], c, validations.Index(i))...)
	}
	if n := len(s.AuditAnnotations); n > maxAuditAnnotations {
		errs = append(errs, field.Invalid(annotations, shownAnnotations(s.AuditAnnotations), fmt.Sprintf("must not have more than %d auditAnnotations", maxAuditAnnotations)))
	}
	keys := map[string]bool{}
	for i := range s.AuditAnnotations {
		a, at := &s.AuditAnnotations[i], annotations.Index(i)
		if o.Name == "" {
			errs = append(errs, field.Invalid(at.Child("key"), a.Key, "requires metadata.name be non-empty"))
		} else {
			errs = append(errs, check.QualifiedName(o.Name+"/"+a.Key, at.Child("key"))...)
		}
		errs = append(errs, c.auditAnnotation(a, at.Child("valueExpression"))...)
		if keys[a.Key] {
			errs = append(errs, field.Duplicate(at.Child("key"), a.Key))
		}
		keys[a.Key] = true
	}
	return errs
}

func validateValidation(v *admissionregistrationv1.Validation, c *checker, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if strings.TrimSpace(v.Expression) == "" {
		errs = append(errs, field.Required(p.Child("expression"), "expression is not specified"))
	} else {
		errs = append(errs, c.expression(v.Expression, c.sees(), p.Child("expression"), cel.BoolType)...)
	}
	if v.MessageExpression != "" {
		if at := p.Child("messageExpression"); strings.TrimSpace(v.MessageExpression) == "" {
			errs = append(errs, field.Invalid(at, v.MessageExpression, "must be non-empty if specified"))
		} else {
			errs = append(errs, c.expression(v.MessageExpression, expression.Sees{Params: c.params}, at, cel.StringType)...)
		}
	}
	message := p.Child("message")
	if trimmed := strings.TrimSpace(v.Message); v.Message != "" && trimmed == "" {
		errs = append(errs, field.Invalid(message, v.Message, "must be non-empty if specified"))
	} else if hasNewline(trimmed) {
		errs = append(errs, field.Invalid(message, v.Message, "must not contain line breaks"))
	}
	if v.Reason != nil {
		switch r := *v.Reason; r {
		case metav1.StatusReasonForbidden, metav1.StatusReasonInvalid, metav1.StatusReasonRequestEntityTooLarge:
		default:
			errs = append(errs, field.NotSupported(p.Child("reason"), r, []metav1.StatusReason{
				metav1.StatusReasonForbidden, metav1.StatusReasonInvalid, metav1.StatusReasonRequestEntityTooLarge,
			}))
		}
	}
	return errs
}

// shownAnnotations shows annotations in messages under the names that upstream's internal type has.
func shownAnnotations(list []admissionregistrationv1.AuditAnnotation) any {
	type annotation struct{ Key, ValueExpression string }
	out := make([]annotation, len(list))
	for i, a := range list {
		out[i] = annotation{a.Key, a.ValueExpression}
	}
	return out
}

// validatePolicyStatus checks what the type checker says of a policy.
func validatePolicyStatus(s *admissionregistrationv1.ValidatingAdmissionPolicyStatus, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if s.TypeChecking != nil {
		for i, w := range s.TypeChecking.ExpressionWarnings {
			at := p.Child("typeChecking", "expressionWarnings").Index(i)
			if w.Warning == "" {
				errs = append(errs, field.Required(at.Child("warning"), ""))
			}
			ref := strings.TrimSpace(w.FieldRef)
			if ref == "" {
				errs = append(errs, field.Required(at.Child("fieldRef"), ""))
			} else if err := jsonpath.New("spec").Parse("{" + ref + "}"); err != nil {
				errs = append(errs, field.Invalid(at.Child("fieldRef"), ref, fmt.Sprintf("invalid JSONPath: %v", err)))
			}
		}
	}
	return append(errs, metavalidation.ValidateConditions(s.Conditions, p.Child("conditions"))...)
}

// validateActions checks what a binding does about a violation.
func validateActions(list []admissionregistrationv1.ValidationAction, p *field.Path) field.ErrorList {
	if len(list) == 0 {
		return check.Missing(p)
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
