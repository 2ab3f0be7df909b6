package admissionregistration

import (
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"

	"github.com/celox/celox/internal/api"
)

func mutatingAdmissionPolicy() *api.Kind {
	return &api.Kind{
		Group:      "admissionregistration.k8s.io",
		Kind:       "MutatingAdmissionPolicy",
		Resource:   "mutatingadmissionpolicies",
		Singular:   "mutatingadmissionpolicy",
		Categories: []string{"api-extensions"},
		Prefix:     "mutatingadmissionpolicies",
		Versions:   []api.Version{api.NewVersion[admissionregistrationv1.MutatingAdmissionPolicy, admissionregistrationv1.MutatingAdmissionPolicyList]("v1")},
		Hub:        "v1",
	}
}
