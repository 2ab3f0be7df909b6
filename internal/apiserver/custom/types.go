package custom

import (
	"fmt"
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/kube-openapi/pkg/schemaconv"
	"k8s.io/kube-openapi/pkg/validation/spec"
	smdschema "sigs.k8s.io/structured-merge-diff/v6/schema"
	"sigs.k8s.io/structured-merge-diff/v6/typed"
)

// mergeTypes is how the library of server-side apply sees the objects of a definition, in all its versions.
type mergeTypes struct {
	converter managedfields.TypeConverter
	err       error
}

// metaTypes are the library's types of metadata, which all definitions share: they are read-only but for the indexes that they make for themselves.
type metaTypes struct {
	once  sync.Once
	types []smdschema.TypeDef // set by once
	err   error               // set by once
}

func (m *metaTypes) get() ([]smdschema.TypeDef, error) {
	m.once.Do(func() {
		var s *smdschema.Schema
		if s, m.err = schemaconv.ToSchemaFromOpenAPI(map[string]*spec.Schema{objectMetaModel: objectMetaSchema()}, false); m.err == nil {
			m.types = s.Types
		}
	})
	return m.types, m.err
}

// TypeConverter returns how the library of server-side apply sees the objects. The types are made when they are first needed.
func (d *Definition) TypeConverter() (managedfields.TypeConverter, error) {
	d.typesOnce.Do(func() {
		d.types = &mergeTypes{}
		d.types.converter, d.types.err = d.objectTypes()
	})
	return d.types.converter, d.types.err
}

func (d *Definition) objectTypes() (managedfields.TypeConverter, error) {
	shared, err := d.meta.get()
	if err != nil {
		return nil, err
	}
	models := map[string]*spec.Schema{}
	names := map[schema.GroupVersionKind]string{}
	for _, v := range d.versions {
		s, err := v.model()
		if err != nil {
			return nil, err
		}
		name := v.gvk.Group + "." + v.gvk.Version + "." + v.gvk.Kind
		models[name], names[v.gvk] = s, name
	}
	own, err := schemaconv.ToSchemaFromOpenAPI(models, d.crd.Spec.PreserveUnknownFields)
	if err != nil {
		return nil, fmt.Errorf("types for merging %s: %w", d.crd.Name, err)
	}
	all := &smdschema.Schema{Types: slices.Clone(shared)}
	for _, t := range own.Types {
		// Both have the types that stand for what is not known.
		if !slices.ContainsFunc(shared, func(s smdschema.TypeDef) bool { return s.Name == t.Name }) {
			all.Types = append(all.Types, t)
		}
	}
	out := objectTypes{}
	for gvk, name := range names {
		out[gvk] = typed.ParseableType{Schema: all, TypeRef: smdschema.TypeRef{NamedType: &name}}
	}
	return out, nil
}

// objectTypes are the types of a definition's objects by version. Objects stand where the library wants maps.
type objectTypes map[schema.GroupVersionKind]typed.ParseableType

// ObjectToTyped implements managedfields.TypeConverter.
func (t objectTypes) ObjectToTyped(obj runtime.Object, o ...typed.ValidationOptions) (*typed.TypedValue, error) {
	gvk := obj.GetObjectKind().GroupVersionKind()
	parseable, ok := t[gvk]
	if !ok {
		// The library forgets what was owned in versions that are no more, if it is told so by this error.
		return nil, runtime.NewNotRegisteredErrForKind("custom resources", gvk)
	}
	switch c := obj.(type) {
	case *Object:
		m, err := c.Content()
		if err != nil {
			return nil, err
		}
		return parseable.FromUnstructured(m, o...)
	case *unstructured.Unstructured:
		return parseable.FromUnstructured(c.Object, o...)
	}
	return nil, fmt.Errorf("merging a %T", obj)
}

// TypedToObject implements managedfields.TypeConverter.
func (objectTypes) TypedToObject(v *typed.TypedValue) (runtime.Object, error) {
	// The library shares values with what it merged: whoever changes the result would change them.
	m, ok := copyValue(v.AsValue().Unstructured()).(map[string]any)
	if !ok {
		return nil, fmt.Errorf("merging made nothing")
	}
	return fromContent(m, false)
}

const objectMetaModel = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"

const gvkExtension = "x-kubernetes-group-version-kind"

// model is the version's schema for merging, with its apiVersion, kind and metadata.
func (v *Version) model() (*spec.Schema, error) {
	s, err := v.schema()
	if err != nil {
		return nil, err
	}
	out := &spec.Schema{SchemaProps: spec.SchemaProps{Type: []string{"object"}}}
	if s != nil && !v.preserves() {
		out = s.DeepCopy().Unfold().ToKubeOpenAPI() // unfolding changes what it is given
		embed(out, false)
	} else {
		out.AddExtension("x-kubernetes-preserve-unknown-fields", true)
	}
	addMeta(out)
	out.AddExtension(gvkExtension, []any{map[string]any{"group": v.gvk.Group, "version": v.gvk.Version, "kind": v.gvk.Kind}})
	return out, nil
}

// addMeta gives a schema what every object has.
func addMeta(s *spec.Schema) {
	if s.Properties == nil {
		s.Properties = map[string]spec.Schema{}
	}
	s.Properties["apiVersion"] = *spec.StringProperty()
	s.Properties["kind"] = *spec.StringProperty()
	s.Properties["metadata"] = *spec.RefSchema("#/components/schemas/" + objectMetaModel)
}

// embed completes the schemas of embedded objects below s.
func embed(s *spec.Schema, here bool) {
	if s == nil {
		return
	}
	if is, ok := s.Extensions.GetBool("x-kubernetes-embedded-resource"); here && ok && is {
		addMeta(s)
	}
	for name, p := range s.Properties {
		if p.Ref.String() != "" {
			continue
		}
		embed(&p, true)
		s.Properties[name] = p
	}
	if s.Items != nil {
		embed(s.Items.Schema, true)
	}
	if s.AdditionalProperties != nil {
		embed(s.AdditionalProperties.Schema, true)
	}
}

// objectMetaSchema is what merging has to know of metadata: which parts are lists by key, sets, or one thing.
func objectMetaSchema() *spec.Schema {
	text, number := *spec.StringProperty(), *spec.Int64Property()
	strings := *spec.MapProperty(spec.StringProperty())
	uid := text
	uid.Default = "" // so that an owner without one is refused by validation, which knows the better words
	owner := spec.Schema{SchemaProps: spec.SchemaProps{Type: []string{"object"}, Properties: map[string]spec.Schema{
		"apiVersion": text, "kind": text, "name": text, "uid": uid, "controller": *spec.BoolProperty(), "blockOwnerDeletion": *spec.BoolProperty(),
	}}}
	owner.AddExtension("x-kubernetes-map-type", "atomic")
	owners := *spec.ArrayProperty(&owner)
	owners.AddExtension("x-kubernetes-list-type", "map")
	owners.AddExtension("x-kubernetes-list-map-keys", []any{"uid"})
	finalizers := *spec.ArrayProperty(spec.StringProperty())
	finalizers.AddExtension("x-kubernetes-list-type", "set")
	fields := spec.Schema{SchemaProps: spec.SchemaProps{Type: []string{"object"}}}
	entry := spec.Schema{SchemaProps: spec.SchemaProps{Type: []string{"object"}, Properties: map[string]spec.Schema{
		"apiVersion": text, "fieldsType": text, "fieldsV1": fields, "manager": text, "operation": text, "subresource": text, "time": text,
	}}}
	managed := *spec.ArrayProperty(&entry)
	managed.AddExtension("x-kubernetes-list-type", "atomic")
	return &spec.Schema{SchemaProps: spec.SchemaProps{Type: []string{"object"}, Properties: map[string]spec.Schema{
		"name": text, "generateName": text, "namespace": text, "selfLink": text, "uid": text, "resourceVersion": text,
		"generation": number, "creationTimestamp": text, "deletionTimestamp": text, "deletionGracePeriodSeconds": number,
		"labels": strings, "annotations": strings, "ownerReferences": owners, "finalizers": finalizers, "managedFields": managed,
	}}}
}
