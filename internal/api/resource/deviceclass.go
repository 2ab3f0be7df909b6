package resource

import (
	"context"
	"time"

	resourcev1 "k8s.io/api/resource/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/operation"
	"k8s.io/apimachinery/pkg/api/validate"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/cel/environment"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/check"
	"github.com/celox/celox/internal/api/table"
)

func deviceClass() *api.Kind {
	return &api.Kind{
		Group:                    "resource.k8s.io",
		Kind:                     "DeviceClass",
		Resource:                 "deviceclasses",
		Singular:                 "deviceclass",
		Prefix:                   "deviceclasses",
		Versions:                 []api.Version{api.NewVersion[resourcev1.DeviceClass, resourcev1.DeviceClassList]("v1")},
		Hub:                      "v1",
		HasGeneration:            true,
		ValidateName:             check.DeclaredName,
		DeclaresName:             true,
		Validate:                 api.Check(func(c *resourcev1.DeviceClass) field.ErrorList { return validateDeviceClass(c, nil) }),
		ValidateUpdate:           api.CheckUpdate(validateDeviceClass),
		AllowUnconditionalUpdate: true,
		ReturnDeleted:            true,
		Columns:                  api.Columns(table.Name(), table.AgeColumn()),
		Row:                      api.Row(func(c *resourcev1.DeviceClass, now time.Time) []any { return []any{c.Name, table.Age(c, now)} }),
	}
}

// validateDeviceClass checks a class; old is nil on create. Selectors and configurations that stay as they are were accepted once.
func validateDeviceClass(c, old *resourcev1.DeviceClass) field.ErrorList {
	p, s := field.NewPath("spec"), &c.Spec
	mode, stored := environment.NewExpressions, false
	if old != nil {
		if apiequality.Semantic.DeepEqual(s.Selectors, old.Spec.Selectors) {
			mode = environment.StoredExpressions
		}
		stored = apiequality.Semantic.DeepEqual(s.Config, old.Spec.Config)
	}
	errs := validateSelectors(s.Selectors, mode, p.Child("selectors"))
	errs = append(errs, validateEach(s.Config, resourcev1.DeviceConfigMaxSize, p.Child("config"),
		func(c *resourcev1.DeviceClassConfiguration, p *field.Path) field.ErrorList {
			return validateConfiguration(&c.DeviceConfiguration, stored, p)
		})...)
	return append(errs, check.Declared(validate.ExtendedResourceName(context.Background(), operation.Operation{}, p.Child("extendedResourceName"), s.ExtendedResourceName, nil))...)
}
