package networking

import (
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/validation/path"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/check"
	"github.com/celox/celox/internal/api/table"
)

func ipAddress() *api.Kind {
	return &api.Kind{
		Group:      "networking.k8s.io",
		Kind:       "IPAddress",
		Resource:   "ipaddresses",
		Singular:   "ipaddress",
		ShortNames: []string{"ip"},
		Prefix:     "ipaddresses",
		Versions:   []api.Version{api.NewVersion[networkingv1.IPAddress, networkingv1.IPAddressList]("v1")},
		Hub:        "v1",
		// The name is the address, in the one way to write it.
		ValidateName: func(name string, _ bool) []string {
			var out []string
			for _, e := range validation.IsValidIP(nil, name) {
				out = append(out, e.Detail)
			}
			return out
		},
		Validate: api.Check(validateIPAddress),
		ValidateUpdate: api.CheckUpdate(func(a, old *networkingv1.IPAddress) field.ErrorList {
			return append(validateIPAddress(a), check.Unchanged(a.Spec.ParentRef, old.Spec.ParentRef, field.NewPath("spec", "parentRef"))...)
		}),
		AllowUnconditionalUpdate: true,
		Columns: api.Columns(
			table.Name(),
			table.Column("ParentRef", table.String, networkingv1.IPAddressSpec{}.SwaggerDoc()["parentRef"]),
		),
		// Upstream's rows have an age that no column announces; clients that count on it find it here too.
		Row: api.Row(func(a *networkingv1.IPAddress, now time.Time) []any {
			parent := table.None
			if r := a.Spec.ParentRef; r != nil {
				parent = r.Resource
				if r.Group != "" {
					parent += "." + r.Group
				}
				if r.Namespace != "" {
					parent += "/" + r.Namespace
				}
				parent += "/" + r.Name
			}
			return []any{a.Name, parent, table.Age(a, now)}
		}),
	}
}

func validateIPAddress(a *networkingv1.IPAddress) field.ErrorList {
	p, r := field.NewPath("spec", "parentRef"), a.Spec.ParentRef
	if r == nil {
		return field.ErrorList{field.Required(p, "")}
	}
	var errs field.ErrorList
	if r.Group != "" {
		errs = append(errs, check.DNSSubdomain(r.Group, p.Child("group"))...)
	}
	errs = append(errs, declaredSegment(r.Resource, p.Child("resource"))...)
	errs = append(errs, declaredSegment(r.Name, p.Child("name"))...)
	if r.Namespace != "" {
		errs = append(errs, check.Each(path.IsValidPathSegmentName(r.Namespace), p.Child("namespace"), r.Namespace)...)
	}
	return errs
}

// declaredSegment wants a segment of a path; that there is one is declared on the type.
func declaredSegment(v string, p *field.Path) field.ErrorList {
	if v == "" {
		return check.Missing(p)
	}
	return validateSegment(v, p)
}
