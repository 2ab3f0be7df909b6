package cluster

import (
	"fmt"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/celox/celox/internal/apiserver/admission"
	"github.com/celox/celox/internal/apiserver/admission/policy"
	admissionwebhook "github.com/celox/celox/internal/apiserver/admission/webhook"
	"github.com/celox/celox/internal/apiserver/authz"
	"github.com/celox/celox/internal/apiserver/lookup"
	"github.com/celox/celox/internal/apiserver/webhook"
	"github.com/celox/celox/internal/store"
)

// customKinds finds custom kinds in the API server, which is made after its admission chain.
type customKinds struct{ p *controlPlane }

// Kind implements policy.Kinds.
func (c customKinds) Kind(gvk schema.GroupVersionKind) (policy.Kind, bool) {
	if c.p.api == nil {
		return policy.Kind{}, false
	}
	return c.p.api.ParamKind(gvk)
}

// admission puts the admission chain together.
func (s *Server) admission(run *group, p *controlPlane, objects *lookup.Objects, guard *authz.Guard) (admission.Chain, error) {
	var missing error
	collection := func(group, resource string) *store.Collection {
		c, ok := p.store.Collection(schema.GroupResource{Group: group, Resource: resource})
		if !ok {
			missing = fmt.Errorf("the catalogue has no %s", resource)
		}
		return c
	}
	const registration = "admissionregistration.k8s.io"
	p.webhooks = webhook.New(webhook.NewServices(objects))
	p.webhooks.Dial(p.passages.DialPod)
	run.atEnd("webhooks", p.webhooks.Close)
	own, err := s.cfg.Admission()
	if err != nil {
		return nil, fmt.Errorf("--admission-control-config-file: %w", err)
	}
	hooks := func(resource string, identities *webhook.Identities) admissionwebhook.Config {
		return admissionwebhook.Config{
			Client: p.webhooks, Identities: identities, Configurations: collection(registration, resource), Namespaces: objects, Authorizer: p.authz,
		}
	}
	kinds := policy.FirstOf{policy.Built{Catalogue: p.catalogue, Objects: func(gr schema.GroupResource) (store.Reader, bool) {
		c, ok := p.store.Collection(gr)
		return c, ok
	}}, customKinds{p}}
	policies := func(policies, bindings string) policy.Config {
		return policy.Config{
			Policies: collection(registration, policies), Bindings: collection(registration, bindings),
			Namespaces: objects, Kinds: kinds, Authorizer: p.authz,
		}
	}
	configured := admission.Chain{
		policy.NewMutating(policies("mutatingadmissionpolicies", "mutatingadmissionpolicybindings")),
		admissionwebhook.NewMutating(hooks("mutatingwebhookconfigurations", own.MutatingWebhooks)),
		policy.NewValidating(policies("validatingadmissionpolicies", "validatingadmissionpolicybindings")),
		admissionwebhook.NewValidating(hooks("validatingwebhookconfigurations", own.ValidatingWebhooks)),
	}
	quotas := collection("", "resourcequotas")
	if missing != nil {
		return nil, missing
	}
	return admission.Default(admission.Deps{
		Objects: objects, Authorizer: p.authz, Guard: guard, Configured: configured, Charger: quotas, PodSecurity: own.PodSecurity,
		LimitedResources: own.LimitedResources,
	})
}
