package admissionregistration

import (
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"

	"github.com/celox/celox/internal/api"
)

func mutatingWebhookConfiguration() *api.Kind {
	return &api.Kind{
		Group:      "admissionregistration.k8s.io",
		Kind:       "MutatingWebhookConfiguration",
		Resource:   "mutatingwebhookconfigurations",
		Singular:   "mutatingwebhookconfiguration",
		Categories: []string{"api-extensions"},
		Prefix:     "mutatingwebhookconfigurations",
		Versions:   []api.Version{api.NewVersion[admissionregistrationv1.MutatingWebhookConfiguration, admissionregistrationv1.MutatingWebhookConfigurationList]("v1")},
		Hub:        "v1",
	}
}
