package apply

import (
	"reflect"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/celox/celox/internal/api"
)

// fast spares the bookkeeping where nothing changed that it would record. It reports whether obj's managed fields are final.
func (m *Manager) fast(live, obj api.Object, _ string) bool {
	given, have := obj.GetManagedFields(), live.GetManagedFields()
	if given != nil && (len(given) == 0 || !sameEntries(given, have)) {
		return false
	}
	if given == nil && m.sub == "" && len(have) == 0 {
		return false
	}
	if !sameTracked(live, obj) {
		return false
	}
	obj.SetManagedFields(have)
	return true
}

func sameEntries(a, b []metav1.ManagedFieldsEntry) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0] || equality.Semantic.DeepEqual(a, b))
}

// sameTracked says whether two objects are equal in all that managed fields speak of.
func sameTracked(a, b api.Object) bool {
	va, vb := reflect.ValueOf(a), reflect.ValueOf(b)
	if va.Type() != vb.Type() || va.Kind() != reflect.Pointer || va.Elem().Kind() != reflect.Struct {
		return false
	}
	va, vb = va.Elem(), vb.Elem()
	for i := range va.NumField() {
		switch va.Type().Field(i).Name {
		case "TypeMeta":
			continue
		case "ObjectMeta":
			if !sameTrackedMeta(a, b) {
				return false
			}
			continue
		}
		if !equality.Semantic.DeepEqual(va.Field(i).Interface(), vb.Field(i).Interface()) {
			return false
		}
	}
	return true
}

// sameTrackedMeta compares the metadata that clients own; the rest is the system's.
func sameTrackedMeta(a, b metav1.Object) bool {
	return a.GetGenerateName() == b.GetGenerateName() &&
		equality.Semantic.DeepEqual(a.GetLabels(), b.GetLabels()) &&
		equality.Semantic.DeepEqual(a.GetAnnotations(), b.GetAnnotations()) &&
		equality.Semantic.DeepEqual(a.GetOwnerReferences(), b.GetOwnerReferences()) &&
		equality.Semantic.DeepEqual(a.GetFinalizers(), b.GetFinalizers()) &&
		equality.Semantic.DeepEqual(a.GetDeletionTimestamp(), b.GetDeletionTimestamp()) &&
		equality.Semantic.DeepEqual(a.GetDeletionGracePeriodSeconds(), b.GetDeletionGracePeriodSeconds())
}
