package expression

import (
	"fmt"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types/traits"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	apiservercel "k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/environment"
)

// Compiled is one expression, compiled. It never changes and may be evaluated by many goroutines at once.
type Compiled struct {
	Text string
	// Err says why it cannot be evaluated.
	Err *apiservercel.Error
	// Type is what it evaluates to.
	Type *cel.Type

	program cel.Program
}

// Compiler compiles the expressions of one webhook or policy. It must not be used from several goroutines at once.
type Compiler struct {
	composed  bool
	variables *apiservercel.DeclType
	types     Types
	typed     bool
	sets      map[Sees]*environment.EnvSet
	compiled  []Variable
}

// Variable is a compiled variable of a policy.
type Variable struct {
	Name string
	Compiled
}

// Plain returns a compiler of expressions that know no variables: those of webhooks.
func Plain() *Compiler { return &Compiler{} }

// Composed returns a compiler for a policy. Its variables are declared with Variable, in order, before what uses them.
func Composed() *Compiler { return &Compiler{composed: true} }

// Checker returns a compiler for a policy whose objects are of known types. What it compiles cannot be evaluated.
func Checker(t Types) *Compiler { return &Compiler{composed: true, types: t, typed: true} }

// set returns the environment of expressions that see this.
func (c *Compiler) set(sees Sees) (*environment.EnvSet, error) {
	if c.variables == nil && !c.typed {
		return environments().get(sees, c.composed)
	}
	if set := c.sets[sees]; set != nil {
		return set, nil
	}
	if c.variables == nil {
		c.variables = newVariables()
	}
	var set *environment.EnvSet
	var err error
	if c.typed {
		set, err = extend(environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()), sees, c.types, withVariables(c.variables))
	} else if set, err = environments().get(sees, false); err == nil {
		set, err = set.Extend(withVariables(c.variables))
	}
	if err != nil {
		return nil, err
	}
	if c.sets == nil {
		c.sets = map[Sees]*environment.EnvSet{}
	}
	c.sets[sees] = set
	return set, nil
}

func invalid(detail string) *apiservercel.Error {
	return &apiservercel.Error{Type: apiservercel.ErrorTypeInvalid, Detail: detail}
}

func internal(format string, args ...any) *apiservercel.Error {
	return &apiservercel.Error{Type: apiservercel.ErrorTypeInternal, Detail: fmt.Sprintf(format, args...)}
}

// Compile compiles an expression that must evaluate to one of returns; none are anything.
func (c *Compiler) Compile(text string, sees Sees, mode Mode, returns ...*cel.Type) Compiled {
	out := Compiled{Text: text}
	set, err := c.set(sees)
	if err != nil {
		out.Err = internal("unexpected error loading CEL environment: %v", err)
		return out
	}
	env, err := set.Env(mode)
	if err != nil {
		out.Err = internal("unexpected error loading CEL environment: %v", err)
		return out
	}
	ast, issues := env.Compile(text)
	if issues != nil {
		if c.typed {
			out.Err = invalid(issues.String())
			return out
		}
		out.Err = invalid("compilation failed: " + issues.String())
		out.Err.Cause = apiservercel.NewCompilationError(issues)
		return out
	}
	out.Type = ast.OutputType()
	if !isOneOf(out.Type, returns) {
		if len(returns) == 1 {
			out.Err = invalid(fmt.Sprintf("must evaluate to %v but got %v", returns[0], out.Type))
		} else {
			out.Err = invalid(fmt.Sprintf("must evaluate to one of %v but got %v", returns, out.Type))
		}
		return out
	}
	if c.typed {
		return out
	}
	if out.program, err = env.Program(ast, cel.InterruptCheckFrequency(celconfig.CheckFrequency)); err != nil {
		out.Err = internal("program instantiation failed: %v", err)
	}
	return out
}

func isOneOf(t *cel.Type, list []*cel.Type) bool {
	if len(list) == 0 {
		return true
	}
	for _, l := range list {
		if t.IsExactType(l) {
			return true
		}
	}
	return false
}

// Variable compiles a variable and lets what is compiled after it use it.
func (c *Compiler) Variable(name, text string, sees Sees, mode Mode) Compiled {
	if c.variables == nil {
		c.variables = newVariables() // the shared environment's must stay empty
	}
	v := c.Compile(text, sees, mode)
	c.variables.Fields[name] = apiservercel.NewDeclField(name, declared(v.Type), true, nil, nil)
	c.compiled = append(c.compiled, Variable{Name: name, Compiled: v})
	return v
}

// Variables returns the variables in the order of their declaration.
func (c *Compiler) Variables() []Variable { return c.compiled }

// declared is the declared type of what an expression evaluates to.
func declared(t *cel.Type) *apiservercel.DeclType {
	if t == nil {
		return apiservercel.DynType
	}
	switch t {
	case cel.AnyType:
		return apiservercel.AnyType
	case cel.BoolType:
		return apiservercel.BoolType
	case cel.BytesType:
		return apiservercel.BytesType
	case cel.DoubleType:
		return apiservercel.DoubleType
	case cel.DurationType:
		return apiservercel.DurationType
	case cel.IntType:
		return apiservercel.IntType
	case cel.NullType:
		return apiservercel.NullType
	case cel.StringType:
		return apiservercel.StringType
	case cel.TimestampType:
		return apiservercel.TimestampType
	case cel.UintType:
		return apiservercel.UintType
	}
	if t.HasTrait(traits.ContainerType) && t.HasTrait(traits.IndexerType) {
		switch p := t.Parameters(); len(p) {
		case 1:
			return apiservercel.NewListType(declared(p[0]), -1)
		case 2:
			return apiservercel.NewMapType(declared(p[0]), declared(p[1]), -1)
		}
	}
	return apiservercel.DynType
}
