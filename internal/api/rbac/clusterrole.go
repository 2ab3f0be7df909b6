package rbac

import (
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/validation/path"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/check"
)

func clusterRole() *api.Kind {
	return &api.Kind{
		Group:    "rbac.authorization.k8s.io",
		Kind:     "ClusterRole",
		Resource: "clusterroles",
		Singular: "clusterrole",

		Prefix:                   "clusterroles",
		Versions:                 []api.Version{api.NewVersion[rbacv1.ClusterRole, rbacv1.ClusterRoleList]("v1")},
		Hub:                      "v1",
		ValidateName:             path.ValidatePathSegmentName,
		Validate:                 api.Check(validateClusterRole),
		ValidateUpdate:           api.CheckUpdate(func(r, _ *rbacv1.ClusterRole) field.ErrorList { return validateClusterRole(r) }),
		AllowCreateOnUpdate:      true,
		AllowUnconditionalUpdate: true,
	}
}

func validateClusterRole(r *rbacv1.ClusterRole) field.ErrorList {
	errs := validateRules(r.Rules, false)
	if r.AggregationRule == nil {
		return errs
	}
	p := field.NewPath("aggregationRule", "clusterRoleSelectors")
	if len(r.AggregationRule.ClusterRoleSelectors) == 0 {
		return append(errs, field.Required(p, "at least one clusterRoleSelector required if aggregationRule is non-nil"))
	}
	for i := range r.AggregationRule.ClusterRoleSelectors {
		s := &r.AggregationRule.ClusterRoleSelectors[i]
		errs = append(errs, check.Selector(s, p.Index(i), false)...)
		if _, err := metav1.LabelSelectorAsSelector(s); err != nil {
			errs = append(errs, field.Invalid(p.Index(i), nil, "invalid label selector."))
		}
	}
	return errs
}
