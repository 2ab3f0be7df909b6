package podspec

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api/check"
)

// validateSpread checks how the pod wants to be spread over the cluster (KEP-895).
func (v *specValidation) validateSpread(p *field.Path) field.ErrorList {
	list := v.spec.TopologySpreadConstraints
	var errs field.ErrorList
	for i := range list {
		c, at := &list[i], p.Index(i)
		errs = append(errs, check.Positive(int64(c.MaxSkew), at.Child("maxSkew"))...)
		if c.TopologyKey == "" {
			errs = append(errs, field.Required(at.Child("topologyKey"), "can not be empty"))
		}
		errs = append(errs, check.OneOf(c.WhenUnsatisfiable, at.Child("whenUnsatisfiable"), corev1.DoNotSchedule, corev1.ScheduleAnyway)...)
		for j := range list[i+1:] {
			if o := &list[i+1+j]; o.TopologyKey == c.TopologyKey && o.WhenUnsatisfiable == c.WhenUnsatisfiable {
				errs = append(errs, field.Duplicate(at.Child("{topologyKey, whenUnsatisfiable}"), fmt.Sprintf("{%v, %v}", c.TopologyKey, c.WhenUnsatisfiable)))
				break
			}
		}
		errs = append(errs, validateMinDomains(c, at.Child("minDomains"))...)
		for _, f := range []struct {
			name   string
			policy *corev1.NodeInclusionPolicy
		}{{"nodeAffinityPolicy", c.NodeAffinityPolicy}, {"nodeTaintsPolicy", c.NodeTaintsPolicy}} {
			if f.policy != nil {
				errs = append(errs, check.OneOf(*f.policy, at.Child(f.name), corev1.NodeInclusionPolicyIgnore, corev1.NodeInclusionPolicyHonor)...)
			}
		}
		errs = append(errs, validateLabelKeys(c.MatchLabelKeys, c.LabelSelector, at.Child("matchLabelKeys"))...)
		errs = append(errs, check.Selector(c.LabelSelector, at.Child("labelSelector"), v.opts.AllowBadSelectors)...)
	}
	return errs
}

func validateMinDomains(c *corev1.TopologySpreadConstraint, p *field.Path) field.ErrorList {
	if c.MinDomains == nil {
		return nil
	}
	errs := check.Positive(int64(*c.MinDomains), p)
	if c.WhenUnsatisfiable != corev1.DoNotSchedule {
		errs = append(errs, field.Invalid(p, *c.MinDomains,
			fmt.Sprintf("can only use minDomains if whenUnsatisfiable=%s, not %s", corev1.DoNotSchedule, c.WhenUnsatisfiable)))
	}
	return errs
}
