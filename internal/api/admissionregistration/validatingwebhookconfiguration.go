package admissionregistration

import (
	"reflect"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/table"
)

func validatingWebhookConfiguration() *api.Kind {
	return &api.Kind{
		Group:         "admissionregistration.k8s.io",
		Kind:          "ValidatingWebhookConfiguration",
		Resource:      "validatingwebhookconfigurations",
		Singular:      "validatingwebhookconfiguration",
		Categories:    []string{"api-extensions"},
		Prefix:        "validatingwebhookconfigurations",
		Versions:      []api.Version{api.NewVersion[admissionregistrationv1.ValidatingWebhookConfiguration, admissionregistrationv1.ValidatingWebhookConfigurationList]("v1")},
		Hub:           "v1",
		HasGeneration: true,
		// As upstream, which takes no list for another than an empty one.
		GenerationChanged: api.Changed(func(c, old *admissionregistrationv1.ValidatingWebhookConfiguration) bool {
			return !reflect.DeepEqual(c.Webhooks, old.Webhooks)
		}),
		Default: api.On(func(c *admissionregistrationv1.ValidatingWebhookConfiguration) {
			for _, h := range validatingHooks(c) {
				h.setDefaults()
			}
		}),
		Validate: api.Check(validateValidatingWebhookConfiguration),
		ValidateUpdate: api.CheckUpdate(func(c, old *admissionregistrationv1.ValidatingWebhookConfiguration) field.ErrorList {
			return validateWebhooks(validatingHooks(c), validatingHooks(old))
		}),
		Columns: api.Columns(
			table.Name(),
			table.Column("Webhooks", table.Integer, "Webhooks indicates the number of webhooks registered in this configuration"),
			table.AgeColumn(),
		),
		Row: api.Row(func(c *admissionregistrationv1.ValidatingWebhookConfiguration, now time.Time) []any {
			return []any{c.Name, int64(len(c.Webhooks)), table.Age(c, now)}
		}),
	}
}

func validatingHooks(c *admissionregistrationv1.ValidatingWebhookConfiguration) []webhook {
	out := make([]webhook, len(c.Webhooks))
	for i := range c.Webhooks {
		h := &c.Webhooks[i]
		out[i] = webhook{
			name: h.Name, client: &h.ClientConfig, rules: h.Rules, failurePolicy: &h.FailurePolicy, matchPolicy: &h.MatchPolicy,
			namespaceSelector: &h.NamespaceSelector, objectSelector: &h.ObjectSelector, sideEffects: h.SideEffects,
			timeoutSeconds: &h.TimeoutSeconds, versions: h.AdmissionReviewVersions, conditions: h.MatchConditions,
		}
	}
	return out
}

func validateValidatingWebhookConfiguration(c *admissionregistrationv1.ValidatingWebhookConfiguration) field.ErrorList {
	return validateWebhooks(validatingHooks(c), nil)
}
