package apply

import (
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/structured-merge-diff/v6/schema"
	"sigs.k8s.io/structured-merge-diff/v6/value"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/apiserver/apply/owners"
)

// fast does the bookkeeping of updates that only change values of fields which the writer alone owns already: then nothing
// but the time of its entry changes, and often not even that. These are nearly all updates of a running cluster (statuses,
// leases), and the full way costs more than the rest of the request. It reports false, and has changed nothing, when it can't tell.
func (m *Manager) fast(live, obj api.Object, manager string) bool {
	given, have := obj.GetManagedFields(), live.GetManagedFields()
	if m.sub == "" && given != nil && (len(given) == 0 || !owners.Same(given, have)) {
		return false
	}
	s := m.shape()
	if s == nil || m.gv.Group != m.kind.Group || m.gv.Version != m.kind.Hub {
		return false
	}
	w := walk{}
	a, b := reflect.ValueOf(live), reflect.ValueOf(obj)
	if a.Type() != b.Type() || !w.object(a.Elem(), b.Elem(), s, m.skipped()) {
		return false
	}
	if len(w.changed) == 0 {
		obj.SetManagedFields(have)
		return true
	}
	if manager == "" {
		manager = "unknown"
	}
	version := m.gv.String()
	mine := -1
	for i := range have {
		e := &have[i]
		if e.APIVersion != version || e.FieldsType != "FieldsV1" || e.FieldsV1 == nil {
			return false
		}
		if e.Manager == manager && e.Operation == metav1.ManagedFieldsOperationUpdate && e.Subresource == m.sub {
			mine = i
		}
	}
	if mine < 0 {
		return false
	}
	for i := range have {
		owned, ok := m.tracker.trees.Owned(have[i].FieldsV1)
		if !ok {
			return false
		}
		for _, path := range w.changed {
			if owned.Owns(path) != (i == mine) {
				return false
			}
		}
	}
	entries := slices.Clone(have)
	now := metav1.NewTime(time.Now().UTC().Truncate(time.Second))
	entries[mine].Time = &now
	slices.SortStableFunc(entries, owners.Compare)
	obj.SetManagedFields(entries)
	return true
}

// skipped is the top-level field that this door does not write. Others that it does not write nobody owns through it, so a
// change of them is left to the library.
func (m *Manager) skipped() string {
	for _, path := range m.kind.ResetFields(m.sub) {
		if path == "status" || path == "spec" && m.sub != "" {
			return path
		}
	}
	return ""
}

// shapeKind says how values of a type are compared: as one thing, field by field, key by key, or item by item.
type shapeKind int8

const (
	shapeLeaf shapeKind = iota
	shapeStruct
	shapeMap
	shapeList
	shapeUnknown
)

// shape is a Go type seen through the API's schema (which knows what is atomic and what lists are keyed by). Immutable once built.
type shape struct {
	kind    shapeKind
	convert *value.TypeReflectCacheEntry // how a leaf that is not a plain Go value is compared, or nil
	fields  []shapeField
	elem    *shape
	keys    []*value.FieldCacheEntry // of items of a keyed list
}

type shapeField struct {
	*value.FieldCacheEntry
	shape *shape
}

type shapeID struct {
	t    reflect.Type
	name string
	how  schema.ElementRelationship
}

// shape returns the manager's own type's shape, nil if the schema does not know it.
func (m *Manager) shape() *shape {
	m.shapeOnce.Do(func() {
		sample := m.tracker.catalogue.New(m.kind)
		typed, err := m.tracker.types().ObjectToTyped(sample)
		if err != nil {
			return
		}
		b := shapeBuilder{schema: typed.Schema(), seen: map[shapeID]*shape{}}
		if s := b.build(reflect.TypeOf(sample).Elem(), typed.TypeRef()); s.kind == shapeStruct {
			m.shaped = s
		}
	})
	return m.shaped
}

type shapeBuilder struct {
	schema *schema.Schema
	seen   map[shapeID]*shape
}

func (b *shapeBuilder) build(t reflect.Type, tr schema.TypeRef) *shape {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if tr.NamedType != nil {
		id := shapeID{t: t, name: *tr.NamedType}
		if tr.ElementRelationship != nil {
			id.how = *tr.ElementRelationship
		}
		if s := b.seen[id]; s != nil {
			return s
		}
		s := &shape{}
		b.seen[id] = s
		b.fill(s, t, tr)
		return s
	}
	s := &shape{}
	b.fill(s, t, tr)
	return s
}

func (b *shapeBuilder) fill(s *shape, t reflect.Type, tr schema.TypeRef) {
	atom, ok := b.schema.Resolve(tr)
	if !ok {
		s.kind = shapeUnknown
		return
	}
	entry := value.TypeReflectEntryOf(t)
	kinds := 0
	for _, has := range [...]bool{atom.Scalar != nil, atom.Map != nil, atom.List != nil} {
		if has {
			kinds++
		}
	}
	switch {
	case entry.CanConvertToUnstructured():
		if atom.Scalar == nil && kinds != 0 {
			s.kind = shapeUnknown
			return
		}
		s.convert = entry
	case kinds > 1:
		s.kind = shapeUnknown
	case atom.Scalar != nil:
	case atom.Map != nil && atom.Map.ElementRelationship == schema.Atomic, atom.List != nil && atom.List.ElementRelationship != schema.Associative:
	case atom.Map != nil && t.Kind() == reflect.Struct:
		s.kind = shapeStruct
		for _, f := range entry.OrderedFields() {
			ft := atom.Map.ElementType
			if sf, ok := atom.Map.FindField(f.JsonName); ok {
				ft = sf.Type
			}
			s.fields = append(s.fields, shapeField{f, b.build(fieldType(t, f), ft)})
		}
	case atom.Map != nil && t.Kind() == reflect.Map && t.Key().Kind() == reflect.String:
		s.kind, s.elem = shapeMap, b.build(t.Elem(), atom.Map.ElementType)
	case atom.List != nil && t.Kind() == reflect.Slice && len(atom.List.Keys) > 0 && t.Elem().Kind() == reflect.Struct:
		s.kind, s.elem = shapeList, b.build(t.Elem(), atom.List.ElementType)
		fields := value.TypeReflectEntryOf(t.Elem()).Fields()
		for _, k := range slices.Sorted(slices.Values(atom.List.Keys)) {
			f := fields[k]
			if f == nil {
				s.kind = shapeUnknown
				return
			}
			s.keys = append(s.keys, f)
		}
	default:
		s.kind = shapeUnknown
	}
}

// fieldType is the Go type of a field, which may be one of an embedded struct.
func fieldType(t reflect.Type, f *value.FieldCacheEntry) reflect.Type {
	return f.GetFrom(reflect.New(t).Elem()).Type()
}

// step is one element of a path: a field, or the item of a keyed list.
type step struct {
	name string
	item reflect.Value // of a keyed list, when name is not yet known
	list *shape
	in   [2]reflect.Value // both lists
}

// walk compares two objects. Changed are the paths of leaves whose values differ, in the words of managed fields.
type walk struct {
	path    []step
	changed [][]string
}

// systemMeta are the fields of metadata that nobody owns.
func systemMeta(name string) bool {
	switch name {
	case "name", "namespace", "creationTimestamp", "selfLink", "uid", "generation", "managedFields", "resourceVersion":
		return true
	}
	return false
}

// object compares the top level. False means that something was added, removed or not understood.
func (w *walk) object(a, b reflect.Value, s *shape, skip string) bool {
	for i := range s.fields {
		f := &s.fields[i]
		switch f.JsonName {
		case "apiVersion", "kind", skip:
			continue
		case "metadata":
			w.path = append(w.path, step{name: "f:metadata"})
			x, y := f.GetFrom(a), f.GetFrom(b)
			for j := range f.shape.fields {
				g := &f.shape.fields[j]
				if !systemMeta(g.JsonName) && !w.field(x, y, g) {
					return false
				}
			}
			w.path = w.path[:len(w.path)-1]
			continue
		}
		if !w.field(a, b, f) {
			return false
		}
	}
	return true
}

func (w *walk) field(a, b reflect.Value, f *shapeField) bool {
	x, y := f.GetFrom(a), f.GetFrom(b)
	ox, oy := f.CanOmit(x), f.CanOmit(y)
	if ox || oy {
		return ox && oy
	}
	w.path = append(w.path, step{name: f.JsonName})
	ok := w.values(x, y, f.shape)
	w.path = w.path[:len(w.path)-1]
	return ok
}

func (w *walk) values(a, b reflect.Value, s *shape) bool {
	for a.Kind() == reflect.Pointer {
		if a.IsNil() || b.IsNil() {
			return a.IsNil() && b.IsNil()
		}
		if a.Pointer() == b.Pointer() {
			return true
		}
		a, b = a.Elem(), b.Elem()
	}
	switch s.kind {
	case shapeLeaf:
		if !sameLeaf(a, b, s) {
			return w.change()
		}
		return true
	case shapeStruct:
		for i := range s.fields {
			if !w.field(a, b, &s.fields[i]) {
				return false
			}
		}
		return true
	case shapeMap:
		if a.Len() != b.Len() || a.IsNil() != b.IsNil() {
			return false
		}
		if a.Len() == 0 || a.Pointer() == b.Pointer() {
			return true
		}
		for it := a.MapRange(); it.Next(); {
			y := b.MapIndex(it.Key())
			if !y.IsValid() {
				return false
			}
			w.path = append(w.path, step{name: it.Key().String()})
			ok := w.values(it.Value(), y, s.elem)
			w.path = w.path[:len(w.path)-1]
			if !ok {
				return false
			}
		}
		return true
	case shapeList:
		if a.Len() != b.Len() || a.IsNil() != b.IsNil() {
			return false
		}
		if a.Len() == 0 || a.Pointer() == b.Pointer() {
			return true
		}
		for i := range a.Len() {
			x, y := a.Index(i), b.Index(i)
			for _, k := range s.keys {
				if !k.GetFrom(x).Equal(k.GetFrom(y)) {
					return false
				}
			}
			w.path = append(w.path, step{item: x, list: s, in: [2]reflect.Value{a, b}})
			ok := w.values(x, y, s.elem)
			w.path = w.path[:len(w.path)-1]
			if !ok {
				return false
			}
		}
		return true
	}
	return equality.Semantic.DeepEqual(a.Interface(), b.Interface())
}

// Times are compared as their texts would be, without making these.
var (
	timeType      = reflect.TypeFor[metav1.Time]()
	microTimeType = reflect.TypeFor[metav1.MicroTime]()
)

func sameLeaf(a, b reflect.Value, s *shape) bool {
	switch a.Kind() {
	case reflect.String:
		if s.convert == nil {
			return a.String() == b.String()
		}
	case reflect.Bool:
		return a.Bool() == b.Bool()
	case reflect.Int32, reflect.Int64, reflect.Int:
		if s.convert == nil {
			return a.Int() == b.Int()
		}
	case reflect.Slice:
		if a.Len() == b.Len() && a.Pointer() == b.Pointer() {
			return true
		}
	}
	if s.convert != nil {
		switch a.Type() {
		case timeType:
			x, y := a.Interface().(metav1.Time), b.Interface().(metav1.Time) //nolint:forcetypeassert // that is their type
			return x.IsZero() == y.IsZero() && x.Unix() == y.Unix()          // texts have no less than seconds
		case microTimeType:
			x, y := a.Interface().(metav1.MicroTime), b.Interface().(metav1.MicroTime) //nolint:forcetypeassert // that is their type
			return x.IsZero() == y.IsZero() && x.UnixMicro() == y.UnixMicro()
		}
		x, err := s.convert.ToUnstructured(a)
		if err != nil {
			return false
		}
		y, err := s.convert.ToUnstructured(b)
		return err == nil && reflect.DeepEqual(x, y)
	}
	return sameWhole(a, b)
}

// sameWhole compares what has one owner as a whole. In lists, nil and empty differ at any depth, whether it can be seen in JSON or not; in structs that are in no list, what JSON
// leaves out is the same.
func sameWhole(a, b reflect.Value) bool {
	switch a.Kind() {
	case reflect.Pointer:
		if a.IsNil() || b.IsNil() {
			return a.IsNil() && b.IsNil()
		}
		return sameWhole(a.Elem(), b.Elem())
	case reflect.Slice:
		return equality.Semantic.DeepEqualWithNilDifferentFromEmpty(a.Interface(), b.Interface())
	case reflect.Map:
		if a.Len() != b.Len() {
			return false
		}
		for it := a.MapRange(); it.Next(); {
			if y := b.MapIndex(it.Key()); !y.IsValid() || !sameWhole(it.Value(), y) {
				return false
			}
		}
		return true
	case reflect.Struct:
		e := value.TypeReflectEntryOf(a.Type())
		if e.CanConvertToUnstructured() {
			break
		}
		for _, f := range e.OrderedFields() {
			x, y := f.GetFrom(a), f.GetFrom(b)
			if ox, oy := f.CanOmit(x), f.CanOmit(y); ox != oy || !ox && !sameWhole(x, y) {
				return false
			}
		}
		return true
	}
	return equality.Semantic.DeepEqual(a.Interface(), b.Interface())
}

// change notes the current path as changed. False means that it can't be named.
func (w *walk) change() bool {
	path := make([]string, len(w.path))
	for i, s := range w.path {
		switch {
		case s.list == nil && i == 0 && s.name == "f:metadata":
			path[i] = s.name
		case s.list == nil:
			path[i] = "f:" + s.name
		default:
			name, ok := s.list.itemName(s.item)
			if !ok || !s.list.unique(s.in[0], name) || !s.list.unique(s.in[1], name) {
				return false
			}
			path[i] = name
		}
	}
	w.changed = append(w.changed, path)
	return true
}

// itemName is how managed fields call an item of a keyed list: k:{"name":"x"}. Not ok: a key is missing, or of a kind or with
// letters that would have to be written with care.
func (s *shape) itemName(item reflect.Value) (string, bool) {
	b, ok := s.appendItemName(make([]byte, 0, 64), item)
	return string(b), ok
}

func (s *shape) appendItemName(b []byte, item reflect.Value) ([]byte, bool) {
	b = append(b, "k:{"...)
	for i, k := range s.keys {
		v := k.GetFrom(item)
		if k.CanOmit(v) {
			return nil, false
		}
		for v.Kind() == reflect.Pointer {
			if v.IsNil() {
				return nil, false
			}
			v = v.Elem()
		}
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, '"')
		b = append(b, k.JsonName...)
		b = append(b, '"', ':')
		switch {
		case k.TypeEntry != nil && k.TypeEntry.CanConvertToUnstructured():
			return nil, false
		case v.Kind() == reflect.String:
			text := v.String()
			for j := range len(text) {
				if c := text[j]; c < ' ' || c > '~' || strings.IndexByte(`"\<>&`, c) >= 0 {
					return nil, false
				}
			}
			b = append(append(append(b, '"'), text...), '"')
		case v.CanInt():
			b = strconv.AppendInt(b, v.Int(), 10)
		default:
			return nil, false
		}
	}
	return append(b, '}'), true
}

// individual says whether items of a list may be keyed by a value that no other object has.
func (s *shape) individual() bool { return len(s.keys) == 1 && owners.IsIndividual(s.keys[0].JsonName) }

// unique says whether only one item of a list has a name: several of a name are kept account of in another way.
func (s *shape) unique(list reflect.Value, name string) bool {
	n := 0
	for i := range list.Len() {
		have, ok := s.itemName(list.Index(i))
		if !ok {
			return false
		}
		if have == name {
			n++
		}
	}
	return n == 1
}
