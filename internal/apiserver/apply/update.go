package apply

import (
	"encoding/binary"
	"reflect"
	"slices"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/celox/celox/internal/api"
)

// maxCounted is the number of entries from which the library begins to merge old ones by their age, which no outline says.
const maxCounted = 10

// outcome is what the library made of the managed fields of an object: the entries, and where each has its time from.
type outcome struct {
	entries []metav1.ManagedFieldsEntry // without times
	times   []int                       // indexes of entries before, or one of those below
}

const (
	timeNow  = -1
	timeNone = -2 // an applied configuration that changed nothing
)

// outcomes remembers outcomes by outline; nil is "ask the library".
type outcomes struct {
	mu        sync.RWMutex
	byOutline map[string]*outcome // guarded by mu
}

func (c *outcomes) get(outline []byte) (*outcome, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	o, ok := c.byOutline[string(outline)]
	return o, ok
}

func (c *outcomes) put(outline []byte, o *outcome) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byOutline == nil || len(c.byOutline) >= maxOutlines {
		c.byOutline = make(map[string]*outcome)
	}
	c.byOutline[string(outline)] = o
}

// sentinel is a time that no entry has: the library hands it on with the entry whose it is.
func sentinel(i int) *metav1.Time {
	t := metav1.Unix(int64(1+i), 0)
	return &t
}

// marked returns a copy of live whose entries have sentinels for times. It shares everything else with live.
func marked(live api.Object) api.Object {
	v := reflect.New(reflect.TypeOf(live).Elem())
	v.Elem().Set(reflect.ValueOf(live).Elem())
	c := v.Interface().(api.Object) //nolint:forcetypeassert // of live's type
	entries := slices.Clone(live.GetManagedFields())
	for i := range entries {
		entries[i].Time = sentinel(i)
	}
	c.SetManagedFields(entries)
	return c
}

// outcomeOf reads the outcome off entries that the library made of marked ones.
func outcomeOf(entries []metav1.ManagedFieldsEntry) *outcome {
	o := &outcome{entries: slices.Clone(entries), times: make([]int, len(entries))}
	for i := range o.entries {
		e := &o.entries[i]
		switch {
		case e.Time == nil:
			o.times[i] = timeNone
		case e.Time.Unix() <= maxCounted:
			o.times[i] = int(e.Time.Unix()) - 1
		default:
			o.times[i] = timeNow
		}
		e.Time = nil
	}
	return o
}

// of returns the entries that follow on those before.
func (o *outcome) of(before []metav1.ManagedFieldsEntry) []metav1.ManagedFieldsEntry {
	if len(o.entries) == 0 {
		return nil
	}
	now := metav1.NewTime(time.Now().UTC().Truncate(time.Second))
	entries := slices.Clone(o.entries)
	for i, from := range o.times {
		switch from {
		case timeNow:
			entries[i].Time = &now
		case timeNone:
		default:
			entries[i].Time = before[from].Time
		}
	}
	slices.SortStableFunc(entries, compareEntries)
	return entries
}

// countable says whether an outcome can be remembered for an object with these entries: all of this version, and not so many that
// their age counts.
func (m *Manager) countable(entries []metav1.ManagedFieldsEntry) bool {
	if len(entries) >= maxCounted {
		return false
	}
	for i := range entries {
		if e := &entries[i]; e.APIVersion != m.gv.String() || e.FieldsType != "FieldsV1" || e.FieldsV1 == nil {
			return false
		}
	}
	return true
}

// writeEntries begins an outline with who writes and who has written.
func (o *outliner) writeEntries(t *trees, manager string, entries []metav1.ManagedFieldsEntry) bool {
	if !o.name(manager) {
		return false
	}
	for i := range entries {
		e := &entries[i]
		owned := t.of(e.FieldsV1)
		if owned == nil || !o.name(e.Manager) || !o.name(string(e.Operation)) || !o.name(e.Subresource) {
			return false
		}
		o.buf = binary.BigEndian.AppendUint64(o.buf, owned.id)
	}
	return o.mark(markEnd)
}

// updateOutline describes a change: which fields, keys and items were added, removed or have other values, who made it and who owned
// what before. That is all that the outcome depends on. Nil: it can't tell.
func (m *Manager) updateOutline(live, obj api.Object, manager string) []byte {
	have, given := live.GetManagedFields(), obj.GetManagedFields()
	s := m.shape()
	switch {
	case s == nil, m.gv.Group != m.kind.Group, m.gv.Version != m.kind.Hub, !m.countable(have), reflect.TypeOf(live) != reflect.TypeOf(obj),
		m.sub == "" && given != nil && (len(given) == 0 || !sameEntries(given, have)):
		return nil
	}
	d := differ{outliner{buf: make([]byte, 0, 512)}}
	if !d.writeEntries(&m.tracker.trees, manager, have) || !d.object(reflect.ValueOf(live).Elem(), reflect.ValueOf(obj).Elem(), s, m.skipped()) {
		return nil
	}
	return d.buf
}

// updateLike does the bookkeeping of a change whose like was seen before.
func (m *Manager) updateLike(outline []byte, live, obj api.Object) bool {
	o, ok := m.updates.get(outline)
	if !ok {
		return false
	}
	obj.SetManagedFields(o.of(live.GetManagedFields()))
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

// member writes what became of a key or an item.
func (d *differ) member(name string, x, y reflect.Value, s *shape) bool {
	at := len(d.buf)
	if !d.name(name) {
		return false
	}
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
		if !d.member(name, x[name], y[name], s.elem) {
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
