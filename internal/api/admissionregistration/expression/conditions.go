package expression

import (
	"context"
	"errors"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
)

// Conditions are the compiled match conditions of a webhook or a policy.
type Conditions []Compiled

// Conditions compiles match conditions.
func (c *Compiler) Conditions(list []admissionregistrationv1.MatchCondition, params bool, mode Mode) Conditions {
	if len(list) == 0 {
		return nil
	}
	out := make(Conditions, len(list))
	for i := range list {
		out[i] = c.Compile(list[i].Expression, Sees{Params: params, Authorizer: true}, mode, cel.BoolType)
	}
	return out
}

// Match says whether all conditions hold. One that does not hold decides, whatever errors others have; without one, an error is
// an error.
func (c Conditions) Match(ctx context.Context, a *Activation) (bool, error) {
	budget := ConditionsBudget
	var errs []error
	for i := range c {
		r, err := a.Evaluate(ctx, &c[i], &budget)
		switch {
		case err != nil:
			return false, err
		case r.Err != nil:
			errs = append(errs, r.Err)
		case r.Value == types.False:
			return false, nil
		case r.Value != types.True:
			errs = append(errs, errors.New("a match condition is neither true nor false"))
		}
	}
	if len(errs) > 0 {
		return false, utilerrors.NewAggregate(errs)
	}
	return true, nil
}
