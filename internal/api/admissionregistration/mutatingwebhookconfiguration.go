package admissionregistration

import (
	"reflect"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/table"
)

func mutatingWebhookConfiguration() *api.Kind {
	return &api.Kind{
		Group:         "admissionregistration.k8s.io",
		Kind:          "MutatingWebhookConfiguration",
		Resource:      "mutatingwebhookconfigurations",
		Singular:      "mutatingwebhookconfiguration",
		Categories:    []string{"api-extensions"},
		Prefix:        "mutatingwebhookconfigurations",
		Versions:      []api.Version{api.NewVersion[admissionregistrationv1.MutatingWebhookConfiguration, admissionregistrationv1.MutatingWebhookConfigurationList]("v1")},
		Hub:           "v1",
		HasGeneration: true,
		// As upstream, which takes no list for another than an empty one.
		GenerationChanged: api.Changed(func(c, old *admissionregistrationv1.MutatingWebhookConfiguration) bool {
			return !reflect.DeepEqual(c.Webhooks, old.Webhooks)
		}),
		Default: api.On(func(c *admissionregistrationv1.MutatingWebhookConfiguration) {
			for i, h := range mutatingHooks(c) {
				h.setDefaults()
				set(&c.Webhooks[i].ReinvocationPolicy, admissionregistrationv1.NeverReinvocationPolicy)

			}
		}),
		Validate: api.Check(func(c *admissionregistrationv1.MutatingWebhookConfiguration) field.ErrorList {
			return validateMutatingWebhookConfiguration(c, nil)
		}),
		ValidateUpdate: api.CheckUpdate(func(c, old *admissionregistrationv1.MutatingWebhookConfiguration) field.ErrorList {
			return validateMutatingWebhookConfiguration(c, mutatingHooks(old))
		}),
		Columns: api.Columns(
			table.Name(),
			table.Column("Webhooks", table.Integer, "Webhooks indicates the number of webhooks registered in this configuration"),
			table.AgeColumn(),
		),
		Row: api.Row(func(c *admissionregistrationv1.MutatingWebhookConfiguration, now time.Time) []any {
			return []any{c.Name, int64(len(c.Webhooks)), table.Age(c, now)}
		}),
	}
}

func mutatingHooks(c *admissionregistrationv1.MutatingWebhookConfiguration) []webhook {
	out := make([]webhook, len(c.Webhooks))
	for i := range c.Webhooks {
		h := &c.Webhooks[i]
		out[i] = webhook{
			name: h.Name, client: &h.ClientConfig, rules: h.Rules, failurePolicy: &h.FailurePolicy, matchPolicy: &h.MatchPolicy,
			namespaceSelector: &h.NamespaceSelector, objectSelector: &h.ObjectSelector, sideEffects: h.SideEffects,
			reinvocation: h.ReinvocationPolicy, timeoutSeconds: &h.TimeoutSeconds, versions: h.AdmissionReviewVersions, conditions: h.MatchConditions,
		}
	}
	return out
}

func validateMutatingWebhookConfiguration(c *admissionregistrationv1.MutatingWebhookConfiguration, old []webhook) field.ErrorList {
	return validateWebhooks(mutatingHooks(c), old)
}
