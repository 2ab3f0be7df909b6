package flowcontrol

import (
	"slices"
	"strings"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api/check"
)

// verbs are what rules may name besides "*".
var verbs = [...]string{"create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"} // read-only

func validateRule(r *flowcontrolv1.PolicyRulesWithSubjects, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(r.Subjects) == 0 {
		errs = append(errs, field.Required(p.Child("subjects"), "subjects must contain at least one value"))
	}
	for i := range r.Subjects {
		errs = append(errs, validateSubject(&r.Subjects[i], p.Child("subjects").Index(i))...)
	}
	if len(r.ResourceRules) == 0 && len(r.NonResourceRules) == 0 {
		errs = append(errs, field.Required(p, "at least one of resourceRules and nonResourceRules has to be non-empty"))
	}
	for i := range r.ResourceRules {
		errs = append(errs, validateResourceRule(&r.ResourceRules[i], p.Child("resourceRules").Index(i))...)
	}
	for i := range r.NonResourceRules {
		errs = append(errs, validateNonResourceRule(&r.NonResourceRules[i], p.Child("nonResourceRules").Index(i))...)
	}
	return errs
}

func validateSubject(s *flowcontrolv1.Subject, p *field.Path) field.ErrorList {
	parts := []struct {
		kind     flowcontrolv1.SubjectKind
		name     string
		set      bool
		validate func(p *field.Path) field.ErrorList
	}{
		{flowcontrolv1.SubjectKindServiceAccount, "serviceAccount", s.ServiceAccount != nil, func(p *field.Path) field.ErrorList {
			var errs field.ErrorList
			if a := s.ServiceAccount; a.Name == "" {
				errs = append(errs, field.Required(p.Child("name"), ""))
			} else if a.Name != "*" {
				errs = append(errs, check.DNSSubdomain(a.Name, p.Child("name"))...)
			}
			if ns := s.ServiceAccount.Namespace; ns == "" {
				return append(errs, field.Required(p.Child("namespace"), "must specify namespace for service account"))
			}
			return append(errs, check.DNSLabel(s.ServiceAccount.Namespace, p.Child("namespace"))...)
		}},
		{flowcontrolv1.SubjectKindUser, "user", s.User != nil, func(p *field.Path) field.ErrorList {
			if s.User.Name == "" {
				return field.ErrorList{field.Required(p.Child("name"), "")}
			}
			return nil
		}},
		{flowcontrolv1.SubjectKindGroup, "group", s.Group != nil, func(p *field.Path) field.ErrorList {
			if s.Group.Name == "" {
				return field.ErrorList{field.Required(p.Child("name"), "")}
			}
			return nil
		}},
	}
	var errs, wrong field.ErrorList
	known := false
	for _, part := range parts {
		at := p.Child(part.name)
		switch {
		case part.kind == s.Kind:
			known = true
			if !part.set {
				errs = append(errs, field.Required(at, part.name+" is required when subject kind is '"+string(part.kind)+"'"))
			} else {
				errs = append(errs, part.validate(at)...)
			}
		case part.set:
			wrong = append(wrong, field.Forbidden(at, part.name+" is forbidden when subject kind is not '"+string(part.kind)+"'"))
		}
	}
	if !known {
		return check.OneOf(s.Kind, p.Child("kind"), flowcontrolv1.SubjectKindGroup, flowcontrolv1.SubjectKindServiceAccount, flowcontrolv1.SubjectKindUser)
	}
	return append(errs, wrong...)
}

// validateAlone wants "*" to have no company.
func validateAlone(list []string, what string, p *field.Path) field.ErrorList {
	if len(list) > 1 && slices.Contains(list, "*") {
		return field.ErrorList{field.Invalid(p, list, "if '*' is present, must not specify other "+what)}
	}
	return nil
}

func validateVerbs(list []string, p *field.Path) field.ErrorList {
	if len(list) == 0 {
		return field.ErrorList{field.Required(p, "verbs must contain at least one value")}
	}
	if slices.Contains(list, "*") {
		return validateAlone(list, "verbs", p)
	}
	for _, v := range list {
		if !slices.Contains(verbs[:], v) {
			return field.ErrorList{field.NotSupported(p, list, verbs[:])}
		}
	}
	return nil
}

func validateResourceRule(r *flowcontrolv1.ResourcePolicyRule, p *field.Path) field.ErrorList {
	errs := validateVerbs(r.Verbs, p.Child("verbs"))
	if len(r.APIGroups) == 0 {
		errs = append(errs, field.Required(p.Child("apiGroups"), "resource rules must supply at least one api group"))
	}
	errs = append(errs, validateAlone(r.APIGroups, "api groups", p.Child("apiGroups"))...)
	if len(r.Resources) == 0 {
		errs = append(errs, field.Required(p.Child("resources"), "resource rules must supply at least one resource"))
	}
	errs = append(errs, validateAlone(r.Resources, "resources", p.Child("resources"))...)
	namespaces := p.Child("namespaces")
	if len(r.Namespaces) == 0 && !r.ClusterScope {
		errs = append(errs, field.Required(namespaces, "resource rules that are not cluster scoped must supply at least one namespace"))
	}
	if slices.Contains(r.Namespaces, "*") {
		return append(errs, validateAlone(r.Namespaces, "namespaces", namespaces)...)
	}
	for i, n := range r.Namespaces {
		for _, text := range validation.IsDNS1123Label(n) {
			errs = append(errs, field.Invalid(namespaces.Index(i), n, "each member of this list must be '*' or a DNS-1123 label; "+text))
		}
	}
	return errs
}

func validateNonResourceRule(r *flowcontrolv1.NonResourcePolicyRule, p *field.Path) field.ErrorList {
	errs := validateVerbs(r.Verbs, p.Child("verbs"))
	urls := p.Child("nonResourceURLs")
	if len(r.NonResourceURLs) == 0 {
		return append(errs, field.Required(urls, "nonResourceURLs must contain at least one value"))
	}
	if slices.Contains(r.NonResourceURLs, "*") {
		return append(errs, validateAlone(r.NonResourceURLs, "non-resource URLs", urls)...)
	}
	for i, u := range r.NonResourceURLs {
		at := urls.Index(i)
		switch {
		case u == "":
			errs = append(errs, field.Invalid(at, u, "must not be empty"))
		case !strings.HasPrefix(u, "/"):
			errs = append(errs, field.Invalid(at, u, "must start with slash"))
		case strings.Contains(u, " "):
			errs = append(errs, field.Invalid(at, u, "must not contain white-space"))
		case strings.Contains(u, "//"):
			errs = append(errs, field.Invalid(at, u, "must not contain double slash"))
		case strings.Contains(strings.TrimSuffix(u, "/*"), "*"):
			errs = append(errs, field.Invalid(at, u, "wildcard can only do suffix matching"))
		}
	}
	return errs
}
