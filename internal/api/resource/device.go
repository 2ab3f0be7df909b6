package resource

import (
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	resourcev1 "k8s.io/api/resource/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api/check"
)

// semantic is the grammar of semver.org 2.0.0.
var semantic = regexp.MustCompile(`^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-((0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)(\.(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*))*))?(\+([0-9a-zA-Z-]+(\.[0-9a-zA-Z-]+)*))?$`)

// validateDevice checks a device; old is what was stored of it, nil if nothing was. Capacities and taints that stay as they are were accepted once.
func validateDevice(d, old *resourcev1.Device, perDevice bool, p *field.Path) field.ErrorList {
	errs := check.DNSLabel(d.Name, p.Child("name"))
	if n := len(d.Attributes) + len(d.Capacity); n > resourcev1.ResourceSliceMaxAttributesAndCapacitiesPerDevice {
		errs = append(errs, field.Invalid(p, n, fmt.Sprintf("the total number of attributes and capacities must not exceed %d", resourcev1.ResourceSliceMaxAttributesAndCapacitiesPerDevice)))
	}
	attributes, capacity := p.Child("attributes"), p.Child("capacity")
	for _, k := range check.Keys(d.Attributes) {
		errs = append(errs, validateName(string(k), attributes)...)
		errs = append(errs, validateAttribute(d.Attributes[k], attributes.Key(string(k)))...)
	}
	if old == nil || !apiequality.Semantic.DeepEqual(old.Capacity, d.Capacity) {
		for _, k := range check.Keys(d.Capacity) {
			errs = append(errs, validateName(string(k), capacity)...)
			errs = append(errs, validateCapacity(d, d.Capacity[k], capacity.Key(string(k)))...)
		}
	}
	errs = append(errs, validateConsumption(d.ConsumesCounters, p.Child("consumesCounters"))...)
	if old == nil || !apiequality.Semantic.DeepEqual(old.Taints, d.Taints) {
		errs = append(errs, validateSome(d.Taints, resourcev1.DeviceTaintsMaxLength, p.Child("taints"),
			func(t *resourcev1.DeviceTaint, p *field.Path) field.ErrorList { return validateTaint(t, false, p) })...)
	}
	errs = append(errs, validateDeviceWhere(d, perDevice, p)...)
	return append(errs, validateBindingConditions(d.BindingConditions, d.BindingFailureConditions, p)...)
}

// validateDeviceWhere wants a device to say from where it can be used if its slice leaves that to its devices.
func validateDeviceWhere(d *resourcev1.Device, perDevice bool, p *field.Path) field.ErrorList {
	if !perDevice {
		if d.NodeName != nil || d.NodeSelector != nil || d.AllNodes != nil {
			return field.ErrorList{field.Invalid(p, nil, "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec")}
		}
		return nil
	}
	errs, set := validateNodes(d.NodeName, d.NodeSelector, false, d.AllNodes, "must not be empty", p)
	const one = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec"
	switch {
	case len(set) == 0:
		errs = append(errs, field.Required(p, one))
	case len(set) > 1:
		errs = append(errs, field.Invalid(p, fmt.Sprintf("{%s}", strings.Join(set, ", ")), one))
	}
	return errs
}

// validateBindingConditions checks the conditions that a pod's binding waits for; there is no success without a way to fail, and no
// condition is both.
func validateBindingConditions(ready, failed []string, p *field.Path) field.ErrorList {
	readyAt, failedAt := p.Child("bindingConditions"), p.Child("bindingFailureConditions")
	name := func(c *string, p *field.Path) field.ErrorList { return check.QualifiedName(*c, p) }
	errs := validateEach(ready, resourcev1.BindingConditionsMaxSize, readyAt, name)
	errs = append(errs, validateEach(failed, resourcev1.BindingFailureConditionsMaxSize, failedAt, name)...)
	for i, c := range ready {
		if slices.Contains(ready[:i], c) {
			errs = append(errs, field.Duplicate(readyAt.Index(i), c))
		}
	}
	for i, c := range failed {
		if slices.Contains(failed[:i], c) {
			errs = append(errs, field.Duplicate(failedAt.Index(i), c))
		}
		if slices.Contains(ready, c) {
			errs = append(errs, field.Invalid(failedAt.Index(i), c, "bindingFailureConditions must not overlap with bindingConditions"))
		}
	}
	switch {
	case len(ready) == 0 && len(failed) > 0:
		errs = append(errs, field.Invalid(readyAt, ready, "bindingConditions are required to use bindingFailureConditions"))
	case len(ready) > 0 && len(failed) == 0:
		errs = append(errs, field.Invalid(failedAt, failed, "bindingFailureConditions are required to use bindingConditions"))
	}
	return errs
}

const attributeValues = "`int`, `bool`, `string`, `version`, `ints`, `bools`, `strings`, `versions`"

// validateAttribute wants one value, of one type.
func validateAttribute(a resourcev1.DeviceAttribute, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	var set []string
	for _, f := range []struct {
		name string
		is   bool
	}{
		{"int", a.IntValue != nil}, {"bool", a.BoolValue != nil}, {"string", a.StringValue != nil}, {"version", a.VersionValue != nil},
		{"ints", a.IntValues != nil}, {"bools", a.BoolValues != nil}, {"strings", a.StringValues != nil}, {"versions", a.VersionValues != nil},
	} {
		if f.is {
			set = append(set, f.name)
		}
	}
	if a.StringValue != nil {
		errs = append(errs, validateText(*a.StringValue, p.Child("string"))...)
	}
	if a.VersionValue != nil {
		errs = append(errs, validateVersion(*a.VersionValue, p.Child("version"))...)
	}
	for i, s := range a.StringValues {
		errs = append(errs, validateText(s, p.Child("strings").Index(i))...)
	}
	for i, s := range a.VersionValues {
		errs = append(errs, validateVersion(s, p.Child("versions").Index(i))...)
	}
	switch {
	case len(set) == 0:
		errs = append(errs, check.Declared(field.ErrorList{field.Invalid(p, "", "must specify one of: "+attributeValues)})...)
	case len(set) > 1:
		errs = append(errs, check.Declared(field.ErrorList{field.Invalid(p, "{"+strings.Join(set, ", ")+"}", "must specify exactly one of: "+attributeValues)})...)
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
	switch {
	case len(policy.ValidValues) > 0 && policy.ValidRange != nil:
		return field.ErrorList{field.Forbidden(at, `exactly one policy can be specified, cannot specify "validValues" and "validRange" at the same time`)}
	case len(policy.ValidValues) > 0 && policy.Default == nil:
		return field.ErrorList{field.Required(at.Child("default"), "required when validValues is defined")}
	case policy.ValidRange != nil && policy.Default == nil:
		return field.ErrorList{field.Required(at.Child("default"), "required when validRange is defined")}
	case len(policy.ValidValues) > 0:
		return validateValues(policy.ValidValues, *policy.Default, c.Value, at.Child("validValues"))
	case policy.ValidRange != nil:
		return validateRange(policy.ValidRange, *policy.Default, c.Value, at.Child("validRange"))
	}
	return nil
}

// maxValidValues is how many amounts a policy may list.
const maxValidValues = 10

// validateValues wants a request's possible amounts in ascending order, none more than there is, the default among them.
func validateValues(values []resource.Quantity, byDefault, capacity resource.Quantity, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := 1; i < len(values); i++ {
		if values[i-1].Cmp(values[i]) > 0 {
			errs = append(errs, field.Invalid(p.Index(i), values[i].String(), "values must be sorted in ascending order"))
		}
	}
	known := false
	errs = append(errs, validateNamed(values, maxValidValues, p,
		func(q *resource.Quantity) string { return strconv.FormatInt(q.Value(), 10) },
		func(q *resource.Quantity, p *field.Path) field.ErrorList {
			known = known || q.Cmp(byDefault) == 0
			if q.Cmp(capacity) > 0 {
				return field.ErrorList{field.Invalid(p, q.String(), "option is larger than capacity value: "+capacity.String())}
			}
			return nil
		})...)
	if !known {
		errs = append(errs, field.Invalid(p, byDefault.String(), "default value is not valid according to the requestPolicy"))
	}
	return errs
}

// validateRange wants min <= default <= max <= capacity, and default and max to be whole steps away from min.
func validateRange(r *resourcev1.CapacityRequestPolicyRange, byDefault, capacity resource.Quantity, p *field.Path) field.ErrorList {
	usual, least, most, step := p.Child("default"), p.Child("min"), p.Child("max"), p.Child("step")
	if r.Min == nil {
		return field.ErrorList{field.Required(least, "required when validRange is defined")}
	}
	var errs field.ErrorList
	bad := func(is bool, at *field.Path, value resource.Quantity, text string, than resource.Quantity) {
		if is {
			errs = append(errs, field.Invalid(at, value.String(), text+": "+than.String()))
		}
	}
	bad(r.Min.Cmp(capacity) > 0, least, *r.Min, "min is larger than capacity value", capacity)
	bad(byDefault.Cmp(*r.Min) < 0, usual, byDefault, "default is less than min", *r.Min)
	if r.Max != nil {
		bad(r.Min.Cmp(*r.Max) > 0, most, *r.Min, "min is larger than max", *r.Max)
		bad(r.Max.Cmp(capacity) > 0, most, *r.Max, "max is larger than capacity value", capacity)
		bad(byDefault.Cmp(*r.Max) > 0, usual, byDefault, "default is more than max", *r.Max)
	}
	if r.Step == nil {
		return errs
	}
	if r.Step.Sign() <= 0 {
		return append(errs, field.Invalid(step, r.Step.String(), check.PositiveText))
	}
	first := r.Min.DeepCopy()
	first.Add(*r.Step)
	bad(first.Cmp(capacity) > 0, step, *r.Step, "one step "+first.String()+" is larger than capacity value", capacity)
	// Steps are counted in whole numbers of 64 bits.
	over := append(countable(&byDefault, usual), countable(r.Min, least)...)
	over = append(append(over, countable(r.Max, most)...), countable(r.Step, step)...)
	if len(over) > 0 {
		return append(errs, over...)
	}
	whole := func(q resource.Quantity) {
		if (q.Value()-r.Min.Value())%r.Step.Value() != 0 {
			errs = append(errs, field.Invalid(step, q.String(), fmt.Sprintf("value is not a multiple of a given step (%s) from (%s)", r.Step.String(), r.Min.String())))
		}
	}
	whole(byDefault)
	if r.Max != nil {
		whole(*r.Max)
	}
	return errs
}

// countable wants a quantity, if there is one, that is a number of at most 64 bits.
func countable(q *resource.Quantity, p *field.Path) field.ErrorList {
	switch {
	case q == nil:
		return nil
	case q.Sign() < 0:
		return field.ErrorList{field.Invalid(p, q.String(), check.NegativeText)}
	case q.CmpInt64(math.MaxInt64) > 0:
		return field.ErrorList{field.Invalid(p, q.String(), fmt.Sprintf("must not be larger than %d", math.MaxInt64))}
	}
	return nil
}

// validateCounterSets checks what the devices of a pool consume together (KEP-4815).
func validateCounterSets(list []resourcev1.CounterSet, p *field.Path) field.ErrorList {
	return validateUnique(list, resourcev1.ResourceSliceMaxCounterSets, p, func(s *resourcev1.CounterSet) string { return s.Name },
		func(s *resourcev1.CounterSet, p *field.Path) field.ErrorList {
			errs := validateCounterName(s.Name, p.Child("name"))
			return append(errs, validateCounters(s.Counters, resourcev1.ResourceSliceMaxCountersPerCounterSet, p.Child("counters"))...)
		})
}

func validateConsumption(list []resourcev1.DeviceCounterConsumption, p *field.Path) field.ErrorList {
	return validateUnique(list, resourcev1.ResourceSliceMaxDeviceCounterConsumptionsPerDevice, p,
		func(c *resourcev1.DeviceCounterConsumption) string { return c.CounterSet },
		func(c *resourcev1.DeviceCounterConsumption, p *field.Path) field.ErrorList {
			errs := validateCounterName(c.CounterSet, p.Child("counterSet"))
			return append(errs, validateCounters(c.Counters, resourcev1.ResourceSliceMaxCountersPerDeviceCounterConsumption, p.Child("counters"))...)
		})
}

func validateCounterName(name string, p *field.Path) field.ErrorList {
	if name == "" {
		return check.Missing(p)
	}
	return check.ShortName(name, p)
}

func validateCounters(m map[string]resourcev1.Counter, most int, p *field.Path) field.ErrorList {
	switch n := len(m); {
	case n == 0:
		return check.Missing(p)
	case n > most:
		return field.ErrorList{field.TooMany(p, n, most)}
	}
	var errs field.ErrorList
	for _, k := range check.Keys(m) {
		errs = append(errs, check.ShortName(k, p)...)
	}
	return errs
}
