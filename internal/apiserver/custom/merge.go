package custom

import "maps"

// Merge carries out a merge patch (RFC 7386) on an object of the version, which spares writing the object as JSON, merging there and
// reading the outcome. It reports false when there is anything to complain of or that is rare; the patch then has to be carried out
// on JSON, where complaints get their words. The values of patch are given away, live is not modified.
func (v *Version) Merge(live *Object, patch map[string]any, strictly bool) (*Object, bool) {
	o := live.DeepCopy()
	fields := make(map[string]any, len(patch))
	for name, value := range patch {
		switch name {
		case "apiVersion":
			if value != live.APIVersion {
				return nil, false
			}
		case "kind":
			if value != live.Kind {
				return nil, false
			}
		case "metadata":
			meta, ok := value.(map[string]any)
			if !ok || !o.mergeMeta(meta) {
				return nil, false
			}
		default:
			fields[name] = value
		}
	}
	if o.Fields == nil {
		o.Fields = map[string]any{}
	}
	if !mergeMap(o.Fields, fields) {
		return nil, false
	}
	unknown, err := v.coerce(o, coercion{track: strictly})
	return o, err == nil && len(unknown) == 0
}

// mergeMeta merges the few parts of metadata that patches are about.
func (o *Object) mergeMeta(patch map[string]any) bool {
	for name, value := range patch {
		ok := true
		switch name {
		case "labels":
			o.Labels, ok = mergeStrings(o.Labels, value)
		case "annotations":
			o.Annotations, ok = mergeStrings(o.Annotations, value)
		case "finalizers":
			o.Finalizers, ok = readList(value)
		case "resourceVersion":
			o.ResourceVersion, ok = value.(string)
		case "name":
			ok = value == o.Name
		case "namespace":
			ok = value == o.Namespace
		default:
			ok = false
		}
		if !ok {
			return false
		}
	}
	return true
}

func mergeStrings(into map[string]string, patch any) (map[string]string, bool) {
	if patch == nil {
		return nil, true
	}
	m, ok := patch.(map[string]any)
	if !ok {
		return nil, false
	}
	out := make(map[string]string, len(into)+len(m))
	maps.Copy(out, into)
	for k, v := range m {
		switch v := v.(type) {
		case nil:
			delete(out, k)
		case string:
			out[k] = v
		default:
			return nil, false
		}
	}
	return out, true
}

// mergeMap merges patch into a map that is the caller's. What becomes of nulls in lists is hard to say: false.
func mergeMap(into, patch map[string]any) bool {
	for k, v := range patch {
		switch v := v.(type) {
		case nil:
			delete(into, k)
		case map[string]any:
			have, ok := into[k].(map[string]any)
			if !ok || have == nil {
				have = make(map[string]any, len(v))
				into[k] = have
			}
			if !mergeMap(have, v) {
				return false
			}
		case []any:
			if hasNull(v) {
				return false
			}
			into[k] = v
		default:
			into[k] = v
		}
	}
	return true
}

func hasNull(v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case map[string]any:
		for _, e := range v {
			if hasNull(e) {
				return true
			}
		}
	case []any:
		for _, e := range v {
			if hasNull(e) {
				return true
			}
		}
	}
	return false
}
