package custom

import (
	"maps"
	"slices"
	"strconv"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// appendMeta appends the JSON of metadata with its fields in alphabetical order.
func appendMeta(b []byte, m *metav1.ObjectMeta) []byte {
	w := objectWriter{b: append(b, '{')}
	w.strings("annotations", m.Annotations)
	w.time("creationTimestamp", &m.CreationTimestamp)
	if m.DeletionGracePeriodSeconds != nil {
		w.name("deletionGracePeriodSeconds")
		w.b = strconv.AppendInt(w.b, *m.DeletionGracePeriodSeconds, 10)
	}
	w.time("deletionTimestamp", m.DeletionTimestamp)
	if len(m.Finalizers) > 0 {
		w.name("finalizers")
		for i, f := range m.Finalizers {
			w.b = appendString(append(w.b, "[,"[min(i, 1)]), f)
		}
		w.b = append(w.b, ']')
	}
	w.text("generateName", m.GenerateName)
	if m.Generation != 0 {
		w.name("generation")
		w.b = strconv.AppendInt(w.b, m.Generation, 10)
	}
	w.strings("labels", m.Labels)
	if len(m.ManagedFields) > 0 {
		w.name("managedFields")
		for i := range m.ManagedFields {
			w.b = append(w.b, "[,"[min(i, 1)])
			w.entry(&m.ManagedFields[i])
		}
		w.b = append(w.b, ']')
	}
	w.text("name", m.Name)
	w.text("namespace", m.Namespace)
	if len(m.OwnerReferences) > 0 {
		w.name("ownerReferences")
		for i := range m.OwnerReferences {
			w.b = append(w.b, "[,"[min(i, 1)])
			w.owner(&m.OwnerReferences[i])
		}
		w.b = append(w.b, ']')
	}
	w.text("resourceVersion", m.ResourceVersion)
	w.text("selfLink", m.SelfLink)
	w.text("uid", string(m.UID))
	return append(w.b, '}')
}

// objectWriter appends the members of an object; those that are empty are left out.
type objectWriter struct{ b []byte }

func (w *objectWriter) name(name string) {
	if w.b[len(w.b)-1] != '{' {
		w.b = append(w.b, ',')
	}
	w.b = append(w.b, '"')
	w.b = append(w.b, name...)
	w.b = append(w.b, '"', ':')
}

func (w *objectWriter) text(name, value string) {
	if value != "" {
		w.name(name)
		w.b = appendString(w.b, value)
	}
}

func (w *objectWriter) bool(name string, value *bool) {
	if value != nil {
		w.name(name)
		w.b = strconv.AppendBool(w.b, *value)
	}
}

func (w *objectWriter) time(name string, t *metav1.Time) {
	if t == nil || t.IsZero() {
		return
	}
	w.name(name)
	w.b = append(w.b, '"')
	w.b = t.UTC().AppendFormat(w.b, time.RFC3339)
	w.b = append(w.b, '"')
}

func (w *objectWriter) strings(name string, m map[string]string) {
	if len(m) == 0 {
		return
	}
	w.name(name)
	w.b = append(w.b, '{')
	for i, k := range slices.Sorted(maps.Keys(m)) {
		if i > 0 {
			w.b = append(w.b, ',')
		}
		w.b = append(appendString(w.b, k), ':')
		w.b = appendString(w.b, m[k])
	}
	w.b = append(w.b, '}')
}

func (w *objectWriter) owner(r *metav1.OwnerReference) {
	w.b = append(w.b, '{')
	w.name("apiVersion")
	w.b = appendString(w.b, r.APIVersion)
	w.bool("blockOwnerDeletion", r.BlockOwnerDeletion)
	w.bool("controller", r.Controller)
	w.name("kind")
	w.b = appendString(w.b, r.Kind)
	w.name("name")
	w.b = appendString(w.b, r.Name)
	w.name("uid")
	w.b = append(appendString(w.b, string(r.UID)), '}')
}

func (w *objectWriter) entry(e *metav1.ManagedFieldsEntry) {
	w.b = append(w.b, '{')
	w.text("apiVersion", e.APIVersion)
	w.text("fieldsType", e.FieldsType)
	if e.FieldsV1 != nil {
		w.name("fieldsV1")
		if raw := e.FieldsV1.GetRawBytes(); len(raw) > 0 {
			w.b = append(w.b, raw...)
		} else {
			w.b = append(w.b, "null"...)
		}
	}
	w.text("manager", e.Manager)
	w.text("operation", string(e.Operation))
	w.text("subresource", e.Subresource)
	w.time("time", e.Time)
	w.b = append(w.b, '}')
}
