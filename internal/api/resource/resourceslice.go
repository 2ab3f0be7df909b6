package resource

import (
	"fmt"
	"strings"
	"time"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/check"
	"github.com/celox/celox/internal/api/table"
)

func resourceSlice() *api.Kind {
	spec := resourcev1.ResourceSliceSpec{}.SwaggerDoc()
	return &api.Kind{
		Group:                    "resource.k8s.io",
		Kind:                     "ResourceSlice",
		Resource:                 "resourceslices",
		Singular:                 "resourceslice",
		Prefix:                   "resourceslices",
		Versions:                 []api.Version{api.NewVersion[resourcev1.ResourceSlice, resourcev1.ResourceSliceList]("v1")},
		Hub:                      "v1",
		HasGeneration:            true,
		PrepareForCreate:         api.On(func(s *resourcev1.ResourceSlice) { stampAll(s) }),
		PrepareForUpdate:         api.OnUpdate(func(s, _ *resourcev1.ResourceSlice) { stampAll(s) }),
		Validate:                 api.Check(validateSlice),
		ValidateUpdate:           api.CheckUpdate(validateSliceUpdate),
		AllowUnconditionalUpdate: true,
		ReturnDeleted:            true,
		FieldNames:               []string{"spec.driver", "spec.nodeName", "spec.pool.name"},
		Fields: func(o api.Object) fields.Set {
			s := o.(*resourcev1.ResourceSlice)
			return fields.Set{"spec.driver": s.Spec.Driver, "spec.nodeName": nodeOf(s), "spec.pool.name": s.Spec.Pool.Name}
		},
		Columns: api.Columns(
			table.Name(),
			table.Column("Node", table.String, spec["nodeName"]),
			table.Column("Driver", table.String, spec["driver"]),
			table.Column("Pool", table.String, resourcev1.ResourcePool{}.SwaggerDoc()["name"]),
			table.AgeColumn(),
		),
		Row: api.Row(func(s *resourcev1.ResourceSlice, now time.Time) []any {
			return []any{s.Name, nodeOf(s), s.Spec.Driver, s.Spec.Pool.Name, table.Age(s, now)}
		}),
	}
}

func stampAll(s *resourcev1.ResourceSlice) {
	for i := range s.Spec.Devices {
		for n := range s.Spec.Devices[i].Taints {
			stamp(&s.Spec.Devices[i].Taints[n])
		}
	}
}

func nodeOf(s *resourcev1.ResourceSlice) string {
	if s.Spec.NodeName == nil {
		return ""
	}
	return *s.Spec.NodeName
}

func validateSlice(o *resourcev1.ResourceSlice) field.ErrorList {
	p, s := field.NewPath("spec"), &o.Spec
	errs := validateDriver(s.Driver, p.Child("driver"))
	pool := p.Child("pool")
	errs = append(errs, validatePool(s.Pool.Name, pool.Child("name"))...)
	errs = append(errs, check.Positive(s.Pool.ResourceSliceCount, pool.Child("resourceSliceCount"))...)
	if s.Pool.Generation < 0 {
		errs = append(errs, field.Invalid(pool.Child("generation"), s.Pool.Generation, "must be greater than or equal to zero"))
	}
	errs = append(errs, validateWhere(s, p)...)
	devices := p.Child("devices")
	if n := len(s.Devices); n > resourcev1.ResourceSliceMaxDevices {
		errs = append(errs, field.TooMany(devices, n, resourcev1.ResourceSliceMaxDevices))
	}
	names := map[string]bool{}
	for i := range s.Devices {
		d, at := &s.Devices[i], devices.Index(i)
		errs = append(errs, validateDevice(d, at)...)
		if d.Name != "" && names[d.Name] {
			errs = append(errs, field.Duplicate(at, d.Name))
		}
		names[d.Name] = true
	}
	return errs
}

// validateWhere wants a slice to say in exactly one way from where its devices can be used.
func validateWhere(s *resourcev1.ResourceSliceSpec, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	var set []string
	if s.NodeName != nil {
		set = append(set, "`nodeName`")
		if *s.NodeName == "" {
			errs = append(errs, field.Invalid(p.Child("nodeName"), *s.NodeName, "must be either unset or set to a non-empty string"))
		} else {
			errs = append(errs, check.DNSSubdomain(*s.NodeName, p.Child("nodeName"))...)
		}
	}
	if s.NodeSelector != nil {
		set = append(set, "`nodeSelector`")
		errs = append(errs, validateNodeSelector(s.NodeSelector, p.Child("nodeSelector"))...)
	}
	for _, f := range []struct {
		name  string
		value *bool
	}{{"allNodes", s.AllNodes}, {"perDeviceNodeSelection", s.PerDeviceNodeSelection}} {
		if f.value == nil {
			continue
		}
		if *f.value {
			set = append(set, "`"+f.name+"`")
		} else {
			errs = append(errs, field.Invalid(p.Child(f.name), *f.value, "must be either unset or set to true"))
		}
	}
	const one = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required"
	switch {
	case len(set) == 0 && len(s.SharedCounters) == 0:
		errs = append(errs, field.Required(p, one))
	case len(set) > 1:
		errs = append(errs, field.Invalid(p, fmt.Sprintf("{%s}", strings.Join(set, ", ")), one+", but multiple fields are set"))
	}
	return errs
}

func validateDevice(d *resourcev1.Device, p *field.Path) field.ErrorList {
	errs := validateDeviceName(d.Name, p.Child("name"))
	attributes, capacity := p.Child("attributes"), p.Child("capacity")
	for _, k := range check.Keys(d.Attributes) {
		errs = append(errs, validateName(string(k), attributes)...)
		errs = append(errs, validateAttribute(d.Attributes[k], attributes.Key(string(k)))...)
	}
	for _, k := range check.Keys(d.Capacity) {
		errs = append(errs, validateName(string(k), capacity)...)
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
	return errs
}

func validateAttribute(a resourcev1.DeviceAttribute, p *field.Path) field.ErrorList {
	n := 0
	for _, set := range [...]bool{
		a.IntValue != nil, a.BoolValue != nil, a.StringValue != nil, a.VersionValue != nil,
		a.IntValues != nil, a.BoolValues != nil, a.StringValues != nil, a.VersionValues != nil,
	} {
		if set {
			n++
		}
	}
	switch {
	case n == 0:
		return field.ErrorList{field.Required(p, "exactly one value must be specified")}
	case n > 1:
		return field.ErrorList{field.Invalid(p, check.Rendered(a), "exactly one value must be specified")}
	}
	for _, s := range []struct {
		name  string
		value *string
	}{{"string", a.StringValue}, {"version", a.VersionValue}} {
		if s.value != nil && len(*s.value) > resourcev1.DeviceAttributeMaxValueLength {
			return field.ErrorList{field.TooLong(p.Child(s.name), *s.value, resourcev1.DeviceAttributeMaxValueLength)}
		}
	}
	return nil
}

func validateSliceUpdate(o, old *resourcev1.ResourceSlice) field.ErrorList {
	p, s, was := field.NewPath("spec"), &o.Spec, &old.Spec
	errs := validateSlice(o)
	errs = append(errs, check.Immutable(s.Driver, was.Driver, p.Child("driver"))...)
	errs = append(errs, check.Immutable(s.Pool.Name, was.Pool.Name, p.Child("pool", "name"))...)
	return append(errs, check.Immutable(s.NodeName, was.NodeName, p.Child("nodeName"))...)
}
