package custom

import (
	"slices"

	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/structured-merge-diff/v6/value"

	"github.com/celox/celox/internal/apiserver/apply/owners"
)

// lastApplied is the annotation of client-side apply, which the library keeps up to date for one manager.
const (
	lastApplied        = "kubectl.kubernetes.io/last-applied-configuration"
	lastAppliedManager = "kubectl"
)

// The further marks of an outline of how a configuration differs from the live object.
const (
	markForce   = '!'
	markAdded   = '+' // was not there before
	markDiffers = '~' // has another value
	markSame    = '='
	markWas     = 'w' // what a map was: markNull, markEmpty or markMap
)

// overlaid is a configuration laid over a live object: the object that comes of it, and the outline of how they differ. When the like of it
// was seen before, that is all that applying does.
type overlaid struct {
	obj     *Object
	outline []byte
}

// overlay lays a configuration over live. Nil: it can't tell what the library would do, or the library would do more than that: take away
// what the manager no longer wants, or complain.
func (m *Manager) overlay(live *Object, config map[string]any, manager string, force bool) *overlaid {
	have := live.ManagedFields
	version := m.version.gvk.GroupVersion().String()
	s, err := m.version.schema()
	if err != nil || s == nil || m.sub != "" || m.version.preserves() || len(have) == 0 || !owners.Countable(have, version) ||
		live.APIVersion != version || config["apiVersion"] != version || config["kind"] != m.version.gvk.Kind {
		return nil
	}
	if _, synced := live.Annotations[lastApplied]; synced && manager == lastAppliedManager {
		return nil
	}
	outline, ok := m.trees.AppendOutline(make([]byte, 0, 512), manager, have)
	if !ok {
		return nil
	}
	if force {
		outline = append(outline, markForce)
	}
	o := &overlaid{obj: live.DeepCopy(), outline: outline}
	if o.obj.Fields == nil {
		o.obj.Fields = map[string]any{}
	}
	fields := make(map[string]any, len(config))
	skip := m.skipped()
	for name, v := range config {
		switch name {
		case "apiVersion", "kind":
		case "metadata":
			meta, ok := v.(map[string]any)
			if !ok || !o.metadata(meta) {
				return nil
			}
		case skip:
			return nil
		default:
			fields[name] = v
		}
	}
	if !o.members(o.obj.Fields, fields, s) || m.version.Default(o.obj) != nil {
		return nil
	}
	return o
}

func (o *overlaid) mark(b byte) { o.outline = append(o.outline, b) }

func (o *overlaid) name(text string) { o.outline = appendName(o.outline, text) }

func (o *overlaid) metadata(config map[string]any) bool {
	for name, v := range config {
		switch name {
		case "name":
			if v != o.obj.Name {
				return false
			}
		case "namespace":
			if v != o.obj.Namespace {
				return false
			}
		case "labels", "annotations":
		default:
			return false
		}
	}
	return o.strings("labels", &o.obj.Labels, config) && o.strings("annotations", &o.obj.Annotations, config)
}

// strings lays labels or annotations over those that there are.
func (o *overlaid) strings(name string, set *map[string]string, metadata map[string]any) bool {
	v, given := metadata[name]
	if !given {
		return true
	}
	config, ok := v.(map[string]any)
	if !ok || len(config) == 0 {
		return false
	}
	o.name(name)
	o.was(*set != nil, len(*set))
	if *set == nil {
		*set = make(map[string]string, len(config))
	}
	for _, k := range sortedKeys(config) {
		want, ok := config[k].(string)
		if !ok {
			return false
		}
		o.name(k)
		switch have, ok := (*set)[k]; {
		case !ok:
			o.mark(markAdded)
		case have == want:
			o.mark(markSame)
		default:
			o.mark(markDiffers)
		}
		(*set)[k] = want
	}
	o.mark(markEnd)
	return true
}

// was marks what a map was before.
func (o *overlaid) was(there bool, length int) {
	o.mark(markWas)
	switch {
	case !there:
		o.mark(markNull)
	case length == 0:
		o.mark(markEmpty)
	default:
		o.mark(markMap)
	}
}

func sortedKeys(m map[string]any) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// members lays a configuration over the members of a map, which is o's own.
func (o *overlaid) members(live, config map[string]any, s *structuralschema.Structural) bool {
	for _, k := range sortedKeys(config) {
		next := member(s, k)
		if next == nil {
			return false
		}
		want := config[k]
		have, there := live[k]
		o.name(k)
		if !there {
			o.mark(markAdded)
		}
		sub, ok := want.(map[string]any)
		if !ok || isAtomic(next.XMapType) {
			if !fits(want, next) || !leaf(next) {
				return false
			}
			switch {
			case there && equal(have, want):
				o.mark(markSame)
			case there:
				o.mark(markDiffers)
			}
			live[k] = copyValue(want)
			continue
		}
		before, ok := have.(map[string]any)
		if there && !ok || next.Type != "object" || next.XEmbeddedResource || next.XPreserveUnknownFields || len(sub) == 0 {
			return false
		}
		o.was(before != nil, len(before))
		if before == nil {
			before = make(map[string]any, len(sub))
			live[k] = before
		}
		if !o.members(before, sub, next) {
			return false
		}
	}
	o.mark(markEnd)
	return true
}

// equal compares as the library does.
func equal(a, b any) bool {
	if x, ok := a.(string); ok {
		y, ok := b.(string)
		return ok && x == y
	}
	return value.Equals(value.NewValueInterface(a), value.NewValueInterface(b))
}

// member is the schema of a member of a map, nil if it is not known.
func member(s *structuralschema.Structural, name string) *structuralschema.Structural {
	if p, ok := s.Properties[name]; ok {
		return &p
	}
	if s.AdditionalProperties != nil {
		return s.AdditionalProperties.Structural
	}
	return nil
}

func isAtomic(how *string) bool { return how != nil && *how == "atomic" }

// leaf says whether values of a schema that are not maps are owned as one thing.
func leaf(s *structuralschema.Structural) bool {
	return s.Type != "array" || s.XListType == nil || isAtomic(s.XListType)
}

// fits says whether a value is surely of the schema's type. The rules of values, which validation knows, play no part.
func fits(v any, s *structuralschema.Structural) bool {
	if s == nil || s.XEmbeddedResource || s.XPreserveUnknownFields {
		return false
	}
	switch v := v.(type) {
	case string:
		return s.Type == "string" || s.XIntOrString
	case bool:
		return s.Type == "boolean"
	case int64:
		return s.Type == "integer" || s.Type == "number" || s.XIntOrString
	case float64:
		return s.Type == "number"
	case []any:
		if s.Type != "array" || !leaf(s) {
			return false
		}
		for _, e := range v {
			if !fits(e, s.Items) {
				return false
			}
		}
		return true
	case map[string]any:
		if s.Type != "object" {
			return false
		}
		for k, e := range v {
			if !fits(e, member(s, k)) {
				return false
			}
		}
		return true
	}
	return false
}

// applyLike makes what applying a configuration makes, if the like of it was seen before.
func (o *overlaid) applyLike(m *Manager, before []metav1.ManagedFieldsEntry) bool {
	made, ok := m.applies.Get(o.outline)
	if !ok || made == nil {
		return false
	}
	o.obj.ManagedFields = made.Of(before)
	return true
}

// learn remembers what the library made of a configuration, if it is what laying it over the live object makes.
func (o *overlaid) learn(m *Manager, live, applied *Object, by string) {
	made := owners.OutcomeOf(applied.ManagedFields)
	o.obj.ManagedFields = nil
	if !sameButEntries(o.obj, applied) || !m.trees.Kept(live.ManagedFields, made.Entries, by, m.sub) {
		m.applies.Put(o.outline, nil)
	} else {
		m.applies.Put(o.outline, made)
	}
	applied.ManagedFields = made.Of(live.ManagedFields)
}

// sameButEntries compares two objects without their managed fields.
func sameButEntries(a, b *Object) bool {
	x, y := a.ObjectMeta, b.ObjectMeta
	x.ManagedFields, y.ManagedFields = nil, nil
	return sameFields(a, b) && equality.Semantic.DeepEqual(x, y)
}
