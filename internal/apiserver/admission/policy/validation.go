package policy

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	celconfig "k8s.io/apiserver/pkg/apis/cel"

	"github.com/celox/celox/internal/api/admissionregistration/expression"
)

func compileOnce[T any](f func() T) func() T { return sync.OnceValue(f) }

// validation is a compiled ValidatingAdmissionPolicy.
type validation struct {
	variables  []expression.Variable
	conditions expression.Conditions
	checks     []check
	notes      []auditNote
}

type check struct {
	expression expression.Compiled
	says       *expression.Compiled // messageExpression
	message    string
	reason     *metav1.StatusReason
}

type auditNote struct {
	key   string
	value expression.Compiled
}

func compileValidation(s *admissionregistrationv1.ValidatingAdmissionPolicySpec, mode expression.Mode) *validation {
	params := s.ParamKind != nil
	sees := expression.Sees{Params: params, Authorizer: true}
	c := expression.Composed()
	for i := range s.Variables {
		c.Variable(s.Variables[i].Name, s.Variables[i].Expression, sees, mode)
	}
	v := &validation{variables: c.Variables(), conditions: c.Conditions(s.MatchConditions, params, mode)}
	for i := range s.Validations {
		from := &s.Validations[i]
		to := check{expression: c.Compile(from.Expression, sees, mode, cel.BoolType), message: from.Message, reason: from.Reason}
		if from.MessageExpression != "" {
			says := c.Compile(from.MessageExpression, expression.Sees{Params: params}, mode, cel.StringType)
			to.says = &says
		}
		v.checks = append(v.checks, to)
	}
	for i := range s.AuditAnnotations {
		n := &s.AuditAnnotations[i]
		v.notes = append(v.notes, auditNote{n.Key, c.Compile(n.ValueExpression, sees, mode, cel.StringType, cel.NullType)})
	}
	return v
}

// outcome is what a policy says about one request with one parameter object.
type outcome struct {
	decisions []decision // one for each validation, or one for an error
	notes     []noted
}

type decision struct {
	deny    bool
	failed  bool // it could not be evaluated
	message string
	reason  metav1.StatusReason
}

type noted struct {
	key, value string
	err        string
}

// validate evaluates the policy.
func (v *validation) validate(ctx context.Context, in expression.Input, failOpen bool) outcome {
	broken := func(err error) outcome {
		return outcome{decisions: []decision{{deny: !failOpen, failed: true, message: err.Error()}}}
	}
	a := in.New(v.variables)
	if len(v.conditions) > 0 {
		ok, err := v.conditions.Match(ctx, a)
		switch {
		case err != nil && failOpen, err == nil && !ok:
			return outcome{}
		case err != nil:
			return broken(err)
		}
	}
	budget := expression.Budget
	results := make([]expression.Result, len(v.checks))
	for i := range v.checks {
		var err error
		if results[i], err = a.Evaluate(ctx, &v.checks[i].expression, &budget); err != nil {
			return broken(err)
		}
	}
	var out outcome
	out.decisions = v.decide(ctx, a, results, &budget, failOpen)
	budget = expression.Budget
	for i := range v.notes {
		n := &v.notes[i]
		r, err := a.Evaluate(ctx, &n.value, &budget)
		if err != nil {
			return broken(err)
		}
		if note, ok := n.read(r, failOpen); ok {
			out.notes = append(out.notes, note)
		}
	}
	return out
}

// decide turns results into decisions. The messages of all validations are evaluated first, with what is left of the budget.
func (v *validation) decide(ctx context.Context, a *expression.Activation, results []expression.Result, budget *int64, failOpen bool) []decision {
	messages := make([]string, len(v.checks))
	var outOf error
	for i := range v.checks {
		says := v.checks[i].says
		if says == nil || results[i].True() {
			continue
		}
		r, err := a.Evaluate(ctx, says, budget)
		if err != nil {
			outOf = err
			break
		}
		messages[i] = spoken(r)
	}
	out := make([]decision, len(v.checks))
	for i := range v.checks {
		c, r, d := &v.checks[i], results[i], &out[i]
		switch {
		case r.Err != nil:
			d.deny, d.failed, d.message = !failOpen, true, r.Err.Error()
		case outOf != nil:
			d.deny, d.failed, d.message = !failOpen, true, fmt.Sprintf("failed messageExpression: %s", outOf)
		case !r.True():
			d.deny, d.reason = true, metav1.StatusReasonInvalid
			if c.reason != nil {
				d.reason = *c.reason
			}
			if d.message = messages[i]; d.message == "" {
				d.message = strings.TrimSpace(c.message)
			}
			if d.message == "" {
				d.message = "failed expression: " + strings.TrimSpace(c.expression.Text)
			}
		}
	}
	return out
}

// spoken is the message that an expression gave, "" if it is none that could be shown.
func spoken(r expression.Result) string {
	if r.Err != nil || r.Value == nil {
		return ""
	}
	text, ok := r.Value.Value().(string)
	if text = strings.TrimSpace(text); !ok || len(text) > celconfig.MaxEvaluatedMessageExpressionSizeBytes || strings.Contains(text, "\n") {
		return ""
	}
	return text
}

// read is the note that an expression gave; false if it gave none.
func (n *auditNote) read(r expression.Result, failOpen bool) (noted, bool) {
	switch {
	case r.Err != nil && failOpen:
		return noted{}, false
	case r.Err != nil:
		return noted{key: n.key, err: r.Err.Error()}, true
	case r.Value.Type() == types.StringType:
		text, _ := r.Value.Value().(string)
		text = strings.TrimSpace(text)
		return noted{key: n.key, value: text[:min(len(text), noteBytes)]}, text != ""
	case r.Value.Type() == types.NullType:
		return noted{}, false
	}
	return noted{key: n.key, err: fmt.Sprintf("valueExpression '%v' resulted in unsupported return type: %v. Return type must be either string or null.", n.value.Text, r.Value.Type())}, true
}
