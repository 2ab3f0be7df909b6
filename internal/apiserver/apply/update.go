package apply

import (
	"reflect"
	"slices"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/apiserver/apply/owners"
)

// marked returns a copy of live whose entries have times by which they are found again. It shares everything else with live.
func marked(live api.Object) api.Object {
	v := reflect.New(reflect.TypeOf(live).Elem())
	v.Elem().Set(reflect.ValueOf(live).Elem())
	c := v.Interface().(api.Object) //nolint:forcetypeassert // of live's type
	c.SetManagedFields(owners.Marked(live.GetManagedFields()))
	return c
}

// updateOutline describes a change: which fields, keys and items were added, removed or have other values, who made it and who owned
// what before. That is all that the outcome depends on, but for what the individual items are. Nil: it can't tell.
func (m *Manager) updateOutline(live, obj api.Object, manager string) ([]byte, *owners.Individuals) {
	have, given := live.GetManagedFields(), obj.GetManagedFields()
	s := m.shape()
	switch {
	case s == nil, m.gv.Group != m.kind.Group, m.gv.Version != m.kind.Hub, !owners.Countable(have, m.gv.String()), reflect.TypeOf(live) != reflect.TypeOf(obj),
		m.sub == "" && given != nil && (len(given) == 0 || !owners.Same(given, have)):
		return nil, nil
	}
	others := &owners.Individuals{}
	outline, ok := m.tracker.trees.AppendOwned(make([]byte, 0, 512), manager, have, others)
	if !ok {
		return nil, nil
	}
	d := differ{outliner{buf: outline, others: others}}
	if !d.object(reflect.ValueOf(live).Elem(), reflect.ValueOf(obj).Elem(), s, m.skipped()) {
		return nil, nil
	}
	return others.AppendOrder(d.buf), others
}

// updateLike does the bookkeeping of a change whose like was seen before.
func (m *Manager) updateLike(outline []byte, others *owners.Individuals, live, obj api.Object) bool {
	o, ok := m.updates.Get(outline)
	if !ok {
		return false
	}
	obj.SetManagedFields(o.For(live.GetManagedFields(), others))
	return true
}

// differ writes the outline of what differs between two objects; what is the same in both leaves no trace.
type differ struct{ outliner }

func (d *differ) object(a, b reflect.Value, s *shape, skip string) bool {
	for i := range s.fields {
		f := &s.fields[i]
		switch f.JsonName {
		case "apiVersion", "kind", skip:
			continue
		case "metadata":
			x, y := f.GetFrom(a), f.GetFrom(b)
			at := len(d.buf)
			d.mark(byte(i))
			begin := len(d.buf)
			for j := range f.shape.fields {
				g := &f.shape.fields[j]
				if !systemMeta(g.JsonName) && !d.field(x, y, j, g) {
					return false
				}
			}
			d.close(at, begin)
			continue
		}
		if !d.field(a, b, i, f) {
			return false
		}
	}
	return true
}

// close ends what was begun at at, or takes it back if nothing was written since begin.
func (d *differ) close(at, begin int) {
	if len(d.buf) == begin {
		d.buf = d.buf[:at]
		return
	}
	d.mark(markEnd)
}

func (d *differ) field(a, b reflect.Value, i int, f *shapeField) bool {
	x, y := f.GetFrom(a), f.GetFrom(b)
	ox, oy := f.CanOmit(x), f.CanOmit(y)
	if ox && oy {
		return true
	}
	if i >= maxField {
		return false
	}
	at := len(d.buf)
	d.mark(byte(i))
	switch {
	case ox:
		return d.mark(markAdded) && d.value(y, f.shape)
	case oy:
		return d.mark(markRemoved) && d.value(x, f.shape)
	}
	begin := len(d.buf)
	if !d.values(x, y, f.shape) {
		return false
	}
	d.close(at, begin)
	return true
}

// extent says whether a value is nil, empty or more.
func extent(v reflect.Value) byte {
	switch v.Kind() {
	case reflect.Slice, reflect.Map:
		switch {
		case v.IsNil():
			return markNil
		case v.Len() == 0:
			return markEmpty
		}
	}
	return markValue
}

func (d *differ) values(a, b reflect.Value, s *shape) bool {
	for a.Kind() == reflect.Pointer {
		switch {
		case a.IsNil() && b.IsNil() || a.Pointer() == b.Pointer():
			return true
		case a.IsNil():
			return d.mark(markAdded) && d.value(b, s)
		case b.IsNil():
			return d.mark(markRemoved) && d.value(a, s)
		}
		a, b = a.Elem(), b.Elem()
	}
	if x, y := extent(a), extent(b); x != y {
		d.mark(x)
		d.mark(y)
	}
	switch s.kind {
	case shapeLeaf:
		if !sameLeaf(a, b, s) {
			d.mark(markDiffers)
		}
		return true
	case shapeStruct:
		for i := range s.fields {
			if !d.field(a, b, i, &s.fields[i]) {
				return false
			}
		}
		return true
	case shapeMap:
		return a.Pointer() == b.Pointer() || d.maps(a, b, s)
	case shapeList:
		return a.Pointer() == b.Pointer() && a.Len() == b.Len() || d.lists(a, b, s)
	}
	return (&walk{}).values(a, b, s) // not understood: must be equal
}

func (d *differ) maps(a, b reflect.Value, s *shape) bool {
	keys := make([]string, 0, a.Len())
	for it := a.MapRange(); it.Next(); {
		keys = append(keys, it.Key().String())
	}
	known := len(keys)
	for it := b.MapRange(); it.Next(); {
		if !a.MapIndex(it.Key()).IsValid() {
			keys = append(keys, it.Key().String())
		}
	}
	if known == len(keys) && b.Len() == known && s.elem.kind == shapeLeaf && d.sameMaps(a, b, s) {
		return true
	}
	slices.Sort(keys)
	key := a.Type().Key()
	for _, k := range keys {
		i := reflect.ValueOf(k).Convert(key)
		if !d.member(k, a.MapIndex(i), b.MapIndex(i), s.elem) {
			return false
		}
	}
	return true
}

// sameMaps compares maps of leaves with equal keys.
func (d *differ) sameMaps(a, b reflect.Value, s *shape) bool {
	for it := a.MapRange(); it.Next(); {
		x, y := it.Value(), b.MapIndex(it.Key())
		if x.Kind() == reflect.Pointer || !sameLeaf(x, y, s.elem) {
			return false
		}
	}
	return true
}

// member writes what became of a key.
func (d *differ) member(name string, x, y reflect.Value, s *shape) bool {
	at := len(d.buf)
	return d.name(name) && d.became(at, x, y, s)
}

// became writes what became of a key or an item whose name is written at at.
func (d *differ) became(at int, x, y reflect.Value, s *shape) bool {
	switch {
	case !x.IsValid():
		return d.mark(markAdded) && d.value(y, s)
	case !y.IsValid():
		return d.mark(markRemoved) && d.value(x, s)
	}
	begin := len(d.buf)
	if !d.values(x, y, s) {
		return false
	}
	d.close(at, begin)
	return true
}

func (d *differ) lists(a, b reflect.Value, s *shape) bool {
	x, ok := s.items(a)
	if !ok {
		return false
	}
	y, ok := s.items(b)
	if !ok {
		return false
	}
	names := make([]string, 0, len(x))
	for name := range x {
		names = append(names, name)
	}
	for name := range y {
		if _, both := x[name]; !both {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		if at := len(d.buf); !d.itemName(name) || !d.became(at, x[name], y[name], s.elem) {
			return false
		}
	}
	return true
}

// items are the items of a keyed list by name. Not ok: one has no name, or two have the same.
func (s *shape) items(list reflect.Value) (map[string]reflect.Value, bool) {
	items := make(map[string]reflect.Value, list.Len())
	for i := range list.Len() {
		name, ok := s.itemName(list.Index(i))
		if !ok || items[name].IsValid() {
			return nil, false
		}
		items[name] = list.Index(i)
	}
	return items, true
}
