package scheduling

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/check"
	"github.com/celox/celox/internal/api/table"
)

// Priorities of users end where the system's begin.
const (
	HighestUserPriority int32 = 1000000000
	systemPriority      int32 = 2 * HighestUserPriority
	systemPrefix              = "system-"
)

// SystemClasses are the two classes that every cluster has: name to value.
func SystemClasses() map[string]int32 {
	return map[string]int32{
		"system-cluster-critical": systemPriority,
		"system-node-critical":    systemPriority + 1000,
	}
}

func priorityClass() *api.Kind {
	doc := schedulingv1.PriorityClass{}.SwaggerDoc()
	return &api.Kind{
		Group:         "scheduling.k8s.io",
		Kind:          "PriorityClass",
		Resource:      "priorityclasses",
		Singular:      "priorityclass",
		ShortNames:    []string{"pc"},
		Prefix:        "priorityclasses",
		Versions:      []api.Version{api.NewVersion[schedulingv1.PriorityClass, schedulingv1.PriorityClassList]("v1")},
		Hub:           "v1",
		HasGeneration: true,
		// The generation is set once and never counts.
		GenerationChanged: func(_, _ api.Object) bool { return false },
		Default: api.On(func(c *schedulingv1.PriorityClass) {
			if c.PreemptionPolicy == nil {
				p := corev1.PreemptLowerPriority
				c.PreemptionPolicy = &p
			}
		}),
		Validate:                 api.Check(validatePriorityClass),
		ValidateUpdate:           api.CheckUpdate(validatePriorityClassUpdate),
		AllowUnconditionalUpdate: true,
		Columns: api.Columns(
			table.Name(),
			table.Column("Value", table.Integer, doc["value"]),
			table.Column("Global-Default", table.Boolean, doc["globalDefault"]),
			table.AgeColumn(),
			table.Column("PreemptionPolicy", table.String, doc["preemptionPolicy"]),
		),
		Row: api.Row(func(c *schedulingv1.PriorityClass, now time.Time) []any {
			policy := ""
			if c.PreemptionPolicy != nil {
				policy = string(*c.PreemptionPolicy)
			}
			return []any{c.Name, int64(c.Value), c.GlobalDefault, table.Age(c, now), policy}
		}),
	}
}

func validatePriorityClass(c *schedulingv1.PriorityClass) field.ErrorList {
	var errs field.ErrorList
	switch {
	case strings.HasPrefix(c.Name, systemPrefix):
		if why := notASystemClass(c); why != "" {
			errs = append(errs, field.Forbidden(field.NewPath("metadata", "name"),
				"priority class names with '"+systemPrefix+"' prefix are reserved for system use only. error: "+why))
		}
	case c.Value > HighestUserPriority:
		errs = append(errs, field.Forbidden(field.NewPath("value"), fmt.Sprintf("maximum allowed value of a user defined priority is %v", HighestUserPriority)))
	}
	if c.PreemptionPolicy != nil {
		switch p := *c.PreemptionPolicy; p {
		case corev1.PreemptLowerPriority, corev1.PreemptNever:
		case "":
			errs = append(errs, field.Required(field.NewPath("preemptionPolicy"), ""))
		default:
			errs = append(errs, field.NotSupported(field.NewPath("preemptionPolicy"), p, []corev1.PreemptionPolicy{corev1.PreemptLowerPriority, corev1.PreemptNever}))
		}
	}
	return errs
}

// notASystemClass says what keeps c from being one of the two classes of the system.
func notASystemClass(c *schedulingv1.PriorityClass) string {
	value, ok := SystemClasses()[c.Name]
	switch {
	case !ok:
		return c.Name + " is not a known system priority class"
	case c.Value != value:
		return fmt.Sprintf("value of %v PriorityClass must be %v", c.Name, value)
	case c.GlobalDefault:
		return fmt.Sprintf("globalDefault of %v PriorityClass must be %v", c.Name, false)
	}
	return ""
}

func validatePriorityClassUpdate(c, old *schedulingv1.PriorityClass) field.ErrorList {
	var errs field.ErrorList
	if c.Value != old.Value {
		errs = append(errs, field.Forbidden(field.NewPath("value"), "may not be changed in an update."))
	}
	return append(errs, check.Immutable(c.PreemptionPolicy, old.PreemptionPolicy, field.NewPath("preemptionPolicy"))...)
}
