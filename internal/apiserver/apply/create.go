package apply

import (
	"reflect"
	"slices"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/apiserver/apply/owners"
)

// maxOutlines bounds the cache below: objects made by a controller have few outlines, those made by hand are few.
const maxOutlines = 1024

// outlines remembers which fields the creator of an object owns, by the object's outline: which fields, keys and items it has
// and which of those that are always there are not empty. Values play no part, so a thousand pods of one template share one entry and one
// FieldsV1.
type outlines struct {
	mu     sync.RWMutex
	fields map[string]*metav1.FieldsV1 // guarded by mu; a nil value: no field is owned
}

// outlineBuffers has buffers for outlines of new objects, which are nearly always looked up and forgotten.
var outlineBuffers sync.Pool

// fastCreate records that manager owns all of a new object, if an object of the same outline was seen before. It returns the
// outline under which the library's answer may be remembered, or nil if it can't tell.
func (m *Manager) fastCreate(obj api.Object, manager string) (done bool, outline []byte) {
	s := m.shape()
	if s == nil || m.sub != "" || obj.GetManagedFields() != nil || m.gv.Group != m.kind.Group || m.gv.Version != m.kind.Hub {
		return false, nil
	}
	buf, _ := outlineBuffers.Get().(*[]byte)
	if buf == nil {
		buf = new(make([]byte, 0, 1024))
	}
	o := outliner{buf: (*buf)[:0]}
	defer func() {
		*buf = o.buf
		outlineBuffers.Put(buf)
	}()
	if !o.object(reflect.ValueOf(obj).Elem(), s, m.skipped()) {
		return false, nil
	}
	m.outlines.mu.RLock()
	fields, ok := m.outlines.fields[string(o.buf)]
	m.outlines.mu.RUnlock()
	if !ok {
		return false, slices.Clone(o.buf)
	}
	if fields == nil {
		obj.SetManagedFields(nil)
		return true, nil
	}
	if manager == "" {
		manager = "unknown"
	}
	now := metav1.NewTime(time.Now().UTC().Truncate(time.Second))
	obj.SetManagedFields([]metav1.ManagedFieldsEntry{{
		Manager: manager, Operation: metav1.ManagedFieldsOperationUpdate, APIVersion: m.gv.String(), Time: &now, FieldsType: "FieldsV1", FieldsV1: fields,
	}})
	return true, nil
}

// remember keeps what the library said of a new object.
func (m *Manager) remember(outline []byte, obj api.Object) {
	entries := obj.GetManagedFields()
	if outline == nil || len(entries) > 1 {
		return
	}
	var fields *metav1.FieldsV1
	if len(entries) == 1 {
		fields = entries[0].FieldsV1
	}
	m.outlines.mu.Lock()
	defer m.outlines.mu.Unlock()
	if m.outlines.fields == nil || len(m.outlines.fields) >= maxOutlines {
		m.outlines.fields = make(map[string]*metav1.FieldsV1)
	}
	m.outlines.fields[string(outline)] = fields
}

// The marks of an outline. Field numbers are below 0xf0.
const (
	markEnd     = 0xff - iota // a struct, map or list ends
	markNil                   // nil where a value is always shown
	markEmpty                 // empty
	markZero                  // a leaf as it is in an empty object
	markValue                 // a leaf with a value
	markKey                   // a key or item name follows, with its length
	markAdded                 // was not there before
	markRemoved               // is not there any more
	markDiffers               // a leaf with another value
	markSame                  // a leaf with the same value
	markOther                 // the number of an individual item follows, with the first letter of its key
	maxField    = 0xf0
)

type outliner struct {
	buf []byte
	// fresh counts the maps, lists and pointers around: what is in them is not in an empty object, whatever its value.
	fresh int
	// others numbers individual items; nil names them as they are.
	others *owners.Individuals
}

func (o *outliner) mark(b byte) bool {
	o.buf = append(o.buf, b)
	return true
}

func (o *outliner) name(text string) bool {
	if len(text) > 0xffff {
		return false
	}
	o.buf = append(o.buf, markKey, byte(len(text)>>8), byte(len(text)))
	o.buf = append(o.buf, text...)
	return true
}

// itemName is name for the name of an item of a keyed list.
func (o *outliner) itemName(text string) bool {
	if o.others == nil {
		return o.name(text)
	}
	key, value, ok := owners.Individual(text)
	if !ok {
		return o.name(text)
	}
	n, ok := o.others.Number(value)
	o.buf = append(o.buf, markOther, key[0], n)
	return ok
}

// item is itemName for an item.
func (o *outliner) item(v reflect.Value, s *shape) bool {
	if o.others != nil && s.individual() {
		name, ok := s.itemName(v)
		return ok && o.itemName(name)
	}
	o.buf = append(o.buf, markKey, 0, 0)
	begin := len(o.buf)
	b, ok := s.appendItemName(o.buf, v)
	if n := len(b) - begin; ok && n <= 0xffff {
		o.buf = b
		b[begin-2], b[begin-1] = byte(n>>8), byte(n)
		return true
	}
	return false
}

func (o *outliner) object(v reflect.Value, s *shape, skip string) bool {
	for i := range s.fields {
		f := &s.fields[i]
		switch f.JsonName {
		case "apiVersion", "kind", skip:
			continue
		case "metadata":
			x := f.GetFrom(v)
			for j := range f.shape.fields {
				g := &f.shape.fields[j]
				if !systemMeta(g.JsonName) && !o.field(x, j, g) {
					return false
				}
			}
			o.mark(markEnd)
			continue
		}
		if !o.field(v, i, f) {
			return false
		}
	}
	return true
}

func (o *outliner) field(v reflect.Value, i int, f *shapeField) bool {
	x := f.GetFrom(v)
	if f.CanOmit(x) {
		return true
	}
	if i >= maxField {
		return false
	}
	return o.mark(byte(i)) && o.value(x, f.shape)
}

// within is value for what is in a map, list or pointer.
func (o *outliner) within(v reflect.Value, s *shape) bool {
	o.fresh++
	defer func() { o.fresh-- }()
	return o.value(v, s)
}

func (o *outliner) value(v reflect.Value, s *shape) bool {
	if v.Kind() == reflect.Pointer {
		if v.IsNil() {
			return o.mark(markNil)
		}
		return o.within(v.Elem(), s)
	}
	switch v.Kind() {
	case reflect.Slice, reflect.Map:
		if v.IsNil() {
			return o.mark(markNil)
		}
		if v.Len() == 0 {
			return o.mark(markEmpty)
		}
	}
	switch s.kind {
	case shapeLeaf:
		if o.fresh == 0 && (v.IsZero() || sameLeaf(reflect.Zero(v.Type()), v, s)) {
			return o.mark(markZero)
		}
		return o.mark(markValue)
	case shapeStruct:
		for i := range s.fields {
			if !o.field(v, i, &s.fields[i]) {
				return false
			}
		}
		return o.mark(markEnd)
	case shapeMap:
		keys := make([]string, 0, v.Len())
		for _, k := range v.MapKeys() {
			keys = append(keys, k.String())
		}
		slices.Sort(keys)
		for _, k := range keys {
			if !o.name(k) || !o.within(v.MapIndex(reflect.ValueOf(k).Convert(v.Type().Key())), s.elem) {
				return false
			}
		}
		return o.mark(markEnd)
	case shapeList:
		for i := range v.Len() {
			if !o.item(v.Index(i), s) || !o.within(v.Index(i), s.elem) {
				return false
			}
		}
		return o.mark(markEnd)
	}
	return false
}
