package node

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/check"
	"github.com/celox/celox/internal/api/podspec"
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
		Warnings: api.Warn(warnRuntimeClass),
		ValidateUpdate: api.CheckUpdate(func(c, old *nodev1.RuntimeClass) field.ErrorList {
			handler := field.NewPath("handler")
			errs := check.Unchanged(c.Handler, old.Handler, handler)
			switch {
			case len(errs) == 0:
				return validateRuntimeClass(c)
			case c.Handler == "":
				errs = append(errs, check.Missing(handler)...)
			default:
				// What else upstream declares of a field counts only as long as it stays; what it checks besides is told first.
				errs = append(check.DNSLabel(c.Handler, handler), errs...)
			}
			return append(errs, validateRuntimeRest(c)...)
		}),
		AllowCreateOnUpdate: true,
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

// warnRuntimeClass tells of labels in the node selector that nodes no longer have.
func warnRuntimeClass(c, _ *nodev1.RuntimeClass) []string {
	if c.Scheduling == nil {
		return nil
	}
	var out []string
	for _, key := range check.Keys(c.Scheduling.NodeSelector) {
		if text, ok := podspec.OldNodeLabel(key); ok {
			out = append(out, field.NewPath("scheduling", "nodeSelector").String()+": "+text)
		}
	}
	return out
}

func validateRuntimeClass(c *nodev1.RuntimeClass) field.ErrorList {
	var errs field.ErrorList
	if c.Handler == "" {
		errs = append(errs, check.Missing(field.NewPath("handler"))...)
	} else {
		errs = append(errs, check.ShortName(c.Handler, field.NewPath("handler"))...)
	}
	return append(errs, validateRuntimeRest(c)...)
}

// validateRuntimeRest checks all but the handler.
func validateRuntimeRest(c *nodev1.RuntimeClass) field.ErrorList {
	var errs field.ErrorList
	if c.Overhead != nil {
		errs = append(errs, podspec.ValidateOverhead(c.Overhead.PodFixed, field.NewPath("overhead"))...)
	}
	if c.Scheduling != nil {
		p := field.NewPath("scheduling")
		errs = append(errs, check.Labels(c.Scheduling.NodeSelector, p.Child("nodeSelector"))...)
		errs = append(errs, validateTolerations(c.Scheduling.Tolerations, p.Child("tolerations"))...)
	}
	return errs
}

// validateTolerations checks what pods of a class get. Two tolerations of the same taint are a mistake.
func validateTolerations(list []corev1.Toleration, p *field.Path) field.ErrorList {
	errs := podspec.ValidateTolerations(list, p)
	for i := range list {
		same := func(t corev1.Toleration) bool {
			t.TolerationSeconds = list[i].TolerationSeconds
			return t == list[i]
		}
		if slices.ContainsFunc(list[:i], same) {
			errs = append(errs, field.Duplicate(p.Index(i), check.Rendered(list[i])))
		}
	}
	return errs
}
