package admissionregistration

import (
	"strings"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api/check"
	"github.com/celox/celox/internal/api/table"
)

// Policies and their bindings, validating and mutating, have these parts in common.

func defaultMatch(m *admissionregistrationv1.MatchResources) {
	if m == nil {
		return
	}
	set(&m.MatchPolicy, admissionregistrationv1.Equivalent)
	set(&m.NamespaceSelector, metav1.LabelSelector{})
	set(&m.ObjectSelector, metav1.LabelSelector{})
	for i := range m.ResourceRules {
		set(&m.ResourceRules[i].Scope, admissionregistrationv1.AllScopes)
	}
	for i := range m.ExcludeResourceRules {
		set(&m.ExcludeResourceRules[i].Scope, admissionregistrationv1.AllScopes)
	}
}

func validateFailurePolicy(f *admissionregistrationv1.FailurePolicyType, p *field.Path) field.ErrorList {
	if f == nil {
		return field.ErrorList{field.Required(p, "")}
	}
	return check.OneOf(*f, p, admissionregistrationv1.Fail, admissionregistrationv1.Ignore)
}

// validateConstraints checks what a policy matches: at least one rule.
func validateConstraints(m *admissionregistrationv1.MatchResources, p *field.Path) field.ErrorList {
	if m == nil {
		return field.ErrorList{field.Required(p, "")}
	}
	errs := validateMatch(m, p)
	if len(m.ResourceRules) == 0 {
		errs = append(errs, field.Required(p.Child("resourceRules"), ""))
	}
	return errs
}

func validateMatch(m *admissionregistrationv1.MatchResources, p *field.Path) field.ErrorList {
	if m == nil {
		return nil
	}
	var errs field.ErrorList
	if m.MatchPolicy == nil {
		errs = append(errs, field.Required(p.Child("matchPolicy"), ""))
	} else {
		errs = append(errs, check.OneOf(*m.MatchPolicy, p.Child("matchPolicy"), admissionregistrationv1.Equivalent, admissionregistrationv1.Exact)...)
	}
	for _, s := range []struct {
		name  string
		value *metav1.LabelSelector
	}{{"namespaceSelector", m.NamespaceSelector}, {"objectSelector", m.ObjectSelector}} {
		if s.value == nil {
			errs = append(errs, field.Required(p.Child(s.name), ""))
		} else {
			errs = append(errs, check.Selector(s.value, p.Child(s.name), false)...)
		}
	}
	for i := range m.ResourceRules {
		errs = append(errs, validateNamedRule(&m.ResourceRules[i], p.Child("resourceRules").Index(i))...)
	}
	for i := range m.ExcludeResourceRules {
		errs = append(errs, validateNamedRule(&m.ExcludeResourceRules[i], p.Child("excludeResourceRules").Index(i))...)
	}
	return errs
}

// validateMutable wants operations with objects that can be changed.
func validateMutable(m *admissionregistrationv1.MatchResources, p *field.Path) field.ErrorList {
	if m == nil {
		return nil
	}
	var errs field.ErrorList
	for i := range m.ResourceRules {
		for _, o := range m.ResourceRules[i].Operations {
			errs = append(errs, check.OneOf(o, p.Child("resourceRules", "operations"), admissionregistrationv1.OperationAll,
				admissionregistrationv1.Create, admissionregistrationv1.Update, admissionregistrationv1.Connect)...)
		}
	}
	return errs
}

func validateNamedRule(r *admissionregistrationv1.NamedRuleWithOperations, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := map[string]bool{}
	for i, name := range r.ResourceNames {
		at := p.Child("resourceNames").Index(i)
		errs = append(errs, validateSegment(name, at)...)
		if seen[name] {
			errs = append(errs, field.Duplicate(at, name))
		}
		seen[name] = true
	}
	return append(errs, validateRule(&r.RuleWithOperations, p)...)
}

func validateParamKind(k *admissionregistrationv1.ParamKind, p *field.Path) field.ErrorList {
	if k == nil {
		return nil
	}
	var errs field.ErrorList
	version := p.Child("apiVersion")
	if k.APIVersion == "" {
		errs = append(errs, field.Required(version, ""))
	} else if gv, err := schema.ParseGroupVersion(k.APIVersion); err != nil {
		errs = append(errs, field.Invalid(version, k.APIVersion, err.Error()))
	} else {
		if gv.Group != "" {
			errs = append(errs, joined(validation.IsDNS1123Subdomain(gv.Group), "", version, gv.Group)...)
		}
		if gv.Version == "" {
			errs = append(errs, field.Invalid(version, k.APIVersion, "version must be specified"))
		} else {
			errs = append(errs, joined(validation.IsDNS1035Label(gv.Version), "", version, gv.Version)...)
		}
	}
	if k.Kind == "" {
		return append(errs, field.Required(p.Child("kind"), ""))
	}
	return append(errs, joined(validation.IsDNS1035Label(strings.ToLower(k.Kind)), "may have mixed case, but should otherwise match: ", p.Child("kind"), k.Kind)...)
}

// joined makes one complaint of several texts.
func joined(texts []string, before string, p *field.Path, v string) field.ErrorList {
	if len(texts) == 0 {
		return nil
	}
	return field.ErrorList{field.Invalid(p, v, before+strings.Join(texts, ","))}
}

func validateParamRef(r *admissionregistrationv1.ParamRef, p *field.Path) field.ErrorList {
	if r == nil {
		return nil
	}
	var errs field.ErrorList
	const exclusive = "name and selector are mutually exclusive"
	if r.Name != "" {
		errs = append(errs, validateSegment(r.Name, p.Child("name"))...)
		if r.Selector != nil {
			errs = append(errs, field.Forbidden(p.Child("name"), exclusive))
		}
	}
	if r.Selector != nil {
		errs = append(errs, check.Selector(r.Selector, p.Child("selector"), false)...)
		if r.Name != "" {
			errs = append(errs, field.Forbidden(p.Child("selector"), exclusive))
		}
	}
	if r.Name == "" && r.Selector == nil {
		errs = append(errs, field.Required(p, "one of name or selector must be specified"))
	}
	action := p.Child("parameterNotFoundAction")
	if r.ParameterNotFoundAction == nil || *r.ParameterNotFoundAction == "" {
		return append(errs, field.Required(action, ""))
	}
	if a := *r.ParameterNotFoundAction; a != admissionregistrationv1.AllowAction && a != admissionregistrationv1.DenyAction {
		errs = append(errs, field.NotSupported(action, a, []admissionregistrationv1.ParameterNotFoundActionType{admissionregistrationv1.DenyAction, admissionregistrationv1.AllowAction}))
	}
	return errs
}

func validateSegment(v string, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if v == "." || v == ".." {
		errs = append(errs, field.Invalid(p, v, "may not be '"+v+"'"))
	}
	for _, bad := range [...]string{"/", "%"} {
		if strings.Contains(v, bad) {
			errs = append(errs, field.Invalid(p, v, "may not contain '"+bad+"'"))
		}
	}
	return errs
}

// validateVariables checks names and expressions of variables, and declares them.
func validateVariables(list []admissionregistrationv1.Variable, c *checker, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, v := range list {
		at := p.Index(i)
		switch {
		case strings.TrimSpace(v.Name) == "":
			errs = append(errs, field.Required(at.Child("name"), "name is not specified"))
		case !isIdentifier(v.Name):
			errs = append(errs, field.Invalid(at.Child("name"), v.Name, "must be a valid CEL identifier"))
		}
		if strings.TrimSpace(v.Expression) == "" {
			errs = append(errs, field.Required(at.Child("expression"), "expression is not specified"))
		} else {
			errs = append(errs, c.variable(v.Name, v.Expression, at.Child("expression"))...)
		}
	}
	return errs
}

// isIdentifier follows the grammar of CEL: letters, digits and underscores, no digit first, and none of its own words.
func isIdentifier(s string) bool {
	switch s {
	case "true", "false", "null", "in", "as", "break", "const", "continue", "else", "for", "function", "if", "import", "let", "loop", "package",
		"namespace", "return", "var", "void", "while":
		return false
	}
	for i, r := range s {
		letter := r == '_' || (r >= 'a' && r <= 'z') || (r >= 'A' && r <= 'Z')
		if !letter && (i == 0 || r < '0' || r > '9') {
			return false
		}
	}
	return s != ""
}

// paramKind is the cell that says what a policy is parameterized with.
func paramKind(k *admissionregistrationv1.ParamKind) string {
	if k == nil {
		return table.Unset
	}
	return k.APIVersion + "/" + k.Kind
}

// paramRef is the cell that says which parameters a binding gives.
func paramRef(r *admissionregistrationv1.ParamRef) string {
	switch {
	case r == nil:
		return table.Unset
	case r.Name != "" && r.Namespace != "":
		return r.Namespace + "/" + r.Name
	case r.Name != "":
		return "*/" + r.Name
	case r.Selector != nil:
		return r.Selector.String()
	}
	return table.Unset
}
