package custom

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// readMeta reads metadata that is as it should be: fields that metadata has, each of its type. Not ok is for anything else, which
// the library then reads with care and complains about in the API's words.
func readMeta(m map[string]any) (out metav1.ObjectMeta, ok bool) {
	for name, v := range m {
		ok := true
		switch name {
		case "name":
			out.Name, ok = v.(string)
		case "namespace":
			out.Namespace, ok = v.(string)
		case "generateName":
			out.GenerateName, ok = v.(string)
		case "uid":
			var s string
			s, ok = v.(string)
			out.UID = types.UID(s)
		case "resourceVersion":
			out.ResourceVersion, ok = v.(string)
		case "generation":
			out.Generation, ok = v.(int64)
		case "creationTimestamp":
			if v != nil {
				out.CreationTimestamp, ok = readTime(v)
			}
		case "labels":
			out.Labels, ok = readStrings(v)
		case "annotations":
			out.Annotations, ok = readStrings(v)
		case "finalizers":
			out.Finalizers, ok = readList(v)
		case "managedFields":
			out.ManagedFields, ok = readEntries(v)
		default:
			ok = false
		}
		if !ok {
			return out, false
		}
	}
	return out, true
}

func readTime(v any) (metav1.Time, bool) {
	s, ok := v.(string)
	if !ok {
		return metav1.Time{}, false
	}
	t, err := time.Parse(time.RFC3339, s)
	return metav1.NewTime(t.Local()), err == nil // as decoding JSON has it
}

func readStrings(v any) (map[string]string, bool) {
	m, ok := v.(map[string]any)
	if !ok {
		return nil, false
	}
	out := make(map[string]string, len(m))
	for k, e := range m {
		if out[k], ok = e.(string); !ok {
			return nil, false
		}
	}
	return out, true
}

func readList(v any) ([]string, bool) {
	l, ok := v.([]any)
	if !ok {
		return nil, false
	}
	out := make([]string, len(l))
	for i, e := range l {
		if out[i], ok = e.(string); !ok {
			return nil, false
		}
	}
	return out, true
}

func readEntries(v any) ([]metav1.ManagedFieldsEntry, bool) {
	l, ok := v.([]any)
	if !ok {
		return nil, false
	}
	out := make([]metav1.ManagedFieldsEntry, len(l))
	for i, e := range l {
		m, ok := e.(map[string]any)
		if !ok {
			return nil, false
		}
		o := &out[i]
		for name, v := range m {
			if name == "fieldsV1" {
				fields, ok := v.(map[string]any)
				if !ok {
					return nil, false
				}
				raw, err := appendMap(nil, fields)
				if err != nil {
					return nil, false
				}
				o.FieldsV1 = metav1.NewFieldsV1(string(raw))
				continue
			}
			s, ok := v.(string)
			if !ok {
				return nil, false
			}
			switch name {
			case "apiVersion":
				o.APIVersion = s
			case "fieldsType":
				o.FieldsType = s
			case "manager":
				o.Manager = s
			case "operation":
				o.Operation = metav1.ManagedFieldsOperationType(s)
			case "subresource":
				o.Subresource = s
			case "time":
				t, ok := readTime(v)
				if !ok {
					return nil, false
				}
				o.Time = &t
			default:
				return nil, false
			}
		}
	}
	return out, true
}
