package resource

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/check"
	"github.com/celox/celox/internal/api/podspec"
	"github.com/celox/celox/internal/api/table"
)

func resourceSlice() *api.Kind {
	spec := resourcev1.ResourceSliceSpec{}.SwaggerDoc()
	return &api.Kind{
		Group:         "resource.k8s.io",
		Kind:          "ResourceSlice",
		Resource:      "resourceslices",
		Singular:      "resourceslice",
		Prefix:        "resourceslices",
		Versions:      []api.Version{api.NewVersion[resourcev1.ResourceSlice, resourcev1.ResourceSliceList]("v1")},
		Hub:           "v1",
		HasGeneration: true,
		PrepareForCreate: api.On(func(s *resourcev1.ResourceSlice) {
			dropFromSlice(&s.Spec, nil)
			stampAll(s)
		}),
		PrepareForUpdate: api.OnUpdate(func(s, old *resourcev1.ResourceSlice) {
			// What is dropped counts as a change all the same.
			if !apiequality.Semantic.DeepEqual(s.Spec, old.Spec) {
				s.Generation = old.Generation + 1
			}
			dropFromSlice(&s.Spec, &old.Spec)
			stampAll(s)
		}),
		Validate:                 api.Check(validateSlice),
		ValidateUpdate:           api.CheckUpdate(validateSliceUpdate),
		Warnings:                 api.Warn(warnSlice),
		AllowUnconditionalUpdate: true,
		ReturnDeleted:            true,
		FieldNames:               []string{"spec.driver", "spec.nodeName", "spec.pool.name"},
		FieldRefusal: func(gvk schema.GroupVersionKind, name string) string {
			return "field label not supported for " + gvk.String() + ": " + name
		},
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

func validateSlice(o *resourcev1.ResourceSlice) field.ErrorList { return validateSliceUpdate(o, nil) }

func warnSlice(s, _ *resourcev1.ResourceSlice) []string {
	if d := s.Spec.Driver; d != strings.ToLower(d) {
		return []string{fmt.Sprintf("spec.driver: driver names should be lowercase; %q contains uppercase characters", d)}
	}
	return nil
}

// validateSliceUpdate checks a slice; old is nil on create.
func validateSliceUpdate(o, old *resourcev1.ResourceSlice) field.ErrorList {
	p, s := field.NewPath("spec"), &o.Spec
	errs := validateDriver(s.Driver, p.Child("driver"))
	pool := p.Child("pool")
	errs = append(errs, validatePool(s.Pool.Name, pool.Child("name"))...)
	errs = append(errs, check.Positive(s.Pool.ResourceSliceCount, pool.Child("resourceSliceCount"))...)
	if s.Pool.Generation < 0 {
		errs = append(errs, field.Invalid(pool.Child("generation"), s.Pool.Generation, "must be greater than or equal to zero"))
	}
	stored := map[string]*resourcev1.Device{}
	if old != nil {
		was := &old.Spec
		errs = append(errs, check.Immutable(s.Pool.Name, was.Pool.Name, pool.Child("name"))...)
		errs = append(errs, check.Immutable(s.Driver, was.Driver, p.Child("driver"))...)
		errs = append(errs, check.Immutable(s.NodeName, was.NodeName, p.Child("nodeName"))...)
		for i := range was.Devices {
			stored[was.Devices[i].Name] = &was.Devices[i]
		}
	}
	errs = append(errs, validateWhere(s, p)...)
	if s.SharedCounters != nil && s.Devices != nil {
		errs = append(errs, field.Invalid(p, "", "only one of `sharedCounters` or `devices` is allowed"))
	}
	perDevice := s.PerDeviceNodeSelection != nil && *s.PerDeviceNodeSelection
	errs = append(errs, validateNamed(s.Devices, maxDevices(s.Devices), p.Child("devices"),
		func(d *resourcev1.Device) string { return d.Name },
		func(d *resourcev1.Device, p *field.Path) field.ErrorList {
			return validateDevice(d, stored[d.Name], perDevice, p)
		})...)
	return append(errs, validateCounterSets(s.SharedCounters, p.Child("sharedCounters"))...)
}

// maxDevices is how many devices fit into a slice: fewer when one of them has taints or consumes counters.
func maxDevices(list []resourcev1.Device) int {
	for i := range list {
		if len(list[i].Taints) > 0 || len(list[i].ConsumesCounters) > 0 {
			return resourcev1.ResourceSliceMaxDevicesWithAdvancedFeatures
		}
	}
	return resourcev1.ResourceSliceMaxDevices
}

// validateWhere wants a slice to say in exactly one way from where its devices can be used.
func validateWhere(s *resourcev1.ResourceSliceSpec, p *field.Path) field.ErrorList {
	errs, set := validateNodes(s.NodeName, s.NodeSelector, true, s.AllNodes, "must be either unset or set to a non-empty string", p)
	if v := s.PerDeviceNodeSelection; v != nil {
		if *v {
			set = append(set, "`perDeviceNodeSelection`")
		} else {
			errs = append(errs, field.Invalid(p.Child("perDeviceNodeSelection"), *v, "must be either unset or set to true"))
		}
	}
	const one = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required"
	switch {
	case len(set) == 0:
		errs = append(errs, field.Required(p, one))
	case len(set) > 1:
		errs = append(errs, field.Invalid(p, fmt.Sprintf("{%s}", strings.Join(set, ", ")), one+", but multiple fields are set"))
	}
	return errs
}

// validateNodes checks the three ways in which slices and devices alike name nodes, and returns those that are used. One says that
// a selector has a single term, so that those of several slices can be merged.
func validateNodes(name *string, selector *corev1.NodeSelector, one bool, all *bool, empty string, p *field.Path) (errs field.ErrorList, set []string) {
	if name != nil {
		if *name == "" {
			errs = append(errs, field.Invalid(p.Child("nodeName"), *name, empty))
		} else {
			set = append(set, "`nodeName`")
			errs = append(errs, check.DNSSubdomain(*name, p.Child("nodeName"))...)
		}
	}
	if selector != nil {
		set = append(set, "`nodeSelector`")
		errs = append(errs, podspec.ValidateNodeSelector(selector, false, p.Child("nodeSelector"))...)
		if one && len(selector.NodeSelectorTerms) != 1 {
			errs = append(errs, field.Invalid(p.Child("nodeSelector", "nodeSelectorTerms"), check.Rendered(selector.NodeSelectorTerms), "must have exactly one node selector term"))
		}
	}
	if all != nil {
		if *all {
			set = append(set, "`allNodes`")
		} else {
			errs = append(errs, field.Invalid(p.Child("allNodes"), *all, "must be either unset or set to true"))
		}
	}
	return errs, set
}
