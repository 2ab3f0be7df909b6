package check

import (
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Declared marks complaints that upstream makes by declarations on its types (KEP-5073): those are told after all others.
func Declared(errs field.ErrorList) field.ErrorList { return errs.MarkBeta() }

// Missing is the declared complaint that something is needed.
func Missing(p *field.Path) field.ErrorList {
	return Declared(field.ErrorList{field.Required(p, "")})
}

// Unchanged is the declared complaint that a field may not change; it does not show the new value.
func Unchanged(now, before any, p *field.Path) field.ErrorList {
	if apiequality.Semantic.DeepEqual(now, before) {
		return nil
	}
	return Declared(field.ErrorList{field.Invalid(p, nil, ImmutableText)})
}

// OnceText is what is said of a field that may be set, but not be changed then.
const OnceText = "field cannot be modified once set"

// ShortName is the declared complaint about what is no RFC 1123 label.
func ShortName(v string, p *field.Path) field.ErrorList {
	return Declared(Each(content.IsDNS1123Label(v), p, v))
}

// Domain is the declared complaint about what is no RFC 1123 subdomain.
func Domain(v string, p *field.Path) field.ErrorList {
	return Declared(Each(content.IsDNS1123Subdomain(v), p, v))
}

// Driver is the declared complaint about what is no name of a driver: a domain of at most so many bytes, upper case forgiven.
func Driver(name string, most int, p *field.Path) field.ErrorList {
	if name == "" {
		return Missing(p)
	}
	errs := Each(content.IsDNS1123SubdomainCaseless(name), p, name)
	if len(name) > most {
		errs = append(errs, field.TooLongCharacters(p, name, most))
	}
	return Declared(errs)
}
