package admissionregistration

import (
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"

	"github.com/celox/celox/internal/api"
)

func validatingAdmissionPolicy() *api.Kind {
	return &api.Kind{
		Group:        "admissionregistration.k8s.io",
		Kind:         "ValidatingAdmissionPolicy",
		Resource:     "validatingadmissionpolicies",
		Singular:     "validatingadmissionpolicy",
		Categories:   []string{"api-extensions"},
		Prefix:       "validatingadmissionpolicies",
		Versions:     []api.Version{api.NewVersion[admissionregistrationv1.ValidatingAdmissionPolicy, admissionregistrationv1.ValidatingAdmissionPolicyList]("v1")},
		Hub:          "v1",
		Subresources: []api.Subresource{api.Status()},
	}
}
