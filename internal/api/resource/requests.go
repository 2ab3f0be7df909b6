package resource

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"strings"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/operation"
	"k8s.io/apimachinery/pkg/api/validate"
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

// validateClaimSpec checks what a claim asks for. It is checked once: it cannot change.
func validateClaimSpec(s *resourcev1.ResourceClaimSpec, p *field.Path) field.ErrorList {
	names := requestNames(s)
	devices := p.Child("devices")
	errs := validateUnique(s.Devices.Requests, resourcev1.DeviceRequestsMaxSize, devices.Child("requests"),
		func(r *resourcev1.DeviceRequest) string { return r.Name }, validateRequest)
	errs = append(errs, validateEach(s.Devices.Constraints, resourcev1.DeviceConstraintsMaxSize, devices.Child("constraints"),
		func(c *resourcev1.DeviceConstraint, p *field.Path) field.ErrorList {
			return validateConstraint(c, names, p)
		})...)
	return append(errs, validateEach(s.Devices.Config, resourcev1.DeviceConfigMaxSize, devices.Child("config"),
		func(c *resourcev1.DeviceClaimConfiguration, p *field.Path) field.ErrorList {
			errs := validateReferences(c.Requests, names, p.Child("requests"))
			return append(errs, validateConfiguration(&c.DeviceConfiguration, false, p)...)
		})...)
}

func validateRequest(r *resourcev1.DeviceRequest, p *field.Path) field.ErrorList {
	errs := validateRequestName(r.Name, p.Child("name"))
	const one = "exactly one of `exactly` or `firstAvailable` is required"
	switch e := r.Exactly; {
	case e == nil && len(r.FirstAvailable) == 0:
		return append(errs, field.Required(p, one))
	case e != nil && len(r.FirstAvailable) > 0:
		errs = append(errs, field.Invalid(p, nil, one+", but multiple fields are set"))
		return append(errs, declareRequest(r, p)...)
	case e != nil:
		at := p.Child("exactly")
		if class := at.Child("deviceClassName"); e.DeviceClassName == "" {
			errs = append(errs, field.Required(class, ""))
		} else {
			errs = append(errs, check.DNSSubdomain(e.DeviceClassName, class)...)
		}
		return append(errs, wanted{e.Selectors, e.AllocationMode, e.Count, e.Tolerations}.validate(at)...)
	}
	return append(errs, validateUnique(r.FirstAvailable, resourcev1.FirstAvailableDeviceRequestMaxSize, p.Child("firstAvailable"),
		func(s *resourcev1.DeviceSubRequest) string { return s.Name },
		func(s *resourcev1.DeviceSubRequest, p *field.Path) field.ErrorList {
			errs := validateRequestName(s.Name, p.Child("name"))
			errs = append(errs, declareClass(s.DeviceClassName, p)...)
			return append(errs, wanted{s.Selectors, s.AllocationMode, s.Count, s.Tolerations}.validate(p)...)
		})...)
}

// declareRequest is what is said of the parts of a request that has one too many.
func declareRequest(r *resourcev1.DeviceRequest, p *field.Path) field.ErrorList {
	at := p.Child("firstAvailable")
	errs := repeated(r.FirstAvailable, at, func(s *resourcev1.DeviceSubRequest) string { return s.Name })
	for i := range r.FirstAvailable {
		errs = append(errs, declareClass(r.FirstAvailable[i].DeviceClassName, at.Index(i))...)
	}
	return errs
}

// declareClass is what is declared of the class of an alternative.
func declareClass(name string, p *field.Path) field.ErrorList {
	at := p.Child("deviceClassName")
	if name == "" {
		return check.Missing(at)
	}
	return check.Domain(name, at)
}

// validateRequestName wants a label, which "" is not.
func validateRequestName(name string, p *field.Path) field.ErrorList { return check.DNSLabel(name, p) }

// wanted is what exact requests and the alternatives of others have in common.
type wanted struct {
	selectors   []resourcev1.DeviceSelector
	mode        resourcev1.DeviceAllocationMode
	count       int64
	tolerations []resourcev1.DeviceToleration
}

func (w wanted) validate(p *field.Path) field.ErrorList {
	errs := validateSelectors(w.selectors, environment.NewExpressions, p.Child("selectors"))
	count := p.Child("count")
	switch w.mode {
	case resourcev1.DeviceAllocationModeAll:
		if w.count != 0 {
			errs = append(errs, field.Invalid(count, w.count, "must not be specified when allocationMode is '"+string(w.mode)+"'"))
		}
	case resourcev1.DeviceAllocationModeExactCount:
		errs = append(errs, check.Positive(w.count, count)...)
	default:
		errs = append(errs, check.Declared(check.OneOf(w.mode, p.Child("allocationMode"), resourcev1.DeviceAllocationModeAll, resourcev1.DeviceAllocationModeExactCount))...)
	}
	// The names in capacity.requests are not checked: one that no device has is never satisfied.
	return append(errs, validateEach(w.tolerations, math.MaxInt, p.Child("tolerations"), validateToleration)...)
}

func validateSelectors(list []resourcev1.DeviceSelector, mode environment.Type, p *field.Path) field.ErrorList {
	return validateEach(list, resourcev1.DeviceSelectorsMaxSize, p, func(s *resourcev1.DeviceSelector, p *field.Path) field.ErrorList {
		if s.CEL == nil {
			return field.ErrorList{field.Required(p.Child("cel"), "")}
		}
		return validateExpression(s.CEL.Expression, mode, p.Child("cel", "expression"))
	})
}

func validateToleration(t *resourcev1.DeviceToleration, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if t.Key != "" {
		errs = append(errs, check.Declared(check.QualifiedName(t.Key, p.Child("key")))...)
	}
	switch t.Operator {
	case resourcev1.DeviceTolerationOpExists:
		if t.Value != "" {
			errs = append(errs, field.Invalid(p.Child("value"), t.Value, "must be empty for operator `Exists`"))
		}
	case resourcev1.DeviceTolerationOpEqual:
		errs = append(errs, check.Each(validation.IsValidLabelValue(t.Value), p.Child("value"), t.Value)...)
	default:
		errs = append(errs, check.Declared(check.Enum(t.Operator, p.Child("operator"), resourcev1.DeviceTolerationOpEqual, resourcev1.DeviceTolerationOpExists))...)
	}
	if t.Effect != "" {
		errs = append(errs, check.Declared(validateEffect(t.Effect, p.Child("effect")))...)
	}
	return errs
}

func validateEffect(e resourcev1.DeviceTaintEffect, p *field.Path) field.ErrorList {
	return check.Enum(e, p, resourcev1.DeviceTaintEffectNoExecute, resourcev1.DeviceTaintEffectNoSchedule, resourcev1.DeviceTaintEffectNone)
}

// validateTaint checks a taint; known says that its effect was accepted before.
func validateTaint(t *resourcev1.DeviceTaint, known bool, p *field.Path) field.ErrorList {
	errs := check.QualifiedName(t.Key, p.Child("key"))
	if t.Value != "" {
		errs = append(errs, check.Each(validation.IsValidLabelValue(t.Value), p.Child("value"), t.Value)...)
	}
	if known {
		return errs
	}
	return append(errs, check.Declared(validateEffect(t.Effect, p.Child("effect")))...)
}

func validateConstraint(c *resourcev1.DeviceConstraint, names map[string]bool, p *field.Path) field.ErrorList {
	errs := validateReferences(c.Requests, names, p.Child("requests"))
	for _, f := range []struct {
		name  string
		value *resourcev1.FullyQualifiedName
	}{{"matchAttribute", c.MatchAttribute}, {"distinctAttribute", c.DistinctAttribute}} {
		if f.value != nil {
			errs = append(errs, check.Declared(validate.ResourceFullyQualifiedName(context.Background(), operation.Operation{}, p.Child(f.name), f.value, nil))...)
		}
	}
	if c.MatchAttribute != nil || c.DistinctAttribute != nil {
		return errs
	}
	return append(errs, field.Required(p, `exactly one of "matchAttribute" or "distinctAttribute" is required, but multiple fields are set`))
}

const notARequest = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'"

// validateReferences wants the names of requests, or of requests and their alternatives ("request/alternative").
func validateReferences(list []string, names map[string]bool, p *field.Path) field.ErrorList {
	return validateUnique(list, resourcev1.DeviceRequestsMaxSize, p, itself, func(name *string, p *field.Path) field.ErrorList {
		return validateReference(*name, names, p)
	})
}

func validateReference(name string, names map[string]bool, p *field.Path) field.ErrorList {
	parts := strings.Split(name, "/")
	if len(parts) > 2 {
		return field.ErrorList{field.Invalid(p, name, notARequest)}
	}
	var errs field.ErrorList
	for _, part := range parts {
		errs = append(errs, validateRequestName(part, p)...)
	}
	if !names[name] {
		errs = append(errs, field.Invalid(p, name, notARequest))
	}
	return errs
}

// validateName wants the name of an attribute or capacity: an identifier (as in C), with or without a domain. Upstream lets
// names with several slashes pass; stored ones may have them.
func validateName(name string, p *field.Path) field.ErrorList {
	parts := strings.Split(name, "/")
	switch len(parts) {
	case 1:
		return validateIdentifier(name, p)
	case 2:
	default:
		return nil
	}
	var errs field.ErrorList
	if parts[0] == "" {
		errs = append(errs, field.Invalid(p, "", "the domain must not be empty"))
	} else {
		errs = append(errs, validateDriver(parts[0], p)...)
	}
	if parts[1] == "" {
		return append(errs, field.Invalid(p, "", "the name must not be empty"))
	}
	return append(errs, validateIdentifier(parts[1], p)...)
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

// validateConfiguration checks what a driver is told; the size of stored parameters was not always limited.
func validateConfiguration(c *resourcev1.DeviceConfiguration, stored bool, p *field.Path) field.ErrorList {
	at := p.Child("opaque")
	if c.Opaque == nil {
		return field.ErrorList{field.Required(at, "")}
	}
	errs := check.Driver(c.Opaque.Driver, resourcev1.DriverNameMaxLength, at.Child("driver"))
	most := resourcev1.OpaqueParametersMaxLength
	if stored {
		most = math.MaxInt
	}
	return append(errs, validateRaw(c.Opaque.Parameters.Raw, most, at.Child("parameters"))...)
}

// validateRaw wants a JSON object of at most so many bytes.
func validateRaw(data []byte, most int, p *field.Path) field.ErrorList {
	switch data = bytes.TrimSpace(data); {
	case len(data) == 0:
		return field.ErrorList{field.Required(p, "")}
	case len(data) > most:
		return field.ErrorList{field.TooLong(p, "", most)}
	case !json.Valid(data):
		return field.ErrorList{field.Invalid(p, "<value omitted>", fmt.Sprintf("error parsing data as JSON: %v", json.Unmarshal(data, new(any))))}
	case string(data) == "null":
		return field.ErrorList{field.Required(p, "")}
	case data[0] != '{':
		return field.ErrorList{field.Invalid(p, "<value omitted>", "must be a valid JSON object")}
	}
	return nil
}
