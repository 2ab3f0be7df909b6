package custom

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel/model"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/objectmeta"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/cel/common"
)

// Validate checks a new object: its schema, the paths of its Scale, embedded objects, sets and maps, and then the rules. Meta are the complaints about its
// metadata that were made before: the rules are not run if something essential is wrong there.
func (v *Version) Validate(ctx context.Context, o *Object, meta field.ErrorList) field.ErrorList {
	s, errs := v.ready()
	if errs != nil {
		return errs
	}
	content := o.content(o.visible())
	if !v.surely.object(o, s) {
		checks, err := v.validators()
		if err != nil {
			return internalError(err)
		}
		errs = validation.ValidateCustomResource(nil, content, checks.whole)
	}
	errs = append(errs, v.scaleSpec(o)...)
	errs = append(errs, v.scaleStatus(o)...)
	errs = append(errs, embeddedErrors(ctx, content, s)...)
	errs = append(errs, listtype.ValidateListSetsAndMaps(nil, s, content)...)
	return v.applyRules(ctx, meta, errs, s, content, nil)
}

// ValidateUpdate checks a change; what was wrong before and did not change is let be (KEP-4008), with a warning if ctx has a recorder.
// Meta is as in Validate.
func (v *Version) ValidateUpdate(ctx context.Context, o, old *Object, meta field.ErrorList) field.ErrorList {
	s, errs := v.ready()
	if errs != nil {
		return errs
	}
	content, before := o.content(o.visible()), old.content(old.visible())
	correlated := common.NewCorrelatedObject(content, before, &model.Structural{Structural: s})
	if !v.surely.object(o, s) {
		checks, err := v.validators()
		if err != nil {
			return internalError(err)
		}
		errs = validation.ValidateCustomResourceUpdate(nil, content, before, checks.whole, validation.WithRatcheting(correlated))
	}
	errs = append(errs, v.scaleSpec(o)...)
	errs = append(errs, v.scaleStatus(o)...)
	errs = append(errs, embeddedErrors(ctx, content, s)...)
	errs = append(errs, newListErrors(s, content, before)...)
	return v.applyRules(ctx, meta, errs, s, content, before, cel.WithRatcheting(correlated))
}

// ValidateStatusUpdate checks a change of the status. Meta is as in Validate.
func (v *Version) ValidateStatusUpdate(ctx context.Context, o, old *Object, meta field.ErrorList) field.ErrorList {
	s, errs := v.ready()
	if errs != nil {
		return errs
	}
	content, before := o.content(o.visible()), old.content(old.visible())
	correlated := common.NewCorrelatedObject(content, before, &model.Structural{Structural: s})
	var options []validation.ValidationOption
	if s != nil {
		options = append(options, validation.WithRatcheting(correlated.Key("status")))
	}
	if status, has := o.Fields["status"]; has && v.hasStatus() && !v.surely.status(status, s) {
		checks, err := v.validators()
		if err != nil {
			return internalError(err)
		}
		if checks.status != nil {
			errs = validation.ValidateCustomResourceUpdate(field.NewPath("status"), status, old.Fields["status"], checks.status, options...)
		}
	}
	errs = append(errs, v.scaleStatus(o)...)
	errs = append(errs, newListErrors(s, content, before)...)
	return v.applyRules(ctx, meta, errs, s, content, before, cel.WithRatcheting(correlated))
}

// ready compiles what checking needs.
func (v *Version) ready() (*structuralschema.Structural, field.ErrorList) {
	s, err := v.schema()
	if err != nil {
		return nil, internalError(err)
	}
	v.surelyOnce.Do(func() { v.surely = newSurely(s) })
	return s, nil
}

func internalError(err error) field.ErrorList {
	return field.ErrorList{field.InternalError(nil, err)}
}

// newListErrors finds sets and maps with doubled items, unless the old object had some already.
func newListErrors(s *structuralschema.Structural, content, before map[string]any) field.ErrorList {
	errs := listtype.ValidateListSetsAndMaps(nil, s, content)
	if len(errs) == 0 || len(listtype.ValidateListSetsAndMaps(nil, s, before)) > 0 {
		return nil
	}
	return errs
}

// embeddedErrors checks embedded objects. The library goes through maps in any order; complaints come in that of their fields.
func embeddedErrors(ctx context.Context, content map[string]any, s *structuralschema.Structural) field.ErrorList {
	errs := objectmeta.Validate(ctx, nil, content, s, false)
	slices.SortStableFunc(errs, func(a, b *field.Error) int { return strings.Compare(wholeMeta(a.Field), wholeMeta(b.Field)) })
	return errs
}

// wholeMeta cuts the path of a field of an embedded object's metadata down to that of the metadata, whose complaints have an order of their own.
func wholeMeta(path string) string {
	const meta = ".metadata"
	if i := strings.LastIndex(path, meta+"."); i >= 0 {
		return path[:i+len(meta)]
	}
	return path
}

// applyRules runs the CEL rules, unless earlier errors make their results meaningless, and adds what they say to errs.
func (v *Version) applyRules(ctx context.Context, meta, errs field.ErrorList, s *structuralschema.Structural, content, before map[string]any, options ...cel.Option) field.ErrorList {
	rules := v.ruleValidator()
	if rules == nil {
		return errs
	}
	if slices.ContainsFunc(meta, essential) || slices.ContainsFunc(errs, essential) {
		return append(errs, field.Invalid(nil, nil, "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation"))
	}
	var old any
	if before != nil {
		old = before
	}
	more, _ := rules.Validate(ctx, nil, s, content, old, celconfig.RuntimeCELCostBudget, options...)
	return append(errs, more...)
}

// essential says whether something is so wrong that rules would stumble over it.
func essential(e *field.Error) bool {
	switch e.Type {
	case field.ErrorTypeNotSupported, field.ErrorTypeRequired, field.ErrorTypeTooLong, field.ErrorTypeTooMany, field.ErrorTypeTypeInvalid:
		return true
	}
	return false
}

func splitPath(path string) []string { return strings.Split(strings.TrimPrefix(path, "."), ".") }

func (v *Version) scaleSpec(o *Object) field.ErrorList {
	s := v.Scale()
	if s == nil {
		return nil
	}
	return countErrors(o, s.SpecReplicasPath)
}

func (v *Version) scaleStatus(o *Object) field.ErrorList {
	s := v.Scale()
	if s == nil {
		return nil
	}
	errs := countErrors(o, s.StatusReplicasPath)
	if s.LabelSelectorPath != nil {
		if value, found, err := nested(o.Fields, splitPath(*s.LabelSelectorPath)); err != nil {
			errs = append(errs, field.Invalid(field.NewPath(*s.LabelSelectorPath), "", err.Error()))
		} else if _, ok := value.(string); found && !ok {
			errs = append(errs, field.Invalid(field.NewPath(*s.LabelSelectorPath), "", wrongType(splitPath(*s.LabelSelectorPath), value, "string").Error()))
		}
	}
	return errs
}

func wrongType(path []string, value any, want string) error {
	return fmt.Errorf("%s accessor error: %v is of the type %T, expected %s", jsonPath(path), value, value, want)
}

// count reads a number of replicas.
func count(o *Object, path string) (n int64, found bool, err error) {
	at := splitPath(path)
	value, found, err := nested(o.Fields, at)
	if err != nil || !found {
		return 0, false, err
	}
	n, ok := value.(int64)
	if !ok {
		return 0, false, wrongType(at, value, "int64")
	}
	return n, true, nil
}

func countErrors(o *Object, path string) field.ErrorList {
	n, _, err := count(o, path)
	p := field.NewPath(path)
	switch {
	case err != nil:
		return field.ErrorList{field.Invalid(p, n, err.Error())}
	case n < 0:
		return field.ErrorList{field.Invalid(p, n, "should be a non-negative integer")}
	case n > math.MaxInt32:
		return field.ErrorList{field.Invalid(p, n, fmt.Sprintf("should be less than or equal to %v", math.MaxInt32))}
	}
	return nil
}

// Replicas reads what the object's Scale shows. Found says whether the wanted number is set.
func Replicas(o *Object, s *apiextensionsv1.CustomResourceSubresourceScale) (want, have int32, selector string, found bool, err error) {
	w, found, err := count(o, s.SpecReplicasPath)
	if err != nil {
		return 0, 0, "", false, err
	}
	h, _, err := count(o, s.StatusReplicasPath)
	if err != nil {
		return 0, 0, "", false, err
	}
	if s.LabelSelectorPath != nil && *s.LabelSelectorPath != "" {
		at := splitPath(*s.LabelSelectorPath)
		value, there, err := nested(o.Fields, at)
		if err != nil {
			return 0, 0, "", false, err
		}
		if there {
			var ok bool
			if selector, ok = value.(string); !ok {
				return 0, 0, "", false, wrongType(at, value, "string")
			}
		}
	}
	return int32(w), int32(h), selector, found, nil //nolint:gosec // validated to fit
}

// SetReplicas sets the wanted number of replicas of an object that is the caller's.
func SetReplicas(o *Object, s *apiextensionsv1.CustomResourceSubresourceScale, n int32) error {
	path := splitPath(s.SpecReplicasPath)
	m := o.Fields
	if m == nil {
		m = map[string]any{}
		o.Fields = m
	}
	for i, name := range path[:len(path)-1] {
		next, ok := m[name].(map[string]any)
		if !ok {
			if value, there := m[name]; there && value != nil {
				return fmt.Errorf("value cannot be set because %s is not a map[string]interface{}", jsonPath(path[:i+1]))
			}
			next = map[string]any{}
			m[name] = next
		}
		m = next
	}
	m[path[len(path)-1]] = int64(n)
	return nil
}
