package admissionregistration

import (
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"

	"github.com/celox/celox/internal/api"
)

func mutatingAdmissionPolicyBinding() *api.Kind {
	return &api.Kind{
		Group:      "admissionregistration.k8s.io",
		Kind:       "MutatingAdmissionPolicyBinding",
		Resource:   "mutatingadmissionpolicybindings",
		Singular:   "mutatingadmissionpolicybinding",
		Categories: []string{"api-extensions"},
		Prefix:     "mutatingadmissionpolicybindings",
		Versions:   []api.Version{api.NewVersion[admissionregistrationv1.MutatingAdmissionPolicyBinding, admissionregistrationv1.MutatingAdmissionPolicyBindingList]("v1")},
		Hub:        "v1",
	}
}
