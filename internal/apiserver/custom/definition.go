package custom

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/celox/celox/internal/store"
)

// CRD is a stored CustomResourceDefinition; it is read-only here.
type CRD = apiextensionsv1.CustomResourceDefinition

// Definition is one custom resource as it is served. It is made in no time; what costs is done when somebody needs it. Safe for
// concurrent use.
type Definition struct {
	crd       *CRD
	storage   string
	versions  []*Version
	converter Converter

	meta      *metaTypes
	typesOnce sync.Once
	types     *mergeTypes
}

// New returns the definition of a CRD whose names have been accepted. convert is who converts objects between versions by
// webhook; it may be nil where no definition wants one.
func New(crd *CRD, hooks Hooks) (*Definition, error) {
	names := &crd.Status.AcceptedNames
	if names.Plural == "" || names.Singular == "" || names.Kind == "" || names.ListKind == "" {
		return nil, fmt.Errorf("custom resource %s: not all of its names have been accepted", crd.Name)
	}
	d := &Definition{crd: crd, meta: hooks.meta}
	if d.meta == nil {
		d.meta = &metaTypes{}
	}
	for i := range crd.Spec.Versions {
		v := &crd.Spec.Versions[i]
		d.versions = append(d.versions, &Version{def: d, spec: v, gvk: schema.GroupVersionKind{Group: crd.Spec.Group, Version: v.Name, Kind: names.Kind}})
		if v.Storage {
			d.storage = v.Name
		}
	}
	if d.storage == "" {
		return nil, fmt.Errorf("custom resource %s: no version is stored", crd.Name)
	}
	d.converter = newConverter(d, hooks)
	return d, nil
}

// CRD returns what the definition was made from. Read-only.
func (d *Definition) CRD() *CRD { return d.crd }

// GroupResource returns the resource's group and plural.
func (d *Definition) GroupResource() schema.GroupResource {
	return schema.GroupResource{Group: d.crd.Spec.Group, Resource: d.crd.Status.AcceptedNames.Plural}
}

// Namespaced says whether the objects are in namespaces.
func (d *Definition) Namespaced() bool { return d.crd.Spec.Scope == apiextensionsv1.NamespaceScoped }

// Served returns the version of a name if it is served.
func (d *Definition) Served(name string) (*Version, bool) {
	v := d.version(name)
	return v, v != nil && v.spec.Served
}

// Versions returns the versions that are served, in the order of the definition.
func (d *Definition) Versions() []*Version {
	out := make([]*Version, 0, len(d.versions))
	for _, v := range d.versions {
		if v.spec.Served {
			out = append(out, v)
		}
	}
	return out
}

// Storage returns the version that objects are written in.
func (d *Definition) Storage() *Version { return d.version(d.storage) }

func (d *Definition) version(name string) *Version {
	for _, v := range d.versions {
		if v.spec.Name == name {
			return v
		}
	}
	return nil
}

// Resource is what the store has to know of the objects.
func (d *Definition) Resource() store.Resource {
	gr := d.GroupResource()
	return store.Resource{GroupResource: gr, Prefix: gr.Group + "/" + gr.Resource, Namespaced: d.Namespaced(), Codec: codec{d}}
}

// ReplicaPaths tells where the versions keep the wanted number of replicas; nil is nowhere.
func (d *Definition) ReplicaPaths() managedfields.ResourcePathMappings {
	out := managedfields.ResourcePathMappings{}
	for _, v := range d.versions {
		gv := v.gvk.GroupVersion().String()
		out[gv] = nil
		if s := v.Scale(); s != nil {
			var path fieldpath.Path
			for _, name := range splitPath(s.SpecReplicasPath) {
				path = append(path, fieldpath.PathElement{FieldName: &name})
			}
			out[gv] = path
		}
	}
	return out
}

// codec writes objects as upstream stores them: JSON in the storage version.
type codec struct{ def *Definition }

// Append implements store.Codec.
func (c codec) Append(to []byte, obj store.Object) ([]byte, error) {
	o, ok := obj.(*Object)
	if !ok {
		return nil, fmt.Errorf("storing a custom object: got a %T", obj)
	}
	if o.ResourceVersion != "" {
		o = &Object{TypeMeta: o.TypeMeta, ObjectMeta: o.ObjectMeta, Fields: o.Fields}
		o.ResourceVersion = ""
	}
	data, err := o.AppendJSON(to)
	if err != nil {
		return nil, err
	}
	return append(data, '\n'), nil
}

// Decode implements store.Codec. The object keeps the version that it was written in, which need not be the storage version of today;
// what its schema does not know is dropped and defaults that came later are filled in.
func (c codec) Decode(data []byte) (store.Object, error) {
	o, err := decodeStored(data)
	if err != nil {
		return nil, err
	}
	gv, err := schema.ParseGroupVersion(o.APIVersion)
	if err != nil {
		return nil, err
	}
	v := c.def.version(gv.Version)
	if v == nil {
		return nil, fmt.Errorf("stored in version %s, which the definition does not have", o.APIVersion)
	}
	if o.Generation == 0 {
		o.Generation = 1
	}
	o.ResourceVersion = ""
	if _, err := v.coerce(o, coercion{drop: true}); err != nil {
		return nil, err
	}
	if err := v.Default(o); err != nil {
		return nil, err
	}
	return o, nil
}

// errNoSchema is an internal inconsistency: validation of the definition does not let it happen.
var errNoSchema = errors.New("the server could not properly serve the CR schema")

// sortedVersions returns the names of the served versions, the preferred one first (v2 before v1 before v1beta1).
func (d *Definition) sortedVersions() []string {
	var names []string
	for _, v := range d.Versions() {
		names = append(names, v.spec.Name)
	}
	slices.SortFunc(names, func(a, b string) int { return compareVersions(b, a) })
	return names
}
