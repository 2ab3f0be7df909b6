package custom

import (
	"maps"
	"slices"
	"sync"
	"time"

	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kjson "sigs.k8s.io/json"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/apiserver/apply/owners"
)

// maxOutlines bounds what a manager remembers: objects of a controller have few outlines, those made by hand are few.
const maxOutlines = 256

// outlines remembers which fields the maker of an object owns, by the object's outline: which fields, keys and items it has. Values
// play no part, so all objects of one shape share an entry and its FieldsV1.
type outlines struct {
	mu     sync.RWMutex
	fields map[string]*metav1.FieldsV1 // guarded by mu
	tops   map[string]top              // guarded by mu
}

// top says which top-level fields an entry owns something of.
type top struct{ status, others bool }

func (o *outlines) of(outline []byte) (*metav1.FieldsV1, bool) {
	o.mu.RLock()
	defer o.mu.RUnlock()
	f, ok := o.fields[string(outline)]
	return f, ok
}

func (o *outlines) remember(outline []byte, f *metav1.FieldsV1) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.fields == nil || len(o.fields) >= maxOutlines {
		o.fields = map[string]*metav1.FieldsV1{}
	}
	o.fields[string(outline)] = f
}

func (o *outlines) top(f *metav1.FieldsV1) (top, bool) {
	raw := f.GetRawBytes()
	o.mu.RLock()
	t, ok := o.tops[string(raw)]
	o.mu.RUnlock()
	if ok {
		return t, true
	}
	var m map[string]any
	if kjson.UnmarshalCaseSensitivePreserveInts(raw, &m) != nil {
		return top{}, false
	}
	for k := range m {
		if k == "f:status" {
			t.status = true
		} else {
			t.others = true
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.tops == nil || len(o.tops) >= maxOutlines {
		o.tops = map[string]top{}
	}
	o.tops[string(raw)] = t
	return t, true
}

// The marks of an outline.
const (
	markMap   = '{'
	markList  = '['
	markEnd   = '}'
	markLeaf  = '*'
	markNull  = '0'
	markEmpty = 'e'
	markText  = '"'
)

// outline describes the shape of an object as this door writes it. skip is the field that it does not write.
func (m *Manager) outline(o *Object, s *structuralschema.Structural, skip string) []byte {
	b := make([]byte, 0, 256)
	for _, set := range [...]map[string]string{o.Labels, o.Annotations} {
		if set != nil {
			b = append(b, markMap)
			for _, k := range slices.Sorted(maps.Keys(set)) {
				b = appendName(b, k)
			}
		}
		b = append(b, markEnd)
	}
	for _, f := range o.Finalizers {
		b = appendName(b, f)
	}
	b = append(b, markEnd)
	for i := range o.OwnerReferences {
		b = appendName(b, string(o.OwnerReferences[i].UID))
	}
	b = append(b, markEnd)
	if o.GenerateName != "" {
		b = append(b, markLeaf)
	}
	return outlineMap(b, o.Fields, s, skip)
}

func appendName(b []byte, name string) []byte {
	b = append(b, markText, byte(len(name)>>16), byte(len(name)>>8), byte(len(name)))
	return append(b, name...)
}

func outlineMap(b []byte, m map[string]any, s *structuralschema.Structural, skip string) []byte {
	lent := keys.Get().(*[]string) //nolint:forcetypeassert // nothing else is put there
	names := (*lent)[:0]
	for k := range m {
		if k != skip || skip == "" {
			names = append(names, k)
		}
	}
	slices.Sort(names)
	b = append(b, markMap)
	for _, k := range names {
		b = appendName(b, k)
		var next *structuralschema.Structural
		if s != nil {
			if p, ok := s.Properties[k]; ok {
				next = &p
			} else if s.AdditionalProperties != nil {
				next = s.AdditionalProperties.Structural
			}
		}
		b = outlineValue(b, m[k], next)
	}
	clear(names)
	*lent = names[:0]
	keys.Put(lent)
	return append(b, markEnd)
}

func outlineValue(b []byte, v any, s *structuralschema.Structural) []byte {
	switch v := v.(type) {
	case nil:
		return append(b, markNull)
	case map[string]any:
		switch {
		case len(v) == 0:
			return append(b, markMap, markEmpty)
		case s != nil && s.XMapType != nil && *s.XMapType == "atomic":
			return append(b, markMap, markLeaf)
		}
		return outlineMap(b, v, s, "")
	case []any:
		b = append(b, markList)
		if len(v) == 0 {
			return append(b, markEmpty)
		}
		if s == nil || s.XListType == nil || *s.XListType == "atomic" {
			if s == nil || !s.XPreserveUnknownFields {
				return append(b, markLeaf)
			}
		}
		// The items' values are a part of their names, and which of them are is not worth finding out.
		j, err := appendValue(nil, v)
		if err != nil {
			return append(b, markLeaf)
		}
		return appendName(b, string(j))
	}
	return append(b, markLeaf)
}

// skipped is the top-level field that this door does not write.
func (m *Manager) skipped() string {
	switch {
	case !m.version.hasStatus():
	case m.sub == "":
		return "status"
	}
	return ""
}

// fastCreate records that manager owns all of a new object, if one of the same outline was seen before; otherwise it returns the
// outline under which the library's answer may be remembered, nil if it must not be.
func (m *Manager) fastCreate(o *Object, manager string) (done bool, outline []byte) {
	if m.sub != "" || o.ManagedFields != nil || o.Annotations["kubectl.kubernetes.io/last-applied-configuration"] != "" {
		return false, nil
	}
	s, err := m.version.schema()
	if err != nil {
		return false, nil
	}
	outline = m.outline(o, s, m.skipped())
	fields, ok := m.outlines.of(outline)
	if !ok {
		return false, outline
	}
	if manager == "" {
		manager = "unknown"
	}
	now := metav1.NewTime(time.Now().UTC().Truncate(time.Second))
	o.ManagedFields = []metav1.ManagedFieldsEntry{{
		Manager: manager, Operation: metav1.ManagedFieldsOperationUpdate, APIVersion: m.version.gvk.GroupVersion().String(), Time: &now,
		FieldsType: "FieldsV1", FieldsV1: fields,
	}}
	return true, nil
}

// remember keeps what the library said of a new object. Silence is not kept: the library also says nothing of an object whose values are not of the schema's types,
// which is refused later, and whose outline is that of a good one.
func (m *Manager) remember(outline []byte, obj api.Object) {
	if entries := obj.GetManagedFields(); outline != nil && len(entries) == 1 {
		m.outlines.remember(outline, entries[0].FieldsV1)
	}
}

// fastUpdate does the bookkeeping of updates that change nothing but values of fields which the writer alone can own: those of the
// status through its door when only one manager owns any of it, and likewise all but the status through the main door. Then at most the
// time of its entry changes. It reports false, having changed nothing, when it can't tell.
func (m *Manager) fastUpdate(live, o *Object, manager string) bool {
	have := live.ManagedFields
	if len(have) == 0 || m.sub != "" && m.sub != "status" {
		return false
	}
	if m.sub == "" && o.ManagedFields != nil && !owners.Same(o.ManagedFields, have) {
		return false
	}
	s, err := m.version.schema()
	if err != nil {
		return false
	}
	skip := m.skipped()
	a, b := live, o
	if m.sub == "status" {
		// All but the status is put back after this.
		a, b = statusOnly(live), statusOnly(o)
	}
	if string(m.outline(a, s, skip)) != string(m.outline(b, s, skip)) {
		return false
	}
	if m.sub == "" && (!maps.Equal(live.Labels, o.Labels) || !maps.Equal(live.Annotations, o.Annotations) || len(o.OwnerReferences) > 0) {
		return false
	}
	if manager == "" {
		manager = "unknown"
	}
	version := m.version.gvk.GroupVersion().String()
	mine := -1
	for i := range have {
		e := &have[i]
		if e.APIVersion != version || e.FieldsV1 == nil {
			return false
		}
		t, ok := m.outlines.top(e.FieldsV1)
		if !ok {
			return false
		}
		concerned := t.others
		switch {
		case m.sub == "status":
			concerned = t.status
		case skip == "":
			concerned = true
		}
		if !concerned {
			continue
		}
		if mine >= 0 || e.Manager != manager || e.Operation != metav1.ManagedFieldsOperationUpdate || e.Subresource != m.sub {
			return false
		}
		mine = i
	}
	if mine < 0 {
		return false
	}
	if m.sub == "" && sameFields(live, o, skip) || m.sub == "status" && sameValue(live.Fields["status"], o.Fields["status"]) {
		o.ManagedFields = have
		return true
	}
	entries := slices.Clone(have)
	now := metav1.NewTime(time.Now().UTC().Truncate(time.Second))
	entries[mine].Time = &now
	slices.SortStableFunc(entries, owners.Compare)
	o.ManagedFields = entries
	return true
}

func statusOnly(o *Object) *Object {
	out := &Object{Fields: map[string]any{}}
	if s, ok := o.Fields["status"]; ok {
		out.Fields["status"] = s
	}
	return out
}
