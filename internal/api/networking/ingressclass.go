package networking

import (
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/check"
	"github.com/celox/celox/internal/api/table"
)

// maxControllerName limits the name of the controller of a class, in bytes.
const maxControllerName = 250

func ingressClass() *api.Kind {
	return &api.Kind{
		Group:         "networking.k8s.io",
		Kind:          "IngressClass",
		Resource:      "ingressclasses",
		Singular:      "ingressclass",
		Prefix:        "ingressclasses",
		Versions:      []api.Version{api.NewVersion[networkingv1.IngressClass, networkingv1.IngressClassList]("v1")},
		Hub:           "v1",
		HasGeneration: true,
		Default: api.On(func(c *networkingv1.IngressClass) {
			if p := c.Spec.Parameters; p != nil && p.Scope == nil {
				s := networkingv1.IngressClassParametersReferenceScopeCluster
				p.Scope = &s
			}
		}),
		Validate: api.Check(validateIngressClass),
		ValidateUpdate: api.CheckUpdate(func(c, old *networkingv1.IngressClass) field.ErrorList {
			return append(check.Immutable(c.Spec.Controller, old.Spec.Controller, field.NewPath("spec", "controller")), validateIngressClass(c)...)
		}),
		AllowUnconditionalUpdate: true,
		Columns: api.Columns(
			table.Name(),
			table.Column("Controller", table.String, "Controller that is responsible for handling this class"),
			table.Column("Parameters", table.String, "A reference to a resource with additional parameters"),
			table.AgeColumn(),
		),
		Row: api.Row(func(c *networkingv1.IngressClass, now time.Time) []any {
			params := table.None
			if p := c.Spec.Parameters; p != nil {
				params = p.Kind
				if p.APIGroup != nil {
					params += "." + *p.APIGroup
				}
				params += "/" + p.Name
			}
			return []any{c.Name, c.Spec.Controller, params, table.Age(c, now)}
		}),
	}
}

func validateIngressClass(c *networkingv1.IngressClass) field.ErrorList {
	at := field.NewPath("spec", "controller")
	var errs field.ErrorList
	if len(c.Spec.Controller) > maxControllerName {
		errs = append(errs, field.TooLong(at, c.Spec.Controller, maxControllerName))
	}
	errs = append(errs, validation.IsDomainPrefixedPath(at, c.Spec.Controller)...)
	p := c.Spec.Parameters
	if p == nil {
		return errs
	}
	at = field.NewPath("spec", "parameters")
	if p.APIGroup != nil {
		errs = append(errs, check.DNSSubdomain(*p.APIGroup, at.Child("apiGroup"))...)
	}
	for _, f := range []struct{ name, value string }{{"kind", p.Kind}, {"name", p.Name}} {
		if f.value == "" {
			errs = append(errs, check.Missing(at.Child(f.name))...)
		} else {
			errs = append(errs, validateSegment(f.value, at.Child(f.name))...)
		}
	}
	if p.Scope == nil {
		return append(errs, field.Required(at.Child("scope"), ""))
	}
	errs = append(errs, check.OneOf(*p.Scope, at.Child("scope"), networkingv1.IngressClassParametersReferenceScopeCluster, networkingv1.IngressClassParametersReferenceScopeNamespace)...)
	switch namespace := at.Child("namespace"); *p.Scope {
	case networkingv1.IngressClassParametersReferenceScopeNamespace:
		if p.Namespace == nil {
			errs = append(errs, field.Required(namespace, "`parameters.scope` is set to 'Namespace'"))
		} else {
			errs = append(errs, check.DNSLabel(*p.Namespace, namespace)...)
		}
	case networkingv1.IngressClassParametersReferenceScopeCluster:
		if p.Namespace != nil {
			errs = append(errs, field.Forbidden(namespace, "`parameters.scope` is set to 'Cluster'"))
		}
	}
	return errs
}
