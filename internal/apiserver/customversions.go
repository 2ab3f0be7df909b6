package apiserver

import (
	"context"
	"fmt"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	kjson "sigs.k8s.io/json"

	"github.com/celox/celox/internal/apiserver/admission"
	"github.com/celox/celox/internal/apiserver/custom"
)

// customVersions shows custom objects to admission in the versions of their definition.
type customVersions struct{ served *custom.Served }

// Doors implements admission.Versions.
func (c *customVersions) Doors(subresource string) []admission.Door {
	gr := c.served.GroupResource()
	var doors []admission.Door
	for _, v := range c.served.Versions() {
		d := admission.Door{Resource: gr.WithVersion(v.Name()), Kind: v.Kind()}
		if subresource == "scale" {
			d.Kind = scaleKind
		}
		doors = append(doors, d)
	}
	return doors
}

// Show implements admission.Versions.
func (c *customVersions) Show(obj runtime.Object, kind schema.GroupVersionKind) (runtime.Object, error) {
	o, ok := obj.(*custom.Object)
	if !ok || o.GroupVersionKind() == kind {
		return obj, nil
	}
	v, ok := c.served.Served(kind.Version)
	if !ok {
		return nil, fmt.Errorf("no version %s of %s is served", kind.Version, c.served.GroupResource())
	}
	// The interface of admission has no context here; a conversion webhook is bounded by its own timeout.
	out, err := c.served.ConvertTo(context.Background(), []*custom.Object{o}, v)
	if err != nil {
		return nil, err
	}
	return out[0], nil
}

// Read implements admission.Versions.
func (c *customVersions) Read(data []byte, kind schema.GroupVersionKind) (runtime.Object, error) {
	if kind == scaleKind {
		s := &autoscalingv1.Scale{}
		return s, kjson.UnmarshalCaseSensitivePreserveInts(data, s)
	}
	v, ok := c.served.Served(kind.Version)
	if !ok {
		return nil, fmt.Errorf("no version %s of %s is served", kind.Version, c.served.GroupResource())
	}
	obj, _, err := v.DecodePatched(data, false)
	if err != nil {
		return nil, err
	}
	o, ok := obj.(*custom.Object)
	if !ok {
		return nil, fmt.Errorf("read a %T", obj)
	}
	return o, v.Default(o)
}

// Types implements admission.Versions.
func (c *customVersions) Types(schema.GroupVersionKind) managedfields.TypeConverter {
	t, err := c.served.TypeConverter()
	if err != nil {
		return nil
	}
	return t
}
