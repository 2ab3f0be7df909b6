package storage

import (
	"time"

	storagev1 "k8s.io/api/storage/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/table"
)

func volumeAttributesClass() *api.Kind {
	return &api.Kind{
		Group:      "storage.k8s.io",
		Kind:       "VolumeAttributesClass",
		Resource:   "volumeattributesclasses",
		Singular:   "volumeattributesclass",
		ShortNames: []string{"vac"},
		Prefix:     "volumeattributesclasses",
		Versions:   []api.Version{api.NewVersion[storagev1.VolumeAttributesClass, storagev1.VolumeAttributesClassList]("v1")},
		Hub:        "v1",
		Validate:   api.Check(validateAttributesClass),
		ValidateUpdate: api.CheckUpdate(func(c, old *storagev1.VolumeAttributesClass) field.ErrorList {
			var errs field.ErrorList
			if c.DriverName != old.DriverName {
				errs = append(errs, field.Forbidden(field.NewPath("driverName"), "updates to driverName are forbidden."))
			}
			if !apiequality.Semantic.DeepEqual(c.Parameters, old.Parameters) {
				errs = append(errs, field.Forbidden(field.NewPath("parameters"), "updates to parameters are forbidden."))
			}
			return append(errs, validateAttributesClass(c)...)
		}),
		AllowUnconditionalUpdate: true,
		ReturnDeleted:            true,
		Columns: api.Columns(
			table.Name(),
			table.Column("DriverName", table.String, storagev1.VolumeAttributesClass{}.SwaggerDoc()["driverName"]),
			table.AgeColumn(),
		),
		Row: api.Row(func(c *storagev1.VolumeAttributesClass, now time.Time) []any {
			return []any{c.Name, c.DriverName, table.Age(c, now)}
		}),
	}
}

func validateAttributesClass(c *storagev1.VolumeAttributesClass) field.ErrorList {
	errs := validateProvisioner(c.DriverName, field.NewPath("driverName"))
	return append(errs, validateParameters(c.Parameters, true, field.NewPath("parameters"))...)
}

// named marks a column as holding names of objects.
func named(c metav1.TableColumnDefinition) metav1.TableColumnDefinition {
	c.Format = "name"
	return c
}
