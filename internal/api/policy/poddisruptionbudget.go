package policy

import (
	"slices"
	"time"

	policyv1 "k8s.io/api/policy/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/check"
	"github.com/celox/celox/internal/api/table"
)

func podDisruptionBudget() *api.Kind {
	return &api.Kind{
		Group:         "policy",
		Kind:          "PodDisruptionBudget",
		Resource:      "poddisruptionbudgets",
		Singular:      "poddisruptionbudget",
		ShortNames:    []string{"pdb"},
		Namespaced:    true,
		Prefix:        "poddisruptionbudgets",
		Versions:      []api.Version{api.NewVersion[policyv1.PodDisruptionBudget, policyv1.PodDisruptionBudgetList]("v1")},
		Hub:           "v1",
		Subresources:  []api.Subresource{api.Status()},
		HasGeneration: true,
		PrepareForCreate: api.On(func(b *policyv1.PodDisruptionBudget) {
			b.Status = policyv1.PodDisruptionBudgetStatus{}
			dropMarker(b.Spec.Selector)
		}),
		PrepareForUpdate: api.OnUpdate(func(b, old *policyv1.PodDisruptionBudget) {
			b.Status = old.Status
			if !apiequality.Semantic.DeepEqual(b.Spec.Selector, old.Spec.Selector) {
				dropMarker(b.Spec.Selector)
			}
		}),
		PrepareForStatusUpdate: api.OnUpdate(func(b, old *policyv1.PodDisruptionBudget) { b.Spec = old.Spec }),
		MetadataLast:           true, // upstream never asked for more than what all kinds need
		Validate:               api.Check(validateBudget),
		ValidateUpdate:         api.CheckUpdate(func(b, _ *policyv1.PodDisruptionBudget) field.ErrorList { return validateBudget(b) }),
		ValidateStatusUpdate:   api.CheckUpdate(validateBudgetStatus),
		Columns: api.Columns(
			table.Name(),
			table.Column("Min Available", table.String, "The minimum number of pods that must be available."),
			table.Column("Max Unavailable", table.String, "The maximum number of pods that may be unavailable."),
			table.Column("Allowed Disruptions", table.Integer, "Calculated number of pods that may be disrupted at this time."),
			table.AgeColumn(),
		),
		Row: api.Row(func(b *policyv1.PodDisruptionBudget, now time.Time) []any {
			return []any{b.Name, orNA(b.Spec.MinAvailable), orNA(b.Spec.MaxUnavailable), int64(b.Status.DisruptionsAllowed), table.Age(b, now)}
		}),
	}
}

// marker is the label that no pod has: the empty selector, which once selected nothing (v1beta1), is stored with it.
const marker = "pdb.kubernetes.io/deprecated-v1beta1-empty-selector-match"

// dropMarker takes the marker out of a selector where users put it beside something else; alone, that no pod has it, it selects nothing.
func dropMarker(s *metav1.LabelSelector) {
	if s == nil || len(s.MatchLabels) == 0 && len(s.MatchExpressions) == 1 && s.MatchExpressions[0].Operator == metav1.LabelSelectorOpExists && len(s.MatchExpressions[0].Values) == 0 {
		return
	}
	s.MatchExpressions = slices.DeleteFunc(s.MatchExpressions, func(r metav1.LabelSelectorRequirement) bool { return r.Key == marker })
}

func orNA(v *intstr.IntOrString) string {
	if v == nil {
		return "N/A"
	}
	return v.String()
}

func validateBudget(b *policyv1.PodDisruptionBudget) field.ErrorList {
	p, s := field.NewPath("spec"), &b.Spec
	var errs field.ErrorList
	if s.MinAvailable != nil && s.MaxUnavailable != nil {
		errs = append(errs, field.Invalid(p, check.Rendered(*s), "minAvailable and maxUnavailable cannot be both set"))
	}
	for _, f := range []struct {
		name  string
		value *intstr.IntOrString
	}{{"minAvailable", s.MinAvailable}, {"maxUnavailable", s.MaxUnavailable}} {
		if f.value != nil {
			errs = append(errs, check.IntOrPercent(*f.value, p.Child(f.name))...)
			errs = append(errs, check.PercentAtMost100(*f.value, p.Child(f.name))...)
		}
	}
	if s.Selector != nil {
		errs = append(errs, check.Selector(s.Selector, p.Child("selector"), false)...)
	}
	if u := s.UnhealthyPodEvictionPolicy; u != nil {
		errs = append(errs, check.OneOf(*u, p.Child("unhealthyPodEvictionPolicy"), policyv1.AlwaysAllow, policyv1.IfHealthyBudget)...)
	}
	return errs
}

func validateBudgetStatus(b, _ *policyv1.PodDisruptionBudget) field.ErrorList {
	p, s := field.NewPath("status"), &b.Status
	errs := metav1validation.ValidateConditions(s.Conditions, p.Child("conditions"))
	for _, c := range []struct {
		name  string
		value int32
	}{
		{"disruptionsAllowed", s.DisruptionsAllowed}, {"currentHealthy", s.CurrentHealthy},
		{"desiredHealthy", s.DesiredHealthy}, {"expectedPods", s.ExpectedPods},
	} {
		errs = append(errs, check.NonNegative(int64(c.value), p.Child(c.name))...)
	}
	return errs
}
