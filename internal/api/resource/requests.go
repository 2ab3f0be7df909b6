package resource

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/cel/environment"

	"github.com/celox/celox/internal/api/check"
)

// What a claim asks for is checked here for claims and for the templates of claims.

// defaultClaim fills in how many devices each request wants.
func defaultClaim(s *resourcev1.ResourceClaimSpec) {
	for i := range s.Devices.Requests {
		r := &s.Devices.Requests[i]
		if e := r.Exactly; e != nil {
			defaultCount(&e.AllocationMode, &e.Count)
			defaultTolerations(e.Tolerations)
		}
		for n := range r.FirstAvailable {
			sub := &r.FirstAvailable[n]
			defaultCount(&sub.AllocationMode, &sub.Count)
			defaultTolerations(sub.Tolerations)
		}
	}
}

func defaultCount(mode *resourcev1.DeviceAllocationMode, count *int64) {
	if *mode == "" {
		*mode = resourcev1.DeviceAllocationModeExactCount
	}
	if *mode == resourcev1.DeviceAllocationModeExactCount && *count == 0 {
		*count = 1
	}
}

func defaultTolerations(list []resourcev1.DeviceToleration) {
	for i := range list {
		if list[i].Operator == "" {
			list[i].Operator = resourcev1.DeviceTolerationOpEqual
		}
	}
}

// validateClaimSpec checks a new spec or, with environment.StoredExpressions, one that was accepted before.
func validateClaimSpec(s *resourcev1.ResourceClaimSpec, mode environment.Type, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	devices := p.Child("devices")
	requests := devices.Child("requests")
	if n := len(s.Devices.Requests); n > resourcev1.DeviceRequestsMaxSize {
		errs = append(errs, field.TooMany(requests, n, resourcev1.DeviceRequestsMaxSize))
	}
	names := map[string]bool{} // of requests, and "request/subrequest"
	for i := range s.Devices.Requests {
		r, at := &s.Devices.Requests[i], requests.Index(i)
		errs = append(errs, validateRequest(r, mode, at)...)
		if r.Name != "" && names[r.Name] {
			errs = append(errs, field.Duplicate(at, r.Name))
		}
		names[r.Name] = true
		for n := range r.FirstAvailable {
			names[r.Name+"/"+r.FirstAvailable[n].Name] = true
		}
	}
	constraints := devices.Child("constraints")
	if n := len(s.Devices.Constraints); n > resourcev1.DeviceConstraintsMaxSize {
		errs = append(errs, field.TooMany(constraints, n, resourcev1.DeviceConstraintsMaxSize))
	}
	for i := range s.Devices.Constraints {
		errs = append(errs, validateConstraint(&s.Devices.Constraints[i], names, constraints.Index(i))...)
	}
	config := devices.Child("config")
	if n := len(s.Devices.Config); n > resourcev1.DeviceConfigMaxSize {
		errs = append(errs, field.TooMany(config, n, resourcev1.DeviceConfigMaxSize))
	}
	for i := range s.Devices.Config {
		c, at := &s.Devices.Config[i], config.Index(i)
		errs = append(errs, validateReferences(c.Requests, names, at.Child("requests"))...)
		errs = append(errs, validateConfiguration(&c.DeviceConfiguration, at)...)
	}
	return errs
}

func validateRequest(r *resourcev1.DeviceRequest, mode environment.Type, p *field.Path) field.ErrorList {
	errs := validateRequestName(r.Name, p.Child("name"))
	const one = "exactly one of `exactly` or `firstAvailable` is required"
	if len(r.FirstAvailable) > 0 {
		subs := p.Child("firstAvailable")
		if n := len(r.FirstAvailable); n > resourcev1.FirstAvailableDeviceRequestMaxSize {
			errs = append(errs, field.TooMany(subs, n, resourcev1.FirstAvailableDeviceRequestMaxSize))
		}
		names := map[string]bool{}
		for i := range r.FirstAvailable {
			s, at := &r.FirstAvailable[i], subs.Index(i)
			errs = append(errs, validateRequestName(s.Name, at.Child("name"))...)
			errs = append(errs, wanted{s.DeviceClassName, s.Selectors, s.AllocationMode, s.Count, s.Tolerations, s.Capacity}.validate(mode, at)...)
			if names[s.Name] {
				errs = append(errs, field.Duplicate(at, s.Name))
			}
			names[s.Name] = true
		}
	}
	if e := r.Exactly; e != nil {
		errs = append(errs, wanted{e.DeviceClassName, e.Selectors, e.AllocationMode, e.Count, e.Tolerations, e.Capacity}.validate(mode, p.Child("exactly"))...)
	}
	switch {
	case r.Exactly == nil && len(r.FirstAvailable) == 0:
		errs = append(errs, field.Required(p, one))
	case r.Exactly != nil && len(r.FirstAvailable) > 0:
		errs = append(errs, field.Invalid(p, nil, one+", but multiple fields are set"))
	}
	return errs
}

func validateRequestName(name string, p *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(p, "")}
	}
	return check.DNSLabel(name, p)
}

// wanted is what exact requests and the alternatives of others have in common.
type wanted struct {
	class       string
	selectors   []resourcev1.DeviceSelector
	mode        resourcev1.DeviceAllocationMode
	count       int64
	tolerations []resourcev1.DeviceToleration
	capacity    *resourcev1.CapacityRequirements
}

func (w wanted) validate(mode environment.Type, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if w.class == "" {
		errs = append(errs, field.Required(p.Child("deviceClassName"), ""))
	} else {
		errs = append(errs, check.DNSSubdomain(w.class, p.Child("deviceClassName"))...)
	}
	errs = append(errs, validateSelectors(w.selectors, mode, p.Child("selectors"))...)
	count := p.Child("count")
	switch w.mode {
	case resourcev1.DeviceAllocationModeAll:
		if w.count != 0 {
			errs = append(errs, field.Invalid(count, w.count, "must not be specified when allocationMode is '"+string(w.mode)+"'"))
		}
	case resourcev1.DeviceAllocationModeExactCount:
		errs = append(errs, check.Positive(w.count, count)...)
	default:
		errs = append(errs, check.OneOf(w.mode, p.Child("allocationMode"), resourcev1.DeviceAllocationModeAll, resourcev1.DeviceAllocationModeExactCount)...)
	}
	tolerations := p.Child("tolerations")
	if n := len(w.tolerations); n > resourcev1.DeviceTolerationsMaxLength {
		errs = append(errs, field.TooMany(tolerations, n, resourcev1.DeviceTolerationsMaxLength))
	}
	for i := range w.tolerations {
		errs = append(errs, validateToleration(&w.tolerations[i], tolerations.Index(i))...)
	}
	if w.capacity != nil {
		errs = append(errs, validateNames(w.capacity.Requests, p.Child("capacity", "requests"))...)
	}
	return errs
}

func validateSelectors(list []resourcev1.DeviceSelector, mode environment.Type, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if n := len(list); n > resourcev1.DeviceSelectorsMaxSize {
		errs = append(errs, field.TooMany(p, n, resourcev1.DeviceSelectorsMaxSize))
	}
	for i, s := range list {
		if s.CEL == nil {
			errs = append(errs, field.Required(p.Index(i).Child("cel"), ""))
			continue
		}
		errs = append(errs, validateExpression(s.CEL.Expression, mode, p.Index(i).Child("cel", "expression"))...)
	}
	return errs
}

func validateToleration(t *resourcev1.DeviceToleration, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if t.Key != "" {
		errs = append(errs, check.QualifiedName(t.Key, p.Child("key"))...)
	}
	switch t.Operator {
	case resourcev1.DeviceTolerationOpExists:
		if t.Value != "" {
			errs = append(errs, field.Invalid(p.Child("value"), t.Value, "must be empty for operator `Exists`"))
		}
	case resourcev1.DeviceTolerationOpEqual:
		errs = append(errs, check.Each(validation.IsValidLabelValue(t.Value), p.Child("value"), t.Value)...)
	default:
		errs = append(errs, check.Enum(t.Operator, p.Child("operator"), resourcev1.DeviceTolerationOpEqual, resourcev1.DeviceTolerationOpExists)...)
	}
	if t.Effect != "" {
		errs = append(errs, validateEffect(t.Effect, p.Child("effect"))...)
	}
	return errs
}

func validateEffect(e resourcev1.DeviceTaintEffect, p *field.Path) field.ErrorList {
	return check.Enum(e, p, resourcev1.DeviceTaintEffectNoExecute, resourcev1.DeviceTaintEffectNoSchedule, resourcev1.DeviceTaintEffectNone)
}

func validateTaint(t *resourcev1.DeviceTaint, p *field.Path) field.ErrorList {
	errs := check.QualifiedName(t.Key, p.Child("key"))
	if t.Value != "" {
		errs = append(errs, check.Each(validation.IsValidLabelValue(t.Value), p.Child("value"), t.Value)...)
	}
	return append(errs, validateEffect(t.Effect, p.Child("effect"))...)
}

func validateConstraint(c *resourcev1.DeviceConstraint, names map[string]bool, p *field.Path) field.ErrorList {
	errs := validateReferences(c.Requests, names, p.Child("requests"))
	switch {
	case (c.MatchAttribute == nil) == (c.DistinctAttribute == nil):
		return append(errs, field.Required(p, `exactly one of "matchAttribute" or "distinctAttribute" is required, but multiple fields are set`))
	case c.MatchAttribute != nil:
		return append(errs, validateFullName(string(*c.MatchAttribute), p.Child("matchAttribute"))...)
	}
	return append(errs, validateFullName(string(*c.DistinctAttribute), p.Child("distinctAttribute"))...)
}

const notARequest = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'"

func validateReferences(list []string, names map[string]bool, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if n := len(list); n > resourcev1.DeviceRequestsMaxSize {
		errs = append(errs, field.TooMany(p, n, resourcev1.DeviceRequestsMaxSize))
	}
	seen := map[string]bool{}
	for i, r := range list {
		if !names[r] {
			errs = append(errs, field.Invalid(p.Index(i), r, notARequest))
		}
		if seen[r] {
			errs = append(errs, field.Duplicate(p.Index(i), r))
		}
		seen[r] = true
	}
	return errs
}

// validateFullName wants a domain and an identifier.
func validateFullName(name string, p *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(p, "name required")}
	}
	if !strings.Contains(name, "/") {
		return field.ErrorList{field.Invalid(p, name, "a fully qualified name must be a domain and a name separated by a slash")}
	}
	return validateName(name, p)
}

// validateNames checks the names of capacities.
func validateNames[V any](m map[resourcev1.QualifiedName]V, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, k := range check.Keys(m) {
		errs = append(errs, validateName(string(k), p)...)
	}
	return errs
}

// validateName wants the name of an attribute or capacity: an identifier (as in C), with or without a domain.
func validateName(name string, p *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(p, "name required")}
	}
	domain, id, ok := strings.Cut(name, "/")
	if !ok {
		return validateIdentifier(name, p)
	}
	var errs field.ErrorList
	if domain == "" {
		errs = append(errs, field.Required(p, "the domain must not be empty"))
	} else {
		errs = append(errs, validateDriver(domain, p)...)
	}
	if id == "" {
		return append(errs, field.Required(p, "the name must not be empty"))
	}
	return append(errs, validateIdentifier(id, p)...)
}

func validateIdentifier(id string, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(id) > resourcev1.DeviceMaxIDLength {
		errs = append(errs, field.TooLong(p, id, resourcev1.DeviceMaxIDLength))
	}
	return append(errs, check.Each(validation.IsCIdentifier(id), p, id)...)
}

// validateDriver wants the name of a driver: a domain.
func validateDriver(name string, p *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(p, "")}
	}
	var errs field.ErrorList
	if len(name) > resourcev1.DriverNameMaxLength {
		errs = append(errs, field.TooLong(p, name, resourcev1.DriverNameMaxLength))
	}
	return append(errs, check.Each(validation.IsDNS1123Subdomain(strings.ToLower(name)), p, name)...)
}

// maxParameters limits the parameters of a driver, in bytes.
const maxParameters = 10 << 10

func validateConfiguration(c *resourcev1.DeviceConfiguration, p *field.Path) field.ErrorList {
	at := p.Child("opaque")
	if c.Opaque == nil {
		return field.ErrorList{field.Required(at, "")}
	}
	errs := validateDriver(c.Opaque.Driver, at.Child("driver"))
	return append(errs, validateRaw(c.Opaque.Parameters.Raw, at.Child("parameters"))...)
}

// validateRaw wants a JSON object of bounded size.
func validateRaw(data []byte, p *field.Path) field.ErrorList {
	switch data = bytes.TrimSpace(data); {
	case len(data) == 0:
		return field.ErrorList{field.Required(p, "")}
	case len(data) > maxParameters:
		return field.ErrorList{field.TooLong(p, "", maxParameters)}
	case !json.Valid(data):
		return field.ErrorList{field.Invalid(p, "<value omitted>", fmt.Sprintf("error parsing data as JSON: %v", json.Unmarshal(data, new(any))))}
	case string(data) == "null":
		return field.ErrorList{field.Required(p, "")}
	case data[0] != '{':
		return field.ErrorList{field.Invalid(p, "<value omitted>", "must be a valid JSON object")}
	}
	return nil
}
