package resource

import (
	"time"

	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/check"
	"github.com/celox/celox/internal/api/table"
)

func deviceTaintRule() *api.Kind {
	return &api.Kind{
		Group:         "resource.k8s.io",
		Kind:          "DeviceTaintRule",
		Resource:      "devicetaintrules",
		Singular:      "devicetaintrule",
		Prefix:        "devicetaintrules",
		Versions:      []api.Version{api.NewVersion[resourcev1.DeviceTaintRule, resourcev1.DeviceTaintRuleList]("v1")},
		Hub:           "v1",
		Subresources:  []api.Subresource{api.TablelessStatus()},
		HasGeneration: true,
		Resets:        map[string][]string{"": {"status"}, "status": {"metadata", "spec"}},
		PrepareForCreate: api.On(func(r *resourcev1.DeviceTaintRule) {
			r.Status = resourcev1.DeviceTaintRuleStatus{}
		}),
		PrepareForUpdate: api.OnUpdate(func(r, old *resourcev1.DeviceTaintRule) { r.Status = old.Status }),
		PrepareForStatusUpdate: api.OnUpdate(func(r, old *resourcev1.DeviceTaintRule) {
			r.Spec = old.Spec
			metav1.ResetObjectMetaForStatus(&r.ObjectMeta, &old.ObjectMeta)
		}),
		Default:        api.On(func(r *resourcev1.DeviceTaintRule) { stamp(&r.Spec.Taint) }),
		Validate:       api.Check(validateDeviceTaintRule),
		ValidateUpdate: api.CheckUpdate(validateDeviceTaintRuleUpdate),
		ValidateStatusUpdate: api.CheckUpdate(func(r, _ *resourcev1.DeviceTaintRule) field.ErrorList {
			p := field.NewPath("status", "conditions")
			errs := metav1validation.ValidateConditions(r.Status.Conditions, p)
			if n := len(r.Status.Conditions); n > resourcev1.DeviceTaintRuleStatusMaxConditions {
				errs = append(errs, field.TooMany(p, n, resourcev1.DeviceTaintRuleStatusMaxConditions))
			}
			return errs
		}),
		ReturnDeleted: true,
		Columns: api.Columns(
			table.Name(),
			table.Column("Key", table.String, resourcev1.DeviceTaint{}.SwaggerDoc()["key"]),
			table.Column("Value", table.String, resourcev1.DeviceTaint{}.SwaggerDoc()["value"]),
			table.Column("Effect", table.String, resourcev1.DeviceTaint{}.SwaggerDoc()["effect"]),
			table.Column("TimeAdded", table.String, resourcev1.DeviceTaint{}.SwaggerDoc()["timeAdded"]),
			table.AgeColumn(),
		),
		Row: api.Row(func(r *resourcev1.DeviceTaintRule, now time.Time) []any {
			t, added := &r.Spec.Taint, ""
			if t.TimeAdded != nil {
				added = table.Since(*t.TimeAdded, now)
			}
			return []any{r.Name, t.Key, t.Value, string(t.Effect), added, table.Age(r, now)}
		}),
	}
}

// stamp notes when a taint was put on, if nobody said.
func stamp(t *resourcev1.DeviceTaint) {
	if t.TimeAdded == nil {
		now := metav1.Now().Rfc3339Copy()
		t.TimeAdded = &now
	}
}

func validateDeviceTaintRule(r *resourcev1.DeviceTaintRule) field.ErrorList {
	return validateDeviceTaintRuleUpdate(r, nil)
}

// validateDeviceTaintRuleUpdate lets an effect stay that a newer release knows.
func validateDeviceTaintRuleUpdate(r, old *resourcev1.DeviceTaintRule) field.ErrorList {
	p := field.NewPath("spec")
	var errs field.ErrorList
	if s := r.Spec.DeviceSelector; s != nil {
		at := p.Child("deviceSelector")
		if s.Driver != nil {
			errs = append(errs, validateDriver(*s.Driver, at.Child("driver"))...)
		}
		if s.Pool != nil {
			errs = append(errs, validatePool(*s.Pool, at.Child("pool"))...)
		}
		if s.Device != nil {
			errs = append(errs, check.DNSLabel(*s.Device, at.Child("device"))...)
		}
	}
	known := old != nil && old.Spec.Taint.Effect == r.Spec.Taint.Effect
	return append(errs, validateTaint(&r.Spec.Taint, known, p.Child("taint"))...)
}
