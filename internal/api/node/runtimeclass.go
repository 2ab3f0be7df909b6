package node

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/check"
	"github.com/celox/celox/internal/api/table"
)

func runtimeClass() *api.Kind {
	return &api.Kind{
		Group:    "node.k8s.io",
		Kind:     "RuntimeClass",
		Resource: "runtimeclasses",
		Singular: "runtimeclass",
		Prefix:   "runtimeclasses",
		Versions: []api.Version{api.NewVersion[nodev1.RuntimeClass, nodev1.RuntimeClassList]("v1")},
		Hub:      "v1",
		Validate: api.Check(validateRuntimeClass),
		ValidateUpdate: api.CheckUpdate(func(c, old *nodev1.RuntimeClass) field.ErrorList {
			return append(validateRuntimeClass(c), check.Immutable(c.Handler, old.Handler, field.NewPath("handler"))...)
		}),
		Columns: api.Columns(
			table.Name(),
			table.Column("Handler", table.String, ""),
			table.AgeColumn(),
		),
		Row: api.Row(func(c *nodev1.RuntimeClass, now time.Time) []any {
			return []any{c.Name, c.Handler, table.Age(c, now)}
		}),
	}
}

func validateRuntimeClass(c *nodev1.RuntimeClass) field.ErrorList {
	var errs field.ErrorList
	if c.Handler == "" {
		errs = append(errs, field.Required(field.NewPath("handler"), ""))
	} else {
		errs = append(errs, check.DNSLabel(c.Handler, field.NewPath("handler"))...)
	}
	if c.Overhead != nil {
		p := field.NewPath("overhead", "limits")
		for _, name := range check.Sorted(c.Overhead.PodFixed) {
			errs = append(errs, check.NonNegativeQuantity(c.Overhead.PodFixed[name], p.Key(string(name)))...)
		}
	}
	if c.Scheduling != nil {
		p := field.NewPath("scheduling")
		errs = append(errs, check.Labels(c.Scheduling.NodeSelector, p.Child("nodeSelector"))...)
		errs = append(errs, validateTolerations(c.Scheduling.Tolerations, p.Child("tolerations"))...)
	}
	return errs
}

// validateTolerations checks what pods of a class get. Two equal tolerations are a mistake.
func validateTolerations(list []corev1.Toleration, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range list {
		t, at := &list[i], p.Index(i)
		if t.Key != "" {
			errs = append(errs, check.QualifiedName(t.Key, at.Child("key"))...)
		}
		if t.Key == "" && t.Operator != corev1.TolerationOpExists {
			errs = append(errs, field.Invalid(at.Child("operator"), t.Operator, "operator must be Exists when `key` is empty, which means \"match all values and all keys\""))
		}
		if t.TolerationSeconds != nil && t.Effect != corev1.TaintEffectNoExecute {
			errs = append(errs, field.Invalid(at.Child("effect"), t.Effect, "effect must be 'NoExecute' when `tolerationSeconds` is set"))
		}
		switch t.Operator {
		case corev1.TolerationOpEqual, "":
			errs = append(errs, check.Each(validation.IsValidLabelValue(t.Value), at.Child("operator"), t.Value)...)
		case corev1.TolerationOpExists:
			if t.Value != "" {
				errs = append(errs, field.Invalid(at.Child("operator"), t, "value must be empty when `operator` is 'Exists'"))
			}
		default:
			errs = append(errs, field.NotSupported(at.Child("operator"), t.Operator, []corev1.TolerationOperator{corev1.TolerationOpEqual, corev1.TolerationOpExists}))
		}
		if t.Effect != "" {
			errs = append(errs, check.OneOf(t.Effect, at.Child("effect"), corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute)...)
		}
		for j := range i {
			if apiequality.Semantic.DeepEqual(list[j], *t) {
				errs = append(errs, field.Duplicate(at, check.Rendered(*t)))
				break
			}
		}
	}
	return errs
}
