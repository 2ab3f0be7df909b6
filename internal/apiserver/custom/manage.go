package custom

import (
	"context"
	"fmt"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/apiserver/apply/owners"
)

// Manager keeps the managed fields of a version's objects through one subresource ("" is the object itself). Safe for concurrent use.
type Manager struct {
	version *Version
	sub     string

	once sync.Once
	full *managedfields.FieldManager // set by once
	err  error                       // set by once

	outlines outlines
	trees    owners.Trees
	applies  owners.Outcomes
}

// Manager returns the keeper of managed fields for writes through a subresource.
func (v *Version) Manager(sub string) *Manager { return &Manager{version: v, sub: sub} }

func (m *Manager) manager() (*managedfields.FieldManager, error) {
	m.once.Do(func() {
		types, err := m.version.def.TypeConverter()
		if err != nil {
			m.err = err
			return
		}
		c := merging{m.version.def}
		m.full, m.err = managedfields.NewDefaultCRDFieldManager(types, c, c, c, m.version.gvk, m.version.gvk.GroupVersion(), m.sub, m.resets())
	})
	return m.full, m.err
}

// resets names the fields that a door does not write.
func (m *Manager) resets() map[fieldpath.APIVersion]fieldpath.Filter {
	out := map[fieldpath.APIVersion]fieldpath.Filter{}
	for _, v := range m.version.def.versions {
		if !v.hasStatus() {
			continue
		}
		set := fieldpath.NewSet(fieldpath.MakePathOrDie("status"))
		switch m.sub {
		case "":
			if v != m.version {
				continue // the main door of each version knows only itself
			}
		case "status":
			set = fieldpath.NewSet(fieldpath.MakePathOrDie("metadata"), fieldpath.MakePathOrDie("spec"))
		default:
			continue
		}
		out[fieldpath.APIVersion(v.gvk.GroupVersion().String())] = fieldpath.NewExcludeSetFilter(set)
	}
	return out
}

// Update records in obj what manager changed since live (nil when obj is new). obj is given away.
func (m *Manager) Update(live, obj api.Object, manager string) (api.Object, error) {
	o, ok := obj.(*Object)
	if !ok {
		return obj, fmt.Errorf("recording managed fields of a %T", obj)
	}
	var outline []byte
	if live == nil {
		var done bool
		if done, outline = m.fastCreate(o, manager); done {
			return o, nil
		}
	} else if before, ok := live.(*Object); ok && m.fastUpdate(before, o, manager) {
		return o, nil
	}
	fm, err := m.manager()
	if err != nil {
		return obj, nil //nolint:nilerr // managed fields are no reason to refuse a write
	}
	var before runtime.Object = m.version.New()
	if live != nil {
		before = live
	}
	out, ok := fm.UpdateNoErrors(before, obj, manager).(api.Object)
	if !ok {
		return obj, fmt.Errorf("recording managed fields made no object")
	}
	wholeSeconds(out)
	m.remember(outline, out)
	return out, nil
}

// Apply merges a configuration into live (an empty object when there is none) and returns the result as a new object without
// defaults.
func (m *Manager) Apply(live api.Object, config *unstructured.Unstructured, manager string, force bool) (api.Object, error) {
	before, ok := live.(*Object)
	if !ok {
		return nil, fmt.Errorf("applying to a %T", live)
	}
	laid := m.overlay(before, config.Object, manager, force)
	if laid == nil {
		return m.libraryApply(before, config, manager, force)
	}
	if laid.applyLike(m, before.ManagedFields) {
		return laid.obj, nil
	}
	marked := *before
	marked.ManagedFields = owners.Marked(before.ManagedFields)
	o, err := m.libraryApply(&marked, config, manager, force)
	if err != nil {
		return nil, err
	}
	laid.learn(m, before, o, manager)
	return o, nil
}

func (m *Manager) libraryApply(live *Object, config *unstructured.Unstructured, manager string, force bool) (*Object, error) {
	fm, err := m.manager()
	if err != nil {
		return nil, err
	}
	out, err := fm.Apply(live, config, manager, force)
	if err != nil {
		return nil, err
	}
	o, ok := out.(*Object)
	if !ok {
		return nil, fmt.Errorf("applying made a %T", out)
	}
	wholeSeconds(o)
	return o, nil
}

// wholeSeconds gives the entries of managed fields the times that they have when they are read again.
func wholeSeconds(obj api.Object) {
	entries := obj.GetManagedFields()
	for i := range entries {
		if t := entries[i].Time; t != nil && t.Nanosecond() != 0 {
			whole := metav1.NewTime(t.UTC().Truncate(time.Second))
			entries[i].Time = &whole
		}
	}
	obj.SetManagedFields(entries)
}

// merging is what the library asks for while it merges.
type merging struct{ def *Definition }

func (c merging) ConvertToVersion(in runtime.Object, to runtime.GroupVersioner) (runtime.Object, error) {
	gvk := in.GetObjectKind().GroupVersionKind()
	target, ok := to.KindForGroupVersionKinds([]schema.GroupVersionKind{gvk})
	if !ok {
		return nil, fmt.Errorf("no version of %s to convert to", gvk)
	}
	var o *Object
	switch in := in.(type) {
	case *Object:
		o = in
	case *unstructured.Unstructured:
		m, ok := copyValue(in.Object).(map[string]any)
		if !ok {
			return nil, fmt.Errorf("an empty object")
		}
		var err error
		if o, err = fromContent(m, false); err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("converting a %T", in)
	}
	v := c.def.version(target.Version)
	if v == nil || target.Group != c.def.crd.Spec.Group {
		// The library then forgets the manager that once used the version.
		return nil, runtime.NewNotRegisteredErrForKind("the definition", target)
	}
	// The library hands no context on; a conversion webhook is bounded by its own timeout.
	out, err := c.def.convert(context.Background(), []*Object{o}, v)
	if err != nil {
		return nil, err
	}
	return out[0], nil
}

func (merging) Convert(_, _, _ any) error {
	return fmt.Errorf("objects are converted by version only")
}

func (merging) ConvertFieldLabel(_ schema.GroupVersionKind, label, value string) (string, string, error) {
	return label, value, nil
}

// Default fills in the defaults of the object's version.
func (c merging) Default(in runtime.Object) {
	o, ok := in.(*Object)
	if !ok {
		return
	}
	if v := c.def.version(o.GroupVersionKind().Version); v != nil {
		_ = v.Default(o) // a schema that can't be compiled shows elsewhere
	}
}

func (c merging) New(gvk schema.GroupVersionKind) (runtime.Object, error) {
	o := &Object{}
	o.SetGroupVersionKind(gvk)
	return o, nil
}
