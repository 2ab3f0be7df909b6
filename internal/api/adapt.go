package api

import (
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// typed is a pointer to T that is an API type.
type typed[T any] interface {
	*T
	runtime.Object
}

// NewVersion describes a version by its Go types: api.NewVersion[appsv1.Deployment, appsv1.DeploymentList]("v1").
func NewVersion[T, L any, PT typed[T], PL typed[L]](version string) Version {
	return Version{
		Version: version,
		New:     func() runtime.Object { return PT(new(T)) },
		NewList: func() runtime.Object { return PL(new(L)) },
	}
}

// Legacy describes a hidden version of another time, in group, with its conversions to and from the hub type H. Its
// deprecation warning comes from the life cycle that the Go type itself declares. from may be nil: then the hub's JSON form
// is read as the legacy type.
func Legacy[H Object, T, L any, PT typed[T], PL typed[L]](group, version string, to func(*T) (H, error), from func(H) (*T, error)) Version {
	v := NewVersion[T, L, PT, PL](version)
	v.Group, v.Hidden = group, true
	if to != nil {
		v.ToHub = func(in runtime.Object) (Object, error) {
			t, ok := in.(PT)
			if !ok {
				return nil, fmt.Errorf("converting from %T: want %T", in, t)
			}
			return to((*T)(t))
		}
	}
	if from != nil {
		v.FromHub = func(in Object) (runtime.Object, error) {
			h, ok := in.(H)
			if !ok {
				return nil, fmt.Errorf("converting from %T: want %T", in, h)
			}
			t, err := from(h)
			return PT(t), err
		}
	}
	return v
}

// lifecycle is what the deprecated types of k8s.io/api tell of themselves.
type lifecycle interface {
	APILifecycleDeprecated() (major, minor int)
	APILifecycleRemoved() (major, minor int)
	APILifecycleReplacement() schema.GroupVersionKind
}

// deprecation is the warning for a type that declares its end, "" for others.
func deprecation(obj runtime.Object, gvk schema.GroupVersionKind) string {
	l, ok := obj.(lifecycle)
	if !ok {
		return ""
	}
	text := gvk.GroupVersion().String() + " " + gvk.Kind
	if major, minor := l.APILifecycleDeprecated(); major > 0 {
		text += fmt.Sprintf(" is deprecated in v%d.%d+", major, minor)
	} else {
		return ""
	}
	if major, minor := l.APILifecycleRemoved(); major > 0 {
		text += fmt.Sprintf(", unavailable in v%d.%d+", major, minor)
	}
	if r := l.APILifecycleReplacement(); r.Kind != "" {
		text += fmt.Sprintf("; use %s %s", r.GroupVersion(), r.Kind)
	}
	return text
}

// StatusVerbs are the verbs of a "status" or "scale" subresource.
func StatusVerbs() []string { return []string{"get", "patch", "update"} }

// Status is the subresource through which controllers report.
func Status() Subresource { return Subresource{Name: "status", Verbs: StatusVerbs()} }

// TablelessStatus is Status for kinds whose other door shows no tables.
func TablelessStatus() Subresource {
	s := Status()
	s.NoTable = true
	return s
}

// Scale is the subresource that shows a workload as a number of replicas.
func Scale() Subresource {
	return Subresource{Name: "scale", Kind: schema.GroupVersionKind{Group: "autoscaling", Version: "v1", Kind: "Scale"}, Verbs: StatusVerbs()}
}

// On lets a function over a Go type stand where a Kind wants one over Objects. The server only ever hands a Kind its own hub type.
func On[T Object](f func(T)) func(Object) {
	return func(o Object) { f(o.(T)) }
}

// OnUpdate is On for a new and an old object.
func OnUpdate[T Object](f func(obj, old T)) func(obj, old Object) {
	return func(obj, old Object) { f(obj.(T), old.(T)) }
}

// Changed is On for a question about two objects.
func Changed[T Object](f func(obj, old T) bool) func(obj, old Object) bool {
	return func(obj, old Object) bool { return f(obj.(T), old.(T)) }
}

// Check is On for a validation.
func Check[T Object](f func(T) field.ErrorList) func(Object) field.ErrorList {
	return func(o Object) field.ErrorList { return f(o.(T)) }
}

// CheckUpdate is On for a validation of an update.
func CheckUpdate[T Object](f func(obj, old T) field.ErrorList) func(obj, old Object) field.ErrorList {
	return func(obj, old Object) field.ErrorList { return f(obj.(T), old.(T)) }
}

// CheckInNamespace is On for a validation that looks at the namespace's labels; old is T's zero value (nil) on create.
func CheckInNamespace[T Object](f func(obj, old T, labels map[string]string) field.ErrorList) func(obj, old Object, labels map[string]string) field.ErrorList {
	return func(obj, old Object, labels map[string]string) field.ErrorList {
		var o T
		if old != nil {
			o = old.(T)
		}
		return f(obj.(T), o, labels)
	}
}

// Warn is On for warnings; old is T's zero value (nil) on create.
func Warn[T Object](f func(obj, old T) []string) func(obj, old Object) []string {
	return func(obj, old Object) []string {
		var o T
		if old != nil {
			o = old.(T)
		}
		return f(obj.(T), o)
	}
}

// Row is On for a row of the Table.
func Row[T Object](f func(obj T, now time.Time) []any) func(Object, time.Time) []any {
	return func(o Object, now time.Time) []any { return f(o.(T), now) }
}

// Columns makes a list of columns.
func Columns(c ...metav1.TableColumnDefinition) []metav1.TableColumnDefinition { return c }
