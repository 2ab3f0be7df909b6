package resource

import (
	"fmt"
	"regexp"
	"strings"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api/check"
)

// semantic is the grammar of semver.org 2.0.0.
var semantic = regexp.MustCompile(`^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-((0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)(\.(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*))*))?(\+([0-9a-zA-Z-]+(\.[0-9a-zA-Z-]+)*))?$`)

func validateDevice(d *resourcev1.Device, perDevice bool, p *field.Path) field.ErrorList {
	errs := validateDeviceName(d.Name, p.Child("name"))
	attributes, capacity := p.Child("attributes"), p.Child("capacity")
	for _, k := range check.Keys(d.Attributes) {
		errs = append(errs, validateName(string(k), attributes)...)
		errs = append(errs, validateAttribute(d.Attributes[k], attributes.Key(string(k)))...)
	}
	for _, k := range check.Keys(d.Capacity) {
		errs = append(errs, validateName(string(k), capacity)...)
		errs = append(errs, validateCapacity(d, d.Capacity[k], capacity.Key(string(k)))...)
	}
	if n := len(d.Attributes) + len(d.Capacity); n > resourcev1.ResourceSliceMaxAttributesAndCapacitiesPerDevice {
		errs = append(errs, field.Invalid(p, n, fmt.Sprintf("the total number of attributes and capacities must not exceed %d", resourcev1.ResourceSliceMaxAttributesAndCapacitiesPerDevice)))
	}
	taints := p.Child("taints")
	if n := len(d.Taints); n > resourcev1.DeviceTaintsMaxLength {
		errs = append(errs, field.TooMany(taints, n, resourcev1.DeviceTaintsMaxLength))
	}
	for i := range d.Taints {
		errs = append(errs, validateTaint(&d.Taints[i], taints.Index(i))...)
	}
	errs = append(errs, validateConsumption(d.ConsumesCounters, p.Child("consumesCounters"))...)
	errs = append(errs, validateDeviceWhere(d, perDevice, p)...)
	return append(errs, validateBindingConditions(d, p)...)
}

// validateDeviceWhere wants a device to say from where it can be used if its slice leaves that to its devices.
func validateDeviceWhere(d *resourcev1.Device, perDevice bool, p *field.Path) field.ErrorList {
	if !perDevice {
		if d.NodeName != nil || d.NodeSelector != nil || d.AllNodes != nil {
			return field.ErrorList{field.Invalid(p, nil, "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec")}
		}
		return nil
	}
	errs, set := validateNodes(d.NodeName, d.NodeSelector, d.AllNodes, "must not be empty", p)
	const one = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec"
	switch {
	case len(set) == 0:
		errs = append(errs, field.Required(p, one))
	case len(set) > 1:
		errs = append(errs, field.Invalid(p, fmt.Sprintf("{%s}", strings.Join(set, ", ")), one))
	}
	return errs
}

// validateBindingConditions checks the conditions that a pod's binding waits for; there is no success without a way to fail.
func validateBindingConditions(d *resourcev1.Device, p *field.Path) field.ErrorList {
	ready, failed := p.Child("bindingConditions"), p.Child("bindingFailureConditions")
	errs := validateConditionTypes(d.BindingConditions, resourcev1.BindingConditionsMaxSize, ready)
	errs = append(errs, validateConditionTypes(d.BindingFailureConditions, resourcev1.BindingFailureConditionsMaxSize, failed)...)
	switch {
	case len(d.BindingConditions) == 0 && len(d.BindingFailureConditions) > 0:
		errs = append(errs, field.Invalid(ready, d.BindingConditions, "bindingConditions are required to use bindingFailureConditions"))
	case len(d.BindingConditions) > 0 && len(d.BindingFailureConditions) == 0:
		errs = append(errs, field.Invalid(failed, d.BindingFailureConditions, "bindingFailureConditions are required to use bindingConditions"))
	}
	return errs
}

func validateConditionTypes(list []string, most int, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if n := len(list); n > most {
		errs = append(errs, field.TooMany(p, n, most))
	}
	seen := map[string]bool{}
	for i, c := range list {
		errs = append(errs, check.QualifiedName(c, p.Index(i))...)
		if seen[c] {
			errs = append(errs, field.Duplicate(p.Index(i), c))
		}
		seen[c] = true
	}
	return errs
}

// validateAttribute wants one value, of one type.
func validateAttribute(a resourcev1.DeviceAttribute, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	set := 0
	count := func(is bool) {
		if is {
			set++
		}
	}
	count(a.BoolValue != nil)
	count(a.IntValue != nil)
	if a.StringValue != nil {
		set++
		errs = append(errs, validateText(*a.StringValue, p.Child("string"))...)
	}
	if a.VersionValue != nil {
		set++
		errs = append(errs, validateVersion(*a.VersionValue, p.Child("version"))...)
	}
	count(a.IntValues != nil)
	count(a.BoolValues != nil)
	if a.StringValues != nil {
		set++
		for i, s := range a.StringValues {
			errs = append(errs, validateText(s, p.Child("strings").Index(i))...)
		}
	}
	if a.VersionValues != nil {
		set++
		for i, s := range a.VersionValues {
			errs = append(errs, validateVersion(s, p.Child("versions").Index(i))...)
		}
	}
	switch {
	case set == 0:
		errs = append(errs, field.Required(p, "exactly one value must be specified"))
	case set > 1:
		errs = append(errs, field.Invalid(p, check.Rendered(a), "exactly one value must be specified"))
	}
	return errs
}

func validateText(s string, p *field.Path) field.ErrorList {
	if len(s) > resourcev1.DeviceAttributeMaxValueLength {
		return field.ErrorList{field.TooLong(p, s, resourcev1.DeviceAttributeMaxValueLength)}
	}
	return nil
}

func validateVersion(s string, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if !semantic.MatchString(s) {
		errs = append(errs, field.Invalid(p, s, "must be a string compatible with semver.org spec 2.0.0"))
	}
	return append(errs, validateText(s, p)...)
}

// validateCapacity checks how requests for a part of a capacity are rounded (KEP-5075).
func validateCapacity(d *resourcev1.Device, c resourcev1.DeviceCapacity, p *field.Path) field.ErrorList {
	policy, at := c.RequestPolicy, p.Child("requestPolicy")
	if policy == nil {
		return nil
	}
	if d.AllowMultipleAllocations == nil || !*d.AllowMultipleAllocations {
		return field.ErrorList{field.Forbidden(at, "allowMultipleAllocations must be true")}
	}
	var errs field.ErrorList
	switch {
	case len(policy.ValidValues) > 0 && policy.ValidRange != nil:
		return field.ErrorList{field.Forbidden(at, `exactly one policy can be specified, cannot specify "validValues" and "validRange" at the same time`)}
	case len(policy.ValidValues) > 0 && policy.Default == nil:
		return field.ErrorList{field.Required(at.Child("default"), "required when validValues is defined")}
	case policy.ValidRange != nil && policy.Default == nil:
		return field.ErrorList{field.Required(at.Child("default"), "required when validRange is defined")}
	case policy.ValidRange != nil && policy.ValidRange.Min == nil:
		return field.ErrorList{field.Required(at.Child("validRange", "min"), "required when validRange is defined")}
	}
	known := len(policy.ValidValues) == 0
	for i, v := range policy.ValidValues {
		known = known || v.Cmp(*policy.Default) == 0
		if v.Cmp(c.Value) > 0 {
			errs = append(errs, field.Invalid(at.Child("validValues").Index(i), v.String(), "option is larger than capacity value: "+c.Value.String()))
		}
		if i > 0 {
			switch order := policy.ValidValues[i-1].Cmp(v); {
			case order == 0:
				errs = append(errs, field.Duplicate(at.Child("validValues").Index(i), v.String()))
			case order > 0:
				errs = append(errs, field.Invalid(at.Child("validValues").Index(i), v.String(), "values must be sorted in ascending order"))
			}
		}
	}
	if !known {
		errs = append(errs, field.Invalid(at.Child("default"), policy.Default.String(), "default value is not valid according to the requestPolicy"))
	}
	return errs
}

// validateCounterSets checks what the devices of a pool consume together (KEP-4815).
func validateCounterSets(list []resourcev1.CounterSet, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if n := len(list); n > resourcev1.ResourceSliceMaxCounterSets {
		errs = append(errs, field.TooMany(p, n, resourcev1.ResourceSliceMaxCounterSets))
	}
	names := map[string]bool{}
	for i := range list {
		s, at := &list[i], p.Index(i)
		errs = append(errs, validateDeviceName(s.Name, at.Child("name"))...)
		errs = append(errs, validateCounters(s.Counters, resourcev1.ResourceSliceMaxCountersPerCounterSet, at.Child("counters"))...)
		if s.Name != "" && names[s.Name] {
			errs = append(errs, field.Duplicate(at, s.Name))
		}
		names[s.Name] = true
	}
	return errs
}

func validateConsumption(list []resourcev1.DeviceCounterConsumption, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if n := len(list); n > resourcev1.ResourceSliceMaxDeviceCounterConsumptionsPerDevice {
		errs = append(errs, field.TooMany(p, n, resourcev1.ResourceSliceMaxDeviceCounterConsumptionsPerDevice))
	}
	sets := map[string]bool{}
	for i := range list {
		c, at := &list[i], p.Index(i)
		if c.CounterSet == "" {
			errs = append(errs, field.Required(at.Child("counterSet"), ""))
		}
		errs = append(errs, validateCounters(c.Counters, resourcev1.ResourceSliceMaxCountersPerDeviceCounterConsumption, at.Child("counters"))...)
		if c.CounterSet != "" && sets[c.CounterSet] {
			errs = append(errs, field.Duplicate(at, c.CounterSet))
		}
		sets[c.CounterSet] = true
	}
	return errs
}

func validateCounters(m map[string]resourcev1.Counter, most int, p *field.Path) field.ErrorList {
	if len(m) == 0 {
		return field.ErrorList{field.Required(p, "")}
	}
	var errs field.ErrorList
	if n := len(m); n > most {
		errs = append(errs, field.TooMany(p, n, most))
	}
	for _, k := range check.Keys(m) {
		errs = append(errs, check.Each(validation.IsDNS1123Label(k), p, k)...)
	}
	return errs
}
