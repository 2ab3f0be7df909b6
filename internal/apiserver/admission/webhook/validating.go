package webhook

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/celox/celox/internal/apiserver/admission"
	"github.com/celox/celox/internal/apiserver/admission/live"
	"github.com/celox/celox/internal/apiserver/admission/match"
)

// Validating calls the webhooks of ValidatingWebhookConfigurations.
type Validating struct {
	cfg  Config
	view *live.View[configured]
}

// NewValidating returns the plugin.
func NewValidating(cfg Config) *Validating {
	return &Validating{cfg: cfg, view: view(cfg.Configurations, validatingHooks)}
}

// The words of metrics for the two sorts of webhooks.
const (
	mutatingSort   = "admit"
	validatingSort = "validating"
)

// invocation is one webhook that is to be called.
type invocation struct {
	hook *hook
	door admission.Door
	body encoded
}

// PluginName is what upstream calls the plugin.
func (*Validating) PluginName() string { return "ValidatingAdmissionWebhook" }

// Validate implements admission.Validator.
func (p *Validating) Validate(ctx context.Context, a *admission.Attributes) error {
	now, err := p.view.Get(ctx)
	if err != nil {
		return err
	}
	hooks := now.all.Candidates(a)
	if len(hooks) == 0 || match.ExemptFromWebhooks(a) {
		return nil
	}
	todo, err := p.todo(ctx, a, hooks)
	if err != nil || len(todo) == 0 {
		return err
	}
	if ctx.Err() != nil {
		return errTooLate
	}
	answers, errs := make([]*answer, len(todo)), make([]error, len(todo))
	began := time.Now()
	took := make([]time.Duration, len(todo))
	ask := func(i int) {
		defer func() {
			took[i] = time.Since(began)
			if r := recover(); r != nil {
				errs[i] = apierrors.NewInternalError(fmt.Errorf("ValidatingAdmissionWebhook/%v has panicked: %v", todo[i].hook.name, r))
			}
		}()
		answers[i], errs[i] = p.cfg.call(ctx, todo[i].hook, a, todo[i].door, todo[i].body, false)
	}
	var others sync.WaitGroup
	for i := 1; i < len(todo); i++ {
		others.Go(func() { ask(i) })
	}
	ask(0)
	others.Wait()
	if a.Waited != nil {
		a.Waited(time.Since(began))
	}
	return p.verdict(a, todo, answers, errs, took)
}

// todo finds out who is to be called, and encodes the objects once for each version that somebody wants to see.
func (p *Validating) todo(ctx context.Context, a *admission.Attributes, hooks []*hook) ([]invocation, error) {
	var todo []invocation
	bodies := map[schema.GroupVersionKind]encoded{}
	for _, h := range hooks {
		d, ok, err := p.cfg.concerned(ctx, h, a, validatingSort)
		if err != nil {
			return nil, err
		}
		if !ok {
			continue
		}
		body, ok := bodies[d.Kind]
		if !ok {
			if body, err = encode(a, d.Kind); err != nil {
				return nil, apierrors.NewInternalError(err)
			}
			bodies[d.Kind] = body
		}
		todo = append(todo, invocation{h, d, body})
	}
	return todo, nil
}

// verdict passes on what all said; the first who refuses, or fails and may not, decides.
func (p *Validating) verdict(a *admission.Attributes, todo []invocation, answers []*answer, errs []error, took []time.Duration) error {
	var first error
	for i := range todo {
		h, err := todo[i].hook, errs[i]
		if err == nil {
			err = h.told(a, answers[i])
		}
		h.count(a, validatingSort, err, took[i])
		switch {
		case err == nil:
		case h.excused(err):
			if !errors.Is(err, context.Canceled) {
				a.Note(fmt.Sprintf("failed-open.validating.webhook.admission.k8s.io/round_0_index_%d", i), h.name)
			}
		case first == nil:
			first = shown(err)
		}
	}
	return first
}
