package networking

import (
	"strings"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/check"
	"github.com/celox/celox/internal/api/table"
)

func serviceCIDR() *api.Kind {
	return &api.Kind{
		Group:            "networking.k8s.io",
		Kind:             "ServiceCIDR",
		Resource:         "servicecidrs",
		Singular:         "servicecidr",
		Prefix:           "servicecidrs",
		Versions:         []api.Version{api.NewVersion[networkingv1.ServiceCIDR, networkingv1.ServiceCIDRList]("v1")},
		Hub:              "v1",
		Subresources:     []api.Subresource{api.Status()},
		Resets:           map[string][]string{"": {"status"}, "status": {"metadata", "spec"}},
		PrepareForCreate: api.On(func(c *networkingv1.ServiceCIDR) { c.Status = networkingv1.ServiceCIDRStatus{} }),
		PrepareForUpdate: api.OnUpdate(func(c, old *networkingv1.ServiceCIDR) { c.Status = old.Status }),
		PrepareForStatusUpdate: api.OnUpdate(func(c, old *networkingv1.ServiceCIDR) {
			c.Spec = old.Spec
			metav1.ResetObjectMetaForStatus(&c.ObjectMeta, &old.ObjectMeta)
		}),
		Validate: api.Check(func(c *networkingv1.ServiceCIDR) field.ErrorList { return validateCIDRs(c.Spec.CIDRs) }),
		ValidateUpdate: api.CheckUpdate(func(c, old *networkingv1.ServiceCIDR) field.ErrorList {
			return unchangedCIDRs(c.Spec.CIDRs, old.Spec.CIDRs)
		}),
		AllowUnconditionalUpdate: true,
		Columns: api.Columns(
			table.Name(),
			table.Column("CIDRs", table.String, networkingv1.ServiceCIDRSpec{}.SwaggerDoc()["cidrs"]),
			table.AgeColumn(),
		),
		Row: api.Row(func(c *networkingv1.ServiceCIDR, now time.Time) []any {
			return []any{c.Name, strings.Join(c.Spec.CIDRs, ","), table.Age(c, now)}
		}),
	}
}

// unchangedCIDRs lets a second network come besides the first, and nothing else.
func unchangedCIDRs(cidrs, old []string) field.ErrorList {
	p := field.NewPath("spec", "cidrs")
	if len(old) == 1 && len(cidrs) == 2 {
		return append(check.Immutable(cidrs[0], old[0], p.Index(0)), validateCIDRs(cidrs)...)
	}
	if len(old) != len(cidrs) {
		return check.Immutable(cidrs, old, p)
	}
	var errs field.ErrorList
	for i := range old {
		errs = append(errs, check.Immutable(cidrs[i], old[i], p.Index(i))...)
	}
	return errs
}

func validateCIDRs(cidrs []string) field.ErrorList {
	p := field.NewPath("spec", "cidrs")
	switch n := len(cidrs); {
	case n == 0:
		return field.ErrorList{field.Required(p, "at least one CIDR required")}
	case n > 2:
		return field.ErrorList{field.Invalid(p, check.Rendered(networkingv1.ServiceCIDRSpec{CIDRs: cidrs}), "may only hold up to 2 values")}
	case n == 2 && netutils.IsIPv6CIDRString(cidrs[0]) == netutils.IsIPv6CIDRString(cidrs[1]):
		if ok, err := netutils.IsDualStackCIDRStrings(cidrs); err == nil && !ok {
			return field.ErrorList{field.Invalid(p, cidrs, "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64")}
		}
	}
	var errs field.ErrorList
	for i, c := range cidrs {
		errs = append(errs, validation.IsValidCIDR(p.Index(i), c)...)
	}
	return errs
}
