package admission

import (
	"fmt"
	"reflect"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	kjson "sigs.k8s.io/json"

	"github.com/celox/celox/internal/api"
	"github.com/celox/celox/internal/apiserver/negotiate"
)

// A Door is one version in which objects are served.
type Door struct {
	Resource schema.GroupVersionResource
	Kind     schema.GroupVersionKind
}

// Versions shows the objects of one resource in the versions of the API. It is safe for concurrent use. Implementations are
// comparable (pointers), and another value stands for another set of doors: what was derived from the doors is kept by it.
type Versions interface {
	// Doors lists where the same objects are served: the resource in every version, with the kind that the subresource
	// ("" for the object itself) speaks there.
	Doors(subresource string) []Door
	// Show returns an object as kind, with its apiVersion and kind set. The result may be obj itself and is only read.
	Show(obj runtime.Object, kind schema.GroupVersionKind) (runtime.Object, error)
	// Read makes an object of the type that Attributes.Object has from the JSON of kind, with its defaults.
	Read(data []byte, kind schema.GroupVersionKind) (runtime.Object, error)
	// Types knows how objects of kind are merged; nil if nobody does.
	Types(kind schema.GroupVersionKind) managedfields.TypeConverter
}

// Built is Versions of a kind of the catalogue.
type Built struct {
	catalogue *api.Catalogue
	kind      *api.Kind
	types     func() managedfields.TypeConverter
}

// NewBuilt returns the versions of k. Types is asked for the schema of all built-in types when it is first needed; it may be nil.
func NewBuilt(c *api.Catalogue, k *api.Kind, types func() managedfields.TypeConverter) *Built {
	return &Built{catalogue: c, kind: k, types: types}
}

// Doors implements Versions.
func (b *Built) Doors(subresource string) []Door {
	doors := make([]Door, 0, len(b.kind.Versions))
	for i := range b.kind.Versions {
		gv := b.kind.GroupVersion(&b.kind.Versions[i])
		d := Door{Resource: gv.WithResource(b.kind.Resource), Kind: gv.WithKind(b.kind.Kind)}
		for j := range b.kind.Subresources {
			if s := &b.kind.Subresources[j]; s.Name == subresource && !s.Kind.Empty() {
				d.Kind = s.Kind
			}
		}
		doors = append(doors, d)
	}
	return doors
}

// version finds the version of the kind itself that is called so; nil for what subresources speak.
func (b *Built) version(kind schema.GroupVersionKind) *api.Version {
	if kind.Kind != b.kind.Kind || b.kind.Virtual {
		return nil
	}
	for i := range b.kind.Versions {
		if v := &b.kind.Versions[i]; b.kind.GroupVersion(v) == kind.GroupVersion() {
			return v
		}
	}
	return nil
}

// Show implements Versions.
func (b *Built) Show(obj runtime.Object, kind schema.GroupVersionKind) (runtime.Object, error) {
	if v := b.version(kind); v != nil {
		if hub, ok := obj.(api.Object); ok {
			if hub.GetObjectKind().GroupVersionKind() == kind {
				return obj, nil
			}
			return b.catalogue.FromHub(b.kind, v, hub)
		}
	}
	return typed(obj, kind), nil
}

// typed is obj with its apiVersion and kind: itself or, because it may be shared, a shallow copy.
func typed(obj runtime.Object, kind schema.GroupVersionKind) runtime.Object {
	if obj.GetObjectKind().GroupVersionKind() == kind {
		return obj
	}
	v := reflect.ValueOf(obj)
	if v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct {
		return obj
	}
	c := reflect.New(v.Elem().Type())
	c.Elem().Set(v.Elem())
	out, ok := c.Interface().(runtime.Object)
	if !ok {
		return obj
	}
	out.GetObjectKind().SetGroupVersionKind(kind)
	return out
}

// Read implements Versions.
func (b *Built) Read(data []byte, kind schema.GroupVersionKind) (runtime.Object, error) {
	if v := b.version(kind); v != nil {
		obj := v.New()
		if err := decode(b.catalogue.Scheme(), data, kind, obj); err != nil {
			return nil, err
		}
		hub, err := b.catalogue.ToHub(b.kind, v, obj)
		if err != nil {
			return nil, err
		}
		if b.kind.Default != nil {
			b.kind.Default(hub)
		}
		return hub, nil
	}
	obj, err := b.catalogue.Scheme().New(kind)
	if err != nil {
		return nil, err
	}
	return obj, decode(b.catalogue.Scheme(), data, kind, obj)
}

// Unknown says what data has that objects of kind don't, as an error in the words of a strict decoder; nil if all is known.
func (b *Built) Unknown(data []byte, kind schema.GroupVersionKind) error {
	v := b.version(kind)
	if v == nil {
		return nil
	}
	strict, err := kjson.UnmarshalStrict(data, v.New())
	if err != nil || len(strict) == 0 {
		return err
	}
	return runtime.NewStrictDecodingError(strict)
}

// decode reads the JSON of an object of kind. What calls itself something else is refused; what doesn't say what it is, is of kind.
func decode(scheme *runtime.Scheme, data []byte, kind schema.GroupVersionKind, into runtime.Object) error {
	if err := kjson.UnmarshalCaseSensitivePreserveInts(data, into); err != nil {
		return err
	}
	is := into.GetObjectKind().GroupVersionKind()
	if is.Kind == "" {
		is.Kind = kind.Kind
	}
	if is.Version == "" {
		is.Group, is.Version = kind.Group, kind.Version
	}
	if is == kind {
		return nil
	}
	other, err := scheme.New(is)
	if runtime.IsNotRegisteredError(err) {
		return runtime.NewNotRegisteredErrForKind(negotiate.SchemeName, is)
	}
	if err != nil {
		return err
	}
	if err := kjson.UnmarshalCaseSensitivePreserveInts(data, other); err != nil {
		return err
	}
	return fmt.Errorf("failed to convert object: converting (%s.%s) to (%s.%s): unknown conversion", is.Version, is.Kind, kind.Version, kind.Kind)
}

// Types implements Versions.
func (b *Built) Types(schema.GroupVersionKind) managedfields.TypeConverter {
	if b.types == nil {
		return nil
	}
	return b.types()
}

// Replace makes a.Object what obj is, in place: whoever handed the object in goes on with the same pointer. Obj is given away.
func (a *Attributes) Replace(obj runtime.Object) error {
	if obj == a.Object {
		return nil
	}
	to, from := reflect.ValueOf(a.Object), reflect.ValueOf(obj)
	if to.Kind() != reflect.Pointer || to.Type() != from.Type() || to.IsNil() {
		return fmt.Errorf("a %T cannot become a %T", a.Object, obj)
	}
	to.Elem().Set(from.Elem())
	return nil
}
