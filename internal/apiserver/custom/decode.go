package custom

import (
	"fmt"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/objectmeta"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kjson "sigs.k8s.io/json"

	"github.com/celox/celox/internal/apiserver/negotiate"
)

// Target is what bodies become.
func (v *Version) Target() negotiate.Target {
	return negotiate.Target{Kind: v.gvk, New: v.New, Internal: "unstructured"}
}

// Decode reads a body into an object of the version: what the schema does not know is dropped and complained about. The defaults are
// not filled in yet, and whether it is of the version's kind is not asked. Warnings may come with an error.
func (v *Version) Decode(data []byte, media string, how negotiate.Validation) (obj *Object, warnings []string, err error) {
	t := v.Target()
	m, gvk, strict, err := negotiate.Untyped(data, media, t, how.Strictly())
	if err != nil {
		return nil, nil, err
	}
	o, unknown, err := v.fit(m, how.Strictly())
	if err != nil {
		return nil, nil, negotiate.CannotHandle(t, gvk, err)
	}
	if warnings, err = negotiate.Complain(gvk, how, append(strict, negotiate.UnknownFields(unknown)...)); err != nil {
		return nil, nil, err
	}
	return o, warnings, negotiate.CheckVersion(o.APIVersion, v.gvk.GroupVersion())
}

// fit makes an object of a map, which is given away, without what the schema does not know: that of the version which the object names. The fields of other kinds
// stay as they are; they are refused later, and upstream's words about them are the same.
func (v *Version) fit(m map[string]any, track bool) (o *Object, unknown []string, err error) {
	apiVersion, _ := m["apiVersion"].(string) // what is no text is complained about below
	gv, err := schema.ParseGroupVersion(apiVersion)
	if err != nil {
		return nil, nil, err
	}
	if meta, ok := m["metadata"].(map[string]any); track && (!ok || !plain(meta)) {
		_, _, unknown, err = objectmeta.GetObjectMetaWithOptions(m, objectmeta.ObjectMetaOptions{ReturnUnknownFieldPaths: true})
		if err != nil {
			return nil, nil, err
		}
	}
	if o, err = fromContent(m, false); err != nil {
		return nil, nil, err
	}
	if gv.WithKind(o.Kind).GroupKind() != v.gvk.GroupKind() {
		return o, unknown, nil
	}
	more, err := v.sibling(gv.Version).coerce(o, coercion{track: track})
	return o, append(unknown, more...), err
}

// sibling is another version of the same definition. One that the definition does not have knows no fields.
func (v *Version) sibling(name string) *Version {
	if name == v.spec.Name {
		return v
	}
	if other := v.def.version(name); other != nil {
		return other
	}
	return &Version{def: v.def, spec: &apiextensionsv1.CustomResourceDefinitionVersion{Name: name}}
}

// plain says whether metadata can have no unknown fields.
func plain(meta map[string]any) bool {
	_, ok := readMeta(meta)
	return ok && meta["managedFields"] == nil
}

// CheckKind refuses an object of another kind than the version's, in the words of validation.
func (v *Version) CheckKind(o *Object) error {
	if o.Kind == v.gvk.Kind {
		return nil
	}
	return apierrors.NewInvalid(o.GroupVersionKind().GroupKind(), o.Name, field.ErrorList{v.otherKind(o)})
}

func (v *Version) otherKind(o *Object) *field.Error {
	return field.Invalid(field.NewPath("kind"), o.Kind, fmt.Sprintf("must be %v", v.gvk.Kind))
}

// DecodePatched reads what a patch made of an object's JSON. Strict are fields that come twice or are unknown.
func (v *Version) DecodePatched(data []byte, strictly bool) (obj runtime.Object, strict []error, err error) {
	var m map[string]any
	if strictly {
		strict, err = kjson.UnmarshalStrict(data, &m)
	} else {
		err = kjson.UnmarshalCaseSensitivePreserveInts(data, &m)
	}
	if err != nil {
		return nil, nil, err
	}
	if kind, _ := m["kind"].(string); kind == "" {
		return nil, nil, runtime.NewMissingKindErr(string(data))
	}
	o, unknown, err := v.fit(m, strictly)
	if err != nil {
		return nil, nil, err
	}
	return o, append(strict, negotiate.UnknownFields(unknown)...), nil
}

// CheckPatched refuses an object that a patch made another kind or version of.
func (v *Version) CheckPatched(obj runtime.Object) error {
	o, ok := obj.(*Object)
	if !ok {
		return fmt.Errorf("the patch made a %T", obj)
	}
	var errs field.ErrorList
	if o.Kind != v.gvk.Kind {
		errs = append(errs, v.otherKind(o))
	}
	if want := v.gvk.GroupVersion().String(); o.APIVersion != want {
		errs = append(errs, field.Invalid(field.NewPath("apiVersion"), o.APIVersion, fmt.Sprintf("must be %v", want)))
	}
	if len(errs) == 0 {
		return nil
	}
	return apierrors.NewInvalid(o.GroupVersionKind().GroupKind(), o.Name, errs)
}
