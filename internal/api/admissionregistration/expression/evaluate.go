package expression

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/interpreter"
	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	apiservercel "k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/common"
	"k8s.io/apiserver/pkg/cel/lazy"
	"k8s.io/apiserver/pkg/cel/library"
)

// Budgets of cost units for one evaluation of a binding with one parameter object, and for the match conditions of one webhook.
const (
	Budget           int64 = celconfig.RuntimeCELCostBudget
	ConditionsBudget int64 = celconfig.RuntimeCELCostBudgetMatchConditions
)

// Input is what expressions are evaluated on. Its parts are only read, and turned into values when an expression asks for them.
type Input struct {
	Object, OldObject, Params runtime.Object
	// Untyped shows objects by their JSON form instead of by their Go types: mutations build patches of such values.
	Untyped   bool
	Request   *admissionv1.AdmissionRequest
	Namespace *corev1.Namespace
	User      user.Info
	// Authorizer may be nil; Resource is what authorizer.requestResource is about.
	Authorizer authorizer.UnconditionalAuthorizer
	Resource   library.Resource
}

// Activation evaluates compiled expressions on an Input. It must not be used from several goroutines at once.
type Activation struct {
	in        Input
	variables []Variable
	spent     int64 // by variables, since an expression last began
	ctx       context.Context

	object, oldObject, params, request, namespace func() ref.Val
	values                                        func() ref.Val
}

// New makes an Activation. Variables are evaluated when they are first used, at most once.
func (in Input) New(variables []Variable) *Activation {
	a := &Activation{in: in, variables: variables}
	a.object = sync.OnceValue(func() ref.Val { return valueOf(in.Object, in.Untyped) })
	a.oldObject = sync.OnceValue(func() ref.Val { return valueOf(in.OldObject, in.Untyped) })
	a.params = sync.OnceValue(func() ref.Val { return valueOf(in.Params, in.Untyped) })
	a.request = sync.OnceValue(func() ref.Val { return common.SchemalessTypedToVal(in.Request) })
	a.namespace = sync.OnceValue(func() ref.Val { return common.SchemalessTypedToVal(shownNamespace(in.Namespace)) })
	a.values = sync.OnceValue(a.lazyVariables)
	return a
}

// shownNamespace leaves out what expressions do not see.
func shownNamespace(ns *corev1.Namespace) *corev1.Namespace {
	if ns == nil {
		return nil
	}
	m := &ns.ObjectMeta
	return &corev1.Namespace{Spec: ns.Spec, Status: ns.Status, ObjectMeta: metav1.ObjectMeta{
		Name: m.Name, GenerateName: m.GenerateName, Namespace: m.Namespace, UID: m.UID, ResourceVersion: m.ResourceVersion, Generation: m.Generation,
		CreationTimestamp: m.CreationTimestamp, DeletionTimestamp: m.DeletionTimestamp, DeletionGracePeriodSeconds: m.DeletionGracePeriodSeconds,
		Labels: m.Labels, Annotations: m.Annotations, Finalizers: m.Finalizers,
	}}
}

// contents is an object that knows its JSON values: a custom one.
type contents interface {
	Content() (map[string]any, error)
}

func valueOf(obj runtime.Object, untyped bool) ref.Val {
	if obj == nil {
		return types.NullValue
	}
	switch o := obj.(type) {
	case *unstructured.Unstructured:
		return types.DefaultTypeAdapter.NativeToValue(o.Object)
	case contents:
		m, err := o.Content()
		if err != nil {
			return types.NewErr("showing a %T: %v", obj, err)
		}
		return types.DefaultTypeAdapter.NativeToValue(m)
	}
	if !untyped {
		return common.SchemalessTypedToVal(obj)
	}
	m, err := runtime.DefaultUnstructuredConverter.ToUnstructured(obj)
	if err != nil {
		return types.NewErr("showing a %T: %v", obj, err)
	}
	return types.DefaultTypeAdapter.NativeToValue(m)
}

// ResolveName implements interpreter.Activation.
func (a *Activation) ResolveName(name string) (any, bool) {
	switch name {
	case objectName:
		return a.object(), true
	case oldObjectName:
		return a.oldObject(), true
	case paramsName:
		return a.params(), true
	case requestName:
		return a.request(), true
	case namespaceName:
		return a.namespace(), true
	case authorizerName:
		if a.in.Authorizer == nil {
			return nil, false
		}
		return library.NewAuthorizerVal(a.in.User, a.in.Authorizer), true
	case requestResourceName:
		if a.in.Authorizer == nil || a.in.Resource == nil {
			return nil, false
		}
		return library.NewResourceAuthorizerVal(a.in.User, a.in.Authorizer, a.in.Resource), true
	case variablesName:
		return a.values(), true
	}
	return nil, false
}

// Parent implements interpreter.Activation.
func (a *Activation) Parent() interpreter.Activation { return nil }

func (a *Activation) lazyVariables() ref.Val {
	m := lazy.NewMapValue(newVariables())
	for i := range a.variables {
		v := &a.variables[i]
		m.Append(v.Name, func(*lazy.MapValue) ref.Val { return a.variable(v) })
	}
	return m
}

func (a *Activation) variable(v *Variable) ref.Val {
	if v.Err != nil {
		return types.NewErr("composited variable %q fails to compile: %v", v.Name, v.Err)
	}
	out, details, err := v.program.ContextEval(a.ctx, a)
	cost, ok := costOf(details)
	if !ok {
		return types.NewErr("unable to calculate cost of variable %q", v.Name)
	}
	a.spent += cost
	if err != nil {
		return types.NewErr("composited variable %q fails to evaluate: %v", v.Name, err)
	}
	return out
}

func costOf(d *cel.EvalDetails) (int64, bool) {
	if d == nil {
		return 0, false
	}
	c := d.ActualCost()
	if c == nil {
		return 0, false
	}
	return int64(min(*c, math.MaxInt64)), true
}

// Result is what became of one expression.
type Result struct {
	Value ref.Val
	// Err says why there is no value.
	Err error
}

// True says whether the result is true.
func (r Result) True() bool { return r.Err == nil && r.Value == types.True }

var errBudget = &apiservercel.Error{
	Type: apiservercel.ErrorTypeInvalid, Detail: "validation failed due to running out of cost budget, no further validation rules will be run", Cause: apiservercel.ErrOutOfBudget,
}

// OutOfBudget says whether err is that of an evaluation that was given up.
func OutOfBudget(err error) bool {
	return errors.Is(err, apiservercel.ErrOutOfBudget) || errors.Is(err, apiservercel.ErrInternal)
}

// Evaluate evaluates an expression and takes its cost from the budget. An error ends all evaluation with this budget.
func (a *Activation) Evaluate(ctx context.Context, c *Compiled, budget *int64) (Result, error) {
	if c.Err != nil {
		return Result{Err: &apiservercel.Error{Type: apiservercel.ErrorTypeInvalid, Detail: fmt.Sprintf("compilation error: %v", c.Err), Cause: c.Err}}, nil
	}
	if c.program == nil {
		return Result{Err: internal("unexpected internal error compiling expression")}, nil
	}
	a.ctx, a.spent = ctx, 0
	value, details, err := c.program.ContextEval(ctx, a)
	cost, ok := costOf(details)
	if !ok {
		return Result{}, internal("runtime cost could not be calculated for expression: %v, no further expression will be run", c.Text)
	}
	if a.spent > *budget || cost > *budget-a.spent {
		return Result{}, errBudget
	}
	*budget -= a.spent + cost
	if err != nil {
		return Result{Err: invalid(fmt.Sprintf("expression '%v' resulted in error: %v", c.Text, err))}, nil
	}
	return Result{Value: value}, nil
}
