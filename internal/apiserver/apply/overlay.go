package apply

import (
	"reflect"
	"slices"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/structured-merge-diff/v6/value"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/apiserver/apply/owners"
)

// lastApplied is the annotation of client-side apply, which the library keeps up to date for one manager.
const (
	lastApplied        = "kubectl.kubernetes.io/last-applied-configuration"
	lastAppliedManager = "kubectl"
)

// overlaid is a configuration laid over a live object: the object that comes of it, and the outline of how they differ. When the like
// of it was seen before, that is all that applying does.
type overlaid struct {
	outliner
	obj api.Object
}

// overlay lays a configuration over live. Nil: it can't tell what the library would do, or the library would do more than that: take
// away what the manager no longer wants, or complain.
func (m *Manager) overlay(live api.Object, config *unstructured.Unstructured, manager string, force bool) *overlaid {
	have := live.GetManagedFields()
	s := m.shape()
	if s == nil || m.gv.Group != m.kind.Group || m.gv.Version != m.kind.Hub || len(have) == 0 || !owners.Countable(have, m.gv.String()) || config.GroupVersionKind() != m.gv.WithKind(m.kind.Kind) {
		return nil
	}
	if _, synced := live.GetAnnotations()[lastApplied]; synced && manager == lastAppliedManager {
		return nil
	}
	wanted, ok := m.tracker.catalogue.New(m.kind).(api.Object)
	if !ok || reflect.TypeOf(wanted) != reflect.TypeOf(live) || runtime.DefaultUnstructuredConverter.FromUnstructured(config.Object, wanted) != nil {
		return nil
	}
	outline, ok := m.tracker.trees.AppendOutline(make([]byte, 0, 512), manager, have)
	if !ok {
		return nil
	}
	o := &overlaid{outliner: outliner{buf: outline}, obj: live.DeepCopyObject().(api.Object)} //nolint:forcetypeassert // of live's type
	if force {
		o.mark(markSame)
	}
	if !o.object(reflect.ValueOf(o.obj).Elem(), reflect.ValueOf(wanted).Elem(), config.Object, s, m.skipped()) {
		return nil
	}
	return o
}

func (o *overlaid) object(live, want reflect.Value, config map[string]any, s *shape, skip string) bool {
	seen := 0
	for i := range s.fields {
		f := &s.fields[i]
		given, ok := config[f.JsonName]
		if !ok {
			continue
		}
		seen++
		switch f.JsonName {
		case "apiVersion", "kind":
			continue
		case skip:
			return false
		case "metadata":
			meta, ok := given.(map[string]any)
			if !ok || i >= maxField {
				return false
			}
			o.mark(byte(i))
			if !o.metadata(f.GetFrom(live), f.GetFrom(want), meta, f.shape) {
				return false
			}
			continue
		}
		if !o.field(live, want, given, i, f) {
			return false
		}
	}
	return seen == len(config)
}

func (o *overlaid) metadata(live, want reflect.Value, config map[string]any, s *shape) bool {
	seen := 0
	for i := range s.fields {
		f := &s.fields[i]
		given, ok := config[f.JsonName]
		if !ok {
			continue
		}
		seen++
		switch {
		case f.JsonName == "name", f.JsonName == "namespace":
			// They must be the object's, or the request fails; here is not where that is said.
			if f.GetFrom(live).String() != f.GetFrom(want).String() {
				return false
			}
		case systemMeta(f.JsonName), !o.field(live, want, given, i, f):
			return false
		}
	}
	return seen == len(config) && o.mark(markEnd)
}

func (o *overlaid) field(live, want reflect.Value, given any, i int, f *shapeField) bool {
	x, y := f.GetFrom(live), f.GetFrom(want)
	if i >= maxField || f.CanOmit(y) || !x.CanSet() {
		return false
	}
	o.mark(byte(i))
	if f.CanOmit(x) {
		o.mark(markAdded)
	}
	return o.values(x, y, given, f.shape)
}

// values lays want over live, which can be set. Given is want as the client wrote it.
func (o *overlaid) values(live, want reflect.Value, given any, s *shape) bool {
	for want.Kind() == reflect.Pointer {
		if want.IsNil() {
			return false
		}
		if live.IsNil() {
			o.mark(markNil)
			live.Set(reflect.New(live.Type().Elem()))
		}
		live, want = live.Elem(), want.Elem()
	}
	switch s.kind {
	case shapeLeaf:
		return o.leaf(live, want, given, s)
	case shapeStruct:
		config, ok := given.(map[string]any)
		if !ok || len(config) == 0 {
			return false
		}
		seen := 0
		for i := range s.fields {
			if v, ok := config[s.fields[i].JsonName]; ok {
				if seen++; !o.field(live, want, v, i, &s.fields[i]) {
					return false
				}
			}
		}
		return seen == len(config) && o.mark(markEnd)
	case shapeMap:
		config, ok := given.(map[string]any)
		return ok && o.maps(live, want, config, s)
	case shapeList:
		config, ok := given.([]any)
		return ok && o.lists(live, want, config, s)
	}
	return false
}

func (o *overlaid) leaf(live, want reflect.Value, given any, s *shape) bool {
	// What the client wrote must be how the value is written: the library compares the words, not what they mean.
	switch g := given.(type) {
	case string:
		if s.convert == nil {
			if want.Kind() != reflect.String || want.String() != g {
				return false
			}
			break
		}
		if text, err := s.convert.ToUnstructured(want); err != nil || text != given {
			return false
		}
	case bool:
		if want.Kind() != reflect.Bool {
			return false
		}
	case int64:
		if s.convert != nil || !want.CanInt() || want.Int() != g {
			return false
		}
	case []any, map[string]any:
		if s.convert != nil || extent(want) != markValue || !writtenAs(want, given) {
			return false
		}
	default:
		return false
	}
	if sameLeaf(live, want, s) {
		return o.mark(markSame)
	}
	live.Set(want)
	return o.mark(markDiffers)
}

// writtenAs says whether a list, map or struct is written as given.
func writtenAs(v reflect.Value, given any) bool {
	p := reflect.New(v.Type())
	p.Elem().Set(v)
	r, err := value.NewValueReflect(p.Interface())
	return err == nil && reflect.DeepEqual(r.Unstructured(), given)
}

func (o *overlaid) maps(live, want reflect.Value, config map[string]any, s *shape) bool {
	if len(config) == 0 || want.Len() != len(config) || !o.mark(extent(live)) {
		return false
	}
	if live.IsNil() {
		live.Set(reflect.MakeMapWithSize(live.Type(), len(config)))
	}
	keys := make([]string, 0, len(config))
	for k := range config {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		key := reflect.ValueOf(k).Convert(live.Type().Key())
		if !o.name(k) {
			return false
		}
		// A map's values can't be set in their place.
		x, y := reflect.New(live.Type().Elem()).Elem(), want.MapIndex(key)
		if !y.IsValid() {
			return false
		}
		if have := live.MapIndex(key); have.IsValid() {
			x.Set(have)
		} else {
			o.mark(markAdded)
		}
		if !o.values(x, y, config[k], s.elem) {
			return false
		}
		live.SetMapIndex(key, x)
	}
	return o.mark(markEnd)
}

// lists lays keyed items over those of live, which must come in the same order; new ones come last.
func (o *overlaid) lists(live, want reflect.Value, config []any, s *shape) bool {
	if len(config) == 0 || want.Len() != len(config) || !o.mark(extent(live)) {
		return false
	}
	at := make(map[string]int, live.Len())
	for i := range live.Len() {
		name, ok := s.itemName(live.Index(i))
		if _, twice := at[name]; !ok || twice || !o.name(name) {
			return false
		}
		at[name] = i
	}
	o.mark(markEnd)
	last := -1
	for i := range config {
		name, ok := s.itemName(want.Index(i))
		if !ok || !o.name(name) {
			return false
		}
		j, known := at[name]
		if !known {
			j = live.Len()
			at[name] = j
			live.Set(reflect.Append(live, reflect.Zero(live.Type().Elem())))
			o.mark(markAdded)
		}
		if j <= last {
			return false
		}
		last = j
		if !o.values(live.Index(j), want.Index(i), config[i], s.elem) {
			return false
		}
	}
	return o.mark(markEnd)
}

// finish gives the object its managed fields if the like of the change was seen before.
func (o *overlaid) finish(m *Manager, before []metav1.ManagedFieldsEntry) bool {
	made, ok := m.applies.Get(o.buf)
	if !ok || made == nil {
		return false
	}
	o.obj.SetManagedFields(made.Of(before))
	return true
}

// learn remembers what the library made of a configuration, if it is what laying it over the live object makes. By is the manager whose
// entry may not have lost anything: what it no longer wants is taken away only where it is there.
func (o *overlaid) learn(m *Manager, live, applied api.Object, by string) *owners.Outcome {
	made := owners.OutcomeOf(applied.GetManagedFields())
	o.obj.SetManagedFields(nil)
	applied.SetManagedFields(nil)
	same := equality.Semantic.DeepEqual(o.obj, applied)
	if same && m.tracker.trees.Kept(live.GetManagedFields(), made.Entries, by, m.sub) {
		m.applies.Put(o.buf, made)
	} else {
		m.applies.Put(o.buf, nil)
	}
	return made
}
