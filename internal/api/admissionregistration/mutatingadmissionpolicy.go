package admissionregistration

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/cel-go/cel"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/check"
	"github.com/celox/celox/internal/api/table"
)

func mutatingAdmissionPolicy() *api.Kind {
	return &api.Kind{
		Group:         "admissionregistration.k8s.io",
		Kind:          "MutatingAdmissionPolicy",
		Resource:      "mutatingadmissionpolicies",
		Singular:      "mutatingadmissionpolicy",
		Categories:    []string{"api-extensions"},
		Prefix:        "mutatingadmissionpolicies",
		Versions:      []api.Version{api.NewVersion[admissionregistrationv1.MutatingAdmissionPolicy, admissionregistrationv1.MutatingAdmissionPolicyList]("v1")},
		Hub:           "v1",
		HasGeneration: true,
		Default: api.On(func(p *admissionregistrationv1.MutatingAdmissionPolicy) {
			set(&p.Spec.FailurePolicy, admissionregistrationv1.Fail)
			defaultMatch(p.Spec.MatchConstraints)
		}),
		Validate: api.Check(func(p *admissionregistrationv1.MutatingAdmissionPolicy) field.ErrorList {
			return validateMutatingPolicy(p, nil)
		}),
		ValidateUpdate: api.CheckUpdate(func(p, old *admissionregistrationv1.MutatingAdmissionPolicy) field.ErrorList {
			return validateMutatingPolicy(p, &old.Spec)
		}),
		Columns: api.Columns(
			table.Name(),
			table.Column("Mutations", table.Integer, "Mutation indicates the number of mutations rules defined in this configuration"),
			table.Column("ParamKind", table.String, "ParamKind specifies the kind of resources used to parameterize this policy"),
			table.AgeColumn(),
		),
		Row: api.Row(func(p *admissionregistrationv1.MutatingAdmissionPolicy, now time.Time) []any {
			return []any{p.Name, int64(len(p.Spec.Mutations)), paramKind(p.Spec.ParamKind), table.Age(p, now)}
		}),
	}
}

func validateMutatingPolicy(o *admissionregistrationv1.MutatingAdmissionPolicy, old *admissionregistrationv1.MutatingAdmissionPolicySpec) field.ErrorList {
	p, s := field.NewPath("spec"), &o.Spec
	var stored map[string]bool
	if old != nil {
		stored = mutationsOf(old)
	}
	c := newChecker(s.ParamKind != nil, true, stored) // `variables` is there even if none is declared, unlike in validating policies
	errs := validateFailurePolicy(s.FailurePolicy, p.Child("failurePolicy"))
	errs = append(errs, validateParamKind(s.ParamKind, p.Child("paramKind"))...)
	errs = append(errs, validateConstraints(s.MatchConstraints, p.Child("matchConstraints"))...)
	errs = append(errs, validateMutable(s.MatchConstraints, p.Child("matchConstraints"))...)
	if old == nil || !slices.Equal(s.MatchConditions, old.MatchConditions) || !apiequality.Semantic.DeepEqual(s.ParamKind, old.ParamKind) {
		errs = append(errs, validateMatchConditions(s.MatchConditions, c, p.Child("matchConditions"))...)
	}
	errs = append(errs, validateVariables(s.Variables, c, p.Child("variables"))...)
	mutations := p.Child("mutations")
	if len(s.Mutations) == 0 {
		errs = append(errs, field.Required(mutations, "mutations must contain at least one item"))
	}
	for i := range s.Mutations {
		errs = append(errs, validateMutation(&s.Mutations[i], c, mutations.Index(i))...)
	}
	return append(errs, check.Enum(s.ReinvocationPolicy, p.Child("reinvocationPolicy"), admissionregistrationv1.IfNeededReinvocationPolicy, admissionregistrationv1.NeverReinvocationPolicy)...)
}

func validateMutation(m *admissionregistrationv1.Mutation, c *checker, p *field.Path) field.ErrorList {
	apply, patch := p.Child("applyConfiguration"), p.Child("jsonPatch")
	other := func(at *field.Path, name string, set bool) field.ErrorList {
		if !set {
			return nil
		}
		return field.ErrorList{field.Invalid(at, "{"+name+"}", fmt.Sprintf("must not be specified when patchType is %s", m.PatchType))}
	}
	expression := func(at *field.Path, text string, returns *cel.Type) field.ErrorList {
		if strings.TrimSpace(text) == "" {
			return field.ErrorList{field.Required(at.Child("expression"), "")}
		}
		sees := c.sees()
		sees.Patch = true
		return c.expression(text, sees, at.Child("expression"), returns)
	}
	wanted := fmt.Sprintf("must be specified when patchType is %s", m.PatchType)
	switch m.PatchType {
	case admissionregistrationv1.PatchTypeApplyConfiguration:
		if m.ApplyConfiguration == nil {
			return append(field.ErrorList{field.Required(apply, wanted)}, other(patch, "jsonPatch", m.JSONPatch != nil)...)
		}
		return append(expression(apply, m.ApplyConfiguration.Expression, applyConfigurationType()), other(patch, "jsonPatch", m.JSONPatch != nil)...)
	case admissionregistrationv1.PatchTypeJSONPatch:
		if m.JSONPatch == nil {
			return append(field.ErrorList{field.Required(patch, wanted)}, other(apply, "applyConfiguration", m.ApplyConfiguration != nil)...)
		}
		return append(expression(patch, m.JSONPatch.Expression, jsonPatchType()), other(apply, "applyConfiguration", m.ApplyConfiguration != nil)...)
	}
	return check.Enum(m.PatchType, p.Child("patchType"), admissionregistrationv1.PatchTypeApplyConfiguration, admissionregistrationv1.PatchTypeJSONPatch)
}
