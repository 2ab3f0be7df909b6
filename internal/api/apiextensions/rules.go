package apiextensions

import (
	"fmt"
	"math"
	"slices"
	"strings"

	celgo "github.com/google/cel-go/cel"
	internal "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel/model"
	"k8s.io/apimachinery/pkg/util/validation/field"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	apiservercel "k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/environment"
)

// Limits of the estimated cost of one expression, and of all of a definition.
const (
	maxRuleCost  = 10_000_000
	maxTotalCost = 100_000_000
)

// ruleErrors checks the rules (x-kubernetes-validations) of one schema.
func (w *walk) ruleErrors(j *internal.JSONSchemaProps, p *field.Path) {
	if len(j.XValidations) == 0 {
		return
	}
	all := p.Child("x-kubernetes-validations")
	for i := range j.XValidations {
		w.found.add(formErrors(j, &j.XValidations[i], all.Index(i))...)
	}
	// What is wrong with a schema would be said again, and less clearly, by the compiler.
	if len(w.found.schema) > 0 || w.rules == nil {
		return
	}
	types, err := w.rules.types()
	switch {
	case err != nil:
		w.addRule(field.InternalError(all, fmt.Errorf("internal error: failed to construct type information for x-kubernetes-validations rules: %w", err)))
		return
	case types == nil:
		w.addRule(field.InternalError(all, fmt.Errorf("internal error: failed to retrieve type information for x-kubernetes-validations")))
		return
	}
	results, err := cel.Compile(types.schema, types.decl, celconfig.PerCallLimit, environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()), w.checks)
	if err != nil {
		w.addRule(field.InternalError(all, err))
		return
	}
	for i := range results {
		w.compiled(j, i, &results[i], all.Index(i))
	}
}

func (w *walk) addRule(e *field.Error) { w.found.rules = append(w.found.rules, e) }

// formErrors checks what can be seen of a rule without compiling it.
func formErrors(j *internal.JSONSchemaProps, r *internal.ValidationRule, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	rule, message := strings.TrimSpace(r.Rule), strings.TrimSpace(r.Message)
	switch {
	case rule == "":
		errs = append(errs, field.Required(p.Child("rule"), "rule is not specified"))
	case r.Message != "" && message == "":
		errs = append(errs, field.Invalid(p.Child("message"), r.Message, "must be non-empty if specified"))
	case manyLines(message):
		errs = append(errs, field.Invalid(p.Child("message"), r.Message, "must not contain line breaks"))
	case manyLines(rule) && message == "":
		errs = append(errs, field.Required(p.Child("message"), "message must be specified if rule contains line breaks"))
	}
	if r.MessageExpression != "" && strings.TrimSpace(r.MessageExpression) == "" {
		errs = append(errs, field.Required(p.Child("messageExpression"), "messageExpression must be non-empty if specified"))
	}
	reasons := []string{string(internal.FieldValueDuplicate), string(internal.FieldValueForbidden), string(internal.FieldValueInvalid), string(internal.FieldValueRequired)}
	if r.Reason != nil && !slices.Contains(reasons, string(*r.Reason)) {
		errs = append(errs, field.NotSupported(p.Child("reason"), *r.Reason, reasons))
	}
	at := p.Child("fieldPath")
	if r.FieldPath == "" {
		return errs
	}
	if strings.TrimSpace(r.FieldPath) == "" {
		errs = append(errs, field.Invalid(at, r.FieldPath, "must be non-empty if specified"))
	}
	if manyLines(r.FieldPath) {
		errs = append(errs, field.Invalid(at, r.FieldPath, "must not contain line breaks"))
	}
	if s, err := structuralschema.NewStructural(j); err == nil {
		if _, _, err := cel.ValidFieldPath(r.FieldPath, withoutHoles(s)); err != nil {
			errs = append(errs, field.Invalid(at, r.FieldPath, "must be a valid path"))
		}
	}
	return errs
}

func manyLines(s string) bool { return strings.ContainsAny(s, "\n\r") }

// compiled looks at what the compiler says of a rule: whether it compiles, what it costs, and what it does.
func (w *walk) compiled(j *internal.JSONSchemaProps, i int, r *cel.CompilationResult, p *field.Path) {
	rule := &j.XValidations[i]
	cost := product(r.MaxCost, r.MaxCardinality)
	if w.rules.cardinality != nil {
		cost = product(r.MaxCost, *w.rules.cardinality)
	}
	if !w.checks.expensive && cost > maxRuleCost {
		w.addRule(field.Forbidden(p.Child("rule"), tooExpensive("estimated rule cost", cost, maxRuleCost)))
	}
	w.rules.total.add(p.Child("rule"), cost)
	if e := r.Error; e != nil {
		if e.Type == apiservercel.ErrorTypeRequired {
			w.addRule(field.Required(p.Child("rule"), e.Detail))
		} else {
			w.addRule(field.Invalid(p.Child("rule"), *rule, e.Detail))
		}
	}
	message := p.Child("messageExpression")
	switch {
	case r.MessageExpressionError != nil:
		w.addRule(field.Invalid(message, *rule, r.MessageExpressionError.Detail))
	case r.MessageExpression != nil:
		if !w.checks.expensive && r.MessageExpressionMaxCost > maxRuleCost {
			w.addRule(field.Forbidden(message, tooExpensive("estimated messageExpression cost", r.MessageExpressionMaxCost, maxRuleCost)))
		}
		w.rules.total.add(message, r.MessageExpressionMaxCost)
	}
	switch {
	case r.UsesOldSelf && w.uncorrelatable != nil:
		w.addRule(field.Invalid(p.Child("rule"), rule.Rule, fmt.Sprintf("oldSelf cannot be used on the uncorrelatable portion of the schema within %v", w.uncorrelatable)))
	case !r.UsesOldSelf && rule.OptionalOldSelf != nil:
		w.addRule(field.Invalid(p.Child("optionalOldSelf"), *rule.OptionalOldSelf, "may not be set if oldSelf is not used in rule"))
	}
}

// RuleEnv implements cel.EnvLoader: rules that there were may use what newer versions of the language no longer let in.
func (t *tolerance) RuleEnv(set *environment.EnvSet, expression string) *celgo.Env {
	if t.rules[expression] {
		return set.StoredExpressionsEnv()
	}
	return set.NewExpressionsEnv()
}

// MessageExpressionEnv implements cel.EnvLoader.
func (t *tolerance) MessageExpressionEnv(set *environment.EnvSet, expression string) *celgo.Env {
	if t.messages[expression] {
		return set.StoredExpressionsEnv()
	}
	return set.NewExpressionsEnv()
}

// tooExpensive says by how much a cost is over its limit.
func tooExpensive(what string, cost, limit uint64) string {
	factor := float64(cost) / float64(limit)
	by := fmt.Sprintf("%.1fx", factor)
	switch {
	case factor > 100:
		by = "more than 100x"
	case factor < 1.5:
		by = fmt.Sprintf("%fx", factor)
	}
	return fmt.Sprintf("%s exceeds budget by factor of %s (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)", what, by)
}

// product multiplies and stops at the largest number.
func product(a, b uint64) uint64 {
	if a != 0 && math.MaxUint64/a < b {
		return math.MaxUint64
	}
	return a * b
}

// total is the cost of all rules of a schema.
type total struct {
	sum uint64
	// most are the costliest few.
	most []struct {
		path *field.Path
		cost uint64
	}
}

func (t *total) add(p *field.Path, cost uint64) {
	if t.sum > math.MaxUint64-cost {
		t.sum = math.MaxUint64
	} else {
		t.sum += cost
	}
	const shown, from = 4, maxTotalCost / 100
	if cost < from {
		return
	}
	t.most = append(t.most, struct {
		path *field.Path
		cost uint64
	}{p, cost})
	slices.SortStableFunc(t.most, func(a, b struct {
		path *field.Path
		cost uint64
	},
	) int {
		switch {
		case a.cost > b.cost:
			return -1
		case a.cost < b.cost:
			return 1
		}
		return 0
	})
	t.most = t.most[:min(len(t.most), shown)]
}

func (t *total) errors(p *field.Path) field.ErrorList {
	if t.sum <= maxTotalCost {
		return nil
	}
	var errs field.ErrorList
	for _, m := range t.most {
		errs = append(errs, field.Forbidden(m.path, "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema"))
	}
	return append(errs, field.Forbidden(p, tooExpensive("x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema", t.sum, maxTotalCost)))
}

// scope is what rules at one place of a schema can see, and how often that place can be there. The methods may be called on nil.
type scope struct {
	above  *scope
	schema *internal.JSONSchemaProps
	// ruled is set at and below the first schema with rules: types are of no use elsewhere.
	ruled bool
	// cardinality is how many values the place has at most in one object; nil is unlimited.
	cardinality *uint64
	total       *total
	// from takes the types out of those above; nil if they are not there.
	from func(*typeInfo) *typeInfo

	known    *typeInfo
	knownErr error
}

type typeInfo struct {
	schema *structuralschema.Structural
	decl   *apiservercel.DeclType
}

func rootScope(j *internal.JSONSchemaProps) *scope {
	one := uint64(1)
	return &scope{schema: j, ruled: len(j.XValidations) > 0, cardinality: &one, total: &total{}}
}

func (s *scope) below(j *internal.JSONSchemaProps, from func(*typeInfo) *typeInfo) *scope {
	if s == nil || j == nil {
		return nil
	}
	next := &scope{above: s, schema: j, ruled: s.ruled || len(j.XValidations) > 0, total: s.total, from: from}
	if most := s.multiplies(); s.cardinality != nil && most != nil {
		n := product(*s.cardinality, *most)
		next.cardinality = &n
	}
	return next
}

// multiplies is how many values each of the place's children can have in one value of it; nil is unlimited.
func (s *scope) multiplies() *uint64 {
	limit := func(n *int64) *uint64 {
		if n == nil {
			return nil
		}
		u := uint64(max(*n, 0))
		return &u
	}
	switch {
	case s.schema.Type == "object" && s.schema.AdditionalProperties != nil:
		return limit(s.schema.MaxProperties)
	case s.schema.Type == "array":
		return limit(s.schema.MaxItems)
	}
	one := uint64(1)
	return &one
}

func (s *scope) property(j *internal.JSONSchemaProps, name string) *scope {
	return s.below(j, func(t *typeInfo) *typeInfo {
		p, ok := t.schema.Properties[name]
		if !ok {
			return nil
		}
		escaped, ok := apiservercel.Escape(name)
		if !ok {
			return nil
		}
		if f, ok := t.decl.Fields[escaped]; ok {
			return &typeInfo{&p, f.Type}
		}
		return nil
	})
}

func (s *scope) values(j *internal.JSONSchemaProps) *scope {
	return s.below(j, func(t *typeInfo) *typeInfo {
		if a := t.schema.AdditionalProperties; a != nil && a.Structural != nil {
			return &typeInfo{a.Structural, t.decl.ElemType}
		}
		return nil
	})
}

func (s *scope) items(j *internal.JSONSchemaProps) *scope {
	return s.below(j, func(t *typeInfo) *typeInfo {
		if t.schema.Items != nil {
			return &typeInfo{t.schema.Items, t.decl.ElemType}
		}
		return nil
	})
}

// types returns what the compiler has to know of the place: from above if it is there, because making it costs.
func (s *scope) types() (*typeInfo, error) {
	if s == nil || !s.ruled {
		return nil, nil
	}
	if s.known != nil || s.knownErr != nil {
		return s.known, s.knownErr
	}
	if s.above != nil {
		above, err := s.above.types()
		if err != nil {
			s.knownErr = err
			return nil, err
		}
		if above != nil {
			if s.known = s.from(above); s.known != nil {
				return s.known, nil
			}
		}
	}
	structural, err := structuralschema.NewStructural(s.schema)
	if err != nil {
		s.knownErr = err
		return nil, err
	}
	decl := model.SchemaDeclType(structural, s.above == nil || s.schema.XEmbeddedResource)
	if decl == nil {
		s.knownErr = fmt.Errorf("unable to convert structural schema to CEL declarations")
		return nil, s.knownErr
	}
	s.known = &typeInfo{structural, decl}
	return s.known, nil
}
