package apps

import (
	"bytes"
	"encoding/json"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	appsv1beta1 "k8s.io/api/apps/v1beta1"
	appsv1beta2 "k8s.io/api/apps/v1beta2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/api/check"
	"github.com/celox/celox/internal/api/table"
)

func controllerRevision() *api.Kind {
	return &api.Kind{
		Group:      "apps",
		Kind:       "ControllerRevision",
		Resource:   "controllerrevisions",
		Singular:   "controllerrevision",
		Namespaced: true,
		Prefix:     "controllerrevisions",
		Versions: []api.Version{
			api.NewVersion[appsv1.ControllerRevision, appsv1.ControllerRevisionList]("v1"),
			api.Legacy[*appsv1.ControllerRevision, appsv1beta2.ControllerRevision, appsv1beta2.ControllerRevisionList]("apps", "v1beta2", nil, nil),
			api.Legacy[*appsv1.ControllerRevision, appsv1beta1.ControllerRevision, appsv1beta1.ControllerRevisionList]("apps", "v1beta1", nil, nil),
		},
		Hub:      "v1",
		Validate: api.Check(validateControllerRevision),
		ValidateUpdate: api.CheckUpdate(func(r, old *appsv1.ControllerRevision) field.ErrorList {
			errs := check.NonNegative(r.Revision, field.NewPath("revision"))
			if !sameJSON(r.Data.Raw, old.Data.Raw) {
				var shown any
				if len(r.Data.Raw) > 0 && json.Unmarshal(r.Data.Raw, &shown) != nil {
					shown = string(r.Data.Raw)
				}
				errs = append(errs, field.Invalid(field.NewPath("data"), shown, check.ImmutableText))
			}
			return errs
		}),
		AllowUnconditionalUpdate: true,
		Columns: api.Columns(
			table.Name(),
			table.Column("Controller", table.String, "Controller of the object"),
			table.Column("Revision", table.String, appsv1.ControllerRevision{}.SwaggerDoc()["revision"]),
			table.AgeColumn(),
		),
		Row: api.Row(func(r *appsv1.ControllerRevision, now time.Time) []any {
			return []any{r.Name, controllerOf(r), r.Revision, table.Age(r, now)}
		}),
	}
}

func validateControllerRevision(r *appsv1.ControllerRevision) field.ErrorList {
	errs := check.NonNegative(r.Revision, field.NewPath("revision"))
	data := bytes.TrimSpace(r.Data.Raw)
	switch {
	case len(data) == 0 || string(data) == "null":
		errs = append(errs, field.Required(field.NewPath("data"), "data is mandatory"))
	case data[0] != '{' || !json.Valid(data):
		errs = append(errs, field.Required(field.NewPath("data"), "data must be a valid JSON object"))
	}
	return errs
}

// sameJSON compares two documents by content.
func sameJSON(a, b []byte) bool {
	if bytes.Equal(a, b) {
		return true
	}
	var x, y any
	if json.Unmarshal(a, &x) != nil || json.Unmarshal(b, &y) != nil {
		return false
	}
	// Marshalling sorts the keys of objects.
	m, err1 := json.Marshal(x)
	n, err2 := json.Marshal(y)
	return err1 == nil && err2 == nil && bytes.Equal(m, n)
}

// controllerOf names the controller of an object as kubectl does: "statefulset.apps/web".
func controllerOf(o metav1.Object) string {
	ref := metav1.GetControllerOf(o)
	if ref == nil {
		return table.None
	}
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return table.None
	}
	gk := schema.GroupKind{Group: gv.Group, Kind: strings.ToLower(ref.Kind)}
	return gk.String() + "/" + ref.Name
}
