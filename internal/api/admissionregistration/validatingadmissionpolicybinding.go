package admissionregistration

import (
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"

	"github.com/celox/celox/internal/api"
)

func validatingAdmissionPolicyBinding() *api.Kind {
	return &api.Kind{
		Group:      "admissionregistration.k8s.io",
		Kind:       "ValidatingAdmissionPolicyBinding",
		Resource:   "validatingadmissionpolicybindings",
		Singular:   "validatingadmissionpolicybinding",
		Categories: []string{"api-extensions"},
		Prefix:     "validatingadmissionpolicybindings",
		Versions:   []api.Version{api.NewVersion[admissionregistrationv1.ValidatingAdmissionPolicyBinding, admissionregistrationv1.ValidatingAdmissionPolicyBindingList]("v1")},
		Hub:        "v1",
	}
}
