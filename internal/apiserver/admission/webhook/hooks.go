package webhook

import (
	"context"
	"fmt"
	"sync"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/celox/celox/internal/api/admissionregistration/expression"
	"github.com/celox/celox/internal/apiserver/admission"
	"github.com/celox/celox/internal/apiserver/admission/input"
	"github.com/celox/celox/internal/apiserver/admission/live"
	"github.com/celox/celox/internal/apiserver/admission/match"
	"github.com/celox/celox/internal/apiserver/request"
	calls "github.com/celox/celox/internal/apiserver/webhook"
	"github.com/celox/celox/internal/store"
)

// hook is one webhook of one revision of its configuration. It does not change.
type hook struct {
	name, configuration string
	// id tells it from others, also from those of the same name.
	id           string
	criteria     *match.Criteria
	target       calls.Target
	failOpen     bool
	onDryRun     bool // may be called on a dry run
	timeout      time.Duration
	reviews      []string
	reinvocation bool
	conditions   func() expression.Conditions // nil without any
}

// common is what both sorts of webhooks say.
type common struct {
	configuration string
	index         int
	name          string
	client        admissionregistrationv1.WebhookClientConfig
	rules         []admissionregistrationv1.RuleWithOperations
	failurePolicy *admissionregistrationv1.FailurePolicyType
	hook          *hook
	conditions    []admissionregistrationv1.MatchCondition
	sideEffects   *admissionregistrationv1.SideEffectClass
	timeout       *int32
}

func (c common) complete() *hook {
	h := c.hook
	h.name, h.configuration = c.name, c.configuration
	h.id = fmt.Sprintf("%s/%s/%d", c.configuration, c.name, c.index)
	h.target.CABundle = c.client.CABundle
	if c.client.URL != nil {
		h.target.URL = *c.client.URL
	}
	if s := c.client.Service; s != nil {
		h.target.Service = &calls.Service{Namespace: s.Namespace, Name: s.Name}
		if s.Path != nil {
			h.target.Service.Path = *s.Path
		}
		if s.Port != nil {
			h.target.Service.Port = *s.Port
		}
	}
	h.failOpen = c.failurePolicy != nil && *c.failurePolicy == admissionregistrationv1.Ignore
	h.onDryRun = c.sideEffects != nil && (*c.sideEffects == admissionregistrationv1.SideEffectClassNone || *c.sideEffects == admissionregistrationv1.SideEffectClassNoneOnDryRun)
	if c.timeout != nil {
		h.timeout = time.Duration(*c.timeout) * time.Second
	}
	if len(c.conditions) > 0 {
		h.conditions = sync.OnceValue(func() expression.Conditions {
			return expression.Plain().Conditions(c.conditions, false, expression.Stored)
		})
	}
	return h
}

func mutatingHooks(o store.Object) []*hook {
	c, ok := o.(*admissionregistrationv1.MutatingWebhookConfiguration)
	if !ok {
		return nil
	}
	out := make([]*hook, len(c.Webhooks))
	for i := range c.Webhooks {
		w := &c.Webhooks[i]
		out[i] = common{c.Name, i, w.Name, w.ClientConfig, w.Rules, w.FailurePolicy, &hook{
			criteria: match.Webhook(w.Rules, w.MatchPolicy, w.NamespaceSelector, w.ObjectSelector), reviews: w.AdmissionReviewVersions,
			reinvocation: w.ReinvocationPolicy != nil && *w.ReinvocationPolicy == admissionregistrationv1.IfNeededReinvocationPolicy,
		}, w.MatchConditions, w.SideEffects, w.TimeoutSeconds}.complete()
	}
	return out
}

func validatingHooks(o store.Object) []*hook {
	c, ok := o.(*admissionregistrationv1.ValidatingWebhookConfiguration)
	if !ok {
		return nil
	}
	out := make([]*hook, len(c.Webhooks))
	for i := range c.Webhooks {
		w := &c.Webhooks[i]
		out[i] = common{c.Name, i, w.Name, w.ClientConfig, w.Rules, w.FailurePolicy, &hook{
			criteria: match.Webhook(w.Rules, w.MatchPolicy, w.NamespaceSelector, w.ObjectSelector), reviews: w.AdmissionReviewVersions,
		}, w.MatchConditions, w.SideEffects, w.TimeoutSeconds}.complete()
	}
	return out
}

// configured is what is configured at one moment; the hooks of a configuration that did not change are kept with what they compiled.
type configured struct {
	byKey map[string]revision
	all   *match.Set[*hook]
}

type revision struct {
	number int64
	hooks  []*hook
}

func view(c live.Collection, hooks func(store.Object) []*hook) *live.View[configured] {
	return live.New(func(old configured, lists [][]*store.Item) configured {
		next := configured{byKey: make(map[string]revision, len(lists[0]))}
		var all []*hook
		for _, item := range lists[0] {
			r, ok := old.byKey[item.Key]
			if !ok || r.number != item.Revision {
				r = revision{item.Revision, hooks(item.Object)}
			}
			next.byKey[item.Key] = r
			all = append(all, r.hooks...)
		}
		next.all = match.NewSet(all, func(h *hook) *match.Criteria { return h.criteria })
		return next
	}, c)
}

// Config is what both plugins need.
type Config struct {
	// Client makes the calls; Identities say who the server is in them, nil is nobody.
	Client     *calls.Client
	Identities *calls.Identities
	// Configurations are the collection of the plugin's configurations.
	Configurations live.Collection
	Namespaces     match.Namespaces
	// Authorizer is whom match conditions ask.
	Authorizer request.Authorizer
}

// concerned says whether h is to be called, and as what it is shown the write.
func (c *Config) concerned(ctx context.Context, h *hook, a *admission.Attributes, sort string) (admission.Door, bool, error) {
	d, ok, err := h.criteria.Match(ctx, a, c.Namespaces)
	if err != nil || !ok || h.conditions == nil {
		return d, ok, err
	}
	obj, old, err := input.Show(a, d.Kind)
	if err != nil {
		return d, false, apierrors.NewInternalError(err)
	}
	began := time.Now()
	ok, err = h.conditions().Match(ctx, input.Of(a, d, obj, old, c.Authorizer).New(nil))
	a.Metrics.Conditions(h.name, "webhook", sort, a.Operation, ok, err, time.Since(began))
	switch {
	case err == nil:
		return d, ok, nil
	case h.failOpen:
		return d, false, nil
	}
	return d, false, admission.Forbidden(a, err)
}
