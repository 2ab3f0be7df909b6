package apply

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/structured-merge-diff/v6/typed"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/apiserver/apply/builtin"
	"github.com/celox/celox/internal/apiserver/apply/owners"
	"github.com/celox/celox/internal/apiserver/openapi"
)

// Tracker makes the managers of managed fields for the kinds of a catalogue. The schema of all built-in types is read once,
// when the first manager needs it.
type Tracker struct {
	catalogue *api.Catalogue
	types     func() managedfields.TypeConverter
	trees     owners.Trees
}

// NewTracker returns a tracker for the kinds of c.
func NewTracker(c *api.Catalogue) *Tracker {
	return &Tracker{catalogue: c, types: sync.OnceValue(func() managedfields.TypeConverter {
		parser := &typed.Parser{}
		parser.Schema.Types = append(slices.Clip(builtin.Schema().Types), scaleTypes()...)
		return managedfields.NewSchemeTypeConverter(c.Scheme(), parser)
	})}
}

// typesFor returns the schema, or for the few types that it does not have (reviews) one that is read off each object.
func (t *Tracker) typesFor(sample runtime.Object) managedfields.TypeConverter {
	types := t.types()
	if gvks, _, err := t.catalogue.Scheme().ObjectKinds(sample); err == nil && len(gvks) > 0 {
		sample.GetObjectKind().SetGroupVersionKind(gvks[0])
	}
	if _, err := types.ObjectToTyped(sample); err != nil {
		if own := typesOf(sample); own != nil {
			return own
		}
		return managedfields.NewDeducedTypeConverter()
	}
	return types
}

// Types returns the schema of all built-in types, for those who merge objects of their own.
func (t *Tracker) Types() managedfields.TypeConverter { return t.types() }

// typesOf returns the schema of the few stored types that are not in the library's (definitions of custom resources, API services),
// from the documents that clients are shown; nil for what has no schema there.
func typesOf(sample runtime.Object) managedfields.TypeConverter {
	models, err := openapi.Models("apis/" + sample.GetObjectKind().GroupVersionKind().GroupVersion().String())
	if err != nil {
		return nil
	}
	types, err := managedfields.NewTypeConverter(models, false)
	if err != nil {
		return nil
	}
	if _, err := types.ObjectToTyped(sample); err != nil {
		return nil
	}
	return types
}

// Manager keeps the managed fields of one version of a kind, as seen through one subresource ("" is the object itself).
func (t *Tracker) Manager(k *api.Kind, v *api.Version, sub string) *Manager {
	return &Manager{tracker: t, kind: k, version: v, sub: sub, gv: k.GroupVersion(v)}
}

// Manager keeps the managed fields of objects of one version through one subresource. It is safe for concurrent use.
type Manager struct {
	tracker *Tracker
	kind    *api.Kind
	version *api.Version
	sub     string
	gv      schema.GroupVersion

	once sync.Once
	full *managedfields.FieldManager // set by once
	err  error                       // set by once

	shapeOnce sync.Once
	shaped    *shape // set by shapeOnce

	outlines outlines // of new objects
	updates  owners.Outcomes
	applies  owners.Outcomes
}

func (m *Manager) manager() (*managedfields.FieldManager, error) {
	m.once.Do(func() {
		c := converter{m.tracker.catalogue}
		m.full, m.err = managedfields.NewDefaultFieldManager(
			m.tracker.typesFor(m.version.New()), c, c, c, m.gv.WithKind(m.kind.Kind),
			schema.GroupVersion{Group: m.kind.Group, Version: m.kind.Hub}, m.sub, m.resets(),
		)
	})
	return m.full, m.err
}

// resets keeps fields that this door does not write from being owned through it.
func (m *Manager) resets() map[fieldpath.APIVersion]fieldpath.Filter {
	paths := m.kind.ResetFields(m.sub)
	if len(paths) == 0 {
		return nil
	}
	set := fieldpath.NewSet()
	for _, path := range paths {
		var parts []any
		for part := range strings.SplitSeq(path, ".") {
			parts = append(parts, part)
		}
		set.Insert(fieldpath.MakePathOrDie(parts...))
	}
	filter := fieldpath.NewExcludeSetFilter(set)
	out := map[fieldpath.APIVersion]fieldpath.Filter{}
	for i := range m.kind.Versions {
		out[fieldpath.APIVersion(m.kind.GroupVersion(&m.kind.Versions[i]).String())] = filter
	}
	return out
}

// Update records in obj what manager changed since live (nil when obj is new). Both are of the hub type; obj is given away. What
// can't be recorded is left as it was: a write does not fail for it.
func (m *Manager) Update(live, obj api.Object, manager string) (api.Object, error) {
	if live != nil {
		if m.fast(live, obj, manager) {
			return obj, nil
		}
		if outline, others := m.updateOutline(live, obj, manager); outline != nil {
			if m.updateLike(outline, others, live, obj) {
				return obj, nil
			}
			obj.SetManagedFields(nil)
			o, err := m.libraryUpdate(marked(live), obj, manager)
			if err != nil {
				return obj, err
			}
			made := owners.OutcomeOf(o.GetManagedFields())
			if made.Abstract(others) {
				m.updates.Put(outline, made)
			}
			o.SetManagedFields(made.For(live.GetManagedFields(), others))
			return o, nil
		}
		return m.libraryUpdate(live, obj, manager)
	}
	done, outline := m.fastCreate(obj, manager)
	if done {
		return obj, nil
	}
	empty, ok := m.tracker.catalogue.New(m.kind).(api.Object)
	if !ok {
		return obj, fmt.Errorf("%s is no object", m.kind.Kind)
	}
	o, err := m.libraryUpdate(empty, obj, manager)
	if err == nil {
		m.remember(outline, o)
	}
	return o, err
}

func (m *Manager) libraryUpdate(live, obj api.Object, manager string) (api.Object, error) {
	fm, err := m.manager()
	if err != nil {
		return obj, err
	}
	out := fm.UpdateNoErrors(live, obj, manager)
	o, ok := out.(api.Object)
	if !ok {
		return obj, fmt.Errorf("recording managed fields made a %T", out)
	}
	return o, nil
}

// Apply merges a configuration, as it was sent, into live (hub type, read-only, or an empty object when there is none)
// and returns the result as a new object of the hub type, without defaults.
func (m *Manager) Apply(live api.Object, config *unstructured.Unstructured, manager string, force bool) (api.Object, error) {
	laid := m.overlay(live, config, manager, force)
	if laid == nil {
		return m.libraryApply(live, config, manager, force)
	}
	before := live.GetManagedFields()
	if laid.finish(m, before) {
		return laid.obj, nil
	}
	o, err := m.libraryApply(marked(live), config, manager, force)
	if err != nil {
		return nil, err
	}
	made := laid.learn(m, live, o, manager)
	o.SetManagedFields(made.Of(before))
	return o, nil
}

func (m *Manager) libraryApply(live api.Object, config *unstructured.Unstructured, manager string, force bool) (api.Object, error) {
	fm, err := m.manager()
	if err != nil {
		return nil, err
	}
	out, err := fm.Apply(live, config, manager, force)
	if err != nil {
		return nil, err
	}
	o, ok := out.(api.Object)
	if !ok {
		return nil, fmt.Errorf("applying made a %T", out)
	}
	return o, nil
}

// converter takes objects between the versions of their kind for the library that merges them. It shares what it need not
// copy: the library changes nothing.
type converter struct{ catalogue *api.Catalogue }

func (c converter) ConvertToVersion(in runtime.Object, to runtime.GroupVersioner) (runtime.Object, error) {
	gvk := in.GetObjectKind().GroupVersionKind()
	target, ok := to.KindForGroupVersionKinds([]schema.GroupVersionKind{gvk})
	if !ok {
		if gv, isGV := to.(schema.GroupVersion); isGV {
			target, ok = gv.WithKind(gvk.Kind), true
		}
	}
	if !ok {
		return nil, fmt.Errorf("no version of %s to convert to", gvk)
	}
	k, from, ok := c.catalogue.ByKind(gvk)
	if !ok {
		return nil, fmt.Errorf("unknown kind %s", gvk)
	}
	if u, isMap := in.(*unstructured.Unstructured); isMap {
		typed := from.New()
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, typed); err != nil {
			return nil, fmt.Errorf("unable to convert unstructured object to %v: %w", gvk, err)
		}
		typed.GetObjectKind().SetGroupVersionKind(gvk)
		in = typed
	}
	if gvk == target {
		return in, nil
	}
	k2, v, ok := c.catalogue.ByKind(target)
	if !ok || k2 != k {
		return nil, notServed(target)
	}
	hub, err := c.catalogue.ToHub(k, from, in.DeepCopyObject())
	if err != nil {
		return nil, err
	}
	return c.catalogue.FromHub(k, v, hub)
}

// notServed tells the library that a version which a manager once used is gone, so that it forgets that manager.
func notServed(gvk schema.GroupVersionKind) error {
	return runtime.NewNotRegisteredErrForKind("the catalogue", gvk)
}

func (converter) Convert(_, _, _ any) error {
	return fmt.Errorf("objects are converted by version only")
}

func (converter) ConvertFieldLabel(_ schema.GroupVersionKind, label, value string) (string, string, error) {
	return label, value, nil
}

// Default does nothing: defaults are the hub's, and are filled in when the merged object is taken to it.
func (converter) Default(runtime.Object) {}

// New makes an empty object of a version.
func (c converter) New(gvk schema.GroupVersionKind) (runtime.Object, error) {
	_, v, ok := c.catalogue.ByKind(gvk)
	if !ok {
		return nil, notServed(gvk)
	}
	obj := v.New()
	obj.GetObjectKind().SetGroupVersionKind(gvk)
	return obj, nil
}

// ScaleEntries translates managed fields between a workload and its Scale: only the number of replicas is in both.
func ScaleEntries(entries []metav1.ManagedFieldsEntry, k *api.Kind, v *api.Version) *managedfields.ScaleHandler {
	paths := managedfields.ResourcePathMappings{}
	for i := range k.Versions {
		paths[k.GroupVersion(&k.Versions[i]).String()] = fieldpath.MakePathOrDie("spec", "replicas")
	}
	return managedfields.NewScaleHandler(entries, k.GroupVersion(v), paths)
}

// ScaleManager keeps the managed fields of Scales.
func (t *Tracker) ScaleManager() (*managedfields.FieldManager, error) {
	c := scaleConverter{}
	gvk := schema.GroupVersionKind{Group: "autoscaling", Version: "v1", Kind: "Scale"}
	return managedfields.NewDefaultFieldManager(t.types(), c, c, c, gvk, gvk.GroupVersion(), "scale", nil)
}
