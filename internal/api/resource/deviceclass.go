package resource

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/cel/environment"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/check"
	"github.com/celox/celox/internal/api/table"
)

func deviceClass() *api.Kind {
	return &api.Kind{
		Group:         "resource.k8s.io",
		Kind:          "DeviceClass",
		Resource:      "deviceclasses",
		Singular:      "deviceclass",
		Prefix:        "deviceclasses",
		Versions:      []api.Version{api.NewVersion[resourcev1.DeviceClass, resourcev1.DeviceClassList]("v1")},
		Hub:           "v1",
		HasGeneration: true,
		Validate: api.Check(func(c *resourcev1.DeviceClass) field.ErrorList {
			return validateDeviceClass(c, environment.NewExpressions)
		}),
		ValidateUpdate: api.CheckUpdate(func(c, old *resourcev1.DeviceClass) field.ErrorList {
			if apiequality.Semantic.DeepEqual(c.Spec.Selectors, old.Spec.Selectors) {
				return validateDeviceClass(c, environment.StoredExpressions)
			}
			return validateDeviceClass(c, environment.NewExpressions)
		}),
		AllowUnconditionalUpdate: true,
		ReturnDeleted:            true,
		Columns:                  api.Columns(table.Name(), table.AgeColumn()),
		Row:                      api.Row(func(c *resourcev1.DeviceClass, now time.Time) []any { return []any{c.Name, table.Age(c, now)} }),
	}
}

func validateDeviceClass(c *resourcev1.DeviceClass, mode environment.Type) field.ErrorList {
	p, s := field.NewPath("spec"), &c.Spec
	errs := validateSelectors(s.Selectors, mode, p.Child("selectors"))
	config := p.Child("config")
	if n := len(s.Config); n > resourcev1.DeviceConfigMaxSize {
		errs = append(errs, field.TooMany(config, n, resourcev1.DeviceConfigMaxSize))
	}
	for i := range s.Config {
		errs = append(errs, validateConfiguration(&s.Config[i].DeviceConfiguration, config.Index(i))...)
	}
	if n := s.ExtendedResourceName; n != nil && !check.IsExtendedResource(corev1.ResourceName(*n)) {
		errs = append(errs, field.Invalid(p.Child("extendedResourceName"), *n, "must be a valid extended resource name"))
	}
	return errs
}
