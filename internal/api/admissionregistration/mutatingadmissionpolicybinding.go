package admissionregistration

import (
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/check"
	"github.com/celox/celox/internal/api/table"
)

func mutatingAdmissionPolicyBinding() *api.Kind {
	return &api.Kind{
		Group:         "admissionregistration.k8s.io",
		Kind:          "MutatingAdmissionPolicyBinding",
		Resource:      "mutatingadmissionpolicybindings",
		Singular:      "mutatingadmissionpolicybinding",
		Categories:    []string{"api-extensions"},
		Prefix:        "mutatingadmissionpolicybindings",
		Versions:      []api.Version{api.NewVersion[admissionregistrationv1.MutatingAdmissionPolicyBinding, admissionregistrationv1.MutatingAdmissionPolicyBindingList]("v1")},
		Hub:           "v1",
		HasGeneration: true,
		Default:       api.On(func(b *admissionregistrationv1.MutatingAdmissionPolicyBinding) { defaultMatch(b.Spec.MatchResources) }),
		Validate:      api.Check(validateMutatingAdmissionPolicyBinding),
		ValidateUpdate: api.CheckUpdate(func(b, _ *admissionregistrationv1.MutatingAdmissionPolicyBinding) field.ErrorList {
			return validateMutatingAdmissionPolicyBinding(b)
		}),
		Columns: api.Columns(
			table.Name(),
			table.Column("PolicyName", table.String, "PolicyName indicates the policy definition which the policy binding binded to"),
			table.Column("ParamRef", table.String, "ParamRef indicates the param resource which sets the configuration param"),
			table.AgeColumn(),
		),
		Row: api.Row(func(b *admissionregistrationv1.MutatingAdmissionPolicyBinding, now time.Time) []any {
			return []any{b.Name, b.Spec.PolicyName, paramRef(b.Spec.ParamRef), table.Age(b, now)}
		}),
	}
}

func validateMutatingAdmissionPolicyBinding(b *admissionregistrationv1.MutatingAdmissionPolicyBinding) field.ErrorList {
	p, s := field.NewPath("spec"), &b.Spec
	var errs field.ErrorList
	if s.PolicyName == "" {
		errs = append(errs, field.Required(p.Child("policyName"), ""))
	} else {
		errs = append(errs, check.DNSSubdomain(s.PolicyName, p.Child("policyName"))...)
	}
	errs = append(errs, validateParamRef(s.ParamRef, p.Child("paramRef"))...)
	errs = append(errs, validateMatch(s.MatchResources, p.Child("matchResources"))...)
	errs = append(errs, validateMutable(s.MatchResources, p.Child("matchResources"))...)
	return errs
}
