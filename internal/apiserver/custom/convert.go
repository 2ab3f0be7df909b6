package custom

import (
	"context"
	"fmt"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Converter takes objects from one version of their definition to another.
type Converter interface {
	// Convert returns new objects of version to, one for each of in, in its order. It changes none of in. All come in one call.
	Convert(ctx context.Context, in []*Object, to *Version) ([]*Object, error)
}

func newConverter(d *Definition, hooks Hooks) Converter {
	if c := d.crd.Spec.Conversion; c != nil && c.Strategy == apiextensionsv1.WebhookConverter {
		return &webhookConverter{def: d, conversion: c, client: hooks.Webhooks}
	}
	return rename{}
}

// rename is the conversion None: only apiVersion changes.
type rename struct{}

func (rename) Convert(_ context.Context, in []*Object, to *Version) ([]*Object, error) {
	out := make([]*Object, len(in))
	for i, o := range in {
		out[i] = o.DeepCopy()
		out[i].APIVersion = to.gvk.GroupVersion().String()
	}
	return out, nil
}

// ConvertTo converts objects to version to and makes them fit its schema. Defaults are those of the version that an object comes from,
// as in upstream.
func (d *Definition) ConvertTo(ctx context.Context, in []*Object, to *Version) ([]*Object, error) {
	out, err := d.convert(ctx, in, to)
	if err != nil {
		return nil, err
	}
	for i, o := range out {
		if o != in[i] {
			if _, err := to.coerce(o, coercion{}); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

// convert is ConvertTo without looking at the schema.
func (d *Definition) convert(ctx context.Context, in []*Object, to *Version) ([]*Object, error) {
	out := make([]*Object, len(in))
	var rest []*Object
	var where []int
	target := to.gvk.GroupVersion().String()
	for i, o := range in {
		if o.APIVersion == target {
			out[i] = o
			continue
		}
		if gv, err := schema.ParseGroupVersion(o.APIVersion); err != nil || gv.Group != d.crd.Spec.Group || d.version(gv.Version) == nil {
			return nil, fmt.Errorf("request to convert CR from an invalid group/version: %s", o.APIVersion)
		}
		rest, where = append(rest, o), append(where, i)
	}
	if len(rest) == 0 {
		return out, nil
	}
	converted, err := d.converter.Convert(ctx, rest, to)
	if err != nil {
		return nil, err
	}
	for i, o := range converted {
		out[where[i]] = o
	}
	return out, nil
}
