package policy

import (
	"context"
	"errors"
	"fmt"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
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

// Mutating evaluates MutatingAdmissionPolicies.
type Mutating struct {
	cfg  Config
	view *live.View[inForce[*mutations]]
}

// NewMutating returns the plugin.
func NewMutating(cfg Config) *Mutating {
	return &Mutating{cfg: cfg, view: view(cfg, readMutatingPolicy, readMutatingBinding)}
}

func readMutatingPolicy(o store.Object) *policy[*mutations] {
	p, ok := o.(*admissionregistrationv1.MutatingAdmissionPolicy)
	if !ok {
		return nil
	}
	return &policy[*mutations]{
		name: p.Name, criteria: constraints(p.Spec.MatchConstraints), param: p.Spec.ParamKind,
		failOpen: p.Spec.FailurePolicy != nil && *p.Spec.FailurePolicy == admissionregistrationv1.Ignore,
		program:  compileOnce(func() *mutations { return compileMutations(&p.Spec, expression.Stored) }),
	}
}

func readMutatingBinding(o store.Object) *binding {
	b, ok := o.(*admissionregistrationv1.MutatingAdmissionPolicyBinding)
	if !ok {
		return nil
	}
	return &binding{name: b.Name, policy: b.Spec.PolicyName, criteria: constraints(b.Spec.MatchResources), param: b.Spec.ParamRef}
}

// invocation names a policy that was evaluated for a binding with a parameter object.
type invocation struct{ policy, binding, namespace, param string }

// memory is what the second run of the mutators knows of the first.
type memory struct {
	invoked, again map[invocation]bool
	left           runtime.Object
}

func (m *memory) changed() {
	for i := range m.invoked {
		m.again[i] = true
	}
	clear(m.invoked)
}

// mutation is one request on its way through the policies.
type mutation struct {
	*Mutating
	a         *admission.Attributes
	memory    *memory
	namespace *corev1.Namespace
	errs      []policyError
}

type policyError struct {
	policy, binding string
	err             error
	reason          metav1.StatusReason
}

func (e policyError) Error() string {
	if e.binding != "" {
		return fmt.Sprintf("policy '%s' with binding '%s' denied request: %s", e.policy, e.binding, e.err)
	}
	return fmt.Sprintf("policy %q denied request: %s", e.policy, e.err)
}

// todo is a policy that is to be evaluated.
type todo struct {
	policy  *bound[*mutations]
	binding *binding
	door    admission.Door
	param   runtime.Object
}

// PluginName is what upstream calls the plugin.
func (*Mutating) PluginName() string { return "MutatingAdmissionPolicy" }

// Admit implements admission.Mutator.
func (p *Mutating) Admit(ctx context.Context, a *admission.Attributes) error {
	if a.Operation == admission.Delete {
		return nil // there is nothing to change
	}
	now, err := p.view.Get(ctx)
	if err != nil {
		return err
	}
	policies := now.all.Candidates(a)
	if len(policies) == 0 || match.Exempt(a) {
		return nil
	}
	m := &mutation{Mutating: p, a: a}
	list := m.todo(ctx, policies)
	if len(list) > 0 {
		if err := m.run(ctx, list); err != nil {
			return err
		}
	}
	return m.verdict()
}

func (m *mutation) failed(p *bound[*mutations], b *binding, reason metav1.StatusReason, err error) {
	if p.failOpen {
		return
	}
	e := policyError{policy: p.name, err: err, reason: reason}
	if b != nil {
		e.binding = b.name
	}
	m.errs = append(m.errs, e)
}

// todo finds out which policies are about the request, with which parameters.
func (m *mutation) todo(ctx context.Context, policies []*bound[*mutations]) []todo {
	var out []todo
	for _, p := range policies {
		door, ok, err := p.matches(ctx, m.a, m.cfg.Namespaces)
		if err == nil && !ok {
			continue
		}
		var kind *Kind
		var gvk schema.GroupVersionKind
		if err == nil {
			kind, gvk, err = m.cfg.kindOf(p.param)
		}
		if err != nil {
			m.failed(p, nil, "", configured("policy", err))
			continue
		}
		for _, b := range p.bindings {
			ok, err := b.matches(ctx, m.a, m.cfg.Namespaces)
			if err == nil && !ok {
				continue
			}
			var params []runtime.Object
			if err == nil {
				params, err = m.cfg.params(ctx, kind, gvk, b.param, m.a.Namespace)
			}
			if err != nil {
				m.failed(p, b, "", configured("binding", err))
				continue
			}
			for _, param := range params {
				out = append(out, todo{p, b, door, param})
			}
		}
	}
	return out
}

func (m *mutation) run(ctx context.Context, list []todo) (err error) {
	if m.namespace, err = m.cfg.namespaceOf(ctx, m.a); err != nil {
		return err
	}
	if m.memory, _ = m.a.Recall(m.Mutating).(*memory); m.memory == nil {
		m.memory = &memory{invoked: map[invocation]bool{}, again: map[invocation]bool{}}
		m.a.Remember(m.Mutating, m.memory)
	}
	if m.a.SecondRun() && !apiequality.Semantic.DeepEqual(m.memory.left, m.a.Object) {
		m.memory.changed()
	}
	for _, t := range list {
		if err := m.one(ctx, t); err != nil {
			return err
		}
	}
	if !m.a.SecondRun() && len(m.memory.invoked)+len(m.memory.again) > 0 && m.a.Object != nil {
		m.memory.left = m.a.Object.DeepCopyObject()
	}
	return nil
}

// one evaluates a policy. An error in the API's shape ends the request; others count as the policy's failurePolicy says.
func (m *mutation) one(ctx context.Context, t todo) error {
	program := t.policy.program()
	if len(program.conditions) > 0 {
		obj, old, err := input.Show(m.a, t.door.Kind)
		if err != nil {
			return apierrors.NewInternalError(err)
		}
		in := input.Of(m.a, t.door, obj, old, m.cfg.Authorizer)
		in.Params = t.param
		ok, err := program.conditions.Match(ctx, in.New(program.variables))
		if err != nil {
			m.failed(t.policy, t.binding, metav1.StatusReasonInvalid, err)
			return nil
		}
		if !ok {
			return nil
		}
	}
	key := invocation{policy: t.policy.name, binding: t.binding.name}
	if o, ok := t.param.(metav1.Object); ok {
		key.namespace, key.param = o.GetNamespace(), o.GetName()
	}
	if m.a.SecondRun() && !m.memory.again[key] {
		return nil
	}
	changed := false
	for i := range program.list {
		if m.a.Object == nil {
			break
		}
		began := time.Now()
		did, err := m.mutate(ctx, t, program, &program.list[i])
		reason := "no_error"
		if err != nil {
			reason = errorType(err.Error())
		}
		m.a.Metrics.Mutated(t.policy.name, t.binding.name, reason, time.Since(began))
		var status *apierrors.StatusError
		if errors.As(err, &status) {
			return status
		}
		if err != nil {
			m.failed(t.policy, t.binding, metav1.StatusReasonInvalid, err)
		}
		changed = changed || did
	}
	if changed {
		m.memory.changed()
		m.a.RunAgain()
	}
	if program.reinvocation {
		m.memory.invoked[key] = true
	}
	return nil
}

// mutate makes the object what one mutation says.
func (m *mutation) mutate(ctx context.Context, t todo, program *mutations, one *step) (changed bool, err error) {
	if m.a.Versions == nil {
		return false, apierrors.NewInternalError(fmt.Errorf("nobody can read a %s", t.door.Kind))
	}
	obj, old, err := input.Show(m.a, t.door.Kind)
	if err != nil {
		return false, apierrors.NewInternalError(err)
	}
	in := input.Of(m.a, t.door, obj, old, m.cfg.Authorizer)
	in.Params, in.Namespace, in.Untyped = t.param, m.namespace, true
	data, err := one.apply(ctx, in.New(program.variables), obj, t.door.Kind, m.a.Versions)
	if err != nil || data == nil {
		return false, err
	}
	if strict, ok := m.a.Versions.(interface {
		Unknown(data []byte, kind schema.GroupVersionKind) error
	}); ok && one.patch {
		if err := strict.Unknown(data, t.door.Kind); err != nil {
			return false, apierrors.NewInternalError(err)
		}
	}
	next, err := m.a.Versions.Read(data, t.door.Kind)
	if err != nil {
		return false, apierrors.NewInternalError(err)
	}
	if apiequality.Semantic.DeepEqual(next, m.a.Object) {
		return false, nil
	}
	if err := m.a.Replace(next); err != nil {
		return false, apierrors.NewInternalError(err)
	}
	return true, nil
}

// verdict refuses the request if there were errors that count.
func (m *mutation) verdict() error {
	if len(m.errs) == 0 {
		return nil
	}
	err := admission.Forbidden(m.a, errors.New("admission request denied by policy"))
	s := &err.ErrStatus
	s.Message = m.errs[0].Error()
	if m.errs[0].reason != "" {
		s.Reason = m.errs[0].reason
	}
	for _, e := range m.errs {
		s.Details.Causes = append(s.Details.Causes, metav1.StatusCause{Message: e.Error()})
	}
	return err
}
