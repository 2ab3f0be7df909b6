package policy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/celox/celox/internal/api/admissionregistration/expression"
	"github.com/celox/celox/internal/apiserver/admission"
	"github.com/celox/celox/internal/apiserver/admission/input"
	"github.com/celox/celox/internal/apiserver/admission/live"
	"github.com/celox/celox/internal/apiserver/admission/match"
	"github.com/celox/celox/internal/store"
)

// Validating evaluates ValidatingAdmissionPolicies.
type Validating struct {
	cfg  Config
	view *live.View[inForce[*validation]]
}

// NewValidating returns the plugin.
func NewValidating(cfg Config) *Validating {
	return &Validating{cfg: cfg, view: view(cfg, readValidatingPolicy, readValidatingBinding)}
}

// denial is why a request is refused.
type denial struct {
	policy, binding string
	message         string
	reason          metav1.StatusReason
}

// failure is one entry of the audit annotation about validations that did not hold.
type failure struct {
	Message           string                                     `json:"message"`
	Policy            string                                     `json:"policy"`
	Binding           string                                     `json:"binding"`
	ExpressionIndex   int                                        `json:"expressionIndex"`
	ValidationActions []admissionregistrationv1.ValidationAction `json:"validationActions"`
}

const (
	// mostFailures bounds how many failures are noted, noteBytes how long a value of an audit annotation is.
	mostFailures = 50
	noteBytes    = 10 << 10
)

// evaluation is one request on its way through the policies.
type evaluation struct {
	*Validating
	a        *admission.Attributes
	denied   []denial
	failures []failure
	shown    map[schema.GroupVersionKind][2]runtime.Object
}

// PluginName is what upstream calls the plugin.
func (*Validating) PluginName() string { return "ValidatingAdmissionPolicy" }

// Validate implements admission.Validator.
func (p *Validating) Validate(ctx context.Context, a *admission.Attributes) error {
	now, err := p.view.Get(ctx)
	if err != nil {
		return err
	}
	policies := now.all.Candidates(a)
	if len(policies) == 0 || match.Exempt(a) {
		return nil
	}
	e := &evaluation{Validating: p, a: a, shown: map[schema.GroupVersionKind][2]runtime.Object{}}
	for _, b := range policies {
		if err := e.policy(ctx, b); err != nil {
			return err
		}
	}
	if len(e.failures) > 0 && a.Annotate != nil {
		if text, err := json.Marshal(e.failures[:min(len(e.failures), mostFailures)]); err == nil {
			a.Note("validation.policy.admission.k8s.io/validation_failure", string(text))
		}
	}
	if len(e.denied) == 0 {
		return nil
	}
	return e.denied[0].error(a)
}

// misconfigured notes an error that is not the request's fault.
func (e *evaluation) misconfigured(p *bound[*validation], b *binding, err error) {
	if p.failOpen {
		return
	}
	d := denial{policy: p.name, message: configured("policy", err).Error()}
	if b != nil {
		d.binding, d.message = b.name, configured("binding", err).Error()
	}
	e.denied = append(e.denied, d)
}

func (e *evaluation) policy(ctx context.Context, p *bound[*validation]) error {
	door, ok, err := p.matches(ctx, e.a, e.cfg.Namespaces)
	if err != nil {
		e.misconfigured(p, nil, err)
		return nil
	}
	if !ok {
		return nil
	}
	kind, gvk, err := e.cfg.kindOf(p.param)
	if err != nil {
		e.misconfigured(p, nil, err)
		return nil
	}
	notes := notes{}
	for _, b := range p.bindings {
		ok, err := b.matches(ctx, e.a, e.cfg.Namespaces)
		if err == nil && !ok {
			continue
		}
		var params []runtime.Object
		if err == nil {
			params, err = e.cfg.params(ctx, kind, gvk, b.param, e.a.Namespace)
		}
		var objects [2]runtime.Object
		if err == nil && len(params) > 0 {
			objects, err = e.show(door)
		}
		if err != nil {
			e.misconfigured(p, b, err)
			continue
		}
		if len(params) == 0 {
			continue
		}
		in := input.Of(e.a, door, objects[0], objects[1], e.cfg.Authorizer)
		if in.Namespace, err = e.cfg.namespaceOf(ctx, e.a); err != nil {
			return err
		}
		for _, param := range params {
			in.Params = param
			program, began := p.program(), time.Now()
			got := program.validate(ctx, in, p.failOpen)
			e.count(p, b, got, notes, time.Since(began))
		}
	}
	notes.publish(p.name, e.a)
	return nil
}

// show returns the objects as a door's kind, once for all policies.
func (e *evaluation) show(d admission.Door) ([2]runtime.Object, error) {
	if got, ok := e.shown[d.Kind]; ok {
		return got, nil
	}
	obj, old, err := input.Show(e.a, d.Kind)
	if err != nil {
		return [2]runtime.Object{}, fmt.Errorf("failed to convert object version: %w", err)
	}
	e.shown[d.Kind] = [2]runtime.Object{obj, old}
	return e.shown[d.Kind], nil
}

// count does with the outcome what the binding says.
func (e *evaluation) count(p *bound[*validation], b *binding, o outcome, n notes, took time.Duration) {
	told := func(d decision, action string) { e.a.Metrics.Validated(p.name, b.name, d.reasonType(), action, took) }
	for i, d := range o.decisions {
		if !d.deny {
			if d.failed {
				told(d, "allow")
			}
			continue
		}
		for _, action := range b.actions {
			told(d, strings.ToLower(string(action)))
			switch action {
			case admissionregistrationv1.Deny:
				e.denied = append(e.denied, denial{p.name, b.name, d.message, d.reason})
			case admissionregistrationv1.Warn:
				e.a.Warn(fmt.Sprintf("Validation failed for ValidatingAdmissionPolicy '%s' with binding '%s': %s", p.name, b.name, d.message))
			case admissionregistrationv1.Audit:
				e.failures = append(e.failures, failure{d.message, p.name, b.name, i, b.actions})
			}
		}
	}
	for _, note := range o.notes {
		if note.err != "" {
			e.denied = append(e.denied, denial{policy: p.name, binding: b.name, message: note.err})
			told(decision{message: note.err}, "deny")
			continue
		}
		n.add(note.key, note.value)
	}
}

// reasonType is the word of metrics for why a decision is what it is. Upstream calls a validation that does not hold an invalid one, too.
func (d decision) reasonType() string { return errorType(d.message) }

func errorType(message string) string {
	switch {
	case strings.HasPrefix(message, "compilation"):
		return "compile_error"
	case strings.HasPrefix(message, "validation failed due to running out of cost budget"):
		return "out_of_budget"
	}
	return "invalid_error"
}

// error is the refusal as the client sees it.
func (d denial) error(a *admission.Attributes) error {
	by := fmt.Sprintf("ValidatingAdmissionPolicy '%s'", d.policy)
	if d.binding != "" {
		by += fmt.Sprintf(" with binding '%s'", d.binding)
	}
	message := by + " denied request: " + d.message
	err := admission.Forbidden(a, errors.New(message))
	s := &err.ErrStatus
	if s.Reason = d.reason; s.Reason == "" {
		s.Reason = metav1.StatusReasonInvalid
	}
	s.Code = http.StatusUnprocessableEntity
	switch s.Reason {
	case metav1.StatusReasonForbidden:
		s.Code = http.StatusForbidden
	case metav1.StatusReasonUnauthorized:
		s.Code = http.StatusUnauthorized
	case metav1.StatusReasonRequestEntityTooLarge:
		s.Code = http.StatusRequestEntityTooLarge
	}
	s.Details.Causes = append(s.Details.Causes, metav1.StatusCause{Message: message})
	return err
}

// notes are the audit annotations of one policy: the values of several bindings are joined.
type notes map[string][]string

func (n notes) add(key, value string) {
	if !slices.Contains(n[key], value) {
		n[key] = append(n[key], value)
	}
}

func (n notes) publish(policy string, a *admission.Attributes) {
	for key, values := range n {
		a.Note(policy+"/"+key, strings.Join(values, ", "))
	}
}

func readValidatingPolicy(o store.Object) *policy[*validation] {
	p, ok := o.(*admissionregistrationv1.ValidatingAdmissionPolicy)
	if !ok {
		return nil
	}
	return &policy[*validation]{
		name: p.Name, criteria: constraints(p.Spec.MatchConstraints), param: p.Spec.ParamKind,
		failOpen: p.Spec.FailurePolicy != nil && *p.Spec.FailurePolicy == admissionregistrationv1.Ignore,
		program:  compileOnce(func() *validation { return compileValidation(&p.Spec, expression.Stored) }),
	}
}

func readValidatingBinding(o store.Object) *binding {
	b, ok := o.(*admissionregistrationv1.ValidatingAdmissionPolicyBinding)
	if !ok {
		return nil
	}
	return &binding{name: b.Name, policy: b.Spec.PolicyName, criteria: constraints(b.Spec.MatchResources), param: b.Spec.ParamRef, actions: b.Spec.ValidationActions}
}
