package admissionregistration

import (
	"fmt"
	"strings"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	apiservercel "k8s.io/apiserver/pkg/cel"

	"github.com/celox/celox/internal/api/admissionregistration/expression"
)

// checker compiles the expressions of one object to see whether they compile and what they evaluate to.
type checker struct {
	// plain compiles match conditions, which see no variables; policy all else.
	plain, policy *expression.Compiler
	params        bool
	// stored are the expressions that the object had before: they may use what new ones may not yet.
	stored map[string]bool
}

// newChecker makes a checker for a policy with or without parameters and variables; without, none is known.
func newChecker(params, variables bool, stored map[string]bool) *checker {
	c := &checker{plain: expression.Plain(), params: params, stored: stored}
	c.policy = c.plain
	if variables {
		c.policy = expression.Composed()
	}
	return c
}

func (c *checker) mode(text string) expression.Mode {
	if c.stored[text] {
		return expression.Stored
	}
	return expression.New
}

// sees is what most expressions of a policy may use.
func (c *checker) sees() expression.Sees { return expression.Sees{Params: c.params, Authorizer: true} }

// condition checks a match condition.
func (c *checker) condition(text string, p *field.Path) field.ErrorList {
	return complaint(c.plain.Compile(text, c.sees(), c.mode(text), cel.BoolType), p)
}

// expression checks an expression of a policy.
func (c *checker) expression(text string, sees expression.Sees, p *field.Path, returns ...*cel.Type) field.ErrorList {
	return complaint(c.policy.Compile(text, sees, c.mode(text), returns...), p)
}

// variable checks a variable and declares it for what follows.
func (c *checker) variable(name, text string, p *field.Path) field.ErrorList {
	return complaint(c.policy.Variable(name, text, c.sees(), c.mode(text)), p)
}

func complaint(e expression.Compiled, p *field.Path) field.ErrorList {
	switch {
	case e.Err == nil:
		return nil
	case e.Err.Type == apiservercel.ErrorTypeRequired:
		return field.ErrorList{field.Required(p, e.Err.Detail)}
	case e.Err.Type == apiservercel.ErrorTypeInvalid:
		return field.ErrorList{field.Invalid(p, e.Text, e.Err.Detail)}
	}
	return field.ErrorList{field.InternalError(p, e.Err)}
}

// hasNewline knows the line breaks of CEL's grammar.
func hasNewline(s string) bool { return strings.ContainsAny(s, "\n\r") }

// maxAuditExpression limits the expression of an audit annotation, in bytes.
const maxAuditExpression = 5 << 10

func (c *checker) auditAnnotation(a *admissionregistrationv1.AuditAnnotation, p *field.Path) field.ErrorList {
	switch n := len(strings.TrimSpace(a.ValueExpression)); {
	case n == 0:
		return field.ErrorList{field.Required(p, "valueExpression is not specified")}
	case n > maxAuditExpression:
		return field.ErrorList{field.Required(p, fmt.Sprintf("must not exceed %d bytes in length", maxAuditExpression))}
	}
	return c.expression(a.ValueExpression, c.sees(), p, cel.StringType, cel.NullType)
}

// The types of mutations.
func applyConfigurationType() *cel.Type { return types.NewObjectType("Object") }
func jsonPatchType() *cel.Type          { return cel.ListType(types.NewObjectType("JSONPatch")) }

// expressionsOf collects what a validating policy had.
func expressionsOf(s *admissionregistrationv1.ValidatingAdmissionPolicySpec) map[string]bool {
	m := conditionsOf(s.MatchConditions)
	for i := range s.Variables {
		m[s.Variables[i].Expression] = true
	}
	for i := range s.Validations {
		m[s.Validations[i].Expression], m[s.Validations[i].MessageExpression] = true, true
	}
	for i := range s.AuditAnnotations {
		m[s.AuditAnnotations[i].ValueExpression] = true
	}
	return m
}

// mutationsOf collects what a mutating policy had.
func mutationsOf(s *admissionregistrationv1.MutatingAdmissionPolicySpec) map[string]bool {
	m := conditionsOf(s.MatchConditions)
	for i := range s.Variables {
		m[s.Variables[i].Expression] = true
	}
	for i := range s.Mutations {
		if a := s.Mutations[i].ApplyConfiguration; a != nil {
			m[a.Expression] = true
		}
		if j := s.Mutations[i].JSONPatch; j != nil {
			m[j.Expression] = true
		}
	}
	return m
}

func conditionsOf(list []admissionregistrationv1.MatchCondition) map[string]bool {
	m := map[string]bool{}
	for i := range list {
		m[list[i].Expression] = true
	}
	return m
}
