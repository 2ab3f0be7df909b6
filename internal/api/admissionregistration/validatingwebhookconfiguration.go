package admissionregistration

import (
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"

	"github.com/celox/celox/internal/api"
)

func validatingWebhookConfiguration() *api.Kind {
	return &api.Kind{
		Group:      "admissionregistration.k8s.io",
		Kind:       "ValidatingWebhookConfiguration",
		Resource:   "validatingwebhookconfigurations",
		Singular:   "validatingwebhookconfiguration",
		Categories: []string{"api-extensions"},
		Prefix:     "validatingwebhookconfigurations",
		Versions:   []api.Version{api.NewVersion[admissionregistrationv1.ValidatingWebhookConfiguration, admissionregistrationv1.ValidatingWebhookConfigurationList]("v1")},
		Hub:        "v1",
	}
}
