package admissionregistration

import (
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/check"
	"github.com/celox/celox/internal/api/table"
)

func validatingAdmissionPolicyBinding() *api.Kind {
	return &api.Kind{
		Group:         "admissionregistration.k8s.io",
		Kind:          "ValidatingAdmissionPolicyBinding",
		Resource:      "validatingadmissionpolicybindings",
		Singular:      "validatingadmissionpolicybinding",
		Categories:    []string{"api-extensions"},
		Prefix:        "validatingadmissionpolicybindings",
		Versions:      []api.Version{api.NewVersion[admissionregistrationv1.ValidatingAdmissionPolicyBinding, admissionregistrationv1.ValidatingAdmissionPolicyBindingList]("v1")},
		Hub:           "v1",
		HasGeneration: true,
		Default:       api.On(func(b *admissionregistrationv1.ValidatingAdmissionPolicyBinding) { defaultMatch(b.Spec.MatchResources) }),
		Validate:      api.Check(validateValidatingAdmissionPolicyBinding),
		ValidateUpdate: api.CheckUpdate(func(b, _ *admissionregistrationv1.ValidatingAdmissionPolicyBinding) field.ErrorList {
			return validateValidatingAdmissionPolicyBinding(b)
		}),
		Columns: api.Columns(
			table.Name(),
			table.Column("PolicyName", table.String, "PolicyName indicates the policy definition which the policy binding binded to"),
			table.Column("ParamRef", table.String, "ParamRef indicates the param resource which sets the configuration param"),
			table.AgeColumn(),
		),
		Row: api.Row(func(b *admissionregistrationv1.ValidatingAdmissionPolicyBinding, now time.Time) []any {
			return []any{b.Name, b.Spec.PolicyName, paramRef(b.Spec.ParamRef), table.Age(b, now)}
		}),
	}
}

func validateValidatingAdmissionPolicyBinding(b *admissionregistrationv1.ValidatingAdmissionPolicyBinding) field.ErrorList {
	p, s := field.NewPath("spec"), &b.Spec
	var errs field.ErrorList
	if s.PolicyName == "" {
		errs = append(errs, check.Missing(p.Child("policyName"))...)
	} else {
		errs = append(errs, check.DNSSubdomain(s.PolicyName, p.Child("policyName"))...)
	}
	errs = append(errs, validateParamRef(s.ParamRef, p.Child("paramRef"))...)
	errs = append(errs, validateMatch(s.MatchResources, p.Child("matchResources"))...)
	return append(errs, validateActions(s.ValidationActions, p.Child("validationActions"))...)
}
